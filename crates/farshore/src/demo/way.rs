//! How a client finds what is active: it asks the concierge, which needs no token, and believes only what is signed.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::client::{Broken, broken};
use crate::engine::now;
use crate::names::client::{Highest, Known};
use crate::names::{AnswerView, KeysView, PublicKey, SIGNATURE_HEADER};

/// A concierge that does not answer makes way for the next.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where clients ask.
#[derive(Debug)]
pub(super) struct Way {
    /// The item's name in the directory.
    name: &'static str,
    concierges: Vec<String>,
    /// The one that answered last.
    good: AtomicUsize,
    http: reqwest::Client,
    key: PublicKey,
}

impl Way {
    /// To what has `name` in the directory. Takes the cluster's key on trust, as a device is given it with its firmware.
    pub(super) async fn learn(
        name: &'static str,
        concierges: &[String],
        ca_file: Option<&Path>,
    ) -> Result<Self, Broken> {
        crate::trust::provider();
        let http = reqwest::Client::builder().timeout(PATIENCE).connect_timeout(PATIENCE).no_proxy();
        let http = match ca_file {
            None => http,
            Some(path) => {
                let pem = std::fs::read(path).map_err(broken)?;
                http.tls_certs_only([reqwest::Certificate::from_pem(&pem).map_err(broken)?])
            }
        };
        let http = http.build().map_err(broken)?;
        let first = concierges.first().ok_or_else(|| broken("there is no concierge"))?;
        let keys = http.get(format!("{first}/concierge/v1/keys")).send().await.map_err(broken)?;
        let keys: KeysView = keys.json().await.map_err(broken)?;
        let public = keys.keys.first().ok_or_else(|| broken("the concierge has no key"))?;
        let key = PublicKey::from_base64(&public.public).map_err(broken)?;
        Ok(Self { name, concierges: concierges.to_vec(), good: AtomicUsize::new(0), http, key })
    }

    /// What a new client knows.
    pub(super) fn known(&self) -> Known {
        Known::new(self.key.clone(), Highest::default())
    }

    /// Where it is now; `None`: nobody says so in a way that can be believed.
    pub(super) async fn ask(&self, known: &mut Known) -> Option<AnswerView> {
        let asked = self.good.load(Ordering::Relaxed);
        let base = &self.concierges[asked % self.concierges.len()];
        let answer = self.answer(base, known).await;
        if answer.is_none() {
            // Many clients find out at once that a concierge is gone: one of them turns to the next.
            let _ = self.good.compare_exchange(asked, asked + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        answer
    }

    async fn answer(&self, base: &str, known: &mut Known) -> Option<AnswerView> {
        let answer = self.http.get(format!("{base}/concierge/v1/{}", self.name)).send().await.ok()?;
        let signature = answer.headers().get(SIGNATURE_HEADER)?.to_str().ok()?.to_owned();
        let body = answer.bytes().await.ok()?;
        known.check(self.name, &body, &signature, now()).ok()
    }
}
