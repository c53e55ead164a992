//! What goes over the wire, and what comes of the answers.

use serde_json::json;

use super::server::{Reply, Seen, Server};
use super::*;

#[tokio::test]
async fn every_request_says_what_the_contract_wants() {
    let server = Server::always(Reply::status(204)).await;
    let handler = [takes_all(&format!("{}/api/{{hub}}/{{event}}?code=k", server.url))];
    let client = Client::new();
    let context = EventContext { state: Some("e30="), ..client.context() };
    let to = handlers();
    to.connect(&handler, &context, &ConnectRequest::default()).await.unwrap();
    to.connected(&handler, &context).await;
    to.user_event(&handler, &context, &event("Greet"), &text("hi")).await.unwrap();
    to.disconnected(&handler, &context, "gone").await;
    let group = GroupName::parse("a \"group\"").unwrap();
    to.group_changed(&handler, &context, SystemEvent::Joined, &group).await;
    to.group_changed(&handler, &context, SystemEvent::Left, &group).await;
    let seen = server.seen();
    let rows = [
        ("connect", "azure.webpubsub.sys.connect", "application/json"),
        ("connected", "azure.webpubsub.sys.connected", "application/json"),
        ("Greet", "azure.webpubsub.user.Greet", "text/plain"),
        ("disconnected", "azure.webpubsub.sys.disconnected", "application/json"),
        ("joined", "azure.webpubsub.gp.joined", "application/json"),
        ("left", "azure.webpubsub.gp.left", "application/json"),
    ];
    assert_eq!(seen.len(), rows.len());
    for (seen, (name, cloud_type, content_type)) in seen.iter().zip(rows) {
        assert_eq!((seen.method.as_str(), seen.target.clone()), ("POST", format!("/api/chat/{name}?code=k")));
        let signature = "sha256=ea3372f76dfb886582f00d2bfb3b2348187b927e86e8a9a85357089185efba2f,\
                         sha256=83e4539b4b54046f82358a2756701bf60b3f82a33d9f8284084fa3584667651f";
        let expected = [
            ("ce-specversion", "1.0"),
            ("ce-awpsversion", "1.0"),
            ("webhook-request-origin", "hubs.example:8443"),
            ("ce-type", cloud_type),
            ("ce-source", "/hubs/chat/client/conn-1"),
            ("ce-id", "7"),
            ("ce-signature", signature),
            ("ce-userid", "ann"),
            ("ce-connectionid", "conn-1"),
            ("ce-hub", "chat"),
            ("ce-eventname", name),
            ("ce-subprotocol", "json.webpubsub.azure.v1"),
            ("ce-connectionstate", "e30="),
            ("content-type", content_type),
            ("authorization", ""),
            ("cookie", ""),
        ];
        for (header, value) in expected {
            assert_eq!(seen.header(header), value, "{header} of {name}");
        }
        let time: Timestamp = seen.header("ce-time").parse().unwrap();
        assert!(time.duration_until(Timestamp::now()).as_secs() < 3600, "{time}");
    }
    assert_eq!(seen[1].body, "{}");
    assert_eq!(seen[2].body, "hi");
    assert_eq!(seen[3].body, r#"{"reason":"gone"}"#);
    assert_eq!(seen[4].body, r#"{"group":"a \"group\""}"#);
    assert_eq!(seen[5].body, seen[4].body);
}

#[tokio::test]
async fn what_is_not_known_is_left_out() {
    let server = Server::always(Reply::status(204)).await;
    let client = Client { user: None, ..Client::new() };
    let context = EventContext { subprotocol: None, state: Some(""), ..client.context() };
    handlers().connected(&[takes_all(&server.url)], &context).await;
    let seen = server.seen();
    for header in ["ce-userid", "ce-subprotocol", "ce-connectionstate"] {
        assert!(!seen[0].headers.contains_key(header), "{header}");
    }
}

#[tokio::test]
async fn the_connect_event_tells_all_but_the_token() {
    let server = Server::always(Reply::status(204)).await;
    let map = |rows: &[(&str, &[&str])]| {
        let rows = rows
            .iter()
            .map(|(key, values)| ((*key).to_owned(), values.iter().map(|v| (*v).to_owned()).collect()));
        rows.collect::<BTreeMap<String, Vec<String>>>()
    };
    let request = ConnectRequest {
        claims: map(&[("sub", &["ann"]), ("role", &["a", "b"])]),
        query: map(&[("access_token", &["s3cret"]), ("x", &["1", "2"])]),
        headers: map(&[("Authorization", &["Bearer s3cret"]), ("X-Y", &["z"])]),
        subprotocols: vec!["json.webpubsub.azure.v1".to_owned()],
        certificates: vec!["ABC".to_owned()],
    };
    let client = Client::new();
    let answer = handlers().connect(&[takes_all(&server.url)], &client.context(), &request).await;
    assert_eq!(answer, Ok(ConnectAnswer::default()));
    let body: serde_json::Value = serde_json::from_slice(&server.seen()[0].body).unwrap();
    let expected = json!({
        "claims": {"sub": ["ann"], "role": ["a", "b"]},
        "query": {"x": ["1", "2"]},
        "headers": {"X-Y": ["z"]},
        "subprotocols": ["json.webpubsub.azure.v1"],
        "clientCertificates": [{"thumbprint": "ABC"}],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_connect_answer_says_who_and_where() {
    let body = r#"{"userId":"bob","groups":["g"],"roles":["r"],"subprotocol":"two"}"#;
    let server = Server::always(Reply::body("application/json", body).with("ce-connectionState", "s1")).await;
    let request = ConnectRequest {
        subprotocols: vec!["one".to_owned(), "two".to_owned()],
        ..ConnectRequest::default()
    };
    let client = Client::new();
    let handler = [takes_all(&server.url)];
    let answer = handlers().connect(&handler, &client.context(), &request).await.unwrap();
    let expected = ConnectAnswer {
        user: Some(UserId::parse("bob").unwrap()),
        groups: vec![GroupName::parse("g").unwrap()],
        roles: vec!["r".to_owned()],
        subprotocol: Some("two".to_owned()),
        state: Some("s1".to_owned()),
    };
    assert_eq!(answer, expected);
    let not_offered = handlers().connect(&handler, &client.context(), &ConnectRequest::default()).await;
    assert_eq!(not_offered.unwrap_err().status, 500);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_handlers_words() {
    let reply =
        Reply::Answer(403, vec![("content-type", "text/plain".to_owned())], Bytes::from_static(b"not you"));
    let server = Server::always(reply).await;
    let client = Client::new();
    let refusal =
        handlers().connect(&[takes_all(&server.url)], &client.context(), &ConnectRequest::default()).await;
    let expected = Refusal {
        status: 403,
        body: Bytes::from_static(b"not you"),
        content_type: Some("text/plain".to_owned()),
    };
    assert_eq!(refusal, Err(expected));
}

#[tokio::test]
async fn a_state_goes_out_as_it_came_back() {
    let server = Server::start(|before, _| match before {
        0 => Reply::status(204).with("ce-connectionState", "eyJuIjoxfQ=="),
        1 => Reply::body("text/plain", "ok").with("CE-CONNECTIONSTATE", "eyJuIjoyfQ=="),
        _ => Reply::status(200),
    })
    .await;
    let (to, client, handler) = (handlers(), Client::new(), [takes_all(&server.url)]);
    let first = to.connect(&handler, &client.context(), &ConnectRequest::default()).await.unwrap();
    let context = EventContext { state: first.state.as_deref(), ..client.context() };
    let second = to.user_event(&handler, &context, &event("e"), &text("x")).await.unwrap();
    let context = EventContext { state: second.state.as_deref(), ..client.context() };
    let third = to.user_event(&handler, &context, &event("e"), &text("x")).await.unwrap();
    assert_eq!(third, EventAnswer::default());
    let states: Vec<String> =
        server.seen().iter().map(|seen| seen.header("ce-connectionstate").to_owned()).collect();
    assert_eq!(states, ["", "eyJuIjoxfQ==", "eyJuIjoyfQ=="]);
}

#[tokio::test]
async fn data_keeps_its_type_both_ways() {
    // Echoes.
    let server = Server::start(|_, seen: &Seen| {
        let headers = vec![("content-type", seen.header("content-type").to_owned())];
        Reply::Answer(200, headers, seen.body.clone())
    })
    .await;
    let (to, client, handler) = (handlers(), Client::new(), [takes_all(&server.url)]);
    let rows = [
        (Data::Text(Bytes::from_static("grüß".as_bytes())), "text/plain"),
        (Data::Json(Bytes::from_static(b"{ \"a\":1 }")), "application/json"),
        (Data::Binary(Bytes::from_static(b"\0\xff")), "application/octet-stream"),
        (Data::Protobuf(Bytes::from_static(b"\x0a\0")), "application/x-protobuf"),
    ];
    for (data, content_type) in rows {
        let answer = to.user_event(&handler, &client.context(), &event("e"), &data).await.unwrap();
        assert_eq!(answer.data, Some(data));
        assert_eq!(server.seen().last().unwrap().header("content-type"), content_type);
    }
}

#[tokio::test]
async fn metadata_travels_both_ways() {
    let server =
        Server::always(Reply::body("text/plain", "ok").with("X-WebPubSub-Metadata-Trace", "t2")).await;
    let metadata: Metadata =
        [("Trace".to_owned(), "t1".to_owned()), ("n".to_owned(), "1 2".to_owned())].into();
    let (client, handler) = (Client::new(), [takes_all(&server.url)]);
    let answer = handlers()
        .user_event_with(&handler, &client.context(), &event("e"), &text("x"), &metadata)
        .await
        .unwrap();
    assert_eq!(answer.metadata, [("trace".to_owned(), "t2".to_owned())].into());
    let seen = server.seen();
    assert_eq!(seen[0].header("x-webpubsub-metadata-trace"), "t1");
    assert_eq!(seen[0].header("x-webpubsub-metadata-n"), "1 2");
}

#[tokio::test]
async fn an_event_goes_to_one_handler_only() {
    let (one, other) = (Server::always(Reply::status(204)).await, Server::always(Reply::status(204)).await);
    let (to, client) = (handlers(), Client::new());
    let set = [takes_all(&one.url), takes_all(&other.url)];
    to.user_event(&set, &client.context(), &event("e"), &text("x")).await.unwrap();
    assert_eq!((one.seen().len(), other.seen().len()), (1, 0));
    let nobody =
        [EventHandler { user_events: UserEvents::None, system_events: Vec::new(), ..takes_all(&one.url) }];
    let answer = to.user_event(&nobody, &client.context(), &event("e"), &text("x")).await;
    assert_eq!(answer, Ok(EventAnswer::default()));
    let answer = to.connect(&nobody, &client.context(), &ConnectRequest::default()).await;
    assert_eq!(answer, Ok(ConnectAnswer::default()));
    to.connected(&nobody, &client.context()).await;
    to.disconnected(&[], &client.context(), "").await;
    assert_eq!((one.seen().len(), other.seen().len()), (1, 0));
}

#[tokio::test]
async fn users_of_all_tongues_fit_into_a_header() {
    let server = Server::always(Reply::status(204)).await;
    let user = "Zoë\r\nce-hub: other";
    let client = Client { user: Some(UserId::parse(user).unwrap()), ..Client::new() };
    handlers().connected(&[takes_all(&server.url)], &client.context()).await;
    let seen = server.seen();
    assert_eq!(seen[0].header("ce-userid"), "Zo%C3%AB%0D%0Ace-hub:%20other");
    assert_eq!(seen[0].header("ce-hub"), "chat");
}

#[tokio::test]
async fn cookies_come_back_to_who_set_them_for_the_same_connection() {
    let set = |_: usize, seen: &Seen| match seen.target.as_str() {
        "/a/set" => {
            Reply::status(204).with("set-cookie", "lb=n1; Path=/; HttpOnly").with("set-cookie", "own=1")
        }
        "/a/clear" => {
            Reply::status(204).with("set-cookie", "lb=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT")
        }
        "/a/refuse" => Reply::status(400).with("set-cookie", "bad=1"),
        _ => Reply::status(204),
    };
    let (one, other) = (Server::start(set).await, Server::start(set).await);
    let (to, client) = (handlers(), Client::new());
    let stranger = Client { connection: ConnectionId::parse("conn-2").unwrap(), ..Client::new() };
    let at = |server: &Server, folder: &str| [takes_all(&format!("{}/{folder}/{{event}}", server.url))];
    let say = async |set: &[EventHandler], client: &Client, name: &str| {
        let _ = to.user_event(set, &client.context(), &event(name), &text("x")).await;
    };
    say(&at(&one, "a"), &client, "refuse").await;
    say(&at(&one, "a"), &client, "set").await;
    say(&at(&one, "a"), &client, "e").await;
    say(&at(&one, "b"), &client, "e").await;
    say(&at(&one, "a"), &stranger, "e").await;
    say(&at(&one, "a"), &client, "clear").await;
    say(&at(&one, "a"), &client, "e").await;
    to.forget(&client.connection);
    say(&at(&one, "a"), &client, "e").await;
    say(&at(&other, "a"), &client, "e").await;
    let cookies: Vec<String> = one.seen().iter().map(|seen| seen.header("cookie").to_owned()).collect();
    assert_eq!(cookies, ["", "", "lb=n1; own=1", "lb=n1", "", "lb=n1; own=1", "own=1", ""]);
    assert_eq!(other.seen()[0].header("cookie"), "");
}

#[tokio::test]
async fn a_handler_may_want_a_token() {
    let server = Server::always(Reply::status(204).with("WebHook-Allowed-Origin", "*")).await;
    let handler = EventHandler { auth: Auth::Bearer(Secret::of("s3cret")), ..takes_all(&server.url) };
    let client = Client::new();
    handlers().validate(&handler, &client.hub, "h").await.unwrap();
    handlers().connected(&[handler], &client.context()).await;
    assert!(server.seen().iter().all(|seen| seen.header("authorization") == "Bearer s3cret"));
}

#[tokio::test]
async fn a_handler_is_asked_before_it_is_used() {
    let rows: [(u16, &[&str], Result<(), &str>); 9] = [
        (200, &["*"], Ok(())),
        (204, &["hubs.example"], Ok(())),
        (200, &["Hubs.Example"], Ok(())),
        (200, &["other.example", "hubs.example"], Ok(())),
        (200, &["other.example, hubs.example"], Ok(())),
        (200, &[], Err("no such header")),
        (200, &["other.example"], Err("other.example")),
        (405, &["*"], Err("status 405")),
        (302, &["*"], Err("status 302")),
    ];
    let client = Client::new();
    for (status, allowed, expected) in rows {
        let reply = allowed
            .iter()
            .fold(Reply::status(status), |reply, one| reply.with("webhook-allowed-origin", one));
        let server = Server::always(reply).await;
        let handler = takes_all(&format!("{}/{{hub}}/{{event}}", server.url));
        let outcome = handlers().validate(&handler, &client.hub, "hubs.example").await;
        match (&outcome, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(reason)) => assert!(error.to_string().contains(reason), "{error}"),
            _ => panic!("{status} {allowed:?}: {outcome:?}"),
        }
        let seen = server.seen();
        assert_eq!(
            (seen.len(), seen[0].method.as_str(), seen[0].target.as_str()),
            (1, "OPTIONS", "/chat/validate")
        );
        assert_eq!(seen[0].header("webhook-request-origin"), "hubs.example");
        assert_eq!(seen[0].header("ce-awpsversion"), "1.0");
    }
}

#[tokio::test]
async fn a_handler_without_options_is_asked_with_get() {
    let server = Server::start(|_, seen: &Seen| match seen.method.as_str() {
        "GET" => Reply::status(200).with("webhook-allowed-origin", "*"),
        _ => Reply::status(404),
    })
    .await;
    let client = Client::new();
    handlers().validate(&takes_all(&server.url), &client.hub, "h").await.unwrap();
    let methods: Vec<String> = server.seen().into_iter().map(|seen| seen.method).collect();
    assert_eq!(methods, ["OPTIONS", "GET"]);
}
