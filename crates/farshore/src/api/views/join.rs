//! Join tokens.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::trust::CertRole;

/// What a node may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NodeWord {
    /// Has a control plane, and gets the authority's key.
    Control,
    /// Acts on its own region's workloads.
    Agent,
}

impl From<NodeWord> for CertRole {
    fn from(word: NodeWord) -> Self {
        match word {
            NodeWord::Control => Self::Control,
            NodeWord::Agent => Self::Agent,
        }
    }
}

/// A join token that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenRequest {
    /// The role of the node that joins with it.
    pub role: NodeWord,
    /// Its region; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// For how long it can be used; an hour if absent, at most a week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
}

/// A join token that was just made: the only answer that holds it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenView {
    /// Names it in the audit.
    pub id: String,
    /// The token. Nobody can read it again.
    pub token: String,
    /// The role of the node that joins with it.
    pub role: NodeWord,
    /// Its region; any if absent.
    pub region: Option<String>,
    /// Not taken from then on.
    pub expires_at: String,
}

impl fmt::Debug for JoinTokenView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinTokenView").field("id", &self.id).finish_non_exhaustive()
    }
}
