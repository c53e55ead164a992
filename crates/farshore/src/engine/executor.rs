//! Drives jobs: claims one by compare-and-set, does what [`Job::next`] says, and records what happened.
//!
//! Must always hold: the start of an effect is durable before it is ordered; every write compares the job's revision, so
//! an executor that lost its claim stops at its next write; a job that cannot be read stops nothing but itself.

mod effect;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_core::command::Verb;
use farshore_core::ids::JobId;
use farshore_core::job::{Half, Happened, Job, KIND_VERSION, Next};
use farshore_core::store::ReadError;
use farshore_core::workload::Observation;
use tokio::sync::{Notify, Semaphore};

use super::Inner;
use super::book::At;
use super::journal::{RecordError, record};

/// Pause before a store that does not answer is asked again.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How often a waiting job's record is read, for a word that came through another process.
const RECORD_EVERY: Duration = Duration::from_secs(1);
/// Claims that meet somebody else's write.
const CLAIM_ATTEMPTS_MAX: u32 = 10;

/// The jobs that this process drives.
#[derive(Debug)]
pub(super) struct Executors {
    running: Mutex<HashMap<JobId, Arc<Notify>>>,
    permits: Semaphore,
}

impl Executors {
    pub(super) fn new(jobs_max: usize) -> Self {
        Self { running: Mutex::default(), permits: Semaphore::new(jobs_max) }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Notify>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the job's place; `None`: it is driven already, and was told to look again.
    fn enter(&self, id: &JobId) -> Option<Arc<Notify>> {
        let mut running = self.running();
        if let Some(notify) = running.get(id) {
            notify.notify_one();
            return None;
        }
        let notify = Arc::new(Notify::new());
        running.insert(id.clone(), Arc::clone(&notify));
        Some(notify)
    }

    /// This process drives the job.
    pub(super) fn has(&self, id: &JobId) -> bool {
        self.running().contains_key(id)
    }

    fn leave(&self, id: &JobId) {
        self.running().remove(id);
    }
}

/// Goes on with every job under way. One bad record never stops the others.
pub(super) async fn resume_all(inner: &Arc<Inner>) -> Result<(), ReadError> {
    for (id, job) in inner.book.jobs().await? {
        match job {
            Ok(job) if job.state.is_terminal() => {}
            Ok(_) => drive(inner, &id),
            Err(error) => tracing::error!(job = %id, %error, "a job cannot be gone on with"),
        }
    }
    Ok(())
}

/// Drives the job in the background, or tells its driver to look again.
pub(super) fn drive(inner: &Arc<Inner>, id: &JobId) {
    if let Some(notify) = inner.executors.enter(id) {
        let task = run(Arc::clone(inner), id.clone(), notify);
        inner.spawn(task);
    }
}

/// Why a driver stops.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// Nothing is to be done now.
    Rest,
    /// Another executor has the job.
    Lost,
    /// A test says that this process died here.
    Killed,
}

async fn run(inner: Arc<Inner>, id: JobId, mut notify: Arc<Notify>) {
    loop {
        let mut driver = Driver { inner: &inner, notify: &notify, executor_epoch: 0 };
        let stop = driver.drive(&id).await;
        if stop == Stop::Killed {
            return;
        }
        inner.executors.leave(&id);
        // A word that came after the driver had looked found it still running and started no other.
        let waits = match inner.book.job(&id).await {
            Ok(Some(job)) => stop == Stop::Rest && job.value.next() != Next::Rest,
            _ => false,
        };
        if !waits {
            return;
        }
        match inner.executors.enter(&id) {
            Some(again) => notify = again,
            None => return,
        }
    }
}

struct Driver<'a> {
    inner: &'a Arc<Inner>,
    notify: &'a Notify,
    executor_epoch: u64,
}

impl Driver<'_> {
    async fn drive(&mut self, id: &JobId) -> Stop {
        let Some(mut job) = self.readable(id).await else { return Stop::Rest };
        let urgent = matches!(job.value.verb(), Verb::Failover | Verb::Failback);
        let _permit = match urgent {
            true => None,
            false => self.inner.executors.permits.acquire().await.ok(),
        };
        match self.claim(id).await {
            Ok(claimed) => job = claimed,
            Err(stop) => return stop,
        }
        loop {
            let done = match job.value.next() {
                Next::Rest => return Stop::Rest,
                Next::Start { step, half } => self.start(&job, step, half).await,
                Next::Perform { step, half, act, key } => self.perform(&job, step, half, &act, &key).await,
            };
            match done {
                Ok(next) => job = next,
                Err(stop) => return stop,
            }
        }
    }

    async fn readable(&self, id: &JobId) -> Option<At<Job>> {
        loop {
            match self.inner.book.job(id).await {
                Ok(job) => return job,
                Err(error @ ReadError::Damaged(_)) => {
                    tracing::error!(job = %id, %error, "a job cannot be gone on with");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(job = %id, %error, "the store is asked again");
                    tokio::time::sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    async fn claim(&mut self, id: &JobId) -> Result<At<Job>, Stop> {
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            let Some(job) = self.readable(id).await else { return Err(Stop::Rest) };
            if job.value.next() == Next::Rest {
                return Err(Stop::Rest);
            }
            let elsewhere = |executor: &String| self.inner.nodes.alive_elsewhere(executor);
            if job.value.executor.as_ref().is_some_and(elsewhere) {
                return Err(Stop::Lost);
            }
            let happened = match job.value.kind_version {
                KIND_VERSION => Happened::Claimed { executor: self.inner.options.executor.clone() },
                _ => Happened::UnknownVersion,
            };
            match self.record_once(&job, &happened, None).await? {
                Ok(job) => {
                    self.executor_epoch = job.value.executor_epoch;
                    return Ok(job);
                }
                Err(RecordError::Changed) => {}
                Err(error) => {
                    tracing::error!(job = %id, %error, "a job cannot be claimed");
                    return Err(Stop::Lost);
                }
            }
        }
        Err(Stop::Lost)
    }

    async fn start(&self, job: &At<Job>, step: usize, half: Half) -> Result<At<Job>, Stop> {
        let attempt = job.value.attempt + 1;
        if attempt > 1 {
            let pause = self.pause_before(attempt);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.changed(job) => return self.reload(job).await,
            }
        }
        let name = job.value.steps[step].name.clone();
        let started = self.record(job, &Happened::Started { step: name, half, attempt }, None).await?;
        self.crash_point(&started.value, "after-started")?;
        Ok(started)
    }

    /// Doubles from the second attempt on, up to a limit.
    fn pause_before(&self, attempt: u32) -> Duration {
        let options = &self.inner.options;
        let doublings = attempt.saturating_sub(2).min(16);
        options.retry_first.saturating_mul(1 << doublings).min(options.retry_max)
    }

    /// Records, until the store has it. A job that someone else changed is read again and gone on with if it is still
    /// ours.
    async fn record(
        &self,
        job: &At<Job>,
        happened: &Happened,
        sight: Option<&Observation>,
    ) -> Result<At<Job>, Stop> {
        loop {
            match self.record_once(job, happened, sight).await? {
                Ok(next) => return Ok(next),
                Err(RecordError::Changed) => return self.reload(job).await,
                Err(RecordError::Milestone(what)) => {
                    let Next::Perform { step, half, .. } = job.value.next() else { return Err(Stop::Lost) };
                    let step = job.value.steps[step].name.clone();
                    let failed = Happened::AttemptFailed { step, half, what, fatal: false };
                    return Box::pin(self.record(job, &failed, None)).await;
                }
                Err(RecordError::Refused(refusal)) => {
                    tracing::error!(job = %job.value.id, %refusal, "a journal record does not fit its job");
                    return Err(Stop::Lost);
                }
                Err(error @ (RecordError::Read(_) | RecordError::Commit(_))) => {
                    tracing::warn!(job = %job.value.id, %error, "the store is asked again");
                    tokio::time::sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    async fn record_once(
        &self,
        job: &At<Job>,
        happened: &Happened,
        sight: Option<&Observation>,
    ) -> Result<Result<At<Job>, RecordError>, Stop> {
        self.crash_point(&job.value, "before-commit")?;
        let recorded = record(self.inner, job, happened, sight, &job.value.asked_by).await;
        if let Ok(next) = &recorded {
            self.crash_point(&next.value, "after-commit")?;
            tell(&next.value, happened);
        }
        Ok(recorded)
    }

    /// The job as it is now, if this executor still has it.
    async fn reload(&self, job: &At<Job>) -> Result<At<Job>, Stop> {
        let Some(now) = self.readable(&job.value.id).await else { return Err(Stop::Lost) };
        let ours = now.value.executor.as_deref() == Some(self.inner.options.executor.as_str())
            && now.value.executor_epoch == self.executor_epoch;
        if ours { Ok(now) } else { Err(Stop::Lost) }
    }

    /// Returns when the job's record is no longer the one that is held.
    async fn changed(&self, job: &At<Job>) {
        loop {
            tokio::select! {
                () = self.notify.notified() => {}
                () = tokio::time::sleep(RECORD_EVERY) => {}
            }
            match self.inner.book.job(&job.value.id).await {
                Ok(Some(now)) if now.revision == job.revision => {}
                Ok(_) => return,
                Err(error) => tracing::debug!(job = %job.value.id, %error, "the job's record is read later"),
            }
        }
    }

    fn crash_point(&self, job: &Job, node: &str) -> Result<(), Stop> {
        let Some(crash_at) = &self.inner.options.crash_at else { return Ok(()) };
        let step = job.steps.get(job.cursor).map_or("end", |step| step.name.as_str());
        let way = job.state.as_str();
        if crash_at(&format!("{way}/{step}/{node}/{}", job.log_len)) { Err(Stop::Killed) } else { Ok(()) }
    }
}

fn tell(job: &Job, happened: &Happened) {
    let (id, verb, item, state) = (&job.id, job.verb(), &job.item, job.state.as_str());
    match happened {
        Happened::AttemptFailed { step, what, .. } => {
            tracing::warn!(job = %id, %verb, %item, state, step, what, "an attempt failed");
        }
        Happened::Verified { step, .. } => tracing::info!(job = %id, %verb, %item, state, step, "done"),
        _ => tracing::debug!(job = %id, %verb, %item, state, "recorded"),
    }
}
