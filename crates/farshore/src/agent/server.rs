//! What an agent answers: `GET /agent/v1/known`, `GET /agent/v1/observe/KIND/NAME`, `POST /agent/v1/act`,
//! `POST /agent/v1/ask/KIND/NAME`, `POST /agent/v1/pull/KIND/NAME`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use farshore_core::ids::{ItemId, Region, Token};
use farshore_core::workload::{BootTime, Leased, Observation, OnlyIf, Order, StepError, Workload};
use serde_json::Value;
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use super::claims::Claims;
use super::{Ledger, Workloads};
use crate::serve::PeerIdentity;
use crate::trust::{CertRole, Identity};

/// Everything an agent needs.
#[derive(Debug, Clone)]
pub struct AgentState {
    workloads: Arc<Workloads>,
    ledger: Arc<Ledger>,
    /// One order at a time for each item.
    turns: Arc<Mutex<HashMap<ItemId, Arc<tokio::sync::Mutex<()>>>>>,
    claims: Arc<Mutex<Claims>>,
    /// Told after each order.
    ordered: Arc<Notify>,
    /// Which start of the agent this is.
    start: Arc<str>,
}

impl AgentState {
    /// An agent of these workloads.
    #[must_use]
    pub fn new(workloads: Workloads, ledger: Ledger) -> Self {
        Self {
            workloads: Arc::new(workloads),
            ledger: Arc::new(ledger),
            turns: Arc::default(),
            claims: Arc::default(),
            ordered: Arc::default(),
            start: ulid::Ulid::generate().to_string().into(),
        }
    }

    fn workload(&self, item: &ItemId) -> Result<&Arc<dyn Workload>, StepError> {
        self.workloads.get(&item.kind).ok_or_else(|| StepError::Fatal {
            what: format!("this region runs no workloads of kind {}: add the role to its node", item.kind),
        })
    }

    /// Carries out an order; a key that was carried out before is not carried out again.
    pub async fn act(&self, order: &Order) -> Result<(), StepError> {
        let workload = self.workload(&order.item)?;
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(order.item.clone()).or_default())
        };
        let _turn = turn.lock().await;
        if let Some(claim) = &order.by {
            let admitted = self.claims.lock().unwrap_or_else(PoisonError::into_inner).admit(claim);
            admitted.map_err(|highest| StepError::Fatal {
                what: format!(
                    "executor {} of job {} was replaced by executor {highest}",
                    claim.epoch, claim.job
                ),
            })?;
        }
        if self.ledger.has(&order.key) {
            return Ok(());
        }
        if let Some(only_if) = &order.only_if {
            self.check_still(&order.item, only_if).await?;
        }
        workload.act(order).await?;
        self.ordered.notify_one();
        let (ledger, key) = (Arc::clone(&self.ledger), order.key.clone());
        let kept = tokio::task::spawn_blocking(move || ledger.keep(&key)).await;
        match kept {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(StepError::Retry { what: error.to_string() }),
            Err(error) => Err(StepError::Retry { what: error.to_string() }),
        }
    }

    async fn check_still(&self, item: &ItemId, only_if: &OnlyIf) -> Result<(), StepError> {
        if only_if.start.as_deref().is_some_and(|start| start != &*self.start) {
            return Err(StepError::Retry {
                what: format!("the agent was restarted since it was asked about {item}"),
            });
        }
        let Some(role) = only_if.role else { return Ok(()) };
        let now = self.observe(item).await?.role;
        if now != role {
            return Err(StepError::Retry { what: format!("{item} is {now:?} here by now, not {role:?}") });
        }
        Ok(())
    }

    /// What this region knows of the item.
    pub async fn observe(&self, item: &ItemId) -> Result<Observation, StepError> {
        Ok(self.signed(self.workload(item)?.observe(item).await?))
    }

    /// See [`Workload::ask`]. Neither question nor answer is logged or kept: they may be secrets.
    pub async fn ask(&self, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        self.workload(item)?.ask(item, question).await
    }

    /// See [`Workload::pulled`].
    pub async fn pulled(&self, item: &ItemId, by: &Region, request: &[u8]) -> Result<Vec<u8>, StepError> {
        self.workload(item)?.pulled(item, by, request).await
    }

    /// Says which start of the agent saw it.
    pub(super) fn signed(&self, seen: Observation) -> Observation {
        Observation { start: Some(self.start.to_string()), ..seen }
    }

    /// Told after each order that was carried out.
    pub(super) fn ordered(&self) -> Arc<Notify> {
        Arc::clone(&self.ordered)
    }

    /// The items here that fence themselves. A kind that cannot say now is asked again soon.
    pub(super) async fn leased(&self) -> Vec<Leased> {
        let mut leased = Vec::new();
        for workload in self.workloads.values() {
            leased.extend(workload.leased().await.unwrap_or_default());
        }
        leased
    }

    /// See [`Workload::renewed`].
    pub(super) async fn renewed(
        &self,
        item: &ItemId,
        token: Token,
        until: BootTime,
    ) -> Result<(), StepError> {
        self.workload(item)?.renewed(item, token, until).await
    }

    /// See [`Workload::expired`].
    pub(super) async fn expired(&self, item: &ItemId, token: Token) -> Result<(), StepError> {
        self.workload(item)?.expired(item, token).await
    }

    /// All items of all kinds here.
    pub async fn known(
        &self,
    ) -> Result<Vec<(ItemId, farshore_core::ids::Token, farshore_core::workload::Role)>, StepError> {
        let mut known = Vec::new();
        for workload in self.workloads.values() {
            known.extend(workload.known().await?);
        }
        Ok(known)
    }
}

/// Who may call an agent.
#[derive(Debug, Clone)]
pub enum Callers {
    /// Whoever knows the cluster's secret; for loopback.
    Secret(Arc<str>),
    /// Nodes with a certificate of this cluster.
    Cluster(Arc<str>),
}

impl Callers {
    /// Refuses a request of somebody else. `may`: what a certificate's holder must be.
    pub(super) fn check(
        &self,
        request: &Request,
        may: impl Fn(&Identity) -> bool,
    ) -> Result<(), (StatusCode, Json<StepError>)> {
        let refuse = |status, what: &str| Err((status, Json(StepError::Fatal { what: what.to_owned() })));
        match self {
            Self::Secret(secret) => {
                let header = request.headers().get(header::AUTHORIZATION);
                let given = header.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
                if given.is_some_and(|given| given.ct_eq(secret.as_bytes()).into()) {
                    return Ok(());
                }
                let what = "the cluster's secret is needed: use the same secret file in all regions";
                refuse(StatusCode::UNAUTHORIZED, what)
            }
            Self::Cluster(cluster) => match peer(request) {
                Some(peer) if peer.cluster == **cluster && may(peer) => Ok(()),
                Some(peer) => refuse(
                    StatusCode::FORBIDDEN,
                    &format!(
                        "{peer} may not do this: only control nodes of the cluster {cluster} drive a region"
                    ),
                ),
                None => refuse(
                    StatusCode::UNAUTHORIZED,
                    "a certificate of the cluster is needed: call with the node's own, made by farshore join",
                ),
            },
        }
    }
}

fn peer(request: &Request) -> Option<&Identity> {
    request.extensions().get::<PeerIdentity>().and_then(|peer| peer.0.as_ref())
}

/// The region of the node that calls, where certificates tell.
pub(super) fn peer_region(request: &Request) -> Option<farshore_core::ids::Region> {
    peer(request).map(|peer| peer.region.clone())
}

/// The agent's routes. Only control nodes may give orders and ask for what may be secret; every node may look.
pub fn router(state: AgentState, callers: Callers) -> Router {
    let looks = Router::new()
        .route("/agent/v1/known", get(known))
        .route("/agent/v1/observe/{kind}/{name}", get(observe))
        .layer(from_fn_with_state(callers.clone(), check_node));
    let pulls = Router::new()
        .route("/agent/v1/pull/{kind}/{name}", post(pulled))
        .layer(from_fn_with_state(callers.clone(), check_puller));
    let orders = Router::new()
        .route("/agent/v1/act", post(act))
        .route("/agent/v1/ask/{kind}/{name}", post(ask))
        .layer(from_fn_with_state(callers, check_control));
    looks.merge(pulls).merge(orders).with_state(state)
}

pub(super) async fn check_node(State(callers): State<Callers>, request: Request, next: Next) -> Response {
    match callers.check(&request, |peer| peer.role.is_node()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn check_control(State(callers): State<Callers>, request: Request, next: Next) -> Response {
    match callers.check(&request, |peer| peer.role == CertRole::Control) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// The region that a request comes from, where there are no certificates to tell.
pub(super) const REGION_HEADER: &str = "farshore-region";

/// Which region's node calls.
#[derive(Debug, Clone)]
struct Puller(Region);

async fn check_puller(State(callers): State<Callers>, mut request: Request, next: Next) -> Response {
    if let Err(refusal) = callers.check(&request, |peer| peer.role.is_node()) {
        return refusal.into_response();
    }
    let by = match &callers {
        Callers::Cluster(_) => peer_region(&request),
        Callers::Secret(_) => named_region(&request),
    };
    let Some(by) = by else {
        let what = format!("the header {REGION_HEADER} must name the region that pulls");
        return answer::<()>(Err(StepError::Fatal { what }));
    };
    request.extensions_mut().insert(Puller(by));
    next.run(request).await
}

fn named_region(request: &Request) -> Option<Region> {
    let header = request.headers().get(REGION_HEADER)?.to_str().ok()?;
    Region::parse(header).ok()
}

async fn pulled(
    State(state): State<AgentState>,
    Extension(Puller(by)): Extension<Puller>,
    Path((kind, name)): Path<(String, String)>,
    request: Bytes,
) -> Response {
    let item = match ItemId::parse(&format!("{kind}/{name}")) {
        Ok(item) => item,
        Err(error) => return answer::<()>(Err(StepError::Fatal { what: error.to_string() })),
    };
    match state.pulled(&item, &by, &request).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        Err(error) => answer::<()>(Err(error)),
    }
}

async fn known(State(state): State<AgentState>) -> Response {
    answer(state.known().await)
}

async fn observe(State(state): State<AgentState>, Path((kind, name)): Path<(String, String)>) -> Response {
    match ItemId::parse(&format!("{kind}/{name}")) {
        Ok(item) => answer(state.observe(&item).await),
        Err(error) => answer::<()>(Err(StepError::Fatal { what: error.to_string() })),
    }
}

async fn ask(
    State(state): State<AgentState>,
    Path((kind, name)): Path<(String, String)>,
    Json(question): Json<Value>,
) -> Response {
    match ItemId::parse(&format!("{kind}/{name}")) {
        Ok(item) => answer(state.ask(&item, &question).await),
        Err(error) => answer::<()>(Err(StepError::Fatal { what: error.to_string() })),
    }
}

async fn act(State(state): State<AgentState>, Json(order): Json<Order>) -> Response {
    // The order goes on when the caller hangs up: a half-done order is worse than an unheard answer.
    let done = tokio::spawn(async move { state.act(&order).await }).await;
    answer(
        done.unwrap_or_else(|error| {
            Err(StepError::Fatal { what: format!("a defect ended the order: {error}") })
        }),
    )
}

fn answer<T: serde::Serialize>(result: Result<T, StepError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let status = match error {
                StepError::Retry { .. } => StatusCode::SERVICE_UNAVAILABLE,
                StepError::Fatal { .. } => StatusCode::UNPROCESSABLE_ENTITY,
                StepError::Fenced { .. } => StatusCode::CONFLICT,
                StepError::Unknown => StatusCode::NOT_FOUND,
            };
            (status, Json(error)).into_response()
        }
    }
}
