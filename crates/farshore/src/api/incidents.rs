//! Incidents: what was wrong, from when to when, and what people say about it.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use farshore_core::verdict::Health;
use serde::Deserialize;
use utoipa::IntoParams;

use super::ApiState;
use super::body::Asked;
use super::problem::{Problem, Refusals};
use super::views::{IncidentMessage, IncidentRequest, IncidentView, SeverityWord};
use crate::engine::{IncidentError, NewIncident};

/// Which incidents.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// `open` (as when absent) or `all`.
    state: Option<WhichState>,
}

/// Whether closed ones are asked for too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum WhichState {
    Open,
    All,
}

/// Incidents, oldest first.
#[utoipa::path(get, path = "/api/v1/incidents", tag = "incidents",
    security(("token" = ["read"])), params(Which),
    responses((status = 200, body = Vec<IncidentView>), Refusals))]
pub(super) async fn list(
    State(state): State<ApiState>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Vec<IncidentView>>, Problem> {
    let Query(Which { state: which }) = which.map_err(|error| Problem::invalid(error.body_text()))?;
    let incidents = state.control.incidents(which != Some(WhichState::All)).await?;
    Ok(Json(incidents.iter().map(Into::into).collect()))
}

/// One incident.
#[utoipa::path(get, path = "/api/v1/incidents/{id}", tag = "incidents",
    security(("token" = ["read"])), params(("id" = String, Path)),
    responses((status = 200, body = IncidentView), Refusals))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<IncidentView>, Problem> {
    Ok(Json((&state.control.incident(&id).await?).into()))
}

/// Opens an incident by hand; only a person closes it.
#[utoipa::path(post, path = "/api/v1/incidents", tag = "incidents",
    security(("token" = ["operate"])), request_body = IncidentRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = IncidentView), Refusals))]
pub(super) async fn open(
    State(state): State<ApiState>,
    asked: Asked<IncidentRequest>,
) -> Result<(StatusCode, Json<IncidentView>), Problem> {
    let IncidentRequest { subject, severity, text } = asked.body;
    let new = NewIncident {
        subject: subject.unwrap_or_else(|| "service".to_owned()),
        severity: match severity {
            SeverityWord::Warning => Health::Warning,
            SeverityWord::Unhealthy => Health::Unhealthy,
        },
        text,
        key: asked.by.idempotency.map(|idempotency| format!("{} {}", idempotency.key, idempotency.body_hash)),
    };
    let incident = state.control.open_incident(&new, &asked.by.who).await?;
    Ok((StatusCode::CREATED, Json((&incident).into())))
}

/// Adds a message to an open incident.
#[utoipa::path(post, path = "/api/v1/incidents/{id}/update", tag = "incidents",
    security(("token" = ["operate"])), request_body = IncidentMessage,
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = IncidentView), Refusals))]
pub(super) async fn update(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    asked: Asked<IncidentMessage>,
) -> Result<Json<IncidentView>, Problem> {
    let incident = state.control.update_incident(&id, &asked.body.text, &asked.by.who).await?;
    Ok(Json((&incident).into()))
}

/// Closes an incident; what is still wrong opens a new one.
#[utoipa::path(post, path = "/api/v1/incidents/{id}/close", tag = "incidents",
    security(("token" = ["operate"])), request_body = IncidentMessage,
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = IncidentView), Refusals))]
pub(super) async fn close(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    asked: Asked<IncidentMessage>,
) -> Result<Json<IncidentView>, Problem> {
    let incident = state.control.close_incident(&id, &asked.body.text, &asked.by.who).await?;
    Ok(Json((&incident).into()))
}

impl From<IncidentError> for Problem {
    fn from(error: IncidentError) -> Self {
        let detail = error.to_string();
        match error {
            IncidentError::NotFound { .. } => Self::not_found(detail),
            IncidentError::Closed { .. } => Self::new(StatusCode::CONFLICT, "closed", detail),
            IncidentError::Invalid { .. } => Self::invalid(detail),
            IncidentError::Unavailable { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "store", detail),
        }
    }
}
