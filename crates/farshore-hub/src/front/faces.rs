//! The node as each protocol sees it: it finds the hub that is meant, which then answers for itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Fronts, Served};
use crate::fleet::{Phase, Standing};
use crate::mqtt::behind::{Behind, Hello, Verdict};
use crate::names::{DeviceId, Key};
use crate::provision::{Assigned, Assignment, Credential, Known};
use crate::record::Auth;
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

/// A hub that does not serve here now, or is not here, may soon.
const LATER: Duration = Duration::from_secs(5);

#[async_trait]
impl provision::Behind for Fronts {
    async fn known(&self, scope: &str, registration: &DeviceId) -> Known {
        let Some(served) = self.find(scope) else { return Known::NoScope };
        let not_now = Known::NotNow { retry_after: LATER };
        if !served.fleet.is_serving() {
            return not_now;
        }
        match served.fleet.registry().get(&Key::device(registration.clone())) {
            Ok(Some(device)) if !device.enabled => Known::Disabled,
            Ok(Some(device)) => Known::Device(credential(&served, &device.auth)),
            // The lost region may have known it.
            Ok(None) if matches!(served.fleet.phase(), Phase::Open { standing: Standing::Behind, .. }) => {
                not_now
            }
            Ok(None) => Known::Stranger(Vec::new()),
            Err(error) => {
                tracing::warn!(hub = served.fleet.name(), %error, "a registration cannot be looked up");
                not_now
            }
        }
    }

    async fn assign(&self, scope: &str, registration: &DeviceId, _request: provision::Request) -> Assignment {
        let later = Assignment::Assigning { retry_after: LATER };
        let Some(served) = self.find(scope).filter(|served| served.fleet.is_serving()) else { return later };
        let Ok(Some(device)) = served.fleet.registry().get(&Key::device(registration.clone())) else {
            return later;
        };
        Assignment::Assigned(Assigned {
            hub: served.names.first().cloned().unwrap_or_default(),
            device: registration.clone(),
            created: device.created,
            updated: device.status_at,
            etag: device.etag.clone(),
            payload: None,
        })
    }
}

fn credential(served: &Served, auth: &Auth) -> Credential {
    match auth {
        Auth::Sas { primary, secondary } => {
            Credential::Keys { primary: primary.clone(), secondary: secondary.clone() }
        }
        Auth::SelfSigned { primary_thumbprint, secondary_thumbprint } => {
            Credential::Thumbprints(primary_thumbprint.iter().chain(secondary_thumbprint).cloned().collect())
        }
        Auth::Authority => {
            let known = served.fleet.authorities();
            known.map_or(Credential::None, |known| Credential::Authority((*known).clone()))
        }
        Auth::None => Credential::None,
    }
}
