//! The charter of an app: everything that must be the same in each region, secrets included, except its scripts and rows.
//!
//! It is one file of mode 0600. Only the active region changes it; every change raises its version and goes to the other region.
//!
//! Must always hold: a charter is replaced as a whole, durably; which release is live never names one whose files are not here.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use farshore_core::ids::{Epoch, Name};
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use crate::data::Engine;
use crate::keys::Keys;
use crate::spec::{AppSpec, Database};

/// The format written.
const FORMAT: u32 = 1;
/// Its name in the app's directory.
const FILE: &str = "charter.json";
/// Releases that are told of; older ones are forgotten, with their files.
pub const RELEASES_MAX: usize = 50;
/// Most settings of an app.
const SETTINGS_MAX: usize = 200;
/// Longest name of a setting.
const SETTING_NAME_MAX: usize = 128;
/// Longest value of a setting: the environment of a process has room for many of them.
const SETTING_LEN_MAX: usize = 32 << 10;
/// The database that an app has from its beginning.
pub const FIRST_DATABASE: &str = "main";

/// A charter that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct CharterError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong.
    pub why: String,
}

/// Which charter it is. Not only a number: two regions may have made a different one under the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct CharterTag {
    /// Under which right it was last changed.
    pub epoch: Epoch,
    /// Raised with each change; 0: there is none yet.
    pub version: u64,
}

/// How a release stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseState {
    /// It runs, or would.
    Live,
    /// It ran, or could.
    Ready,
    /// It was not built, or did not come up.
    Failed,
}

/// One release: a commit, its files, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Counted from 1.
    pub number: u64,
    /// What was pushed.
    pub commit: String,
    /// Its tree: what the files are compared with.
    pub tree: String,
    /// Who pushed.
    pub by: String,
    /// When.
    pub at: Moment,
    /// The commit's message, its first line.
    pub message: String,
    /// How it stands.
    pub state: ReleaseState,
    /// Why it failed.
    pub why: Option<String>,
}

/// A certificate for one of the app's own names. `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The chain, PEM.
    pub chain: String,
    /// The key, PEM.
    pub key: String,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(..)")
    }
}

/// See the module. `Debug` shows neither settings nor connections.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charter {
    format: u32,
    /// Which one it is.
    pub tag: CharterTag,
    /// What the operator said.
    pub spec: AppSpec,
    /// What is shown to get in.
    pub keys: Keys,
    /// The environment of its instances.
    pub settings: BTreeMap<String, String>,
    /// The last [`RELEASES_MAX`], oldest first.
    pub releases: Vec<Release>,
    /// Which one runs.
    pub live: Option<u64>,
    /// By name.
    pub certificates: BTreeMap<String, Certificate>,
    /// The database that it uses, one of those that the node keeps.
    pub database: String,
    /// It uses this one instead, which is somebody else's.
    pub external: Option<String>,
    /// Databases that it has used and must not use again by itself, and why.
    pub fenced: BTreeMap<String, String>,
    /// Its capacity is for this app now.
    pub lent_to: Option<Name>,
    /// The migration that it was lent for; nothing: by a failover.
    #[serde(default)]
    pub lent_by: Option<String>,
}

impl fmt::Debug for Charter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charter")
            .field("tag", &self.tag)
            .field("spec", &self.spec)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

impl Charter {
    /// That of a new app.
    #[must_use]
    pub fn new(spec: AppSpec, keys: Keys) -> Self {
        Self {
            format: FORMAT,
            tag: CharterTag::default(),
            spec,
            keys,
            settings: BTreeMap::new(),
            releases: Vec::new(),
            live: None,
            certificates: BTreeMap::new(),
            database: FIRST_DATABASE.to_owned(),
            external: None,
            fenced: BTreeMap::new(),
            lent_to: None,
            lent_by: None,
        }
    }

    /// What keeps its own databases, whether it uses one of them now or not.
    #[must_use]
    pub fn engine_kept(&self) -> Option<Engine> {
        match self.spec.database {
            Database::None => None,
            Database::Sqlite => Some(Engine::Sqlite),
            Database::Postgres => Some(Engine::Postgres),
        }
    }

    /// What keeps the database that it uses, when Farshore keeps it.
    #[must_use]
    pub fn engine(&self) -> Option<Engine> {
        self.engine_kept().filter(|_| self.external.is_none())
    }

    /// Whether the active region's was ever here.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.tag.version > 0
    }

    /// The release of this number.
    #[must_use]
    pub fn release(&self, number: u64) -> Option<&Release> {
        self.releases.iter().find(|release| release.number == number)
    }

    /// The one that runs.
    #[must_use]
    pub fn live_release(&self) -> Option<&Release> {
        self.release(self.live?)
    }

    /// The number of the next release.
    #[must_use]
    pub fn next_release(&self) -> u64 {
        self.releases.last().map_or(1, |last| last.number + 1)
    }

    /// Notes a release; the oldest that does not run is forgotten when there are too many.
    pub fn put_release(&mut self, release: Release) {
        self.releases.retain(|known| known.number != release.number);
        self.releases.push(release);
        self.releases.sort_by_key(|release| release.number);
        while self.releases.len() > RELEASES_MAX {
            let live = self.live;
            let Some(oldest) = self.releases.iter().position(|release| Some(release.number) != live) else {
                return;
            };
            self.releases.remove(oldest);
        }
    }

    /// This release runs from now on, and no other.
    pub fn go_live(&mut self, number: u64) {
        for release in &mut self.releases {
            if release.number == number {
                (release.state, release.why) = (ReleaseState::Live, None);
            } else if release.state == ReleaseState::Live {
                release.state = ReleaseState::Ready;
            }
        }
        self.live = Some(number);
    }

    /// This release did not come up. One that ran before may still be good, and is only told of.
    pub fn fail(&mut self, number: u64, why: &str) {
        for release in &mut self.releases {
            if release.number == number && release.state != ReleaseState::Live {
                (release.state, release.why) = (ReleaseState::Failed, Some(why.to_owned()));
            }
        }
    }

    /// Keeps it durably, readable by its owner only.
    ///
    /// # Errors
    /// When the file cannot be written: the old one is still there.
    pub fn save(&self, app: &Path) -> Result<(), CharterError> {
        let path = app.join(FILE);
        let bytes = self.to_bytes();
        keep(&path, &bytes).map_err(|error| CharterError { path, why: error.to_string() })
    }

    /// What is kept of it.
    ///
    /// # Errors
    /// When there is none, or it cannot be understood.
    pub fn load(app: &Path) -> Result<Self, CharterError> {
        let path = app.join(FILE);
        let bytes =
            fs::read(&path).map_err(|error| CharterError { path: path.clone(), why: error.to_string() })?;
        Self::from_bytes(&bytes).map_err(|why| CharterError { path, why })
    }

    /// As it is kept and travels.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// What these bytes say.
    ///
    /// # Errors
    /// In words; nothing of what they say is in them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let charter: Self = serde_json::from_slice(bytes).map_err(|error| {
            format!(
                "is damaged (line {}, column {}): move the app's directory aside, then disable and protect the app again",
                error.line(),
                error.column()
            )
        })?;
        if charter.format != FORMAT {
            return Err(format!(
                "has format {}, this farshore knows format {FORMAT}: run the same farshore in both regions",
                charter.format
            ));
        }
        Ok(charter)
    }
}

/// Writes a file of mode 0600 so that after a crash it is there as it was or as it is to be.
///
/// # Errors
/// As the file system says.
pub fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

/// Whether these settings can be an app's.
///
/// # Errors
/// In words, with the setting's name and never its value.
pub fn check_settings(settings: &BTreeMap<String, String>) -> Result<(), String> {
    if settings.len() > SETTINGS_MAX {
        return Err(format!("an app has at most {SETTINGS_MAX} settings"));
    }
    for (name, value) in settings {
        check_setting(name, value)?;
    }
    Ok(())
}

fn check_setting(name: &str, value: &str) -> Result<(), String> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !starts_well || !is_word || name.len() > SETTING_NAME_MAX {
        return Err(format!(
            "{name:?} is no name of a setting: use letters, digits and _, not a digit first, at most {SETTING_NAME_MAX} characters"
        ));
    }
    let is_ours = name == "PORT" || name.starts_with("FARSHORE_") || name.starts_with("DATABASE_");
    if is_ours {
        return Err(format!(
            "{name} is set by Farshore: choose another name; for another database run farshore app change-database"
        ));
    }
    if value.len() > SETTING_LEN_MAX || value.contains('\0') {
        return Err(format!(
            "the value of {name} is longer than {SETTING_LEN_MAX} bytes, or has a zero in it"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn charter() -> Charter {
        Charter::new(AppSpec::default(), Keys::make().unwrap())
    }

    fn release(number: u64) -> Release {
        Release {
            number,
            commit: format!("{number:040}"),
            tree: format!("{number:040}"),
            by: "me".to_owned(),
            at: Moment(number),
            message: String::new(),
            state: ReleaseState::Ready,
            why: None,
        }
    }

    #[test]
    fn it_is_kept_for_its_owner_only_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut charter = charter();
        charter.settings.insert("COLOUR".to_owned(), "red".to_owned());
        charter.save(dir.path()).unwrap();
        assert_eq!(Charter::load(dir.path()).unwrap(), charter);
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let mut charter = charter();
        charter.settings.insert("TOKEN".to_owned(), "s3cret".to_owned());
        charter.external = Some("postgres://me:s3cret@db/x".to_owned());
        let shown = format!("{charter:?}");
        assert!(!shown.contains("s3cret") && !shown.contains(&charter.keys.master), "{shown}");
        let damaged = Charter::from_bytes(br#"{"format":1,"s3cret":"#).unwrap_err();
        assert!(!damaged.contains("s3cret"), "{damaged}");
    }

    #[test]
    fn one_release_is_live_and_it_is_never_forgotten() {
        let mut charter = charter();
        charter.put_release(release(1));
        charter.go_live(1);
        for number in 2..100 {
            charter.put_release(release(number));
        }
        assert_eq!(charter.releases.len(), RELEASES_MAX);
        assert_eq!(charter.live_release().unwrap().number, 1);
        charter.fail(99, "it did not listen");
        charter.fail(1, "it was stopped");
        assert_eq!(charter.release(99).unwrap().state, ReleaseState::Failed);
        assert_eq!(charter.release(1).unwrap().state, ReleaseState::Live);
        charter.go_live(98);
        let live = charter.releases.iter().filter(|release| release.state == ReleaseState::Live).count();
        assert_eq!((live, charter.next_release()), (1, 100));
    }

    #[test]
    fn settings_that_cannot_be_are_named_and_their_values_are_not() {
        let one =
            |name: &str, value: &str| check_settings(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        one("_Colour1", "s3cret\nin two lines").unwrap();
        for (name, value) in [("1A", "x"), ("A-B", "x"), ("", "x"), ("PORT", "s3cret"), ("A", "s3cret\0")] {
            let said = one(name, value).unwrap_err();
            assert!(!said.contains("s3cret"), "{said}");
        }
        assert!(one("DATABASE_URL", "x").unwrap_err().contains("change-database"));
    }
}
