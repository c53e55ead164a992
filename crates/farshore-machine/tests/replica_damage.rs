//! Flipped bits and torn tails: found, or harmless, and never served.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

mod replica;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use farshore_core::workload::{PointChoice, PointKind};
use farshore_machine::disk::Disk;
use farshore_machine::replica::{Options, Replica, ReplicaError};
use farshore_machine::sink::Sink;
use proptest::prelude::*;
use replica::{Bytes, MemDisk, Source, assert_same, contents, empty, handles, numbered_write, source_at};

const SIZES: [usize; 2] = [3 * 4096 + 777, 90_001];

fn options() -> Options {
    Options { segment_bytes: 30_000, ..Options::default() }
}

/// A replica with some segments and points, everything acknowledged.
fn filled(dir: &Path) -> (Vec<MemDisk>, Source, Vec<(String, Bytes)>, Replica) {
    let base = empty(&SIZES);
    let replica = Replica::create(dir, handles(&base), options()).unwrap();
    let mut source = Source::new(&SIZES);
    let mut points = Vec::new();
    replica.begin_catch_up(source.head).unwrap();
    replica.end_catch_up(source.head).unwrap();
    for n in 0..40 {
        if n == 25 {
            // Three writes come by a catch-up.
            for _ in 0..3 {
                let _ = numbered_write(&mut source);
            }
            replica.begin_catch_up(source.head).unwrap();
            replica.blocks(&source.all_blocks(65_536)).unwrap();
            replica.end_catch_up(source.head).unwrap();
        }
        replica.append(&[numbered_write(&mut source)]).unwrap();
        if n % 5 == 4 {
            replica.point(source.head, source.head.at, PointKind::Crash, None).unwrap();
            points.push((source.head.seq.to_string(), source.disks.clone()));
        }
    }
    replica.sync().unwrap();
    (base, source, points, replica)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn journal_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(dir.join("replica.json"));
    files.sort();
    files
}

/// Everything that can be read is right; says whether something could not be read. Once in small steps, which take parts
/// of entries, and once in large ones, which take entries as a whole.
fn check_readable(disks: &[Arc<dyn Disk>], want: &Bytes, what: &str) -> bool {
    let mut refused = false;
    for (step, (disk, want)) in
        [1000, usize::MAX].into_iter().flat_map(|step| disks.iter().zip(want).map(move |pair| (step, pair)))
    {
        let mut at = 0;
        for want in want.chunks(step) {
            let mut got = vec![0; want.len()];
            match disk.read_at(&mut got, at) {
                Ok(()) => assert!(got == want, "{what}: wrong bytes were served at {at}"),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
                    refused = true;
                }
            }
            at += want.len() as u64;
        }
    }
    refused
}

/// A finished journal: its directory, disks, source and points.
type Filled = (tempfile::TempDir, Vec<MemDisk>, Source, Vec<(String, Bytes)>);

/// Made once: each case works on a copy of its own.
static GOOD: LazyLock<Filled> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let (base, source, points, replica) = filled(dir.path());
    drop(replica);
    (dir, base, source, points)
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_is_found_or_harmless(file in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>()) {
        let dir = tempfile::tempdir().unwrap();
        let (good, base, source, points) = &*GOOD;
        let bad = dir.path().join("bad");
        copy_tree(good.path(), &bad);
        let files = journal_files(&bad);
        let file = &files[file.index(files.len())];
        let mut bytes = fs::read(file).unwrap();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(file, bytes).unwrap();
        let what = format!("bit {bit} of {}", file.file_name().unwrap().display());

        let replica = match Replica::open(&bad, handles(base), options()) {
            Ok(replica) => replica,
            Err(error) => {
                prop_assert!(matches!(error, ReplicaError::Damaged { .. }), "{}: {}", what, error);
                return Ok(());
            }
        };
        let mut all_is_well = true;
        for point in replica.points() {
            let want = &points.iter().find(|(seq, _)| *seq == point.watermark.seq.to_string()).unwrap().1;
            let drill = replica.test_failover(&PointChoice::Id(point.id)).unwrap();
            all_is_well &= !check_readable(&drill.disks(), want, &what);
        }
        match replica.test_failover(&PointChoice::Latest) {
            Ok(drill) => {
                prop_assert_eq!(drill.point().watermark.seq, source.head.seq, "{}", &what);
                all_is_well &= !check_readable(&drill.disks(), &source.disks, &what);
            }
            Err(_) => all_is_well = false,
        }
        if all_is_well {
            prop_assert_eq!(replica.points().len(), points.len(), "{}: a point is missing", what);
        } else {
            prop_assert!(replica.status().damaged.is_some(), "{}: the status must tell", what);
        }
    }

    #[test]
    fn a_torn_tail_is_cut_and_nothing_acknowledged_is_lost(
        unacknowledged in 0usize..6,
        cut in any::<prop::sample::Index>(),
        garbage in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (good, base, source, _) = &*GOOD;
        let mut source = source.clone();
        let acknowledged = source.head.seq;
        copy_tree(good.path(), dir.path());
        let replica = Replica::open(dir.path(), handles(base), options()).unwrap();
        let file = journal_files(dir.path()).into_iter().rfind(|file| {
            file.extension().is_some_and(|extension| extension == "fsj")
        }).unwrap();
        let safe = fs::metadata(&file).unwrap().len();
        for _ in 0..unacknowledged {
            replica.append(&[numbered_write(&mut source)]).unwrap();
        }
        drop(replica);
        let torn: Vec<u8> = fs::read(&file).unwrap();
        let tail = torn.len() - usize::try_from(safe).unwrap();
        let keep = torn.len() - if tail == 0 { 0 } else { cut.index(tail) };
        let newest = journal_files(dir.path()).into_iter().rfind(|file| {
            file.extension().is_some_and(|extension| extension == "fsj")
        });
        prop_assume!(newest.as_ref() == Some(&file));
        fs::write(&file, [&torn[..keep], &garbage].concat()).unwrap();

        let replica = Replica::open(dir.path(), handles(base), options()).unwrap();
        prop_assert_eq!(replica.status().damaged, None);
        let durable = replica.resume().unwrap().durable.unwrap().seq;
        prop_assert!((acknowledged..=source.head.seq).contains(&durable));
        let want = source_at(&SIZES, durable);
        let drill = replica.test_failover(&PointChoice::Latest).unwrap();
        assert_same(&contents(&drill.disks()), &want.disks, "a prefix");
        let mut source = want;
        replica.append(&[numbered_write(&mut source)]).unwrap();
        replica.sync().unwrap();
        let drill = replica.test_failover(&PointChoice::Latest).unwrap();
        assert_same(&contents(&drill.disks()), &source.disks, "appended after the cut");
    }
}

#[test]
fn a_tail_that_was_acknowledged_and_is_gone_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (base, _, points, replica) = filled(dir.path());
    drop(replica);
    let files = journal_files(dir.path());
    let file = files.iter().rfind(|file| file.extension().is_some_and(|e| e == "fsj")).unwrap();
    let len = fs::metadata(file).unwrap().len();
    fs::File::options().write(true).open(file).unwrap().set_len(len - 9).unwrap();
    let replica = Replica::open(dir.path(), handles(&base), options()).unwrap();
    let told = replica.status().damaged.unwrap();
    assert!(told.contains("seg-") && told.contains("stay usable"), "{told}");
    assert!(replica.points().len() >= points.len() - 1);
    assert!(replica.append(&[]).is_err());
    assert!(replica.choose(&PointChoice::Latest).is_err());
    let newest = replica.choose(&PointChoice::LatestProcessed).unwrap();
    let promoted = replica.promote(&PointChoice::LatestProcessed).unwrap();
    let want = &points.iter().find(|(seq, _)| *seq == newest.watermark.seq.to_string()).unwrap().1;
    assert_same(&contents(&promoted.disks()), want, "before the damage");
}

#[test]
fn a_payload_that_is_read_as_a_whole_or_in_part_is_checked() {
    for len in [4096, 200_000] {
        let dir = tempfile::tempdir().unwrap();
        let base = empty(&[300_000]);
        let replica = Replica::create(dir.path(), handles(&base), Options::default()).unwrap();
        let mut source = Source::new(&[300_000]);
        replica.begin_catch_up(source.head).unwrap();
        replica.end_catch_up(source.head).unwrap();
        replica.append(&[source.write(0, 8192, len, 0, 5)]).unwrap();
        replica.sync().unwrap();
        let file = journal_files(dir.path()).into_iter().find(|file| file.extension().is_some()).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() - len / 2;
        bytes[middle] ^= 0x10;
        fs::write(&file, bytes).unwrap();
        let drill = replica.test_failover(&PointChoice::Latest).unwrap();
        let disk = &drill.disks()[0];
        let damaged_at = 8192 + len as u64 / 2;
        for (offset, size) in [(8192, len), (damaged_at - 8, 16), (0, 300_000)] {
            let error = disk.read_at(&mut vec![0; size], offset).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{len}: {error}");
        }
        assert!(replica.status().damaged.is_some());
        disk.read_at(&mut [0; 512], 0).unwrap();
        if len > 65_536 {
            let mut start = [0; 512];
            disk.read_at(&mut start, 8192).unwrap();
            assert_eq!(start, source.disks[0][8192..8704], "another chunk of the same write is good");
        }
    }
}

#[test]
fn damage_is_found_before_anybody_needs_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let base = empty(&[300_000]);
    let replica = Replica::create(dir.path(), handles(&base), Options::default()).unwrap();
    let mut source = Source::new(&[300_000]);
    replica.begin_catch_up(source.head).unwrap();
    replica.end_catch_up(source.head).unwrap();
    for number in 0..10 {
        replica.append(&[source.write(0, number * 8192, 4096, 0, 5)]).unwrap();
    }
    replica.sync().unwrap();
    for _ in 0..6 {
        replica.scrub(8192).unwrap();
    }
    assert_eq!(replica.status().damaged, None);
    let file = journal_files(dir.path()).into_iter().find(|file| file.extension().is_some()).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 100;
    bytes[last] ^= 0x10;
    fs::write(&file, bytes).unwrap();
    let found = (0..10).filter(|_| replica.scrub(8192).is_err()).count();
    assert!(found > 0, "every payload is read in turn");
    assert!(replica.status().damaged.is_some());
}
