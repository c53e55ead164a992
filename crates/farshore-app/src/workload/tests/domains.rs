//! Names: the operator's own and its certificate do not stay behind in a lost region; a gateway's lead to it by TLS.

use super::*;
use crate::link::Where;

const HOST: &str = "shop.example";

/// What a client that believes this certificate only is answered at a region's gateway.
async fn asked(place: &Place, certificate: &str) -> Result<Value, reqwest::Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let at = place.apps.bound().https.unwrap();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap()])
        .resolve(HOST, at)
        .build()
        .unwrap();
    client.get(format!("https://{HOST}:{}/release", at.port())).send().await?.json().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_and_its_certificate_travel_and_hold_up_no_recovery() {
    let paris = served().await;
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    paris.ask(json!({ "ask": "set-hosts", "hosts": [HOST] })).await.unwrap();
    let wish = json!({ "ask": "set-certificate", "host": HOST, "chain": chain, "key": key });
    paris.ask(wish).await.unwrap();
    assert_eq!(asked(&paris, &chain).await.unwrap(), "one");
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.world.is_cut.store(true, Ordering::SeqCst);
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert_eq!(asked(&oslo, &chain).await.unwrap(), "one");
    let other = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    assert!(asked(&oslo, &other.cert.pem()).await.is_err(), "it is that certificate and no other");
    let summary = oslo.ask(json!({ "ask": "summary" })).await.unwrap();
    assert!(!summary.to_string().contains("PRIVATE KEY"), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_refused_costs_no_other_name_and_no_certificate() {
    let paris = served().await;
    let other = ItemId::parse("app/other").unwrap();
    let mut named = spec();
    named["hosts"] = json!(["taken.example"]);
    paris.act_on(&other, 1, Action::Create { spec: named }, None).await.unwrap();
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    paris.ask(json!({ "ask": "set-hosts", "add": [HOST] })).await.unwrap();
    paris.ask(json!({ "ask": "set-certificate", "host": HOST, "chain": chain, "key": key })).await.unwrap();
    for taken in
        [json!({ "hosts": ["taken.example"] }), json!({ "add": ["taken.example"], "remove": [HOST] })]
    {
        let mut wish = taken;
        wish["ask"] = json!("set-hosts");
        let refused = paris.ask(wish).await.unwrap_err();
        assert!(refused.to_string().contains("taken.example is taken by the app other"), "{refused}");
        assert_eq!(asked(&paris, &chain).await.unwrap(), "one");
    }
    let unknown = paris.ask(json!({ "ask": "set-hosts", "remove": ["gone.example"] })).await.unwrap_err();
    assert!(unknown.to_string().contains("not known as gone.example"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_several_people_add_and_remove_at_once_are_all_as_they_said() {
    let paris = served().await;
    let names = |word: &str| (0..8).map(|number| format!("{word}-{number}.example")).collect::<Vec<_>>();
    paris.ask(json!({ "ask": "set-hosts", "hosts": names("old") })).await.unwrap();
    let changes = names("old").into_iter().zip(names("new")).map(|(old, new)| {
        let (paris, wish) = (&paris, json!({ "ask": "set-hosts", "add": [new], "remove": [old] }));
        async move { paris.ask(wish).await.unwrap() }
    });
    futures_util::future::join_all(changes).await;
    let summary = paris.ask(json!({ "ask": "summary" })).await.unwrap();
    let mut hosts: Vec<String> = serde_json::from_value(summary["hosts"].clone()).unwrap();
    assert_eq!(hosts.remove(0), "todo.app.farshore.internal");
    hosts.sort();
    assert_eq!(hosts, names("new"));
}

/// What the other region's gateway is told of this one's.
async fn told(change: impl FnOnce(&mut AppsOptions)) -> (Bound, Where) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options("paris", &Arc::default(), &dir, "127.0.0.1:0".parse().unwrap());
    change(&mut options);
    let apps = Apps::open(options).await.unwrap();
    let told = (apps.bound(), apps.around.gateway_at());
    apps.stop().await;
    told
}

#[tokio::test]
async fn no_gateway_is_told_to_be_reached_without_tls_from_another_host() {
    let (bound, at) = told(|options| options.host = Some("apps.paris.example".to_owned())).await;
    let https = format!("apps.paris.example:{}", bound.https.unwrap().port());
    assert_eq!(at, Where { http: None, https: Some(https) });
    let (bound, at) = told(|options| {
        options.host = Some("apps.paris.example".to_owned());
        options.https = None;
    })
    .await;
    assert_eq!(at, Where { http: Some(bound.http.to_string()), https: None });
}
