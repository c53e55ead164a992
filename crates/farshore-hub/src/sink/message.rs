//! An event as a message of NATS: pure.

use async_nats::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{Context, SHA256};

use crate::names::{Key, ModuleId};
use crate::percent::encode;
use crate::telemetry::Stored;

/// What JetStream knows a repeated message by.
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";

/// `PREFIX.DEVICE` or `PREFIX.DEVICE.MODULE`. Signs that mean something in a subject are percent-encoded.
pub(super) fn subject(prefix: &str, key: &Key) -> String {
    let device = token(key.device.as_str());
    match &key.module {
        None => format!("{prefix}.{device}"),
        Some(module) => format!("{prefix}.{device}.{}", token(module.as_str())),
    }
}

fn token(id: &str) -> String {
    id.replace('%', "%25").replace('.', "%2E").replace('*', "%2A")
}

/// How a device's own name of a message is called.
const NAMED: &str = "$.mid";

/// Of the hash that is a message's id: no two of a stream's window are the same, and a stream keeps them in memory.
const ID_BYTES: usize = 16;

/// What the stream knows a repeated message by: what its device called it, or else its place. Both are the same in both regions. A device
/// that was not answered before a failover sends its message again, and it gets another place in the other region's log; its
/// name stays. `named_by`: properties that are the name of a message without `$.mid`.
pub(super) fn message_id(stored: &Stored, named_by: &[String]) -> String {
    let event = &stored.event;
    let (kind, name) = match event.system(NAMED) {
        Some(mid) => (NAMED, Some(vec![mid])),
        None if named_by.is_empty() => ("", None),
        None => ("properties", named_by.iter().map(|property| event.property(property)).collect()),
    };
    let Some(name) = name else { return format!("{}:{}", stored.region, stored.offset) };
    let module = event.key.module.as_ref().map(ModuleId::as_str).unwrap_or_default();
    let mut hash = Context::new(&SHA256);
    for part in [kind, event.key.device.as_str(), module, &event.generation].into_iter().chain(name) {
        hash.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part.as_bytes());
    }
    URL_SAFE_NO_PAD.encode(&hash.finish().as_ref()[..ID_BYTES])
}

/// Everything but the body.
pub(super) fn headers(stored: &Stored, named_by: &[String]) -> HeaderMap {
    let event = &stored.event;
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: &str| {
        let value =
            value.parse::<HeaderValue>().unwrap_or_else(|_| HeaderValue::from(encode(value).as_str()));
        headers.insert(name, value);
    };
    add(MESSAGE_ID, &message_id(stored, named_by));
    add("Farshore-Device", event.key.device.as_str());
    if let Some(module) = &event.key.module {
        add("Farshore-Module", module.as_str());
    }
    add("Farshore-Generation", &event.generation);
    add("Farshore-Epoch", &stored.epoch.to_string());
    add("Farshore-Enqueued", &event.enqueued.to_string());
    if stored.late {
        add("Farshore-Late", "true");
    }
    let system: Vec<_> = event.system.iter().map(|(key, value)| pair(key, Some(value))).collect();
    let own: Vec<_> = event.properties.iter().map(|(key, value)| pair(key, value.as_deref())).collect();
    for (name, bag) in [("Farshore-System", system), ("Farshore-Properties", own)] {
        if !bag.is_empty() {
            add(name, &bag.join("&"));
        }
    }
    headers
}

/// As devices write it: `key=value`, or the bare key.
fn pair(key: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!("{}={}", encode(key), encode(value)),
        None => encode(key),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use farshore_core::ids::{Epoch, Region};
    use farshore_core::moment::Moment;

    use super::*;
    use crate::telemetry::Event;

    fn stored(region: &str, offset: u64, event: Event) -> Stored {
        Stored { region: Region::parse(region).unwrap(), offset, epoch: Epoch(3), late: true, event }
    }

    #[test]
    fn a_message_has_one_id_whichever_region_took_it() {
        let event = |key: &str, mid: Option<&str>, seq: Option<&str>| Event {
            key: Key::parse(key).unwrap(),
            generation: "1".into(),
            enqueued: Moment(1),
            system: mid.map(|mid| ("$.mid".to_owned(), mid.to_owned())).into_iter().collect(),
            properties: seq.map(|seq| ("seq".to_owned(), Some(seq.to_owned()))).into_iter().collect(),
            body: Bytes::new(),
        };
        let id = |region: &str, event: &Event, named_by: &[&str]| {
            let named_by: Vec<String> = named_by.iter().map(|name| (*name).to_owned()).collect();
            message_id(&stored(region, 7, event.clone()), &named_by)
        };
        let named = event("pump", Some("m1"), None);
        assert_eq!(id("oslo", &named, &[]), id("paris", &named, &["seq"]));
        assert_eq!(id("oslo", &named, &[]).len(), 22);
        for other in [
            event("pump", Some("m2"), None),
            event("pump/m1", Some("m1"), None),
            Event { generation: "2".into(), ..named.clone() },
        ] {
            assert_ne!(id("oslo", &named, &[]), id("oslo", &other, &[]));
        }
        let counted = event("pump", None, Some("m1"));
        assert_eq!(id("oslo", &counted, &["seq"]), id("paris", &counted, &["seq"]));
        assert_ne!(id("oslo", &counted, &["seq"]), id("oslo", &named, &["seq"]));
        for nameless in [id("paris", &counted, &[]), id("paris", &counted, &["seq", "boot"])] {
            assert_eq!(nameless, "paris:7");
        }
    }

    #[test]
    fn an_event_is_a_subject_and_headers() {
        let event = Event {
            key: Key::parse("pump.1/*%").unwrap(),
            generation: "g\n1".into(),
            enqueued: Moment::from_millis(1500),
            system: vec![("$.mid".into(), "a b".into())],
            properties: vec![("bare".into(), None), ("é".into(), Some("=&".into()))],
            body: Bytes::new(),
        };
        let stored = stored("oslo", 12, event);
        assert_eq!(subject("hub.fleet", &stored.event.key), "hub.fleet.pump%2E1.%2A%25");
        let headers = headers(&stored, &[]);
        let lines: Vec<_> = [
            "Nats-Msg-Id",
            "Farshore-Device",
            "Farshore-Module",
            "Farshore-Generation",
            "Farshore-Epoch",
            "Farshore-Enqueued",
            "Farshore-Late",
            "Farshore-System",
            "Farshore-Properties",
        ]
        .iter()
        .map(|name| headers.get(*name).unwrap().as_str())
        .collect();
        assert_eq!(
            lines,
            [
                message_id(&stored, &[]).as_str(),
                "pump.1",
                "*%",
                "g%0A1",
                "3",
                "1970-01-01T00:00:01.500Z",
                "true",
                "%24.mid=a%20b",
                "bare&%C3%A9=%3D%26",
            ]
        );
    }
}
