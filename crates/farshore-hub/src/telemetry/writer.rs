//! The one thread that writes: it takes everything that waits, writes it, syncs once, and answers.
//!
//! While it syncs, the next batch gathers by itself; an event that comes when nothing else does is written at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use tokio::sync::oneshot;

use super::error::{Damage, NotKept, TelemetryError};
use super::event::{Extended, Kept};
use super::frame::{self, HEADER_BYTES};
use super::log::{Batch, Log, Pen};
use super::marks::{Place, Ranges, twin_line};
use super::options::TelemetryOptions;
use super::queue::{Arrival, Task};
use super::replica::Checked;
use super::shared::Shared;
use super::sidecar::Sidecar;
use super::window::{Id, Window};

/// Most bytes written between two syncs: what a slow disk still does within the gathering time of the next batch.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// A log with all that is written beside it.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) pen: Pen,
    pub(super) late: Sidecar,
    pub(super) duplicates: Sidecar,
}

/// Everything that only the writer touches.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) dir: PathBuf,
    pub(super) options: TelemetryOptions,
    /// By the number of the log; the first is the region's own.
    pub(super) desks: Vec<Desk>,
    pub(super) window: Window,
    /// When the newest event of this region's own log came in.
    pub(super) newest: Moment,
    pub(super) staged: Staged,
}

impl Drop for Writer {
    /// However it ends: nobody waits for it, or for news.
    fn drop(&mut self) {
        self.shared.queue.abandon();
        self.shared.tell();
    }
}

/// Events that go to the disk next.
#[derive(Debug, Default)]
pub(super) struct Staged {
    batch: Batch,
    ids: Vec<Id>,
    waiting: Vec<(oneshot::Sender<Result<Kept, NotKept>>, Kept)>,
}

const OWN: usize = 0;

impl Writer {
    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        while let Some(tasks) = self.shared.queue.take() {
            for task in tasks {
                self.apply(task);
            }
            self.flush();
            self.count();
        }
    }

    fn apply(&mut self, task: Task) {
        let task = match task {
            Task::Append(arrival) => return self.stage(arrival),
            other => other,
        };
        self.flush();
        // An answer that nobody waits for any more is no loss: every task can be repeated.
        match task {
            Task::Append(_) => unreachable!("handled above"),
            Task::Extend(checked, done) => drop(done.send(self.extend(checked))),
            Task::Mend(checked, done) => drop(done.send(self.mend(&checked))),
            Task::Skip(origin, to, done) => drop(done.send(self.skip(&origin, to))),
            Task::Tidy(now, done) => drop(done.send(self.tidy(now))),
        }
    }

    fn own(&self) -> &Arc<Log> {
        &self.desks[OWN].pen.log
    }

    /// Where the next event of this region goes.
    fn next(&self) -> u64 {
        self.own().end() + self.staged.batch.heads.len() as u64
    }

    fn stage(&mut self, arrival: Arrival) {
        let bytes = HEADER_BYTES + arrival.payload.len();
        if let Some(found) = arrival.id.and_then(|id| self.window.find(id)) {
            return self.meet_again(found, arrival);
        }
        if self.staged.batch.bytes.len() + bytes > BATCH_BYTES_MAX {
            self.flush();
        }
        if !self.desks[OWN].pen.has_room(self.staged.batch.bytes.len(), bytes) {
            self.flush();
            if let Err(error) = self.roll(OWN) {
                return self.refuse(vec![arrival.done], error);
            }
        }
        let offset = self.next();
        self.newest = self.newest.max(arrival.enqueued);
        let at = self.staged.batch.bytes.len();
        let head =
            frame::write(&mut self.staged.batch.bytes, offset, arrival.epoch, self.newest, &arrival.payload);
        self.staged.batch.note(at, head);
        if let Some(id) = arrival.id {
            self.window.insert(id, Place { log: 0, offset }, self.newest);
            self.staged.ids.push(id);
        }
        self.staged.waiting.push((arrival.done, Kept::Stored { offset }));
    }

    /// The event is there already, or will be with this batch.
    fn meet_again(&mut self, found: Place, arrival: Arrival) {
        self.shared.stats().duplicates += 1;
        let is_durable = usize::from(found.log) != OWN || found.offset < self.own().end();
        if is_durable {
            drop(arrival.done.send(Ok(Kept::Duplicate)));
        } else {
            self.staged.waiting.push((arrival.done, Kept::Duplicate));
        }
    }

    /// Makes what is staged durable, and answers.
    fn flush(&mut self) {
        let mut staged = std::mem::take(&mut self.staged);
        let written = self.write(OWN, &staged.batch);
        match written {
            Ok(()) => {
                let stored = staged.batch.heads.len();
                self.recovered(stored);
                // Whoever is answered, and asks, is told of what was theirs.
                self.count();
                for (done, kept) in staged.waiting.drain(..) {
                    drop(done.send(Ok(kept)));
                }
            }
            Err(error) => {
                staged.ids.iter().for_each(|id| self.window.remove(*id));
                self.refuse(staged.waiting.drain(..).map(|(done, _)| done).collect(), error);
            }
        }
        staged.batch.clear();
        staged.ids.clear();
        self.staged = staged;
    }

    /// Writes frames to a log, after noting which of them are late.
    fn write(&mut self, desk: usize, batch: &Batch) -> Result<(), TelemetryError> {
        if batch.heads.is_empty() {
            return Ok(());
        }
        let newest = self.newest_elsewhere(desk);
        let mut late = Ranges::default();
        for (_, head) in batch.heads.iter().filter(|(_, head)| head.epoch < newest) {
            late.push(head.offset, head.offset + 1);
        }
        let desk = &mut self.desks[desk];
        desk.late.append(&late.lines())?;
        let log = Arc::clone(&desk.pen.log);
        late.each(&mut |from, to| log.late.write().unwrap_or_else(PoisonError::into_inner).push(from, to));
        desk.pen.write(batch)?;
        self.shared.tell();
        Ok(())
    }

    /// The newest epoch in any other region's log here.
    fn newest_elsewhere(&self, desk: usize) -> Epoch {
        let others = self.desks.iter().enumerate().filter(|(other, _)| *other != desk);
        others.map(|(_, desk)| desk.pen.log.epoch()).max().unwrap_or_default()
    }

    fn roll(&mut self, desk: usize) -> Result<(), TelemetryError> {
        let pen = &mut self.desks[desk].pen;
        pen.roll(pen.log.end())?;
        self.retain(desk, None);
        Ok(())
    }

    fn recovered(&mut self, stored: usize) {
        if stored == 0 {
            return;
        }
        let mut stats = self.shared.stats();
        stats.stored += stored as u64;
        if stats.failing.take().is_some() {
            tracing::info!("telemetry is stored again");
        }
    }

    fn refuse(&mut self, waiting: Vec<oneshot::Sender<Result<Kept, NotKept>>>, error: TelemetryError) {
        let mut stats = self.shared.stats();
        stats.refused += waiting.len() as u64;
        if stats.failing.is_none() {
            tracing::error!(%error, "telemetry cannot be stored, and is not acknowledged");
        }
        stats.failing = Some(error.to_string());
        drop(stats);
        let error = Arc::new(error);
        for done in waiting {
            drop(done.send(Err(NotKept::Disk(Arc::clone(&error)))));
        }
    }

    fn count(&self) {
        let mut stats = self.shared.stats();
        stats.remembered = self.window.len() as u64;
        stats.forgotten_early = self.window.forgotten_early();
    }

    /// The desk of a region's log, which is begun if need be.
    pub(super) fn desk(&mut self, origin: &Region) -> Result<usize, TelemetryError> {
        if let Some(at) = self.desks.iter().position(|desk| desk.pen.log.region == *origin) {
            return Ok(at);
        }
        self.open_desk(origin)?;
        Ok(self.desks.len() - 1)
    }

    fn skip(&mut self, origin: &Region, to: u64) -> Result<(), TelemetryError> {
        let desk = self.desk(origin)?;
        let pen = &mut self.desks[desk].pen;
        if to > pen.log.end() {
            pen.roll(to)?;
            self.shared.tell();
        }
        Ok(())
    }

    fn tidy(&mut self, now: Moment) -> Result<(), TelemetryError> {
        for desk in 0..self.desks.len() {
            self.retain(desk, Some(now));
        }
        Ok(())
    }

    /// Continues a copy. What is here already must be the same, and is not written again.
    fn extend(&mut self, checked: Checked) -> Result<Extended, TelemetryError> {
        let desk = self.desk(&checked.origin)?;
        let log = Arc::clone(&self.desks[desk].pen.log);
        let end = log.end();
        if checked.from > end {
            return Err(TelemetryError::Gap { origin: checked.origin, wanted: end, from: checked.from });
        }
        compare(&log, &checked, end)?;
        let mut extended = Extended { next: end, duplicates: 0 };
        let mut rest = &checked.frames[..];
        rest = &rest[rest.partition_point(|(_, head, _)| head.offset < end)..];
        while let Some((at, head, _)) = rest.first() {
            if !self.desks[desk].pen.has_room(0, head.total()) {
                self.roll(desk)?;
            }
            let fitting = self.fitting(desk, rest);
            let (now, later) = rest.split_at(fitting);
            let until = later.first().map_or(checked.bytes.len(), |(at, ..)| *at);
            extended.duplicates += self.copy(desk, &checked.bytes[*at..until], now)?;
            extended.next = log.end();
            rest = later;
        }
        Ok(extended)
    }

    /// Writes what is given over what is damaged. Returns what still is.
    fn mend(&mut self, checked: &Checked) -> Result<Vec<Damage>, TelemetryError> {
        let desk = self.desk(&checked.origin)?;
        let log = Arc::clone(&self.desks[desk].pen.log);
        for segment in log.segments() {
            if segment.next() <= checked.from || segment.first() >= checked.next {
                continue;
            }
            let mut damages = segment.scan(&mut |_, _| {})?;
            // Each turn mends one place or is the last.
            while let Some((damage, frames)) =
                damages.iter().find_map(|damage| Some((damage.clone(), checked.covering(damage)?)))
            {
                damages = segment.mend(damage.at, frames)?;
                if damages.iter().any(|left| left.offset == damage.offset) {
                    break;
                }
            }
        }
        self.shared.tell();
        Ok(log.damages())
    }

    /// How many of these frames go into the segment and into one batch; at least one.
    fn fitting(&self, desk: usize, frames: &[(usize, frame::Head, Option<Id>)]) -> usize {
        let mut pending = 0;
        let fits = |(_, head, _): &&(usize, frame::Head, Option<Id>)| {
            let has_room = self.desks[desk].pen.has_room(pending, head.total());
            let is_first = pending == 0;
            pending += head.total();
            is_first || (has_room && pending <= BATCH_BYTES_MAX)
        };
        frames.iter().take_while(fits).count()
    }

    /// Writes frames of another region, after noting which of them are in another log. Returns how many are.
    fn copy(
        &mut self,
        desk: usize,
        bytes: &[u8],
        frames: &[(usize, frame::Head, Option<Id>)],
    ) -> Result<u64, TelemetryError> {
        let start = frames.first().map_or(0, |(at, ..)| *at);
        let mut batch = Batch { bytes: bytes.to_vec(), heads: Vec::with_capacity(frames.len()) };
        let (mut pairs, mut fresh) = (Vec::new(), Vec::new());
        let log = self.desks[desk].pen.log.number;
        for (at, head, id) in frames {
            batch.note(at - start, *head);
            let place = Place { log, offset: head.offset };
            match id.map(|id| (id, self.window.find(id))) {
                Some((_, Some(found))) if found.log != log => pairs.push((place, found)),
                Some((id, _)) => fresh.push((id, place)),
                None => {}
            }
        }
        self.link(desk, &pairs)?;
        self.write(desk, &batch)?;
        let newest = batch.heads.iter().map(|(_, head)| head.enqueued).max().unwrap_or_default();
        if desk == OWN {
            self.newest = self.newest.max(newest);
        }
        let now = self.newest.max(newest);
        for (id, place) in fresh {
            self.window.insert(id, place, now);
        }
        let mut stats = self.shared.stats();
        stats.copied += frames.len() as u64;
        stats.copied_duplicates += pairs.len() as u64;
        Ok(pairs.len() as u64)
    }

    /// Notes events that are in two logs, durably, before readers can meet the second.
    pub(super) fn link(&mut self, desk: usize, pairs: &[(Place, Place)]) -> Result<(), TelemetryError> {
        if pairs.is_empty() {
            return Ok(());
        }
        let region = |log: u16| self.desks[usize::from(log)].pen.log.region.clone();
        let lines: Vec<_> = pairs
            .iter()
            .map(|(other, first)| twin_line(other.offset, &region(first.log), first.offset))
            .collect();
        self.desks[desk].duplicates.append(&lines)?;
        let mut twins = self.shared.twins.write().unwrap_or_else(PoisonError::into_inner);
        for (other, first) in pairs {
            twins.link(*other, *first);
        }
        Ok(())
    }

    /// Deletes whole old segments: by age only what every partner has, by bytes whatever it takes.
    pub(super) fn retain(&mut self, desk: usize, now: Option<Moment>) {
        let log = Arc::clone(&self.desks[desk].pen.log);
        let mut is_changed = false;
        while let Some((expired, unpulled)) = self.expendable(&log, now) {
            if let Err(error) = log.drop_first() {
                tracing::warn!(%error, "an old segment could not be deleted; it is tried again later");
                break;
            }
            is_changed = true;
            let mut stats = self.shared.stats();
            stats.expired += expired;
            stats.expired_unpulled += unpulled;
            if unpulled > 0 {
                let region = &log.region;
                tracing::warn!(%region, unpulled, "events were deleted that a partner did not have yet: the limit is reached");
            }
        }
        if is_changed {
            let start = log.start();
            log.late.write().unwrap_or_else(PoisonError::into_inner).forget_before(start);
            let mut twins = self.shared.twins.write().unwrap_or_else(PoisonError::into_inner);
            twins.forget_before(log.number, start);
        }
    }

    /// Whether the oldest segment may go: how many events it has, and how many of them a partner lacks.
    fn expendable(&self, log: &Log, now: Option<Moment>) -> Option<(u64, u64)> {
        let segments = log.segments();
        let [oldest, _, ..] = segments.as_slice() else { return None };
        let events = oldest.next() - oldest.first();
        let pulled = self.shared.pulls().lowest(&log.region).unwrap_or(u64::MAX);
        let unpulled = oldest.next().saturating_sub(pulled.max(oldest.first()));
        let is_over = log.bytes() > self.options.retention_bytes;
        let is_old = || {
            let newest = oldest.newest().ok()?;
            Some(now?.since(newest) > self.options.retention)
        };
        (is_over || (unpulled == 0 && is_old() == Some(true))).then_some((events, unpulled))
    }
}

/// What a piece repeats must be what is here.
fn compare(log: &Log, checked: &Checked, end: u64) -> Result<(), TelemetryError> {
    let repeated = checked.frames.partition_point(|(_, head, _)| head.offset < end);
    let mut theirs: BTreeMap<u64, _> =
        checked.frames[..repeated].iter().map(|(at, head, _)| (head.offset, (*at, *head))).collect();
    // What is no longer kept here cannot be compared, and is not wanted again.
    let mut at = checked.from.max(log.start());
    while at < end.min(checked.next) {
        let piece = match log.read(at, BATCH_BYTES_MAX) {
            Err(TelemetryError::Damaged(damage)) => {
                at = damage.next;
                continue;
            }
            read => read?,
        };
        let Some(piece) = piece else { return Ok(()) };
        for (head, payload) in piece.frames() {
            at = head.offset + 1;
            let Some((place, other)) = theirs.remove(&head.offset) else { continue };
            let range = place + HEADER_BYTES..place + other.total();
            if other != head || checked.bytes[range] != *payload {
                return Err(TelemetryError::Differs { origin: log.region.clone(), offset: head.offset });
            }
        }
    }
    Ok(())
}
