//! Receiving: the replica as the wire's sink.

use std::io;

use farshore_core::moment::Moment;
use farshore_core::workload::{PointKind, Watermark};

use super::head::{Head, content};
use super::journal::{Draft, SyncFailed};
use super::points::{Offered, PointNote};
use super::recover::Stream;
use super::replica::{Core, Inner, Replica, forget_own, promoted_already};
use super::segment::{EntryKind, Place};
use super::state::Phase;
use crate::disk::Disk;
use crate::record::{BLOCK, Block, Op, Record};
use crate::sink::{Resume, Sink};

/// Longest name of a point: a line for a person, and small in the journal.
const POINT_NAME_MAX: usize = 200;

impl Sink for Replica {
    fn resume(&self) -> io::Result<Resume> {
        let core = self.0.core();
        core.check_receives()?;
        if let Phase::Virgin { seeding } = core.state.phase {
            return Ok(Resume { durable: None, catching_up: seeding, diverged: Vec::new() });
        }
        Ok(Resume {
            durable: Some(core.durable),
            catching_up: matches!(core.stream, Stream::Broken { begun: true, .. }),
            diverged: core.own.clone(),
        })
    }

    fn source_alive(&self, head: Watermark, now: Moment) {
        if let Err(error) = self.0.core().journal.source_alive(head, now) {
            tracing::warn!(%error, "the source's sign of life could not be kept");
        }
    }

    fn append(&self, records: &[Record]) -> io::Result<()> {
        let mut core = self.0.core();
        core.check_receives()?;
        for record in records {
            self.0.check_range(record.disk, record.offset, record.len, &record.op)?;
        }
        if core.state.is_virgin() {
            return self.0.seed_records(&mut core, records);
        }
        let appended = core.append(records);
        core.settle_staged(appended)
    }

    fn begin_catch_up(&self, _from: Watermark) -> io::Result<()> {
        let mut core = self.0.core();
        core.check_receives()?;
        if core.state.is_virgin() {
            return self.0.begin_seed(&mut core);
        }
        let (last, end) = (core.journal.last(), core.journal.end());
        let staged = core.stage_mark(EntryKind::BeginCatchUp, last, &[]);
        core.settle_staged(staged)?;
        core.stream = core.stream.begin(last, end);
        Ok(())
    }

    fn blocks(&self, blocks: &[Block]) -> io::Result<u64> {
        let mut core = self.0.core();
        core.check_receives()?;
        for block in blocks {
            self.0.check_range(block.disk, block.offset, block.len, &block.op)?;
        }
        if !matches!(core.stream, Stream::Broken { begun: true, .. }) {
            return Err(invalid("blocks came outside of a catch-up: begin one first".to_owned()));
        }
        if core.state.is_virgin() {
            return blocks.iter().try_fold(0, |sum, block| Ok(sum + self.0.seed_block(block)?));
        }
        if core.head.is_none() {
            core.head = Some(Head::build(&core.journal, &self.0.disks, core.state.base)?);
        }
        let appended = core.append_blocks(blocks);
        core.settle_staged(appended)
    }

    fn end_catch_up(&self, at: Watermark) -> io::Result<()> {
        let mut core = self.0.core();
        core.check_receives()?;
        if !matches!(core.stream, Stream::Broken { begun: true, .. }) {
            return Err(invalid("a catch-up ended that was not begun".to_owned()));
        }
        if core.state.is_virgin() {
            return self.0.end_seed(&mut core, at);
        }
        let last = core.journal.last();
        let at = if at.seq >= last.seq { at } else { last };
        let staged = core.stage_mark(EntryKind::EndCatchUp, at, &[]);
        core.settle_staged(staged)?;
        core.stream = Stream::Whole;
        core.head = None;
        core.own = Vec::new();
        forget_own(&self.0.dir)
    }

    fn point(&self, at: Watermark, taken: Moment, kind: PointKind, name: Option<&str>) -> io::Result<()> {
        let mut core = self.0.core();
        core.check_receives()?;
        if core.stream != Stream::Whole {
            return Ok(());
        }
        let last = core.journal.last();
        if at.seq > last.seq {
            return Err(invalid(format!(
                "a point at {} came before that record; here is {}",
                at.seq, last.seq
            )));
        }
        if name.is_some_and(|name| name.len() > POINT_NAME_MAX) {
            return Err(invalid(format!("the point's name is longer than {POINT_NAME_MAX} bytes")));
        }
        let note = PointNote { taken, kind, name: name.map(str::to_owned) };
        let payload = serde_json::to_vec(&note)?;
        let point = note.point(last);
        if core.points.last().is_some_and(|newest| newest.point.id == point.id) {
            return Ok(());
        }
        let staged = core.stage_mark(EntryKind::Point, last, &payload);
        let until = core.settle_staged(staged)?;
        core.points.push(Offered { point, until });
        Ok(())
    }

    fn sync(&self) -> io::Result<Watermark> {
        self.0.core().check_receives()?;
        self.0.sync_all()
    }
}

impl Inner {
    /// Makes everything received durable. The lock is not held meanwhile, so that looking does not wait for the disk.
    pub(super) fn sync_all(&self) -> io::Result<Watermark> {
        let (file, end, last, is_virgin) = {
            let core = self.core();
            core.check_alive()?;
            let is_virgin = core.state.is_virgin();
            let last = if is_virgin { core.seeded } else { core.journal.last() };
            (core.journal.unsynced_file(), core.journal.end(), last, is_virgin)
        };
        let synced = if is_virgin {
            self.disks.iter().try_for_each(|disk| disk.sync())
        } else {
            file.map_or(Ok(()), |file| file.sync_data())
        };
        let mut core = self.core();
        if let Err(error) = synced.map_err(SyncFailed::wrap) {
            core.fail(&error);
            return Err(error);
        }
        if !is_virgin {
            core.journal.synced(end)?;
            core.durable = core.durable.max(last);
            core.durable_end = core.durable_end.max(end);
        }
        Ok(last)
    }

    fn check_range(&self, disk: u16, offset: u64, len: u64, op: &Op) -> io::Result<()> {
        let Some(here) = self.disks.get(usize::from(disk)) else {
            return Err(invalid(format!(
                "disk {disk} is unknown: the machine has {} here",
                self.disks.len()
            )));
        };
        let fits = offset.checked_add(len).is_some_and(|end| end <= here.size());
        if !fits || len == 0 {
            let size = here.size();
            return Err(invalid(format!(
                "bytes {offset} to {offset}+{len} are not in disk {disk} of {size} bytes"
            )));
        }
        match op {
            Op::Write(data) if data.len() as u64 != len => {
                Err(invalid(format!("a write of {len} bytes came with {} bytes", data.len())))
            }
            _ => Ok(()),
        }
    }

    /// Empties the disks the first time, because a seed need not send what is zero. Later beginnings widen the seed or go
    /// on with it after a cut: what came before stays.
    fn begin_seed(&self, core: &mut Core) -> io::Result<()> {
        if core.state.phase == (Phase::Virgin { seeding: false }) {
            for disk in &self.disks {
                disk.trim(0, disk.size())?;
                disk.sync()?;
            }
            let mut state = core.state.clone();
            state.phase = Phase::Virgin { seeding: true };
            state.store(&self.dir)?;
            core.state = state;
        }
        core.seeded = Watermark::default();
        core.stream = core.stream.begin(Watermark::default(), Place::default());
        Ok(())
    }

    fn seed_records(&self, core: &mut Core, records: &[Record]) -> io::Result<()> {
        if !matches!(core.stream, Stream::Broken { begun: true, .. }) {
            return Err(invalid("nothing was received yet: begin a catch-up first".to_owned()));
        }
        for record in records.iter().filter(|record| record.seq > core.seeded.seq) {
            apply(&*self.disks[usize::from(record.disk)], record.offset, record.len, &record.op)?;
        }
        core.seeded = records.last().map_or(core.seeded, |record| core.seeded.max(record.watermark()));
        Ok(())
    }

    /// Returns how many bytes were not zero.
    fn seed_block(&self, block: &Block) -> io::Result<u64> {
        apply(&*self.disks[usize::from(block.disk)], block.offset, block.len, &block.op)?;
        let Op::Write(data) = &block.op else { return Ok(0) };
        let blocks = data.chunks(usize::try_from(BLOCK).expect("4096"));
        Ok(blocks.filter(|bytes| bytes.iter().any(|&byte| byte != 0)).map(|bytes| bytes.len() as u64).sum())
    }

    /// The disks hold a whole state for the first time: from here on there is a history.
    fn end_seed(&self, core: &mut Core, at: Watermark) -> io::Result<()> {
        for disk in &self.disks {
            if let Err(error) = disk.sync().map_err(SyncFailed::wrap) {
                core.fail(&error);
                return Err(error);
            }
        }
        let mut state = core.state.clone();
        state.phase = Phase::Following;
        state.base_watermark = at;
        state.base_consistent = true;
        state.store(&self.dir)?;
        core.state = state;
        core.journal.start_at(at);
        core.stream = Stream::Whole;
        core.durable = at;
        Ok(())
    }
}

/// Does to a disk what an entry says.
pub(super) fn apply(disk: &dyn Disk, offset: u64, len: u64, op: &Op) -> io::Result<()> {
    match op {
        Op::Write(data) => disk.write_at(data, offset),
        Op::Trim => disk.trim(offset, len),
        Op::Zero => disk.zero(offset, len, true),
    }
}

impl Core {
    fn check_alive(&self) -> io::Result<()> {
        match &self.failed {
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(()),
        }
    }

    fn check_receives(&self) -> io::Result<()> {
        if self.promoted.is_some() {
            return Err(promoted_already().into());
        }
        if self.damaged_at.is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, self.damage()));
        }
        self.check_alive()
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, "the replica accepts nothing more");
        self.failed.get_or_insert_with(|| error.to_string());
    }

    /// Stages the records that are new, in an unbroken row.
    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut last = self.journal.last().seq;
        for record in records.iter() {
            if record.seq <= last {
                continue;
            }
            if self.stream == Stream::Whole && record.seq != last + 1 {
                return Err(invalid(format!("record {} came after {last}: some are missing", record.seq)));
            }
            last = record.seq;
            let kind = match record.op {
                Op::Write(_) => EntryKind::Write,
                Op::Trim => EntryKind::Trim,
                Op::Zero => EntryKind::Zero,
            };
            self.stage_data(&Draft {
                kind,
                watermark: record.watermark(),
                disk: record.disk,
                offset: record.offset,
                len: record.len,
                data: data_of(&record.op),
            })?;
        }
        Ok(())
    }

    /// Stages what differs from the newest state; returns how many bytes that is.
    fn append_blocks(&mut self, blocks: &[Block]) -> io::Result<u64> {
        let watermark = self.journal.last();
        let mut differing = 0;
        for block in blocks {
            // Comparing reads what was appended before.
            self.journal.write_out()?;
            let runs = match &self.head {
                Some(head) => head.differing(block)?,
                None => vec![(block.offset, block.offset + block.len)],
            };
            for (start, end) in runs {
                differing += end - start;
                let within = |at: u64| usize::try_from(at - block.offset).expect("inside the block");
                let (kind, data) = match &block.op {
                    Op::Write(data) => (EntryKind::Block, &data[within(start)..within(end)]),
                    Op::Trim => (EntryKind::BlockTrim, &[][..]),
                    Op::Zero => (EntryKind::BlockZero, &[][..]),
                };
                let (disk, offset, len) = (block.disk, start, end - start);
                self.stage_data(&Draft { kind, watermark, disk, offset, len, data })?;
            }
        }
        Ok(differing)
    }

    fn stage_data(&mut self, draft: &Draft<'_>) -> io::Result<()> {
        let place = self.journal.stage(draft)?;
        if let Some(head) = &mut self.head {
            head.insert(draft.disk, draft.offset, draft.len, place, content(draft.kind));
        }
        Ok(())
    }

    fn stage_mark(&mut self, kind: EntryKind, watermark: Watermark, data: &[u8]) -> io::Result<Place> {
        self.journal.stage(&Draft { kind, watermark, disk: 0, offset: 0, len: 0, data })
    }

    /// Writes what was staged, or forgets it if something went wrong.
    fn settle_staged<T>(&mut self, staged: io::Result<T>) -> io::Result<T> {
        let settled = staged.and_then(|value| self.journal.write_out().map(|()| value));
        if let Err(error) = &settled {
            self.journal.drop_staged();
            self.head = None;
            if SyncFailed::is(error) {
                self.fail(error);
            }
        }
        settled
    }
}

fn data_of(op: &Op) -> &[u8] {
    match op {
        Op::Write(data) => data,
        Op::Trim | Op::Zero => &[],
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
