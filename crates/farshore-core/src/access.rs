//! Who may do what: four roles on a ladder, and the right that each act needs.
//!
//! Each role has the rights of the one before it, so that "enough" is one comparison. The table is closed: a new verb
//! does not compile until it says which right it needs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::command::Verb;

/// What a person, or a program of theirs, is to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks at everything but tokens.
    Reader,
    /// Also carries out recoveries; cannot begin or end the protection of anything.
    Operator,
    /// Also everything else that can be done to items.
    Contributor,
    /// Also says who else may do what, and who belongs to the cluster.
    Admin,
}

/// What a route or a verb needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// To look.
    Read,
    /// To recover what is protected, and to take back what recovery did.
    Operate,
    /// To decide what is protected, and to give up what cannot be had back.
    Contribute,
    /// To decide who may do what, and which regions and nodes there are.
    Administer,
}

impl Role {
    /// All of them, least first.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Operator, Self::Contributor, Self::Admin];

    /// Whether the role has the right.
    #[must_use]
    pub fn may(self, right: Right) -> bool {
        self >= right.least()
    }

    /// The word that the CLI and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Contributor => "contributor",
            Self::Admin => "admin",
        }
    }

    /// The role of this word.
    ///
    /// # Errors
    /// When there is none; the text says which there are.
    pub fn parse(text: &str) -> Result<Self, InvalidRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| InvalidRole { text: text.chars().take(TEXT_SHOWN_MAX).collect() })
    }
}

/// As much of a wrong word is repeated in the error.
const TEXT_SHOWN_MAX: usize = 40;

/// A word that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no role: it must be reader, operator, contributor or admin")]
pub struct InvalidRole {
    text: String,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Right {
    /// All of them, least first.
    pub const ALL: [Self; 4] = [Self::Read, Self::Operate, Self::Contribute, Self::Administer];

    /// The least role that has it.
    #[must_use]
    pub fn least(self) -> Role {
        match self {
            Self::Read => Role::Reader,
            Self::Operate => Role::Operator,
            Self::Contribute => Role::Contributor,
            Self::Administer => Role::Admin,
        }
    }

    /// The word in the OpenAPI document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Contribute => "contribute",
            Self::Administer => "administer",
        }
    }

    /// The right of this word, if there is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|right| right.as_str() == text)
    }

    /// What asking for the verb needs.
    #[must_use]
    pub fn of(verb: Verb) -> Self {
        match verb {
            Verb::Failover
            | Verb::TestFailover
            | Verb::CleanUp
            | Verb::ChangePoint
            | Verb::Commit
            | Verb::Reprotect
            | Verb::Failback
            | Verb::MarkPoint => Self::Operate,
            Verb::Create
            | Verb::Delete
            | Verb::Protect
            | Verb::Disable
            | Verb::DropDivergence
            | Verb::Adopt => Self::Contribute,
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(role: Role, expected: [bool; 4]) {
        assert_eq!(Right::ALL.map(|right| role.may(right)), expected, "{role}");
    }

    #[test]
    fn the_table_of_roles_and_rights() {
        //                  read  operate contribute administer
        check(Role::Reader, [true, false, false, false]);
        check(Role::Operator, [true, true, false, false]);
        check(Role::Contributor, [true, true, true, false]);
        check(Role::Admin, [true, true, true, true]);
    }

    #[test]
    fn an_operator_recovers_but_neither_begins_nor_ends_protection() {
        let refused: Vec<Verb> =
            Verb::ALL.into_iter().filter(|verb| !Role::Operator.may(Right::of(*verb))).collect();
        let expected =
            [Verb::Create, Verb::Delete, Verb::Protect, Verb::Disable, Verb::DropDivergence, Verb::Adopt];
        assert_eq!(refused, expected);
        assert!(Verb::ALL.into_iter().all(|verb| Role::Contributor.may(Right::of(verb))));
        assert!(Verb::ALL.into_iter().all(|verb| !Role::Reader.may(Right::of(verb))));
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Ok(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        for right in Right::ALL {
            assert_eq!(Right::parse(right.as_str()), Some(right));
        }
        assert!(Role::parse("root").unwrap_err().to_string().contains("reader, operator"));
        assert_eq!(Right::parse(""), None);
    }
}
