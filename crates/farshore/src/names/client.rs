//! What whoever asks the concierge must check. Pure: no clock, no network.

use std::collections::BTreeMap;

use farshore_core::ids::{Epoch, Token};
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use super::concierge::AnswerView;
use super::signature::{PublicKey, Signature};

/// Why an answer is not to be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It carries no signature that reads.
    #[error("the answer is not signed: is this a concierge?")]
    Unsigned,
    /// It is signed with another key.
    #[error("the answer is signed with key {signed}, but {known} is expected: is this another cluster?")]
    OtherKey {
        /// The key that signed.
        signed: String,
        /// The key that is known.
        known: String,
    },
    /// The bytes are not those that were signed.
    #[error("the signature is wrong: the answer was changed on its way")]
    Forged,
    /// It is signed, but does not read.
    #[error("the answer does not read as expected: is the server of this version?")]
    Unreadable,
    /// It is about something else.
    #[error("the answer is about {0:?}")]
    OtherName(String),
    /// Its time has passed.
    #[error("the answer was good until {0}")]
    Expired(Moment),
    /// A newer one was seen.
    #[error("the answer is of token {offered}, but {seen} was seen: the server is behind")]
    Older {
        /// Of the answer.
        offered: Token,
        /// The highest seen.
        seen: Token,
    },
}

/// The highest token seen of each name. Keep it over restarts: then an old answer is refused for ever.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Highest(BTreeMap<String, Token>);

/// What a client knows: the cluster's key, and how far it has seen.
#[derive(Debug, Clone)]
pub struct Known {
    key: PublicKey,
    highest: Highest,
}

impl Known {
    /// Begins with what was seen before, or nothing.
    #[must_use]
    pub fn new(key: PublicKey, highest: Highest) -> Self {
        Self { key, highest }
    }

    /// What to keep.
    #[must_use]
    pub fn highest(&self) -> &Highest {
        &self.highest
    }

    /// An item was deleted and made again under this name: its epochs begin anew.
    pub fn forget(&mut self, name: &str) {
        self.highest.0.remove(name);
    }

    /// Checks the body as it was received and the value of the header `Farshore-Signature`. After `Ok` every answer with
    /// a lower token is refused; an `Err` changes nothing.
    ///
    /// # Errors
    /// When the answer must not be used.
    pub fn check(
        &mut self,
        name: &str,
        body: &[u8],
        signature: &str,
        now: Moment,
    ) -> Result<AnswerView, Refused> {
        let signature = Signature::read(signature).ok_or(Refused::Unsigned)?;
        if signature.key_id != self.key.id() {
            return Err(Refused::OtherKey { signed: signature.key_id, known: self.key.id().to_owned() });
        }
        if !self.key.verifies(body, &signature.bytes) {
            return Err(Refused::Forged);
        }
        let answer: AnswerView = serde_json::from_slice(body).map_err(|_| Refused::Unreadable)?;
        if answer.name != name {
            return Err(Refused::OtherName(answer.name));
        }
        let not_after: Moment = answer.not_after.parse().map_err(|_| Refused::Unreadable)?;
        if not_after < now {
            return Err(Refused::Expired(not_after));
        }
        let offered = token_of(&answer);
        let seen = self.highest.0.get(name).copied().unwrap_or_default();
        if offered < seen {
            return Err(Refused::Older { offered, seen });
        }
        self.highest.0.insert(name.to_owned(), offered);
        Ok(answer)
    }
}

/// By which two answers about a name are compared.
#[must_use]
pub fn token_of(answer: &AnswerView) -> Token {
    Token::new(answer.incarnation, Epoch(answer.epoch))
}
