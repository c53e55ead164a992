//! Settings of the hub, in one region and in two.

use serde_json::json;

use super::*;
use crate::registry::{BadSetting, SETTING_BYTES_MAX, SETTINGS_MAX};

fn bad(result: Result<(), RegistryError>) -> BadSetting {
    match result {
        Err(RegistryError::Setting(bad)) => bad,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn settings_of_a_kind_are_read_by_name_and_are_there_after_reopening() {
    let hub = Hub::new("oslo");
    let mut changes = hub.settings_changed();
    hub.set_setting("authorities", "root", Some(json!({"pem": "x"}))).await.unwrap();
    hub.set_setting("authorities", "old", Some(json!({"pem": "y"}))).await.unwrap();
    hub.set_setting("authoritie", "s", Some(json!(1))).await.unwrap();
    assert_eq!(*changes.borrow_and_update(), 3);
    hub.set_setting("authorities", "root", Some(json!({"pem": "x"}))).await.unwrap();
    hub.set_setting("authorities", "never", None).await.unwrap();
    assert!(!changes.has_changed().unwrap(), "nothing changed");
    hub.set_setting("authorities", "old", None).await.unwrap();
    assert!(changes.has_changed().unwrap());
    let expected = vec![("root".to_owned(), json!({"pem": "x"}))];
    assert_eq!(hub.settings("authorities").unwrap(), expected);
    let Hub { registry, dir } = hub;
    drop(registry);
    let again = Registry::open(dir.path(), region("oslo")).unwrap();
    assert_eq!(again.settings("authorities").unwrap(), expected);
    assert_eq!(again.settings("sinks").unwrap(), vec![]);
    assert_eq!(*again.settings_changed().borrow(), 0);
}

#[tokio::test]
async fn what_cannot_be_a_setting_is_refused_with_words() {
    let hub = Hub::new("oslo");
    let long = "x".repeat(65);
    for name in ["", "a b", "a/b", "ä", "a\0b", &long] {
        assert!(matches!(bad(hub.set_setting("sinks", name, Some(json!(1))).await), BadSetting::Name(_)));
        assert!(matches!(bad(hub.set_setting(name, "one", Some(json!(1))).await), BadSetting::Name(_)));
    }
    let large = json!("x".repeat(SETTING_BYTES_MAX));
    let refused = bad(hub.set_setting("sinks", "one", Some(large)).await);
    assert!(refused.to_string().contains("at most 65536"), "{refused}");
    let fits = json!("x".repeat(SETTING_BYTES_MAX - 2));
    hub.set_setting("sinks", "s0", Some(fits)).await.unwrap();
    for number in 1..SETTINGS_MAX {
        hub.set_setting("sinks", &format!("s{number}"), Some(json!(number))).await.unwrap();
    }
    let refused = bad(hub.set_setting("sinks", "more", Some(json!(1))).await);
    assert_eq!(refused, BadSetting::TooMany("sinks".into()));
    hub.set_setting("sinks", "s0", Some(json!("changed"))).await.unwrap();
    hub.set_setting("groups", "more", Some(json!(1))).await.unwrap();
    hub.set_setting("sinks", "s1", None).await.unwrap();
    hub.set_setting("sinks", "more", Some(json!(1))).await.unwrap();
    assert_eq!(hub.settings("sinks").unwrap().len(), SETTINGS_MAX);
}

#[tokio::test]
async fn settings_go_to_the_other_region_and_so_does_their_end() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    let mut changes = paris.settings_changed();
    oslo.set_setting("authorities", "root", Some(json!({"pem": "x"}))).await.unwrap();
    follow(&oslo, &paris).await;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(paris.settings("authorities").unwrap(), oslo.settings("authorities").unwrap());
    create(&oslo, "pump").await;
    follow(&oslo, &paris).await;
    assert!(!changes.has_changed().unwrap(), "devices are no settings");
    oslo.set_setting("authorities", "root", None).await.unwrap();
    follow(&oslo, &paris).await;
    assert!(changes.has_changed().unwrap());
    assert!(paris.settings("authorities").unwrap().is_empty());
    follow(&paris, &oslo).await;
    follow(&oslo, &paris).await;
    assert_eq!(paris.purge_tombstones(&paris.stable()).await.unwrap(), 1, "its tombstone is forgotten");
    assert_eq!(oslo.purge_tombstones(&oslo.stable()).await.unwrap(), 1);
}

#[tokio::test]
async fn of_two_that_were_set_at_once_one_is_read_everywhere_and_the_other_is_told_of_without_secrets() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    oslo.set_setting("enrollments", "line", Some(json!({"primary": "secret-o"}))).await.unwrap();
    paris.activate(Epoch(2));
    paris.set_setting("enrollments", "line", Some(json!({"primary": "secret-p"}))).await.unwrap();
    follow(&oslo, &paris).await;
    follow(&paris, &oslo).await;
    let won = vec![("line".to_owned(), json!({"primary": "secret-p"}))];
    assert_eq!(
        (oslo.settings("enrollments").unwrap(), paris.settings("enrollments").unwrap()),
        (won.clone(), won)
    );
    let conflicts = oslo.conflicts(9).unwrap();
    assert_eq!(conflicts, paris.conflicts(9).unwrap());
    let [conflict] = conflicts.as_slice() else { panic!("{conflicts:?}") };
    assert_eq!((conflict.subject.as_str(), conflict.losers.len()), ("enrollments/line", 1));
    assert!(!serde_json::to_string(conflict).unwrap().contains("secret"), "{conflict:?}");
    // Saying it again decides.
    oslo.set_setting("enrollments", "line", Some(json!({"primary": "secret-p"}))).await.unwrap();
    follow(&oslo, &paris).await;
    assert!(oslo.conflicts(9).unwrap().is_empty() && paris.conflicts(9).unwrap().is_empty());
}
