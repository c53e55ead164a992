//! `farshore hub …`: device hubs, and what only they have.
//!
//! Read in this order: this file (the grammar, making and showing hubs), `device`, `access` (policies, connection
//! strings), `trust` (authorities, enrollments), `speak` (twins, methods, messages), `file` (import, export), `monitor`, `runner` (sinks,
//! members), `merge`, `patience` (what goes on while a
//! failover is under way), `progress`.

mod access;
mod device;
mod file;
mod merge;
mod monitor;
mod patience;
mod progress;
mod runner;
mod speak;
mod trust;

use clap::{Args, Subcommand, ValueEnum};
use farshore_core::ids::{Name, Region};
use serde_json::{Map, Value, json};

use super::client::Client;
use super::exit::Failure;
use super::show::{self, bytes, printable, seconds, sheet, table};
use super::{Global, ask, status, verbs, wait};
use crate::api::views::{
    CreateRequest, HubCursor, HubGroupView, HubReplicationView, HubView, ItemView, JobView,
    OnControlLossWord, ProtectRequest, ReplicationWord,
};

#[derive(Debug, Subcommand)]
pub(super) enum HubCommand {
    /// Create a hub and serve it, in one region or in two
    Create(CreateArgs),
    /// List hubs
    List,
    /// Show one hub: endpoints, devices, telemetry, how far the other region is
    Show {
        /// Its name
        name: Name,
    },
    /// Remove a hub with its devices and telemetry
    Delete {
        /// Its name
        name: Name,
        #[command(flatten)]
        wait: verbs::Wait,
    },
    /// Devices: add, list, show, remove, enable, disable, keys
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Import identities and twins from a file of JSON lines (devices.txt)
    Import(file::ImportArgs),
    /// Export identities and twins as JSON lines (devices.txt)
    Export(file::ExportArgs),
    /// Print what devices say, as it comes; goes on across a failover
    Monitor(monitor::MonitorArgs),
    /// Send a message to a device, which gets it when it is connected
    Send(speak::SendArgs),
    /// Call a method of a device and print its answer
    Method(speak::MethodArgs),
    /// Twins: show, set
    #[command(subcommand)]
    Twin(speak::TwinCommand),
    /// Policies (named keys for back ends): list, add, delete, regenerate
    #[command(subcommand)]
    Policy(access::PolicyCommand),
    /// Authorities whose certificates devices may show: list, add, remove
    #[command(subcommand)]
    Authority(trust::AuthorityCommand),
    /// Groups of devices that may register themselves: list, add, remove, key
    #[command(subcommand)]
    Enrollment(trust::EnrollmentCommand),
    /// Print the connection string for a device or back end: a secret
    ConnectionString(access::ConnectionStringArgs),
    /// Take over what the other region has and this one has not: the way home
    Merge(merge::MergeArgs),
    /// Show what two regions changed at once, and who won
    Conflicts {
        /// The hub's name
        name: Name,
    },
    /// Consumer groups: list, delete
    #[command(subcommand)]
    Group(GroupCommand),
    /// Sinks, where telemetry goes on (NATS JetStream): list, add, remove
    #[command(subcommand)]
    Sink(runner::SinkCommand),
    /// Members, other hubs whose devices are taken over on a schedule: list, add, remove, run
    #[command(subcommand)]
    Member(runner::MemberCommand),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Its name: lower-case letters, digits, inner hyphens
    name: Name,
    /// Where it is served first; also its home
    #[arg(long)]
    region: Region,
    /// The region that takes over when that one is lost; identities and telemetry are replicated to it
    #[arg(long)]
    secondary: Option<Region>,
    /// A further host name under which devices know the hub: keys and tokens made for it stay good
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Telemetry is kept for so long
    #[arg(long, value_name = "HOURS")]
    retention_hours: Option<u32>,
    /// Telemetry of each region takes at most so much
    #[arg(long, value_name = "GIB")]
    retention_gib: Option<u32>,
    /// The property that names a message, where devices set no message id: what is sent again is stored once
    #[arg(long, value_name = "PROPERTY")]
    dedupe_property: Option<String>,
    /// How conflicts are settled when two regions come together
    #[arg(long, value_enum, value_name = "POLICY")]
    merge_policy: Option<MergePolicy>,
}

/// How conflicts are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum MergePolicy {
    /// Each group of settings by what is safe for it: disabled wins, deleted wins, later keys win
    ByGroup,
    /// The region that had the right to write last wins
    ActiveEpochWins,
    /// The hub's home wins
    PrimaryWins,
    /// The other region wins
    SecondaryWins,
    /// The later change wins
    Newest,
    /// A person decides; until then the home's side is served
    Manual,
}

impl MergePolicy {
    fn as_str(self) -> &'static str {
        match self {
            Self::ByGroup => "by-group",
            Self::ActiveEpochWins => "active-epoch-wins",
            Self::PrimaryWins => "primary-wins",
            Self::SecondaryWins => "secondary-wins",
            Self::Newest => "newest",
            Self::Manual => "manual",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// List consumer groups and how far each has read
    List {
        /// The hub's name
        name: Name,
    },
    /// Forget a group: whoever reads under its name begins anew
    Delete {
        /// The hub's name
        name: Name,
        /// The group
        group: String,
    },
}

pub(super) async fn run(global: &Global, command: HubCommand) -> Result<(), Failure> {
    let client = Client::find(global)?;
    match command {
        HubCommand::Create(args) => create(global, &client, args).await,
        HubCommand::List => list(global, &client).await,
        HubCommand::Show { name } => {
            let hub: HubView = client.get(&format!("/hubs/{name}")).await?;
            show::print(global, &hub, |hub| hub_page(&name, hub))
        }
        HubCommand::Delete { name, wait } => {
            let what =
                format!("hub/{name} will be removed with all its devices and telemetry, in every region.");
            ask::confirm(global, &what)?;
            let job: JobView = client.delete(&format!("/items/hub/{name}")).await?;
            verbs::see_through(global, &client, job, wait).await
        }
        HubCommand::Device(command) => device::run(global, &client, command).await,
        HubCommand::Import(args) => file::import(global, &client, &args).await,
        HubCommand::Export(args) => file::export(global, &client, &args).await,
        HubCommand::Monitor(args) => monitor::run(global, &client, &args).await,
        HubCommand::Send(args) => speak::send(global, &client, args).await,
        HubCommand::Method(args) => speak::method(global, &client, args).await,
        HubCommand::Twin(command) => speak::twin(global, &client, command).await,
        HubCommand::Policy(command) => access::policy(global, &client, command).await,
        HubCommand::Authority(command) => trust::authority(global, &client, command).await,
        HubCommand::Enrollment(command) => trust::enrollment(global, &client, command).await,
        HubCommand::ConnectionString(args) => access::connection_string(global, &client, &args).await,
        HubCommand::Merge(args) => merge::run(global, &client, &args).await,
        HubCommand::Conflicts { name } => merge::conflicts(global, &client, &name).await,
        HubCommand::Group(command) => group(global, &client, command).await,
        HubCommand::Sink(command) => runner::sink(global, &client, command).await,
        HubCommand::Member(command) => runner::member(global, &client, command).await,
    }
}

/// The hub, then its second region once it is there.
async fn create(global: &Global, client: &Client, args: CreateArgs) -> Result<(), Failure> {
    let request = CreateRequest {
        kind: "hub".to_owned(),
        name: args.name.to_string(),
        region: args.region.to_string(),
        spec: spec(&args),
        on_control_loss: OnControlLossWord::Hold,
        automatic_failover: false,
    };
    let job: JobView = client.post("/items", &request).await?;
    wait::verdict(&wait::follow(client, job).await?)?;
    let name = &args.name;
    if let Some(secondary) = &args.secondary {
        protect(client, name, secondary).await.map_err(|failure| Failure {
            text: format!("hub/{name} was made, but it is served in one region only: {}", failure.text),
            ..failure
        })?;
    }
    let item: ItemView = client.get(&format!("/items/hub/{name}")).await?;
    show::print(global, &item, |item| match &item.target {
        Some(target) => format!(
            "{} is served in {} and replicated to {target}\nnext: farshore hub device add {name} ID",
            item.id, item.source
        ),
        None => format!("{} is served in {}\nnext: farshore hub device add {name} ID", item.id, item.source),
    })
}

/// What is not said stays as the hub has it by itself.
fn spec(args: &CreateArgs) -> Value {
    let mut spec = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        value.map(|value| spec.insert(name.to_owned(), value));
    };
    put("hosts", (!args.hosts.is_empty()).then(|| json!(args.hosts)));
    put("retention_hours", args.retention_hours.map(Value::from));
    put("retention_gib", args.retention_gib.map(Value::from));
    put("dedupe_property", args.dedupe_property.clone().map(Value::from));
    put("merge_policy", args.merge_policy.map(|policy| policy.as_str().into()));
    Value::Object(spec)
}

async fn protect(client: &Client, name: &Name, secondary: &Region) -> Result<(), Failure> {
    let asked = ProtectRequest { target: secondary.to_string(), replication: ReplicationWord::default() };
    let job: JobView = client.post(&format!("/items/hub/{name}/protect"), &asked).await?;
    wait::verdict(&wait::follow(client, job).await?)
}

async fn list(global: &Global, client: &Client) -> Result<(), Failure> {
    let mut items: Vec<ItemView> = client.get("/items").await?;
    items.retain(|item| item.kind == "hub");
    show::print(global, &items, |items| match items.as_slice() {
        [] => "no device hubs yet: farshore hub create NAME --region REGION --secondary REGION".to_owned(),
        items => status::items_table(items),
    })
}

async fn group(global: &Global, client: &Client, command: GroupCommand) -> Result<(), Failure> {
    match command {
        GroupCommand::List { name } => {
            let groups: Vec<HubGroupView> = client.get(&format!("/hubs/{name}/groups")).await?;
            show::print(global, &groups, |groups| match groups.as_slice() {
                [] => format!("no consumer groups yet: farshore hub monitor {name} --group GROUP makes one"),
                groups => groups_table(groups),
            })
        }
        GroupCommand::Delete { name, group } => {
            ask::confirm(global, &format!("Whoever reads hub/{name} as {group} will begin anew."))?;
            let _: Value = client.delete(&format!("/hubs/{name}/groups/{}", segment(&group))).await?;
            show::say(&format!("{group} is forgotten"));
            Ok(())
        }
    }
}

fn groups_table(groups: &[HubGroupView]) -> String {
    let row =
        |group: &HubGroupView| vec![group.name.clone(), group.behind.to_string(), cursor(&group.cursor)];
    table(&["GROUP", "UNREAD", "NEXT"], &groups.iter().map(row).collect::<Vec<_>>())
}

/// `oslo 3, paris 12`
fn cursor(cursor: &HubCursor) -> String {
    cursor.iter().map(|(region, next)| format!("{region} {next}")).collect::<Vec<_>>().join(", ")
}

fn hub_page(name: &Name, hub: &HubView) -> String {
    let devices = &hub.devices;
    let endpoints = &hub.endpoints;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let rows = [
        ("hub", name.to_string()),
        ("known as", hub.hosts.join(", ")),
        ("region", hub.region.clone()),
        ("serving", if hub.serving { "yes" } else { "no" }.to_owned()),
        ("mqtt", text(&endpoints.mqtt)),
        ("https", text(&endpoints.https)),
        ("amqp", text(&endpoints.amqp)),
        (
            "devices",
            format!("{} ({} enabled, {} disabled)", devices.total, devices.enabled, devices.disabled),
        ),
        ("modules", if devices.modules == 0 { String::new() } else { devices.modules.to_string() }),
        ("connected", connected(devices.connected, devices.held)),
        ("messages", format!("{} on their way to devices", hub.messages_pending)),
        ("telemetry", telemetry(hub)),
        ("replication", hub.replication.as_ref().map(replication).unwrap_or_else(|| "none".to_owned())),
        ("conflicts", conflicts(name, hub.conflicts)),
    ];
    let mut page = sheet(&rows);
    if !hub.groups.is_empty() {
        page.push('\n');
        page.push_str(&groups_table(&hub.groups));
    }
    page
}

fn connected(connected: u64, held: u64) -> String {
    match held {
        0 => connected.to_string(),
        held => format!("{connected}, and {held} that wait to be let in"),
    }
}

fn telemetry(hub: &HubView) -> String {
    let ends =
        if hub.telemetry.ends.is_empty() { "none yet".to_owned() } else { cursor(&hub.telemetry.ends) };
    format!("{ends} ({} on disk, {} sent again)", bytes(hub.telemetry.bytes), hub.telemetry.duplicates)
}

fn replication(to: &HubReplicationView) -> String {
    let behind = match to.records_behind {
        0 => "nothing behind".to_owned(),
        records => {
            format!("{records} records, {}, {} behind", bytes(to.bytes_behind), seconds(to.seconds_behind))
        }
    };
    format!("to {}: {}, {behind}", to.partner, to.state)
}

fn conflicts(name: &Name, open: u64) -> String {
    match open {
        0 => String::new(),
        open => format!("{open} not decided yet: farshore hub conflicts {name}"),
    }
}

/// A part of a path: identifiers of devices may hold what paths cannot.
fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// JSON as a person sees it: the same in a sheet and in a table.
fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::views::{HubDevicesCount, HubTelemetryView};

    #[test]
    fn identifiers_fit_into_paths() {
        assert_eq!(segment("pump-1/valve#2 é"), "pump-1%2Fvalve%232%20%C3%A9");
    }

    #[test]
    fn devices_cannot_write_on_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\r\n"), "a\\u{1b}[31mb\\r\\n");
        assert_eq!(printable("20 °C"), "20 °C");
    }

    #[test]
    fn a_hub_is_read_at_a_glance() {
        let hub = HubView {
            hosts: vec!["fleet.hub.example".to_owned(), "contoso.example".to_owned()],
            serving: true,
            region: "paris".to_owned(),
            devices: HubDevicesCount { total: 3, enabled: 2, disabled: 1, modules: 0, connected: 2, held: 1 },
            telemetry: HubTelemetryView {
                bytes: 2048,
                duplicates: 4,
                ends: [("paris".to_owned(), 12)].into(),
                ..HubTelemetryView::default()
            },
            replication: Some(HubReplicationView {
                partner: "oslo".to_owned(),
                state: "streaming".to_owned(),
                ..HubReplicationView::default()
            }),
            conflicts: 2,
            ..HubView::default()
        };
        assert_eq!(
            hub_page(&Name::parse("fleet").unwrap(), &hub),
            "hub          fleet\n\
             known as     fleet.hub.example, contoso.example\n\
             region       paris\n\
             serving      yes\n\
             devices      3 (2 enabled, 1 disabled)\n\
             connected    2, and 1 that wait to be let in\n\
             messages     0 on their way to devices\n\
             telemetry    paris 12 (2 KiB on disk, 4 sent again)\n\
             replication  to oslo: streaming, nothing behind\n\
             conflicts    2 not decided yet: farshore hub conflicts fleet\n"
        );
    }
}
