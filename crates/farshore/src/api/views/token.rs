//! Tokens, and who asks.

use std::fmt;

use farshore_core::access::Role;
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::tokens::TokenRecord;

/// What its holder may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoleWord {
    /// Look at everything but tokens.
    Reader,
    /// Also recover.
    Operator,
    /// Also everything else that can be done to items.
    Contributor,
    /// Everything.
    Admin,
}

impl From<RoleWord> for Role {
    fn from(word: RoleWord) -> Self {
        match word {
            RoleWord::Reader => Self::Reader,
            RoleWord::Operator => Self::Operator,
            RoleWord::Contributor => Self::Contributor,
            RoleWord::Admin => Self::Admin,
        }
    }
}

impl From<Role> for RoleWord {
    fn from(role: Role) -> Self {
        match role {
            Role::Reader => Self::Reader,
            Role::Operator => Self::Operator,
            Role::Contributor => Self::Contributor,
            Role::Admin => Self::Admin,
        }
    }
}

/// A token that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What its holder is called, in jobs and in the audit: letters, digits, and `-._@` after the first.
    pub name: String,
    /// What its holder may do.
    pub role: RoleWord,
    /// For how long; 90 days if absent, at most 366.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
    /// A client's certificate as PEM, signed by the cluster's authority: who shows it in the handshake and sends no token is the
    /// token's holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Names it; the token itself begins with `fst_` and this.
    pub id: String,
    /// What its holder is called.
    pub name: String,
    /// What its holder may do.
    pub role: RoleWord,
    /// The fingerprint of the certificate that is as good as the token, `sha256:` and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// `good`, `expired` or `revoked`.
    pub state: String,
    /// When it was made.
    pub created_at: String,
    /// By whom.
    pub created_by: String,
    /// Not taken from then on.
    pub expires_at: String,
    /// When it was taken back.
    pub revoked_at: Option<String>,
    /// By whom.
    pub revoked_by: Option<String>,
}

impl TokenView {
    pub(in crate::api) fn new(record: &TokenRecord, now: Moment) -> Self {
        let state = match (record.revoked_at, record.ended(now)) {
            (Some(_), _) => "revoked",
            (None, Some(_)) => "expired",
            (None, None) => "good",
        };
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            role: record.role.into(),
            certificate: record.certificate.clone(),
            state: state.to_owned(),
            created_at: record.created_at.to_string(),
            created_by: record.created_by.clone(),
            expires_at: record.expires_at.to_string(),
            revoked_at: record.revoked_at.map(|at| at.to_string()),
            revoked_by: record.revoked_by.clone(),
        }
    }
}

/// A token that was just made: the only answer that holds its secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewTokenView {
    /// The whole token. Nobody can read it again.
    pub secret: String,
    /// All that is kept of it.
    pub token: TokenView,
}

impl fmt::Debug for NewTokenView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewTokenView").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoamiView {
    /// What the token's holder is called.
    pub name: String,
    /// What the holder may do.
    pub role: RoleWord,
    /// The token's id; absent for the token of the node's token file.
    pub token: Option<String>,
    /// When the token ends.
    pub expires_at: Option<String>,
}
