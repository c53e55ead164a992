//! What is refused whoever asks, and what every answer says to browsers.

use std::net::IpAddr;

use farshore::access::keys::Keys;
use farshore::access::{NotAdmitted, Token};
use farshore::api::views::NewTokenView;
use reqwest::Method;
use serde_json::json;

use crate::api_bench::{Served, TOKEN, problem};

#[tokio::test]
async fn an_address_that_guesses_is_told_to_wait_and_known_tokens_go_on() {
    let served = Served::new().await;
    let asked = json!({"name": "ci", "role": "reader"});
    let ci: NewTokenView = served.post("/api/v1/tokens", &asked).await.json().await.unwrap();
    let status = async |token: &str| {
        let request = served.bare(Method::GET, "/api/v1/whoami").bearer_auth(token);
        request.send().await.unwrap()
    };
    let mut wrong = 0;
    let told = loop {
        let answer = status("guess-guess-guess").await;
        if answer.status() != 401 {
            break answer;
        }
        wrong += 1;
        assert!(wrong < 10_000, "nobody is ever told to wait");
    };
    assert!(wrong >= 100, "people mistype: {wrong}");
    assert_eq!(told.status(), 429);
    let wait: u64 = told.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=5).contains(&wait), "{wait}");
    assert_eq!(problem(told).await.code(), "too-often");
    // Made here a moment ago, so it need not be looked up; while no guess at the bootstrap token is looked at.
    assert_eq!(status(&ci.secret).await.status(), 200);
    let bare = served.bare(Method::GET, "/api/v1/whoami").send().await.unwrap();
    assert_eq!(bare.status(), 401, "no token is no guess");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while status(TOKEN).await.status() != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the address is never let in again");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// The same for passwords of git, which are tokens too.
#[tokio::test]
async fn nobody_tries_many_tokens_from_one_address_wherever_they_are_sent() {
    let served = Served::new().await;
    let keys = Keys::new(served.control.clone(), TOKEN);
    let [one, other] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
    let mut wrong = 0;
    loop {
        // Well made, and nobody's: each would be looked up.
        let guess = Token::generate().unwrap();
        match keys.admit(guess.reveal(), one).await {
            Err(NotAdmitted::Wrong(_)) => wrong += 1,
            Err(NotAdmitted::TooMany { .. }) => break,
            other => panic!("{other:?}"),
        }
        assert!(wrong < 10_000, "nobody is ever told to wait");
    }
    assert!(matches!(keys.admit(TOKEN, one).await, Err(NotAdmitted::TooMany { .. })));
    assert_eq!(keys.admit(TOKEN, other).await.unwrap().name, "bootstrap");
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing() {
    let served = Served::protected().await;
    let path = "/api/v1/items/machine/web-1/mark-point";
    let ask = async |name: &str, value: &str| {
        let request = served.request(Method::POST, path).header(name, value).json(&json!({"name": "a"}));
        request.send().await.unwrap()
    };
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://elsewhere.example"),
        ("origin", "null"),
    ] {
        let answer = ask(name, value).await;
        assert_eq!(answer.status(), 403, "{name}: {value}");
        assert_eq!(problem(answer).await.code(), "cross-site");
    }
    assert_eq!(ask("origin", &served.url).await.status(), 202);
}

#[tokio::test]
async fn what_is_too_long_is_refused_before_anything_else() {
    let served = Served::new().await;
    let long = "x".repeat(17 * 1024);
    let header = served.bare(Method::GET, "/api/v1/items").header("x-long", &long).send().await.unwrap();
    assert_eq!(header.status(), 431);
    assert_eq!(problem(header).await.code(), "too-large");
    let mut many = served.bare(Method::GET, "/api/v1/items");
    for number in 0..70 {
        many = many.header(format!("x-{number}"), "1");
    }
    assert_eq!(many.send().await.unwrap().status(), 431);
    let path = format!("/api/v1/items?{}", "x".repeat(5_000));
    assert_eq!(served.bare(Method::GET, &path).send().await.unwrap().status(), 414);
    let body = served.bare(Method::POST, "/api/v1/items").body("x".repeat(65_537)).send().await.unwrap();
    assert_eq!(body.status(), 413);
}

#[tokio::test]
async fn every_answer_tells_browsers_to_keep_and_guess_nothing() {
    let served = Served::new().await;
    for path in ["/livez", "/api/v1/items", "/api/v1/openapi.json", "/api/v1/nothing", "/nothing"] {
        for request in [served.bare(Method::GET, path), served.request(Method::GET, path)] {
            let answer = request.send().await.unwrap();
            let says = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(says("x-content-type-options"), "nosniff", "{path}");
            assert_eq!(says("x-frame-options"), "DENY", "{path}");
            assert_eq!(says("cache-control"), "no-store", "{path}");
            assert_eq!(says("referrer-policy"), "no-referrer", "{path}");
            assert!(says("content-security-policy").starts_with("default-src 'none'"), "{path}");
        }
    }
}

#[tokio::test]
async fn a_client_that_asks_all_the_time_is_not_in_the_way() {
    let served = Served::protected().await;
    for _ in 0..1_500 {
        let status = served.request(Method::GET, "/api/v1/whoami").send().await.unwrap().status();
        assert_eq!(status, 200);
    }
}
