//! Where etcd is and how to speak with it; checked before anything is sent.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};

/// Shortest time for a call: below it a healthy cluster in one rack would time out when a disk is busy.
const CALL_TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// A connection on which nothing moves is asked for a sign of life after this, and given up after [`KEEPALIVE_PROBES`]
/// more: this finds a watch whose connection alone was cut.
const KEEPALIVE: Duration = Duration::from_secs(3);
const KEEPALIVE_PROBES: u32 = 3;

/// Where etcd is, and under which keys.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// Base URLs of members, the nearest first: `http://10.0.0.1:2379`, or `https://…` with [`EtcdOptions::tls`].
    pub endpoints: Vec<String>,
    /// Every key starts with it; others may use the rest of the cluster.
    pub prefix: String,
    /// For `https` endpoints.
    pub tls: Option<EtcdTls>,
    /// How long a call may take altogether, fail-over included.
    pub call_timeout: Duration,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: "/farshore/".into(),
            tls: None,
            call_timeout: Duration::from_secs(2),
        }
    }
}

/// Whom to trust, and who we are.
#[derive(Clone)]
pub struct EtcdTls {
    /// The CA that signed the members' certificates.
    pub ca_pem: Vec<u8>,
    /// Our certificate with its chain; empty when etcd asks for none.
    pub cert_pem: Vec<u8>,
    /// Its key; empty when there is no certificate.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdTls")
            .field("client_certificate", &!self.cert_pem.is_empty())
            .finish_non_exhaustive()
    }
}

/// Why the options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// An option that cannot be right.
    #[error("{0}")]
    Options(String),
    /// A certificate or key that cannot be used.
    #[error("etcd's {what} cannot be used: {why}")]
    Tls {
        /// Which file's content.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The HTTP client cannot be made.
    #[error("cannot make a client for etcd: {0}")]
    Client(String),
}

/// The endpoints without trailing slashes.
pub(super) fn check(options: &EtcdOptions) -> Result<Vec<String>, EtcdError> {
    let wrong = |text: String| Err(EtcdError::Options(text));
    if options.endpoints.is_empty() {
        return wrong(
            "no etcd endpoint is given: name at least one member, for example http://10.0.0.1:2379".into(),
        );
    }
    if options.prefix.is_empty() || !options.prefix.ends_with('/') {
        return wrong(format!(
            "the etcd prefix {:?} must end with a slash, for example /farshore/",
            options.prefix
        ));
    }
    if options.call_timeout < CALL_TIMEOUT_MIN {
        return wrong(format!(
            "an etcd call timeout of {:?} is too short: at least {CALL_TIMEOUT_MIN:?}",
            options.call_timeout
        ));
    }
    let mut endpoints = Vec::new();
    for given in &options.endpoints {
        let endpoint = check_endpoint(given, options.tls.is_some())?;
        if endpoints.contains(&endpoint) {
            return wrong(format!("the etcd endpoint {given} is given twice"));
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

fn check_endpoint(given: &str, tls: bool) -> Result<String, EtcdError> {
    let wrong = |why: &str| Err(EtcdError::Options(format!("the etcd endpoint {given:?} {why}")));
    let Ok(url) = reqwest::Url::parse(given) else {
        return wrong("is no URL: write it as http://10.0.0.1:2379");
    };
    if url.host_str().is_none() || !matches!(url.path(), "" | "/") || url.query().is_some() {
        return wrong("must be a scheme, a host and a port only: write it as http://10.0.0.1:2379");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("holds a user name or password: use a client certificate instead");
    }
    match (url.scheme(), tls) {
        ("http", _) | ("https", true) => Ok(given.trim_end_matches('/').to_owned()),
        ("https", false) => wrong("needs a CA certificate to trust: set the CA file of etcd"),
        _ => wrong("must start with http:// or https://"),
    }
}

/// A client that keeps connections alive and never retries, redirects or takes a proxy by itself: what was sent, and how
/// often, must be known.
pub(super) fn client(options: &EtcdOptions) -> Result<reqwest::Client, EtcdError> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls(options.tls.as_ref())?)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(options.call_timeout / 4)
        .tcp_keepalive(KEEPALIVE)
        .tcp_keepalive_interval(KEEPALIVE)
        .tcp_keepalive_retries(KEEPALIVE_PROBES)
        .build()
        .map_err(|error| EtcdError::Client(error.to_string()))
}

fn tls(tls: Option<&EtcdTls>) -> Result<ClientConfig, EtcdError> {
    let bad = |what: &'static str| move |why: String| EtcdError::Tls { what, why };
    let mut roots = RootCertStore::empty();
    if let Some(tls) = tls {
        for certificate in certificates(&tls.ca_pem).map_err(bad("CA certificate"))? {
            roots.add(certificate).map_err(|error| bad("CA certificate")(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| EtcdError::Client(error.to_string()))?
        .with_root_certificates(roots);
    let Some(tls) = tls.filter(|tls| !tls.cert_pem.is_empty() || !tls.key_pem.is_empty()) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(&tls.cert_pem).map_err(bad("client certificate"))?;
    let key =
        PrivateKeyDer::from_pem_slice(&tls.key_pem).map_err(|error| bad("client key")(error.to_string()))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| bad("client key")(error.to_string()))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("it holds no certificate in PEM form".into()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}
