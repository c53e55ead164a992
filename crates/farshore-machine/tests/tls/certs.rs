//! A small authority, and what it signs.

use std::path::Path;
use std::sync::Arc;

use farshore_core::ids::Region;
use farshore_machine::tls::MachineTls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Signs certificates of regions: their names are regions' names, and this machine's.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Leaf {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

fn ring() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn leaf(&self, region: &str) -> Leaf {
        let names = [region, "localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, region);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate().unwrap();
        Leaf { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// Accepts who has a certificate of this authority.
    pub(crate) fn server(&self, leaf: &Leaf) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), ring()).build().unwrap();
        let config =
            ServerConfig::builder_with_provider(ring()).with_safe_default_protocol_versions().unwrap();
        let (chain, key) = leaf.der();
        Arc::new(config.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap())
    }

    /// Accepts who has a certificate of this authority for the name that is asked for.
    pub(crate) fn client(&self, leaf: Option<&Leaf>) -> Arc<ClientConfig> {
        let config =
            ClientConfig::builder_with_provider(ring()).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(self.roots());
        Arc::new(match leaf.map(Leaf::der) {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        })
    }

    /// What a node of `region` is given.
    pub(crate) fn machine_tls(&self, region: &str) -> MachineTls {
        let leaf = self.leaf(region);
        let client = self.client(Some(&leaf));
        MachineTls {
            nbd_server: self.server(&leaf),
            replication_server: self.server(&leaf),
            replication_client: Arc::new(move |_: &Region| Arc::clone(&client)),
        }
    }

    /// Puts the authority and `leaf` where libnbd and QEMU look for a client's (or a server's) certificates.
    pub(crate) fn write(&self, dir: &Path, leaf: Option<&Leaf>) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("ca-cert.pem"), self.0.pem()).unwrap();
        let Some(leaf) = leaf else { return };
        for side in ["client", "server"] {
            std::fs::write(dir.join(format!("{side}-cert.pem")), leaf.certificate.pem()).unwrap();
            std::fs::write(dir.join(format!("{side}-key.pem")), leaf.key.serialize_pem()).unwrap();
        }
    }
}

impl Leaf {
    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        (vec![self.certificate.der().clone()], key)
    }
}
