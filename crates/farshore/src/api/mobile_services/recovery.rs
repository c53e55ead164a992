//! Recover and migrate: two spellings of one operation.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use farshore_core::ids::Name;
use serde::Deserialize;
use tokio::time::Instant;

use super::super::ApiState;
use super::super::problem::Problem;
use super::Asker;
use crate::migrate::record::{Migration, Phase};
use crate::migrate::{self, Asked};

/// A tool waits so long for a recovery; the recovery goes on all the same.
const RECOVER_WITHIN: Duration = Duration::from_secs(600);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Onto which service.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Onto {
    target_mobile_service: String,
}

/// Whose state.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Which {
    operation_id: String,
}

type OfService = Path<(String, String)>;

/// The tool has asked its operator before it calls: the call is the word that the region is down, where it does not answer at
/// that moment.
async fn begin(
    state: &ApiState,
    name: &str,
    onto: Result<Query<Onto>, QueryRejection>,
    who: &str,
) -> Result<Migration, Problem> {
    let Query(Onto { target_mobile_service }) = onto.map_err(|error| Problem::invalid(error.body_text()))?;
    let asked = Asked {
        primary: Name::parse(name)?,
        secondary: Name::parse(&target_mobile_service)?,
        force: false,
        source_is_down: true,
    };
    Ok(migrate::begin(&state.control, &asked, who, None).await?)
}

/// `200` with the id of the migration, which goes on.
pub(super) async fn migrate(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
    onto: Result<Query<Onto>, QueryRejection>,
    Asker(by): Asker,
) -> Result<String, Problem> {
    Ok(begin(&state, &name, onto, &by.who).await?.id)
}

/// `200` when it is done.
pub(super) async fn recover(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
    onto: Result<Query<Onto>, QueryRejection>,
    Asker(by): Asker,
) -> Result<StatusCode, Problem> {
    let id = begin(&state, &name, onto, &by.who).await?.id;
    let until = Instant::now() + RECOVER_WITHIN;
    loop {
        let found = migrate::find(&state.control, &id).await?;
        if let Some(why) =
            found.as_ref().filter(|migration| migration.stuck).and_then(|migration| migration.trouble.clone())
        {
            return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "migration-stuck", why));
        }
        match found.map(|migration| migration.phase) {
            Some(Phase::Completed) => return Ok(StatusCode::OK),
            Some(Phase::Failed { why, .. }) => {
                return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "migration-failed", why));
            }
            _ if Instant::now() >= until => {
                let detail = format!("the recovery goes on: see GET /api/v1/migrations/{id}");
                return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "still-running", detail));
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// `Running`, `Completed` or `Failed`.
pub(super) async fn state(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<&'static str, Problem> {
    let Query(Which { operation_id }) = which.map_err(|error| Problem::invalid(error.body_text()))?;
    let found = migrate::find(&state.control, &operation_id).await?;
    let Some(migration) = found.filter(|migration| migration.primary.as_str() == name) else {
        return Err(Problem::not_found(format!("{name} has no migration {operation_id:?}")));
    };
    Ok(match migration.phase {
        Phase::Completed => "Completed",
        Phase::Failed { .. } => "Failed",
        _ => "Running",
    })
}
