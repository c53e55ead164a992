//! Scheduled jobs: a change of twins, or a method, for all devices that a condition finds, at a time.
//!
//! They live in this process: a job that has not ended when the hub stops or moves is gone, and its devices show how far it
//! came. That is said in `statusMessage`, and is why both kinds of job are worth repeating only by hand.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use farshore_core::moment::Moment;
use futures_util::{StreamExt, stream};
use http::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::answer::{self, Body};
use super::behind::Call;
use super::error::RestError;
use super::hub::Hub;
use super::method::MethodBody;
use super::request::{self, IfMatch};
use super::serve::Asked;
use super::twin::{Manner, TwinBody};
use super::{find, now};
use crate::names::Key;
use crate::query::Query;

/// Jobs that are remembered; the oldest ended one is forgotten first.
const JOBS_KEPT_MAX: usize = 1000;

/// Jobs that wait or run.
const JOBS_ACTIVE_MAX: usize = 100;

/// Devices that one job works on at once.
const DEVICES_AT_ONCE: usize = 16;

/// How long a job may run when the caller says nothing, and at most, in seconds.
const SECONDS: (u64, u64) = (3600, 2 * 24 * 3600);

/// Longest id of a job.
const ID_LEN_MAX: usize = 64;

/// The scheduled jobs of one hub. Dropped, what waits is not begun and what runs stops.
#[derive(Debug, Default)]
pub(super) struct Scheduled {
    jobs: Mutex<VecDeque<Arc<Job>>>,
    running: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Job {
    id: String,
    condition: String,
    query: Query,
    work: Work,
    /// What was asked, for whoever looks at the job.
    shown: Value,
    created: Moment,
    start: Moment,
    seconds: u64,
    is_cancelled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
enum Work {
    Twin(TwinBody),
    Method(Call),
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Self::Twin(_) => "scheduleUpdateTwin",
            Self::Method(_) => "scheduleDeviceMethod",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Scheduled,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn is_active(self) -> bool {
        matches!(self, Self::Scheduled | Self::Running)
    }
}

#[derive(Debug, Clone)]
struct State {
    phase: Phase,
    ended: Option<Moment>,
    failure: Option<String>,
    devices: usize,
    succeeded: usize,
    failed: usize,
    running: usize,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobBody {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    cloud_to_device_method: Option<Value>,
    #[serde(default)]
    update_twin: Option<Value>,
    #[serde(default)]
    query_condition: Option<String>,
    #[serde(default)]
    start_time: Option<String>,
    #[serde(default)]
    max_execution_time_in_seconds: Option<u64>,
}

/// `PUT /jobs/v2/{id}`
pub(super) fn put(hub: &Arc<Hub>, id: String, asked: &Asked) -> Result<Response<Body>, RestError> {
    let job = Arc::new(job(id, request::json(&asked.body)?, asked.now)?);
    hub.scheduled().add(&job)?;
    let waiting = run(Arc::downgrade(hub), Arc::clone(&job));
    let mut running = lock(&hub.scheduled().running);
    while running.try_join_next().is_some() {}
    running.spawn(waiting);
    Ok(answer::json(&view(&job)))
}

/// `GET /jobs/v2/{id}`
pub(super) fn get(hub: &Hub, id: &str) -> Result<Response<Body>, RestError> {
    hub.scheduled().find(id).map(|job| answer::json(&view(&job)))
}

/// `POST /jobs/v2/{id}/cancel`
pub(super) fn cancel(hub: &Hub, id: &str) -> Result<Response<Body>, RestError> {
    let job = hub.scheduled().find(id)?;
    job.is_cancelled.store(true, Ordering::Relaxed);
    job.end(Phase::Cancelled, None);
    Ok(answer::json(&view(&job)))
}

/// `GET /jobs/v2/query?jobType=…&jobStatus=…`
pub(super) fn query(hub: &Hub, asked: &Asked) -> Result<Response<Body>, RestError> {
    let kind = request::parameter(&asked.parts, "jobType")?;
    let status = request::parameter(&asked.parts, "jobStatus")?;
    let is = |wanted: &Option<String>, found: &str| {
        wanted.as_ref().is_none_or(|wanted| wanted.is_empty() || wanted.eq_ignore_ascii_case(found))
    };
    let jobs = lock(&hub.scheduled().jobs).clone();
    let found =
        jobs.iter().filter(|job| is(&kind, job.work.name()) && is(&status, job.state().phase.as_str()));
    let views: Vec<Value> = found.map(|job| view(job)).collect();
    // The official Python SDK reads an object here; its siblings, and everybody else, read the rows themselves.
    let is_python =
        request::header(&asked.parts, "user-agent").is_some_and(|agent| agent.contains("msrest/"));
    let mut response = if is_python {
        answer::json(&json!({ "type": "DeviceJob", "items": views, "continuationToken": null }))
    } else {
        answer::json(&views)
    };
    answer::set(&mut response, http::HeaderName::from_static("x-ms-item-type"), "DeviceJob");
    Ok(response)
}

impl Scheduled {
    fn add(&self, job: &Arc<Job>) -> Result<(), RestError> {
        let mut jobs = lock(&self.jobs);
        if jobs.iter().any(|other| other.id == job.id) {
            return Err(RestError::conflict(
                "JobAlreadyExists",
                format!("there is a job {:?} already", job.id),
            ));
        }
        if jobs.iter().filter(|job| job.state().phase.is_active()).count() >= JOBS_ACTIVE_MAX {
            return Err(RestError::throttled(
                "ThrottlingMaxActiveJobCountExceeded",
                "100 jobs wait or run: cancel one, or wait for one to end",
            ));
        }
        if jobs.len() >= JOBS_KEPT_MAX
            && let Some(oldest) = jobs.iter().position(|job| !job.state().phase.is_active())
        {
            jobs.remove(oldest);
        }
        jobs.push_back(Arc::clone(job));
        Ok(())
    }

    fn find(&self, id: &str) -> Result<Arc<Job>, RestError> {
        let jobs = lock(&self.jobs);
        let job = jobs.iter().find(|job| job.id == id);
        job.cloned().ok_or_else(|| RestError::not_found("JobNotFound", format!("there is no job {id:?}")))
    }
}

fn job(id: String, body: JobBody, now: Moment) -> Result<Job, RestError> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if id.is_empty() || id.len() > ID_LEN_MAX || !id.chars().all(is_known) {
        return Err(RestError::argument("a job is named by 1 to 64 letters, digits and -_.:"));
    }
    let (work, shown) = work(&body)?;
    let condition = body.query_condition.unwrap_or_default();
    let query = find::parsed(Query::condition(&condition))?;
    let start = match &body.start_time {
        Some(text) => text.parse().map_err(|error| RestError::argument(format!("startTime: {error}")))?,
        None => now,
    };
    let seconds = body.max_execution_time_in_seconds.filter(|seconds| *seconds > 0).unwrap_or(SECONDS.0);
    if seconds > SECONDS.1 {
        return Err(RestError::argument("maxExecutionTimeInSeconds is more than two days"));
    }
    let state = State {
        phase: Phase::Scheduled,
        ended: None,
        failure: None,
        devices: 0,
        succeeded: 0,
        failed: 0,
        running: 0,
    };
    let is_cancelled = AtomicBool::new(false);
    Ok(Job {
        id,
        condition,
        query,
        work,
        shown,
        created: now,
        start,
        seconds,
        is_cancelled,
        state: Mutex::new(state),
    })
}

fn work(body: &JobBody) -> Result<(Work, Value), RestError> {
    let read = |error: serde_json::Error, what: &str| RestError::argument(format!("{what}: {error}"));
    match (body.kind.as_str(), &body.update_twin, &body.cloud_to_device_method) {
        ("scheduleUpdateTwin" | "scheduleTwinUpdate", Some(twin), _) => {
            let work = serde_json::from_value(twin.clone()).map_err(|error| read(error, "updateTwin"))?;
            Ok((Work::Twin(work), json!({ "updateTwin": twin })))
        }
        ("scheduleDeviceMethod", _, Some(method)) => {
            let call: MethodBody =
                serde_json::from_value(method.clone()).map_err(|error| read(error, "cloudToDeviceMethod"))?;
            Ok((Work::Method(call.call()?), json!({ "cloudToDeviceMethod": method })))
        }
        _ => Err(RestError::argument(
            "a job is of type scheduleUpdateTwin with updateTwin, or scheduleDeviceMethod with cloudToDeviceMethod",
        )),
    }
}

fn view(job: &Job) -> Value {
    let state = job.state();
    let mut view = json!({
        "jobId": job.id,
        "queryCondition": job.condition,
        "createdTime": job.created.to_string(),
        "startTime": job.start.to_string(),
        "endTime": state.ended.map(|ended| ended.to_string()),
        "maxExecutionTimeInSeconds": job.seconds,
        "type": job.work.name(),
        "status": state.phase.as_str(),
        "failureReason": state.failure,
        "statusMessage": "kept by the active hub only: it does not go on elsewhere after a failover",
        "deviceJobStatistics": {
            "deviceCount": state.devices,
            "failedCount": state.failed,
            "succeededCount": state.succeeded,
            "runningCount": state.running,
            "pendingCount": state.devices.saturating_sub(state.succeeded + state.failed + state.running),
        },
    });
    super::identity::extend(&mut view, job.shown.clone());
    view
}

/// Ends a job whatever becomes of its task.
struct Ending(Arc<Job>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(Phase::Failed, Some("it broke off: see the hub's log".to_owned()));
    }
}

/// Waits for its time without keeping the hub alive, then works through the devices.
async fn run(hub: Weak<Hub>, job: Arc<Job>) {
    let _ending = Ending(Arc::clone(&job));
    tokio::time::sleep(job.start.since(now())).await;
    let Some(hub) = hub.upgrade() else { return };
    if !job.begin() {
        return;
    }
    let limit = Duration::from_secs(job.seconds);
    match tokio::time::timeout(limit, work_through(&hub, &job)).await {
        Ok(Ok(())) => job.end(Phase::Completed, None),
        Ok(Err(error)) => job.end(Phase::Failed, Some(error.to_string())),
        Err(_) => job.end(Phase::Failed, Some("its time was over before all devices were done".to_owned())),
    }
}

async fn work_through(hub: &Hub, job: &Job) -> Result<(), RestError> {
    let keys = find::keys(hub, &job.query).await?;
    job.update(|state| state.devices = keys.len());
    let one = async |key: Key| {
        if job.is_cancelled.load(Ordering::Relaxed) {
            return;
        }
        job.update(|state| state.running += 1);
        let done = apply(hub, &key, &job.work).await;
        job.update(|state| {
            state.running -= 1;
            *(if done { &mut state.succeeded } else { &mut state.failed }) += 1;
        });
    };
    stream::iter(keys).map(one).buffer_unordered(DEVICES_AT_ONCE).collect::<()>().await;
    Ok(())
}

/// Does it for one device; whether it worked.
async fn apply(hub: &Hub, key: &Key, work: &Work) -> bool {
    match work {
        Work::Twin(body) => {
            let Ok(held) = hub.hold() else { return false };
            let (of, body) = (key.clone(), body.clone());
            let change = hub
                .change(key.clone(), move |current| body.edits(&of, current, &IfMatch::Any, Manner::Merge));
            change.await.is_ok() && held.may_answer()
        }
        Work::Method(call) => hub.behind().invoke(key, call.clone()).await.is_ok(),
    }
}

impl Job {
    fn state(&self) -> State {
        lock(&self.state).clone()
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
    }

    /// Whether it was still to begin.
    fn begin(&self) -> bool {
        let mut state = lock(&self.state);
        let is_due = state.phase == Phase::Scheduled;
        if is_due {
            state.phase = Phase::Running;
        }
        is_due
    }

    /// Ends it once: what ended first stays.
    fn end(&self, phase: Phase, failure: Option<String>) {
        self.update(|state| {
            if state.phase.is_active() {
                state.phase = phase;
                state.failure = failure;
                state.ended = Some(now());
            }
        });
    }
}

/// A panic elsewhere leaves nothing half done in here.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
