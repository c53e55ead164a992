//! The hub as services see it over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use farshore_core::moment::Moment;
use serde_json::Value;
use tokio::time::timeout;

use super::gate::{Entered, Phase};
use super::{Fleet, InvokeError, MethodCall};
use crate::names::Key;
use crate::rest::{Behind, Call, Held, NotInvoked, Serving};

/// Readers who wait find out within this that the hub's right to serve has run out.
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl Held for Entered {
    fn may_answer(&self) -> bool {
        self.may_acknowledge()
    }
}

#[async_trait]
impl Behind for Fleet {
    fn serving(&self) -> Serving {
        match self.phase() {
            Phase::Open { .. } if self.is_serving() => Serving::Active,
            Phase::Open { .. } | Phase::Fenced => Serving::FailingOver,
            Phase::Closed | Phase::StandingBy | Phase::Following => Serving::Standby,
        }
    }

    async fn stopped(&self) {
        let mut phase = self.gate().watch();
        while self.serving() == Serving::Active {
            // That a right has run out is told by nobody.
            if let Ok(Err(_)) = timeout(LOOK_EVERY, phase.changed()).await {
                return;
            }
        }
    }

    fn hold(&self) -> Option<Box<dyn Held>> {
        let entered = self.gate().enter_now()?;
        Some(Box::new(entered))
    }

    fn connected(&self) -> u64 {
        u64::try_from(Self::connected(self)).unwrap_or(u64::MAX)
    }

    fn connected_since(&self, key: &Key) -> Option<Moment> {
        self.connection_of(key)
    }

    fn last_heard(&self, key: &Key) -> Option<Moment> {
        Self::last_heard(self, key)
    }

    fn forget_messages(&self, key: &Key) {
        if let Some(live) = self.sessions().get(key) {
            live.forget_messages();
        }
    }

    async fn invoke(&self, key: &Key, call: Call) -> Result<(i32, Value), NotInvoked> {
        let Call { name, payload, response_timeout, connect_timeout } = call;
        let call = MethodCall { name, payload, response_timeout, connect_timeout };
        Self::invoke(self, key, call).await.map_err(|error| match error {
            InvokeError::NotServing => NotInvoked::NotServing,
            InvokeError::Unknown(_) => NotInvoked::Unknown,
            InvokeError::NotOnline(_) => NotInvoked::NotOnline,
            InvokeError::Refused(why) => NotInvoked::Refused(why),
            // Whoever calls must take it for carried out or not, as when the time was over.
            InvokeError::TimedOut { .. } | InvokeError::Disconnected(_) => NotInvoked::TimedOut,
            InvokeError::BadAnswer(_) => NotInvoked::BadAnswer(error.to_string()),
            InvokeError::Storage(why) => NotInvoked::Failed(why),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, mpsc};

    use bytes::Bytes;
    use http::{Method, Request, StatusCode};
    use http_body_util::{BodyExt as _, Full};

    use farshore_core::ids::Epoch;

    use super::super::Standing;
    use super::super::tests::{HOST, Hub, PATIENCE, key, open, within};
    use crate::rest::{self, HubOptions};
    use crate::sas::Token;

    /// Asks the hub as its owner; status and body.
    async fn ask(hub: &Arc<rest::Hub>, token: &str, method: Method, path: &str) -> (StatusCode, String) {
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}{}api-version=2021-04-12", if path.contains('?') { '&' } else { '?' }))
            .header("host", HOST)
            .header("authorization", token)
            .body(Full::new(Bytes::from_static(br#"{"deviceId":"late"}"#)))
            .unwrap();
        let response = rest::serve(hub, request).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn face(hub: &Hub) -> (Arc<rest::Hub>, String) {
        hub.fleet.make_policies().await.unwrap();
        let policies = hub.fleet.registry().policies().unwrap();
        let owner = policies.iter().find(|policy| policy.name == "iothubowner").unwrap();
        let until = super::super::now().after(PATIENCE);
        let token = Token::make(HOST, &owner.primary, Some(&owner.name), until).unwrap();
        let options = HubOptions { names: vec![HOST.to_owned()], files: None };
        let behind = Arc::new(hub.fleet.clone());
        let (registry, telemetry) = (hub.fleet.registry().clone(), hub.fleet.telemetry().clone());
        (rest::Hub::new(options, registry, telemetry, behind), token)
    }

    #[tokio::test]
    async fn a_change_that_is_durable_after_the_fence_is_not_answered_as_done_and_is_waited_for() {
        let hub = open("oslo");
        let (face, token) = face(&hub).await;
        // The registry's writer is busy: what is asked for now waits behind this.
        let (go, gone) = mpsc::channel::<()>();
        let registry = hub.fleet.registry().clone();
        let busy = tokio::spawn(async move {
            let decide = move |_: Option<&crate::registry::Device>| {
                let _ = gone.recv();
                Ok::<_, Infallible>(Vec::new())
            };
            registry.change(key("busy"), decide).await
        });
        tokio::task::yield_now().await;
        let asked = tokio::spawn({
            let (face, token) = (Arc::clone(&face), token.clone());
            async move { ask(&face, &token, Method::PUT, "/devices/late").await }
        });
        tokio::task::yield_now().await;
        let fleet = hub.fleet.clone();
        let fenced = tokio::spawn(async move { fleet.stop_acknowledging().await });
        tokio::task::yield_now().await;
        assert!(!fenced.is_finished(), "a change is being written");
        go.send(()).unwrap();
        within(fenced).await.unwrap();
        let own = hub.fleet.registry().own();
        let (status, body) = within(asked).await.unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("IotHubFailingOver"), "{body}");
        within(busy).await.unwrap().unwrap();
        assert_eq!(hub.fleet.registry().own(), own, "something was written after the fence");
    }

    #[tokio::test]
    async fn a_hub_says_in_its_own_words_that_it_does_not_serve() {
        let hub = open("oslo");
        let (face, token) = face(&hub).await;
        assert_eq!(ask(&face, &token, Method::PUT, "/devices/late").await.0, StatusCode::OK);
        type Stop = fn(&Hub);
        let cases: [(Stop, &str); 2] = [
            (|hub| hub.fleet.stand_by(), "UnsupportedOperationOnReplica"),
            (|hub| hub.fleet.gate().shut(super::Phase::Fenced), "IotHubFailingOver"),
        ];
        for (stop, code) in cases {
            hub.fleet.open_to_devices(Epoch(1), Standing::Current);
            let (waits, ()) = tokio::join!(
                within(ask(&face, &token, Method::GET, "/messages/events?from=latest&wait=60")),
                async {
                    tokio::task::yield_now().await;
                    stop(&hub);
                }
            );
            assert_eq!(waits.0, StatusCode::SERVICE_UNAVAILABLE, "{}", waits.1);
            let (status, body) = ask(&face, &token, Method::DELETE, "/devices/late").await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(body.contains(code), "{body}");
            assert_eq!(ask(&face, &token, Method::GET, "/devices/late").await.0, StatusCode::OK);
        }
    }
}
