//! What an operator says of an app, without its secrets: those are in its [charter](crate::charter).

use farshore_core::ids::{ItemId, Name};
use serde::{Deserialize, Serialize};

use crate::mode::Mode;

/// Most names that an app may have beside its own.
pub const HOSTS_MAX: usize = 16;
/// Longest command line, of the app or of its build.
const COMMAND_LEN_MAX: usize = 4096;
/// Longest path of the probe.
const PROBE_LEN_MAX: usize = 256;
/// A backup more often than this would be of no use: changes are shipped as they happen.
const BACKUP_MINUTES_MIN: u32 = 1;
/// Most backups that are kept.
const BACKUP_KEEP_MAX: u32 = 1000;

/// What keeps an app's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Database {
    /// Nothing that Farshore knows of: the app keeps none, or its own elsewhere.
    None,
    /// A file beside the app.
    #[default]
    Sqlite,
    /// A server of its own, run by the node.
    Postgres,
}

impl Database {
    /// The word that people use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// `{"mode":"basic","instances":1,"command":"node server.js","build":null,"database":"sqlite","hosts":[],"require_key":false,`
/// `"reserve_for":null,"backup_minutes":60,"backup_keep":24,"probe":"/status"}`, all of it optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppSpec {
    /// How much capacity each instance has.
    pub mode: Mode,
    /// How many instances run.
    pub instances: u32,
    /// Run in the release's directory; listens on `$PORT`. `None`: the app runs nothing (a reserve).
    pub command: Option<String>,
    /// Run once in each new release's directory before it is started.
    pub build: Option<String>,
    /// What keeps its rows.
    pub database: Database,
    /// Names under which clients know it, beside `NAME.app.DOMAIN`. In lower case.
    pub hosts: Vec<String>,
    /// Clients must show the application key.
    pub require_key: bool,
    /// Its capacity is kept for this app, should that lose its region.
    pub reserve_for: Option<Name>,
    /// A backup of the database is taken this often; 0: only when asked for.
    pub backup_minutes: u32,
    /// So many backups are kept.
    pub backup_keep: u32,
    /// What is asked of an instance to see whether it answers.
    pub probe: String,
}

impl Default for AppSpec {
    fn default() -> Self {
        Self {
            mode: Mode::Basic,
            instances: 1,
            command: None,
            build: None,
            database: Database::Sqlite,
            hosts: Vec::new(),
            require_key: false,
            reserve_for: None,
            backup_minutes: 60,
            backup_keep: 24,
            probe: "/status".to_owned(),
        }
    }
}

impl AppSpec {
    /// Says what cannot be.
    ///
    /// # Errors
    /// In words, with the way out.
    pub fn check(&self) -> Result<(), String> {
        check_instances(self.mode, self.instances)?;
        check_hosts(&self.hosts)?;
        for (what, command) in [("command", &self.command), ("build", &self.build)] {
            check_command(what, command.as_deref())?;
        }
        let is_path = self.probe.starts_with('/') && self.probe.len() <= PROBE_LEN_MAX;
        if !is_path || !self.probe.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "the probe {:?} is no path: write it like /status, at most {PROBE_LEN_MAX} characters",
                self.probe
            ));
        }
        if self.backup_minutes != 0 && self.backup_minutes < BACKUP_MINUTES_MIN {
            return Err(format!("backup_minutes must be 0 or at least {BACKUP_MINUTES_MIN}"));
        }
        if self.backup_keep == 0 || self.backup_keep > BACKUP_KEEP_MAX {
            return Err(format!("backup_keep must be from 1 to {BACKUP_KEEP_MAX}"));
        }
        Ok(())
    }

    /// All names that clients reach it by: first the one that is made of the item's.
    #[must_use]
    pub fn hosts_of(&self, item: &ItemId, domain: &str) -> Vec<String> {
        let own = format!("{}.app.{domain}", item.name);
        std::iter::once(own).chain(self.hosts.iter().cloned()).collect()
    }

    /// What all its instances may take together, in MiB.
    #[must_use]
    pub fn memory_mib(&self) -> u64 {
        memory_mib(self.mode) * u64::from(self.instances)
    }
}

/// The name that its scripts are fetched from and pushed to.
#[must_use]
pub fn git_host(item: &ItemId, domain: &str) -> String {
    format!("{}.scm.{domain}", item.name)
}

/// What one instance of this mode may take, in MiB.
#[must_use]
pub fn memory_mib(mode: Mode) -> u64 {
    match mode {
        Mode::Free => 128,
        Mode::Basic => 512,
        Mode::Standard => 2048,
    }
}

/// How much of a processor one instance of this mode may take, in per cent.
#[must_use]
pub fn cpu_percent(mode: Mode) -> u32 {
    match mode {
        Mode::Free => 25,
        Mode::Basic => 100,
        Mode::Standard => 200,
    }
}

/// Whether so many instances of this mode can be.
///
/// # Errors
/// In words.
pub fn check_instances(mode: Mode, instances: u32) -> Result<(), String> {
    if instances == 0 || instances > mode.instances_max() {
        return Err(format!(
            "an app of mode {mode} runs from 1 to {} instances, not {instances}",
            mode.instances_max()
        ));
    }
    Ok(())
}

/// Whether these can be names of an app.
///
/// # Errors
/// In words.
pub fn check_hosts(hosts: &[String]) -> Result<(), String> {
    if hosts.len() > HOSTS_MAX {
        return Err(format!("an app has at most {HOSTS_MAX} more names"));
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    for (index, host) in hosts.iter().enumerate() {
        if host.len() > 253 || !host.split('.').all(is_label) {
            return Err(format!(
                "{host:?} is no host name: write it in small letters, without scheme and port"
            ));
        }
        if hosts[..index].contains(host) {
            return Err(format!("the name {host} is there twice"));
        }
    }
    Ok(())
}

fn check_command(what: &str, command: Option<&str>) -> Result<(), String> {
    let Some(command) = command else { return Ok(()) };
    if command.trim().is_empty() {
        return Err(format!("the {what} is empty: leave it out, or say what is run"));
    }
    if command.len() > COMMAND_LEN_MAX || command.contains('\0') {
        return Err(format!("the {what} is longer than {COMMAND_LEN_MAX} characters, or has a zero in it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(spec: &serde_json::Value) -> String {
        match serde_json::from_value::<AppSpec>(spec.clone()) {
            Ok(spec) => spec.check().unwrap_err(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn everything_is_optional_and_old_names_of_modes_are_understood() {
        let spec: AppSpec = serde_json::from_value(json!({})).unwrap();
        assert_eq!(spec, AppSpec::default());
        spec.check().unwrap();
        let old: AppSpec = serde_json::from_value(json!({"mode": "reserved", "instances": 3})).unwrap();
        assert_eq!((old.mode, old.memory_mib()), (Mode::Standard, 6144));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (spec, why) in [
            (json!({"mode": "free", "instances": 2}), "from 1 to 1 instances, not 2"),
            (json!({"instances": 0}), "not 0"),
            (json!({"mode": "premium"}), "premium"),
            (json!({"colour": "red"}), "colour"),
            (json!({"hosts": ["Todo.example"]}), "is no host name"),
            (json!({"hosts": ["https://todo.example"]}), "is no host name"),
            (json!({"hosts": ["a.example", "a.example"]}), "twice"),
            (json!({"command": "  "}), "the command is empty"),
            (json!({"build": ""}), "the build is empty"),
            (json!({"probe": "status"}), "is no path"),
            (json!({"backup_keep": 0}), "backup_keep"),
        ] {
            let said = refused(&spec);
            assert!(said.contains(why), "{spec}: {said}");
        }
    }

    #[test]
    fn an_app_is_known_by_its_own_name_first() {
        let spec = AppSpec { hosts: vec!["todo.example".to_owned()], ..AppSpec::default() };
        let item = ItemId::parse("app/todo").unwrap();
        assert_eq!(spec.hosts_of(&item, "farshore.internal"), ["todo.app.farshore.internal", "todo.example"]);
        assert_eq!(git_host(&item, "farshore.internal"), "todo.scm.farshore.internal");
    }
}
