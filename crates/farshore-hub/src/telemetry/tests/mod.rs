//! Logs on real files.

mod copies;
mod crash;
mod disk;
mod plain;
mod resent;

use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::names::Key;

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

/// Small files, so that there are several.
fn small() -> TelemetryOptions {
    TelemetryOptions {
        segment_bytes: SEGMENT_BYTES_MIN,
        retention_bytes: 1 << 30,
        ..TelemetryOptions::default()
    }
}

fn open(dir: &TempDir, own: &str) -> Telemetry {
    Telemetry::open(dir.path(), region(own), small()).unwrap()
}

/// An event of a device at a moment; with an id unless that is empty.
fn event(device: &str, id: &str, at: u64) -> Event {
    let system = if id.is_empty() { vec![] } else { vec![("$.mid".to_owned(), id.to_owned())] };
    let properties = vec![("unit".to_owned(), None)];
    let body = Bytes::from(format!("{device} says {id} at {at} {}", "x".repeat(200)));
    Event {
        key: Key::parse(device).unwrap(),
        generation: "1".into(),
        enqueued: Moment(at),
        system,
        properties,
        body,
    }
}

/// `count` events without identity, from moment `at` on.
async fn fill(telemetry: &Telemetry, epoch: u64, count: u64, at: u64) {
    let kept: Vec<_> =
        (0..count).map(|n| telemetry.append(Epoch(epoch), event("pump", "", at + n))).collect();
    for kept in kept {
        assert!(matches!(kept.await, Ok(Kept::Stored { .. })));
    }
}

/// Everything after a cursor, page by page.
fn all(telemetry: &Telemetry, cursor: &Cursor, limit: usize) -> (Vec<Stored>, Cursor) {
    let (mut events, mut next) = (Vec::new(), cursor.clone());
    loop {
        let page = telemetry.read(&next, limit).unwrap();
        assert!(page.events.len() <= limit);
        if page.events.is_empty() && page.next == next {
            return (events, next);
        }
        events.extend(page.events);
        next = page.next;
    }
}

/// Brings the copy of `origin`'s log up to date, and returns how many duplicates were found.
async fn ship(from: &Telemetry, to: &Telemetry, origin: &str, bytes: usize) -> u64 {
    let (origin, mut duplicates) = (region(origin), 0);
    loop {
        let at = to.ends().get(&origin).copied().unwrap_or(0);
        let batch = from.raw(&origin, at, bytes).unwrap();
        if batch.next == at {
            return duplicates;
        }
        let next = batch.next;
        let extended = to.extend(batch).await.unwrap();
        assert_eq!(extended.next, next);
        duplicates += extended.duplicates;
    }
}

/// The files of a log, by name.
fn files(dir: &TempDir, origin: &str) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(dir.path().join(origin)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

const PATIENCE: Duration = Duration::from_secs(20);
