//! `farshore app restart`, `scale`, `log`, `host …`.

use clap::{Args, Subcommand};
use farshore_core::ids::Name;

use super::super::client::Client;
use super::super::exit::{Failure, REFUSED};
use super::super::show;
use super::super::{Global, ask};
use super::{ModeWord, operation, reserve};
use crate::api::views::{
    AppHostsChangeRequest, AppHostsRequest, AppLogView, AppScaleRequest, AppView, NoParameters,
};

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["mode", "instances"]))]
pub(in crate::cli) struct ScaleArgs {
    /// The app's name
    name: Name,
    /// How much memory and processor each process has
    #[arg(long, value_enum)]
    mode: Option<ModeWord>,
    /// Processes: at most 1, 6 and 25 by mode
    #[arg(long, value_name = "N")]
    instances: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum HostCommand {
    /// Make the app known under a further host name; let the name lead to the gateways
    Add {
        /// The app's name
        name: Name,
        /// The host name
        host: String,
    },
    /// Take a host name away: the gateways answer for it no more
    Remove {
        /// The app's name
        name: Name,
        /// The host name
        host: String,
    },
}

pub(super) async fn restart(global: &Global, client: &Client, name: &Name) -> Result<(), Failure> {
    let done = operation::carry_out(client, name, "restart", &NoParameters {}).await?;
    show::print(global, &done, |_| format!("app/{name} was started again"))
}

pub(super) async fn scale(global: &Global, client: &Client, args: &ScaleArgs) -> Result<(), Failure> {
    let asked =
        AppScaleRequest { mode: args.mode.map(|mode| mode.as_str().to_owned()), instances: args.instances };
    let app: AppView = client.put(&format!("/apps/{}/scale", args.name), &asked).await?;
    show::print(global, &app, |app| {
        let processes = if app.instances == 1 { "process" } else { "processes" };
        format!(
            "app/{} is {} with {} {processes}; {} of {} MiB in {} are spoken for",
            args.name, app.mode, app.instances, app.capacity.used_mib, app.capacity.mib, app.region
        )
    })?;
    reserve::tell_too_small(client, &args.name).await;
    Ok(())
}

pub(super) async fn log(global: &Global, client: &Client, name: &Name, lines: u32) -> Result<(), Failure> {
    let log: AppLogView = client.get(&format!("/apps/{name}/log?lines={lines}")).await?;
    show::print(global, &log, |log| match log.lines.as_slice() {
        [] => format!("app/{name} has said nothing yet"),
        lines => lines.iter().map(|line| show::printable(line)).collect::<Vec<_>>().join("\n"),
    })
}

pub(super) async fn host(global: &Global, client: &Client, command: HostCommand) -> Result<(), Failure> {
    let (name, asked) = match command {
        HostCommand::Add { name, host } => {
            (name, AppHostsChangeRequest { add: vec![host], ..AppHostsChangeRequest::default() })
        }
        HostCommand::Remove { name, host } => {
            may_go(client, &name, &host).await?;
            ask::confirm(
                global,
                &format!("Clients that know app/{name} as {host} will not find it any more."),
            )?;
            (name, AppHostsChangeRequest { remove: vec![host], ..AppHostsChangeRequest::default() })
        }
    };
    // Only the change is sent: what others change while a question stands open stays.
    let set: AppHostsRequest = client.patch(&format!("/apps/{name}/hosts"), &asked).await?;
    show::print(global, &set, |set| match set.hosts.as_slice() {
        [] => format!("app/{name} is known by its own name only"),
        hosts => format!("app/{name} is known as {}, too", hosts.join(", ")),
    })
}

/// Before anything is asked: what is not there cannot be taken away.
async fn may_go(client: &Client, name: &Name, host: &str) -> Result<(), Failure> {
    let known = client.get::<AppView>(&format!("/apps/{name}")).await?.hosts;
    let text = match known.as_slice() {
        hosts if hosts.iter().any(|one| one == host) => return Ok(()),
        [] => format!("app/{name} has no host names beside its own"),
        hosts => format!("app/{name} is not known as {host:?}; it is known as {}", hosts.join(", ")),
    };
    Err(Failure { code: REFUSED, text })
}
