//! The management wire of an older service, so that tools that were made for it can list, show, scale, recover and migrate
//! apps. Served only where the node's configuration says `compat.mobile_services = true`.
//!
//! Read in this order: this file (which calls there are, who may use them, how errors look), `services` (how apps are shown, and
//! what is changed about them), `recovery` (recover and migrate), `applications` (removal, and the operations that it makes).
//! `xml` writes what the tools read as XML.
//!
//! Must always hold: nothing is possible here that is not possible through `/api/v1`, for nobody who may not do it there; these
//! calls are in no OpenAPI document, for their form is somebody else's.

mod applications;
mod recovery;
mod services;
mod xml;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use farshore_core::access::Right;
use serde_json::json;

use super::ApiState;
use super::access::Caller;
use super::body::By;
use super::problem::Problem;

/// What all calls about services begin with.
const SERVICES: &str = "/{subscription}/services/mobileservices/mobileservices";
/// Which regions there are.
const REGIONS: &str = "/{subscription}/services/mobileservices/regions";
/// A service with what belongs to it.
const APPLICATION: &str = "/{subscription}/applications/{application}";
/// What takes long.
const OPERATION: &str = "/{subscription}/operations/{id}";

/// All calls.
pub(super) fn routes() -> Router<ApiState> {
    let service = |rest: &str| format!("{SERVICES}/{{name}}{rest}");
    Router::new()
        .route(SERVICES, get(services::list))
        .route(&service(""), get(services::show))
        .route(&service("/recover"), post(recovery::recover))
        .route(&service("/migrate"), post(recovery::migrate).get(recovery::state))
        .route(&service("/scalesettings"), get(services::scale).put(services::set_scale))
        .route(&service("/settings"), get(services::settings).patch(services::set_settings))
        .route(&service("/regenerateKey"), post(services::regenerate))
        .route(&service("/keys"), put(services::set_key))
        .route(&service("/restart"), post(services::restart))
        .route(&service("/redeploy"), post(services::restart))
        .route(&service("/logs"), get(services::logs))
        .route(REGIONS, get(services::regions))
        .route(APPLICATION, get(applications::show).delete(applications::remove))
        .route(OPERATION, get(applications::operation))
}

/// Which right each call needs: that of the same act under `/api/v1`. Whoever removes an app that is still there must also be
/// allowed to remove apps, and whoever may not see keys is shown none.
pub(super) fn rights() -> Vec<((Method, String), Right)> {
    let service = |rest: &str| format!("{SERVICES}/{{name}}{rest}");
    vec![
        ((Method::GET, SERVICES.to_owned()), Right::Read),
        ((Method::GET, service("")), Right::Read),
        ((Method::POST, service("/recover")), Right::Operate),
        ((Method::POST, service("/migrate")), Right::Operate),
        ((Method::GET, service("/migrate")), Right::Read),
        ((Method::GET, service("/scalesettings")), Right::Read),
        ((Method::PUT, service("/scalesettings")), Right::Contribute),
        ((Method::GET, service("/settings")), Right::Contribute),
        ((Method::PATCH, service("/settings")), Right::Contribute),
        ((Method::POST, service("/regenerateKey")), Right::Contribute),
        ((Method::PUT, service("/keys")), Right::Contribute),
        ((Method::POST, service("/restart")), Right::Operate),
        ((Method::POST, service("/redeploy")), Right::Operate),
        ((Method::GET, service("/logs")), Right::Operate),
        ((Method::GET, REGIONS.to_owned()), Right::Read),
        ((Method::GET, APPLICATION.to_owned()), Right::Read),
        ((Method::DELETE, APPLICATION.to_owned()), Right::Operate),
        ((Method::GET, OPERATION.to_owned()), Right::Read),
    ]
}

/// Whether the path is one of these, also where its call does not exist.
fn is_wire(path: &str) -> bool {
    let mut parts = path.split('/').skip(2);
    matches!(
        (parts.next(), parts.next()),
        (Some("services"), Some("mobileservices")) | (Some("applications" | "operations"), Some(_))
    )
}

/// Errors as the tools print them, those of the checks before a call included.
pub(super) async fn in_their_words(request: Request, next: Next) -> Response {
    let wire = is_wire(request.uri().path());
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) if wire => told(&problem, response.headers().get("retry-after").cloned()),
        Some(problem) => {
            response.extensions_mut().insert(problem);
            response
        }
        None => response,
    }
}

fn told(problem: &Problem, retry_after: Option<HeaderValue>) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({"code": problem.code(), "message": problem.detail});
    let mut response = (status, Json(body)).into_response();
    if let Some(wait) = retry_after {
        response.headers_mut().insert("retry-after", wait);
    }
    response
}

/// Who asks, for calls whose body says nothing that changes what is asked.
struct Asker(By);

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(By { who: Caller::of(parts)?.name, idempotency: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_this_wire_answer_in_its_words() {
        for (path, expected) in [
            ("/sub/services/mobileservices/mobileservices", true),
            ("/sub/services/mobileservices/nothing", true),
            ("/sub/applications/todomobileservice", true),
            ("/sub/operations/1", true),
            ("/api/v1/items", false),
            ("/api/v1/apps/todo/migrate", false),
            ("/livez", false),
            ("/", false),
        ] {
            assert_eq!(is_wire(path), expected, "{path}");
        }
    }

    #[test]
    fn every_call_says_what_it_needs() {
        let rights = rights();
        assert_eq!(rights.len(), 18);
        let changes = rights.iter().filter(|((method, _), _)| *method != Method::GET);
        assert!(changes.clone().all(|(_, right)| *right > Right::Read) && changes.count() == 9);
    }
}
