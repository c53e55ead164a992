//! TLS as devices need it: 1.2 and 1.3, resumption, and a client's certificate that is asked for and not required.
//!
//! Whether a certificate is the right one is not decided here: a device is known by its thumbprint or its authority, which only
//! the hub knows. Here it is proved that the client owns the certificate's key.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ResolvesServerCert, WantsServerCert};
use rustls::{ConfigBuilder, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

/// The certificate and its key cannot be served with.
#[derive(Debug, thiserror::Error)]
#[error("devices cannot be served with this certificate and key: {0}")]
pub struct BadIdentity(#[from] rustls::Error);

/// For a certificate (its own first, then what it was signed with) and its key.
///
/// # Errors
/// [`BadIdentity`]: they do not belong together, or are of a kind that is not known.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, BadIdentity> {
    resumed(asking()?.with_single_cert(chain, key)?)
}

/// For a certificate that may change while it is served.
///
/// # Errors
/// [`BadIdentity`]: the machine gives no randomness.
pub fn server_config_of(certificate: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, BadIdentity> {
    resumed(asking()?.with_cert_resolver(certificate))
}

fn asking() -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, BadIdentity> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    Ok(builder
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AnyCertificate { provider })))
}

/// Sessions are kept by the devices: a fleet that comes back costs no memory here.
fn resumed(mut config: ServerConfig) -> Result<Arc<ServerConfig>, BadIdentity> {
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Takes any certificate whose key the client has.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
