//! The first bytes of a connection between regions: which protocol, and that both sides know the cluster's secret.
//!
//! ```text
//! dialer   -> listener   magic [4]  version [2]  nonce [32]
//! listener -> dialer     magic [4]  version [2]  nonce [32]
//! dialer   -> listener   HMAC-SHA256(secret, "dialer"   nonce of the dialer  nonce of the listener) [32]
//! listener -> dialer     HMAC-SHA256(secret, "listener" nonce of the dialer  nonce of the listener) [32]
//! ```
//!
//! The dialer proves first, so that whoever can merely reach the port gets nothing to guess the secret with.

use std::fmt;
use std::time::Duration;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::wire::{FrameReader, FrameWriter, WireError};

const MAGIC: [u8; 4] = *b"FSRL";
/// Raised when frames change in a way that the version before cannot read.
const VERSION: u16 = 1;
const NONCE_LEN: usize = 32;
const OPENING_LEN: usize = MAGIC.len() + 2 + NONCE_LEN;

/// What both regions of a cluster know.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl Secret {
    /// From the secret file's text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The two sides do not belong together.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetingError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the other side does not speak this protocol: is the address that of a link listener?")]
    Foreign,
    #[error(
        "the other side speaks version {theirs} of the protocol, this one {VERSION}: run the same in both regions"
    )]
    Version { theirs: u16 },
    #[error("the other side does not know the cluster's secret: use the same secret file in all regions")]
    WrongSecret,
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// Which side of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Dialer,
    Listener,
}

/// Returns when the other side has shown that it knows the secret. The caller limits the time for the whole.
pub(super) async fn greet(
    side: Side,
    secret: &Secret,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    stall: Duration,
) -> Result<(), GreetingError> {
    let mut own = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut own).map_err(|_| GreetingError::NoRandom)?;
    match side {
        Side::Dialer => {
            writer.write(&opening(own), stall).await?;
            let nonces = [own, theirs(reader).await?].concat();
            writer.write(proof(secret, Side::Dialer, &nonces).as_ref(), stall).await?;
            check(secret, Side::Listener, &nonces, reader).await
        }
        Side::Listener => {
            let nonces = [theirs(reader).await?, own].concat();
            writer.write(&opening(own), stall).await?;
            check(secret, Side::Dialer, &nonces, reader).await?;
            writer.write(proof(secret, Side::Listener, &nonces).as_ref(), stall).await?;
            Ok(())
        }
    }
}

fn opening(nonce: [u8; NONCE_LEN]) -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_be_bytes(), &nonce].concat()
}

async fn theirs(reader: &mut FrameReader) -> Result<[u8; NONCE_LEN], GreetingError> {
    let mut opening = [0; OPENING_LEN];
    reader.exact(&mut opening).await?;
    let rest = opening.strip_prefix(&MAGIC).ok_or(GreetingError::Foreign)?;
    let (version, nonce) = rest.split_first_chunk::<2>().ok_or(GreetingError::Foreign)?;
    let theirs = u16::from_be_bytes(*version);
    if theirs != VERSION {
        return Err(GreetingError::Version { theirs });
    }
    nonce.try_into().map_err(|_| GreetingError::Foreign)
}

fn said(side: Side, nonces: &[u8]) -> Vec<u8> {
    let name: &[u8] = match side {
        Side::Dialer => b"dialer",
        Side::Listener => b"listener",
    };
    [name, nonces].concat()
}

fn proof(secret: &Secret, side: Side, nonces: &[u8]) -> hmac::Tag {
    hmac::sign(&secret.0, &said(side, nonces))
}

async fn check(
    secret: &Secret,
    side: Side,
    nonces: &[u8],
    reader: &mut FrameReader,
) -> Result<(), GreetingError> {
    let mut tag = [0; 32];
    match reader.exact(&mut tag).await {
        // A listener that refuses the dialer's proof just closes.
        Err(WireError::Io(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(GreetingError::WrongSecret)
        }
        other => Ok(other?),
    }?;
    hmac::verify(&secret.0, &said(side, nonces), &tag).map_err(|_| GreetingError::WrongSecret)
}
