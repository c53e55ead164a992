//! Many changes, one sync: a thread that takes all changes that wait, makes them in one transaction, and answers when it
//! is on the disk.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use farshore_core::ids::Epoch;
use farshore_core::moment::Moment;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::file::Store;
use super::state::State;
use super::transaction::Transaction;
use super::{Change, RegistryError};

/// Jobs that wait; more make those who ask wait in turn.
const JOBS_WAITING_MAX: usize = 4096;
/// Jobs in one transaction: what has come while the last one was synced, within reason.
const JOBS_TOGETHER_MAX: usize = 1024;

type Reply = Box<dyn FnOnce(Result<(), RegistryError>) + Send>;
type Job = Box<dyn FnOnce(&mut Transaction<'_>) -> Reply + Send>;

/// The thread's handle.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    epoch: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn spawn(
        store: Arc<Store>,
        changes: broadcast::Sender<Arc<Change>>,
        wall: Arc<dyn Fn() -> Moment + Send + Sync>,
    ) -> Self {
        let (jobs, waiting) = mpsc::channel(JOBS_WAITING_MAX);
        let epoch = Arc::new(AtomicU64::new(store.state().epoch.0));
        let current = Arc::clone(&epoch);
        let thread = thread::Builder::new().name("registry".into()).spawn(move || {
            Loop { store, changes, wall, epoch: current, waiting, is_shut: false }.run();
        });
        Self { jobs: Some(jobs), epoch, thread: Mutex::new(thread.ok()) }
    }

    pub(super) fn raise(&self, epoch: Epoch) {
        self.epoch.fetch_max(epoch.0, Ordering::SeqCst);
    }

    /// Has `work` done in a transaction; returns when that is on the disk. An error of `work` undoes all that is in the same
    /// transaction, so it is for the file's faults only.
    pub(super) async fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        self.enqueue(work).await?.await
    }

    /// Puts `work` behind all that waits and returns at once; whoever awaits the answer learns when it is on the disk.
    pub(super) async fn enqueue<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<Answer<T>, RegistryError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |txn| {
            let result = catch_unwind(AssertUnwindSafe(|| work(txn)));
            let result = result.unwrap_or_else(|_: Box<dyn Any + Send>| Err(RegistryError::Panicked));
            if let Err(error) = &result {
                txn.spoil(error);
            }
            Box::new(move |committed| {
                // Whoever asked may have gone.
                let _ = reply.send(committed.and(result));
            })
        });
        let jobs = self.jobs.as_ref().ok_or(RegistryError::Closed)?;
        jobs.send(job).await.map_err(|_| RegistryError::Closed)?;
        Ok(Answer(answer))
    }
}

/// What came of work, once it is on the disk. Dropped, the work is done all the same.
#[derive(Debug)]
pub(super) struct Answer<T>(oneshot::Receiver<Result<T, RegistryError>>);

impl<T> Future for Answer<T> {
    type Output = Result<T, RegistryError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(RegistryError::Closed)))
    }
}

impl Drop for Writer {
    /// Returns when the file is no longer written.
    fn drop(&mut self) {
        self.jobs = None;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

struct Loop {
    store: Arc<Store>,
    changes: broadcast::Sender<Arc<Change>>,
    wall: Arc<dyn Fn() -> Moment + Send + Sync>,
    epoch: Arc<AtomicU64>,
    waiting: mpsc::Receiver<Job>,
    /// The file could not be opened again after there was no room.
    is_shut: bool,
}

impl Loop {
    fn run(mut self) {
        while let Some(first) = self.waiting.blocking_recv() {
            let mut jobs = vec![first];
            while jobs.len() < JOBS_TOGETHER_MAX
                && let Ok(job) = self.waiting.try_recv()
            {
                jobs.push(job);
            }
            self.together(jobs);
        }
    }

    fn together(&mut self, jobs: Vec<Job>) {
        let mut replies = Vec::with_capacity(jobs.len());
        let done = self.transact(jobs, &mut replies);
        if matches!(done, Err(RegistryError::Full { .. })) || self.is_shut {
            self.is_shut = self.store.reopen().is_err();
        }
        for reply in replies {
            reply(done.clone());
        }
    }

    fn transact(&self, jobs: Vec<Job>, replies: &mut Vec<Reply>) -> Result<(), RegistryError> {
        let txn = self.store.begin()?;
        let mut state = State::clone(&self.store.state());
        state.epoch = state.epoch.max(Epoch(self.epoch.load(Ordering::SeqCst)));
        let listening = self.changes.receiver_count() > 0;
        let mut transaction = Transaction::new(&self.store, &txn, state, &self.wall, listening)?;
        replies.extend(jobs.into_iter().map(|job| job(&mut transaction)));
        let Some((state, changes)) = transaction.finish()? else {
            return txn.abort().map_err(|error| self.store.fault(error.into()));
        };
        txn.commit().map_err(|error| self.store.fault(error.into()))?;
        self.store.publish(state);
        for change in changes {
            // Nobody listens: nobody needs to know.
            let _ = self.changes.send(Arc::new(change));
        }
        Ok(())
    }
}
