//! The node as each protocol sees it: it finds the hub that is meant, which then answers for itself.

use std::sync::Arc;

use async_trait::async_trait;

use super::Fronts;
use crate::fleet::ASK_AGAIN_AFTER;
use crate::mqtt::behind::{Behind, Hello, Verdict};
use crate::names::DeviceId;
use crate::provision::{Assignment, Known};
use crate::{amqp, provision, rest};

#[async_trait]
impl Behind for Fronts {
    async fn admit(&self, hello: Hello) -> Verdict {
        match self.find(&hello.host) {
            Some(served) => served.fleet.admit(hello).await,
            None => Verdict::Unavailable,
        }
    }
}

impl rest::Hubs for Fronts {
    fn find(&self, host: &str) -> Option<Arc<rest::Hub>> {
        Self::find(self, host).map(|served| served.rest)
    }
}

fn not_here(host: &str) -> amqp::Refused {
    amqp::Refused::Unavailable(format!("no hub called {host} is served here now: ask again"))
}

#[async_trait]
impl amqp::Behind for Fronts {
    async fn authorize(&self, token: &str, audience: &str) -> Result<amqp::Granted, amqp::Refused> {
        let host = host_of(audience);
        let served = self.find(host).ok_or_else(|| not_here(host))?;
        amqp::Behind::authorize(&served.fleet, token, audience).await
    }

    fn still_grants(&self, granted: &amqp::Granted) -> bool {
        // A hub that is not here any more says so itself when it is asked.
        self.find(&granted.hub).is_none_or(|served| amqp::Behind::still_grants(&served.fleet, granted))
    }

    async fn send(&self, hub: &str, message: amqp::CloudMessage) -> Result<(), amqp::Refused> {
        let served = self.find(hub).ok_or_else(|| not_here(hub))?;
        amqp::Behind::send(&served.fleet, hub, message).await
    }

    async fn feedback(&self, hub: &str) -> Result<amqp::Feedback, amqp::Refused> {
        let served = self.find(hub).ok_or_else(|| not_here(hub))?;
        amqp::Behind::feedback(&served.fleet, hub).await
    }

    async fn settle(&self, hub: &str, lock: &str, settled: amqp::Settled) {
        if let Some(served) = self.find(hub) {
            amqp::Behind::settle(&served.fleet, hub, lock, settled).await;
        }
    }
}

/// `amqps://HOST:PORT/path` and the like.
fn host_of(audience: &str) -> &str {
    let rest = audience.split_once("://").map_or(audience, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// A hub that is not here may be on its way: nobody is told that they are wrong.
#[async_trait]
impl provision::Behind for Fronts {
    async fn known(&self, scope: &str, registration: &DeviceId) -> Known {
        match self.find_scope(scope) {
            Some(served) => served.fleet.known(registration),
            None => {
                tracing::debug!(scope, %registration, "no hub of this name is here: the device is to ask again");
                Known::NotNow { retry_after: ASK_AGAIN_AFTER }
            }
        }
    }

    async fn assign(&self, scope: &str, registration: &DeviceId, request: provision::Request) -> Assignment {
        match self.find_scope(scope) {
            Some(served) => {
                let host = served.names.first().map(String::as_str).unwrap_or_default();
                served.fleet.assign(host, registration, request).await
            }
            None => Assignment::Assigning { retry_after: ASK_AGAIN_AFTER },
        }
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::{Epoch, Region};

    use super::super::Served;
    use super::*;
    use crate::fleet::{Fleet, FleetOptions, Standing};

    #[tokio::test]
    async fn a_scope_is_a_name_or_the_id_of_a_hub_and_who_means_another_is_told_to_ask_again() {
        let dir = tempfile::tempdir().unwrap();
        let (fronts, device) = (Fronts::default(), DeviceId::parse("pump").unwrap());
        let known = async |scope: &str| provision::Behind::known(&fronts, scope, &device).await;
        assert!(matches!(known("fleet").await, Known::NotNow { .. }), "no hub is here yet");
        for name in ["fleet", "other"] {
            let options = FleetOptions::new(name, Region::parse("oslo").unwrap(), dir.path().join(name));
            let fleet = Fleet::open(options).unwrap();
            if name == "fleet" {
                fleet.open_to_devices(Epoch(1), Standing::Current);
            }
            fronts.put(Served::new(&fleet, vec![format!("{name}.hub.test")], None));
        }
        for scope in ["fleet", "fleet.hub.test", "FLEET.hub.test"] {
            assert!(matches!(known(scope).await, Known::Stranger(groups) if groups.is_empty()), "{scope}");
        }
        for scope in ["other", "other.hub.test", "third", "0ne00"] {
            assert!(matches!(known(scope).await, Known::NotNow { .. }), "{scope}");
        }
    }
}
