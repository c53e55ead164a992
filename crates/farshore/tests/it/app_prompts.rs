//! `farshore app migrate` on a terminal and without one: the words, the prompts, the exit status.

use std::io::Write;
use std::process::{Command, Stdio};

use farshore_core::store::Store;

use crate::app_sim::{Served, TOKEN, app, apps};

const PROGRAM: &str = env!("CARGO_BIN_EXE_farshore");
const QUESTION: &str = "Warning: this action will use the capacity from the app service 'todo-dr' and delete it and the host \
                        name for 'todo' may not resolve for up to 5 seconds. Do you want to migrate the app service 'todo'? [y/n]: ";

/// The arguments that find the control plane.
fn place(served: &Served) -> (tempfile::NamedTempFile, Vec<String>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{TOKEN}").unwrap();
    let path = file.path().display().to_string();
    (file, vec!["--api".to_owned(), served.url.clone(), "--token-file".to_owned(), path])
}

/// Types `answers` on a terminal; the exit status and what stood there.
async fn typed(served: &Served, line: &str, answers: &str) -> (i32, String) {
    let (file, place) = place(served);
    let (line, answers) = (format!("{PROGRAM} {line} {}", place.join(" ")), answers.to_owned());
    let run = move || {
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = script.spawn().expect("script is installed (util-linux)");
        let mut keyboard = child.stdin.take().unwrap();
        keyboard.write_all(answers.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        // A keyboard is not gone when the last key was pressed.
        drop(keyboard);
        let text = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
        (output.status.code().unwrap(), text)
    };
    let ended = tokio::task::spawn_blocking(run).await.unwrap();
    drop(file);
    ended
}

/// Without a terminal; the exit status, stdout and stderr.
async fn piped(served: &Served, line: &str) -> (i32, String, String) {
    let (file, place) = place(served);
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).chain(place).collect();
    let run = move || Command::new(PROGRAM).args(words).stdin(Stdio::null()).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    drop(file);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

async fn migrations(served: &Served) -> usize {
    served.apps.bench.store.list("migrations").await.unwrap().0.len()
}

/// Each of the parts stands in the text, one after the other.
fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let (_, after) =
            rest.split_once(part).unwrap_or_else(|| panic!("{part:?} is not there (any more) in:\n{text}"));
        rest = after;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_yes_migrates_and_says_so_line_by_line() {
    let served = Served::new(apps().await).await;
    served.apps.bench.sim.set_down("paris", true);
    let (code, text) = typed(&served, "app migrate todo todo-dr", "y\n").await;
    assert_eq!(code, 0, "{text}");
    in_order(
        &text,
        &[
            "info:    Executing command app migrate\n",
            "warn:    The scripts and settings of 'todo-dr' itself are not kept: farshore app export todo-dr saves them\n",
            "warn:    Region 'paris' of 'todo' does not answer",
            "with yes you say that it is down, which is recorded\n",
            QUESTION,
            "+ Performing migration\n",
            "+ Migration with id '",
            "' started.\n",
            "+ Cleaning up\n",
            "data:    region       oslo (was paris)\n",
            "info:    Migration complete.\n",
            "info:    app migrate command OK\n",
        ],
    );
    assert_eq!(served.control.item(&app("todo-dr")).await.unwrap(), None);
    let (code, out, err) = piped(&served, "app migrations").await;
    assert_eq!((code, out.contains("completed")), (0, true), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_changes_nothing_and_is_no_error() {
    let served = Served::new(apps().await).await;
    served.apps.bench.sim.set_down("paris", true);
    for answer in ["n\n", "\n", "no\n"] {
        let (code, text) = typed(&served, "app recover todo todo-dr", answer).await;
        assert_eq!(code, 0, "{text}");
        in_order(&text, &["app recover\n", QUESTION, "info:    Migration canceled with no changes made\n"]);
        assert!(!text.contains("Performing"), "{text}");
    }
    assert_eq!(migrations(&served).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_names_are_asked_for() {
    let served = Served::new(apps().await).await;
    served.apps.bench.sim.set_down("paris", true);
    let (code, text) = typed(&served, "app migrate", "todo\ntodo-dr\nn\n").await;
    assert_eq!(code, 0, "{text}");
    in_order(
        &text,
        &[
            "Name of the app service to migrate: ",
            "Name of the app service to use for capacity: ",
            QUESTION,
            "canceled",
        ],
    );
    let (code, text) = typed(&served, "app migrate", "Not A Name\n").await;
    assert_eq!((code, text.contains("is not valid")), (2, true), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_terminal_a_prompt_is_an_error_and_never_a_hang() {
    let served = Served::new(apps().await).await;
    served.apps.bench.sim.set_down("paris", true);
    for line in ["app migrate todo todo-dr", "app migrate todo", "app recover"] {
        let (code, _, err) = piped(&served, line).await;
        assert_eq!((code, err.contains("no terminal to ask on")), (2, true), "{line}: {err}");
    }
    assert_eq!(migrations(&served).await, 0);
    let (code, out, err) = piped(&served, "app migrate todo todo-dr --quiet").await;
    assert_eq!(code, 0, "{err}");
    let expected = "info:    Executing command app migrate\ninfo:    Migration complete.\ninfo:    app migrate command OK\n";
    assert_eq!(out, expected);
    assert!(!err.contains("[y/n]"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_before_anything_is_asked() {
    let served = Served::new(apps().await).await;
    let (code, text) = typed(&served, "app migrate todo todo-dr", "y\n").await;
    assert_eq!((code, text.contains("todo is healthy")), (3, true), "{text}");
    assert!(!text.contains("[y/n]"), "{text}");
    let (code, _, err) = piped(&served, "app migrate todo nobody -q").await;
    assert_eq!((code, err.contains("there is no app/nobody")), (3, true), "{err}");
    let (code, _, err) = piped(&served, "app recover todo todo-dr --yes --force --output json").await;
    assert_eq!(code, 0, "{err}");
}
