//! Thousands of devices in one process: the load of the benchmark of device hubs.
//!
//! Obeys one JSON order a line on standard input and answers each with one line of JSON; ends when standard input closes.
//! Read in this order: this file (the orders), `target` (where devices connect, and how they prove who they are), `device` (one
//! connection), `publish` (telemetry), `storm` (a region dies).
//!
//! Must always hold: the same bytes for every server, so that a hub and a broker are measured by one ruler. Every TLS handshake
//! is a full one and the server's certificate is checked, as by a device that was switched on just now.

mod device;
mod publish;
mod storm;
mod target;

use std::error::Error;
use std::io::BufRead as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use device::Device;
use target::{Place, Target};

/// What went wrong, in words for whoever reads the benchmark.
type Failed = Box<dyn Error + Send + Sync>;

/// What can be asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Order {
    /// Opens connections in place of those there are, and waits until every device is let in.
    Connect { target: Target, devices: usize, at_once: usize },
    /// Every device keeps so many messages on their way; answers when the time is over and all are acknowledged.
    Publish { window: usize, bytes: usize, seconds: f64 },
    /// Devices connect, are let in, and leave; each time with a full handshake.
    Handshakes { target: Target, count: usize, at_once: usize },
    /// Leaves a session behind for which the server keeps what matches the filter.
    Subscribe { target: Target, number: usize, filter: String },
    /// Kills a process and waits until every device has had a message acknowledged again.
    Kill { pid: i32, seconds_max: u64 },
}

fn main() -> Result<(), Failed> {
    // One thread, so that a server has a core for itself on a machine with two.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(obey())
}

async fn obey() -> Result<(), Failed> {
    let (send, mut lines) = mpsc::channel::<String>(1);
    // A thread of its own: a blocking read must not hold up the runtime's end.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut crowd = Crowd::default();
    while let Some(line) = lines.recv().await {
        let done = match serde_json::from_str(&line) {
            Ok(order) => crowd.carry_out(order).await,
            Err(error) => Err(error.into()),
        };
        println!("{}", done.unwrap_or_else(|error| json!({"error": error.to_string()})));
    }
    Ok(())
}

/// Who is connected.
#[derive(Default)]
struct Crowd {
    devices: Vec<Device>,
}

impl Crowd {
    async fn carry_out(&mut self, order: Order) -> Result<Value, Failed> {
        match order {
            Order::Connect { target, devices, at_once } => {
                self.devices.clear();
                let place = target.resolve()?;
                let began = Instant::now();
                self.devices = gather(&place, devices, at_once).await?;
                Ok(json!({"seconds": began.elapsed().as_secs_f64()}))
            }
            Order::Publish { window, bytes, seconds } => {
                let devices = std::mem::take(&mut self.devices);
                let (devices, answer) =
                    publish::publish(devices, window, bytes, Duration::from_secs_f64(seconds)).await?;
                self.devices = devices;
                Ok(answer)
            }
            Order::Handshakes { target, count, at_once } => {
                let place = target.resolve()?;
                let began = Instant::now();
                come_and_go(&place, count, at_once).await?;
                Ok(json!({"count": count, "seconds": began.elapsed().as_secs_f64()}))
            }
            Order::Subscribe { target, number, filter } => {
                let place = target.resolve()?;
                Device::open(&place, number).await?.leave_subscription(&filter).await?;
                Ok(json!({}))
            }
            Order::Kill { pid, seconds_max } => {
                let devices = std::mem::take(&mut self.devices);
                let (devices, answer) = storm::kill(devices, pid, Duration::from_secs(seconds_max)).await?;
                self.devices = devices;
                Ok(answer)
            }
        }
    }
}

/// Connects devices 0 to `count`, so many at the same time.
async fn gather(place: &Arc<Place>, count: usize, at_once: usize) -> Result<Vec<Device>, Failed> {
    let (mut opening, mut devices) = (JoinSet::new(), Vec::with_capacity(count));
    for number in 0..count {
        if opening.len() >= at_once {
            devices.extend(opening.join_next().await.transpose()?.transpose()?);
        }
        let place = Arc::clone(place);
        opening.spawn(async move { Device::open(&place, number).await });
    }
    while let Some(opened) = opening.join_next().await {
        devices.push(opened??);
    }
    Ok(devices)
}

async fn come_and_go(place: &Arc<Place>, count: usize, at_once: usize) -> Result<(), Failed> {
    let mut coming: JoinSet<Result<(), Failed>> = JoinSet::new();
    for number in 0..count {
        if coming.len() >= at_once {
            coming.join_next().await.transpose()?.transpose()?;
        }
        let place = Arc::clone(place);
        coming.spawn(async move { Device::open(&place, number).await?.leave().await });
    }
    while let Some(came) = coming.join_next().await {
        came??;
    }
    Ok(())
}

/// `share` of the sorted `times` are not longer, in milliseconds; `None`: there are none.
fn at(times: &[Duration], share: f64) -> Option<f64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a list in memory"
    )]
    let place = (times.len().saturating_sub(1) as f64 * share) as usize;
    times.get(place).map(|time| time.as_secs_f64() * 1000.0)
}
