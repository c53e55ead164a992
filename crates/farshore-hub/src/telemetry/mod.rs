//! What devices said: one append-only log per region of origin, of which the partner keeps a copy with the same bytes
//! and the same offsets, so that a consumer's cursor `{region: offset}` means the same in both.
//!
//! Read in this order: `event` (what is kept), `frame` (its bytes), `head` and `segment` (a file of frames), `log` (the files of
//! one region), `sidecar` and `marks` (what a copy knows besides the bytes: which events came late, which are in two
//! logs), `window` (which events were seen lately), `queue` and `writer` (the one thread that writes), `open`, `read`,
//! `replica`.
//!
//! Must always hold: an append whose future resolved `Ok` is on disk, or the same event was already; what cannot be read
//! is named and never passed by itself; copies of a log never differ; a consumer is given an event that was sent again
//! once, in whichever region it reads.
//!
//! In a directory: `lock`; `ORIGIN/OFFSET.log`, the segments; `ORIGIN.late`, ranges of offsets; `ORIGIN.duplicates`, an
//! offset and the region and offset of the same event in another log, one a line.

mod error;
mod event;
mod frame;
mod head;
mod log;
mod marks;
mod open;
mod options;
mod queue;
mod read;
mod replica;
mod segment;
mod shared;
mod sidecar;
#[cfg(test)]
mod tests;
mod window;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;

pub use error::{Damage, NotKept, TelemetryError};
pub use event::{Cursor, Event, Extended, Kept, Lag, Page, RawBatch, Stored, TelemetryStats};
use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
pub use frame::FRAME_BYTES_MAX;
pub use options::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, TelemetryOptions};
use queue::{Arrival, Task};
use shared::Shared;
use tokio::sync::oneshot;

/// The telemetry of one hub in one region: its own log and copies of the others'. Cheap to clone; the last clone that is
/// dropped closes it and waits for what is being written.
#[derive(Debug, Clone)]
pub struct Telemetry {
    open: Arc<Open>,
}

#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Files that were read anew, to see whether they are as they were.
    checked: AtomicUsize,
}

impl Telemetry {
    /// Opens the logs in a directory of their own, or begins them. Takes as long as reading what the window of duplicates
    /// needs: at most four times `dedupe_entries` events of each region, and the last file.
    ///
    /// # Errors
    /// [`TelemetryError`]: the disk, another process, or options that cannot be meant. Damage is no error here: it is told
    /// in [`TelemetryStats::damaged`], and to who reads there.
    pub fn open(dir: &Path, own: Region, options: TelemetryOptions) -> Result<Self, TelemetryError> {
        let (shared, writer, lock) = open::open(dir, own, options)?;
        let thread = std::thread::Builder::new().name("telemetry".into()).spawn(move || {
            writer.run();
            drop(lock);
        });
        let thread = thread.map_err(TelemetryError::disk("start the writer of", dir))?;
        let open = Open { shared, writer: Mutex::new(Some(thread)), checked: AtomicUsize::new(0) };
        Ok(Self { open: Arc::new(open) })
    }

    /// The region whose events are appended here.
    #[must_use]
    pub fn own(&self) -> &Region {
        &self.open.shared.own
    }

    /// Gives an event to the log of this region. It is queued at once, in order; the future resolves when it is durable.
    /// Dropping the future does not take the event back.
    pub fn append(&self, epoch: Epoch, event: Event) -> Append {
        let shared = &self.open.shared;
        let payload = match event.encode() {
            Ok(payload) => payload,
            Err(error) => return Append(Waiting::Refused(Some(error))),
        };
        let id = shared.identifier.of(&event.meta());
        let (done, kept) = oneshot::channel();
        match shared.queue.append(Arrival { epoch, enqueued: event.enqueued, id, payload, done }) {
            Ok(()) => Append(Waiting::Queued(kept)),
            Err(error) => Append(Waiting::Refused(Some(error))),
        }
    }

    /// The events after a cursor, at most `limit` and a few megabytes. Reads files: microseconds at the end of the log,
    /// milliseconds where a file must be read first.
    ///
    /// # Errors
    /// [`TelemetryError::Damaged`] where a damaged place comes next: go on with a cursor at its `next`, or mend it.
    pub fn read(&self, cursor: &Cursor, limit: usize) -> Result<Page, TelemetryError> {
        read::page(&self.open.shared, cursor, limit)
    }

    /// Returns when [`read`](Self::read) would give something, or the log is closed. What is appended between a read and
    /// this call is not missed.
    pub async fn grown(&self, cursor: &Cursor) {
        let shared = Arc::clone(&self.open.shared);
        let mut grown = shared.grown.subscribe();
        while !read::has_news(&shared, cursor) && !shared.queue.is_closed() {
            if grown.changed().await.is_err() {
                return;
            }
        }
    }

    /// The offset after the last event of each region.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<Region, u64> {
        self.open.shared.logs().iter().map(|log| (log.region.clone(), log.end())).collect()
    }

    /// The first offset of each region that is kept.
    #[must_use]
    pub fn starts(&self) -> BTreeMap<Region, u64> {
        self.open.shared.logs().iter().map(|log| (log.region.clone(), log.start())).collect()
    }

    /// Where a consumer stands that wants nothing but what comes from now on.
    #[must_use]
    pub fn latest(&self) -> Cursor {
        Cursor(self.ends())
    }

    /// Where a consumer stands that begins at a moment: in each region, the first event that came in then or later.
    ///
    /// # Errors
    /// [`TelemetryError::Disk`].
    pub fn since(&self, moment: Moment) -> Result<Cursor, TelemetryError> {
        let logs = self.open.shared.logs();
        let next = logs.iter().map(|log| Ok((log.region.clone(), log.since(moment)?)));
        Ok(Cursor(next.collect::<Result<_, TelemetryError>>()?))
    }

    /// When an event came in; `None`: it is not, or no longer, here.
    ///
    /// # Errors
    /// [`TelemetryError::Disk`] and [`TelemetryError::Damaged`].
    pub fn enqueued(&self, origin: &Region, offset: u64) -> Result<Option<Moment>, TelemetryError> {
        read::enqueued(&self.open.shared, origin, offset)
    }

    /// How much of a region's log lies at and after an offset: what a partner or consumer that stands there lacks.
    ///
    /// # Errors
    /// [`TelemetryError::Disk`].
    pub fn lag(&self, origin: &Region, from: u64) -> Result<Lag, TelemetryError> {
        let Some(log) = self.open.shared.log(origin) else { return Ok(Lag::default()) };
        let from = from.max(log.start());
        let events = log.end().saturating_sub(from);
        if events == 0 {
            return Ok(Lag::default());
        }
        // Where the log is damaged nobody knows when that event came in; there is as much to be had all the same.
        let oldest = match self.enqueued(origin, from) {
            Err(TelemetryError::Damaged(_)) => None,
            oldest => oldest?,
        };
        Ok(Lag { events, bytes: log.bytes_from(from)?, oldest })
    }

    /// A piece of a region's log for a partner whose copy ends at `from`: whole frames, at least one if there are any.
    ///
    /// # Errors
    /// [`TelemetryError::Gone`]: the partner must [`skip`](Self::skip) to what is kept. [`TelemetryError::Beyond`]: this
    /// copy is the shorter one. [`TelemetryError::Damaged`].
    pub fn raw(&self, origin: &Region, from: u64, max_bytes: usize) -> Result<RawBatch, TelemetryError> {
        replica::raw(&self.open.shared, origin, from, max_bytes)
    }

    /// Continues the copy of a log with a piece of it, which may begin before its end. Durable on return; repeating it
    /// changes nothing. Also brings this region's own log back onto a new disk, before anything is appended.
    ///
    /// # Errors
    /// [`TelemetryError::Gap`] says from where to ask, [`TelemetryError::BadBatch`] which byte is damaged,
    /// [`TelemetryError::Differs`] which event is another one here. After an error of the disk a first part may be there.
    pub async fn extend(&self, batch: RawBatch) -> Result<Extended, TelemetryError> {
        let checked = replica::check(batch, &self.open.shared.identifier)?;
        self.ask(|done| Task::Extend(checked, done)).await
    }

    /// Reads one file anew, another one at each call and none that is being written: what a disk has spoilt is to be met while
    /// there is a partner to mend it from, not by who needs it. Takes as long as reading a file; of no use while others wait.
    ///
    /// # Errors
    /// [`TelemetryError::Disk`]
    pub fn check_another(&self) -> Result<(), TelemetryError> {
        let sealed: Vec<_> = self.open.shared.logs().iter().flat_map(|log| log.sealed()).collect();
        if sealed.is_empty() {
            return Ok(());
        }
        let turn = self.open.checked.fetch_add(1, Ordering::Relaxed);
        sealed[turn % sealed.len()].check()
    }

    /// Damaged places that were met so far, in every log. Files are checked as they are first read.
    #[must_use]
    pub fn damages(&self) -> Vec<Damage> {
        self.open.shared.logs().iter().flat_map(|log| log.damages()).collect()
    }

    /// Mends damaged places of a log with a piece of the partner's copy that begins where one of them does, or before.
    /// Durable on return; returns what is still damaged in that log. Where nothing is damaged it changes nothing.
    ///
    /// # Errors
    /// [`TelemetryError::BadBatch`] and [`TelemetryError::Disk`].
    pub async fn mend(&self, batch: RawBatch) -> Result<Vec<Damage>, TelemetryError> {
        let checked = replica::check(batch, &self.open.shared.identifier)?;
        self.ask(|done| Task::Mend(checked, done)).await
    }

    /// Lets the copy of a log go on at `to`, because the events before it are nowhere any more. Readers are told how many
    /// they missed. Durable on return; a copy that is longer is left as it is.
    ///
    /// # Errors
    /// [`TelemetryError::Disk`].
    pub async fn skip(&self, origin: &Region, to: u64) -> Result<(), TelemetryError> {
        self.ask(|done| Task::Skip(origin.clone(), to, done)).await
    }

    /// Deletes what is old enough. To be called every minute or so; the limit in bytes is kept without it.
    ///
    /// # Errors
    /// [`TelemetryError::Closed`].
    pub async fn tidy(&self, now: Moment) -> Result<(), TelemetryError> {
        self.ask(|done| Task::Tidy(now, done)).await
    }

    /// Whose copies are waited for before old events are deleted. Replaces whoever was named before.
    pub fn wait_for(&self, partners: BTreeSet<Region>) {
        let mut pulls = self.open.shared.pulls();
        pulls.upto.retain(|(partner, _), _| partners.contains(partner));
        pulls.partners = partners;
    }

    /// A partner's copy of a log is durable up to `next`: it said so, or asks for what comes there.
    pub fn pulled(&self, partner: &Region, origin: &Region, next: u64) {
        let mut pulls = self.open.shared.pulls();
        let upto = pulls.upto.entry((partner.clone(), origin.clone())).or_default();
        *upto = (*upto).max(next);
    }

    /// Counts and sizes, and what is wrong.
    #[must_use]
    pub fn stats(&self) -> TelemetryStats {
        let shared = &self.open.shared;
        let mut stats = shared.stats().clone();
        stats.bytes_of = shared.logs().iter().map(|log| (log.region.clone(), log.bytes())).collect();
        stats.damaged.extend(self.damages().iter().map(ToString::to_string));
        stats.bytes = stats.bytes_of.values().sum();
        stats
    }

    /// Takes nothing more; what is queued is still written. Returns when it is, and the directory can be opened again.
    pub async fn close(&self) {
        self.open.shared.queue.close();
        let writer = self.open.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let joined = tokio::task::spawn_blocking(move || writer.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the writer of the telemetry log ended badly");
            }
        }
    }

    async fn ask<T>(
        &self,
        task: impl FnOnce(oneshot::Sender<Result<T, TelemetryError>>) -> Task,
    ) -> Result<T, TelemetryError> {
        let (done, answer) = oneshot::channel();
        self.open.shared.queue.push(task(done))?;
        answer.await.map_err(|_| TelemetryError::Closed)?
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.queue.close();
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the writer of the telemetry log ended badly");
        }
    }
}

/// An event on its way to the disk. It may be acknowledged when this resolves with `Ok`, and not before.
#[derive(Debug)]
#[must_use = "only its end says whether the event is stored"]
pub struct Append(Waiting);

enum Waiting {
    Queued(oneshot::Receiver<Result<Kept, NotKept>>),
    Refused(Option<NotKept>),
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queued(_) => f.write_str("queued"),
            Self::Refused(why) => write!(f, "refused: {why:?}"),
        }
    }
}

impl Future for Append {
    type Output = Result<Kept, NotKept>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Waiting::Queued(kept) => {
                let kept = ready!(Pin::new(kept).poll(context));
                Poll::Ready(kept.unwrap_or(Err(NotKept::Closed)))
            }
            Waiting::Refused(why) => Poll::Ready(Err(why.take().unwrap_or(NotKept::Closed))),
        }
    }
}
