//! libnbd's and QEMU's tools.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::certs::Authority;
use crate::nbd::{SIZE, serve};

/// Whether it succeeded, and what it said.
fn attempt(tool: &str, arguments: &[&str]) -> (bool, String) {
    let output =
        Command::new(tool).args(arguments).stdin(std::process::Stdio::null()).output().unwrap_or_else(
            |error| panic!("{tool} cannot be run ({error}): apt-get install libnbd-bin qemu-utils"),
        );
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn run(tool: &str, arguments: &[&str]) -> String {
    let (good, text) = attempt(tool, arguments);
    assert!(good, "{tool} {arguments:?} failed:\n{text}");
    text
}

fn nbds(address: SocketAddr, certificates: &Path) -> String {
    format!("nbds://localhost:{}/?tls-certificates={}", address.port(), certificates.display())
}

fn credentials(certificates: &Path) -> String {
    format!("tls-creds-x509,id=tls,endpoint=client,dir={}", certificates.display())
}

fn options(address: SocketAddr) -> String {
    format!("driver=nbd,server.type=inet,server.host=localhost,server.port={},tls-creds=tls", address.port())
}

#[test]
fn libnbd_copies_a_disk_there_and_back() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let (server, address) = serve("0.0.0.0:0", dir.path(), Some(ca.server(&ca.leaf("oslo"))));
    let certificates = dir.path().join("certificates");
    ca.write(&certificates, Some(&ca.leaf("client")));
    let uri = nbds(address, &certificates);
    assert_eq!(run("nbdinfo", &["--size", &uri]).trim(), SIZE.to_string());
    assert!(run("nbdinfo", &[&uri]).contains("newstyle-fixed with TLS"));
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let content: Vec<u8> = (0..SIZE).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(path("there"), &content).unwrap();
    run("nbdcopy", &[&path("there"), &uri]);
    run("nbdcopy", &[&uri, &path("back")]);
    assert!(std::fs::read(path("back")).unwrap() == content);
    assert!(std::fs::read(path("disk.raw")).unwrap() == content);
    server.stop();
}

#[test]
fn qemu_writes_and_finds_what_it_wrote() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let (server, address) = serve("0.0.0.0:0", dir.path(), Some(ca.server(&ca.leaf("oslo"))));
    let certificates = dir.path().join("certificates");
    ca.write(&certificates, Some(&ca.leaf("client")));
    let (object, image) = (credentials(&certificates), options(address));
    let info = run("qemu-img", &["info", "--object", &object, "--image-opts", &image]);
    assert!(info.contains("file format: raw") || info.contains("nbd"), "{info}");
    let commands = [
        "write -P 0x5a 1M 5M",
        "aio_write -P 0xa5 7M 64k",
        "aio_flush",
        "flush",
        "read -P 0x5a 1M 5M",
        "read -P 0xa5 7M 64k",
    ];
    let mut arguments = vec!["--object", object.as_str(), "--image-opts", image.as_str()];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    let text = run("qemu-io", &arguments);
    assert!(!text.contains("failed"), "{text}");
    server.stop();
}

#[test]
fn a_stranger_is_refused_and_a_plain_client_told_what_to_do() {
    let (dir, ca, other) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let (server, address) = serve("0.0.0.0:0", dir.path(), Some(ca.server(&ca.leaf("oslo"))));
    let certificates = |name: &str| dir.path().join(name);
    ca.write(&certificates("nobody"), None);
    let stranger = other.leaf("client");
    ca.write(&certificates("stranger"), Some(&stranger));
    for name in ["nobody", "stranger"] {
        let (good, text) = attempt("nbdinfo", &[&nbds(address, &certificates(name))]);
        assert!(!good, "{name}: {text}");
        let object = credentials(&certificates(name));
        let (good, text) =
            attempt("qemu-img", &["info", "--object", &object, "--image-opts", &options(address)]);
        assert!(!good, "{name}: {text}");
    }
    // The server is not who the client wants, either.
    other.write(&certificates("elsewhere"), Some(&stranger));
    let (good, text) = attempt("nbdinfo", &[&nbds(address, &certificates("elsewhere"))]);
    assert!(!good, "{text}");
    let (good, text) = attempt("nbdinfo", &[&format!("nbd://localhost:{}", address.port())]);
    assert!(!good && text.contains("TLS"), "{text}");
    let (good, text) = attempt("qemu-img", &["info", &format!("nbd://localhost:{}", address.port())]);
    assert!(!good && text.contains("TLS"), "{text}");
    server.stop();
}

#[test]
fn on_loopback_a_client_may_choose() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let (server, address) = serve("127.0.0.1:0", dir.path(), Some(ca.server(&ca.leaf("oslo"))));
    let certificates = dir.path().join("certificates");
    ca.write(&certificates, Some(&ca.leaf("client")));
    assert!(run("nbdinfo", &[&nbds(address, &certificates)]).contains("with TLS"));
    assert!(run("nbdinfo", &[&format!("nbd://localhost:{}", address.port())]).contains("without TLS"));
    server.stop();
}
