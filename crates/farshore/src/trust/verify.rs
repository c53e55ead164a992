//! Whom we believe: a chain to our authority, and then the URI in the certificate.

use std::fmt;
use std::sync::Arc;

use farshore_core::ids::Region;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificate::{CaCertificate, fingerprint};
use super::error::TrustError;
use super::identity::{CertRole, Identity, peer_identity};
use super::ring;

/// Why a peer whose chain is ours, or seems so, is not believed.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongPeer {
    /// It is somebody else.
    #[error("the peer is {found}, but {wanted} is wanted: is the address right?")]
    Other {
        /// Who it is.
        found: String,
        /// Who is wanted.
        wanted: String,
    },
    /// Its certificate names nobody.
    #[error("the peer's certificate names no node: was it made by `farshore`?")]
    Nobody,
    /// Its authority is not the one whose hash was given.
    #[error(
        "the server's authority has the hash {found}, not the one given: compare --ca-hash with what `farshore trust show` \
         prints on a control node; if they are the same there, somebody stands between"
    )]
    Authority {
        /// What it presented.
        found: String,
    },
}

// rustls shows what it wraps with Debug only.
impl fmt::Debug for WrongPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<WrongPeer> for Error {
    fn from(error: WrongPeer) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// Which servers of the cluster are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nodes of this region.
    Region(Region),
    /// Any node.
    AnyNode,
    /// Any control node.
    Control,
}

impl Wanted {
    fn check(&self, cluster: &str, found: Option<Identity>) -> Result<(), WrongPeer> {
        let found = found.ok_or(WrongPeer::Nobody)?;
        let fits = match self {
            Self::Region(region) => found.role.is_node() && found.region == *region,
            Self::AnyNode => found.role.is_node(),
            Self::Control => found.role == CertRole::Control,
        };
        if fits && found.cluster == cluster {
            return Ok(());
        }
        Err(WrongPeer::Other { found: found.to_string(), wanted: self.wish(cluster) })
    }

    fn wish(&self, cluster: &str) -> String {
        match self {
            Self::Region(region) => format!("a node of farshore://{cluster}/{region}"),
            Self::AnyNode => format!("a node of farshore://{cluster}"),
            Self::Control => format!("a control node of farshore://{cluster}"),
        }
    }
}

fn verify_chain(
    roots: &RootCertStore,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(leaf)?;
    let algorithms = ring().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
}

/// Believes servers whose chain is ours and who are the ones wanted. Host names say nothing.
#[derive(Debug)]
pub(super) struct ClusterServers {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) cluster: String,
    pub(super) wanted: Wanted,
}

impl ServerCertVerifier for ClusterServers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_chain(&self.roots, leaf, intermediates, now)?;
        self.wanted.check(&self.cluster, peer_identity(Some(std::slice::from_ref(leaf))))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &ring().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ring().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring().signature_verification_algorithms.supported_schemes()
    }
}

/// Believes a control node whose authority has the given hash: for who does not have the authority's certificate yet.
#[derive(Debug)]
pub(super) struct PinnedAuthority {
    pub(super) hash: String,
}

impl PinnedAuthority {
    /// The authority in the chain that has the hash.
    pub(super) fn find(&self, chain: &[CertificateDer<'_>]) -> Result<CaCertificate, Error> {
        let pinned = chain.iter().find(|der| fingerprint(der) == self.hash);
        let Some(pinned) = pinned else {
            let found = chain.last().map_or_else(|| "none".to_owned(), fingerprint);
            return Err(WrongPeer::Authority { found }.into());
        };
        CaCertificate::from_der(pinned)
            .map_err(|why| Error::General(format!("the authority's certificate {why}")))
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = self.find(intermediates)?;
        let servers = ClusterServers {
            roots: authority.roots()?,
            cluster: authority.cluster().to_owned(),
            wanted: Wanted::Control,
        };
        servers.verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &ring().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ring().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring().signature_verification_algorithms.supported_schemes()
    }
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    Optional,
    Required,
    /// A certificate of a node: hypervisors and people have others.
    Node,
}

/// Believes clients whose chain is ours and whose certificate names our cluster.
#[derive(Debug)]
pub(super) struct ClusterClients {
    chain: Arc<dyn ClientCertVerifier>,
    cluster: String,
    demand: Demand,
}

impl ClusterClients {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        cluster: &str,
        demand: Demand,
    ) -> Result<Arc<Self>, TrustError> {
        let builder = WebPkiClientVerifier::builder_with_provider(roots, ring());
        let builder = match demand {
            Demand::Optional => builder.allow_unauthenticated(),
            Demand::Required | Demand::Node => builder,
        };
        let chain = builder.build().map_err(|error| TrustError::Crypto(error.to_string()))?;
        Ok(Arc::new(Self { chain, cluster: cluster.to_owned(), demand }))
    }
}

impl ClientCertVerifier for ClusterClients {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        let found = peer_identity(Some(std::slice::from_ref(leaf))).ok_or(WrongPeer::Nobody)?;
        let fits = self.demand != Demand::Node || found.role.is_node();
        if found.cluster != self.cluster || !fits {
            let who = if self.demand == Demand::Node { "a node" } else { "somebody" };
            let wanted = format!("{who} of farshore://{}", self.cluster);
            return Err(WrongPeer::Other { found: found.to_string(), wanted }.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
