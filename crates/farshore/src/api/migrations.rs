//! Migrations of apps: previewed, begun, followed.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use farshore_core::ids::Name;
use serde::Deserialize;
use utoipa::IntoParams;

use super::ApiState;
use super::body::Asked;
use super::problem::{Problem, Refusals};
use super::views::{MigrateRequest, MigrationPreview, MigrationView};
use crate::migrate::record::Migration;
use crate::migrate::{self, app};

/// `202`: the migration is durable and under way.
#[derive(Debug)]
pub(super) struct Begun(MigrationView);

impl IntoResponse for Begun {
    fn into_response(self) -> Response {
        let location = format!("/api/v1/migrations/{}", self.0.id);
        (StatusCode::ACCEPTED, [(LOCATION, location)], Json(self.0)).into_response()
    }
}

/// Recovers the app onto the capacity of a secondary in another region. The app keeps its name, URL and keys; the secondary
/// is removed when the recovered app was found well.
#[utoipa::path(post, path = "/api/v1/apps/{name}/migrate", tag = "apps",
    security(("token" = ["operate"])), request_body = MigrateRequest,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = MigrationView, headers(("Location" = String))), Refusals))]
pub(super) async fn begin(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<MigrateRequest>,
) -> Result<Begun, Problem> {
    let MigrateRequest { secondary, force, source_is_down } = asked.body;
    let wanted = migrate::Asked {
        primary: Name::parse(&name)?,
        secondary: Name::parse(&secondary)?,
        force,
        source_is_down,
    };
    let key = asked.by.idempotency.map(|idempotency| idempotency.key);
    let migration = migrate::begin(&state.control, &wanted, &asked.by.who, key.as_deref()).await?;
    Ok(Begun(view(&state, &migration).await?))
}

/// What would be migrated.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Onto {
    /// The app whose capacity would be used.
    secondary: String,
    /// Also when the app is healthy.
    #[serde(default)]
    force: bool,
}

/// What a migration would do, or the rule that it would break. Changes nothing.
#[utoipa::path(get, path = "/api/v1/apps/{name}/migrate", tag = "apps",
    security(("token" = ["read"])), params(("name" = String, Path), Onto),
    responses((status = 200, body = MigrationPreview), Refusals))]
pub(super) async fn preview(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    onto: Result<Query<Onto>, QueryRejection>,
) -> Result<Json<MigrationPreview>, Problem> {
    let Query(Onto { secondary, force }) = onto.map_err(|error| Problem::invalid(error.body_text()))?;
    let wanted = migrate::Asked {
        primary: Name::parse(&name)?,
        secondary: Name::parse(&secondary)?,
        force,
        source_is_down: false,
    };
    let preview = migrate::preview(&state.control, &wanted).await?;
    Ok(Json(MigrationPreview::new(&name, &secondary, &preview)))
}

/// All migrations, oldest first.
#[utoipa::path(get, path = "/api/v1/migrations", tag = "apps",
    security(("token" = ["read"])), responses((status = 200, body = Vec<MigrationView>), Refusals))]
pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<MigrationView>>, Problem> {
    let mut views = Vec::new();
    for migration in migrate::list(&state.control).await? {
        views.push(view(&state, &migration).await?);
    }
    Ok(Json(views))
}

/// One migration.
#[utoipa::path(get, path = "/api/v1/migrations/{id}", tag = "apps",
    security(("token" = ["read"])), params(("id" = String, Path)),
    responses((status = 200, body = MigrationView), Refusals))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<MigrationView>, Problem> {
    let Some(migration) = migrate::find(&state.control, &id).await? else {
        let detail = format!("there is no migration {id:?}: farshore app migrations lists them");
        return Err(Problem::not_found(detail));
    };
    Ok(Json(view(&state, &migration).await?))
}

async fn view(state: &ApiState, migration: &Migration) -> Result<MigrationView, Problem> {
    let primary = state.control.item(&app(&migration.primary)).await?;
    Ok(MigrationView::new(migration, primary.as_ref()))
}
