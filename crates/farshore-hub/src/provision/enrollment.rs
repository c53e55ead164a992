//! Groups of devices that may register themselves, as an operator sets them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Group;
use crate::sas::token::check_key;
use crate::sas::{Authorities, BadAuthority, BadCertificate, BadKey, Issuers};

/// The kind of setting that names a hub's enrollments.
pub const ENROLLMENTS: &str = "enrollments";

/// The value of such a setting.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Enrollment {
    /// Each device has keys that are derived from these; see [`super::derived_key`].
    Keys {
        /// Base64.
        primary: String,
        /// Base64; both count.
        secondary: String,
    },
    /// Each device has a certificate of this authority, with its id as common name.
    Authority {
        /// PEM.
        authority: String,
    },
}

/// Why devices cannot register by an enrollment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEnrollment {
    /// One of its keys.
    #[error(transparent)]
    Key(#[from] BadKey),
    /// Its authority.
    #[error(transparent)]
    Authority(#[from] BadAuthority),
    /// Its authority, too.
    #[error(transparent)]
    Certificate(#[from] BadCertificate),
}

impl Enrollment {
    /// Whom it lets in.
    ///
    /// # Errors
    /// [`BadEnrollment`].
    pub fn group(&self) -> Result<Group, BadEnrollment> {
        match self {
            Self::Keys { primary, secondary } => {
                check_key(primary)?;
                check_key(secondary)?;
                Ok(Group::Keys { primary: primary.clone(), secondary: secondary.clone() })
            }
            Self::Authority { authority } => {
                let issuers = Issuers::parse(authority)?;
                Ok(Group::Authority(Authorities::new(issuers.certificates())?))
            }
        }
    }
}

impl fmt::Debug for Enrollment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keys { .. } => "Keys",
            Self::Authority { .. } => "Authority",
        })
    }
}
