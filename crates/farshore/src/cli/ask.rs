//! Prompts: never without a terminal; and secrets that stand in a file.

use std::io::{IsTerminal, Write};
use std::path::Path;

use super::Global;
use super::exit::{FAILED, Failure};

/// Asks whether to go on. `--yes` answers it; without a terminal it is an error, never a hang.
pub(super) fn confirm(global: &Global, what: &str) -> Result<(), Failure> {
    if global.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{what}\nthere is no terminal to ask on: add --yes to go on")));
    }
    eprint!("{what}\nGo on? [y/N] ");
    // Where stderr is closed nobody sees the question, and the answer still counts.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::failed(format!("cannot read the answer: {error}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure { code: FAILED, text: "not confirmed: nothing was changed".to_owned() }),
    }
}

/// A secret as it is, or from `@FILE`: then it stands in no list of processes.
pub(super) fn secret(option: &str, text: &str) -> Result<String, Failure> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let read = std::fs::read_to_string(Path::new(path));
    let text = read.map_err(|error| Failure::usage(format!("--{option}: cannot read {path}: {error}")))?;
    match text.trim() {
        "" => Err(Failure::usage(format!("--{option}: {path} is empty"))),
        text => Ok(text.to_owned()),
    }
}
