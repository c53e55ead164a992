//! Disks that lose what was not synced, tear writes, fill up and fail, under the source and under the replica.
//!
//! The journal and the write log lie on the real file system here; their own damage is in `replica_damage.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

mod replica;

use std::path::Path;
use std::sync::Arc;

use farshore_core::ids::{Epoch, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::{PointChoice, PointKind, Watermark};
use farshore_machine::disk::Disk;
use farshore_machine::replica::{Opened, Options, Promoted, Replica, Retention, open_any};
use farshore_machine::sink::Sink;
use farshore_machine::source::{self, Source, SourceDisk};
use farshore_sim::disk::{Op, SimDisk};
use farshore_sim::oracle::{BLOCK, Oracle};
use farshore_sim::seed::{Chance, for_seeds};
use replica::{Bytes, assert_same, contents, numbered_write, source_at};

/// No multiple of anything.
const SIZES: [usize; 2] = [40 * BLOCK + 700, 25 * BLOCK + 1];
/// Writes that may be chosen: every block of both disks that is whole.
const BLOCKS: [u64; 2] = [40, 25];

fn sim_disks(seed: u64) -> Vec<SimDisk> {
    SIZES.iter().zip(0..).map(|(&size, n)| SimDisk::new(size, seed * 2 + n)).collect()
}

fn handles(disks: &[SimDisk]) -> Vec<Arc<dyn Disk>> {
    disks.iter().map(|disk| Arc::new(disk.clone()) as Arc<dyn Disk>).collect()
}

fn images(disks: &[SimDisk]) -> Bytes {
    disks.iter().map(SimDisk::bytes).collect()
}

/// The process dies; by chance the machine goes with it, and then nobody may believe what was only in a cache. What a failed
/// sync left in the cache is gone either way.
fn die(dir: &Path, disks: &[SimDisk], chance: &mut Chance) -> Death {
    if chance.one_in(2) {
        disks.iter().for_each(SimDisk::evict);
        return Death::Process;
    }
    disks.iter().for_each(SimDisk::lose_power);
    another_boot(dir);
    Death::Power
}

#[derive(Debug, PartialEq, Eq)]
enum Death {
    Process,
    Power,
}

/// Makes what lies in the directory look as if another run of the kernel had written it.
fn another_boot(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            another_boot(&path);
        } else if path.extension().is_some_and(|extension| extension == "hot") {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"another", 0).unwrap();
        } else if path.ends_with("source.json") {
            let mut facts: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            facts["boot_id"] = "another".into();
            std::fs::write(&path, facts.to_string()).unwrap();
        }
    }
}

/// A guest that writes stamped blocks to a source and repeats what failed, as a file system does.
struct Guest {
    chance: Chance,
    oracle: Oracle,
    disks: Vec<SimDisk>,
}

impl Guest {
    fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed), oracle: Oracle::new(), disks: sim_disks(seed) }
    }

    fn put(&mut self, source: &Source, disk: u16, block: u64) -> std::io::Result<()> {
        let mut bytes = self.oracle.write(disk, block);
        source.disk(usize::from(disk)).write(block * BLOCK as u64, &mut bytes)
    }

    /// One write; one in eight meets a failing disk, and one in eight a full one. Both are mended and the write repeated.
    fn write(&mut self, source: &Source) {
        let disk = u16::try_from(self.chance.below(2)).unwrap();
        let block = self.chance.below(BLOCKS[usize::from(disk)]);
        let faulty = &self.disks[usize::from(disk)];
        match self.chance.below(8) {
            0 => faulty.fail(Op::Write, 0),
            1 => faulty.limit_space(0),
            _ => {}
        }
        if self.put(source, disk, block).is_err() {
            self.disks[usize::from(disk)].mend();
            self.put(source, disk, block).unwrap();
        }
        self.disks[usize::from(disk)].mend();
    }

    fn flush(&mut self, source: &Source) {
        for disk in 0..SIZES.len() {
            source.disk(disk).flush().unwrap();
        }
        self.oracle.flush();
    }

    /// What a check of the file system does: writes anew what it is not sure of.
    fn repair(&mut self, source: &Source) {
        for (disk, blocks) in (0..).zip(BLOCKS) {
            for block in 0..blocks {
                self.put(source, disk, block).unwrap();
            }
        }
        self.flush(source);
        self.oracle.prefix(&images(&self.disks)).unwrap();
    }
}

fn open(dir: &Path, disks: &[SimDisk], epoch: u64) -> Source {
    let source = Source::open(dir, handles(disks), source::Options::default()).unwrap();
    source.serve(Token::new(1, Epoch(epoch)));
    source
}

fn create(dir: &Path, disks: &[SimDisk]) -> Source {
    let source =
        Source::create(dir, handles(disks), Watermark::default(), source::Options::default()).unwrap();
    source.serve(Token::new(1, Epoch(1)));
    source.track().unwrap();
    source
}

/// Every block that is not what an empty target has must be known to differ: it would never be sent otherwise.
fn check_known_to_differ(disk: &SourceDisk, image: &[u8]) {
    let mut at = 0;
    for (len, differs) in disk.dirty(0, disk.size(), usize::MAX).unwrap().unwrap() {
        let end = at + usize::try_from(len).unwrap();
        assert!(differs || image[at..end].iter().all(|&byte| byte == 0), "{at}..{end} would be forgotten");
        at = end;
    }
    assert_eq!(at, image.len());
}

#[test]
fn a_source_on_failing_disks_keeps_what_it_flushed_and_knows_what_differs() {
    for_seeds(8, |seed| {
        let dir = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(seed);
        let mut source = create(dir.path(), &guest.disks);
        for epoch in 2..5 {
            for _ in 0..guest.chance.below(60) {
                guest.write(&source);
                if guest.chance.one_in(6) {
                    guest.flush(&source);
                }
            }
            if guest.chance.one_in(3) {
                source.close().unwrap();
                guest.oracle.flush();
            }
            drop(source);
            if guest.chance.one_in(3) {
                guest
                    .oracle
                    .prefix(&images(&guest.disks))
                    .expect("the death of a process takes nothing back");
            } else {
                guest.disks.iter().for_each(SimDisk::lose_power);
            }
            let after = images(&guest.disks);
            guest.oracle.nothing_flushed_is_lost(&after).unwrap();
            source = open(dir.path(), &guest.disks, epoch);
            for (disk, image) in after.iter().enumerate() {
                check_known_to_differ(&source.disk(disk), image);
            }
            guest.repair(&source);
        }
    });
}

#[test]
fn after_a_failed_sync_a_source_acknowledges_nothing_until_it_is_opened_again() {
    for_seeds(10, |seed| {
        let dir = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(seed);
        let source = create(dir.path(), &guest.disks);
        guest.put(&source, 0, 1).unwrap();
        guest.flush(&source);
        guest.put(&source, 0, 2).unwrap();
        guest.disks[0].fail(Op::Sync, 0);
        let error = source.disk(0).flush().unwrap_err();
        assert!(error.to_string().contains("mend the storage"), "{error}");
        assert_eq!(source.broken(), Some(error.to_string()));
        // The disk would say yes now, and lie.
        source.disk(0).flush().unwrap_err();
        source.disk(1).flush().unwrap_err();
        source.fence().unwrap_err();
        source.disk(1).write(0, &mut vec![1; 512]).unwrap_err();
        drop(source);
        guest.disks[0].lose_power();
        guest.oracle.nothing_flushed_is_lost(&images(&guest.disks)).unwrap();
        let source = open(dir.path(), &guest.disks, 2);
        assert_eq!(source.broken(), None);
        guest.repair(&source);
    });
}

#[test]
fn a_read_that_fails_is_an_error_and_never_zeroes() {
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::new(1);
    let source = create(dir.path(), &guest.disks);
    guest.disks[0].fail(Op::Read, 0);
    assert!(source.disk(0).read(0, &mut [0; 512]).is_err());
    source.disk(0).read(0, &mut [0; 512]).unwrap();
}

fn options() -> Options {
    let keep = std::time::Duration::from_secs(5);
    let retention = Retention { keep, keep_all: keep, then_every: keep };
    Options { segment_bytes: 20_000, retention }
}

/// A replica that was seeded and then followed 60 writes, with a point after each fifth.
fn followed(dir: &Path, disks: &[SimDisk]) -> (Replica, replica::Source) {
    let replica = Replica::create(dir, handles(disks), options()).unwrap();
    let mut source = source_at(&SIZES, 20);
    replica.begin_catch_up(source.head).unwrap();
    replica.blocks(&source.all_blocks(BLOCK)).unwrap();
    replica.end_catch_up(source.head).unwrap();
    for n in 1..=60 {
        replica.append(&[numbered_write(&mut source)]).unwrap();
        if n % 5 == 0 {
            replica.point(source.head, source.head.at, PointKind::Crash, None).unwrap();
        }
    }
    replica.sync().unwrap();
    (replica, source)
}

/// Any fault that can meet one who writes to the base disks.
fn hurt(disks: &[SimDisk], chance: &mut Chance) {
    let disk = &disks[usize::try_from(chance.below(2)).unwrap()];
    match chance.below(4) {
        0 => disk.fail(Op::Write, chance.below(6)),
        1 => disk.fail(Op::Sync, 0),
        2 => disk.fail(Op::Read, chance.below(6)),
        _ => disk.limit_space(usize::try_from(chance.below(8)).unwrap()),
    }
}

#[test]
fn the_base_that_moves_forward_under_faults_keeps_every_point() {
    for_seeds(10, |seed| {
        let dir = tempfile::tempdir().unwrap();
        let disks = sim_disks(seed);
        let mut chance = Chance::new(seed);
        let (mut replica, source) = followed(dir.path(), &disks);
        for _ in 0..3 {
            hurt(&disks, &mut chance);
            let _ = replica.retain(source.head.at);
            disks.iter().for_each(SimDisk::mend);
            drop(replica);
            die(dir.path(), &disks, &mut chance);
            replica = Replica::open(dir.path(), handles(&disks), options()).unwrap();
        }
        replica.retain(source.head.at).unwrap();
        for point in replica.points() {
            let drill = replica.test_failover(&PointChoice::Id(point.id.clone())).unwrap();
            let want = source_at(&SIZES, point.watermark.seq).disks;
            assert_same(&contents(&drill.disks()), &want, &point.id);
        }
        let promoted = replica.promote(&PointChoice::Latest).unwrap();
        assert_same(&contents(&promoted.disks()), &source.disks, "promoted");
    });
}

/// Waits until folding has ended, one way or the other.
fn settle(promoted: &Promoted) {
    while !promoted.folded() && promoted.damaged().is_none() {
        std::thread::yield_now();
    }
    promoted.stop();
}

#[test]
fn folding_after_a_commit_goes_on_after_any_fault_and_ends_with_the_truth_on_the_disks() {
    for_seeds(10, |seed| {
        let dir = tempfile::tempdir().unwrap();
        let disks = sim_disks(seed);
        let mut chance = Chance::new(seed);
        let (replica, mut source) = followed(dir.path(), &disks);
        let promoted = replica.promote(&PointChoice::Latest).unwrap();
        let record = source.write(0, 5_000, 30_000, 0, 9);
        let farshore_machine::record::Op::Write(bytes) = record.op else { panic!("a write") };
        promoted.disks()[0].write_at(&bytes, record.offset).unwrap();
        promoted.disks()[0].sync().unwrap();
        hurt(&disks, &mut chance);
        let mut opened = match promoted.commit() {
            Ok(()) => Opened::Promoted(promoted),
            Err(_) => {
                disks.iter().for_each(SimDisk::mend);
                promoted.commit().unwrap();
                Opened::Promoted(promoted)
            }
        };
        for _ in 0..4 {
            let Opened::Promoted(promoted) = opened else { break };
            settle(&promoted);
            disks.iter().for_each(SimDisk::mend);
            assert_same(&contents(&promoted.disks()), &source.disks, "served while it folds");
            drop(promoted);
            die(dir.path(), &disks, &mut chance);
            opened = open_any(dir.path(), handles(&disks), options()).unwrap();
        }
        assert!(matches!(opened, Opened::Plain { .. }), "{opened:?}");
        disks.iter().for_each(SimDisk::lose_power);
        assert_same(&images(&disks), &source.disks, "folded, after a power cut");
    });
}

#[test]
fn a_target_read_that_fails_is_an_error_and_never_zeroes() {
    let dir = tempfile::tempdir().unwrap();
    let disks = sim_disks(1);
    let (replica, source) = followed(dir.path(), &disks);
    replica.retain(Moment(u64::MAX)).unwrap();
    let promoted = replica.promote(&PointChoice::Latest).unwrap();
    disks[0].fail(Op::Read, 0);
    let mut bytes = vec![0; SIZES[0]];
    assert!(promoted.disks()[0].read_at(&mut bytes, 0).is_err());
    promoted.disks()[0].read_at(&mut bytes, 0).unwrap();
    assert!(bytes == source.disks[0]);
}
