//! Who belongs to the cluster: its certificate authority, the certificates of its nodes, and what they prove.
//!
//! Read in this order: [`provider`].

use std::sync::Once;

/// Makes ring the cryptography of this process. Called before the first use of TLS, and harmless afterwards: rustls refuses
/// to guess where more than one provider could be linked.
pub fn provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Err: somebody who linked this library chose another one, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
