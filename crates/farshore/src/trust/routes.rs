//! `/trust/v1/…`: how nodes join and renew. Needs no user's token: a join token or a certificate instead, and TLS.
//!
//! Served by control nodes. Neither route asks the store for more than a join token's record; renewal asks it nothing.

#![expect(
    clippy::result_large_err,
    reason = "a refusal is rare and goes straight to the wire: boxing it buys nothing"
)]

use std::time::SystemTime;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::post;
use axum::{Json, Router};
use farshore_core::ids::Region;
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::authority::{Authority, LEAF_LIFE, LeafOrder, Signed, Validity};
use super::certificate::Read;
use super::error::TrustError;
use super::identity::CertRole;
use super::member::{Trust, node_name};
use super::tokens::{JoinRefusal, JoinTokens};
use crate::api::Problem;
use crate::engine::now;
use crate::serve::PeerTls;

/// Longest body: a request for a certificate and a list of addresses.
const BODY_LEN_MAX: usize = 16 * 1024;

/// `POST /trust/v1/join`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinRequest {
    pub(super) token: String,
    /// A request for a certificate (PKCS #10), as PEM. Only its key is looked at.
    pub(super) request: String,
    pub(super) region: Region,
    pub(super) role: CertRole,
    #[serde(default)]
    pub(super) addresses: Vec<Address>,
}

/// What a node gets that was let in.
#[derive(Serialize, Deserialize)]
pub(super) struct JoinAnswer {
    /// The certificate and the authority's, as PEM.
    pub(super) certificate: String,
    /// The authority's certificate.
    pub(super) ca: String,
    /// The authority's key: for control nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca_key: Option<String>,
}

/// `POST /trust/v1/renew`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RenewRequest {
    /// A request for a certificate (PKCS #10), as PEM. Only its key is looked at.
    pub(super) request: String,
}

/// A certificate for the same holder.
#[derive(Serialize, Deserialize)]
pub(super) struct RenewAnswer {
    /// The certificate and the authority's, as PEM.
    pub(super) certificate: String,
}

#[derive(Debug, Clone)]
struct TrustState {
    trust: Trust,
    tokens: JoinTokens,
}

/// The routes of a control node. On a listener without TLS they refuse everything.
pub fn router(trust: Trust, tokens: JoinTokens) -> Router {
    Router::new()
        .route("/trust/v1/join", post(join))
        .route("/trust/v1/renew", post(renew))
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(TrustState { trust, tokens })
}

async fn join(
    State(state): State<TrustState>,
    _: OverTls,
    body: Result<Json<JoinRequest>, JsonRejection>,
) -> Result<Json<JoinAnswer>, Problem> {
    let Json(asked) = body.map_err(unread)?;
    if !asked.role.is_node() {
        return Err(refused(
            StatusCode::BAD_REQUEST,
            "invalid",
            "only nodes join, in the role control or agent; make a client's certificate with farshore trust issue",
        ));
    }
    let authority = authority(&state.trust)?;
    let order = LeafOrder {
        name: format!("{} {}", asked.region, asked.role),
        region: asked.region,
        role: asked.role,
        addresses: asked.addresses,
    };
    // Signed first: a token is not lost to a request that cannot be granted. Nobody has the certificate yet.
    let signed = sign(authority, &asked.request, &order)?;
    state.tokens.consume(&asked.token, &order.region, order.role, now()).await?;
    tracing::info!(region = %order.region, role = %order.role, "a node joined");
    let ca_key = (order.role == CertRole::Control).then(|| authority.key_pem().to_owned());
    Ok(Json(JoinAnswer { certificate: signed.chain, ca: state.trust.ca_pem().to_owned(), ca_key }))
}

async fn renew(
    State(state): State<TrustState>,
    OverTls(peer): OverTls,
    body: Result<Json<RenewRequest>, JsonRejection>,
) -> Result<Json<RenewAnswer>, Problem> {
    let Json(asked) = body.map_err(unread)?;
    let authority = authority(&state.trust)?;
    let shown = peer.0.as_deref().and_then(|leaf| Read::from_der(leaf).ok());
    // A connection may be older than the end of the certificate that it began with.
    let shown = shown.filter(|shown| shown.until > SystemTime::now());
    let Some(shown) = shown else {
        return Err(refused(
            StatusCode::FORBIDDEN,
            "forbidden",
            "a certificate is renewed for who shows the old one: connect with it, or join again",
        ));
    };
    // Who asks stays who he is, whatever the request says.
    let order = LeafOrder {
        name: node_name(&shown.identity),
        region: shown.identity.region,
        role: shown.identity.role,
        addresses: shown.addresses,
    };
    let signed = sign(authority, &asked.request, &order)?;
    tracing::info!(region = %order.region, role = %order.role, "a certificate was renewed");
    Ok(Json(RenewAnswer { certificate: signed.chain }))
}

fn sign(authority: &Authority, request: &str, order: &LeafOrder) -> Result<Signed, Problem> {
    authority.sign(request, order, Validity::starting(SystemTime::now(), LEAF_LIFE)).map_err(|error| {
        match error {
            TrustError::Request(_) | TrustError::Address(_) => {
                refused(StatusCode::BAD_REQUEST, "invalid", &error.to_string())
            }
            _ => refused(StatusCode::INTERNAL_SERVER_ERROR, "failed", &error.to_string()),
        }
    })
}

fn authority(trust: &Trust) -> Result<&Authority, Problem> {
    trust.authority().ok_or_else(|| {
        refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "no-authority",
            "this node does not have the authority's key: ask a control node that has it",
        )
    })
}

/// Refuses what came without TLS: keys and tokens would be seen on the way.
struct OverTls(PeerTls);

impl<S: Send + Sync> FromRequestParts<S> for OverTls {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().cloned().map(Self).ok_or_else(|| {
            refused(StatusCode::FORBIDDEN, "forbidden", "this needs TLS: use https:// and a node with trust")
        })
    }
}

fn unread(rejection: JsonRejection) -> Problem {
    refused(rejection.status(), "invalid", &rejection.body_text())
}

impl From<JoinRefusal> for Problem {
    fn from(refusal: JoinRefusal) -> Self {
        match &refusal {
            JoinRefusal::Store(_) => refused(StatusCode::SERVICE_UNAVAILABLE, "store", &refusal.to_string()),
            _ => refused(StatusCode::FORBIDDEN, "join-refused", &refusal.to_string()),
        }
    }
}

fn refused(status: StatusCode, code: &str, detail: &str) -> Problem {
    Problem {
        type_: format!("urn:farshore:problem:{code}"),
        title: status.canonical_reason().unwrap_or("The request failed").to_owned(),
        status: status.as_u16(),
        detail: detail.to_owned(),
        instance: None,
        possible: Vec::new(),
        job: None,
    }
}
