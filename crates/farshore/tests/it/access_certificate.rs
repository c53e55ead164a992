//! Clients that show a certificate in the place of a token, by a real handshake.

use farshore::access::Token;
use farshore::access::keys::{Keys, Refused};
use farshore::api::views::{NewTokenView, TokenView, WhoamiView};
use farshore::engine::tokens::{NewToken, VALID_DEFAULT};
use farshore::trust::{CertRole, LeafOrder, Trust};
use farshore_core::access::Role;
use reqwest::{Client, Identity, Method, Response};
use serde_json::{Value, json};

use crate::api_bench::problem;
use crate::app_sim::{Served, TOKEN, apps, authority, control, quick, until};
use crate::trust_listen::{cluster, region, valid};

/// A certificate and its key, as `farshore trust issue` writes them.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) fn issued(trust: &Trust, name: &str, role: CertRole) -> Issued {
    let order = LeafOrder { region: region("paris"), role, name: name.to_owned(), addresses: Vec::new() };
    let (signed, key) = trust.authority().unwrap().issue(&order, valid()).unwrap();
    Issued { certificate: signed.certificate, key: key.to_string() }
}

/// Who believes `trust` and shows this certificate.
fn showing(trust: &Trust, shown: &Issued) -> Client {
    let identity = Identity::from_pem(format!("{}{}", shown.certificate, shown.key).as_bytes()).unwrap();
    let client = Client::builder().no_proxy().add_root_certificate(authority(trust)).identity(identity);
    client.build().unwrap()
}

async fn get(client: &Client, served: &Served, path: &str) -> Response {
    client.get(format!("{}{path}", served.url)).send().await.unwrap()
}

async fn make(served: &Served, name: &str, role: &str, certificate: &str) -> Response {
    let asked = json!({"name": name, "role": role, "certificate": certificate});
    served.post("/api/v1/tokens", asked).await
}

#[tokio::test]
async fn who_shows_the_certificate_of_a_token_is_its_holder_until_it_is_revoked() {
    let (_dir, trust) = cluster("prod");
    let served = Served::trusted(apps().await, &trust).await;
    let (ada, eve) = (issued(&trust, "ada", CertRole::Client), issued(&trust, "eve", CertRole::Client));
    let (with_ada, with_eve) = (showing(&trust, &ada), showing(&trust, &eve));
    let early = get(&with_ada, &served, "/api/v1/whoami").await;
    assert_eq!(early.status(), 401);
    assert!(problem(early).await.detail.starts_with("no token goes with the certificate that you showed"));

    let made = make(&served, "ada", "operator", &ada.certificate).await;
    assert_eq!(made.status(), 201);
    let made: NewTokenView = made.json().await.unwrap();
    assert!(made.token.certificate.as_deref().is_some_and(|shown| shown.starts_with("sha256:")));
    let who: WhoamiView = get(&with_ada, &served, "/api/v1/whoami").await.json().await.unwrap();
    assert_eq!((who.name.as_str(), who.token.as_deref()), ("ada", Some(made.token.id.as_str())));
    assert_eq!(
        get(&with_eve, &served, "/api/v1/whoami").await.status(),
        401,
        "another certificate is nobody's"
    );
    assert_eq!(get(&with_ada, &served, "/api/v1/tokens").await.status(), 403, "an operator's is no admin's");
    // Whoever sends a token is its holder, whatever is shown.
    let url = format!("{}/api/v1/whoami", served.url);
    let both = with_ada.get(&url).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(both.json::<WhoamiView>().await.unwrap().name, "bootstrap");
    let both = with_ada.get(&url).bearer_auth("fst_nothing").send().await.unwrap();
    assert_eq!(both.status(), 401);

    let path = format!("/api/v1/tokens/{}", made.token.id);
    assert_eq!(served.send(Method::DELETE, &path, TOKEN, None).await.status(), 200);
    let late = get(&with_ada, &served, "/api/v1/whoami").await;
    assert_eq!(late.status(), 401);
    assert!(problem(late).await.detail.starts_with("the token ada was revoked at "));
    // The certificate is free again, and its new token counts.
    assert_eq!(make(&served, "ada-again", "reader", &ada.certificate).await.status(), 201);
    let who: WhoamiView = get(&with_ada, &served, "/api/v1/whoami").await.json().await.unwrap();
    assert_eq!(who.name, "ada-again");
    let audit = served.get::<Value>("/api/v1/audit").await.to_string();
    assert!(audit.contains("or the certificate sha256:"), "{audit}");
}

/// A node that nobody shows the records to: it knows what it was asked for, and no more.
#[tokio::test]
async fn a_certificate_whose_token_was_replaced_elsewhere_is_taken_for_the_new_one() {
    let apps = apps().await;
    let control = control(&apps, quick(None)).await;
    let keys = Keys::new(control.clone(), TOKEN);
    let make = async |name: &str| {
        let new = NewToken {
            name: name.to_owned(),
            role: Role::Reader,
            valid_for: VALID_DEFAULT,
            certificate: Some("sha256:1".to_owned()),
        };
        control.create_token(&Token::generate().unwrap(), &new, "ada").await.unwrap()
    };
    let first = make("first").await;
    assert_eq!(keys.look_by_certificate("sha256:1").await.unwrap().name, "first");
    control.revoke_token(&first.id, "ada").await.unwrap();
    let look = || keys.look_by_certificate("sha256:1");
    let _ = until("its end", look, |verdict| matches!(verdict, Err(Refused::Revoked { .. }))).await;
    make("second").await;
    let found = until("the new one", look, Result::is_ok).await;
    assert_eq!(found.unwrap().name, "second");
    control.shutdown().await;
}

#[tokio::test]
async fn a_certificate_that_no_client_could_show_gets_no_token() {
    let (_dir, trust) = cluster("prod");
    let served = Served::trusted(apps().await, &trust).await;
    let node = issued(&trust, "oslo", CertRole::Agent);
    let foreign = rcgen::generate_simple_self_signed(["ada".to_owned()]).unwrap().cert.pem();
    for (certificate, says) in [
        ("", "no certificate is in it"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "names nobody of a cluster"),
        (&node.key, "no certificate is in it"),
        (
            &node.certificate,
            "is of farshore://prod/paris/agent: tokens go with certificates of the role client",
        ),
        (&foreign, "names nobody of a cluster"),
    ] {
        let refused = make(&served, "ada", "operator", certificate).await;
        assert_eq!(refused.status(), 400, "{certificate}");
        let problem = problem(refused).await;
        assert!(problem.detail.starts_with("certificate: ") && problem.detail.contains(says), "{problem:?}");
    }
    let ada = issued(&trust, "ada", CertRole::Client);
    assert_eq!(make(&served, "ada", "operator", &ada.certificate).await.status(), 201);
    let taken = make(&served, "eve", "admin", &ada.certificate).await;
    assert_eq!(taken.status(), 409);
    assert_eq!(problem(taken).await.code(), "certificate-taken");
    let tokens: Vec<TokenView> = served.get("/api/v1/tokens").await;
    assert_eq!(tokens.len(), 1, "what was refused changed nothing");
}

/// A certificate of another cluster whose text says the same does not get past the handshake.
#[tokio::test]
async fn a_certificate_of_another_authority_does_not_get_past_the_handshake() {
    let (_dir, trust) = cluster("prod");
    let (_other_dir, other) = cluster("prod");
    let served = Served::trusted(apps().await, &trust).await;
    let ada = issued(&other, "ada", CertRole::Client);
    assert_eq!(make(&served, "ada", "operator", &ada.certificate).await.status(), 201);
    let url = format!("{}/api/v1/whoami", served.url);
    let refused = showing(&trust, &ada).get(url).send().await;
    assert!(refused.is_err(), "{refused:?}");
}
