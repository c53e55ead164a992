//! Topics as they were seen on the wire, and any others.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn telemetry(owner: &str, topic: &str) -> Telemetered {
    match published(&key(owner), topic).unwrap() {
        Published::Telemetry(event) => event,
        other => panic!("{topic}: {other:?}"),
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn telemetry_as_the_sdks_send_it() {
    let topic = "devices/pump/messages/events/%24.mid=m-1&%24.ct=application%2Fjson&%24.ce=utf-8&seq=42%20%C3%A9%2F%2B";
    let event = telemetry("pump", topic);
    assert_eq!(event.system, owned(&[("$.mid", "m-1"), ("$.ct", "application/json"), ("$.ce", "utf-8")]));
    assert_eq!(event.properties, [("seq".to_owned(), Some("42 é/+".to_owned()))]);

    let event = telemetry("pump/valve", "devices/pump/modules/valve/messages/events/$.on=out&a=1&a&a=/");
    assert_eq!(event.system, owned(&[("$.on", "out")]));
    let values: Vec<_> = event.properties.into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, [Some("1".to_owned()), None, Some(String::new())]);

    for bare in
        ["devices/pump/messages/events", "devices/pump/messages/events/", "devices/p%75mp/messages/events/"]
    {
        assert_eq!(telemetry("pump", bare), Telemetered::default(), "{bare}");
    }
    assert_eq!(telemetry("a%b", "devices/a%b/messages/events/"), Telemetered::default());
}

#[test]
fn requests_carry_their_number() {
    let of = |topic: &str| published(&key("pump"), topic);
    assert_eq!(of("$iothub/twin/GET/?$rid=7"), Ok(Published::Twin { rid: "7".into() }));
    assert_eq!(
        of("$iothub/twin/PATCH/properties/reported/?$rid=a-b&x=y"),
        Ok(Published::Reported { rid: "a-b".into() })
    );
    assert_eq!(of("$iothub/methods/res/200/?$rid=1"), Ok(Published::Answer { rid: "1".into(), status: 200 }));
    assert_eq!(of("$iothub/methods/res/-3/?$rid=1"), Ok(Published::Answer { rid: "1".into(), status: -3 }));
    for (topic, expected) in [
        ("$iothub/twin/GET/", BadTopic::Rid),
        ("$iothub/twin/GET/?$rid=", BadTopic::Rid),
        ("$iothub/twin/GET/?$version=1", BadTopic::Rid),
        ("$iothub/methods/res/ok/?$rid=1", BadTopic::Status),
        ("$iothub/methods/res/200", BadTopic::Unknown),
        ("$iothub/twin/PUT/?$rid=1", BadTopic::Unknown),
        ("devices/other/messages/events/", BadTopic::Unknown),
        ("devices/pump/messages/eventsandmore", BadTopic::Unknown),
        ("devices/pump2/messages/events/", BadTopic::Unknown),
        ("devices/pump/modules/valve/messages/events/", BadTopic::Unknown),
        ("devices/pump", BadTopic::Unknown),
        ("anything", BadTopic::Unknown),
        ("", BadTopic::Unknown),
        ("devices/pump/messages/events/a=%zz", BadTopic::Encoding(BadEncoding::Digits)),
        ("devices/pump/messages/events/a=%ff", BadTopic::Encoding(BadEncoding::Utf8)),
    ] {
        assert_eq!(of(topic), Err(expected), "{topic}");
    }
    assert_eq!(of(&format!("$iothub/twin/GET/?$rid={}", "9".repeat(257))), Err(BadTopic::Rid));
    let many = format!("devices/pump/messages/events/{}", "a&".repeat(1001));
    assert_eq!(of(&many), Err(BadTopic::Properties));
}

#[test]
fn subscriptions_of_the_contract_only() {
    for (owner, text, expected) in [
        ("pump", "devices/pump/messages/devicebound/#", Some(Filter::Messages)),
        ("a+b", "devices/a+b/messages/devicebound/#", Some(Filter::Messages)),
        ("pump", "$iothub/twin/res/#", Some(Filter::Twin)),
        ("pump", "$iothub/twin/PATCH/properties/desired/#", Some(Filter::Desired)),
        ("pump", "$iothub/methods/POST/#", Some(Filter::Methods)),
        ("pump/valve", "devices/pump/modules/valve/inputs/#", Some(Filter::Inputs)),
        ("pump", "devices/pump/inputs/#", None),
        ("pump", "devices/other/messages/devicebound/#", None),
        ("pump", "devices/+/messages/devicebound/#", None),
        ("pump", "#", None),
        ("pump", "$SYS/#", None),
    ] {
        assert_eq!(filter(&key(owner), text).ok(), expected, "{text}");
    }
}

#[test]
fn what_devices_are_sent() {
    let sent = Sent {
        lock: 1,
        again: false,
        system: owned(&[("$.mid", "m 1"), ("$.to", "/devices/pump/messages/devicebound")]),
        properties: vec![
            ("iothub-ack".into(), Some("full".into())),
            ("bare".into(), None),
            ("no".into(), Some("".into())),
        ],
        body: bytes::Bytes::new(),
    };
    assert_eq!(
        message(&key("pump"), &sent),
        "devices/pump/messages/devicebound/%24.mid=m%201&%24.to=%2Fdevices%2Fpump%2Fmessages%2Fdevicebound\
         &iothub-ack=full&bare&no="
    );
    assert_eq!(twin_answer(200, "7"), "$iothub/twin/res/200/?$rid=7");
    assert_eq!(reported_answer("7", 9), "$iothub/twin/res/204/?$rid=7&$version=9");
    assert_eq!(desired(3), "$iothub/twin/PATCH/properties/desired/?$version=3");
    assert_eq!(method("re/boot", "x"), "$iothub/methods/POST/re%2Fboot/?$rid=x");
}

proptest! {
    #[test]
    fn a_bag_comes_back_as_it_was_written(
        system in vec(("\\$\\.[a-z]{1,4}", ".{0,12}"), 0..6),
        properties in vec(("[^$].{0,8}", option::of(".{0,12}")), 0..8),
    ) {
        let bag = write_bag(&system, &properties);
        let event = telemetry("pump", &format!("devices/pump/messages/events/{bag}"));
        prop_assert_eq!(event.system, system);
        prop_assert_eq!(event.properties, properties);
    }

    #[test]
    fn no_text_is_too_strange(text in ".{0,80}", tail in ".{0,40}") {
        let owner = key("pump/valve");
        let _ = published(&owner, &text);
        let _ = filter(&owner, &text);
        for start in ["$iothub/", "$iothub/twin/GET/", "$iothub/methods/res/", "devices/pump/", "devices/pump/modules/valve/messages/events/"] {
            let _ = published(&owner, &format!("{start}{tail}"));
        }
    }
}
