//! An item whose regions are asked about what only its kind has.
//!
//! Must always hold: whoever is shown a secret, or changes one, is in the audit before it is shown; no secret is in the
//! audit, in a job, in the store or in a log.

use axum::http::StatusCode;
use farshore_core::ids::{ItemId, Region};
use farshore_core::lifecycle::Item;
use farshore_core::workload::StepError;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ApiState;
use super::items::find;
use super::problem::Problem;

/// An item that there is.
pub(super) struct Paired<'a> {
    state: &'a ApiState,
    pub(super) item: Item,
}

impl<'a> Paired<'a> {
    pub(super) async fn find(state: &'a ApiState, kind: &str, name: &str) -> Result<Self, Problem> {
        Ok(Self { state, item: find(&state.control, kind, name).await? })
    }

    /// One that was found already.
    pub(super) fn of(state: &'a ApiState, item: Item) -> Self {
        Self { state, item }
    }

    /// The regions that it has; the active one comes first.
    pub(super) fn pair(&self) -> impl Iterator<Item = &Region> {
        std::iter::once(&self.item.source).chain(&self.item.target)
    }

    /// One of its regions; the active one when none is named.
    pub(super) fn region(&self, name: Option<&str>) -> Result<&Region, Problem> {
        let Some(name) = name else { return Ok(&self.item.source) };
        self.pair().find(|region| region.as_str() == name).ok_or_else(|| {
            let regions: Vec<&str> = self.pair().map(Region::as_str).collect();
            Problem::invalid(format!(
                "region: {} is not in {name:?}; it is in {}",
                self.item.id,
                regions.join(" and ")
            ))
        })
    }

    /// `what` is given the item's name.
    pub(super) async fn audit(&self, who: &str, what: impl FnOnce(&ItemId) -> String) -> Result<(), Problem> {
        let id = &self.item.id;
        Ok(self.state.control.note_in_audit(who, &what(id), id).await?)
    }

    pub(super) async fn ask_active<T: DeserializeOwned>(&self, question: &Value) -> Result<T, Problem> {
        self.ask_in(&self.item.source, question).await
    }

    /// What both regions know is asked of the other one when the active one does not answer.
    pub(super) async fn ask_either<T: DeserializeOwned>(&self, question: &Value) -> Result<T, Problem> {
        let first = self.ask_active(question).await;
        let silent = |problem: &Problem| problem.status == StatusCode::SERVICE_UNAVAILABLE.as_u16();
        match (first, &self.item.target) {
            (Err(problem), Some(target)) if silent(&problem) => {
                self.ask_in(target, question).await.map_err(|_| problem)
            }
            (first, _) => first,
        }
    }

    pub(super) async fn ask_in<T: DeserializeOwned>(
        &self,
        region: &Region,
        question: &Value,
    ) -> Result<T, Problem> {
        let answer = self.state.control.ask(region, &self.item.id, question).await;
        let answer = answer.map_err(|error| self.problem(region, &error))?;
        // What was not understood is not repeated: it may be a secret.
        serde_json::from_value(answer).map_err(|_| {
            let detail = format!(
                "region {region} gave an answer that is not known here: are all nodes of one version?"
            );
            Problem::new(StatusCode::BAD_GATEWAY, "bad-answer", detail)
        })
    }

    fn problem(&self, region: &Region, error: &StepError) -> Problem {
        let id = &self.item.id;
        match error {
            StepError::Retry { what } => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "region-unreachable", what.clone())
            }
            StepError::Fatal { what } => Problem::new(StatusCode::CONFLICT, "not-possible", what.clone()),
            StepError::Fenced { .. } | StepError::Unknown => {
                let detail = format!("region {region} does not have {id} now: see farshore status {id}");
                Problem::new(StatusCode::CONFLICT, "not-there", detail)
            }
        }
    }
}
