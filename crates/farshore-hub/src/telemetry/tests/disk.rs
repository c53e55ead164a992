//! Torn ends, damaged middles.

use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;

use super::*;

fn change(path: &Path, at: usize, byte: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= byte;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_torn_end_is_cut_wherever_it_tore() {
    let whole = tempfile::tempdir().unwrap();
    let telemetry = open(&whole, "oslo");
    fill(&telemetry, 1, 3, 0).await;
    drop(telemetry);
    let path = files(&whole, "oslo").remove(0);
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let frame = (end - 4096) / 3;
    // The marks of a file whose third event was never synced.
    let head = {
        let dir = tempfile::tempdir().unwrap();
        let telemetry = open(&dir, "oslo");
        fill(&telemetry, 1, 2, 0).await;
        drop(telemetry);
        std::fs::read(files(&dir, "oslo").remove(0)).unwrap()[..4096].to_vec()
    };
    for torn in [1, 4, 20, 40, frame - 1] {
        let mut bytes = [&head[..], &bytes[4096..4096 + 2 * frame + torn]].concat();
        bytes.resize(1 << 16, 0);
        std::fs::write(&path, &bytes).unwrap();
        let telemetry = open(&whole, "oslo");
        assert_eq!(telemetry.ends()[&region("oslo")], 2, "torn after {torn} bytes");
        assert_eq!(
            telemetry.append(Epoch(1), event("pump", "", 9)).await.unwrap(),
            Kept::Stored { offset: 2 }
        );
        assert_eq!(all(&telemetry, &Cursor::default(), 9).0.len(), 3);
        assert_eq!(telemetry.stats().damaged, Vec::<String>::new());
    }
    // It was all written and never marked: it is kept.
    std::fs::write(&path, [&head[..], &bytes[4096..]].concat()).unwrap();
    assert_eq!(open(&whole, "oslo").ends()[&region("oslo")], 3);
}

#[tokio::test]
async fn a_damaged_middle_is_named_and_never_passed_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let telemetry = open(&dir, "oslo");
    fill(&telemetry, 1, 700, 0).await;
    drop(telemetry);
    let paths = files(&dir, "oslo");
    let (second, last) = (&paths[1], &paths[paths.len() - 1]);
    change(second, 40_000, 1);
    change(last, 4096 + 100, 1);
    let telemetry = open(&dir, "oslo");
    let oslo = region("oslo");
    let stats = telemetry.stats();
    assert_eq!(stats.damaged.len(), 2, "{stats:?}");
    let (mut cursor, mut offsets, mut damages) = (Cursor::default(), Vec::new(), Vec::new());
    while cursor.next(&oslo) < 700 {
        match telemetry.read(&cursor, 64) {
            Ok(page) => {
                offsets.extend(page.events.iter().map(|stored| stored.offset));
                cursor = page.next;
            }
            Err(TelemetryError::Damaged(damage)) => {
                assert_eq!(damage.offset, cursor.next(&oslo));
                cursor.0.insert(oslo.clone(), damage.next);
                damages.push(damage);
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(damages.len(), 2);
    assert_eq!((&damages[0].file, &damages[1].file), (second, last));
    assert!((39_000..=40_000).contains(&damages[0].at) && damages[1].at == 4096, "{damages:?}");
    let lost: u64 = damages.iter().map(|damage| damage.next - damage.offset).sum();
    assert_eq!(offsets.len() as u64 + lost, 700);
    assert!(offsets.is_sorted());
    assert!(damages[0].to_string().contains("is damaged in "), "{}", damages[0]);
    fill(&telemetry, 1, 10, 1000).await;
    assert_eq!(telemetry.read(&cursor, 64).unwrap().events.len(), 10);
    assert_eq!(telemetry.stats().damaged.len(), 2, "each is told once");
    let raw = telemetry.raw(&oslo, damages[0].offset, 1 << 20).unwrap_err();
    assert!(matches!(raw, TelemetryError::Damaged(_)), "{raw}");
}

#[tokio::test]
async fn a_spoilt_head_is_written_again_and_another_files_head_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let telemetry = open(&dir, "oslo");
    fill(&telemetry, 1, 700, 0).await;
    let (whole, _) = all(&telemetry, &Cursor::default(), 100);
    drop(telemetry);
    let paths = files(&dir, "oslo");
    for (path, at) in [(&paths[0], 0), (&paths[1], 9), (&paths[2], 17), (&paths[2], 65), (&paths[3], 400)] {
        change(path, at, 0x10);
    }
    let telemetry = open(&dir, "oslo");
    assert_eq!(all(&telemetry, &Cursor::default(), 100).0, whole);
    drop(telemetry);
    let mut moved = std::fs::read(&paths[1]).unwrap();
    let of = std::fs::read(&paths[2]).unwrap();
    moved[..512].copy_from_slice(&of[..512]);
    std::fs::write(&paths[1], &moved).unwrap();
    let refused = Telemetry::open(dir.path(), region("oslo"), small()).unwrap_err();
    assert!(matches!(refused, TelemetryError::Foreign { .. }), "{refused}");
}

#[tokio::test]
async fn damage_that_happens_while_it_is_open_is_met_by_who_reads() {
    let dir = tempfile::tempdir().unwrap();
    let telemetry = open(&dir, "oslo");
    fill(&telemetry, 1, 400, 0).await;
    let path = files(&dir, "oslo").remove(0);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff], 30_000).unwrap();
    let oslo = region("oslo");
    let page = telemetry.read(&Cursor::default(), 1000).unwrap();
    let error = telemetry.read(&page.next, 1000).unwrap_err();
    let TelemetryError::Damaged(damage) = error else { panic!("{error}") };
    assert_eq!(damage.offset, page.next.next(&oslo));
    assert!(damage.next - damage.offset < 80, "one step of the index is lost: {damage}");
    let after = Cursor(BTreeMap::from([(oslo, damage.next)]));
    assert_eq!(telemetry.read(&after, 1).unwrap().events[0].offset, damage.next);
}

#[tokio::test]
async fn what_is_damaged_is_mended_from_the_other_copy() {
    let (home, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (oslo, paris) = (open(&home, "oslo"), open(&far, "paris"));
    fill(&oslo, 1, 700, 0).await;
    ship(&oslo, &paris, "oslo", 1 << 20).await;
    let (whole, _) = all(&oslo, &Cursor::default(), 100);
    drop(oslo);
    let paths = files(&home, "oslo");
    for (path, at) in [(&paths[0], 5000), (&paths[1], 30_000), (&paths[1], 50_000), (&paths[3], 4100)] {
        change(path, at, 0x10);
    }
    let oslo = open(&home, "oslo");
    let name = region("oslo");
    assert_eq!(oslo.damages().len(), 3, "one in a file hides what comes after it");
    for bytes in [1, 1, 70_000, 70_000, 70_000, 70_000] {
        let Some(damage) = oslo.damages().into_iter().next() else { break };
        let piece = paris.raw(&name, damage.offset, bytes).unwrap();
        let mut broken = piece.clone();
        broken.frames[40] ^= 1;
        assert!(oslo.mend(broken).await.is_err());
        let left = oslo.mend(piece).await.unwrap();
        assert_eq!(left, oslo.damages());
    }
    assert_eq!(oslo.damages(), []);
    assert_eq!(all(&oslo, &Cursor::default(), 100).0, whole);
    fill(&oslo, 1, 5, 1000).await;
    drop(oslo);
    let oslo = open(&home, "oslo");
    assert_eq!(oslo.stats().damaged, Vec::<String>::new());
    assert_eq!(all(&oslo, &Cursor::default(), 100).0[..700], whole);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Power fails while a batch is written: any of its sectors may be on the disk, and the mark is the one before.
    #[test]
    fn a_batch_that_is_half_on_the_disk_costs_nothing_that_was_acknowledged(
        first in 1..20u64, second in 1..20u64, sectors in prop::collection::vec(any::<bool>(), 200)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let telemetry = open(&dir, "oslo");
            let path = files(&dir, "oslo").remove(0);
            fill(&telemetry, 1, first, 0).await;
            let mut disk = std::fs::read(&path).unwrap();
            fill(&telemetry, 1, second, 100).await;
            let after = std::fs::read(&path).unwrap();
            drop(telemetry);
            let frames = disk.chunks_mut(512).zip(after.chunks(512)).skip(8);
            for ((sector, written), is_on_disk) in frames.zip(&sectors) {
                if *is_on_disk {
                    sector.copy_from_slice(written);
                }
            }
            std::fs::write(&path, &disk).unwrap();
            let telemetry = open(&dir, "oslo");
            assert_eq!(telemetry.stats().damaged, Vec::<String>::new());
            let (events, _) = all(&telemetry, &Cursor::default(), 100);
            assert!((first..=first + second).contains(&(events.len() as u64)));
            for (stored, at) in events.iter().zip((0..first).chain(100..)) {
                assert_eq!(stored.event, event("pump", "", at));
            }
        });
    }
}
