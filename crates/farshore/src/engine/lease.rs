//! Renewing the right to serve, for items that fence themselves.
//!
//! A renewal is a transaction that writes, conditional on the item's own record: a member of the store that is cut off cannot
//! grant one, and a revocation that was stored before it makes it fail.

use farshore_core::ids::{Epoch, ItemId, Region, Token};
use farshore_core::store::{CommitError, Compare, Transaction};
use serde::{Deserialize, Serialize};

use super::book::put;
use super::records::{beat_key, own_key};
use super::{Control, Inner};

/// The item's own record is changed by others this often at most while one renewal is written.
const ATTEMPTS_MAX: u32 = 3;

/// The record `items/KIND/NAME/beat`: that somebody renewed. Decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Beat {
    epoch: Epoch,
    region: Region,
    count: u64,
}

/// Why a right was not renewed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "error")]
pub enum RenewError {
    /// It was given to somebody else, or taken back.
    #[error("the right to serve was revoked: the present token is {current}")]
    Revoked {
        /// The item's present token.
        current: Token,
    },
    /// There is no such item.
    #[error("the control plane does not know the item")]
    Unknown,
    /// Nobody can say: neither renewed nor revoked.
    #[error("{why}")]
    Unavailable {
        /// What failed.
        why: String,
    },
}

impl Control {
    /// Renews the right of `region` to serve `item` under `token`. On return the renewal is stored; how long it is good is
    /// the caller's to count, from the moment before it asked.
    pub async fn renew(&self, region: &Region, item: &ItemId, token: Token) -> Result<(), RenewError> {
        for _ in 0..ATTEMPTS_MAX {
            if try_once(&self.inner, region, item, token).await? {
                return Ok(());
            }
        }
        Err(RenewError::Unavailable { why: format!("{item} is changed by others again and again") })
    }
}

/// `false`: the item was changed meanwhile; decide again.
async fn try_once(inner: &Inner, region: &Region, id: &ItemId, token: Token) -> Result<bool, RenewError> {
    let unavailable = |why: String| RenewError::Unavailable { why };
    let own = inner.book.item(id).await.map_err(|error| unavailable(error.to_string()))?;
    let own = own.ok_or(RenewError::Unknown)?;
    let current = Token::new(inner.meta.incarnation, own.value.epoch);
    if token.incarnation != inner.meta.incarnation || !own.value.may_renew(region, token.epoch) {
        return Err(RenewError::Revoked { current });
    }
    let beat = Beat {
        epoch: token.epoch,
        region: region.clone(),
        count: inner.beats.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
    };
    let told = |error: CommitError| unavailable(error.to_string());
    let transaction = Transaction {
        compares: vec![Compare::At(own_key(id), own.revision)],
        writes: vec![put(beat_key(id), &beat).map_err(told)?],
    };
    // An unknown outcome is no renewal: the caller asks again while its present right lasts.
    match inner.book.store().commit(transaction).await {
        Ok(_) => Ok(true),
        Err(CommitError::Conflict { .. }) => Ok(false),
        Err(error) => Err(told(error)),
    }
}
