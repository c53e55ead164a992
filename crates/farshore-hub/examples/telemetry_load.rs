//! How many events are made durable in a second, and how long each takes.
//!
//! `cargo run --release -p farshore-hub --example telemetry_load -- [IN_FLIGHT] [EVENTS] [DIR]`: so many senders, each with
//! one event in flight, send so many events of 256 bytes with identifiers. Prints events per second and the time from
//! `append` to durable. Afterwards everything is read once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use farshore_hub::names::Key;
use farshore_hub::telemetry::{Cursor, Event, Telemetry, TelemetryOptions};

const BODY_BYTES: usize = 256;
const PAGE: usize = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let in_flight: u64 = arguments.next().map_or(Ok(2000), |text| text.parse())?;
    let events: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let dir = arguments.next().map_or_else(|| std::env::temp_dir().join("telemetry-load"), PathBuf::from);
    let _ = std::fs::remove_dir_all(&dir);
    let telemetry = Telemetry::open(&dir, Region::parse("oslo")?, TelemetryOptions::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let began = Instant::now();
    let mut times = runtime.block_on(send(&telemetry, in_flight, events));
    let took = began.elapsed();
    times.sort_unstable();
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index into a short list"
        )]
        let place = ((times.len() - 1) as f64 * share) as usize;
        times[place]
    };
    let rate = events as f64 / took.as_secs_f64();
    println!(
        "{in_flight} in flight: {rate:.0}/s, p50 {:?}, p99 {:?}, worst {:?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    read(&telemetry)?;
    drop(telemetry);
    let began = Instant::now();
    drop(Telemetry::open(&dir, Region::parse("oslo")?, TelemetryOptions::default())?);
    println!("opened again in {:?}", began.elapsed());
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

async fn send(telemetry: &Telemetry, in_flight: u64, events: u64) -> Vec<Duration> {
    let left = Arc::new(AtomicU64::new(events));
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    let senders: Vec<_> = (0..in_flight)
        .map(|sender| {
            let (telemetry, left, body) = (telemetry.clone(), Arc::clone(&left), body.clone());
            tokio::spawn(async move {
                let key = Key::parse(&format!("device-{sender}")).expect("it is made of letters and digits");
                let (generation, mut times): (Arc<str>, _) = ("1".into(), Vec::new());
                while let Ok(left) =
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                {
                    let event = Event {
                        key: key.clone(),
                        generation: Arc::clone(&generation),
                        enqueued: now(),
                        system: vec![("$.mid".into(), left.to_string())],
                        properties: Vec::new(),
                        body: body.clone(),
                    };
                    let began = Instant::now();
                    telemetry.append(Epoch(1), event).await.expect("the disk takes it");
                    times.push(began.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for sender in senders {
        times.extend(sender.await.expect("a sender ends by itself"));
    }
    times
}

fn read(telemetry: &Telemetry) -> Result<(), Box<dyn std::error::Error>> {
    let (mut cursor, mut events, began) = (Cursor::default(), 0, Instant::now());
    loop {
        let page = telemetry.read(&cursor, PAGE)?;
        if page.events.is_empty() {
            break;
        }
        events += page.events.len();
        cursor = page.next;
    }
    println!("read: {:.0}/s", events as f64 / began.elapsed().as_secs_f64());
    Ok(())
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
