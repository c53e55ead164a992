//! A job as a stream of server-sent events: its view on each change, until it has ended.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use farshore_core::ids::JobId;
use farshore_core::store::Watch;
use futures_util::stream::{self, Stream};

use super::ApiState;
use super::jobs::{find, read_view};
use super::problem::{Problem, Refusals};
use super::views::JobView;
use crate::engine::{Control, changed_job};

/// The bytes of a copy move between the records of its job: looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Proxies drop a silent connection after 30 s at the earliest.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// `job` events, each with the job's view as its data; the stream ends when the job has ended.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/events", tag = "jobs",
    security(("token" = ["read"])), params(("id" = String, Path)),
    responses((status = 200, body = JobView, content_type = "text/event-stream"), Refusals))]
pub(super) async fn events(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let job = find(&state.control, &id).await?;
    let follower = Follower { control: state.control, job: job.id, watch: None, told: None, ended: false };
    let events = stream::unfold(follower, async |mut follower| {
        let view = follower.next().await?;
        let event = Event::default().event("job").json_data(&view).ok()?;
        Some((Ok(event), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("still here")))
}

struct Follower {
    control: Control,
    job: JobId,
    watch: Option<Box<dyn Watch>>,
    /// What the client knows.
    told: Option<JobView>,
    ended: bool,
}

impl Follower {
    /// The next view that differs from the last; `None` after the end, or when the store cannot be read: the client
    /// connects again.
    async fn next(&mut self) -> Option<JobView> {
        if self.ended {
            return None;
        }
        loop {
            if self.watch.is_none() {
                // From before the look, so that nothing falls between the two.
                let revision = self.control.revision().await.ok()?;
                self.watch = Some(self.control.watch_jobs(revision).await.ok()?);
            }
            let job = self.control.job(&self.job).await.ok()??;
            let view = read_view(&self.control, &job).await.ok()?;
            self.ended = view.ended;
            if self.told.as_ref() != Some(&view) {
                self.told = Some(view.clone());
                return Some(view);
            }
            self.changed().await;
        }
    }

    /// Waits until the job may have changed.
    async fn changed(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let change = async {
            loop {
                match watch.next().await {
                    Ok(change) if changed_job(&change).as_ref() == Some(&self.job) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        if let Ok(false) = tokio::time::timeout(LOOK_EVERY, change).await {
            self.watch = None;
        }
    }
}
