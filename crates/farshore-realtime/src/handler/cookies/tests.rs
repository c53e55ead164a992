//! Cookies, as rows.

use proptest::prelude::*;

use super::*;

const URL: &str = "http://app.example/events/connect";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000_000 + second).unwrap()
}

fn connection(number: usize) -> ConnectionId {
    ConnectionId::parse(&format!("c{number}")).unwrap()
}

fn set(cookies: &Cookies, of: &ConnectionId, texts: &[&str], now: Timestamp) {
    let mut headers = HeaderMap::new();
    for text in texts {
        headers.append(SET_COOKIE, HeaderValue::from_str(text).unwrap());
    }
    cookies.store(of, &Url::parse(URL).unwrap(), &headers, now);
}

fn sent(cookies: &Cookies, of: &ConnectionId, url: &str, now: Timestamp) -> String {
    let header = cookies.header(of, &Url::parse(url).unwrap(), now);
    header.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[test]
fn a_cookie_goes_where_it_belongs() {
    // (set at URL, asked for at, sent there)
    let rows = [
        ("a=1", URL, "a=1"),
        ("a=1", "http://app.example/events/message", "a=1"),
        ("a=1", "http://app.example/events", "a=1"),
        ("a=1", "http://app.example/eventsmore", ""),
        ("a=1", "http://app.example/", ""),
        ("a=1; Path=/", "http://app.example/", "a=1"),
        ("a=1; path=/other", "http://app.example/other/x", "a=1"),
        ("a=1; path=other", "http://app.example/other/x", ""),
        ("a=1; Domain=example; Path=/", "http://example/", ""),
        ("a=1; Path=/", "https://app.example/", ""),
        ("a=1; Path=/", "http://app.example:81/", ""),
        (" a = 1 ; Secure; HttpOnly; SameSite=Lax", URL, "a=1"),
        ("a=", URL, "a="),
        ("a=b=c", URL, "a=b=c"),
        ("a=\"1\"", URL, "a=\"1\""),
        ("=1", URL, ""),
        ("a", URL, ""),
        ("", URL, ""),
        ("a=1; Max-Age=10", URL, "a=1"),
        ("a=1; Max-Age=0", URL, ""),
        ("a=1; Max-Age=-5", URL, ""),
        ("a=1; Max-Age=never", URL, "a=1"),
        ("a=1; Max-Age=9223372036854775807", URL, "a=1"),
        ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", URL, ""),
        ("a=1; Expires=Fri, 01 Jan 2100 00:00:00 GMT", URL, "a=1"),
        ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=5", URL, "a=1"),
        ("a=1; Expires=whenever", URL, "a=1"),
    ];
    for (text, url, expected) in rows {
        let cookies = Cookies::default();
        set(&cookies, &connection(1), &[text], at(0));
        assert_eq!(sent(&cookies, &connection(1), url, at(1)), expected, "{text:?} at {url}");
        assert_eq!(sent(&cookies, &connection(2), url, at(1)), "", "another connection");
    }
}

#[test]
fn cookies_age_are_replaced_and_forgotten() {
    let (cookies, one) = (Cookies::default(), connection(1));
    set(&cookies, &one, &["a=1; Max-Age=10", "b=1"], at(0));
    assert_eq!(sent(&cookies, &one, URL, at(9)), "a=1; b=1");
    assert_eq!(sent(&cookies, &one, URL, at(10)), "b=1");
    set(&cookies, &one, &["b=2"], at(11));
    assert_eq!(sent(&cookies, &one, URL, at(11)), "b=2");
    set(&cookies, &one, &["b=; Max-Age=0"], at(12));
    assert_eq!(sent(&cookies, &one, URL, at(12)), "");
    assert_eq!(cookies.lock().bytes, 0);
    set(&cookies, &one, &["c=1"], at(13));
    cookies.forget(&one);
    cookies.forget(&one);
    assert_eq!(sent(&cookies, &one, URL, at(13)), "");
    let jars = cookies.lock();
    assert_eq!((jars.bytes, jars.by_use.len(), jars.by_connection.len()), (0, 0, 0));
}

#[test]
fn one_connection_cannot_take_all_room() {
    let (cookies, one) = (Cookies::default(), connection(1));
    for number in 0..100 {
        set(&cookies, &one, &[&format!("n{number}=1")], at(0));
    }
    assert_eq!(sent(&cookies, &one, URL, at(0)).split("; ").count(), COOKIES_PER_CONNECTION_MAX);
    let other = connection(2);
    set(&cookies, &other, &[&format!("a={}", "x".repeat(BYTES_PER_CONNECTION_MAX)), "b=1"], at(0));
    assert_eq!(sent(&cookies, &other, URL, at(0)), "b=1");
}

#[test]
fn when_all_is_full_the_quiet_ones_lose_theirs() {
    let cookies = Cookies::default();
    let value = format!("a={}", "x".repeat(BYTES_PER_CONNECTION_MAX - 100));
    let fit = BYTES_MAX / (BYTES_PER_CONNECTION_MAX - 100);
    set(&cookies, &connection(0), &[&value], at(0));
    set(&cookies, &connection(1), &[&value], at(0));
    for number in 2..fit + 8 {
        assert_ne!(sent(&cookies, &connection(0), URL, at(0)), "", "used all the time");
        set(&cookies, &connection(number), &[&value], at(0));
    }
    assert_eq!(sent(&cookies, &connection(1), URL, at(0)), "", "quiet for longest");
    let jars = cookies.lock();
    assert!(jars.bytes <= BYTES_MAX);
    assert_eq!(jars.by_use.len(), jars.by_connection.len());
    assert_eq!(jars.bytes, jars.by_connection.values().map(Jar::bytes).sum::<usize>());
}

proptest! {
    #[test]
    fn no_cookie_is_too_strange(texts in proptest::collection::vec("[ -~]{0,40}|[a-c]=[0-9]; (Path|Max-Age|Expires)=[ -~]{0,12}", 0..6)) {
        let (cookies, one) = (Cookies::default(), connection(1));
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        set(&cookies, &one, &texts, at(0));
        let _ = sent(&cookies, &one, URL, at(0));
        cookies.forget(&one);
        prop_assert_eq!(cookies.lock().bytes, 0);
    }
}
