//! `farshore demo`: real work, a real disaster, a report that was checked.
//!
//! Read in this order: `story` (the machine act: its steps and what each claims), `workload` (its client and the truth),
//! `realtime` (the real-time act, its clients and its publisher), `hub` (the device hub's act, its devices and its back end),
//! `app` (the app service's act, its clients and its scripts), `way` (how clients find what is active), `act` (what both have in common), `stage` (the regions),
//! `link` (the line between them), `client` (the API), `report` (what is printed).
//!
//! Must always hold: nothing is reported as verified that was not read back and compared with the client's own log.

mod act;
mod app;
pub mod client;
mod hub;
pub mod link;
mod realtime;
mod report;
mod stage;
mod story;
mod way;
pub mod workload;

use std::path::PathBuf;
use std::time::Instant;

use act::Act;
use report::{AppReport, HubReport, MachineReport, RealtimeReport, Report};
use stage::Stage;

use crate::config::StoreKind;
use crate::node::interrupted;

/// What can be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActName {
    /// A machine with two disks.
    Machine,
    /// A real-time hub with clients and a publisher.
    Realtime,
    /// A device hub with a fleet of devices.
    Hub,
    /// An app service with clients and a git remote.
    App,
}

impl ActName {
    fn steps(self) -> u64 {
        match self {
            Self::Machine => story::STEPS,
            Self::Realtime => realtime::STEPS,
            Self::Hub => hub::STEPS,
            Self::App => app::STEPS,
        }
    }
}

/// How the demo is played and what is printed.
#[derive(Debug, Clone)]
pub struct Play {
    /// Where the regions keep their state.
    pub data: PathBuf,
    /// What the control plane remembers in.
    pub store: StoreKind,
    /// What is played, in this order.
    pub acts: Vec<ActName>,
    /// Leave the regions running at the end, and print how to reach them.
    pub keep: bool,
    /// JSON instead of a table.
    pub json: bool,
}

/// Plays the demo. `Ok(true)`: every check held.
///
/// # Errors
/// When the regions could not even be started, or Ctrl-C ended the demo; the text says which. No region runs then.
pub async fn play(play: &Play) -> std::io::Result<bool> {
    let began = Instant::now();
    let steps = 1 + play.acts.iter().map(|act| act.steps()).sum::<u64>();
    let mut stage = Stage::set(&play.data, play.store, steps).await?;
    let report = tokio::select! {
        report = acts(&mut stage, play, began) => Some(report),
        () = interrupted() => None,
    };
    stage.curtain();
    let Some(report) = report else {
        stage.cluster().stop().await.map_err(std::io::Error::other)?;
        return Err(std::io::Error::other("interrupted: the regions are stopped"));
    };
    if play.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(std::io::Error::other)?);
    } else {
        print!("{}", report.table());
    }
    if play.keep {
        eprintln!("{}", stage.cluster().how_to_use());
        stage.cluster().wait_for_interrupt().await?;
    }
    stage.cluster().stop().await.map_err(std::io::Error::other)?;
    Ok(report.verified)
}

/// Plays what is to be played. The report is true in any case: a step that breaks is in it.
async fn acts(stage: &mut Stage, play: &Play, began: Instant) -> Report {
    let (store, note) = match play.store {
        StoreKind::Redb => ("redb", "control plane in oslo, the recovery region"),
        StoreKind::Etcd => ("etcd", "a control node and a member of etcd in each; mutual TLS"),
    };
    let mut report = Report { store, ..Report::default() };
    let mut act = match Act::new(stage, play.store, began) {
        Ok(act) => act,
        Err(error) => return Report { failures: vec![error.to_string()], ..report },
    };
    act.end(if act.is_etcd { "start three regions" } else { "start two regions" }, None, None, note);
    for name in &play.acts {
        let played = match name {
            ActName::Machine => {
                let found = report.machine.insert(MachineReport::default());
                story::play(&mut act, found).await
            }
            ActName::Realtime => {
                let found = report.realtime.insert(RealtimeReport::default());
                realtime::play(&mut act, found).await
            }
            ActName::Hub => {
                let found = report.hub.insert(HubReport::default());
                hub::play(&mut act, found).await
            }
            ActName::App => {
                let found = report.app.insert(AppReport::default());
                app::play(&mut act, found).await
            }
        };
        if let Err(why) = played {
            act.break_off(&why);
            break;
        }
    }
    act.close(&mut report);
    report
}
