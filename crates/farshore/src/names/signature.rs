//! Ed25519 signatures over answers: one key for the cluster, kept in its store, so that every node's answers look the same.
//!
//! The bytes are described for people in `docs/names.md`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

/// The header that carries the signature: `ed25519 KEY-ID BASE64`, over exactly the bytes of the body.
pub const SIGNATURE_HEADER: &str = "farshore-signature";

/// The only algorithm.
pub(super) const ALGORITHM: &str = "ed25519";

/// Length of an Ed25519 public key.
const PUBLIC_LEN: usize = 32;
/// Bytes of the public key's hash that name it: enough to tell a cluster's keys apart; it proves nothing.
const KEY_ID_LEN: usize = 8;

/// A key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(&'static str);

/// Signs the directory's answers.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// A new key as PKCS#8, to be kept in the store.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate() -> Result<Vec<u8>, KeyError> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let document =
            made.map_err(|_| KeyError("no key for names could be made: the system gives no random numbers"))?;
        Ok(document.as_ref().to_vec())
    }

    /// The key that [`SigningKey::generate`] made.
    ///
    /// # Errors
    /// When the bytes are no such key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| {
            KeyError("the key for names is no Ed25519 key in PKCS#8: restore it from a backup of the store")
        })?;
        let public = PublicKey::from_bytes(pair.public_key().as_ref())?;
        Ok(Self { pair, public })
    }

    /// What clients check with.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The value of [`SIGNATURE_HEADER`] for a body.
    #[must_use]
    pub fn header_for(&self, body: &[u8]) -> String {
        let signature = STANDARD.encode(self.pair.sign(body));
        format!("{ALGORITHM} {} {signature}", self.public.id())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Checks the directory's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    bytes: [u8; PUBLIC_LEN],
    id: String,
}

impl PublicKey {
    /// From its 32 bytes.
    ///
    /// # Errors
    /// When they are not 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: [u8; PUBLIC_LEN] =
            bytes.try_into().map_err(|_| KeyError("a public key for names has 32 bytes"))?;
        let hash = Sha256::digest(bytes);
        let id = hash.iter().take(KEY_ID_LEN).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { bytes, id })
    }

    /// From base64, as `GET /concierge/v1/keys` and `farshore resolve` show it.
    ///
    /// # Errors
    /// When it is not base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD
            .decode(text.trim())
            .map_err(|_| KeyError("the key is not base64: take \"public\" of /concierge/v1/keys"))?;
        Self::from_bytes(&bytes)
    }

    /// As base64.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.bytes)
    }

    /// Its short name: the first 8 bytes of its SHA-256, in hex.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the holder of the key signed these bytes.
    #[must_use]
    pub fn verifies(&self, body: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.bytes).verify(body, signature).is_ok()
    }
}

/// What [`SIGNATURE_HEADER`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    pub(super) key_id: String,
    pub(super) bytes: Vec<u8>,
}

impl Signature {
    /// Reads the header's value. `None`: it is not of this form.
    pub(super) fn read(header: &str) -> Option<Self> {
        let mut words = header.split(' ');
        let (algorithm, key_id, text) = (words.next()?, words.next()?, words.next()?);
        if algorithm != ALGORITHM || words.next().is_some() {
            return None;
        }
        Some(Self { key_id: key_id.to_owned(), bytes: STANDARD.decode(text).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_good_for_one_body_and_one_key() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
        let other = SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
        let signature = Signature::read(&key.header_for(b"body")).unwrap();
        assert_eq!(signature.key_id, key.public().id());
        assert!(key.public().verifies(b"body", &signature.bytes));
        assert!(!key.public().verifies(b"Body", &signature.bytes));
        assert!(!other.public().verifies(b"body", &signature.bytes));
        assert_eq!(PublicKey::from_base64(&key.public().to_base64()).as_ref(), Ok(key.public()));
    }

    #[test]
    fn what_is_no_key_or_signature_is_refused() {
        assert!(SigningKey::from_pkcs8(b"rubbish").is_err());
        assert!(PublicKey::from_base64("AAAA").is_err());
        assert!(PublicKey::from_base64("§").is_err());
        for header in ["", "ed25519", "ed25519 id", "rsa id AAAA", "ed25519 id AAAA x", "ed25519 id §"] {
            assert_eq!(Signature::read(header), None, "{header:?}");
        }
    }
}
