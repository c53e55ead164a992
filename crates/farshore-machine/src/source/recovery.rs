//! Opening a source: what was it when it stopped, and how did it stop?
//!
//! After a clean close the map's file and the log say everything. After the death of the process they do too, except
//! that the newest writes may be in the log and not on the disk. After a power cut the log may lack its tail, so every
//! hot extent counts as different, and counts of a loss are bounds.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use farshore_core::workload::Watermark;
use serde::{Deserialize, Serialize};

use super::core::{Core, Note, WINDOW_BYTES_MAX, WINDOW_MAX};
use super::extents::Extents;
use super::log::{self, Did, Entry, Log, LogError};
use super::map::{self, BlockMap};
use super::shared::Options;
use super::source::SourceError;
use crate::disk::Disk;
use crate::record::Range;

/// Version of `source.json`.
const VERSION: u32 = 1;
/// Longest range that is read back to see whether a write was done; longer ones count as done.
const CHECK_LEN_MAX: u64 = 32 << 20;

/// What `source.json` keeps. Fields are only ever added.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Facts {
    version: u32,
    /// Which run of the operating system wrote this.
    boot_id: String,
    /// Closed in order: everything is on the disks.
    pub(super) clean: bool,
    /// Writes are numbered and logged.
    pub(super) tracking: bool,
    /// The position where tracking began, or stood when it ended.
    pub(super) head: Watermark,
    /// False after a power cut: the log may lack writes that were acknowledged.
    pub(super) exact: bool,
    /// Numbers after a power cut may repeat those that the target knows: to be settled with it first.
    pub(super) renumber: bool,
    /// What is known of the differences cannot be trusted: everything must be sent again, and why.
    pub(super) untrusted: Option<String>,
    /// Sizes of the disks, in order.
    pub(super) sizes: Vec<u64>,
}

impl Facts {
    pub(super) fn new(head: Watermark, sizes: Vec<u64>) -> io::Result<Self> {
        let boot_id = boot_id()?;
        Ok(Self {
            version: VERSION,
            boot_id,
            clean: true,
            tracking: false,
            head,
            exact: true,
            renumber: false,
            untrusted: None,
            sizes,
        })
    }

    pub(super) fn save(&self, dir: &Path) -> io::Result<()> {
        map::replace(&dir.join("source.json"), &serde_json::to_vec_pretty(self)?)
    }

    fn load(dir: &Path) -> Result<Self, SourceError> {
        let path = dir.join("source.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SourceError::Missing { dir: dir.to_owned() });
            }
            other => other?,
        };
        let facts: Self = serde_json::from_slice(&text)
            .map_err(|error| SourceError::Damaged { path: path.clone(), why: error.to_string() })?;
        if facts.version != VERSION {
            let why = format!("it has version {} and this program knows {VERSION}", facts.version);
            return Err(SourceError::Damaged { path, why });
        }
        Ok(facts)
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Keeps a second process (or a second source of this one) out.
pub(super) fn lock_dir(dir: &Path) -> Result<File, SourceError> {
    let file = File::create(dir.join("lock"))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| SourceError::InUse { dir: dir.to_owned() })?;
    Ok(file)
}

/// What opening brings to light.
pub(super) struct Opened {
    pub(super) facts: Facts,
    pub(super) core: Core,
    pub(super) extents: Extents,
}

/// Reads the directory and decides what differs from the target.
pub(super) fn open(dir: &Path, disks: &[Arc<dyn Disk>], options: &Options) -> Result<Opened, SourceError> {
    let sizes: Vec<u64> = disks.iter().map(|disk| disk.size()).collect();
    let mut facts = Facts::load(dir)?;
    if facts.sizes != sizes {
        return Err(SourceError::WrongShape { expected: facts.sizes, found: sizes });
    }
    let boot = boot_id()?;
    let power_lost = facts.tracking && !facts.clean && facts.boot_id != boot;
    let extents = Extents::open(dir.join("extents"), &sizes, power_lost)?;
    let mut core = Core::new(&sizes, facts.head, options.outbox_bytes);
    if facts.tracking {
        load_map(dir, &sizes, &mut core, &mut facts)?;
        load_log(dir, disks, options, &mut core, &mut facts)?;
    }
    if power_lost {
        facts.exact = false;
        facts.renumber = true;
        extents.ranges().into_iter().for_each(|range| core.dirty.mark(range));
    }
    facts.boot_id = boot;
    facts.clean = false;
    let map = core.map_to_save();
    if facts.tracking && (power_lost || facts.untrusted.is_some()) {
        map::save(&dir.join("map"), &serde_json::to_vec(&core.note).map_err(io::Error::from)?, &map)?;
    }
    facts.save(dir)?;
    Ok(Opened { facts, core, extents })
}

fn load_map(dir: &Path, sizes: &[u64], core: &mut Core, facts: &mut Facts) -> Result<(), SourceError> {
    let loaded = match map::load(&dir.join("map"), sizes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => other?,
    };
    let parsed = loaded.and_then(|(note, map)| Some((serde_json::from_slice::<Note>(&note).ok()?, map)));
    if let Some((note, map)) = parsed {
        core.note = note;
        core.dirty = map;
    } else {
        core.dirty.mark_all();
        facts.untrusted = Some("the map of differences is missing or damaged".to_owned());
    }
    Ok(())
}

fn load_log(
    dir: &Path,
    disks: &[Arc<dyn Disk>],
    options: &Options,
    core: &mut Core,
    facts: &mut Facts,
) -> Result<(), SourceError> {
    let path = dir.join("log");
    let log = match Log::open(&path, options.log_segment_bytes) {
        Ok(log) => log,
        Err(LogError::Io(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Err(error) => {
            return Err(SourceError::Damaged { path, why: error.to_string() });
        }
    };
    let mut head = log.newest_before();
    let mut tail = VecDeque::new();
    let start = log.start();
    if start.seq > core.note.folded_to && start.seq > core.note.base.seq {
        core.note.base = start;
    }
    let base = core.note.base.seq;
    let dirty = &mut core.dirty;
    let damaged = log::scan(&log.segments(), 0, |entry| {
        if entry.mark.seq > base {
            dirty.mark(entry.range);
        }
        if entry.mark.seq > head.seq {
            head = entry.mark;
        }
        tail.push_back(entry);
        if tail.len() as u64 > WINDOW_MAX {
            tail.pop_front();
        }
    })?;
    if damaged > 0 {
        core.dirty.mark_all();
        facts.exact = false;
        facts.untrusted =
            Some(format!("{damaged} entries of the write log in {} are damaged", path.display()));
    }
    if !facts.clean {
        void_undone(&log, disks, tail)?;
    }
    core.head = head;
    core.complete = head;
    core.log = Some(log);
    Ok(())
}

/// Finds writes among the newest that never reached their disk and takes them out of the count. Their numbers stay
/// used and their ranges stay in the log: part of one may be on the disk.
fn void_undone(log: &Log, disks: &[Arc<dyn Disk>], tail: VecDeque<Entry>) -> io::Result<()> {
    let mut bytes = 0;
    let mut later: Vec<Range> = Vec::new();
    for entry in tail.into_iter().rev() {
        bytes += entry.payload();
        if bytes > WINDOW_BYTES_MAX + CHECK_LEN_MAX {
            return Ok(());
        }
        // A later write of the same place was admitted only after this one had ended.
        let overlapped = later.iter().any(|range| {
            range.disk == entry.range.disk
                && range.offset < entry.range.offset + entry.range.len
                && entry.range.offset < range.offset + range.len
        });
        later.push(entry.range);
        if entry.did != Did::Void && !overlapped && !was_done(disks, &entry)? {
            log.void(entry)?;
        }
    }
    Ok(())
}

fn was_done(disks: &[Arc<dyn Disk>], entry: &Entry) -> io::Result<bool> {
    let Some(disk) = disks.get(usize::from(entry.range.disk)) else { return Ok(true) };
    if entry.range.len > CHECK_LEN_MAX {
        return Ok(true);
    }
    let mut bytes = vec![0; usize::try_from(entry.range.len).map_err(io::Error::other)?];
    disk.read_at(&mut bytes, entry.range.offset)?;
    Ok(match entry.did {
        Did::Write(crc) => crc32c::crc32c(&bytes) == crc,
        Did::Trim | Did::Zero => bytes.iter().all(|byte| *byte == 0),
        Did::Void => false,
    })
}

/// What differs from a target that durably has everything up to `after`, as file and log say.
pub(super) fn differences(
    dir: &Path,
    sizes: &[u64],
    segments: &[Arc<log::Segment>],
    after: u64,
) -> io::Result<Option<BlockMap>> {
    let Some((_, mut map)) = map::load(&dir.join("map"), sizes)? else { return Ok(None) };
    let damaged = log::scan(segments, after, |entry| map.mark(entry.range))?;
    Ok((damaged == 0).then_some(map))
}
