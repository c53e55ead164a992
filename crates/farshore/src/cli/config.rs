//! `farshore config`: a first configuration, what is wrong with a node's configuration, and what losing a region would do.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use farshore_core::ids::Region;
use serde::Serialize;

use super::exit::Failure;
use super::{Global, show};
use crate::config::{Fresh, NodeConfig, Weight, lose};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a node's configuration without starting anything
    Check(CheckArgs),
    /// Print a first configuration for a node of a cluster on several hosts, with etcd and a control node on each
    New(NewArgs),
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = "region.toml")]
    config: PathBuf,
    /// Only what losing this region would do; without it, every region's loss is told
    #[arg(long, value_name = "REGION")]
    lose: Option<Region>,
}

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// The node's region
    #[arg(long)]
    region: Region,
    /// The address of the host in each region, like paris=10.0.0.1,oslo=10.0.0.2,bergen=10.0.0.3
    #[arg(long, value_delimiter = ',', required = true, value_name = "REGION=IP")]
    hosts: Vec<Host>,
    /// Directory with ca-cert.pem, client-cert.pem and client-key.pem for etcd; without it etcd is reached in plain text
    #[arg(long, value_name = "DIR")]
    etcd_files: Option<PathBuf>,
}

/// One of `--hosts`.
#[derive(Debug, Clone)]
struct Host(Region, IpAddr);

impl FromStr for Host {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (region, host) = text.split_once('=').ok_or("write REGION=IP, for example paris=10.0.0.1")?;
        let region = Region::parse(region).map_err(|error| error.to_string())?;
        let host = host.parse().map_err(|_| format!("{host:?} is no IP address"))?;
        Ok(Self(region, host))
    }
}

/// One region's loss, as it is shown.
#[derive(Debug, Serialize)]
struct LossView {
    region: Region,
    consequences: Vec<ConsequenceView>,
}

#[derive(Debug, Serialize)]
struct ConsequenceView {
    weight: &'static str,
    what: String,
}

pub(super) fn run(global: &Global, command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(args) => check(global, args),
        ConfigCommand::New(args) => new(global, args),
    }
}

fn new(global: &Global, args: &NewArgs) -> Result<(), Failure> {
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let fresh = Fresh {
        region: args.region.clone(),
        hosts: args.hosts.iter().cloned().map(|Host(region, host)| (region, host)).collect(),
        data: absolute(global.data_dir()),
        etcd_files: args.etcd_files.clone().map(absolute),
    };
    let config = fresh.config().map_err(Failure::usage)?;
    let text = toml::to_string_pretty(&config).map_err(|error| Failure::failed(error.to_string()))?;
    show::say(&text);
    Ok(())
}

fn check(global: &Global, args: &CheckArgs) -> Result<(), Failure> {
    let config = NodeConfig::load(&args.config, std::env::vars())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let regions: Vec<Region> = match &args.lose {
        Some(region) => vec![region.clone()],
        None if config.regions.is_empty() => vec![config.region.clone()],
        None => config.regions.iter().map(|region| region.name.clone()).collect(),
    };
    let mut losses = Vec::new();
    if !config.regions.is_empty() {
        for region in regions {
            let told = lose(&config, &region).map_err(Failure::usage)?;
            let consequences =
                told.into_iter().map(|one| ConsequenceView { weight: word(one.weight), what: one.what });
            losses.push(LossView { region, consequences: consequences.collect() });
        }
    }
    show::print(global, &losses, |losses| text(&args.config, losses))
}

fn word(weight: Weight) -> &'static str {
    match weight {
        Weight::Fine => "fine",
        Weight::Reduced => "reduced",
        Weight::Stops => "stops",
    }
}

fn text(path: &std::path::Path, losses: &[LossView]) -> String {
    let mut text = format!("{} is a good configuration\n", path.display());
    for loss in losses {
        text.push_str(&format!("\nlosing {}:\n", loss.region));
        for one in &loss.consequences {
            text.push_str(&format!("  {:<8} {}\n", one.weight, one.what));
        }
    }
    text
}
