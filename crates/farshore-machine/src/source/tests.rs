//! The source against a target in memory, over real sockets.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farshore_core::ids::{Epoch, Region, Token};
use farshore_core::workload::{PointKind, ReplicationMode, ReplicationState, Watermark};

use super::log::{self, Did};
use super::model::{MemDisk, ModelSink, ModelSinks};
use super::shared::locked;
use super::{Link, Options, Source};
use crate::disk::Disk;
use crate::record::Range;
use crate::wire::receiver::Receiver;

const SIZES: [usize; 2] = [600_001, 77_777];
const TOKEN: Token = Token { incarnation: 1, epoch: Epoch(4) };

/// Waits for something that another thread brings about; long, because the machine may be busy.
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came: {what}");
        std::thread::yield_now();
    }
}

struct World {
    dir: tempfile::TempDir,
    disks: [Arc<MemDisk>; 2],
    sink: Arc<ModelSink>,
    sinks: Arc<ModelSinks>,
    receiver: Option<Receiver>,
    address: String,
    options: Options,
    /// Payloads by their checksum: what the log's entries stand for.
    payloads: Mutex<HashMap<u32, Vec<u8>>>,
    /// What was on the disks when numbering began.
    initial: [Vec<u8>; 2],
}

impl World {
    fn new() -> Self {
        let sink = ModelSink::new(&SIZES);
        let sinks = Arc::new(ModelSinks { sink: Arc::clone(&sink), highest: Mutex::new(TOKEN) });
        let options = Options {
            point_every: Duration::from_millis(20),
            retry_after: Duration::from_millis(1),
            ..Options::default()
        };
        let mut world = Self {
            dir: tempfile::tempdir().unwrap(),
            disks: SIZES.map(MemDisk::new),
            sink,
            sinks,
            receiver: None,
            address: String::new(),
            options,
            payloads: Mutex::default(),
            initial: SIZES.map(|size| vec![0; size]),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        world.address = listener.local_addr().unwrap().to_string();
        world.receiver = Some(Receiver::start(listener, Arc::clone(&world.sinks) as _, None).unwrap());
        world
    }

    fn stop_receiver(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            receiver.stop();
        }
        self.sink.crash();
    }

    fn start_receiver(&mut self) {
        let listener = TcpListener::bind(&self.address).unwrap();
        self.receiver = Some(Receiver::start(listener, Arc::clone(&self.sinks) as _, None).unwrap());
    }

    fn dyn_disks(&self) -> Vec<Arc<dyn Disk>> {
        self.disks.iter().map(|disk| Arc::clone(disk) as Arc<dyn Disk>).collect()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn create(&self) -> Source {
        let source =
            Source::create(self.path(), self.dyn_disks(), Watermark::default(), self.options.clone())
                .unwrap();
        source.serve(TOKEN);
        source
    }

    fn open(&self) -> Source {
        let source = Source::open(self.path(), self.dyn_disks(), self.options.clone()).unwrap();
        source.serve(TOKEN);
        source
    }

    fn link(&self) -> Link {
        Link {
            target: Region::parse("oslo").unwrap(),
            address: self.address.clone(),
            item: "machine/web-1".into(),
            token: TOKEN,
            mode: ReplicationMode::Async,
            secret: "secret".into(),
            full: true,
        }
    }

    fn write(&self, source: &Source, disk: usize, offset: u64, data: &[u8]) {
        locked(&self.payloads).insert(crc32c::crc32c(data), data.to_vec());
        source.disk(disk).write(offset, &mut data.to_vec()).unwrap();
    }

    fn expect_same(&self) {
        let held = self.sink.durable();
        for (disk, copy) in self.disks.iter().zip(&held.disks) {
            assert!(disk.content() == *copy, "the target differs");
        }
    }

    /// Applies the log up to each point and compares.
    fn expect_points_are_prefixes(&self, source: &Source) -> usize {
        let segments = source.segments();
        let mut points = self.sink.durable().points;
        points.sort_by_key(|(at, ..)| at.seq);
        let count = points.len();
        let mut model = self.initial.to_vec();
        let mut points = points.into_iter().peekable();
        let payloads = locked(&self.payloads);
        let mut check = |upto: u64, model: &[Vec<u8>]| {
            while let Some((at, ..)) = points.peek()
                && at.seq < upto
            {
                let (at, _, content) = points.next().unwrap();
                assert!(content == model, "the point at {} is no prefix", at.seq);
            }
        };
        log::scan(&segments, 0, |entry| {
            check(entry.mark.seq, &model);
            let Range { disk, offset, len } = entry.range;
            let bytes = &mut model[usize::from(disk)][offset as usize..(offset + len) as usize];
            match entry.did {
                Did::Write(crc) => bytes.copy_from_slice(&payloads[&crc]),
                Did::Trim | Did::Zero => bytes.fill(0),
                Did::Void => {}
            }
        })
        .unwrap();
        check(u64::MAX, &model);
        count
    }
}

fn streaming(source: &Source) -> bool {
    source.replication().is_some_and(|replication| replication.state == ReplicationState::Streaming)
}

#[test]
fn writes_reach_the_target_by_catch_up_and_by_stream() {
    let world = World::new();
    let source = world.create();
    world.write(&source, 0, 5, b"before protection");
    source.replicate(world.link()).unwrap();
    source.replicate(world.link()).unwrap();
    eventually("streaming", || streaming(&source));
    world.write(&source, 1, 70_000, &[7; 7_777]);
    source.disk(0).trim(0, 10).unwrap();
    source.disk(0).zero(12, 3, true).unwrap();
    eventually("the target has all", || source.drained());
    world.expect_same();
    assert_eq!(source.watermark().seq, 3);
    let replication = source.replication().unwrap();
    assert_eq!((replication.total_bytes, replication.differed_bytes), (4096, 4096));
    assert_eq!((replication.behind_bytes, replication.lag.writes, replication.note), (0, 0, None));
}

#[test]
fn a_stale_token_is_refused_and_fences_the_source() {
    let world = World::new();
    *locked(&world.sinks.highest) = Token { incarnation: 1, epoch: Epoch(5) };
    let source = world.create();
    source.replicate(world.link()).unwrap();
    eventually("superseded", || source.superseded() == Some(Token::new(1, Epoch(5))));
    eventually("read-only", || source.disk(0).read_only());
    let error = source.disk(0).write(0, &mut vec![1]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::SHUTDOWN.raw_os_error()));
    assert!(source.replication().unwrap().note.unwrap().contains("lower"));
}

#[test]
fn a_wrong_secret_or_shape_is_refused_with_its_reason() {
    let world = World::new();
    let source = world.create();
    source.replicate(Link { secret: "guess".into(), ..world.link() }).unwrap();
    let note = || source.replication().and_then(|replication| replication.note).unwrap_or_default();
    eventually("refused", || note().contains("wrong secret"));
    source.replicate(world.link()).unwrap();
    eventually("streaming", || streaming(&source));
}

#[test]
fn after_a_fence_nothing_is_acknowledged_and_everything_arrives() {
    let world = World::new();
    let source = world.create();
    source.replicate(world.link()).unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3usize)
            .map(|thread| {
                let (source, world) = (&source, &world);
                scope.spawn(move || {
                    let disk = source.disk(thread % 2);
                    let mut count = 0u64;
                    while disk.write(count % 70_000, &mut vec![thread as u8; 100]).is_ok() {
                        count += 1;
                    }
                    let _ = world;
                    count
                })
            })
            .collect();
        eventually("some writes", || source.watermark().seq > 500);
        let last = source.fence().unwrap();
        let acknowledged: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        assert_eq!(last, source.watermark());
        assert_eq!((last.seq, last.bytes), (acknowledged, acknowledged * 100));
    });
    eventually("drained", || source.drained());
    world.expect_same();
    assert!(source.disk(0).flush().is_err());
}

#[test]
fn a_sync_flush_waits_for_the_target() {
    let world = World::new();
    let source = world.create();
    source.replicate(Link { mode: ReplicationMode::Sync, ..world.link() }).unwrap();
    eventually("streaming", || streaming(&source));
    world.sink.hold_syncs.store(true, Ordering::SeqCst);
    world.write(&source, 0, 0, b"precious");
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| source.disk(0).flush());
        eventually("the target took it in", || locked(&world.sink.volatile).at.is_some_and(|at| at.seq == 1));
        assert!(!flush.is_finished());
        world.sink.hold_syncs.store(false, Ordering::SeqCst);
        world.write(&source, 0, 100, b"more");
        flush.join().unwrap().unwrap();
        assert!(world.sink.durable().at.unwrap().seq >= 1);
    });
}

#[test]
fn a_held_sync_flush_ends_with_an_error_at_the_fence() {
    let mut world = World::new();
    let source = world.create();
    source.replicate(Link { mode: ReplicationMode::Sync, ..world.link() }).unwrap();
    eventually("streaming", || streaming(&source));
    world.stop_receiver();
    world.write(&source, 0, 0, b"precious");
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| source.disk(0).flush());
        source.fence().unwrap();
        assert!(flush.join().unwrap().is_err());
    });
}

#[test]
fn named_points_are_at_the_target_when_the_call_returns() {
    let world = World::new();
    let source = world.create();
    assert!(source.mark_point(PointKind::Named, Some("early".into())).is_err());
    source.replicate(world.link()).unwrap();
    eventually("streaming", || streaming(&source));
    world.write(&source, 0, 0, b"payroll");
    let at = source.mark_point(PointKind::Named, Some("payday".into())).unwrap();
    let points = world.sink.durable().points;
    assert!(points.iter().any(|(mark, name, _)| *mark == at && name.as_deref() == Some("payday")));
    assert_eq!(at.seq, 1);
    world.expect_points_are_prefixes(&source);
}

#[test]
fn a_failed_write_is_an_error_and_its_range_is_looked_at() {
    let world = World::new();
    let source = world.create();
    source.replicate(world.link()).unwrap();
    eventually("streaming", || streaming(&source));
    world.write(&source, 0, 0, b"good");
    world.disks[0].failing.store(true, Ordering::SeqCst);
    assert!(source.disk(0).write(9000, &mut vec![1; 10]).is_err());
    world.disks[0].failing.store(false, Ordering::SeqCst);
    world.write(&source, 0, 20_000, b"good again");
    eventually("drained", || source.drained());
    world.expect_same();
    let (loss, exact, _) = source.lost_after(Watermark::default()).unwrap();
    assert_eq!((loss.writes, loss.bytes, exact), (2, 14, true));
}

#[test]
fn a_failed_sync_is_for_ever() {
    let world = World::new();
    let source = world.create();
    source.disk(0).write(0, &mut vec![1]).unwrap();
    world.disks[0].sync_failing.store(true, Ordering::SeqCst);
    assert!(source.disk(0).flush().is_err());
    world.disks[0].sync_failing.store(false, Ordering::SeqCst);
    for error in [source.disk(0).flush(), source.disk(1).flush(), source.disk(0).write(0, &mut vec![1])] {
        assert!(error.unwrap_err().to_string().contains("syncing disk 0 failed"));
    }
    assert!(source.broken().is_some());
}

/// Bytes that no other write has: the checksum names the write.
fn stamped(stamp: u64, len: usize) -> Vec<u8> {
    let mut state = stamp.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Writes, trims and zeroes at places that overlap those of the other threads. Returns the next stamp.
fn churn(world: &World, source: &Source, thread: u64, count: u64) {
    for step in 0..count {
        let stamp = (thread << 40) | (source.watermark().seq << 16) | step;
        let random = u64::from_le_bytes(stamped(stamp ^ 0x55, 8).try_into().unwrap());
        let disk = (random % 2) as usize;
        let offset = (random >> 8) % (SIZES[disk] as u64 - 1);
        let len = ((random >> 40) % 9_000 + 9).min(SIZES[disk] as u64 - offset);
        match (random >> 60) % 8 {
            0 => source.disk(disk).trim(offset, len).unwrap(),
            1 => source.disk(disk).zero(offset, len, random & 1 == 0).unwrap(),
            2 if step % 16 == 0 => source.disk(disk).flush().unwrap(),
            _ => world.write(source, disk, offset, &stamped(stamp, len.max(8) as usize)[..len as usize]),
        }
    }
}

fn churn_in_three(world: &World, source: &Source, round: u64, count: u64) {
    std::thread::scope(|scope| {
        for thread in 0..3 {
            scope.spawn(move || churn(world, source, round * 3 + thread, count));
        }
    });
}

fn settle(world: &World, source: &Source) {
    eventually("the target has all", || source.drained());
    world.expect_same();
    world.expect_points_are_prefixes(source);
}

#[test]
fn cuts_restarts_and_overflows_lose_nothing_and_offer_only_prefixes() {
    let mut world = World::new();
    world.options.outbox_bytes = 100_000;
    let mut source = world.create();
    churn_in_three(&world, &source, 0, 20);
    world.initial = [0, 1].map(|index| world.disks[index].content());
    source.replicate(world.link()).unwrap();
    for round in 1..12 {
        std::thread::scope(|scope| {
            let (world, source) = (&world, &source);
            let busy = scope.spawn(move || churn_in_three(world, source, round, 60));
            while !busy.is_finished() {
                // Cuts the link in the middle of whatever it carries.
                if round % 3 == 0 {
                    world.receiver.as_ref().unwrap().end_sessions("machine/web-1");
                }
                std::thread::yield_now();
            }
        });
        match round % 4 {
            1 => settle(&world, &source),
            2 => {
                // As after SIGKILL: nothing is closed.
                drop(source);
                source = world.open();
                churn_in_three(&world, &source, 100 + round, 10);
                source.replicate(world.link()).unwrap();
            }
            3 => {
                world.stop_receiver();
                churn_in_three(&world, &source, 200 + round, 10);
                world.start_receiver();
            }
            _ => {
                source.close().unwrap();
                drop(source);
                source = world.open();
                source.replicate(world.link()).unwrap();
            }
        }
    }
    settle(&world, &source);
    assert!(world.expect_points_are_prefixes(&source) > 0);
}

#[test]
fn after_a_restart_only_what_changed_is_moved() {
    let mut world = World::new();
    let source = world.create();
    world.write(&source, 0, 0, &stamped(1, 400_000));
    source.replicate(world.link()).unwrap();
    eventually("drained", || source.drained());
    world.stop_receiver();
    for index in 0..20 {
        world.write(&source, 0, index * 4096 * 5, &stamped(100 + index, 4096));
    }
    drop(source);
    world.start_receiver();
    let source = world.open();
    source.replicate(world.link()).unwrap();
    eventually("drained", || source.drained());
    world.expect_same();
    let replication = source.replication().unwrap();
    assert_eq!((replication.total_bytes, replication.differed_bytes), (20 * 4096, 20 * 4096));
    assert!(replication.moved_bytes * 100 <= 20 * 4096 * 105, "{replication:?}");
}

#[test]
fn a_clean_restart_streams_on_without_a_catch_up() {
    let world = World::new();
    let source = world.create();
    source.replicate(world.link()).unwrap();
    world.write(&source, 0, 0, b"one");
    eventually("drained", || source.drained());
    source.close().unwrap();
    drop(source);
    let source = world.open();
    source.replicate(world.link()).unwrap();
    eventually("streaming", || streaming(&source));
    world.write(&source, 0, 7, b"two");
    eventually("drained", || source.drained());
    world.expect_same();
    assert_eq!(source.replication().unwrap().total_bytes, 0);
}

#[test]
fn a_cut_link_is_resumed_from_the_outbox() {
    let mut world = World::new();
    let source = world.create();
    source.replicate(world.link()).unwrap();
    eventually("streaming", || streaming(&source));
    world.stop_receiver();
    churn_in_three(&world, &source, 1, 30);
    let points = world.sink.durable().points.len();
    world.start_receiver();
    eventually("drained", || source.drained());
    world.expect_same();
    assert_eq!(source.replication().unwrap().total_bytes, 0);
    eventually("a new point", || world.sink.durable().points.len() > points);
    world.expect_points_are_prefixes(&source);
}

#[test]
fn the_loss_is_exact_once_the_old_source_is_seen_again() {
    let mut world = World::new();
    let source = world.create();
    source.replicate(world.link()).unwrap();
    world.write(&source, 0, 0, &[1; 5000]);
    eventually("drained", || source.drained());
    world.stop_receiver();
    let kept = world.sink.durable().at.unwrap();
    world.write(&source, 0, 8192, &[2; 5000]);
    world.write(&source, 1, 1, &[3; 10]);
    source.disk(1).trim(50, 5).unwrap();
    drop(source);
    let source = world.open();
    let (loss, exact, ranges) = source.lost_after(kept).unwrap();
    assert_eq!((loss.writes, loss.bytes, exact), (3, 5010, true));
    assert!(loss.seconds >= 0.0);
    let expected = [Range { disk: 0, offset: 8192, len: 8192 }, Range { disk: 1, offset: 0, len: 4096 }];
    assert_eq!(ranges, expected);
    assert_eq!(source.lost_after(source.watermark()).unwrap().0.writes, 0);
}

#[test]
fn divergence_and_marks_are_sent_even_if_this_side_did_not_change_them() {
    let world = World::new();
    let source = world.create();
    source.track().unwrap();
    world.write(&source, 0, 100, b"since the failover");
    {
        let mut held = locked(&world.sink.durable);
        held.disks[0][300_000..300_010].fill(9);
        held.disks[1][5..9].fill(9);
        held.at = Some(Watermark::default());
        held.diverged = vec![Range { disk: 0, offset: 300_000, len: 10 }];
    }
    source.mark_dirty(&[Range { disk: 1, offset: 0, len: 100 }]).unwrap();
    assert_eq!(source.disk(1).dirty(0, 9000, 9).unwrap().unwrap(), [(4096, true), (4904, false)]);
    source.replicate(Link { full: false, ..world.link() }).unwrap();
    eventually("drained", || source.drained());
    world.expect_same();
    let replication = source.replication().unwrap();
    assert_eq!((replication.total_bytes, replication.differed_bytes), (3 * 4096, 3 * 4096));
}

#[test]
fn a_short_log_is_folded_and_stays_exact_in_number() {
    let mut world = World::new();
    world.options.log_segment_bytes = 64 * 11;
    world.options.log_bytes_max = 64 * 40;
    let source = world.create();
    source.track().unwrap();
    for index in 0..200 {
        world.write(&source, 0, index * 2000, &stamped(index, 100));
    }
    assert!(std::fs::read_dir(world.path().join("log")).unwrap().count() <= 6);
    drop(source);
    let source = world.open();
    let (loss, exact, _) = source.lost_after(Watermark::default()).unwrap();
    assert_eq!((loss.writes, loss.bytes, exact), (200, 20_000, true));
    source.replicate(world.link()).unwrap();
    eventually("drained", || source.drained());
    world.expect_same();
}

#[test]
fn after_a_power_cut_hot_extents_are_sent_and_counts_are_bounds() {
    let mut world = World::new();
    let source = world.create();
    source.replicate(world.link()).unwrap();
    world.write(&source, 0, 0, &[1; 5000]);
    eventually("drained", || source.drained());
    world.stop_receiver();
    drop(source);
    // The machine lost a write that was never flushed, and the log's tail with it.
    world.disks[0].write_at(&[0; 100], 0).unwrap();
    let facts = world.path().join("source.json");
    let text = std::fs::read_to_string(&facts).unwrap();
    let at = text.find("boot_id").unwrap() + 12;
    std::fs::write(&facts, format!("{}ffff{}", &text[..at], &text[at + 4..])).unwrap();
    for file in std::fs::read_dir(world.path().join("log")).unwrap() {
        let file = std::fs::OpenOptions::new().write(true).open(file.unwrap().path()).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(64).unwrap();
        file.set_len(len).unwrap();
    }
    let source = world.open();
    assert_eq!(source.watermark().seq, 0);
    assert!(!source.lost_after(Watermark::default()).unwrap().1);
    // A number is used twice, before the target can say so.
    world.write(&source, 0, 50_000, b"new");
    world.start_receiver();
    source.replicate(world.link()).unwrap();
    eventually("drained", || source.drained());
    world.write(&source, 0, 60_000, b"newer");
    eventually("drained", || source.drained());
    world.expect_same();
    assert!(source.watermark().seq >= 2);
}

#[test]
fn without_a_target_nothing_is_tracked() {
    let world = World::new();
    let source = world.create();
    world.write(&source, 0, 0, b"x");
    source.disk(0).flush().unwrap();
    assert_eq!(source.disk(0).dirty(0, 10, 10).unwrap().unwrap(), [(10, true)]);
    assert_eq!(source.watermark(), Watermark::default());
    source.replicate(world.link()).unwrap();
    eventually("drained", || source.drained());
    world.write(&source, 0, 1, b"y");
    eventually("drained", || source.drained());
    source.stop_replicating().unwrap();
    world.write(&source, 0, 2, b"z");
    assert_eq!((source.watermark().seq, source.replication()), (1, None));
    source.replicate(world.link()).unwrap();
    eventually("drained", || source.drained());
    world.expect_same();
}

#[test]
fn a_directory_is_one_source_for_one_process_and_one_shape() {
    let world = World::new();
    let open = |disks| Source::open(world.path(), disks, world.options.clone()).map(drop);
    let error = open(world.dyn_disks()).unwrap_err().to_string();
    assert!(error.contains("holds no source"), "{error}");
    let source = world.create();
    let error = open(world.dyn_disks()).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    drop(source);
    let error = open(world.dyn_disks()[..1].to_vec()).unwrap_err().to_string();
    assert!(error.contains("600001"), "{error}");
    let again = Source::create(world.path(), world.dyn_disks(), Watermark::default(), Options::default());
    assert!(again.unwrap_err().to_string().contains("already holds"));
}

/// The real target, found by name.
#[derive(Debug)]
struct OneReplica(crate::replica::Replica);

impl crate::wire::receiver::Sinks for OneReplica {
    fn open(
        &self,
        _hello: &crate::wire::frame::Hello,
    ) -> Result<Arc<dyn crate::sink::Sink>, crate::wire::frame::Refused> {
        Ok(Arc::new(self.0.clone()))
    }
    fn check_token(&self, _item: &str, _token: Token) -> Result<(), crate::wire::frame::Refused> {
        Ok(())
    }
}

fn contents(disks: &[Arc<dyn Disk>]) -> Vec<Vec<u8>> {
    let read = |disk: &Arc<dyn Disk>| {
        let mut bytes = vec![0; disk.size() as usize];
        disk.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    disks.iter().map(read).collect()
}

/// Out and home again with the real replica: seed, stream, cuts, failover, divergence, delta reprotect.
#[test]
fn the_real_replica_fails_over_and_takes_the_way_home() {
    use crate::replica::{Options as ReplicaOptions, Replica};
    use farshore_core::workload::PointChoice;

    let mut world = World::new();
    world.options.outbox_bytes = 200_000;
    let far = tempfile::tempdir().unwrap();
    let far_disks: Vec<Arc<dyn Disk>> = SIZES.map(|size| MemDisk::new(size) as Arc<dyn Disk>).to_vec();
    let replica = Replica::create(&far.path().join("replica"), far_disks, ReplicaOptions::default()).unwrap();
    world.stop_receiver();
    let listener = TcpListener::bind(&world.address).unwrap();
    let receiver = Receiver::start(listener, Arc::new(OneReplica(replica.clone())), None).unwrap();
    let source = world.create();
    churn_in_three(&world, &source, 1, 30);
    source.replicate(world.link()).unwrap();
    for round in 2..8 {
        churn_in_three(&world, &source, round, 40);
        receiver.end_sessions("machine/web-1");
    }
    eventually("drained", || source.drained());
    let kept = source.watermark();
    receiver.stop();
    // Only the old source has these.
    churn_in_three(&world, &source, 9, 5);
    let old = source.fence().unwrap();
    let (loss, exact, own) = source.lost_after(kept).unwrap();
    assert_eq!((loss.writes, loss.bytes, exact), (old.seq - kept.seq, old.bytes - kept.bytes, true));
    source.close().unwrap();
    drop(source);

    let promoted = replica.promote(&PointChoice::Latest).unwrap();
    assert_eq!(promoted.point().watermark, kept);
    let home = tempfile::tempdir().unwrap();
    let way_home = Replica::adopt(
        &home.path().join("replica"),
        world.dyn_disks(),
        ReplicaOptions::default(),
        kept,
        own.clone(),
        None,
    )
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let receiver = Receiver::start(listener, Arc::new(OneReplica(way_home.clone())), None).unwrap();
    let served = promoted.disks();
    let new =
        Source::create(&far.path().join("source"), served.clone(), kept, world.options.clone()).unwrap();
    new.serve(Token::new(1, Epoch(5)));
    new.track().unwrap();
    churn_in_three(&world, &new, 11, 10);
    new.mark_dirty(&promoted.received_after_point().unwrap()).unwrap();
    new.replicate(Link { address, full: false, token: Token::new(1, Epoch(5)), ..world.link() }).unwrap();
    churn_in_three(&world, &new, 12, 10);
    eventually("drained home", || new.drained());
    let last = new.fence().unwrap();
    assert_eq!(last.epoch, Epoch(5));
    let back = way_home.promote(&PointChoice::Latest).unwrap();
    assert!(contents(&back.disks()) == contents(&served), "home differs");
    drop(receiver);
}
