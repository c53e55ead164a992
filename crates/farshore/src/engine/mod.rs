//! The engine: takes what people ask for, makes jobs of it, and carries them out through the region agents.
//!
//! Read in this order: [`records`] (what is in the store), `book` (typed reads and audited transactions), `submit`
//! (checks before anything changes, and the transaction that makes a job), `steer` (cancel, retry, skip, abandon),
//! `journal` (writes what happened), `milestone` (what the item becomes by it), `executor` (drives a job), `nodes`
//! (whose jobs are gone on with), `automatic` and `homeward` (what is failed over and
//! brought home without being asked), `lease` (renews rights to serve), `health` (watches the regions and mends what no job
//! does), `incidents` (what was wrong, from when to when), [`audit`] (who did what, page by page), [`tokens`] (who may ask).
//!
//! Must always hold: an item changes only in the transaction that also writes the job's journal, the directory and the
//! audit entry; an effect is ordered only after its start is durable; only the observation of an effect proves it.

pub mod audit;
mod automatic;
pub(crate) mod book;
mod executor;
mod gates;
mod health;
mod homeward;
mod incidents;
mod journal;
mod lease;
mod milestone;
mod nodes;
pub mod records;
mod steer;
mod submit;
pub mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farshore_core::agents::Agents;
use farshore_core::command::{Command, Verb};
use farshore_core::fencing::FenceTimings;
use farshore_core::ids::{ItemId, JobId, Region};
use farshore_core::job::Job;
use farshore_core::lifecycle::Item;
use farshore_core::moment::Moment;
use farshore_core::store::{CommitError, Compare, ReadError, Revision, Store, Transaction, Watch};
use farshore_core::workload::{Observation, Order, StepError};
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;

use crate::trust::JoinTokens;
use book::{Book, put};
pub use book::{StoreState, changed_job};
pub(crate) use health::advice;
pub use health::{DRILL_AGE_MAX, RPO_SECONDS};
pub use incidents::{IncidentError, NewIncident};
pub use lease::RenewError;
pub use records::{AuditEntry, DirectoryRecord, LogEntry, Meta, RegionRecord, directory_name, sha256_hex};

/// Called at each named node of a job's way; `true` stops its executor there, as a crash would.
pub type CrashAt = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// How the engine runs.
#[derive(Clone)]
pub struct Options {
    /// Who executes, in job records: `NODE/START`, another one for each start of a process.
    pub executor: String,
    /// How often each region is asked.
    pub health_every: Duration,
    /// A region that has not answered a look by then does not answer.
    pub observe_deadline: Duration,
    /// The same for an order; longer than the agent's own deadline.
    pub act_deadline: Duration,
    /// First pause between two looks at an effect.
    pub poll_first: Duration,
    /// Longest pause between two looks.
    pub poll_max: Duration,
    /// Pause before the second attempt of a step; doubled for each one more.
    pub retry_first: Duration,
    /// Longest pause between two attempts.
    pub retry_max: Duration,
    /// Jobs under way at a time. Failovers do not count: they never wait for anything else.
    pub jobs_max: usize,
    /// How long a directory answer may be kept.
    pub directory_ttl_seconds: u32,
    /// How items with `on_control_loss = "fence"` stop by themselves, for those that are made from now on.
    pub fencing: FenceTimings,
    /// Keep a copy of the store in memory: what people look at is answered from it, also when the store is out of reach.
    pub mirror: bool,
    /// For tests of crashes.
    pub crash_at: Option<CrashAt>,
    /// When this node's certificate ends.
    pub certificate_ends: Option<CertificateEnds>,
}

/// Tells when this node's certificate ends; asked each time, because it renews.
#[derive(Clone)]
pub struct CertificateEnds(pub Arc<dyn Fn() -> Option<Moment> + Send + Sync>);

impl fmt::Debug for CertificateEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateEnds")
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            executor: ulid::Ulid::generate().to_string(),
            health_every: Duration::from_secs(1),
            observe_deadline: Duration::from_secs(2),
            act_deadline: Duration::from_secs(25),
            poll_first: Duration::from_millis(100),
            poll_max: Duration::from_millis(500),
            retry_first: Duration::from_millis(500),
            retry_max: Duration::from_secs(8),
            jobs_max: 32,
            directory_ttl_seconds: 5,
            fencing: FenceTimings::STANDARD,
            mirror: false,
            crash_at: None,
            certificate_ends: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("executor", &self.executor).finish_non_exhaustive()
    }
}

/// What the health loop last saw of an item in a region.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// What the region knew when it last answered; `None`: it did not know the item, or has never answered.
    pub observation: Option<Observation>,
    /// Why the last look failed, if it did; `observation` is then older than `at`.
    pub error: Option<String>,
    /// When it was last looked.
    pub at: Moment,
}

/// Whether a region answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionHealth {
    /// It answered the last question.
    pub reachable: bool,
    /// Since when that is so.
    pub since: Moment,
    /// When it last answered, if ever.
    pub last_seen: Option<Moment>,
    /// Why it did not answer.
    pub error: Option<String>,
}

/// A request that may be repeated: the same key and body make one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Chosen by the client.
    pub key: String,
    /// Hash of what was asked, so that a key is not used for two different things.
    pub body_hash: String,
}

/// What a person can say to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobVerb {
    /// Take back what was done; before the point of no return only.
    Cancel,
    /// Try the stuck step again.
    Retry,
    /// The stuck step need not be done.
    Skip {
        /// Why; audited.
        reason: String,
    },
    /// Give the stuck job up; nothing is taken back.
    Abandon {
        /// Why; audited.
        reason: String,
    },
}

/// Why a request was not taken. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// There is no such item or job.
    #[error("{what}")]
    NotFound {
        /// What was looked for, and how to find what there is.
        what: String,
    },
    /// It does not fit now.
    #[error("{why}")]
    Refused {
        /// Short and stable, for programs.
        code: &'static str,
        /// Why, and how to mend it.
        why: String,
        /// What can be asked instead.
        possible: Vec<Verb>,
    },
    /// Another job is under way for the item.
    #[error(
        "job {job} ({verb}) is under way for this item: wait for it (farshore job watch {job}) or cancel it"
    )]
    Busy {
        /// Which.
        job: JobId,
        /// What it does.
        verb: Verb,
    },
    /// It can never be right.
    #[error("{why}")]
    Invalid {
        /// Why, and what would be.
        why: String,
    },
    /// The key was used for something else.
    #[error("the idempotency key {key:?} was used for another request: choose a new one")]
    IdempotencyMismatch {
        /// The key.
        key: String,
    },
    /// The store does not answer.
    #[error("{why}")]
    Unavailable {
        /// What failed.
        why: String,
    },
}

impl From<ReadError> for SubmitError {
    fn from(error: ReadError) -> Self {
        Self::Unavailable { why: error.to_string() }
    }
}

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// What all tasks of the engine share.
#[derive(Debug)]
struct Inner {
    book: Book,
    agents: Arc<dyn Agents>,
    options: Options,
    meta: Meta,
    executors: executor::Executors,
    nodes: nodes::Nodes,
    /// Counts renewals, so that no two write the same.
    beats: AtomicU64,
    health: health::Board,
    snapshot: health::Shared,
    gates: gates::Gates,
    tasks: Mutex<JoinSet<()>>,
}

impl Inner {
    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        // A JoinSet is whole after any panic in between.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `task` until it ends or the engine is shut down.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Looks, and lets everybody who asks know what was seen: after a job has ended, what it brought about is on the board.
    async fn observe(&self, region: &Region, item: &ItemId) -> Result<Observation, StepError> {
        let look = self.agents.observe(region, item);
        let look = tokio::time::timeout(self.options.observe_deadline, look)
            .await
            .unwrap_or_else(|_| Err(no_answer(region, self.options.observe_deadline)));
        self.health.note(item, region, &look);
        look
    }

    /// Gives an order and waits for its answer until `limit`. The order itself is never cut off: it keeps its turn until
    /// it has ended, so that what takes it back cannot overtake it.
    async fn order(
        &self,
        turn: OwnedMutexGuard<()>,
        region: &Region,
        order: &Order,
        limit: Duration,
    ) -> Result<(), StepError> {
        let (agents, at, order) = (Arc::clone(&self.agents), region.clone(), order.clone());
        let act = tokio::spawn(async move {
            let _turn = turn;
            agents.act(&at, &order).await
        });
        match tokio::time::timeout(limit, act).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(StepError::Retry { what: format!("region {region}: {error}") }),
            Err(_) => Err(no_answer(region, limit)),
        }
    }
}

fn no_answer(region: &Region, deadline: Duration) -> StepError {
    StepError::Retry { what: format!("region {region} did not answer within {deadline:?}") }
}

/// The control plane's engine. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

impl Control {
    /// Opens the control plane on `store`: makes `meta` if it is absent, registers `regions`, asks all regions what they
    /// know (a store that was restored from a backup shows here), and then goes on with every job under way.
    pub async fn start(
        store: Arc<dyn Store>,
        agents: Arc<dyn Agents>,
        regions: Vec<RegionRecord>,
        options: Options,
    ) -> Result<Self, StartError> {
        let book = Book::new(store, options.mirror);
        let meta = open_meta(&book).await?;
        for region in regions {
            register(&book, region).await?;
        }
        let inner = Arc::new(Inner {
            book,
            agents,
            executors: executor::Executors::new(options.jobs_max),
            nodes: nodes::Nodes::new(&options.executor),
            beats: AtomicU64::new(0),
            options,
            meta,
            health: health::Board::default(),
            snapshot: health::Shared::default(),
            gates: gates::Gates::default(),
            tasks: Mutex::new(JoinSet::new()),
        });
        nodes::first_beat(&inner).await?;
        health::start(&inner).await?;
        executor::resume_all(&inner).await?;
        nodes::start(&inner);
        inner.spawn(automatic::watch(Arc::clone(&inner)));
        Ok(Self { inner })
    }

    /// Asks for an operation. On return its job is durable and under way.
    ///
    /// # Errors
    /// Nothing was changed; the error says how to mend it.
    pub async fn submit(
        &self,
        item: &ItemId,
        command: Command,
        who: &str,
        idempotency: Option<Idempotency>,
    ) -> Result<Job, SubmitError> {
        let job = submit::submit(&self.inner, item, command, who, idempotency.as_ref()).await?;
        executor::drive(&self.inner, &job.id);
        Ok(job)
    }

    /// Says something to a job.
    ///
    /// # Errors
    /// Nothing was changed; the error says how to mend it.
    pub async fn steer(&self, job: &JobId, verb: JobVerb, who: &str) -> Result<Job, SubmitError> {
        let job = steer::steer(&self.inner, job, &verb, who).await?;
        executor::drive(&self.inner, &job.id);
        Ok(job)
    }

    /// Whether this process carries out the job.
    #[must_use]
    pub(crate) fn carries_out(&self, job: &JobId) -> bool {
        self.inner.executors.has(job)
    }

    /// Which cluster this is, and which life of it.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.inner.meta
    }

    /// One item.
    ///
    /// # Errors
    /// When the store cannot be reached and the copy does not know it: nobody can say that it is not there.
    pub async fn item(&self, id: &ItemId) -> Result<Option<Item>, ReadError> {
        let view = self.inner.book.view().await;
        let found = match view.item(id).await? {
            None if view.is_copy() => self.inner.book.item(id).await?,
            found => found,
        };
        Ok(found.map(|at| at.value))
    }

    /// All items, by name.
    pub async fn items(&self) -> Result<Vec<Item>, ReadError> {
        self.inner.book.view().await.items().await
    }

    /// All items, and the names of those that a job holds, from one read.
    pub async fn items_and_busy(&self) -> Result<(Vec<Item>, BTreeSet<ItemId>), ReadError> {
        self.inner.book.view().await.items_and_busy().await
    }

    /// One job.
    ///
    /// # Errors
    /// As for an item: whoever made it at another control node must not hear that it is not there.
    pub async fn job(&self, id: &JobId) -> Result<Option<Job>, ReadError> {
        let view = self.inner.book.view().await;
        let found = match view.job(id).await? {
            None if view.is_copy() => self.inner.book.job(id).await?,
            found => found,
        };
        Ok(found.map(|at| at.value))
    }

    /// The jobs of an item, or all, oldest first. Records that this program cannot read are left out and logged.
    pub async fn jobs(&self, item: Option<&ItemId>) -> Result<Vec<Job>, ReadError> {
        let mut readable = Vec::new();
        for (id, job) in self.inner.book.view().await.jobs().await? {
            match job {
                Ok(job) if item.is_none_or(|item| job.item == *item) => readable.push(job),
                Ok(_) => {}
                Err(error) => tracing::warn!(job = %id, %error, "a job's record is left out"),
            }
        }
        Ok(readable)
    }

    /// The job under way for an item.
    pub async fn active_job(&self, item: &ItemId) -> Result<Option<Job>, ReadError> {
        match self.inner.book.view().await.item_job(item).await? {
            Some(id) => self.job(&id).await,
            None => Ok(None),
        }
    }

    /// A job's journal.
    pub async fn job_log(&self, id: &JobId) -> Result<Vec<LogEntry>, ReadError> {
        self.inner.book.view().await.job_log(id).await
    }

    /// The registered regions.
    pub async fn regions(&self) -> Result<Vec<RegionRecord>, ReadError> {
        self.inner.book.view().await.regions().await
    }

    /// One name of the directory: `web-1.machine`.
    pub async fn directory(&self, name: &str) -> Result<Option<DirectoryRecord>, ReadError> {
        self.inner.book.view().await.directory(name).await
    }

    /// All names of the directory.
    pub async fn directory_all(&self) -> Result<Vec<DirectoryRecord>, ReadError> {
        self.inner.book.view().await.directory_all().await
    }

    /// The join tokens in the store.
    #[must_use]
    pub fn join_tokens(&self) -> JoinTokens {
        JoinTokens::new(Arc::clone(self.inner.book.store()))
    }

    /// The newest `limit` audit entries, oldest first.
    pub async fn audit(&self, limit: usize) -> Result<Vec<AuditEntry>, ReadError> {
        let mut entries = self.inner.book.view().await.audit().await?;
        Ok(entries.split_off(entries.len().saturating_sub(limit)))
    }

    /// What the health loop last saw of an item, by region.
    #[must_use]
    pub fn seen(&self, item: &ItemId) -> BTreeMap<Region, Seen> {
        self.inner.health.seen(item)
    }

    /// Looks now.
    pub async fn observe(&self, region: &Region, item: &ItemId) -> Result<Observation, StepError> {
        self.inner.observe(region, item).await
    }

    /// Asks the item's workload in `region`; see [`farshore_core::workload::Workload::ask`].
    ///
    /// # Errors
    /// As the workload says, or when the region does not answer.
    pub async fn ask(&self, region: &Region, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        self.inner.agents.ask(region, item, question).await
    }

    /// Which regions answer.
    #[must_use]
    pub fn region_health(&self) -> BTreeMap<Region, RegionHealth> {
        self.inner.health.regions()
    }

    /// When this node's certificate ends, if it has one.
    #[must_use]
    pub fn certificate_ends(&self) -> Option<Moment> {
        (self.inner.options.certificate_ends.as_ref()?.0)()
    }

    /// Where this node is, if it is in one of the regions.
    #[must_use]
    pub fn here(&self) -> Option<&Region> {
        self.inner.agents.here()
    }

    /// Whether the store can be reached, and if not, since when everything is read-only.
    #[must_use]
    pub fn store_state(&self) -> StoreState {
        self.inner.book.state()
    }

    /// The nodes whose executors are alive, by name.
    #[must_use]
    pub fn executors_alive(&self) -> Vec<String> {
        self.inner.nodes.alive()
    }

    /// The store's present revision: watch from here to miss nothing that was read before.
    pub async fn revision(&self) -> Result<Revision, ReadError> {
        Ok(self.inner.book.store().list(records::META).await?.1)
    }

    /// Changes of jobs and their journals after `after`; see [`changed_job`].
    pub async fn watch_jobs(&self, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        self.inner.book.store().watch(records::JOBS, after).await
    }

    /// The store, for records of other rooms of this crate that stand beside items and jobs.
    pub(crate) fn book(&self) -> &Book {
        &self.inner.book
    }

    /// Whether a test wants this node to be dead from here on; see [`Options::crash_at`].
    pub(crate) fn is_killed_at(&self, node: &str) -> bool {
        self.inner.options.crash_at.as_ref().is_some_and(|crash_at| crash_at(node))
    }

    /// Ends all tasks at once, as a crash would: the other nodes find out by themselves. For tests of crashes.
    pub async fn vanish(self) {
        let mut tasks = std::mem::take(&mut *self.inner.tasks());
        tasks.shutdown().await;
    }

    /// Ends all tasks. Jobs under way are gone on with at the next start.
    pub async fn shutdown(self) {
        let mut tasks = std::mem::take(&mut *self.inner.tasks());
        tasks.shutdown().await;
        nodes::leave(&self.inner).await;
    }
}

async fn open_meta(book: &Book) -> Result<Meta, StartError> {
    if let Some(meta) = book.meta().await? {
        return Ok(meta.value);
    }
    let meta = Meta { cluster: ulid::Ulid::generate().to_string(), incarnation: 1 };
    let transaction = Transaction {
        compares: vec![Compare::Absent(records::META.to_owned())],
        writes: vec![put(records::META.to_owned(), &meta)?],
    };
    match book.commit(transaction, None).await {
        // Another control plane was first.
        Err(CommitError::Conflict { .. }) => {}
        other => drop(other?),
    }
    Ok(book.meta().await?.map_or(meta, |meta| meta.value))
}

async fn register(book: &Book, region: RegionRecord) -> Result<(), StartError> {
    let earlier = book.region(&region.name).await?;
    let since = earlier.as_ref().map_or(region.since, |earlier| earlier.since);
    let region = RegionRecord { since, ..region };
    if earlier.as_ref() == Some(&region) {
        return Ok(());
    }
    let write = put(records::region_key(&region.name), &region)?;
    book.commit(Transaction { compares: Vec::new(), writes: vec![write] }, None).await?;
    Ok(())
}

/// The shell's clock, read once per decision and handed to the core.
#[must_use]
pub fn now() -> Moment {
    moment_of(SystemTime::now())
}

/// The system's time as a moment; what is before 1970 is 1970.
#[must_use]
pub fn moment_of(time: SystemTime) -> Moment {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
