//! The embedded store's file as a person reads it. Reads only, also after a crash.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use farshore_core::store::Entry;
use redb::ReadableDatabase as _;

use crate::redb::open::{self, OpenError};
use crate::redb::{file::Access, tables};

/// What stands for a value that nobody should read over a shoulder.
const REDACTED: &str = "(secret)";

/// Why a dump ended.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The store cannot be opened, or is in use.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store was opened and cannot be read.
    #[error("{0}")]
    Read(String),
    /// The output cannot be written.
    #[error("cannot write the dump: {0}")]
    Write(#[from] io::Error),
}

/// Prints the store in the file `path`: its revision, then a line `revision  key  value` per key, under a heading per
/// first path segment. Secrets are not printed. Changes nothing; refuses a store that a node has open.
pub fn dump(path: &Path, out: &mut impl Write) -> Result<(), DumpError> {
    let database = open::rehearse(path, Access::Shared)?;
    let listed = database.begin_read().map_err(redb::Error::from).and_then(|txn| tables::list(&txn, ""));
    let (entries, revision) =
        listed.map_err(|error| DumpError::Read(open::read_error(path, &error).to_string()))?;
    writeln!(out, "# {} at revision {}, {} keys", path.display(), revision.0, entries.len())?;
    let mut heading = None;
    for entry in &entries {
        let segment = entry.key.split('/').next();
        if heading != segment {
            heading = segment;
            writeln!(out, "\n## {}", printable(segment.unwrap_or_default()))?;
        }
        writeln!(out, "{}", line(entry))?;
    }
    Ok(())
}

fn line(entry: &Entry) -> String {
    let value = if is_secret(&entry.key) { REDACTED.to_owned() } else { shown(&entry.value) };
    format!("{:>8}  {}  {value}", entry.revision.0, printable(&entry.key))
}

fn is_secret(key: &str) -> bool {
    key.contains("/secret/") || key.contains("tokens/") || key.starts_with("secret/")
}

/// JSON on one line, other text as it is, other bytes in hexadecimal.
fn shown(value: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(value) else { return hex(value) };
    if text.contains('\n')
        && let Ok(json) = serde_json::from_str::<serde_json::Value>(text)
    {
        return printable(&json.to_string());
    }
    printable(text)
}

/// What a terminal would obey is escaped.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char.is_control() {
            true => out.extend(char.escape_default()),
            false => out.push(char),
        }
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use farshore_core::store::Revision;

    fn check(key: &str, value: &[u8], expected: &str) {
        let entry = Entry { key: key.into(), value: value.to_vec(), revision: Revision(7) };
        assert_eq!(line(&entry), format!("       7  {expected}"));
    }

    #[test]
    fn a_line_is_one_line_and_keeps_secrets() {
        check("a/b", br#"{"n":18446744073709551615,"a":1}"#, r#"a/b  {"n":18446744073709551615,"a":1}"#);
        check("a/b", b"{\n \"a\": [1,\n 2] }", r#"a/b  {"a":[1,2]}"#);
        check("a/b", b"two\nlines\x1b[31m", r"a/b  two\nlines\u{1b}[31m");
        check("a/b", &[0, 255, 16], "a/b  0x00ff10");
        check("a/b", b"", "a/b  ");
        check("hub/secret/x", b"key", "hub/secret/x  (secret)");
        check("secret/x", b"key", "secret/x  (secret)");
        check("tokens/x", b"key", "tokens/x  (secret)");
    }
}
