//! What is appended is read, by whoever stands where.

use super::*;

#[tokio::test]
async fn what_is_appended_is_read_in_order_and_again_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let telemetry = open(&dir, "oslo");
    fill(&telemetry, 1, 700, 10).await;
    let (events, next) = all(&telemetry, &Cursor::default(), 50);
    assert_eq!(events.len(), 700);
    assert!(files(&dir, "oslo").len() > 3, "there are several files");
    for (offset, stored) in (0..).zip(&events) {
        assert_eq!((stored.offset, stored.late, stored.epoch), (offset, false, Epoch(1)));
        assert_eq!(stored.event, event("pump", "", 10 + offset));
    }
    assert_eq!(serde_json::to_string(&next).unwrap(), r#"{"oslo":700}"#);
    assert_eq!(telemetry.stats().stored, 700);
    drop(telemetry);
    let telemetry = open(&dir, "oslo");
    assert_eq!(all(&telemetry, &Cursor::default(), 1000).0, events);
    fill(&telemetry, 1, 1, 5000).await;
    assert_eq!(all(&telemetry, &next, 10).0[0].offset, 700);
    for offset in [0, 1, 99, 350, 699] {
        let from = Cursor(BTreeMap::from([(region("oslo"), offset)]));
        assert_eq!(telemetry.read(&from, 1).unwrap().events[0], events[usize::try_from(offset).unwrap()]);
    }
}

#[tokio::test]
async fn an_event_that_is_sent_again_is_acknowledged_and_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let telemetry = open(&dir, "oslo");
    let one = telemetry.append(Epoch(1), event("pump", "a", 1));
    let again = telemetry.append(Epoch(1), event("pump", "a", 2));
    assert_eq!(one.await.unwrap(), Kept::Stored { offset: 0 });
    assert_eq!(again.await.unwrap(), Kept::Duplicate);
    let other = Event { generation: "2".into(), ..event("pump", "a", 3) };
    for (others, offset) in [(other, 1), (event("valve", "a", 4), 2), (event("pump/a", "a", 5), 3)] {
        assert_eq!(telemetry.append(Epoch(1), others).await.unwrap(), Kept::Stored { offset });
    }
    for offset in 4..6 {
        let same = telemetry.append(Epoch(1), event("pump", "", 6)).await;
        assert_eq!(same.unwrap(), Kept::Stored { offset }, "identical readings without ids are legal");
    }
    drop(telemetry);
    let telemetry = open(&dir, "oslo");
    assert_eq!(telemetry.append(Epoch(1), event("pump", "a", 9)).await.unwrap(), Kept::Duplicate);
    assert_eq!(telemetry.stats().remembered, 4);
}

#[tokio::test]
async fn properties_can_be_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    let options = TelemetryOptions { dedupe_properties: vec!["boot".into(), "seq".into()], ..small() };
    let telemetry = Telemetry::open(dir.path(), region("oslo"), options).unwrap();
    let reading = |boot: &str, seq: Option<&str>| {
        let properties =
            vec![("seq".to_owned(), seq.map(str::to_owned)), ("boot".to_owned(), Some(boot.to_owned()))];
        Event { properties, ..event("pump", "", 1) }
    };
    for (boot, seq, kept) in [
        ("1", Some("7"), true),
        ("1", Some("6"), true),
        ("1", Some("7"), false),
        ("2", Some("7"), true),
        ("1", None, true),
        ("1", None, true),
    ] {
        let stored = telemetry.append(Epoch(1), reading(boot, seq)).await.unwrap();
        assert_eq!(stored != Kept::Duplicate, kept, "{boot} {seq:?}");
    }
}

#[tokio::test]
async fn moments_are_looked_up_and_never_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let telemetry = open(&dir, "oslo");
    fill(&telemetry, 1, 600, 1000).await;
    let (oslo, early) = (region("oslo"), event("pump", "", 3));
    telemetry.append(Epoch(1), early).await.unwrap();
    assert_eq!(telemetry.enqueued(&oslo, 600).unwrap(), Some(Moment(1599)), "the clock was set back");
    drop(telemetry);
    let telemetry = open(&dir, "oslo");
    for (moment, offset) in [(0, 0), (1000, 0), (1001, 1), (1300, 300), (1599, 599), (1600, 601), (9999, 601)]
    {
        assert_eq!(telemetry.since(Moment(moment)).unwrap().next(&oslo), offset, "{moment}");
    }
    assert_eq!(telemetry.enqueued(&oslo, 17).unwrap(), Some(Moment(1017)));
    assert_eq!(telemetry.enqueued(&oslo, 601).unwrap(), None);
    assert_eq!(telemetry.enqueued(&region("rome"), 1).unwrap(), None);
    let lag = telemetry.lag(&oslo, 590).unwrap();
    assert_eq!((lag.events, lag.oldest), (11, Some(Moment(1590))));
    assert!((1..40_000).contains(&lag.bytes), "{lag:?}");
    assert_eq!(telemetry.lag(&oslo, 601).unwrap(), Lag::default());
}

#[tokio::test]
async fn who_waits_for_news_misses_none() {
    let dir = tempfile::tempdir().unwrap();
    let telemetry = open(&dir, "oslo");
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let telemetry = telemetry.clone();
            tokio::spawn(async move {
                let (mut cursor, mut seen) = (Cursor::default(), 0);
                while seen < 300 {
                    telemetry.grown(&cursor).await;
                    let page = telemetry.read(&cursor, 7).unwrap();
                    assert!(!page.events.is_empty());
                    seen += page.events.len();
                    cursor = page.next;
                }
            })
        })
        .collect();
    for at in 0..300 {
        let kept = telemetry.append(Epoch(1), event("pump", "", at));
        if at % 3 == 0 {
            kept.await.unwrap();
        }
    }
    for reader in readers {
        tokio::time::timeout(PATIENCE, reader).await.unwrap().unwrap();
    }
    let latest = telemetry.latest();
    let both = async { tokio::join!(telemetry.grown(&latest), telemetry.close()) };
    tokio::time::timeout(PATIENCE, both).await.unwrap();
    let late = telemetry.append(Epoch(1), event("pump", "", 0)).await;
    assert!(matches!(late, Err(NotKept::Closed)));
}

#[tokio::test]
async fn old_files_go_by_bytes_and_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let options = TelemetryOptions {
        retention_bytes: 3 * SEGMENT_BYTES_MIN,
        retention: Duration::from_micros(100),
        ..small()
    };
    let telemetry = Telemetry::open(dir.path(), region("oslo"), options).unwrap();
    let (oslo, paris) = (region("oslo"), region("paris"));
    telemetry.wait_for([paris.clone()].into());
    fill(&telemetry, 1, 500, 0).await;
    telemetry.tidy(Moment(10_000)).await.unwrap();
    assert_eq!(telemetry.starts()[&oslo], 0, "the partner has none of it, and there is room");
    telemetry.pulled(&paris, &oslo, 300);
    telemetry.tidy(Moment(10_000)).await.unwrap();
    let start = telemetry.starts()[&oslo];
    assert!((1..=300).contains(&start), "{start}");
    assert_eq!(telemetry.stats().expired, start);
    fill(&telemetry, 1, 1000, 1000).await;
    let stats = telemetry.stats();
    assert_eq!(stats.expired, telemetry.starts()[&oslo]);
    assert!(stats.expired_unpulled > 0 && stats.bytes <= 4 * SEGMENT_BYTES_MIN, "{stats:?}");
    let begun = Cursor(BTreeMap::from([(oslo.clone(), 1)]));
    let page = telemetry.read(&begun, 1).unwrap();
    assert_eq!(page.missed, BTreeMap::from([(oslo.clone(), stats.expired - 1)]));
    assert_eq!(page.events[0].offset, stats.expired);
    assert!(telemetry.read(&Cursor::default(), 1).unwrap().missed.is_empty(), "it had not begun");
    let gone = telemetry.raw(&oslo, 0, 100).unwrap_err();
    assert!(matches!(gone, TelemetryError::Gone { start, .. } if start == stats.expired), "{gone}");
}

#[test]
fn a_directory_is_open_once_and_options_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(&dir, "oslo");
    let error = Telemetry::open(dir.path(), region("oslo"), small()).unwrap_err();
    assert!(error.to_string().contains("is in use by another process"), "{error}");
    drop(first);
    drop(open(&dir, "oslo"));
    let tiny = TelemetryOptions { segment_bytes: 1, ..small() };
    let error = Telemetry::open(dir.path(), region("oslo"), tiny).unwrap_err();
    assert_eq!(error.to_string(), "the telemetry option segment_bytes must be between 64 KiB and 256 MiB");
    std::fs::write(dir.path().join("oslo").join("7.log"), b"something").unwrap();
    let error = Telemetry::open(dir.path(), region("oslo"), small()).unwrap_err();
    assert!(matches!(error, TelemetryError::Foreign { .. }), "{error}");
}
