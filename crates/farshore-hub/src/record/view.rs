//! A record as it reads under the hub's rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farshore_core::moment::Moment;
use ring::digest;
use serde_json::Value;

use super::device::{Auth, Life, Record, Scope, Status, nothing};
use super::leaves::{Of, flatten};
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
    /// Changes when something of the identity is written, also when it is what it was before; the same in both regions.
    pub etag: String,
    /// Changes when tags or desired properties are written; the same in both regions.
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
    /// Whether it differs at most in what is listed as contested, and in when it was heard of.
    #[must_use]
    pub fn serves_the_same(&self, other: &Self) -> bool {
        let (conflicts, quarantined) = (other.conflicts, other.quarantined.clone());
        *other == Self { conflicts, quarantined, last_seen: other.last_seen, ..self.clone() }
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

/// The life that counts.
pub(super) struct Living {
    pub(super) generation: Arc<str>,
    pub(super) created: Moment,
    pub(super) credentials: u64,
    /// Generation ids whose values count: the device's own, and those of devices with the same credentials that were
    /// made under its id at once.
    pub(super) counting: Vec<Arc<str>>,
}

impl Record {
    /// How it reads; `None`: there is no such device.
    #[must_use]
    pub fn device(&self, key: &Key, rules: &Rules) -> Option<Device> {
        let living = self.living(rules)?;
        let counts = |generation: &Arc<str>| living.counting.contains(generation);
        let status = self.status_now(rules, counts);
        let status_dot = dot(status.map(|best| &best.mark));
        let status = status.map(|sibling| sibling.value.value.clone());
        let status =
            status.unwrap_or_else(|| Status { enabled: false, reason: String::new(), at: living.created });
        let auth = self.auth.best(rules, |of| counts(&of.generation));
        let auth_dot = dot(auth.map(|best| &best.mark));
        let auth = auth.map_or(Auth::None, |best| best.value.value.clone());
        let scope_dot = dot(self.scope.best(rules, |of| counts(&of.generation)).map(|best| &best.mark));
        let scope = best_or_default(&self.scope, rules, &counts);
        let tags = self.tags.render(rules, counts).0;
        let (value, metadata) = self.desired.render(rules, counts);
        let desired = Section { value, metadata, version: self.desired_count.version() };
        let (value, metadata) = self
            .reported
            .best(rules, |of| counts(&of.generation))
            .map_or_else(|| (nothing(), nothing()), |best| best.value.value.render(rules, |_| true));
        let reported = Section { value, metadata, version: self.reported_count.version() };
        let conflicts = !self.is_plain(&living) && !self.conflicts(key, rules).is_empty();
        let quarantined = if conflicts { self.quarantined(&auth) } else { Vec::new() };
        let generation = Arc::clone(&living.generation);
        let own = identity_parts(status.enabled, &status.reason, &auth, &scope);
        let own = etag(&[generation.as_bytes()], &own, &[&status_dot, &auth_dot, &scope_dot]);
        let twin = twin_parts(&flatten(&tags), &flatten(&desired.value));
        let dots = [&self.tags, &self.desired].map(|leaves| leaves.dots(rules, counts));
        let version = desired.version.to_le_bytes();
        let twin = etag(&[generation.as_bytes(), &version], &twin, &[&dots[0], &dots[1]]);
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

    /// Whether it may connect; `None`: there is no such device.
    pub(crate) fn is_enabled(&self, rules: &Rules) -> Option<bool> {
        let living = self.living(rules)?;
        let status = self.status_now(rules, |generation| living.counting.contains(generation));
        Some(status.is_some_and(|sibling| sibling.value.value.enabled))
    }

    /// The generation id, if there is such a device.
    pub(super) fn generation(&self, rules: &Rules) -> Option<Arc<str>> {
        self.living(rules).map(|living| living.generation)
    }

    /// Whether a generation's values count.
    pub(super) fn counting(&self, rules: &Rules) -> impl Fn(&Arc<str>) -> bool + use<> {
        let counting = self.living(rules).map(|living| living.counting).unwrap_or_default();
        move |generation| counting.contains(generation)
    }

    pub(super) fn living(&self, rules: &Rules) -> Option<Living> {
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

    pub(super) fn status_now(
        &self,
        rules: &Rules,
        counts: impl Fn(&Arc<str>) -> bool,
    ) -> Option<&Sibling<Of<Status>>> {
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

    /// Whether it can be read without deciding anything: then it has no conflicts.
    pub(super) fn is_plain(&self, living: &Living) -> bool {
        let counts = |generation: &Arc<str>| living.counting.contains(generation);
        self.life.siblings().len() < 2
            && is_plain(&self.status, counts)
            && is_plain(&self.auth, counts)
            && is_plain(&self.scope, counts)
            && is_plain(&self.reported, counts)
            && self.tags.0.values().chain(self.desired.0.values()).all(|register| is_plain(register, counts))
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

/// An etag: what is hashed is told apart part by part. `middle` are parts in a row.
pub(super) fn etag(before: &[&[u8]], middle: &[u8], after: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    let update = |context: &mut digest::Context, parts: &[&[u8]]| {
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
    };
    update(&mut context, before);
    context.update(middle);
    update(&mut context, after);
    let hash = context.finish();
    URL_SAFE_NO_PAD.encode(&hash.as_ref()[..12])
}

/// What tells a change from all others, in every region; nothing for what was never written.
pub(super) fn dot(mark: Option<&Mark>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mark) = mark {
        mark.write_dot(&mut bytes);
    }
    bytes
}

fn push_part(parts: &mut Vec<u8>, part: &[u8]) {
    parts.extend_from_slice(&(part.len() as u64).to_le_bytes());
    parts.extend_from_slice(part);
}

/// What the etag of an identity is of, between its generation and the changes that wrote it.
pub(super) fn identity_parts(enabled: bool, reason: &str, auth: &Auth, scope: &Scope) -> Vec<u8> {
    let mut parts = Vec::new();
    push_part(&mut parts, &[u8::from(enabled)]);
    push_part(&mut parts, reason.as_bytes());
    push_part(&mut parts, &postcard::to_allocvec(&(auth, scope)).unwrap_or_default());
    parts
}

/// What the etag of a twin is of, between its generation and version and the changes that wrote it.
pub(super) fn twin_parts(
    tags: &BTreeMap<Arc<str>, Arc<str>>,
    desired: &BTreeMap<Arc<str>, Arc<str>>,
) -> Vec<u8> {
    let mut parts = Vec::new();
    for leaves in [tags, desired] {
        push_part(&mut parts, &(leaves.len() as u64).to_le_bytes());
        for (path, text) in leaves {
            push_part(&mut parts, path.as_bytes());
            push_part(&mut parts, text.as_bytes());
        }
    }
    parts
}
