//! What a certificate says about its holder: `farshore://CLUSTER/REGION/ROLE`.

use std::fmt;
use std::str::FromStr;

use farshore_core::ids::{Name, Region};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The scheme of our URIs.
const SCHEME: &str = "farshore://";

/// What the holder of a certificate may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CertRole {
    /// A node with a control plane: signs, drives regions, and serves.
    Control,
    /// A node that acts on its own region's workloads.
    Agent,
    /// Only asks: a hypervisor, an etcd member's tool, a person.
    Client,
}

impl CertRole {
    /// The word in the URI.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Agent => "agent",
            Self::Client => "client",
        }
    }

    /// Whether others connect to it.
    #[must_use]
    pub fn is_node(self) -> bool {
        matches!(self, Self::Control | Self::Agent)
    }
}

impl fmt::Display for CertRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for CertRole {
    type Err = InvalidIdentity;
    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        match text {
            "control" => Ok(Self::Control),
            "agent" => Ok(Self::Agent),
            "client" => Ok(Self::Client),
            _ => Err(InvalidIdentity(text.to_owned())),
        }
    }
}

/// Who holds a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster.
    pub cluster: String,
    /// The region.
    pub region: Region,
    /// What it may be.
    pub role: CertRole,
}

/// A text that names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names nobody: write farshore://CLUSTER/REGION/ROLE, where the role is control, agent or client"
)]
pub struct InvalidIdentity(pub String);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.cluster, self.region, self.role)
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;
    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let bad = || InvalidIdentity(text.to_owned());
        let mut parts = text.strip_prefix(SCHEME).ok_or_else(bad)?.split('/');
        let (Some(cluster), Some(region), Some(role), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        Ok(Self {
            cluster: Name::parse(cluster).map_err(|_| bad())?.to_string(),
            region: Region::parse(region).map_err(|_| bad())?,
            role: role.parse().map_err(|_| bad())?,
        })
    }
}

/// Who the peer of a connection is, by the URI in its certificate. The chain must have been verified by the handshake:
/// this only reads. A certificate with no such URI, or with two, names nobody.
#[must_use]
pub fn peer_identity(certs: Option<&[CertificateDer<'_>]>) -> Option<Identity> {
    let leaf = certs?.first()?;
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    identity_of(&certificate)
}

/// The one identity in the certificate.
pub(super) fn identity_of(certificate: &X509Certificate<'_>) -> Option<Identity> {
    let names = certificate.subject_alternative_name().ok()??;
    let mut ours = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
        _ => None,
    });
    match (ours.next(), ours.next()) {
        (Some(uri), None) => uri.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_written_and_read() {
        let text = "farshore://prod/paris/control";
        let identity: Identity = text.parse().unwrap();
        assert_eq!(identity.to_string(), text);
        assert_eq!(identity.role, CertRole::Control);
        assert!(identity.role.is_node() && !CertRole::Client.is_node());
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for bad in [
            "",
            "farshore://",
            "farshore://prod/paris",
            "farshore://prod/paris/root",
            "farshore://prod/paris/control/",
            "farshore://prod//control",
            "farshore:///paris/control",
            "farshore://Prod/paris/control",
            "https://prod/paris/control",
            "farshore://prod/../control",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }
}
