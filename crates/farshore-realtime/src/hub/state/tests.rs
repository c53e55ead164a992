//! What comes to those who watch a group.

use super::*;
use crate::hub::call::Call;
use crate::hub::scene::Scene;

const ROLES: [&str; 2] = ["webpubsub.sendToGroup", "webpubsub.joinLeaveGroup"];

fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

fn set(scene: &mut Scene, name: &str, state: Option<&str>) -> Asked {
    let state = state.map(|state| Bytes::copy_from_slice(state.as_bytes()));
    let now = scene.now();
    scene.hub.set_group_state(&Scene::id(name), None, &group("g"), state, now).value
}

fn watch(scene: &mut Scene, name: &str) {
    assert_eq!(scene.hub.watch_group_state(&Scene::id(name), None, &group("g")).value, Asked::Done);
    scene.hub.begin_watching(&Scene::id(name), &group("g"));
}

fn told(kind: &str, items: &str) -> String {
    format!("{{\"type\":\"groupState{kind}\",\"group\":\"g\",\"items\":[{items}]}}")
}

fn item(name: &str, state: Option<&str>, at: u64) -> String {
    let state = state.map(|state| format!(",\"state\":{state}")).unwrap_or_default();
    format!("{{\"connectionId\":\"{name}\",\"userId\":\"user-{name}\"{state},\"updatedAt\":{at}}}")
}

const AT: u64 = 1_000_000;

#[test]
fn who_watches_has_a_snapshot_then_each_change() {
    let mut scene = Scene::new();
    scene.open("a", Protocol::ReliableJson, &ROLES, &["g"]);
    scene.open("b", Protocol::Json, &ROLES, &["g"]);
    assert_eq!(set(&mut scene, "a", Some(r#"{"here":"yes"}"#)), Asked::Done);
    watch(&mut scene, "b");
    assert_eq!(scene.take("b"), [told("Snapshot", &item("a", Some(r#"{"here":"yes"}"#), AT))]);
    scene.wait(5);
    set(&mut scene, "b", Some("{}"));
    assert_eq!(scene.take("b"), [told("Update", &item("b", Some("{}"), AT + 5))], "its own, too");
    set(&mut scene, "a", None);
    set(&mut scene, "a", None);
    assert_eq!(scene.take("b"), [told("Update", &item("a", None, AT + 5))], "once");
    assert_eq!(scene.take("a"), Vec::<String>::new(), "it does not watch");
    scene.hub.unwatch_group_state(&Scene::id("b"), None, &group("g"));
    set(&mut scene, "a", Some("{}"));
    assert_eq!(scene.take("b"), Vec::<String>::new());
}

#[test]
fn who_leaves_or_ends_shows_nothing_any_more() {
    let mut scene = Scene::new();
    for name in ["a", "b", "c"] {
        scene.open(name, Protocol::Json, &ROLES, &["g"]);
        set(&mut scene, name, Some("{}"));
    }
    scene.open("w", Protocol::Json, &ROLES, &[]);
    watch(&mut scene, "w");
    scene.take("w");
    let now = scene.now();
    scene.hub.call(Call::Leave { connection: Scene::id("a"), group: group("g") }, now);
    scene.hub.call(Call::LeaveAll { connection: Scene::id("b") }, now);
    scene.quit("c");
    scene.wait(0);
    let gone = |name: &str| told("Update", &item(name, None, 0));
    assert_eq!(scene.take("w"), [gone("a"), gone("b"), gone("c")]);
    scene.quit("w");
    assert!(scene.hub.board.is_empty() && scene.hub.board.groups.is_empty(), "nothing is left behind");
}

#[test]
fn only_members_who_may_send_show_something_and_all_has_limits() {
    let mut scene = Scene::new();
    scene.open("stranger", Protocol::Json, &ROLES, &[]);
    scene.open("mute", Protocol::Json, &[], &["g"]);
    scene.open("a", Protocol::Json, &ROLES, &["g"]);
    assert_eq!(set(&mut scene, "stranger", Some("{}")), Asked::Forbidden);
    assert_eq!(set(&mut scene, "mute", Some("{}")), Asked::Forbidden);
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(STATE_BYTES_MAX));
    let Asked::BadRequest(why) = set(&mut scene, "a", Some(&long)) else { panic!("too long") };
    assert_eq!(why, "the state has 4104 bytes: 4096 at most");
    let fits = &long[..STATE_BYTES_MAX];
    let mut count = 0;
    let full = loop {
        let name = format!("m{count}");
        scene.open(&name, Protocol::Json, &ROLES, &["g"]);
        match set(&mut scene, &name, Some(fits)) {
            Asked::Done => count += 1,
            refused => break refused,
        }
    };
    assert_eq!(full, Asked::BadRequest("the states of this group have 4194304 bytes already".to_owned()));
    assert_eq!(set(&mut scene, "m0", Some(fits)), Asked::Done, "in place of its own");
    watch(&mut scene, "mute");
    let frames = scene.take("mute");
    assert!(frames.iter().all(|frame| frame.len() < 2 * FRAME_BYTES), "a large group is told in parts");
    assert!(frames[0].contains("groupStateSnapshot") && frames[1].contains("groupStateUpdate"));
    let told: usize = frames.iter().map(|frame| frame.matches("connectionId").count()).sum();
    assert_eq!(told, count);
    for name in 0..count {
        scene.quit(&format!("m{name}"));
    }
    assert_eq!(scene.hub.board.groups[&group("g")].bytes, 0, "what is counted is given back");
}

#[test]
fn a_number_is_carried_out_once() {
    let mut scene = Scene::new();
    scene.open("a", Protocol::Json, &ROLES, &["g"]);
    let (id, now) = (Scene::id("a"), scene.now());
    let state = Some(Bytes::from_static(b"{}"));
    let mut set = || scene.hub.set_group_state(&id, Some(4), &group("g"), state.clone(), now).value;
    assert_eq!([set(), set()], [Asked::Done, Asked::Duplicate]);
    let mut watch = || scene.hub.watch_group_state(&id, Some(5), &group("g")).value;
    assert_eq!([watch(), watch()], [Asked::Done, Asked::Duplicate]);
    let mut unwatch = || scene.hub.unwatch_group_state(&id, Some(6), &group("g")).value;
    assert_eq!([unwatch(), unwatch()], [Asked::Done, Asked::Duplicate]);
}

#[test]
fn both_regions_see_all_and_what_is_lost_is_gone() {
    let (mut first, mut second) = (Scene::of(1), Scene::of(2));
    first.open("reliable", Protocol::ReliableJson, &ROLES, &["g"]);
    first.open("plain", Protocol::Json, &ROLES, &["g"]);
    first.open("watcher", Protocol::ReliableJson, &ROLES, &[]);
    second.open("w", Protocol::Json, &ROLES, &["g"]);
    watch(&mut second, "w");
    assert_eq!(second.take("w"), [told("Snapshot", "")]);
    for name in ["reliable", "plain"] {
        set(&mut first, name, Some("{}"));
    }
    watch(&mut first, "watcher");
    first.bring_all_to(&mut second);
    let up = |name: &str| item(name, Some("{}"), AT);
    assert_eq!(second.take("w"), [told("Update", &up("reliable")), told("Update", &up("plain"))]);
    // As a region that comes to know of it later is told.
    let mut late = Scene::of(3);
    late.open("w", Protocol::Json, &ROLES, &["g"]);
    watch(&mut late, "w");
    late.take("w");
    let now = late.now();
    late.hub.apply_snapshot(first.hub.snapshot(), now);
    let both = format!("{},{}", up("plain"), up("reliable"));
    assert_eq!(late.take("w"), [told("Snapshot", &both)]);
    // The first is lost: the reliable client comes back, the other cannot.
    drop(first);
    second.hub.adopt(now);
    assert_eq!(second.take("w"), [told("Snapshot", &up("reliable"))]);
    second.recover("watcher");
    assert_eq!(
        second.take("watcher"),
        [told("Snapshot", &up("reliable"))],
        "it watches here as it did there"
    );
    set(&mut second, "w", Some("{}"));
    assert_eq!(second.take("watcher"), [told("Update", &up("w"))]);
}
