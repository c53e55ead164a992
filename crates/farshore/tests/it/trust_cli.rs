//! The cluster's trust by the command line, and the certificates it issues in the programs that they are for.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use farshore::serve::ServeLimits;
use farshore::trust::Trust;

use crate::api_bench::TOKEN;
use crate::engine_sim::{Bench, jobs_only};
use crate::trust_listen::{Server, write_private};

const PROGRAM: &str = env!("CARGO_BIN_EXE_farshore");

fn run(program: &str, arguments: &str) -> Output {
    let words = arguments.split_whitespace();
    Command::new("timeout").args(["60", program]).args(words).stdin(Stdio::null()).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn done(arguments: &str) -> String {
    let output = run(PROGRAM, arguments);
    assert!(output.status.success(), "{arguments}: {}", text(&output));
    text(&output)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_cluster_is_made_shown_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().display();
    let arguments = format!("--data {data} init --cluster prod --region paris --address dr.example.org");
    let said = done(&arguments);
    assert!(said.contains("sha256:") && said.contains("farshore join"), "{said}");
    let shown: serde_json::Value =
        serde_json::from_str(&done(&format!("--data {data} --output json trust show"))).unwrap();
    assert_eq!(
        (&shown["cluster"], &shown["region"], &shown["role"]),
        (&"prod".into(), &"paris".into(), &"control".into())
    );
    assert!(said.contains(shown["ca_hash"].as_str().unwrap()), "{said}");
    assert!(shown["addresses"].as_array().unwrap().contains(&"dr.example.org".into()));
    let again = run(PROGRAM, &arguments);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
    assert!(text(&again).contains("is there already"), "{}", text(&again));
    for file in ["ca.key", "node.pem"] {
        assert_eq!(mode(&dir.path().join("trust").join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&dir.path().join("trust")), 0o700);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("new");
    for (arguments, code, says) in [
        ("init --cluster Prod --region paris", 2, "lower-case"),
        ("init --cluster prod --region paris --address https://a", 2, "without a port"),
        ("init --cluster prod --region paris --address oslo.prod.farshore.internal", 2, "leave it out"),
        ("trust show", 1, "farshore init"),
        ("trust issue --name a --out o", 1, "farshore init"),
        (
            "join https://127.0.0.1:1 --token t --ca-hash abc --region oslo --role agent",
            2,
            "farshore trust show",
        ),
    ] {
        let output = run(PROGRAM, &format!("--data {} {arguments}", data.display()));
        assert_eq!(output.status.code(), Some(code), "{arguments}: {}", text(&output));
        assert!(text(&output).contains(says), "{arguments}: {}", text(&output));
        assert!(!data.exists(), "{arguments}");
    }
}

/// A cluster whose authority issued a certificate for this machine into `out`.
fn issued(dir: &Path) -> String {
    let (data, out) = (dir.join("data"), dir.join("out"));
    done(&format!("--data {} init --cluster prod --region paris", data.display()));
    done(&format!(
        "--data {} trust issue --name vm-host-1 --address localhost --address 127.0.0.1 --days 90 --out {}",
        data.display(),
        out.display()
    ));
    assert_eq!(mode(&out.join("client-key.pem")), 0o600);
    out.display().to_string()
}

#[test]
fn an_issued_certificate_is_by_the_authority_and_names_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let out = issued(dir.path());
    let verified =
        run("openssl", &format!("verify -CAfile {out}/ca-cert.pem -purpose sslclient {out}/client-cert.pem"));
    assert!(verified.status.success(), "{}", text(&verified));
    let printed = run(
        "openssl",
        &format!("x509 -in {out}/client-cert.pem -noout -ext subjectAltName,extendedKeyUsage"),
    );
    let said = text(&printed);
    assert!(said.contains("farshore://prod/paris/client") && said.contains("127.0.0.1"), "{said}");
    // Again, before it ends; but not over another cluster's.
    let data = dir.path().join("data");
    done(&format!("--data {} trust issue --name vm-host-1 --out {out}", data.display()));
    let other = dir.path().join("other");
    done(&format!("--data {} init --cluster prod --region paris", other.display()));
    let refused = run(PROGRAM, &format!("--data {} trust issue --name x --out {out}", other.display()));
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
}

#[test]
fn qemu_takes_the_issued_files() {
    let dir = tempfile::tempdir().unwrap();
    let out = issued(dir.path());
    // Its checks of the certificates come before it connects, and nobody is there.
    let output = run(
        "qemu-img",
        &format!(
            "info --object tls-creds-x509,id=t,endpoint=client,dir={out} --image-opts \
             driver=nbd,server.type=inet,server.host=127.0.0.1,server.port=1,tls-creds=t"
        ),
    );
    assert!(text(&output).contains("Connection refused"), "{}", text(&output));
}

/// Runs the program beside the runtime's threads.
async fn beside(arguments: String) -> Output {
    tokio::task::spawn_blocking(move || run(PROGRAM, &arguments)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_lets_a_host_in_with_two_commands() {
    let dir = tempfile::tempdir().unwrap();
    let (data, oslo, token_file) =
        (dir.path().join("paris"), dir.path().join("oslo"), dir.path().join("token"));
    let initiated =
        beside(format!("--data {} --output json init --cluster prod --region paris", data.display())).await;
    let made: serde_json::Value = serde_json::from_slice(&initiated.stdout).unwrap();
    let hash = made["ca_hash"].as_str().unwrap();
    let trust = Trust::open(&data.join("trust")).unwrap();
    let bench = Bench::new();
    let control = bench.control(jobs_only()).await;
    let routes = farshore::trust::router(trust.clone(), control.join_tokens())
        .merge(farshore::api::router(control.clone(), TOKEN));
    let server = Server::start(Some(trust.server()), routes, ServeLimits::default()).await;
    write_private(&token_file, TOKEN);
    let api = format!("--api https://{} --token-file {}", server.address, token_file.display());

    let ask = format!("{api} --data {} trust join-token --role agent --region oslo", data.display());
    let said = text(&beside(ask.clone()).await);
    assert!(said.contains(hash), "{said}");
    let made = beside(format!("{ask} --output json")).await;
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let token = made["token"].as_str().unwrap();
    let join = format!(
        "--data {} join https://{} --token {token} --ca-hash {hash} --region oslo --role agent",
        oslo.display(),
        server.address
    );
    let said = text(&beside(join.clone()).await);
    assert!(said.contains("this node is oslo/agent of the cluster prod now"), "{said}");
    let again = beside(join).await;
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    assert!(text(&again).contains("was used at"), "{}", text(&again));
    // Without the cluster's authority the command line believes nobody.
    let bare = beside(format!("{api} --data {} status", dir.path().join("none").display())).await;
    assert!(!bare.status.success(), "{}", text(&bare));
    let with_ca =
        format!("{api} --ca {} --data {} audit", data.join("trust/ca.crt").display(), oslo.display());
    let told = text(&beside(with_ca).await);
    assert!(told.contains("made join token") && !told.contains(token), "{told}");
    server.stop().await;
    control.shutdown().await;
}

/// Stops the member however the test ends.
struct Member(std::process::Child);

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn etcd_serves_and_asks_with_the_issued_files() {
    let dir = tempfile::tempdir().unwrap();
    let out = issued(dir.path());
    let (client, peer) = (free_port(), free_port());
    let member = Command::new("etcd")
        .args(format!(
            "--data-dir {}/etcd --listen-client-urls https://127.0.0.1:{client} --advertise-client-urls \
             https://127.0.0.1:{client} --listen-peer-urls http://127.0.0.1:{peer} --initial-advertise-peer-urls \
             http://127.0.0.1:{peer} --initial-cluster default=http://127.0.0.1:{peer} --client-cert-auth \
             --trusted-ca-file {out}/ca-cert.pem --cert-file {out}/client-cert.pem --key-file {out}/client-key.pem",
            dir.path().display()
        ).split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _member = Member(member);
    let tls = format!("--cacert {out}/ca-cert.pem --cert {out}/client-cert.pem --key {out}/client-key.pem");
    let put = format!("--endpoints https://127.0.0.1:{client} {tls} put a b");
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let output = run("etcdctl", &put);
        if output.status.success() {
            break;
        }
        assert!(Instant::now() < until, "{}", text(&output));
    }
    let bare = format!(
        "--endpoints https://127.0.0.1:{client} --cacert {out}/ca-cert.pem --command-timeout 3s put a b"
    );
    assert!(!run("etcdctl", &bare).status.success(), "without a certificate");
}

#[test]
fn a_half_made_cluster_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().display();
    let arguments = format!("--data {data} init --cluster prod --region paris");
    done(&arguments);
    let own = dir.path().join("trust");
    let hash = Trust::open(&own).unwrap().ca_hash();
    // A crash between the authority and the node's certificate.
    std::fs::remove_file(own.join("node.pem")).unwrap();
    done(&arguments);
    assert_eq!(Trust::open(&own).unwrap().ca_hash(), hash);
    // A crash between the authority's key and its certificate, which nobody has seen yet.
    std::fs::remove_file(own.join("node.pem")).unwrap();
    std::fs::remove_file(own.join("ca.crt")).unwrap();
    done(&arguments);
    assert!(Trust::open(&own).is_ok());
}
