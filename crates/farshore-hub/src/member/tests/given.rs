//! What this hub has is given to another one.

use super::*;

fn to(setting: &mut MemberSetting) {
    setting.direction = Direction::To;
}

#[tokio::test]
async fn the_other_hub_is_given_what_it_lacks_and_then_nothing() {
    let (far, near) = (FarHub::open().await, Hub::open("paris").await);
    near.fill((0..250).map(device)).await;
    near.fill((0..250).step_by(50).map(|number| module(number, "valve"))).await;
    far.hub.fill([json!({"id": "own"})]).await;
    let mut member = far.member(&near, to);
    let (_, plan) = run(&mut member, Manner::Plan).await;
    assert_eq!((counts(&plan), far.hub.all().len()), ((255, 0, 0, 0), 1));
    let report = whole(&mut member).await;
    assert_eq!((counts(&report), report.only_here, report.only_there), ((255, 0, 0, 0), 255, 1));
    let there: Vec<Value> = shown_of(&far.hub).into_iter().filter(|device| device["key"] != "own").collect();
    assert_eq!(there, shown_of(&near));
    let (own, far_own) = (near.own(), far.hub.own());
    assert_eq!(counts(&whole(&mut member).await), (0, 0, 0, 255));
    assert_eq!(counts(&whole(&mut far.member(&near, to)).await), (0, 0, 0, 255));
    assert_eq!((near.own(), far.hub.own()), (own, far_own), "nothing was written");
}

#[tokio::test]
async fn what_changes_on_either_side_is_made_as_it_is_here() {
    let (far, near) = (FarHub::open().await, Hub::open("paris").await);
    near.fill((0..10).map(device)).await;
    near.fill([module(3, "valve")]).await;
    let mut member = far.member(&near, to);
    whole(&mut member).await;
    near.fill([
        json!({"id": "pump-0001", "status": "disabled", "statusReason": "lost"}),
        json!({"id": "pump-0002", "importMode": "updateTwin", "tags": {"place": "oslo"}, "properties": {"desired": {"a": {"b": 1}}}}),
        json!({"id": "pump-0003", "moduleId": "valve", "importMode": "updateTwin", "tags": {}}),
        json!({"id": "pump-0004", "importMode": "delete"}),
    ])
    .await;
    far.hub.fill([json!({"id": "pump-0005", "status": "disabled"}), json!({"id": "own"})]).await;
    let report = whole(&mut member).await;
    assert_eq!((counts(&report), report.only_there), ((0, 4, 0, 6), 2));
    assert!(far.hub.get("pump-0004").is_some() && far.hub.get("own").is_some());
    let mut pruning = far.member(&near, |setting| {
        to(setting);
        setting.prune = true;
    });
    assert_eq!(counts(&whole(&mut pruning).await), (0, 0, 2, 10));
    assert_eq!(shown_of(&far.hub), shown_of(&near));
    assert_eq!(counts(&whole(&mut pruning).await), (0, 0, 0, 10));
}

#[tokio::test]
async fn a_hub_without_devices_deletes_nothing_there() {
    let (far, near) = (FarHub::open().await, Hub::open("paris").await);
    far.hub.fill((0..5).map(device)).await;
    let mut pruning = far.member(&near, |setting| {
        to(setting);
        setting.prune = true;
    });
    let report = whole(&mut pruning).await;
    assert_eq!((counts(&report), report.only_there, far.hub.all().len()), ((0, 0, 0, 0), 5, 5));
    assert!(report.note.unwrap().contains("nothing was deleted there"));
}
