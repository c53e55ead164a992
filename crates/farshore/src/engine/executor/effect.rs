//! Performs the effect of one step and looks whether it happened.

use std::time::Duration;

use farshore_core::ids::{Region, StepKey};
use farshore_core::job::{Act, Does, Expect, Half, Happened, Job, Milestone};
use farshore_core::workload::{Action, ExecutorClaim, Observation, OnlyIf, Order, StepError};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Driver, Stop};
use crate::engine::book::At;
use crate::engine::milestone::region_to_see;
use crate::engine::no_answer;

/// How long one question to a region that is being waited out may take.
const FENCE_CALL_DEADLINE: Duration = Duration::from_secs(3);

/// How an attempt ended.
enum Verdict {
    /// Seen; with what the step's milestone needs.
    Holds(Option<Box<Observation>>),
    /// Not seen.
    Failed { what: String, fatal: bool },
    /// The job's record was changed meanwhile.
    Changed,
}

/// What one look at the expected effect gave.
enum Look {
    Holds,
    NotYet(String),
}

impl Driver<'_> {
    pub(super) async fn perform(
        &self,
        job: &At<Job>,
        step: usize,
        half: Half,
        act: &Act,
        key: &StepKey,
    ) -> Result<At<Job>, Stop> {
        let name = job.value.steps[step].name.clone();
        let verdict = match &act.does {
            Does::Record { milestone } => self.see(job, *milestone).await,
            Does::Wait => self.wait(job, &act.expect, Deadline::of(job, step)).await,
            Does::Order { region, token, action, lease } => {
                let (item, token, action) = (job.value.item.clone(), *token, action.clone());
                let by = Some(ExecutorClaim { job: job.value.id.clone(), epoch: job.value.executor_epoch });
                let order = Order { key: key.clone(), item, token, action, only_if: None, lease: *lease, by };
                let waited_out = job.value.steps[step].wait_out_ms.filter(|_| half == Half::Do);
                if let Some(ms) = waited_out {
                    let verdict =
                        self.wait_out(job, region, &order, &act.expect, Duration::from_millis(ms)).await?;
                    return self.conclude(job, &name, half, verdict).await;
                }
                self.order(job, region, &order, &act.expect, Deadline::of(job, step)).await?
            }
        };
        self.conclude(job, &name, half, verdict).await
    }

    async fn conclude(
        &self,
        job: &At<Job>,
        name: &str,
        half: Half,
        verdict: Verdict,
    ) -> Result<At<Job>, Stop> {
        let name = name.to_owned();
        match verdict {
            Verdict::Changed => self.reload(job).await,
            Verdict::Holds(sight) => {
                self.crash_point(&job.value, "after-verified")?;
                self.record(job, &Happened::Verified { step: name, half }, sight.as_deref()).await
            }
            Verdict::Failed { what, fatal } => {
                let failed = Happened::AttemptFailed { step: name, half, what, fatal };
                self.record(job, &failed, None).await
            }
        }
    }

    /// Looks at what the milestone will tell of.
    async fn see(&self, job: &At<Job>, milestone: Milestone) -> Verdict {
        let item = match self.inner.book.item(&job.value.item).await {
            Ok(item) => item,
            Err(error) => return Verdict::Failed { what: error.to_string(), fatal: false },
        };
        let region = item.and_then(|item| region_to_see(milestone, &item.value));
        let Some(region) = region else { return Verdict::Holds(None) };
        match self.inner.observe(&region, &job.value.item).await {
            Ok(seen) => Verdict::Holds(Some(Box::new(seen))),
            Err(error) => Verdict::Failed { what: format!("{region}: {error}"), fatal: false },
        }
    }

    /// Gives the order and looks whether it was done. A patient step's order is given again until it is answered.
    async fn order(
        &self,
        job: &At<Job>,
        region: &Region,
        order: &Order,
        expect: &Expect,
        deadline: Deadline,
    ) -> Result<Verdict, Stop> {
        let mut attempt = 1;
        let order = &self.bound(job, region, order).await?;
        let error = loop {
            let answer = tokio::select! {
                answer = self.act(region, order, deadline) => answer,
                () = self.changed(job), if order.action == Action::Drain => return Ok(Verdict::Changed),
            };
            self.crash_point(&job.value, "after-act")?;
            let Err(error) = answer else { return Ok(self.wait(job, expect, deadline).await) };
            let again = deadline.is_none() && matches!(error, StepError::Retry { .. });
            if !again || self.happened_anyway(job, order, expect, &error).await {
                break error;
            }
            attempt += 1;
            tokio::select! {
                () = tokio::time::sleep(self.pause_before(attempt)) => {}
                () = self.changed(job) => return Ok(Verdict::Changed),
            }
        };
        if self.happened_anyway(job, order, expect, &error).await {
            return Ok(Verdict::Holds(None));
        }
        let fatal = !matches!(error, StepError::Retry { .. });
        Ok(Verdict::Failed { what: format!("{region}: {error}"), fatal })
    }

    /// A right to serve is given to the agent as it was seen before the claim was looked at once more: neither a later start
    /// of the agent nor an executor that was paused meanwhile can bring it to life again.
    async fn bound(&self, job: &At<Job>, region: &Region, order: &Order) -> Result<Order, Stop> {
        let mut order = order.clone();
        if order.action == Action::Serve
            && let Ok(seen) = self.inner.observe(region, &order.item).await
        {
            self.reload(job).await?;
            order.only_if = Some(OnlyIf { role: None, start: seen.start });
        }
        Ok(order)
    }

    /// Asks again and again, until the region has answered or must have stopped by itself. The wait starts here and not when
    /// the step was first begun: an executor that takes over has only its own clock to go by.
    async fn wait_out(
        &self,
        job: &At<Job>,
        region: &Region,
        order: &Order,
        expect: &Expect,
        wait: Duration,
    ) -> Result<Verdict, Stop> {
        let over = Instant::now() + wait;
        let mut last = String::new();
        let mut changed = std::pin::pin!(self.changed(job));
        loop {
            let attempt = Deadline(Some(over.min(Instant::now() + FENCE_CALL_DEADLINE)));
            match self.act(region, order, attempt).await {
                Ok(()) => {
                    if matches!(self.look(job, expect).await, Look::Holds) {
                        return Ok(Verdict::Holds(None));
                    }
                }
                Err(StepError::Fenced { current }) => {
                    let what =
                        format!("{region} knows the higher token {current}: this failover is out of date");
                    return Ok(Verdict::Failed { what, fatal: true });
                }
                Err(error) => last = error.to_string(),
            }
            self.crash_point(&job.value, "after-act")?;
            if Instant::now() >= over {
                let what = format!(
                    "{region} did not answer ({last}); waited {wait:?}, after which it has stopped by itself"
                );
                return Ok(Verdict::Failed { what, fatal: false });
            }
            tokio::select! {
                () = tokio::time::sleep_until(over.min(Instant::now() + self.inner.options.poll_max)) => {}
                () = &mut changed => return Ok(Verdict::Changed),
            }
        }
    }

    async fn act(&self, region: &Region, order: &Order, deadline: Deadline) -> Result<(), StepError> {
        let limit = self.inner.options.act_deadline;
        let limit = deadline.left().map_or(limit, |left| left.min(limit));
        let gate = self.inner.gates.of(&order.item, region);
        match tokio::time::timeout(limit, gate.lock_owned()).await {
            Ok(turn) => self.inner.order(turn, region, order, limit).await,
            Err(_) => Err(no_answer(region, limit)),
        }
    }

    /// An order without an answer may have been carried out, and what is unknown there is gone: looks once. A changed
    /// point looks the same before and after, so that only the answer proves it; the order is then repeated under its key.
    async fn happened_anyway(
        &self,
        job: &At<Job>,
        order: &Order,
        expect: &Expect,
        error: &StepError,
    ) -> bool {
        let telling = !matches!(order.action, Action::ChangePoint { .. });
        let open = matches!(error, StepError::Retry { .. } | StepError::Unknown);
        telling && open && matches!(self.look(job, expect).await, Look::Holds)
    }

    async fn wait(&self, job: &At<Job>, expect: &Expect, deadline: Deadline) -> Verdict {
        let options = &self.inner.options;
        let mut pause = options.poll_first;
        // One for all rounds: it looks into the store less often than a round lasts.
        let mut changed = std::pin::pin!(self.changed(job));
        loop {
            let why = match self.look(job, expect).await {
                Look::Holds => return Verdict::Holds(None),
                Look::NotYet(why) => why,
            };
            if deadline.left().is_some_and(|left| left.is_zero()) {
                let what = format!("not done in time: {expect} was expected; {why}");
                return Verdict::Failed { what, fatal: false };
            }
            let pause_now = deadline.left().map_or(pause, |left| left.min(pause));
            tokio::select! {
                () = tokio::time::sleep(pause_now) => {}
                () = &mut changed => return Verdict::Changed,
            }
            pause = pause.mul_f64(1.5).min(options.poll_max);
        }
    }

    async fn look(&self, job: &At<Job>, expect: &Expect) -> Look {
        let regions = expect.regions();
        let looks = regions.iter().map(|region| self.inner.observe(region, &job.value.item));
        let mut seen = Vec::new();
        for (look, region) in join_all(looks).await.into_iter().zip(&regions) {
            match look {
                Ok(observation) => seen.push(Some(observation)),
                Err(StepError::Unknown) => seen.push(None),
                Err(error) => return Look::NotYet(format!("{region}: {error}")),
            }
        }
        if expect.holds(&seen) { Look::Holds } else { Look::NotYet(told(&regions, &seen)) }
    }
}

/// What was seen instead, for people.
fn told(regions: &[&Region], seen: &[Option<Observation>]) -> String {
    let one = |(region, seen): (&&Region, &Option<Observation>)| match seen {
        None => format!("{region} does not know the item"),
        Some(seen) => {
            let ready = if seen.ready { "" } else { ", not ready" };
            let warnings: String = seen.warnings.iter().map(|warning| format!("; {warning}")).collect();
            format!("{region} is {:?} under {}{ready}{warnings}", seen.role, seen.token)
        }
    };
    regions.iter().zip(seen).map(one).collect::<Vec<_>>().join("; ")
}

/// When the attempt is over; `None`: never.
#[derive(Clone, Copy)]
struct Deadline(Option<Instant>);

impl Deadline {
    fn of(job: &At<Job>, step: usize) -> Self {
        let seconds = job.value.steps[step].timeout_seconds;
        Self(seconds.map(|seconds| Instant::now() + Duration::from_secs(u64::from(seconds))))
    }
    fn is_none(self) -> bool {
        self.0.is_none()
    }
    fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }
}
