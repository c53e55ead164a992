//! Mutual TLS with real members.

use std::fs;
use std::path::Path;

use farshore_core::store::{CommitError, Store, Transaction, Write};
use farshore_store::EtcdStore;
use farshore_store::etcd::local::{Members, MembersOptions, MembersTls};
use farshore_store::etcd::{EtcdOptions, EtcdTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use crate::cluster::PATIENT;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key for the loopback address, for either end.
fn leaf(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn client(trusted: &Authority, ours: &Authority) -> EtcdTls {
    let (cert, key) = leaf(ours);
    EtcdTls { ca_pem: trusted.pem().into_bytes(), cert_pem: cert.into_bytes(), key_pem: key.into_bytes() }
}

fn write(directory: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn creation() -> Transaction {
    Transaction { compares: vec![], writes: vec![Write::Put("a".into(), b"v".to_vec())] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_tls_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, other) = (authority(), authority());
    let (cert, key) = leaf(&ca);
    let tls = MembersTls {
        ca_file: write(directory.path(), "ca.pem", &ca.pem()),
        cert_file: write(directory.path(), "member.pem", &cert),
        key_file: write(directory.path(), "member.key", &key),
        client: client(&ca, &ca),
    };
    let options = MembersOptions { program: None, tls: Some(tls) };
    let members = Members::start_with(&directory.path().join("data"), &["one"], options).await.unwrap();
    let store = |tls: EtcdTls| {
        EtcdStore::connect(EtcdOptions {
            endpoints: members.endpoints(),
            tls: Some(tls),
            call_timeout: PATIENT,
            ..EtcdOptions::default()
        })
        .unwrap()
    };
    let good = store(client(&ca, &ca));
    let revision = good.commit(creation()).await.unwrap();
    assert_eq!(good.get("a").await.unwrap().unwrap().revision, revision);

    // We do not trust the member.
    let refused = store(client(&other, &ca)).commit(creation()).await;
    let Err(CommitError::Unavailable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("signed by the CA") && why.contains("https://127.0.0.1"), "{why}");
    // The member does not trust us, or we are nobody: nothing happened, whatever the client can know of it.
    let nobody = EtcdTls { cert_pem: vec![], key_pem: vec![], ..client(&ca, &ca) };
    for tls in [client(&ca, &other), nobody] {
        let unread = store(tls.clone()).get("a").await.unwrap_err().to_string();
        assert!(unread.contains("refused the client certificate"), "{unread}");
        assert!(store(tls).commit(creation()).await.is_err());
    }
    assert_eq!(good.get("a").await.unwrap().unwrap().revision, revision, "only the first was committed");
}

#[test]
fn certificates_that_are_none_are_refused() {
    let ca = authority();
    let right = client(&ca, &ca);
    let text = |tls: EtcdTls| {
        let options = EtcdOptions {
            endpoints: vec!["https://127.0.0.1:2379".into()],
            tls: Some(tls),
            ..EtcdOptions::default()
        };
        EtcdStore::connect(options).unwrap_err().to_string()
    };
    for (tls, expected) in [
        (
            EtcdTls { ca_pem: b"nothing".to_vec(), ..right.clone() },
            "etcd's CA certificate cannot be used: it holds no",
        ),
        (EtcdTls { cert_pem: vec![], ..right.clone() }, "etcd's client certificate cannot be used"),
        (EtcdTls { key_pem: vec![], ..right.clone() }, "etcd's client key cannot be used"),
        (EtcdTls { key_pem: client(&ca, &ca).key_pem, ..right.clone() }, "etcd's client key cannot be used"),
    ] {
        let text = text(tls);
        assert!(text.starts_with(expected), "{text}");
    }
    assert!(!format!("{right:?}").contains("PRIVATE"));
}
