//! What goes wrong with keys and certificates, and how to mend it.

use std::io;
use std::path::PathBuf;

use farshore_core::ids::InvalidName;

use super::address::InvalidAddress;

/// Why trust could not be made, read or renewed. Nothing was replaced.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// "read", "write".
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no trust in the directory yet.
    #[error(
        "{} has no {file}: make a cluster with `farshore init`, or join one with `farshore join`", dir.display()
    )]
    Absent {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        file: &'static str,
    },
    /// The key to sign with is not here.
    #[error("{} is not here: run this on a control node, which has the authority's key", path.display())]
    NoAuthority {
        /// Where it would be.
        path: PathBuf,
    },
    /// Others on the machine could read a key.
    #[error("{0} can be read by others (mode {1:o}): run chmod 600 {0}", path.display(), mode)]
    Open {
        /// The key's file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// What would be overwritten is somebody's way in.
    #[error("{} is there already: {way_out}", path.display())]
    AlreadyThere {
        /// The file.
        path: PathBuf,
        /// What to do instead.
        way_out: &'static str,
    },
    /// A file holds something else than it should.
    #[error("{} {why}: restore it from a backup, or remove the directory and join again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate or a request for one that cannot be used.
    #[error("this certificate cannot be used: {0}")]
    Certificate(String),
    /// A request for a certificate that is not signed.
    #[error("the request for a certificate {0}: let `farshore join` make it")]
    Request(String),
    /// A cluster's or region's name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// An address.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// The cryptography failed; a defect, or a machine without randomness.
    #[error("cannot make a key or certificate: {0}")]
    Crypto(String),
    /// No control node gave a new certificate.
    #[error("no control node renewed this node's certificate: {tried}")]
    NotRenewed {
        /// Each one and why not.
        tried: String,
    },
    /// A certificate came back that is not the one asked for.
    #[error("{from} sent a certificate that is not for this node: {why}; nothing was replaced")]
    WrongAnswer {
        /// Who.
        from: String,
        /// What is wrong.
        why: String,
    },
}

impl From<rcgen::Error> for TrustError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

impl From<rustls::Error> for TrustError {
    fn from(error: rustls::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}
