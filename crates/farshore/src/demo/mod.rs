//! `farshore demo`: real work, a real disaster, a report that was checked.
//!
//! Read in this order: `story` (the steps and what each claims), `workload` (the client and the truth), `stage` (the regions),
//! `link` (the line between them),
//! `client` (the API), `report` (what is printed).
//!
//! Must always hold: nothing is reported as verified that was not read back and compared with the client's own log.

pub mod client;
mod link;
mod report;
mod stage;
mod story;
pub mod workload;

use std::path::PathBuf;

use stage::Stage;

use crate::config::StoreKind;
use crate::node::interrupted;

/// How the demo is played and what is printed.
#[derive(Debug, Clone)]
pub struct Play {
    /// Where the regions keep their state.
    pub data: PathBuf,
    /// What the control plane remembers in.
    pub store: StoreKind,
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
    let began = std::time::Instant::now();
    let mut stage = Stage::set(&play.data, play.store).await?;
    let report = tokio::select! {
        report = story::play(&mut stage, play.store, began) => Some(report),
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
