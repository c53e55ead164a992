//! Authorities as an operator hands them over: certificates in PEM, looked at before they are believed.

use farshore_core::moment::Moment;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::{Authorities, BadCertificate};

/// The kind of setting that names a hub's authorities.
pub const AUTHORITIES: &str = "authorities";

/// The value of such a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// One or more certificates.
    pub pem: String,
}

/// Why certificates are not those of authorities.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// There is none.
    #[error(
        "there is no certificate in it: give PEM, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
    )]
    Missing,
    /// A private key was handed over, too.
    #[error("a private key is in it, which nobody but the authority may have: give its certificate alone")]
    PrivateKey,
    /// One cannot be read.
    #[error("certificate {0} in it cannot be read: is it whole?")]
    Unreadable(usize),
    /// One is that of a device or server.
    #[error(
        "{0} is no authority (its basic constraints do not say CA:TRUE): give the certificate that the devices' were signed with"
    )]
    NoAuthority(String),
    /// One is of a kind that cannot be checked against.
    #[error("{subject} cannot be used: {why}")]
    Unusable {
        /// Whose.
        subject: String,
        /// Why.
        why: BadCertificate,
    },
}

/// Certificates of authorities, as they were read.
#[derive(Debug, Clone)]
pub struct Issuers {
    certificates: Vec<CertificateDer<'static>>,
    subjects: Vec<String>,
    expires: Moment,
}

impl Issuers {
    /// Reads PEM. Other things than certificates are passed over, except private keys.
    ///
    /// # Errors
    /// [`BadAuthority`].
    pub fn parse(pem: &str) -> Result<Self, BadAuthority> {
        let mut issuers = Self { certificates: Vec::new(), subjects: Vec::new(), expires: Moment(u64::MAX) };
        // Encrypted ones, too.
        if pem.contains("PRIVATE KEY-----") {
            return Err(BadAuthority::PrivateKey);
        }
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let number = issuers.certificates.len() + 1;
            issuers.add(certificate.map_err(|_| BadAuthority::Unreadable(number))?)?;
        }
        match issuers.certificates.is_empty() {
            true => Err(BadAuthority::Missing),
            false => Ok(issuers),
        }
    }

    fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), BadAuthority> {
        let number = self.certificates.len() + 1;
        let (rest, parsed) =
            X509Certificate::from_der(&certificate).map_err(|_| BadAuthority::Unreadable(number))?;
        if !rest.is_empty() {
            return Err(BadAuthority::Unreadable(number));
        }
        let subject = parsed.subject().to_string();
        if !parsed.is_ca() {
            return Err(BadAuthority::NoAuthority(subject));
        }
        Authorities::new(std::slice::from_ref(&certificate))
            .map_err(|why| BadAuthority::Unusable { subject: subject.clone(), why })?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        self.expires = self.expires.min(Moment(seconds.saturating_mul(1_000_000)));
        self.subjects.push(subject);
        self.certificates.push(certificate);
        Ok(())
    }

    /// The certificates.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Whose they are.
    #[must_use]
    pub fn subjects(&self) -> &[String] {
        &self.subjects
    }

    /// When the first of them ends. Devices are let in afterwards, too: it is their own certificates that must be valid.
    #[must_use]
    pub fn expires(&self) -> Moment {
        self.expires
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, KeyPair};

    use super::*;

    fn made(name: &str, is_ca: IsCa, year: i32) -> Certificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        params.not_after = rcgen::date_time_ymd(year, 2, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn certificates_of_authorities_are_read_and_nothing_else() {
        let root = made("root", IsCa::Ca(BasicConstraints::Unconstrained), 2040).pem();
        let other = made("other", IsCa::Ca(BasicConstraints::Unconstrained), 2030).pem();
        let issuers = Issuers::parse(&format!("some words\n{root}{other}")).unwrap();
        assert_eq!(
            (issuers.certificates().len(), issuers.subjects()),
            (2, &["CN=root", "CN=other"].map(str::to_owned)[..])
        );
        assert_eq!(issuers.expires().to_string(), "2030-02-01T00:00:00.000Z");
        let device = made("pump", IsCa::NoCa, 2040).pem();
        let key = KeyPair::generate().unwrap().serialize_pem();
        let cut = root.replace("MI", "!!");
        for (pem, why) in [
            (String::new(), "there is no certificate in it"),
            ("hello".to_owned(), "there is no certificate in it"),
            (format!("{root}{key}"), "a private key is in it"),
            (format!("{root}{device}"), "CN=pump is no authority"),
            (cut, "certificate 1 in it cannot be read"),
        ] {
            let refused = Issuers::parse(&pem).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
