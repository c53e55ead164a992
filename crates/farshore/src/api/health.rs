//! Verdicts as clients see them: the worst finding wins.

use farshore_core::ids::Region;
use farshore_core::incident::Finding;
use farshore_core::job::Job;
use farshore_core::lifecycle::Item;
use farshore_core::verdict::Health;

use super::views::{HealthState, HealthView};
use crate::engine::{Control, advice};

/// How well a region is.
pub(super) fn of_region(control: &Control, name: &Region) -> HealthView {
    worst(&control.region_findings(name)).unwrap_or_else(|| healthy(None))
}

/// How well items are; what they have in common is looked up once.
pub(super) fn judge(control: &Control) -> impl Fn(&Item, Option<&Job>) -> HealthView + Send + use<> {
    let judge = control.judge_items();
    move |item, job| worst(&judge(item, job)).unwrap_or_else(|| healthy(advice(item)))
}

fn healthy(advice: Option<String>) -> HealthView {
    HealthView { state: HealthState::Healthy, reason: None, advice }
}

fn worst(findings: &[Finding]) -> Option<HealthView> {
    let worst = findings.first()?;
    Some(HealthView {
        state: worst.state.into(),
        reason: Some(worst.reason.clone()),
        advice: Some(worst.advice.clone()),
    })
}

impl From<Health> for HealthState {
    fn from(health: Health) -> Self {
        match health {
            Health::Healthy => Self::Healthy,
            Health::Unknown => Self::Unknown,
            Health::Warning => Self::Warning,
            Health::Unhealthy => Self::Unhealthy,
        }
    }
}
