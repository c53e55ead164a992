//! The hub as it tells devices that they are its own, and lets in those that belong to one of its enrollments.

use std::time::Duration;

use super::gate::{Phase, Standing};
use super::trust::Trusted;
use super::{Fleet, see_through};
use crate::names::{DeviceId, Key};
use crate::provision::{Admission, Assigned, Assignment, Credential, Known, Request};
use crate::registry::{Auth, ChangeError, Device, Edit, Invalid, NewDevice};

/// When a device asks again that could not be told: a failover takes about so long.
pub(crate) const ASK_AGAIN_AFTER: Duration = Duration::from_secs(3);

impl Fleet {
    /// What is known here of a registration.
    pub(crate) fn known(&self, registration: &DeviceId) -> Known {
        let not_now = Known::NotNow { retry_after: ASK_AGAIN_AFTER };
        let Phase::Open { standing, .. } = self.phase() else { return not_now };
        let device = match self.registry().get(&Key::device(registration.clone())) {
            Ok(device) if self.is_serving() => device,
            Ok(_) => return not_now,
            Err(error) => {
                tracing::warn!(hub = self.name(), %error, "a registration cannot be looked up");
                return not_now;
            }
        };
        let trusted = self.trusted();
        let known = match device {
            Some(device) if device.enabled => Known::Device(credential(&device, &trusted)),
            Some(_) => Known::Disabled,
            None => Known::Stranger(trusted.groups.clone()),
        };
        match standing {
            Standing::Current => known,
            // The lost region may have known it, or have enabled it, or given it another key.
            Standing::Behind => Known::Perhaps(Box::new(known)),
        }
    }

    /// Tells a device that this hub is its own, under the name `host`, and makes the device if it was admitted as a new one.
    pub(crate) async fn assign(&self, host: &str, registration: &DeviceId, request: Request) -> Assignment {
        let again = Assignment::Assigning { retry_after: ASK_AGAIN_AFTER };
        let Some(entered) = self.gate().enter_now() else { return again };
        let (registry, key) = (self.registry().clone(), Key::device(registration.clone()));
        let admission = request.admission;
        let change = async move {
            let missing = Invalid::Missing(key.clone());
            registry.change(key, move |known| edits(known, admission, missing)).await
        };
        match see_through(entered, change).await {
            Some(Ok(changed)) => {
                if let (None, Some(made)) = (&changed.before, &changed.after) {
                    tracing::info!(hub = self.name(), device = %made.key, "a device has registered itself");
                }
                changed.after.map_or(again, |device| assigned(host, &device))
            }
            Some(Err(ChangeError::Registry(why))) => {
                tracing::warn!(hub = self.name(), why, "a device could not be assigned");
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

fn credential(device: &Device, trusted: &Trusted) -> Credential {
    match &device.auth {
        Auth::Sas { primary, secondary } => {
            Credential::Keys { primary: primary.clone(), secondary: secondary.clone() }
        }
        Auth::SelfSigned { primary_thumbprint, secondary_thumbprint } => Credential::Thumbprints(
            [primary_thumbprint, secondary_thumbprint].into_iter().flatten().cloned().collect(),
        ),
        Auth::Authority => Credential::Authority(trusted.authorities.clone()),
        Auth::None => Credential::None,
    }
}

fn assigned(host: &str, device: &Device) -> Assignment {
    Assignment::Assigned(Assigned {
        hub: host.to_owned(),
        device: device.key.device.clone(),
        created: device.created,
        updated: device.status_at.max(device.created),
        etag: device.etag.clone(),
        payload: None,
    })
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::Epoch;
    use serde_json::json;

    use super::super::tests::{HOST, Hub, closed};
    use super::*;

    fn device(id: &str) -> DeviceId {
        DeviceId::parse(id).unwrap()
    }

    async fn with_a_group(hub: &Hub) {
        let keys = json!({"primary": "a2V5", "secondary": "a2V5"});
        hub.fleet.registry().set_setting("enrollments", "line", Some(keys)).await.unwrap();
    }

    #[tokio::test]
    async fn only_a_hub_that_serves_and_knows_says_that_a_device_is_none_of_its_own() {
        let hub = closed("oslo");
        let sas = hub.register("pump").await;
        hub.register("off").await;
        hub.edit("off", vec![Edit::Status { enabled: false, reason: String::new() }]).await;
        with_a_group(&hub).await;
        let known = |id: &str| hub.fleet.known(&device(id));
        assert!(matches!(known("pump"), Known::NotNow { .. }), "closed");
        hub.fleet.open_to_devices(Epoch(1), Standing::Behind);
        let perhaps = |id: &str| match known(id) {
            Known::Perhaps(known) => *known,
            other => panic!("{id}: {other:?}"),
        };
        let found = perhaps("pump");
        assert!(matches!(found, Known::Device(Credential::Keys { primary, .. }) if primary == sas));
        assert!(matches!(perhaps("off"), Known::Disabled));
        assert!(matches!(perhaps("new"), Known::Stranger(groups) if groups.len() == 1));
        hub.fleet.open_to_devices(Epoch(1), Standing::Current);
        assert!(matches!(known("pump"), Known::Device(_)));
        assert!(matches!(known("off"), Known::Disabled));
        assert!(matches!(known("new"), Known::Stranger(groups) if groups.len() == 1));
        hub.fleet.registry().set_setting("enrollments", "line", None).await.unwrap();
        assert!(matches!(known("new"), Known::Stranger(groups) if groups.is_empty()));
        hub.fleet.fence().await;
        assert!(matches!(known("new"), Known::NotNow { .. }), "fenced");
    }

    #[tokio::test]
    async fn a_new_device_is_made_once_and_told_its_hub() {
        let hub = closed("oslo");
        hub.fleet.open_to_devices(Epoch(1), Standing::Current);
        let assign = async |admission: Admission| {
            hub.fleet.assign(HOST, &device("new"), Request { admission, payload: None }).await
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
