//! `farshore join`: how a host becomes a node of a cluster.
//!
//! It trusts nobody yet. The hash of the authority, carried by a person, tells whom to believe: the handshake fails for
//! every server whose chain does not end in that authority, before the token is sent.

use std::path::{Path, PathBuf};

use farshore_core::ids::Region;
use rustls::client::Resumption;
use std::sync::Arc;

use super::address::Address;
use super::ask::ask;
use super::authority::{Authority, new_request};
use super::certificate::{CaCertificate, Leaf};
use super::error::TrustError;
use super::files::{self, CA_CERTIFICATE, CA_KEY, NODE, Readers};
use super::identity::{CertRole, Identity};
use super::member::{Trust, believing};
use super::routes::{JoinAnswer, JoinRequest};
use super::verify::PinnedAuthority;

/// Hex digits of a SHA-256.
const HASH_LEN: usize = 64;

/// What a node needs to join.
#[derive(Clone)]
pub struct JoinOptions {
    /// A control node: `https://HOST:PORT`.
    pub control: String,
    /// The join token.
    pub token: String,
    /// The hash of the cluster's authority: `sha256:` and 64 hex digits.
    pub ca_hash: String,
    /// The region of the new node.
    pub region: Region,
    /// Its role: control or agent.
    pub role: CertRole,
    /// Where it is reached.
    pub addresses: Vec<Address>,
    /// Where its trust shall lie.
    pub dir: PathBuf,
}

impl std::fmt::Debug for JoinOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinOptions")
            .field("control", &self.control)
            .field("region", &self.region)
            .field("role", &self.role)
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The hash cannot be one.
    #[error(
        "{0:?} is no hash of an authority: write sha256: and 64 hex digits, as `farshore trust show` prints it"
    )]
    Hash(String),
    /// The directory belongs to somebody else.
    #[error("{} is of {found} already: name another directory with --data, or remove it if that node is gone", dir.display())]
    Taken {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
    },
    /// The control node did not let it in.
    #[error("{control} did not let this node in: {why}")]
    Refused {
        /// Which one.
        control: String,
        /// Why.
        why: String,
    },
    /// Files or keys.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Joins, and leaves the node's trust in the directory. Can be done again over the same node's trust, with a new token:
/// after its certificate has expired, for example. A failure leaves what was there; after one that came when the token
/// was already used, a new token is needed.
///
/// # Errors
/// Why not. A directory of another cluster, region or role is never touched.
pub async fn join(options: &JoinOptions) -> Result<Trust, JoinError> {
    let hash = parse_hash(&options.ca_hash)?;
    check_dir(options, &hash)?;
    // Before the token is used: a directory that cannot be written is found out now.
    files::make_dir(&options.dir)?;
    let (request, key) = new_request()?;
    let body = JoinRequest {
        token: options.token.trim().to_owned(),
        request,
        region: options.region.clone(),
        role: options.role,
        addresses: options.addresses.clone(),
    };
    let mut config = believing(Arc::new(PinnedAuthority { hash: hash.clone() })).with_no_client_auth();
    config.resumption = Resumption::disabled();
    let refused = |why| JoinError::Refused { control: options.control.clone(), why };
    let answer: JoinAnswer = ask(config, &options.control, "join", &body).await.map_err(refused)?;
    let leaf = format!("{}{key}", answer.certificate);
    check_answer(options, &hash, &answer, &leaf)?;
    write(&options.dir, &answer, &leaf)?;
    Ok(Trust::open(&options.dir)?)
}

fn parse_hash(text: &str) -> Result<String, JoinError> {
    let hex = text.trim().strip_prefix("sha256:");
    match hex {
        Some(hex) if hex.len() == HASH_LEN && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(format!("sha256:{}", hex.to_ascii_lowercase()))
        }
        _ => Err(JoinError::Hash(text.to_owned())),
    }
}

/// Refuses a directory of another cluster, region or role.
fn check_dir(options: &JoinOptions, hash: &str) -> Result<(), JoinError> {
    let taken = |found: String| JoinError::Taken { dir: options.dir.clone(), found };
    if let Some(pem) = files::read(&options.dir.join(CA_CERTIFICATE))? {
        let ca = CaCertificate::from_pem(&pem).map_err(|_| taken("something else".to_owned()))?;
        if ca.hash() != hash {
            return Err(taken(format!("the cluster {} with the hash {}", ca.cluster(), ca.hash())));
        }
    }
    let Some(pem) = files::read(&options.dir.join(NODE))? else { return Ok(()) };
    let found = Leaf::from_pem(&pem).map_err(|_| taken("something else".to_owned()))?;
    let identity = found.identity();
    if identity.region == options.region && identity.role == options.role {
        return Ok(());
    }
    Err(taken(identity.to_string()))
}

/// What came back must be what was asked for: the authority with the hash, and a certificate of it for us.
fn check_answer(options: &JoinOptions, hash: &str, answer: &JoinAnswer, leaf: &str) -> Result<(), JoinError> {
    let wrong =
        |why: String| JoinError::Trust(TrustError::WrongAnswer { from: options.control.clone(), why });
    let ca = CaCertificate::from_pem(&answer.ca).map_err(|why| wrong(format!("its authority {why}")))?;
    if ca.hash() != hash {
        return Err(wrong("its authority has another hash than the one given".to_owned()));
    }
    let leaf = Leaf::from_pem(leaf).map_err(wrong)?;
    let asked =
        Identity { cluster: ca.cluster().to_owned(), region: options.region.clone(), role: options.role };
    if *leaf.identity() != asked {
        return Err(wrong(format!("it is for {}", leaf.identity())));
    }
    leaf.is_signed_by(&ca).map_err(|error| wrong(error.to_string()))?;
    if let Some(key) = &answer.ca_key {
        Authority::from_pem(&answer.ca, key)?;
    }
    Ok(())
}

/// The node's own certificate last: without it the rest is nobody's, and joining can be done again.
fn write(dir: &Path, answer: &JoinAnswer, leaf: &str) -> Result<(), TrustError> {
    if let Some(key) = &answer.ca_key {
        files::write(&dir.join(CA_KEY), key, Readers::Owner)?;
    }
    files::write(&dir.join(CA_CERTIFICATE), &answer.ca, Readers::Everyone)?;
    files::write(&dir.join(NODE), leaf, Readers::Owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_checked_before_anything_is_sent() {
        let hex = "Ab".repeat(32);
        assert_eq!(
            parse_hash(&format!(" sha256:{hex}\n")).unwrap(),
            format!("sha256:{}", hex.to_lowercase())
        );
        for bad in ["", "sha256:", &hex, "sha256:xyz", &format!("sha1:{hex}"), &format!("sha256:{hex}0")] {
            assert!(parse_hash(bad).is_err(), "{bad}");
        }
    }
}
