//! The directory: name to active endpoint.

use axum::Json;
use axum::extract::{Path, State};

use super::ApiState;
use super::items::known;
use super::problem::{Problem, Refusals};
use super::views::DirectoryView;
use crate::engine::directory_name;

/// All names.
#[utoipa::path(get, path = "/api/v1/directory", tag = "directory",
    security(("token" = ["read"])),
    responses((status = 200, body = Vec<DirectoryView>), Refusals))]
pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<DirectoryView>>, Problem> {
    Ok(Json(state.control.directory_all().await?.iter().map(Into::into).collect()))
}

/// Where clients of a name go now: `web-1.machine`.
#[utoipa::path(get, path = "/api/v1/directory/{name}", tag = "directory",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = DirectoryView), Refusals))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<DirectoryView>, Problem> {
    // A name is a part of a key in the store.
    let plausible =
        name.len() <= 100 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    if plausible && let Some(record) = state.control.directory(&name).await? {
        return Ok(Json((&record).into()));
    }
    let all = state.control.directory_all().await?;
    let known = known("name", "names", all.iter().map(|record| directory_name(&record.item)));
    Err(Problem::not_found(format!("the directory has no name {name:?}; {known}")))
}
