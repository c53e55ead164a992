//! What to put on the wire next, and what an acknowledgement means: decisions only, no I/O.
//!
//! A session is either catching up (blocks, mixed with records after the begin) or streaming (records and points).
//! Memory of what differs is given up only when the end of a catch-up, or a record, was acknowledged as durable.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use farshore_core::ids::Token;
use farshore_core::workload::{PointKind, Watermark};

use super::core::{Core, now};
use crate::record::{BLOCK, Range, Record};
use crate::wire::frame::{Ack, BATCH_LEN, PointFrame};

/// Bytes that may be on the way and not yet worked in by the receiver.
pub(super) const CREDIT: u64 = 16 << 20;
/// The target hears from a silent source this often; its bound of a loss is that old at most.
pub(super) const ALIVE_EVERY: Duration = Duration::from_millis(500);
/// With more than this waiting, compressing is tried: the link is the bottleneck then.
const BACKLOG: usize = 2 << 20;
/// Most runs of blocks in one batch.
const RUNS_MAX: usize = 256;
/// Longest run taken out of the map at once (only holes can be sent that fast).
const RUN_MAX: u64 = 1 << 30;

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// No session.
    #[default]
    Idle,
    /// Blocks are being sent.
    CatchingUp,
    /// Records are sent as they come.
    Streaming,
}

/// A recovery point that was cut and is not yet sent.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub(super) id: u64,
    pub(super) point: PointFrame,
}

/// The state of the link.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// The sender must end.
    pub(super) stop: bool,
    /// The connection is gone, and why.
    pub(super) ended: Option<String>,
    /// The sender waits and wants to be woken by a write.
    pub(super) sleeping: bool,
    pub(super) phase: Phase,
    /// The last record put on the wire, or the begin of the catch-up.
    pub(super) sent: Watermark,
    /// Bytes put on the wire in this session.
    pub(super) offset: u64,
    consumed: u64,
    synced: u64,
    differed: u64,
    differed_before: u64,
    /// All blocks were read when the newest write was this one.
    goal: Option<u64>,
    /// The end of the catch-up was sent; it lies before this offset.
    pub(super) ending: Option<(u64, Watermark)>,
    blocks_turn: bool,
    cursor: (u16, u64),
    /// Bytes that the present or last catch-up had to send.
    pub(super) total: u64,
    /// A flush waits for this write.
    pub(super) flush_goal: u64,
    nudged: u64,
    pub(super) points: VecDeque<Cut>,
    points_sent: VecDeque<(u64, Cut)>,
    next_point: u64,
    /// Points up to this id are durable at the target.
    pub(super) points_done: u64,
    point_due: Option<Instant>,
    alive_due: Option<Instant>,
    /// Payload and framing bytes since the link was started.
    pub(super) moved: u64,
    /// Why it is not streaming.
    pub(super) note: Option<String>,
    /// The highest token that a target has refused us with.
    pub(super) superseded: Option<Token>,
    /// `dirty` was made at opening, before the target said what it has: it may hold more than what differs.
    pub(super) estimated: bool,
}

impl Flow {
    /// Of the blocks of the present or last catch-up, the bytes that differed.
    pub(super) fn differed_bytes(&self) -> u64 {
        self.differed.saturating_sub(self.differed_before)
    }

    /// True while the point is on its way; false when it was lost with its row of records.
    pub(super) fn has_point(&self, id: u64) -> bool {
        self.points.iter().chain(self.points_sent.iter().map(|(_, cut)| cut)).any(|cut| cut.id == id)
    }

    fn due(slot: &mut Option<Instant>, now: Instant, every: Duration) -> bool {
        let due = slot.is_none_or(|at| now >= at);
        if due {
            *slot = Some(now + every);
        }
        due
    }
}

/// What the sender does next.
#[derive(Debug)]
pub(super) enum Job {
    /// End the session.
    Stop,
    /// Nothing to do for so long, or until woken.
    Wait(Duration),
    /// Save the map, then begin (or widen) a catch-up.
    Begin(Watermark),
    /// Read these runs and send them; put back what was too much.
    Blocks(Vec<Range>),
    /// Send these.
    Records { records: Vec<Record>, urgent: bool, head: Watermark, compress: bool },
    /// The catch-up is complete.
    End(Watermark),
    /// Send a point.
    Point(Cut),
    /// Say something.
    Alive { head: Watermark, urgent: bool },
}

/// What an acknowledgement asks of the shell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AckEffects {
    /// The map's file should be written again.
    pub(super) save: bool,
    /// Log segments can be removed.
    pub(super) prune: bool,
}

impl Core {
    /// A session starts: everything of the last one that was not acknowledged counts as not sent.
    pub(super) fn open_session(&mut self) {
        self.close_session();
        let flow = &mut self.flow;
        flow.offset = 0;
        flow.consumed = 0;
        flow.synced = 0;
        flow.differed = 0;
        flow.differed_before = 0;
        flow.nudged = 0;
        flow.alive_due = None;
    }

    /// The session is over.
    pub(super) fn close_session(&mut self) {
        self.flow.phase = Phase::Idle;
        self.flow.ended = None;
        self.flow.ending = None;
        self.flow.goal = None;
        self.dirty.union(&self.sending);
        self.sending.clear();
        self.remaining.clear();
        while let Some((_, cut)) = self.flow.points_sent.pop_back() {
            self.flow.points.push_front(cut);
        }
    }

    /// Goes on after `durable` with what the outbox has.
    pub(super) fn stream_from(&mut self, durable: Watermark) {
        if !self.collecting {
            self.start_collecting();
        }
        self.acknowledge(durable);
        self.flow.phase = Phase::Streaming;
        self.flow.sent = durable;
        // A point before `durable` arrived with the records around it.
        self.flow.points.retain(|cut| cut.point.at.seq >= durable.seq);
        self.flow.point_due = None;
    }

    /// Decides what to do next.
    pub(super) fn next_job(&mut self, now: Instant, point_every: Duration) -> Job {
        if self.flow.stop || self.flow.ended.is_some() {
            return Job::Stop;
        }
        if Flow::due(&mut self.flow.alive_due, now, ALIVE_EVERY) {
            return Job::Alive { head: self.head, urgent: false };
        }
        if self.flow.offset - self.flow.consumed >= CREDIT {
            return Job::Wait(ALIVE_EVERY);
        }
        if !self.collecting {
            return self.begin_catch_up();
        }
        match self.flow.phase {
            Phase::Streaming => self.next_of_stream(now, point_every),
            Phase::CatchingUp | Phase::Idle => self.next_of_catch_up(),
        }
    }

    fn begin_catch_up(&mut self) -> Job {
        let fresh = self.flow.phase != Phase::CatchingUp && self.flow.ending.is_none();
        self.start_collecting();
        if fresh {
            self.flow.total = 0;
            self.flow.differed_before = self.flow.differed;
        }
        self.flow.total += self.dirty.bytes();
        self.sending.union(&self.dirty);
        self.remaining.union(&self.dirty);
        self.dirty.clear();
        self.note.catch_up_open = true;
        self.flow.phase = Phase::CatchingUp;
        self.flow.goal = None;
        self.flow.ending = None;
        self.flow.cursor = (0, 0);
        self.flow.sent = self.head;
        Job::Begin(self.head)
    }

    fn next_of_catch_up(&mut self) -> Job {
        let unsent = self.complete.seq > self.flow.sent.seq;
        if self.remaining.is_empty() && self.row_began() {
            let goal = *self.flow.goal.get_or_insert(self.head.seq);
            if self.flow.sent.seq >= goal {
                return Job::End(self.flow.sent);
            }
        }
        self.flow.blocks_turn = !self.flow.blocks_turn || !unsent;
        if self.flow.blocks_turn && !self.remaining.is_empty() {
            return Job::Blocks(self.take_runs());
        }
        if unsent { self.records(u64::MAX) } else { Job::Wait(ALIVE_EVERY) }
    }

    fn take_runs(&mut self) -> Vec<Range> {
        let mut runs = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_LEN as u64 && runs.len() < RUNS_MAX {
            let (disk, offset) = self.flow.cursor;
            let Some(mut run) = self.remaining.next_run(disk, offset) else {
                self.flow.cursor = (0, 0);
                if runs.is_empty() && !self.remaining.is_empty() {
                    continue;
                }
                break;
            };
            run.len = run.len.min(RUN_MAX);
            self.remaining.clear_range(run);
            self.flow.cursor = (run.disk, (run.offset + run.len).next_multiple_of(BLOCK));
            bytes += run.len;
            runs.push(run);
        }
        runs
    }

    /// Runs that did not fit into the batch are to be sent later.
    pub(super) fn put_back(&mut self, runs: &[Range]) {
        if self.flow.phase == Phase::CatchingUp {
            runs.iter().for_each(|run| self.remaining.mark(*run));
        }
    }

    fn next_of_stream(&mut self, now: Instant, point_every: Duration) -> Job {
        if Flow::due(&mut self.flow.point_due, now, point_every) {
            self.cut_point(PointKind::Crash, None);
        }
        let sent = self.flow.sent.seq;
        let mut until = u64::MAX;
        if let Some(cut) = self.flow.points.front() {
            if cut.point.at.seq <= sent {
                return Job::Point(cut.clone());
            }
            until = cut.point.at.seq;
        }
        if self.complete.seq > sent {
            return self.records(until);
        }
        if self.flush_waits() && self.flow.flush_goal <= sent && self.flow.nudged < self.flow.flush_goal {
            self.flow.nudged = self.flow.flush_goal;
            return Job::Alive { head: self.head, urgent: true };
        }
        let wait = self.flow.point_due.map_or(ALIVE_EVERY, |at| at.saturating_duration_since(now));
        Job::Wait(wait.min(ALIVE_EVERY))
    }

    /// True when a flush waits for the target.
    pub(super) fn flush_waits(&self) -> bool {
        self.flow.flush_goal > self.note.base.seq
    }

    fn records(&mut self, until: u64) -> Job {
        let records = self.batch(self.flow.sent.seq, until, BATCH_LEN);
        let last = records.last().map_or(self.flow.sent.seq, |record| record.seq);
        let urgent = self.flush_waits() && last >= self.flow.flush_goal.min(self.complete.seq);
        if urgent {
            self.flow.nudged = self.flow.nudged.max(last);
        }
        let compress = self.outbox_bytes() > BACKLOG;
        Job::Records { records, urgent, head: self.head, compress }
    }

    /// Cuts a point after everything that is complete; it is sent in its place among the records.
    pub(super) fn cut_point(&mut self, kind: PointKind, name: Option<String>) -> Cut {
        self.flow.next_point += 1;
        let point = PointFrame { at: self.complete, taken: now(), kind, name };
        let cut = Cut { id: self.flow.next_point, point };
        self.flow.points.push_back(cut.clone());
        cut
    }

    /// A frame of `len` bytes is about to be written: from now on it may be acknowledged.
    pub(super) fn register(&mut self, len: u64, what: Registered) {
        self.flow.offset += len;
        self.flow.moved += len;
        match what {
            Registered::Plain => {}
            Registered::Records(last) => {
                if self.flow.sent.seq < last.seq {
                    self.flow.sent = last;
                }
            }
            Registered::End(at) => {
                self.flow.ending = Some((self.flow.offset, at));
                self.flow.phase = Phase::Streaming;
                self.flow.point_due = None;
            }
            Registered::Point(id) => {
                if self.flow.points.front().is_some_and(|cut| cut.id == id)
                    && let Some(cut) = self.flow.points.pop_front()
                {
                    self.flow.points_sent.push_back((self.flow.offset, cut));
                }
            }
        }
    }

    /// Takes in what the receiver says. `Err`: it says what cannot be.
    pub(super) fn on_ack(&mut self, ack: Ack) -> Result<AckEffects, String> {
        let flow = &mut self.flow;
        if ack.consumed > flow.offset || ack.synced > ack.consumed || ack.durable.seq > self.head.seq {
            return Err(format!("the target acknowledged what was never sent ({ack:?})"));
        }
        flow.consumed = ack.consumed;
        flow.synced = ack.synced;
        flow.differed = ack.differed;
        while flow.points_sent.front().is_some_and(|(offset, _)| *offset <= ack.synced) {
            if let Some((_, cut)) = flow.points_sent.pop_front() {
                flow.points_done = cut.id;
            }
        }
        let mut effects = AckEffects::default();
        if let Some((offset, at)) = flow.ending
            && ack.synced >= offset
        {
            self.end_catch_up(at);
            self.acknowledge(at);
            effects.save = true;
        }
        if self.flow.phase == Phase::Streaming && self.flow.ending.is_none() {
            self.acknowledge(ack.durable);
        }
        let base = self.note.base.seq;
        effects.prune = self.log.as_ref().is_some_and(|log| log.can_take_up_to(base));
        Ok(effects)
    }

    fn end_catch_up(&mut self, at: Watermark) {
        self.flow.ending = None;
        self.sending.clear();
        self.note.catch_up_open = false;
        self.note.seeding = false;
        if at.seq >= self.note.folded_to {
            self.note.folded_to = 0;
        }
        self.note.seeded.clone_from(&self.note.peer);
        self.flow.note = None;
    }
}

/// What a frame means for the sender's state.
#[derive(Debug, Clone, Copy)]
pub(super) enum Registered {
    Plain,
    Records(Watermark),
    End(Watermark),
    Point(u64),
}
