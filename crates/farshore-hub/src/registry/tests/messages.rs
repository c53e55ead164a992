//! Messages to devices, groups and policies.

use super::*;

fn message(id: Option<&str>, body: &'static str, ack: Ack) -> Message {
    let mut message = Message::new(bytes::Bytes::from_static(body.as_bytes()));
    message.system.extend(id.map(|id| ("$.mid".to_owned(), id.to_owned())));
    message.ack = ack;
    message
}

#[tokio::test]
async fn messages_wait_end_and_are_heard_of_in_both_regions() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    let pump = key("pump");
    assert!(matches!(
        oslo.push_message(&pump, message(None, "x", Ack::None)).await,
        Err(PushError::UnknownDevice(_))
    ));
    create(&oslo, "pump").await;
    let first = oslo.push_message(&pump, message(Some("one"), "open", Ack::Full)).await.unwrap();
    oslo.push_message(&pump, message(Some("one"), "open", Ack::Full)).await.unwrap();
    let other = oslo.push_message(&pump, message(Some("one"), "close", Ack::None)).await.unwrap();
    assert_ne!(first.id, other.id, "another message that was given the same id");
    assert_eq!(oslo.messages(&pump).unwrap().len(), 2, "the same, sent again, is the same");
    assert_eq!(oslo.count_delivery(&pump, "one").await.unwrap(), Some(1));
    follow(&oslo, &paris).await;
    assert!(paris.finish_message(&pump, "one", Outcome::Delivered).await.unwrap());
    assert!(!paris.finish_message(&pump, "one", Outcome::Expired).await.unwrap());
    assert_eq!(oslo.count_delivery(&pump, "one").await.unwrap(), Some(2));
    follow(&paris, &oslo).await;
    assert_eq!(oslo.messages(&pump).unwrap().len(), 1, "delivered anywhere is delivered");
    let news = oslo.feedback(9).unwrap();
    assert_eq!((news.len(), news[0].message_id.as_str(), news[0].outcome), (1, "one", Outcome::Delivered));
    oslo.take_feedback(vec![(pump.clone(), news[0].id.clone())]).await.unwrap();
    assert!(oslo.feedback(9).unwrap().is_empty());
    follow(&oslo, &paris).await;
    assert!(paris.feedback(9).unwrap().is_empty());
    let again = paris.push_message(&pump, message(Some("one"), "open", Ack::None)).await.unwrap();
    assert_eq!(again.id, "one");
    follow(&paris, &oslo).await;
    assert_eq!(oslo.messages(&pump).unwrap().len(), 2, "an id that is free again");
    assert_eq!(oslo.purge_messages(&pump).await.unwrap(), 2);
}

#[tokio::test]
async fn a_queue_has_an_end_and_belongs_to_one_life_of_the_device() {
    let oslo = Hub::new("oslo");
    let pump = key("pump");
    create(&oslo, "pump").await;
    for _ in 0..MESSAGES_PENDING_MAX {
        oslo.push_message(&pump, message(None, "x", Ack::None)).await.unwrap();
    }
    let full = oslo.push_message(&pump, message(None, "x", Ack::None)).await.unwrap_err();
    assert!(matches!(full, PushError::QueueFull(_)), "{full}");
    edit(&oslo, "pump", vec![Edit::Delete]).await.unwrap();
    create(&oslo, "pump").await;
    assert!(oslo.messages(&pump).unwrap().is_empty());
    oslo.push_message(&pump, message(None, "x", Ack::None)).await.unwrap();
}

#[tokio::test]
async fn groups_and_policies_are_shared() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    let cursor = Cursor([(region("oslo"), 12)].into());
    oslo.set_group("billing", cursor.clone()).await.unwrap();
    oslo.set_policy(Policy::new("service", Rights::SERVICE_CONNECT)).await.unwrap();
    follow(&oslo, &paris).await;
    assert_eq!(paris.groups().unwrap(), [("billing".to_owned(), cursor)].into());
    assert_eq!(paris.policies().unwrap(), oslo.policies().unwrap());
    paris.set_policy(Policy::new("service", Rights::ALL)).await.unwrap();
    oslo.set_policy(Policy::new("service", Rights::REGISTRY_READ)).await.unwrap();
    oslo.delete_group("billing").await.unwrap();
    follow(&oslo, &paris).await;
    follow(&paris, &oslo).await;
    assert_eq!((oslo.policies().unwrap(), oslo.groups().unwrap().len()), (paris.policies().unwrap(), 0));
    assert_eq!(oslo.conflicts(9).unwrap()[0].group, Group::Policy);
    paris.delete_policy("service").await.unwrap();
    follow(&paris, &oslo).await;
    assert!(oslo.policies().unwrap().is_empty() && oslo.conflicts(9).unwrap().is_empty());
}

#[tokio::test]
async fn listeners_are_told_what_a_device_must_know() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    create(&oslo, "pump").await;
    follow(&oslo, &paris).await;
    let (mut here, mut there) = (oslo.changed(), paris.changed());
    let patch = json!({"rate": 5, "gone": null});
    edit(&oslo, "pump", vec![Edit::Desired { patch: patch.clone(), replace: false }]).await.unwrap();
    assert_eq!(here.recv().await.unwrap().desired_patch, Some(patch));
    follow(&oslo, &paris).await;
    assert_eq!(there.recv().await.unwrap().desired_patch, Some(json!({"rate": 5})));
    edit(&oslo, "pump", vec![Edit::Desired { patch: json!({"mode": 1}), replace: true }]).await.unwrap();
    let change = here.recv().await.unwrap();
    assert_eq!(change.desired_patch, Some(json!({"rate": null, "mode": 1})));
    edit(&oslo, "pump", vec![Edit::Delete]).await.unwrap();
    assert!(here.recv().await.unwrap().after.is_none());
}

#[tokio::test]
async fn a_decision_that_breaks_off_spoils_only_itself() {
    let oslo = Hub::new("oslo");
    create(&oslo, "pump").await;
    let broken = oslo.change::<String>(key("pump"), |_| panic!("a bug")).await.unwrap_err();
    assert!(broken.to_string().contains("nothing was changed"), "{broken}");
    let refused =
        oslo.change(key("pump"), |device| Err(device.map(|device| device.etag.clone()))).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Refused(Some(_))));
    let none = edit(&oslo, "fan", vec![Edit::Delete]).await.unwrap_err();
    assert!(matches!(none, ChangeError::Invalid(Invalid::Missing(_))));
    let orphan = edit(&oslo, "fan/blade", vec![Edit::Create(NewDevice::with(Auth::None))]).await.unwrap_err();
    assert!(matches!(orphan, ChangeError::Invalid(Invalid::Missing(missing)) if missing == key("fan")));
    edit(&oslo, "pump", vec![Edit::Status { enabled: false, reason: String::new() }]).await.unwrap();
    assert_eq!(oslo.counts(), Counts { devices: 1, enabled: 0, disabled: 1, modules: 0 });
}
