//! Telemetry from every device at once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::device::Device;
use crate::{Failed, at};

/// Gives the devices back, still connected, with what was acknowledged and when.
pub(crate) async fn publish(
    devices: Vec<Device>,
    window: usize,
    bytes: usize,
    time: Duration,
) -> Result<(Vec<Device>, Value), Failed> {
    let payload = Bytes::from(vec![b'x'; bytes]);
    let began = Instant::now();
    let mut sending = JoinSet::new();
    for mut device in devices {
        let payload = payload.clone();
        sending.spawn(async move {
            let waits = device.send(window, &payload, began + time).await?;
            Ok::<_, Failed>((device, waits))
        });
    }
    let (mut devices, mut waits) = (Vec::new(), Vec::new());
    while let Some(sent) = sending.join_next().await {
        let (device, mut own) = sent??;
        devices.push(device);
        waits.append(&mut own);
    }
    let seconds = began.elapsed().as_secs_f64();
    waits.sort_unstable();
    let answer = json!({
        "acknowledged": waits.len(), "seconds": seconds, "per_second": waits.len() as f64 / seconds,
        "p50_ms": at(&waits, 0.5), "p99_ms": at(&waits, 0.99), "max_ms": at(&waits, 1.0),
    });
    Ok((devices, answer))
}
