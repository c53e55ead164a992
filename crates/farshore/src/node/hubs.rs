//! Puts the room of device hubs into a node.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use farshore_core::workload::Pull;
use farshore_hub::front::Addresses;
use farshore_hub::mqtt::tls::{server_config, server_config_of};
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
        // Who may connect is the hub's business: devices have certificates of their own, or none.
        (_, _, Credentials::Trust(trust)) => server_config_of(trust.certificate()).map_err(wrong),
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use farshore_core::ids::Region;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{ClientConfig, HandshakeKind, ServerConnection, StreamOwned};
    use rustls_pki_types::ServerName;

    use super::*;
    use crate::trust::Trust;

    /// Connects, says a word, is answered, and tells what kind of handshake that was.
    fn talk(client: &Arc<ClientConfig>, server: &Arc<rustls::ServerConfig>) -> HandshakeKind {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::clone(server);
        let answering = std::thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let mut stream = StreamOwned::new(ServerConnection::new(server).unwrap(), socket);
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
        });
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = rustls::ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
        stream.write_all(b"ping").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        answering.join().unwrap();
        stream.conn.handshake_kind().unwrap()
    }

    #[test]
    fn a_device_shows_the_nodes_listener_a_certificate_that_the_cluster_does_not_know_and_is_resumed() {
        provider();
        let dir = tempfile::tempdir().unwrap();
        let (region, here) = (Region::parse("paris").unwrap(), "127.0.0.1".parse().unwrap());
        let trust = Trust::init(dir.path(), "prod", &region, &[here], std::time::SystemTime::now()).unwrap();
        let server = tls(&HubsConfig::default(), &Credentials::Trust(trust.clone())).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trust.ca_pem().as_bytes()).unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["pump".to_owned()]).unwrap().self_signed(&key).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![own.der().clone()], key)
            .unwrap();
        let client = Arc::new(client);
        assert_eq!(talk(&client, &server), HandshakeKind::Full);
        assert_eq!(talk(&client, &server), HandshakeKind::Resumed);
    }
}
