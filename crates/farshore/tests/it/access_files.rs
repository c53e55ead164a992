//! Secrets and the files of real nodes: logs, stores, ledgers.

use std::path::{Path, PathBuf};
use std::process::Output;

use farshore::up::{Cluster, ClusterOptions};
use tokio::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_farshore");

async fn farshore(data: &Path, token_file: &Path, line: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(line.split(' ')).arg("--token-file").arg(token_file);
    command.env("FARSHORE_DATA", data).output().await.unwrap()
}

/// Every file under `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

fn holds(path: &Path, text: &str) -> bool {
    // A socket cannot be read, and holds nothing.
    let Ok(bytes) = std::fs::read(path) else { return false };
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_a_node_holds_a_secret_but_the_token_file() {
    let dir = tempfile::tempdir().unwrap();
    let (data, own) = (dir.path().join("data"), dir.path().join("own"));
    let options = ClusterOptions { program: Some(PROGRAM.into()), ..ClusterOptions::new(&data) };
    let mut cluster = Cluster::start(options).await.unwrap();
    let token_file = data.join("token");
    let made = farshore(&data, &token_file, "token create ada --role contributor").await;
    assert!(made.status.success(), "{made:?}");
    let secret = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    std::fs::write(&own, &secret).unwrap();
    let created = farshore(&data, &own, "machine create web-1 --region paris --disk root=1M").await;
    assert!(created.status.success(), "{created:?}");
    let refused = farshore(&data, &own, "token list").await;
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    std::fs::write(&own, &secret[..secret.len() - 1]).unwrap();
    let mistyped = farshore(&data, &own, "status").await;
    assert!(!mistyped.status.success());
    cluster.stop().await.unwrap();

    let all = files(&data);
    assert!(all.iter().any(|path| holds(path, "made the token ada")), "the audit is in the store's file");
    assert!(all.iter().any(|path| holds(path, "refused a token")), "the log is there");
    let bootstrap = std::fs::read_to_string(&token_file).unwrap();
    for path in all.iter().filter(|path| **path != token_file) {
        for secret in [&secret[..secret.len() - 1], bootstrap.trim()] {
            let end = &secret[secret.len() - 16..];
            assert!(!holds(path, end), "{} holds a secret", path.display());
        }
    }
}
