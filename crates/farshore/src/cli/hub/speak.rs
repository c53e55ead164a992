//! `farshore hub send`, `method` and `twin …`: talking to devices.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use farshore_core::ids::Name;
use serde_json::{Map, Value};

use super::super::client::Client;
use super::super::exit::Failure;
use super::super::{Global, show};
use super::{pretty, printable, segment};
use crate::api::views::{HubMessageRequest, HubMessageView, HubMethodRequest, HubMethodView, HubTwinRequest};

#[derive(Debug, Args)]
pub(in crate::cli) struct SendArgs {
    /// The hub's name
    name: Name,
    /// The device, or DEVICE/MODULE
    id: String,
    /// What it is told
    body: String,
    /// A property of the message
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
}

fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, for example place=paris")?;
    match name.is_empty() || name.starts_with('$') {
        true => Err("a name must not be empty or begin with $".to_owned()),
        false => Ok((name.to_owned(), value.to_owned())),
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct MethodArgs {
    /// The hub's name
    name: Name,
    /// The device, or DEVICE/MODULE
    id: String,
    /// The method
    method: String,
    /// What it is given
    #[arg(long, value_name = "JSON", value_parser = json)]
    payload: Option<Value>,
    /// How long the device may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10))]
    timeout: u32,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TwinCommand {
    /// Show a device's tags and properties
    Show {
        /// The hub's name
        name: Name,
        /// The device, or DEVICE/MODULE
        id: String,
    },
    /// Change desired properties and tags; what is not mentioned stays, null deletes
    Set(TwinArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TwinArgs {
    /// The hub's name
    name: Name,
    /// The device, or DEVICE/MODULE
    id: String,
    /// What the device should be, for example '{"every": 5}'
    #[arg(long, value_name = "JSON", value_parser = object, required_unless_present = "tags")]
    desired: Option<Map<String, Value>>,
    /// What back ends note of it, for example '{"place": "paris"}'
    #[arg(long, value_name = "JSON", value_parser = object)]
    tags: Option<Map<String, Value>>,
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("it is no JSON ({error}): quote text, for example '\"text\"'"))
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    match json(text)? {
        Value::Object(members) => Ok(members),
        _ => Err("write an object, for example '{\"every\": 5}'".to_owned()),
    }
}

pub(super) async fn send(global: &Global, client: &Client, args: SendArgs) -> Result<(), Failure> {
    let SendArgs { name, id, body, properties } = args;
    let request = HubMessageRequest { body, properties: properties.into_iter().collect::<BTreeMap<_, _>>() };
    let path = format!("/hubs/{name}/devices/{}/messages", segment(&id));
    let sent: HubMessageView = client.post(&path, &request).await?;
    show::print(global, &sent, |sent| format!("message {} waits for {id}, or is with it", sent.message_id))
}

pub(super) async fn method(global: &Global, client: &Client, args: MethodArgs) -> Result<(), Failure> {
    let MethodArgs { name, id, method, payload, timeout } = args;
    let payload = payload.unwrap_or_default();
    let request = HubMethodRequest { name: method, payload, timeout_seconds: Some(timeout) };
    let path = format!("/hubs/{name}/devices/{}/methods", segment(&id));
    let answer: HubMethodView = client.post(&path, &request).await?;
    show::print(global, &answer, |answer| format!("status {}\n{}", answer.status, printed(&answer.payload)))
}

pub(super) async fn twin(global: &Global, client: &Client, command: TwinCommand) -> Result<(), Failure> {
    let twin: Value = match command {
        TwinCommand::Show { name, id } => {
            client.get(&format!("/hubs/{name}/devices/{}/twin", segment(&id))).await?
        }
        TwinCommand::Set(TwinArgs { name, id, desired, tags }) => {
            let path = format!("/hubs/{name}/devices/{}/twin", segment(&id));
            client.patch(&path, &HubTwinRequest { desired, tags }).await?
        }
    };
    show::print(global, &twin, twin_page)
}

fn twin_page(twin: &Value) -> String {
    let mut page = format!("twin of {}\n", twin["deviceId"].as_str().unwrap_or_default());
    page.push_str(&twin_part("tags", &twin["tags"]));
    page.push_str(&twin_part("desired", &twin["properties"]["desired"]));
    page.push_str(&twin_part("reported", &twin["properties"]["reported"]));
    page
}

/// A part of a twin without what the hub keeps for itself; nothing where nothing is in it.
pub(super) fn twin_part(title: &str, part: &Value) -> String {
    let Value::Object(members) = part else { return String::new() };
    let mut members = members.clone();
    members.remove("$metadata");
    let version =
        members.remove("$version").map(|version| format!(" (version {version})")).unwrap_or_default();
    if members.is_empty() {
        return String::new();
    }
    let lines = printed(&Value::Object(members)).replace('\n', "\n  ");
    format!("\n{title}{version}\n  {lines}\n")
}

/// JSON of a device, in lines, and safe to print.
fn printed(value: &Value) -> String {
    pretty(value).lines().map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_checked_before_anybody_is_asked() {
        assert_eq!(property("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(property("a").unwrap_err().contains("NAME=VALUE"));
        assert!(property("$a=b").is_err() && property("=b").is_err());
        assert!(json("text").unwrap_err().contains("quote text"));
        assert!(object("[1]").unwrap_err().contains("write an object"));
        assert_eq!(object("{\"a\": null}").unwrap()["a"], Value::Null);
    }

    #[test]
    fn the_hubs_own_members_are_left_out() {
        let part = serde_json::json!({"$version": 7, "$metadata": {}, "a": 1});
        assert_eq!(twin_part("desired", &part), "\ndesired (version 7)\n  {\n    \"a\": 1\n  }\n");
        assert_eq!(twin_part("desired", &serde_json::json!({"$version": 7})), "");
    }
}
