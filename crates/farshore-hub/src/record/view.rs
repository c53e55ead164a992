//! A record as it reads under the hub's rules, and what had to be decided for that.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::device::{Auth, Life, Record, Scope, Status, nothing};
use super::leaves::{Leaf, Leaves, Of, STEP, flatten};
use super::mark::Mark;
use super::register::{Register, Sibling};
use super::rules::Rules;
use crate::names::{Key, Subs};

/// A device or module as it reads now.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Who.
    pub key: Key,
    /// Which life: changes when it is deleted and made anew.
    pub generation: Arc<str>,
    /// Changes exactly when something of the identity changes; the same in both regions.
    pub etag: String,
    /// Changes exactly when tags or desired properties change; the same in both regions.
    pub twin_etag: String,
    /// Whether it may connect.
    pub enabled: bool,
    /// Why, for people.
    pub reason: String,
    /// When that was said.
    pub status_at: Moment,
    /// When it was made.
    pub created: Moment,
    /// Its credentials.
    pub auth: Auth,
    /// Where it stands.
    pub scope: Scope,
    /// JSON object.
    pub tags: Value,
    /// What it should be.
    pub desired: Section,
    /// What it says it is.
    pub reported: Section,
    /// What it is subscribed to.
    pub subs: Subs,
    /// When it was last heard of; 1970: never.
    pub last_seen: Moment,
    /// Regions have changed it at once and nobody has decided since; [`Record::conflicts`] says what.
    pub conflicts: bool,
    /// Credentials that lost such a conflict. They are not accepted.
    pub quarantined: Vec<Auth>,
}

impl Device {
    /// Whether it differs at most in what is listed as contested.
    #[must_use]
    pub fn serves_the_same(&self, other: &Self) -> bool {
        let (conflicts, quarantined) = (other.conflicts, other.quarantined.clone());
        *other == Self { conflicts, quarantined, ..self.clone() }
    }
}

/// A half of a twin.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// JSON object, without `$version` and `$metadata`.
    pub value: Value,
    /// Never goes back, in whatever region.
    pub version: u64,
    /// `$lastUpdated` of each leaf.
    pub metadata: Value,
}

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
    /// The settings of the hub.
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
    /// Whose: a device, `device/module`, or the name of a policy.
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

/// The life that counts.
struct Living {
    generation: Arc<str>,
    created: Moment,
    credentials: u64,
    /// Generation ids whose values count: the device's own, and those of devices with the same credentials that were
    /// made under its id at once.
    counting: Vec<Arc<str>>,
}

impl Record {
    /// How it reads; `None`: there is no such device.
    #[must_use]
    pub fn device(&self, key: &Key, rules: &Rules) -> Option<Device> {
        let living = self.living(rules)?;
        let counts = |generation: &Arc<str>| living.counting.contains(generation);
        let status = self.status_now(rules, counts).map(|sibling| sibling.value.value.clone());
        let status =
            status.unwrap_or_else(|| Status { enabled: false, reason: String::new(), at: living.created });
        let auth = self
            .auth
            .best(rules, |of| counts(&of.generation))
            .map_or(Auth::None, |best| best.value.value.clone());
        let scope = best_or_default(&self.scope, rules, &counts);
        let tags = self.tags.render(rules, counts).0;
        let (value, metadata) = self.desired.render(rules, counts);
        let desired = Section { value, metadata, version: self.desired_count.version() };
        let (value, metadata) = self
            .reported
            .best(rules, |of| counts(&of.generation))
            .map_or_else(|| (nothing(), nothing()), |best| best.value.value.render(rules, |_| true));
        let reported = Section { value, metadata, version: self.reported_count.version() };
        let conflicts = self.is_contested(key, &living, rules);
        let quarantined = if conflicts { self.quarantined(&auth) } else { Vec::new() };
        let generation = Arc::clone(&living.generation);
        let own = digest_of(&[
            generation.as_bytes(),
            &[u8::from(status.enabled)],
            status.reason.as_bytes(),
            &postcard::to_allocvec(&(&auth, &scope)).unwrap_or_default(),
        ]);
        let twin = twin_digest(&generation, &tags, &desired);
        let kept = self.kept.best(rules, |of| counts(&of.generation)).map(|best| &best.value.value);
        let shown = |own: String, kept: Option<&(String, String)>| match kept {
            Some((of, shown)) if *of == own => shown.clone(),
            _ => own,
        };
        Some(Device {
            key: key.clone(),
            etag: shown(own, kept.and_then(|kept| kept.device.as_ref())),
            twin_etag: shown(twin, kept.and_then(|kept| kept.twin.as_ref())),
            generation,
            enabled: status.enabled,
            reason: status.reason,
            status_at: status.at,
            created: living.created,
            auth,
            scope,
            tags,
            desired,
            reported,
            subs: best_or_default(&self.subs, rules, &counts),
            last_seen: self.last_seen,
            conflicts,
            quarantined,
        })
    }

    /// The generation id, if there is such a device.
    pub(super) fn generation(&self, rules: &Rules) -> Option<Arc<str>> {
        self.living(rules).map(|living| living.generation)
    }

    /// Whether it is there, and may connect. Cheaper than [`Record::device`].
    #[must_use]
    pub fn enabled(&self, rules: &Rules) -> Option<bool> {
        let living = self.living(rules)?;
        let counts = |generation: &Arc<str>| living.counting.contains(generation);
        Some(self.status_now(rules, counts).is_some_and(|best| best.value.value.enabled))
    }

    /// Whether a generation's values count.
    pub(super) fn counting(&self, rules: &Rules) -> impl Fn(&Arc<str>) -> bool + use<> {
        let counting = self.living(rules).map(|living| living.counting).unwrap_or_default();
        move |generation| counting.contains(generation)
    }

    fn living(&self, rules: &Rules) -> Option<Living> {
        let lives = self.life.siblings();
        let best = self.life.best(rules, |life| !self.is_deleted(life, rules))?;
        let Life::Alive { generation, created, credentials } = &best.value else { return None };
        let (created, credentials) = (*created, *credentials);
        let mut counting = vec![Arc::clone(generation)];
        for other in lives {
            if let Life::Alive { generation: twin, credentials: theirs, .. } = &other.value
                && twin != generation
                && *theirs == credentials
            {
                counting.push(Arc::clone(twin));
            }
        }
        Some(Living { generation: Arc::clone(generation), created, credentials, counting })
    }

    /// A deletion beats what was done at once to the same life.
    fn is_deleted(&self, life: &Life, rules: &Rules) -> bool {
        let Life::Alive { generation, .. } = life else { return false };
        rules.is_by_group()
            && self.life.siblings().iter().any(
                |other| matches!(&other.value, Life::Deleted { generation: deleted } if deleted == generation),
            )
    }

    fn status_now(&self, rules: &Rules, counts: impl Fn(&Arc<str>) -> bool) -> Option<&Sibling<Of<Status>>> {
        let disabled = |of: &Of<Status>| counts(&of.generation) && !of.value.enabled;
        let disabled = if rules.is_by_group() { self.status.best(rules, disabled) } else { None };
        disabled.or_else(|| self.status.best(rules, |of| counts(&of.generation)))
    }

    fn quarantined(&self, auth: &Auth) -> Vec<Auth> {
        let mut lost: Vec<Auth> = Vec::new();
        for sibling in self.auth.siblings() {
            let other = &sibling.value.value;
            if other != auth && *other != Auth::None && !lost.contains(other) {
                lost.push(other.clone());
            }
        }
        lost
    }

    /// Whether anything of it had to be decided. Quick where nothing had to be.
    fn is_contested(&self, key: &Key, living: &Living, rules: &Rules) -> bool {
        let counts = |generation: &Arc<str>| living.counting.contains(generation);
        let is_plain = self.life.siblings().len() < 2
            && is_plain(&self.status, counts)
            && is_plain(&self.auth, counts)
            && is_plain(&self.scope, counts)
            && is_plain(&self.reported, counts)
            && self.tags.0.values().chain(self.desired.0.values()).all(|register| is_plain(register, counts));
        !is_plain && !self.conflicts(key, rules).is_empty()
    }

    /// What regions changed at once, with both values, and who won.
    #[must_use]
    pub fn conflicts(&self, key: &Key, rules: &Rules) -> Vec<Conflict> {
        let subject = key.to_string();
        let mut found = Vec::new();
        let Some(living) = self.living(rules) else {
            self.lost_by_deletion(&subject, rules, &mut found);
            return found;
        };
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
                lost(group, Some(path), sides(register, |of| show_leaf(&of.value)));
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

fn best_or_default<T: Clone + Default>(
    register: &Register<Of<T>>,
    rules: &Rules,
    counts: &impl Fn(&Arc<str>) -> bool,
) -> T {
    register.best(rules, |of| counts(&of.generation)).map(|best| best.value.value.clone()).unwrap_or_default()
}

/// Whether there is at most one value, and it counts.
fn is_plain<T: Clone>(register: &Register<Of<T>>, counts: impl Fn(&Arc<str>) -> bool) -> bool {
    match register.siblings() {
        [] => true,
        [one] => counts(&one.value.generation),
        _ => false,
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
        let differing = || others().filter(|other| best.is_none() || show(&other.value) != shown);
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

/// An etag: what was hashed is told apart part by part.
fn digest_of(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let hash = context.finish();
    URL_SAFE_NO_PAD.encode(&hash.as_ref()[..12])
}

fn twin_digest(generation: &Arc<str>, tags: &Value, desired: &Section) -> String {
    let version = desired.version.to_le_bytes();
    let mut parts: Vec<Vec<u8>> = vec![generation.as_bytes().to_vec(), version.to_vec()];
    for section in [tags, &desired.value] {
        let leaves = flatten(section);
        parts.push((leaves.len() as u64).to_le_bytes().to_vec());
        for (path, text) in leaves {
            parts.push(path.as_bytes().to_vec());
            parts.push(text.as_bytes().to_vec());
        }
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    digest_of(&parts)
}
