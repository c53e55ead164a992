//! Where clients are sent.

use futures_util::FutureExt as _;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::site::*;
use crate::live::now;
use crate::negotiate::Sharing;
use crate::pair::{Advice, Pair, PairContext};
use crate::query;
use crate::token::{self, sign};
use crate::ws::client::WsClient;

/// The host under which the pair is asked.
const HOST: &str = "chat.example:9000";

struct Told {
    status: StatusCode,
    retry_after: Option<u64>,
    body: Value,
}

async fn ask(pair: &Pair, paris: &Site, parameters: &str, token: Option<&str>) -> Told {
    let mut headers = HeaderMap::new();
    headers.insert("host", HOST.parse().unwrap());
    headers.insert("x-forwarded-host", "evil.example".parse().unwrap());
    if let Some(token) = token {
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let parameters = query::parse(parameters);
    let context = PairContext { query: &parameters, headers: &headers, now: now() };
    let answer = pair.negotiate(&paris.hub, &context).await;
    let retry_after =
        answer.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
    let status = answer.status();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    Told { status, retry_after, body: serde_json::from_slice(&body).unwrap() }
}

/// The region that is advised: `+` where the client belongs, `-` elsewhere.
async fn goes(pair: &Pair, paris: &Site) -> String {
    let told = ask(pair, paris, "hub=chat", None).await;
    if told.status != StatusCode::OK {
        return told.status.as_u16().to_string();
    }
    assert!(told.body["retryAfterMs"].as_u64().unwrap() < 3_000);
    let sign = if told.body["primary"] == true { "+" } else { "-" };
    format!("{sign}{}", told.body["region"].as_str().unwrap())
}

fn signed(site: &Site, claims: &Value) -> String {
    let mut claims = claims.clone();
    claims["exp"] = (now().0 / 1_000_000 + 100).into();
    sign(&claims, &site.hub.settings().keys.secondary)
}

#[tokio::test]
async fn clients_go_to_the_primary_while_it_is_healthy_and_else_to_the_other() {
    let (paris, mut oslo, pair, primary) = two().await;
    assert_eq!(goes(&pair, &paris).await, "+paris");
    primary.send_replace(region("oslo"));
    assert_eq!(goes(&pair, &paris).await, "+oslo");
    assert_eq!(pair.health().iter().map(|member| member.primary).collect::<Vec<_>>(), [true, false]);
    assert_eq!(pair.advice(), Advice { url: oslo.url.clone(), region: "oslo".to_owned(), primary: true });

    oslo.is(Mood::Silent);
    until("clients go to paris", async || (goes(&pair, &paris).await == "-paris").then_some(())).await;
    oslo.is(Mood::Good);
    until("clients go to oslo", async || (goes(&pair, &paris).await == "+oslo").then_some(())).await;

    oslo.die().await;
    until("clients go to paris", async || (goes(&pair, &paris).await == "-paris").then_some(())).await;
    paris.hub.serve(false);
    assert_eq!(goes(&pair, &paris).await, "503");
    assert_eq!(pair.advice().url, "");
    paris.hub.serve(true);
    assert_eq!(goes(&pair, &paris).await, "-paris");
}

#[tokio::test]
async fn each_region_of_an_active_pair_sends_its_clients_to_itself() {
    let active = crate::live::Settings { sharing: Sharing::ActiveActive, ..settings(keys(1)) };
    let (paris, oslo) = (Site::start(active.clone()).await, Site::start(active).await);
    let primary = watch::Sender::new(region("oslo"));
    let pair = pair(&paris, Some(&oslo), &primary);
    until("oslo is healthy", async || pair.partner_is_healthy().then_some(())).await;
    assert_eq!(goes(&pair, &paris).await, "+paris");
    paris.hub.serve(false);
    assert_eq!(goes(&pair, &paris).await, "-oslo");
}

#[tokio::test]
async fn a_verdict_that_was_never_made_is_made_when_a_client_asks() {
    let (paris, oslo) = (Site::start(settings(keys(1))).await, Site::start(settings(keys(1))).await);
    let primary = watch::Sender::new(region("oslo"));
    let pair = pair(&paris, Some(&oslo), &primary);
    paris.hub.serve(false);
    until("clients go to oslo", async || (goes(&pair, &paris).await == "+oslo").then_some(())).await;
}

#[tokio::test]
async fn when_nobody_is_healthy_clients_are_told_to_come_at_different_times() {
    let paris = Site::start(settings(keys(1))).await;
    let primary = watch::Sender::new(region("paris"));
    let pair = pair(&paris, None, &primary);
    paris.hub.serve(false);
    let mut times = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let told = ask(&pair, &paris, "hub=chat", None).await;
        assert_eq!(
            (told.status, &told.body["code"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("Error.ServiceUnavailable"))
        );
        times.insert(told.retry_after.unwrap());
    }
    assert!(times.len() > 3 && times.iter().all(|seconds| (1..=10).contains(seconds)), "{times:?}");
}

#[tokio::test]
async fn who_has_no_token_gets_none() {
    let (paris, _oslo, pair, _primary) = two().await;
    let told = ask(&pair, &paris, "hub=chat&userId=ann&role=webpubsub.sendToGroup", None).await;
    let base = format!("{}/client/hubs/chat", paris.url.replacen("http", "ws", 1));
    assert_eq!((&told.body["url"], &told.body["baseUrl"]), (&json!(base), &json!(base)));
    assert!(told.body.get("token").is_none());
}

#[tokio::test]
async fn a_server_gets_a_token_with_which_its_client_can_connect() {
    let (paris, oslo, pair, primary) = two().await;
    let asking = signed(&paris, &json!({ "aud": format!("http://{HOST}/negotiate?hub=chat") }));
    let wish = "hub=chat&userId=ann&role=webpubsub.sendToGroup&role=webpubsub.joinLeaveGroup&group=g&group=h";
    for site in [&paris, &oslo] {
        let told = ask(&pair, &paris, wish, Some(&asking)).await;
        assert_eq!(told.status, StatusCode::OK);
        let token = told.body["token"].as_str().unwrap();
        let audience = format!("{}/client/hubs/chat", site.url);
        let claims = token::verify(token, &keys(1), now(), |is| is == audience).unwrap();
        assert_eq!(claims.user.unwrap().as_str(), "ann");
        assert_eq!((claims.roles.len(), claims.groups.len()), (2, 2));
        let mut client = WsClient::connect(told.body["url"].as_str().unwrap(), &[], &[], None).await.unwrap();
        crate::rest::Broadcast::ask(&*pair, &paris.hub, to_group("hello")).await.unwrap();
        assert_eq!(hears(&mut client).await, "hello");
        primary.send_replace(region("oslo"));
    }
}

#[tokio::test]
async fn a_client_keeps_what_its_token_says_and_adds_nothing_to_it() {
    let (paris, _oslo, pair, _primary) = two().await;
    let own = json!({
        "aud": format!("ws://{HOST}/client/hubs/chat"), "sub": "ann", "role": "webpubsub.sendToGroup.g",
        "custom": { "tenant": 7 },
    });
    let token = signed(&paris, &own);
    let told =
        ask(&pair, &paris, "hub=chat&userId=bob&role=webpubsub.sendToGroup&group=all", Some(&token)).await;
    let given = told.body["token"].as_str().unwrap();
    let audience = format!("{}/client/hubs/chat", paris.url);
    let claims = token::verify(given, &keys(1), now(), |is| is == audience).unwrap();
    let before = token::verify(&token, &keys(1), now(), |_| true).unwrap();
    assert_eq!((claims.user, claims.roles, claims.groups), (before.user, before.roles, before.groups));
    assert_eq!((claims.expires, &claims.all["custom"]), (before.expires, &before.all["custom"]));
}

#[tokio::test]
async fn tokens_that_are_not_believed_are_refused() {
    let (paris, _oslo, pair, _primary) = two().await;
    let right = json!(format!("http://{HOST}/negotiate"));
    for token in [
        sign(&json!({ "aud": right, "exp": 4_000_000_000_u64 }), &keys(5).primary),
        signed(&paris, &json!({ "aud": "http://other.example/negotiate" })),
        signed(&paris, &json!({ "aud": "http://evil.example/client/hubs/chat" })),
        signed(&paris, &json!({ "aud": format!("http://{HOST}/client/hubs/other") })),
        sign(&json!({ "aud": right, "exp": 1 }), &keys(1).primary),
        "nonsense".to_owned(),
    ] {
        let told = ask(&pair, &paris, "hub=chat&userId=ann", Some(&token)).await;
        assert_eq!(
            (told.status, &told.body["code"]),
            (StatusCode::UNAUTHORIZED, &json!("Error.Unauthorized"))
        );
    }
    let asking = signed(&paris, &json!({ "aud": right }));
    let long = format!("hub=chat&userId={}", "u".repeat(1_025));
    for wish in [long.as_str(), "hub=chat&group=%20"] {
        let told = ask(&pair, &paris, wish, Some(&asking)).await;
        assert_eq!(told.status, StatusCode::BAD_REQUEST, "{wish}");
    }
}

#[tokio::test]
async fn nobody_looks_any_more_when_the_pair_is_gone() {
    let (paris, oslo, pair, _primary) = two().await;
    let counts = oslo.hub.counts();
    assert_eq!((counts.probes, counts.sessions, counts.attached, counts.users), (1, 0, 0, 0));
    let weak = std::sync::Arc::downgrade(&pair);
    drop(pair);
    until("the pair is gone", async || weak.upgrade().is_none().then_some(())).await;
    until("its probe is gone", async || (oslo.hub.counts().probes == 0).then_some(())).await;
    drop(paris);
}

#[tokio::test]
async fn strangers_that_ask_and_ask_again_hold_up_nobody_who_has_a_token() {
    let (paris, _oslo, pair, _primary) = two().await;
    // However slow the machine is, they come faster than they are let in.
    tokio::time::pause();
    let strangers = crate::connection::admission::PER_SECOND * 10;
    for _ in 0..strangers {
        // Whoever would have to wait goes, and has had its turn.
        let _ = ask(&pair, &paris, "hub=chat", None).now_or_never();
    }
    let next = ask(&pair, &paris, "hub=chat", None).now_or_never();
    assert_eq!(next.expect("is not made to wait").status, StatusCode::SERVICE_UNAVAILABLE);
    let token = signed(&paris, &json!({ "aud": format!("http://{HOST}/negotiate?hub=chat") }));
    tokio::time::resume();
    assert_eq!(ask(&pair, &paris, "hub=chat&userId=ann", Some(&token)).await.status, StatusCode::OK);
}
