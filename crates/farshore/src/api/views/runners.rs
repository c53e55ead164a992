//! What a device hub does by itself: sinks, members, and what a run of a member leaves behind.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where telemetry goes on, and how that does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubSinkView {
    /// Its name.
    pub name: String,
    /// The server, without a password.
    pub url: String,
    /// The stream.
    pub stream: String,
    /// Subjects are `SUBJECT.DEVICE` and `SUBJECT.DEVICE.MODULE`.
    pub subject: String,
    /// The consumer group whose cursor it is.
    pub group: String,
    /// Whether an authority of its own is believed.
    pub ca: bool,
    /// `running`, `failing` (it tries again by itself), or `standby` in a region that does not serve.
    pub state: String,
    /// Why it does not go on just now.
    pub failing: Option<String>,
    /// Events that the stream has got from here since the hub serves here.
    pub published: u64,
    /// Events that the stream had already.
    pub repeated: u64,
    /// Events that were deleted before they were published.
    pub missed: u64,
    /// Events that are not published yet.
    pub behind: u64,
}

/// A sink.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubSinkRequest {
    /// `nats://HOST:4222` or `tls://HOST:4222`; a name and password may stand before the host. Kept with the hub, never in jobs
    /// or the audit.
    pub url: String,
    /// The stream, which is made if there is none; absent: `farshore-HUB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Absent: `farshore.HUB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The authority of the server's certificate, as PEM; absent: whom the regions' systems believe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

impl std::fmt::Debug for HubSinkRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stream, subject, .. } = self;
        f.debug_struct("HubSinkRequest")
            .field("stream", stream)
            .field("subject", subject)
            .finish_non_exhaustive()
    }
}

/// Which side is made like the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HubDirectionWord {
    /// This hub takes over what the other one has.
    #[default]
    From,
    /// The other hub is given what this one has.
    To,
}

impl HubDirectionWord {
    /// The word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
        }
    }
}

/// Another hub, and how it was compared last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubMemberView {
    /// Its name.
    pub name: String,
    /// Its host name.
    pub host: String,
    /// The policy that is asked with. The key is not shown.
    pub policy: String,
    /// Which side is made like the other.
    pub direction: HubDirectionWord,
    /// Seconds between the beginnings of two runs.
    pub every_seconds: u32,
    /// Whether what only the side has that is made like the other is deleted.
    pub prune: bool,
    /// Whether an authority of its own is believed.
    pub ca: bool,
    /// `waiting`, `running`, `failing` (it tries again on schedule), or `standby` in a region that does not serve.
    pub state: String,
    /// Why the last run ended early.
    pub failing: Option<String>,
    /// When it runs next.
    pub next: Option<String>,
    /// The run under way.
    pub running: Option<HubMemberReportView>,
    /// The last run that is over.
    pub report: Option<HubMemberReportView>,
}

/// What a run did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubMemberReportView {
    /// Its number.
    pub run: u64,
    /// It changed nothing.
    pub plan: bool,
    /// It is still at it: ask again with its number.
    pub running: bool,
    /// When it began.
    pub at: String,
    /// Identities that were made.
    pub created: u64,
    /// Identities that were changed.
    pub updated: u64,
    /// Identities that were deleted.
    pub deleted: u64,
    /// Identities that are the same on both sides.
    pub unchanged: u64,
    /// Identities that only this hub had.
    pub only_here: u64,
    /// Identities that only the other hub had, in the direction `to`.
    pub only_there: u64,
    /// Identities that were not taken over; the first hundred.
    pub failed: Vec<HubMemberFailedView>,
    /// How many they are.
    pub failures: u64,
    /// How long it took.
    pub seconds: f64,
    /// Why it ended early. What it did stays.
    pub error: Option<String>,
    /// What an operator should know.
    pub note: Option<String>,
    /// When the member runs next.
    pub next: Option<String>,
}

/// An identity that was not taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubMemberFailedView {
    /// The device, or `device/module`.
    pub id: String,
    /// Why.
    pub why: String,
}

/// A member.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubMemberRequest {
    /// `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…` of the other hub. A secret: kept with the hub, never in jobs or the
    /// audit.
    pub connection_string: String,
    /// Seconds between the beginnings of two runs, 10 to 86400; 300 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_seconds: Option<u32>,
    /// Which side is made like the other.
    #[serde(default)]
    pub direction: HubDirectionWord,
    /// Whether what only the side has that is made like the other is deleted.
    #[serde(default)]
    pub prune: bool,
    /// The authority of the other hub's certificate, as PEM; absent: whom the regions' systems believe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

impl std::fmt::Debug for HubMemberRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { every_seconds, direction, prune, .. } = self;
        f.debug_struct("HubMemberRequest")
            .field("every_seconds", every_seconds)
            .field("direction", direction)
            .field("prune", prune)
            .finish_non_exhaustive()
    }
}

/// Brings a member up to date now.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HubMemberRunRequest {
    /// Only say what would be done.
    pub plan: bool,
    /// Wait for this run, which was begun before, instead of a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
}
