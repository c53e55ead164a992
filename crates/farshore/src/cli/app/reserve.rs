//! Capacity in another region, kept for an app until its own region is lost.

use clap::Args;
use farshore_core::ids::{Name, Region};
use serde_json::json;

use super::super::Global;
use super::super::client::Client;
use super::super::exit::{Failure, REFUSED};
use super::super::show;
use super::ModeWord;
use crate::api::views::{AppView, ItemView, ReplicationWord};

#[derive(Debug, Args)]
pub(in crate::cli) struct ReserveArgs {
    /// The reserve's name
    name: Name,
    /// Where capacity is kept
    #[arg(long)]
    region: Region,
    /// How much: that of the app or more
    #[arg(long, value_enum)]
    mode: ModeWord,
    /// Processes for which there is room [default: as many as the app has]
    #[arg(long, value_name = "N")]
    instances: Option<u32>,
    /// The app for which it is kept
    #[arg(long = "for", value_name = "APP")]
    app: Name,
}

/// What the reserve of an app is called by itself.
pub(super) fn name_for(app: &Name) -> Result<Name, Failure> {
    let name = format!("{app}-dr");
    Name::parse(&name).map_err(|why| {
        Failure::usage(format!(
            "{name:?} is no name for the reserve ({why}): create the app without --secondary, then reserve capacity under \
             another name with farshore app reserve"
        ))
    })
}

/// Makes the reserve.
pub(super) async fn make(
    client: &Client,
    name: &Name,
    region: &Region,
    mode: ModeWord,
    instances: u32,
    app: &Name,
) -> Result<(), Failure> {
    let spec = json!({"mode": mode.as_str(), "instances": instances, "database": "none", "reserve_for": app.as_str()});
    super::make(client, name, region, spec).await
}

pub(super) async fn run(global: &Global, client: &Client, args: &ReserveArgs) -> Result<(), Failure> {
    let (name, app) = (&args.name, &args.app);
    let item: ItemView = client.get(&format!("/items/app/{app}")).await?;
    if item.source == args.region.as_str() {
        let text = format!(
            "app/{app} runs in {}: a reserve in the same region would be lost with it; name another region",
            item.source
        );
        return Err(Failure { code: REFUSED, text });
    }
    let instances = match args.instances {
        Some(instances) => instances,
        None => client.get::<AppView>(&format!("/apps/{app}")).await?.instances.max(1),
    };
    make(client, name, &args.region, args.mode, instances, app).await?;
    let is_protected = item.target.is_some();
    if !is_protected {
        let made = super::protect(client, app, &args.region, ReplicationWord::default()).await;
        made.map_err(|failure| Failure {
            text: format!(
                "app/{name} keeps capacity for app/{app}, but {app} is not replicated to {}: {}",
                args.region, failure.text
            ),
            ..failure
        })?;
    }
    let reserve: AppView = client.get(&format!("/apps/{name}")).await?;
    show::print(global, &reserve, |reserve| {
        let capacity = reserve.capacity;
        let replicated = match (is_protected, item.target.as_deref()) {
            (true, Some(target)) if target != args.region.as_str() => {
                format!("app/{app} is replicated to {target}, not to {}", args.region)
            }
            _ => format!("app/{app} is replicated to {}", args.region),
        };
        format!(
            "app/{name} keeps {} capacity for {instances} processes of app/{app} in {}\n{replicated}\n\
             {} of {} MiB in {} are spoken for now",
            args.mode.as_str(),
            args.region,
            capacity.used_mib,
            capacity.mib,
            args.region
        )
    })
}
