//! App services: how they stand, keys, settings, releases, databases, and what takes long.

use std::collections::BTreeMap;

use farshore_core::moment::Moment;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A moment as clients see it. Regions may tell it as text or in microseconds.
fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Told {
        Text(String),
        Micros(u64),
    }
    Ok(Option::<Told>::deserialize(deserializer)?.map(|told| match told {
        Told::Text(text) => text,
        Told::Micros(micros) => Moment(micros).to_string(),
    }))
}

/// The same, where it is told in milliseconds.
fn moment_of_millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Told {
        Text(String),
        Millis(u64),
    }
    Ok(Option::<Told>::deserialize(deserializer)?.map(|told| match told {
        Told::Text(text) => text,
        Told::Millis(millis) => Moment::from_millis(millis).to_string(),
    }))
}

/// An app in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppBrief {
    /// Its name.
    pub name: String,
    /// `free`, `basic` or `standard`; absent: nobody knows.
    pub mode: Option<String>,
    /// The region that serves it.
    pub region: String,
    /// `running`, `starting`, `failed`, `empty`, `stopped`, `recovering`, or `unknown`: its region did not answer.
    pub state: String,
    /// The release that is live.
    pub release: Option<u64>,
    /// Where its clients go.
    pub url: Option<String>,
    /// The app whose reserve it is.
    pub reserve_for: Option<String>,
}

/// An app at a glance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppView {
    /// Its name.
    pub name: String,
    /// The region that answers.
    pub region: String,
    /// Where its clients go; the first one is made of its name.
    pub urls: Vec<String>,
    /// Where its scripts are pushed to.
    pub git_url: String,
    /// How long resolvers may keep where the names lead to.
    pub ttl_seconds: Option<u32>,
    /// `running`, `starting`, `failed`, `empty`, `stopped`, `standby` or `recovering`.
    pub state: String,
    /// `free`, `basic` or `standard`.
    pub mode: String,
    /// Processes that it should have.
    pub instances: u32,
    /// Host names under which it is known beside its own.
    pub hosts: Vec<String>,
    /// Clients must name the application key.
    pub require_key: bool,
    /// The app whose reserve it is.
    pub reserve_for: Option<String>,
    /// The app that has its capacity now.
    pub lent_to: Option<String>,
    /// Its reserve in another region.
    pub reserve: Option<String>,
    /// What is live.
    pub release: Option<AppReleaseBrief>,
    /// Its database.
    pub database: Option<AppDatabaseView>,
    /// How far the other region is, as that region tells it.
    #[schema(value_type = Option<Object>)]
    pub replication: Option<Value>,
    /// Its processes.
    pub processes: Vec<AppProcessView>,
    /// The memory that apps have in its region.
    pub capacity: AppCapacityView,
    /// Its backups.
    pub backups: AppBackupsBrief,
    /// How many settings it has.
    pub settings_count: u64,
    /// What takes long and is under way.
    pub operation: Option<AppOperationBrief>,
    /// What weakens a promise.
    pub warnings: Vec<String>,
}

/// A release, in short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppReleaseBrief {
    /// Rises with each release.
    pub number: u64,
    /// The commit.
    pub commit: String,
    /// What the commit holds: two with the same are the same, to the byte.
    pub tree: String,
    /// Who made it.
    pub by: String,
    /// When.
    #[serde(deserialize_with = "moment")]
    pub at: Option<String>,
}

/// A release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppReleaseView {
    /// Rises with each release.
    pub number: u64,
    /// The commit.
    pub commit: String,
    /// What the commit holds.
    pub tree: String,
    /// Who made it.
    pub by: String,
    /// When.
    #[serde(deserialize_with = "moment")]
    pub at: Option<String>,
    /// What was said of it.
    pub message: String,
    /// `live`, `ready` or `failed`.
    pub state: String,
    /// Why it failed.
    pub why: Option<String>,
    /// Its files are in the region still: it can be made live again.
    pub kept: Option<bool>,
}

/// The database of an app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppDatabaseView {
    /// `sqlite` or `postgres`.
    pub engine: String,
    /// Which one is active; absent: none is open here.
    pub name: Option<String>,
    /// It answered when it was asked last; absent: it was not asked yet.
    pub reachable: Option<bool>,
    /// It is a server of its own, reached by a URL that the operator gave: nothing of it is replicated.
    pub external: bool,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// What is committed.
    pub position: Option<AppPositionView>,
    /// What of it is durable in the other region.
    pub confirmed: Option<AppPositionView>,
}

/// How far a database is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppPositionView {
    /// Commits since the app was made.
    pub commits: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the last one was seen.
    #[serde(deserialize_with = "moment")]
    pub at: Option<String>,
}

/// A process of an app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppProcessView {
    /// Its number, from 1.
    pub instance: u32,
    /// Its id in the region, while it runs.
    pub pid: Option<u32>,
    /// Where it listens, on loopback.
    pub port: Option<u16>,
    /// `starting`, `up`, `unresponsive`, `waiting` or `stopped`.
    pub state: String,
    /// How often it was started again.
    pub restarts: u64,
    /// Memory in use.
    pub memory_bytes: Option<u64>,
    /// Since when it is so.
    #[serde(alias = "since_ms", deserialize_with = "moment_of_millis")]
    pub since: Option<String>,
    /// How its last run ended, if one did.
    pub last_ending: Option<String>,
}

/// The memory that the apps of a region have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppCapacityView {
    /// In all.
    pub mib: u64,
    /// Spoken for.
    pub used_mib: u64,
}

/// Backups of an app, in short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppBackupsBrief {
    /// How many are kept.
    pub count: u64,
    /// When the newest was taken.
    #[serde(deserialize_with = "moment")]
    pub newest_at: Option<String>,
    /// It was restored into a scratch place, and was whole.
    pub newest_ok: Option<bool>,
}

/// What is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppOperationBrief {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: String,
}

/// The keys of an app. Both are secrets; so is the deployment password, with which scripts are pushed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppKeysView {
    /// What clients name in `X-ZUMO-APPLICATION`. A secret.
    pub application: String,
    /// What administrators name in `X-ZUMO-MASTER`; tokens of users are signed with what is derived from it. A secret.
    pub master: String,
    /// The password of the git user `deploy`. A secret.
    pub deployment: String,
    /// Where scripts are pushed to.
    pub git_url: String,
}

impl std::fmt::Debug for AppKeysView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppKeysView").field("git_url", &self.git_url).finish_non_exhaustive()
    }
}

/// Which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AppKeyWord {
    /// That of clients.
    Application,
    /// That of administrators. Users are logged out when it changes.
    Master,
    /// That with which scripts are pushed.
    Deployment,
}

impl AppKeyWord {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Master => "master",
            Self::Deployment => "deployment",
        }
    }
}

/// Makes a key anew: the old one opens nothing any more.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppRegenerateRequest {
    /// Which.
    #[serde(rename = "type")]
    pub which: AppKeyWord,
}

/// Keys that an app had elsewhere and keeps here: its clients notice nothing. What is absent stays.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppKeysRequest {
    /// The application key. A secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// The master key. A secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
}

impl std::fmt::Debug for AppKeysRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppKeysRequest(..)")
    }
}

/// The settings of an app: environment variables of its processes.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppSettingsView {
    /// By name. The values are there only if they were asked for. They may be secrets.
    pub settings: BTreeMap<String, Option<String>>,
}

impl std::fmt::Debug for AppSettingsView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.settings.keys()).finish()
    }
}

/// Settings to set and to delete; the others stay.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppSettingsRequest {
    /// New values. They may be secrets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delete: Vec<String>,
}

impl std::fmt::Debug for AppSettingsRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppSettingsRequest").field("delete", &self.delete).finish_non_exhaustive()
    }
}

/// How large an app is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppScaleRequest {
    /// `free`, `basic` or `standard`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Processes: at most 1, 6 and 25.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
}

/// A piece of an archive that is to be deployed.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppUploadRequest {
    /// Where it begins; the first piece of an archive begins at 0.
    pub offset: u64,
    /// Base64 of at most 768 KiB.
    pub data: String,
}

impl std::fmt::Debug for AppUploadRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppUploadRequest").field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// How much of an archive is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppUploadView {
    /// Bytes from its beginning.
    pub received: u64,
}

/// Makes a release of an archive (tar) that was uploaded.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppDeployRequest {
    /// The name under which it was uploaded.
    pub upload: String,
    /// What it is, for people.
    #[serde(default)]
    pub message: String,
}

/// Makes an earlier release live again.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppRollbackRequest {
    /// Which; absent: the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// Restores a backup into a database of its own; the one in use is not touched.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppRestoreRequest {
    /// Which; absent: the newest that is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// The new database's name.
    pub to: String,
}

/// Gives an app another database: one that there is, a backup, or a server of its own. The old one is given up.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppDatabaseRequest {
    /// A database that there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// A backup, restored into a database of its own first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// A server: `postgres://…`. A secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `to` may be one that was given up: what was written since is not in it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

impl std::fmt::Debug for AppDatabaseRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppDatabaseRequest")
            .field("to", &self.to)
            .field("backup", &self.backup)
            .field("force", &self.force)
            .finish_non_exhaustive()
    }
}

/// Something that takes long was begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppBegunView {
    /// The id by which it is followed.
    pub operation: String,
}

/// How something that takes long goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppOperationView {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: String,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// What it said after the line that was asked for.
    pub lines: Vec<String>,
    /// What came of it.
    #[schema(value_type = Option<Object>)]
    pub result: Option<Value>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Lines of what an app's processes say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppLogView {
    /// The newest last.
    pub lines: Vec<String>,
}

/// A backup of an app's database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppBackupView {
    /// Its id; sorts by age.
    pub id: String,
    /// When it was taken.
    #[serde(deserialize_with = "moment")]
    pub at: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// When it was restored into a scratch place and looked at.
    #[serde(deserialize_with = "moment")]
    pub verified_at: Option<String>,
    /// Whether it was whole then.
    pub ok: Option<bool>,
    /// What was wrong with it, or why it was taken.
    pub why: Option<String>,
    /// Where it is.
    pub region: Option<String>,
}

/// A database that an app has or had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppDatabaseBrief {
    /// Its name.
    pub name: String,
    /// `sqlite` or `postgres`.
    pub engine: String,
    /// The app uses it.
    pub active: bool,
    /// It is never used again.
    pub fenced: bool,
    /// Why.
    pub why: Option<String>,
    /// Its size.
    pub bytes: Option<u64>,
}

/// A certificate for one of an app's own host names.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppCertificateRequest {
    /// The certificate, and its chain after it, in PEM.
    pub chain: String,
    /// Its key, in PEM. A secret.
    pub key: String,
}

impl std::fmt::Debug for AppCertificateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppCertificateRequest(..)")
    }
}

/// The host names of an app, instead of those that it had beside its own.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppHostsRequest {
    /// At most 16.
    pub hosts: Vec<String>,
}

/// Host names that come to those of an app, and that go.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AppHostsChangeRequest {
    /// It is known under these, too. All together it has at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// And under these no more; their certificates are forgotten.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// Whether the files of the live release are those that were pushed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppScriptsView {
    /// The release.
    pub release: Option<u64>,
    /// The commit that they should be.
    pub commit: String,
    /// The tree that the files are.
    pub tree: String,
    /// The tree that they should be.
    pub expected_tree: String,
    /// They are.
    pub same: bool,
    /// Where they are not.
    pub differences: Vec<AppDifferenceView>,
}

/// A file that is not what was pushed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppDifferenceView {
    /// Which.
    pub path: String,
    /// `changed`, `missing` or `added`.
    pub what: String,
}

/// A piece of an archive (tar) of the scripts.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppExportView {
    /// What the archive is of; the next piece is asked for with it.
    pub commit: String,
    /// How many bytes the whole archive has.
    pub len: u64,
    /// Base64.
    pub data: String,
    /// Where the next piece begins; absent: this was the last.
    pub next: Option<u64>,
}

impl std::fmt::Debug for AppExportView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("AppExportView");
        shown.field("commit", &self.commit).field("len", &self.len).field("next", &self.next);
        shown.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_moment_is_read_as_text_and_in_microseconds() {
        for at in [json!("2026-11-21T05:00:00.000Z"), json!(1_795_237_200_000_000_u64)] {
            let view: AppReleaseBrief = serde_json::from_value(json!({"number": 1, "at": at})).unwrap();
            assert_eq!(view.at.as_deref(), Some("2026-11-21T05:00:00.000Z"));
        }
        let view: AppReleaseBrief = serde_json::from_value(json!({"at": null})).unwrap();
        assert_eq!(view.at, None);
    }

    #[test]
    fn a_process_is_read_as_its_region_tells_it() {
        let told = json!({"instance": 1, "state": "up", "pid": 7, "port": 4000, "restarts": 0, "memory_bytes": 5,
            "since_ms": 1_795_237_200_000_u64, "last_ending": null});
        let view: AppProcessView = serde_json::from_value(told).unwrap();
        assert_eq!(view.since.as_deref(), Some("2026-11-21T05:00:00.000Z"));
        let again: AppProcessView = serde_json::from_value(serde_json::to_value(&view).unwrap()).unwrap();
        assert_eq!(again, view);
    }

    #[test]
    fn no_secret_is_logged_by_accident() {
        let keys =
            AppKeysView { application: "s3cret".into(), master: "s3cret".into(), ..Default::default() };
        let set = [("A".to_owned(), "s3cret".to_owned())].into();
        let settings = AppSettingsRequest { set, delete: Vec::new() };
        let database = AppDatabaseRequest { url: Some("s3cret".into()), ..Default::default() };
        let certificate = AppCertificateRequest { chain: String::new(), key: "s3cret".into() };
        let own = AppKeysRequest { master: Some("s3cret".into()), application: None };
        let said = format!("{keys:?} {settings:?} {database:?} {certificate:?} {own:?}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}
