//! The app moves: drain, asking clients to connect again, the other region's gateway.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::SiteState;
use super::doubles::{GIT_HOST, HOST, Instance, Rig, any_port, nowhere, region, until};

fn recovering() -> SiteState {
    SiteState::Recovering { why: "region paris is lost".into(), retry_after: Duration::from_millis(2500) }
}

#[tokio::test]
async fn while_an_app_is_recovered_clients_are_told_when_to_come_again() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let (mut old, mut git) = (rig.client().await, rig.client().await);
    assert_eq!(old.get("/").await.header("connection"), None);
    let fetch = format!("GET / HTTP/1.1\r\nhost: {GIT_HOST}\r\n\r\n");
    assert_eq!(git.ask(&fetch).await.body, "git /");
    rig.site.set(recovering());
    let answer = old.get("/").await;
    answer.check_problem(503, &["todo", "region paris is lost", "nothing was done"]);
    assert_eq!((answer.header("retry-after"), answer.header("connection")), (Some("3"), Some("close")));
    assert!(old.is_closed().await);
    git.ask(&fetch).await.check_problem(503, &["recovered"]);
    // Whoever came afterwards has nothing to come again for.
    let mut new = rig.client().await;
    assert_eq!(new.get("/status").await.header("connection"), None);
    rig.site.set(instance.here());
    let answer = new.get("/").await;
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("one", Some("close")));
}

#[tokio::test]
async fn other_instances_are_nothing_to_a_client() {
    let (one, two) = (Instance::start("one").await, Instance::start("two").await);
    let rig = Rig::new(one.here()).await;
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.body, "one");
    rig.site.set(two.here());
    let answer = client.get("/").await;
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("two", None));
}

#[tokio::test]
async fn requests_under_way_are_finished_and_waited_for() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let mut client = rig.client().await;
    client.send(&format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\n\r\nha")).await;
    until("the request is under way", || rig.site.figures().under_way == 1).await;
    rig.site.set(recovering());
    assert!(!rig.site.drained(Duration::from_millis(10)).await);
    let drained = tokio::spawn({
        let site = rig.site.clone();
        async move { site.drained(super::doubles::PATIENCE).await }
    });
    client.send("lf").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "half"));
    assert!(drained.await.unwrap());
}

#[tokio::test]
async fn the_other_regions_gateway_serves_whoever_still_comes_here() {
    let instance = Instance::start("far").await;
    let far = Rig::of("oslo", instance.here()).await;
    let near = Rig::new(SiteState::Empty).await;
    near.there(far.http());
    let mut client = near.client().await;
    let seen = client.get("/seen").await.json();
    assert_eq!(seen["by"], "far");
    assert_eq!(seen["headers"]["host"][0], HOST);
    assert_eq!(seen["headers"]["x-forwarded-for"][0], "127.0.0.1, 127.0.0.1");
    assert_eq!(seen["headers"]["farshore-forwarded-by"], serde_json::Value::Null);
    let git = client.ask(&format!("GET /x HTTP/1.1\r\nhost: {GIT_HOST}\r\n\r\n")).await;
    assert_eq!(git.body, "git /x");
    let post = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(client.ask(&post).await.body, "hi");
}

#[tokio::test]
async fn two_gateways_that_point_at_each_other_do_not_loop() {
    let (near, far) = (Rig::of("paris", SiteState::Empty).await, Rig::of("oslo", SiteState::Empty).await);
    near.there(far.http());
    far.there(near.http());
    let answer = near.get("/").await;
    answer.check_problem(503, &["paris", "do not agree yet"]);
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!((near.site.figures().requests, far.site.figures().requests), (1, 1));
}

#[tokio::test]
async fn a_region_that_cannot_be_reached_is_named() {
    let rig = Rig::new(SiteState::Empty).await;
    rig.there(nowhere().await);
    rig.get("/").await.check_problem(503, &["oslo", "nothing was done"]);
    rig.site.set(SiteState::There { region: region("oslo"), http: None, https: Some("127.0.0.1:1".into()) });
    rig.get("/").await.check_problem(503, &["oslo", "TLS"]);
}

#[tokio::test]
async fn nothing_is_sent_to_another_region_without_tls_but_on_this_host() {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let plain = listener.local_addr().unwrap().to_string();
    let rig = Rig::new(SiteState::Empty).await;
    let there = |http: &str, https: Option<&str>| {
        let (http, https) = (Some(http.to_owned()), https.map(str::to_owned));
        rig.site.set(SiteState::There { region: region("oslo"), http, https });
    };
    there(&plain, Some("127.0.0.1:1"));
    rig.get("/").await.check_problem(503, &["oslo", "TLS", "nothing was done"]);
    // A name leads to whoever the directory says, be it this host.
    there(&plain.replace("127.0.0.1", "localhost"), None);
    rig.get("/").await.check_problem(503, &["oslo", "TLS", "set https"]);
    // 192.0.2.0/24 is nobody's.
    there("192.0.2.1:9080", None);
    rig.get("/").await.check_problem(503, &["oslo", "192.0.2.1:9080", "TLS"]);
    // Had one of them come, it would be the first.
    let mut marked = TcpStream::connect(&plain).await.unwrap();
    let (mut first, _) = listener.accept().await.unwrap();
    marked.write_all(b"mine").await.unwrap();
    let mut seen = [0; 4];
    first.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"mine");
}

#[tokio::test]
async fn a_gateway_that_is_led_back_to_itself_says_so() {
    let rig = Rig::new(SiteState::Empty).await;
    rig.there(rig.http());
    rig.get("/").await.check_problem(503, &["oslo", "leads back here", "set https"]);
}

#[tokio::test]
async fn a_gateway_that_stops_finishes_and_frees_its_port() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let (mut idle, mut busy) = (rig.client().await, rig.client().await);
    assert_eq!(idle.get("/").await.status, 200);
    busy.send(&format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\n\r\nha")).await;
    until("the request is under way", || rig.site.figures().under_way == 1).await;
    let (gateway, http) = (rig.gateway.clone(), rig.http());
    let stopping = tokio::spawn(async move { gateway.stop().await });
    assert!(idle.is_closed().await);
    busy.send("lf").await;
    assert_eq!(busy.answer().await.body, "half");
    stopping.await.unwrap();
    // A client of somebody else may have got it for a moment.
    until("its port is free", || std::net::TcpListener::bind(http).is_ok()).await;
}
