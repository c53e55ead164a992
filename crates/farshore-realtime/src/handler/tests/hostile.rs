//! Handlers that fail, hang, break off, flood and lie.

use std::time::Instant;

use proptest::prelude::*;
use tokio::net::TcpListener;

use super::server::{self, Reply, Server};
use super::*;

async fn say(to: &Handlers, server: &Server, client: &Client) -> Result<EventAnswer, HandlerError> {
    to.user_event(&[takes_all(&server.url)], &client.context(), &event("e"), &text("x")).await
}

async fn knock(to: &Handlers, server: &Server, client: &Client) -> Result<ConnectAnswer, Refusal> {
    to.connect(&[takes_all(&server.url)], &client.context(), &ConnectRequest::default()).await
}

/// Until so many requests have come.
async fn until_seen(server: &Server, count: usize) {
    let end = Instant::now() + PATIENCE;
    while server.seen().len() < count {
        assert!(Instant::now() < end, "{} of {count} requests came", server.seen().len());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn the_contracts_limits_are_the_default() {
    let options = HandlerOptions::default();
    assert_eq!(options.deadline.as_secs(), 100);
    assert_eq!(options.validate_deadline.as_secs(), 10);
    assert_eq!(options.retry_after.map(|pause| pause.as_secs()), [1, 3, 5]);
    assert_eq!(ANSWER_LEN_MAX, 16 << 20);
}

#[tokio::test]
async fn what_may_pass_is_tried_again_with_the_same_id() {
    let failures = [Reply::status(500), Reply::status(408), Reply::BreakOff];
    let server = Server::start(move |before, _| {
        failures.get(before).cloned().unwrap_or_else(|| Reply::body("text/plain", "ok"))
    })
    .await;
    let client = Client::new();
    let answer = say(&handlers(), &server, &client).await.unwrap();
    assert_eq!(answer.data, Some(text("ok")));
    let seen = server.seen();
    assert_eq!(seen.len(), 4);
    assert!(
        seen.iter()
            .all(|one| one.header("ce-id") == "7" && one.header("ce-time") == seen[0].header("ce-time"))
    );
}

#[tokio::test]
async fn after_the_last_try_the_failure_stands() {
    let client = Client::new();
    for (reply, status) in [(Reply::status(503), 503), (Reply::status(408), 408)] {
        let server = Server::always(reply).await;
        let upstream = server.url.clone();
        assert_eq!(say(&handlers(), &server, &client).await, Err(HandlerError::Status { upstream, status }));
        assert_eq!(server.seen().len(), 4);
        handlers().connected(&[takes_all(&server.url)], &client.context()).await;
        assert_eq!(server.seen().len(), 8);
    }
    let server = Server::always(Reply::BreakOff).await;
    let outcome = say(&handlers(), &server, &client).await;
    assert!(matches!(outcome, Err(HandlerError::Unreachable { .. })), "{outcome:?}");
    assert_eq!(server.seen().len(), 5, "a connection that breaks is replaced at once, and that is no retry");
}

#[tokio::test]
async fn what_will_not_pass_is_not_tried_again() {
    let client = Client::new();
    for status in [300, 301, 307, 400, 401, 404, 413, 429] {
        let server = Server::always(Reply::status(status).with("location", "/elsewhere")).await;
        let upstream = server.url.clone();
        assert_eq!(say(&handlers(), &server, &client).await, Err(HandlerError::Status { upstream, status }));
        assert_eq!(server.seen().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_connect_is_tried_once_because_the_client_waits() {
    let client = Client::new();
    let rows = [
        (Reply::status(500), 500),
        (Reply::status(408), 408),
        (Reply::status(302).with("location", "http://127.0.0.1:1/"), 500),
        (Reply::body("application/json", "{"), 500),
        (Reply::body("text/html", "<html>"), 500),
        (Reply::status(204).with("ce-connectionstate", &"x".repeat(STATE_LEN_MAX + 1)), 500),
    ];
    for (reply, status) in rows {
        let server = Server::always(reply.clone()).await;
        let refusal = knock(&handlers(), &server, &client).await.expect_err("no answer that lets anybody in");
        assert_eq!(refusal.status, status, "{reply:?}");
        assert!(!String::from_utf8_lossy(&refusal.body).contains("127.0.0.1"), "{refusal:?}");
        assert_eq!(server.seen().len(), 1, "{reply:?}");
    }
}

#[tokio::test]
async fn a_connection_that_broke_is_replaced_once() {
    let client = Client::new();
    let server = Server::always(Reply::BreakOff).await;
    assert_eq!(knock(&handlers(), &server, &client).await.unwrap_err().status, 500);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_server_that_closes_kept_connections_loses_no_client() {
    let (url, task) = server::raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
    let (to, client, handler) = (handlers(), Client::new(), [takes_all(&url)]);
    for _ in 0..300 {
        let answer = to.connect(&handler, &client.context(), &ConnectRequest::default()).await;
        assert_eq!(answer, Ok(ConnectAnswer::default()));
    }
    task.abort();
}

#[tokio::test]
async fn rubbish_is_an_error_and_no_message() {
    let client = Client::new();
    let rows = [
        Reply::body("application/json", "{"),
        Reply::body("text/html", "<html>"),
        Reply::Answer(200, vec![("content-type", "text/plain".to_owned())], Bytes::from_static(b"\xff")),
    ];
    for reply in rows {
        let server = Server::always(reply.clone()).await;
        let outcome = say(&handlers(), &server, &client).await;
        assert!(matches!(outcome, Err(HandlerError::Rubbish { .. })), "{reply:?}: {outcome:?}");
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let short = Duration::from_millis(200);
    let to = Handlers::with(HandlerOptions { deadline: short, validate_deadline: short, ..options() });
    let client = Client::new();
    for reply in [Reply::Hang, Reply::HangInBody] {
        let server = Server::always(reply.clone()).await;
        let expected = HandlerError::Deadline { upstream: server.url.clone(), deadline: short };
        assert_eq!(say(&to, &server, &client).await, Err(expected.clone()), "{reply:?}");
        assert_eq!(knock(&to, &server, &client).await.unwrap_err().status, 500);
    }
    let server = Server::always(Reply::Hang).await;
    let expected = HandlerError::Deadline { upstream: server.url.clone(), deadline: short };
    to.connected(&[takes_all(&server.url)], &client.context()).await;
    assert_eq!(to.validate(&takes_all(&server.url), &client.hub, "h").await, Err(expected));
}

#[tokio::test]
async fn retries_end_at_the_deadline_too() {
    let deadline = Duration::from_millis(200);
    let to = Handlers::with(HandlerOptions { deadline, retry_after: [PATIENCE; 3], ..options() });
    let server = Server::always(Reply::status(500)).await;
    let expected = HandlerError::Deadline { upstream: server.url.clone(), deadline };
    assert_eq!(say(&to, &server, &Client::new()).await, Err(expected));
    assert!(server.seen().len() <= 1, "on a busy machine the time may be over before the first");
}

#[tokio::test]
async fn a_flood_is_cut_off() {
    let (to, client) = (handlers(), Client::new());
    let mebibyte = Bytes::from(vec![b'x'; 1 << 20]);
    let announced = Reply::Answer(200, Vec::new(), Bytes::from(vec![b'x'; ANSWER_LEN_MAX + 1]));
    for reply in [announced, Reply::Chunks(mebibyte.clone(), 17), Reply::Chunks(mebibyte.clone(), 1 << 30)] {
        let server = Server::always(reply).await;
        let expected = HandlerError::TooLarge { upstream: server.url.clone(), max: ANSWER_LEN_MAX };
        assert_eq!(say(&to, &server, &client).await, Err(expected));
        assert_eq!(knock(&to, &server, &client).await.unwrap_err().status, 500);
    }
    let server = Server::always(Reply::Chunks(mebibyte, 16)).await;
    let answer = say(&to, &server, &client).await.unwrap();
    assert!(matches!(answer.data, Some(Data::Text(text)) if text.len() == ANSWER_LEN_MAX));
    let server =
        Server::always(Reply::Answer(403, Vec::new(), Bytes::from(vec![b'x'; REFUSAL_LEN_MAX + 1]))).await;
    let refusal = knock(&to, &server, &client).await.unwrap_err();
    assert_eq!((refusal.status, refusal.body.len()), (403, 0));
}

#[tokio::test]
async fn many_large_answers_take_turns_and_all_come() {
    let server = Server::always(Reply::Chunks(Bytes::from(vec![b'x'; 1 << 20]), 3)).await;
    let (to, client) = (handlers(), Client::new());
    let all = futures_util::future::join_all((0..24).map(|_| say(&to, &server, &client))).await;
    assert!(all.iter().all(
        |answer| matches!(&answer.as_ref().unwrap().data, Some(Data::Text(text)) if text.len() == 3 << 20)
    ));
}

#[tokio::test]
async fn a_handler_that_hangs_is_not_given_more_than_it_can_hold_and_harms_no_other() {
    let to = Handlers::with(HandlerOptions { requests_max: 2, waiting_max: 4, ..options() });
    let (hangs, well) = (Server::always(Reply::Hang).await, Server::always(Reply::status(204)).await);
    let url = hangs.url.clone();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (to, url) = (to.clone(), url.clone());
        waiting.spawn(async move {
            let client = Client::new();
            to.user_event(&[takes_all(&url)], &client.context(), &event("e"), &text("x")).await
        });
    }
    until_seen(&hangs, 2).await;
    // The other two wait for their turn; whether they have come so far can only be seen by asking.
    let client = Client::new();
    let end = Instant::now() + PATIENCE;
    let busy = loop {
        let asked = tokio::time::timeout(Duration::from_millis(20), say(&to, &hangs, &client)).await;
        if let Ok(outcome) = asked {
            break outcome;
        }
        assert!(Instant::now() < end, "never busy");
    };
    let (waiting_max, bytes_max) = (4, WAITING_BYTES_MAX);
    assert_eq!(busy, Err(HandlerError::Busy { upstream: url, waiting_max, bytes_max }));
    assert_eq!(knock(&to, &hangs, &client).await.unwrap_err().status, 503);
    assert_eq!(hangs.seen().len(), 2, "the others never reached it");
    assert_eq!(say(&to, &well, &client).await, Ok(EventAnswer::default()));
    // Who gives up makes room.
    waiting.shutdown().await;
    let room = tokio::time::timeout(Duration::from_millis(20), say(&to, &hangs, &client)).await;
    assert!(room.is_err(), "{room:?}");
}

#[tokio::test]
async fn waiting_events_are_counted_in_bytes() {
    let to = Handlers::with(HandlerOptions { waiting_bytes_max: 8 * 1024, ..options() });
    let server = Server::always(Reply::status(204)).await;
    let (client, handler) = (Client::new(), [takes_all(&server.url)]);
    let say = async |len| {
        let data = Data::Binary(Bytes::from(vec![0; len]));
        to.user_event(&handler, &client.context(), &event("e"), &data).await
    };
    assert!(say(8 * 1024).await.is_ok());
    let outcome = say(8 * 1024 + 1).await;
    assert!(matches!(outcome, Err(HandlerError::Busy { .. })), "{outcome:?}");
    assert!(say(8 * 1024).await.is_ok(), "what was refused takes no place");
}

#[tokio::test]
async fn nobody_there_is_an_error_that_names_the_server_and_no_secret() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let client = Client::new();
    let handler = [takes_all(&format!("{url}/path?code=s3cret"))];
    let error =
        handlers().user_event(&handler, &client.context(), &event("e"), &text("x")).await.unwrap_err();
    assert!(matches!(error, HandlerError::Unreachable { .. }), "{error:?}");
    let shown = error.to_string();
    assert!(shown.contains(&url) && !shown.contains("s3cret") && shown.contains("refused"), "{shown}");
}

#[test]
fn a_system_without_certificate_authorities_still_has_a_client() {
    let http = reqwest::Client::builder().tls_backend_preconfigured(upstream::believes_nobody()).build();
    assert!(http.is_ok(), "{http:?}");
}

#[tokio::test]
async fn settings_that_were_never_checked_do_no_harm() {
    let client = Client::new();
    for template in ["", "ftp://a/", "http://{event}/", "http://a b/"] {
        let handler = [takes_all(template)];
        let outcome = handlers().user_event(&handler, &client.context(), &event("e"), &text("x")).await;
        assert!(matches!(outcome, Err(HandlerError::Template(_))), "{outcome:?}");
        let refusal = handlers().connect(&handler, &client.context(), &ConnectRequest::default()).await;
        assert_eq!(refusal.unwrap_err().status, 500);
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_http_is_unreachable() {
    let endless_head = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'y'; 4 << 20]].concat();
    let rows: [(&str, Vec<u8>); 6] = [
        ("nothing", Vec::new()),
        ("ssh", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("tls", vec![0x15, 3, 1, 0, 2, 2, 70]),
        ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
        ("half a body", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec()),
        ("endless head", endless_head),
    ];
    let client = Client::new();
    for (what, bytes) in rows {
        let (url, task) = server::raw(bytes).await;
        let outcome =
            handlers().user_event(&[takes_all(&url)], &client.context(), &event("e"), &text("x")).await;
        assert!(matches!(outcome, Err(HandlerError::Unreachable { .. })), "{what}: {outcome:?}");
        task.abort();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn random_bytes_from_a_server_never_panic(
        head in "(HTTP/1\\.[01] [0-9]{3} [A-Za-z]{0,8}\r\n)?([a-z-]{1,16}: [ -~]{0,16}\r\n){0,3}(content-length: [0-9]{1,20}\r\n)?(\r\n)?",
        body in proptest::collection::vec(any::<u8>(), 0..256),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (url, task) = server::raw([head.into_bytes(), body].concat()).await;
            let (to, client, handler) = (handlers(), Client::new(), [takes_all(&url)]);
            let _ = to.connect(&handler, &client.context(), &ConnectRequest::default()).await;
            let _ = to.user_event(&handler, &client.context(), &event("e"), &text("x")).await;
            task.abort();
        });
    }
}
