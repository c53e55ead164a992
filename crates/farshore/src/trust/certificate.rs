//! The two kinds of certificate, read: the authority's and a leaf.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farshore_core::ids::Name;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::address::Address;
use super::identity::{Identity, identity_of};
use super::ring;
use crate::engine::records::sha256_hex;

/// How an authority's certificate names its cluster.
pub(super) const CLUSTER_URI: &str = "farshore://";

/// The authority's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    der: CertificateDer<'static>,
    pem: String,
    cluster: String,
}

impl CaCertificate {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| format!("holds no certificate ({error})"))?;
        Ok(Self { cluster: cluster_of(&der)?, der, pem: pem.to_owned() })
    }

    /// From what a peer sent.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Self, String> {
        let cluster = cluster_of(der)?;
        Ok(Self { pem: pem_text("CERTIFICATE", der), cluster, der: der.clone().into_owned() })
    }

    /// As PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// As DER.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The cluster it signs for.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// `sha256:` and the hash of its DER in hex: what a person compares.
    #[must_use]
    pub fn hash(&self) -> String {
        fingerprint(&self.der)
    }

    /// As the only root.
    pub(super) fn roots(&self) -> Result<Arc<RootCertStore>, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        Ok(Arc::new(roots))
    }
}

/// `sha256:` and the hash of a certificate in hex: by it people know an authority, and records a client.
#[must_use]
pub fn fingerprint(der: &CertificateDer<'_>) -> String {
    format!("sha256:{}", sha256_hex(der))
}

fn cluster_of(der: &CertificateDer<'_>) -> Result<String, String> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| format!("holds no certificate ({error})"))?;
    if !certificate.is_ca() {
        return Err("is no certificate of an authority".to_owned());
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    let uri = names.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(CLUSTER_URI),
            _ => None,
        })
    });
    let cluster = uri.and_then(|cluster| Name::parse(cluster).ok());
    cluster.map(|cluster| cluster.to_string()).ok_or_else(|| "is no authority of a cluster".to_owned())
}

/// A node's or client's certificate with its key, ready for use.
#[derive(Clone)]
pub struct Leaf {
    pub(super) certified: Arc<CertifiedKey>,
    /// As it lies on disk.
    pub(super) pem: String,
    pub(super) identity: Identity,
    pub(super) addresses: Vec<Address>,
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, addresses, from, until, .. } = self;
        f.debug_struct("Leaf")
            .field("identity", identity)
            .field("addresses", addresses)
            .field("from", from)
            .field("until", until)
            .finish_non_exhaustive()
    }
}

impl Leaf {
    /// Reads a chain and its key, and checks that they belong together.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("does not read as PEM ({error})"))?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| format!("holds no private key ({error})"))?;
        let first = chain.first().ok_or("holds no certificate")?;
        let read = Read::from_der(first)?;
        let certified = CertifiedKey::from_der(chain, key, &ring()).map_err(|error| {
            format!("holds a certificate and a key that do not belong together ({error})")
        })?;
        let Read { identity, addresses, from, until } = read;
        Ok(Self { certified: Arc::new(certified), pem: pem.to_owned(), identity, addresses, from, until })
    }

    /// Whether it is by this authority, good now, and for connecting to others.
    pub(super) fn is_signed_by(&self, ca: &CaCertificate) -> Result<(), rustls::Error> {
        let clients = WebPkiClientVerifier::builder_with_provider(ca.roots()?, ring())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let leaf = self.certified.end_entity_cert()?;
        clients.verify_client_cert(leaf, &[], UnixTime::now()).map(drop)
    }

    /// Who holds it.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What it is good for, beside the identity.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// When it begins; some minutes before it was made.
    #[must_use]
    pub fn valid_from(&self) -> SystemTime {
        self.from
    }

    /// When it ends.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.until
    }
}

/// When a peer's certificate ends.
#[must_use]
pub fn peer_expiry(leaf: &CertificateDer<'_>) -> Option<SystemTime> {
    Read::from_der(leaf).ok().map(|read| read.until)
}

/// What a leaf certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) identity: Identity,
    pub(super) addresses: Vec<Address>,
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
}

impl Read {
    pub(super) fn from_der(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| format!("holds something else than a certificate ({error})"))?;
        let identity =
            identity_of(&certificate).ok_or("holds a certificate without farshore://CLUSTER/REGION/ROLE")?;
        let validity = certificate.validity();
        Ok(Self {
            identity,
            addresses: addresses_of(&certificate),
            from: moment(validity.not_before.timestamp()),
            until: moment(validity.not_after.timestamp()),
        })
    }
}

fn addresses_of(certificate: &X509Certificate<'_>) -> Vec<Address> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let addresses = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        GeneralName::IPAddress(bytes) => ip(bytes).map(Address::Ip),
        _ => None,
    });
    addresses.collect()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn moment(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// DER in PEM's clothes.
#[must_use]
pub fn pem_text(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    /// Characters in a line of PEM.
    const LINE: usize = 64;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(LINE) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{CertRole, LEAF_LIFE, LeafOrder, Validity, peer_identity};
    use farshore_core::ids::Region;

    #[test]
    fn bytes_that_are_no_certificate_name_nobody_and_harm_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority = crate::trust::Authority::create(dir.path(), "prod", now).unwrap();
        let order = LeafOrder {
            region: Region::parse("paris").unwrap(),
            role: CertRole::Agent,
            name: "a".to_owned(),
            addresses: Vec::new(),
        };
        let (signed, _) = authority.issue(&order, Validity::starting(now, LEAF_LIFE)).unwrap();
        let leaf = CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap();
        for good in [leaf.to_vec(), authority.certificate().der().to_vec()] {
            for cut in 0..good.len() {
                let der = CertificateDer::from(good[..cut].to_vec());
                assert_eq!(peer_identity(Some(std::slice::from_ref(&der))), None, "cut at {cut}");
                assert!(CaCertificate::from_der(&der).is_err(), "cut at {cut}");
            }
            for at in 0..good.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut bytes = good.clone();
                    bytes[at] ^= flip;
                    let der = CertificateDer::from(bytes);
                    // What is left of a name may still be one; the signature is not checked here.
                    let _ = (peer_identity(Some(std::slice::from_ref(&der))), CaCertificate::from_der(&der));
                    let _ = (Read::from_der(&der), peer_expiry(&der));
                }
            }
        }
    }
}
