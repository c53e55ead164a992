//! Incidents as clients see them, and what clients say about them.

use farshore_core::incident::Incident;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::HealthState;

/// An incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentView {
    /// Its name.
    pub id: String,
    /// `machine/web-1`, `region/paris` or `service`.
    pub subject: String,
    /// Short and stable, for programs; `reported` when a person opened it.
    pub cause: String,
    /// How bad it is, or was last.
    pub severity: HealthState,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub advice: Option<String>,
    /// When it began.
    pub opened_at: String,
    /// When it ended, if it has.
    pub closed_at: Option<String>,
    /// What happened, oldest first.
    pub history: Vec<IncidentChangeView>,
}

/// One entry of an incident's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentChangeView {
    /// When.
    pub at: String,
    /// Who: a person, or `control-plane`.
    pub who: String,
    /// What.
    pub what: String,
}

impl From<&Incident> for IncidentView {
    fn from(incident: &Incident) -> Self {
        let history = incident.history.iter().map(|change| IncidentChangeView {
            at: change.at.to_string(),
            who: change.who.clone(),
            what: change.what.clone(),
        });
        Self {
            id: incident.id.clone(),
            subject: incident.subject.clone(),
            cause: incident.cause.clone(),
            severity: incident.severity.into(),
            text: incident.text.clone(),
            advice: incident.advice.clone(),
            opened_at: incident.opened_at.to_string(),
            closed_at: incident.closed_at.map(|at| at.to_string()),
            history: history.collect(),
        }
    }
}

/// Opens an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IncidentRequest {
    /// `machine/web-1`, `region/paris` or `service`; `service` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How bad it is; a warning if absent.
    #[serde(default)]
    pub severity: SeverityWord,
    /// What is wrong.
    pub text: String,
}

/// How bad an incident is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SeverityWord {
    /// It works, and somebody should look at it.
    #[default]
    Warning,
    /// It does not work.
    Unhealthy,
}

/// What is new about an incident, or how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IncidentMessage {
    /// In a person's words.
    pub text: String,
}
