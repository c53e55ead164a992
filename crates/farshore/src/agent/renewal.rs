//! Renewals on the wire: `POST /agent/v1/renew` at every control node, and how a node asks them in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use farshore_core::ids::{ItemId, Region, Token};
use serde::{Deserialize, Serialize};

use super::lease::Renewals;
use super::peers::{Peers, unreachable};
use super::server::Callers;
use crate::engine::{Control, RenewError};

/// One node is asked for at most this long, so that another can be asked within the renewal's own time.
const ASK_DEADLINE: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Renewal {
    region: Region,
    item: ItemId,
    token: Token,
}

/// The route, for control nodes. A node renews for its own region only.
pub fn renewal_router(control: Control, callers: Callers) -> Router {
    Router::new()
        .route("/agent/v1/renew", post(renew))
        .layer(from_fn_with_state(callers, check))
        .with_state(control)
}

async fn check(State(callers): State<Callers>, request: Request, next: Next) -> Response {
    match callers.check(&request, |identity| identity.role.is_node()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn renew(State(control): State<Control>, request: Request) -> Response {
    let peer = super::server::peer_region(&request);
    let body = match axum::body::to_bytes(request.into_body(), 4096).await {
        Ok(body) => body,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let renewal: Renewal = match serde_json::from_slice(&body) {
        Ok(renewal) => renewal,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    if peer.is_some_and(|peer| peer != renewal.region) {
        let why = format!("a node renews for its own region, not for {}", renewal.region);
        return (StatusCode::FORBIDDEN, Json(RenewError::Unavailable { why })).into_response();
    }
    match control.renew(&renewal.region, &renewal.item, renewal.token).await {
        Ok(()) => Json(()).into_response(),
        Err(error) => {
            let status = match error {
                RenewError::Revoked { .. } => StatusCode::CONFLICT,
                RenewError::Unknown => StatusCode::NOT_FOUND,
                RenewError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, Json(error)).into_response()
        }
    }
}

/// Asks the node's own control plane first, where it has one, and then the others in turn.
#[derive(Debug)]
pub struct ControlNodes {
    local: Option<Arc<std::sync::OnceLock<Control>>>,
    peers: Peers,
    /// The regions with a control node.
    others: Vec<Region>,
    /// Where the last answer came from: asked first the next time.
    good: AtomicUsize,
}

impl ControlNodes {
    /// `local` is filled when the node's own control plane is up.
    #[must_use]
    pub fn new(local: Option<Arc<std::sync::OnceLock<Control>>>, peers: Peers, others: Vec<Region>) -> Self {
        Self { local, peers, others, good: AtomicUsize::new(0) }
    }

    async fn ask(&self, region: &Region, renewal: &Renewal) -> Result<(), RenewError> {
        let unavailable = |why: String| RenewError::Unavailable { why };
        let request = self.peers.request(Method::POST, region, "/agent/v1/renew");
        let request = request.map_err(|error| unavailable(error.to_string()))?;
        let answer = request.json(renewal).timeout(ASK_DEADLINE).send().await;
        let answer = answer.map_err(|error| unavailable(unreachable(region, &error)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let error = answer.json::<RenewError>().await;
        Err(error.unwrap_or_else(|_| unavailable(format!("region {region} answered {status}"))))
    }
}

#[async_trait]
impl Renewals for ControlNodes {
    async fn renew(&self, region: &Region, item: &ItemId, token: Token) -> Result<(), RenewError> {
        let renewal = Renewal { region: region.clone(), item: item.clone(), token };
        let mut last = RenewError::Unavailable { why: "no control node is known here".to_owned() };
        if let Some(control) = self.local.as_ref().and_then(|local| local.get()) {
            let here = tokio::time::timeout(ASK_DEADLINE, control.renew(region, item, token)).await;
            match here {
                Ok(Err(RenewError::Unavailable { why })) => last = RenewError::Unavailable { why },
                Ok(answer) => return answer,
                Err(_) => {
                    last = RenewError::Unavailable { why: "the store did not answer in time".to_owned() }
                }
            }
        }
        let good = self.good.load(Ordering::Relaxed);
        for turn in 0..self.others.len() {
            let at = (good + turn) % self.others.len();
            match self.ask(&self.others[at], &renewal).await {
                Err(error @ RenewError::Unavailable { .. }) => last = error,
                answer => {
                    self.good.store(at, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        // The next attempt begins with another one: one that hangs takes the whole time.
        self.good.store(good.wrapping_add(1), Ordering::Relaxed);
        Err(last)
    }
}
