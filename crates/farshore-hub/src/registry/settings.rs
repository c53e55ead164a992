//! Settings of the hub: named values of some kind, which both regions keep. What a kind means, and what a value of it looks like,
//! is for those who use it.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::transaction::Transaction;
use super::{Registry, RegistryError};
use crate::record::entry::settings_of;
use crate::record::{Entry, EntryKey, Unreadable};

/// Longest name of a setting, and of a kind; as those of policies.
const NAME_LEN_MAX: usize = 64;
/// Largest value, as JSON: some certificates, or a sink with its own. With [`SETTINGS_MAX`], a kind has 4 MiB at most.
pub const SETTING_BYTES_MAX: usize = 64 * 1024;
/// Most settings of one kind: whoever uses them looks at all of them. Regions that could not see each other may together have made
/// more; then none can be added.
pub const SETTINGS_MAX: usize = 64;

/// Why a setting is refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSetting {
    /// It is called, or its kind is, what nothing may be called.
    #[error("{0:?} names no setting: use 1 to {NAME_LEN_MAX} letters, digits and -_.")]
    Name(String),
    /// It is too large.
    #[error("the setting {name} of {kind} has {bytes} bytes, and at most {SETTING_BYTES_MAX} are kept")]
    TooLarge {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// How large it is.
        bytes: usize,
    },
    /// There are too many.
    #[error("a hub has at most {SETTINGS_MAX} {0}: remove one first")]
    TooMany(String),
}

fn check_name(name: &str) -> Result<(), BadSetting> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(is_known) {
        true => Err(BadSetting::Name(name.chars().take(NAME_LEN_MAX).collect())),
        false => Ok(()),
    }
}

impl Registry {
    /// The hub's settings of one kind, by name.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn settings(&self, kind: &str) -> Result<Vec<(String, Value)>, RegistryError> {
        let rules = &self.store.state().rules;
        let (start, end) = settings_of(kind);
        let mut texts = Vec::new();
        self.store.read()?.each(&start, &end, |key, entry| {
            if let (EntryKey::Setting(_, name), Entry::Setting(single)) = (key, entry) {
                texts.extend(single.now(rules).map(|text| (name, text)));
            }
            true
        })?;
        let parsed = texts.into_iter().map(|(name, text)| {
            let value = serde_json::from_str(&text).map_err(|_| Unreadable("a setting that is no JSON"))?;
            Ok((name, value))
        });
        parsed.collect()
    }

    /// Sets one, or removes it (`None`). Durable on return, and replicated. What reads the same already is not written again.
    ///
    /// # Errors
    /// [`RegistryError`]; one that is [`RegistryError::Setting`] says what cannot be.
    pub async fn set_setting(
        &self,
        kind: &str,
        name: &str,
        value: Option<Value>,
    ) -> Result<(), RegistryError> {
        check_name(kind)?;
        check_name(name)?;
        let (kind, name) = (kind.to_owned(), name.to_owned());
        let text: Option<Arc<str>> = value.map(|value| value.to_string().into());
        let bytes = text.as_ref().map_or(0, |text| text.len());
        if bytes > SETTING_BYTES_MAX {
            return Err(BadSetting::TooLarge { kind, name, bytes }.into());
        }
        self.writer.submit(move |txn| txn.write_setting(kind, name, text)).await??;
        Ok(())
    }

    /// Counts changes of settings, own and joined ones. It counts from where the registry was opened.
    #[must_use]
    pub fn settings_changed(&self) -> watch::Receiver<u64> {
        self.store.settings()
    }
}

impl Transaction<'_> {
    fn write_setting(
        &mut self,
        kind: String,
        name: String,
        text: Option<Arc<str>>,
    ) -> Result<Result<(), BadSetting>, RegistryError> {
        let mut found = self.find(EntryKey::Setting(kind.clone(), name))?;
        let Entry::Setting(single) = &found.entry else {
            return Err(Unreadable("another kind of entry under the key of a setting").into());
        };
        let now = single.now(&self.state.rules);
        if now == text && !found.contested {
            return Ok(Ok(()));
        }
        if now.is_none() && text.is_some() && self.settings_set(&kind)? >= SETTINGS_MAX {
            return Ok(Err(BadSetting::TooMany(kind)));
        }
        let mark = self.mark();
        if let Entry::Setting(single) = &mut found.entry {
            single.set(&mark, text);
        }
        self.settle_shared(&found)?;
        Ok(Ok(()))
    }

    fn settings_set(&self, kind: &str) -> Result<usize, RegistryError> {
        let (start, end) = settings_of(kind);
        let all = self.range(&start, &end)?;
        let is_set = |entry: &Entry| matches!(entry, Entry::Setting(single) if single.now(&self.state.rules).is_some());
        Ok(all.iter().filter(|(_, entry)| is_set(entry)).count())
    }
}
