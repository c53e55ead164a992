//! What runs here instead of asking a control plane: nodes, `up`, the demo, the store itself, completions.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;
use farshore_core::ids::Region;
use tracing_subscriber::EnvFilter;

use super::exit::{FAILED, Failure};
use super::{Global, Output, store};
use crate::config::StoreKind;
use crate::demo::{ActName, Play};
use crate::node::Until;
use crate::up::ClusterOptions;

/// What is logged unless FARSHORE_LOG says otherwise; the DNS library would log every question that anybody asks.
const LOG_DEFAULT: &str = "info,hickory_server=warn";

#[derive(Debug, Subcommand)]
pub(super) enum LocalCommand {
    /// Start regions on this machine, for trying out; Ctrl-C stops them and keeps their state
    Up(UpArgs),
    /// Lose a region and bring it back: a real disaster on this machine, verified, with a report
    Demo(DemoArgs),
    /// Run one node of a region
    Node(NodeArgs),
    /// Back up, restore, migrate or look into the store
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Check a node's configuration, and say what losing a region would do
    #[command(subcommand)]
    Config(super::config::ConfigCommand),
    /// Built-in applications to host: what the docs and the demo try app services with
    #[command(subcommand)]
    Example(ExampleCommand),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    /// Names of the regions; the last one is the recovery region and has the control plane [default: paris,oslo; with etcd
    /// paris,oslo,bergen]
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    regions: Vec<Region>,
    /// What the control plane remembers in; with etcd every region has a member and a control node
    #[arg(long, value_enum, default_value_t = StoreArg::Redb, value_name = "STORE")]
    store: StoreArg,
    /// Seconds between recovery points, for regions that are made now
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    point_seconds: u64,
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Only this act [default: all, one after the other]
    #[arg(long, value_enum, value_name = "ACT")]
    only: Option<Act>,
    /// What the control plane remembers in; with etcd three members and three nodes in three regions are started, and the lost
    /// region takes its member and its control node with it
    #[arg(long, value_enum, default_value_t = StoreArg::Redb, value_name = "STORE")]
    store: StoreArg,
    /// Leave the regions running at the end, and say how to reach them
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum ExampleCommand {
    /// A small todo service: /todos, /todos/ID and /status, out of a SQLite file
    Todo {
        /// Where it listens, on 127.0.0.1
        #[arg(long, env = "PORT")]
        port: u16,
        /// Its SQLite file, which is made if it is not there
        #[arg(long, env = "DATABASE_FILE", value_name = "FILE")]
        database: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoreArg {
    /// One file, in the recovery region
    Redb,
    /// A member in each region; needs the program etcd
    Etcd,
}

impl From<StoreArg> for StoreKind {
    fn from(store: StoreArg) -> Self {
        match store {
            StoreArg::Redb => Self::Redb,
            StoreArg::Etcd => Self::Etcd,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Act {
    /// A machine with two disks
    Machine,
    /// A real-time hub with 500 clients and a publisher that never stops
    Realtime,
    /// A device hub with 200 devices that never stop either
    Hub,
    /// An app service: a todo back end with a database, clients that write, and a git remote
    App,
}

#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How log lines are written to stderr; what is written: FARSHORE_LOG, for example info or farshore=debug
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,
    /// Stop when standard input is closed, too
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// For machines
    Json,
}

pub(super) fn run(global: &Global, command: LocalCommand) -> Result<(), Failure> {
    match command {
        LocalCommand::Up(args) => up(global, args),
        LocalCommand::Demo(args) => demo(global, &args),
        LocalCommand::Node(args) => node(&args),
        LocalCommand::Store(command) => store::run(global, command),
        LocalCommand::Config(command) => super::config::run(global, &command),
        LocalCommand::Example(ExampleCommand::Todo { port, database }) => {
            let listen = (std::net::Ipv4Addr::LOCALHOST, port).into();
            runtime()?.block_on(crate::example::todo(listen, &database)).map_err(failed)
        }
        LocalCommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut super::grammar(), "farshore", &mut script);
            super::show::say(&String::from_utf8_lossy(&script));
            Ok(())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Runtime::new().map_err(|error| Failure::failed(format!("cannot start: {error}")))
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}

fn up(global: &Global, args: UpArgs) -> Result<(), Failure> {
    let mut options = match args.store {
        StoreArg::Redb => ClusterOptions::new(&global.data_dir()),
        StoreArg::Etcd => ClusterOptions::with_etcd(&global.data_dir()),
    };
    options.point_seconds = args.point_seconds;
    if !args.regions.is_empty() {
        options.regions = args.regions;
    }
    let mut names = options.regions.clone();
    names.sort();
    names.dedup();
    if names.len() != options.regions.len() || names.len() < 2 {
        return Err(Failure::usage("--regions needs at least two different names, for example paris,oslo"));
    }
    if args.store == StoreArg::Etcd && names.len().is_multiple_of(2) {
        return Err(Failure::usage(
            "--store etcd needs an odd number of regions, for example paris,oslo,bergen: an even number of voters can lose no \
             more of them than one less",
        ));
    }
    runtime()?.block_on(crate::up::run(options)).map_err(failed)
}

fn demo(global: &Global, args: &DemoArgs) -> Result<(), Failure> {
    let acts = match args.only {
        None => vec![ActName::Machine, ActName::Realtime, ActName::Hub, ActName::App],
        Some(Act::Machine) => vec![ActName::Machine],
        Some(Act::Realtime) => vec![ActName::Realtime],
        Some(Act::Hub) => vec![ActName::Hub],
        Some(Act::App) => vec![ActName::App],
    };
    // Never the directory of the environment: that one is somebody's own.
    let temporary = global.data.is_none();
    let data = global
        .data
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("farshore-demo-{}", std::process::id())));
    let json = global.output != Output::Table;
    let play = Play { data: data.clone(), store: args.store.into(), acts, keep: args.keep, json };
    let played = runtime()?.block_on(crate::demo::play(&play)).map_err(failed);
    if played.is_err() && temporary {
        // Nothing was found out that is worth keeping.
        let _ = std::fs::remove_dir_all(&data);
    }
    if !played? {
        let text = format!("a check did not hold; everything is left in {}", data.display());
        return Err(Failure { code: FAILED, text });
    }
    if temporary && !args.keep {
        std::fs::remove_dir_all(&data)
            .map_err(|error| failed(format!("cannot remove {}: {error}", data.display())))?;
    }
    Ok(())
}

fn node(args: &NodeArgs) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_env("FARSHORE_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    let until = if args.until_stdin_closes { Until::StdinCloses } else { Until::Signal };
    runtime()?.block_on(crate::node::run(&args.config, until)).map_err(failed)
}
