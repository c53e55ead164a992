//! Who may ask, and what: the check that every guarded request passes before its body is read.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use farshore_core::access::Role;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

use super::ApiState;
use super::access::Caller;
use super::problem::Problem;

/// The name of whoever has the token of the node's `token_file`.
const BOOTSTRAP: &str = "bootstrap";

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

/// Lets through what carries a token whose role is enough for the route.
pub(super) async fn require_right(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match caller(&state, request.headers()) {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    // Where nothing matched there is nothing to protect: whoever is known may learn that.
    if let Some(path) = request.extensions().get::<MatchedPath>()
        && let Err(problem) = caller.check(state.rights.needed(request.method(), path.as_str()))
    {
        return problem.into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

fn caller(state: &ApiState, headers: &HeaderMap) -> Result<Caller, Problem> {
    let detail = match bearer(headers) {
        Some(token) if state.token.accepts(token) => {
            return Ok(Caller { name: BOOTSTRAP.to_owned(), role: Role::Admin });
        }
        Some(_) => "this token is not the one of this cluster: use the token file that `farshore up` printed",
        None => "send the token of the cluster's token file: Authorization: Bearer TOKEN",
    };
    Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorised", detail))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}
