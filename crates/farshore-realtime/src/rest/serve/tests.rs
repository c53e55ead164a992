//! Requests to a hub whose answers are given, and to a hub as it is.

use std::sync::{Mutex, OnceLock};

use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::*;
use crate::handler::Handlers;
use crate::hub::call::Member;
use crate::names::ConnectionId;
use crate::token::AccessKey;

pub(super) const BASE: &str = "http://paris.example:8080";
pub(super) const PRIMARY: &str = "the primary key of the hub";
const SECONDARY: &str = "the secondary key of the hub";
pub(super) const NOW: Moment = Moment(1_800_000_000_000_000);

/// Gives the answers that it was told to give, and writes down what it was asked.
pub(super) struct Script {
    pub(super) answer: Result<Answer, AskError>,
    pub(super) asked: Mutex<Vec<Call>>,
}

#[async_trait]
impl Broadcast for Script {
    async fn ask(&self, hub: &Arc<LiveHub>, call: Call) -> Result<Told, AskError> {
        assert_eq!(hub.name().as_str(), "chat");
        self.asked.lock().unwrap().push(call);
        let report = Some("paris=done, oslo=done".to_owned());
        self.answer.clone().map(|answer| Told { answer, report })
    }
}

/// The hubs of a node without listeners.
pub(super) struct Known(pub(super) Vec<Arc<LiveHub>>);

impl Hubs for Known {
    fn named(&self, name: &str) -> Option<Arc<LiveHub>> {
        self.0.iter().find(|hub| hub.name().as_str().eq_ignore_ascii_case(name)).cloned()
    }
    fn every(&self) -> Vec<Arc<LiveHub>> {
        self.0.clone()
    }
}

pub(super) fn script(answer: Answer) -> Script {
    Script { answer: Ok(answer), asked: Mutex::default() }
}

pub(super) fn hub() -> Arc<LiveHub> {
    let settings = json!({
        "version": 1,
        "hub": "chat",
        "keys": { "primary": PRIMARY, "secondary": SECONDARY },
        "audiences": ["https://chat.example.com"],
    });
    let hub = LiveHub::new(serde_json::from_value(settings).unwrap(), Handlers::new(), false);
    hub.serve(true);
    hub
}

/// A hub that is not asked itself: made once, since its HTTP client takes time to make.
fn idle() -> &'static Arc<LiveHub> {
    static IDLE: OnceLock<Arc<LiveHub>> = OnceLock::new();
    IDLE.get_or_init(hub)
}

pub(super) fn signed(audience: &str, key: &str) -> String {
    let claims = json!({ "aud": audience, "exp": NOW.0 / 1_000_000 + 60 });
    format!("Bearer {}", token::sign(&claims, &AccessKey::parse(key).unwrap()))
}

/// A request as the official SDKs make it: signed for its own URL.
pub(super) fn request(line: &str, content_type: Option<&str>, body: &str) -> Request<Full<Bytes>> {
    let (method, url) = line.split_once(' ').unwrap();
    let builder = Request::builder()
        .method(method)
        .uri(url)
        .header("host", "paris.example:8080")
        .header("content-length", body.len())
        .header("authorization", signed(&format!("{BASE}{url}"), PRIMARY));
    let builder = match content_type {
        Some(content_type) => builder.header("content-type", content_type),
        None => builder,
    };
    builder.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

pub(super) async fn send_via(
    hub: &Arc<LiveHub>,
    via: Option<&dyn Broadcast>,
    request: Request<Full<Bytes>>,
) -> Response<Full<Bytes>> {
    let context = RestContext { base_urls: vec![BASE.to_owned()], broadcast: via, now: NOW };
    serve(&Known(vec![Arc::clone(hub)]), request, &context).await
}

async fn send(script: &Script, request: Request<Full<Bytes>>) -> Response<Full<Bytes>> {
    send_via(idle(), Some(script), request).await
}

pub(super) async fn text_of(response: Response<Full<Bytes>>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Each operation: the status when it is done, and when the hub says that who is meant is not there.
const OPERATIONS: [(&str, u16, u16); 22] = [
    ("POST /api/hubs/chat/:closeConnections", 204, 204),
    ("POST /api/hubs/chat/:send", 202, 202),
    ("HEAD /api/hubs/chat/connections/c", 200, 404),
    ("DELETE /api/hubs/chat/connections/c", 204, 204),
    ("POST /api/hubs/chat/connections/c/:send", 202, 202),
    ("DELETE /api/hubs/chat/connections/c/groups", 204, 204),
    ("HEAD /api/hubs/chat/groups/g", 200, 404),
    ("POST /api/hubs/chat/groups/g/:closeConnections", 204, 204),
    ("POST /api/hubs/chat/groups/g/:send", 202, 202),
    ("PUT /api/hubs/chat/groups/g/connections/c", 200, 404),
    ("DELETE /api/hubs/chat/groups/g/connections/c", 204, 204),
    ("PUT /api/hubs/chat/permissions/sendToGroup/connections/c", 200, 404),
    ("DELETE /api/hubs/chat/permissions/sendToGroup/connections/c", 204, 204),
    ("HEAD /api/hubs/chat/permissions/sendToGroup/connections/c", 200, 404),
    ("HEAD /api/hubs/chat/users/us%20er%2F1", 200, 404),
    ("POST /api/hubs/chat/users/us%20er%2F1/:closeConnections", 204, 204),
    ("POST /api/hubs/chat/users/us%20er%2F1/:send", 202, 202),
    ("DELETE /api/hubs/chat/users/u/groups", 204, 204),
    ("PUT /api/hubs/chat/users/u/groups/g", 200, 404),
    ("DELETE /api/hubs/chat/users/u/groups/g", 204, 204),
    ("DELETE /api/hubs/chat/connections/no%20id", 204, 204),
    ("POST /api/hubs/chat/connections/no%20id/:send", 202, 202),
];

#[tokio::test]
async fn each_operation_has_its_statuses() {
    for (line, done, absent) in OPERATIONS {
        for (answer, expected) in
            [(Answer::Done, done), (Answer::Yes, done), (Answer::No, absent), (Answer::NotFound, absent)]
        {
            let response = send(&script(answer.clone()), request(line, None, "")).await;
            assert_eq!(response.status().as_u16(), expected, "{line} {answer:?}");
            let has_code = response.headers().contains_key("x-ms-error-code");
            assert_eq!(has_code, expected == 404, "{line} {answer:?}");
            assert!(response.headers().contains_key("api-supported-versions"), "{line}");
            let is_head = line.starts_with("HEAD");
            assert_eq!(text_of(response).await.is_empty(), expected != 404 || is_head, "{line} {answer:?}");
        }
    }
}

#[tokio::test]
async fn no_operation_is_carried_out_without_a_token() {
    let others = [
        ("POST /api/hubs/chat/:addToGroups", 0, 0),
        ("POST /api/hubs/chat/:removeFromGroups", 0, 0),
        ("POST /api/hubs/chat/:generateToken", 0, 0),
        ("GET /api/hubs/chat/groups/g/connections", 0, 0),
    ];
    for (line, ..) in OPERATIONS.into_iter().chain(others) {
        let script = script(Answer::Done);
        let mut request = request(line, Some("application/json"), "{}");
        request.headers_mut().remove(AUTHORIZATION);
        let response = send(&script, request).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{line}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer", "{line}");
        assert_eq!(response.headers()["x-ms-error-code"], "Error.Unauthorized", "{line}");
        assert!(script.asked.lock().unwrap().is_empty(), "{line}");
    }
}

#[tokio::test]
async fn which_tokens_are_believed() {
    let path = "/api/hubs/chat/users/us%20er%2F1";
    let line = format!("HEAD {path}?api-version=2024-12-01");
    for (authorization, expected) in [
        (signed(&format!("{BASE}{path}?api-version=2024-12-01"), PRIMARY), 200),
        (signed(&format!("{BASE}{path}"), SECONDARY), 200),
        (signed(&format!("{BASE}{path}").to_uppercase(), PRIMARY), 200),
        (signed(&format!("{BASE}/api/hubs/chat/users/us er/1"), PRIMARY), 200),
        (signed(&format!("https://chat.example.com{path}"), PRIMARY), 200),
        (signed(&format!("{BASE}{path}"), PRIMARY).replace("Bearer", "bearer"), 200),
        (signed(&format!("{BASE}{path}"), "another key"), 401),
        (signed(&format!("http://elsewhere.example{path}"), PRIMARY), 401),
        (signed(&format!("{BASE}/api/hubs/chat/users/somebody"), PRIMARY), 401),
        (signed(&format!("{BASE}/client/hubs/chat"), PRIMARY), 401),
        (signed(BASE, PRIMARY), 401),
        (signed(&format!("{BASE}{path}"), PRIMARY).replace("Bearer", "Basic"), 401),
        ("Bearer".to_owned(), 401),
        ("Bearer ".to_owned(), 401),
        ("Bearer a.b.c".to_owned(), 401),
        (String::new(), 401),
    ] {
        let mut request = request(&line, None, "");
        request.headers_mut().insert(AUTHORIZATION, authorization.parse().unwrap());
        let response = send(&script(Answer::Yes), request).await;
        assert_eq!(response.status().as_u16(), expected, "{authorization}");
    }
}

#[tokio::test]
async fn a_token_ends() {
    let url = format!("{BASE}/api/hubs/chat/groups/g");
    for (exp, expected) in [(60_i64, 200), (-299, 200), (-301, 401)] {
        let exp = i64::try_from(NOW.0 / 1_000_000).unwrap() + exp;
        let token = token::sign(&json!({ "aud": url, "exp": exp }), &AccessKey::parse(PRIMARY).unwrap());
        let mut request = request("HEAD /api/hubs/chat/groups/g", None, "");
        request.headers_mut().insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        assert_eq!(send(&script(Answer::Yes), request).await.status().as_u16(), expected, "{exp}");
    }
}

/// What a send is asked as.
async fn sent(
    line: &str,
    content_type: Option<&str>,
    body: &str,
    more: &[(&str, &str)],
) -> Result<Call, u16> {
    let script = script(Answer::Done);
    let mut request = request(line, content_type, body);
    for (name, value) in more {
        request.headers_mut().insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    let status = send(&script, request).await.status();
    let mut asked = script.asked.into_inner().unwrap();
    assert_eq!(asked.is_empty(), status != StatusCode::ACCEPTED);
    asked.pop().ok_or(status.as_u16())
}

#[tokio::test]
async fn a_message_is_what_was_sent() {
    let more = [("X-WebPubSub-Metadata-Trace", "t1"), ("x-farshore-message-id", "fF")];
    let line =
        "POST /api/hubs/chat/groups/g/:send?messageTtlSeconds=10&excluded=a&filter=userId%20eq%20%27x%27";
    let call = sent(line, Some("application/json"), r#"{ "a": 1 }"#, &more).await.unwrap();
    let Call::Send { to, message, exclude, filter } = call else { panic!("{call:?}") };
    assert_eq!(to, Scope::Group(crate::names::GroupName::parse("g").unwrap()));
    assert_eq!(exclude, [ConnectionId::parse("a").unwrap()]);
    assert_eq!(filter.unwrap().text(), "userId eq 'x'");
    let Sender::Group { group, user: None } = &message.from else { panic!("{:?}", message.from) };
    assert_eq!(group.as_str(), "g");
    assert_eq!(message.data, crate::frames::Data::Json(Bytes::from_static(br#"{ "a": 1 }"#)));
    assert_eq!(message.metadata["trace"], "t1");
    assert_eq!(message.id, Some(255));
    assert_eq!(message.expires, Some(NOW.after(Duration::from_secs(10))));
}

#[tokio::test]
async fn a_message_without_options_has_none() {
    let call = sent("POST /api/hubs/chat/:send?messageTtlSeconds=0", None, "\u{1}", &[]).await.unwrap();
    let Call::Send { to, message, exclude, filter } = call else { panic!("{call:?}") };
    assert_eq!((to, exclude.len(), filter.is_none()), (Scope::All, 0, true));
    assert_eq!(message.from, Sender::Server);
    assert_eq!(message.data, crate::frames::Data::Binary(Bytes::from_static(&[1])));
    assert_eq!((message.expires, message.id, message.metadata.len()), (None, None, 0));
}

#[tokio::test]
async fn bad_messages_are_refused_and_reach_nobody() {
    let long = "v".repeat(1025);
    for path in [":send", "groups/g/:send", "users/u/:send", "connections/c/:send"] {
        let line = format!("POST /api/hubs/chat/{path}");
        for (content_type, body, more, expected) in [
            ("text/html", "a", [("x-a", "1")], 415),
            ("text/plain; charset=utf-16", "a", [("x-a", "1")], 415),
            ("application/json", "{", [("x-a", "1")], 400),
            ("application/json", "", [("x-a", "1")], 400),
            ("text/plain", "a", [("content-length", "1048577")], 400),
            ("text/plain", "a", [("content-length", "many")], 400),
            ("text/plain", "a", [("x-farshore-message-id", "nonsense")], 400),
            ("text/plain", "a", [("x-webpubsub-metadata-a", long.as_str())], 400),
        ] {
            let refused = sent(&line, Some(content_type), body, &more).await;
            assert_eq!(refused.err(), Some(expected), "{path} {content_type} {body} {more:?}");
        }
        let mut request = request(&line, Some("text/plain"), "a");
        request.headers_mut().remove("content-length");
        assert_eq!(send(&script(Answer::Done), request).await.status(), StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn groups_are_joined_and_left_in_bulk() {
    for (verb, expected) in [
        ("addToGroups", r#"AddToGroups { groups: ["a", "b"], filter: None }"#),
        ("removeFromGroups", r#"RemoveFromGroups { groups: ["a", "b"], filter: None }"#),
    ] {
        let (line, script) = (format!("POST /api/hubs/chat/:{verb}"), script(Answer::Done));
        let body = r#"{"groups":["a","b"]}"#;
        let response = send(&script, request(&line, Some("application/json"), body)).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[ENDPOINTS], "paris=done, oslo=done");
        assert_eq!(format!("{:?}", script.asked.lock().unwrap()), format!("[{expected}]"));
        let text = request(&line, Some("text/plain"), body);
        assert_eq!(send(&script, text).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}

#[tokio::test]
async fn refusals_say_what_where_and_how_to_mend_it() {
    for (line, status, code, target, part) in [
        ("GET /api/nothing", 404, "Error.NotFound", "", "no operation"),
        ("POST /api/hubs/other/:closeConnections", 404, "Error.Hub.NotExisted", "hub", "no hub 'other'"),
        ("PATCH /api/hubs/chat/:send", 405, "Error.MethodNotAllowed", "", "use one of POST"),
        ("GET /api/health?api-version=1", 400, "Error.UnsupportedApiVersion", "api-version", "2024-12-01"),
        ("PUT /api/hubs/chat/groups/g/connections/c", 404, "Warning.Connection.NotExisted", "", "connection"),
        ("POST /api/hubs/chat/:generateToken?clientType=MQTT", 501, "Error.NotImplemented", "", "Default"),
        (
            "POST /api/hubs/chat/:send?filter=invalid+filter",
            400,
            "Error.BadRequest",
            "filter",
            "Invalid syntax for 'invalid filter': Syntax error at position 14 in 'invalid filter'. (Parameter 'filter')",
        ),
        (
            "POST /api/hubs/chat/:send?messageTtlSeconds=301",
            400,
            "Error.BadRequest",
            "messageTtlSeconds",
            "Invalid messageTtlSeconds",
        ),
    ] {
        let response = send(&script(Answer::NotFound), request(line, None, "")).await;
        assert_eq!(response.status().as_u16(), status, "{line}");
        assert_eq!(response.headers()["x-ms-error-code"], code, "{line}");
        assert_eq!(response.headers().contains_key("allow"), status == 405, "{line}");
        let body: Value = serde_json::from_str(&text_of(response).await).unwrap();
        assert_eq!((&body["code"], body["target"].as_str().unwrap_or_default()), (&json!(code), target));
        assert!(body["message"].as_str().unwrap().contains(part), "{line}: {body}");
    }
}

#[tokio::test]
async fn a_hub_that_does_not_serve_says_when_to_come_again() {
    let failing =
        Script { answer: Err(AskError::Failed("oslo did not answer".to_owned())), ..script(Answer::Done) };
    let response = send(&failing, request("POST /api/hubs/chat/:send", None, "a")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");

    let hub = hub();
    hub.serve(false);
    let response = send_via(&hub, None, request("HEAD /api/hubs/chat/groups/g", None, "")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn health_needs_no_token_but_a_hub_that_serves() {
    let (serving, fenced) = (hub(), hub());
    fenced.serve(false);
    for (hubs, expected) in [
        (vec![], 200),
        (vec![&serving], 200),
        (vec![&fenced], 503),
        (vec![&fenced, &serving], 200),
        (vec![&fenced, &fenced], 503),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let context = RestContext { base_urls: Vec::new(), broadcast: None, now: NOW };
            let request =
                Request::builder().method(&method).uri("/api/health").body(Full::default()).unwrap();
            let hubs = Arc::new(Known(hubs.iter().map(|hub| Arc::clone(hub)).collect()));
            let response = serve::<Full<Bytes>>(&hubs, request, &context).await;
            assert_eq!(response.status().as_u16(), expected, "{method} {}", hubs.0.len());
        }
    }
}

#[tokio::test]
async fn a_generated_token_is_for_the_endpoint_that_was_asked() {
    let line = "POST /api/hubs/CHAT/:generateToken?userId=ann&role=webpubsub.sendToGroup&group=g1&group=g2&minutesToExpire=5";
    let response = send(&script(Answer::Done), request(line, None, "")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let body: Value = serde_json::from_str(&text_of(response).await).unwrap();
    let token = body["token"].as_str().unwrap();
    let keys = &hub().settings().keys;
    let audience = format!("{BASE}/client/hubs/chat");
    let claims = token::verify(token, keys, NOW, |is| is == audience).unwrap();
    assert_eq!(claims.user.unwrap().as_str(), "ann");
    assert_eq!(claims.roles, ["webpubsub.sendToGroup"]);
    assert_eq!(claims.groups.iter().map(crate::names::GroupName::as_str).collect::<Vec<_>>(), ["g1", "g2"]);
    assert_eq!(claims.expires, NOW.after(Duration::from_secs(300)));
}

fn members(count: usize) -> Vec<Member> {
    (1..=count)
        .map(|n| Member { connection: ConnectionId::parse(&format!("c{n}")).unwrap(), user: None })
        .collect()
}

/// A group of so many, of which a page is given as a hub gives it.
struct Group(usize);

#[async_trait]
impl Broadcast for Group {
    async fn ask(&self, _: &Arc<LiveHub>, call: Call) -> Result<Told, AskError> {
        let Call::Members { after, limit, .. } = call else { panic!("{call:?}") };
        let all = members(self.0).into_iter();
        let page = all.filter(|member| after.as_ref().is_none_or(|after| member.connection > *after));
        Ok(Told { answer: Answer::Members(page.take(limit).collect()), report: None })
    }
}

#[tokio::test]
async fn pages_are_followed_to_their_end() {
    for (query, pages, count) in [
        ("?top=6", 1, 6),
        ("?top=3", 1, 3),
        ("?maxpagesize=2", 3, 6),
        ("?maxpagesize=2&top=5", 3, 5),
        ("", 1, 6),
        ("?top=100", 1, 6),
        ("?maxpagesize=6", 1, 6),
        ("?maxpagesize=5", 2, 6),
    ] {
        let mut url = format!("/api/hubs/chat/groups/a%2Fb%20c/connections{query}");
        let mut seen = Vec::new();
        for page in 1.. {
            let request = request(&format!("GET {url}"), None, "");
            let response = send_via(idle(), Some(&Group(6)), request).await;
            assert_eq!(response.status(), StatusCode::OK);
            let body: Value = serde_json::from_str(&text_of(response).await).unwrap();
            let value = body["value"].as_array().unwrap();
            seen.extend(value.iter().map(|member| member["connectionId"].as_str().unwrap().to_owned()));
            let Some(next) = body["nextLink"].as_str() else {
                assert_eq!(page, pages, "{query}");
                break;
            };
            url = next.strip_prefix(BASE).unwrap().to_owned();
            assert!(url.starts_with("/api/hubs/chat/groups/a%2Fb%20c/connections?"), "{url}");
        }
        let expected: Vec<_> = members(count).iter().map(|member| member.connection.to_string()).collect();
        assert_eq!(seen, expected, "{query}");
    }
}

#[test]
fn base_urls_are_as_the_caller_wrote_them() {
    for (uri, host, expected) in [
        ("/api/health", Some("paris:80"), Some("http://paris:80")),
        ("/api/health", Some("[::1]:8080"), Some("http://[::1]:8080")),
        ("http://oslo:1/api/health", Some("paris"), Some("http://oslo:1")),
        ("/api/health", Some("user@paris"), Some("http://paris")),
        ("/api/health", Some("a b"), None),
        ("/api/health", Some(""), None),
        ("/api/health", None, None),
    ] {
        let headers = host.map(|host| (HOST, host.parse().unwrap()));
        let found = base_url("http", &uri.parse().unwrap(), &headers.into_iter().collect());
        assert_eq!(found.as_deref(), expected, "{uri} {host:?}");
    }
}
