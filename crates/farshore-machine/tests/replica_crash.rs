//! SIGKILL in the middle of appending, of serving and of folding, again and again: nothing acknowledged is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

mod replica;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use farshore_core::workload::{PointChoice, PointKind};
use farshore_machine::disk::Disk;
use farshore_machine::record::Op;
use farshore_machine::replica::{Options, Promoted, Replica};
use farshore_machine::sink::Sink;
use replica::{Bytes, FileDisk, Source, assert_same, contents, numbered_write, source_at};

const SIZES: [usize; 2] = [300_001, 90_123];
const CHILD: &str = "FARSHORE_TEST_CRASH_CHILD";

fn options() -> Options {
    Options { segment_bytes: 200_000, ..Options::default() }
}

fn disks(dir: &Path) -> Vec<Arc<dyn Disk>> {
    SIZES
        .iter()
        .enumerate()
        .map(|(n, size)| FileDisk::open(&dir.join(format!("base-{n}.raw")), *size))
        .collect()
}

/// Runs `child` in a process of its own and kills it after some `lines`; returns the last number it told.
fn run_and_kill(child: &str, dir: &Path, lines: usize) -> u64 {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args([child, "--exact", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut told = told.filter_map(|line| line.unwrap().strip_prefix("told ")?.parse::<u64>().ok());
    let waited_for = told.by_ref().nth(lines - 1).expect("the child goes on until it is killed");
    process.kill().unwrap();
    process.wait().unwrap();
    // What it told between the line that was waited for and its end counts too.
    told.last().unwrap_or(waited_for)
}

fn tell(number: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "told {number}").unwrap();
    out.flush().unwrap();
}

/// The child's directory, when this process is a child.
fn child_dir() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD).map(Into::into)
}

#[test]
fn child_appends() {
    let Some(dir) = child_dir() else { return };
    let replica = Replica::open(&dir.join("replica"), disks(&dir), options()).unwrap();
    let mut source = source_at(&SIZES, replica.resume().unwrap().durable.unwrap().seq);
    loop {
        for _ in 0..7 {
            replica.append(&[numbered_write(&mut source)]).unwrap();
        }
        replica.point(source.head, source.head.at, PointKind::Crash, None).unwrap();
        tell(replica.sync().unwrap().seq);
        replica.retain(source.head.at).unwrap();
    }
}

/// Writes numbered writes to the promoted disks, without flushes: a killed process loses no write.
#[test]
fn child_writes_promoted() {
    let Some(dir) = child_dir() else { return };
    let promoted = Promoted::open(&dir.join("replica"), disks(&dir), options()).unwrap();
    let from: u64 = std::fs::read_to_string(dir.join("from")).unwrap().parse().unwrap();
    if dir.join("commit").exists() {
        promoted.commit().unwrap();
    }
    let mut source = source_at(&SIZES, from);
    loop {
        write_next(&promoted.disks(), &mut source);
        tell(source.head.seq);
    }
}

fn write_next(disks: &[Arc<dyn Disk>], source: &mut Source) {
    let record = numbered_write(source);
    let disk = &disks[usize::from(record.disk)];
    match record.op {
        Op::Write(data) => disk.write_at(&data, record.offset).unwrap(),
        Op::Trim => disk.trim(record.offset, record.len).unwrap(),
        Op::Zero => disk.zero(record.offset, record.len, true).unwrap(),
    }
}

/// All of `seq` writes are there; the one after that may be there, in part or as a whole.
fn assert_written(got: &Bytes, seq: u64) {
    let mut source = source_at(&SIZES, seq);
    let mut want = source.disks.clone();
    let next = numbered_write(&mut source);
    let range = usize::try_from(next.offset).unwrap()..usize::try_from(next.offset + next.len).unwrap();
    let disk = usize::from(next.disk);
    want[disk][range.clone()].copy_from_slice(&got[disk][range]);
    assert_same(got, &want, "written before the kill");
}

/// Appends to a journal that may not grow beyond the limit set for this process.
#[test]
fn child_fills_the_disk() {
    let Some(dir) = child_dir() else { return };
    let base = replica::empty(&SIZES);
    let replica = Replica::create(&dir, replica::handles(&base), Options::default()).unwrap();
    replica.begin_catch_up(Default::default()).unwrap();
    replica.end_catch_up(Default::default()).unwrap();
    let mut source = Source::new(&SIZES);
    let mut point = None;
    let before = loop {
        let before = source.clone();
        if let Err(error) = replica.append(&[numbered_write(&mut source)]) {
            assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge, "{error}");
            break before;
        }
        if source.head.seq == 10 {
            replica.point(source.head, source.head.at, PointKind::Crash, None).unwrap();
            point = Some(source.disks.clone());
        }
    };
    assert_eq!(replica.sync().unwrap(), before.head, "only what was appended is acknowledged");
    let latest = replica.test_failover(&PointChoice::Latest).unwrap();
    assert_same(&contents(&latest.disks()), &before.disks, "before the disk was full");
    let earlier = replica.test_failover(&PointChoice::LatestProcessed).unwrap();
    assert_same(&contents(&earlier.disks()), &point.unwrap(), "an earlier point");
    drop((latest, earlier, replica));
    let replica = Replica::open(&dir, replica::handles(&base), Options::default()).unwrap();
    assert_eq!(replica.resume().unwrap().durable, Some(before.head));
    assert_eq!(replica.status().damaged, None);
}

#[test]
fn a_full_disk_costs_nothing_that_was_there() {
    if child_dir().is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // A limit on the size of files, its signal ignored: a write beyond it fails as on a full disk, after a part of it.
    let status = Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 400; exec \"$0\" child_fills_the_disk --exact"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, dir.path().join("replica"))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn killed_while_appending_serving_and_folding() {
    if child_dir().is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (dir, replica_dir) = (dir.path(), dir.path().join("replica"));
    let replica = Replica::create(&replica_dir, disks(dir), options()).unwrap();
    replica.begin_catch_up(Default::default()).unwrap();
    replica.end_catch_up(Default::default()).unwrap();
    drop(replica);

    for round in 1..6 {
        let acknowledged = run_and_kill("child_appends", dir, round * 11);
        let replica = Replica::open(&replica_dir, disks(dir), options()).unwrap();
        let durable = replica.resume().unwrap().durable.unwrap().seq;
        assert!(durable >= acknowledged, "{durable} is before {acknowledged}");
        let drill = replica.test_failover(&PointChoice::Latest).unwrap();
        assert_same(&contents(&drill.disks()), &source_at(&SIZES, durable).disks, "a prefix");
    }

    let replica = Replica::open(&replica_dir, disks(dir), options()).unwrap();
    let promoted = replica.promote(&PointChoice::Latest).unwrap();
    let mut seq = promoted.point().watermark.seq;
    drop((replica, promoted));
    for round in 1..7 {
        if round == 3 {
            std::fs::write(dir.join("commit"), "").unwrap();
        }
        std::fs::write(dir.join("from"), seq.to_string()).unwrap();
        seq = run_and_kill("child_writes_promoted", dir, round * 20);
        let promoted = Promoted::open(&replica_dir, disks(dir), options()).unwrap();
        assert_written(&contents(&promoted.disks()), seq);
        // The write that was cut is made whole before the next life goes on from it.
        let mut source = source_at(&SIZES, seq);
        write_next(&promoted.disks(), &mut source);
        promoted.stop();
        seq += 1;
    }
    let promoted = Promoted::open(&replica_dir, disks(dir), options()).unwrap();
    while !promoted.folded() {
        assert_eq!(promoted.damaged(), None);
        std::thread::yield_now();
    }
    promoted.stop();
    assert_same(&contents(&disks(dir)), &source_at(&SIZES, seq).disks, "folded");
}
