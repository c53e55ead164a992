//! The command line: a client of the HTTP interface and nothing more, and the ways into what runs here.
//!
//! Read in this order: this file (the grammar), `exit` (what went wrong and the exit status), `client`
//! (HTTP), `wait` (follows a job), `ask` (prompts), `show` (tables), then a file per group of verbs: `machine`, `app`, `hub`, `realtime`, `verbs`,
//! `jobs`, `status`, `audit`, `token`, `trust`, `names`, `local`, `config`.
//!
//! Results go to stdout, everything else to stderr.

mod app;
mod ask;
mod audit;
mod client;
mod config;
mod exit;
mod hub;
mod incident;
mod jobs;
mod local;
mod machine;
mod names;
mod realtime;
mod show;
mod status;
mod store;
mod token;
mod trust;
mod verbs;
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use exit::Failure;

/// Where `up` keeps its state, and clients look for it, when nobody says otherwise.
const DATA_DEFAULT: &str = ".farshore";

/// Disaster recovery for people who run their own regions.
///
/// Start two regions on this machine with `farshore up`, or see it all at work with `farshore demo`.
#[derive(Debug, Parser)]
#[command(name = "farshore", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused (nothing was changed).")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Base URL of a control node; several, with commas between them, are asked in turn; otherwise found through --data
    #[arg(long, global = true, env = "FARSHORE_API", value_name = "URL", hide_env_values = true)]
    api: Option<String>,
    /// File that holds the token
    #[arg(long, global = true, env = "FARSHORE_TOKEN_FILE", value_name = "FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
    /// Directory of `farshore up` [env: FARSHORE_DATA] [default: .farshore]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Certificate of the cluster's authority, for an API at https://; otherwise trust/ca.crt in the directory of --data
    #[arg(
        long,
        global = true,
        env = "FARSHORE_CA",
        value_name = "FILE",
        hide_env_values = true,
        hide_short_help = true
    )]
    ca: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
    /// Answer prompts with yes
    #[arg(long, short, global = true)]
    yes: bool,
}

impl Global {
    /// The directory given, or by the environment, or the default.
    fn data_dir(&self) -> PathBuf {
        let named = self.data.clone().or_else(|| {
            std::env::var_os("FARSHORE_DATA").filter(|value| !value.is_empty()).map(PathBuf::from)
        });
        named.unwrap_or_else(|| PathBuf::from(DATA_DEFAULT))
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// What the API says.
    Json,
    /// The same as YAML.
    Yaml,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replicated disks of a machine: create, list, show, delete
    #[command(subcommand)]
    Machine(machine::MachineCommand),
    /// App services: create, deploy, show, delete, and their keys, settings, databases and reserves
    #[command(subcommand)]
    App(app::AppCommand),
    /// Device hubs: create, show, delete, and their devices, telemetry, policies and merges
    #[command(subcommand)]
    Hub(hub::HubCommand),
    /// Real-time hubs: create, list, show, delete, and their keys, handlers and figures
    #[command(subcommand)]
    Realtime(realtime::RealtimeCommand),
    #[command(flatten)]
    Verb(verbs::VerbCommand),
    /// List the recovery points of an item, oldest first
    Points(status::OneItem),
    /// Show everything at a glance, or one item
    Status(status::StatusArgs),
    /// List regions, or show one
    #[command(subcommand)]
    Region(status::RegionCommand),
    /// Jobs: list, show, watch, cancel, retry, skip, abandon
    #[command(subcommand)]
    Job(jobs::JobCommand),
    /// Make a cluster: its authority, and the certificate of this first node
    Init(trust::InitArgs),
    /// Make this host a node of a cluster
    Join(trust::JoinArgs),
    /// Certificates: show this node's, issue others, make join tokens
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    /// Incidents: list, show, open, update, close
    #[command(subcommand)]
    Incident(incident::IncidentCommand),
    /// Show who did what, newest last, or check that the record of it is whole
    Audit(audit::AuditArgs),
    /// Tokens of people and programs: create, list, revoke
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Show whose token is used, and what its holder may do
    Whoami,
    /// Ask several nodes where a name is active, check their signatures, and take the newest answer
    Resolve(names::ResolveArgs),
    #[command(flatten)]
    Local(local::LocalCommand),
}

/// Runs the program with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs the program.
fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no reason to fail.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Local(command) => local::run(&global, command),
        Command::Init(args) => trust::init(&global, &args),
        command => client_runtime()?.block_on(ask_api(&global, command)),
    }
}

fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Failure::failed(format!("cannot start: {error}")))
}

async fn ask_api(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Machine(command) => machine::run(global, command).await,
        Command::App(command) => app::run(global, command).await,
        Command::Hub(command) => hub::run(global, command).await,
        Command::Realtime(command) => realtime::run(global, command).await,
        Command::Verb(command) => verbs::run(global, command).await,
        Command::Points(args) => status::points(global, &args).await,
        Command::Status(args) => status::status(global, &args).await,
        Command::Region(command) => status::region(global, command).await,
        Command::Job(command) => jobs::run(global, command).await,
        Command::Incident(command) => incident::run(global, command).await,
        Command::Audit(args) => audit::run(global, &args).await,
        Command::Token(command) => token::run(global, command).await,
        Command::Whoami => token::whoami(global).await,
        Command::Resolve(args) => names::resolve(global, &args).await,
        Command::Local(command) => local::run(global, command),
        Command::Init(args) => trust::init(global, &args),
        Command::Join(args) => trust::join_cluster(global, args).await,
        Command::Trust(command) => trust::run(global, command).await,
    }
}

/// The grammar, for completions and tests.
fn grammar() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_grammar_is_sound() {
        super::grammar().debug_assert();
    }
}
