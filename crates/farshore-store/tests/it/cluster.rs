//! Three real etcd members, for the tests that need them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use farshore_store::etcd::local::Members;
use farshore_store::etcd::{EtcdOptions, EtcdStore};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The members' names.
pub(crate) const NAMES: [&str; 3] = ["paris", "oslo", "bergen"];

/// For tests in which nothing fails: a busy machine syncs slowly.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);

/// For tests in which members fail: as in production.
pub(crate) const BRISK: Duration = Duration::from_secs(2);

/// Whatever a test waits for comes, or the test has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

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

    pub(crate) fn store(&self, call_timeout: Duration) -> EtcdStore {
        self.store_at(&self.members.endpoints(), "/farshore/", call_timeout)
    }

    pub(crate) fn store_at(&self, endpoints: &[String], prefix: &str, call_timeout: Duration) -> EtcdStore {
        let options = EtcdOptions {
            endpoints: endpoints.to_vec(),
            prefix: prefix.into(),
            call_timeout,
            ..EtcdOptions::default()
        };
        EtcdStore::connect(options).unwrap()
    }

    pub(crate) fn signal(&self, name: &str, signal: Signal) {
        let pid = i32::try_from(self.members.pid(name).unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// The member that leads, by what `etcdctl endpoint status` asks too.
    pub(crate) async fn leader(&self) -> String {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            for name in self.members.names() {
                if self.members.pid(&name).is_some() && self.leads(&name) {
                    return name;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no member leads");
    }

    fn leads(&self, name: &str) -> bool {
        let Some(status) = ask(&self.members.endpoint(name), "/v3/maintenance/status") else { return false };
        status["leader"].is_string() && status["leader"] == status["header"]["member_id"]
    }
}

/// One question to one member, without any of the code under test.
fn ask(endpoint: &str, path: &str) -> Option<serde_json::Value> {
    let address = endpoint.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(BRISK)).unwrap();
    let request = format!("POST {path} HTTP/1.0\r\nContent-Length: 2\r\n\r\n{{}}");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}
