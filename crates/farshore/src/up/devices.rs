//! What device hubs on this machine show their devices: an authority of their own, and one certificate that it signed.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use super::{UpError, at, wrong};

/// So many addresses of loopback, from 127.0.0.1 on, may be used as regions: official SDKs know one port only.
const LOOPBACKS: u8 = 16;
/// Certificates begin this long before they are made.
const BACKDATED: Duration = Duration::from_secs(600);
/// Longer than anybody tries something out.
const LIFE: Duration = Duration::from_secs(825 * 24 * 3600);

/// The files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    /// What devices must believe.
    pub(super) ca: PathBuf,
    /// What they are shown.
    pub(super) certificate: PathBuf,
    /// Its key.
    pub(super) key: PathBuf,
}

/// Makes the files in `data`, unless they are there. `domain`: hubs are called `NAME.hub.DOMAIN`.
pub(super) fn certificate(data: &Path, domain: &str) -> Result<Files, UpError> {
    let files = Files {
        ca: data.join("devices-ca.pem"),
        certificate: data.join("devices-cert.pem"),
        key: data.join("devices-key.pem"),
    };
    // The certificate is written last.
    if files.certificate.exists() {
        return Ok(files);
    }
    let (ca, certificate, key) = make(domain).map_err(wrong)?;
    let write = |path: &Path, mode: u32, text: &str| -> Result<(), UpError> {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(mode).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(at("write", path))
    };
    write(&files.ca, 0o644, &ca)?;
    write(&files.key, 0o600, &key)?;
    write(&files.certificate, 0o644, &certificate)?;
    Ok(files)
}

fn make(domain: &str) -> Result<(String, String, String), rcgen::Error> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    name(&mut ca, "Farshore device hubs on this machine");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let mut leaf = CertificateParams::new(vec![format!("*.hub.{domain}"), "localhost".to_owned()])?;
    let loopbacks =
        (1..=LOOPBACKS).map(|last| SanType::IpAddress(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))));
    leaf.subject_alt_names.extend(loopbacks);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    name(&mut leaf, "device hubs");
    let key = KeyPair::generate()?;
    let signed = leaf.signed_by(&key, &ca)?;
    Ok((ca.pem(), format!("{}{}", signed.pem(), ca.pem()), key.serialize_pem()))
}

fn name(params: &mut CertificateParams, text: &str) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + LIFE).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, text);
}
