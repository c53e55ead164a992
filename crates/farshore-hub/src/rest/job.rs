//! Import and export jobs: the whole registry from or to a file, in the background, one at a time.
//!
//! A job lives in this process. One that has not ended when the hub stops is gone; what it imported stays, and importing
//! the same file again changes nothing twice.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::moment::Moment;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::answer::{self, Body};
use super::container::{self, ERRORS};
use super::error::RestError;
use super::hub::Hub;
use super::now;
use super::request;
use super::serve::Asked;

/// Jobs that are remembered; the oldest is forgotten first.
const JOBS_KEPT_MAX: usize = 100;

/// The import and export jobs of one hub.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: Mutex<VecDeque<Arc<Job>>>,
    running: Mutex<JoinSet<()>>,
}

/// A job as it comes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobBody {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    input_blob_container_uri: Option<String>,
    #[serde(default)]
    input_blob_name: Option<String>,
    #[serde(default)]
    output_blob_container_uri: Option<String>,
    #[serde(default)]
    output_blob_name: Option<String>,
    #[serde(default)]
    exclude_keys_in_export: Option<bool>,
}

/// What it does.
#[derive(Debug)]
pub(super) enum Work {
    /// Everything into a file.
    Export {
        /// The file.
        to: PathBuf,
        /// With keys and thumbprints.
        with_keys: bool,
    },
    /// A file into the registry.
    Import {
        /// The file.
        from: PathBuf,
        /// What could not be imported, line by line.
        errors: PathBuf,
    },
}

/// A job.
#[derive(Debug)]
pub(super) struct Job {
    id: String,
    /// What was asked, for whoever looks at the job.
    shown: Value,
    work: Work,
    created: Moment,
    is_cancelled: AtomicBool,
    percent: AtomicU8,
    end: Mutex<Option<End>>,
    result: Mutex<Value>,
}

#[derive(Debug, Clone)]
struct End {
    at: Moment,
    status: &'static str,
    failure: Option<String>,
}

/// Why a job stopped before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    /// Somebody cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// It could not go on.
    #[error("{0}")]
    Failed(String),
}

/// `POST /jobs/create`
pub(super) fn create(hub: &Arc<Hub>, asked: &Asked) -> Result<Response<Body>, RestError> {
    let job = Arc::new(job(hub, request::json(&asked.body)?, asked.now)?);
    let mut jobs = hub.jobs().all();
    if jobs.iter().any(|job| job.ended().is_none()) {
        return Err(RestError::throttled(
            "ThrottlingMaxActiveJobCountExceeded",
            "another import or export job runs: wait for its end, or cancel it",
        ));
    }
    if jobs.len() >= JOBS_KEPT_MAX {
        jobs.pop_front();
    }
    jobs.push_back(Arc::clone(&job));
    let mut running = hub.jobs().running.lock().unwrap_or_else(PoisonError::into_inner);
    while running.try_join_next().is_some() {}
    running.spawn(run(Arc::clone(hub), Arc::clone(&job)));
    Ok(answer::json(&view(&job)))
}

/// `GET /jobs`
pub(super) fn list(hub: &Hub) -> Response<Body> {
    let views: Vec<Value> = hub.jobs().all().iter().map(|job| view(job)).collect();
    answer::json(&views)
}

/// `GET /jobs/{id}`
pub(super) fn get(hub: &Hub, id: &str) -> Result<Response<Body>, RestError> {
    hub.jobs().find(id).map(|job| answer::json(&view(&job)))
}

/// `DELETE /jobs/{id}`
pub(super) fn cancel(hub: &Hub, id: &str) -> Result<Response<Body>, RestError> {
    hub.jobs().find(id)?.is_cancelled.store(true, Ordering::Relaxed);
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

impl Jobs {
    fn all(&self) -> MutexGuard<'_, VecDeque<Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<Job>, RestError> {
        let found = self.all().iter().find(|job| job.id == id).cloned();
        found.ok_or_else(|| RestError::not_found("JobNotFound", format!("there is no job {id:?}")))
    }
}

impl Job {
    fn ended(&self) -> Option<End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it once: what ended first stays.
    fn end(&self, status: &'static str, failure: Option<String>) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.get_or_insert(End { at: now(), status, failure });
    }

    /// Says what came of it.
    pub(super) fn tell(&self, result: Value) {
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = result;
    }

    /// Whether it is to go on.
    pub(super) fn check(&self) -> Result<(), Stopped> {
        if self.is_cancelled.load(Ordering::Relaxed) { Err(Stopped::Cancelled) } else { Ok(()) }
    }

    /// Says how far it is, and whether it is to go on.
    pub(super) fn advance(&self, done: u64, of: u64) -> Result<(), Stopped> {
        let percent = done.saturating_mul(100).checked_div(of).unwrap_or(100).min(99);
        self.percent.store(u8::try_from(percent).unwrap_or(99), Ordering::Relaxed);
        self.check()
    }
}

fn job(hub: &Hub, body: JobBody, now: Moment) -> Result<Job, RestError> {
    let root = hub.files();
    let missing = |what: &str| RestError::argument(format!("{what} is missing"));
    let output = body.output_blob_container_uri.as_deref().ok_or_else(|| missing("outputBlobContainerUri"));
    let work = match body.kind.to_ascii_lowercase().as_str() {
        "export" => {
            let to = container::directory(root, output?, true)?
                .join(container::name(body.output_blob_name.as_deref())?);
            Work::Export { to, with_keys: !body.exclude_keys_in_export.unwrap_or(false) }
        }
        "import" => {
            let input =
                body.input_blob_container_uri.as_deref().ok_or_else(|| missing("inputBlobContainerUri"))?;
            let from = container::directory(root, input, false)?
                .join(container::name(body.input_blob_name.as_deref())?);
            if !from.is_file() {
                return Err(RestError::argument(format!("there is no file {}", from.display())));
            }
            Work::Import { from, errors: container::directory(root, output?, true)?.join(ERRORS) }
        }
        other => return Err(RestError::argument(format!("type is {other:?}: choose import or export"))),
    };
    let shown = json!({
        "type": body.kind.to_ascii_lowercase(),
        "inputBlobContainerUri": body.input_blob_container_uri,
        "inputBlobName": body.input_blob_name,
        "outputBlobContainerUri": body.output_blob_container_uri,
        "outputBlobName": body.output_blob_name,
        "excludeKeysInExport": body.exclude_keys_in_export.unwrap_or(false),
    });
    Ok(Job {
        id: format!("{:032x}", rand::random::<u128>()),
        shown,
        work,
        created: now,
        is_cancelled: AtomicBool::new(false),
        percent: AtomicU8::new(0),
        end: Mutex::new(None),
        result: Mutex::new(Value::Null),
    })
}

fn view(job: &Job) -> Value {
    let end = job.ended();
    let mut view = json!({
        "jobId": job.id,
        "startTimeUtc": job.created.to_string(),
        "endTimeUtc": end.as_ref().map(|end| end.at.to_string()),
        "status": end.as_ref().map_or("running", |end| end.status),
        "progress": job.percent.load(Ordering::Relaxed),
        "failureReason": end.and_then(|end| end.failure),
        "result": *job.result.lock().unwrap_or_else(PoisonError::into_inner),
    });
    super::identity::extend(&mut view, job.shown.clone());
    view
}

/// Ends a job whatever becomes of its task: a job that never ended would keep all others out.
struct Ending(Arc<Job>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end("failed", Some("it broke off: see the hub's log".to_owned()));
    }
}

async fn run(hub: Arc<Hub>, job: Arc<Job>) {
    let _ending = Ending(Arc::clone(&job));
    let result = match &job.work {
        Work::Export { to, with_keys } => super::files::export(&hub, &job, to, *with_keys).await,
        Work::Import { from, errors } => super::files::import(&hub, &job, from, errors).await,
    };
    let (status, failure) = match result {
        Ok(()) => {
            job.percent.store(100, Ordering::Relaxed);
            ("completed", None)
        }
        Err(Stopped::Cancelled) => ("cancelled", None),
        Err(Stopped::Failed(why)) => ("failed", Some(why)),
    };
    job.end(status, failure);
}
