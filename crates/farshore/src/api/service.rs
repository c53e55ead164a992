//! What supervisors and monitoring ask: alive, ready, and the description of all this.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::ApiState;
use super::problem::{Problem, Refusals};
use super::views::VersionView;

/// The process runs.
#[utoipa::path(get, path = "/livez", tag = "service", security(()), responses((status = 200, body = String)))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// The control plane can answer: its store can be read.
#[utoipa::path(get, path = "/readyz", tag = "service", security(()), responses((status = 200, body = String), Refusals))]
pub(super) async fn readyz(State(state): State<ApiState>) -> Result<&'static str, Problem> {
    state.control.revision().await?;
    Ok("ok\n")
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "service", security(()),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn openapi(State(state): State<ApiState>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], state.document.to_string())
}

/// Which program answers, for which cluster.
#[utoipa::path(get, path = "/api/v1/version", tag = "service",
    security(("token" = ["read"])), responses((status = 200, body = VersionView), Refusals))]
pub(super) async fn version(State(state): State<ApiState>) -> Json<VersionView> {
    let cluster = state.control.meta().cluster.clone();
    Json(VersionView { version: env!("CARGO_PKG_VERSION").to_owned(), cluster })
}
