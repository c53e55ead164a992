//! Certificates for programs that are not ours, in the files that they look for: libnbd and QEMU by these names, etcd and
//! curl by options.

use std::path::{Path, PathBuf};

use super::authority::{Authority, LeafOrder, Validity};
use super::certificate::CaCertificate;
use super::error::TrustError;
use super::files::{self, Readers};

/// The authority's certificate.
const CA: &str = "ca-cert.pem";
/// The certificate.
const CERTIFICATE: &str = "client-cert.pem";
/// Its key.
const KEY: &str = "client-key.pem";

/// The files that were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, for its owner only.
    pub key: PathBuf,
}

/// Makes a certificate and its key in `out`. Done again it replaces them by new ones; a crash in the middle needs it done
/// again.
///
/// # Errors
/// When the order names what its holder may not have, the files cannot be written, or `out` is of another cluster.
pub fn issue(
    authority: &Authority,
    order: &LeafOrder,
    validity: Validity,
    out: &Path,
) -> Result<Issued, TrustError> {
    let issued = Issued { ca: out.join(CA), certificate: out.join(CERTIFICATE), key: out.join(KEY) };
    if let Some(pem) = files::read(&issued.ca)?
        && CaCertificate::from_pem(&pem).ok().as_ref() != Some(authority.certificate())
    {
        return Err(TrustError::AlreadyThere {
            path: issued.ca,
            way_out: "it is of another authority; name another directory with --out",
        });
    }
    let (signed, key) = authority.issue(order, validity)?;
    files::make_dir(out)?;
    files::write(&issued.key, &key, Readers::Owner)?;
    files::write(&issued.certificate, &signed.certificate, Readers::Everyone)?;
    files::write(&issued.ca, authority.certificate().pem(), Readers::Everyone)?;
    Ok(issued)
}
