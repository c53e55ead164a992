//! What handlers say, as rows, and what they could say, at random.

use super::*;
use http::header::CONTENT_TYPE;
use proptest::prelude::*;

fn raw(status: u16, content_type: &str, body: &[u8]) -> Raw {
    let mut headers = HeaderMap::new();
    if !content_type.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(content_type.as_bytes()).unwrap());
    }
    Raw { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::copy_from_slice(body) }
}

#[test]
fn answers_to_connect_are_read() {
    let offered = ["a".to_owned(), "b".to_owned()];
    let rows: [(&str, Result<ConnectAnswer, &str>); 20] = [
        ("", Ok(ConnectAnswer::default())),
        ("{}", Ok(ConnectAnswer::default())),
        (" null ", Ok(ConnectAnswer::default())),
        (r#"{"userId":null,"groups":null,"roles":null,"subprotocol":null}"#, Ok(ConnectAnswer::default())),
        (r#"{"userId":"","subprotocol":""}"#, Ok(ConnectAnswer::default())),
        (r#"{"groups":[],"roles":[],"more":{"x":1}}"#, Ok(ConnectAnswer::default())),
        (
            r#"{"userId":"bob","groups":["g1","g 2"],"roles":["webpubsub.sendToGroup"],"subprotocol":"b"}"#,
            Ok(ConnectAnswer {
                user: Some(UserId::parse("bob").unwrap()),
                groups: vec![GroupName::parse("g1").unwrap(), GroupName::parse("g 2").unwrap()],
                roles: vec!["webpubsub.sendToGroup".to_owned()],
                subprotocol: Some("b".to_owned()),
                state: None,
            }),
        ),
        (r#"{"subprotocol":"c"}"#, Err("none of those that the client offers")),
        (r#"{"subprotocol":"A"}"#, Err("none of those that the client offers")),
        (r#"{"groups":[" "]}"#, Err("groups: ")),
        (r#"{"groups":"g"}"#, Err("JSON object")),
        (r#"{"groups":[1]}"#, Err("JSON object")),
        (r#"{"userId":7}"#, Err("JSON object")),
        (r#"{"userId":"a","userId":"b"}"#, Err("JSON object")),
        ("{", Err("JSON object")),
        ("[]", Err("an array")),
        (r#" ["bob"]"#, Err("an array")),
        ("7", Err("JSON object")),
        (r#""bob""#, Err("JSON object")),
        ("<html>", Err("line 1, column 1")),
    ];
    for (body, expected) in rows {
        let read = answer::connect(&raw(200, "application/json", body.as_bytes()), &offered);
        match (&read, &expected) {
            (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{body}"),
            (Err(error), Err(reason)) => assert!(error.contains(reason), "{body}: {error}"),
            _ => panic!("{body}: {read:?}, expected {expected:?}"),
        }
    }
    let long = format!(r#"{{"userId":"{}"}}"#, "u".repeat(1025));
    assert!(answer::connect(&raw(200, "", long.as_bytes()), &[]).unwrap_err().contains("userId: "));
}

#[test]
fn answers_to_events_are_read() {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    type Row = (&'static str, &'static str, Result<Option<Data>, &'static str>);
    let rows: [Row; 16] = [
        ("text/plain", "", Ok(None)),
        ("application/json", "", Ok(None)),
        ("", "", Ok(None)),
        ("image/png", "", Ok(None)),
        ("", "hi", Ok(Some(Data::Text(bytes("hi"))))),
        ("text/plain; charset=utf-8", "hü", Ok(Some(Data::Text(bytes("hü"))))),
        ("TEXT/PLAIN", "hi", Ok(Some(Data::Text(bytes("hi"))))),
        ("application/json", r#" {"a" : 1.0e5} "#, Ok(Some(Data::Json(bytes(r#" {"a" : 1.0e5} "#))))),
        ("application/json; charset=utf-8", "[1,null]", Ok(Some(Data::Json(bytes("[1,null]"))))),
        ("application/json", "{", Err("not JSON (line 1, column 1)")),
        ("application/json", "1 2", Err("not JSON")),
        ("application/json", "\u{feff}{}", Err("not JSON")),
        ("application/octet-stream", "\0\x01", Ok(Some(Data::Binary(bytes("\0\x01"))))),
        ("application/x-protobuf", "\x0a", Ok(Some(Data::Protobuf(bytes("\x0a"))))),
        ("text/html", "<p>", Err("use text/plain")),
        ("\u{fc}", "x", Err("not ASCII")),
    ];
    for (content_type, body, expected) in rows {
        let read = answer::event(&raw(200, content_type, body.as_bytes())).map(|answer| answer.data);
        match (&read, &expected) {
            (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{content_type} {body}"),
            (Err(error), Err(reason)) => assert!(error.contains(reason), "{content_type} {body}: {error}"),
            _ => panic!("{content_type} {body}: {read:?}, expected {expected:?}"),
        }
    }
    for content_type in ["text/plain", "application/json", ""] {
        assert!(
            answer::event(&raw(200, content_type, b"\"\xff\"")).unwrap_err().contains("UTF-8 from byte 1")
        );
    }
    let deep = "[".repeat(100_000);
    assert!(answer::event(&raw(200, "application/json", deep.as_bytes())).is_err());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(
        answer::event(&raw(200, "application/json", deep.as_bytes())).is_ok(),
        "kept as it is, never walked"
    );
}

#[test]
fn states_are_kept_within_limits() {
    let with = |values: &[&[u8]]| {
        let mut raw = raw(204, "", b"");
        for value in values {
            raw.headers.append("ce-connectionState", HeaderValue::from_bytes(value).unwrap());
        }
        answer::event(&raw).map(|answer| answer.state)
    };
    assert_eq!(with(&[]), Ok(None));
    assert_eq!(with(&[b"e30="]), Ok(Some("e30=".to_owned())));
    assert_eq!(with(&[b""]), Ok(Some(String::new())));
    assert_eq!(with(&[b"old", b"new"]), Ok(Some("new".to_owned())));
    assert_eq!(with(&["hü".as_bytes()]), Ok(Some("hü".to_owned())));
    assert!(with(&[b"\xff"]).unwrap_err().contains("base64"));
    assert!(with(&[&[b'x'; STATE_LEN_MAX]]).is_ok());
    assert!(with(&[&[b'x'; STATE_LEN_MAX + 1]]).unwrap_err().contains("at most"));
}

#[test]
fn metadata_comes_with_an_answer_within_limits() {
    let with = |rows: &[(&'static str, &[u8])]| {
        let mut raw = raw(200, "text/plain", b"x");
        for (name, value) in rows {
            raw.headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        answer::event(&raw).map(|answer| answer.metadata.into_iter().collect::<Vec<_>>())
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(with(&[("x-other", b"1")]), Ok(vec![]));
    let rows: [(&str, &[u8]); 3] =
        [("x-webpubsub-metadata-b", b"1"), ("x-webpubsub-metadata-a", b""), ("x-webpubsub-metadata-b", b"2")];
    assert_eq!(with(&rows), Ok(vec![pair("a", ""), pair("b", "2")]));
    assert!(with(&[("x-webpubsub-metadata-a", b"\xff")]).unwrap_err().contains("not ASCII"));
    assert!(with(&[("x-webpubsub-metadata-a", &[b'x'; 1025])]).is_err());
    assert!(with(&[("x-webpubsub-metadata-", b"x")]).is_err());
}

#[test]
fn refusals_are_passed_on_and_the_rest_is_an_error_of_ours() {
    let told = answer::refusal(&raw(401, "text/plain; charset=utf-8", b"who are you?"));
    let expected = Refusal {
        status: 401,
        body: Bytes::from_static(b"who are you?"),
        content_type: Some("text/plain; charset=utf-8".to_owned()),
    };
    assert_eq!(told, expected);
    assert_eq!(answer::refusal(&raw(503, "", b"")).status, 503);
    for status in [301, 304, 307, 600, 999] {
        let told = answer::refusal(&raw(status, "text/plain", b"secret"));
        assert_eq!(told.status, 500, "{status}");
        assert_ne!(told.body, "secret");
    }
}

#[test]
fn texts_become_headers_that_cannot_be_broken_out_of() {
    let rows = [
        ("ann", "ann"),
        ("ann b@c/d+e=f;g,h", "ann b@c/d+e=f;g,h"),
        ("50%", "50%"),
        ("say \"hi\"", "say \"hi\""),
        ("", ""),
        (" ann", "%20ann"),
        ("ann ", "ann%20"),
        ("ünal", "%C3%BCnal"),
        ("ü 50%\"", "%C3%BC%2050%25%22"),
        ("a\r\nx: y", "a%0D%0Ax:%20y"),
        ("a\0b\tc\x7f", "a%00b%09c%7F"),
        ("😀", "%F0%9F%98%80"),
    ];
    for (text, expected) in rows {
        assert_eq!(event::header_value(text), expected, "{text:?}");
    }
}

proptest! {
    #[test]
    fn no_answer_is_too_strange(
        status in 200_u16..1000,
        content_type in prop_oneof![
            Just(b"application/json".to_vec()), Just(b"text/plain".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..24),
        ],
        state in proptest::collection::vec(any::<u8>(), 0..24),
        body in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            "[\\[\\]{}:,\"a-z0-9 ]{0,32}".prop_map(String::into_bytes),
            "\\{\"(userId|groups|roles|subprotocol)\":.{0,16}\\}".prop_map(String::into_bytes),
        ],
    ) {
        let mut raw = raw(status, "", &body);
        for (name, value) in [("content-type", content_type), ("ce-connectionstate", state)] {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                raw.headers.insert(name, value);
            }
        }
        let _ = answer::connect(&raw, &[]);
        let _ = answer::event(&raw);
        let refusal = answer::refusal(&raw);
        prop_assert!(refusal.status >= 400 && refusal.status < 600);
        let _ = allows(&raw.headers, "a");
    }

    #[test]
    fn every_text_makes_a_header(text in "\\PC{0,32}|[\\x00-\\x7f]{0,16}") {
        let value = event::header_value(&text);
        prop_assert!(value.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte)));
    }
}
