//! What had to be decided to read a record, shown to people, and settled by them.

use std::sync::Arc;

use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::device::{Auth, Life, Record, Status};
use super::leaves::{Leaf, Leaves, Of, STEP};
use super::mark::Mark;
use super::register::{Register, Sibling};
use super::rules::Rules;
use super::view::Living;
use crate::names::Key;

/// What a conflict is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Whether there is such a device.
    Identity,
    /// Whether it may connect.
    Status,
    /// Its credentials.
    Auth,
    /// Where it stands.
    Scope,
    /// A tag.
    Tags,
    /// A desired property.
    Desired,
    /// The reported properties.
    Reported,
    /// A policy of access to the hub.
    Policy,
    /// The rules of the merge, or a setting of the hub.
    Settings,
}

/// Why a side won.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A device that anyone disabled stays disabled until it is enabled in sight of that.
    DisabledWins,
    /// A deletion stands against changes that did not know of it.
    DeletionWins,
    /// The loser was written to an earlier device of the same id.
    OtherGeneration,
    /// The region that had the right to write last.
    LaterEpoch,
    /// The later change.
    Later,
    /// The policy prefers this region.
    Preferred,
    /// The record is held: this is what it serves until a person decides.
    Held,
}

/// One side of a conflict. Credentials are shown as fingerprints.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Side {
    /// Who wrote it.
    pub region: Region,
    /// Under which right.
    pub epoch: Epoch,
    /// When, by that region's clock.
    pub at: Moment,
    /// What.
    pub value: Value,
}

/// Something that regions changed at once, and how it reads until someone changes it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conflict {
    /// Whose: a device, `device/module`, the name of a policy, or `kind/name` of a setting.
    pub subject: String,
    /// What of it.
    pub group: Group,
    /// Which property.
    pub path: Option<String>,
    /// The side that is shown.
    pub winner: Side,
    /// The sides that are kept and not shown.
    pub losers: Vec<Side>,
    /// Why.
    pub why: Why,
}

impl Record {
    /// What regions changed at once, with both values, and who won.
    #[must_use]
    pub fn conflicts(&self, key: &Key, rules: &Rules) -> Vec<Conflict> {
        let mut found = Vec::new();
        let Some(living) = self.living(rules) else {
            self.lost_by_deletion(&key.to_string(), rules, &mut found);
            return found;
        };
        if self.is_plain(&living) {
            return found;
        }
        let subject = key.to_string();
        let counts = |generation: &Arc<str>| living.counting.contains(generation);
        let best = self.life.siblings().iter().find(
            |sibling| matches!(&sibling.value, Life::Alive { generation, .. } if *generation == living.generation),
        );
        let judge = Judge { subject: &subject, rules, instead: best.map(|best| &best.mark) };
        found.extend(judge.judge(Group::Identity, None, &self.life, best, show_life, |_| true));
        let best = self.status_now(rules, counts);
        found.extend(judge.judge(
            Group::Status,
            None,
            &self.status,
            best,
            |of| show_status(&of.value),
            |of| counts(&of.generation),
        ));
        let best = self.auth.best(rules, |of| counts(&of.generation));
        found.extend(judge.judge(
            Group::Auth,
            None,
            &self.auth,
            best,
            |of| show_auth(&of.value),
            |of| counts(&of.generation),
        ));
        let best = self.scope.best(rules, |of| counts(&of.generation));
        found.extend(judge.judge(
            Group::Scope,
            None,
            &self.scope,
            best,
            |of| json!(of.value),
            |of| counts(&of.generation),
        ));
        for (group, leaves) in [(Group::Tags, &self.tags), (Group::Desired, &self.desired)] {
            for (path, register) in &leaves.0 {
                let best = register.best(rules, |of| counts(&of.generation));
                found.extend(judge.judge(
                    group,
                    Some(path),
                    register,
                    best,
                    |of| show_leaf(&of.value),
                    |of| counts(&of.generation),
                ));
            }
        }
        let best = self.reported.best(rules, |of| counts(&of.generation));
        let show = |of: &Of<Leaves>| of.value.render(rules, |_| true).0;
        found.extend(
            judge.judge(Group::Reported, None, &self.reported, best, show, |of| counts(&of.generation)),
        );
        found
    }

    /// What was written to a device that is no more.
    fn lost_by_deletion(&self, subject: &str, rules: &Rules, found: &mut Vec<Conflict>) {
        let Some(deletion) = self.life.best(rules, |life| matches!(life, Life::Deleted { .. })) else {
            return;
        };
        let winner = side(&deletion.mark, Value::Null);
        let mut lost = |group, path: Option<&Arc<str>>, losers: Vec<Side>| {
            if !losers.is_empty() {
                let path = path.map(|path| shown_path(path));
                let (subject, winner) = (subject.to_owned(), winner.clone());
                found.push(Conflict { subject, group, path, winner, losers, why: Why::DeletionWins });
            }
        };
        lost(Group::Identity, None, alive_sides(&self.life));
        lost(Group::Status, None, sides(&self.status, |of| show_status(&of.value)));
        lost(Group::Auth, None, sides(&self.auth, |of| show_auth(&of.value)));
        lost(Group::Scope, None, sides(&self.scope, |of| json!(of.value)));
        for (group, leaves) in [(Group::Tags, &self.tags), (Group::Desired, &self.desired)] {
            for (path, register) in &leaves.0 {
                // A property that was taken away is not lost.
                let mut written = sides(register, |of| show_leaf(&of.value));
                written.retain(|side| !side.value.is_null());
                lost(group, Some(path), written);
            }
        }
        lost(Group::Reported, None, sides(&self.reported, |of| of.value.render(rules, |_| true).0));
    }

    /// Takes what it reads as now for decided. `false`: there was never anything to decide.
    pub(super) fn settle(&mut self, mark: &Mark, rules: &Rules) -> bool {
        let Some(living) = self.living(rules) else {
            let Some(last) = self.life.siblings().last() else { return false };
            let generation = Arc::clone(last.value.generation());
            self.empty();
            self.life.set(mark, Life::Deleted { generation });
            return true;
        };
        let generation = &living.generation;
        let counts = |other: &Arc<str>| living.counting.contains(other);
        let status = self.status_now(rules, counts).map(|best| best.value.value.clone());
        if let (Some(value), true) = (status, self.status.siblings().len() > 1) {
            self.status.set(mark, Of { generation: Arc::clone(generation), value });
        }
        settle_one(&mut self.auth, mark, generation, rules, counts);
        settle_one(&mut self.scope, mark, generation, rules, counts);
        settle_one(&mut self.subs, mark, generation, rules, counts);
        settle_one(&mut self.reported, mark, generation, rules, counts);
        settle_one(&mut self.kept, mark, generation, rules, counts);
        for leaves in [&mut self.tags, &mut self.desired] {
            for register in leaves.0.values_mut() {
                settle_one(register, mark, generation, rules, counts);
            }
            leaves.0.retain(|_, register| !register.is_empty());
        }
        if self.life.siblings().len() > 1 {
            let Living { generation, created, credentials, .. } = living;
            self.life.set(mark, Life::Alive { generation, created, credentials });
        }
        true
    }
}

fn settle_one<T: Clone>(
    register: &mut Register<Of<T>>,
    mark: &Mark,
    generation: &Arc<str>,
    rules: &Rules,
    counts: impl Fn(&Arc<str>) -> bool,
) {
    let is_settled = match register.siblings() {
        [] => true,
        [one] => one.value.generation == *generation,
        _ => false,
    };
    if is_settled {
        return;
    }
    match register.best(rules, |of| counts(&of.generation)).map(|best| best.value.value.clone()) {
        Some(value) => register.set(mark, Of { generation: Arc::clone(generation), value }),
        None => register.clear(),
    }
}

/// Says who won, and why.
pub(super) struct Judge<'a> {
    pub(super) subject: &'a str,
    pub(super) rules: &'a Rules,
    /// The change that made all siblings of a register irrelevant, if they are.
    pub(super) instead: Option<&'a Mark>,
}

impl Judge<'_> {
    /// The conflict of one register, if its siblings say different things.
    pub(super) fn judge<T: Clone>(
        &self,
        group: Group,
        path: Option<&Arc<str>>,
        register: &Register<T>,
        best: Option<&Sibling<T>>,
        show: impl Fn(&T) -> Value,
        counts: impl Fn(&T) -> bool,
    ) -> Option<Conflict> {
        let (shown, mark) = match best {
            Some(best) => (show(&best.value), &best.mark),
            // All that is there was written to an earlier device.
            None => (Value::Null, self.instead?),
        };
        let others =
            || register.siblings().iter().filter(|other| best.is_none_or(|best| other.mark != best.mark));
        // A property of an earlier device that was taken away there, too, is not lost.
        let differing = || others().filter(|other| show(&other.value) != shown);
        let losers: Vec<Side> = differing().map(|other| side(&other.mark, show(&other.value))).collect();
        let first = differing().next()?;
        let why =
            if counts(&first.value) { self.why(group, mark, &first.mark) } else { Why::OtherGeneration };
        let path = path.map(|path| shown_path(path));
        Some(Conflict {
            subject: self.subject.to_owned(),
            group,
            path,
            winner: side(mark, shown),
            losers,
            why,
        })
    }

    fn why(&self, group: Group, winner: &Mark, loser: &Mark) -> Why {
        if self.rules.is_manual() {
            return Why::Held;
        }
        if self.rules.rank(winner).0 != self.rules.rank(loser).0 {
            return Why::Preferred;
        }
        if group == Group::Status && self.rules.is_by_group() {
            return Why::DisabledWins;
        }
        if self.rules.rank(winner).1 == self.rules.rank(loser).1 { Why::Later } else { Why::LaterEpoch }
    }
}

pub(super) fn side(mark: &Mark, value: Value) -> Side {
    Side { region: mark.region().clone(), epoch: mark.epoch, at: mark.moment(), value }
}

fn sides<T: Clone>(register: &Register<T>, show: impl Fn(&T) -> Value) -> Vec<Side> {
    register.siblings().iter().map(|sibling| side(&sibling.mark, show(&sibling.value))).collect()
}

fn alive_sides(lives: &Register<Life>) -> Vec<Side> {
    let alive = lives.siblings().iter().filter(|sibling| matches!(sibling.value, Life::Alive { .. }));
    alive.map(|sibling| side(&sibling.mark, show_life(&sibling.value))).collect()
}

fn shown_path(path: &str) -> String {
    path.replace(STEP, ".")
}

fn show_life(life: &Life) -> Value {
    match life {
        Life::Alive { generation, .. } => json!({ "generationId": generation }),
        Life::Deleted { generation } => json!({ "deleted": generation }),
    }
}

fn show_status(status: &Status) -> Value {
    let word = if status.enabled { "enabled" } else { "disabled" };
    if status.reason.is_empty() { json!(word) } else { json!({ "status": word, "reason": status.reason }) }
}

fn show_leaf(leaf: &Leaf) -> Value {
    leaf.as_ref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
}

/// Credentials as fingerprints: reports are mailed and logged.
pub(super) fn show_auth(auth: &Auth) -> Value {
    match auth {
        Auth::Sas { primary, secondary } => json!({
            "type": auth.kind(), "primaryKey": fingerprint(primary), "secondaryKey": fingerprint(secondary),
        }),
        Auth::SelfSigned { primary_thumbprint, secondary_thumbprint } => json!({
            "type": auth.kind(), "primaryThumbprint": primary_thumbprint, "secondaryThumbprint": secondary_thumbprint,
        }),
        Auth::Authority | Auth::None => json!({ "type": auth.kind() }),
    }
}

/// Enough of a hash to tell keys apart, and nothing to find them by.
pub(super) fn fingerprint(secret: &str) -> String {
    let hash = digest::digest(&digest::SHA256, secret.as_bytes());
    hash.as_ref().iter().take(4).fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
