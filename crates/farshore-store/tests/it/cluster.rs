//! Three real etcd members, for the tests that need them.

use std::time::Duration;

use farshore_store::etcd::EtcdOptions;
use farshore_store::etcd::local::Members;
use tempfile::TempDir;

/// The members' names.
pub(crate) const NAMES: [&str; 3] = ["paris", "oslo", "bergen"];

/// A busy test machine syncs slowly; what is tested is never how fast it is.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Members that take their directory with them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) members: Members,
    _directory: TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let members = Members::start(directory.path(), &NAMES, None).await.unwrap();
        Self { members, _directory: directory }
    }

    pub(crate) fn options(&self, prefix: &str) -> EtcdOptions {
        EtcdOptions {
            endpoints: self.members.endpoints(),
            prefix: prefix.into(),
            call_timeout: CALL_TIMEOUT,
            ..EtcdOptions::default()
        }
    }
}
