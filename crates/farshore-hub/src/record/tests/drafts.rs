//! A draft becomes what its edits make.

use std::sync::Arc;

use super::*;
use crate::record::device::Scope;
use crate::record::{Draft, Entry};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z\"é]{0,4}".prop_map(Value::from),
        Just(json!([1.5, null, {"x": null}])),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop::collection::btree_map("[abc]{1,2}", inner, 0..3).prop_map(|members| json!(members))
    })
}

/// Mostly what can be written.
fn any_section() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => any_json(),
        1 => Just(json!({ "bad.name": 1 })),
        1 => Just(json!({ "long": "x".repeat(9000) })),
        2 => Just(json!({})),
        12 => prop::collection::btree_map("[abc]{1,2}", any_json(), 0..4).prop_map(|members| json!(members)),
    ]
}

fn any_new() -> impl Strategy<Value = NewDevice> {
    let generation = prop::option::of(
        prop_oneof![9 => "[a-z]{1,5}", 1 => Just("g".repeat(129)), 1 => Just(String::new())],
    );
    let reason = prop_oneof![9 => "[a-z]{0,5}", 1 => Just("é".repeat(129))];
    let scope = (any::<bool>(), prop::option::of("[a-z]{1,3}"), prop::collection::vec("[a-z]{1,3}", 0..2));
    (generation, "[a-z]{0,3}", any::<bool>(), reason, scope, any_section(), any_section()).prop_map(
        |(generation, auth, enabled, reason, (edge, device, parents), tags, desired)| NewDevice {
            generation: generation.map(Arc::from),
            auth: if auth.is_empty() { Auth::Authority } else { sas(&auth) },
            enabled,
            reason,
            scope: Scope { edge, device, parents },
            tags,
            desired,
        },
    )
}

fn any_etags() -> impl Strategy<Value = Edit> {
    let etag = || prop::option::of("[A-Z]{4}");
    (etag(), etag()).prop_map(|(device, twin)| Edit::Etags { device, twin })
}

fn any_making() -> impl Strategy<Value = Vec<Edit>> {
    let reported = prop::option::of(any_section().prop_map(|patch| Edit::Reported { patch, replace: true }));
    let versions = prop::option::of(
        (0u64..9, 0u64..9 << 20).prop_map(|(desired, reported)| Edit::Versions { desired, reported }),
    );
    (any_new(), reported, versions, prop::option::of(any_etags())).prop_map(
        |(new, reported, versions, etags)| {
            [Some(Edit::Create(new)), reported, versions, etags].into_iter().flatten().collect()
        },
    )
}

proptest! {
    #[test]
    fn a_draft_becomes_what_its_edits_make(edits in any_making(), epoch in 0u64..3, own in 0u64..9, others in 0u64..9) {
        let stamp = Clock::new(region("oslo"), None).now(Moment::from_millis(1_234_567));
        let mark = Mark { epoch: Epoch(epoch), stamp };
        let mut known = VersionVector::default();
        known.raise(&region("paris"), others);
        known.raise(&region("oslo"), own);
        let rules = Rules::default();
        let mut slowly = Record::vacant(known.clone());
        let made = edits.iter().try_for_each(|edit| slowly.apply(&key(), edit, &mark, &rules));
        match (made, Draft::of(edits)) {
            (Ok(()), Some(draft)) => {
                let (enabled, mut bytes) = (draft.is_enabled(), Vec::new());
                draft.make(&mark, known, &mut bytes);
                let Entry::Device(drafted) = Entry::from_bytes(&bytes).unwrap() else { unreachable!() };
                prop_assert_eq!(&*drafted, &slowly);
                prop_assert_eq!(drafted.device(&key(), &rules).map(|device| device.enabled), Some(enabled));
                prop_assert!(!drafted.has_deleted_leaves() && drafted.conflicts(&key(), &rules).is_empty());
                prop_assert_eq!(bytes, Entry::Device(Box::new(slowly)).to_bytes());
            }
            (Err(_), None) => {}
            (made, draft) => prop_assert!(false, "{made:?}, but {draft:?}"),
        }
    }
}

#[test]
fn only_what_makes_a_device_is_drafted() {
    let new = || Edit::Create(NewDevice::with(Auth::None));
    let report = |replace| Edit::Reported { patch: json!({"a": 1}), replace };
    let versions = || Edit::Versions { desired: 1, reported: 1 };
    assert!(Draft::of(vec![new(), report(true), versions()]).is_some());
    for edits in [
        vec![],
        vec![Edit::Delete],
        vec![new(), new()],
        vec![new(), report(false)],
        vec![new(), versions(), report(true)],
        vec![new(), Edit::Settle],
    ] {
        assert!(Draft::of(edits.clone()).is_none(), "{edits:?}");
    }
}
