//! How nodes come into a cluster and stay: joining over the network, and renewal at two thirds of a certificate's life.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use farshore::engine::now;
use farshore::serve::ServeLimits;
use farshore::trust::{
    CA_CERTIFICATE, CA_KEY, CertRole, JoinError, JoinOptions, JoinTokens, LEAF_LIFE, NODE, NewToken,
    TOKEN_LIFE, Trust, TrustError, Validity, join, router,
};
use farshore_core::moment::Moment;
use farshore_core::store::Store;
use farshore_store::mem::MemStore;
use tempfile::TempDir;

use crate::trust_listen::{Server, cluster, member, region};

/// A control node that lets others join.
struct Gate {
    server: Server,
    trust: Trust,
    tokens: JoinTokens,
    store: Arc<dyn Store>,
    _dir: TempDir,
}

impl Gate {
    async fn open() -> Self {
        let (dir, trust) = cluster("prod");
        let store: Arc<dyn Store> = Arc::new(MemStore::new());
        let tokens = JoinTokens::new(Arc::clone(&store));
        let server = Self::serve(&trust, &tokens).await;
        Self { server, trust, tokens, store, _dir: dir }
    }

    async fn serve(trust: &Trust, tokens: &JoinTokens) -> Server {
        let routes = router(trust.clone(), tokens.clone());
        Server::start(Some(trust.server()), routes, ServeLimits::default()).await
    }

    fn url(&self) -> String {
        format!("https://{}", self.server.address)
    }

    async fn token(&self, role: CertRole, made_at: Moment) -> String {
        let new = NewToken { role, region: Some(region("oslo")), life: TOKEN_LIFE };
        self.tokens.create(&new, "alice", made_at).await.unwrap().token
    }

    fn options(&self, token: &str, role: CertRole, dir: &Path) -> JoinOptions {
        JoinOptions {
            control: self.url(),
            token: token.to_owned(),
            ca_hash: self.trust.ca_hash(),
            region: region("oslo"),
            role,
            addresses: vec!["oslo.example.org".parse().unwrap()],
            dir: dir.to_owned(),
        }
    }
}

fn new_dir() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trust");
    (dir, path)
}

async fn refusal(options: &JoinOptions) -> String {
    let error = join(options).await.unwrap_err();
    assert!(!options.dir.join(NODE).exists() && !options.dir.join(CA_KEY).exists(), "{error}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_and_does_not_get_the_authoritys_key() {
    let gate = Gate::open().await;
    let (_dir, dir) = new_dir();
    let token = gate.token(CertRole::Agent, now()).await;
    let oslo = join(&gate.options(&token, CertRole::Agent, &dir)).await.unwrap();
    assert_eq!(oslo.identity().to_string(), "farshore://prod/oslo/agent");
    assert!(oslo.leaf().addresses().contains(&"oslo.example.org".parse().unwrap()));
    assert!(oslo.authority().is_none() && !dir.join(CA_KEY).exists());
    assert_eq!(oslo.ca_hash(), gate.trust.ca_hash());
    gate.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_node_joins_and_lets_the_next_one_in() {
    let gate = Gate::open().await;
    let (_dir, dir) = new_dir();
    let token = gate.token(CertRole::Control, now()).await;
    let oslo = join(&gate.options(&token, CertRole::Control, &dir)).await.unwrap();
    gate.server.stop().await;
    // Paris is gone: oslo has all that it takes.
    let server = Gate::serve(&oslo, &gate.tokens).await;
    let new = NewToken { role: CertRole::Agent, region: None, life: TOKEN_LIFE };
    let token = gate.tokens.create(&new, "alice", now()).await.unwrap().token;
    let (_bergen_dir, bergen_dir) = new_dir();
    let options = JoinOptions {
        control: format!("https://{}", server.address),
        token,
        ca_hash: oslo.ca_hash(),
        region: region("bergen"),
        role: CertRole::Agent,
        addresses: Vec::new(),
        dir: bergen_dir,
    };
    assert_eq!(join(&options).await.unwrap().identity().to_string(), "farshore://prod/bergen/agent");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_authority_never_sees_the_token() {
    let gate = Gate::open().await;
    let (_other_dir, other) = cluster("prod");
    let (_dir, dir) = new_dir();
    let token = gate.token(CertRole::Agent, now()).await;
    let wrong = JoinOptions { ca_hash: other.ca_hash(), ..gate.options(&token, CertRole::Agent, &dir) };
    let said = refusal(&wrong).await;
    assert!(said.contains(&gate.trust.ca_hash()) && said.contains("farshore trust show"), "{said}");
    // The token was not sent, so it is still good.
    join(&gate.options(&token, CertRole::Agent, &dir)).await.unwrap();
    gate.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cannot_pose_as_a_control_node() {
    let gate = Gate::open().await;
    let (_agent_dir, agent) = member(&gate.trust, "paris", CertRole::Agent, crate::trust_listen::valid());
    let server = Server::start(Some(agent.server()), Router::new(), ServeLimits::default()).await;
    let (_dir, dir) = new_dir();
    let options = JoinOptions {
        control: format!("https://{}", server.address),
        ..gate.options("fsj_a_b", CertRole::Agent, &dir)
    };
    let said = refusal(&options).await;
    assert!(said.contains("farshore://prod/paris/agent") && said.contains("control node"), "{said}");
    server.stop().await;
    gate.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_used_ended_or_for_others_let_nobody_in() {
    let gate = Gate::open().await;
    let (_dir, dir) = new_dir();
    let old = Moment(now().0 - 2 * 3_600_000_000);
    let ended = gate.token(CertRole::Agent, old).await;
    let said = refusal(&gate.options(&ended, CertRole::Agent, &dir)).await;
    assert!(said.contains("ended at") && said.contains("farshore trust join-token"), "{said}");
    let token = gate.token(CertRole::Agent, now()).await;
    let said = refusal(&gate.options(&token, CertRole::Control, &dir)).await;
    assert!(said.contains("--role agent"), "{said}");
    let elsewhere = JoinOptions { region: region("bergen"), ..gate.options(&token, CertRole::Agent, &dir) };
    let said = refusal(&elsewhere).await;
    assert!(said.contains("--region oslo"), "{said}");
    let said = refusal(&gate.options("fsj_x_y", CertRole::Agent, &dir)).await;
    assert!(said.contains("not known"), "{said}");
    join(&gate.options(&token, CertRole::Agent, &dir)).await.unwrap();
    let (_second_dir, second) = new_dir();
    let said = refusal(&gate.options(&token, CertRole::Agent, &second)).await;
    assert!(said.contains("was used at") && said.contains("oslo"), "{said}");
    gate.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_granted_leaves_the_token_good() {
    let gate = Gate::open().await;
    let (_dir, dir) = new_dir();
    let token = gate.token(CertRole::Agent, now()).await;
    let greedy = JoinOptions {
        addresses: vec!["paris.prod.farshore.internal".parse().unwrap()],
        ..gate.options(&token, CertRole::Agent, &dir)
    };
    let said = refusal(&greedy).await;
    assert!(said.contains("farshore.internal"), "{said}");
    join(&gate.options(&token, CertRole::Agent, &dir)).await.unwrap();
    gate.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_with_one_token_at_two_control_nodes_one_joins() {
    let gate = Gate::open().await;
    let second = Gate::serve(&gate.trust, &JoinTokens::new(Arc::clone(&gate.store))).await;
    let token = gate.token(CertRole::Agent, now()).await;
    let (_a_dir, a_dir) = new_dir();
    let (_b_dir, b_dir) = new_dir();
    let a = gate.options(&token, CertRole::Agent, &a_dir);
    let b = JoinOptions {
        control: format!("https://{}", second.address),
        ..gate.options(&token, CertRole::Agent, &b_dir)
    };
    let (a, b) = tokio::join!(join(&a), join(&b));
    assert_ne!(a.is_ok(), b.is_ok(), "{a:?} {b:?}");
    second.stop().await;
    gate.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_somebody_else_is_never_touched() {
    let gate = Gate::open().await;
    let (other_dir, _other) = cluster("prod");
    let theirs = other_dir.path().join("trust");
    let token = gate.token(CertRole::Agent, now()).await;
    let before = std::fs::read(theirs.join(NODE)).unwrap();
    let error = join(&gate.options(&token, CertRole::Agent, &theirs)).await.unwrap_err();
    assert!(matches!(error, JoinError::Taken { .. }), "{error}");
    assert_eq!(std::fs::read(theirs.join(NODE)).unwrap(), before);
    // A node may join again as itself, but not as something else.
    let (_dir, dir) = new_dir();
    join(&gate.options(&token, CertRole::Agent, &dir)).await.unwrap();
    let token = gate.token(CertRole::Control, now()).await;
    let error = join(&gate.options(&token, CertRole::Control, &dir)).await.unwrap_err();
    assert!(matches!(error, JoinError::Taken { .. }), "{error}");
    let token = gate.token(CertRole::Agent, now()).await;
    join(&gate.options(&token, CertRole::Agent, &dir)).await.unwrap();
    gate.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_nothing_is_let_in() {
    let gate = Gate::open().await;
    let routes = router(gate.trust.clone(), gate.tokens.clone());
    farshore::trust::provider();
    let plain = Server::start(None, routes, ServeLimits::default()).await;
    for path in ["join", "renew"] {
        let answer = reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap()
            .post(format!("http://{}/trust/v1/{path}", plain.address))
            .header("content-type", "application/json")
            .body("{}")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 403, "{path}");
    }
    plain.stop().await;
    gate.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_are_named_as_such() {
    let gate = Gate::open().await;
    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 3600);
    let late = Validity { from: tomorrow, until: tomorrow + LEAF_LIFE };
    let (_early_dir, early) = member(&gate.trust, "paris", CertRole::Control, late);
    let server = Server::start(Some(early.server()), Router::new(), ServeLimits::default()).await;
    let (_dir, dir) = new_dir();
    let options = JoinOptions {
        control: format!("https://{}", server.address),
        ..gate.options("fsj_a_b", CertRole::Agent, &dir)
    };
    let said = refusal(&options).await;
    assert!(said.contains("compare the clocks of both hosts"), "{said}");
    server.stop().await;
    gate.server.stop().await;
}

/// A validity of which two thirds are over.
fn due() -> Validity {
    let now = SystemTime::now();
    Validity { from: now - LEAF_LIFE / 2, until: now + LEAF_LIFE / 5 }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_renews_at_a_control_node_that_lives_and_stays_who_it_is() {
    let gate = Gate::open().await;
    let (dir, oslo) = member(&gate.trust, "oslo", CertRole::Agent, due());
    let before = oslo.expires_at();
    let controls = ["https://127.0.0.1:1".to_owned(), gate.url()];
    assert!(oslo.renew_if_due(&controls, SystemTime::now()).await.unwrap());
    assert!(oslo.expires_at() > before + LEAF_LIFE / 2);
    assert_eq!(oslo.identity().to_string(), "farshore://prod/oslo/agent");
    assert!(!oslo.renew_if_due(&controls, SystemTime::now()).await.unwrap());
    let again = Trust::open(dir.path()).unwrap();
    assert_eq!(again.expires_at(), oslo.expires_at());
    // It was done with a key of its own, and is believed.
    again.renew(&controls, SystemTime::now()).await.unwrap();
    assert!(again.reload().is_ok() && oslo.reload().unwrap());
    gate.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_node_renews_by_itself() {
    let (dir, trust) = cluster("prod");
    let later = SystemTime::now() + LEAF_LIFE * 3 / 4;
    assert!(!trust.renew_if_due(&[], SystemTime::now()).await.unwrap());
    assert!(trust.renew_if_due(&[], later).await.unwrap());
    assert!(trust.expires_at() > later + LEAF_LIFE / 2);
    // One that slept through its certificate's end wakes up with a new one.
    let own = dir.path().join("trust");
    let awake = Trust::open_at(&own, later + 2 * LEAF_LIFE).unwrap();
    assert!(awake.expires_at() > later + 2 * LEAF_LIFE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_fails_says_why_and_leaves_the_certificate() {
    let gate = Gate::open().await;
    let past = SystemTime::now() - Duration::from_secs(60);
    let expired = Validity { from: past - LEAF_LIFE, until: past };
    let (dir, oslo) = member(&gate.trust, "oslo", CertRole::Agent, expired);
    let before = std::fs::read(dir.path().join(NODE)).unwrap();
    for controls in [vec![gate.url(), "https://127.0.0.1:1".to_owned()], Vec::new()] {
        let error = oslo.renew(&controls, SystemTime::now()).await.unwrap_err();
        assert!(matches!(error, TrustError::NotRenewed { .. }), "{error}");
        assert!(controls.iter().all(|control| error.to_string().contains(control)), "{error}");
    }
    let error = oslo.renew(&[gate.url()], SystemTime::now()).await.unwrap_err();
    assert!(error.to_string().contains("join again with farshore join"), "{error}");
    assert_eq!(std::fs::read(dir.path().join(NODE)).unwrap(), before);
    assert!(dir.path().join(CA_CERTIFICATE).exists());
    gate.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loop_renews_what_is_due_and_ends_when_told() {
    let gate = Gate::open().await;
    let (_dir, oslo) = member(&gate.trust, "oslo", CertRole::Agent, due());
    let before = oslo.expires_at();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let renewing = tokio::spawn(oslo.clone().renew_loop(vec![gate.url()], stopped));
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while oslo.expires_at() == before {
        assert!(std::time::Instant::now() < until, "it renews at once");
        tokio::task::yield_now().await;
    }
    stop.send(true).unwrap();
    renewing.await.unwrap();
    gate.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_put_there_by_somebody_else_is_used_if_it_is_this_nodes() {
    let (_dir, trust) = cluster("prod");
    let (dir, oslo) = member(&trust, "oslo", CertRole::Agent, due());
    let (new_dir, new) = member(&trust, "oslo", CertRole::Agent, crate::trust_listen::valid());
    let (other_dir, _) = member(&trust, "bergen", CertRole::Agent, crate::trust_listen::valid());
    std::fs::copy(new_dir.path().join(NODE), dir.path().join(NODE)).unwrap();
    assert!(oslo.reload().unwrap() && !oslo.reload().unwrap());
    assert_eq!(oslo.expires_at(), new.expires_at());
    std::fs::copy(other_dir.path().join(NODE), dir.path().join(NODE)).unwrap();
    assert!(oslo.reload().unwrap_err().to_string().contains("farshore://prod/bergen/agent"));
    std::fs::write(dir.path().join(NODE), "rubbish").unwrap();
    assert!(oslo.reload().is_err());
    assert_eq!(oslo.expires_at(), new.expires_at(), "the one in use stays");
}
