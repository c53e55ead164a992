//! Requests that nobody meant: each has an answer in the form that SDKs read, and none is our own failure.

use proptest::prelude::*;
use proptest::sample::select;

use super::fixture::Fixture;

const SEGMENTS: [&str; 30] = [
    "devices",
    "twins",
    "jobs",
    "create",
    "v2",
    "query",
    "cancel",
    "messages",
    "events",
    "groups",
    "checkpoint",
    "serviceBound",
    "feedback",
    "abandon",
    "devicebound",
    "commands",
    "modules",
    "methods",
    "statistics",
    "service",
    "configurations",
    "pump",
    "online",
    "m",
    "",
    "%",
    "%2F",
    "%00",
    "a%20b",
    "🌊",
];

const QUERIES: [&str; 9] = [
    "",
    "?api-version=1",
    "?top=-1",
    "?top=1&max=2",
    "?cursor=%7B%7D",
    "?cursor=[",
    "?group=a&group=",
    "?from=latest",
    "?%zz=%zz",
];

const BODIES: [&str; 14] = [
    "",
    "{",
    "[]",
    "{}",
    "null",
    "[{}]",
    "[{\"id\":\"pump\",\"importMode\":7}]",
    "{\"query\":\"SELECT * FROM devices\"}",
    "{\"query\":5}",
    "{\"tags\":[1]}",
    "{\"methodName\":\"echo\",\"payload\":1}",
    "{\"type\":\"import\"}",
    "{\"type\":\"scheduleUpdateTwin\",\"updateTwin\":{\"tags\":null}}",
    "{\"group\":\"a\",\"cursor\":{\"b c\":1}}",
];

const HEADERS: [(&str, &str); 9] = [
    ("if-match", "\"*\""),
    ("if-match", "\"x"),
    ("x-ms-continuation", "####"),
    ("x-ms-max-item-count", "many"),
    ("iothub-expiry", "0"),
    ("iothub-properties", "&=&%"),
    ("last-event-id", "{}"),
    ("authorization", "SharedAccessSignature sr=&sig=&se="),
    ("content-type", "text/plain"),
];

#[test]
fn every_request_has_an_answer_that_sdks_can_read() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let hub = runtime.block_on(async {
        let hub = Fixture::new().await;
        hub.create("pump").await;
        hub.create("online").await;
        hub
    });
    let request = (
        select(vec!["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"]),
        prop::collection::vec(select(SEGMENTS.as_slice()), 0..6),
        select(QUERIES.as_slice()),
        prop::collection::vec(select(HEADERS.as_slice()), 0..3),
        select(BODIES.as_slice()),
    );
    proptest!(ProptestConfig::with_cases(600), |((method, segments, query, headers, body) in request)| {
        // What no client can send is no request.
        prop_assume!(format!("/{}{query}", segments.join("/")).parse::<http::Uri>().is_ok());
        let line = format!("{method} /{}{query}", segments.join("/"));
        let answered = runtime.block_on(hub.bytes(&line, &headers, body.as_bytes()));
        prop_assert!(answered.status < 500, "{line} {body}: {} {}", answered.status, answered.json());
        if answered.status >= 400 {
            prop_assert!(!answered.code().is_empty(), "{line}: {}", answered.json());
            prop_assert!(!answered.json()["Message"].as_str().unwrap_or_default().is_empty(), "{line}");
        }
    });
}
