//! Certificates of devices: a thumbprint that the registry holds, or a chain to an authority that the operator named.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::moment::Moment;
use ring::digest;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::token::CLOCK_SKEW_GRACE;

/// Why a certificate does not prove who its holder is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// There is none.
    #[error("the device presented no certificate")]
    Missing,
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// Not one of the registered thumbprints.
    #[error("the certificate's thumbprint is neither of the registered ones")]
    Thumbprint,
    /// Too early or too late for it.
    #[error("the certificate is not valid now: check its dates and the device's clock")]
    Dates,
    /// Its common name is another.
    #[error("the certificate's common name is not the device's id")]
    Name,
    /// No chain to an authority that this hub trusts.
    #[error("the certificate does not chain to an authority of this hub: {0}")]
    Chain(String),
}

/// The SHA-256 thumbprint, as the registry shows it: hexadecimal in capitals.
#[must_use]
pub fn thumbprint(certificate: &CertificateDer<'_>) -> String {
    hex(digest::digest(&digest::SHA256, certificate).as_ref())
}

/// Whether `text` can be a thumbprint: SHA-1 or SHA-256 in hexadecimal; colons and spaces do not count.
#[must_use]
pub fn is_thumbprint(text: &str) -> bool {
    let plain = plain(text);
    matches!(plain.len(), 40 | 64) && plain.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Checks a self-signed certificate (the first of `chain`) against the registered thumbprints and its own dates.
///
/// # Errors
/// [`BadCertificate`].
pub fn check_thumbprint(
    chain: &[CertificateDer<'_>],
    registered: &[&str],
    now: Moment,
) -> Result<(), BadCertificate> {
    let certificate = chain.first().ok_or(BadCertificate::Missing)?;
    let matches = |wanted: &&str| {
        let wanted = plain(wanted);
        let algorithm = match wanted.len() {
            40 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            64 => &digest::SHA256,
            _ => return false,
        };
        hex(digest::digest(algorithm, certificate).as_ref()) == wanted
    };
    if !registered.iter().any(matches) {
        return Err(BadCertificate::Thumbprint);
    }
    check_dates(certificate, now)
}

/// The authorities whose certificates this hub accepts for devices.
#[derive(Clone)]
pub struct Authorities {
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    count: usize,
}

impl Authorities {
    /// No chain is ever accepted.
    #[must_use]
    pub fn none() -> Self {
        Self { verifier: None, count: 0 }
    }

    /// Takes certificates of authorities; none: no chain is ever accepted.
    ///
    /// # Errors
    /// [`BadCertificate::Unreadable`] when one of them is no authority's certificate.
    pub fn new(certificates: &[CertificateDer<'static>]) -> Result<Self, BadCertificate> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate.clone()).map_err(|_| BadCertificate::Unreadable)?;
        }
        if roots.is_empty() {
            return Ok(Self::none());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| BadCertificate::Chain(error.to_string()))?;
        Ok(Self { verifier: Some(verifier), count: certificates.len() })
    }

    /// Whether `chain` (the device's own certificate first) leads to one of them and is for `device`.
    ///
    /// # Errors
    /// [`BadCertificate`].
    pub fn check(
        &self,
        chain: &[CertificateDer<'_>],
        device: &str,
        now: Moment,
    ) -> Result<(), BadCertificate> {
        let (first, rest) = chain.split_first().ok_or(BadCertificate::Missing)?;
        let verifier =
            self.verifier.as_ref().ok_or_else(|| BadCertificate::Chain("the hub has none".to_owned()))?;
        if common_name(first).as_deref() != Some(device) {
            return Err(BadCertificate::Name);
        }
        let at = UnixTime::since_unix_epoch(Duration::from_micros(now.0));
        verifier
            .verify_client_cert(first, rest, at)
            .map(|_| ())
            .map_err(|error| BadCertificate::Chain(error.to_string()))
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.count)
    }
}

/// The common name of a certificate's subject.
#[must_use]
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    Some(name)
}

fn check_dates(certificate: &CertificateDer<'_>, now: Moment) -> Result<(), BadCertificate> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| BadCertificate::Unreadable)?;
    let seconds = i64::try_from(now.0 / 1_000_000).unwrap_or(i64::MAX);
    let grace = i64::try_from(CLOCK_SKEW_GRACE.as_secs()).unwrap_or(0);
    let validity = parsed.validity();
    let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if seconds < begin.saturating_sub(grace) || seconds > end.saturating_add(grace) {
        return Err(BadCertificate::Dates);
    }
    Ok(())
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ':' | ' ')).collect::<String>().to_ascii_uppercase()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;

    fn now() -> Moment {
        "2026-11-21T05:00:00Z".parse().unwrap()
    }

    fn named(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    #[test]
    fn a_thumbprint_is_of_either_length_in_any_writing() {
        let key = KeyPair::generate().unwrap();
        let certificate = named("pump").self_signed(&key).unwrap().der().clone();
        let sha256 = thumbprint(&certificate);
        let sha1 = hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &certificate).as_ref());
        let lower = sha1.to_lowercase();
        let spaced = lower.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned());
        let spaced = spaced.collect::<Vec<_>>().join(":");
        for wanted in [&sha256, &sha1, &spaced] {
            assert!(is_thumbprint(wanted), "{wanted}");
            assert_eq!(
                check_thumbprint(std::slice::from_ref(&certificate), &["", wanted], now()),
                Ok(()),
                "{wanted}"
            );
        }
        let chain = [certificate];
        assert_eq!(check_thumbprint(&chain, &[&"0".repeat(64)], now()), Err(BadCertificate::Thumbprint));
        assert_eq!(check_thumbprint(&chain, &[], now()), Err(BadCertificate::Thumbprint));
        assert_eq!(check_thumbprint(&[], &[&sha256], now()), Err(BadCertificate::Missing));
        assert_eq!(check_thumbprint(&chain, &[&sha256], Moment(0)), Err(BadCertificate::Dates));
        assert!(!is_thumbprint("0123") && !is_thumbprint(&"g".repeat(40)));
    }

    #[test]
    fn a_chain_leads_to_an_authority_and_names_the_device() {
        let mut authority = named("root");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let chain = [named("pump").signed_by(&key, &authority).unwrap().der().clone()];
        let authorities = Authorities::new(&[authority.der().clone()]).unwrap();
        assert_eq!(authorities.check(&chain, "pump", now()), Ok(()));
        assert_eq!(authorities.check(&chain, "Pump", now()), Err(BadCertificate::Name));
        assert_eq!(authorities.check(&[], "pump", now()), Err(BadCertificate::Missing));
        let stranger = [named("pump").self_signed(&key).unwrap().der().clone()];
        assert!(matches!(authorities.check(&stranger, "pump", now()), Err(BadCertificate::Chain(_))));
        let none = Authorities::new(&[]).unwrap();
        assert!(matches!(none.check(&chain, "pump", now()), Err(BadCertificate::Chain(_))));
    }

    #[test]
    fn a_chain_may_have_links_and_outlive_its_authority_but_not_itself() {
        let is_ca = |name: &str, until: i32| {
            let mut params = named(name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            params
        };
        let root = CertifiedIssuer::self_signed(is_ca("root", 2001), KeyPair::generate().unwrap()).unwrap();
        let line =
            CertifiedIssuer::signed_by(is_ca("line", 2040), KeyPair::generate().unwrap(), &root).unwrap();
        let authorities = Authorities::new(&[root.der().clone()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let device = |until: i32| {
            let mut params = named("pump");
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            params.signed_by(&key, &line).unwrap().der().clone()
        };
        let chain = [device(2040), line.der().clone()];
        assert_eq!(authorities.check(&chain, "pump", now()), Ok(()), "the authority ended in 2001");
        assert!(matches!(authorities.check(&chain[..1], "pump", now()), Err(BadCertificate::Chain(_))));
        let chain = [device(2026), line.der().clone()];
        assert!(matches!(authorities.check(&chain, "pump", now()), Err(BadCertificate::Chain(_))));
    }
}
