//! JSON frames of clients.

use super::*;

fn check(text: &str, expected: Upstream) {
    for protocol in [Protocol::Json, Protocol::ReliableJson] {
        assert_eq!(decode(protocol, Opcode::Text, text.as_bytes()), Ok(expected.clone()), "{text}");
    }
}

/// The ack id that is known, and the beginning of the reason.
fn refused(text: &str, ack_id: Option<u64>, reason: &str) {
    let bad = decode(Protocol::Json, Opcode::Text, text.as_bytes()).unwrap_err();
    assert_eq!((bad.code, bad.ack_id), (1007, ack_id), "{text}");
    assert!(bad.reason.starts_with(reason), "{text}: {}", bad.reason);
    assert!(bad.reason.len() <= 123, "{}", bad.reason);
}

fn send(to: &str, ack_id: Option<u64>, data: Data) -> Upstream {
    Upstream::Send {
        group: group(to),
        ack_id,
        no_echo: false,
        data: Some(data),
        ttl_seconds: None,
        metadata: Metadata::new(),
        stream: None,
    }
}

fn event(data: Data) -> Upstream {
    Upstream::Event { event: name("e"), ack_id: None, data, metadata: Metadata::new() }
}

#[test]
fn groups_are_joined_and_left() {
    check(
        r#"{"type":"joinGroup","group":"g","ackId":1}"#,
        Upstream::Join { group: group("g"), ack_id: Some(1) },
    );
    check(r#"{"type":"joinGroup","group":"g"}"#, Upstream::Join { group: group("g"), ack_id: None });
    check(
        r#"{ "ackId" : null , "group":"\u0067", "type":"JOINGROUP", "x":[{}] }"#,
        Upstream::Join { group: group("g"), ack_id: None },
    );
    let most = Some(u64::MAX);
    check(
        r#"{"type":"leaveGroup","group":"ü","ackId":18446744073709551615}"#,
        Upstream::Leave { group: group("ü"), ack_id: most },
    );
}

#[test]
fn what_is_sent_to_a_group_keeps_its_type() {
    check(r#"{"type":"sendToGroup","group":"g","data":{"a": [1.0,  "\u00e9"]}}"#, {
        send("g", None, json_data(r#"{"a": [1.0,  "\u00e9"]}"#))
    });
    check(r#"{"type":"sendToGroup","group":"g","ackId":7,"dataType":"text","data":"a\"b\u00e9\n"}"#, {
        send("g", Some(7), Data::text("a\"bé\n"))
    });
    check(r#"{"type":"sendToGroup","group":"g","dataType":"binary","data":"/wA="}"#, {
        send("g", None, binary(&[0xFF, 0]))
    });
    check(r#"{"type":"sendToGroup","group":"g","dataType":"protobuf","data":"CgF0EgH/"}"#, {
        send("g", None, Data::Protobuf(Bytes::from_static(b"\x0A\x01t\x12\x01\xFF")))
    });
    for data in ["null", "true", "12345678901234567890.5", "\"text\"", "[]"] {
        let frame = format!(r#"{{"type":"sendToGroup","group":"g","dataType":"json","data":{data}}}"#);
        check(&frame, send("g", None, json_data(data)));
    }
}

#[test]
fn a_send_has_options() {
    check(
        r#"{"type":"sendToGroup","group":"g","noEcho":true,"ttlSeconds":300,"metadata":{"k":"v"},"dataType":"text","data":""}"#,
        Upstream::Send {
            group: group("g"),
            ack_id: None,
            no_echo: true,
            data: Some(Data::text("")),
            ttl_seconds: Some(300),
            metadata: metadata(&[("k", "v")]),
            stream: None,
        },
    );
    let started = |idle_timeout_ms| Upstream::Send {
        group: group("g"),
        ack_id: Some(1),
        no_echo: false,
        data: None,
        ttl_seconds: None,
        metadata: Metadata::new(),
        stream: Some(StreamStart { stream_id: "s".into(), idle_timeout_ms }),
    };
    let start = r#"{"type":"sendToGroup","group":"g","ackId":1,"noEcho":false,"stream":{"streamId":"s""#;
    check(&format!("{start}}}}}"), started(None));
    check(&format!("{start},\"idleTimeoutMs\":5000}}}}"), started(Some(5000)));
    check(
        r#"{"type":"sendToGroup","group":"g","metadata":{"k":"v"}}"#,
        Upstream::Send {
            group: group("g"),
            ack_id: None,
            no_echo: false,
            data: Some(Data::text("")),
            ttl_seconds: None,
            metadata: metadata(&[("k", "v")]),
            stream: None,
        },
    );
}

#[test]
fn events_go_to_the_application() {
    check(r#"{"type":"event","event":"e","dataType":"text","data":"d"}"#, event(Data::text("d")));
    check(r#"{"type":"event","event":"e","data":"d"}"#, event(json_data("\"d\"")));
    check(
        r#"{"type":"event","event":"Chat.Said-1","ackId":3,"data":1,"metadata":{"a":"b"}}"#,
        Upstream::Event {
            event: name("Chat.Said-1"),
            ack_id: Some(3),
            data: json_data("1"),
            metadata: metadata(&[("a", "b")]),
        },
    );
}

#[test]
fn small_frames_are_read() {
    check(r#"{"type":"ping"}"#, Upstream::Ping);
    check(r#"{"type":"sequenceAck","sequenceId":17}"#, Upstream::SequenceAck(17));
    check(r#"{"type":"cancelInvocation","invocationId":"1"}"#, {
        Upstream::CancelInvocation { invocation_id: "1".into() }
    });
    check(
        r#"{"type":"invoke","invocationId":"1","target":"event","event":"e","dataType":"text","data":"d"}"#,
        {
            Upstream::Invoke {
                invocation_id: "1".into(),
                target: Some("event".into()),
                event: Some(name("e")),
                data: Some(Data::text("d")),
            }
        },
    );
    check(
        r#"{"type":"invokeResponse","invocationId":"1","success":true,"data":5}"#,
        Upstream::InvokeResponse {
            invocation_id: "1".into(),
            success: true,
            data: Some(json_data("5")),
            error: None,
        },
    );
    check(r#"{"type":"invokeResponse","invocationId":"1","error":{"name":"N","message":"m"}}"#, {
        Upstream::InvokeResponse {
            invocation_id: "1".into(),
            success: false,
            data: None,
            error: Some(ErrorDetail::new("N", "m")),
        }
    });
}

#[test]
fn streams_go_on_live_and_end() {
    check(r#"{"type":"streamData","streamId":"s","streamSequenceId":1,"dataType":"text","data":"d"}"#, {
        Upstream::StreamData { stream_id: "s".into(), sequence: 1, data: Some(Data::text("d")) }
    });
    check(r#"{"type":"streamData","streamId":"s"}"#, {
        Upstream::StreamData { stream_id: "s".into(), sequence: 0, data: None }
    });
    check(
        r#"{"type":"streamEnd","streamId":"s"}"#,
        Upstream::StreamEnd { stream_id: "s".into(), error: None },
    );
    check(r#"{"type":"streamEnd","streamId":"s","error":{"message":"m","userErrorCode":"c"}}"#, {
        let error = StreamEndError { message: Some("m".into()), user_error_code: Some("c".into()) };
        Upstream::StreamEnd { stream_id: "s".into(), error: Some(error) }
    });
    refused(r#"{"type":"streamData","streamId":"s","data":1}"#, None, "streamSequenceId is missing");
    refused(r#"{"type":"streamData","streamId":""}"#, None, "streamId must have 1 to 1024 bytes");
}

#[test]
fn group_state_is_an_object_of_texts() {
    let set = |state: Option<&str>| Upstream::SetGroupState {
        group: group("g"),
        state: state.map(|state| Bytes::copy_from_slice(state.as_bytes())),
        ack_id: Some(1),
    };
    check(r#"{"type":"setGroupState","group":"g","ackId":1,"state":{"a": "b"}}"#, set(Some(r#"{"a": "b"}"#)));
    check(r#"{"type":"setGroupState","group":"g","ackId":1}"#, set(None));
    refused(r#"{"type":"setGroupState","group":"g","ackId":1,"state":{"a":1}}"#, Some(1), "state must be");
    check(r#"{"type":"subscribeGroupState","group":"g","ackId":2}"#, {
        Upstream::SubscribeGroupState { group: group("g"), ack_id: Some(2) }
    });
    check(r#"{"type":"unsubscribeGroupState","group":"g","ackId":2}"#, {
        Upstream::UnsubscribeGroupState { group: group("g"), ack_id: Some(2) }
    });
}

#[test]
fn what_is_no_frame_of_the_protocol_cannot_be_answered() {
    refused("", None, "the frame is not a JSON object");
    refused("[]", None, "the frame is not a JSON object");
    refused("{\"type\":\"ping\"", None, "the frame is not a JSON object");
    refused("{\"type\":\"ping\"} {}", None, "the frame is not a JSON object");
    refused("{}", None, "type is missing");
    refused(r#"{"type":1,"ackId":1}"#, None, "type must be a text");
    refused(r#"{"type":"shout","ackId":1}"#, None, "unknown type: shout");
    refused(r#"{"type":"joinGroup","group":"g","ackId":-1}"#, None, "ackId must be");
    refused(r#"{"type":"joinGroup","group":"g","ackId":"1"}"#, None, "ackId must be");
    refused(r#"{"type":"joinGroup","group":"g","ackId":18446744073709551616}"#, None, "ackId must be");
    refused(r#"{"type":"sequenceAck"}"#, None, "sequenceId is missing");
    refused(&format!(r#"{{"type":"{}"}}"#, "é".repeat(500)), None, "unknown type: ");
}

#[test]
fn what_is_wrong_with_a_request_is_known_by_its_ack_id() {
    let send = |rest: &str, reason: &str| {
        refused(&format!(r#"{{"type":"sendToGroup","group":"g","ackId":9{rest}}}"#), Some(9), reason);
        refused(&format!(r#"{{"type":"sendToGroup","group":"g"{rest}}}"#), None, reason);
    };
    send("", "data is missing");
    send(r#","dataType":"text","data":1"#, "data of the type text must be a text");
    send(r#","dataType":"text","data":"\ud800""#, "data of the type text must be a text");
    send(r#","dataType":"binary","data":"=""#, "data is not valid base64");
    send(r#","dataType":"protobuf","data":"aGVsbG8=""#, "data is not an encoded google.protobuf.Any");
    send(r#","dataType":"xml","data":"a""#, "unknown dataType: xml");
    send(r#","data":1,"ttlSeconds":301"#, "ttlSeconds 301 is out of range: 0 to 300");
    send(r#","data":1,"ttlSeconds":-1"#, "ttlSeconds must be a whole number");
    send(r#","data":1,"noEcho":1"#, "noEcho must be true or false");
    send(r#","data":1,"metadata":{"a":1}"#, "metadata must be an object of texts");
    send(r#","data":1,"metadata":{"a b":"c"}"#, "a metadata key must be");
    send(r#","stream":{}"#, "streamId is missing");
    send(r#","stream":"s""#, "stream must be an object");
    refused(r#"{"type":"joinGroup","group":" ","ackId":4}"#, Some(4), "group \" \" is not valid");
    refused(r#"{"type":"joinGroup","ackId":4}"#, Some(4), "group is missing");
    refused(r#"{"type":"event","event":"1","data":1,"ackId":4}"#, Some(4), "event \"1\" is not valid");
    refused(r#"{"type":"event","event":"e","ackId":4}"#, Some(4), "data is missing");
}

#[test]
fn data_that_would_break_its_receivers_is_refused() {
    let nested = |depth: usize| {
        let data = [vec![b'['; depth], vec![b']'; depth]].concat();
        String::from_utf8(data).unwrap()
    };
    let frame = |data: &str| format!(r#"{{"type":"sendToGroup","group":"g","ackId":1,"data":{data}}}"#);
    check(&frame(&nested(64)), send("g", Some(1), json_data(&nested(64))));
    refused(&frame(&nested(65)), Some(1), "data is nested more than 64 levels deep");
    refused(&frame(&nested(500_000)), Some(1), "data is nested more than 64 levels deep");
    let text = format!("\"{}\\\"{}\"", "[".repeat(100), "{".repeat(100));
    check(&frame(&text), send("g", Some(1), json_data(&text)));
}
