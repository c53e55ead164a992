//! One hub over HTTPS with nothing behind it, for trying service SDKs by hand:
//! `cargo run -p farshore-hub --example rest_hub -- DIR 127.0.0.2:443 127.0.0.2:8443`.
//!
//! Writes `DIR/ca.pem` and prints a connection string. Devices named `online…` answer every method with what it was given.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use farshore_hub::names::Key;
use farshore_hub::registry::Registry;
use farshore_hub::rest::{Behind, Call, Hub, HubOptions, NotInvoked, Service, Serving};
use farshore_hub::sas::{Policy, Rights};
use farshore_hub::telemetry::{Event, Telemetry, TelemetryOptions};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

type Anything = Box<dyn Error + Send + Sync>;

/// Devices that are there by their names.
#[derive(Debug)]
struct Pretended;

#[async_trait]
impl Behind for Pretended {
    async fn stopped(&self) {
        std::future::pending().await
    }

    fn serving(&self) -> Serving {
        Serving::Active
    }

    fn connected(&self) -> u64 {
        1
    }

    fn connected_since(&self, key: &Key) -> Option<Moment> {
        key.device.as_str().starts_with("online").then(now)
    }

    async fn invoke(&self, key: &Key, call: Call) -> Result<(i32, Value), NotInvoked> {
        self.connected_since(key).ok_or(NotInvoked::NotOnline)?;
        Ok((200, call.payload))
    }
}

fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[tokio::main]
async fn main() -> Result<(), Anything> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("name a directory, then addresses")?);
    let addresses: Vec<SocketAddr> = arguments.map(|address| address.parse()).collect::<Result<_, _>>()?;
    std::fs::create_dir_all(directory.join("files"))?;
    let service = Service::new(Arc::new(hub(&directory).await?));
    let tls = tls(&directory, &addresses)?;
    let mut listeners = tokio::task::JoinSet::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await?;
        listeners.spawn(listen(listener, tls.clone(), service.clone()));
    }
    listeners.join_all().await;
    Ok(())
}

async fn hub(directory: &Path) -> Result<Arc<Hub>, Anything> {
    let region = Region::parse("paris")?;
    let registry = Registry::open(&directory.join("registry"), region.clone())?;
    registry.activate(Epoch(1));
    let policy = Policy::new("iothubowner", Rights::ALL);
    println!("SharedAccessKeyName=iothubowner;SharedAccessKey={}", policy.primary);
    registry.set_policy(policy).await?;
    let telemetry = Telemetry::open(&directory.join("telemetry"), region, TelemetryOptions::default())?;
    for count in 0..3 {
        let event = Event {
            key: Key::parse("online-1")?,
            generation: "1".into(),
            enqueued: now(),
            system: vec![
                ("$.mid".to_owned(), count.to_string()),
                ("$.ct".to_owned(), "application/json".to_owned()),
            ],
            properties: vec![("kind".to_owned(), Some("greeting".to_owned()))],
            body: format!("{{\"count\":{count}}}").into(),
        };
        telemetry.append(Epoch(1), event).await?;
    }
    let options = HubOptions { names: Vec::new(), files: Some(directory.join("files")) };
    Ok(Hub::new(options, registry, telemetry, Arc::new(Pretended)))
}

fn tls(directory: &Path, addresses: &[SocketAddr]) -> Result<TlsAcceptor, Anything> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Without names of their own, some clients take the two certificates for one that signed itself.
    authority.distinguished_name.push(DnType::CommonName, "an authority for trying things out");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    std::fs::write(directory.join("ca.pem"), authority.pem())?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["contoso.hub".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "a hub for trying things out");
    let hosts = addresses.iter().map(SocketAddr::ip).map(|ip: IpAddr| SanType::IpAddress(ip));
    params.subject_alt_names.extend(hosts);
    let chain = vec![params.signed_by(&key, &authority)?.der().clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn listen(listener: TcpListener, tls: TlsAcceptor, service: Service) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, service) = (tls.clone(), service.clone());
        tokio::spawn(async move {
            let greeted = tokio::time::timeout(Duration::from_secs(10), tls.accept(stream)).await;
            let Ok(Ok(stream)) = greeted else { return };
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}
