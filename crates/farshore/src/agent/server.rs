//! What an agent answers: `GET /agent/v1/known`, `GET /agent/v1/observe/KIND/NAME`, `POST /agent/v1/act`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use farshore_core::ids::{ItemId, Token};
use farshore_core::workload::{BootTime, Leased, Order, StepError, Workload};
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use super::claims::Claims;
use super::{Ledger, Workloads};

/// Everything an agent needs.
#[derive(Debug, Clone)]
pub struct AgentState {
    workloads: Arc<Workloads>,
    ledger: Arc<Ledger>,
    secret: Arc<str>,
    /// One order at a time for each item.
    turns: Arc<Mutex<HashMap<ItemId, Arc<tokio::sync::Mutex<()>>>>>,
    claims: Arc<Mutex<Claims>>,
    /// Told after each order.
    ordered: Arc<Notify>,
}

impl AgentState {
    /// An agent of these workloads; callers must know the secret.
    #[must_use]
    pub fn new(workloads: Workloads, ledger: Ledger, secret: &str) -> Self {
        Self {
            workloads: Arc::new(workloads),
            ledger: Arc::new(ledger),
            secret: secret.into(),
            turns: Arc::default(),
            claims: Arc::default(),
            ordered: Arc::default(),
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
        if let Some(role) = order.only_if {
            let now = workload.observe(&order.item).await?.role;
            if now != role {
                return Err(StepError::Retry {
                    what: format!("{} is {now:?} here by now, not {role:?}", order.item),
                });
            }
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

    /// What this region knows of the item.
    pub async fn observe(&self, item: &ItemId) -> Result<farshore_core::workload::Observation, StepError> {
        self.workload(item)?.observe(item).await
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

/// The agent's routes.
pub fn router(state: AgentState) -> Router {
    Router::new()
        .route("/agent/v1/known", get(known))
        .route("/agent/v1/observe/{kind}/{name}", get(observe))
        .route("/agent/v1/act", post(act))
        .layer(from_fn_with_state(state.clone(), check_secret))
        .with_state(state)
}

async fn check_secret(State(state): State<AgentState>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if given.is_some_and(|given| given.ct_eq(state.secret.as_bytes()).into()) {
        return next.run(request).await;
    }
    let error = StepError::Fatal {
        what: "the cluster's secret is needed: use the same secret file in all regions".into(),
    };
    (StatusCode::UNAUTHORIZED, Json(error)).into_response()
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
