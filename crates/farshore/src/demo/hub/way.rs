//! How a device finds its hub: it asks the concierge, which needs no token, and believes only what is signed.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::demo::client::{Broken, broken};
use crate::engine::now;
use crate::names::client::{Highest, Known};
use crate::names::{AnswerView, KeysView, PublicKey, SIGNATURE_HEADER};

/// The item's name in the directory.
const NAME: &str = "fleet.hub";
/// A concierge that does not answer makes way for the next.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where devices ask.
#[derive(Debug)]
pub(super) struct Way {
    concierges: Vec<String>,
    /// The one that answered last.
    good: AtomicUsize,
    http: reqwest::Client,
    key: PublicKey,
}

/// Where the hub is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) region: String,
    pub(super) mqtt: SocketAddr,
}

impl Way {
    /// Takes the cluster's key on trust, as a device is given it with its firmware.
    pub(super) async fn learn(concierges: &[String], ca_file: Option<&Path>) -> Result<Self, Broken> {
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
        Ok(Self { concierges: concierges.to_vec(), good: AtomicUsize::new(0), http, key })
    }

    /// What a new device knows.
    pub(super) fn known(&self) -> Known {
        Known::new(self.key.clone(), Highest::default())
    }

    /// Where the hub is now; `None`: nobody says so in a way that can be believed.
    pub(super) async fn ask(&self, known: &mut Known) -> Option<Place> {
        let asked = self.good.load(Ordering::Relaxed);
        let base = &self.concierges[asked % self.concierges.len()];
        let answer = self.answer(base, known).await;
        if answer.is_none() {
            // Many devices find out at once that a concierge is gone: one of them turns to the next.
            let _ = self.good.compare_exchange(asked, asked + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        place(&answer?)
    }

    async fn answer(&self, base: &str, known: &mut Known) -> Option<AnswerView> {
        let answer = self.http.get(format!("{base}/concierge/v1/{NAME}")).send().await.ok()?;
        let signature = answer.headers().get(SIGNATURE_HEADER)?.to_str().ok()?.to_owned();
        let body = answer.bytes().await.ok()?;
        known.check(NAME, &body, &signature, now()).ok()
    }
}

fn place(answer: &AnswerView) -> Option<Place> {
    let endpoint = answer.endpoints.iter().find(|endpoint| endpoint.name == "mqtt")?;
    let mqtt = endpoint.uri.strip_prefix("mqtts://")?.parse().ok()?;
    Some(Place { region: answer.active.clone(), mqtt })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_the_region_and_where_it_speaks_mqtt() {
        let text = r#"{"name": "fleet.hub", "item": "hub/fleet", "incarnation": 1, "epoch": 2, "active": "oslo",
            "endpoints": [{"name": "https", "uri": "https://127.0.0.1:1"}, {"name": "mqtt", "uri": "mqtts://127.0.0.1:2"}],
            "ttl": 5, "since": "", "not_after": "", "poll_after": 1.0}"#;
        let answer: AnswerView = serde_json::from_str(text).unwrap();
        let expected = Place { region: "oslo".to_owned(), mqtt: "127.0.0.1:2".parse().unwrap() };
        assert_eq!(place(&answer), Some(expected));
    }
}
