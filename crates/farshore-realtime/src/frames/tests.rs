//! One table for each direction of each protocol; then what must hold for any bytes.

mod any_bytes;
mod down;
mod up_json;
mod up_protobuf;

use bytes::Bytes;

use super::*;
use crate::names::{EventName, GroupName, UserId};

#[test]
fn protocols_are_known_by_their_names() {
    for (protocol, name) in Protocol::NAMED {
        assert_eq!(Protocol::of(name), Some(protocol));
        assert_eq!(protocol.subprotocol(), Some(name));
        assert_eq!(protocol.is_reliable(), name.contains(".reliable."));
    }
    assert_eq!(Protocol::of("JSON.webpubsub.azure.v1"), Some(Protocol::Json));
    assert_eq!(Protocol::of("mine"), None);
    assert_eq!(Protocol::Simple.subprotocol(), None);
}

#[test]
fn a_simple_clients_frames_are_events() {
    let event =
        |data| Ok(Upstream::Event { event: name("message"), ack_id: None, data, metadata: Metadata::new() });
    assert_eq!(decode(Protocol::Simple, Opcode::Text, b"{\"a\":"), event(Data::text("{\"a\":")));
    assert_eq!(
        decode(Protocol::Simple, Opcode::Binary, b"\xFF"),
        event(Data::Binary(Bytes::from_static(b"\xFF")))
    );
    assert_eq!(decode(Protocol::Simple, Opcode::Text, b"\xFF").unwrap_err().code, 1007);
    assert_eq!(decode(Protocol::Simple, Opcode::Ping, b"").unwrap_err().code, 1003);
}

#[test]
fn each_protocol_insists_on_its_type_of_frame() {
    for (protocol, opcode) in [
        (Protocol::Json, Opcode::Binary),
        (Protocol::ReliableJson, Opcode::Binary),
        (Protocol::Protobuf, Opcode::Text),
        (Protocol::ReliableProtobuf, Opcode::Text),
    ] {
        let bad = decode(protocol, opcode, b"{\"type\":\"ping\"}").unwrap_err();
        assert_eq!((bad.code, bad.ack_id), (1003, None));
    }
}

fn group(text: &str) -> GroupName {
    GroupName::parse(text).unwrap()
}

fn user(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

fn name(text: &str) -> EventName {
    EventName::parse(text).unwrap()
}

fn json_data(text: &str) -> Data {
    Data::Json(Bytes::copy_from_slice(text.as_bytes()))
}

fn binary(bytes: &[u8]) -> Data {
    Data::Binary(Bytes::copy_from_slice(bytes))
}

fn metadata(pairs: &[(&str, &str)]) -> Metadata {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
