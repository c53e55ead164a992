//! A region dies, and all its devices come back at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::device::Device;
use crate::target::Place;
use crate::{Failed, at};

/// After a first attempt that failed, doubled each time, more or less by half.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// As the official SDK for Python.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// An attempt that has taken longer is given up, as by the official SDKs.
const ATTEMPT_MAX: Duration = Duration::from_secs(60);

/// A device that had a message acknowledged again.
struct Back {
    device: Device,
    after: Duration,
    attempts: u32,
}

/// Devices that are not back in time are missing from what is given back.
pub(crate) async fn kill(
    devices: Vec<Device>,
    pid: i32,
    patience: Duration,
) -> Result<(Vec<Device>, Value), Failed> {
    let pid = Pid::from_raw(pid).ok_or("a process has a number above 0")?;
    let count = devices.len();
    let mut coming = JoinSet::new();
    let died = Instant::now();
    for device in devices {
        coming.spawn(come_back(device, died));
    }
    kill_process(pid, Signal::KILL)?;
    let (mut back, mut times, mut attempts) = (Vec::with_capacity(count), Vec::new(), Vec::new());
    let _ = timeout(patience, async {
        while let Some(Ok(came)) = coming.join_next().await {
            times.push(came.after);
            attempts.push(came.attempts);
            back.push(came.device);
        }
    })
    .await;
    times.sort_unstable();
    let answer = json!({
        "devices": count, "back": back.len(), "p50_seconds": seconds(&times, 0.5), "p99_seconds": seconds(&times, 0.99),
        "last_seconds": seconds(&times, 1.0), "attempts": attempts.iter().sum::<u32>(), "attempts_max": attempts.iter().max(),
    });
    Ok((back, answer))
}

fn seconds(times: &[Duration], share: f64) -> Option<f64> {
    at(times, share).map(|millis| millis / 1000.0)
}

async fn come_back(mut device: Device, died: Instant) -> Back {
    device.gone().await;
    let (place, number, mut attempts) = (Arc::clone(&device.place), device.number, 0);
    drop(device);
    let mut pause = PAUSE_FIRST;
    loop {
        attempts += 1;
        if let Ok(Ok(device)) = timeout(ATTEMPT_MAX, attempt(&place, number)).await {
            return Back { device, after: died.elapsed(), attempts };
        }
        sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
        pause = PAUSE_MAX.min(pause * 2);
    }
}

async fn attempt(place: &Arc<Place>, number: usize) -> Result<Device, Failed> {
    let mut device = Device::open(place, number).await?;
    device.say().await?;
    Ok(device)
}
