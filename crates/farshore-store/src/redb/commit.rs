//! Many transactions, one sync: whoever finds nobody writing takes all that wait, applies them one after the other in
//! one commit of the file, and gives each its own verdict.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::store::{CommitError, Revision, Transaction, Write};
use redb::{Database, Error};
use tokio::sync::{Semaphore, oneshot, watch};

use super::file::{Fault, Faults};
use super::open::{self, OpenError, Opened};
use super::tables::Tables;
use crate::watch::Head;

/// Transactions that may wait; then callers wait before they queue. At 1,000 syncs per second this is a quarter of a
/// second of work, and more per sync gains nothing.
const WAITING_MAX: usize = 256;

/// Bytes of values in one commit of the file: bounds the memory and the time of those who wait for it.
const BATCH_BYTES_MAX: usize = 8 << 20;

type Verdict = Result<Revision, CommitError>;

/// One open store.
#[derive(Debug)]
pub(crate) struct Shared {
    path: PathBuf,
    state: Mutex<State>,
    queue: Mutex<Queue>,
    room: Semaphore,
    head: watch::Sender<Head>,
}

#[derive(Debug)]
enum State {
    Open {
        database: Arc<Database>,
        faults: Faults,
    },
    /// The disk was full: the next call opens the file again.
    Full(String),
    /// Nothing can be promised any longer: every call fails, for good.
    Failed(String),
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Somebody is writing, and will look here again before it stops.
    writing: bool,
}

#[derive(Debug)]
struct Waiting {
    transaction: Transaction,
    verdict: oneshot::Sender<Verdict>,
}

impl Shared {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let Opened { database, faults, revision } = open::open_or_create(path)?;
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State::Open { database: Arc::new(database), faults }),
            queue: Mutex::default(),
            room: Semaphore::new(WAITING_MAX),
            head: watch::Sender::new(Head { revision, failed: None }),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// The open database, opened again if the disk was full; else why there is none. Blocks.
    pub(crate) fn database(&self) -> Result<Arc<Database>, String> {
        let mut state = lock(&self.state);
        if let State::Full(why) = &*state {
            let opened = open::open(&self.path).map_err(|error| format!("{why}; opened again: {error}"))?;
            self.head.send_modify(|head| head.revision = opened.revision);
            *state = State::Open { database: Arc::new(opened.database), faults: opened.faults };
        }
        match &*state {
            State::Open { database, .. } => Ok(Arc::clone(database)),
            State::Full(why) | State::Failed(why) => Err(why.clone()),
        }
    }

    fn revision(&self) -> Revision {
        self.head.borrow().revision
    }

    /// Lets the disk refuse to do one thing until the file is opened again.
    #[cfg(test)]
    pub(crate) fn inject(&self, doing: &'static str, kind: std::io::ErrorKind) {
        if let State::Open { faults, .. } = &*lock(&self.state) {
            *lock(&faults.injected) = Some((doing, kind));
        }
    }

    fn fault(&self) -> Option<Fault> {
        match &*lock(&self.state) {
            State::Open { faults, .. } => faults.first(),
            State::Full(_) | State::Failed(_) => None,
        }
    }

    fn take(&self) -> Option<Vec<Waiting>> {
        let mut queue = lock(&self.queue);
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES_MAX {
            let Some(waiting) = queue.waiting.pop_front() else { break };
            bytes += len(&waiting.transaction);
            batch.push(waiting);
        }
        if batch.is_empty() {
            queue.writing = false;
            return None;
        }
        Some(batch)
    }
}

/// Commits one transaction that keeps the limits. Dropping the future leaves the outcome unknown.
pub(crate) async fn commit(shared: &Arc<Shared>, transaction: Transaction) -> Verdict {
    let Ok(_room) = shared.room.acquire().await else {
        return Err(CommitError::Unavailable("the store was closed".into()));
    };
    let (verdict, answer) = oneshot::channel();
    let idle = {
        let mut queue = lock(&shared.queue);
        queue.waiting.push_back(Waiting { transaction, verdict });
        !std::mem::replace(&mut queue.writing, true)
    };
    if idle {
        let writer = Writer { shared: Some(Arc::clone(shared)) };
        tokio::task::spawn_blocking(move || writer.run());
    }
    let lost = || Err(CommitError::Unknown("the writer ended before it answered".into()));
    answer.await.unwrap_or_else(|_| lost())
}

/// The right to write. If it is lost on the way (a panic, a runtime that ends), those who wait are told by their
/// verdict's sender being dropped, and the next one may write.
struct Writer {
    shared: Option<Arc<Shared>>,
}

/// Verdicts that are ready to be told.
type Told = Vec<(oneshot::Sender<Verdict>, Verdict)>;

impl Writer {
    fn run(mut self) {
        let Some(shared) = &self.shared else { return };
        let mut next = shared.take();
        while let Some(batch) = next {
            let told = write(shared, batch);
            next = shared.take();
            if next.is_none() {
                // Before the last caller knows: it may drop the store and open the file again at once.
                self.shared = None;
                return tell(told);
            }
            tell(told);
        }
        self.shared = None;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            let mut queue = lock(&shared.queue);
            queue.waiting.clear();
            queue.writing = false;
        }
    }
}

fn tell(told: Told) {
    for (caller, verdict) in told {
        // Who does not wait any longer will read.
        let _ = caller.send(verdict);
    }
}

fn write(shared: &Shared, batch: Vec<Waiting>) -> Told {
    let database = match shared.database() {
        Ok(database) => database,
        Err(why) => return refuse(batch, || CommitError::Unavailable(why.clone())),
    };
    let before = shared.revision();
    let applied = apply(&database, &batch);
    drop(database);
    let verdicts = match applied {
        Ok(verdicts) => verdicts,
        Err(error) => return fail(shared, batch, before, &error),
    };
    let last = verdicts.iter().filter_map(|verdict| verdict.as_ref().ok()).max().copied();
    if let Some(revision) = last {
        shared.head.send_modify(|head| head.revision = revision);
    }
    batch.into_iter().map(|waiting| waiting.verdict).zip(verdicts).collect()
}

/// All of `batch` in one durable commit. On an error nothing was given away; whether it happened is for the caller.
fn apply(database: &Database, batch: &[Waiting]) -> Result<Vec<Verdict>, Error> {
    let mut txn = database.begin_write()?;
    open::make_durable(&mut txn)?;
    let mut tables = Tables::open(&txn)?;
    let mut verdicts = Vec::with_capacity(batch.len());
    for waiting in batch {
        verdicts.push(tables.apply(&waiting.transaction)?);
    }
    if verdicts.iter().all(Result::is_err) {
        drop(tables);
        txn.abort()?;
        return Ok(verdicts);
    }
    tables.finish()?;
    txn.commit()?;
    Ok(verdicts)
}

/// After a failed commit: finds out whether anything happened, and tells all of `batch` the same.
fn fail(shared: &Shared, batch: Vec<Waiting>, before: Revision, error: &Error) -> Told {
    let path = shared.path.display();
    match shared.fault() {
        Some(Fault::NoSpace(what)) => {
            let why = format!("no space for {path} ({what}): free some, the next commit tries again");
            *lock(&shared.state) = State::Full(why.clone());
            // What is in the file decides. Whoever reads meanwhile does the same.
            match shared.database() {
                Ok(_) if shared.revision() == before => {
                    refuse(batch, || CommitError::Unavailable(why.clone()))
                }
                Ok(_) => refuse(batch, || CommitError::Unknown(why.clone())),
                Err(unopened) => refuse(batch, || CommitError::Unknown(unopened.clone())),
            }
        }
        fault => {
            let what = match fault {
                Some(Fault::Broken(what)) => what,
                _ => error.to_string(),
            };
            let why = format!("{path} failed ({what}): check the disk, then restart the node");
            *lock(&shared.state) = State::Failed(why.clone());
            shared.head.send_modify(|head| head.failed = Some(why.clone()));
            refuse(batch, || CommitError::Unknown(why.clone()))
        }
    }
}

fn refuse(batch: Vec<Waiting>, why: impl Fn() -> CommitError) -> Told {
    batch.into_iter().map(|waiting| (waiting.verdict, Err(why()))).collect()
}

fn len(transaction: &Transaction) -> usize {
    let value = |write: &Write| match write {
        Write::Put(_, value) => value.len(),
        Write::Delete(_) => 0,
    };
    transaction.writes.iter().map(value).sum()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here is a few moves: none is left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
