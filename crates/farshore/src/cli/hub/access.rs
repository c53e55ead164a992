//! `farshore hub policy …` and `connection-string`: who may come, and what they are given.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use farshore_core::ids::Name;
use serde_json::Value;

use super::super::client::Client;
use super::super::exit::Failure;
use super::super::show::{self, sheet, table};
use super::super::{Global, ask};
use super::segment;
use crate::api::views::{
    HubConnectionStringView, HubKeyWord, HubKeysRequest, HubPolicyRequest, HubPolicyView, HubView,
};

/// The port that device SDKs take when a gateway is named without one.
const MQTT_PORT: &str = ":8883";

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum PolicyCommand {
    /// List policies and what each opens
    List {
        /// The hub's name
        name: Name,
        /// With their keys: secrets
        #[arg(long)]
        keys: bool,
    },
    /// Add a policy, or change what the one of this name opens; its keys stay
    Add {
        /// The hub's name
        name: Name,
        /// The policy
        policy: String,
        /// What it opens, with commas between
        #[arg(long, value_enum, value_delimiter = ',', required = true, value_name = "RIGHTS")]
        rights: Vec<RightWord>,
    },
    /// Delete a policy: its keys open nothing any more
    Delete {
        /// The hub's name
        name: Name,
        /// The policy
        policy: String,
    },
    /// Make a key anew: the old one opens nothing any more
    Regenerate {
        /// The hub's name
        name: Name,
        /// The policy
        policy: String,
        /// Which key
        #[arg(value_enum)]
        key: WhichKey,
    },
}

/// What a policy opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum RightWord {
    /// Read identities
    RegistryRead,
    /// Create, change and delete identities
    RegistryWrite,
    /// Twins, methods, messages to devices, telemetry
    ServiceConnect,
    /// Connect as any device
    DeviceConnect,
}

impl RightWord {
    fn as_str(self) -> &'static str {
        match self {
            Self::RegistryRead => "RegistryRead",
            Self::RegistryWrite => "RegistryWrite",
            Self::ServiceConnect => "ServiceConnect",
            Self::DeviceConnect => "DeviceConnect",
        }
    }
}

/// Which of the two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum WhichKey {
    /// The first
    Primary,
    /// The second
    Secondary,
}

impl From<WhichKey> for HubKeyWord {
    fn from(key: WhichKey) -> Self {
        match key {
            WhichKey::Primary => Self::Primary,
            WhichKey::Secondary => Self::Secondary,
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ConnectionStringArgs {
    /// The hub's name
    name: Name,
    /// For a back end, by this policy [default: service]
    #[arg(long, value_name = "POLICY", conflicts_with = "device")]
    policy: Option<String>,
    /// For this device, or DEVICE/MODULE
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// With which key
    #[arg(long, value_enum, default_value_t = WhichKey::Primary)]
    key: WhichKey,
    /// Name the address where the hub listens now (GatewayHostName), for trying it out without DNS
    #[arg(long, requires = "device")]
    gateway: bool,
    /// Write the authority of the hub's certificate to this file
    #[arg(long, value_name = "FILE")]
    save_ca: Option<PathBuf>,
}

pub(super) async fn policy(global: &Global, client: &Client, command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::List { name, keys } => {
            let policies: Vec<HubPolicyView> =
                client.get(&format!("/hubs/{name}/policies?keys={keys}")).await?;
            show::print(global, &policies, |policies| policies_table(policies, keys))
        }
        PolicyCommand::Add { name, policy, rights } => {
            let rights = rights.into_iter().map(|right| right.as_str().to_owned()).collect();
            let path = format!("/hubs/{name}/policies/{}", segment(&policy));
            let set: HubPolicyView = client.put(&path, &HubPolicyRequest { rights }).await?;
            show::print(global, &set, |set| {
                format!(
                    "{} opens {}\nnext: farshore hub connection-string {name} --policy {}",
                    set.name,
                    set.rights.join(", "),
                    set.name
                )
            })
        }
        PolicyCommand::Delete { name, policy } => {
            ask::confirm(global, &format!("Whoever uses a key of {policy} is shut out of hub/{name}."))?;
            let _: Value = client.delete(&format!("/hubs/{name}/policies/{}", segment(&policy))).await?;
            show::say(&format!("{policy} is deleted"));
            Ok(())
        }
        PolicyCommand::Regenerate { name, policy, key } => {
            let which = HubKeyWord::from(key);
            let word = which.as_str();
            ask::confirm(
                global,
                &format!("Whoever uses the present {word} key of {policy} is shut out of hub/{name}."),
            )?;
            let path = format!("/hubs/{name}/policies/{}/regenerate", segment(&policy));
            let policy: HubPolicyView = client.post(&path, &HubKeysRequest { which }).await?;
            show::print(global, &policy, |policy| {
                let key = |key: &Option<String>| key.clone().unwrap_or_default();
                sheet(&[("primary", key(&policy.primary)), ("secondary", key(&policy.secondary))])
            })
        }
    }
}

fn policies_table(policies: &[HubPolicyView], keys: bool) -> String {
    if keys {
        // Keys are longer than cells.
        let key = |key: &Option<String>| key.clone().unwrap_or_default();
        let sheets = policies.iter().map(|policy| {
            sheet(&[
                ("policy", policy.name.clone()),
                ("opens", policy.rights.join(", ")),
                ("primary", key(&policy.primary)),
                ("secondary", key(&policy.secondary)),
            ])
        });
        return sheets.collect::<Vec<_>>().join("\n");
    }
    let row = |policy: &HubPolicyView| vec![policy.name.clone(), policy.rights.join(", ")];
    table(&["POLICY", "OPENS"], &policies.iter().map(row).collect::<Vec<_>>())
}

pub(super) async fn connection_string(
    global: &Global,
    client: &Client,
    args: &ConnectionStringArgs,
) -> Result<(), Failure> {
    let name = &args.name;
    let hub: HubView = client.get(&format!("/hubs/{name}")).await?;
    let whom = match (&args.device, &args.policy) {
        (Some(device), _) => format!("device={}", segment(device)),
        (None, Some(policy)) => format!("policy={}", segment(policy)),
        (None, None) => "policy=service".to_owned(),
    };
    let which = HubKeyWord::from(args.key).as_str();
    let path = format!("/hubs/{name}/connection-string?{whom}&which={which}");
    let mut view: HubConnectionStringView = client.get(&path).await?;
    if args.gateway {
        let gateway = hub.endpoints.mqtt.as_deref().and_then(gateway).ok_or_else(|| {
            Failure::failed(format!("--gateway: hub/{name} does not listen for devices in {}", hub.region))
        })?;
        view.connection_string.push_str(&format!(";GatewayHostName={gateway}"));
    }
    tell_where(&hub, args.device.is_some());
    match (&args.save_ca, &view.ca) {
        (Some(path), Some(ca)) => std::fs::write(path, ca).map_err(|error| {
            Failure::failed(format!("--save-ca: cannot write {}: {error}", path.display()))
        })?,
        (Some(_), None) => {
            eprintln!("--save-ca: the hub has no authority of its own, so nothing was written")
        }
        (None, Some(_)) => {
            eprintln!(
                "its certificate is signed by the cluster's authority: --save-ca FILE writes it for clients"
            );
        }
        (None, None) => {}
    }
    show::print(global, &view, |view| view.connection_string.clone())
}

/// Which address the name leads to now.
fn tell_where(hub: &HubView, is_device: bool) {
    let endpoint = if is_device { &hub.endpoints.mqtt } else { &hub.endpoints.https };
    if let (Some(host), Some(endpoint)) = (hub.hosts.first(), endpoint) {
        eprintln!("{host} leads to {endpoint} in {} now", hub.region);
    }
}

/// The address of an endpoint, as device SDKs want it.
fn gateway(endpoint: &str) -> Option<&str> {
    let authority = endpoint.split_once("://")?.1.split('/').next()?;
    let address = authority.strip_suffix(MQTT_PORT).unwrap_or(authority);
    (!address.is_empty()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_an_address_without_the_usual_port() {
        assert_eq!(gateway("mqtts://127.0.0.2:8883"), Some("127.0.0.2"));
        assert_eq!(gateway("mqtts://127.0.0.2:18883"), Some("127.0.0.2:18883"));
        assert_eq!(gateway("mqtts://[::1]:8883/"), Some("[::1]"));
        assert_eq!((gateway("127.0.0.2"), gateway("mqtt://")), (None, None));
    }
}
