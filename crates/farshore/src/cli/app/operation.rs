//! Follows what takes long to its end: its lines on stderr as they come, and status 1 with the reason when it fails.

use std::time::Duration;

use farshore_core::ids::Name;
use serde::Serialize;

use super::super::client::Client;
use super::super::exit::{FAILED, Failure};
use super::super::show::printable;
use crate::api::views::{AppBegunView, AppOperationView};

/// Quick enough for a person, and seldom enough for the region.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A region that is started again is back within this.
const AWAY_MAX: u32 = 120;

/// Asks for something that takes long and waits until it is over.
pub(super) async fn carry_out(
    client: &Client,
    name: &Name,
    path: &str,
    body: &impl Serialize,
) -> Result<AppOperationView, Failure> {
    let begun: AppBegunView = client.post(&format!("/apps/{name}/{path}"), body).await?;
    follow(client, name, &begun.operation).await
}

async fn follow(client: &Client, name: &Name, id: &str) -> Result<AppOperationView, Failure> {
    let (mut told, mut away) = (0, 0);
    loop {
        let view: AppOperationView =
            match client.get(&format!("/apps/{name}/operations/{id}?after={told}")).await {
                Ok(view) => view,
                Err(failure) if away < AWAY_MAX && failure.code == FAILED => {
                    away += 1;
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                Err(failure) => {
                    let text = format!("{}; how it ended is in: farshore app show {name}", failure.text);
                    return Err(Failure::failed(text));
                }
            };
        away = 0;
        for line in &view.lines {
            eprintln!("{}", printable(line));
        }
        told += view.lines.len();
        match view.state.as_str() {
            "running" => tokio::time::sleep(LOOK_EVERY).await,
            "done" => return Ok(view),
            _ => return Err(failed(name, &view)),
        }
    }
}

fn failed(name: &Name, view: &AppOperationView) -> Failure {
    let why = view.error.as_deref().unwrap_or("no reason is known");
    // The last lines of a program stay lines.
    let why: Vec<String> = why.lines().map(printable).collect();
    Failure::failed(format!("{} of app/{name} failed: {}", view.kind, why.join("\n")))
}
