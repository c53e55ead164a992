//! A certificate is renewed at two thirds of its life, by the authority's key if it is here, else by any control node
//! that answers. The store is not asked: a cluster whose control plane is down for days keeps its certificates.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::ask::ask;
use super::authority::new_request;
use super::certificate::Leaf;
use super::error::TrustError;
use super::member::Trust;
use super::routes::{RenewAnswer, RenewRequest};

/// How often the clock and the file are looked at: a clock that is put right, or a certificate that somebody else
/// wrote, counts within this.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After a renewal that failed. Ten days are left then.
const RETRY_EVERY: Duration = Duration::from_secs(600);

/// When a certificate is to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Two thirds of its life are over.
    Now,
    /// After so long.
    In(Duration),
}

/// When a certificate that is good from `from` until `until` is to be renewed.
#[must_use]
pub fn due(from: SystemTime, until: SystemTime, now: SystemTime) -> Due {
    let life = until.duration_since(from).unwrap_or_default();
    match (from + life * 2 / 3).duration_since(now) {
        Ok(left) if !left.is_zero() => Due::In(left),
        _ => Due::Now,
    }
}

impl Trust {
    /// Renews the certificate if it is time: says whether it did. `controls` are the base URLs of control nodes, for
    /// a node without the authority's key.
    ///
    /// # Errors
    /// When nobody renewed it: the old one stays in use.
    pub async fn renew_if_due(&self, controls: &[String], now: SystemTime) -> Result<bool, TrustError> {
        let leaf = self.leaf();
        match due(leaf.valid_from(), leaf.expires_at(), now) {
            Due::In(_) => Ok(false),
            Due::Now => self.renew(controls, now).await.map(|()| true),
        }
    }

    /// Renews the certificate now.
    ///
    /// # Errors
    /// As [`Self::renew_if_due`].
    pub async fn renew(&self, controls: &[String], now: SystemTime) -> Result<(), TrustError> {
        if self.authority().is_some() {
            return self.renew_here(now);
        }
        let mut tried = Vec::new();
        for control in controls {
            match self.renew_at(control).await {
                Ok(()) => return Ok(()),
                Err(error) => tried.push(format!("{control}: {error}")),
            }
        }
        if tried.is_empty() {
            tried.push("this node knows none: name them in its configuration".to_owned());
        }
        if self.expires_at() <= now {
            // Control nodes then close the connection without a word that reaches us.
            tried.push("its certificate has ended: join again with farshore join".to_owned());
        }
        Err(TrustError::NotRenewed { tried: tried.join("; ") })
    }

    async fn renew_at(&self, control: &str) -> Result<(), String> {
        let (request, key) = new_request().map_err(|error| error.to_string())?;
        let config = rustls::ClientConfig::clone(&self.client_any());
        let answer: RenewAnswer = ask(config, control, "renew", &RenewRequest { request }).await?;
        let pem = format!("{}{key}", answer.certificate);
        let leaf = Leaf::from_pem(&pem).map_err(|why| format!("what it sent {why}"))?;
        self.check_renewed(&leaf)?;
        self.replace(&pem).map_err(|error| error.to_string())
    }

    /// A new certificate is used only if it is for us, by our authority, and better than the old one.
    fn check_renewed(&self, leaf: &Leaf) -> Result<(), String> {
        if *leaf.identity() != self.identity() {
            return Err(format!("what it sent is for {}", leaf.identity()));
        }
        if leaf.expires_at() < self.expires_at() {
            return Err("what it sent ends before the old certificate does".to_owned());
        }
        self.is_ours(leaf).map_err(|error| format!("what it sent is not to be believed: {error}"))
    }

    /// Keeps the certificate fresh until the order to stop, and takes up what others write into the directory. Runs as
    /// a task of its own.
    pub async fn renew_loop(self, controls: Vec<String>, mut stop: watch::Receiver<bool>) {
        loop {
            let pause = self.look(&controls).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// One look; says when to look again.
    async fn look(&self, controls: &[String]) -> Duration {
        match self.reload() {
            Ok(true) => {
                tracing::info!(identity = %self.identity(), "a certificate was put here and is used now")
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "the certificate on disk cannot be used: the one in use stays")
            }
        }
        match self.renew_if_due(controls, SystemTime::now()).await {
            Ok(true) => tracing::info!(identity = %self.identity(), "the certificate was renewed"),
            Ok(false) => {}
            Err(error) => {
                let left = self.expires_at().duration_since(SystemTime::now()).unwrap_or_default();
                tracing::warn!(
                    %error,
                    hours_left = left.as_secs() / 3600,
                    "the certificate was not renewed: after its end nobody talks to this node; bring a control node back, \
                     or join again with farshore join"
                );
                return RETRY_EVERY;
            }
        }
        LOOK_EVERY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_certificate_is_due_at_two_thirds_of_its_life() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let check = |now, expected| assert_eq!(due(at(1000), at(1300), at(now)), expected, "{now}");
        check(0, Due::In(Duration::from_secs(1200)));
        check(1000, Due::In(Duration::from_secs(200)));
        check(1199, Due::In(Duration::from_secs(1)));
        check(1200, Due::Now);
        check(1300, Due::Now);
        check(9999, Due::Now);
    }

    #[test]
    fn a_certificate_that_ends_before_it_begins_is_due() {
        let later = UNIX_EPOCH + Duration::from_secs(10);
        assert_eq!(due(later, UNIX_EPOCH, later), Due::Now);
    }
}
