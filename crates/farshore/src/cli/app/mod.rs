//! `farshore app …`: app services, and what only they have.
//!
//! Read in this order: this file (the grammar, making and removing apps), `page` (how an app is shown), `reserve` (capacity in another
//! region), `operation` (follows what takes long), `scripts` (deploys, releases, exports), `archive` (a directory as one file),
//! `migrate` (recovery onto a reserve), `secrets` (keys, settings, certificates), `database` (backups, restores, another database), `running` (restart, scale, log, hosts).

mod archive;
mod database;
mod migrate;
mod operation;
mod page;
mod reserve;
mod running;
mod scripts;
mod secrets;

use clap::{Args, Subcommand, ValueEnum};
use farshore_app::mode::Mode;
use farshore_core::ids::{Name, Region};
use serde_json::{Map, Value, json};

use super::client::Client;
use super::exit::Failure;
use super::show;
use super::{Global, ask, verbs, wait};
use crate::api::views::{
    AppBrief, AppView, CreateRequest, ItemView, JobView, OnControlLossWord, ProtectRequest, ReplicationWord,
};

#[derive(Debug, Subcommand)]
pub(super) enum AppCommand {
    /// Create an app, with a reserve in another region if one is named
    Create(CreateArgs),
    /// List apps
    List,
    /// Show one app: URL, release, database, processes, reserve, backups, warnings
    Show {
        /// Its name
        name: Name,
    },
    /// Remove an app with its scripts, settings, keys, databases and backups
    Delete {
        /// Its name
        name: Name,
        #[command(flatten)]
        wait: verbs::Wait,
    },
    /// Deploy a directory: it becomes a commit, and the commit a release
    Deploy(scripts::DeployArgs),
    /// List releases, newest first
    Releases {
        /// The app's name
        name: Name,
    },
    /// Make an earlier release live again
    Rollback {
        /// The app's name
        name: Name,
        /// Which one [default: the one before]
        #[arg(long, value_name = "N")]
        to: Option<u64>,
    },
    /// Start the app's processes again, one after the other
    Restart {
        /// The app's name
        name: Name,
    },
    /// Change the mode, or how many processes there are
    Scale(running::ScaleArgs),
    /// Print what the app's processes said last
    Log {
        /// The app's name
        name: Name,
        /// The newest so many
        #[arg(long, default_value_t = 100, value_name = "N")]
        lines: u32,
    },
    /// Keys: show, regenerate, set
    #[command(subcommand)]
    Key(secrets::KeyCommand),
    /// Settings (environment of the app's processes): list, set, delete
    #[command(subcommand)]
    Setting(secrets::SettingCommand),
    /// Host names of its own: add, remove
    #[command(subcommand)]
    Host(running::HostCommand),
    /// Certificates of its host names: set, remove
    #[command(subcommand)]
    Certificate(secrets::CertificateCommand),
    /// Backups of its database: now, list, verify
    #[command(subcommand)]
    Backup(database::BackupCommand),
    /// Restore a backup into a new database; the one in use is not touched
    Restore(database::RestoreArgs),
    /// List its databases: the one in use, and those that were
    Database {
        /// The app's name
        name: Name,
    },
    /// Give the app another database; the old one is given up
    ChangeDatabase(database::ChangeArgs),
    /// Keep capacity in another region for an app, and replicate it there
    Reserve(reserve::ReserveArgs),
    /// Write scripts, settings or both to files
    Export(scripts::ExportArgs),
    /// Recover an app onto the capacity of its reserve, which is removed: same name, URL and keys
    Migrate(migrate::MigrateArgs),
    /// Another name for migrate
    Recover(migrate::MigrateArgs),
    /// List migrations, oldest first, or show one with its report
    Migrations {
        /// Its id
        id: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Its name: lower-case letters, digits, inner hyphens
    name: Name,
    /// Where it runs first; also its home
    #[arg(long)]
    region: Region,
    /// What starts one process of it; it listens on $PORT
    #[arg(long, value_name = "COMMAND")]
    command: String,
    /// What is run once for each release, before the command (such as 'npm ci')
    #[arg(long, value_name = "COMMAND")]
    build: Option<String>,
    /// How much memory and processor each process has
    #[arg(long, value_enum, default_value_t = ModeWord::Basic)]
    mode: ModeWord,
    /// Processes: at most 1, 6 and 25 by mode
    #[arg(long, default_value_t = 1, value_name = "N")]
    instances: u32,
    /// The database that it is given in DATABASE_URL
    #[arg(long, value_enum, default_value_t = DatabaseWord::Sqlite)]
    database: DatabaseWord,
    /// A further host name under which clients know it
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Refuse clients that do not name the application key
    #[arg(long)]
    require_key: bool,
    /// Where the app answers when it is well
    #[arg(long, value_name = "PATH")]
    probe: Option<String>,
    /// Minutes between backups
    #[arg(long, value_name = "MINUTES")]
    backup_minutes: Option<u32>,
    /// Backups that are kept
    #[arg(long, value_name = "N")]
    backup_keep: Option<u32>,
    /// The region that takes over when that one is lost: capacity is reserved there as NAME-dr
    #[arg(long)]
    secondary: Option<Region>,
}

/// How much memory and processor each process of an app has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeWord {
    /// 128 MiB, a quarter of a processor, one process
    Free,
    /// 512 MiB, one processor, up to 6 processes
    // What services of this mode were called once.
    #[value(alias = "shared")]
    Basic,
    /// 2 GiB, two processors, up to 25 processes
    #[value(alias = "reserved")]
    Standard,
}

impl ModeWord {
    fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Basic => "basic",
            Self::Standard => "standard",
        }
    }
}

impl From<ModeWord> for Mode {
    fn from(word: ModeWord) -> Self {
        match word {
            ModeWord::Free => Self::Free,
            ModeWord::Basic => Self::Basic,
            ModeWord::Standard => Self::Standard,
        }
    }
}

/// What an app keeps its data in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DatabaseWord {
    /// A file, replicated as it is written
    Sqlite,
    /// A server of its own beside the app, replicated by streaming
    Postgres,
    /// None
    None,
}

impl DatabaseWord {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::None => "none",
        }
    }
}

pub(super) async fn run(global: &Global, command: AppCommand) -> Result<(), Failure> {
    let client = Client::find(global)?;
    match command {
        AppCommand::Create(args) => create(global, &client, args).await,
        AppCommand::List => list(global, &client).await,
        AppCommand::Show { name } => {
            let app: AppView = client.get(&format!("/apps/{name}")).await?;
            let item: ItemView = client.get(&format!("/items/app/{name}")).await?;
            show::print(global, &app, |app| page::app(app, &item))
        }
        AppCommand::Delete { name, wait } => {
            let what = format!(
                "app/{name} will be removed with its scripts, settings, keys, databases and backups, in every region."
            );
            ask::confirm(global, &what)?;
            let job: JobView = client.delete(&format!("/items/app/{name}")).await?;
            verbs::see_through(global, &client, job, wait).await
        }
        AppCommand::Deploy(args) => scripts::deploy(global, &client, &args).await,
        AppCommand::Releases { name } => scripts::releases(global, &client, &name).await,
        AppCommand::Rollback { name, to } => scripts::rollback(global, &client, &name, to).await,
        AppCommand::Restart { name } => running::restart(global, &client, &name).await,
        AppCommand::Scale(args) => running::scale(global, &client, &args).await,
        AppCommand::Log { name, lines } => running::log(global, &client, &name, lines).await,
        AppCommand::Key(command) => secrets::key(global, &client, command).await,
        AppCommand::Setting(command) => secrets::setting(global, &client, command).await,
        AppCommand::Host(command) => running::host(global, &client, command).await,
        AppCommand::Certificate(command) => secrets::certificate(global, &client, command).await,
        AppCommand::Backup(command) => database::backup(global, &client, command).await,
        AppCommand::Restore(args) => database::restore(global, &client, &args).await,
        AppCommand::Database { name } => database::list(global, &client, &name).await,
        AppCommand::ChangeDatabase(args) => database::change(global, &client, &args).await,
        AppCommand::Reserve(args) => reserve::run(global, &client, &args).await,
        AppCommand::Export(args) => scripts::export(global, &client, &args).await,
        AppCommand::Migrate(args) => migrate::run(global, &client, "migrate", args).await,
        AppCommand::Recover(args) => migrate::run(global, &client, "recover", args).await,
        AppCommand::Migrations { id } => migrate::show(global, &client, id.as_deref()).await,
    }
}

/// The app, then its reserve, then its replica there: each once the one before is done.
async fn create(global: &Global, client: &Client, args: CreateArgs) -> Result<(), Failure> {
    let name = &args.name;
    let secondary = match &args.secondary {
        Some(region) if *region == args.region => {
            return Err(Failure::usage(format!(
                "--secondary: {region} is the app's own region, and would be lost with it: name another one"
            )));
        }
        Some(region) => Some((region, reserve::name_for(name)?)),
        None => None,
    };
    if let Some((region, reserve)) = &secondary {
        reserve::check(client, reserve, region).await?;
    }
    make(client, name, &args.region, spec(&args)).await?;
    if let Some((region, reserve)) = &secondary {
        let made = reserve::make(client, reserve, region, args.mode, args.instances, name).await;
        made.map_err(|failure| {
            let next = format!(
                "farshore app reserve {reserve} --region {region} --mode {} --for {name}",
                args.mode.as_str()
            );
            unfinished(name, "it has no reserve, and runs in one region only", &next, &failure)
        })?;
        protect(client, name, region, ReplicationWord::default()).await.map_err(|failure| {
            let next = format!("farshore protect app/{name} --to {region}");
            unfinished(name, "it runs in one region only", &next, &failure)
        })?;
    }
    let app: AppView = client.get(&format!("/apps/{name}")).await?;
    show::print(global, &app, |app| {
        let url = app.urls.first().map(|url| format!(" at {url}")).unwrap_or_default();
        let reserve = secondary.as_ref().map(|(region, reserve)| {
            format!("replicated to {region}, where app/{reserve} keeps its capacity\n")
        });
        format!(
            "app/{name} is in {}{url}\n{}next: farshore app deploy {name} DIR",
            args.region,
            reserve.unwrap_or_default()
        )
    })
}

/// Makes an item of the kind app.
async fn make(client: &Client, name: &Name, region: &Region, spec: Value) -> Result<(), Failure> {
    let request = CreateRequest {
        kind: "app".to_owned(),
        name: name.to_string(),
        region: region.to_string(),
        spec,
        on_control_loss: OnControlLossWord::Hold,
        automatic_failover: false,
    };
    let job: JobView = client.post("/items", &request).await?;
    wait::verdict(&wait::follow(client, job).await?)
}

async fn protect(
    client: &Client,
    name: &Name,
    region: &Region,
    replication: ReplicationWord,
) -> Result<(), Failure> {
    let asked = ProtectRequest { target: region.to_string(), replication };
    let job: JobView = client.post(&format!("/items/app/{name}/protect"), &asked).await?;
    wait::verdict(&wait::follow(client, job).await?)
}

/// Whatever was in the way of the rest: the app is there, so it is not true that nothing was changed.
fn unfinished(name: &Name, what: &str, next: &str, failure: &Failure) -> Failure {
    Failure::failed(format!("app/{name} was made, but {what}: {}\nto go on: {next}", failure.text))
}

/// What is not said stays as apps have it by themselves.
fn spec(args: &CreateArgs) -> Value {
    let mut spec = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        value.map(|value| spec.insert(name.to_owned(), value));
    };
    put("mode", Some(args.mode.as_str().into()));
    put("instances", Some(args.instances.into()));
    put("command", Some(args.command.clone().into()));
    put("build", args.build.clone().map(Value::from));
    put("database", Some(args.database.as_str().into()));
    put("hosts", (!args.hosts.is_empty()).then(|| json!(args.hosts)));
    put("require_key", args.require_key.then_some(Value::Bool(true)));
    put("probe", args.probe.clone().map(Value::from));
    put("backup_minutes", args.backup_minutes.map(Value::from));
    put("backup_keep", args.backup_keep.map(Value::from));
    Value::Object(spec)
}

async fn list(global: &Global, client: &Client) -> Result<(), Failure> {
    let apps: Vec<AppBrief> = client.get("/apps").await?;
    show::print(global, &apps, |apps| match apps.as_slice() {
        [] => "no apps yet: farshore app create NAME --region REGION --command COMMAND --secondary REGION"
            .to_owned(),
        apps => page::list(apps),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::{FAILED, REFUSED};

    #[test]
    fn what_was_made_by_half_is_no_refusal_and_names_the_way_on() {
        let refused = Failure { code: REFUSED, text: "oslo has no room for app/todo-dr".to_owned() };
        let name = Name::parse("todo").unwrap();
        let told =
            unfinished(&name, "it runs in one region only", "farshore protect app/todo --to oslo", &refused);
        assert_eq!(told.code, FAILED);
        assert_eq!(
            told.text,
            "app/todo was made, but it runs in one region only: oslo has no room for app/todo-dr\n\
             to go on: farshore protect app/todo --to oslo"
        );
    }

    #[test]
    fn the_old_names_of_modes_are_understood() {
        for (text, mode) in
            [("shared", ModeWord::Basic), ("reserved", ModeWord::Standard), ("free", ModeWord::Free)]
        {
            assert_eq!(ModeWord::from_str(text, false), Ok(mode));
        }
    }
}
