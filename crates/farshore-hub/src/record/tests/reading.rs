//! What a record reads as, and what its etags and versions promise.

use super::*;
use crate::record::conflict::{Conflict, Group, Why};
use crate::record::rules::MergePolicy;
use crate::record::view::Device;

fn read(record: &Record) -> Option<Device> {
    record.device(&key(), &Rules::default())
}

/// What the etag of a device stands for.
fn identity(device: &Device) -> (String, bool, String, Auth, crate::record::Scope) {
    let Device { generation, enabled, reason, auth, scope, .. } = device;
    (generation.to_string(), *enabled, reason.clone(), auth.clone(), scope.clone())
}

fn twin(device: &Device) -> (String, Value, Value, u64) {
    let Device { generation, tags, desired, .. } = device;
    (generation.to_string(), tags.clone(), desired.value.clone(), desired.version)
}

#[test]
fn an_etag_is_stale_after_a_change_also_when_that_was_taken_back() {
    let mut world = World::with_device();
    world.act(0, 1, &Act::Tag("a", Some(1)));
    let etags =
        |world: &World| read(&world.records[0]).map(|device| (device.etag, device.twin_etag)).unwrap();
    let (identity, twin) = etags(&world);
    world.act(0, 2, &Act::Report("a", Some(1)));
    world.act(0, 2, &Act::Subscribe(1));
    assert_eq!(etags(&world), (identity.clone(), twin.clone()), "something else was written");
    world.act(0, 3, &Act::Enable(false));
    world.act(0, 4, &Act::Enable(true));
    world.act(0, 5, &Act::Tag("a", Some(2)));
    world.act(0, 6, &Act::Tag("a", Some(1)));
    let after = etags(&world);
    assert_ne!(after.0, identity);
    assert_ne!(after.1, twin);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn an_etag_stands_for_one_content_and_changes_with_nothing_else(steps in any_steps()) {
        let mut world = World::with_device();
        let mut seen: Vec<Device> = world.records.iter().filter_map(read).collect();
        for (at, wall, act) in &steps {
            let before = read(&world.records[*at]);
            world.act(*at, *wall, act);
            let after = read(&world.records[*at]);
            if let (Some(before), Some(after), Act::Report(..) | Act::Subscribe(..)) = (&before, &after, act) {
                prop_assert_eq!((&before.etag, &before.twin_etag), (&after.etag, &after.twin_etag));
            }
            seen.extend(after);
        }
        for (one, two) in seen.iter().flat_map(|one| seen.iter().map(move |two| (one, two))) {
            prop_assert!(one.etag != two.etag || identity(one) == identity(two));
            prop_assert!(one.twin_etag != two.twin_etag || twin(one) == twin(two));
        }
        let all = world.records[0].join(&world.records[1]).join(&world.records[2]);
        let other = world.records[2].join(&world.records[0]).join(&world.records[1]);
        let etags = |record: &Record| read(record).map(|device| (device.etag, device.twin_etag));
        prop_assert_eq!(etags(&all), etags(&other));
    }

    #[test]
    fn versions_never_go_back_and_rise_with_every_change(steps in any_steps()) {
        let mut world = World::with_device();
        for (at, wall, act) in &steps {
            let before = read(&world.records[*at]);
            let mark = world.act(*at, *wall, act);
            let (Some(before), Some(after)) = (before, read(&world.records[*at])) else { continue };
            for (was, is) in [(&before.desired, &after.desired), (&before.reported, &after.reported)] {
                prop_assert!(was.version <= is.version);
                let changed = was.value != is.value && before.generation == after.generation;
                prop_assert!(!changed || was.version < is.version, "{:?} {:?} {:?}", act, was, is);
                prop_assert!(is.version < 1 << 53);
            }
            if let (Some(mark), Act::Desire(..)) = (mark, act) {
                prop_assert!(after.desired.version > mark.epoch.0 << 20, "above all that an earlier epoch used");
            }
        }
    }

    #[test]
    fn what_nobody_replaced_is_listed(steps in any_steps()) {
        let mut world = World::with_device();
        for (at, wall, act) in &steps {
            world.act(*at, *wall, act);
        }
        let all = world.records[0].join(&world.records[1]).join(&world.records[2]);
        let conflicts = all.conflicts(&key(), &Rules::default());
        if let Some(device) = read(&all) {
            prop_assert_eq!(device.conflicts, !conflicts.is_empty());
            let lost = conflicts.iter().filter(|conflict| conflict.group == Group::Auth).count();
            prop_assert!(device.quarantined.is_empty() || lost == 1);
        }
        // A person's decision ends all conflicts, and changes nothing that can be seen.
        world.records[0] = all.clone();
        world.clocks = vec![Clock::new(region("oslo"), Some(&Stamp { millis: 99, counter: 0, region: region("oslo") })); 3];
        world.act(0, 100, &Act::Settle);
        let settled = &world.records[0];
        prop_assert!(settled.conflicts(&key(), &Rules::default()).is_empty());
        prop_assert_eq!(read(settled).is_some(), read(&all).is_some());
        if let (Some(before), Some(after)) = (read(&all), read(settled)) {
            prop_assert_eq!((identity(&before), twin(&before)), (identity(&after), twin(&after)));
            prop_assert_eq!(before.reported.value, after.reported.value);
        }
        prop_assert!(settled.join(&all).conflicts(&key(), &Rules::default()).is_empty());
    }
}

/// Both regions know the device; then each does its own.
fn split(oslo: &[Act], paris: &[Act]) -> Record {
    let mut world = World::with_device();
    for (at, acts) in [(0, oslo), (1, paris)] {
        for (number, act) in acts.iter().enumerate() {
            // Paris is later by the wall.
            world.act(at, 10 + at as u64 * 10 + number as u64, act);
        }
    }
    let joined = world.records[0].join(&world.records[1]);
    assert_eq!(joined, world.records[1].join(&world.records[0]));
    joined
}

fn one_conflict(record: &Record, rules: &Rules) -> Conflict {
    let mut conflicts = record.conflicts(&key(), rules);
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    conflicts.remove(0)
}

#[test]
fn disabled_stays_disabled_unless_enabled_in_sight_of_it() {
    let record = split(&[Act::Enable(false)], &[Act::Activate, Act::Enable(true)]);
    assert!(!read(&record).unwrap().enabled);
    assert_eq!(one_conflict(&record, &Rules::default()).why, Why::DisabledWins);
    let mut world = World::with_device();
    world.act(0, 2, &Act::Enable(false));
    world.act(1, 3, &Act::Hear(0));
    world.act(1, 4, &Act::Enable(true));
    world.act(0, 5, &Act::Hear(1));
    assert!(read(&world.records[0]).unwrap().enabled);
}

#[test]
fn a_deletion_beats_changes_that_did_not_know_of_it_and_lists_them() {
    let record = split(&[Act::Delete], &[Act::Activate, Act::Tag("x", Some(3)), Act::Enable(false)]);
    assert!(read(&record).is_none());
    let conflicts = record.conflicts(&key(), &Rules::default());
    let shown: Vec<_> =
        conflicts.iter().map(|conflict| (conflict.group, conflict.losers[0].value.clone())).collect();
    assert_eq!(shown, [(Group::Status, json!("disabled")), (Group::Tags, json!(3))]);
    assert!(conflicts.iter().all(|conflict| conflict.why == Why::DeletionWins));
}

#[test]
fn a_device_made_anew_later_wins_and_shows_nothing_of_the_old_one() {
    let record = split(&[Act::Tag("x", Some(1)), Act::Auth(2)], &[Act::Delete, Act::Create(1)]);
    let device = read(&record).unwrap();
    assert_eq!((device.auth, device.tags, device.quarantined), (sas("1"), json!({}), vec![sas("2")]));
    assert!(
        record
            .conflicts(&key(), &Rules::default())
            .iter()
            .all(|conflict| conflict.why == Why::OtherGeneration)
    );
    let record = split(&[Act::Delete], &[Act::Delete, Act::Create(1)]);
    assert!(read(&record).is_some());
}

#[test]
fn devices_made_at_once_with_the_same_keys_are_one() {
    let twice = |auth: [u8; 2]| {
        let mut world = World::with_device();
        world.act(0, 2, &Act::Delete);
        world.act(1, 3, &Act::Hear(0));
        for at in 0..2 {
            world.act(at, 4, &Act::Create(auth[at]));
            world.act(at, 5, &Act::Tag(["x", "y"][at], Some(1)));
        }
        read(&world.records[0].join(&world.records[1])).unwrap()
    };
    let union = twice([1, 1]);
    assert_eq!((union.tags, union.quarantined), (json!({"x": 1, "y": 1}), vec![]));
    let other = twice([1, 2]);
    assert_eq!((other.tags, other.auth, other.quarantined), (json!({"y": 1}), sas("2"), vec![sas("1")]));
}

#[test]
fn reported_properties_are_never_mixed() {
    let record = split(&[Act::Report("x", Some(1)), Act::Report("y", Some(1))], &[Act::Report("x", Some(2))]);
    assert_eq!(read(&record).unwrap().reported.value, json!({"x": 2}));
    let record = split(
        &[Act::Activate, Act::Report("x", Some(1)), Act::Report("y", Some(1))],
        &[Act::Report("x", Some(2))],
    );
    assert_eq!(read(&record).unwrap().reported.value, json!({"x": 1, "y": 1}), "the newer session");
}

#[test]
fn policies_change_who_is_shown_and_nothing_that_is_kept() {
    let record =
        split(&[Act::Activate, Act::Auth(1), Act::Enable(false)], &[Act::Auth(2), Act::Enable(true)]);
    for (policy, auth, enabled, why) in [
        (MergePolicy::ByGroup, "1", false, Why::LaterEpoch),
        (MergePolicy::ActiveEpochWins, "1", false, Why::LaterEpoch),
        (MergePolicy::Newest, "2", true, Why::Later),
        (MergePolicy::PrimaryWins, "2", true, Why::Preferred),
        (MergePolicy::SecondaryWins, "1", false, Why::Preferred),
        (MergePolicy::Manual, "2", true, Why::Held),
    ] {
        let rules = Rules { policy, primary: Some(region("paris")) };
        let device = record.device(&key(), &rules).unwrap();
        assert_eq!((device.auth, device.enabled), (sas(auth), enabled), "{policy:?}");
        let conflicts = record.conflicts(&key(), &rules);
        assert_eq!(conflicts.iter().find(|conflict| conflict.group == Group::Auth).unwrap().why, why);
        assert_eq!(MergePolicy::parse(policy.as_str()), Some(policy));
    }
}

#[test]
fn keys_are_shown_as_fingerprints() {
    let record = split(&[Act::Auth(1)], &[Act::Auth(2)]);
    let shown = serde_json::to_string(&one_conflict(&record, &Rules::default())).unwrap();
    assert!(
        shown.contains("sha256:")
            && !shown.contains("\"1\"")
            && !format!("{:?}", sas("secret")).contains("secret")
    );
}

#[test]
fn objects_and_plain_values_of_one_name_read_the_same_everywhere() {
    let nested = |record: &mut Record, clock: &mut Clock, wall: u64, patch: Value| {
        let mark = Mark { epoch: Epoch(0), stamp: clock.now(Moment::from_millis(wall)) };
        record.apply(&key(), &Edit::Desired { patch, replace: false }, &mark, &Rules::default()).unwrap();
    };
    let mut world = World::with_device();
    let (mut oslo, mut paris) = (world.records.remove(0), world.records.remove(0));
    nested(&mut oslo, &mut world.clocks[0], 10, json!({"a": {"b": {"c": 1}}, "l": [1, {"m": null}]}));
    nested(&mut paris, &mut world.clocks[1], 20, json!({"a": 5, "e": {}}));
    let mut joined = oslo.join(&paris);
    assert_eq!(joined, paris.join(&oslo));
    let value = |record: &Record| read(record).unwrap().desired.value;
    assert_eq!(value(&joined), json!({"a": 5, "e": {}, "l": [1, {"m": null}]}));
    nested(&mut joined, &mut world.clocks[1], 30, json!({"a": null}));
    assert_eq!(
        value(&joined),
        json!({"e": {}, "l": [1, {"m": null}]}),
        "what was hidden does not come to light"
    );
    nested(&mut joined, &mut world.clocks[1], 31, json!({"e": {"f": 1}}));
    nested(&mut joined, &mut world.clocks[1], 32, json!({"e": {"f": null}}));
    assert_eq!(value(&joined), json!({"e": {}, "l": [1, {"m": null}]}));
    let metadata = read(&joined).unwrap().desired.metadata;
    assert_eq!(metadata["$lastUpdated"], "1970-01-01T00:00:00.032Z");
    assert_eq!(metadata["l"]["$lastUpdated"], "1970-01-01T00:00:00.010Z");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let deep = (0..12).fold(json!(1), |inner, _| json!({ "a": inner }));
    for (patch, why) in [
        (json!([1]), "must be a JSON object"),
        (json!({"a.b": 1}), "contains the name \"a.b\""),
        (json!({"$version": 1}), "contains the name \"$version\""),
        (json!({"a": [{"": 1}]}), "contains the name \"\""),
        (deep, "nested more than 10 deep"),
        (json!({"a": "x".repeat(33_000)}), "at most 32768 are allowed"),
    ] {
        let mut world = World::with_device();
        let mark = Mark { epoch: Epoch(0), stamp: world.clocks[0].now(Moment(9)) };
        let edit = Edit::Desired { patch, replace: false };
        let error = world.records[0].apply(&key(), &edit, &mark, &Rules::default()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}
