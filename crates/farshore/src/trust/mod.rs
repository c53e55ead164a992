//! Who belongs to the cluster: its certificate authority, the certificates of its nodes, and what they prove.
//!
//! Read in this order: `error`, `identity` (what a certificate says), `address` (the names it is good for), `files`
//! (where keys lie), `certificate` (reading both kinds), `authority` (signing), `verify` (whom we believe), `member`
//! (a node's own part: [`Trust`], the rest goes through it), then how certificates get about: `tokens`, `routes` (a
//! control node's side), `ask`, `join`, `renewal` (the other), `issue` (for programs that are not ours).
//!
//! Must always hold: a peer is believed only by a chain to our authority *and* the URI in its certificate, never by a
//! host name; whoever asks for a certificate does not choose what it says about who he is; a private key is never
//! readable by others on the machine; no certificate that people use is ever half replaced.

mod address;
mod ask;
mod authority;
mod certificate;
mod error;
mod files;
mod identity;
mod issue;
mod join;
mod member;
mod renewal;
mod routes;
mod tokens;
mod verify;

use std::sync::{Arc, Once};

use rustls::crypto::CryptoProvider;

pub use address::{Address, InvalidAddress};
pub use authority::{Authority, LEAF_LIFE, LeafOrder, Signed, Validity};
pub use certificate::{CaCertificate, Leaf, fingerprint, peer_expiry, pem_text};
pub use error::TrustError;
pub use files::{CA_CERTIFICATE, CA_KEY, NODE};
pub use identity::{CertRole, Identity, InvalidIdentity, peer_identity};
pub use issue::{Issued, issue};
pub use join::{JoinError, JoinOptions, join};
pub use member::{Trust, operator};
pub use renewal::{Due, due};
pub use routes::router;
pub use tokens::{JoinRefusal, JoinTokens, MadeToken, NewToken, TOKEN_LIFE, TOKEN_LIFE_MAX};
pub use verify::WrongPeer;

/// Makes ring the cryptography of this process. Called before the first use of TLS, and harmless afterwards: rustls refuses
/// to guess where more than one provider could be linked.
pub fn provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Err: somebody who linked this library chose another one, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// The cryptography of our own configurations.
fn ring() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}
