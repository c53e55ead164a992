//! Tokens: made, listed, revoked; and who asks.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::ApiState;
use super::access::Caller;
use super::body::Asked;
use super::problem::{Problem, Refusals};
use super::views::{NewTokenView, NoParameters, TokenRequest, TokenView, WhoamiView};
use crate::access::{Token, certificate};
use crate::engine::now;
use crate::engine::tokens::{NewToken, VALID_DEFAULT};

/// Who the token's holder is, and what the holder may do.
#[utoipa::path(get, path = "/api/v1/whoami", tag = "access",
    security(("token" = ["read"])),
    responses((status = 200, body = WhoamiView), Refusals))]
pub(super) async fn whoami(caller: Caller) -> Json<WhoamiView> {
    let (token, expires_at) = caller.token.unzip();
    Json(WhoamiView {
        name: caller.name,
        role: caller.role.into(),
        token,
        expires_at: expires_at.map(|at| at.to_string()),
    })
}

/// All tokens, without their secrets; also those that ended in the last thirty days.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "access",
    security(("token" = ["administer"])),
    responses((status = 200, body = Vec<TokenView>), Refusals))]
pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<TokenView>>, Problem> {
    let mut records = state.control.tokens().await?;
    records.sort_by(|a, b| (&a.name, a.created_at).cmp(&(&b.name, b.created_at)));
    let now = now();
    Ok(Json(records.iter().map(|record| TokenView::new(record, now)).collect()))
}

/// Makes a token. Its secret is in this answer and nowhere else: where the answer was lost, a repeat is refused, and the
/// token is to be revoked and made again.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "access",
    security(("token" = ["administer"])), request_body = TokenRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = NewTokenView), Refusals))]
pub(super) async fn create(
    State(state): State<ApiState>,
    asked: Asked<TokenRequest>,
) -> Result<(StatusCode, Json<NewTokenView>), Problem> {
    if let Some(repeated) = &asked.by.idempotency {
        // A repeat of the same request is told by the name, which is taken then.
        state.steered.earlier(repeated)?;
    }
    let TokenRequest { name, role, expires_in_seconds, certificate } = asked.body;
    let certificate = certificate
        .as_deref()
        .map(certificate::of_client)
        .transpose()
        .map_err(|why| Problem::invalid(format!("certificate: {why}")))?;
    let valid_for = expires_in_seconds.map_or(VALID_DEFAULT, Duration::from_secs);
    let token = Token::generate()
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no-random", error.to_string()))?;
    let new = NewToken { name, role: role.into(), valid_for, certificate };
    let record = state.control.create_token(&token, &new, &asked.by.who).await?;
    state.keys.note_written(&record);
    if let Some(done) = asked.by.idempotency {
        state.steered.remember(done);
    }
    let view = NewTokenView { secret: token.reveal().to_owned(), token: TokenView::new(&record, now()) };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Takes a token back: at once here, at every other node within four seconds. Again, it changes nothing.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "access",
    security(("token" = ["administer"])), request_body = NoParameters,
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = TokenView), Refusals))]
pub(super) async fn revoke(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    asked: Asked<NoParameters>,
) -> Result<Json<TokenView>, Problem> {
    let record = state.control.revoke_token(&id, &asked.by.who).await?;
    state.keys.note_written(&record);
    Ok(Json(TokenView::new(&record, now())))
}
