//! Puts the room of app services into a node.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use farshore_app::workload::{Apps, AppsOptions, Believes};
use farshore_core::access::Right;
use farshore_core::workload::Pull;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{AppsReady, NodeError, wrong};
use crate::access::keys::Keys;
use crate::agent::{Credentials, Peers, RegionPulls};
use crate::config::{AppsConfig, NodeConfig, NodeRole};
use crate::trust::provider;

/// Opens the region's app services; `None`: the node has not this role. `keys` is filled when the control plane is up, if it is
/// on this node.
pub(super) async fn open(
    config: &NodeConfig,
    credentials: &Credentials,
    peers: &Peers,
    keys: &Arc<OnceLock<Keys>>,
) -> Result<Option<Arc<Apps>>, NodeError> {
    let Some(own) = config.apps() else { return Ok(None) };
    provider();
    let far: Arc<dyn Pull> = Arc::new(RegionPulls::new(config.region.clone(), peers.clone()));
    let tokens =
        config.has(NodeRole::Control).then(|| Arc::new(Tokens(Arc::clone(keys))) as Arc<dyn Believes>);
    let options = AppsOptions {
        region: config.region.clone(),
        dir: config.data.join("apps"),
        http: own.http,
        https: own.https,
        host: own.host.clone(),
        domain: own.domain.clone(),
        tls: own.https.is_some().then(|| tls(&own, credentials)).transpose()?,
        trust: trust(&own, credentials),
        capacity_mib: own.capacity_mib,
        far,
        tokens,
    };
    Apps::open(options).await.map(Some).map_err(wrong)
}

/// What clients are shown where an app has no certificate of its own: the operator's certificate, or the node's own.
fn tls(own: &AppsConfig, credentials: &Credentials) -> Result<Arc<rustls::ServerConfig>, NodeError> {
    match (&own.cert_file, &own.key_file, credentials) {
        (Some(cert), Some(key), _) => {
            let chain = CertificateDer::pem_file_iter(cert)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| unusable(cert, &error))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
            let config = versions()?.with_no_client_auth().with_single_cert(chain, key);
            Ok(Arc::new(config.map_err(|error| unusable(cert, &error))?))
        }
        // Clients of apps are nobody's nodes: they show no certificate.
        (_, _, Credentials::Trust(trust)) => {
            Ok(Arc::new(versions()?.with_no_client_auth().with_cert_resolver(trust.certificate())))
        }
        _ => Err(wrong("https of apps needs a certificate: set cert_file and key_file in [apps]")),
    }
}

/// Whom requests are sent on to: nodes of the cluster. An operator's own certificate says nothing of the node that shows it.
fn trust(own: &AppsConfig, credentials: &Credentials) -> Option<Arc<rustls::ClientConfig>> {
    match (&own.cert_file, credentials) {
        (None, Credentials::Trust(trust)) => {
            let mut nodes = (*trust.client_any()).clone();
            // Gateways speak HTTP/1.1 to each other: a WebSocket goes through.
            nodes.alpn_protocols = vec![b"http/1.1".to_vec()];
            Some(Arc::new(nodes))
        }
        _ => None,
    }
}

fn versions() -> Result<rustls::ConfigBuilder<rustls::ServerConfig, rustls::WantsVerifier>, NodeError> {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions().map_err(wrong)
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> NodeError {
    wrong(format!("cannot use {}: {error}; name the right file in [apps]", path.display()))
}

/// Where it listens, for whoever waits for the node.
pub(super) fn ready(apps: &Apps) -> AppsReady {
    let bound = apps.bound();
    AppsReady { http: bound.http, https: bound.https }
}

/// Farshore's own tokens as passwords of git: whoever may contribute may push.
#[derive(Debug)]
struct Tokens(Arc<OnceLock<Keys>>);

#[async_trait]
impl Believes for Tokens {
    async fn believes(&self, _user: &str, password: &str, from: IpAddr) -> bool {
        // Nobody is known before the control plane is up.
        let Some(keys) = self.0.get() else { return false };
        let found = keys.admit(password, from).await;
        found.is_ok_and(|holder| !holder.stale && holder.role.may(Right::Contribute))
    }
}
