//! Migrations: an app that lost its region is recovered onto the capacity of a secondary, which is removed afterwards.
//!
//! One migration is a saga over several jobs of two items. Its record (`migrations/ID`) is written by compare-and-set together
//! with its audit entry, and every control node goes on with it: two that do so at once give the same orders under the same
//! keys, and only one of them writes the next record.
//!
//! Read in this order: [`record`] (what is stored), `rules` (when a migration is taken: all that can be refused is refused
//! there), `step` (what comes next, as a function), `sight` (what `step` looks at), `drive` (goes on with what is unfinished),
//! `used` (a reserve whose app came to it by a plain failover), this file (how one is begun and found).
//!
//! Must always hold: the secondary is removed only after the recovered app was seen to run with the scripts that were pushed
//! last; before the primary's failover has begun a failure gives the secondary's capacity back and changes nothing; one
//! migration of a name at a time.

mod drive;
pub mod record;
mod rules;
mod sight;
mod step;
mod used;

use farshore_core::ids::{ItemId, Kind, Name, Region};
use farshore_core::store::{CommitError, Compare, ReadError, Transaction};

use crate::engine::book::{At, decode, put};
use crate::engine::records::{AuditLine, own_key, sha256_hex};
use crate::engine::{Control, SubmitError, directory_name, now};
use record::{MIGRATIONS, Migration, Open, Phase, key, open_key};
use rules::Admitted;

/// A migration that meets another change of one of its apps is decided again this often.
const BEGIN_ATTEMPTS_MAX: u32 = 5;
/// Hex digits of an id.
const ID_LEN: usize = 32;
/// Where the name is in no directory: nobody keeps an answer.
const TTL_UNKNOWN_SECONDS: u32 = 0;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The app that is to be recovered.
    pub primary: Name,
    /// The app whose capacity is used, and which is removed.
    pub secondary: Name,
    /// Also when the primary is healthy.
    pub force: bool,
    /// The operator's word that the primary's region is down, where it does not answer: audited.
    pub source_is_down: bool,
}

/// What a migration would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Where the primary is.
    pub from: Region,
    /// Where it will be.
    pub to: Region,
    /// What it will have there.
    pub capacity: farshore_app::reserve::Capacity,
    /// The primary's region does not answer: the operator's word is needed that it is down.
    pub silent: Option<String>,
    /// Resolvers may keep the old address of its name for so long.
    pub ttl_seconds: u32,
}

/// The item of an app.
pub(crate) fn app(name: &Name) -> ItemId {
    ItemId { kind: Kind::App, name: name.clone() }
}

/// Goes on with unfinished migrations until the engine is shut down. Every control node does.
pub fn start(control: &Control) {
    control.run(drive::for_ever(control.clone()));
}

/// What [`begin`] would do; changes nothing.
///
/// # Errors
/// The rule that is broken.
pub async fn preview(control: &Control, asked: &Asked) -> Result<Preview, SubmitError> {
    let word = Asked { source_is_down: true, ..asked.clone() };
    let Admitted { from, capacity, silent, .. } = sight::admit(control, &word).await?;
    let record = control.directory(&directory_name(&app(&asked.primary))).await?;
    let ttl_seconds = record.map_or(TTL_UNKNOWN_SECONDS, |record| record.ttl_seconds);
    Ok(Preview { from, to: capacity.region.clone(), capacity, silent, ttl_seconds })
}

/// Checks and stores a migration. On return it is durable and gone on with. The same key begins one migration.
///
/// # Errors
/// Nothing was changed; the error names the rule and how to mend it.
pub async fn begin(
    control: &Control,
    asked: &Asked,
    who: &str,
    idempotency: Option<&str>,
) -> Result<Migration, SubmitError> {
    let id = new_id(idempotency.map(|key| format!("{who} {key}")));
    for _ in 0..BEGIN_ATTEMPTS_MAX {
        if let Some(earlier) = find(control, &id).await? {
            return same(earlier, asked, idempotency.unwrap_or_default());
        }
        let admitted = sight::admit(control, asked).await?;
        let migration = Migration::new(id.clone(), asked, &admitted, who, now());
        match store_new(control, &migration, &admitted, who).await {
            Ok(()) => return Ok(migration),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(unavailable(&error)),
        }
    }
    Err(SubmitError::Unavailable {
        why: format!("{} is changed by others again and again: try again", app(&asked.primary)),
    })
}

fn same(earlier: Migration, asked: &Asked, key: &str) -> Result<Migration, SubmitError> {
    if earlier.primary == asked.primary && earlier.secondary == asked.secondary {
        return Ok(earlier);
    }
    Err(SubmitError::IdempotencyMismatch { key: key.to_owned() })
}

/// Both apps are as they were looked at, and neither is part of another migration.
async fn store_new(
    control: &Control,
    migration: &Migration,
    admitted: &Admitted,
    who: &str,
) -> Result<(), CommitError> {
    let (primary, secondary) = (app(&migration.primary), app(&migration.secondary));
    let open = Open { id: migration.id.clone() };
    let transaction = Transaction {
        compares: vec![
            Compare::Absent(key(&migration.id)),
            Compare::Absent(open_key(&migration.primary)),
            Compare::Absent(open_key(&migration.secondary)),
            Compare::At(own_key(&primary), admitted.primary_at),
            Compare::At(own_key(&secondary), admitted.secondary_at),
        ],
        writes: vec![
            put(key(&migration.id), migration)?,
            put(open_key(&migration.primary), &open)?,
            put(open_key(&migration.secondary), &open)?,
        ],
    };
    let word = match &admitted.silent {
        Some(_) => format!(", with the word that region {} is down", migration.from),
        None => String::new(),
    };
    let what = format!("asked to migrate {primary} onto {secondary} ({}){word}", migration.id);
    let line = AuditLine { who: who.to_owned(), what, item: Some(primary), job: None };
    control.book().commit(transaction, Some(line)).await.map(drop)
}

/// One migration.
///
/// # Errors
/// When the store cannot be read.
pub async fn find(control: &Control, id: &str) -> Result<Option<Migration>, ReadError> {
    if id.len() != ID_LEN || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let found: Option<At<Migration>> = control.book().read(&key(id)).await?;
    Ok(found.map(|at| at.value))
}

/// All of them, oldest first. Records that this program cannot read are left out and logged.
///
/// # Errors
/// When the store cannot be read.
pub async fn list(control: &Control) -> Result<Vec<Migration>, ReadError> {
    let mut all = Vec::new();
    for entry in control.book().view().await.entries(MIGRATIONS).await? {
        match decode::<Migration>(&entry) {
            Ok(at) => all.push(at.value),
            Err(error) => tracing::warn!(%error, "a migration's record is left out"),
        }
    }
    all.sort_by(|one, other| (one.created_at, &one.id).cmp(&(other.created_at, &other.id)));
    Ok(all)
}

/// Whether the app is part of a migration that has not ended.
async fn is_migrating(control: &Control, name: &Name) -> Result<bool, ReadError> {
    let open: Option<At<Open>> = control.book().read(&open_key(name)).await?;
    Ok(open.is_some())
}

/// 32 hex digits; the first is a letter, so that nobody reads it as a number.
fn new_id(key: Option<String>) -> String {
    const LETTERS: [char; 6] = ['a', 'b', 'c', 'd', 'e', 'f'];
    let text = key.unwrap_or_else(|| format!("{} {}", ulid::Ulid::generate(), ulid::Ulid::generate()));
    let hash = sha256_hex(text.as_bytes());
    let first = hash.bytes().next().map_or(0, usize::from) % LETTERS.len();
    std::iter::once(LETTERS[first]).chain(hash.chars().skip(1).take(ID_LEN - 1)).collect()
}

fn unavailable(error: &CommitError) -> SubmitError {
    SubmitError::Unavailable { why: error.to_string() }
}

impl Phase {
    /// Nothing more is done.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_hex_digits_and_no_number() {
        let ids: Vec<String> = (0..200).map(|_| new_id(None)).collect();
        for id in &ids {
            assert_eq!(id.len(), ID_LEN);
            assert!(id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
            assert!(id.parse::<f64>().is_err(), "{id}");
        }
        assert_eq!(new_id(Some("k".to_owned())), new_id(Some("k".to_owned())));
        assert_ne!(ids[0], ids[1]);
    }
}
