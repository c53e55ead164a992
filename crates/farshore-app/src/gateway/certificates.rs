//! Certificates by the name that a client asks for; the default for all other names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsAcceptor;

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

    /// Accepts TLS with these certificates, under the rules of `default` otherwise.
    pub(super) fn acceptor(self: Arc<Self>, default: Option<&ServerConfig>) -> TlsAcceptor {
        let mut config = match default {
            Some(config) => config.clone(),
            None => plain(Arc::clone(&self)),
        };
        config.alpn_protocols = ["h2", "http/1.1", "http/1.0"].map(Vec::from).to_vec();
        config.cert_resolver = self;
        TlsAcceptor::from(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let own = name.and_then(|name| self.by_host.load().get(name.trim_end_matches('.')).cloned());
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
