//! Where a new session goes on: with the records that the target lacks, if all of them are still in the outbox;
//! otherwise with a catch-up of exactly what differs; with everything only when that cannot be known, and then it says
//! why.

use std::io;

use farshore_core::workload::Watermark;

use super::core::Core;
use super::map::BlockMap;
use super::shared::{Shared, locked};
use super::{log, recovery};
use crate::disk::ExtentKind;
use crate::record::Range;

/// What the target said.
#[derive(Debug, Clone)]
pub(super) struct Welcome {
    pub(super) durable: Option<Watermark>,
    pub(super) catching_up: bool,
    pub(super) diverged: Vec<Range>,
}

/// Extents asked for at once.
const EXTENTS_MAX: usize = 4096;

/// Prepares the core for a session with a target that stands at `welcome`. `full`: a person (or a new protection)
/// wants everything sent.
pub(super) fn prepare(shared: &Shared, welcome: &Welcome, full: bool) -> io::Result<()> {
    shared.core().open_session();
    let mut bulk = !welcome.diverged.is_empty();
    let plan = match welcome.durable {
        None => {
            seed(shared, welcome.catching_up)?;
            bulk = true;
            None
        }
        Some(durable) => go_on(shared, durable, welcome.catching_up, full, &mut bulk)?,
    };
    if bulk {
        {
            let mut core = shared.core();
            core.stop_collecting();
            welcome.diverged.iter().for_each(|range| core.dirty.mark(*range));
        }
        shared.save_map()?;
    }
    let mut core = shared.core();
    match plan {
        Some(durable) if can_stream(&core, durable) && !bulk => {
            core.stream_from(durable);
            core.flow.note = None;
        }
        _ => core.stop_collecting(),
    }
    Ok(())
}

/// True when the outbox has every record after `durable`, and nothing else differs.
fn can_stream(core: &Core, durable: Watermark) -> bool {
    if !core.dirty.is_empty() || core.note.catch_up_open {
        return false;
    }
    if core.collecting {
        let first = core.outbox_first().unwrap_or(core.complete.seq + 1);
        return first <= durable.seq + 1 && core.row_began() && durable.seq <= core.complete.seq;
    }
    core.is_still() && core.complete.seq == durable.seq
}

/// The target has never had anything.
fn seed(shared: &Shared, catching_up: bool) -> io::Result<()> {
    let began = shared.core().note.seeding;
    if catching_up && began {
        // What it has got so far is still in our map, with everything written since.
        return Ok(());
    }
    if catching_up {
        all(shared, "the target has an unfinished copy of unknown origin");
    } else {
        mark_allocated(shared)?;
    }
    shared.core().note.seeding = true;
    Ok(())
}

fn all(shared: &Shared, why: &str) {
    tracing::warn!(why, "everything is sent again");
    let mut core = shared.core();
    core.dirty.mark_all();
    core.flow.note = Some(format!("everything is sent again: {why}"));
}

/// Marks what is allocated: the rest reads as zeroes here, and there too.
fn mark_allocated(shared: &Shared) -> io::Result<()> {
    for (index, tracked) in shared.disks.iter().enumerate() {
        let disk = u16::try_from(index).map_err(io::Error::other)?;
        let (mut offset, size) = (0, tracked.disk.size());
        while offset < size {
            let extents = tracked.disk.extents(offset, size - offset, EXTENTS_MAX)?;
            if extents.is_empty() {
                return Err(io::Error::other(format!("disk {index} does not describe itself")));
            }
            let mut core = shared.core();
            for extent in extents {
                if extent.kind != ExtentKind::Hole {
                    core.dirty.mark(Range { disk, offset, len: extent.len });
                }
                offset += extent.len;
            }
        }
    }
    Ok(())
}

/// The target has history up to `durable`. Returns it if streaming from there may be possible.
fn go_on(
    shared: &Shared,
    durable: Watermark,
    catching_up: bool,
    full: bool,
    bulk: &mut bool,
) -> io::Result<Option<Watermark>> {
    let facts = locked(&shared.facts).clone();
    let why_all = {
        let core = shared.core();
        if full && !core.is_seeded() && !core.note.catch_up_open {
            Some("it was asked for".to_owned())
        } else if catching_up && !core.note.catch_up_open {
            Some("the target has an unfinished catch-up of unknown origin".to_owned())
        } else if durable.seq > core.head.seq && !facts.renumber {
            Some("the target knows writes that this side does not".to_owned())
        } else {
            facts.untrusted.clone()
        }
    };
    if let Some(why) = why_all {
        all(shared, &why);
        renumber(shared, durable);
        *bulk = true;
    } else if facts.renumber {
        renumber(shared, durable);
        *bulk = true;
    } else if !catching_up {
        rebuild(shared, durable, bulk)?;
    }
    // The map, saved before the session begins, has it all from here on.
    if facts.renumber || facts.untrusted.is_some() {
        shared.save_map()?;
        let mut facts = locked(&shared.facts);
        (facts.renumber, facts.untrusted) = (false, None);
        facts.save(&shared.dir)?;
    }
    Ok((!catching_up).then_some(durable))
}

/// After a power cut numbers may have been used twice: go on after every number that the target knows.
fn renumber(shared: &Shared, durable: Watermark) {
    shared.change_gate(|_| {
        let mut core = shared.core();
        core.stop_collecting();
        if core.head.seq < durable.seq {
            let epoch = core.head.epoch.max(durable.epoch);
            core.head = Watermark { epoch, ..durable };
            core.complete = core.head;
        }
    });
}

/// Makes `dirty` exact if this source has not talked to the target since it was opened, or the target has gone back.
fn rebuild(shared: &Shared, durable: Watermark, bulk: &mut bool) -> io::Result<()> {
    let sizes = shared.sizes();
    let (covered, segments, before) = {
        let mut core = shared.core();
        let segments = core.log.as_ref().map(log::Log::segments).unwrap_or_default();
        let start = core.log.as_ref().map_or(u64::MAX, |log| log.start().seq);
        let covered = durable.seq >= core.note.base.seq;
        if !covered && start > durable.seq {
            drop(core);
            all(shared, "the target has gone back further than the write log reaches");
            *bulk = true;
            return Ok(());
        }
        if covered && !core.flow.estimated {
            return Ok(());
        }
        core.flow.estimated = false;
        core.stop_collecting();
        // Marks made from here on (writes that end while the log is read) go into a map of their own.
        (covered, segments, std::mem::replace(&mut core.dirty, BlockMap::new(&sizes)))
    };
    let found = recovery::differences(&shared.dir, &sizes, &segments, durable.seq);
    let mut core = shared.core();
    match &found {
        Ok(Some(map)) => core.dirty.union(map),
        Ok(None) | Err(_) => core.dirty.union(&before),
    }
    if !covered {
        core.dirty.union(&before);
    }
    found.map(|_| ())
}
