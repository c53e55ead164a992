//! An old source becomes a target: what it had for itself stays browsable, whatever happens to the disks underneath.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

mod replica;

use std::time::Duration;

use farshore_core::moment::Moment;
use farshore_core::workload::{Loss, PointChoice, PointKind, Watermark};
use farshore_machine::record::{Op, Range};
use farshore_machine::replica::{
    DivergenceInfo, Opened, Options, Promoted, Replica, ReplicaError, Retention, open_any,
};
use farshore_machine::sink::Sink;
use replica::{Bytes, MemDisk, Source, assert_same, contents, empty, handles, numbered_write, source_at};

const SIZES: [usize; 2] = [200_001, 90_123];

fn options() -> Options {
    let retention = Retention {
        keep: Duration::from_secs(3),
        keep_all: Duration::from_secs(3),
        then_every: Duration::from_secs(1),
    };
    Options { segment_bytes: 30_000, retention }
}

fn range(disk: u16, offset: u64, len: u64) -> Range {
    Range { disk, offset, len }
}

/// Disks with the history up to write 20, and two writes that nobody else has.
fn diverged() -> (Vec<MemDisk>, Source, Vec<Range>) {
    let source = source_at(&SIZES, 20);
    let mut own = source.disks.clone();
    own[0][5000..12_000].fill(0xaa);
    own[1][80_000..90_123].fill(0xbb);
    let disks = own.into_iter().map(MemDisk::new).collect();
    (disks, source, vec![range(0, 4096, 8192), range(1, 77_824, 12_299)])
}

fn info(after: Watermark) -> DivergenceInfo {
    DivergenceInfo { after, loss: Loss { writes: 2, bytes: 17_123, seconds: 1.5 }, exact: true }
}

/// Sends what the ranges cover, then writes and points until some points have expired.
fn catch_up_and_go_on(replica: &Replica, source: &mut Source) {
    replica.begin_catch_up(source.head).unwrap();
    for range in replica.resume().unwrap().diverged {
        let (offset, len) = (usize::try_from(range.offset).unwrap(), usize::try_from(range.len).unwrap());
        replica.blocks(&[source.block(usize::from(range.disk), offset, len)]).unwrap();
    }
    replica.end_catch_up(source.head).unwrap();
    for _ in 0..30 {
        replica.append(&[numbered_write(source)]).unwrap();
        replica.point(source.head, source.head.at, PointKind::Crash, None).unwrap();
    }
    replica.sync().unwrap();
    replica.retain(Moment(u64::MAX)).unwrap();
}

#[test]
fn a_divergence_stays_exact_while_the_disks_move_on() {
    let dir = tempfile::tempdir().unwrap();
    let (base, mut source, own) = diverged();
    let kept: Bytes = base.iter().map(MemDisk::bytes).collect();
    let divergence = Some(info(source.head));
    let replica =
        Replica::adopt(dir.path(), handles(&base), options(), source.head, own.clone(), divergence).unwrap();
    let resume = replica.resume().unwrap();
    assert_eq!((resume.durable, resume.diverged, resume.catching_up), (Some(source.head), own, false));
    assert!(matches!(replica.promote(&PointChoice::Latest), Err(ReplicaError::NoSuchPoint { .. })));
    catch_up_and_go_on(&replica, &mut source);
    assert!(replica.resume().unwrap().diverged.is_empty());
    let folded: Bytes = base.iter().map(MemDisk::bytes).collect();
    assert_ne!(folded, kept, "points have expired and the disks have moved on");
    assert_same(&contents(&replica.divergence_disks()), &kept, "after folding");
    assert_eq!(
        replica.divergence_disks()[0].write_at(&[1], 0).unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    drop(replica);

    let replica = Replica::open(dir.path(), handles(&base), options()).unwrap();
    assert_eq!(replica.divergence(), divergence);
    assert_same(&contents(&replica.divergence_disks()), &kept, "after a restart");
    let promoted = replica.promote(&PointChoice::Latest).unwrap();
    assert_same(&contents(&promoted.disks()), &source.disks, "promoted");
    promoted.commit().unwrap();
    for disk in promoted.disks() {
        disk.write_at(&[0x77; 70_000], 1234).unwrap();
    }
    wait_folded(&promoted);
    assert_same(&contents(&promoted.divergence_disks()), &kept, "after the commit");

    let Opened::Promoted(promoted) = open_any(dir.path(), handles(&base), options()).unwrap() else {
        panic!("a divergence is still kept");
    };
    assert!(promoted.folded());
    assert_eq!(promoted.damaged(), None, "what is folded needs no journal");
    assert_same(&contents(&promoted.divergence_disks()), &kept, "folded and opened again");
    promoted.drop_divergence().unwrap();
    assert!(promoted.divergence_disks().is_empty());
    assert!(!dir.path().join("diverged").exists());
    let opened = open_any(dir.path(), handles(&base), options()).unwrap();
    assert!(matches!(opened, Opened::Plain { .. }), "{opened:?}");
}

fn wait_folded(promoted: &Promoted) {
    while !promoted.folded() {
        assert_eq!(promoted.damaged(), None);
        std::thread::yield_now();
    }
    promoted.stop();
}

#[test]
fn an_interrupted_catch_up_keeps_the_ranges() {
    let dir = tempfile::tempdir().unwrap();
    let (base, mut source, own) = diverged();
    let replica =
        Replica::adopt(dir.path(), handles(&base), options(), source.head, own.clone(), None).unwrap();
    replica.begin_catch_up(source.head).unwrap();
    replica.blocks(&[source.block(0, 4096, 8192)]).unwrap();
    replica.sync().unwrap();
    drop(replica);
    let replica = Replica::open(dir.path(), handles(&base), options()).unwrap();
    let resume = replica.resume().unwrap();
    assert_eq!((resume.diverged, resume.catching_up), (own, true));
    catch_up_and_go_on(&replica, &mut source);
    let drill = replica.test_failover(&PointChoice::Latest).unwrap();
    assert_same(&contents(&drill.disks()), &source.disks, "on the source's history again");
}

#[test]
fn a_clean_old_source_streams_on_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = source_at(&SIZES, 20);
    let base: Vec<MemDisk> = source.disks.iter().cloned().map(MemDisk::new).collect();
    let replica =
        Replica::adopt(dir.path(), handles(&base), options(), source.head, Vec::new(), None).unwrap();
    let drill = replica.test_failover(&PointChoice::Latest).unwrap();
    assert_same(&contents(&drill.disks()), &source.disks, "as it was left");
    drop(drill);
    let old = source.head;
    replica.append(&[numbered_write(&mut source)]).unwrap();
    assert_eq!(replica.status().durable, old, "not synced yet");
    assert_eq!(replica.sync().unwrap(), source.head);
}

#[test]
fn a_seed_empties_the_disks_once_and_goes_on_after_a_cut() {
    let dir = tempfile::tempdir().unwrap();
    let base: Vec<MemDisk> = SIZES.iter().map(|&size| MemDisk::new(vec![0x99; size])).collect();
    let replica = Replica::create(dir.path(), handles(&base), options()).unwrap();
    let mut source = source_at(&SIZES, 30);
    assert!(replica.append(&[numbered_write(&mut source.clone())]).is_err(), "a seed must begin first");
    assert!(!replica.resume().unwrap().catching_up);
    replica.begin_catch_up(source.head).unwrap();
    // A seed need not send what is zero.
    let mut blocks = source.all_blocks(4096);
    blocks.retain(|block| matches!(block.op, Op::Write(_)));
    let (first, rest) = blocks.split_at(blocks.len() / 2);
    let (second, third) = rest.split_at(rest.len() / 2);
    replica.blocks(first).unwrap();
    // The source's outbox was full: the seed is begun again, wider, in the same session.
    replica.begin_catch_up(source.head).unwrap();
    replica.blocks(second).unwrap();
    replica.sync().unwrap();
    drop(replica);
    let replica = Replica::open(dir.path(), handles(&base), options()).unwrap();
    let resume = replica.resume().unwrap();
    assert_eq!((resume.durable, resume.catching_up), (None, true));
    assert!(replica.choose(&PointChoice::Latest).is_err());
    replica.begin_catch_up(source.head).unwrap();
    replica.blocks(third).unwrap();
    replica.append(&[numbered_write(&mut source)]).unwrap();
    replica.end_catch_up(source.head).unwrap();
    replica.sync().unwrap();
    let drill = replica.test_failover(&PointChoice::Latest).unwrap();
    assert_same(&contents(&drill.disks()), &source.disks, "all parts of the seed");
}

#[test]
fn a_catch_up_that_is_widened_keeps_what_came_before() {
    let dir = tempfile::tempdir().unwrap();
    let base = empty(&SIZES);
    let replica = Replica::create(dir.path(), handles(&base), options()).unwrap();
    let mut source = Source::new(&SIZES);
    replica.begin_catch_up(source.head).unwrap();
    replica.end_catch_up(source.head).unwrap();
    let before = replica.sync().unwrap();
    source = source_at(&SIZES, 10);
    replica.begin_catch_up(source.head).unwrap();
    let blocks = source.all_blocks(4096);
    let (first, rest) = blocks.split_at(blocks.len() / 2);
    replica.blocks(first).unwrap();
    let lost = source.write(0, 0, 100, 0, 9);
    replica.begin_catch_up(source.head).unwrap();
    let again = source.block(usize::from(lost.disk), 0, 4096);
    replica.blocks(&[again]).unwrap();
    replica.blocks(rest).unwrap();
    assert_eq!(replica.choose(&PointChoice::Latest).unwrap().watermark, before, "the last whole moment");
    replica.append(&[numbered_write(&mut source)]).unwrap();
    replica.end_catch_up(source.head).unwrap();
    assert_eq!(replica.sync().unwrap(), source.head);
    let drill = replica.test_failover(&PointChoice::Latest).unwrap();
    assert_same(&contents(&drill.disks()), &source.disks, "everything");
}

#[test]
fn what_was_received_past_the_point_is_told_before_and_after_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = Source::new(&SIZES);
    let base = empty(&SIZES);
    let replica = Replica::create(dir.path(), handles(&base), options()).unwrap();
    replica.begin_catch_up(source.head).unwrap();
    replica.end_catch_up(source.head).unwrap();
    replica.append(&[source.write(0, 100, 5000, 0, 1)]).unwrap();
    replica.point(source.head, source.head.at, PointKind::Named, Some("Before it")).unwrap();
    let late = [
        source.write(0, 8192, 10, 0, 2),
        source.write(0, 12_287, 2, 1, 2),
        source.write(1, 90_100, 23, 0, 2),
    ];
    replica.append(&late).unwrap();
    replica.source_alive(Watermark { seq: 99, ..source.head }, Moment(77));
    let promoted = replica.promote(&PointChoice::Id("Before it".to_owned())).unwrap();
    assert!(promoted.point().id.ends_with("-1-before-it"), "{}", promoted.point().id);
    let want = vec![range(0, 8192, 8192), range(1, 86_016, 90_123 - 86_016)];
    assert_eq!(promoted.received_after_point().unwrap(), want);
    assert_eq!(promoted.source_last_known().0.seq, 99);
    promoted.commit().unwrap();
    wait_folded(&promoted);
    match open_any(dir.path(), handles(&base), options()).unwrap() {
        Opened::Plain { received_after_point, point } => {
            assert_eq!(received_after_point, want);
            assert_eq!(point.name.as_deref(), Some("Before it"));
        }
        other => panic!("{other:?}"),
    }
    let wrong = open_any(dir.path(), handles(&empty(&[5])), options());
    assert!(wrong.is_ok(), "a plain directory no longer cares for its disks");
}

#[test]
fn many_threads_write_while_it_folds() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = source_at(&SIZES, 0);
    let base = empty(&SIZES);
    let replica = Replica::create(dir.path(), handles(&base), options()).unwrap();
    replica.begin_catch_up(source.head).unwrap();
    replica.end_catch_up(source.head).unwrap();
    for _ in 0..100 {
        replica.append(&[numbered_write(&mut source)]).unwrap();
    }
    let promoted = replica.promote(&PointChoice::Latest).unwrap();
    let disks = promoted.disks();
    let writer = |thread: usize| {
        // Each thread owns every eighth run of 300 bytes: neighbours share blocks, never bytes.
        let mut written = Vec::new();
        for (disk, handle) in disks.iter().enumerate() {
            for offset in (thread * 300..SIZES[disk] - 300).step_by(8 * 300) {
                if offset % 7 < 5 {
                    let byte = u8::try_from(offset % 250).unwrap();
                    handle.write_at(&[byte; 300], offset as u64).unwrap();
                    written.push((disk, offset, byte));
                }
            }
        }
        written
    };
    let written: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn({
                    let writer = &writer;
                    move || writer(thread)
                })
            })
            .collect();
        promoted.commit().unwrap();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for (disk, offset, byte) in written {
        source.disks[disk][offset..offset + 300].fill(byte);
    }
    wait_folded(&promoted);
    assert_same(&contents(&promoted.disks()), &source.disks, "folded under writers");
    let base = base.iter().map(MemDisk::bytes).collect();
    assert_same(&base, &source.disks, "the disks alone");
}
