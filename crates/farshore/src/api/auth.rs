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
use crate::access::NotAdmitted;
use crate::access::keys::Holder;
use crate::serve::PeerTls;
use crate::trust::fingerprint;

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
    let holder = holder(state, head, address).await?;
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

/// Who has the token, or the certificate that goes with one.
async fn holder(state: &ApiState, head: &Parts, address: IpAddr) -> Result<Holder, Response> {
    let admitted = match (bearer(&head.headers), certificate(head)) {
        (Some(text), _) => state.keys.admit(text, address).await,
        (None, Some(shown)) => state.keys.admit_by_certificate(&shown, address).await,
        (None, None) => return Err(unauthorised("send a token: Authorization: Bearer TOKEN").into_response()),
    };
    admitted.map_err(|refused| match refused {
        NotAdmitted::TooMany { wait } => limits::too_often(&refused.to_string(), wait),
        NotAdmitted::Unreachable(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store", refused.to_string()).into_response()
        }
        NotAdmitted::Wrong(why) => unauthorised(&why).into_response(),
    })
}

fn unauthorised(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorised", detail)
}

/// The fingerprint of the certificate that the client showed in the handshake, which made sure that the cluster's authority
/// signed it and that the client has its key. Only the listener can put it there.
fn certificate(head: &Parts) -> Option<String> {
    let PeerTls(shown) = head.extensions.get()?;
    shown.as_deref().map(fingerprint)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}
