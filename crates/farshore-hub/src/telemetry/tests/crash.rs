//! Processes that are killed at any moment, and disks that are full: what was acknowledged is there.
//!
//! The processes are this test binary again, running one of the ignored tests below.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;

/// Names the directory that an ignored test works in; without it there is nothing to do.
const DIR: &str = "FARSHORE_TEST_TELEMETRY";

/// Each kills one process. The moments differ by what was acknowledged before, and by the machine's mood.
const ROUNDS: u64 = 25;

fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("telemetry::tests::crash::{test}"), "--exact", "--ignored", "--nocapture"]);
    command
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<String, u64> = HashMap::new();
    let mut end = 0;
    for round in 0..ROUNDS {
        let mut child =
            child("appends_until_killed").env(DIR, dir.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // 1, 8, 27, …: some die in their first batch, some after several files.
        let enough = usize::try_from((round % 10 + 1).pow(3)).unwrap();
        let before = acknowledged.len();
        let mut is_killed = false;
        while let Some(Ok(line)) = lines.next() {
            let Some((offset, id)) = line.strip_prefix("kept ").and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            acknowledged.insert(id.to_owned(), offset.parse().unwrap());
            if acknowledged.len() - before >= enough && !is_killed {
                child.kill().unwrap();
                is_killed = true;
            }
        }
        child.wait().unwrap();
        assert!(is_killed, "it ended by itself");
        let telemetry = open(&dir, "oslo");
        let (events, next) = all(&telemetry, &Cursor::default(), 1000);
        assert_eq!(telemetry.stats().damaged, Vec::<String>::new());
        let offsets: Vec<_> = events.iter().map(|stored| stored.offset).collect();
        assert_eq!(offsets, (0..events.len() as u64).collect::<Vec<_>>(), "no gap, nothing twice");
        let stored: HashMap<_, _> =
            events.iter().map(|stored| (stored.event.system("$.mid").unwrap(), stored.offset)).collect();
        assert_eq!(stored.len(), events.len(), "every id once");
        for (id, offset) in &acknowledged {
            assert_eq!(stored.get(id.as_str()), Some(offset), "{id} was acknowledged before round {round}");
        }
        assert!(next.next(&region("oslo")) > end);
        end = next.next(&region("oslo"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is run by another test, and killed by it"]
async fn appends_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let telemetry = Telemetry::open(dir.as_ref(), region("oslo"), small()).unwrap();
    let run = telemetry.ends()[&region("oslo")];
    let senders: Vec<_> = (0..16)
        .map(|sender| {
            let telemetry = telemetry.clone();
            tokio::spawn(async move {
                // Each sends everything twice, as devices do, and has two in flight.
                for n in 0..100_000 {
                    let id = format!("{run}-{sender}-{n}");
                    let first = telemetry.append(Epoch(1), event("pump", &id, n));
                    let second = telemetry.append(Epoch(1), event("pump", &id, n));
                    let Kept::Stored { offset } = first.await.unwrap() else { panic!("it is new") };
                    assert_eq!(second.await.unwrap(), Kept::Duplicate);
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "kept {offset} {id}").and_then(|()| out.flush()).unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
}

#[test]
fn a_full_disk_is_told_and_appends_go_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let as_root = Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    let own_mounts = if as_root { "-m" } else { "-rm" };
    let inside = child("fills_a_small_disk");
    let status = Command::new("unshare")
        .args([own_mounts, "sh", "-ec", r#"mount -t tmpfs -o size=1m none "$0"; exec "$@""#])
        .arg(dir.path())
        .arg(inside.get_program())
        .args(inside.get_args())
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&status.stderr);
    assert!(status.status.success(), "needs root or user namespaces, and a mount of tmpfs: {told}");
    assert!(String::from_utf8_lossy(&status.stdout).contains("went on with room"), "{status:?}");
}

#[tokio::test]
#[ignore = "is run by another test, on a small disk"]
async fn fills_a_small_disk() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir).to_owned();
    std::fs::write(dir.join("ballast"), vec![1; 300_000]).unwrap();
    let log = dir.join("log");
    let telemetry = Telemetry::open(&log, region("oslo"), small()).unwrap();
    let mut kept = Vec::new();
    let refused = loop {
        let id = format!("n{}", kept.len());
        match telemetry.append(Epoch(1), event("pump", &id, 1)).await {
            Ok(Kept::Stored { offset }) => kept.push((offset, id)),
            Ok(Kept::Duplicate) => panic!("{id} was not sent before"),
            Err(error) => break error,
        }
    };
    assert!(refused.is_full() && refused.to_string().contains(".log"), "{refused}");
    assert!(kept.len() > 1000, "only {} went on the disk", kept.len());
    let many: Vec<_> =
        (0..50).map(|n| telemetry.append(Epoch(1), event("pump", &format!("m{n}"), 1))).collect();
    for append in many {
        assert!(append.await.is_err());
    }
    let stats = telemetry.stats();
    assert!(stats.failing.is_some() && stats.refused == 51, "{stats:?}");
    assert_eq!(all(&telemetry, &Cursor::default(), 100).0.len(), kept.len(), "it can still be read");
    std::fs::remove_file(dir.join("ballast")).unwrap();
    for n in 0..50 {
        let id = format!("m{n}");
        let stored = telemetry.append(Epoch(1), event("pump", &id, 2)).await.unwrap();
        let Kept::Stored { offset } = stored else { panic!("{id} was refused before") };
        kept.push((offset, id));
    }
    assert_eq!(telemetry.stats().failing, None);
    let origin = region("paris");
    let copy = RawBatch { origin: origin.clone(), ..telemetry.raw(&region("oslo"), 0, usize::MAX).unwrap() };
    // The same frames under another name: a copy that does not fit.
    let refused = telemetry.extend(copy.clone()).await.unwrap_err();
    assert!(matches!(refused, TelemetryError::Disk { .. }), "{refused}");
    let part = telemetry.ends()[&origin];
    assert!(part < copy.next, "{part}");
    assert_eq!(telemetry.raw(&origin, 0, usize::MAX).unwrap().next, part, "a first part of it is there");
    drop(telemetry);
    let telemetry = Telemetry::open(&log, region("oslo"), small()).unwrap();
    let (events, _) = all(&telemetry, &Cursor::default(), 100);
    let read: Vec<_> = events
        .iter()
        .map(|stored| (stored.offset, stored.event.system("$.mid").unwrap().to_owned()))
        .collect();
    assert_eq!(read, kept);
    println!("went on with room");
}
