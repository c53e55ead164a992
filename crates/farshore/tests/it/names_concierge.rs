//! The concierge, asked with `curl`, checked with `openssl` and with what clients use.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore::names::client::{Highest, Known, Refused};
use farshore::names::{AnswerView, Directory, KeysView, PublicKey};
use farshore_core::directory::{GRACE_SECONDS, WINDOW_SECONDS};
use farshore_core::moment::Moment;

use crate::names_stage::{self as stage, Concierge, key, record, records, run};

const NAME: &str = "web-1.machine";

fn now() -> Moment {
    farshore::engine::now()
}

/// Head and body as curl sees them.
async fn curl(concierge: &Concierge, path: &str, args: &[&str]) -> (String, String) {
    let url = format!("http://{}/concierge/v1/{path}", concierge.address);
    let mut all = vec!["-s", "-i", url.as_str()];
    all.extend(args);
    let text = run("curl", &all).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase() + "\r\n", body.to_owned())
}

/// The value of a header, in the case in which it was sent.
async fn header(concierge: &Concierge, path: &str, name: &str) -> (String, Vec<u8>) {
    let url = format!("http://{}/concierge/v1/{path}", concierge.address);
    let answer = reqwest::get(url).await.unwrap();
    let value = answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    (value.unwrap_or_default(), answer.bytes().await.unwrap().to_vec())
}

async fn public_key(concierge: &Concierge) -> PublicKey {
    let (_, body) = curl(concierge, "keys", &[]).await;
    let keys: KeysView = serde_json::from_str(&body).unwrap();
    PublicKey::from_base64(&keys.keys[0].public).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_finds_what_is_active_and_does_not_ask_twice() {
    let dir = tempfile::tempdir().unwrap();
    let directory = stage::directory(dir.path());
    let concierge = stage::concierge(&directory).await;
    let (head, body) = curl(&concierge, NAME, &[]).await;
    for line in ["200 ok", "cache-control: max-age=5\r\n", "content-type: application/json\r\n", "etag: w/\""]
    {
        assert!(head.contains(line), "{line:?} is not in\n{head}");
    }
    assert!(!head.contains("farshore-stale-since"), "{head}");
    let answer: AnswerView = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (answer.name.as_str(), answer.epoch, answer.active.as_str(), answer.ttl),
        (NAME, 3, "paris", 5)
    );
    assert_eq!(answer.endpoints[0].uri, "nbd://192.0.2.7:10809/web-1/root");
    assert!((2.5..=5.0).contains(&answer.poll_after), "{}", answer.poll_after);
    let valid = answer.not_after.parse::<Moment>().unwrap().since(now()).as_secs();
    assert!((GRACE_SECONDS - 60..=GRACE_SECONDS + WINDOW_SECONDS).contains(&valid), "{valid}");
    let (only_head, nothing) = curl(&concierge, NAME, &["-I"]).await;
    assert!(only_head.contains("200 ok") && nothing.is_empty(), "{only_head}");
    assert!(only_head.contains("farshore-signature: ed25519 "), "{only_head}");
    let (tag, _) = header(&concierge, NAME, "etag").await;
    let (head, body) = curl(&concierge, NAME, &["-H", &format!("If-None-Match: {tag}")]).await;
    assert!(head.contains("304 not modified") && body.is_empty(), "{head}{body}");
    directory.update(1, 101, vec![record("machine/web-1", 4, "oslo", &["nbd://192.0.2.8:1/x"])]).unwrap();
    let (head, body) = curl(&concierge, NAME, &["-H", &format!("If-None-Match: {tag}")]).await;
    assert!(head.contains("200 ok") && body.contains("\"oslo\""), "{head}{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_began_together_come_apart() {
    let dir = tempfile::tempdir().unwrap();
    let concierge = stage::concierge(&stage::directory(dir.path())).await;
    let mut polls = std::collections::BTreeSet::new();
    let mut tags = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let (tag, body) = header(&concierge, NAME, "etag").await;
        let answer: AnswerView = serde_json::from_slice(&body).unwrap();
        polls.insert(answer.poll_after.to_string());
        tags.insert(tag);
    }
    assert!(polls.len() > 3, "{polls:?}");
    // Two, should a window end just now.
    assert!(tags.len() <= 2, "{tags:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_verifies_the_signature_over_the_bytes_of_the_body() {
    let dir = tempfile::tempdir().unwrap();
    let concierge = stage::concierge(&stage::directory(dir.path())).await;
    let public = public_key(&concierge).await;
    let (signature, body) = header(&concierge, NAME, "farshore-signature").await;
    let words: Vec<_> = signature.split(' ').collect();
    assert_eq!(words[..2], ["ed25519", public.id()]);
    let path = |name: &str| dir.path().join(name).display().to_string();
    // The fixed beginning of every Ed25519 key in DER.
    let der = [
        &b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"[..],
        &STANDARD.decode(public.to_base64()).unwrap(),
    ]
    .concat();
    fs::write(path("key.der"), der).unwrap();
    fs::write(path("signature"), STANDARD.decode(words[2]).unwrap()).unwrap();
    let verify = async |body: &[u8]| {
        fs::write(path("body"), body).unwrap();
        let (key, signature, body) = (path("key.der"), path("signature"), path("body"));
        let args = [
            "pkeyutl", "-verify", "-pubin", "-inkey", &key, "-keyform", "DER", "-rawin", "-in", &body,
            "-sigfile", &signature,
        ];
        run("openssl", &args).await
    };
    assert!(verify(&body).await.contains("Signature Verified Successfully"));
    let forged = String::from_utf8(body).unwrap().replace("192.0.2.7", "192.0.2.6");
    assert!(verify(forged.as_bytes()).await.contains("Verification Failure"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_refuses_what_was_changed_outlived_or_outdated() {
    let dir = tempfile::tempdir().unwrap();
    let directory = stage::directory(dir.path());
    let concierge = stage::concierge(&directory).await;
    let mut known = Known::new(public_key(&concierge).await, Highest::default());
    let (signature, body) = header(&concierge, NAME, "farshore-signature").await;
    assert_eq!(known.check(NAME, &body, &signature, now()).unwrap().epoch, 3);
    let mut forged = body.clone();
    for at in 0..forged.len() {
        forged[at] ^= 1;
        assert_eq!(known.check(NAME, &forged, &signature, now()), Err(Refused::Forged), "byte {at}");
        forged[at] ^= 1;
    }
    assert_eq!(known.check(NAME, &body, "", now()), Err(Refused::Unsigned));
    assert!(matches!(known.check("web-2.machine", &body, &signature, now()), Err(Refused::OtherName(_))));
    let later = Moment(now().0 + (GRACE_SECONDS + WINDOW_SECONDS + 1) * 1_000_000);
    assert!(matches!(known.check(NAME, &body, &signature, later), Err(Refused::Expired(_))));
    let mut stranger = Known::new(key().public().clone(), Highest::default());
    assert!(matches!(stranger.check(NAME, &body, &signature, now()), Err(Refused::OtherKey { .. })));
    directory.update(1, 101, vec![record("machine/web-1", 4, "oslo", &["nbd://192.0.2.8:1/x"])]).unwrap();
    let (newer_signature, newer) = header(&concierge, NAME, "farshore-signature").await;
    assert_eq!(known.check(NAME, &newer, &newer_signature, now()).unwrap().epoch, 4);
    // What was seen outlives the client's process.
    let kept = serde_json::to_string(known.highest()).unwrap();
    let mut again = Known::new(public_key(&concierge).await, serde_json::from_str(&kept).unwrap());
    assert!(matches!(again.check(NAME, &body, &signature, now()), Err(Refused::Older { .. })));
    again.forget(NAME);
    assert!(again.check(NAME, &body, &signature, now()).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_names_and_an_unknown_directory_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(&dir.path().join("directory.copy"), key());
    let concierge = stage::concierge(&directory).await;
    let (head, _) = curl(&concierge, NAME, &[]).await;
    assert!(head.contains("503 service unavailable") && head.contains("application/problem+json"), "{head}");
    directory.update(1, 1, Vec::new()).unwrap();
    let (head, body) = curl(&concierge, NAME, &[]).await;
    assert!(head.contains("404 not found") && head.contains("application/problem+json"), "{head}");
    assert!(body.contains("web-1.machine"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_the_last_record_is_told_and_since_when_it_is_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let directory = stage::directory(dir.path());
    let concierge = stage::concierge(&directory).await;
    directory.stale(Some(Moment::from_millis(1_700_000_000_000)));
    let (head, body) = curl(&concierge, NAME, &[]).await;
    assert!(
        head.contains("200 ok") && head.contains("farshore-stale-since: 2023-11-14t22:13:20.000z"),
        "{head}"
    );
    assert!(body.contains("\"paris\""), "{body}");
    directory.update(1, 102, records()).unwrap();
    let (head, _) = curl(&concierge, NAME, &[]).await;
    assert!(!head.contains("farshore-stale-since"), "{head}");
}
