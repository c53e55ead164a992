//! An import that is killed has put down what it told of, a prefix of whole lines, and a repetition does the rest.

use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

const DIR: &str = "FARSHORE_TEST_IMPORT";
const LINES: u64 = 1500;
/// Every so-manieth line is broken, so that the import tells how far it is.
const BROKEN_EVERY: u64 = 10;

/// Lines so long that batches are short.
struct Lines {
    number: u64,
    text: io::Cursor<Vec<u8>>,
}

impl Lines {
    fn new() -> BufReader<Self> {
        BufReader::new(Self { number: 0, text: Cursor::default() })
    }
}

impl Read for Lines {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.text.position() == self.text.get_ref().len() as u64 && self.number < LINES {
            self.number += 1;
            let end = if self.number.is_multiple_of(BROKEN_EVERY) { "" } else { "}" };
            let (id, padding) = (id(self.number), "x".repeat(40_000));
            let text = format!(
                "{{\"id\":\"{id}\",\"tags\":{{\"n\":{}}},\"padding\":\"{padding}\"{end}\n",
                self.number
            );
            self.text = Cursor::new(text.into_bytes());
        }
        self.text.read(out)
    }
}

fn id(number: u64) -> String {
    format!("d{number:05}")
}

fn region() -> Region {
    Region::parse("oslo").unwrap()
}

/// Not a test by itself: the process that is killed.
#[tokio::test]
async fn child_that_imports_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let registry = Registry::open(Path::new(&dir), region()).unwrap();
    import(&registry, Lines::new(), &mut io::stderr()).await.unwrap();
}

/// Kills the import after so many errors were told; returns the highest line that was.
fn killed_after(dir: &Path, errors: usize) -> u64 {
    let name = "import::tests::killed::child_that_imports_until_it_is_killed";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let number = |line: String| serde_json::from_str::<Value>(&line).ok()?["line"].as_u64();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut told: Vec<u64> = lines.by_ref().filter_map(number).take(errors).collect();
    child.kill().unwrap();
    // What it had told before it was killed counts, too.
    told.extend(lines.filter_map(number));
    child.wait().unwrap();
    assert!(told.is_sorted(), "{told:?}");
    told.last().copied().unwrap_or(0)
}

#[tokio::test]
async fn what_was_told_is_there_after_a_kill_and_a_repetition_does_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    for errors in [1, 40] {
        let told = killed_after(dir.path(), errors);
        let registry = Registry::open(dir.path(), region()).unwrap();
        let made = registry.page(None, usize::MAX).unwrap();
        let good = (1..=LINES).filter(|number| !number.is_multiple_of(BROKEN_EVERY));
        for (number, device) in good.clone().zip(&made) {
            assert_eq!((device.key.to_string(), &device.tags["n"]), (id(number), &json!(number)), "a prefix");
        }
        assert!(
            good.filter(|number| *number <= told).count() <= made.len(),
            "{told} was told, {} made",
            made.len()
        );
        assert_eq!(registry.counts().devices, made.len() as u64);
    }
    let registry = Registry::open(dir.path(), region()).unwrap();
    let before = registry.counts().devices;
    let imported = import(&registry, Lines::new(), &mut io::sink()).await.unwrap();
    assert_eq!((imported.failed, imported.unchanged), (LINES / BROKEN_EVERY, before));
    assert_eq!(imported.created, LINES - imported.failed - before);
}
