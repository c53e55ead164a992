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
