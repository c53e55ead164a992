//! `farshore realtime …`: real-time hubs, and what only they have.

use clap::{Args, Subcommand, ValueEnum};
use farshore_core::ids::{Name, Region};
use serde_json::{Value, json};

use super::ask::secret;
use super::client::Client;
use super::exit::Failure;
use super::show::{self, sheet, table};
use super::{Global, ask, status, verbs, wait};
use crate::api::views::{
    ConnectionStringView, CreateRequest, DrainRequest, DrainView, HandlerView, HandlersRequest, HandlersView,
    ItemView, JobView, KeyWord, KeysView, MembersRequest, MembersView, NegotiateView, OnControlLossWord,
    ProtectRequest, RegenerateRequest, ReplicationWord, StatsView, UserEventsView,
};

#[derive(Debug, Subcommand)]
pub(super) enum RealtimeCommand {
    /// Create a hub and serve it, in one region or in two
    Create(CreateArgs),
    /// List hubs
    List,
    /// Show one hub
    Show {
        /// Its name
        name: Name,
    },
    /// Remove a hub; its clients are closed
    Delete {
        /// Its name
        name: Name,
        #[command(flatten)]
        wait: verbs::Wait,
    },
    /// Access keys: list, regenerate
    #[command(subcommand)]
    Key(KeyCommand),
    /// Event handlers: set, list
    #[command(subcommand)]
    Handler(HandlerCommand),
    /// Print the connection string for applications: a secret
    ConnectionString(ConnectionStringArgs),
    /// Show figures of both regions
    Stats {
        /// The hub's name
        name: Name,
    },
    /// Close the connections of a region in paced batches, so that clients go where they are sent now
    Drain(DrainArgs),
    /// Show where a client that asks now is sent
    Negotiate {
        /// The hub's name
        name: Name,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Its name: lower-case letters, digits, inner hyphens (applications write _ for -)
    name: Name,
    /// Where it is served first; also its home
    #[arg(long)]
    region: Region,
    /// The region that takes over when that one is lost; sessions are replicated to it
    #[arg(long)]
    secondary: Option<Region>,
    /// Which region clients are sent to
    #[arg(long, value_enum, default_value_t = Mode::ActivePassive)]
    mode: Mode,
    /// Connection string of another server of the same protocol that belongs to the pair, or @FILE that holds it
    #[arg(long = "member", value_name = "CONNECTION-STRING")]
    members: Vec<String>,
    /// A further base URL under which applications know the hub: tokens made for it are taken
    #[arg(long = "hub-audience", value_name = "URL")]
    audiences: Vec<String>,
}

/// Which region clients are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// The primary while it is healthy, else the secondary
    ActivePassive,
    /// Each region sends them to itself while it is healthy
    ActiveActive,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::ActivePassive => "active-passive",
            Self::ActiveActive => "active-active",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Show both access keys: secrets
    List {
        /// The hub's name
        name: Name,
    },
    /// Make a key anew: the old one opens nothing any more
    Regenerate {
        /// The hub's name
        name: Name,
        /// Which key
        #[arg(value_enum)]
        key: Key,
    },
}

/// Which of the two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Key {
    /// The first
    Primary,
    /// The second
    Secondary,
}

impl From<Key> for KeyWord {
    fn from(key: Key) -> Self {
        match key {
            Key::Primary => Self::Primary,
            Key::Secondary => Self::Secondary,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum HandlerCommand {
    /// Say which service is told of a hub's events, instead of those that were told until now
    Set(HandlerArgs),
    /// List a hub's handlers; the first that wants an event gets it
    List {
        /// The hub's name
        name: Name,
    },
}

#[derive(Debug, Args)]
pub(super) struct HandlerArgs {
    /// The hub's name
    name: Name,
    /// Where events are posted to; {hub} and {event} are replaced
    #[arg(long, value_name = "TEMPLATE")]
    url: String,
    /// Which events of clients: '*' for all, or names with commas between them
    #[arg(long, value_name = "EVENTS", default_value = "*")]
    events: String,
    /// Events of the service: connect, connected, disconnected, joined, left
    #[arg(long, value_delimiter = ',', value_name = "EVENTS")]
    system: Vec<String>,
    /// A token that the service wants to see, or @FILE that holds it
    #[arg(long, value_name = "TOKEN")]
    bearer: Option<String>,
    /// Keep the handlers that there are: the new one comes after them
    #[arg(long)]
    append: bool,
}

#[derive(Debug, Args)]
pub(super) struct ConnectionStringArgs {
    /// The hub's name
    name: Name,
    /// To the pair (sends go to both regions) or to one region
    #[arg(long, value_enum, default_value_t = Of::Pair)]
    of: Of,
    /// To the endpoint of this region; by default the active one
    #[arg(long)]
    region: Option<Region>,
    /// With which key
    #[arg(long, value_enum, default_value_t = Key::Primary)]
    key: Key,
}

/// What a connection string leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Of {
    /// Both regions
    Pair,
    /// One region
    Region,
}

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The hub's name
    name: Name,
    /// Where connections are closed
    #[arg(long)]
    region: Region,
    /// How many a second
    #[arg(long, default_value_t = 100, value_name = "N")]
    per_second: u32,
}

pub(super) async fn run(global: &Global, command: RealtimeCommand) -> Result<(), Failure> {
    let client = Client::find(global)?;
    match command {
        RealtimeCommand::Create(args) => create(global, &client, args).await,
        RealtimeCommand::List => list(global, &client).await,
        RealtimeCommand::Show { name } => status::show_item(global, &format!("realtime/{name}")).await,
        RealtimeCommand::Delete { name, wait } => {
            ask::confirm(global, &format!("realtime/{name} will be removed, and its clients are closed."))?;
            let job: JobView = client.delete(&format!("/items/realtime/{name}")).await?;
            verbs::see_through(global, &client, job, wait).await
        }
        RealtimeCommand::Key(command) => key(global, &client, command).await,
        RealtimeCommand::Handler(command) => handler(global, &client, command).await,
        RealtimeCommand::ConnectionString(args) => connection_string(global, &client, &args).await,
        RealtimeCommand::Stats { name } => {
            let stats: StatsView = client.get(&format!("/realtime/{name}/stats")).await?;
            show::print(global, &stats, stats_table)
        }
        RealtimeCommand::Drain(args) => drain(global, &client, &args).await,
        RealtimeCommand::Negotiate { name } => {
            let advice: NegotiateView = client.get(&format!("/realtime/{name}/negotiate")).await?;
            show::print(global, &advice, |advice| {
                let which = if advice.primary { "primary" } else { "secondary" };
                sheet(&[
                    ("url", advice.url.clone()),
                    ("region", advice.region.clone()),
                    ("which", which.to_owned()),
                ])
            })
        }
    }
}

/// The hub, then what must not stand in its job, then its second region: each once the one before is done.
async fn create(global: &Global, client: &Client, args: CreateArgs) -> Result<(), Failure> {
    let members: Vec<String> =
        args.members.iter().map(|text| secret("member", text)).collect::<Result<_, _>>()?;
    let request = CreateRequest {
        kind: "realtime".to_owned(),
        name: args.name.to_string(),
        region: args.region.to_string(),
        spec: json!({ "mode": args.mode.as_str(), "audiences": args.audiences }),
        on_control_loss: OnControlLossWord::Hold,
        automatic_failover: true,
    };
    let job: JobView = client.post("/items", &request).await?;
    wait::verdict(&wait::follow(client, job).await?)?;
    let name = &args.name;
    if !members.is_empty() {
        let set: Result<MembersView, Failure> =
            client.put(&format!("/realtime/{name}/members"), &MembersRequest { members }).await;
        set.map_err(|failure| unfinished(name, "its members are not set", failure))?;
    }
    if let Some(secondary) = &args.secondary {
        protect(client, name, secondary)
            .await
            .map_err(|failure| unfinished(name, "it is served in one region only", failure))?;
    }
    let item: ItemView = client.get(&format!("/items/realtime/{name}")).await?;
    show::print(global, &item, |item| {
        let regions: Vec<&str> =
            std::iter::once(item.source.as_str()).chain(item.target.as_deref()).collect();
        format!(
            "{} is served in {}\nnext: farshore realtime connection-string {name}",
            item.id,
            regions.join(" and ")
        )
    })
}

async fn protect(client: &Client, name: &Name, secondary: &Region) -> Result<(), Failure> {
    let asked = ProtectRequest { target: secondary.to_string(), replication: ReplicationWord::default() };
    let job: JobView = client.post(&format!("/items/realtime/{name}/protect"), &asked).await?;
    wait::verdict(&wait::follow(client, job).await?)
}

fn unfinished(name: &Name, what: &str, failure: Failure) -> Failure {
    Failure { text: format!("realtime/{name} was made, but {what}: {}", failure.text), ..failure }
}

async fn list(global: &Global, client: &Client) -> Result<(), Failure> {
    let mut items: Vec<ItemView> = client.get("/items").await?;
    items.retain(|item| item.kind == "realtime");
    show::print(global, &items, |items| match items.as_slice() {
        [] => "no real-time hubs yet: farshore realtime create NAME --region REGION --secondary REGION"
            .to_owned(),
        items => status::items_table(items),
    })
}

async fn key(global: &Global, client: &Client, command: KeyCommand) -> Result<(), Failure> {
    let keys: KeysView = match command {
        KeyCommand::List { name } => client.get(&format!("/realtime/{name}/keys")).await?,
        KeyCommand::Regenerate { name, key } => {
            let what = format!(
                "Whoever uses the present {} key of realtime/{name} is shut out.",
                KeyWord::from(key).as_str()
            );
            ask::confirm(global, &what)?;
            let asked = RegenerateRequest { key: key.into() };
            client.post(&format!("/realtime/{name}/keys/regenerate"), &asked).await?
        }
    };
    show::print(global, &keys, |keys| {
        sheet(&[("primary", keys.primary.clone()), ("secondary", keys.secondary.clone())])
    })
}

async fn handler(global: &Global, client: &Client, command: HandlerCommand) -> Result<(), Failure> {
    let handlers: HandlersView = match command {
        HandlerCommand::List { name } => client.get(&format!("/realtime/{name}/handlers")).await?,
        HandlerCommand::Set(args) => {
            let path = format!("/realtime/{}/handlers", args.name);
            let bearer = args.bearer.as_deref().map(|text| secret("bearer", text)).transpose()?;
            let mut handlers = match args.append {
                true => client.get::<HandlersView>(&path).await?.handlers,
                false => Vec::new(),
            };
            handlers.push(HandlerView {
                url_template: args.url,
                user_events: events(&args.events),
                system_events: args.system,
                bearer,
            });
            client.put(&path, &HandlersRequest { handlers }).await?
        }
    };
    for warning in &handlers.warnings {
        eprintln!("warning: {warning}");
    }
    show::print(global, &handlers, |view| handlers_table(&view.handlers))
}

fn events(text: &str) -> UserEventsView {
    match text.trim() {
        "*" => UserEventsView::Word("*".to_owned()),
        names => {
            let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            UserEventsView::List(names.map(str::to_owned).collect())
        }
    }
}

fn handlers_table(handlers: &[HandlerView]) -> String {
    if handlers.is_empty() {
        return "no handlers: events of clients reach nobody".to_owned();
    }
    let row = |handler: &HandlerView| {
        let user = match &handler.user_events {
            UserEventsView::Word(word) => word.clone(),
            UserEventsView::List(names) => names.join(","),
        };
        let auth = if handler.bearer.is_some() { "bearer" } else { "none" };
        vec![user, handler.system_events.join(","), auth.to_owned(), handler.url_template.clone()]
    };
    table(&["EVENTS", "SYSTEM EVENTS", "AUTH", "URL"], &handlers.iter().map(row).collect::<Vec<_>>())
}

async fn connection_string(
    global: &Global,
    client: &Client,
    args: &ConnectionStringArgs,
) -> Result<(), Failure> {
    let of = match args.of {
        Of::Pair => "pair",
        Of::Region => "region",
    };
    let which = KeyWord::from(args.key).as_str();
    let region = args.region.as_ref().map(|region| format!("&region={region}")).unwrap_or_default();
    let path = format!("/realtime/{}/connection-string?which={which}&of={of}{region}", args.name);
    let view: ConnectionStringView = client.get(&path).await?;
    show::print(global, &view, |view| view.connection_string.clone())
}

async fn drain(global: &Global, client: &Client, args: &DrainArgs) -> Result<(), Failure> {
    let asked = DrainRequest { region: Some(args.region.to_string()), per_second: Some(args.per_second) };
    let view: DrainView = client.post(&format!("/realtime/{}/drain", args.name), &asked).await?;
    show::print(global, &view, |view| {
        format!(
            "{} connections in {} are being closed, {} a second",
            view.closing, view.region, args.per_second
        )
    })
}

/// A row for each figure, a column for each region.
fn stats_table(stats: &StatsView) -> String {
    let mut names: Vec<&String> = stats.regions.iter().flat_map(|region| region.stats.keys()).collect();
    names.sort();
    names.dedup();
    let head: Vec<String> = std::iter::once("FIGURE".to_owned())
        .chain(stats.regions.iter().map(|one| one.region.to_uppercase()))
        .collect();
    let row = |name: &String| {
        let cells = stats.regions.iter().map(|region| region.stats.get(name).map(figure).unwrap_or_default());
        std::iter::once(name.clone()).chain(cells).collect()
    };
    let rows: Vec<Vec<String>> = names.into_iter().map(row).collect();
    let mut text = table(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
    for region in &stats.regions {
        if let Some(error) = &region.error {
            text.push_str(&format!("{}: {error}\n", region.region));
        }
    }
    text
}

fn figure(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::views::RegionStatsView;

    #[test]
    fn figures_of_two_regions_stand_side_by_side() {
        let region = |name: &str, stats: Value, error: Option<&str>| RegionStatsView {
            region: name.to_owned(),
            stats: serde_json::from_value(stats).unwrap(),
            error: error.map(str::to_owned),
        };
        let stats = StatsView {
            regions: vec![
                region("paris", json!({"connections": 500, "role": "active"}), None),
                region("oslo", json!({"connections": 3, "degraded": true}), None),
                region("rome", json!({}), Some("does not answer")),
            ],
        };
        assert_eq!(
            stats_table(&stats),
            "FIGURE       PARIS   OSLO  ROME\nconnections  500     3\ndegraded             true\nrole         active\nrome: does not answer\n"
        );
    }

    #[test]
    fn events_are_all_or_those_that_are_named() {
        assert_eq!(events("*"), UserEventsView::Word("*".to_owned()));
        assert_eq!(events("a, b,"), UserEventsView::List(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(events(""), UserEventsView::List(Vec::new()));
    }

    #[test]
    fn a_member_may_stand_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("member");
        std::fs::write(&file, "Endpoint=http://x;AccessKey=k;\n").unwrap();
        let read = secret("member", &format!("@{}", file.display())).unwrap();
        assert_eq!(read, "Endpoint=http://x;AccessKey=k;");
        assert_eq!(secret("member", "Endpoint=http://x").unwrap(), "Endpoint=http://x");
        assert!(secret("member", "@/nowhere").unwrap_err().text.contains("cannot read /nowhere"));
    }
}
