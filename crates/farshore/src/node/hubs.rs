//! Puts the room of device hubs into a node.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use farshore_core::workload::Pull;
use farshore_hub::front::Addresses;
use farshore_hub::mqtt::tls::server_config;
use farshore_hub::workload::{DeviceHubs, HubsOptions};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{HubsReady, NodeError, wrong};
use crate::agent::{Credentials, Peers, RegionPulls};
use crate::config::{HubsConfig, NodeConfig};
use crate::trust::provider;

/// Opens the region's device hubs; `None`: the node has not this role.
pub(super) async fn open(
    config: &NodeConfig,
    credentials: &Credentials,
    peers: &Peers,
) -> Result<Option<Arc<DeviceHubs>>, NodeError> {
    let Some(own) = config.hubs() else { return Ok(None) };
    provider();
    let far: Arc<dyn Pull> = Arc::new(RegionPulls::new(config.region.clone(), peers.clone()));
    let options = HubsOptions {
        region: config.region.clone(),
        dir: config.data.join("hubs"),
        addresses: Addresses { mqtt: own.mqtt, https: own.https, amqp: own.amqp },
        host: own.host.clone(),
        domain: own.domain.clone(),
        tls: Some(tls(&own, credentials)?),
        ca: ca(&own, credentials)?,
        exchange: own.exchange.clone(),
        far,
    };
    DeviceHubs::open(options).await.map(Some).map_err(wrong)
}

/// What devices are shown: the operator's certificate, or the node's own.
fn tls(own: &HubsConfig, credentials: &Credentials) -> Result<Arc<rustls::ServerConfig>, NodeError> {
    match (&own.cert_file, &own.key_file, credentials) {
        (Some(cert), Some(key), _) => {
            let chain = CertificateDer::pem_file_iter(cert)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| unusable(cert, &error))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
            server_config(chain, key).map_err(|error| unusable(cert, &error))
        }
        (_, _, Credentials::Trust(trust)) => {
            let mut config = (*trust.server()).clone();
            // Devices speak MQTT, back ends HTTP/1.1 and AMQP: no protocol is agreed on in the handshake.
            config.alpn_protocols = Vec::new();
            Ok(Arc::new(config))
        }
        _ => Err(wrong("device hubs need a certificate: set cert_file and key_file in [hubs]")),
    }
}

fn ca(own: &HubsConfig, credentials: &Credentials) -> Result<Option<String>, NodeError> {
    match (&own.ca_file, &own.cert_file, credentials) {
        (Some(file), ..) => fs::read_to_string(file).map(Some).map_err(|error| unusable(file, &error)),
        (None, None, Credentials::Trust(trust)) => Ok(Some(trust.ca_pem().to_owned())),
        _ => Ok(None),
    }
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> NodeError {
    wrong(format!("cannot use {}: {error}; name the right file in [hubs]", path.display()))
}

/// Where it listens, for whoever waits for the node.
pub(super) fn ready(hubs: &DeviceHubs) -> HubsReady {
    let Addresses { mqtt, https, amqp } = hubs.bound();
    HubsReady { mqtt, https, amqp }
}
