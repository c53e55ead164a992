//! What import and export jobs do with files: measured on the way, so that a job shows how far it is and can be cancelled.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::behind::Held;
use super::hub::Hub;
use super::job::{Job, Stopped};
use crate::import::{self, Keys};

/// What is said of an import that another region will not have as a whole.
const MOVED: &str = "the hub moved to another region meanwhile: import the file again there";

/// Everything into a file, which appears when it is whole.
pub(super) async fn export(hub: &Hub, job: &Arc<Job>, to: &Path, with_keys: bool) -> Result<(), Stopped> {
    let (registry, to, measured) = (hub.registry().clone(), to.to_owned(), Arc::clone(job));
    let counts = registry.counts();
    let keys = if with_keys { Keys::Included } else { Keys::Excluded };
    let writing = tokio::task::spawn_blocking(move || {
        let part = part_of(&to);
        let file = BufWriter::new(private(&part)?);
        let of = counts.devices + counts.modules;
        let mut out = Measured { inner: file, job: measured, held: None, done: 0, of };
        let written = import::export(&registry, &mut out, keys).and_then(|count| {
            out.inner.get_ref().sync_all()?;
            fs::rename(&part, &to)?;
            Ok(count)
        });
        if written.is_err() {
            // The error that matters is the one before.
            let _ = fs::remove_file(&part);
        }
        written
    });
    let count = stopped(writing.await.unwrap_or_else(|error| Err(io::Error::other(error))), job)?;
    job.tell(json!({ "exported": count }));
    Ok(())
}

/// A file into the registry. What could not be imported is in the file of errors, which is empty if there is nothing.
pub(super) async fn import(hub: &Hub, job: &Arc<Job>, from: &Path, errors: &Path) -> Result<(), Stopped> {
    let failed = |what: &Path, error: io::Error| Stopped::Failed(format!("{}: {error}", what.display()));
    let file = File::open(from).map_err(|error| failed(from, error))?;
    let of = file.metadata().map_err(|error| failed(from, error))?.len();
    let held: Arc<dyn Held> = hub.hold().map_err(|error| Stopped::Failed(error.message))?.into();
    let lines = Measured { inner: file, job: Arc::clone(job), held: Some(Arc::clone(&held)), done: 0, of };
    let mut log = BufWriter::new(private(errors).map_err(|error| failed(errors, error))?);
    let imported = import::import(hub.registry(), BufReader::new(lines), &mut log).await;
    let imported = stopped(imported.map_err(io::Error::other), job)?;
    job.tell(json!(imported));
    if held.may_answer() { Ok(()) } else { Err(Stopped::Failed(MOVED.to_owned())) }
}

/// A failure after somebody cancelled the job is the cancellation.
fn stopped<T>(result: io::Result<T>, job: &Job) -> Result<T, Stopped> {
    result.map_err(|error| match job.check() {
        Err(Stopped::Cancelled) => Stopped::Cancelled,
        _ => Stopped::Failed(error.to_string()),
    })
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// A file that only this user reads: there are keys in it.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// A reader or writer that tells its job how far it is, and ends when the job is cancelled or the hub serves no more.
struct Measured<T> {
    inner: T,
    job: Arc<Job>,
    /// The right to change something, where something is changed.
    held: Option<Arc<dyn Held>>,
    done: u64,
    of: u64,
}

impl<T> Measured<T> {
    fn advance(&mut self, by: u64) -> io::Result<()> {
        self.done += by;
        if self.held.as_ref().is_some_and(|held| !held.may_answer()) {
            return Err(io::Error::other(MOVED));
        }
        self.job.advance(self.done, self.of).map_err(|stopped| io::Error::other(stopped.to_string()))
    }
}

impl<T: Read> Read for Measured<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.advance(count as u64)?;
        Ok(count)
    }
}

impl<T: Write> Write for Measured<T> {
    /// Counts lines: their ends are written by themselves.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes == b"\n" {
            self.advance(1)?;
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
