//! `farshore machine …`: what only machines have.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use farshore_core::ids::{Name, Region};
use serde_json::json;

use super::Global;
use super::client::Client;
use super::exit::Failure;
use super::{ask, show, status, verbs};
use crate::api::views::{CreateRequest, ItemView, JobView, OnControlLossWord};

#[derive(Debug, Subcommand)]
pub(super) enum MachineCommand {
    /// Create a machine with its disks and serve them
    Create(CreateArgs),
    /// List machines
    List,
    /// Show one machine
    Show {
        /// Its name
        name: Name,
    },
    /// Remove a machine and the disks that were made for it
    ///
    /// Disks that were given with path= are left in place.
    Delete {
        /// Its name
        name: Name,
        #[command(flatten)]
        wait: verbs::Wait,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Its name: lower-case letters, digits, inner hyphens
    name: Name,
    /// Where it runs first; also its home
    #[arg(long)]
    region: Region,
    /// A disk: NAME=SIZE, or NAME=SIZE,path=FILE for a raw file that exists; SIZE like 10G, 512M or 1000 (bytes)
    #[arg(long = "disk", value_name = "NAME=SIZE[,path=FILE]", required = true)]
    disks: Vec<Disk>,
    /// What its active region does when it loses the control plane
    #[arg(long, value_enum, default_value_t = LossArg::Hold, value_name = "POLICY")]
    on_control_loss: LossArg,
    /// Fail it over without being asked when its region is lost; needs --on-control-loss fence and three regions
    #[arg(long)]
    automatic_failover: bool,
    #[command(flatten)]
    wait: verbs::Wait,
}

/// What the active region does without the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LossArg {
    /// Go on serving; an unplanned failover then needs the region's answer or your word that it is down
    Hold,
    /// Stop by itself; an unplanned failover then waits until it must have stopped
    Fence,
}

impl From<LossArg> for OnControlLossWord {
    fn from(policy: LossArg) -> Self {
        match policy {
            LossArg::Hold => Self::Hold,
            LossArg::Fence => Self::Fence,
        }
    }
}

/// One `--disk`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    name: Name,
    size_bytes: u64,
    path: Option<PathBuf>,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or("write NAME=SIZE, for example root=10G")?;
        let name = Name::parse(name).map_err(|error| error.to_string())?;
        let (size, path) = match rest.split_once(',') {
            None => (rest, None),
            Some((size, extra)) => {
                let path = extra.strip_prefix("path=").filter(|path| !path.is_empty());
                let path = path.ok_or_else(|| format!("{extra:?} is not known: write path=FILE"))?;
                (size, Some(PathBuf::from(path)))
            }
        };
        Ok(Self { name, size_bytes: parse_size(size)?, path })
    }
}

/// `10G`, `512MiB`, `1000`: powers of 1024.
fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size: write it like 10G, 512M, 64K or 1000 (bytes)");
    let digits = text.trim_end_matches(|char: char| !char.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => return Err(bad()),
    };
    let bytes = number.checked_mul(1 << shift).filter(|bytes| i64::try_from(*bytes).is_ok());
    match bytes.ok_or_else(|| format!("{text:?} is larger than any disk"))? {
        0 => Err("a disk of 0 bytes holds nothing: give a size like 10G".to_owned()),
        bytes => Ok(bytes),
    }
}

pub(super) async fn run(global: &Global, command: MachineCommand) -> Result<(), Failure> {
    match command {
        MachineCommand::Create(args) => create(global, args).await,
        MachineCommand::List => list(global).await,
        MachineCommand::Show { name } => status::show_item(global, &format!("machine/{name}")).await,
        MachineCommand::Delete { name, wait } => {
            let client = Client::find(global)?;
            let what = format!("machine/{name} and the disks that were made for it will be removed.");
            ask::confirm(global, &what)?;
            let job: JobView = client.delete(&format!("/items/machine/{name}")).await?;
            verbs::see_through(global, &client, job, wait).await
        }
    }
}

async fn create(global: &Global, args: CreateArgs) -> Result<(), Failure> {
    let client = Client::find(global)?;
    let disks = args.disks.iter().map(|disk| {
        let mut spec = json!({ "name": disk.name, "size_bytes": disk.size_bytes });
        if let Some(path) = &disk.path {
            // The node has another working directory.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            spec["path"] = json!(path);
        }
        spec
    });
    let request = CreateRequest {
        kind: "machine".to_owned(),
        name: args.name.to_string(),
        region: args.region.to_string(),
        spec: json!({ "disks": disks.collect::<Vec<_>>() }),
        on_control_loss: args.on_control_loss.into(),
        automatic_failover: args.automatic_failover,
    };
    let job: JobView = client.post("/items", &request).await?;
    verbs::see_through(global, &client, job, args.wait).await
}

async fn list(global: &Global) -> Result<(), Failure> {
    let client = Client::find(global)?;
    let mut items: Vec<ItemView> = client.get("/items").await?;
    items.retain(|item| item.kind == "machine");
    show::print(global, &items, |items| match items.as_slice() {
        [] => "no machines yet: farshore machine create NAME --region REGION --disk root=10G".to_owned(),
        items => status::items_table(items),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_and_never_overflow() {
        let check = |text, bytes| assert_eq!(parse_size(text), Ok(bytes), "{text}");
        check("1000", 1000);
        check("64K", 64 << 10);
        check("512M", 512 << 20);
        check("10g", 10 << 30);
        check("2TiB", 2 << 40);
        for bad in ["", "G", "-1", "1.5G", "10 G", "10X", "0", "0G", "99999999999T", "18446744073709551616"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_disk_has_a_name_a_size_and_perhaps_a_file() {
        let disk: Disk = "root=1G,path=/srv/a,b.img".parse().unwrap();
        assert_eq!((disk.size_bytes, disk.path), (1 << 30, Some(PathBuf::from("/srv/a,b.img"))));
        for bad in ["root", "=1G", "Root=1G", "root=1G,file=x", "root=1G,path="] {
            assert!(bad.parse::<Disk>().is_err(), "{bad}");
        }
    }
}
