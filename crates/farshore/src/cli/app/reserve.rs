//! Capacity in another region, kept for an app until its own region is lost.

use clap::Args;
use farshore_app::mode::Mode;
use farshore_app::reserve::scale_to_fit;
use farshore_core::ids::{Name, Region};
use serde_json::json;

use super::super::Global;
use super::super::client::Client;
use super::super::exit::{Failure, REFUSED};
use super::super::show;
use super::ModeWord;
use crate::api::views::{AppView, HealthState, ItemView, RegionView, ReplicationWord};

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

/// What can be known of a reserve before the app that it is for is made: its region is there and answers, and its name is free.
pub(super) async fn check(client: &Client, name: &Name, region: &Region) -> Result<(), Failure> {
    let place: RegionView = client.get(&format!("/regions/{region}")).await?;
    if place.health.state == HealthState::Unhealthy {
        let why = place.health.reason.unwrap_or_else(|| "it does not answer".to_owned());
        let text = format!(
            "--secondary {region}: {why}; nothing was made: name another region, or leave --secondary out and run farshore app \
             reserve when it is back"
        );
        return Err(Failure { code: REFUSED, text });
    }
    match client.get::<ItemView>(&format!("/items/app/{name}")).await {
        Ok(_) => {
            let text = format!(
                "app/{name}, which the reserve would be called, is there already, so nothing was made: create the app without \
                 --secondary, then reserve capacity under another name with farshore app reserve"
            );
            Err(Failure { code: REFUSED, text })
        }
        Err(failure) if failure.code == REFUSED => Ok(()),
        Err(failure) => Err(failure),
    }
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
    let of = client.get::<AppView>(&format!("/apps/{app}")).await;
    let mode = Mode::from(args.mode);
    let instances = match (args.instances, &of) {
        (Some(instances), _) => instances,
        (None, Ok(of)) => of.instances.clamp(1, mode.instances_max()),
        (None, Err(_)) => return of.map(|_| ()),
    };
    make(client, name, &args.region, args.mode, instances, app).await?;
    let is_protected = item.target.is_some();
    if !is_protected {
        let made = super::protect(client, app, &args.region, ReplicationWord::default()).await;
        made.map_err(|failure| {
            Failure::failed(format!(
                "app/{name} keeps capacity for app/{app}, but {app} is not replicated to {region}: {}\n\
                 to go on: farshore protect app/{app} --to {region}",
                failure.text,
                region = args.region,
            ))
        })?;
    }
    let reserve: AppView = client.get(&format!("/apps/{name}")).await?;
    show::print(global, &reserve, |reserve| {
        let processes = if instances == 1 { "process" } else { "processes" };
        let capacity = reserve.capacity;
        let replicated = match (is_protected, item.target.as_deref()) {
            (true, Some(target)) if target != args.region.as_str() => {
                format!("app/{app} is replicated to {target}, not to {}", args.region)
            }
            _ => format!("app/{app} is replicated to {}", args.region),
        };
        format!(
            "app/{name} keeps {} capacity for {instances} {processes} of app/{app} in {}\n{replicated}\n\
             {} of {} MiB in {} are spoken for now",
            args.mode.as_str(),
            args.region,
            capacity.used_mib,
            capacity.mib,
            args.region
        )
    })?;
    let warning = of.ok().and_then(|of| too_small(app, &of, name, mode, instances));
    if let Some(warning) = warning {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// Says that an app which was scaled is larger than its reserve now, or a reserve smaller than its app. Where a region does not answer
/// nothing is said here; `status` knows it later.
pub(super) async fn tell_too_small(client: &Client, scaled: &Name) {
    let shown = async |name: &str| client.get::<AppView>(&format!("/apps/{name}")).await.ok();
    let Some(one) = shown(scaled.as_str()).await else { return };
    let (app, reserve) = match (&one.reserve_for, &one.reserve) {
        (Some(app), _) => (Name::parse(app), Ok(scaled.clone())),
        (None, Some(reserve)) => (Ok(scaled.clone()), Name::parse(reserve)),
        (None, None) => return,
    };
    let (Ok(app), Ok(reserve)) = (app, reserve) else { return };
    let (Some(of), Some(kept)) = (shown(app.as_str()).await, shown(reserve.as_str()).await) else { return };
    let Ok(mode) = kept.mode.parse() else { return };
    if let Some(warning) = too_small(&app, &of, &reserve, mode, kept.instances) {
        eprintln!("warning: {warning}");
    }
}

/// That the app could not be recovered with all that it has, and how to mend it: said at once, not in the night in which it counts.
fn too_small(app: &Name, of: &AppView, reserve: &Name, mode: Mode, instances: u32) -> Option<String> {
    let needs: Mode = of.mode.parse().ok()?;
    let mend = scale_to_fit((mode, instances), (needs, of.instances))?;
    Some(format!(
        "the reserve {reserve} is {instances} x {mode}, but app/{app} is {} x {needs}: run farshore app scale {reserve} {mend}",
        of.instances
    ))
}
