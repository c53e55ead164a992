//! A process that is killed at any moment has kept what it answered.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;

const DIR: &str = "FARSHORE_TEST_REGISTRY";
/// Concurrent changes, so that commits are grouped.
const AT_ONCE: u64 = 16;

/// Not a test by itself: the process that is killed. Says what it was answered.
#[tokio::test]
async fn child_that_changes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let registry = Registry::open(Path::new(&dir), region("oslo")).unwrap();
    let changing = (0..AT_ONCE).map(|worker| {
        let registry = registry.clone();
        tokio::spawn(async move {
            let begin =
                registry.get(&key(&format!("w{worker}"))).unwrap().map_or(0, |device| device.desired.version);
            for number in begin.. {
                let edits = move |now: Option<&Device>| {
                    let patch = json!({ "number": number });
                    let mut edits = Vec::new();
                    if now.is_none() {
                        edits.push(Edit::Create(NewDevice::with(Auth::None)));
                    }
                    edits.push(Edit::Desired { patch, replace: false });
                    Ok::<_, String>(edits)
                };
                let changed = registry.change(key(&format!("w{worker}")), edits).await.unwrap();
                let version = changed.after.unwrap().desired.version;
                // One write for a line: what is said is said whole.
                std::io::stderr().write_all(format!("{worker} {version} {number}\n").as_bytes()).unwrap();
            }
        })
    });
    for worker in changing.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
}

#[test]
fn what_was_answered_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut answered: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for round in 1..=4u64 {
        let name = "registry::tests::killed::child_that_changes_until_it_is_killed";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        for line in lines.by_ref().take(usize::try_from(round * 37).unwrap()) {
            note(&line.unwrap(), &mut answered);
        }
        child.kill().unwrap();
        // What it had said before it was killed counts too.
        lines.map_while(Result::ok).for_each(|line| note(&line, &mut answered));
        child.wait().unwrap();
        let registry = Registry::open(dir.path(), region("oslo")).unwrap();
        for (worker, (version, number)) in &answered {
            let device = registry.get(&key(&format!("w{worker}"))).unwrap().unwrap();
            assert!(device.desired.version >= *version, "{device:?}");
            assert!(device.desired.value["number"].as_u64().unwrap() >= *number, "{device:?}");
        }
        assert_eq!(registry.counts().devices, registry.page(None, 99).unwrap().len() as u64);
    }
    assert!(!answered.is_empty());
}

fn note(line: &str, answered: &mut BTreeMap<u64, (u64, u64)>) {
    let numbers: Vec<u64> = line.split(' ').filter_map(|part| part.parse().ok()).collect();
    if let [worker, version, number] = numbers[..] {
        answered.insert(worker, (version, number));
    }
}
