//! The replica against a simple model: for every point ever made, the bytes of all disks at that moment.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

mod replica;

use std::path::Path;
use std::time::Duration;

use farshore_core::workload::{PointChoice, PointKind};
use farshore_machine::record::Block;
use farshore_machine::replica::{Options, Promoted, Replica, Retention};
use farshore_machine::sink::Sink;
use proptest::prelude::*;
use replica::{Bytes, MemDisk, Source, assert_same, contents, empty, handles};

const SIZES: [usize; 2] = [3 * 4096 + 777, 200_001];

fn options() -> Options {
    let retention = Retention {
        keep: Duration::from_secs(12),
        keep_all: Duration::from_secs(4),
        then_every: Duration::from_secs(3),
    };
    Options { segment_bytes: 20_000, retention }
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize, usize, usize, u8, u8),
    Point,
    Sync,
    Reopen,
    CatchUp { lost: u8, interrupted: bool },
    Retain,
    Drill,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![6 => 1usize..9000, 2 => Just(4096), 1 => 60_000usize..150_000];
    let write = (0usize..2, any::<usize>(), len, prop_oneof![3 => Just(0u8), 1 => 1u8..3], any::<u8>());
    prop_oneof![
        12 => write.prop_map(|(d, o, l, k, f)| Step::Write(d, o & !0xff, l, k, f)),
        6 => Just(Step::Point),
        4 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => (0u8..6, any::<bool>()).prop_map(|(lost, interrupted)| Step::CatchUp { lost, interrupted }),
        2 => Just(Step::Retain),
        1 => Just(Step::Drill),
    ]
}

/// A source, its replica, and the truth.
struct World {
    dir: tempfile::TempDir,
    base: Vec<MemDisk>,
    replica: Replica,
    source: Source,
    points: Vec<(String, Bytes)>,
}

impl World {
    fn seeded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = empty(&SIZES);
        let replica = Replica::create(dir.path(), handles(&base), options()).unwrap();
        let mut source = Source::new(&SIZES);
        let _ = source.write(1, 4000, 70_000, 0, 9);
        assert_eq!(replica.resume().unwrap().durable, None);
        replica.begin_catch_up(source.head).unwrap();
        replica.blocks(&source.all_blocks(65_536)).unwrap();
        let mid = source.write(0, 100, 5000, 0, 3);
        replica.append(&[mid]).unwrap();
        replica.end_catch_up(source.head).unwrap();
        replica.sync().unwrap();
        Self { dir, base, replica, source, points: Vec::new() }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(disk, offset, len, kind, fill) => {
                let record = self.source.write(*disk, *offset, *len, *kind, *fill);
                self.replica.append(&[record]).unwrap();
            }
            Step::Point => {
                let head = self.source.head;
                self.replica.point(head, head.at, PointKind::Crash, None).unwrap();
                self.replica.sync().unwrap();
                let newest = self.replica.points().pop().unwrap();
                assert_eq!(newest.watermark, head);
                self.points.push((newest.id, self.source.disks.clone()));
            }
            Step::Sync => assert_eq!(self.replica.sync().unwrap(), self.source.head),
            Step::Reopen => {
                self.replica = Replica::open(self.dir.path(), handles(&self.base), options()).unwrap();
                assert_eq!(self.replica.resume().unwrap().durable, Some(self.source.head));
            }
            Step::CatchUp { lost, interrupted } => self.catch_up(*lost, *interrupted),
            Step::Retain => self.replica.retain(self.source.head.at).unwrap(),
            Step::Drill => self.drill(),
        }
    }

    /// The link was down for `lost` writes; blocks bring what they changed.
    fn catch_up(&mut self, lost: u8, interrupted: bool) {
        let before = self.source.disks.clone();
        let mut dirty: Vec<Block> = Vec::new();
        for n in 0..lost {
            let offset = usize::from(n) * 13_001;
            let record = self.source.write(usize::from(n), offset, 6000, n % 2, n.wrapping_mul(77));
            let (disk, offset) = (usize::from(record.disk), usize::try_from(record.offset).unwrap());
            dirty.push(self.source.block(disk, offset, usize::try_from(record.len).unwrap()));
        }
        // Blocks are sent as they are at the end.
        for block in &mut dirty {
            let (offset, len) = (block.offset, block.len);
            let (offset, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
            *block = self.source.block(usize::from(block.disk), offset, len);
        }
        self.replica.begin_catch_up(self.source.head).unwrap();
        if interrupted {
            self.replica.blocks(&dirty[..dirty.len() / 2]).unwrap();
            self.replica.sync().unwrap();
            self.check_latest(&before);
            self.replica = Replica::open(self.dir.path(), handles(&self.base), options()).unwrap();
            assert!(self.replica.resume().unwrap().catching_up);
            self.check_latest(&before);
            self.replica.begin_catch_up(self.source.head).unwrap();
        }
        let differed = self.replica.blocks(&dirty).unwrap();
        assert!(differed <= dirty.iter().map(|block| block.len).sum());
        assert_eq!(self.replica.blocks(&dirty).unwrap(), 0, "nothing differs any more");
        self.replica.end_catch_up(self.source.head).unwrap();
        self.replica.sync().unwrap();
        self.check_latest(&self.source.disks.clone());
    }

    fn check_latest(&self, want: &Bytes) {
        let drill = self.replica.test_failover(&PointChoice::Latest).unwrap();
        assert_same(&contents(&drill.disks()), want, "latest");
    }

    /// Opens a point beside the running replica, writes to it, and throws it away.
    fn drill(&mut self) {
        for point in self.replica.points() {
            let want = &self.points.iter().find(|(id, _)| *id == point.id).unwrap().1;
            let drill = self.replica.test_failover(&PointChoice::Id(point.id.clone())).unwrap();
            let disks = drill.disks();
            assert_same(&contents(&disks), want, &point.id);
            disks[0].write_at(&[0xdd; 999], 3).unwrap();
            let record = self.source.write(1, 50_000, 3000, 0, 200);
            self.replica.append(&[record]).unwrap();
            let mut want = want.clone();
            want[0][3..1002].fill(0xdd);
            assert_same(&contents(&disks), &want, "a drill's own writes");
            drill.clean_up().unwrap();
            assert!(disks[0].read_at(&mut [0], 0).is_err(), "a cleaned-up drill serves nothing");
        }
    }

    /// Fails over to each point in turn, writes to each, comes back, commits one and folds.
    fn finish(self, writes: &[(usize, usize, usize, u8, u8)], pick: usize) {
        let offered = self.replica.points();
        let mut truth: Vec<(PointChoice, Bytes)> = vec![(PointChoice::Latest, self.source.disks.clone())];
        for point in offered {
            let want = self.points.iter().find(|(id, _)| *id == point.id).unwrap().1.clone();
            truth.push((PointChoice::Id(point.id), want));
        }
        truth.truncate(6);
        let mut promoted = self.replica.promote(&PointChoice::Latest).unwrap();
        assert!(self.replica.append(&[]).is_err(), "a promoted replica receives no longer");
        for (n, (choice, want)) in truth.iter_mut().enumerate() {
            promoted.change_point(choice).unwrap();
            assert_same(&contents(&promoted.disks()), want, "promoted");
            if n % 2 == 0 {
                write_all(&promoted, want, writes);
                assert_same(&contents(&promoted.disks()), want, "written after the promote");
                promoted = reopen(self.dir.path(), &self.base);
            }
        }
        for (choice, want) in &truth {
            promoted.change_point(choice).unwrap();
            assert_same(&contents(&promoted.disks()), want, "came back to the point");
        }
        let pick = pick % truth.len();
        let (choice, want) = &mut truth[pick];
        promoted.change_point(choice).unwrap();
        promoted.commit().unwrap();
        assert!(promoted.change_point(&PointChoice::Latest).is_err());
        write_all(&promoted, want, writes);
        assert_same(&contents(&promoted.disks()), want, "written while folding");
        promoted.stop();
        promoted = reopen(self.dir.path(), &self.base);
        assert_same(&contents(&promoted.disks()), want, "reopened while folding");
        write_all(&promoted, want, &writes[..writes.len() / 2]);
        while !promoted.folded() {
            assert_eq!(promoted.damaged(), None);
            std::thread::yield_now();
        }
        promoted.stop();
        assert_same(&contents(&promoted.disks()), want, "folded");
        let base = self.base.iter().map(MemDisk::bytes).collect();
        assert_same(&base, want, "the disks alone");
        assert!(!self.dir.path().join("journal").exists());
    }
}

fn reopen(dir: &Path, base: &[MemDisk]) -> Promoted {
    Promoted::open(dir, handles(base), options()).unwrap()
}

fn write_all(promoted: &Promoted, want: &mut Bytes, writes: &[(usize, usize, usize, u8, u8)]) {
    let disks = promoted.disks();
    for &(disk, offset, len, kind, fill) in writes {
        let offset = offset % want[disk].len();
        let len = len.min(want[disk].len() - offset);
        let part = &mut want[disk][offset..offset + len];
        part.fill(if kind == 0 { fill } else { 0 });
        let (at, length) = (offset as u64, len as u64);
        match kind {
            0 => disks[disk].write_at(part, at).unwrap(),
            1 => disks[disk].trim(at, length).unwrap(),
            _ => disks[disk].zero(at, length, true).unwrap(),
        }
    }
    disks.iter().for_each(|disk| disk.sync().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_point_is_brought_back_exactly(
        steps in proptest::collection::vec(step(), 1..60),
        writes in proptest::collection::vec((0usize..2, any::<usize>(), 1usize..20_000, 0u8..3, any::<u8>()), 1..8),
        pick in any::<usize>(),
    ) {
        let mut world = World::seeded();
        for step in &steps {
            world.step(step);
        }
        world.drill();
        world.check_latest(&world.source.disks);
        world.finish(&writes, pick);
    }
}
