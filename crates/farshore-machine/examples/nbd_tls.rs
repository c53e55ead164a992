//! A disk over TLS on loopback, for measuring it against other servers.
//!
//! `nbd_tls DISK CERTIFICATES` serves the file DISK, makes an authority with one certificate in the directory CERTIFICATES
//! (named as libnbd and QEMU expect them), prints the port, and ends when standard input does.

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_machine::nbd::{DiskExport, Exports, Options, Server};
use farshore_machine::raw::RawFile;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let disk = arguments.next().ok_or("which disk?")?;
    let certificates = arguments.next().ok_or("which directory for certificates?")?;
    let exports = Exports::new();
    exports.insert("", Arc::new(DiskExport::new(Arc::new(RawFile::open(disk)?), false)));
    let tls = Some(Arc::new(config(&certificates)?));
    let server =
        Server::start(Options { tcp: Some("127.0.0.1:0".parse()?), tls, exports, ..Options::default() })?;
    println!("{}", server.tcp_addr().ok_or("no port")?.port());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    server.stop();
    Ok(())
}

fn config(dir: &Path) -> Result<ServerConfig, Box<dyn Error>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &authority)?;
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("ca-cert.pem"), authority.pem())?;
    for side in ["client", "server"] {
        std::fs::write(dir.join(format!("{side}-cert.pem")), leaf.pem())?;
        std::fs::write(dir.join(format!("{side}-key.pem")), key.serialize_pem())?;
    }
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&ring)).build()?;
    let config = ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions()?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    Ok(config.with_client_cert_verifier(verifier).with_single_cert(vec![leaf.der().clone()], key)?)
}
