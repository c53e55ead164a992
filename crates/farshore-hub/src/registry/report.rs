//! What a merge does, for people and for machines.

use std::fmt;

use farshore_core::ids::Region;
use serde::Serialize;

use super::MergePolicy;
use crate::record::{Conflict, Side};

/// What joining a batch would do here, or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MergeReport {
    /// Where the changes come from.
    pub from: Region,
    /// Where they go.
    pub to: Region,
    /// How conflicts are settled.
    pub policy: MergePolicy,
    /// Devices and modules that are new here.
    pub created: usize,
    /// Devices and modules that change here.
    pub updated: usize,
    /// Devices and modules that end here.
    pub deleted: usize,
    /// Devices and modules that change nothing that can be seen.
    pub unchanged: usize,
    /// Messages to devices that change here.
    pub messages: usize,
    /// Consumer groups that change here.
    pub groups: usize,
    /// Policies of access that change here.
    pub policies: usize,
    /// Settings of the hub that change here.
    pub settings: usize,
    /// Records that are held until a person decides.
    pub held: usize,
    /// What both regions changed, and who wins.
    pub conflicts: Vec<Conflict>,
}

impl MergeReport {
    pub(super) fn new(from: Region, to: Region, policy: MergePolicy) -> Self {
        Self {
            from,
            to,
            policy,
            created: 0,
            updated: 0,
            deleted: 0,
            unchanged: 0,
            messages: 0,
            groups: 0,
            policies: 0,
            settings: 0,
            held: 0,
            conflicts: Vec::new(),
        }
    }

    /// Adds what another batch of the same merge does.
    pub fn add(&mut self, more: Self) {
        self.created += more.created;
        self.updated += more.updated;
        self.deleted += more.deleted;
        self.unchanged += more.unchanged;
        self.messages += more.messages;
        self.groups += more.groups;
        self.policies += more.policies;
        self.settings += more.settings;
        self.held += more.held;
        self.conflicts.extend(more.conflicts);
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let counts = [
            self.created,
            self.updated,
            self.deleted,
            self.messages,
            self.groups,
            self.policies,
            self.settings,
        ];
        counts.iter().all(|count| *count == 0) && self.conflicts.is_empty()
    }
}

impl fmt::Display for MergeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "merge of {} into {}, conflicts settled {}", self.from, self.to, self.policy.as_str())?;
        for (what, count) in [
            ("identities created", self.created),
            ("identities updated", self.updated),
            ("identities deleted", self.deleted),
            ("identities unchanged", self.unchanged),
            ("messages to devices", self.messages),
            ("consumer groups", self.groups),
            ("access policies", self.policies),
            ("settings", self.settings),
            ("conflicts", self.conflicts.len()),
            ("held for a decision", self.held),
        ] {
            writeln!(f, "  {what:<22}{count:>10}")?;
        }
        for conflict in &self.conflicts {
            let Conflict { subject, group, path, winner, losers, why } = conflict;
            let group = word(group);
            let path = path.as_ref().map(|path| format!(" {path}")).unwrap_or_default();
            writeln!(f, "{subject}: {group}{path}")?;
            writeln!(f, "  + {} ({})", shown(winner), word(why))?;
            for loser in losers {
                writeln!(f, "  - {}", shown(loser))?;
            }
        }
        Ok(())
    }
}

fn shown(side: &Side) -> String {
    format!("{} epoch {} at {}: {}", side.region, side.epoch, side.at, side.value)
}

/// The word that machines read, for people too.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(ToOwned::to_owned))
        .unwrap_or_default()
}
