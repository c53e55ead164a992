//! Nodes that serve the hubs of another node.

use super::*;

#[tokio::test]
async fn a_node_without_hubs_serves_those_of_another_with_their_keys() {
    let nats = Nats::start().await;
    let has = nats.node("paris", Some(hub(1))).await;
    let follows = nats.node("paris", None).await;
    follows.follow();
    eventually("it has learned", async || follows.known.named("chat").is_some()).await;
    let settings_there = follows.hub().settings();
    assert_eq!(settings_there.keys, has.hub().settings().keys);
    let client = Client::open(&follows, "client");
    has.send(Scope::All, "hello").await;
    client.until("hello").await;
    let with_client = Call::Exists(Scope::Connection(connection("client")));
    assert_eq!(has.ask(with_client).await, Answer::Yes);
    has.hub().set(settings(2));
    eventually("it has the new key", async || follows.hub().settings().version == 2).await;
    assert_eq!(follows.hub().settings().keys, settings(2).keys);
    has.hub().serve(false);
    assert_eq!(client.until("closed: 1008 ServiceReload").await, ["hello", "closed: 1008 ServiceReload"]);
    assert!(!follows.hub().is_serving());
    has.hub().serve(true);
    eventually("it serves again", async || follows.hub().is_serving()).await;
    assert!(follows.bus.warnings().is_empty());
    let again = follows.bus.follow(Handlers::new(), Arc::new(|_, _| {})).unwrap_err();
    assert!(matches!(again, BusError::Following));
}

#[tokio::test]
async fn a_hub_that_is_made_anew_is_another_and_one_of_its_own_is_kept() {
    let nats = Nats::start().await;
    let has = nats.node("paris", Some(hub(5))).await;
    let follows = nats.node("paris", None).await;
    follows.follow();
    eventually("it has learned", async || follows.known.named("chat").is_some()).await;
    let first = follows.hub();
    has.known.put(hub(1));
    eventually("it has another", async || !Arc::ptr_eq(&first, &follows.hub())).await;
    assert_eq!((first.is_serving(), follows.hub().settings().version), (false, 1));
    let (followed, own) = (follows.hub(), hub(9));
    follows.known.put(Arc::clone(&own));
    eventually("it lets go", async || !followed.is_serving()).await;
    has.hub().set(settings(10));
    eventually("both have hubs", async || has.bus.nodes.peers().with_cards(Instant::now()).len() == 1).await;
    assert!(Arc::ptr_eq(&own, &follows.hub()) && own.is_serving());
    has.known.0.lock().unwrap().clear();
    eventually("it has none", async || follows.bus.nodes.peers().with_cards(Instant::now()).is_empty()).await;
    assert!(own.is_serving());
}

#[tokio::test]
async fn a_followed_hub_is_in_the_regions_of_the_one_that_is_followed() {
    let nats = Nats::start().await;
    let has = nats.node("paris", Some(hub(1))).await;
    let follows = nats.node("paris", None).await;
    let course = |node: &Node| node.known.1.lock().unwrap().clone();
    follows.follow();
    eventually("it has learned", async || follows.known.named("chat").is_some()).await;
    let first = follows.hub();
    assert_eq!(course(&follows), None);
    let [paris, oslo] = ["paris", "oslo"].map(|name| Region::parse(name).unwrap());
    for primary in [paris, oslo.clone()] {
        let now = Some(Course { partner: Some(oslo.clone()), primary });
        has.known.1.lock().unwrap().clone_from(&now);
        eventually("it has learned of the other region", async || course(&follows) == now).await;
    }
    assert!(Arc::ptr_eq(&first, &follows.hub()) && first.is_serving());
}

#[tokio::test]
async fn keys_do_not_go_where_others_could_read_them() {
    for (url, is_readable) in [
        ("nats://10.0.0.5:4222", true),
        ("nats://bus.example.com:4222", true),
        ("nats://name:word@10.0.0.5:4222", true),
        ("nats://127.0.0.1:4222", false),
        ("nats://localhost:4222", false),
        ("nats://[::1]:4222", false),
        ("tls://10.0.0.5:4222", false),
    ] {
        let (address, shown) = parse(url).unwrap();
        let why = readable(&address, &shown);
        assert_eq!(why.is_some(), is_readable, "{url}: {why:?}");
        assert!(!shown.contains("word"), "{shown}");
    }
    for url in ["amqp://x", "x", "nats://", "nats://x:y:z", ""] {
        assert!(matches!(parse(url), Err(BusError::Url { .. })), "{url}");
    }
    let follows = Node::at("nats://bus.invalid:4222", "paris", None).await;
    let error = follows.bus.follow(Handlers::new(), Arc::new(|_, _| {})).unwrap_err();
    assert!(error.to_string().contains("set bus = \"tls://HOST:4222\""), "{error}");
    follows.bus.stop().await;
}

#[tokio::test]
async fn a_refusal_is_told_to_the_operator() {
    let nats = Nats::start().await;
    let has = nats.node("paris", Some(hub(1))).await;
    let follows = nats.node("paris", None).await;
    eventually("they see each other", async || has.bus.stats().nodes == 1).await;
    let refused = Direct::Refused { from: has.bus.nodes.own, why: "not here".to_owned() };
    has.bus.nodes.tell(follows.bus.nodes.own, &refused).await;
    let following = Arc::clone(&follows.bus);
    follows.follow();
    eventually("it is told", async || {
        following.warnings() == ["not here"] || following.nodes.followed().len() == 1
    })
    .await;
    eventually("what was told is learned in the end", async || follows.bus.warnings().is_empty()).await;
}

#[tokio::test]
async fn over_tls_keys_are_told_to_whoever_believes_the_server_and_nothing_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [certificate, key] = ["server.crt", "server.key"].map(|name| dir.path().join(name));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let [certificate, key] = [certificate, key].map(|path| path.to_str().unwrap().to_owned());
    let arguments = ["--tls", "--tlscert", &certificate, "--tlskey", &key];
    let nats = Nats::start_with(arguments.map(str::to_owned).to_vec()).await;
    let url = format!("tls://localhost:{}", nats.address.port());
    let believes = crate::ws::client::tls_trusting([made.cert.der().clone()]).unwrap();
    let has = Node::with(&url, "paris", Some(hub(1)), Some(Arc::clone(&believes))).await;
    let follows = Node::with(&url, "paris", None, Some(believes)).await;
    follows.follow();
    eventually("it has learned", async || follows.known.named("chat").is_some()).await;
    let client = Client::open(&follows, "client");
    has.send(Scope::All, "hello").await;
    client.until("hello").await;
    let doubts = Node::at(&url, "paris", None).await;
    doubts.follow();
    eventually("it is told why", async || {
        doubts.bus.warnings().iter().any(|warning| warning.contains("is away ("))
    })
    .await;
    assert!(doubts.known.every().is_empty());
    doubts.bus.stop().await;
}
