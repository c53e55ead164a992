//! Join tokens: how a person lets a host into the cluster.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use farshore_core::ids::Region;

use super::ApiState;
use super::body::Asked;
use super::problem::{Problem, Refusals};
use super::views::{JoinTokenRequest, JoinTokenView};
use crate::engine::now;
use crate::trust::{NewToken, TOKEN_LIFE, TOKEN_LIFE_MAX};

/// Less is a mistake in the unit.
const LIFE_MIN: Duration = Duration::from_secs(60);

/// Makes a join token: one host can join with it, once. It is in this answer and nowhere else; a repeat makes another
/// one.
#[utoipa::path(post, path = "/api/v1/join-tokens", tag = "trust",
    security(("token" = ["administer"])), request_body = JoinTokenRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = JoinTokenView), Refusals))]
pub(super) async fn create(
    State(state): State<ApiState>,
    asked: Asked<JoinTokenRequest>,
) -> Result<(StatusCode, Json<JoinTokenView>), Problem> {
    let JoinTokenRequest { role, region, expires_in_seconds } = asked.body;
    let life = expires_in_seconds.map_or(TOKEN_LIFE, Duration::from_secs);
    if !(LIFE_MIN..=TOKEN_LIFE_MAX).contains(&life) {
        let detail = format!(
            "expires_in_seconds: a join token lives {} to {} seconds",
            LIFE_MIN.as_secs(),
            TOKEN_LIFE_MAX.as_secs()
        );
        return Err(Problem::invalid(detail));
    }
    let region = region.as_deref().map(Region::parse).transpose()?;
    let new = NewToken { role: role.into(), region, life };
    let made = state.control.join_tokens().create(&new, &asked.by.who, now()).await.map_err(|error| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store", format!("no token was made: {error}"))
    })?;
    let view = JoinTokenView {
        id: made.id,
        token: made.token,
        role,
        region: new.region.map(|region| region.to_string()),
        expires_at: made.expires_at.to_string(),
    };
    Ok((StatusCode::CREATED, Json(view)))
}
