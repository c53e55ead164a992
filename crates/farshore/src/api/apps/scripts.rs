//! Scripts: archives that are uploaded and deployed, releases, and the way out again.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::super::ApiState;
use super::super::access::Caller;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{
    AppBegunView, AppDeployRequest, AppExportView, AppReleaseView, AppRollbackRequest, AppScriptsView,
    AppUploadRequest, AppUploadView,
};
use super::operations::{UnderWay, begin, begin_if};
use super::{KIND, plain, put, queried};

/// Longest body of an upload: a piece in base64; what one region takes from another at once is 2 MiB.
pub(in crate::api) const UPLOAD_LEN_MAX: usize = 1280 * 1024;
/// Longest piece of an archive.
const PIECE_LEN_MAX: usize = 768 * 1024;
/// Longest archive: scripts, not disks.
const ARCHIVE_LEN_MAX: u64 = 256 << 20;
/// Longest message of a release, for people.
const MESSAGE_LEN_MAX: usize = 1000;

#[derive(Deserialize)]
struct ReleasesAnswer {
    releases: Vec<AppReleaseView>,
}

/// Takes a piece of an archive (tar) that is to be deployed. Sending a piece again changes nothing.
#[utoipa::path(put, path = "/api/v1/apps/{name}/uploads/{upload}", tag = "apps",
    security(("token" = ["contribute"])), request_body = AppUploadRequest,
    params(("name" = String, Path), ("upload" = String, Path)),
    responses((status = 200, body = AppUploadView), Refusals))]
pub(super) async fn upload(
    State(state): State<ApiState>,
    Path((name, upload)): Path<(String, String)>,
    asked: Asked<AppUploadRequest, UPLOAD_LEN_MAX>,
) -> Result<Json<AppUploadView>, Problem> {
    let upload = plain("upload", &upload)?;
    let AppUploadRequest { offset, data } = asked.body;
    let piece = STANDARD
        .decode(&data)
        .map_err(|error| Problem::invalid(format!("data: it is no base64: {error}")))?;
    if piece.is_empty() || piece.len() > PIECE_LEN_MAX {
        return Err(Problem::invalid(format!("data: a piece has 1 to {PIECE_LEN_MAX} bytes")));
    }
    if offset.saturating_add(piece.len() as u64) > ARCHIVE_LEN_MAX {
        return Err(Problem::invalid(format!(
            "offset: an archive has at most {} MiB",
            ARCHIVE_LEN_MAX >> 20
        )));
    }
    let app = Paired::find(&state, KIND, &name).await?;
    if offset == 0 {
        app.audit(&asked.by.who, |app| format!("asked to upload an archive to {app}")).await?;
    }
    Ok(Json(app.ask_active(&json!({"ask": "upload", "id": upload, "offset": offset, "data": data})).await?))
}

/// Makes a release of an archive that was uploaded, and makes it live once it answers. A release that does not come up changes
/// nothing.
#[utoipa::path(post, path = "/api/v1/apps/{name}/deploy", tag = "apps",
    security(("token" = ["contribute"])), request_body = AppDeployRequest,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = AppBegunView, headers(("Location" = String))), Refusals))]
pub(super) async fn deploy(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<AppDeployRequest>,
) -> Result<UnderWay, Problem> {
    let AppDeployRequest { upload, message } = asked.body;
    plain("upload", &upload)?;
    if message.len() > MESSAGE_LEN_MAX {
        return Err(Problem::invalid(format!("message: at most {MESSAGE_LEN_MAX} bytes")));
    }
    let app = Paired::find(&state, KIND, &name).await?;
    let question = json!({"ask": "deploy", "upload": upload, "message": message, "by": asked.by.who});
    begin(&state, &app, asked.by, "deploy an archive to", &question).await
}

/// All releases, newest first.
#[utoipa::path(get, path = "/api/v1/apps/{name}/releases", tag = "apps",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = Vec<AppReleaseView>), Refusals))]
pub(super) async fn releases(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<AppReleaseView>>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    let ReleasesAnswer { mut releases } = app.ask_either(&json!({"ask": "releases"})).await?;
    releases.sort_by_key(|release| std::cmp::Reverse(release.number));
    Ok(Json(releases))
}

/// Makes an earlier release live again.
#[utoipa::path(post, path = "/api/v1/apps/{name}/rollback", tag = "apps",
    security(("token" = ["contribute"])), request_body = AppRollbackRequest,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = AppBegunView, headers(("Location" = String))), Refusals))]
pub(super) async fn rollback(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<AppRollbackRequest>,
) -> Result<UnderWay, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    let mut question = json!({"ask": "rollback"});
    put(&mut question, "to", asked.body.to);
    let exists = earlier(&app, asked.body.to);
    begin_if(&state, &app, asked.by, "go back to an earlier release of", &question, exists).await
}

fn is_earlier(release: &AppReleaseView, live: Option<u64>) -> bool {
    release.state == "ready" && release.kept != Some(false) && Some(release.number) < live
}

/// Whether there is a release to go back to.
async fn earlier(app: &Paired<'_>, to: Option<u64>) -> Result<(), Problem> {
    let ReleasesAnswer { releases } = app.ask_active(&json!({"ask": "releases"})).await?;
    let name = &app.item.id.name;
    let live = releases.iter().find(|release| release.state == "live").map(|release| release.number);
    let none = |what: String| Problem::not_found(format!("{what}: farshore app releases {name} lists them"));
    match to {
        Some(to) if live == Some(to) => {
            let detail = format!("release {to} of {} runs already", app.item.id);
            Err(Problem::new(StatusCode::CONFLICT, "not-possible", detail))
        }
        Some(to) if releases.iter().all(|release| release.number != to) => {
            Err(none(format!("{} has no release {to}", app.item.id)))
        }
        None if !releases.iter().any(|release| is_earlier(release, live)) => {
            Err(none(format!("{} has no earlier release to go back to", app.item.id)))
        }
        _ => Ok(()),
    }
}

/// Whether the files of the live release are those that were pushed, to the byte.
#[utoipa::path(get, path = "/api/v1/apps/{name}/scripts/check", tag = "apps",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = AppScriptsView), Refusals))]
pub(super) async fn check(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<AppScriptsView>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    Ok(Json(app.ask_active(&json!({"ask": "scripts-check"})).await?))
}

/// From where on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct From {
    /// Where the piece begins: ask with `next` of each answer.
    #[serde(default)]
    offset: u64,
    /// What is taken out: ask with `commit` of the first answer. Absent: begin, with what runs.
    commit: Option<String>,
}

/// A piece of an archive (tar) of the scripts as they were pushed last. All pieces of one commit make one archive, whoever else
/// asks for one meanwhile; one that nobody asks for within an hour is forgotten.
#[utoipa::path(get, path = "/api/v1/apps/{name}/scripts", tag = "apps",
    security(("token" = ["contribute"])), params(("name" = String, Path), From),
    responses((status = 200, body = AppExportView), Refusals))]
pub(super) async fn export(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    query: Result<Query<From>, QueryRejection>,
    caller: Caller,
) -> Result<Json<AppExportView>, Problem> {
    let From { offset, commit } = queried(query)?;
    if let Some(commit) = &commit {
        plain("commit", commit)?;
    } else if offset > 0 {
        return Err(Problem::invalid("offset: give commit, too, as the first answer names it"));
    }
    let app = Paired::find(&state, KIND, &name).await?;
    if offset == 0 {
        app.audit(&caller.name, |app| format!("asked for the scripts of {app}")).await?;
    }
    let mut question = json!({"ask": "export", "what": "scripts", "offset": offset});
    put(&mut question, "commit", commit);
    Ok(Json(app.ask_either(&question).await?))
}
