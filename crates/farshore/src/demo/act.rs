//! What the acts have in common: the stage, the way to Farshore, and the record of steps and their checks.

use std::time::{Duration, Instant};

use super::client::{Broken, Client};
use super::report::{Lost, Report, StepReport, seconds};
use super::stage::Stage;
use crate::config::StoreKind;

/// Longer than a client tries to recover, and than a busy machine takes for devices that all come at once: one that does not is found out.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether it came to hold in time.
pub(super) async fn wait(mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// An act that is being played.
pub(super) struct Act<'a> {
    pub(super) stage: &'a mut Stage,
    pub(super) api: Client,
    pub(super) is_etcd: bool,
    steps: Vec<StepReport>,
    failures: Vec<String>,
    began: Instant,
    checks: Vec<(bool, String)>,
}

impl<'a> Act<'a> {
    /// Before the first step, which began when the regions were started.
    pub(super) fn new(stage: &'a mut Stage, store: StoreKind, began: Instant) -> Result<Self, Broken> {
        let api = stage.client()?;
        let is_etcd = store == StoreKind::Etcd;
        Ok(Self { stage, api, is_etcd, steps: Vec::new(), failures: Vec::new(), began, checks: Vec::new() })
    }

    pub(super) fn begin(&mut self, what: &str) {
        self.stage.says(what);
        self.began = Instant::now();
        self.checks.clear();
    }

    pub(super) fn check(&mut self, held: bool, what: impl Into<String>) {
        self.checks.push((held, what.into()));
    }

    /// Every check of this step so far.
    pub(super) fn all_held(&self) -> bool {
        self.checks.iter().all(|(held, _)| *held)
    }

    pub(super) fn end(&mut self, step: &'static str, rpo: Option<Lost>, rto: Option<f64>, note: &str) {
        let verified = (!self.checks.is_empty()).then(|| self.all_held());
        let failed = self.checks.iter().filter(|(held, _)| !held).map(|(_, what)| format!("{step}: {what}"));
        self.failures.extend(failed);
        self.checks.clear();
        let line = StepReport {
            step,
            seconds: seconds(self.began.elapsed()),
            rpo,
            rto_seconds: rto,
            verified,
            note: note.to_owned(),
        };
        self.stage.did(&line);
        self.steps.push(line);
    }

    /// A step could not be played to its end; nothing can follow.
    pub(super) fn break_off(&mut self, why: &Broken) {
        self.failures.push(why.to_string());
        self.end("the story broke off", None, None, &why.to_string());
    }

    /// Whether every check of every step since `step` held.
    pub(super) fn is_verified_since(&self, step: usize) -> bool {
        self.steps.iter().skip(step).all(|step| step.verified != Some(false))
    }

    /// How many steps were played.
    pub(super) fn played(&self) -> usize {
        self.steps.len()
    }

    /// Puts the steps into the report, and the verdict.
    pub(super) fn close(self, report: &mut Report) {
        let all = self.is_verified_since(0);
        report.verified = self.failures.is_empty() && all;
        report.steps = self.steps;
        report.failures = self.failures;
    }
}
