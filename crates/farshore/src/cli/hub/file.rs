//! `farshore hub import` and `export`: files of any length, a piece at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use farshore_core::ids::Name;
use serde::Serialize;

use super::super::client::Client;
use super::super::exit::{FAILED, Failure};
use super::super::{Global, show};
use super::patience::{Patience, Until};
use super::progress::Progress;
use super::segment;
use crate::api::views::{HubExportView, HubImportRequest, HubImportView, HubLineError};

/// Lines that are sent at once; as many as a hub takes.
const LINES_MAX: usize = 1000;
/// Bytes that are sent at once, and the longest line: with quotes around it, it is what one region takes from another.
const BYTES_MAX: usize = 512 * 1024;
/// Errors that are shown; a file is for more.
const SHOWN_MAX: usize = 20;
/// A failover of a large hub is over by then.
const PATIENCE: Duration = Duration::from_secs(600);
/// What a line can ask for.
const MODES: [&str; 9] = [
    "createOrUpdate",
    "create",
    "update",
    "updateIfMatchETag",
    "createOrUpdateIfMatchETag",
    "delete",
    "deleteIfMatchETag",
    "updateTwin",
    "updateTwinIfMatchETag",
];

#[derive(Debug, Args)]
pub(in crate::cli) struct ImportArgs {
    /// The hub's name
    name: Name,
    /// The file, a line of JSON for each device or module; - for stdin
    file: PathBuf,
    /// What is done with lines that do not say (importMode)
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(MODES))]
    mode: Option<String>,
    /// Write what is wrong to this file, a line of JSON for each wrong line
    #[arg(long, value_name = "FILE")]
    errors: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// The hub's name
    name: Name,
    /// The file, which is replaced once all is in it; stdout if absent
    file: Option<PathBuf>,
    /// Leave keys out: what is imported from it elsewhere gets new ones
    #[arg(long)]
    no_keys: bool,
}

/// What an import did, for programs.
#[derive(Debug, Default, Serialize)]
struct Imported {
    lines: u64,
    applied: u64,
    failed: u64,
    errors: Vec<HubLineError>,
}

pub(super) async fn import(global: &Global, client: &Client, args: &ImportArgs) -> Result<(), Failure> {
    let mut lines = Lines::open(&args.file)?;
    let mut errors = Errors::open(args.errors.as_deref())?;
    let mut done = Imported::default();
    let mut patience = Patience::new(Until::Over(PATIENCE));
    let mut progress = Progress::new();
    while let Some(batch) = lines.next_batch()? {
        done.lines += batch.count;
        let (first_line, mode) = (batch.first, args.mode.clone());
        let request = HubImportRequest { lines: batch.lines, first_line, mode };
        let answer = send(client, &args.name, &request, &mut patience).await;
        let answer = answer.map_err(|failure| Failure {
            text: format!(
                "{}\nnothing of line {first_line} and after it is imported, as far as is known: import the file again, which changes \
                 nothing that is there already",
                failure.text
            ),
            ..failure
        })?;
        done.applied += answer.applied;
        done.failed += (batch.bad.len() + answer.errors.len()) as u64;
        let mut wrong = batch.bad;
        wrong.extend(answer.errors);
        wrong.sort_by_key(|error| error.line);
        progress.end();
        for error in wrong {
            errors.note(&error)?;
            if done.errors.len() < LINES_MAX {
                done.errors.push(error);
            }
        }
        progress.tell(|| format!("{} lines: {} applied, {} wrong", done.lines, done.applied, done.failed));
    }
    progress.end();
    errors.end(done.failed)?;
    show::print(global, &done, |done| {
        format!("{} lines: {} applied, {} wrong", done.lines, done.applied, done.failed)
    })?;
    match done.failed {
        0 => Ok(()),
        1 => Err(Failure { code: FAILED, text: "1 line was not imported; the others were".to_owned() }),
        many => {
            Err(Failure { code: FAILED, text: format!("{many} lines were not imported; the others were") })
        }
    }
}

async fn send(
    client: &Client,
    name: &Name,
    request: &HubImportRequest,
    patience: &mut Patience,
) -> Result<HubImportView, Failure> {
    // Blank lines count, and are not worth a question.
    if request.lines.iter().all(String::is_empty) {
        return Ok(HubImportView::default());
    }
    loop {
        match client.post(&format!("/hubs/{name}/import"), request).await {
            Ok(view) => {
                patience.answered();
                return Ok(view);
            }
            Err(failure) => patience.wait(failure).await?,
        }
    }
}

/// A piece of a file.
#[derive(Debug, Default)]
struct Batch {
    /// The number of its first line.
    first: u64,
    /// Its lines; empty where a line is blank, or cannot be sent.
    lines: Vec<String>,
    /// Lines that are not blank.
    count: u64,
    bad: Vec<HubLineError>,
}

/// The lines of a file.
struct Lines {
    from: Box<dyn BufRead>,
    path: PathBuf,
    /// Lines that were read.
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, Failure> {
        let from: Box<dyn BufRead> = if path == Path::new("-") {
            Box::new(BufReader::new(io::stdin()))
        } else {
            let file = File::open(path)
                .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
            Box::new(BufReader::new(file))
        };
        Ok(Self { from, path: path.to_owned(), number: 0 })
    }

    /// The next piece; `None`: that was all.
    fn next_batch(&mut self) -> Result<Option<Batch>, Failure> {
        let mut batch = Batch { first: self.number + 1, ..Batch::default() };
        let mut bytes = 0;
        while batch.lines.len() < LINES_MAX && bytes < BYTES_MAX {
            let line = next_line(&mut self.from).map_err(|error| {
                Failure::failed(format!(
                    "cannot read {} after line {}: {error}; what came before is imported",
                    self.path.display(),
                    self.number
                ))
            })?;
            let Some(line) = line else { break };
            self.number += 1;
            let text = match line {
                Line::Whole(bytes) => readable(bytes, self.number),
                Line::TooLong => Err(format!("it is longer than {BYTES_MAX} bytes")),
            };
            let text = text.unwrap_or_else(|why| {
                batch.bad.push(HubLineError { line: self.number, id: None, why });
                batch.count += 1;
                String::new()
            });
            batch.count += u64::from(!text.is_empty());
            bytes += text.len();
            batch.lines.push(text);
        }
        Ok((!batch.lines.is_empty()).then_some(batch))
    }
}

/// Without what editors add.
fn readable(bytes: Vec<u8>, number: u64) -> Result<String, String> {
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = if number == 1 { text.strip_prefix('\u{feff}').unwrap_or(&text) } else { &text };
    Ok(text.trim().to_owned())
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
}

/// Reads a line, of which no more is kept than can be sent.
fn next_line(from: &mut impl BufRead) -> io::Result<Option<Line>> {
    let (mut line, mut whole, mut any) = (Vec::new(), true, false);
    loop {
        let available = match from.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        };
        if available.is_empty() {
            break;
        }
        any = true;
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = end.map_or(available, |end| &available[..end]);
        let room = BYTES_MAX - line.len();
        whole &= part.len() <= room;
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = end.map_or(available.len(), |end| end + 1);
        from.consume(used);
        if end.is_some() {
            break;
        }
    }
    Ok(any.then_some(if whole { Line::Whole(line) } else { Line::TooLong }))
}

/// Where wrong lines are told of.
struct Errors {
    file: Option<(PathBuf, BufWriter<File>)>,
    shown: usize,
}

impl Errors {
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let file = path.map(|path| match File::create(path) {
            Ok(file) => Ok((path.to_owned(), BufWriter::new(file))),
            Err(error) => Err(Failure::usage(format!("--errors: cannot write {}: {error}", path.display()))),
        });
        Ok(Self { file: file.transpose()?, shown: 0 })
    }

    fn note(&mut self, error: &HubLineError) -> Result<(), Failure> {
        if let Some((path, file)) = &mut self.file {
            let written = serde_json::to_writer(&mut *file, error)
                .map_err(io::Error::from)
                .and_then(|()| file.write_all(b"\n"));
            return written.map_err(|error| unwritten(path, &error));
        }
        if self.shown < SHOWN_MAX {
            let of = error.id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
            eprintln!("line {}{of}: {}", error.line, error.why);
        }
        self.shown += 1;
        Ok(())
    }

    fn end(self, failed: u64) -> Result<(), Failure> {
        match self.file {
            Some((path, mut file)) => {
                file.flush().map_err(|error| unwritten(&path, &error))?;
                if failed > 0 {
                    eprintln!("what is wrong is in {}", path.display());
                }
            }
            None if self.shown > SHOWN_MAX => {
                eprintln!("and {} more: --errors FILE keeps them all", self.shown - SHOWN_MAX);
            }
            None => {}
        }
        Ok(())
    }
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}; what came before is imported", path.display()))
}

/// What an export did, for programs.
#[derive(Debug, Serialize)]
struct Exported {
    exported: u64,
    file: String,
}

pub(super) async fn export(global: &Global, client: &Client, args: &ExportArgs) -> Result<(), Failure> {
    let Some(path) = args.file.as_deref().filter(|path| *path != Path::new("-")) else {
        return match copy(client, args, &mut BufWriter::new(io::stdout())).await {
            // Whoever read it has seen enough.
            Err(Ended::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(Ended::Output(error)) => Err(Failure::failed(format!("cannot write to stdout: {error}"))),
            Err(Ended::Failed(failure)) => Err(failure),
            Ok(_) => Ok(()),
        };
    };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let exported = export_to(client, args, &new, path).await;
    if exported.is_err() {
        // What is half written helps nobody; if it cannot be removed, its name says what it is.
        let _ = std::fs::remove_file(&new);
    }
    let done = Exported { exported: exported?, file: path.display().to_string() };
    show::print(global, &done, |done| format!("{} lines are in {}", done.exported, done.file))
}

/// Under another name until all is in it: a file of this name is whole.
async fn export_to(client: &Client, args: &ExportArgs, new: &Path, path: &Path) -> Result<u64, Failure> {
    let wrong = |error: io::Error| Failure::failed(format!("cannot write {}: {error}", new.display()));
    // Keys are in it.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(new);
    let mut out = BufWriter::new(file.map_err(wrong)?);
    let exported = copy(client, args, &mut out).await.map_err(|ended| match ended {
        Ended::Output(error) => wrong(error),
        Ended::Failed(failure) => failure,
    })?;
    out.into_inner().map_err(|error| wrong(error.into_error()))?.sync_all().map_err(wrong)?;
    std::fs::rename(new, path)
        .map_err(|error| Failure::failed(format!("cannot replace {}: {error}", path.display())))?;
    Ok(exported)
}

/// Why an export ended early.
enum Ended {
    Output(io::Error),
    Failed(Failure),
}

async fn copy(client: &Client, args: &ExportArgs, out: &mut impl Write) -> Result<u64, Ended> {
    let mut patience = Patience::new(Until::Over(PATIENCE));
    let mut progress = Progress::new();
    let (mut exported, mut after) = (0, None::<String>);
    loop {
        let mut path = format!("/hubs/{}/export?limit={LINES_MAX}&keys={}", args.name, !args.no_keys);
        if let Some(after) = &after {
            path.push_str(&format!("&after={}", segment(after)));
        }
        let page: HubExportView = match client.get(&path).await {
            Ok(page) => page,
            Err(failure) => {
                progress.end();
                patience.wait(failure).await.map_err(Ended::Failed)?;
                continue;
            }
        };
        patience.answered();
        for line in &page.lines {
            out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).map_err(Ended::Output)?;
        }
        exported += page.lines.len() as u64;
        progress.tell(|| format!("{exported} lines"));
        after = page.next;
        if after.is_none() {
            progress.end();
            out.flush().map_err(Ended::Output)?;
            return Ok(exported);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Lines {
        Lines { from: Box::new(io::Cursor::new(text.to_vec())), path: "test".into(), number: 0 }
    }

    #[test]
    fn lines_keep_their_numbers() {
        let long = "x".repeat(BYTES_MAX + 1);
        let text = format!("\u{feff}{{\"id\":\"a\"}}\r\n\n{long}\n{{\"id\":\"b\"}}");
        let mut all = lines(text.as_bytes());
        let batch = all.next_batch().unwrap().unwrap();
        assert_eq!((batch.first, batch.count), (1, 3));
        assert_eq!(batch.lines, ["{\"id\":\"a\"}", "", "", "{\"id\":\"b\"}"]);
        assert_eq!(batch.bad.len(), 1);
        assert_eq!(batch.bad[0].line, 3);
        assert!(all.next_batch().unwrap().is_none());
    }

    #[test]
    fn a_long_file_comes_in_pieces() {
        let mut all = lines("{}\n".repeat(2500).as_bytes());
        let firsts: Vec<(u64, usize)> = std::iter::from_fn(|| all.next_batch().unwrap())
            .map(|batch| (batch.first, batch.lines.len()))
            .collect();
        assert_eq!(firsts, [(1, 1000), (1001, 1000), (2001, 500)]);
        let wide = format!("{}\n", "y".repeat(BYTES_MAX / 2)).repeat(5);
        let mut all = lines(wide.as_bytes());
        let counts: Vec<usize> =
            std::iter::from_fn(|| all.next_batch().unwrap()).map(|batch| batch.lines.len()).collect();
        assert_eq!(counts, [2, 2, 1]);
    }

    #[test]
    fn what_is_no_text_is_a_wrong_line() {
        let batch = lines(b"\xff\xfe\n{}\n").next_batch().unwrap().unwrap();
        assert_eq!((batch.bad[0].line, batch.bad[0].why.as_str()), (1, "it is not UTF-8"));
        assert_eq!(batch.lines, ["", "{}"]);
    }
}
