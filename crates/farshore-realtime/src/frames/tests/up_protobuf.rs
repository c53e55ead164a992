//! Protobuf frames of clients, as bytes of the wire format.

use super::*;

/// A field with bytes; all lengths here are short.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 128, "this test writes short fields");
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

/// An `UpstreamMessage` with one message of the oneof.
fn up(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    field(kind, &fields.concat())
}

fn check(bytes: &[u8], expected: Upstream) {
    for protocol in [Protocol::Protobuf, Protocol::ReliableProtobuf] {
        assert_eq!(decode(protocol, Opcode::Binary, bytes), Ok(expected.clone()));
    }
}

fn refused(bytes: &[u8], ack_id: Option<u64>, reason: &str) {
    let bad = decode(Protocol::Protobuf, Opcode::Binary, bytes).unwrap_err();
    assert_eq!((bad.code, bad.ack_id), (1007, ack_id), "{reason}");
    assert!(bad.reason.starts_with(reason), "{}", bad.reason);
}

fn send(data: Data) -> Upstream {
    Upstream::Send {
        group: group("g"),
        ack_id: Some(300),
        no_echo: false,
        data: Some(data),
        ttl_seconds: None,
        metadata: Metadata::new(),
        stream: None,
    }
}

const GROUP: &[u8] = b"\x0A\x01g";
const ACK_300: &[u8] = b"\x10\xAC\x02";
const TEXT_HI: &[u8] = b"\x1A\x04\x0A\x02hi";

#[test]
fn groups_are_joined_and_left() {
    check(b"\x32\x03\x0A\x01g", Upstream::Join { group: group("g"), ack_id: None });
    check(&up(6, &[GROUP, b"\x10\x00"]), Upstream::Join { group: group("g"), ack_id: Some(0) });
    check(&up(7, &[ACK_300, GROUP]), Upstream::Leave { group: group("g"), ack_id: Some(300) });
}

#[test]
fn data_has_four_kinds() {
    let frame = |data: &[u8]| up(1, &[GROUP, ACK_300, &field(3, data)]);
    check(&frame(b"\x0A\x03\xC3\xA9!"), send(Data::text("é!")));
    check(&frame(b"\x0A\x00"), send(Data::text("")));
    check(&frame(b"\x12\x02\xFF\x00"), send(binary(&[0xFF, 0])));
    check(&frame(b"\x1A\x03\x0A\x01t"), send(Data::Protobuf(Bytes::from_static(b"\x0A\x01t"))));
    check(&frame(b"\x22\x08{\"a\": 1}"), send(json_data("{\"a\": 1}")));
    check(&frame(b"\x0A\x01x\x22\x017"), send(json_data("7")));
}

#[test]
fn a_send_has_options() {
    let entry = field(6, b"\x0A\x01k\x12\x01v");
    check(
        &up(1, &[TEXT_HI, GROUP, b"\x20\x01\x28\xAC\x02", &entry]),
        Upstream::Send {
            group: group("g"),
            ack_id: None,
            no_echo: true,
            data: Some(Data::text("hi")),
            ttl_seconds: Some(300),
            metadata: metadata(&[("k", "v")]),
            stream: None,
        },
    );
    check(&up(1, &[GROUP, ACK_300, b"\x50\x01", b"\x21\x01\x02\x03\x04\x05\x06\x07\x08", TEXT_HI]), {
        send(Data::text("hi"))
    });
}

#[test]
fn events_acks_of_sequences_and_pings_are_read() {
    let data = field(2, b"\x0A\x02hi");
    check(
        &up(5, &[b"\x0A\x01e", &data, b"\x18\x05", &field(4, b"\x0A\x01k")]),
        Upstream::Event {
            event: name("e"),
            ack_id: Some(5),
            data: Data::text("hi"),
            metadata: metadata(&[("k", "")]),
        },
    );
    check(&up(8, &[b"\x08\x07"]), Upstream::SequenceAck(7));
    check(&up(8, &[b"\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"]), Upstream::SequenceAck(u64::MAX));
    check(b"\x4A\x00", Upstream::Ping);
}

#[test]
fn what_is_no_frame_of_the_protocol_cannot_be_answered() {
    refused(b"", None, "the UpstreamMessage has no message of a known kind");
    refused(b"\x12\x00", None, "the UpstreamMessage has no message of a known kind");
    refused(b"\x48\x00", None, "the UpstreamMessage has no message of a known kind");
    refused(b"\x0A\x05g", None, "the frame is not a protobuf UpstreamMessage");
    refused(&up(6, &[b"\x0A\x05g"]), None, "the frame is not a protobuf UpstreamMessage");
    refused(b"{\"type\":\"ping\"}", None, "the frame is not a protobuf UpstreamMessage");
}

#[test]
fn what_is_wrong_with_a_request_is_known_by_its_ack_id() {
    let send = |rest: &[u8], reason: &str| {
        refused(&up(1, &[GROUP, ACK_300, rest]), Some(300), reason);
        refused(&up(1, &[GROUP, rest]), None, reason);
    };
    send(b"", "data is missing");
    send(b"\x1A\x00", "data is missing");
    send(&field(3, b"\x0A\x01\xFF"), "text_data is not UTF-8");
    send(&field(3, b"\x22\x01{"), "json_data is not JSON");
    send(&field(3, b"\x22\x01\xFF"), "json_data is not UTF-8");
    send(&field(3, &field(3, b"hello")), "protobuf_data is not a google.protobuf.Any");
    send(&field(3, &field(4, &[b'['; 70])), "json_data is not JSON");
    send(&field(3, b"\x0A\x05a"), "data is not a protobuf MessageData");
    send(&[TEXT_HI, b"\x28\xAD\x02"].concat(), "ttl_seconds is out of range");
    send(&[TEXT_HI, &field(6, b"\x0A\x03a b")].concat(), "a metadata key must be");
    send(&[TEXT_HI, &field(6, b"\x0A\x01\xFF")].concat(), "an entry of the metadata is not two texts");
    send(&field(7, b"\x0A\x01s"), "streams need a JSON subprotocol");
    refused(&up(6, &[ACK_300]), Some(300), "group \"\" is not valid");
    refused(&up(6, &[ACK_300, b"\x0A\x01\xFF"]), Some(300), "the name is not UTF-8");
    refused(&up(5, &[b"\x0A\x011\x18\x05", &field(2, b"\x0A\x01a")]), Some(5), "event \"1\" is not valid");
}
