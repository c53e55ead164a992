//! What can be asked of a hub from outside: by REST, by a client's frame, by another node or region.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::filter::Filter;
use crate::frames::Message;
use crate::names::{ConnectionId, GroupName, UserId};
use crate::permission::Permission;

/// Whom it is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Everybody.
    All,
    /// The members of a group.
    Group(GroupName),
    /// The connections of a user.
    User(UserId),
    /// One connection.
    Connection(ConnectionId),
}

/// One question or order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Call {
    /// Send a message.
    Send {
        /// To whom.
        to: Scope,
        /// What.
        message: Arc<Message>,
        /// But not to these.
        exclude: Vec<ConnectionId>,
        /// And only to those that it matches.
        filter: Option<Filter>,
    },
    /// Close connections: no recovery.
    Close {
        /// Whose.
        who: Scope,
        /// But not these.
        exclude: Vec<ConnectionId>,
        /// What they are told.
        reason: String,
    },
    /// Put connections into groups.
    AddToGroups {
        /// Which groups.
        groups: Vec<GroupName>,
        /// Which connections; `None`: all.
        filter: Option<Filter>,
    },
    /// Take connections out of groups.
    RemoveFromGroups {
        /// Which groups.
        groups: Vec<GroupName>,
        /// Which connections; `None`: all.
        filter: Option<Filter>,
    },
    /// Is anybody there?
    Exists(Scope),
    /// Put a connection into a group.
    Join {
        /// Which.
        connection: ConnectionId,
        /// Where.
        group: GroupName,
    },
    /// Take a connection out of a group.
    Leave {
        /// Which.
        connection: ConnectionId,
        /// Where.
        group: GroupName,
    },
    /// Take a connection out of all groups.
    LeaveAll {
        /// Which.
        connection: ConnectionId,
    },
    /// Put the connections of a user into a group.
    UserJoin {
        /// Whose.
        user: UserId,
        /// Where.
        group: GroupName,
    },
    /// Take the connections of a user out of a group.
    UserLeave {
        /// Whose.
        user: UserId,
        /// Where.
        group: GroupName,
    },
    /// Take the connections of a user out of all groups.
    UserLeaveAll {
        /// Whose.
        user: UserId,
    },
    /// Permit something to a connection.
    Grant {
        /// Which.
        connection: ConnectionId,
        /// What.
        permission: Permission,
        /// In which group; `None`: in all.
        group: Option<GroupName>,
    },
    /// Forbid it again.
    Revoke {
        /// Which.
        connection: ConnectionId,
        /// What.
        permission: Permission,
        /// In which group; `None`: in all.
        group: Option<GroupName>,
    },
    /// Has a connection the permission?
    Has {
        /// Which.
        connection: ConnectionId,
        /// What.
        permission: Permission,
        /// In which group; `None`: in all.
        group: Option<GroupName>,
    },
    /// The members of a group, by connection id.
    Members {
        /// Which.
        group: GroupName,
        /// Only those after this one.
        after: Option<ConnectionId>,
        /// So many at most.
        limit: usize,
    },
}

/// What a hub says to a [`Call`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done; or there was nothing to do.
    Done,
    /// To a question.
    Yes,
    /// To a question.
    No,
    /// The connection or user that it is about is not here.
    NotFound,
    /// To [`Call::Members`].
    Members(Vec<Member>),
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Its connection.
    pub connection: ConnectionId,
    /// Its user, if it has one.
    pub user: Option<UserId>,
}

impl Call {
    /// Whether it only asks: nothing changes.
    #[must_use]
    pub fn is_question(&self) -> bool {
        matches!(self, Self::Exists(_) | Self::Has { .. } | Self::Members { .. })
    }

    /// The one connection that it is about.
    #[must_use]
    pub fn connection(&self) -> Option<&ConnectionId> {
        match self {
            Self::Send { to: Scope::Connection(connection), .. }
            | Self::Close { who: Scope::Connection(connection), .. }
            | Self::Exists(Scope::Connection(connection))
            | Self::Join { connection, .. }
            | Self::Leave { connection, .. }
            | Self::LeaveAll { connection }
            | Self::Grant { connection, .. }
            | Self::Revoke { connection, .. }
            | Self::Has { connection, .. } => Some(connection),
            _ => None,
        }
    }
}
