//! A node's own part in the cluster's trust: its certificate, and how it meets others with it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use farshore_core::ids::Region;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::ring::default_provider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};

use super::address::Address;
use super::authority::{Authority, LEAF_LIFE, LeafOrder, Validity};
use super::certificate::{CaCertificate, Leaf};
use super::error::TrustError;
use super::files::{self, CA_CERTIFICATE, NODE, Readers};
use super::identity::{CertRole, Identity};
use super::verify::{ClusterClients, ClusterServers, Demand, Wanted};

/// What HTTP connections offer, the better one first.
const HTTP_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A node's trust. Cheap to clone; whoever uses its configurations sees a renewed certificate at the next connection.
#[derive(Debug, Clone)]
pub struct Trust(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    identity: Identity,
    ca: CaCertificate,
    roots: Arc<RootCertStore>,
    authority: Option<Authority>,
    newest: Arc<Newest>,
    server: Arc<ServerConfig>,
    server_strict: Arc<ServerConfig>,
    server_nodes: Arc<ServerConfig>,
}

impl Trust {
    /// Makes a new cluster in `dir`: its authority, and the first control node's certificate. Never overwrites either.
    ///
    /// # Errors
    /// When there is a cluster already, or a name or address cannot be used. After a crash in the middle it can be done
    /// again.
    pub fn init(
        dir: &Path,
        cluster: &str,
        region: &Region,
        addresses: &[Address],
        now: SystemTime,
    ) -> Result<Self, TrustError> {
        let identity =
            Identity { cluster: cluster.to_owned(), region: region.clone(), role: CertRole::Control };
        let order = LeafOrder {
            region: region.clone(),
            role: identity.role,
            name: node_name(&identity),
            addresses: addresses.to_vec(),
        };
        order.check(cluster)?;
        let authority = begun(dir, cluster)?.map_or_else(|| Authority::create(dir, cluster, now), Ok)?;
        let (signed, key) = authority.issue(&order, Validity::starting(now, LEAF_LIFE))?;
        files::write(&dir.join(NODE), &format!("{}{key}", signed.chain), Readers::Owner)?;
        Self::open_at(dir, now)
    }

    /// Makes a node of this cluster in `dir` on the same machine: with the authority's key for the role control. Nodes on
    /// other machines join.
    ///
    /// # Errors
    /// When the authority's key is not here, or a file cannot be written.
    pub fn enroll(
        &self,
        dir: &Path,
        region: &Region,
        role: CertRole,
        now: SystemTime,
    ) -> Result<Self, TrustError> {
        let authority = self
            .authority()
            .ok_or_else(|| TrustError::NoAuthority { path: self.0.dir.join(files::CA_KEY) })?;
        let identity = Identity { cluster: self.identity().cluster, region: region.clone(), role };
        let name = node_name(&identity);
        let order = LeafOrder { region: region.clone(), role, name, addresses: Vec::new() };
        let (signed, key) = authority.issue(&order, Validity::starting(now, LEAF_LIFE))?;
        files::make_dir(dir)?;
        if role == CertRole::Control {
            files::write(&dir.join(files::CA_KEY), authority.key_pem(), Readers::Owner)?;
        }
        files::write(&dir.join(NODE), &format!("{}{key}", signed.chain), Readers::Owner)?;
        files::write(&dir.join(CA_CERTIFICATE), self.ca_pem(), Readers::Everyone)?;
        Self::open_at(dir, now)
    }

    /// The trust in `dir`, as `farshore init` or `farshore join` made it. A certificate that has expired is renewed at
    /// once where the authority's key is; elsewhere it is given as it is, and others will say so.
    ///
    /// # Errors
    /// When files are absent, damaged, do not belong together, or others on the machine can read a key.
    pub fn open(dir: &Path) -> Result<Self, TrustError> {
        Self::open_at(dir, SystemTime::now())
    }

    /// The same, at a given time.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(dir: &Path, now: SystemTime) -> Result<Self, TrustError> {
        let authority = Authority::open(dir)?;
        let ca = read_ca(dir)?;
        let leaf = read_leaf(dir, &ca)?;
        let roots = ca.roots()?;
        let identity = leaf.identity.clone();
        let expired = leaf.until <= now;
        let newest = Arc::new(Newest(RwLock::new(Arc::new(leaf))));
        let server = |demand, protocols: &[&[u8]]| {
            let clients = ClusterClients::new(Arc::clone(&roots), &identity.cluster, demand)?;
            server_config(clients, &newest, protocols)
        };
        let trust = Self(Arc::new(Inner {
            server: server(Demand::Optional, &HTTP_PROTOCOLS)?,
            server_strict: server(Demand::Required, &[])?,
            server_nodes: server(Demand::Node, &[])?,
            dir: dir.to_owned(),
            identity,
            ca,
            roots,
            authority,
            newest,
        }));
        if expired && trust.authority().is_some() {
            trust.renew_here(now)?;
        }
        Ok(trust)
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.0.identity.clone()
    }

    /// For HTTPS: clients may show a certificate, and a bad one is refused.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.server)
    }

    /// For replication: clients must show the certificate of a node.
    #[must_use]
    pub fn server_nodes(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.server_nodes)
    }

    /// For disks: clients must show a certificate.
    #[must_use]
    pub fn server_strict(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.server_strict)
    }

    /// The certificate in use, for servers with rules of their own about who may connect.
    #[must_use]
    pub fn certificate(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.0.newest) as _
    }

    /// For connections to a node of this region and to nobody else, wherever it is.
    #[must_use]
    pub fn client(&self, region: &Region) -> Arc<ClientConfig> {
        self.client_config(Wanted::Region(region.clone()))
    }

    /// For connections to any node of the cluster.
    #[must_use]
    pub fn client_any(&self) -> Arc<ClientConfig> {
        self.client_config(Wanted::AnyNode)
    }

    fn client_config(&self, wanted: Wanted) -> Arc<ClientConfig> {
        let Inner { roots, identity, newest, .. } = &*self.0;
        let servers = ClusterServers { roots: Arc::clone(roots), cluster: identity.cluster.clone(), wanted };
        let mut config = believing(Arc::new(servers)).with_client_cert_resolver(Arc::clone(newest) as _);
        config.resumption = Resumption::disabled();
        config.alpn_protocols = HTTP_PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Arc::new(config)
    }

    /// The cluster's authority, where its key is: on control nodes.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.0.authority.as_ref()
    }

    /// The authority's certificate, as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.0.ca.pem()
    }

    /// `sha256:` and the hash of the authority's certificate.
    #[must_use]
    pub fn ca_hash(&self) -> String {
        self.0.ca.hash()
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> &CaCertificate {
        &self.0.ca
    }

    /// The certificate in use.
    #[must_use]
    pub fn leaf(&self) -> Arc<Leaf> {
        self.0.newest.get()
    }

    /// When the certificate in use ends.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.leaf().until
    }

    /// Where it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// A new certificate from the authority's key in this directory.
    ///
    /// # Errors
    /// When the key is not here, or the file cannot be written: the old certificate stays.
    pub fn renew_here(&self, now: SystemTime) -> Result<(), TrustError> {
        let authority = self
            .authority()
            .ok_or_else(|| TrustError::NoAuthority { path: self.0.dir.join(files::CA_KEY) })?;
        let leaf = self.leaf();
        let order = renewed(&leaf);
        let (signed, key) = authority.issue(&order, Validity::starting(now, LEAF_LIFE))?;
        self.replace(&format!("{}{key}", signed.chain))
    }

    /// Whether others would believe this certificate.
    pub(super) fn is_ours(&self, leaf: &Leaf) -> Result<(), rustls::Error> {
        leaf.is_signed_by(&self.0.ca)
    }

    /// Writes a new certificate and its key and uses them from now on.
    pub(super) fn replace(&self, pem: &str) -> Result<(), TrustError> {
        let leaf = Leaf::from_pem(pem).map_err(TrustError::Certificate)?;
        files::write(&self.0.dir.join(NODE), pem, Readers::Owner)?;
        self.0.newest.set(leaf);
        Ok(())
    }

    /// Takes up what somebody else wrote into the directory since: `farshore join`, for example. Says whether there
    /// was anything.
    ///
    /// # Errors
    /// When it cannot be read, or is for somebody else: the certificate in use stays.
    pub fn reload(&self) -> Result<bool, TrustError> {
        let leaf = read_leaf(&self.0.dir, &self.0.ca)?;
        if leaf.pem == self.leaf().pem {
            return Ok(false);
        }
        if leaf.identity != self.0.identity {
            let why = format!("is of {} now: start the node again", leaf.identity);
            return Err(TrustError::Damaged { path: self.0.dir.join(NODE), why });
        }
        self.0.newest.set(leaf);
        Ok(true)
    }
}

/// The authority that an earlier start of the same work left, if it came no further.
fn begun(dir: &Path, cluster: &str) -> Result<Option<Authority>, TrustError> {
    let came_further = files::read(&dir.join(NODE))?.is_some();
    if came_further || files::read(&dir.join(CA_CERTIFICATE))?.is_none() {
        return Ok(None);
    }
    Ok(Authority::open(dir)?.filter(|authority| authority.certificate().cluster() == cluster))
}

/// The order for the same certificate once more.
pub(super) fn renewed(leaf: &Leaf) -> LeafOrder {
    let identity = &leaf.identity;
    LeafOrder {
        region: identity.region.clone(),
        role: identity.role,
        name: node_name(identity),
        addresses: leaf.addresses.clone(),
    }
}

/// What people read as the subject of a node's certificate.
pub(super) fn node_name(identity: &Identity) -> String {
    format!("{} {}", identity.region, identity.role)
}

fn read_ca(dir: &Path) -> Result<CaCertificate, TrustError> {
    let path = dir.join(CA_CERTIFICATE);
    let Some(pem) = files::read(&path)? else {
        return Err(TrustError::Absent { dir: dir.to_owned(), file: CA_CERTIFICATE });
    };
    CaCertificate::from_pem(&pem).map_err(|why| TrustError::Damaged { path, why })
}

fn read_leaf(dir: &Path, ca: &CaCertificate) -> Result<Leaf, TrustError> {
    let path = dir.join(NODE);
    let Some(pem) = files::read_key(&path)? else {
        return Err(TrustError::Absent { dir: dir.to_owned(), file: NODE });
    };
    let leaf = Leaf::from_pem(&pem).map_err(|why| TrustError::Damaged { path: path.clone(), why })?;
    if leaf.identity.cluster == ca.cluster() {
        return Ok(leaf);
    }
    let why = format!("is of {}, but the authority beside it of {}", leaf.identity, ca.cluster());
    Err(TrustError::Damaged { path, why })
}

/// The start of a client's configuration. Nodes of the cluster speak TLS 1.3.
pub(super) fn believing(
    servers: Arc<dyn rustls::client::danger::ServerCertVerifier>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has cipher suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(servers)
}

/// For people who have the authority's certificate and no own: believes the cluster's control nodes, whatever their
/// address.
///
/// # Errors
/// When the certificate is no root.
pub fn operator(ca: &CaCertificate) -> Result<ClientConfig, TrustError> {
    let servers =
        ClusterServers { roots: ca.roots()?, cluster: ca.cluster().to_owned(), wanted: Wanted::Control };
    let mut config = believing(Arc::new(servers)).with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = HTTP_PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn server_config(
    clients: Arc<dyn ClientCertVerifier>,
    newest: &Arc<Newest>,
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>, TrustError> {
    let mut config = ServerConfig::builder_with_provider(super::ring())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::clone(newest) as _);
    // A resumed session would skip the check of the peer's certificate: one that has expired would live on in it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The certificate in use: every handshake asks here.
#[derive(Debug)]
struct Newest(RwLock<Arc<Leaf>>);

impl Newest {
    // A panic elsewhere leaves a whole `Arc` behind, old or new.
    fn get(&self) -> Arc<Leaf> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, leaf: Leaf) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(leaf);
    }
}

impl ResolvesServerCert for Newest {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.get().certified))
    }
}

impl ResolvesClientCert for Newest {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.get().certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
