//! Audiences and connection strings.

use proptest::prelude::*;

use super::super::*;

const URL: &str = "http://hub.example:8080/api/hubs/chat/groups/a%20b/:send?api-version=2024-12-01&filter=x";

fn check(audience: &str, url: &str, expected: bool) {
    assert_eq!(rest_audience_ok(audience, &[url.to_owned()]), expected, "{audience} for {url}");
}

#[test]
fn an_audience_names_its_url_in_several_ways() {
    check(URL, URL, true);
    check("http://hub.example:8080/api/hubs/chat/groups/a%20b/:send", URL, true);
    check("http://hub.example:8080/api/hubs/chat/groups/a b/:send", URL, true);
    check("http://hub.example:8080/api/hubs/chat/groups/a%20b/%3Asend", URL, true);
    check("HTTP://HUB.example:8080/API/hubs/Chat/groups/A%20B/:send", URL, true);
    check(
        "http://hub.example:8080/api/hubs/chat/groups/a%20b/:send?filter=x&api-version=2024-12-01",
        URL,
        true,
    );
    check("http://hub.example:8080/api/hubs/chat/groups/a%20b/:send/", URL, true);
    check("http://hub.example:8080/api/hubs/chat/groups/a%20b/:send#x", URL, true);
    check("https://hub.example:8080/api/hubs/chat/groups/a%20b/:send", URL, true);
    check("ws://hub.example:8080/api/hubs/chat/groups/a%20b/:send", URL, true);
    check("http://hub.example:8080/api/hubs/chat/groups/a%2520b/:send", URL, false);
    check("http://hub.example:8080/api/hubs/chat/groups/ab/:send", URL, false);
    check("http://hub.example:8080/api/hubs/chat/groups/a%20b/:sendTo", URL, false);
    check("http://hub.example:8080/api/hubs/chat/groups/a%20b", URL, false);
    check("http://hub.example:8080/api/hubs/chat", URL, false);
    check("http://hub.example:8080", URL, false);
    check("http://hub.example:8081/api/hubs/chat/groups/a%20b/:send", URL, false);
    check("http://hub.example/api/hubs/chat/groups/a%20b/:send", URL, false);
    check("http://other.example:8080/api/hubs/chat/groups/a%20b/:send", URL, false);
    check("ftp://hub.example:8080/api/hubs/chat/groups/a%20b/:send", URL, false);
    check("//hub.example:8080/api/hubs/chat/groups/a%20b/:send", URL, false);
    check("/api/hubs/chat/groups/a%20b/:send", URL, false);
    check("", URL, false);
    check("http://", URL, false);
    check("https://webpubsub.azure.com", URL, false);
}

#[test]
fn default_ports_need_not_be_said() {
    check("https://h/x", "https://h:443/x", true);
    check("https://h:443/x", "https://h/x", true);
    check("http://h:80/x", "http://h/x", true);
    check("https://h/x", "http://h/x", true);
    check("https://h:80/x", "https://h/x", false);
    check("http://h:443/x", "http://h/x", false);
    check("http://[::1]/x", "http://[::1]/x", true);
    check("http://[::1]:80/x", "http://[::1]/x", true);
    check("http://[::1]:81/x", "http://[::1]/x", false);
    check("http://[::1]", "http://[::2]", false);
}

#[test]
fn escapes_that_are_none_stand_for_themselves() {
    check("http://h/100%", "http://h/100%", true);
    check("http://h/100%25", "http://h/100%", true);
    check("http://h/%zz", "http://h/%zz", true);
    check("http://h/%C3%A4", "http://h/ä", true);
    check("http://h/%c3%a4", "http://h/%C3%A4", true);
    check("http://h/room+part", "http://h/room+part", true);
    check("http://h/room+part", "http://h/room%20part", false);
    check("http://h/room%2Bpart", "http://h/room+part", true);
    check("http://h/a%3Fb", "http://h/a?b", false);
    check("http://h/a%", "http://h/a%2", false);
}

#[test]
fn any_of_several_urls_will_do() {
    let urls = ["http://a/x".to_owned(), "https://b/x?q=1".to_owned()];
    assert!(rest_audience_ok("https://b/x", &urls));
    assert!(!rest_audience_ok("https://c/x", &urls));
    assert!(!rest_audience_ok("https://c/x", &[]));
}

fn check_connection(text: &str, expected: Result<&str, &str>) {
    match (ConnectionString::parse(text), expected) {
        (Ok(found), Ok(endpoint)) => {
            assert_eq!((found.endpoint.as_str(), found.key.expose()), (endpoint, "a2V5=="), "{text}");
        }
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
        (found, _) => panic!("{text}: {found:?}"),
    }
}

#[test]
fn connection_strings_are_read_as_the_official_clients_do() {
    check_connection("Endpoint=https://h;AccessKey=a2V5==;Version=1.0;", Ok("https://h"));
    check_connection("endpoint=https://h/;accesskey=a2V5==", Ok("https://h"));
    check_connection("ENDPOINT=https://h//;ACCESSKEY=a2V5==;version=1.0", Ok("https://h"));
    check_connection("AccessKey=a2V5==;Endpoint=http://h:8080;", Ok("http://h:8080"));
    check_connection(" Endpoint = http://h ; AccessKey = a2V5== ; ", Ok("http://h"));
    check_connection("Endpoint=http://h;Port=8080;AccessKey=a2V5==", Ok("http://h:8080"));
    check_connection("Endpoint=http://h:1;Port=8080;AccessKey=a2V5==", Ok("http://h:8080"));
    check_connection("Endpoint=http://h/base/;port=8080;AccessKey=a2V5==", Ok("http://h:8080/base"));
    check_connection("Endpoint=h;AccessKey=a2V5==", Ok("https://h"));
    check_connection("Endpoint=h:444;AccessKey=a2V5==", Ok("https://h:444"));
    check_connection("Endpoint=http://[::1]:8080;AccessKey=a2V5==", Ok("http://[::1]:8080"));
    check_connection("Endpoint=http://[::1];Port=9;AccessKey=a2V5==", Ok("http://[::1]:9"));
    check_connection("Endpoint=https://h;AccessKey=a2V5==;Color=blue", Ok("https://h"));
    check_connection(";;Endpoint=https://h;;AccessKey=a2V5==;;", Ok("https://h"));
}

#[test]
fn bad_connection_strings_say_what_is_missing() {
    check_connection("", Err("no Endpoint"));
    check_connection("AccessKey=a2V5==", Err("no Endpoint"));
    check_connection("Endpoint=https://h", Err("no AccessKey"));
    check_connection("Endpoint=https://h;AccessKey=", Err("AccessKey is empty"));
    check_connection("Endpoint=;AccessKey=a2V5==", Err("Endpoint"));
    check_connection("Endpoint=https://;AccessKey=a2V5==", Err("Endpoint"));
    check_connection("Endpoint=ftp://h;AccessKey=a2V5==", Err("must start with http"));
    check_connection("Endpoint=https://u@h;AccessKey=a2V5==", Err("may be only"));
    check_connection("Endpoint=https://h?x=1;AccessKey=a2V5==", Err("may be only"));
    check_connection("Endpoint=https://a b;AccessKey=a2V5==", Err("not a URL"));
    check_connection("Endpoint=https://h;Port=0;AccessKey=a2V5==", Err("1 to 65535"));
    check_connection("Endpoint=https://h;Port=65536;AccessKey=a2V5==", Err("1 to 65535"));
    check_connection("Endpoint=https://h;Port=x;AccessKey=a2V5==", Err("1 to 65535"));
    check_connection("Endpoint=https://h:99999;AccessKey=a2V5==", Err("1 to 65535"));
    check_connection("Endpoint=https://h;Endpoint=https://i;AccessKey=a2V5==", Err("twice"));
    check_connection("Endpoint=https://h;AccessKey=a2V5==;accesskey=a2V5==", Err("twice"));
    check_connection("Endpoint https://h", Err("no ="));
    check_connection(&format!("Endpoint=https://{};AccessKey=a2V5==", "h".repeat(9000)), Err("longer than"));
}

#[test]
fn a_connection_string_reads_back_what_it_writes() {
    let text = "Endpoint=https://h:1/base;AccessKey=a2V5==;Version=1.0;";
    assert_eq!(ConnectionString::parse(text).unwrap().to_string(), text);
}

proptest! {
    #[test]
    fn no_text_makes_a_connection_string_panic(text in any::<String>(), endpoint in any::<String>(), port in any::<String>()) {
        let _ = ConnectionString::parse(&text);
        let made = format!("Endpoint={endpoint};AccessKey=k;Port={port}");
        if let Ok(read) = ConnectionString::parse(&made) {
            prop_assert_eq!(ConnectionString::parse(&read.to_string()).unwrap(), read);
        }
    }

    #[test]
    fn no_text_makes_an_audience_panic(audience in any::<String>(), path in any::<String>()) {
        let url = format!("http://h/{path}");
        let _ = rest_audience_ok(&audience, std::slice::from_ref(&url));
        prop_assert!(rest_audience_ok(&url, std::slice::from_ref(&url)));
    }
}
