//! `farshore config check`: what is wrong with a node's configuration, and what losing a region would do.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use farshore_core::ids::Region;
use serde::Serialize;

use super::exit::Failure;
use super::{Global, show};
use crate::config::{NodeConfig, Weight, lose};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a node's configuration without starting anything
    Check(CheckArgs),
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
    let ConfigCommand::Check(args) = command;
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
