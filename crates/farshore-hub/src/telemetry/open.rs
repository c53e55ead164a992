//! Opening: what is on disk becomes logs, links and the window.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use farshore_core::ids::Region;
use farshore_core::moment::Moment;

use super::error::TelemetryError;
use super::event::Meta;
use super::log::Pen;
use super::marks::{Place, Ranges, read_twin};
use super::options::TelemetryOptions;
use super::shared::Shared;
use super::sidecar::Sidecar;
use super::window::{Id, Identifier, Window};
use super::writer::{Desk, Staged, Writer};

/// Events that are looked at for each identity that may be remembered: where few have one, a start does not read everything.
const VISITED_PER_ENTRY: usize = 4;

/// Kept open and locked as long as the logs are open.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "holding the file holds the lock")] File);

/// Opens everything in a directory, which is made if need be.
pub(super) fn open(
    dir: &Path,
    own: Region,
    options: TelemetryOptions,
) -> Result<(Arc<Shared>, Writer, Lock), TelemetryError> {
    options.check()?;
    std::fs::create_dir_all(dir).map_err(TelemetryError::disk("create", dir))?;
    if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
        File::open(above).and_then(|above| above.sync_all()).map_err(TelemetryError::disk("sync", above))?;
    }
    let lock = lock(dir)?;
    let identifier = Identifier::new(options.dedupe_properties.clone());
    let shared = Arc::new(Shared::new(own.clone(), identifier));
    let window = Window::new(options.dedupe_horizon, options.dedupe_entries);
    let mut writer = Writer {
        shared: Arc::clone(&shared),
        dir: dir.to_owned(),
        options,
        desks: Vec::new(),
        window,
        newest: Moment(0),
        staged: Staged::default(),
    };
    let mut lines = Vec::new();
    // The region's own log is the first; the others follow by name.
    for origin in std::iter::once(own.clone()).chain(regions(dir)?.into_iter().filter(|other| *other != own))
    {
        lines.push(writer.open_desk(&origin)?);
    }
    writer.read_links(&lines)?;
    writer.remember()?;
    for desk in 0..writer.desks.len() {
        writer.retain(desk, None);
    }
    Ok((shared, writer, lock))
}

fn lock(dir: &Path) -> Result<Lock, TelemetryError> {
    let path = dir.join("lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(TelemetryError::disk("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(TelemetryError::Busy { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(TelemetryError::disk("lock", &path)(error)),
    }
}

/// The regions that have a log here.
fn regions(dir: &Path) -> Result<Vec<Region>, TelemetryError> {
    let disk = |error| TelemetryError::disk("list", dir)(error);
    let mut regions = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(disk)? {
        let entry = entry.map_err(disk)?;
        let is_dir = entry.file_type().map_err(disk)?.is_dir();
        let name = entry.file_name();
        let region = name.to_str().and_then(|name| Region::parse(name).ok());
        match region.filter(|_| is_dir) {
            Some(region) => regions.push(region),
            None if is_dir => {
                let why = "the name of the directory is no region";
                return Err(TelemetryError::Foreign { path: entry.path(), why });
            }
            None => {}
        }
    }
    regions.sort_unstable();
    Ok(regions)
}

/// An event that may come again.
struct Known {
    seen: Moment,
    id: Id,
    place: Place,
}

impl Writer {
    /// Opens one log with its side files. Returns the lines of its duplicates.
    pub(super) fn open_desk(&mut self, origin: &Region) -> Result<Vec<String>, TelemetryError> {
        let number = u16::try_from(self.desks.len()).expect("there are not so many regions");
        let dir = self.dir.join(origin.as_str());
        let (pen, torn) = Pen::open(&dir, origin, number, self.options.segment_bytes)?;
        let (mut late, late_lines) = Sidecar::open(&self.dir.join(format!("{origin}.late")))?;
        let (duplicates, twin_lines) = Sidecar::open(&self.dir.join(format!("{origin}.duplicates")))?;
        let mut ranges = Ranges::read(&late_lines.lines);
        ranges.forget_before(pen.log.start());
        if ranges.lines().len() < late_lines.lines.len() / 2 {
            late.rewrite(&ranges.lines())?;
        }
        *pen.log.late.write().unwrap_or_else(PoisonError::into_inner) = ranges;
        for torn in &torn {
            tracing::warn!("{torn}");
        }
        self.report(late_lines.damaged.into_iter().chain(twin_lines.damaged).collect());
        self.shared.add(Arc::clone(&pen.log));
        self.desks.push(Desk { pen, late, duplicates });
        Ok(twin_lines.lines)
    }

    fn report(&self, damaged: Vec<String>) {
        for what in &damaged {
            tracing::error!("{what}");
        }
        self.shared.stats().damaged.extend(damaged);
    }

    /// The links between logs, from the side files; what names deleted events is left out.
    fn read_links(&mut self, lines: &[Vec<String>]) -> Result<(), TelemetryError> {
        let logs = self.shared.logs();
        let mut twins = self.shared.twins.write().unwrap_or_else(PoisonError::into_inner);
        for (log, lines) in logs.iter().zip(lines) {
            let mut kept = Vec::new();
            for line in lines {
                let Some((offset, region, first)) = read_twin(line) else { continue };
                let Some(other) = logs.iter().find(|log| log.region == region) else { continue };
                if offset >= log.start() && first >= other.start() {
                    let first = Place { log: other.number, offset: first };
                    twins.link(Place { log: log.number, offset }, first);
                    kept.push(line.clone());
                }
            }
            if kept.len() < lines.len() / 2 {
                self.desks[usize::from(log.number)].duplicates.rewrite(&kept)?;
            }
        }
        Ok(())
    }

    /// Fills the window from the newest segments of every log, as far as the horizon and the number of entries go.
    fn remember(&mut self) -> Result<(), TelemetryError> {
        let logs = self.shared.logs();
        self.newest = logs[0].newest()?;
        let mut newest = self.newest;
        for log in &logs {
            newest = newest.max(log.newest()?);
        }
        let horizon = u64::try_from(self.options.dedupe_horizon.as_micros()).unwrap_or(u64::MAX);
        let oldest = Moment(newest.0.saturating_sub(horizon));
        let mut known = Vec::new();
        for log in &logs {
            self.collect(log.number, oldest, &mut known)?;
        }
        known.sort_by_key(|event| event.seen);
        let mut pairs = Vec::new();
        for Known { seen, id, place } in known {
            match self.window.find(id) {
                Some(found) if found.log != place.log => pairs.push((place, found)),
                _ => self.window.insert(id, place, seen),
            }
        }
        self.link_again(&pairs)
    }

    fn collect(&self, number: u16, oldest: Moment, known: &mut Vec<Known>) -> Result<(), TelemetryError> {
        let log = &self.desks[usize::from(number)].pen.log;
        let (most, mut visited) = (self.options.dedupe_entries.saturating_mul(VISITED_PER_ENTRY), 0);
        let before = known.len();
        for segment in log.segments().iter().rev() {
            let mut first = None;
            let damages = segment.scan(&mut |head, payload| {
                log.see_epoch(head.epoch);
                visited += 1;
                first.get_or_insert(head.enqueued);
                if head.enqueued < oldest {
                    return;
                }
                let meta = Meta::read(payload).ok();
                if let Some(id) = meta.and_then(|(meta, _)| self.shared.identifier.of(&meta)) {
                    known.push(Known {
                        seen: head.enqueued,
                        id,
                        place: Place { log: number, offset: head.offset },
                    });
                }
            })?;
            for damage in damages {
                tracing::error!("{damage}");
            }
            let is_enough = known.len() - before >= self.options.dedupe_entries || visited >= most;
            if is_enough || first.is_some_and(|first| first < oldest) {
                break;
            }
        }
        Ok(())
    }

    /// Links pairs whose line was lost; those that are linked already change nothing.
    fn link_again(&mut self, pairs: &[(Place, Place)]) -> Result<(), TelemetryError> {
        for (other, first) in pairs {
            let are_linked = {
                let twins = self.shared.twins.read().unwrap_or_else(PoisonError::into_inner);
                twins.first(*other) == twins.first(*first)
            };
            if !are_linked {
                self.link(usize::from(other.log), &[(*other, *first)])?;
            }
        }
        Ok(())
    }
}
