//! The certificate that a client may show in the token's place.
//!
//! Who holds the key of a certificate proves it in the handshake, and the listener believes only what the cluster's authority has
//! signed (see the room `trust`). A token's record may name one such certificate by its fingerprint; then who shows it is the
//! token's holder, until the token ends or is revoked.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::trust::{CertRole, fingerprint, peer_identity};

/// Why a text is no certificate for this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCertificate {
    /// There is none in it.
    #[error(
        "no certificate is in it: give the file client-cert.pem that farshore trust issue writes, as it is"
    )]
    Unreadable,
    /// The cluster's authority did not make it.
    #[error(
        "the certificate names nobody of a cluster, so no node would believe it: make one with farshore trust issue"
    )]
    Foreign,
    /// A node shows it, which has rights of its own.
    #[error(
        "the certificate is of {0}: tokens go with certificates of the role client (farshore trust issue --role client)"
    )]
    Node(String),
}

/// The fingerprint, `sha256:` and 64 hexadecimal digits, of the first certificate in `pem`.
///
/// # Errors
/// When no client could show it here; says why.
pub fn of_client(pem: &str) -> Result<String, NoCertificate> {
    let certificate =
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| NoCertificate::Unreadable)?;
    let identity = peer_identity(Some(std::slice::from_ref(&certificate))).ok_or(NoCertificate::Foreign)?;
    if identity.role != CertRole::Client {
        return Err(NoCertificate::Node(identity.to_string()));
    }
    Ok(fingerprint(&certificate))
}
