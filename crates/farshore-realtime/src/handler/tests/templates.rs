//! Where events go, as rows.

use proptest::prelude::*;

use super::template::{BadTemplate, resolve};
use super::*;

fn check(template: &str, hub: &str, event: &str, expected: &str) {
    match resolve(template, hub, event) {
        Ok(url) => assert_eq!(url.as_str(), expected, "{template} for {hub}, {event}"),
        Err(error) => panic!("{template} for {hub}, {event}: {error}"),
    }
}

#[test]
fn names_are_filled_in_wherever_they_stand() {
    // (template, filled in for the hub `chat` and the event `Greet.v-1_b`)
    let hosts = [
        ("http://app.example", "http://app.example"),
        ("HTTPS://App.Example", "https://app.example"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://{hub}.app.example", "https://chat.app.example"),
        ("http://a-{HUB}:81", "http://a-chat:81"),
        ("https://app.example:443", "https://app.example"),
    ];
    let paths = [
        ("/", "/"),
        ("/{event}", "/Greet.v-1_b"),
        ("/{EVENT}/", "/Greet.v-1_b/"),
        ("/api/{hub}/{event}", "/api/chat/Greet.v-1_b"),
        ("/api/{Hub}{Event}", "/api/chatGreet.v-1_b"),
        ("/a%20b/{event}.json", "/a%20b/Greet.v-1_b.json"),
        ("/%7Bevent%7D", "/%7Bevent%7D"),
        ("/{event}/{event}", "/Greet.v-1_b/Greet.v-1_b"),
        ("/über", "/%C3%BCber"),
        ("//{hub}", "//chat"),
    ];
    let queries = [
        ("", ""),
        ("?", "?"),
        ("?code=a%2Fb", "?code=a%2Fb"),
        ("?e={event}", "?e=Greet.v-1_b"),
        ("?e={event}&h={hub}", "?e=Greet.v-1_b&h=chat"),
        ("?at=a@b", "?at=a@b"),
        ("?u=http://other.example/", "?u=http://other.example/"),
    ];
    let mut rows = 0;
    for (host, host_filled) in hosts {
        for (path, path_filled) in paths {
            for (query, query_filled) in queries {
                let expected = format!("{host_filled}{path_filled}{query_filled}");
                check(&format!("{host}{path}{query}"), "chat", "Greet.v-1_b", &expected);
                rows += 1;
            }
        }
    }
    assert_eq!(rows, 490);
}

#[test]
fn names_are_encoded_so_that_they_stay_names() {
    let rows = [
        ("http://a/{hub}", "a`b,c.[d]", "e", "http://a/a%60b%2Cc.%5Bd%5D"),
        ("http://a/{event}", "h", "a/../b", "http://a/a%2F..%2Fb"),
        ("http://a/{event}", "h", "a?b#c", "http://a/a%3Fb%23c"),
        ("http://a/{event}", "h", "a%2Fb", "http://a/a%252Fb"),
        ("http://a/{event}", "h", "{hub}", "http://a/%7Bhub%7D"),
        ("http://a/{hub}", "{event}", "e", "http://a/%7Bevent%7D"),
        ("http://a/?q={event}", "h", "a&b=c", "http://a/?q=a%26b%3Dc"),
        ("http://a/{event}", "h", "ü\r\n", "http://a/%C3%BC%0D%0A"),
    ];
    for (template, hub, event, expected) in rows {
        check(template, hub, event, expected);
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    let long = format!("http://a/{}", "x".repeat(TEMPLATE_LEN_MAX));
    let rows: [(&str, &str); 34] = [
        ("", "begin with http"),
        ("/", "begin with http"),
        ("app.example/{event}", "begin with http"),
        ("ftp://app.example/", "begin with http"),
        ("file:///etc/passwd", "begin with http"),
        ("gopher://app.example/", "begin with http"),
        ("unix:///run/docker.sock", "begin with http"),
        ("http:app.example", "begin with http"),
        ("http:/app.example", "begin with http"),
        ("http://", "begin with http"),
        ("http:///path", "begin with http"),
        ("http://?q", "begin with http"),
        ("javascript://alert", "begin with http"),
        (" http://a/", "percent-encode"),
        ("http://a/b c", "percent-encode"),
        ("http://a/\tb", "percent-encode"),
        ("http://a\\@b/", "percent-encode"),
        ("ht\ntp://a/", "percent-encode"),
        ("http://a/\u{a0}", "percent-encode"),
        ("http://{event}.a/", "in its host"),
        ("http://{EVENT}/", "in its host"),
        ("http://a:{event}/", "in its host"),
        ("http://{event}@a/", "in its host"),
        ("http://user@a/", "auth=bearer"),
        ("http://user:word@a/", "auth=bearer"),
        ("http://a/#b", "has a #"),
        ("http://a/{user}", "only {hub} and {event}"),
        ("http://a/{event", "only {hub} and {event}"),
        ("http://a/event}", "only {hub} and {event}"),
        ("http://a/{{event}}", "only {hub} and {event}"),
        ("http://a:99999/", "gives no URL"),
        ("http://[::1/", "gives no URL"),
        ("http://a b/", "percent-encode"),
        (&long, "at most 2048"),
    ];
    for (template, reason) in rows {
        let error = template::check(template).expect_err(template).to_string();
        assert!(error.contains(reason), "{template}: {error}");
    }
    let bad_for_this_hub = resolve("http://{hub}/", "a[b", "e");
    assert!(matches!(bad_for_this_hub, Err(BadTemplate::Url { .. })), "{bad_for_this_hub:?}");
}

proptest! {
    #[test]
    fn no_text_is_too_strange(template in ".{0,64}", hub in ".{0,16}", event in ".{0,16}") {
        let _ = resolve(&template, &hub, &event);
    }

    #[test]
    fn an_event_never_chooses_the_server(
        template in "https?://[a-c.{}hubevnt:/?@\\\\]{1,24}(/\\{event\\})?", event in ".{0,16}",
    ) {
        if let (Ok(one), Ok(other)) = (resolve(&template, "chat", "a"), resolve(&template, "chat", &event)) {
            prop_assert_eq!(one.origin(), other.origin());
            prop_assert_eq!(other.username(), "");
        }
    }
}
