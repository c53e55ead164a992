use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pump() -> Value {
    json!({
        "deviceId": "pump-1", "status": "enabled", "connectionState": "Connected",
        "tags": {"place": "paris", "floor": 3, "odd name": true, "none": null, "list": [1, {"a": "b"}], "my-tag": 1},
        "properties": {"desired": {"limit": 7.5, "$version": 4}, "reported": {"fault": false, "text": "it's"}},
    })
}

#[track_caller]
fn check(condition: &str, expected: bool) {
    let query = Query::parse(&format!("SELECT * FROM devices WHERE {condition}")).unwrap();
    assert_eq!(query.matches(&pump()), expected, "{condition}");
}

#[test]
fn conditions_find_what_they_say() {
    for (condition, expected) in [
        ("deviceId = 'pump-1'", true),
        ("deviceId = \"Pump-1\"", false),
        ("'pump-1' = deviceId", true),
        ("status != 'disabled' AND connectionState <> 'Disconnected'", true),
        ("tags.floor > 2 and tags.floor < 4", true),
        ("tags.floor >= 3.0", true),
        ("tags.floor = 3.0", true),
        ("tags.floor <= 2 OR properties.desired.limit >= 7.5", true),
        ("properties.desired.$version = 4", true),
        ("properties.reported.text = 'it''s'", true),
        ("properties.reported.text = 'it\\'s'", true),
        ("properties.reported.fault = false", true),
        ("properties.reported.fault", false),
        ("NOT properties.reported.fault", true),
        ("tags['odd name'] = true", true),
        ("tags.[['odd name']] = true", true),
        ("tags.list[1].a = 'b'", true),
        ("tags.my-tag = 1", true),
        ("tags.none = null", true),
        ("IS_NULL(tags.none)", true),
        ("is_null(tags.place)", false),
        ("IS_DEFINED(tags.none)", true),
        ("IS_DEFINED(tags.absent)", false),
        ("NOT IS_DEFINED(tags.absent.deeper)", true),
        ("IS_STRING(tags.place) AND IS_NUMBER(tags.floor) AND IS_BOOL(properties.reported.fault)", true),
        ("IS_OBJECT(tags) AND IS_ARRAY(tags.list) AND IS_PRIMITIVE(deviceId)", true),
        ("STARTSWITH(deviceId, 'pump')", true),
        ("ENDSWITH(deviceId, '-1') AND CONTAINS(deviceId, 'mp')", true),
        ("deviceId IN ['a', 'pump-1']", true),
        ("deviceId IN []", false),
        ("deviceId NIN ['a']", true),
        ("deviceId NOT IN ['pump-1']", false),
        ("tags.floor IN [1, 2, 3]", true),
        ("(status = 'x' OR tags.place = 'paris') AND NOT (tags.floor = 4)", true),
        ("status = 'x' OR tags.place = 'paris' AND tags.floor = 4", false),
        ("tags.floor > -1 AND tags.floor < 1e3", true),
        // What is undefined is neither true nor false.
        ("tags.absent = 1", false),
        ("tags.absent != 1", false),
        ("NOT (tags.absent = 1)", false),
        ("tags.absent = 1 OR status = 'enabled'", true),
        ("NOT (tags.absent = 1 AND status = 'x')", true),
        ("tags.place > 3", false),
        ("NOT (tags.place > 3)", false),
        ("tags.place != 3", true),
        ("IS_STRING(tags.absent)", false),
    ] {
        check(condition, expected);
    }
}

#[test]
fn what_is_answered_of_each() {
    let answer = |text: &str| Query::parse(text).unwrap().project(pump());
    assert_eq!(answer("SELECT * FROM devices"), pump());
    assert_eq!(
        answer("select deviceId, tags.floor, properties.desired.limit AS l, tags.absent FROM devices"),
        json!({"deviceId": "pump-1", "floor": 3, "l": 7.5})
    );
    assert_eq!(
        answer("SELECT c.deviceId FROM devices AS c WHERE c.status = 'enabled'"),
        json!({"deviceId": "pump-1"})
    );
    let aliased = Query::parse(
        "SELECT * FROM devices d WHERE d.tags.floor = 3 AND IS_DEFINED(d.tags) AND NOT d.x IN [1];",
    )
    .unwrap();
    assert!(!aliased.matches(&pump()), "d.x is undefined");
    for (text, name) in [
        ("SELECT COUNT() AS total FROM devices", "total"),
        ("SELECT COUNT(*) FROM devices", "$1"),
        ("SELECT count(1) as n FROM devices.modules WHERE moduleId = 'm'", "n"),
    ] {
        assert_eq!(Query::parse(text).unwrap().select, Select::Count(name.to_owned()), "{text}");
    }
    assert_eq!(Query::parse("SELECT * FROM devices.jobs").unwrap().source, Source::Jobs);
    assert_eq!(Query::parse("SELECT * FROM Devices.Modules").unwrap().source, Source::Modules);
    assert_eq!(Query::condition("*").unwrap().condition, None);
    assert!(Query::condition("tags.floor = 3").unwrap().matches(&pump()));
}

#[test]
fn a_condition_that_names_its_devices_says_so() {
    for (condition, expected) in [
        ("deviceId = 'a'", Some(vec!["a"])),
        ("tags.x = 1 AND deviceId IN ['a', 'b', 3]", Some(vec!["a", "b"])),
        ("deviceId = 'a' OR deviceId = 'b'", None),
        ("NOT deviceId = 'a'", None),
        ("deviceId != 'a'", None),
        ("tags.deviceId = 'a'", None),
        ("deviceId > 'a'", None),
    ] {
        assert_eq!(Query::condition(condition).unwrap().device_ids(), expected, "{condition}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_position() {
    let deep = format!("SELECT * FROM devices WHERE {}a = 1{}", "(".repeat(40), ")".repeat(40));
    let nots = format!("SELECT * FROM devices WHERE {} a", "NOT ".repeat(5000 / 4));
    let long = format!("SELECT * FROM devices WHERE a IN [{}0]", "1,".repeat(1000));
    for (text, position, why) in [
        ("", 0, "SELECT is expected"),
        ("SELECT", 6, "name of a field"),
        ("SELECT * FROM", 13, "name of a field"),
        ("SELECT * FROM pumps", 14, "choose from devices"),
        ("SELECT * FROM devices WHERE", 27, "name of a field"),
        ("SELECT * FROM devices WHERE a =", 31, "name of a field"),
        ("SELECT * FROM devices WHERE a = 'x", 32, "no closing quote"),
        ("SELECT * FROM devices WHERE a ~ 1", 30, "means nothing here"),
        ("SELECT * FROM devices WHERE a = 1 b", 34, "should end here"),
        ("SELECT * FROM devices WHERE (a = 1", 34, "\")\" is expected"),
        ("SELECT * FROM devices WHERE a IN 1", 33, "a list is expected"),
        ("SELECT * FROM devices WHERE a IN [b]", 34, "a text, a number"),
        ("SELECT * FROM devices WHERE [1] IN [1]", 28, "name of a field"),
        ("SELECT * FROM devices WHERE FOO(a)", 28, "FOO is no function"),
        ("SELECT * FROM devices WHERE IS_NULL(a, b)", 37, "\")\" is expected"),
        ("SELECT * FROM devices WHERE a. = 1", 31, "after '.'"),
        ("SELECT * FROM devices WHERE a = 1.2.3", 32, "no number"),
        ("SELECT * FROM devices WHERE a = 1e999", 32, "no number"),
        ("SELECT * FROM devices GROUP BY status", 22, "GROUP is not supported"),
        ("SELECT * FROM devices ORDER BY status", 22, "ORDER is not supported"),
        ("SELECT TOP 10 * FROM devices", 7, "TOP is not supported"),
        ("SELECT status, COUNT() AS n FROM devices", 20, "FROM is expected"),
        ("SELECT COUNT() AS n, status FROM devices", 21, "COUNT() stands alone"),
        ("DROP TABLE devices", 0, "SELECT is expected"),
        (&deep, 60, "nested deeper"),
        (&nots, 156, "nested deeper"),
        (&long, 2035, "at most 1000"),
        (&" ".repeat(20_000), 16_384, "longer than 16 KiB"),
    ] {
        let error = Query::parse(text).unwrap_err();
        assert!(error.why.contains(why), "{text:.60}: {error}");
        assert_eq!(error.position, position, "{text:.60}: {error}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,60}") {
        let _ = Query::parse(&text);
        let _ = Query::condition(&text);
    }

    #[test]
    fn no_mixture_of_words_panics(words in prop::collection::vec(prop::sample::select(vec![
        "SELECT", "*", "FROM", "devices", "WHERE", "a", ".", "b", "=", "!=", "<", ">=", "1", "-2.5", "'x'", "\"y\"", "(", ")", "[", "]", "[[", ",",
        "AND", "OR", "NOT", "IN", "NIN", "AS", "COUNT", "IS_DEFINED", "IS_NULL", "STARTSWITH", "null", "true", "é", "'", "\\", "-", "$", ";", "1e",
    ]), 0..25)) {
        let text = words.join(" ");
        let _ = Query::parse(&text);
        for text in [text.clone(), words.concat(), format!("SELECT * FROM devices WHERE {text}")] {
            if let Ok(query) = Query::parse(&text) {
                let _ = query.matches(&pump());
                let _ = query.project(pump());
                let _ = query.device_ids();
            }
        }
    }
}
