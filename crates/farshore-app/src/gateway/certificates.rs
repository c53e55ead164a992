//! TLS by the name that a client asks for: its certificate, or the default one, and what is spoken then.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{Acceptor, ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// A certificate cannot be used for a host.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The chain is not a list of certificates.
    #[error(
        "the certificate chain for {host} cannot be read: give the host's own certificate first, then those above it, in PEM ({why})"
    )]
    Chain {
        /// For whom it was to be.
        host: String,
        /// What the reader said.
        why: String,
    },
    /// The key is none.
    #[error(
        "the private key for {host} cannot be read: give it in PEM, not encrypted, as RSA or ECDSA (P-256, P-384) or Ed25519 ({why})"
    )]
    Key {
        /// For whom it was to be.
        host: String,
        /// What the reader said.
        why: String,
    },
    /// They are from two pairs.
    #[error(
        "the private key is not the one of the certificate for {host}: give the key that the certificate was made with"
    )]
    Pair {
        /// For whom they were to be.
        host: String,
    },
    /// The certificate is somebody else's.
    #[error("the certificate is not for {host}: give one that names this host")]
    Host {
        /// For whom it was to be.
        host: String,
    },
}

/// Certificates by host.
#[derive(Debug)]
pub(super) struct Certificates {
    by_host: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
    default: Option<Arc<dyn ResolvesServerCert>>,
    /// Held while the map is changed.
    changing: Mutex<()>,
}

impl Certificates {
    pub(super) fn new(default: Option<&ServerConfig>) -> Self {
        let default = default.map(|config| Arc::clone(&config.cert_resolver));
        Self { by_host: ArcSwap::default(), default, changing: Mutex::default() }
    }

    pub(super) fn set(&self, host: &str, chain_pem: &str, key_pem: &str) -> Result<(), CertificateError> {
        let host = host.to_ascii_lowercase();
        let key = certified(&host, chain_pem, key_pem)?;
        self.change(|by_host| drop(by_host.insert(host, Arc::new(key))));
        Ok(())
    }

    pub(super) fn remove(&self, host: &str) {
        self.change(|by_host| drop(by_host.remove(&host.to_ascii_lowercase())));
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<String, Arc<CertifiedKey>>)) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_host = HashMap::clone(&self.by_host.load());
        change(&mut by_host);
        self.by_host.store(Arc::new(by_host));
    }

    /// TLS with these certificates, under the rules of `default` otherwise.
    pub(super) fn tls(self: Arc<Self>, default: Option<&ServerConfig>) -> Tls {
        let mut config = match default {
            Some(config) => config.clone(),
            None => plain(Arc::clone(&self)),
        };
        config.cert_resolver = self;
        let speaks = |protocols: &[&str]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().copied().map(Vec::from).collect();
            Arc::new(config)
        };
        let older = ["http/1.1", "http/1.0"];
        Tls { apps: speaks(&["h2", older[0], older[1]]), git: speaks(&older) }
    }
}

/// What is spoken by TLS: with apps all versions of HTTP, with git those before HTTP/2.
///
/// When a push over HTTP/2 is larger than what may be sent unasked, curl asks git for more after its end, and git then waits
/// for itself for ever (<https://github.com/git/git/pull/1608>; seen with git 2.47 and curl 7.88 in 5 of 100 pushes of
/// 3 MiB). It gains nothing by HTTP/2.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    apps: Arc<ServerConfig>,
    git: Arc<ServerConfig>,
}

impl Tls {
    /// Shakes hands with a client; `is_git` says whether the name that it asks for is one for scripts.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        is_git: impl FnOnce(&str) -> bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let git = begun.client_hello().server_name().is_some_and(|name| is_git(&asked_for(name)));
        begun.into_stream(Arc::clone(if git { &self.git } else { &self.apps })).await
    }
}

/// A name as it is known here.
fn asked_for(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(asked_for);
        let own = name.and_then(|name| self.by_host.load().get(&name).cloned());
        own.or_else(|| self.default.as_ref()?.resolve(hello))
    }
}

fn ring() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}

fn plain(resolver: Arc<Certificates>) -> ServerConfig {
    ServerConfig::builder_with_provider(ring())
        .with_safe_default_protocol_versions()
        .expect("ring has what both versions need")
        .with_no_client_auth()
        .with_cert_resolver(resolver)
}

fn certified(host: &str, chain_pem: &str, key_pem: &str) -> Result<CertifiedKey, CertificateError> {
    let owner = || host.to_owned();
    let bad_chain = |why: String| CertificateError::Chain { host: owner(), why };
    let bad_key = |why: String| CertificateError::Key { host: owner(), why };
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| bad_chain(error.to_string()))?;
    let leaf = chain.first().ok_or_else(|| bad_chain("there is no certificate in it".to_owned()))?;
    let parsed = ParsedCertificate::try_from(leaf).map_err(|error| bad_chain(error.to_string()))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| CertificateError::Host { host: owner() })?;
    rustls::client::verify_server_name(&parsed, &name)
        .map_err(|_| CertificateError::Host { host: owner() })?;
    let key =
        PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| bad_key(error.to_string()))?;
    let key = ring().key_provider.load_private_key(key).map_err(|error| bad_key(error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| CertificateError::Pair { host: owner() })?;
    Ok(certified)
}
