//! Certificates by the name that a client asks for.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::{CertificateError, Gateway, GatewayOptions, Site, SiteState};
use super::doubles::{GitDouble, HOST, Instance, Rig, any_port, region};

pub(super) struct Made {
    pub(super) chain: String,
    pub(super) key: String,
    der: CertificateDer<'static>,
    key_der: PrivateKeyDer<'static>,
}

pub(super) fn made(host: &str) -> Made {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    Made {
        chain: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().clone(),
        key_der: PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
    }
}

pub(super) fn server(made: &Made) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(vec![made.der.clone()], made.key_der.clone_key()).unwrap())
}

fn trust(made: &Made) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(made.der.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Whether a client that believes this certificate only is served under the name.
async fn believes(at: SocketAddr, host: &str, made: &Made) -> bool {
    let stream = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(trust(made)).connect(name, stream).await.is_ok()
}

pub(super) async fn open(default: Option<&Made>, state: SiteState) -> (Arc<Gateway>, SocketAddr) {
    let tls = default.map(server);
    let options = GatewayOptions { http: any_port(), https: Some(any_port()), tls, region: region("oslo") };
    let gateway = Gateway::open(options).await.unwrap();
    let site = Site::new("todo", vec![HOST.to_owned()], Vec::new(), Arc::new(GitDouble));
    site.set(state);
    gateway.put(site).unwrap();
    let https = gateway.bound().https.unwrap();
    (gateway, https)
}

#[tokio::test]
async fn a_name_has_its_own_certificate_and_others_the_default() {
    let (default, own, renewed) = (made(HOST), made("shop.example"), made("shop.example"));
    let (gateway, https) = open(Some(&default), SiteState::Empty).await;
    assert!(believes(https, HOST, &default).await);
    gateway.set_certificate("Shop.Example", &own.chain, &own.key).unwrap();
    assert!(believes(https, "shop.example", &own).await);
    assert!(believes(https, HOST, &default).await);
    gateway.set_certificate("shop.example", &renewed.chain, &renewed.key).unwrap();
    assert!(!believes(https, "shop.example", &own).await);
    assert!(believes(https, "shop.example", &renewed).await);
    gateway.remove_certificate("shop.example");
    assert!(!believes(https, "shop.example", &renewed).await);
}

#[tokio::test]
async fn without_a_default_only_names_with_their_own_are_served() {
    let own = made(HOST);
    let (gateway, https) = open(None, SiteState::Empty).await;
    assert!(!believes(https, HOST, &own).await);
    gateway.set_certificate(HOST, &own.chain, &own.key).unwrap();
    assert!(believes(https, HOST, &own).await);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_changes_nothing() {
    let (own, other) = (made(HOST), made(HOST));
    let (gateway, https) = open(None, SiteState::Empty).await;
    gateway.set_certificate(HOST, &own.chain, &own.key).unwrap();
    let refused = |chain: &str, key: &str| gateway.set_certificate(HOST, chain, key).unwrap_err();
    assert!(matches!(refused("none", &own.key), CertificateError::Chain { .. }));
    assert!(matches!(refused(&own.chain, "none"), CertificateError::Key { .. }));
    assert!(matches!(refused(&own.chain, &other.key), CertificateError::Pair { .. }));
    let error = gateway.set_certificate("else.example", &own.chain, &own.key).unwrap_err();
    assert!(matches!(error, CertificateError::Host { .. }) && error.to_string().contains("else.example"));
    assert!(believes(https, HOST, &own).await);
}

#[tokio::test]
async fn another_gateway_is_called_by_tls_where_it_is_believed() {
    let instance = Instance::start("far").await;
    let certificate = made("127.0.0.1");
    let (far, https) = open(Some(&certificate), instance.here()).await;
    let of_the_app = made(HOST);
    far.set_certificate(HOST, &of_the_app.chain, &of_the_app.key).unwrap();
    let near = Rig::new(SiteState::Empty).await;
    let there = SiteState::There { region: region("oslo"), http: None, https: Some(https.to_string()) };
    near.site.set(there);
    near.gateway.set_trust(trust(&made("127.0.0.1")));
    near.get("/seen").await.check_problem(503, &["oslo", "cannot be reached"]);
    near.gateway.set_trust(trust(&certificate));
    let seen = near.get("/seen").await.json();
    // As the client came: not as the gateway before did.
    assert_eq!((&seen["by"], &seen["headers"]["x-forwarded-proto"][0]), (&"far".into(), &"http".into()));
}
