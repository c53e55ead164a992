//! What must hold whatever clients send, and for every message.

use proptest::prelude::*;

use super::*;
use crate::ws::codec::{Decoder, Incoming, masked_frame};

const PROTOCOLS: [Protocol; Protocol::COUNT] = [
    Protocol::Simple,
    Protocol::Json,
    Protocol::ReliableJson,
    Protocol::Protobuf,
    Protocol::ReliableProtobuf,
];

const FRAMES: &[&str] = &[
    r#"{"type":"sendToGroup","group":"g","ackId":7,"noEcho":true,"dataType":"json","data":{"a":[1,"b"]},"ttlSeconds":5}"#,
    r#"{"type":"sendToGroup","group":"g","dataType":"binary","data":"AAEC","metadata":{"k":"v"}}"#,
    r#"{"type":"sendToGroup","group":"g","stream":{"streamId":"s","idleTimeoutMs":1}}"#,
    r#"{"type":"event","event":"e","ackId":1,"dataType":"protobuf","data":"CgF0EgH/"}"#,
    r#"{"type":"setGroupState","group":"g","state":{"a":"b"},"ackId":1}"#,
    r#"{"type":"invokeResponse","invocationId":"1","success":false,"error":{"name":"N","message":"m"}}"#,
];

/// The same as a client with protobuf sends them.
const ENCODED: &[&[u8]] = &[
    b"\x0A\x0E\x0A\x01g\x10\xAC\x02\x1A\x04\x0A\x02hi\x20\x01",
    b"\x0A\x0E\x0A\x01g\x1A\x09\x22\x07{\"a\":1}",
    b"\x0A\x14\x0A\x01g\x1A\x07\x1A\x05\x0A\x01t\x12\x00\x32\x06\x0A\x01k\x12\x01v",
    b"\x2A\x0B\x0A\x01e\x12\x04\x0A\x02hi\x18\x05",
    b"\x42\x02\x08\x07",
];

#[test]
fn the_frames_that_are_mutated_here_are_good() {
    for frame in FRAMES {
        decode(Protocol::Json, Opcode::Text, frame.as_bytes()).unwrap();
    }
    for frame in ENCODED {
        decode(Protocol::Protobuf, Opcode::Binary, frame).unwrap();
    }
}

/// A frame that holds what it promises, or a refusal that can be sent.
fn is_sound(decoded: &Result<Upstream, BadFrame>) -> Result<(), TestCaseError> {
    match decoded {
        Ok(Upstream::Send { data: Some(data), .. } | Upstream::Event { data, .. }) => match data {
            Data::Text(bytes) => prop_assert!(std::str::from_utf8(bytes).is_ok()),
            Data::Json(bytes) => prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()),
            Data::Binary(_) => {}
            Data::Protobuf(bytes) => prop_assert!(protobuf::is_any(bytes)),
        },
        Ok(_) => {}
        Err(bad) => {
            prop_assert!(bad.reason.len() <= 123);
            prop_assert!(matches!(bad.code, 1003 | 1007));
        }
    }
    Ok(())
}

fn decode_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    for protocol in PROTOCOLS {
        for opcode in [Opcode::Text, Opcode::Binary] {
            is_sound(&decode(protocol, opcode, bytes))?;
        }
    }
    Ok(())
}

/// A good frame with bytes changed, taken out, put in, or doubled.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let good = prop_oneof![
        prop::sample::select(FRAMES).prop_map(|frame| frame.as_bytes().to_vec()),
        prop::sample::select(ENCODED).prop_map(<[u8]>::to_vec),
    ];
    let change = (any::<prop::sample::Index>(), 0..4_u8, any::<u8>());
    (good, prop::collection::vec(change, 0..6)).prop_map(|(mut bytes, changes)| {
        for (at, what, value) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = value,
                1 => bytes.insert(at, value),
                2 => drop(bytes.remove(at)),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    })
}

fn any_data() -> impl Strategy<Value = Data> {
    prop_oneof![
        "\\PC{0,300}".prop_map(|text| Data::text(&text)),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| binary(&bytes)),
        "\\PC{0,50}".prop_map(|text| json_data(&serde_json::json!({ "a": [text, 1] }).to_string())),
    ]
}

/// What a receiver of JSON understands.
fn read_message(text: &str) -> (serde_json::Value, Option<u64>) {
    let mut object: serde_json::Value = serde_json::from_str(text).unwrap();
    let sequence = object.as_object_mut().unwrap().remove("sequenceId");
    (object, sequence.map(|sequence| sequence.as_u64().unwrap()))
}

fn sent_as_json(data: &Data, ack_id: u64) -> String {
    let value = match data {
        Data::Text(bytes) => serde_json::Value::from(std::str::from_utf8(bytes).unwrap()).to_string(),
        Data::Json(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        Data::Binary(bytes) | Data::Protobuf(bytes) => {
            use base64::Engine as _;
            format!("\"{}\"", base64::engine::general_purpose::STANDARD.encode(bytes))
        }
    };
    let kind = data.type_name();
    format!(r#"{{"type":"sendToGroup","group":"g","ackId":{ack_id},"dataType":"{kind}","data":{value}}}"#)
}

proptest! {
    #[test]
    fn rubbish_is_never_more_than_refused(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        decode_all(&bytes)?;
    }

    #[test]
    fn almost_good_frames_are_read_or_refused(bytes in mutated()) {
        decode_all(&bytes)?;
    }

    #[test]
    fn the_way_through_the_wire_does_not_depend_on_how_it_is_cut(
        frames in prop::collection::vec(mutated(), 1..5),
        sizes in prop::collection::vec(1_usize..50, 1..6),
    ) {
        let expected: Vec<_> =
            frames.iter().map(|frame| decode(Protocol::Protobuf, Opcode::Binary, frame)).collect();
        let bytes: Vec<u8> =
            frames.iter().flat_map(|frame| masked_frame(Opcode::Binary, frame, [1, 2, 3, 4])).collect();
        let (mut seen, mut rest, mut decoder) = (Vec::new(), &bytes[..], Decoder::server(1 << 20));
        for size in sizes.iter().cycle() {
            let (chunk, after) = rest.split_at(rest.len().min(*size));
            let mut on = |incoming: Incoming<'_>| {
                let Incoming::Binary(bytes) = incoming else { panic!("{incoming:?}") };
                seen.push(decode(Protocol::Protobuf, Opcode::Binary, bytes));
            };
            decoder.feed(&mut chunk.to_vec(), &mut on).unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn data_comes_out_as_it_went_in(data in any_data(), ack_id in any::<u64>(), sequence in 1..=u64::MAX) {
        let frame = sent_as_json(&data, ack_id);
        let Ok(Upstream::Send { data: Some(read), ack_id: known, .. }) =
            decode(Protocol::Json, Opcode::Text, frame.as_bytes())
        else {
            panic!("{frame}");
        };
        prop_assert_eq!((&read, known), (&data, Some(ack_id)));
        let message = Message::new(Sender::Server, read);
        let framed = Framed::new(message.shared(Protocol::ReliableJson), Some(sequence));
        let mut bytes = framed.slices().concat();
        let mut texts = Vec::new();
        let mut on = |incoming: Incoming<'_>| {
            let Incoming::Text(text) = incoming else { panic!("{incoming:?}") };
            texts.push(text.to_owned());
        };
        Decoder::client(1 << 20).feed(&mut bytes, &mut on).unwrap();
        prop_assert_eq!(texts.len(), 1);
        let (object, numbered) = read_message(&texts[0]);
        prop_assert_eq!(numbered, Some(sequence));
        let (sent, _) = read_message(&frame);
        prop_assert_eq!(&object["data"], &sent["data"]);
    }

    #[test]
    fn data_in_protobuf_comes_out_as_it_went_in(data in any_data()) {
        // A client's send has its data in the field (3) where a message to a client has it.
        let mut body = b"\x0A\x01g".to_vec();
        let message = Message::new(Sender::Server, data.clone());
        let shared = message.shared(Protocol::ReliableProtobuf);
        body.extend_from_slice(shared.body.strip_prefix(b"\x0A\x06server").unwrap());
        let mut frame = Vec::new();
        let mut length = [0; 10];
        let used = protobuf::put_varint(&mut length, body.len() as u64);
        frame.push(0x0A);
        frame.extend_from_slice(&length[..used]);
        frame.extend_from_slice(&body);
        let Ok(Upstream::Send { data: Some(read), .. }) = decode(Protocol::Protobuf, Opcode::Binary, &frame) else {
            panic!("{frame:?}");
        };
        prop_assert_eq!(read, data);
    }
}
