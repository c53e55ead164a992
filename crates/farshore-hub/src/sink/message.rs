//! An event as a message of NATS: pure.

use async_nats::{HeaderMap, HeaderValue};

use crate::names::Key;
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

/// Everything but the body. The message's id is the same whichever region sends it.
pub(super) fn headers(stored: &Stored) -> HeaderMap {
    let event = &stored.event;
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: &str| {
        let value =
            value.parse::<HeaderValue>().unwrap_or_else(|_| HeaderValue::from(encode(value).as_str()));
        headers.insert(name, value);
    };
    add(MESSAGE_ID, &format!("{}:{}", stored.region, stored.offset));
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
        let stored =
            Stored { region: Region::parse("oslo").unwrap(), offset: 12, epoch: Epoch(3), late: true, event };
        assert_eq!(subject("hub.fleet", &stored.event.key), "hub.fleet.pump%2E1.%2A%25");
        let headers = headers(&stored);
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
                "oslo:12",
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
