//! What the service says, as it stands on the wire.

use farshore_core::moment::Moment;

use super::*;
use crate::names::ConnectionId;
use crate::ws::codec::{Decoder, Incoming};

/// The payload of one whole server frame.
fn payload(bytes: &[u8]) -> (Opcode, Vec<u8>) {
    let (mut input, mut found) = (bytes.to_vec(), Vec::new());
    let mut on = |incoming: Incoming<'_>| match incoming {
        Incoming::Text(text) => found.push((Opcode::Text, text.as_bytes().to_vec())),
        Incoming::Binary(bytes) => found.push((Opcode::Binary, bytes.to_vec())),
        other => panic!("{other:?}"),
    };
    Decoder::client(1 << 20).feed(&mut input, &mut on).unwrap();
    assert_eq!(found.len(), 1, "one frame and nothing else: {bytes:?}");
    found.remove(0)
}

fn text_of(bytes: &[u8]) -> String {
    let (opcode, payload) = payload(bytes);
    assert_eq!(opcode, Opcode::Text);
    String::from_utf8(payload).unwrap()
}

fn json(what: Downstream<'_>, expected: &str) {
    for protocol in [Protocol::Json, Protocol::ReliableJson] {
        assert_eq!(text_of(&control(protocol, &what)), expected);
    }
    let _valid: serde_json::Value = serde_json::from_str(expected).unwrap();
    assert!(control(Protocol::Simple, &what).is_empty(), "a simple client knows no such frame");
}

fn protobuf(what: Downstream<'_>, expected: &[u8]) {
    for protocol in [Protocol::Protobuf, Protocol::ReliableProtobuf] {
        assert_eq!(payload(&control(protocol, &what)), (Opcode::Binary, expected.to_vec()));
    }
}

fn connection() -> ConnectionId {
    ConnectionId::parse("c1").unwrap()
}

#[test]
fn the_beginning_and_the_end_of_a_connection() {
    let (connection, user) = (connection(), user("u"));
    let connected = |user, reconnection_token| Downstream::Connected {
        connection: &connection,
        user,
        reconnection_token,
    };
    json(
        connected(Some(&user), Some("t")),
        r#"{"type":"system","event":"connected","userId":"u","connectionId":"c1","reconnectionToken":"t"}"#,
    );
    json(connected(None, None), r#"{"type":"system","event":"connected","userId":null,"connectionId":"c1"}"#);
    json(
        Downstream::Disconnected { message: "a \"reason\"\n\u{1}" },
        r#"{"type":"system","event":"disconnected","message":"a \"reason\"\n\u0001"}"#,
    );
    protobuf(connected(Some(&user), Some("t")), b"\x1A\x0C\x0A\x0A\x0A\x02c1\x12\x01u\x1A\x01t");
    protobuf(connected(None, None), b"\x1A\x06\x0A\x04\x0A\x02c1");
    protobuf(Downstream::Disconnected { message: "r" }, b"\x1A\x05\x12\x03\x12\x01r");
}

#[test]
fn answers_to_requests() {
    json(Downstream::Pong, r#"{"type":"pong"}"#);
    protobuf(Downstream::Pong, b"\x22\x00");
    let done = Downstream::Ack { ack_id: 300, error: None };
    json(done, r#"{"type":"ack","ackId":300,"success":true}"#);
    protobuf(done, b"\x0A\x05\x08\xAC\x02\x10\x01");
    let error = ErrorDetail::new("Duplicate", "Message with ack-id: 1 has been processed");
    json(
        Downstream::Ack { ack_id: 1, error: Some(&error) },
        r#"{"type":"ack","ackId":1,"success":false,"error":{"name":"Duplicate","message":"Message with ack-id: 1 has been processed"}}"#,
    );
    let error = ErrorDetail::new("N", "m");
    protobuf(
        Downstream::Ack { ack_id: 1, error: Some(&error) },
        b"\x0A\x0A\x08\x01\x1A\x06\x0A\x01N\x12\x01m",
    );
}

#[test]
fn frames_that_only_json_has() {
    let (error, group, data) = (ErrorDetail::new("N", "m"), group("g"), Data::text("d"));
    let answered = |outcome| Downstream::InvokeResponse { invocation_id: "1", outcome };
    json(
        answered(Ok(Some(&data))),
        r#"{"type":"invokeResponse","invocationId":"1","success":true,"dataType":"text","data":"d"}"#,
    );
    json(answered(Ok(None)), r#"{"type":"invokeResponse","invocationId":"1","success":true}"#);
    json(
        answered(Err(&error)),
        r#"{"type":"invokeResponse","invocationId":"1","success":false,"error":{"name":"N","message":"m"}}"#,
    );
    json(
        Downstream::StreamAck { stream_id: "s", expected: 1 },
        r#"{"type":"streamAck","streamId":"s","expectedSequenceId":1}"#,
    );
    json(
        Downstream::StreamNack { stream_id: "s", error: &error, expected: 2 },
        r#"{"type":"streamNack","streamId":"s","name":"N","message":"m","expectedSequenceId":2}"#,
    );
    json(
        Downstream::StreamClosed { stream_id: "s", error: None },
        r#"{"type":"streamClosed","streamId":"s"}"#,
    );
    json(
        Downstream::StreamClosed { stream_id: "s", error: Some(&error) },
        r#"{"type":"streamClosed","streamId":"s","error":{"name":"N","message":"m"}}"#,
    );
    let item = |user, state| GroupStateItem {
        connection: connection(),
        user,
        state,
        updated_at: Moment::from_millis(5),
    };
    let items = [item(Some(user("u")), Some(Bytes::from_static(b"{\"a\":\"b\"}"))), item(None, None)];
    json(
        Downstream::GroupStateSnapshot { group: &group, items: &items },
        r#"{"type":"groupStateSnapshot","group":"g","items":[{"connectionId":"c1","userId":"u","state":{"a":"b"},"updatedAt":5},{"connectionId":"c1","updatedAt":5}]}"#,
    );
    let update = Downstream::GroupStateUpdate { group: &group, items: &items[1..] };
    json(update, r#"{"type":"groupStateUpdate","group":"g","items":[{"connectionId":"c1","updatedAt":5}]}"#);
    assert!(control(Protocol::Protobuf, &update).is_empty(), "protobuf has no group state");
}

/// What one receiver gets.
fn deliver(message: &Message, protocol: Protocol, sequence: Option<u64>) -> Vec<u8> {
    let framed = Framed::new(message.shared(protocol), sequence);
    let bytes = framed.slices().concat();
    assert_eq!(bytes.len(), framed.len());
    assert!(!framed.is_empty());
    bytes
}

fn from_group(data: Data, user: Option<UserId>) -> Message {
    Message::new(Sender::Group { group: group("g"), user }, data)
}

fn json_message(message: &Message, expected: &str) {
    assert_eq!(text_of(&deliver(message, Protocol::Json, None)), expected);
    assert_eq!(text_of(&deliver(message, Protocol::ReliableJson, None)), expected);
    let numbered = format!("{},\"sequenceId\":{}}}", expected.strip_suffix('}').unwrap(), u64::MAX);
    assert_eq!(text_of(&deliver(message, Protocol::ReliableJson, Some(u64::MAX))), numbered);
}

#[test]
fn messages_in_json_keep_their_order_of_fields_and_their_data() {
    json_message(
        &Message::new(Sender::Server, json_data(r#"{"message":"Hello world!"}"#)),
        r#"{"type":"message","from":"server","dataType":"json","data":{"message":"Hello world!"}}"#,
    );
    json_message(
        &from_group(json_data(r#"[ 1.0, "\u00e9" ]"#), Some(user("u"))),
        r#"{"type":"message","from":"group","group":"g","fromUserId":"u","dataType":"json","data":[ 1.0, "\u00e9" ]}"#,
    );
    json_message(
        &from_group(Data::text("a\"é\\"), None),
        r#"{"type":"message","from":"group","group":"g","fromUserId":null,"dataType":"text","data":"a\"é\\"}"#,
    );
    json_message(
        &Message::new(Sender::Server, binary(&[0xFF, 0])),
        r#"{"type":"message","from":"server","dataType":"binary","data":"/wA="}"#,
    );
    json_message(
        &Message::new(Sender::Server, Data::Protobuf(Bytes::from_static(b"\x0A\x01t"))),
        r#"{"type":"message","from":"server","dataType":"protobuf","data":"CgF0"}"#,
    );
}

#[test]
fn messages_carry_metadata_and_streams() {
    let mut message = from_group(Data::text("d"), Some(user("u")));
    message.metadata = metadata(&[("a", "1"), ("b", "2")]);
    message.stream = Some(StreamMark { stream_id: "s".into(), sequence: 3, end: false, error: None });
    json_message(
        &message,
        r#"{"type":"message","from":"group","group":"g","fromUserId":"u","dataType":"text","data":"d","metadata":{"a":"1","b":"2"},"stream":{"streamId":"s","streamSequenceId":3}}"#,
    );
    let mut end = from_group(Data::text(""), None);
    let fault = StreamFault { name: "IdleTimeout".into(), message: Some("m".into()), user_error_code: None };
    end.stream = Some(StreamMark { stream_id: "s".into(), sequence: 4, end: true, error: Some(fault) });
    json_message(
        &end,
        r#"{"type":"message","from":"group","group":"g","fromUserId":null,"dataType":"text","data":"","stream":{"streamId":"s","streamSequenceId":4,"endOfStream":true,"error":{"name":"IdleTimeout","message":"m"}}}"#,
    );
    assert!(end.concerns(Protocol::Json) && end.concerns(Protocol::ReliableJson));
    assert!(!end.concerns(Protocol::Simple) && !end.concerns(Protocol::Protobuf));
    assert!(message.concerns(Protocol::Simple));
}

#[test]
fn messages_in_protobuf_end_with_their_number() {
    let check = |message: &Message, inner: &[u8]| {
        let frame = |inner: &[u8]| (Opcode::Binary, [&[0x12, inner.len() as u8], inner].concat());
        assert_eq!(payload(&deliver(message, Protocol::Protobuf, None)), frame(inner));
        assert_eq!(payload(&deliver(message, Protocol::ReliableProtobuf, None)), frame(inner));
        let numbered = [inner, b"\x20\xAC\x02"].concat();
        assert_eq!(payload(&deliver(message, Protocol::ReliableProtobuf, Some(300))), frame(&numbered));
    };
    check(&Message::new(Sender::Server, Data::text("hi")), b"\x0A\x06server\x1A\x04\x0A\x02hi");
    check(&from_group(binary(&[0xFF]), Some(user("u"))), b"\x0A\x05group\x12\x01g\x1A\x03\x12\x01\xFF");
    check(
        &Message::new(Sender::Server, Data::Protobuf(Bytes::from_static(b"\x0A\x01t"))),
        b"\x0A\x06server\x1A\x05\x1A\x03\x0A\x01t",
    );
    let mut message = Message::new(Sender::Server, json_data("{}"));
    message.metadata = metadata(&[("k", "v")]);
    check(&message, b"\x0A\x06server\x1A\x04\x22\x02{}\x2A\x06\x0A\x01k\x12\x01v");
}

#[test]
fn simple_clients_get_bare_data() {
    let check = |data: Data, opcode| {
        let message = Message::new(Sender::Server, data.clone());
        let got = payload(&deliver(&message, Protocol::Simple, None));
        assert_eq!(got, (opcode, data.bytes().to_vec()));
    };
    check(Data::text("hi"), Opcode::Text);
    check(json_data("{\"a\":1}"), Opcode::Text);
    check(binary(&[0xFF]), Opcode::Binary);
    check(Data::Protobuf(Bytes::from_static(b"\x0A\x01t")), Opcode::Binary);
}

#[test]
fn lengths_are_right_at_each_boundary_of_their_forms() {
    for len in (0..400).chain(16_250..16_400).chain(65_400..65_560).chain([1 << 20]) {
        let message = Message::new(Sender::Server, binary(&vec![7; len]));
        for sequence in [1, 127, 128, u64::MAX] {
            for protocol in [Protocol::ReliableJson, Protocol::ReliableProtobuf] {
                let framed = Framed::new(message.shared(protocol), Some(sequence));
                let mut bytes = framed.slices().concat();
                let mut frames = 0;
                Decoder::client(2 << 20).feed(&mut bytes, &mut |_| frames += 1).unwrap();
                assert_eq!(frames, 1, "{len} bytes, number {sequence}, {protocol:?}");
            }
        }
    }
}

#[test]
fn a_message_is_encoded_once_and_its_copy_anew() {
    let message = Message::new(Sender::Server, Data::text("one"));
    let first = message.shared(Protocol::Json).body.as_ptr();
    assert_eq!(message.shared(Protocol::Json).body.as_ptr(), first);
    let mut copy = message.clone();
    assert_eq!(copy, message);
    copy.data = Data::text("two");
    assert!(text_of(&copy.shared(Protocol::Json).body).contains("two"));
}

#[test]
fn a_message_survives_the_way_to_another_region() {
    let mut message = from_group(binary(&[0, 0xFF]), Some(user("u")));
    message.metadata = metadata(&[("k", "v")]);
    message.expires = Some(Moment(5));
    message.id = Some(u128::MAX);
    message.stream = Some(StreamMark { stream_id: "s".into(), sequence: 1, end: true, error: None });
    let _encoded = message.shared(Protocol::Json);
    let bytes = postcard::to_allocvec(&message).unwrap();
    assert!(bytes.len() < 60, "what was encoded stays here: {} bytes", bytes.len());
    assert_eq!(postcard::from_bytes::<Message>(&bytes).unwrap(), message);
}
