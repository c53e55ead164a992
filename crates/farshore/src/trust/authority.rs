//! The cluster's own certificate authority: a key that says who belongs.
//!
//! A request gives its public key and nothing else: what the certificate says is decided here.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farshore_core::ids::{Name, Region};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, date_time_ymd,
};

use super::address::{ADDRESSES_MAX, Address, InvalidAddress};
use super::certificate::{CLUSTER_URI, CaCertificate};
use super::error::TrustError;
use super::files::{self, CA_CERTIFICATE, CA_KEY, Readers};
use super::identity::{CertRole, Identity};

/// How long a leaf certificate lives: who is cut off from every control node is out after this, and a copy of a key that
/// nobody renews is worth no more.
pub const LEAF_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long the authority lives: longer than the machines.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates begin this long before they are made: nodes whose clocks are late believe them, too.
const BACKDATED: Duration = Duration::from_secs(10 * 60);

/// From when to when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub from: SystemTime,
    /// The last one.
    pub until: SystemTime,
}

impl Validity {
    /// Good for `life` from now on, and for the clocks that are some minutes late.
    #[must_use]
    pub fn starting(now: SystemTime, life: Duration) -> Self {
        Self { from: now - BACKDATED, until: now + life }
    }
}

/// What a certificate shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafOrder {
    /// Who holds it; the cluster is the authority's own.
    pub region: Region,
    /// What the holder may be.
    pub role: CertRole,
    /// A name for people, in the subject.
    pub name: String,
    /// Where it is reached. Nodes have loopback and their region's name beside.
    pub addresses: Vec<Address>,
}

impl LeafOrder {
    /// Whether an authority of the cluster would sign it.
    ///
    /// # Errors
    /// What this holder may not have.
    pub fn check(&self, cluster: &str) -> Result<(), TrustError> {
        leaf_params(cluster, self, Validity::starting(UNIX_EPOCH + BACKDATED, LEAF_LIFE)).map(drop)
    }
}

/// A new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The certificate, as PEM.
    pub certificate: String,
    /// The certificate and the authority's, as servers send them.
    pub chain: String,
}

/// The cluster's certificate authority, with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CaCertificate,
    key_pem: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.certificate.cluster()).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority for a new cluster in `dir`. Never overwrites one. After a crash in the middle it can be made
    /// again: the certificate is written last.
    ///
    /// # Errors
    /// Nothing was made, or a key without a certificate, which nobody uses.
    pub fn create(dir: &Path, cluster: &str, now: SystemTime) -> Result<Self, TrustError> {
        let cluster = Name::parse(cluster)
            .map_err(|error| farshore_core::ids::InvalidName { what: "cluster", ..error })?;
        refuse_existing(&dir.join(CA_CERTIFICATE))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = ca_params(cluster.as_str(), now)?.self_signed(&key)?;
        files::make_dir(dir)?;
        files::write(&dir.join(CA_KEY), &key.serialize_pem(), Readers::Owner)?;
        files::write(&dir.join(CA_CERTIFICATE), &certificate.pem(), Readers::Everyone)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// The authority in `dir`; `None` when its key is not there.
    ///
    /// # Errors
    /// When the files cannot be read, others can read the key, or the two do not belong together.
    pub fn open(dir: &Path) -> Result<Option<Self>, TrustError> {
        let path = dir.join(CA_KEY);
        let Some(key) = files::read_key(&path)? else { return Ok(None) };
        let Some(certificate) = files::read(&dir.join(CA_CERTIFICATE))? else {
            return Err(TrustError::Absent { dir: dir.to_owned(), file: CA_CERTIFICATE });
        };
        let opened = Self::from_pem(&certificate, &key);
        opened.map(Some).map_err(|error| TrustError::Damaged { path, why: format!("is of no use ({error})") })
    }

    /// From its two halves.
    ///
    /// # Errors
    /// When one cannot be read, or they do not belong together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TrustError> {
        let key_pair = KeyPair::from_pem(key)?;
        let certificate = CaCertificate::from_pem(certificate)
            .map_err(|why| TrustError::Certificate(format!("it {why}")))?;
        let (_, read) = x509_parser::parse_x509_certificate(certificate.der())
            .map_err(|error| TrustError::Certificate(error.to_string()))?;
        if read.public_key().raw != key_pair.subject_public_key_info() {
            return Err(TrustError::Certificate("it is not of this key".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key_pair)?;
        Ok(Self { issuer, certificate, key_pem: key.to_owned() })
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    /// Its key, for another control node. Goes nowhere else.
    pub(super) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A certificate for the holder of the key that signed `request` (PEM). Of the request only the key is taken.
    ///
    /// # Errors
    /// When the request is not signed by its key, or the order names what this holder may not have.
    pub fn sign(&self, request: &str, order: &LeafOrder, validity: Validity) -> Result<Signed, TrustError> {
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| TrustError::Request(format!("does not hold ({error})")))?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(TrustError::Request("has another kind of key than ECDSA P-256".to_owned()));
        }
        self.certify(&request.public_key, order, validity)
    }

    /// A certificate and its key, both made here: for holders that have no program of ours.
    ///
    /// # Errors
    /// When the order names what this holder may not have.
    pub fn issue(&self, order: &LeafOrder, validity: Validity) -> Result<(Signed, String), TrustError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok((self.certify(&key, order, validity)?, key.serialize_pem()))
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        order: &LeafOrder,
        validity: Validity,
    ) -> Result<Signed, TrustError> {
        let params = leaf_params(self.certificate.cluster(), order, validity)?;
        let certificate = params.signed_by(key, &self.issuer)?.pem();
        let chain = format!("{certificate}{}", self.certificate.pem());
        Ok(Signed { certificate, chain })
    }
}

/// A new key and a request for a certificate for it: `(request, key)`, both PEM.
pub(super) fn new_request() -> Result<(String, String), TrustError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = CertificateParams::default().serialize_request(&key)?.pem()?;
    Ok((request, key.serialize_pem()))
}

fn refuse_existing(path: &Path) -> Result<(), TrustError> {
    match files::read(path)? {
        None => Ok(()),
        Some(_) => Err(TrustError::AlreadyThere {
            path: path.to_owned(),
            way_out: "this directory has its cluster; to make another one, name another directory with --data",
        }),
    }
}

fn ca_params(cluster: &str, now: SystemTime) -> Result<CertificateParams, TrustError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&format!("Farshore {cluster}"), cluster);
    params.subject_alt_names = vec![uri(&format!("{CLUSTER_URI}{cluster}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, Validity::starting(now, CA_LIFE));
    Ok(params)
}

fn leaf_params(
    cluster: &str,
    order: &LeafOrder,
    validity: Validity,
) -> Result<CertificateParams, TrustError> {
    let identity = Identity { cluster: cluster.to_owned(), region: order.region.clone(), role: order.role };
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&order.name, cluster);
    params.subject_alt_names = vec![uri(&identity.to_string())?];
    for address in addresses(&identity, &order.addresses)? {
        params.subject_alt_names.push(match address {
            Address::Ip(ip) => SanType::IpAddress(ip),
            Address::Dns(name) => SanType::DnsName(name.try_into()?),
        });
    }
    // QEMU refuses a certificate without the second one, though an ECDSA key enciphers nothing.
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    // A client with an address is a server that is not ours: an etcd member, for example.
    if order.role.is_node() || !order.addresses.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, validity);
    Ok(params)
}

/// What was asked for, and what every node has, each once.
fn addresses(identity: &Identity, asked: &[Address]) -> Result<Vec<Address>, TrustError> {
    let own = Address::of_region(&identity.region, &identity.cluster);
    let refused =
        |address: &Address, why| Err(TrustError::Address(InvalidAddress { text: address.to_string(), why }));
    if let Some(foreign) = asked.iter().find(|address| address.is_internal() && **address != own) {
        return refused(foreign, "names under farshore.internal are given by the authority: leave it out");
    }
    if asked.len() > ADDRESSES_MAX {
        return refused(&asked[ADDRESSES_MAX], "a certificate has at most 32 addresses: name fewer");
    }
    let mut all = asked.to_vec();
    if identity.role.is_node() {
        all.push(own);
        all.push(Address::Dns("localhost".to_owned()));
        all.push(Address::Ip(std::net::Ipv4Addr::LOCALHOST.into()));
        all.push(Address::Ip(std::net::Ipv6Addr::LOCALHOST.into()));
    }
    all.sort();
    all.dedup();
    Ok(all)
}

fn subject(name: &str, cluster: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, cluster);
    subject.push(DnType::CommonName, name);
    subject
}

fn uri(text: &str) -> Result<SanType, TrustError> {
    Ok(SanType::URI(text.try_into()?))
}

fn set_validity(params: &mut CertificateParams, validity: Validity) {
    let epoch = date_time_ymd(1970, 1, 1);
    // Before 1970 there were no certificates.
    let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + since(validity.from);
    params.not_after = epoch + since(validity.until);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::certificate::{Leaf, Read};
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    fn order(role: CertRole, addresses: &[&str]) -> LeafOrder {
        LeafOrder {
            region: Region::parse("paris").unwrap(),
            role,
            name: "paris-1".to_owned(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn authority() -> (tempfile::TempDir, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path(), "prod", SystemTime::now()).unwrap();
        (dir, authority)
    }

    fn validity() -> Validity {
        Validity::starting(SystemTime::now(), LEAF_LIFE)
    }

    #[test]
    fn an_authority_is_made_once_and_opened_again() {
        let (dir, made) = authority();
        let opened = Authority::open(dir.path()).unwrap().unwrap();
        assert_eq!(opened.certificate(), made.certificate());
        assert_eq!(opened.certificate().cluster(), "prod");
        assert!(opened.certificate().hash().starts_with("sha256:"));
        let again = Authority::create(dir.path(), "prod", SystemTime::now()).unwrap_err().to_string();
        assert!(again.contains("is there already") && again.contains("--data"), "{again}");
        assert!(Authority::create(tempfile::tempdir().unwrap().path(), "Prod", SystemTime::now()).is_err());
    }

    #[test]
    fn a_key_of_another_authority_is_found_out() {
        let (dir, _) = authority();
        let (other, _) = authority();
        std::fs::copy(other.path().join(CA_KEY), dir.path().join(CA_KEY)).unwrap();
        let error = Authority::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("not of this key"), "{error}");
    }

    #[test]
    fn a_leaf_says_who_and_where() {
        let (_dir, authority) = authority();
        let order = order(CertRole::Control, &["dr.example.org", "10.0.0.1"]);
        let (signed, key) = authority.issue(&order, validity()).unwrap();
        let leaf = Leaf::from_pem(&format!("{}{key}", signed.chain)).unwrap();
        assert_eq!(leaf.identity().to_string(), "farshore://prod/paris/control");
        let named: Vec<String> = leaf.addresses().iter().map(ToString::to_string).collect();
        for address in
            ["dr.example.org", "10.0.0.1", "localhost", "127.0.0.1", "::1", "paris.prod.farshore.internal"]
        {
            assert!(named.contains(&address.to_owned()), "{address} in {named:?}");
        }
        assert!(leaf.valid_from() < SystemTime::now() - Duration::from_secs(60));
    }

    #[test]
    fn a_request_gives_its_key_and_nothing_else() {
        let (_dir, authority) = authority();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut asked = CertificateParams::default();
        asked.subject_alt_names = vec![uri("farshore://prod/oslo/control").unwrap()];
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = asked.serialize_request(&key).unwrap().pem().unwrap();
        let signed = authority.sign(&request, &order(CertRole::Agent, &[]), validity()).unwrap();
        let der = CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap();
        assert_eq!(Read::from_der(&der).unwrap().identity.to_string(), "farshore://prod/paris/agent");
        let (_, read) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(!read.is_ca());
    }

    #[test]
    fn a_request_that_is_not_signed_by_its_key_is_refused() {
        let (_dir, authority) = authority();
        let (request, _) = new_request().unwrap();
        let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(request.as_bytes()).unwrap();
        let mut bytes = der.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let forged = crate::trust::certificate::pem_text("CERTIFICATE REQUEST", &bytes);
        for bad in [forged.as_str(), "", "nonsense"] {
            let refused = authority.sign(bad, &order(CertRole::Agent, &[]), validity());
            assert!(matches!(refused, Err(TrustError::Request(_))), "{refused:?}");
        }
    }

    #[test]
    fn nobody_gets_another_regions_name() {
        let (_dir, authority) = authority();
        for bad in ["oslo.prod.farshore.internal", "farshore.internal"] {
            let refused = authority.issue(&order(CertRole::Agent, &[bad]), validity());
            assert!(matches!(refused, Err(TrustError::Address(_))), "{bad}");
        }
        assert!(
            authority.issue(&order(CertRole::Agent, &["paris.prod.farshore.internal"]), validity()).is_ok()
        );
    }
}
