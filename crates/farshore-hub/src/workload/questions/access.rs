//! Policies of access, and the texts that devices and back ends are given.

use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Desk, broken, fatal, key, retry};
use crate::record::Auth;
use crate::sas::{ConnectionString, Credential, Policy, Rights, new_key};

/// Policies of one hub: each token that comes is held against them.
const POLICIES_MAX: usize = 64;

#[derive(Debug, Deserialize)]
pub(super) struct SetPolicy {
    name: String,
    rights: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct OnePolicy {
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Which {
    #[default]
    Primary,
    Secondary,
    Both,
}

#[derive(Debug, Deserialize)]
pub(super) struct Regenerate {
    policy: String,
    which: Which,
}

#[derive(Debug, Deserialize)]
pub(super) struct Whose {
    policy: Option<String>,
    device: Option<String>,
    #[serde(default)]
    which: Which,
}

fn view(policy: &Policy) -> Value {
    let rights = policy.rights.to_string();
    let rights: Vec<&str> = rights.split(", ").filter(|right| !right.is_empty()).collect();
    json!({ "name": policy.name, "rights": rights, "primary": policy.primary, "secondary": policy.secondary })
}

/// One of two keys, or both, are to be others.
pub(super) fn renew(primary: &mut String, secondary: &mut String, which: Which) {
    if which != Which::Secondary {
        *primary = new_key();
    }
    if which != Which::Primary {
        *secondary = new_key();
    }
}

impl Desk {
    /// All policies, with their keys.
    pub(super) fn policies(&self) -> Result<Value, StepError> {
        Ok(self.registry().policies().map_err(broken)?.iter().map(view).collect())
    }

    fn policy(&self, name: &str) -> Result<Policy, StepError> {
        let mut all = self.registry().policies().map_err(broken)?;
        if let Some(at) = all.iter().position(|policy| policy.name == name) {
            return Ok(all.swap_remove(at));
        }
        let names: Vec<&str> = all.iter().map(|policy| policy.name.as_str()).collect();
        Err(fatal(format!("there is no policy {name:?}; there are: {}", names.join(", "))))
    }

    /// Makes a policy, or changes what the one of this name opens. Its keys stay.
    pub(super) async fn set_policy(&self, asked: SetPolicy) -> Result<Value, StepError> {
        let SetPolicy { name, rights } = asked;
        let rights = Rights::parse(&rights.join(",")).map_err(fatal)?;
        let all = self.registry().policies().map_err(broken)?;
        let policy = match all.iter().find(|policy| policy.name == name) {
            Some(known) => Policy { rights, ..known.clone() },
            None if all.len() >= POLICIES_MAX => {
                return Err(fatal(format!("a hub has at most {POLICIES_MAX} policies: delete one first")));
            }
            None => Policy::new(&name, rights),
        };
        self.put_policy(policy).await
    }

    /// Takes a policy away.
    pub(super) async fn delete_policy(&self, asked: OnePolicy) -> Result<Value, StepError> {
        let name = self.policy(&asked.name)?.name;
        let registry = self.registry().clone();
        self.change(async move { registry.delete_policy(&name).await.map_err(retry) }).await?;
        Ok(json!({}))
    }

    /// Gives a policy another key.
    pub(super) async fn regenerate(&self, asked: Regenerate) -> Result<Value, StepError> {
        let mut policy = self.policy(&asked.policy)?;
        renew(&mut policy.primary, &mut policy.secondary, asked.which);
        self.put_policy(policy).await
    }

    async fn put_policy(&self, policy: Policy) -> Result<Value, StepError> {
        let view = view(&policy);
        let registry = self.registry().clone();
        self.change(async move { registry.set_policy(policy).await.map_err(retry) }).await?;
        Ok(view)
    }

    /// What a device or a back end is given.
    pub(super) fn connection_string(&self, asked: Whose) -> Result<Value, StepError> {
        let Whose { policy, device, which } = asked;
        let credential = match (policy, device) {
            (Some(policy), None) => {
                let Policy { name, primary, secondary, .. } = self.policy(&policy)?;
                Credential::Policy { name, key: if which == Which::Secondary { secondary } else { primary } }
            }
            (None, Some(device)) => self.credential(&device, which)?,
            _ => return Err(fatal("name a policy or a device")),
        };
        let host = self.hosts.first().cloned().unwrap_or_default();
        let text = ConnectionString { host, gateway: None, credential }.to_string();
        Ok(json!({ "connection_string": text, "ca": self.ca }))
    }

    fn credential(&self, device: &str, which: Which) -> Result<Credential, StepError> {
        let who = key(device)?;
        match &self.known(&who)?.auth {
            Auth::Sas { primary, secondary } => {
                let key = if which == Which::Secondary { secondary } else { primary };
                Ok(Credential::Device { who, key: key.clone() })
            }
            Auth::SelfSigned { .. } | Auth::Authority => Ok(Credential::Certificate { who }),
            Auth::None => Err(fatal(format!("{who} cannot prove who it is: give it keys or a certificate"))),
        }
    }
}
