//! What one machine's source knows, under one short mutex: the sequence, the writes in flight, the outbox, the maps.
//!
//! Every difference from the target is in exactly one of: the window (in flight), the outbox (payload kept), `dirty`
//! (to be sent by a later catch-up) or `sending` (part of the present one). Nothing here does I/O but the rare start of
//! a new log segment.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use farshore_core::ids::Epoch;
use farshore_core::moment::Moment;
use farshore_core::workload::Watermark;

use super::flow::Flow;
use super::log::{Log, Segment};
use super::map::BlockMap;
use crate::record::{Op, Range, Record};

/// Most writes in flight. After a crash only this many of the newest can be unfinished.
pub(super) const WINDOW_MAX: u64 = 1024;
/// Most payload bytes in flight (one write always may be): bounds what is read back after a crash.
pub(super) const WINDOW_BYTES_MAX: u64 = 128 << 20;

/// One write between its number and its end.
#[derive(Debug)]
struct Slot {
    mark: Watermark,
    range: Range,
    state: SlotState,
}

#[derive(Debug)]
enum SlotState {
    Pending,
    /// With the payload when the outbox collects.
    Done(Option<Op>),
    Failed,
}

/// Permission to write, and under which number.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) mark: Watermark,
    pub(super) segment: Arc<Segment>,
    /// The payload is wanted by the outbox.
    pub(super) collect: bool,
}

/// What is remembered of the target across restarts, in the map's file.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Note {
    /// All differences since here are in the map or the log.
    pub(super) base: Watermark,
    /// The log was cut here although not everything before was acknowledged; the map has it.
    pub(super) folded_to: u64,
    /// A catch-up was begun and its end not yet acknowledged.
    pub(super) catch_up_open: bool,
    /// The open catch-up is (or has grown out of) a seed: everything allocated is in the map.
    pub(super) seeding: bool,
    /// The target (`REGION ITEM`) that the rest of this note is about.
    pub(super) peer: Option<String>,
    /// The target (`REGION ITEM`) that has once been consistent with this history.
    pub(super) seeded: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Core {
    /// The newest number given out.
    pub(super) head: Watermark,
    /// Every write up to here has ended.
    pub(super) complete: Watermark,
    window: VecDeque<Slot>,
    /// Writers that wait for room or for an overlapping write.
    pub(super) waiting: usize,
    /// Records after `base` (or after the present catch-up's begin), in an unbroken row up to `complete`.
    outbox: VecDeque<Record>,
    outbox_bytes: usize,
    outbox_limit: usize,
    /// New records go into the outbox; otherwise into `dirty`.
    pub(super) collecting: bool,
    /// The row in the outbox begins after this number.
    pub(super) collect_after: u64,
    pub(super) dirty: BlockMap,
    pub(super) sending: BlockMap,
    pub(super) remaining: BlockMap,
    pub(super) note: Note,
    pub(super) log: Option<Log>,
    pub(super) flow: Flow,
    /// Nothing is accepted any more: whoever waits for the target to acknowledge a flush waits in vain.
    pub(super) fenced: bool,
}

impl Core {
    pub(super) fn new(sizes: &[u64], head: Watermark, outbox_limit: usize) -> Self {
        Self {
            head,
            complete: head,
            window: VecDeque::new(),
            waiting: 0,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            outbox_limit,
            collecting: false,
            collect_after: head.seq,
            dirty: BlockMap::new(sizes),
            sending: BlockMap::new(sizes),
            remaining: BlockMap::new(sizes),
            note: Note { base: head, ..Note::default() },
            log: None,
            flow: Flow::default(),
            fenced: true,
        }
    }

    /// True when a write of `range` may not start yet: it overlaps one in flight, or too much is in flight.
    pub(super) fn must_wait(&self, range: Range) -> bool {
        let overlaps = |slot: &Slot| {
            matches!(slot.state, SlotState::Pending)
                && slot.range.disk == range.disk
                && slot.range.offset < range.offset + range.len
                && range.offset < slot.range.offset + slot.range.len
        };
        let full = self.head.seq - self.complete.seq >= WINDOW_MAX
            || self.head.bytes - self.complete.bytes >= WINDOW_BYTES_MAX;
        full || self.window.iter().any(overlaps)
    }

    /// Numbers a write. `payload` counts into the cumulative bytes.
    pub(super) fn admit(&mut self, epoch: Epoch, range: Range, payload: u64) -> io::Result<Ticket> {
        let log = self.log.as_mut().ok_or_else(|| io::Error::other("writes are not tracked"))?;
        let segment = log.segment_after(self.head)?;
        self.head = Watermark {
            epoch,
            seq: self.head.seq + 1,
            bytes: self.head.bytes + payload,
            at: now().max(self.head.at),
        };
        self.window.push_back(Slot { mark: self.head, range, state: SlotState::Pending });
        Ok(Ticket { mark: self.head, segment, collect: self.collecting })
    }

    /// The write has ended; `done` is its payload (`None` inside: not collected) or nothing when it failed.
    pub(super) fn finish(&mut self, seq: u64, done: Option<Option<Op>>) {
        let index = (seq - self.complete.seq - 1) as usize;
        self.window[index].state = done.map_or(SlotState::Failed, SlotState::Done);
        while let Some(Slot { state: SlotState::Done(_) | SlotState::Failed, .. }) = self.window.front() {
            let Some(slot) = self.window.pop_front() else { return };
            self.complete = slot.mark;
            self.retire(slot);
        }
    }

    fn retire(&mut self, slot: Slot) {
        if !self.collecting {
            self.dirty.mark(slot.range);
        } else if slot.mark.seq <= self.collect_after {
            // In flight when the catch-up began: it is read from the disk, and not sent as a record.
            self.sending.mark(slot.range);
            self.remaining.mark(slot.range);
        } else if let SlotState::Done(Some(op)) = slot.state {
            self.collect(slot.mark, slot.range, op);
        } else {
            // The content is unknown: the row is broken, and a catch-up must look.
            self.stop_collecting();
            self.dirty.mark(slot.range);
        }
    }

    fn collect(&mut self, mark: Watermark, range: Range, op: Op) {
        self.outbox_bytes += weight(&op);
        self.outbox.push_back(Record {
            seq: mark.seq,
            epoch: mark.epoch,
            at: mark.at,
            bytes: mark.bytes,
            disk: range.disk,
            offset: range.offset,
            len: range.len,
            op,
        });
        if self.outbox_bytes > self.outbox_limit {
            self.stop_collecting();
        }
    }

    /// Gives up the payloads: their ranges are sent by a catch-up.
    pub(super) fn stop_collecting(&mut self) {
        self.collecting = false;
        self.outbox_bytes = 0;
        let dirty = &mut self.dirty;
        self.outbox.drain(..).for_each(|record| dirty.mark(range_of(&record)));
        self.flow.points.clear();
    }

    /// Starts a new row of records after `head`. Writes in flight belong to the catch-up, not to the row.
    pub(super) fn start_collecting(&mut self) {
        self.stop_collecting();
        self.collecting = true;
        self.collect_after = self.head.seq;
    }

    /// True when every write admitted before the row began has ended.
    pub(super) fn row_began(&self) -> bool {
        self.complete.seq >= self.collect_after
    }

    /// True when no write is in flight.
    pub(super) fn is_still(&self) -> bool {
        self.window.is_empty()
    }

    /// The records after `sent`, up to `until`, about `limit` bytes of them.
    pub(super) fn batch(&self, sent: u64, until: u64, limit: usize) -> Vec<Record> {
        let Some(first) = self.outbox.front() else { return Vec::new() };
        let skip = usize::try_from((sent + 1).saturating_sub(first.seq)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        self.outbox
            .iter()
            .skip(skip)
            .take_while(|record| {
                let more = bytes < limit && record.seq <= until;
                bytes += weight(&record.op);
                more
            })
            .cloned()
            .collect()
    }

    /// Payload bytes that the outbox keeps.
    pub(super) fn outbox_bytes(&self) -> usize {
        self.outbox_bytes
    }

    /// The first record kept, if any.
    pub(super) fn outbox_first(&self) -> Option<u64> {
        self.outbox.front().map(|record| record.seq)
    }

    /// Records up to `durable` are safe at the target.
    pub(super) fn acknowledge(&mut self, durable: Watermark) {
        while self.outbox.front().is_some_and(|record| record.seq <= durable.seq) {
            if let Some(record) = self.outbox.pop_front() {
                self.outbox_bytes -= weight(&record.op);
            }
        }
        if durable.seq > self.note.base.seq {
            self.note.base = durable;
        }
    }

    /// The map to keep on disk: everything that differs and that the log does not have any more.
    pub(super) fn map_to_save(&self) -> BlockMap {
        let mut map = self.dirty.clone();
        map.union(&self.sending);
        let cut = self.log.as_ref().map_or(0, |log| log.start().seq);
        let kept = self.outbox.iter().take_while(|record| record.seq <= cut);
        kept.for_each(|record| map.mark(range_of(record)));
        map
    }

    /// Everything that differs, of one disk: for people and for the dirty-bitmap context.
    pub(super) fn differing(&self) -> BlockMap {
        let mut map = self.dirty.clone();
        map.union(&self.sending);
        self.outbox.iter().for_each(|record| map.mark(range_of(record)));
        self.window.iter().for_each(|slot| map.mark(slot.range));
        map
    }

    /// True when the present target has once been consistent with this history.
    pub(super) fn is_seeded(&self) -> bool {
        self.note.seeded.is_some() && self.note.seeded == self.note.peer
    }

    /// True when the target durably has every write, and nothing is under way.
    pub(super) fn settled(&self) -> bool {
        self.window.is_empty()
            && self.outbox.is_empty()
            && self.dirty.is_empty()
            && self.sending.is_empty()
            && !self.note.catch_up_open
            && self.is_seeded()
            && self.note.base.seq >= self.head.seq
    }
}

fn weight(op: &Op) -> usize {
    /// What a record costs beside its payload, in memory and on the wire.
    const OVERHEAD: usize = 96;
    OVERHEAD + if let Op::Write(data) = op { data.len() } else { 0 }
}

fn range_of(record: &Record) -> Range {
    Range { disk: record.disk, offset: record.offset, len: record.len }
}

/// The wall clock.
pub(super) fn now() -> Moment {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
