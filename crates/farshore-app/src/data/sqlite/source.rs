//! The side that is followed: reads every commit out of the write-ahead log as it is made, numbers its frames along a chain,
//! and keeps what the replica has not confirmed until it has.
//!
//! The numbers go on rising while the log starts again and again, and across restarts of the node: [`Record`] says with which
//! number and position the present log began. When the log on disk is not the one of the record, nobody knows what happened
//! while nobody looked: a new chain begins, and a replica needs a new snapshot. Nothing is guessed.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame_log::FrameLog;
use super::pins::{Lent, Pins, connect};
use super::record::Record;
use super::wal::{Cursor, FrameHead, Header, Salts, Sum, read_some};
use super::wire::{PIECE_MAX, Place};
use super::{LiveOptions, database_file, index_file, log_file, ship_dir};
use crate::data::{DataError, Engine, Loss, Position, now};

/// Labels of commits that are kept for replicas that lag; older ones are told with the time of the next newer one.
const LABELS_MAX: usize = 4096;
/// Where reading stands while there is no log.
const NO_LOG: Cursor = Cursor { frames: 0, sum: Sum(0, 0) };
/// How often the log's header and index are asked until they speak of the same log. It starts again once in some MiB.
const HEADER_ATTEMPTS: u32 = 100;
/// A log so many times larger than where turns begin is turned with writers waiting.
const QUIET_TIMES: u64 = 4;

/// A database that is watched. All of it happens under one lock, and nothing in it takes long.
#[derive(Debug)]
pub(super) struct Source {
    dir: PathBuf,
    options: LiveOptions,
    pins: Pins,
    log: Arc<File>,
    /// Which files these are: an app may put others in their places.
    inodes: [u64; 3],
    record: Record,
    /// The header of the present log, once it has one.
    header: Option<Header>,
    /// How far the present log has been read.
    cursor: Cursor,
    position: Position,
    labels: VecDeque<(u64, Position)>,
    /// The first frame that the replica may still ask for; nothing when nobody follows.
    floor: Option<u64>,
    kept: Vec<FrameLog>,
    /// Frames before this one are in `kept`, or gone.
    carried: u64,
    /// Frames of the present log when it was turned last.
    turned_at: u64,
    /// Nothing is pinned: a turn failed where it must not.
    loose: bool,
    /// The record on disk may not outlast a power cut.
    unsynced: bool,
}

/// A database's files, opened to be watched.
#[derive(Debug)]
struct Files {
    page_size: u32,
    pins: Pins,
    log: File,
    header: Option<Header>,
    /// Where the index has started again and the file has not, how far the file went nobody can say any more.
    is_clear: bool,
}

impl Source {
    /// Watches the database in `dir`, whose processes are not running yet. `from`: where it stands at least when its own record
    /// says nothing of it.
    pub(super) fn open(dir: &Path, from: Position, options: LiveOptions) -> Result<Self, DataError> {
        let was_here = ship_dir(dir).exists();
        let files = Files::open(dir)?;
        let known = Record::read(dir).filter(|record| record.page_size == files.page_size);
        let goes_on = known.filter(|_| files.is_clear).and_then(|record| record.goes_on(dir, files.header));
        let record = match goes_on {
            Some(record) => record,
            None if was_here => {
                let last = known.map_or(from, |known| known.last.farthest(from));
                Record::begin(last, files.page_size, files.header)
            }
            None => Record::first(from, files.page_size, files.header),
        };
        let mut source = Self::on(dir, options, files, record)?;
        if source.carried > source.end() || !source.position.covers(record.last) {
            // Only a power cut can take away what was in the log: the numbers of what it took must not be used again.
            source.begin_again()?;
        }
        Ok(source)
    }

    fn on(dir: &Path, options: LiveOptions, files: Files, record: Record) -> Result<Self, DataError> {
        let Files { pins, log, header, .. } = files;
        let mut source = Self {
            dir: dir.to_owned(),
            options,
            pins,
            log: Arc::new(log),
            inodes: inodes(dir)?,
            record,
            header,
            cursor: header.map_or(NO_LOG, |header| header.start()),
            position: record.base,
            labels: VecDeque::new(),
            floor: None,
            kept: Vec::new(),
            carried: record.first,
            turned_at: 0,
            loose: false,
            unsynced: false,
        };
        source.load_kept();
        source.read_commits()?;
        source.label_by_file();
        source.write_record()?;
        source.gather()?;
        Ok(source)
    }

    /// The end of all that is committed and seen.
    pub(super) fn end(&self) -> u64 {
        self.record.first + self.cursor.frames
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// The log's file, to look at [`Self::mark`] with.
    pub(super) fn log(&self) -> Arc<File> {
        Arc::clone(&self.log)
    }

    pub(super) fn chain(&self) -> u64 {
        self.record.chain
    }

    pub(super) fn page_size(&self) -> u32 {
        self.record.page_size
    }

    /// What an observer without this lock needs, to see whether anything has been written since.
    pub(super) fn mark(&self) -> Mark {
        let next = self.header.map_or(0, |header| header.offset(self.cursor.frames));
        Mark { salts: self.header.map(|header| header.salts), next, end: self.end() }
    }

    /// Reads what has been committed since. True when there was something.
    pub(super) fn advance(&mut self) -> Result<bool, DataError> {
        let (chain, before) = (self.chain(), self.end());
        if self.loose || self.inodes != inodes(&self.dir)? {
            self.begin_again()?;
        }
        let read = self.read_commits();
        self.note_gap(&read);
        read.map(|()| self.chain() != chain || self.end() > before)
    }

    fn read_commits(&mut self) -> Result<(), DataError> {
        let Some((header, committed)) = self.log_now()? else {
            return if self.header.is_some() { self.log_emptied() } else { Ok(()) };
        };
        if header.page_size != self.record.page_size {
            // Only a database that was out of WAL mode can change this.
            return self.begin_again();
        }
        if self.header != Some(header) {
            self.start_again(header)?;
        }
        if committed == 0 {
            // A writer is starting the log again. All of the present one was seen, or the pins would not let it.
            return Ok(());
        }
        let path = log_file(&self.dir);
        let failed = DataError::io("read the write-ahead log", &path);
        let found = header.scan(&self.log, self.cursor, committed).map_err(failed)?;
        if found.cursor.frames != committed {
            // What is committed is not what followed here: frames were seen that others have taken the place of.
            return Err(lost(&path));
        }
        if found.commits > 0 {
            let frames = found.cursor.frames - self.cursor.frames;
            self.position.commits += found.commits;
            self.position.bytes += frames * header.frame_bytes();
            self.position.at = now().max(self.position.at);
            self.cursor = found.cursor;
            self.label();
        }
        Ok(())
    }

    /// The log's header, and how many frames of this very log are committed. Nothing while there is no log.
    fn log_now(&self) -> Result<Option<(Header, u64)>, DataError> {
        let (file, path) = (database_file(&self.dir), log_file(&self.dir));
        for _ in 0..HEADER_ATTEMPTS {
            let read = || Header::read(&self.log).map_err(DataError::io("read the write-ahead log", &path));
            let before = read()?;
            let committed = self.pins.committed().map_err(sqlite("read the log's index of", &file))?;
            // The index starts again before the file, and counts again after it: so between two looks at one header it spoke
            // of that header's log, unless it said 0.
            if read()? == before && (before.is_some() || committed == 0) {
                return Ok(before.map(|header| (header, committed)));
            }
        }
        Err(sqlite("follow the log of", &file)("it starts again all the time"))
    }

    /// Whether the log's file shows a commit that its index does not know yet: a writer waits for its disk, or has died so.
    pub(super) fn awaits_index(&self) -> bool {
        self.header.is_some_and(|header| header.shows_commit(&self.log, self.cursor.frames).unwrap_or(false))
    }

    fn label(&mut self) {
        if self.labels.len() == LABELS_MAX {
            self.labels.pop_front();
        }
        self.labels.push_back((self.end(), self.position));
    }

    /// Commits that were there before this was opened were made when the file was last written, not now.
    fn label_by_file(&mut self) {
        let written = self.log.metadata().and_then(|meta| meta.modified()).map(crate::data::moment_of);
        if let Ok(written) = written {
            self.position.at = written.max(self.record.base.at).min(self.position.at);
        }
        self.labels.clear();
    }

    /// The log has started from its beginning. The pins have seen to it that all before was read.
    fn start_again(&mut self, header: Header) -> Result<(), DataError> {
        self.record.salts = Some((header.salts.0, header.salts.1));
        self.starts(Some(header), header.start())
    }

    /// The app has copied all of the log into the file, and cut the log off.
    fn log_emptied(&mut self) -> Result<(), DataError> {
        self.record.salts = None;
        self.starts(None, NO_LOG)
    }

    fn starts(&mut self, header: Option<Header>, cursor: Cursor) -> Result<(), DataError> {
        let Place { frames, sum, .. } = self.place();
        (self.record.first, self.record.sum, self.record.base) = (frames, sum, self.position);
        (self.header, self.cursor, self.turned_at) = (header, cursor, 0);
        self.note_record()
    }

    /// A new chain: what is committed is looked at afresh, and a replica needs a new snapshot. The record of the old one
    /// stays until the new one is written.
    pub(super) fn begin_again(&mut self) -> Result<(), DataError> {
        tracing::warn!(database = %self.dir.display(), "its log is not followed from where it was: a new snapshot is due");
        let files = Files::open(&self.dir)?;
        let last = self.position.farthest(self.record.last);
        let record = Record::begin(last, files.page_size, files.header);
        *self = Self::on(&self.dir, self.options, files, record)?;
        Ok(())
    }

    /// Numbers go on from `from`, when that is farther: this database has taken the place of one that was there. A replica that
    /// followed this chain has other numbers, and gets these with a new snapshot.
    pub(super) fn go_on_from(&mut self, from: Position) -> Result<(), DataError> {
        if self.position.covers(from) {
            return Ok(());
        }
        self.position = self.position.farthest(from);
        self.begin_again()
    }

    /// Frames that had been read are gone: the chain cannot go on.
    fn note_gap<T>(&mut self, done: &Result<T, DataError>) {
        if let Err(DataError::Corrupt { .. }) = done {
            self.loose = true;
        }
    }

    /// The first part of a turn, if one is due: it lets the log start again without missing anything. The caller does
    /// [`Lent::copy`] without holding this, and [`Self::end_turn`]. Trying in vain is normal while the app writes; then it
    /// is tried again when the log has grown as much again.
    pub(super) fn begin_turn(&mut self) -> Result<Option<Lent>, DataError> {
        let grown = self.cursor.frames.saturating_sub(self.turned_at);
        let is_due = self.header.is_some_and(|log| grown * log.frame_bytes() >= self.options.turn_bytes);
        if !is_due || self.loose || self.pins.is_lent() {
            return Ok(None);
        }
        self.turned_at = self.cursor.frames;
        let file = database_file(&self.dir);
        self.pins.cover().map_err(sqlite("begin to read", &file))?;
        self.gather()?;
        Ok(self.pins.lend())
    }

    /// The second part. When writers never pause, and the log has become many times too large, this wants another: the
    /// caller does [`Lent::enter`] without holding this, and [`Self::end_quiet_turn`].
    pub(super) fn end_turn(&mut self, lent: Lent) -> Result<Option<Lent>, DataError> {
        if !self.pins.is_lent() {
            // A new chain has begun meanwhile, perhaps of another file.
            return Ok(None);
        }
        self.pins.take_back(lent).map_err(sqlite("begin to read", &database_file(&self.dir)))?;
        self.gather()?;
        self.turned_at = self.cursor.frames;
        self.note_record()?;
        let log_bytes = self.header.map_or(0, |log| log.offset(self.cursor.frames));
        if log_bytes >= QUIET_TIMES * self.options.turn_bytes {
            return Ok(self.pins.lend());
        }
        self.pins.finish();
        Ok(None)
    }

    /// The last part, with writers waiting if they were made to.
    pub(super) fn end_quiet_turn(&mut self, lent: Lent, entered: bool) -> Result<(), DataError> {
        if !self.pins.is_lent() {
            return Ok(());
        }
        let file = database_file(&self.dir);
        if !entered {
            self.pins.take_back(lent).map_err(sqlite("begin to read", &file))?;
            self.gather()?;
            self.pins.finish();
            return Ok(());
        }
        let gathered = self.gather();
        let left = self.pins.leave(lent).map_err(sqlite("copy the log into", &file));
        self.loose = left.is_err() || gathered.is_err();
        self.turned_at = self.cursor.frames;
        left.and(gathered)
    }

    /// Sees to all that is in the log: reads it, and puts aside what the replica has not confirmed. Afterwards the log may
    /// start again.
    fn gather(&mut self) -> Result<(), DataError> {
        let gathered = self.gather_all();
        self.note_gap(&gathered);
        gathered
    }

    fn gather_all(&mut self) -> Result<(), DataError> {
        self.read_commits()?;
        let Some(floor) = self.floor else {
            self.carried = self.end();
            return Ok(());
        };
        self.carried = self.carried.max(floor);
        if self.carried < self.end() {
            self.carry()?;
        }
        let kept: u64 = self.kept.iter().map(FrameLog::bytes).sum();
        if kept > self.backlog_max() {
            tracing::warn!(database = %self.dir.display(), kept, "the replica is too far behind: it will need a new snapshot");
            self.unfollow()?;
        }
        Ok(())
    }

    fn carry(&mut self) -> Result<(), DataError> {
        let path = ship_dir(&self.dir).join(format!("frames-{:020}.log", self.carried));
        let mut kept = FrameLog::create(path, self.chain(), self.page_size(), self.carried)?;
        while kept.end < self.end() {
            let (frames, at) = self.read_log(kept.end)?;
            kept.append(at, &frames)?;
        }
        self.carried = self.end();
        self.kept.push(kept);
        Ok(())
    }

    /// Past this, a comparison of pages moves less than the frames.
    fn backlog_max(&self) -> u64 {
        let database = std::fs::metadata(database_file(&self.dir)).map_or(0, |meta| meta.len());
        self.options.backlog_bytes.max(database)
    }

    /// Frames of the present log from number `from` on, which is committed: as many as an answer holds.
    fn read_log(&self, from: u64) -> Result<(Vec<u8>, farshore_core::moment::Moment), DataError> {
        let path = log_file(&self.dir);
        let header = self.header.ok_or_else(|| lost(&path))?;
        let size = header.frame_bytes();
        let most = (PIECE_MAX as u64 / size).max(1);
        let count = (self.end() - from).min(most);
        let mut frames = vec![0; usize::try_from(count * size).unwrap_or(usize::MAX)];
        let first = from.checked_sub(self.record.first).ok_or_else(|| lost(&path))?;
        let read = read_some(&self.log, &mut frames, header.offset(first))
            .map_err(DataError::io("read the write-ahead log", &path))?;
        frames.truncate(read);
        let after = self.sum_in_log(first)?.and_then(|before| header.sum_after(before, &frames));
        let is_whole = frames.len() as u64 == count * size;
        let is_ours = after.is_some_and(|sum| first + count < self.cursor.frames || sum == self.cursor.sum);
        if !is_whole || !is_ours {
            return Err(lost(&path));
        }
        Ok((frames, self.label_of(from + count)))
    }

    /// The checksum that frame `frame` of the present log goes on from.
    fn sum_in_log(&self, frame: u64) -> Result<Option<Sum>, DataError> {
        let failed = DataError::io("read the write-ahead log", &log_file(&self.dir));
        let Some(header) = self.header else { return Ok(None) };
        let Some(before) = frame.checked_sub(1) else { return Ok(Some(header.sum)) };
        Ok(header.head(&self.log, before).map_err(failed)?.map(|head| head.sum))
    }

    fn label_of(&self, end: u64) -> farshore_core::moment::Moment {
        let index = self.labels.partition_point(|(label, _)| *label < end);
        self.labels.get(index).map_or(self.position.at, |(_, position)| position.at)
    }

    /// Whether a replica that has everything up to `place` can go on from there.
    pub(super) fn can_continue(&self, place: &Place) -> bool {
        let here = place.chain == self.chain() && place.frames <= self.end();
        let oldest = self.kept.first().map_or(self.carried, |kept| kept.start);
        let unread = place.frames == self.end();
        here && (place.frames >= oldest || unread)
            && self.sum_at(place.frames).is_none_or(|sum| <(u32, u32)>::from(sum) == place.sum)
    }

    /// The checksum of the frame before this number, where it is still known.
    fn sum_at(&self, frames: u64) -> Option<Sum> {
        if frames == self.end() && self.cursor.frames > 0 {
            return Some(self.cursor.sum);
        }
        if frames == self.record.first {
            return Some(Sum(self.record.sum.0, self.record.sum.1));
        }
        if frames > self.record.first {
            let head = self.header?.head(&self.log, frames - self.record.first - 1).ok()??;
            return Some(head.sum);
        }
        let before = frames.checked_sub(1)?;
        let kept = self.kept.iter().find(|kept| kept.start <= before && before < kept.end)?;
        let record = kept.read(before).ok()??;
        FrameHead::parse(&record.frames).map(|head| head.sum)
    }

    /// Where the chain ends.
    pub(super) fn place(&self) -> Place {
        let sum = if self.cursor.frames > 0 { self.cursor.sum.into() } else { self.record.sum };
        Place { chain: self.chain(), frames: self.end(), sum }
    }

    /// Frames that follow number `from`, for a replica that can continue there. Nothing when there are none yet.
    pub(super) fn frames(
        &mut self,
        from: u64,
    ) -> Result<Option<(Vec<u8>, farshore_core::moment::Moment)>, DataError> {
        if from >= self.end() {
            return Ok(None);
        }
        let found = match self.kept.iter().find(|kept| kept.start <= from && from < kept.end) {
            Some(kept) => kept.read(from).map(|kept| kept.map(|record| (record.frames, record.at))),
            None => self.read_log(from).map(Some),
        };
        self.note_gap(&found);
        found
    }

    /// A replica has everything up to `frames` and may ask for what follows.
    pub(super) fn follow(&mut self, frames: u64) -> Result<(), DataError> {
        self.floor = Some(frames);
        while self.kept.first().is_some_and(|kept| kept.end <= frames) {
            self.kept.remove(0).remove();
        }
        while self.labels.front().is_some_and(|(end, _)| *end <= frames) {
            self.labels.pop_front();
        }
        if !self.record.followed {
            self.record.followed = true;
            self.write_record()?;
        }
        Ok(())
    }

    /// Nobody follows any more: nothing is kept.
    fn unfollow(&mut self) -> Result<(), DataError> {
        self.floor = None;
        self.forget_kept();
        self.carried = self.end();
        self.record.followed = false;
        self.write_record()
    }

    fn forget_kept(&mut self) {
        self.kept.drain(..).for_each(FrameLog::remove);
    }

    /// The replica has more than is known here: numbers must not go back. What it has in addition is counted as one commit
    /// that nobody saw.
    pub(super) fn raise(&mut self, to: Position) -> Result<(), DataError> {
        if self.position.covers(to) {
            return Ok(());
        }
        let commits = to.commits.max(self.position.commits) + 1 - self.position.commits;
        let bytes = to.bytes.max(self.position.bytes) - self.position.bytes;
        for position in [&mut self.position, &mut self.record.base] {
            position.commits += commits;
            position.bytes += bytes;
        }
        self.record.skip_to(self.position);
        self.labels.clear();
        self.write_record()
    }

    /// Files of an earlier run, as far as they reach the present log without a gap.
    fn load_kept(&mut self) {
        let (mut logs, other) = read_kept(&ship_dir(&self.dir), self.record.chain, self.record.page_size);
        let joined = logs.windows(2).all(|pair| pair[1].start <= pair[0].end)
            && logs.last().is_none_or(|last| last.end >= self.record.first);
        if !self.record.followed || !joined {
            logs.drain(..).for_each(FrameLog::remove);
        }
        for path in other {
            let _ = std::fs::remove_file(path);
        }
        self.carried = logs.last().map_or(self.record.first, |last| last.end);
        if self.record.followed {
            self.floor = Some(logs.first().map_or(self.carried, |first| first.start));
        }
        self.kept = logs;
    }

    /// What the next process must find, also after a power cut.
    pub(super) fn write_record(&mut self) -> Result<(), DataError> {
        self.unsynced = false;
        self.record.write_durably(&self.dir, self.position)
    }

    /// The same where nobody may wait for the disk: whoever takes [`Self::take_unsynced`] makes it durable.
    fn note_record(&mut self) -> Result<(), DataError> {
        self.unsynced = true;
        self.record.write(&self.dir, self.position)
    }

    /// Whether the record was written since and is not durable. The caller sees to it.
    pub(super) fn take_unsynced(&mut self) -> bool {
        std::mem::take(&mut self.unsynced)
    }

    /// What was committed here after `kept`, which the replica had. Nothing when that cannot be known.
    pub(super) fn committed_after(&self, kept: Position) -> Option<Loss> {
        let is_counted = self.record.counts_from(kept) && self.position.covers(kept);
        is_counted.then(|| self.position.beyond(kept))
    }

    /// Asks the database something.
    pub(super) fn ask(&self) -> Result<(), DataError> {
        self.pins.ask().map_err(sqlite("answer a query", &database_file(&self.dir)))
    }
}

/// What tells whether a log has grown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    salts: Option<Salts>,
    next: u64,
    /// The end of what had been read.
    pub(super) end: u64,
}

impl Mark {
    /// Whether the log may hold something that was not read yet. Two small reads. One that has no name any more is not where the
    /// app writes: there is another database in its place, or soon will be.
    pub(super) fn may_have_grown(&self, log: &File) -> bool {
        if log.metadata().map_or(true, |meta| meta.nlink() == 0) {
            return true;
        }
        match (Header::read(log), self.salts) {
            (Ok(None), None) => log.metadata().map_or(true, |meta| meta.len() > 0),
            (Ok(Some(header)), Some(salts)) if header.salts == salts => {
                let frame = (self.next - header.offset(0)) / header.frame_bytes();
                header.head(log, frame).map_or(true, |head| head.is_some())
            }
            _ => true,
        }
    }
}

impl Files {
    fn open(dir: &Path) -> Result<Self, DataError> {
        let file = database_file(dir);
        if !file.exists() {
            return Err(DataError::Missing { what: format!("the database {}", file.display()) });
        }
        std::fs::create_dir_all(ship_dir(dir)).map_err(DataError::io("create", &ship_dir(dir)))?;
        let page_size = into_wal_mode(&file)?;
        let pins = Pins::hold(&file).map_err(sqlite("begin to read", &file))?;
        let path = log_file(dir);
        let log = File::open(&path).map_err(DataError::io("open the write-ahead log", &path))?;
        let header = Header::read(&log).map_err(DataError::io("read the write-ahead log", &path))?;
        let committed = pins.committed().map_err(sqlite("read the log's index of", &file))?;
        let shows_commit = |header: Header| header.shows_commit(&log, 0).unwrap_or(true);
        let is_clear = committed > 0 || !header.is_some_and(shows_commit);
        Ok(Self { page_size, pins, log, header, is_clear })
    }
}

/// The files that are watched. They are asked for by name and never opened: see [`super::pins`].
fn inodes(dir: &Path) -> Result<[u64; 3], DataError> {
    let inode = |path: PathBuf| match std::fs::metadata(&path) {
        Ok(meta) => Ok(meta.ino()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(DataError::io("look at", &path)(error)),
    };
    Ok([inode(database_file(dir))?, inode(log_file(dir))?, inode(index_file(dir))?])
}

fn lost(path: &Path) -> DataError {
    DataError::Corrupt {
        what: "frames that had been read are not there any more".to_owned(),
        path: path.to_owned(),
        mend: "a new snapshot is taken by itself",
    }
}

/// Frame logs of this chain in order, and files that are none of its.
fn read_kept(dir: &Path, chain: u64, page_size: u32) -> (Vec<FrameLog>, Vec<PathBuf>) {
    let (mut logs, mut other) = (Vec::new(), Vec::new());
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in entries.filter(|path| path.extension().is_some_and(|extension| extension == "log")) {
        match FrameLog::open(path.clone(), |_| Ok(())) {
            Ok(log) if log.chain == chain && log.page_size == page_size => logs.push(log),
            _ => other.push(path),
        }
    }
    logs.sort_by_key(|log| log.start);
    (logs, other)
}

/// Puts the database into WAL mode, which it then stays in. Tells its page size.
fn into_wal_mode(file: &Path) -> Result<u32, DataError> {
    let open = || -> rusqlite::Result<(String, u32)> {
        let db = connect(file)?;
        let mode = db.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
        let page_size = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        Ok((mode, page_size))
    };
    let (mode, page_size) = open().map_err(sqlite("turn the write-ahead log on", file))?;
    if mode != "wal" {
        let said = format!("its journal mode stays {mode}: another process uses it");
        return Err(sqlite("turn the write-ahead log on", file)(said));
    }
    Ok(page_size)
}

/// A [`DataError::Engine`] of this engine, for `map_err`.
pub(super) fn sqlite<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
    file: &Path,
) -> impl FnOnce(E) -> DataError + use<E> {
    DataError::engine(Engine::Sqlite, what, file)
}
