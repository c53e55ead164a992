//! Databases: backups, which are proved by restoring them, restores beside the one in use, and another database.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::json;

use super::super::ApiState;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{
    AppBackupView, AppBegunView, AppDatabaseBrief, AppDatabaseRequest, AppRestoreRequest, NoParameters,
};
use super::operations::{UnderWay, begin, begin_if};
use super::{KIND, plain, put};

#[derive(Deserialize)]
struct BackupsAnswer {
    backups: Vec<AppBackupView>,
}

#[derive(Deserialize)]
struct DatabasesAnswer {
    databases: Vec<AppDatabaseBrief>,
}

/// Backups that are kept, oldest first. The other region has them, too.
#[utoipa::path(get, path = "/api/v1/apps/{name}/backups", tag = "apps",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = Vec<AppBackupView>), Refusals))]
pub(super) async fn backups(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<AppBackupView>>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    let BackupsAnswer { mut backups } = app.ask_either(&json!({"ask": "backups"})).await?;
    backups.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(Json(backups))
}

/// Takes a backup now, and proves it by restoring it.
#[utoipa::path(post, path = "/api/v1/apps/{name}/backups", tag = "apps",
    security(("token" = ["operate"])), request_body = NoParameters,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = AppBegunView, headers(("Location" = String))), Refusals))]
pub(super) async fn back_up(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<NoParameters>,
) -> Result<UnderWay, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    begin(&state, &app, asked.by, "take a backup of", &json!({"ask": "backup-now"})).await
}

/// Proves a backup by restoring it into a scratch place.
#[utoipa::path(post, path = "/api/v1/apps/{name}/backups/{backup}/verify", tag = "apps",
    security(("token" = ["operate"])), request_body = NoParameters,
    params(("name" = String, Path), ("backup" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = AppBegunView, headers(("Location" = String))), Refusals))]
pub(super) async fn verify(
    State(state): State<ApiState>,
    Path((name, backup)): Path<(String, String)>,
    asked: Asked<NoParameters>,
) -> Result<UnderWay, Problem> {
    let backup = plain("backup", &backup)?;
    let app = Paired::find(&state, KIND, &name).await?;
    let what = format!("verify the backup {backup} of");
    let question = json!({"ask": "backup-verify", "id": backup});
    begin_if(&state, &app, asked.by, &what, &question, there_is(&app, Some(backup))).await
}

/// Whether the app has the backup, or any that is whole if none is named.
async fn there_is(app: &Paired<'_>, backup: Option<&str>) -> Result<(), Problem> {
    let BackupsAnswer { backups } = app.ask_active(&json!({"ask": "backups"})).await?;
    let (id, name) = (&app.item.id, &app.item.id.name);
    let detail = match backup {
        Some(backup) if backups.iter().any(|known| known.id == backup) => return Ok(()),
        None if backups.iter().any(|known| known.ok == Some(true)) => return Ok(()),
        Some(backup) => format!("{id} has no backup {backup}: farshore app backup list {name} lists them"),
        None => format!(
            "{id} has no backup that is whole: farshore app backup list {name} lists them, farshore app backup now {name} takes one"
        ),
    };
    Err(Problem::not_found(detail))
}

/// The databases that the app has, and those that it had.
#[utoipa::path(get, path = "/api/v1/apps/{name}/databases", tag = "apps",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = Vec<AppDatabaseBrief>), Refusals))]
pub(super) async fn databases(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<AppDatabaseBrief>>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    let DatabasesAnswer { databases } = app.ask_active(&json!({"ask": "databases"})).await?;
    Ok(Json(databases))
}

/// Restores a backup into a new database; the one in use is not touched.
#[utoipa::path(post, path = "/api/v1/apps/{name}/restore", tag = "apps",
    security(("token" = ["operate"])), request_body = AppRestoreRequest,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = AppBegunView, headers(("Location" = String))), Refusals))]
pub(super) async fn restore(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<AppRestoreRequest>,
) -> Result<UnderWay, Problem> {
    let AppRestoreRequest { backup, to } = asked.body;
    let to = plain("to", &to)?;
    let backup = backup.as_deref().map(|backup| plain("backup", backup)).transpose()?;
    let app = Paired::find(&state, KIND, &name).await?;
    let mut question = json!({"ask": "restore", "to": to});
    put(&mut question, "backup", backup);
    let what = format!("restore a backup into the new database {to} of");
    begin_if(&state, &app, asked.by, &what, &question, there_is(&app, backup)).await
}

/// Gives the app another database: it is verified first, then the app is started again with it; when it does not come up, it goes
/// back. The old one is given up: it is used again only by `force`.
#[utoipa::path(post, path = "/api/v1/apps/{name}/change-database", tag = "apps",
    security(("token" = ["contribute"])), request_body = AppDatabaseRequest,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = AppBegunView, headers(("Location" = String))), Refusals))]
pub(super) async fn change(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<AppDatabaseRequest>,
) -> Result<UnderWay, Problem> {
    let AppDatabaseRequest { to, backup, url, force } = asked.body;
    let of_backup = backup.clone();
    let (what, mut question) = match (to, backup, url) {
        (None, _, _) if force => return Err(Problem::invalid("force: it goes with to")),
        (Some(to), None, None) => {
            plain("to", &to)?;
            (format!("give the database {to} to"), json!({"ask": "change-database", "to": to}))
        }
        (None, Some(backup), None) => {
            plain("backup", &backup)?;
            (
                format!("give a database made of the backup {backup} to"),
                json!({"ask": "change-database", "backup": backup}),
            )
        }
        (None, None, Some(url)) => {
            check_url(&url)?;
            (
                "give a database on a server of its own to".to_owned(),
                json!({"ask": "change-database", "url": url}),
            )
        }
        _ => return Err(Problem::invalid("give one of to, backup and url")),
    };
    put(&mut question, "force", force.then_some(true));
    let app = Paired::find(&state, KIND, &name).await?;
    let exists = async {
        match &of_backup {
            Some(backup) => there_is(&app, Some(backup)).await,
            None => Ok(()),
        }
    };
    begin_if(&state, &app, asked.by, &what, &question, exists).await
}

/// Never repeated: a password may be in it.
fn check_url(url: &str) -> Result<(), Problem> {
    /// Longer ones are none.
    const LEN_MAX: usize = 2048;
    let known = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    match known && url.len() <= LEN_MAX && url.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(Problem::invalid("url: write postgres://USER:PASSWORD@HOST:PORT/DATABASE")),
    }
}
