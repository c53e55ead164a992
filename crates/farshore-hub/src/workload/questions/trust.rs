//! Whom the hub believes besides its devices' own keys: authorities whose devices may connect, and groups of devices that may
//! register themselves.

use farshore_core::moment::Moment;
use farshore_core::workload::StepError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Desk, broken, fatal};
use crate::names::DeviceId;
use crate::provision::{ENROLLMENTS, Enrollment, derived_key};
use crate::sas::token::check_key;
use crate::sas::{AUTHORITIES, Authority, Issuers, new_key};

#[derive(Debug, Deserialize)]
pub(super) struct SetAuthority {
    name: String,
    pem: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct One {
    name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct WithKeys {
    #[serde(default)]
    keys: bool,
}

#[derive(Deserialize)]
pub(super) struct SetEnrollment {
    name: String,
    pem: Option<String>,
    primary: Option<String>,
    secondary: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct KeyOf {
    name: String,
    device: String,
}

/// What is told of certificates. What cannot be read tells nothing.
fn certificates(pem: &str, now: Moment) -> Value {
    match Issuers::parse(pem) {
        Ok(issuers) => json!({
            "subjects": issuers.subjects(),
            "expires": issuers.expires().to_string(),
            "expired": issuers.expires() < now,
        }),
        Err(why) => json!({ "subjects": [], "expires": null, "expired": false, "unusable": why.to_string() }),
    }
}

fn authority_view(name: &str, authority: &Authority) -> Value {
    let mut view = certificates(&authority.pem, super::super::now());
    view["name"] = json!(name);
    view
}

fn enrollment_view(name: &str, enrollment: &Enrollment, keys: bool) -> Value {
    match enrollment {
        Enrollment::Authority { authority } => {
            let mut view = certificates(authority, super::super::now());
            (view["name"], view["kind"]) = (json!(name), json!("authority"));
            view
        }
        Enrollment::Keys { primary, secondary } if keys => {
            json!({ "name": name, "kind": "keys", "primary": primary, "secondary": secondary })
        }
        Enrollment::Keys { .. } => json!({ "name": name, "kind": "keys" }),
    }
}

impl Desk {
    /// The authorities, without their certificates.
    pub(super) fn authorities(&self) -> Result<Value, StepError> {
        let all = self.settings::<Authority>(AUTHORITIES)?;
        Ok(all.iter().map(|(name, authority)| authority_view(name, authority)).collect())
    }

    /// From now on devices with a certificate of this authority may connect, if they are registered so.
    pub(super) async fn set_authority(&self, asked: SetAuthority) -> Result<Value, StepError> {
        let SetAuthority { name, pem } = asked;
        let issuers = Issuers::parse(&pem).map_err(|why| fatal(format!("pem: {why}")))?;
        if issuers.expires() < super::super::now() {
            tracing::warn!(hub = self.fleet.name(), name, expired = %issuers.expires(), "the certificate of an authority has expired");
        }
        let authority = Authority { pem };
        let view = authority_view(&name, &authority);
        self.put_setting(AUTHORITIES, name, Some(json!(authority))).await?;
        Ok(view)
    }

    /// Its devices are let in no more.
    pub(super) async fn delete_authority(&self, asked: One) -> Result<Value, StepError> {
        let (name, _) = self.setting::<Value>(AUTHORITIES, &asked.name)?;
        self.put_setting(AUTHORITIES, name, None).await?;
        Ok(json!({}))
    }

    /// The groups of devices that may register themselves.
    pub(super) fn enrollments(&self, asked: &WithKeys) -> Result<Value, StepError> {
        let all = self.settings::<Enrollment>(ENROLLMENTS)?;
        Ok(all.iter().map(|(name, enrollment)| enrollment_view(name, enrollment, asked.keys)).collect())
    }

    /// From now on devices of this group may register themselves. A group that has keys keeps those that are not given.
    pub(super) async fn set_enrollment(&self, asked: SetEnrollment) -> Result<Value, StepError> {
        let SetEnrollment { name, pem, primary, secondary } = asked;
        let enrollment = match pem {
            Some(_) if primary.is_some() || secondary.is_some() => {
                return Err(fatal("give pem or keys, not both: a group proves itself in one way"));
            }
            Some(authority) => Enrollment::Authority { authority },
            None => {
                let known = self.settings::<Enrollment>(ENROLLMENTS)?;
                let known = known.into_iter().find_map(|(other, enrollment)| match enrollment {
                    Enrollment::Keys { primary, secondary } if other == name => Some((primary, secondary)),
                    _ => None,
                });
                let (first, second) = known.unwrap_or_else(|| (new_key(), new_key()));
                Enrollment::Keys {
                    primary: given("primary", primary, first)?,
                    secondary: given("secondary", secondary, second)?,
                }
            }
        };
        enrollment.group().map_err(|why| fatal(format!("pem: {why}")))?;
        let view = enrollment_view(&name, &enrollment, false);
        self.put_setting(ENROLLMENTS, name, Some(json!(enrollment))).await?;
        Ok(view)
    }

    /// Devices of this group register themselves no more. Those that did stay.
    pub(super) async fn delete_enrollment(&self, asked: One) -> Result<Value, StepError> {
        let (name, _) = self.setting::<Value>(ENROLLMENTS, &asked.name)?;
        self.put_setting(ENROLLMENTS, name, None).await?;
        Ok(json!({}))
    }

    /// The keys that one device of a group has.
    pub(super) fn enrollment_key(&self, asked: &KeyOf) -> Result<Value, StepError> {
        let device = DeviceId::parse(&asked.device).map_err(|why| fatal(format!("device: {why}")))?;
        let (name, enrollment) = self.setting::<Enrollment>(ENROLLMENTS, &asked.name)?;
        let Enrollment::Keys { primary, secondary } = enrollment else {
            return Err(fatal(format!(
                "devices of {name:?} have certificates of its authority, not keys: have one made with the common name {device}"
            )));
        };
        let key = |of: &str| derived_key(of, device.as_str()).map_err(|why| fatal(why.to_string()));
        Ok(json!({ "id": device.as_str(), "primary": key(&primary)?, "secondary": key(&secondary)? }))
    }

    /// Settings of a kind. One that only another version can read is passed over: it counts for nothing here.
    fn settings<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<(String, T)>, StepError> {
        let all = self.registry().settings(kind).map_err(broken)?;
        Ok(all
            .into_iter()
            .filter_map(|(name, value)| serde_json::from_value(value).ok().map(|value| (name, value)))
            .collect())
    }

    fn setting<T: DeserializeOwned>(&self, kind: &str, name: &str) -> Result<(String, T), StepError> {
        let mut all = self.settings(kind)?;
        if let Some(at) = all.iter().position(|(other, _)| other == name) {
            return Ok(all.swap_remove(at));
        }
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Err(fatal(format!("{name:?} is not among the {kind}; there are: {names}")))
    }

    async fn put_setting(
        &self,
        kind: &'static str,
        name: String,
        value: Option<Value>,
    ) -> Result<(), StepError> {
        let registry = self.registry().clone();
        self.change(async move { registry.set_setting(kind, &name, value).await.map_err(broken) }).await
    }
}

/// A key that was given, if it is one; or another.
fn given(what: &str, key: Option<String>, otherwise: String) -> Result<String, StepError> {
    match key {
        None => Ok(otherwise),
        Some(key) => {
            check_key(&key).map_err(|why| fatal(format!("{what}: {why}")))?;
            Ok(key)
        }
    }
}
