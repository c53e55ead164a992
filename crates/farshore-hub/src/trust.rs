//! Whom a hub believes when it goes out: to a server of messages, to another hub.

use std::sync::{Arc, LazyLock};

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use rustls_platform_verifier::BuilderVerifierExt as _;

/// Text that names nobody who could be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no certificate authority: {0}; give its certificate as PEM")]
pub struct BadAuthority(String);

/// Whom this system believes. Looked up once.
static SYSTEM: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let trusting = builder().with_platform_verifier().map(|config| config.with_no_client_auth());
    Arc::new(trusting.unwrap_or_else(|error| {
        tracing::warn!(%error, "this system has no certificate authorities: give the one of a sink or member with --server-ca");
        builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
    }))
});

/// Who is reached must be signed by these authorities (PEM), or by one that this system believes.
///
/// # Errors
/// [`BadAuthority`].
pub fn client_config(authorities: Option<&str>) -> Result<Arc<ClientConfig>, BadAuthority> {
    let Some(pem) = authorities else { return Ok(Arc::clone(&SYSTEM)) };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| BadAuthority(error.to_string()))?;
        roots.add(certificate).map_err(|error| BadAuthority(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(BadAuthority("there is no certificate in it".to_owned()));
    }
    Ok(Arc::new(builder().with_root_certificates(roots).with_no_client_auth()))
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring serves the default versions of TLS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_certificate_or_is_refused() {
        let own = rcgen::generate_simple_self_signed(["hub.test".to_owned()]).unwrap();
        assert!(client_config(Some(&own.cert.pem())).is_ok());
        for (text, why) in [
            ("", "there is no certificate in it"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "give its certificate as PEM"),
            ("-----BEGIN CERTIFICATE-----\n", "this is no certificate authority"),
        ] {
            let error = client_config(Some(text)).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
