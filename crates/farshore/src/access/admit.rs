//! Whether somebody is let in with what he sent: the one way, whatever it was sent to.
//!
//! From an address that sent too many wrong tokens only those at hand are taken: nothing is compared with the bootstrap token, so
//! that nobody can try many, and the store is not asked, so that nobody can keep others from it.

use std::net::IpAddr;
use std::time::Duration;

use super::keys::{Holder, Keys, Refused};
use super::token::{NoToken, Token};

/// Why nobody is let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// Too many wrong ones came from there.
    #[error("too many wrong tokens came from this address")]
    TooMany {
        /// So long nothing is looked at.
        wait: Duration,
    },
    /// Nobody can say now who it is.
    #[error("{0}")]
    Unreachable(Refused),
    /// What was sent is nobody's; says why.
    #[error("{0}")]
    Wrong(String),
}

impl Keys {
    /// Who sent this token.
    ///
    /// # Errors
    /// When it is nobody's, or cannot be looked up; the address is charged for a wrong one.
    pub async fn admit(&self, text: &str, from: IpAddr) -> Result<Holder, NotAdmitted> {
        let wait = self.failures().wait(from);
        if wait.is_none()
            && let Some(holder) = self.bootstrap(text)
        {
            return Ok(holder);
        }
        let found = match (Token::parse(text), wait) {
            (Ok(token), None) => self.look(&token).await,
            (Ok(token), Some(_)) => self.at_hand(&token).unwrap_or(Err(Refused::Unknown)),
            (Err(mistyped @ NoToken::Mistyped), _) => {
                return Err(self.wrong(from, wait, mistyped.to_string()));
            }
            (Err(NoToken::Foreign), _) => {
                let why = "this token is not the one of this cluster: use one that an admin made, or the token file \
                           that `farshore up` printed";
                return Err(self.wrong(from, wait, why.to_owned()));
            }
        };
        found.map_err(|refused| self.not_admitted(from, wait, refused))
    }

    /// Who showed the certificate of this fingerprint in the handshake.
    ///
    /// # Errors
    /// As of [`Keys::admit`].
    pub async fn admit_by_certificate(&self, fingerprint: &str, from: IpAddr) -> Result<Holder, NotAdmitted> {
        let wait = self.failures().wait(from);
        let found = self.look_by_certificate(fingerprint).await;
        found.map_err(|refused| self.not_admitted(from, wait, refused))
    }

    fn not_admitted(&self, from: IpAddr, wait: Option<Duration>, refused: Refused) -> NotAdmitted {
        match refused {
            Refused::Unreachable { .. } => NotAdmitted::Unreachable(refused),
            refused => self.wrong(from, wait, refused.to_string()),
        }
    }

    /// Counts it, and says so; to an address that has sent too many, only that.
    fn wrong(&self, from: IpAddr, wait: Option<Duration>, why: String) -> NotAdmitted {
        if let Some(wait) = wait {
            return NotAdmitted::TooMany { wait };
        }
        tracing::info!(address = %from, "refused a token");
        self.failures().count(from);
        NotAdmitted::Wrong(why)
    }
}
