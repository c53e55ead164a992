//! `farshore hub device …`

use clap::{Args, Subcommand, ValueEnum};
use farshore_core::ids::Name;
use serde_json::Value;

use super::super::ask::secret;
use super::super::client::Client;
use super::super::exit::Failure;
use super::super::show::{self, sheet, table};
use super::super::{Global, ask};
use super::segment;
use crate::api::views::{
    HubAuthRequest, HubDeviceBrief, HubDeviceRequest, HubDevicesView, HubKeyWord, HubKeysRequest,
    HubKeysView, HubStatusRequest,
};

/// Devices of one page; as many as a region gives at once.
const PAGE_LEN: usize = 1000;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DeviceCommand {
    /// Add a device, or a module as DEVICE/MODULE
    Add(AddArgs),
    /// List devices and modules
    List(ListArgs),
    /// Show a device without its keys
    Show(One),
    /// Remove a device, with its modules and the messages on their way to it
    Remove(One),
    /// Let a device connect
    Enable(One),
    /// Let a device connect no more; one that is connected is disconnected
    Disable {
        #[command(flatten)]
        one: One,
        /// Why, for people
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Show a device's keys, or make them anew: secrets
    Keys {
        #[command(flatten)]
        one: One,
        /// Make this one anew: the old one opens nothing any more
        #[arg(long, value_enum, value_name = "KEY")]
        regenerate: Option<WhichKeys>,
    },
}

/// A device of a hub.
#[derive(Debug, Args)]
pub(in crate::cli) struct One {
    /// The hub's name
    name: Name,
    /// The device, or DEVICE/MODULE
    id: String,
}

impl One {
    fn path(&self) -> String {
        format!("/hubs/{}/devices/{}", self.name, segment(&self.id))
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AddArgs {
    #[command(flatten)]
    one: One,
    /// How it proves who it is
    #[arg(long, value_enum, default_value_t = AuthWord::Sas)]
    auth: AuthWord,
    /// With --auth sas: its first key in base64, or @FILE that holds it; otherwise keys are made.
    /// With --auth self-signed: the thumbprint of its certificate
    #[arg(long, value_name = "KEY", required_if_eq("auth", "self-signed"))]
    primary: Option<String>,
    /// The second key or thumbprint
    #[arg(long, value_name = "KEY")]
    secondary: Option<String>,
    /// Do not let it connect yet
    #[arg(long)]
    disabled: bool,
}

/// How a device proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum AuthWord {
    /// By a shared key
    Sas,
    /// By a certificate with a known thumbprint
    SelfSigned,
    /// By a certificate of an authority that the hub knows
    CertificateAuthority,
}

/// Which of the two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum WhichKeys {
    /// The first
    Primary,
    /// The second
    Secondary,
    /// Both at once
    Both,
}

impl From<WhichKeys> for HubKeyWord {
    fn from(which: WhichKeys) -> Self {
        match which {
            WhichKeys::Primary => Self::Primary,
            WhichKeys::Secondary => Self::Secondary,
            WhichKeys::Both => Self::Both,
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// The hub's name
    name: Name,
    /// Only those that match, for example "SELECT * FROM devices WHERE tags.place = 'paris'"
    #[arg(long, value_name = "SQL")]
    query: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only those after this one
    #[arg(long, value_name = "ID")]
    after: Option<String>,
}

pub(super) async fn run(global: &Global, client: &Client, command: DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::Add(args) => add(global, client, args).await,
        DeviceCommand::List(args) => list(global, client, args).await,
        DeviceCommand::Show(one) => {
            let device: Value = client.get(&one.path()).await?;
            show::print(global, &device, device_page)
        }
        DeviceCommand::Remove(one) => {
            let what = format!("{} of hub/{} will be removed, in both regions.", one.id, one.name);
            ask::confirm(global, &what)?;
            let _: Value = client.delete(&one.path()).await?;
            show::say(&format!("{} is removed", one.id));
            Ok(())
        }
        DeviceCommand::Enable(one) => set_status(global, client, &one, true, None).await,
        DeviceCommand::Disable { one, reason } => set_status(global, client, &one, false, reason).await,
        DeviceCommand::Keys { one, regenerate } => keys(global, client, &one, regenerate).await,
    }
}

async fn add(global: &Global, client: &Client, args: AddArgs) -> Result<(), Failure> {
    let AddArgs { one, auth, primary, secondary, disabled } = args;
    let key =
        |option: &str, text: &Option<String>| text.as_ref().map(|text| secret(option, text)).transpose();
    let (primary, secondary) = (key("primary", &primary)?, key("secondary", &secondary)?);
    let auth = match (auth, primary) {
        (AuthWord::Sas, primary) => HubAuthRequest::Sas { primary, secondary },
        (AuthWord::SelfSigned, Some(primary)) => HubAuthRequest::SelfSigned { primary, secondary },
        (AuthWord::SelfSigned, None) => return Err(Failure::usage("--primary: give the thumbprint")),
        (AuthWord::CertificateAuthority, None) => HubAuthRequest::CertificateAuthority,
        (AuthWord::CertificateAuthority, Some(_)) => {
            return Err(Failure::usage("--primary: a device with a certificate of an authority has no key"));
        }
    };
    let request = HubDeviceRequest { id: one.id.clone(), auth: Some(auth), enabled: !disabled };
    let device: Value = client.post(&format!("/hubs/{}/devices", one.name), &request).await?;
    show::print(global, &device, |_| {
        format!(
            "{} is added to hub/{}\nnext: farshore hub connection-string {} --device {}",
            one.id, one.name, one.name, one.id
        )
    })
}

async fn set_status(
    global: &Global,
    client: &Client,
    one: &One,
    enabled: bool,
    reason: Option<String>,
) -> Result<(), Failure> {
    let asked = HubStatusRequest { enabled, reason };
    let device: Value = client.put(&format!("{}/status", one.path()), &asked).await?;
    show::print(global, &device, |_| match enabled {
        true => format!("{} may connect", one.id),
        false => format!("{} may connect no more", one.id),
    })
}

async fn keys(
    global: &Global,
    client: &Client,
    one: &One,
    regenerate: Option<WhichKeys>,
) -> Result<(), Failure> {
    let path = format!("{}/keys", one.path());
    let keys: HubKeysView = match regenerate {
        None => client.get(&path).await?,
        Some(which) => {
            let which = HubKeyWord::from(which);
            let what = match which {
                HubKeyWord::Both => format!("{} is shut out until it is given a new key.", one.id),
                one_key => format!("{} is shut out if it uses the present {} key.", one.id, one_key.as_str()),
            };
            ask::confirm(global, &what)?;
            client.post(&path, &HubKeysRequest { which }).await?
        }
    };
    show::print(global, &keys, |keys| match (&keys.primary, &keys.secondary) {
        (None, None) => format!("{} has no keys: it proves itself by a certificate, or not at all", keys.id),
        (primary, secondary) => sheet(&[
            ("primary", primary.clone().unwrap_or_default()),
            ("secondary", secondary.clone().unwrap_or_default()),
        ]),
    })
}

async fn list(global: &Global, client: &Client, args: ListArgs) -> Result<(), Failure> {
    let most = args.limit as usize;
    let mut found = HubDevicesView { devices: Vec::new(), next: args.after };
    loop {
        let limit = (most - found.devices.len()).min(PAGE_LEN);
        let mut path = format!("/hubs/{}/devices?limit={limit}", args.name);
        for (name, value) in [("after", &found.next), ("query", &args.query)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", segment(value)));
            }
        }
        let page: HubDevicesView = client.get(&path).await?;
        found.devices.extend(page.devices);
        found.next = page.next;
        if found.next.is_none() || found.devices.len() >= most {
            break;
        }
    }
    if let Some(next) = &found.next {
        eprintln!("there are more: --after {next}, or a higher --limit");
    }
    show::print(global, &found, |found| match (found.devices.as_slice(), &args.query) {
        ([], None) => format!("no devices yet: farshore hub device add {} ID", args.name),
        ([], Some(_)) => "no device matches".to_owned(),
        (devices, _) => devices_table(devices),
    })
}

fn devices_table(devices: &[HubDeviceBrief]) -> String {
    let row = |device: &HubDeviceBrief| {
        vec![
            device.id.clone(),
            device.status.clone(),
            if device.connected { "yes" } else { "no" }.to_owned(),
            device.auth.clone(),
            if device.conflict { "yes" } else { "-" }.to_owned(),
            device.generation.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = devices.iter().map(row).collect();
    table(&["DEVICE", "STATUS", "CONNECTED", "AUTH", "CONFLICT", "GENERATION"], &rows)
}

/// A device on a page: what a person asks first.
fn device_page(device: &Value) -> String {
    let text = |name: &str| match &device[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let time = |name: &str| match text(name) {
        never if never.starts_with("0001-") => "never".to_owned(),
        moment => show::time(&moment),
    };
    let quarantined = device["quarantined_keys"].as_u64().filter(|count| *count > 0);
    let mut page = sheet(&[
        ("device", text("deviceId")),
        ("module", text("moduleId")),
        ("status", text("status")),
        ("reason", text("statusReason")),
        ("authentication", device["authentication"]["type"].as_str().unwrap_or_default().to_owned()),
        ("connection", text("connectionState")),
        ("connected since", device["connected_since"].as_str().map(show::time).unwrap_or_default()),
        ("last heard of", time("lastActivityTime")),
        ("messages waiting", text("messages_pending")),
        ("generation", text("generationId")),
        ("etag", text("etag")),
        (
            "quarantined keys",
            quarantined
                .map(|count| format!("{count}: they lost a merge and open nothing"))
                .unwrap_or_default(),
        ),
    ]);
    let twin = &device["twin"];
    for (title, part) in [
        ("tags", &twin["tags"]),
        ("desired", &twin["properties"]["desired"]),
        ("reported", &twin["properties"]["reported"]),
    ] {
        page.push_str(&super::speak::twin_part(title, part));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_device_is_read_at_a_glance() {
        let device = json!({
            "deviceId": "pump-1", "status": "enabled", "statusReason": null, "etag": "AAA", "generationId": "g1",
            "authentication": {"type": "sas"}, "connectionState": "Connected",
            "connected_since": "2026-11-21T05:00:00.000001Z", "lastActivityTime": "0001-01-01T00:00:00Z",
            "messages_pending": 2, "quarantined_keys": 1,
            "twin": {"tags": {"place": "paris"}, "properties": {
                "desired": {"$metadata": {"a": {}}, "$version": 3, "every": 5}, "reported": {"$version": 1}}},
        });
        assert_eq!(
            device_page(&device),
            "device            pump-1\n\
             status            enabled\n\
             authentication    sas\n\
             connection        Connected\n\
             connected since   2026-11-21 05:00:00Z\n\
             last heard of     never\n\
             messages waiting  2\n\
             generation        g1\n\
             etag              AAA\n\
             quarantined keys  1: they lost a merge and open nothing\n\
             \n\
             tags\n  {\n    \"place\": \"paris\"\n  }\n\
             \n\
             desired (version 3)\n  {\n    \"every\": 5\n  }\n"
        );
    }
}
