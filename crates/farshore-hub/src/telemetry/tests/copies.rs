//! Two regions with each other's logs.

use super::*;

/// Frames of a whole log.
fn frames(telemetry: &Telemetry, origin: &str) -> Vec<u8> {
    let (origin, mut bytes, mut at) = (region(origin), Vec::new(), 0);
    loop {
        let batch = telemetry.raw(&origin, at, usize::MAX).unwrap();
        if batch.next == at {
            return bytes;
        }
        at = batch.next;
        bytes.extend(batch.frames);
    }
}

#[tokio::test]
async fn a_copy_has_the_same_bytes_offsets_and_files() {
    let (home, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (oslo, paris) = (open(&home, "oslo"), open(&far, "paris"));
    for round in 0..5 {
        fill(&oslo, 1, 150, 1000 * round).await;
        ship(&oslo, &paris, "oslo", 7_000).await;
    }
    assert_eq!(frames(&oslo, "oslo"), frames(&paris, "oslo"));
    let (at_home, cursor) = all(&oslo, &Cursor::default(), 64);
    let (far_away, other) = all(&paris, &Cursor::default(), 64);
    assert_eq!(at_home, far_away);
    assert_eq!(cursor.next(&region("oslo")), other.next(&region("oslo")));
    drop((oslo, paris));
    let (one, two) = (files(&home, "oslo"), files(&far, "oslo"));
    assert_eq!(one.len(), two.len());
    for (one, two) in one.iter().zip(&two) {
        assert_eq!(one.file_name(), two.file_name());
        let bytes = |path| std::fs::read(path).unwrap().split_off(4096);
        let (mut one, mut two) = (bytes(one), bytes(two));
        let len = one.len().max(two.len());
        one.resize(len, 0);
        two.resize(len, 0);
        assert!(one == two, "the files differ");
    }
    assert_eq!(all(&open(&far, "paris"), &Cursor::default(), 64).0, at_home);
}

#[tokio::test]
async fn what_does_not_continue_the_copy_is_refused_and_changes_nothing() {
    let (home, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (oslo, paris) = (open(&home, "oslo"), open(&far, "paris"));
    fill(&oslo, 1, 20, 0).await;
    let origin = region("oslo");
    let first = oslo.raw(&origin, 0, usize::MAX).unwrap();
    let gap = oslo.raw(&origin, 5, usize::MAX).unwrap();
    let error = paris.extend(gap.clone()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the copy of oslo's log wants 0 next, and was given 5: ask for events from 0"
    );
    for place in [0, 3, 50, first.frames.len() - 1] {
        let mut broken = first.clone();
        broken.frames[place] ^= 4;
        let error = paris.extend(broken).await.unwrap_err();
        assert!(matches!(error, TelemetryError::BadBatch { .. }), "{error}");
    }
    for broken in [
        RawBatch { next: 21, ..first.clone() },
        RawBatch { from: 1, ..first.clone() },
        RawBatch { frames: first.frames[..first.frames.len() - 1].to_vec(), ..first.clone() },
        RawBatch { frames: [&first.frames[..], &[0; 40]].concat(), ..first.clone() },
    ] {
        let error = paris.extend(broken).await.unwrap_err();
        assert!(matches!(error, TelemetryError::BadBatch { .. }), "{error}");
    }
    assert_eq!(paris.ends().get(&origin).copied().unwrap_or(0), 0);
    for _ in 0..3 {
        assert_eq!(paris.extend(first.clone()).await.unwrap(), Extended { next: 20, duplicates: 0 });
        assert_eq!(paris.extend(gap.clone()).await.unwrap(), Extended { next: 20, duplicates: 0 });
    }
    let beyond = oslo.raw(&origin, 21, 1).unwrap_err();
    assert!(matches!(beyond, TelemetryError::Beyond { end: 20, .. }), "{beyond}");
    let anew = tempfile::tempdir().unwrap();
    let anew = open(&anew, "oslo");
    fill(&anew, 1, 25, 7).await;
    let error = paris.extend(anew.raw(&origin, 0, usize::MAX).unwrap()).await.unwrap_err();
    assert!(matches!(error, TelemetryError::Differs { offset: 0, .. }), "{error}");
    assert_eq!(frames(&oslo, "oslo"), frames(&paris, "oslo"));
}

#[tokio::test]
async fn a_region_that_lost_its_disk_gets_its_own_log_back() {
    let (home, far, new) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (oslo, paris) = (open(&home, "oslo"), open(&far, "paris"));
    oslo.append(Epoch(1), event("pump", "a", 70)).await.unwrap();
    ship(&oslo, &paris, "oslo", 100).await;
    let oslo = open(&new, "oslo");
    ship(&paris, &oslo, "oslo", 100).await;
    assert_eq!(oslo.append(Epoch(3), event("pump", "a", 3)).await.unwrap(), Kept::Duplicate);
    assert_eq!(oslo.append(Epoch(3), event("pump", "b", 3)).await.unwrap(), Kept::Stored { offset: 1 });
    assert_eq!(oslo.enqueued(&region("oslo"), 1).unwrap(), Some(Moment(70)));
}

/// Oslo is lost with three events that it had acknowledged and not shipped; a device sends two of them again in Paris.
#[tokio::test]
async fn what_comes_late_is_flagged_and_of_two_copies_each_consumer_is_given_one() {
    let (home, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut oslo, mut paris) = (open(&home, "oslo"), open(&far, "paris"));
    for (id, at) in [("a", 1), ("b", 2)] {
        oslo.append(Epoch(1), event("pump", id, at)).await.unwrap();
    }
    ship(&oslo, &paris, "oslo", 1 << 20).await;
    for (id, at) in [("c", 3), ("d", 4), ("e", 5)] {
        oslo.append(Epoch(1), event("pump", id, at)).await.unwrap();
    }
    let (_, saw_c_in_oslo) = all(&oslo, &Cursor::default(), 100);
    for (id, at, kept) in [("b", 10, false), ("e", 11, true), ("c", 12, true), ("f", 13, true)] {
        let stored = paris.append(Epoch(2), event("pump", id, at)).await.unwrap();
        assert_eq!(stored != Kept::Duplicate, kept, "{id}");
    }
    let (_, saw_c_in_paris) = all(&paris, &Cursor::default(), 100);
    assert_eq!(ship(&oslo, &paris, "oslo", 1 << 20).await, 2);
    assert_eq!(ship(&paris, &oslo, "paris", 1 << 20).await, 2);
    for round in 0..2 {
        for (telemetry, is_late) in [(&oslo, false), (&paris, true)] {
            let ids = |cursor: &Cursor, limit| -> Vec<(String, bool)> {
                let (events, _) = all(telemetry, cursor, limit);
                events
                    .iter()
                    .map(|stored| (stored.event.system("$.mid").unwrap().to_owned(), stored.late))
                    .collect()
            };
            for limit in [1, 2, 100] {
                let new = ids(&Cursor::default(), limit);
                let names: String = new.iter().map(|(id, _)| id.as_str()).collect();
                assert_eq!(names, "abcdef", "{round}");
                let late: String = new.iter().filter(|(_, late)| *late).map(|(id, _)| id.as_str()).collect();
                assert_eq!(late, if is_late { "cde" } else { "" });
                let names = |cursor| ids(cursor, limit).into_iter().map(|(id, _)| id).collect::<String>();
                assert_eq!(names(&saw_c_in_oslo), "f", "c, d and e were read in oslo");
                assert_eq!(names(&saw_c_in_paris), "d", "e, c and f were read in paris");
            }
        }
        drop((oslo, paris));
        (oslo, paris) = (open(&home, "oslo"), open(&far, "paris"));
    }
    let lines = std::fs::read_to_string(far.path().join("oslo.duplicates")).unwrap();
    assert_eq!(lines.lines().count(), 2);
    assert!(lines.starts_with("2 paris 1 "), "{lines}");
    assert!(std::fs::read_to_string(far.path().join("oslo.late")).unwrap().starts_with("2 5 "));
    assert_eq!(paris.stats().damaged, Vec::<String>::new());
}

#[tokio::test]
async fn news_that_are_only_duplicates_wake_nobody() {
    let (home, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (oslo, paris) = (open(&home, "oslo"), open(&far, "paris"));
    for id in ["a", "b"] {
        oslo.append(Epoch(1), event("pump", id, 1)).await.unwrap();
        paris.append(Epoch(2), event("pump", id, 2)).await.unwrap();
    }
    let cursor = paris.latest();
    ship(&oslo, &paris, "oslo", 1 << 20).await;
    {
        let mut grown = std::pin::pin!(paris.grown(&cursor));
        let none =
            std::future::poll_fn(|context| Poll::Ready(grown.as_mut().poll(context).is_pending())).await;
        assert!(none);
    }
    assert!(paris.read(&cursor, 9).unwrap().events.is_empty());
    oslo.append(Epoch(1), event("pump", "c", 1)).await.unwrap();
    let (_, ()) = tokio::join!(ship(&oslo, &paris, "oslo", 1 << 20), paris.grown(&cursor));
    assert_eq!(paris.read(&cursor, 9).unwrap().events.len(), 1);
}

#[tokio::test]
async fn what_is_nowhere_any_more_can_be_skipped_and_is_counted() {
    let (home, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (oslo, mut paris) = (open(&home, "oslo"), open(&far, "paris"));
    fill(&oslo, 1, 30, 0).await;
    let origin = region("oslo");
    let five = oslo.raw(&origin, 0, 1).unwrap();
    paris.extend(five).await.unwrap();
    paris.skip(&origin, 20).await.unwrap();
    paris.skip(&origin, 3).await.unwrap();
    ship(&oslo, &paris, "oslo", 1 << 20).await;
    for _ in 0..2 {
        let begun = Cursor(BTreeMap::from([(origin.clone(), 1)]));
        let page = paris.read(&begun, 100).unwrap();
        assert_eq!((page.events.len(), page.events[0].offset), (10, 20));
        assert_eq!(page.missed, BTreeMap::from([(origin.clone(), 19)]));
        assert_eq!(page.next.next(&origin), 30);
        let gone = paris.raw(&origin, 1, 1).unwrap_err();
        assert!(matches!(gone, TelemetryError::Gone { start: 20, .. }), "{gone}");
        drop(paris);
        paris = open(&far, "paris");
        assert_eq!(paris.stats().damaged, Vec::<String>::new());
    }
}
