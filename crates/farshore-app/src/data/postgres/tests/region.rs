//! A region as a process of its own, which is killed as a machine is: at once, as a whole.
//!
//! The process is this test program again, told by its environment to serve a database; it answers a replica's requests,
//! which it reads line by line.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use super::super::server::end_leftovers;
use super::*;

const DIR: &str = "FARSHORE_TEST_DATABASE_DIR";
/// Asks whether commits wait for the other region.
const SETTLED: &str = "settled?";
const SYNCHRONOUS: &str = "FARSHORE_TEST_SYNCHRONOUS";

/// The other process.
struct Region {
    dir: PathBuf,
    child: Child,
    url: String,
    pipe: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

impl Region {
    async fn start(dir: &Path, synchronous: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture", "data::postgres::tests::region::serves_when_it_is_told_to"]);
        command.env(DIR, dir).env(SYNCHRONOUS, if synchronous { "yes" } else { "no" });
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = loop {
            let line = lines.next_line().await.unwrap().expect("the region starts");
            if let Some((_, url)) = line.split_once("url=") {
                break url.to_owned();
            }
        };
        let pipe = Mutex::new((child.stdin.take().unwrap(), lines));
        Self { dir: dir.to_owned(), child, url, pipe }
    }

    /// What a replica asks, and hears. None: the region is gone.
    async fn ship(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut pipe = self.pipe.lock().await;
        let (to, from) = &mut *pipe;
        to.write_all(format!("{}\n", STANDARD.encode(request)).as_bytes()).await.ok()?;
        let line = from.next_line().await.ok()??;
        Some(STANDARD.decode(line).unwrap())
    }

    async fn is_settled(&self) -> bool {
        let mut pipe = self.pipe.lock().await;
        let (to, from) = &mut *pipe;
        to.write_all(format!("{SETTLED}\n").as_bytes()).await.unwrap();
        from.next_line().await.unwrap().unwrap() == "true"
    }

    /// Takes in what the region sends until `enough`, or until it is gone.
    async fn follow(&self, replica: &dyn Replica, mut enough: impl FnMut(&dyn Replica) -> bool) {
        while !enough(replica) {
            let Some(answer) = self.ship(&replica.request()).await else { return };
            replica.apply(&answer).await.unwrap();
        }
    }

    /// Kills the process; on return nothing runs in the database's directory, and nothing of it was asked to end.
    async fn kill(&mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
        end_leftovers(&self.dir.join("data")).unwrap();
    }

    fn psql(&self) -> Command {
        let mut command = Command::new("psql");
        command.args([&self.url, "-qAtX", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn say(&self, sql: &str) -> String {
        let mut child = self.psql().spawn().unwrap();
        // Where the server is gone the client may end before it reads: then it answers nothing.
        let _ = child.stdin.take().unwrap().write_all(sql.as_bytes()).await;
        String::from_utf8(child.wait_with_output().await.unwrap().stdout).unwrap().trim().to_owned()
    }
}

/// Not a test by itself: what the other process does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_when_it_is_told_to() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let options = quick(std::env::var(SYNCHRONOUS).unwrap() == "yes");
    if !dir.exists() {
        create(&dir, &options).await.unwrap();
    }
    let live = open_live(&dir, Position::default(), options).await.unwrap();
    let url = live.env().into_iter().find(|(key, _)| key == "DATABASE_URL").unwrap().1;
    println!("url={url}");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        if line == SETTLED {
            println!("{}", live.is_settled());
            continue;
        }
        let request = STANDARD.decode(line).unwrap();
        let answer = live.ship(&request, Duration::from_millis(300)).await.unwrap();
        println!("{}", STANDARD.encode(answer));
    }
}

/// A client that inserts row after row, and hears of each that it was committed.
struct Writer {
    child: Child,
    acknowledged: Lines<BufReader<ChildStdout>>,
    last: u64,
}

impl Writer {
    async fn start(region: &Region) -> Self {
        let mut child = region.psql().spawn().unwrap();
        let rows: String =
            (1..20_000).map(|n| format!("INSERT INTO todo VALUES ({n}) RETURNING n;\n")).collect();
        let mut to = child.stdin.take().unwrap();
        tokio::spawn(async move { to.write_all(rows.as_bytes()).await });
        let acknowledged = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, acknowledged, last: 0 }
    }

    async fn until(&mut self, n: u64) {
        while self.last < n {
            let line = self.acknowledged.next_line().await.unwrap().expect("the client goes on");
            self.last = line.parse().unwrap();
        }
    }

    /// The last row that it was told is committed.
    async fn end(mut self) -> u64 {
        while let Ok(Some(line)) = self.acknowledged.next_line().await {
            self.last = line.parse().unwrap();
        }
        self.child.wait().await.unwrap();
        self.last
    }
}

async fn restored(replica: &dyn Replica, into: &Path) -> Arc<dyn Live> {
    let position = replica.restore(into).await.unwrap();
    open_live(into, position, quick(false)).await.unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_in_synchronous_mode_is_there_after_the_region_is_killed() {
    let place = tempfile::tempdir().unwrap();
    let mut region = Region::start(&place.path().join("paris"), true).await;
    let replica = open_replica(&place.path().join("replica")).await.unwrap();
    region.say("CREATE TABLE todo (n bigint PRIMARY KEY)").await;
    region.follow(&*replica, |replica| replica.is_whole()).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !region.is_settled().await {
        assert!(tokio::time::Instant::now() < deadline, "commits never wait");
        let mut is_first = true;
        region.follow(&*replica, |_| !std::mem::take(&mut is_first)).await;
    }
    let mut writer = Writer::start(&region).await;
    tokio::select! {
        () = writer.until(60) => {}
        () = region.follow(&*replica, |_| false) => panic!("the region lives"),
    }
    region.kill().await;
    let acknowledged = writer.end().await;
    assert!(acknowledged >= 60);
    let live = restored(&*replica, &place.path().join("oslo")).await;
    let rows: u64 = psql(&*live, "SELECT count(*) FROM todo").await.parse().unwrap();
    let last: u64 = psql(&*live, "SELECT max(n) FROM todo").await.parse().unwrap();
    assert!(rows == last && rows >= acknowledged, "{acknowledged} acknowledged, {rows} there");
    live.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_lost_in_asynchronous_mode_is_counted_exactly_when_the_old_source_is_seen() {
    let place = tempfile::tempdir().unwrap();
    let paris = place.path().join("paris");
    let mut region = Region::start(&paris, false).await;
    let replica = open_replica(&place.path().join("replica")).await.unwrap();
    region.say("CREATE TABLE todo (n bigint PRIMARY KEY)").await;
    region.follow(&*replica, |replica| replica.is_whole()).await;
    let mut writer = Writer::start(&region).await;
    writer.until(50).await;
    region.follow(&*replica, |replica| replica.position().commits >= 40).await;
    // It may have been ahead of what this client has heard: what is lost must still be written.
    writer.until(replica.position().commits + 50).await;
    region.kill().await;
    let acknowledged = writer.end().await;

    let kept = replica.position();
    let live = restored(&*replica, &place.path().join("oslo")).await;
    let rows: u64 = psql(&*live, "SELECT count(*) FROM todo").await.parse().unwrap();
    assert_eq!(kept.commits, rows + 1, "the table, and the rows");
    live.stop().await.unwrap();

    let loss = commits_after(&paris, kept).await.unwrap();
    assert_eq!(loss.commits, waldump_commits(&paris, kept.bytes).await);
    assert!(
        loss.commits + rows >= acknowledged && loss.bytes > 0 && loss.seconds > 0.0,
        "{loss:?} {acknowledged}"
    );
    let old = open_live(&paris, Position::default(), quick(false)).await.unwrap();
    let had: u64 = psql(&*old, "SELECT count(*) FROM todo").await.parse().unwrap();
    assert_eq!(loss.commits, had - rows);
    old.stop().await.unwrap();
}

/// What PostgreSQL's own reader of logs says.
async fn waldump_commits(dir: &Path, from: u64) -> u64 {
    let mut command = Programs::find().unwrap().command("pg_waldump");
    command.arg("-p").arg(dir.join("data/pg_wal")).args([
        "-r",
        "Transaction",
        "-s",
        &records::lsn_text(from),
    ]);
    let output = command.output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| line.contains("desc: COMMIT")).count() as u64
}

#[tokio::test]
async fn the_server_ends_when_its_node_is_killed() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("paris");
    let mut region = Region::start(&dir, false).await;
    assert_eq!(region.say("SELECT 1").await, "1");
    region.child.start_kill().unwrap();
    region.child.wait().await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !region.say("SELECT 1").await.is_empty() || dir.join("data/postmaster.pid").exists() {
        assert!(tokio::time::Instant::now() < deadline, "the server goes on");
    }
}
