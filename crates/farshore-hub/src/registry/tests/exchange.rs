//! What regions exchange, in any order, repeated, cut short.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

const KEYS: [&str; 4] = ["a", "a/m", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    Change {
        at: usize,
        key: usize,
        edit: u8,
        value: u8,
    },
    /// Joins one batch of so many bytes.
    Pull {
        to: usize,
        bytes: usize,
    },
    /// Joins an earlier batch again.
    Repeat(prop::sample::Index),
    Purge(usize),
    Push {
        at: usize,
        id: u8,
    },
    Finish {
        at: usize,
        id: u8,
    },
    Set {
        at: usize,
        name: u8,
        value: u8,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..2, 0usize..4, 0u8..8, 0u8..3).prop_map(|(at, key, edit, value)| Step::Change { at, key, edit, value }),
        4 => (0usize..2, prop::sample::select(vec![1, 200, 1 << 20])).prop_map(|(to, bytes)| Step::Pull { to, bytes }),
        1 => any::<prop::sample::Index>().prop_map(Step::Repeat),
        1 => (0usize..2).prop_map(Step::Purge),
        1 => (0usize..2, 0u8..3).prop_map(|(at, id)| Step::Push { at, id }),
        1 => (0usize..2, 0u8..3).prop_map(|(at, id)| Step::Finish { at, id }),
        2 => (0usize..2, 0u8..2, 0u8..3).prop_map(|(at, name, value)| Step::Set { at, name, value }),
    ]
}

fn an_edit(kind: u8, value: u8) -> Edit {
    match kind {
        0 | 1 => Edit::Create(NewDevice::with(sas(&value.to_string()))),
        2 => Edit::Delete,
        3 => Edit::Status { enabled: value > 0, reason: value.to_string() },
        4 => Edit::Auth(sas(&value.to_string())),
        5 => Edit::Tags {
            patch: json!({ "x": if value > 0 { json!(value) } else { Value::Null } }),
            replace: false,
        },
        6 => Edit::Desired { patch: json!({ "y": value }), replace: value == 0 },
        _ => Edit::Reported { patch: json!({ "z": value }), replace: false },
    }
}

fn message(id: u8) -> Message {
    let mut message = Message::new(vec![id].into());
    message.system.push(("$.mid".into(), id.to_string()));
    message
}

type Contents = (Vec<Arc<Device>>, Vec<Conflict>, Vec<Arc<Message>>, Vec<(String, Value)>);

struct Pair {
    hubs: [Hub; 2],
    batches: Vec<(usize, Batch)>,
}

impl Pair {
    async fn step(&mut self, step: &Step) {
        match step {
            Step::Change { at, key: name, edit: kind, value } => {
                let edits = vec![an_edit(*kind, *value)];
                // What makes no sense now is refused, which is fine.
                let _ = edit(&self.hubs[*at], KEYS[*name], edits).await;
            }
            Step::Pull { to, bytes } => {
                let (from, to_hub) = (&self.hubs[1 - to], &self.hubs[*to]);
                let batch = from.since(to_hub.seen(&from.region()), *bytes).unwrap();
                to_hub.join(&from.region(), batch.clone()).await.unwrap();
                self.batches.push((*to, batch));
            }
            Step::Repeat(index) => {
                if !self.batches.is_empty() {
                    let (to, batch) = index.get(&self.batches).clone();
                    let before = self.hubs[to].own();
                    let joined = self.hubs[to].join(&batch.region.clone(), batch).await.unwrap();
                    assert_eq!((joined.changed, self.hubs[to].own()), (0, before));
                }
            }
            Step::Purge(at) => {
                let stable = self.hubs[*at].stable();
                if !stable.is_empty() {
                    self.hubs[*at].purge_tombstones(&stable).await.unwrap();
                }
            }
            Step::Push { at, id } => {
                let _ = self.hubs[*at].push_message(&key("a"), message(*id)).await;
            }
            Step::Finish { at, id } => {
                self.hubs[*at].finish_message(&key("a"), &id.to_string(), Outcome::Delivered).await.unwrap();
            }
            Step::Set { at, name, value } => {
                let value = (*value > 0).then(|| json!(value));
                self.hubs[*at].set_setting("some", &name.to_string(), value).await.unwrap();
            }
        }
    }

    async fn exchange_all(&self) {
        for _ in 0..2 {
            follow(&self.hubs[0], &self.hubs[1]).await;
            follow(&self.hubs[1], &self.hubs[0]).await;
        }
    }

    /// Everything that either region has, joined by nothing but the join.
    fn expected(&self) -> std::collections::BTreeMap<EntryKey, Entry> {
        let mut all = std::collections::BTreeMap::new();
        for hub in &self.hubs {
            for bytes in hub.since(0, usize::MAX).unwrap().entries {
                let (key, entry): (&[u8], &[u8]) = postcard::from_bytes(&bytes).unwrap();
                let (key, entry) = (EntryKey::from_bytes(key).unwrap(), Entry::from_bytes(entry).unwrap());
                let joined = match all.get(&key) {
                    Some(other) => entry.join(other).unwrap(),
                    None => entry,
                };
                all.insert(key, joined);
            }
        }
        all
    }

    fn contents(hub: &Registry) -> Contents {
        let (devices, conflicts) = (hub.page(None, 100).unwrap(), hub.conflicts(100).unwrap());
        (devices, conflicts, hub.messages(&key("a")).unwrap(), hub.settings("some").unwrap())
    }
}

fn counted(devices: &[Arc<Device>]) -> Counts {
    let mut counts = Counts::default();
    for device in devices {
        counts.turn(device.key.module.is_some(), None, Some(device.enabled));
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn ends_in_the_same_place(steps in prop::collection::vec(any_step(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair { hubs: [Hub::new("oslo"), Hub::new("paris")], batches: Vec::new() };
            let purges = steps.iter().any(|step| matches!(step, Step::Purge(_)));
            for step in &steps {
                pair.step(step).await;
            }
            let expected = pair.expected();
            pair.exchange_all().await;
            let (oslo, paris) = (Pair::contents(&pair.hubs[0]), Pair::contents(&pair.hubs[1]));
            assert_eq!(oslo, paris);
            assert_eq!(pair.hubs[0].counts(), counted(&oslo.0));
            assert_eq!(pair.hubs[1].counts(), counted(&oslo.0));
            if !purges {
                assert_eq!(pair.expected(), expected, "exchanging is joining, and nothing else");
            }
            let own = pair.hubs[0].own();
            pair.exchange_all().await;
            assert_eq!(pair.hubs[0].own(), own, "once the same, nothing changes any more");
            let batches = pair.batches.clone();
            for (to, batch) in batches {
                assert_eq!(pair.hubs[to].join(&batch.region.clone(), batch).await.unwrap().changed, 0);
            }
            for hub in &pair.hubs {
                hub.purge_tombstones(&hub.stable()).await.unwrap();
            }
            pair.exchange_all().await;
            assert_eq!(Pair::contents(&pair.hubs[0]), oslo, "forgetting tombstones changes nothing");
            assert_eq!(Pair::contents(&pair.hubs[1]), oslo);
        });
    }
}

#[tokio::test]
async fn a_tombstone_is_forgotten_when_all_have_seen_it_and_nothing_comes_back() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    create(&oslo, "pump").await;
    follow(&oslo, &paris).await;
    let old = paris.since(0, usize::MAX).unwrap();
    follow(&paris, &oslo).await;
    edit(&oslo, "pump", vec![Edit::Delete]).await.unwrap();
    assert_eq!(oslo.purge_tombstones(&oslo.stable()).await.unwrap(), 0, "paris has not seen it");
    follow(&oslo, &paris).await;
    assert_eq!(oslo.purge_tombstones(&oslo.stable()).await.unwrap(), 0, "nor has paris said so");
    follow(&paris, &oslo).await;
    assert_eq!(oslo.purge_tombstones(&oslo.stable()).await.unwrap(), 1);
    assert!(oslo.since(0, usize::MAX).unwrap().entries.is_empty());
    assert_eq!(oslo.join(&region("paris"), old).await.unwrap().changed, 0);
    assert!(oslo.get(&key("pump")).unwrap().is_none());
    create(&oslo, "pump").await;
    follow(&paris, &oslo).await;
    follow(&oslo, &paris).await;
    assert_eq!(paris.get(&key("pump")).unwrap(), oslo.get(&key("pump")).unwrap());
    assert!(paris.get(&key("pump")).unwrap().is_some_and(|device| !device.conflicts));
}

#[tokio::test]
async fn a_tag_that_was_taken_away_is_not_lost_with_its_device() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    create(&oslo, "pump").await;
    let tags = |patch: Value| vec![Edit::Tags { patch, replace: false }];
    edit(&oslo, "pump", tags(json!({"x": 1, "y": 1}))).await.unwrap();
    follow(&oslo, &paris).await;
    edit(&oslo, "pump", tags(json!({"x": null, "y": 2}))).await.unwrap();
    edit(&paris, "pump", vec![Edit::Delete]).await.unwrap();
    follow(&oslo, &paris).await;
    let lost = paris.conflicts(9).unwrap();
    let paths: Vec<_> = lost.iter().map(|conflict| conflict.path.as_deref()).collect();
    assert_eq!(paths, [Some("y")], "{lost:?}");
    edit(&paris, "pump", vec![Edit::Create(NewDevice::with(sas("new")))]).await.unwrap();
    let lost = paris.conflicts(9).unwrap();
    assert!(lost.iter().all(|conflict| conflict.path.as_deref() != Some("x")), "{lost:?}");
}

#[tokio::test]
async fn a_tag_that_was_taken_away_is_not_lost_with_an_earlier_device() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    let made = |keys: &str| vec![Edit::Create(NewDevice::with(sas(keys)))];
    edit(&paris, "pump", made("earlier")).await.unwrap();
    let untagged = Edit::Tags { patch: json!({ "x": null, "y": 1 }), replace: false };
    edit(&paris, "pump", vec![untagged]).await.unwrap();
    edit(&oslo, "pump", made("later")).await.unwrap();
    follow(&paris, &oslo).await;
    let lost = oslo.conflicts(9).unwrap();
    let paths: Vec<_> = lost.iter().filter_map(|conflict| conflict.path.as_deref()).collect();
    assert_eq!(paths, ["y"], "{lost:?}");
}

#[tokio::test]
async fn a_region_that_lost_its_file_gets_all_of_it_back() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    create(&oslo, "one").await;
    create(&paris, "two").await;
    follow(&oslo, &paris).await;
    follow(&paris, &oslo).await;
    let expected = paris.page(None, 9).unwrap();
    drop(oslo);
    let oslo = Hub::new("oslo");
    create(&oslo, "new").await;
    let batch = oslo.since(paris.seen(&region("oslo")), usize::MAX).unwrap();
    let error = paris.join(&region("oslo"), batch).await.unwrap_err();
    assert!(matches!(error, JoinError::StartOver(_)), "{error}");
    follow(&paris, &oslo).await;
    assert_eq!(
        oslo.page(None, 9).unwrap().len(),
        3,
        "what it had made before its loss is not taken for deleted"
    );
    follow(&oslo, &paris).await;
    assert_eq!(paris.page(None, 9).unwrap(), oslo.page(None, 9).unwrap());
    assert!(expected.iter().all(|device| paris.get(&device.key).unwrap().as_ref() == Some(device)));
}

#[tokio::test]
async fn an_old_copy_of_a_file_is_noticed() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    create(&oslo, "one").await;
    follow(&oslo, &paris).await;
    follow(&paris, &oslo).await;
    let dir = oslo.dir;
    drop(oslo.registry);
    let copy = std::fs::read(dir.path().join("registry.redb")).unwrap();
    let later = Registry::open(dir.path(), region("oslo")).unwrap();
    create(&later, "two").await;
    create(&later, "three").await;
    follow(&later, &paris).await;
    drop(later);
    std::fs::write(dir.path().join("registry.redb"), copy).unwrap();
    let oslo = Registry::open(dir.path(), region("oslo")).unwrap();
    follow(&paris, &oslo).await;
    assert_eq!(oslo.page(None, 9).unwrap().len(), 3);
    create(&oslo, "four").await;
    let batch = oslo.since(paris.seen(&region("oslo")), usize::MAX).unwrap();
    assert!(matches!(paris.join(&region("oslo"), batch).await, Err(JoinError::StartOver(_))));
    follow(&oslo, &paris).await;
    assert_eq!(paris.page(None, 9).unwrap(), oslo.page(None, 9).unwrap());
}

#[tokio::test]
async fn a_batch_of_a_clock_far_ahead_is_refused_as_a_whole() {
    let wall = Arc::new(AtomicU64::new(1_000_000_000));
    let shown = Arc::clone(&wall);
    let options = Options {
        wall: Arc::new(move || Moment::from_millis(shown.load(Ordering::SeqCst))),
        ..Options::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let oslo = Registry::open_with(dir.path(), region("oslo"), options.clone()).unwrap();
    create(&oslo, "good").await;
    wall.fetch_add(61_000, Ordering::SeqCst);
    create(&oslo, "wild").await;
    wall.fetch_sub(61_000, Ordering::SeqCst);
    let dir = tempfile::tempdir().unwrap();
    let paris = Registry::open_with(dir.path(), region("paris"), options).unwrap();
    let batch = oslo.since(0, usize::MAX).unwrap();
    let error = paris.join(&region("oslo"), batch.clone()).await.unwrap_err();
    assert!(matches!(error, JoinError::TooFarAhead(_)), "{error}");
    assert_eq!((paris.page(None, 9).unwrap().len(), paris.seen(&region("oslo"))), (0, 0));
    wall.fetch_add(2_000, Ordering::SeqCst);
    assert_eq!(paris.join(&region("oslo"), batch).await.unwrap().changed, 2);
    let made = create(&paris, "later").await.after.unwrap();
    assert!(made.created >= Moment::from_millis(1_000_061_000), "later than what it knows of");
}

#[tokio::test]
async fn damaged_and_foreign_batches_change_nothing() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    create(&oslo, "pump").await;
    create(&oslo, "fan").await;
    let mut batch = oslo.since(0, usize::MAX).unwrap();
    if let Some(last) = batch.entries.last_mut() {
        last.truncate(last.len() / 2);
    }
    assert!(matches!(paris.join(&region("oslo"), batch).await, Err(JoinError::Unreadable(_))));
    assert_eq!((paris.own(), paris.seen(&region("oslo"))), (0, 0));
    let mut batch = oslo.since(0, usize::MAX).unwrap();
    assert!(matches!(paris.join(&region("rome"), batch.clone()).await, Err(JoinError::OtherRegion { .. })));
    paris.join(&region("oslo"), batch.clone()).await.unwrap();
    (batch.from, batch.upto, batch.last) = (9, 9, 9);
    assert!(matches!(paris.join(&region("oslo"), batch).await, Err(JoinError::Gap { from: 9, seen: 2 })));
    assert!(Batch::from_bytes(b"").is_err() && Batch::from_bytes(b"\x01\x80").is_err());
}

#[tokio::test]
async fn rules_are_shared_and_change_what_is_read() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    create(&oslo, "pump").await;
    follow(&oslo, &paris).await;
    edit(&oslo, "pump", vec![Edit::Status { enabled: false, reason: "stolen".into() }]).await.unwrap();
    edit(&paris, "pump", vec![Edit::Auth(sas("p"))]).await.unwrap();
    edit(&paris, "pump", vec![Edit::Status { enabled: true, reason: String::new() }]).await.unwrap();
    follow(&oslo, &paris).await;
    follow(&paris, &oslo).await;
    assert_eq!(oslo.counts().disabled, 1);
    let batch = paris.since(0, usize::MAX).unwrap();
    let rules = Rules { policy: MergePolicy::Manual, primary: Some(region("paris")) };
    let report = oslo.preview_with(&batch, &rules).unwrap();
    assert_eq!((report.held, report.conflicts.len()), (1, 1));
    assert!(serde_json::to_string(&report).unwrap().contains("\"why\":\"held\""));
    oslo.set_rules(rules.clone()).await.unwrap();
    follow(&oslo, &paris).await;
    for hub in [&oslo, &paris] {
        assert_eq!((hub.rules(), hub.counts().disabled), (rules.clone(), 0));
        assert!(hub.get(&key("pump")).unwrap().unwrap().enabled);
    }
}
