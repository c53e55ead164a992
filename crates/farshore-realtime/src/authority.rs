//! An authority and those for whom it vouches, for tests.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
}

/// Somebody with a certificate.
pub(crate) struct Holder {
    pub(crate) certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).unwrap();
        Self { issuer, roots: Arc::new(roots) }
    }

    pub(crate) fn vouch_for(&self, name: &str) -> Holder {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Holder { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }

    /// Whoever connects shows a certificate of this authority.
    pub(crate) fn server(&self, holder: &Holder) -> Arc<ServerConfig> {
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), ring());
        let config = ServerConfig::builder_with_provider(ring())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(vec![holder.certificate.clone()], holder.key.clone_key());
        Arc::new(config.unwrap())
    }

    pub(crate) fn client(&self, holder: &Holder) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(ring())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(vec![holder.certificate.clone()], holder.key.clone_key());
        Arc::new(config.unwrap())
    }
}

fn ring() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(default_provider())
}
