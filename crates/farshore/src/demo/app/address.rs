//! The clients' resolver: the URL stays as it is, and what it leads to is asked of the concierge.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::demo::act::{LOOK_EVERY, PATIENCE};
use crate::demo::client::{Broken, broken};
use crate::demo::way::Way;
use crate::names::AnswerView;
use crate::names::client::Known;

/// Where the app is at the moment, for all clients.
#[derive(Debug)]
pub(super) struct Address {
    way: Way,
    known: tokio::sync::Mutex<Known>,
    now: Mutex<Option<Place>>,
}

/// Where the app is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) region: String,
    pub(super) http: SocketAddr,
}

impl Address {
    pub(super) fn new(way: Way) -> Arc<Self> {
        let known = tokio::sync::Mutex::new(way.known());
        Arc::new(Self { way, known, now: Mutex::default() })
    }

    /// Asks the concierge; what was known stays when nobody answers.
    pub(super) async fn look_up(&self) -> Option<Place> {
        let mut known = self.known.lock().await;
        let place = self.way.ask(&mut known).await.as_ref().and_then(place)?;
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(place.clone());
        Some(place)
    }

    /// The same, as soon as it is told: that is a moment after an app was made or moved.
    pub(super) async fn find(&self) -> Result<Place, Broken> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.look_up().await {
                Some(place) => return Ok(place),
                None if Instant::now() > until => return Err(broken("nobody says where app/todo is")),
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// What was found last.
    pub(super) fn last(&self) -> Result<Place, Broken> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone().ok_or_else(|| broken("the app's name leads nowhere"))
    }
}

/// For one client: every connection that it makes goes to where the app was found last.
#[derive(Debug)]
pub(super) struct Resolver(pub(super) Arc<Address>);

impl Resolve for Resolver {
    fn resolve(&self, _: Name) -> Resolving {
        let found = self.0.last().map(|place| Box::new(std::iter::once(place.http)) as Addrs);
        Box::pin(async move { found.map_err(|error| Box::new(error) as _) })
    }
}

fn place(answer: &AnswerView) -> Option<Place> {
    let endpoint = answer.endpoints.iter().find(|endpoint| endpoint.name == "http")?;
    let http = endpoint.uri.strip_prefix("http://")?.parse().ok()?;
    Some(Place { region: answer.active.clone(), http })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_the_region_and_its_gateway() {
        let text = r#"{"name": "todo.app", "item": "app/todo", "incarnation": 1, "epoch": 2, "active": "oslo",
            "endpoints": [{"name": "http", "uri": "http://127.0.0.3:8080"}],
            "ttl": 5, "since": "", "not_after": "", "poll_after": 1.0}"#;
        let answer: AnswerView = serde_json::from_str(text).unwrap();
        let expected = Place { region: "oslo".to_owned(), http: "127.0.0.3:8080".parse().unwrap() };
        assert_eq!(place(&answer), Some(expected));
    }
}
