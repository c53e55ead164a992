//! What a connection may do with which groups.
//!
//! A connection gets roles when it connects, from its token or from the connect handler; the service grants and revokes
//! single permissions later. Nearly every connection has none: that takes one pointer's room and no allocation.
//!
//! Read in this order: here, then [`pattern`] (roles with wildcards).
//!
//! Must always hold: what is malformed grants nothing; a revoked group stays revoked until it is granted again.

use serde::{Deserialize, Serialize};

use crate::names::GroupName;

pub mod pattern;

use pattern::Pattern;

/// Groups that are granted or revoked by name, per connection and permission: bounds what one connection may cost.
pub const NAMES_MAX: usize = 1000;
/// Patterns per connection and permission: each is tried for each message that the connection publishes.
pub const PATTERNS_MAX: usize = 10;

/// A thing that needs a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Permission {
    /// To join a group and to leave it.
    JoinLeaveGroup,
    /// To publish to a group.
    SendToGroup,
}

impl Permission {
    /// Reads `joinLeaveGroup` or `sendToGroup`, in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::JoinLeaveGroup, Self::SendToGroup]
            .into_iter()
            .find(|one| one.as_str().eq_ignore_ascii_case(text))
    }
    /// The name in REST paths and roles.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JoinLeaveGroup => "joinLeaveGroup",
            Self::SendToGroup => "sendToGroup",
        }
    }
}

/// The permissions of one connection; one pointer when it has none.
#[derive(Clone, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions(Option<Box<Both>>);

#[derive(Clone, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Both {
    join_leave: Rules,
    send: Rules,
}

/// One permission. A name in `granted` or `revoked` decides; else the patterns and `all`. The lists are sorted and no name
/// is in both.
#[derive(Clone, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rules {
    all: bool,
    granted: Vec<GroupName>,
    revoked: Vec<GroupName>,
    patterns: Vec<Pattern>,
}

impl Permissions {
    /// What `roles` grant: `webpubsub.joinLeaveGroup` (all groups), `webpubsub.joinLeaveGroup.<group>`,
    /// `webpubsub.joinLeaveGroups.<pattern>`, and the same for `sendToGroup`. Other roles, malformed ones and those beyond
    /// [`NAMES_MAX`] and [`PATTERNS_MAX`] grant nothing.
    #[must_use]
    pub fn from_roles(roles: &[String]) -> Self {
        let mut permissions = Self::default();
        for role in roles {
            permissions.take_role(role);
        }
        permissions
    }

    /// Whether the connection may do this with `group`.
    #[must_use]
    pub fn may(&self, permission: Permission, group: &GroupName) -> bool {
        self.rules(permission).is_some_and(|rules| rules.allow(group))
    }

    /// Grants it for one group, or for all. False: there are [`NAMES_MAX`] names already and nothing was changed.
    pub fn grant(&mut self, permission: Permission, group: Option<GroupName>) -> bool {
        let rules = self.rules_mut(permission);
        match group {
            Some(group) => rules.grant(group),
            None => {
                *rules = Rules { all: true, ..Rules::default() };
                true
            }
        }
    }

    /// Takes it away for one group, or for all. False: there are [`NAMES_MAX`] names already and nothing was changed.
    pub fn revoke(&mut self, permission: Permission, group: Option<&GroupName>) -> bool {
        if self.0.is_none() {
            return true;
        }
        let rules = self.rules_mut(permission);
        let done = match group {
            Some(group) => rules.revoke(group),
            None => {
                *rules = Rules::default();
                true
            }
        };
        if self.0.as_deref() == Some(&Both::default()) {
            self.0 = None;
        }
        done
    }

    /// Whether it is held for `group`; without a group, whether it is held for every one.
    #[must_use]
    pub fn has(&self, permission: Permission, group: Option<&GroupName>) -> bool {
        match group {
            Some(group) => self.may(permission, group),
            None => self.rules(permission).is_some_and(|rules| rules.all && rules.revoked.is_empty()),
        }
    }

    /// Whether nothing is granted at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn take_role(&mut self, role: &str) {
        let Some(role) = role.strip_prefix("webpubsub.") else { return };
        for permission in [Permission::JoinLeaveGroup, Permission::SendToGroup] {
            let Some(rest) = role.strip_prefix(permission.as_str()) else { continue };
            if rest.is_empty() {
                self.grant(permission, None);
            } else if let Some(pattern) = rest.strip_prefix("s.") {
                self.grant_pattern(permission, pattern);
            } else if let Some(group) = rest.strip_prefix('.').and_then(|name| GroupName::parse(name).ok()) {
                self.grant(permission, Some(group));
            }
        }
    }

    fn grant_pattern(&mut self, permission: Permission, text: &str) {
        let Some(pattern) = Pattern::parse(text) else { return };
        if pattern.is_all() {
            self.grant(permission, None);
            return;
        }
        let rules = self.rules_mut(permission);
        if rules.patterns.len() < PATTERNS_MAX && !rules.patterns.contains(&pattern) {
            rules.patterns.push(pattern);
        }
    }

    fn rules(&self, permission: Permission) -> Option<&Rules> {
        let both = self.0.as_deref()?;
        Some(match permission {
            Permission::JoinLeaveGroup => &both.join_leave,
            Permission::SendToGroup => &both.send,
        })
    }

    fn rules_mut(&mut self, permission: Permission) -> &mut Rules {
        let both = self.0.get_or_insert_default();
        match permission {
            Permission::JoinLeaveGroup => &mut both.join_leave,
            Permission::SendToGroup => &mut both.send,
        }
    }
}

impl Rules {
    fn allow(&self, group: &GroupName) -> bool {
        if self.granted.binary_search(group).is_ok() {
            return true;
        }
        self.revoked.binary_search(group).is_err() && self.allow_unnamed(group)
    }

    /// Without what is said about the group by name.
    fn allow_unnamed(&self, group: &GroupName) -> bool {
        self.all || self.patterns.iter().any(|pattern| pattern.matches(group.as_str()))
    }

    fn grant(&mut self, group: GroupName) -> bool {
        if let Ok(at) = self.revoked.binary_search(&group) {
            self.revoked.remove(at);
        }
        self.allow_unnamed(&group) || insert(&mut self.granted, group)
    }

    fn revoke(&mut self, group: &GroupName) -> bool {
        if let Ok(at) = self.granted.binary_search(group) {
            self.granted.remove(at);
        }
        !self.allow_unnamed(group) || insert(&mut self.revoked, group.clone())
    }
}

fn insert(names: &mut Vec<GroupName>, group: GroupName) -> bool {
    match names.binary_search(&group) {
        Ok(_) => true,
        Err(_) if names.len() >= NAMES_MAX => false,
        Err(at) => {
            names.insert(at, group);
            true
        }
    }
}

#[cfg(test)]
mod tests;
