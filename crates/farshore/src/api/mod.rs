//! The HTTP interface of the control plane. Whatever the CLI can do, it does through here.
//!
//! Read in this order: [`views`] (what goes over the wire), `problem` (errors), `access` (what each route needs: read it
//! before you add one), `limits`, `auth`, `body` (what is checked before a route runs), then a file per resource: `items`,
//! `verbs`, `jobs`, `events`, `regions`, `status`, `incidents`, `names`, `audit`, `tokens`, `join_tokens`, `paired` (asks an item's regions), `realtime`, `hubs`, `apps`, `migrations`, `service`, `metrics`; `mobile_services` (the wire of an older service, where it is asked for); `health` gives the verdicts that `status` and `items` show.
//!
//! Must always hold: a route exists if and only if it is in the OpenAPI document (both come from the same annotation), but for
//! those of `mobile_services`, whose form is not ours;
//! a request that is refused changes nothing; no answer holds the token.

#![expect(
    clippy::result_large_err,
    reason = "a refusal is rare and goes straight to the wire: boxing it buys nothing"
)]

pub mod views;

mod access;
mod apps;
mod audit;
mod auth;
mod body;
mod events;
mod health;
mod hubs;
mod incidents;
mod items;
mod jobs;
mod join_tokens;
mod limits;
mod metrics;
mod migrations;
mod mobile_services;
mod names;
mod paired;
mod problem;
mod realtime;
mod regions;
mod service;
mod status;
mod tokens;
mod verbs;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use problem::{PROBLEM_JSON, Problem};

use crate::access::keys::Keys;
use crate::engine::{Control, StoreState};

/// What every route has at hand.
#[derive(Debug, Clone)]
struct ApiState {
    control: Control,
    keys: Keys,
    limits: Arc<limits::Limits>,
    /// What each route needs.
    rights: Arc<access::Rights>,
    /// The OpenAPI document, as it is sent.
    document: Arc<str>,
    /// Answers to job verbs under an idempotency key.
    steered: Arc<jobs::Steered>,
    /// Files of identities that are in the audit already.
    noted: Arc<hubs::Noted>,
    /// What has begun under an idempotency key.
    begun: Arc<apps::Begun>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Farshore",
        description = "Disaster recovery for people who run their own regions. What takes time answers 202 with \
                       the job's address; every error is a problem detail (RFC 9457); every POST may carry an \
                       Idempotency-Key.",
        license(name = "Apache-2.0 OR MIT")
    ),
    security(("token" = []))
)]
struct Described;

/// The whole interface, for whoever has a token: one that was made here, or `token`, which opens everything. There is no
/// way to have it without: a `token` that is too short to be safe opens nothing.
///
/// Call it on a runtime: it reads tokens ahead until the engine is shut down.
pub fn router(control: Control, token: &str) -> Router {
    router_with(control, token, Compat::default())
}

/// What is served beside the interface itself, for tools that were made for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compat {
    /// The management wire of mobile services.
    pub mobile_services: bool,
}

/// As [`router`], with what `compat` says.
pub fn router_with(control: Control, token: &str, compat: Compat) -> Router {
    let (open, described) = open_routes().split_for_parts();
    let (guarded, document) = guarded_routes().split_for_parts();
    let document = finished(described.merge_from(document));
    let mut rights = access::Rights::of(&document);
    let mut guarded = guarded;
    if compat.mobile_services {
        rights = rights.with(mobile_services::rights());
        guarded = guarded.merge(mobile_services::routes());
    }
    // Maps with text keys, text and numbers only: this cannot fail.
    let document = document.to_json().unwrap_or_default();
    let keys = Keys::new(control.clone(), token);
    control.run(keys.clone().sweep_for_ever());
    let state = ApiState {
        control: control.clone(),
        keys,
        limits: Arc::default(),
        rights: Arc::new(rights),
        document: document.into(),
        steered: Arc::default(),
        noted: Arc::default(),
        begun: Arc::default(),
    };
    let guard = middleware::from_fn_with_state(state.clone(), auth::require_right);
    let guarded = guarded.fallback(no_route).method_not_allowed_fallback(no_method).layer(guard);
    let open = open.method_not_allowed_fallback(no_method);
    let mut routes = open.fallback_service(guarded.with_state(state.clone())).with_state(state);
    routes = routes.layer(middleware::from_fn(limits::within));
    if compat.mobile_services {
        routes = routes.layer(middleware::from_fn(mobile_services::in_their_words));
    }
    routes
        .layer(middleware::from_fn(limits::harden))
        .layer(middleware::from_fn_with_state(control, say_where))
}

/// The OpenAPI document of [`router`].
#[must_use]
pub fn document() -> Document {
    finished(open_routes().into_openapi().merge_from(guarded_routes().into_openapi()))
}

fn finished(mut document: Document) -> Document {
    let mut bearer = Http::new(HttpAuthScheme::Bearer);
    bearer.description = Some(
        "A token of farshore token create. What a route needs stands beside it: read (every role), operate (operator \
         and above), contribute (contributor and above) or administer (admin)."
            .to_owned(),
    );
    let token = SecurityScheme::Http(bearer);
    document.components.get_or_insert_default().add_security_scheme("token", token);
    document
}

/// What needs no token: says nothing about any item.
fn open_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(service::livez))
        .routes(routes!(service::readyz))
        .routes(routes!(service::openapi))
}

/// What needs a token; which role it must have is said beside each route.
fn guarded_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(items::list, items::create))
        .routes(routes!(items::show, items::delete))
        .routes(routes!(items::points))
        .routes(routes!(verbs::protect))
        .routes(routes!(verbs::disable))
        .routes(routes!(verbs::failover))
        .routes(routes!(verbs::test_failover))
        .routes(routes!(verbs::clean_up))
        .routes(routes!(verbs::change_point))
        .routes(routes!(verbs::commit))
        .routes(routes!(verbs::reprotect))
        .routes(routes!(verbs::failback))
        .routes(routes!(verbs::mark_point))
        .routes(routes!(verbs::drop_divergence))
        .routes(routes!(verbs::adopt))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show))
        .routes(routes!(jobs::log))
        .routes(routes!(events::events))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(jobs::skip))
        .routes(routes!(jobs::abandon))
        .routes(routes!(regions::list))
        .routes(routes!(regions::show))
        .routes(routes!(status::status))
        .routes(routes!(incidents::list, incidents::open))
        .routes(routes!(incidents::show))
        .routes(routes!(incidents::update))
        .routes(routes!(incidents::close))
        .routes(routes!(names::list))
        .routes(routes!(names::show))
        .routes(routes!(audit::list))
        .routes(routes!(join_tokens::create))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::whoami))
        .routes(routes!(realtime::keys))
        .routes(routes!(realtime::regenerate))
        .routes(routes!(realtime::connection_string))
        .routes(routes!(realtime::handlers, realtime::set_handlers))
        .routes(routes!(realtime::set_members))
        .routes(routes!(realtime::stats))
        .routes(routes!(realtime::drain))
        .routes(routes!(realtime::negotiate))
        .merge(hubs::routes())
        .merge(apps::routes())
        .routes(routes!(migrations::begin, migrations::preview))
        .routes(routes!(migrations::list))
        .routes(routes!(migrations::show))
        .routes(routes!(service::version))
        .routes(routes!(metrics::metrics))
}

async fn no_route() -> Problem {
    Problem::not_found("there is no such route: /api/v1/openapi.json lists them all")
}

async fn no_method(request: Request) -> Problem {
    let detail = format!(
        "{} is not possible here: /api/v1/openapi.json lists what is, and the Allow header names it",
        request.method()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail)
}

/// Says since when an answer is only what was last known.
const READ_ONLY_SINCE: HeaderName = HeaderName::from_static("farshore-read-only-since");

/// Puts the path into problems, and says it when the control plane is read-only.
async fn say_where(State(control): State<Control>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    let read_only = match control.store_state() {
        StoreState::Live => None,
        StoreState::ReadOnly { since, .. } => Some(since),
    };
    if let Some(since) = read_only.and_then(|since| HeaderValue::from_str(&since.to_string()).ok()) {
        response.headers_mut().insert(READ_ONLY_SINCE, since);
    }
    let Some(mut problem) = response.extensions().get::<Problem>().cloned() else { return response };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    if let (Some(since), StatusCode::SERVICE_UNAVAILABLE) = (read_only, parts.status) {
        problem.detail = format!(
            "the control plane is read-only here since {since}, nothing was changed: ask a control node in another region, \
             or bring members of the store back ({})",
            problem.detail
        );
    }
    let mut whole = axum::Json(Problem { instance: Some(path), ..problem }).into_response();
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    *whole.status_mut() = parts.status;
    *whole.headers_mut() = parts.headers;
    whole
}
