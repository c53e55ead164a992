//! Who may ask: whoever has the token of the cluster's token file.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header::AUTHORIZATION};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

use super::ApiState;
use super::problem::Problem;

/// A token's hash: the token itself is not kept.
#[derive(Clone)]
pub(super) struct TokenHash([u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

impl TokenHash {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.trim().as_bytes()).into())
    }

    /// Takes the same time for every token of the same length.
    fn accepts(&self, token: &str) -> bool {
        Self::of(token).0.ct_eq(&self.0).into()
    }
}

/// Lets through what carries the token.
pub(super) async fn require_token(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let sent = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = sent
        .and_then(|value| value.split_once(' '))
        .and_then(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer").then_some(token));
    let detail = match token {
        Some(token) if state.token.accepts(token) => return next.run(request).await,
        Some(_) => "this token is not the one of this cluster: use the token file that `farshore up` printed",
        None => "send the token of the cluster's token file: Authorization: Bearer TOKEN",
    };
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorised", detail).into_response()
}
