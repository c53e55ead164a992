//! Bodies of all kinds.

use http::HeaderValue;
use http_body_util::{Empty, Full, StreamBody};
use hyper::body::Frame;

use super::*;

fn of_type(content_type: &str) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap())])
}

#[test]
fn content_types() {
    for (text, expected) in [
        ("application/json", Some(Kind::Json)),
        ("Application/JSON; charset=utf-8", Some(Kind::Json)),
        ("application/json;charset=\"UTF-8\"", Some(Kind::Json)),
        ("application/json; odata=verbose; charset=utf8", Some(Kind::Json)),
        ("text/plain", Some(Kind::Text)),
        ("text/plain;charset=us-ascii", Some(Kind::Text)),
        ("text/plain;", Some(Kind::Text)),
        ("application/octet-stream", Some(Kind::Binary)),
        ("application/octet-stream; charset=latin1", Some(Kind::Binary)),
        ("", Some(Kind::Binary)),
        ("text/plain; charset=iso-8859-1", None),
        ("application/json; charset=utf-16", None),
        ("text/html", None),
        ("application/jsonp", None),
        ("application/x-www-form-urlencoded", None),
        ("json", None),
        (";", Some(Kind::Binary)),
    ] {
        assert_eq!(kind(&of_type(text)).ok(), expected, "{text}");
    }
    assert_eq!(kind(&HeaderMap::new()), Ok(Kind::Binary));
}

#[test]
fn data_is_what_its_type_says() {
    let json = |text: &'static str| data(Kind::Json, Bytes::from_static(text.as_bytes()));
    for text in
        ["{}", "null", "1", "-0.5e7", "\"a\"", " [1, {\"a\": \"\\u00e9\"}] ", "1e999999", "\"\u{e9}\""]
    {
        assert_eq!(json(text), Ok(Data::Json(Bytes::from_static(text.as_bytes()))), "{text}");
    }
    for text in ["", " ", "{", "{}{}", "{a:1}", "'a'", "01", "[1,]", "NaN", "\"\\x\"", "tru", "\u{feff}{}"] {
        assert!(matches!(json(text), Err(RestError::Bad { target: "body", .. })), "{text}");
    }
    let bytes = Bytes::from_static(&[0xff, 0xfe]);
    assert_eq!(data(Kind::Binary, bytes.clone()), Ok(Data::Binary(bytes.clone())));
    assert!(data(Kind::Text, bytes.clone()).is_err());
    assert!(data(Kind::Json, Bytes::from_static(b"\"\xff\"")).is_err());
    assert_eq!(data(Kind::Text, Bytes::new()), Ok(Data::Text(Bytes::new())));
}

#[test]
fn json_of_any_depth_is_read_without_recursion() {
    let deep = "[".repeat(BODY_LEN_MAX / 2) + &"]".repeat(BODY_LEN_MAX / 2);
    assert!(data(Kind::Json, Bytes::from(deep)).is_ok());
    assert!(data(Kind::Json, Bytes::from("[".repeat(BODY_LEN_MAX))).is_err());
}

async fn read_as(length: Option<&str>, body: Vec<u8>) -> Result<usize, RestError> {
    let mut headers = HeaderMap::new();
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_str(length).unwrap());
    }
    read(&headers, Full::new(Bytes::from(body))).await.map(|body| body.len())
}

#[tokio::test]
async fn lengths() {
    assert_eq!(read_as(Some("3"), b"abc".to_vec()).await, Ok(3));
    assert_eq!(read_as(Some("0"), Vec::new()).await, Ok(0));
    assert_eq!(read_as(Some("1048576"), vec![0; BODY_LEN_MAX]).await, Ok(BODY_LEN_MAX));
    for (length, body) in [
        (None, Vec::new()),
        (Some("1048577"), Vec::new()),
        (Some("99999999999999999999999"), Vec::new()),
        (Some("-1"), Vec::new()),
        (Some("x"), Vec::new()),
        (Some(""), Vec::new()),
        (Some("1"), vec![0; BODY_LEN_MAX + 1]),
    ] {
        let read = read_as(length, body).await;
        assert!(
            matches!(&read, Err(RestError::Bad { target: "Content-Length", .. })),
            "{length:?}: {read:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_is_not_waited_for() {
    let never = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
    let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("1"))]);
    assert_eq!(read(&headers, Box::pin(never)).await, Err(RestError::TooSlow { seconds: 30 }));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_said_to() {
    let broken = [Ok(Frame::data(Bytes::from_static(b"a"))), Err(std::io::Error::other("reset"))];
    let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("2"))]);
    let read = read(&headers, StreamBody::new(futures_util::stream::iter(broken))).await;
    assert_eq!(read, Err(RestError::bad("body", "the body broke off: reset")));
}

async fn groups_of(content_type: &str, text: &str) -> Result<String, String> {
    let mut headers = of_type(content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from_str(&text.len().to_string()).unwrap());
    let read = groups(&headers, Full::new(Bytes::copy_from_slice(text.as_bytes()))).await;
    let names = |groups: &[GroupName]| groups.iter().map(GroupName::as_str).collect::<Vec<_>>().join("+");
    read.map(|(groups, filter)| {
        format!("{} {}", names(&groups), filter.map_or_else(|| "all".to_owned(), |f| f.text().to_owned()))
    })
    .map_err(|error| format!("{} {}", error.status().as_u16(), error.target().unwrap_or_default()))
}

#[tokio::test]
async fn groups_and_whom_to_put_there() {
    for (text, expected) in [
        (r#"{"groups":["a"]}"#, Ok("a all")),
        (r#"{"groups":["a","b c"],"filter":null,"more":1}"#, Ok("a+b c all")),
        (r#"{"groups":["a"],"filter":""}"#, Ok("a all")),
        (r#"{"groups":["a"],"filter":"userId eq 'ann'"}"#, Ok("a userId eq 'ann'")),
        (r#"{"groups":["a"],"filter":"invalid filter"}"#, Err("400 filter")),
        (r#"{"groups":[]}"#, Err("400 groups")),
        (r#"{"groups":[" "]}"#, Err("400 group")),
        (r#"{"groups":"a"}"#, Err("400 body")),
        (r#"{"groups":[1]}"#, Err("400 body")),
        (r#"{"groups":null}"#, Err("400 body")),
        ("{}", Err("400 body")),
        ("[]", Err("400 body")),
        ("", Err("400 body")),
    ] {
        let read = groups_of("application/json", text).await;
        assert_eq!(read.as_deref().map_err(String::as_str), expected, "{text}");
    }
    for content_type in ["text/plain", "application/octet-stream", "text/html", ""] {
        let read = groups_of(content_type, r#"{"groups":["a"]}"#).await;
        assert_eq!(read, Err("415 Content-Type".to_owned()), "{content_type}");
    }
    let many = |count| format!(r#"{{"groups":[{}]}}"#, vec!["\"g\""; count].join(","));
    assert!(groups_of("application/json", &many(GROUPS_MAX)).await.is_ok());
    assert_eq!(groups_of("application/json", &many(GROUPS_MAX + 1)).await, Err("400 groups".to_owned()));
    let headers = of_type("application/json");
    assert!(groups(&headers, Empty::new()).await.is_err(), "a body without a length");
}
