//! The hub as it tells devices that they are its own: provisioning by the hub that serves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::gate::{Phase, Standing};
use super::{Fleet, see_through};
use crate::names::{DeviceId, Key};
use crate::provision::{Admission, Assigned, Assignment, Behind, Credential, Group, Known, Request};
use crate::registry::{Auth, ChangeError, Device, Edit, Invalid, NewDevice};

/// When a device asks again that could not be told: a failover takes about so long.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// One hub that devices are told about, under one scope.
#[derive(Debug, Clone)]
pub struct Provision {
    /// The hub.
    pub fleet: Fleet,
    /// What devices call it when they ask.
    pub scope: String,
    /// The host name that they are told.
    pub host: String,
    /// New devices may come in if they belong to one of these.
    pub groups: Vec<Group>,
}

#[async_trait]
impl Behind for Provision {
    async fn known(&self, scope: &str, registration: &DeviceId) -> Known {
        if !scope.eq_ignore_ascii_case(&self.scope) {
            return Known::NoScope;
        }
        let not_now = Known::NotNow { retry_after: ASK_AGAIN_AFTER };
        let Phase::Open { standing, .. } = self.fleet.phase() else { return not_now };
        let key = Key::device(registration.clone());
        let device = match self.fleet.registry().get(&key) {
            Ok(device) if self.fleet.is_serving() => device,
            _ => return not_now,
        };
        match (device, standing) {
            (Some(device), _) if device.enabled => Known::Device(self.credential(&device)),
            // The lost region may have known it, or have enabled it.
            (_, Standing::Behind) => not_now,
            (Some(_), Standing::Current) => Known::Disabled,
            (None, Standing::Current) => Known::Stranger(self.groups.clone()),
        }
    }

    async fn assign(&self, _scope: &str, registration: &DeviceId, request: Request) -> Assignment {
        let again = Assignment::Assigning { retry_after: ASK_AGAIN_AFTER };
        let Some(entered) = self.fleet.gate().enter_now() else { return again };
        let (registry, key) = (self.fleet.registry().clone(), Key::device(registration.clone()));
        let admission = request.admission;
        let change = async move {
            let missing = Invalid::Missing(key.clone());
            registry.change(key, move |known| edits(known, admission, missing)).await
        };
        match see_through(entered, change).await {
            Some(Ok(changed)) => changed.after.map_or(again, |device| self.assigned(&device)),
            Some(Err(ChangeError::Registry(why))) => {
                tracing::warn!(hub = self.fleet.name(), why, "a device could not be assigned");
                again
            }
            Some(Err(error)) => Assignment::Failed { why: error.to_string() },
            None => again,
        }
    }
}

/// What makes the device, if it is new. One that was deleted since it was admitted stays so.
fn edits(known: Option<&Device>, admission: Admission, missing: Invalid) -> Result<Vec<Edit>, Invalid> {
    let auth = match (known, admission) {
        (Some(_), _) => return Ok(Vec::new()),
        (None, Admission::Registered) => return Err(missing),
        (None, Admission::WithKeys { primary, secondary }) => Auth::Sas { primary, secondary },
        (None, Admission::WithAuthority) => Auth::Authority,
    };
    Ok(vec![Edit::Create(NewDevice::with(auth))])
}

impl Provision {
    fn credential(&self, device: &Device) -> Credential {
        match &device.auth {
            Auth::Sas { primary, secondary } => {
                Credential::Keys { primary: primary.clone(), secondary: secondary.clone() }
            }
            Auth::SelfSigned { primary_thumbprint, secondary_thumbprint } => Credential::Thumbprints(
                [primary_thumbprint, secondary_thumbprint].into_iter().flatten().cloned().collect(),
            ),
            Auth::Authority => self.fleet.authorities().map_or(Credential::None, |authorities| {
                Credential::Authority(Arc::unwrap_or_clone(authorities))
            }),
            Auth::None => Credential::None,
        }
    }

    fn assigned(&self, device: &Device) -> Assignment {
        Assignment::Assigned(Assigned {
            hub: self.host.clone(),
            device: device.key.device.clone(),
            created: device.created,
            updated: device.status_at.max(device.created),
            etag: device.etag.clone(),
            payload: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::Epoch;

    use super::super::tests::{HOST, Hub, closed};
    use super::*;

    fn device(id: &str) -> DeviceId {
        DeviceId::parse(id).unwrap()
    }

    fn provision(hub: &Hub) -> Provision {
        let group = Group::Keys { primary: "a2V5".to_owned(), secondary: "a2V5".to_owned() };
        let fleet = hub.fleet.clone();
        Provision { fleet, scope: "scope".to_owned(), host: HOST.to_owned(), groups: vec![group] }
    }

    #[tokio::test]
    async fn only_a_hub_that_serves_and_knows_says_that_a_device_is_none_of_its_own() {
        let hub = closed("oslo");
        let sas = hub.register("pump").await;
        hub.register("off").await;
        hub.edit("off", vec![Edit::Status { enabled: false, reason: String::new() }]).await;
        let provision = provision(&hub);
        let known = async |id: &str| provision.known("scope", &device(id)).await;
        assert!(matches!(provision.known("other", &device("pump")).await, Known::NoScope));
        assert!(matches!(known("pump").await, Known::NotNow { .. }), "closed");
        hub.fleet.open_to_devices(Epoch(1), Standing::Behind);
        let found = known("pump").await;
        assert!(matches!(found, Known::Device(Credential::Keys { primary, .. }) if primary == sas));
        assert!(matches!(known("off").await, Known::NotNow { .. }));
        assert!(matches!(known("new").await, Known::NotNow { .. }));
        hub.fleet.open_to_devices(Epoch(1), Standing::Current);
        assert!(matches!(known("off").await, Known::Disabled));
        assert!(matches!(known("new").await, Known::Stranger(groups) if groups.len() == 1));
        hub.fleet.fence().await;
        assert!(matches!(known("new").await, Known::NotNow { .. }), "fenced");
    }

    #[tokio::test]
    async fn a_new_device_is_made_once_and_told_its_hub() {
        let hub = closed("oslo");
        hub.fleet.open_to_devices(Epoch(1), Standing::Current);
        let provision = provision(&hub);
        let assign = async |admission: Admission| {
            provision.assign("scope", &device("new"), Request { admission, payload: None }).await
        };
        let keys = |text: &str| Admission::WithKeys { primary: text.to_owned(), secondary: text.to_owned() };
        assert!(matches!(assign(Admission::Registered).await, Assignment::Failed { .. }), "it was deleted");
        let Assignment::Assigned(first) = assign(keys("Zmlyc3Q=")).await else { panic!("not assigned") };
        assert_eq!((&*first.hub, first.device.as_str()), (HOST, "new"));
        let again = assign(keys("b3RoZXI=")).await;
        assert_eq!(again, Assignment::Assigned(first), "the device stays as it was made");
        hub.fleet.fence().await;
        assert!(matches!(assign(Admission::Registered).await, Assignment::Assigning { .. }));
    }
}
