//! Where devices connect, and how they prove who they are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_core::moment::Moment;
use farshore_hub::sas::Token;
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio_rustls::TlsConnector;

use crate::Failed;

/// So many addresses of loopback, from 127.0.1.1 on, are called from: each has ports of its own.
const SOURCES: usize = 16;
/// Longer than any benchmark.
const TOKEN_SECONDS: u64 = 24 * 3600;

/// What an order says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// Of every region that may serve: a device calls the first that takes its connection.
    addresses: Vec<SocketAddr>,
    /// The server's name in its certificate, in user names and in tokens.
    host: String,
    tls: Tls,
    /// The authority that signed the server's certificate (PEM).
    ca: Option<PathBuf>,
}

/// Which protocol protects the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Tls {
    #[serde(rename = "off")]
    Off,
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// The same, ready for use.
pub(crate) struct Place {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) tls: Option<TlsConnector>,
    pub(crate) name: ServerName<'static>,
    host: String,
}

impl Target {
    pub(crate) fn resolve(self) -> Result<Arc<Place>, Failed> {
        let tls = self.connector()?;
        let name = ServerName::try_from(self.host.clone())?;
        Ok(Arc::new(Place { addresses: self.addresses, tls, name, host: self.host }))
    }

    fn connector(&self) -> Result<Option<TlsConnector>, Failed> {
        let version = match self.tls {
            Tls::Off => return Ok(None),
            Tls::Tls12 => &TLS12,
            Tls::Tls13 => &TLS13,
        };
        let ca = self.ca.as_ref().ok_or("TLS needs a file with the authority's certificate")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Some(Arc::new(config).into()))
    }
}

impl Place {
    pub(crate) fn source(&self, number: usize) -> SocketAddr {
        let last = u8::try_from(1 + number % SOURCES).unwrap_or(1);
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, last)), 0)
    }

    pub(crate) fn user(&self, id: &str) -> String {
        format!("{}/{id}/?api-version=2021-04-12", self.host)
    }

    /// A token signed with the device's own key: the SHA-256 of its name, as the benchmark registered it.
    pub(crate) fn password(&self, id: &str) -> Result<String, Failed> {
        let key = STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, id.as_bytes()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let expires = Moment((now + TOKEN_SECONDS) * 1_000_000);
        Ok(Token::make(&format!("{}/devices/{id}", self.host), &key, None, expires)?)
    }
}
