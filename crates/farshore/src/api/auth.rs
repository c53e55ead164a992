//! Who may ask, and what: the check that every guarded request passes before its body is read.

use std::net::IpAddr;

use axum::extract::{MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use farshore_core::access::Right;

use super::access::Caller;
use super::problem::Problem;
use super::{ApiState, limits};
use crate::access::Token;
use crate::access::keys::{Holder, Refused};
use crate::access::token::NoToken;

/// Lets through what carries a token whose role is enough for the route, and not too often.
pub(super) async fn require_right(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    match admit(&state, &head).await {
        Ok(caller) => {
            head.extensions.insert(caller);
            next.run(Request::from_parts(head, body)).await
        }
        Err(refusal) => refusal,
    }
}

async fn admit(state: &ApiState, head: &Parts) -> Result<Caller, Response> {
    let address = limits::address(&head.extensions);
    let busy = |wait| limits::too_often("too many requests", wait);
    state.limits.request(address).map_err(busy)?;
    let holder = holder(state, &head.headers, address).await?;
    state.limits.holder(&holder.name).map_err(busy)?;
    // Where nothing matched there is nothing to protect: whoever is known may learn that.
    let path = head.extensions.get::<MatchedPath>();
    let needed = path.map_or(Right::Read, |path| state.rights.needed(&head.method, path.as_str()));
    let stale = holder.stale;
    let caller = Caller::from(holder);
    caller.check(needed).map_err(|problem| {
        let route = path.map_or("", MatchedPath::as_str);
        tracing::info!(who = caller.name, method = %head.method, route, "refused: another role is needed");
        problem.into_response()
    })?;
    if stale && needed > Right::Read {
        return Err(read_only().into_response());
    }
    Ok(caller)
}

/// The store did not answer when the token was looked up, so nothing can be changed either.
fn read_only() -> Problem {
    let detail =
        "this node cannot reach the store, and answers only what it knows: ask another node, or try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store", detail)
}

/// Who has the token. From an address that sent too many wrong ones, only tokens at hand are taken: nothing is
/// compared with the bootstrap token, and the store is not asked.
async fn holder(state: &ApiState, headers: &HeaderMap, address: IpAddr) -> Result<Holder, Response> {
    let Some(text) = bearer(headers) else {
        return Err(unauthorised("send a token: Authorization: Bearer TOKEN").into_response());
    };
    let wait = state.limits.too_many_failures(address);
    if wait.is_none()
        && let Some(holder) = state.keys.bootstrap(text)
    {
        return Ok(holder);
    }
    let found = match (Token::parse(text), wait) {
        (Ok(token), None) => state.keys.look(&token).await,
        (Ok(token), Some(_)) => state.keys.at_hand(&token).unwrap_or(Err(Refused::Unknown)),
        (Err(NoToken::Mistyped), _) => {
            return Err(wrong(state, address, wait, &NoToken::Mistyped.to_string()));
        }
        (Err(NoToken::Foreign), _) => {
            let detail = "this token is not the one of this cluster: use one that an admin made, or the token file \
                          that `farshore up` printed";
            return Err(wrong(state, address, wait, detail));
        }
    };
    found.map_err(|refused| match refused {
        Refused::Unreachable { .. } => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store", refused.to_string()).into_response()
        }
        refused => wrong(state, address, wait, &refused.to_string()),
    })
}

/// Counts it, and says so; to an address that has sent too many, only that.
fn wrong(state: &ApiState, address: IpAddr, wait: Option<std::time::Duration>, detail: &str) -> Response {
    if let Some(wait) = wait {
        return limits::too_often("too many wrong tokens came from this address", wait);
    }
    tracing::info!(%address, "refused a token");
    state.limits.failed(address);
    unauthorised(detail).into_response()
}

fn unauthorised(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorised", detail)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}
