//! What can be done to a device, and what is refused.

use std::io;
use std::sync::Arc;

use farshore_core::moment::Moment;
use serde_json::Value;

use super::device::{Auth, Life, Record, Scope, Status, nothing};
use super::draft;
use super::leaves::{Change, Leaves, Of, STEP, merge, without_nulls};
use super::mark::Mark;
use super::rules::Rules;
use crate::names::{Key, Subs};

/// Largest desired or reported section, in bytes of JSON; as the contract of the SDKs says.
pub const SECTION_BYTES_MAX: usize = 32 * 1024;
/// Largest tags, in bytes of JSON.
pub const TAGS_BYTES_MAX: usize = 8 * 1024;
/// Deepest nesting of a section.
pub const DEPTH_MAX: usize = 10;
/// Longest reason of a status, in characters.
pub const REASON_CHARS_MAX: usize = 128;
/// Longest generation id, in characters.
pub const GENERATION_CHARS_MAX: usize = 128;

/// One change of a device or module.
#[derive(Debug, Clone)]
pub enum Edit {
    /// Makes it.
    Create(NewDevice),
    /// Deletes it, with its modules and the messages on their way to it.
    Delete,
    /// Lets it connect, or not.
    Status {
        /// It may connect.
        enabled: bool,
        /// Why, for people.
        reason: String,
    },
    /// Gives it other credentials.
    Auth(Auth),
    /// Puts it elsewhere.
    Scope(Scope),
    /// Changes its tags.
    Tags {
        /// JSON object; `null` deletes.
        patch: Value,
        /// The patch is all that remains.
        replace: bool,
    },
    /// Changes its desired properties.
    Desired {
        /// JSON object; `null` deletes.
        patch: Value,
        /// The patch is all that remains.
        replace: bool,
    },
    /// Changes its reported properties.
    Reported {
        /// JSON object; `null` deletes.
        patch: Value,
        /// The patch is all that remains.
        replace: bool,
    },
    /// What it is subscribed to.
    Subs(Subs),
    /// It was heard of.
    LastSeen(Moment),
    /// The versions of desired and reported properties go on from these, which another hub used.
    Versions {
        /// Of the desired properties.
        desired: u64,
        /// Of the reported properties.
        reported: u64,
    },
    /// Shows these etags, which another hub gave, until something changes.
    Etags {
        /// Of the identity.
        device: Option<String>,
        /// Of the twin.
        twin: Option<String>,
    },
    /// Takes what it reads as now for decided: the sides that lost are dropped.
    Settle,
}

/// What a new device starts with.
#[derive(Debug, Clone)]
pub struct NewDevice {
    /// Its generation id; `None`: it gets one.
    pub generation: Option<Arc<str>>,
    /// Its credentials.
    pub auth: Auth,
    /// Whether it may connect.
    pub enabled: bool,
    /// Why, for people.
    pub reason: String,
    /// Where it stands.
    pub scope: Scope,
    /// JSON object.
    pub tags: Value,
    /// JSON object.
    pub desired: Value,
}

impl NewDevice {
    /// Enabled, and with nothing else.
    #[must_use]
    pub fn with(auth: Auth) -> Self {
        Self {
            generation: None,
            auth,
            enabled: true,
            reason: String::new(),
            scope: Scope::default(),
            tags: nothing(),
            desired: nothing(),
        }
    }
}

/// A change that makes no sense. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It is there already.
    #[error("{0} exists already: update it, or choose another id")]
    Exists(Key),
    /// It is not there.
    #[error("there is no {0}: create it first")]
    Missing(Key),
    /// A section is no object.
    #[error("{0} must be a JSON object")]
    NotAnObject(&'static str),
    /// A section is too large.
    #[error("{what} would have {bytes} bytes: at most {bytes_max} are allowed")]
    TooLarge {
        /// Which section.
        what: &'static str,
        /// How large it would be.
        bytes: usize,
        /// How large it may be.
        bytes_max: usize,
    },
    /// A section is nested too deeply.
    #[error("{0} is nested more than 10 deep")]
    TooDeep(&'static str),
    /// A name in a section cannot be used.
    #[error(
        "{what} contains the name {name:?}: names must not be empty and not contain control characters, '.', '$' or spaces"
    )]
    BadName {
        /// Which section.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The reason of a status is too long.
    #[error("the reason is longer than 128 characters")]
    LongReason,
    /// The generation id cannot be used.
    #[error("the generation id must have 1 to 128 characters")]
    BadGeneration,
}

impl Record {
    /// Makes one change. The caller has drawn `mark` from its clock after all that this record has seen.
    ///
    /// # Errors
    /// [`Invalid`]; the record may be half changed then, and must be dropped.
    pub fn apply(&mut self, key: &Key, edit: &Edit, mark: &Mark, rules: &Rules) -> Result<(), Invalid> {
        self.seen.raise(mark.region(), mark.stamp.ticks());
        if let Edit::Create(new) = edit {
            return self.create(key, new, mark, rules);
        }
        if matches!(edit, Edit::Settle) && self.settle(mark, rules) {
            return Ok(());
        }
        let generation = self.generation(rules).ok_or_else(|| Invalid::Missing(key.clone()))?;
        match edit {
            Edit::Create(_) | Edit::Settle => {}
            Edit::Delete => {
                self.empty();
                self.life.set(mark, Life::Deleted { generation });
            }
            Edit::Status { enabled, reason } => self.set_status(*enabled, reason, mark, generation)?,
            Edit::Auth(auth) => self.auth.set(mark, Of { generation, value: auth.clone() }),
            Edit::Scope(scope) => self.scope.set(mark, Of { generation, value: scope.clone() }),
            Edit::Tags { patch, replace } => self.change_tags(patch, *replace, mark, &generation, rules)?,
            Edit::Desired { patch, replace } => {
                self.change_desired(patch, *replace, mark, &generation, rules)?
            }
            Edit::Reported { patch, replace } => self.report(patch, *replace, mark, &generation, rules)?,
            Edit::Subs(subs) => self.subs.set(mark, Of { generation, value: *subs }),
            Edit::LastSeen(at) => self.last_seen = self.last_seen.max(*at),
            Edit::Versions { desired, reported } => {
                self.desired_count.raise_to(*desired);
                self.reported_count.raise_to(*reported);
            }
            Edit::Etags { device, twin } => self.keep_etags(key, device, twin, mark, generation, rules),
        }
        Ok(())
    }

    fn create(&mut self, key: &Key, new: &NewDevice, mark: &Mark, rules: &Rules) -> Result<(), Invalid> {
        if self.generation(rules).is_some() {
            return Err(Invalid::Exists(key.clone()));
        }
        let generation = match &new.generation {
            Some(text) if text.is_empty() || text.chars().count() > GENERATION_CHARS_MAX => {
                return Err(Invalid::BadGeneration);
            }
            Some(text) => Arc::clone(text),
            None => own_generation(mark),
        };
        self.empty();
        self.life.set(
            mark,
            Life::Alive {
                generation: Arc::clone(&generation),
                created: mark.moment(),
                credentials: credentials(&new.auth),
            },
        );
        self.set_status(new.enabled, &new.reason, mark, Arc::clone(&generation))?;
        self.auth.set(mark, Of { generation: Arc::clone(&generation), value: new.auth.clone() });
        if new.scope != Scope::default() {
            self.scope.set(mark, Of { generation: Arc::clone(&generation), value: new.scope.clone() });
        }
        if new.tags.as_object().is_none_or(|tags| !tags.is_empty()) {
            self.change_tags(&new.tags, true, mark, &generation, rules)?;
        }
        if new.desired.as_object().is_none_or(|desired| !desired.is_empty()) {
            self.change_desired(&new.desired, true, mark, &generation, rules)?;
        }
        Ok(())
    }

    fn set_status(
        &mut self,
        enabled: bool,
        reason: &str,
        mark: &Mark,
        generation: Arc<str>,
    ) -> Result<(), Invalid> {
        if reason.chars().count() > REASON_CHARS_MAX {
            return Err(Invalid::LongReason);
        }
        let value = Status { enabled, reason: reason.to_owned(), at: mark.moment() };
        self.status.set(mark, Of { generation, value });
        Ok(())
    }

    fn change_tags(
        &mut self,
        patch: &Value,
        replace: bool,
        mark: &Mark,
        generation: &Arc<str>,
        rules: &Rules,
    ) -> Result<(), Invalid> {
        let current = self.tags.render(rules, self.counting(rules)).0;
        check(&current, patch, replace, "tags", TAGS_BYTES_MAX)?;
        self.tags.write(&current, change(patch, replace), mark, generation);
        Ok(())
    }

    fn change_desired(
        &mut self,
        patch: &Value,
        replace: bool,
        mark: &Mark,
        generation: &Arc<str>,
        rules: &Rules,
    ) -> Result<(), Invalid> {
        let current = self.desired.render(rules, self.counting(rules)).0;
        check(&current, patch, replace, "desired properties", SECTION_BYTES_MAX)?;
        self.desired.write(&current, change(patch, replace), mark, generation);
        self.desired_count.raise(mark);
        Ok(())
    }

    fn report(
        &mut self,
        patch: &Value,
        replace: bool,
        mark: &Mark,
        generation: &Arc<str>,
        rules: &Rules,
    ) -> Result<(), Invalid> {
        let counting = self.counting(rules);
        let mut leaves = self
            .reported
            .best(rules, |of| counting(&of.generation))
            .map_or_else(Leaves::default, |best| best.value.value.clone());
        let current = leaves.render(rules, |_| true).0;
        check(&current, patch, replace, "reported properties", SECTION_BYTES_MAX)?;
        leaves.write(&current, change(patch, replace), mark, generation);
        // The document travels as a whole: what is deleted in it needs no place of its own.
        leaves
            .0
            .retain(|_, register| register.siblings().iter().any(|sibling| sibling.value.value.is_some()));
        self.reported.set(mark, Of { generation: Arc::clone(generation), value: leaves });
        self.reported_count.raise(mark);
        Ok(())
    }

    fn keep_etags(
        &mut self,
        key: &Key,
        device: &Option<String>,
        twin: &Option<String>,
        mark: &Mark,
        generation: Arc<str>,
        rules: &Rules,
    ) {
        self.kept.clear();
        let Some(now) = self.device(key, rules) else { return };
        if let Some(value) = draft::kept((now.etag, now.twin_etag), device.clone(), twin.clone()) {
            self.kept.set(mark, Of { generation, value });
        }
    }
}

/// Tells credentials apart.
pub(super) fn credentials(auth: &Auth) -> u64 {
    let bytes = postcard::to_allocvec(auth).unwrap_or_default();
    let hash = ring::digest::digest(&ring::digest::SHA256, &bytes);
    hash.as_ref().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

fn change(patch: &Value, replace: bool) -> Change<'_> {
    if replace { Change::Replace(patch) } else { Change::Patch(patch) }
}

/// A generation id that no other device under this id will ever have.
pub(super) fn own_generation(mark: &Mark) -> Arc<str> {
    let region = crc32c::crc32c(mark.region().as_str().as_bytes());
    format!("{:016x}{region:08x}", mark.stamp.ticks()).into()
}

/// Whether a section may be changed like this.
fn check(
    current: &Value,
    patch: &Value,
    replace: bool,
    what: &'static str,
    bytes_max: usize,
) -> Result<(), Invalid> {
    let after = if replace {
        without_nulls(patch)
    } else {
        let mut after = current.clone();
        merge(&mut after, patch);
        after
    };
    check_as(patch, &after, what, bytes_max)
}

/// Whether a section may be changed by this patch, which makes `after` of it.
pub(super) fn check_as(
    patch: &Value,
    after: &Value,
    what: &'static str,
    bytes_max: usize,
) -> Result<(), Invalid> {
    if !patch.is_object() {
        return Err(Invalid::NotAnObject(what));
    }
    check_names(patch, what, 0)?;
    let mut length = Length(0);
    // Counting cannot fail.
    let _ = serde_json::to_writer(&mut length, after);
    let Length(bytes) = length;
    if bytes > bytes_max {
        return Err(Invalid::TooLarge { what, bytes, bytes_max });
    }
    Ok(())
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check_names(value: &Value, what: &'static str, depth: usize) -> Result<(), Invalid> {
    if depth > DEPTH_MAX {
        return Err(Invalid::TooDeep(what));
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let is_bad = |c: char| c.is_control() || matches!(c, '.' | '$' | ' ');
                if name.is_empty() || name.contains(is_bad) || name.contains(STEP) {
                    return Err(Invalid::BadName { what, name: name.chars().take(64).collect() });
                }
                check_names(member, what, depth + 1)?;
            }
        }
        Value::Array(items) => {
            for item in items {
                check_names(item, what, depth + 1)?;
            }
        }
        _ => {}
    }
    Ok(())
}
