//! What another hub has is imported here.

use super::*;

/// A thousand devices, of all sorts, and modules of some.
async fn thousand(hub: &Hub) -> u64 {
    hub.fill((0..1000).map(device)).await;
    hub.fill(
        (0..1000).step_by(50).flat_map(|number| [module(number, "valve"), module(number, "$edgeAgent")]),
    )
    .await;
    1000 + 40
}

#[tokio::test]
async fn a_thousand_devices_are_taken_over_whole_and_once() {
    let (far, near) = (FarHub::open().await, Hub::open("paris").await);
    let count = thousand(&far.hub).await;
    let mut member = far.member(&near, |_| {});
    let (done, plan) = run(&mut member, Manner::Plan).await;
    assert_eq!((done, counts(&plan), near.own()), (Ok(()), (count, 0, 0, 0), near.own()));
    assert_eq!(near.all().len(), 0, "a plan changes nothing");

    assert_eq!(counts(&whole(&mut member).await), (count, 0, 0, 0));
    assert_eq!(shown_of(&near), shown_of(&far.hub));
    let (here, there) = (near.get("pump-0050").unwrap(), far.hub.get("pump-0050").unwrap());
    assert_eq!((&here.etag, &here.twin_etag), (&there.etag, &there.twin_etag));
    assert_eq!(here.reported.value, json!({"firmware": "1.2"}));
    assert_eq!(near.fleet.registry().counts().disabled, 100);

    // Again, and by somebody who has never seen either.
    let (own, far_own) = (near.own(), far.hub.own());
    assert_eq!(counts(&whole(&mut member).await), (0, 0, 0, count));
    assert_eq!(counts(&whole(&mut far.member(&near, |_| {})).await), (0, 0, 0, count));
    assert_eq!((near.own(), far.hub.own()), (own, far_own), "nothing was written");
}

#[tokio::test]
async fn what_changes_there_changes_here_and_only_that() {
    let (far, near) = (FarHub::open().await, Hub::open("paris").await);
    far.hub.fill((0..20).map(device)).await;
    far.hub.fill([module(3, "valve"), module(4, "valve")]).await;
    let mut member = far.member(&near, |_| {});
    whole(&mut member).await;
    near.fill([json!({"id": "own"})]).await;
    far.hub
        .fill([
            json!({"id": "pump-0002", "status": "disabled", "statusReason": "lost"}),
            json!({"id": "pump-0010", "status": "enabled", "statusReason": ""}),
            json!({"id": "pump-0005", "authentication": {"type": "sas", "symmetricKey":
                {"primaryKey": "bmV3LW5ldy1uZXctbmV3", "secondaryKey": "bmV3LW5ldy1uZXctbmV3"}}}),
            json!({"id": "pump-0006", "importMode": "updateTwin", "tags": {"place": "oslo"}, "properties": {"desired": {}}}),
            json!({"id": "pump-0003", "moduleId": "valve", "importMode": "updateTwin", "tags": {}}),
            json!({"id": "pump-0007", "importMode": "delete"}),
            json!({"id": "pump-0004", "moduleId": "valve", "importMode": "delete"}),
            json!({"id": "new"}),
        ])
        .await;
    let report = whole(&mut member).await;
    assert_eq!((counts(&report), report.only_here), ((1, 5, 0, 15), 3));
    assert_eq!(near.get("pump-0010").unwrap().reason, "", "a reason that was taken away is gone");
    assert!(near.get("pump-0007").is_some() && near.get("own").is_some(), "nothing is deleted without prune");
    let own = near.own();
    let report = whole(&mut member).await;
    assert_eq!((counts(&report), report.only_here, near.own()), ((0, 0, 0, 21), 3, own));

    let mut pruning = far.member(&near, |setting| setting.prune = true);
    let (_, plan) = run(&mut pruning, Manner::Plan).await;
    assert_eq!((plan.deleted, near.own()), (3, own));
    let report = whole(&mut pruning).await;
    assert_eq!((counts(&report), report.only_here), ((0, 0, 3, 21), 3));
    assert_eq!(shown_of(&near), shown_of(&far.hub));
    let own = near.own();
    let report = whole(&mut pruning).await;
    assert_eq!((counts(&report), report.only_here, near.own()), ((0, 0, 0, 21), 0, own));
}

#[tokio::test]
async fn a_device_that_was_made_anew_there_is_another_one_here_only_where_devices_may_be_deleted() {
    let (far, near) = (FarHub::open().await, Hub::open("paris").await);
    far.hub.fill([device(3), module(3, "valve")]).await;
    let mut member = far.member(&near, |_| {});
    whole(&mut member).await;
    let first = near.get("pump-0003").unwrap().generation.clone();
    far.hub.fill([json!({"id": "pump-0003", "importMode": "delete"})]).await;
    far.hub.fill([device(3)]).await;
    assert_eq!(counts(&whole(&mut member).await), (0, 1, 0, 0));
    let updated = near.get("pump-0003").unwrap();
    assert_eq!((&updated.generation, &updated.auth), (&first, &far.hub.get("pump-0003").unwrap().auth));
    let mut pruning = far.member(&near, |setting| setting.prune = true);
    assert_eq!(counts(&whole(&mut pruning).await), (1, 0, 1, 0));
    assert_eq!(shown_of(&near), shown_of(&far.hub));
    assert_eq!(counts(&whole(&mut pruning).await), (0, 0, 0, 1));
}

#[tokio::test]
async fn what_was_changed_here_is_put_right_and_a_hub_that_stops_serving_takes_nothing_over() {
    let (far, near) = (FarHub::open().await, Hub::open("paris").await);
    far.hub.fill((0..5).map(device)).await;
    let mut member = far.member(&near, |_| {});
    whole(&mut member).await;
    near.fill([
        json!({"id": "pump-0001", "status": "disabled"}),
        json!({"id": "pump-0002", "importMode": "updateTwin", "tags": {"mine": 1}}),
    ])
    .await;
    near.fleet.stand_by();
    let own = near.own();
    let (done, report) = run(&mut member, Manner::Do).await;
    assert_eq!((done, near.own()), (Err(RunError::Stopped), own));
    assert!(report.error.unwrap().contains("stopped serving"));
    near.fleet.open_to_devices(Epoch(3), Standing::Current);
    assert_eq!(counts(&whole(&mut member).await), (0, 2, 0, 3));
    assert_eq!(shown_of(&near), shown_of(&far.hub));
}

#[tokio::test]
async fn an_empty_list_deletes_nothing() {
    let (far, near) = (FarHub::open().await, Hub::open("paris").await);
    near.fill((0..5).map(device)).await;
    let report = whole(&mut far.member(&near, |setting| setting.prune = true)).await;
    assert_eq!((counts(&report), report.only_here, near.all().len()), ((0, 0, 0, 0), 5, 5));
    assert!(report.note.unwrap().contains("nothing was deleted"));
}

#[tokio::test]
async fn a_policy_without_the_right_is_named() {
    let (far, near) = (FarHub::open().await, Hub::open("paris").await);
    far.hub.fill([device(2)]).await;
    let policies = far.hub.fleet.registry().policies().unwrap();
    let device_only = policies.iter().find(|policy| policy.name == "device").unwrap();
    let mut member = far.member(&near, |setting| {
        let from = setting.connection_string.clone();
        let owner = from.split("SharedAccessKey=").nth(1).unwrap().split(';').next().unwrap();
        setting.connection_string =
            from.replace("=iothubowner", "=device").replace(owner, &device_only.primary);
    });
    let (done, _) = run(&mut member, Manner::Do).await;
    let error = done.unwrap_err().to_string();
    assert!(error.contains("far.test does not let the policy device do that"), "{error}");
    assert!(!error.contains(&device_only.primary), "{error}");
}
