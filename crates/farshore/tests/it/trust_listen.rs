//! The listener and the certificates, tried with the programs that people have: openssl and curl.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::{Extension, Router, routing::get};
use farshore::serve::{PeerIdentity, ServeLimits, listen};
use farshore::trust::{Authority, CA_CERTIFICATE, CertRole, LEAF_LIFE, LeafOrder, NODE, Trust, Validity};
use farshore_core::ids::Region;
use rustls::{ClientConfig, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

pub(crate) fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

/// A cluster with its first control node in paris.
pub(crate) fn cluster(name: &str) -> (TempDir, Trust) {
    let dir = tempfile::tempdir().unwrap();
    let trust =
        Trust::init(&dir.path().join("trust"), name, &region("paris"), &[], SystemTime::now()).unwrap();
    (dir, trust)
}

/// The trust of another node of the cluster, as a join would have left it.
pub(crate) fn member(first: &Trust, at: &str, role: CertRole, validity: Validity) -> (TempDir, Trust) {
    let dir = tempfile::tempdir().unwrap();
    write_member(dir.path(), first, at, role, validity);
    let trust = Trust::open(dir.path()).unwrap();
    (dir, trust)
}

fn write_member(dir: &Path, first: &Trust, at: &str, role: CertRole, validity: Validity) {
    let order = LeafOrder { region: region(at), role, name: at.to_owned(), addresses: Vec::new() };
    let (signed, key) = first.authority().unwrap().issue(&order, validity).unwrap();
    std::fs::write(dir.join(CA_CERTIFICATE), first.ca_pem()).unwrap();
    write_private(&dir.join(NODE), &format!("{}{key}", signed.chain));
}

pub(crate) fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn valid() -> Validity {
    Validity::starting(SystemTime::now(), LEAF_LIFE)
}

/// A listener that says who asks; ends with this value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: watch::Sender<bool>,
    served: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) async fn start(tls: Option<Arc<ServerConfig>>, router: Router, limits: ServeLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(listen(listener, tls, router, stopped, limits));
        Self { address, stop, served }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(true).unwrap();
        self.served.await.unwrap().unwrap();
    }
}

fn who() -> Router {
    let answer = |Extension(PeerIdentity(peer)): Extension<PeerIdentity>| async move {
        peer.map_or_else(|| "nobody".to_owned(), |peer| peer.to_string())
    };
    Router::new().route("/who", get(answer))
}

async fn start(trust: &Trust) -> Server {
    Server::start(Some(trust.server()), who(), ServeLimits::default()).await
}

/// Runs a program beside the runtime's threads.
async fn run(program: &str, arguments: &[String]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["30", program]).args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn path(dir: &Path, file: &str) -> String {
    dir.join(file).display().to_string()
}

async fn curl(server: &Server, arguments: &str) -> Output {
    let url = format!("https://localhost:{}/who", server.address.port());
    run("curl", &words(&format!("-sS --noproxy * --max-time 20 {arguments} {url}"))).await
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_verifies_the_listener_by_every_name() {
    let (dir, trust) = cluster("prod");
    let server = start(&trust).await;
    let ca = path(&dir.path().join("trust"), CA_CERTIFICATE);
    for name in [
        "-verify_hostname localhost",
        "-verify_hostname paris.prod.farshore.internal",
        "-verify_ip 127.0.0.1",
    ] {
        let arguments = format!(
            "s_client -connect {} -CAfile {ca} -verify_return_error {name} -alpn h2,http/1.1",
            server.address
        );
        let output = run("openssl", &words(&arguments)).await;
        let said = text(&output);
        assert!(output.status.success() && said.contains("Verify return code: 0 (ok)"), "{name}: {said}");
        assert!(said.contains("ALPN protocol: h2"), "{said}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_refuses_the_listener_by_another_authority_of_the_same_name() {
    let (_dir, trust) = cluster("prod");
    let (other, _) = cluster("prod");
    let server = start(&trust).await;
    let ca = path(&other.path().join("trust"), CA_CERTIFICATE);
    let arguments = format!("s_client -connect {} -CAfile {ca} -verify_return_error", server.address);
    let output = run("openssl", &words(&arguments)).await;
    assert!(!output.status.success(), "{}", text(&output));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_known_by_its_certificate_and_served_without_one() {
    let (dir, trust) = cluster("prod");
    let server = start(&trust).await;
    let own = dir.path().join("trust");
    let (ca, node) = (path(&own, CA_CERTIFICATE), path(&own, NODE));
    let output = curl(&server, &format!("--cacert {ca} --cert {node} --key {node}")).await;
    assert_eq!(text(&output), "farshore://prod/paris/control");
    for version in ["--http1.1", "--http2"] {
        let output = curl(&server, &format!("--cacert {ca} {version}")).await;
        assert_eq!(text(&output), "nobody", "{version}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_or_an_expired_one_is_refused() {
    let (dir, trust) = cluster("prod");
    let (other, _) = cluster("prod");
    let ca = path(&dir.path().join("trust"), CA_CERTIFICATE);
    let past = SystemTime::now() - Duration::from_secs(3600);
    let expired: PathBuf = dir.path().join("expired");
    std::fs::create_dir(&expired).unwrap();
    write_member(
        &expired,
        &trust,
        "paris",
        CertRole::Agent,
        Validity { from: past - LEAF_LIFE, until: past },
    );
    let server = start(&trust).await;
    for node in [path(&other.path().join("trust"), NODE), path(&expired, NODE)] {
        let output = curl(&server, &format!("--cacert {ca} --cert {node} --key {node}")).await;
        assert!(!output.status.success(), "{node}: {}", text(&output));
    }
    server.stop().await;
}

/// Connects, and reads a byte: with TLS 1.3 a client learns only then that it was refused.
async fn knock(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    stream.read_u8().await.map(drop)
}

/// The configuration without HTTP/2, for requests by hand.
fn by_hand(config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols.clear();
    Arc::new(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_believe_the_region_they_want_and_no_other() {
    let (_dir, trust) = cluster("prod");
    let (_oslo_dir, oslo) = member(&trust, "oslo", CertRole::Agent, valid());
    let server = start(&trust).await;
    knock(server.address, by_hand(&oslo.client(&region("paris")))).await.unwrap();
    knock(server.address, by_hand(&oslo.client_any())).await.unwrap();
    let refused = knock(server.address, by_hand(&oslo.client(&region("bergen")))).await.unwrap_err();
    let said = refused.to_string();
    assert!(
        said.contains("farshore://prod/paris/control") && said.contains("farshore://prod/bergen"),
        "{said}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_believes_a_client_an_expired_node_or_another_authority() {
    let (_dir, trust) = cluster("prod");
    let (_other_dir, other) = cluster("prod");
    let past = SystemTime::now() - Duration::from_secs(3600);
    let expired = Validity { from: past - LEAF_LIFE, until: past };
    let wrong = [
        member(&trust, "paris", CertRole::Client, valid()),
        member(&trust, "paris", CertRole::Agent, expired),
        member(&other, "paris", CertRole::Agent, valid()),
    ];
    for (_wrong_dir, wrong) in &wrong {
        let server = start(wrong).await;
        for config in [trust.client(&region("paris")), trust.client_any()] {
            assert!(knock(server.address, by_hand(&config)).await.is_err(), "{:?}", wrong.leaf());
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_certificate_is_needed_nothing_is_served_without_one() {
    let (_dir, trust) = cluster("prod");
    let (_oslo_dir, oslo) = member(&trust, "oslo", CertRole::Agent, valid());
    let server = Server::start(Some(trust.server_strict()), who(), ServeLimits::default()).await;
    knock(server.address, by_hand(&oslo.client(&region("paris")))).await.unwrap();
    let mut bare = rustls::RootCertStore::empty();
    bare.add(trust.ca().der().clone()).unwrap();
    farshore::trust::provider();
    let bare = ClientConfig::builder().with_root_certificates(bare).with_no_client_auth();
    assert!(knock(server.address, Arc::new(bare)).await.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_used_while_connections_stay_open() {
    let (_dir, trust) = cluster("prod");
    let (_oslo_dir, oslo) = member(&trust, "oslo", CertRole::Agent, valid());
    let server = start(&trust).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(by_hand(&oslo.client_any()));
    let mut open = connector.connect(name.clone(), stream).await.unwrap();
    let before = trust.leaf();
    trust.renew_here(SystemTime::now()).unwrap();
    open.write_all(b"GET /who HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'H');
    let stream = TcpStream::connect(server.address).await.unwrap();
    let new = connector.connect(name, stream).await.unwrap();
    let chain = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    assert_ne!(chain(&open), chain(&new));
    assert_ne!(before.expires_at(), SystemTime::UNIX_EPOCH);
    server.stop().await;
}

#[test]
fn files_are_private_and_a_crash_leaves_what_was_there() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, trust) = cluster("prod");
    let own = dir.path().join("trust");
    for file in [NODE, farshore::trust::CA_KEY] {
        let mode = std::fs::metadata(own.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // Key and certificate are one file, written beside and renamed: this is what a crash in the middle leaves.
    std::fs::write(own.join("node.pem.new"), "-----BEGIN PRIVATE KEY-----\nhalf").unwrap();
    let again = Trust::open(&own).unwrap();
    assert_eq!(again.expires_at(), trust.expires_at());
    again.renew_here(SystemTime::now()).unwrap();
    assert!(!own.join("node.pem.new").exists());
    assert!(Authority::open(&own).unwrap().is_some());
    let refused = Trust::init(&own, "prod", &region("paris"), &[], SystemTime::now()).unwrap_err();
    assert!(refused.to_string().contains("is there already"), "{refused}");
}
