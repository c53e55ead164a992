//! One chain in the other region: a base, the log that leads on from it, and what is known about both.
//!
//! ```text
//! chain-N/card.json     which chain, its bases, a mark from which the log is read again after a restart
//! chain-N/base-ID.tar   a base; one that is still coming lies beside the one in use
//! chain-N/log/SEGMENT   the log, 16 MiB each; the last one is filled up with zeros
//! ```
//! The log is durable before it counts. After a restart it is read again from the mark to its last whole record: nothing but
//! what is really there is ever confirmed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cluster::{replace, sync_dir};
use super::parcel::{BaseRun, Chain, LogRun, Wish};
use super::records::{Reach, Records, SEGMENT, segment_name, segment_start};
use super::restore::Source;
use super::tail;
use crate::data::DataError;

/// The newest form of [`CopyCard`].
const VERSION: u32 = 1;
/// The mark is set on this often: so much log is read again after a restart.
const MARK_BYTES: u64 = SEGMENT;
/// A new base is fetched when the log since the last is longer than that base, but not for less than this: replaying it
/// takes a few seconds.
const NEW_BASE_AFTER: u64 = 16 * SEGMENT;

/// What is known about a chain.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct CopyCard {
    version: u32,
    chain: Chain,
    mark: Reach,
    bases: Vec<Base>,
}

/// A base that is here, or is coming.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Base {
    id: u64,
    begins: Reach,
    /// The log is needed up to here; unknown until all of the base is here.
    ends: Option<u64>,
    total: u64,
}

/// One chain.
#[derive(Debug)]
pub(super) struct Copy {
    dir: PathBuf,
    card: CopyCard,
    records: Records,
    received: u64,
    coming: u64,
}

impl Copy {
    /// Begins a chain with the first bytes of a base.
    pub(super) fn begin(dir: PathBuf, chain: Chain, base: &BaseRun) -> Result<Self, DataError> {
        fs::create_dir_all(dir.join("log")).map_err(DataError::io("make the directory", &dir))?;
        let card = CopyCard { version: VERSION, chain, mark: base.begins, bases: Vec::new() };
        card.save(&dir)?;
        let received = segment_start(base.begins.boundary);
        Ok(Self { dir, card, records: Records::from(base.begins), received, coming: 0 })
    }

    /// Opens a chain as it was left. None: it was left before it began. Reads the log from the mark on.
    pub(super) fn open(dir: PathBuf) -> Result<Option<Self>, DataError> {
        let path = dir.join("card.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(DataError::io("read", &path))?,
        };
        let card = serde_json::from_slice::<CopyCard>(&text).ok().filter(|card| card.version == VERSION);
        let card = card.ok_or_else(|| DataError::Corrupt {
            what: "it is no card of a replica that this version knows".to_owned(),
            path,
            mend: "remove the replica's directory: it is fetched anew",
        })?;
        let mut records = Records::from(card.mark);
        // The log ends where it ends: what is behind it is asked for again.
        drop(tail::count(&dir.join("log"), card.chain.timeline, &mut records, u64::MAX));
        let reach = records.reach();
        // Until its first base is known it may have nothing of the segment in which it begins.
        let has_begun = reach != card.mark || card.bases.first().is_some_and(|base| base.begins != card.mark);
        let received = if has_begun { reach.boundary } else { segment_start(reach.boundary) };
        let mut copy = Self { dir, records: Records::from(reach), card, received, coming: 0 };
        copy.coming = copy.coming_len();
        Ok(Some(copy))
    }

    /// Which chain this is.
    pub(super) fn chain(&self) -> Chain {
        self.card.chain
    }

    /// The next byte of the log that is wanted.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// What is durable here.
    pub(super) fn reach(&self) -> Reach {
        self.records.reach()
    }

    /// Whether it can be restored.
    pub(super) fn is_whole(&self) -> bool {
        self.whole_base().is_some()
    }

    fn whole_base(&self) -> Option<&Base> {
        let reached = self.reach().boundary;
        self.card.bases.iter().rev().find(|base| base.ends.is_some_and(|ends| ends <= reached))
    }

    fn coming_base(&self) -> Option<&Base> {
        self.card.bases.last().filter(|base| base.ends.is_none())
    }

    /// Bytes of the base that is coming: here, and in all.
    pub(super) fn progress(&self) -> (u64, u64) {
        let done = self.card.bases.last().map_or(0, |base| base.total);
        self.coming_base().map_or((done, done), |base| (self.coming, base.total.max(self.coming)))
    }

    /// What is wanted of a base.
    pub(super) fn wish(&self) -> Wish {
        if let Some(base) = self.coming_base() {
            return Wish::GoOn { id: base.id, offset: self.coming };
        }
        let Some(last) = self.card.bases.last() else { return Wish::New };
        let log = self.reach().boundary.saturating_sub(last.begins.boundary);
        if log > NEW_BASE_AFTER.max(last.total) && self.is_whole() { Wish::New } else { Wish::Nothing }
    }

    /// Takes some of a base in, durably.
    pub(super) fn take_base(&mut self, base: BaseRun) -> Result<(), DataError> {
        let bytes = base.run.unpack()?;
        if self.coming_base().is_none_or(|coming| coming.id != base.id) {
            if base.offset != 0 {
                return Ok(()); // The rest of one that is no longer wanted.
            }
            let (id, begins, total) = (base.id, base.begins, base.total);
            self.begin_base(Base { id, begins, ends: None, total })?;
        }
        if base.offset == self.coming && !bytes.is_empty() {
            let path = self.base_path(base.id);
            write_at(&path, self.coming, &bytes).map_err(DataError::io("write the base", &path))?;
            self.coming += bytes.len() as u64;
        }
        if let Some(ends) = base.ends
            && base.offset == self.coming
        {
            self.finish_base(ends)?;
        }
        Ok(())
    }

    fn finish_base(&mut self, ends: u64) -> Result<(), DataError> {
        sync_dir(&self.dir).map_err(DataError::io("make durable", &self.dir))?;
        let total = self.coming;
        self.change_card(|card| {
            if let Some(base) = card.bases.last_mut() {
                (base.ends, base.total) = (Some(ends), total);
            }
        })?;
        self.coming = 0;
        self.forget_what_is_superseded()
    }

    /// The one that was coming before is not wanted any more.
    fn begin_base(&mut self, base: Base) -> Result<(), DataError> {
        if let Some(id) = self.coming_base().map(|coming| coming.id) {
            self.change_card(|card| card.bases.retain(|base| base.id != id))?;
            remove(&self.base_path(id))?;
        }
        self.coming = 0;
        self.change_card(|card| card.bases.push(base))
    }

    /// Takes some of the log in, durably. False: it does not go on where ours ends; this chain is over.
    pub(super) fn take_log(&mut self, log: LogRun) -> Result<bool, DataError> {
        if log.from != self.received {
            return Ok(true); // An answer that was overtaken.
        }
        let bytes = log.run.unpack()?;
        let path = self.dir.join("log");
        self.write_log(&bytes).map_err(DataError::io("write the log in", &path))?;
        let end = self.received + bytes.len() as u64;
        let skipped = usize::try_from(self.records.at().saturating_sub(self.received)).unwrap_or(usize::MAX);
        if let Err(damage) = self.records.feed(bytes.get(skipped..).unwrap_or_default()) {
            tracing::warn!(%damage, dir = %self.dir.display(), "the source's log does not go on with ours");
            return Ok(false);
        }
        self.received = end;
        if self.reach().boundary >= self.card.mark.boundary + MARK_BYTES {
            let mark = self.reach();
            self.change_card(|card| card.mark = mark)?;
            self.forget_what_is_superseded()?;
        }
        Ok(true)
    }

    fn write_log(&self, bytes: &[u8]) -> io::Result<()> {
        let mut at = self.received;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = SEGMENT - at % SEGMENT;
            let (now, later) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            let path = self.dir.join("log").join(segment_name(self.card.chain.timeline, at));
            write_segment(&path, at % SEGMENT, now)?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Removes bases before the newest whole one, and the log that only they need.
    fn forget_what_is_superseded(&mut self) -> Result<(), DataError> {
        let Some(whole) = self.whole_base() else { return Ok(()) };
        let (id, keep_from) = (whole.id, segment_start(whole.begins.boundary));
        let index = self.card.bases.iter().position(|base| base.id == id).unwrap_or(0);
        let old: Vec<u64> = self.card.bases.iter().take(index).map(|base| base.id).collect();
        if old.is_empty() {
            return Ok(());
        }
        self.change_card(|card| drop(card.bases.drain(..index)))?;
        old.iter().try_for_each(|base| remove(&self.base_path(*base)))?;
        let first = segment_name(self.card.chain.timeline, keep_from);
        let log = self.dir.join("log");
        let entries = fs::read_dir(&log).map_err(DataError::io("read", &log))?;
        let segments = entries.flatten().map(|entry| entry.path());
        segments
            .filter(|path| path.file_name().is_some_and(|name| *name < *first))
            .try_for_each(|path| remove(&path))
    }

    /// Everything that a restore needs, opened: it stays even when it is superseded meanwhile.
    pub(super) fn source(&self) -> Result<Option<Source>, DataError> {
        let Some(base) = self.whole_base() else { return Ok(None) };
        let base_path = self.base_path(base.id);
        let open = |path: &Path| File::open(path).map_err(DataError::io("open", path));
        let reach = self.reach();
        let mut segments = Vec::new();
        let mut at = segment_start(base.begins.boundary);
        while at < reach.boundary {
            let name = segment_name(self.card.chain.timeline, at);
            segments.push((name.clone(), open(&self.dir.join("log").join(name))?));
            at += SEGMENT;
        }
        Ok(Some(Source { base: open(&base_path)?, base_path, segments, reach }))
    }

    /// Removes all of it.
    pub(super) fn remove(self) -> Result<(), DataError> {
        fs::remove_dir_all(&self.dir).map_err(DataError::io("remove", &self.dir))
    }

    fn base_path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("base-{id:016x}.tar"))
    }

    fn coming_len(&self) -> u64 {
        let coming = self.coming_base().map(|base| self.base_path(base.id));
        coming.and_then(|path| fs::metadata(path).ok()).map_or(0, |meta| meta.len())
    }

    /// Durably, or not at all: what is told to the source is what a restart would find.
    fn change_card(&mut self, change: impl FnOnce(&mut CopyCard)) -> Result<(), DataError> {
        let mut card = self.card.clone();
        change(&mut card);
        card.save(&self.dir)?;
        self.card = card;
        Ok(())
    }
}

impl CopyCard {
    fn save(&self, dir: &Path) -> Result<(), DataError> {
        let path = dir.join("card.json");
        let text = serde_json::to_vec_pretty(self).expect("a card is plain data");
        replace(&path, &text).map_err(DataError::io("write", &path))
    }
}

fn remove(path: &Path) -> Result<(), DataError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DataError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Puts a piece behind the first `at` bytes of a file, durably. What is behind them was left by a try that failed; one that
/// fails now gives back the room that it took.
fn write_at(path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
    let len = file.metadata()?.len();
    if len < at {
        return Err(io::Error::other("it is shorter than it was left"));
    }
    if len > at {
        file.set_len(at)?;
    }
    let written = file.write_all(bytes).and_then(|()| file.sync_data());
    if written.is_err() {
        let _ = file.set_len(at);
    }
    written
}

fn write_segment(path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
    let file = match fs::OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = File::create_new(path)?;
            file.set_len(SEGMENT)?;
            file.sync_all()?;
            path.parent().map_or(Ok(()), sync_dir)?;
            file
        }
        opened => opened?,
    };
    file.write_all_at(bytes, at)?;
    file.sync_data()
}
