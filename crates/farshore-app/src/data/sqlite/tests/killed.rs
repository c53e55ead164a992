//! Real processes, really killed: the app and the node that looks after its database end at any moment.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// How often both are killed.
const ROUNDS: u64 = 6;
const NODE_DIR: &str = "FARSHORE_TEST_NODE_DIR";
/// Writes numbered rows, and says each number after its commit has returned.
const APP: &str = "
import os, sqlite3, time
db = sqlite3.connect(os.environ['DATABASE_FILE'], isolation_level=None, timeout=30)
db.execute('PRAGMA synchronous=' + os.environ['SYNCHRONOUS'])
db.execute('CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, v)')
n = db.execute('SELECT coalesce(max(n), 0) FROM t').fetchone()[0]
while True:
    n += 1
    db.execute('INSERT INTO t VALUES (?, hex(randomblob(?)))', (n, 50 + n * 37 % 600))
    print(n, flush=True)
    time.sleep(0.001)
";

/// An app, and the last number that it said.
pub(super) struct App {
    child: Child,
    said: Arc<AtomicU64>,
    reader: std::thread::JoinHandle<()>,
}

impl App {
    pub(super) fn start(dir: &Path, synchronous: &str) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", APP])
            .env("DATABASE_FILE", database_file(dir))
            .env("SYNCHRONOUS", synchronous)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            // A line that the kill has cut says less than it meant.
            for number in lines.map_while(Result::ok).filter_map(|line| line.parse().ok()) {
                counter.store(number, Ordering::SeqCst);
            }
        });
        Self { child, said, reader }
    }

    pub(super) fn said(&self) -> u64 {
        self.said.load(Ordering::SeqCst)
    }

    pub(super) fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
        self.said.load(Ordering::SeqCst)
    }
}

/// This test's own program as a node of its own: a line in hexadecimal is a request, and is answered by one.
struct Node {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Node {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["data::sqlite::tests::killed::node", "--exact", "--ignored", "--nocapture"])
            .env(NODE_DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut node = Self { child, requests, answers };
        node.line("open");
        node
    }

    /// The next line that begins so, without that.
    fn line(&mut self, begins: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the node ended");
            if let Some(rest) = line.trim_end().strip_prefix(begins) {
                return rest.to_owned();
            }
        }
    }

    fn asks(&mut self, line: &str) -> String {
        writeln!(self.requests, "{line}").unwrap();
        self.line("= ")
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Not a test: the node that [`both_are_killed_and_nothing_confirmed_is_lost`] starts and kills.
#[test]
#[ignore = "run by another test"]
fn node() {
    let Ok(dir) = std::env::var(NODE_DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let live = open_live(Path::new(&dir), Position::default(), SMALL).await.unwrap();
        println!("\nopen");
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let said = match line.as_str() {
                "settled" => live.is_settled().to_string(),
                request => hex(&live.ship(&unhex(request), Duration::from_millis(50)).await.unwrap()),
            };
            println!("\n= {said}");
        }
    });
}

/// The numbers in a restored database: every one from 1 to the last.
pub(super) fn prefix(dir: &Path) -> u64 {
    let (count, last): (u64, u64) = app(dir)
        .query_row("SELECT count(*), coalesce(max(n), 0) FROM t", [], |row| {
            Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs()))
        })
        .unwrap();
    assert_eq!(count, last, "no row is left out");
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_are_killed_and_nothing_confirmed_is_lost() {
    let home = tempfile::tempdir().unwrap();
    let source = home.path().join("source");
    create(&source).await.unwrap();
    // However late the app's first process comes.
    app(&source).execute_batch("CREATE TABLE t(n INTEGER PRIMARY KEY, v)").unwrap();
    let replica = open_replica(&home.path().join("replica")).await.unwrap();
    let mut committed = 0;
    for round in 1..=ROUNDS {
        let mut node = Node::start(&source);
        let app = App::start(&source, "OFF");
        let mut confirmed = 0;
        // Each round ends elsewhere: while a snapshot is fetched, soon after it, or long after.
        let exchanges = [3, 60, 25, 150, 7, 90][round as usize % 6];
        for _ in 0..exchanges {
            // Whatever was acknowledged before a moment when all is settled is durable at the replica.
            let said = app.said();
            if node.asks("settled") == "true" {
                confirmed = confirmed.max(said);
            }
            let answer = node.asks(&hex(&replica.request()));
            replica.apply(&unhex(&answer)).await.unwrap();
        }
        node.kill();
        committed = app.kill().max(committed);
        if replica.is_whole() {
            let into = home.path().join(format!("restored-{round}"));
            replica.restore(&into).await.unwrap();
            let rows = prefix(&into);
            assert!(rows >= confirmed, "{rows} rows, {confirmed} were confirmed");
            assert!(rows <= committed + 1, "a commit whose acknowledgement the kill has cut, at most");
        }
    }
    let live = open_live(&source, Position::default(), SMALL).await.unwrap();
    while !(replica.is_whole() && live.is_settled()) {
        let answer = live.ship(&replica.request(), Duration::from_millis(10)).await.unwrap();
        replica.apply(&answer).await.unwrap();
    }
    let into = home.path().join("restored");
    replica.restore(&into).await.unwrap();
    assert!(prefix(&into) >= committed, "nothing that was acknowledged is skipped");
    assert_eq!(content(&into), content(&source));
}
