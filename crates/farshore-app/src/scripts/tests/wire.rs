//! What clients other than people send.

use std::convert::Infallible;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use rustix::fs::{CWD, Mode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rig::{Rig, git, until, users_of};

const BASIC: &str = "Authorization: Basic YW5uOnRva2Vu";

/// Sends `head` and `body`, and returns the whole answer.
async fn raw(port: u16, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!("{head}\r\nHost: todo.scm\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_git_compresses_are_understood() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    // Enough branches of their own that a list of what is wanted is compressed.
    for count in 0..60 {
        let tree = git(&work, &["rev-parse", "HEAD^{tree}"]).await;
        let commit = git(&work, &["commit-tree", "-m", &count.to_string(), &tree]).await;
        git(&work, &["update-ref", &format!("refs/heads/b{count}"), &commit]).await;
    }
    git(&work, &["push", "-q", "origin", "--all"]).await;
    for version in ["0", "2"] {
        let (name, config) = (format!("copy{version}"), format!("protocol.version={version}"));
        git(rig.dir.path(), &["-c", &config, "clone", "-q", "--mirror", &rig.url(""), &name]).await;
        assert_eq!(
            git(&rig.path(&name), &["for-each-ref"]).await,
            git(&work, &["for-each-ref", "refs/heads"]).await
        );
    }
    assert!(rig.seen.lock().unwrap().contains("/git-upload-pack content-encoding: gzip"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_the_client_is_asked_for_them() {
    let rig = Rig::new().await;
    let answer = raw(rig.port, "GET /info/refs?service=git-upload-pack HTTP/1.1", b"").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.to_lowercase().contains("www-authenticate: basic realm=\"todo\""), "{answer}");
}

/// A push that begins, with this password.
fn begins(password: &str) -> http::Request<Empty<Bytes>> {
    let coded = STANDARD.encode(format!("ann:{password}"));
    let request = http::Request::get("/info/refs?service=git-receive-pack");
    request.header("Authorization", format!("Basic {coded}")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn a_flood_of_wrong_passwords_is_sent_away_and_the_right_one_goes_through() {
    let rig = Rig::new().await;
    rig.http.close("closed").await;
    let mut flood = futures_util::future::join_all((0..150).map(|_| rig.http.answer(begins("wrong"))));
    let right = tokio::select! {
        biased;
        _ = &mut flood => panic!("a wrong password costs nothing"),
        right = rig.http.answer(begins("token")) => right,
    };
    assert_eq!(
        right.status().as_u16(),
        503,
        "it is believed while the others pay, and then nothing is taken"
    );
    let mut statuses: Vec<u16> = flood.await.iter().map(|answer| answer.status().as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![401; 64], vec![429; 86]].concat());
}

/// A client that says now and then that it is there, and never ends.
fn endless() -> StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Unpin>
{
    let bytes = futures_util::stream::repeat(Bytes::from_static(b"x")).then(async |bytes| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(Frame::data(bytes))
    });
    StreamBody::new(Box::pin(bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_with_a_question_is_not_waited_for() {
    let rig = Rig::new().await;
    let answer = rig.http.answer(begins("token").map(|_| endless())).await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.into_body().collect().await.unwrap().to_bytes().is_empty());
    rig.no_process_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_ends_a_push_that_has_only_begun() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    // More than waits in pipes for a client that takes nothing.
    let id = git(&work, &["rev-parse", "HEAD"]).await;
    let many: String = (0..20_000).map(|count| format!("{id} refs/tags/{count:0150}\n")).collect();
    std::fs::write(rig.repository.dir().join("packed-refs"), format!("# pack-refs with: sorted \n{many}"))
        .unwrap();
    let answer = rig.http.answer(begins("token")).await;
    assert_eq!(answer.status(), 200);
    rig.http.close("the region is being left").await;
    rig.no_process_is_left().await;
    let cut = answer.into_body().collect().await.unwrap_err();
    assert!(cut.to_string().contains("closed"), "{cut}");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_does_not_wait_for_a_push_whose_disk_does_not_answer_and_its_branch_never_moves() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    let packed = rig.repository.dir().join("packed-refs");
    rustix::fs::mkfifoat(CWD, &packed, Mode::RUSR | Mode::WUSR).unwrap();
    let http = std::sync::Arc::clone(&rig.http);
    let push = http::Request::post("/git-receive-pack");
    let push = push.header("Authorization", BASIC.trim_start_matches("Authorization: "));
    let push = push.header("Content-Type", "application/x-git-receive-pack-request");
    let push = push.body(Full::new(receive_pack(&work).await)).unwrap();
    let push = tokio::spawn(async move { http.answer(push).await.status().as_u16() });
    let dir = rig.repository.dir().to_str().unwrap().to_owned();
    until("git waits for the disk", || !users_of(&dir).is_empty()).await;
    rig.http.close("the region is being left").await;
    assert!(!push.is_finished());
    // For both directions: opening waits for nobody.
    let answers = File::options().read(true).write(true).open(&packed).unwrap();
    std::fs::remove_file(&packed).unwrap();
    drop(answers);
    assert_eq!(push.await.unwrap(), 502);
    rig.no_process_is_left().await;
    assert!(rig.repository.refs().await.unwrap().refs.is_empty());
}

/// What a client's git sends to make the branch main of what is in `work`.
async fn receive_pack(work: &Path) -> Bytes {
    let id = git(work, &["rev-parse", "HEAD"]).await;
    let mut packs = super::rig::client(work, &["pack-objects", "--stdout", "--all", "-q"]);
    let packed = packs.output().await.unwrap();
    let command = format!("{} {id} refs/heads/main\0 report-status\n", "0".repeat(40));
    let mut body = format!("{:04x}{command}0000", command.len() + 4).into_bytes();
    body.extend(packed.stdout);
    body.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_of_files_and_of_other_repositories_lead_nowhere() {
    let rig = Rig::new().await;
    for (path, status) in [
        ("/HEAD", "404"),
        ("/todo.git/config", "404"),
        ("/other.git/info/refs?service=git-upload-pack", "404"),
        ("/todo.git/../../etc/passwd", "404"),
        ("/info/refs", "403"),
        ("/git-upload-pack", "405"),
    ] {
        let answer = raw(rig.port, &format!("GET {path} HTTP/1.1\r\n{BASIC}"), b"").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_in_a_request_is_gits_to_refuse_and_harms_nothing() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    for service in ["git-upload-pack", "git-receive-pack"] {
        let head = format!(
            "POST /{service} HTTP/1.1\r\n{BASIC}\r\nContent-Type: application/x-{service}-request\r\nGit-Protocol: version=2; rm\r\nContent-Length: 8"
        );
        let answer = raw(rig.port, &head, b"nonsense").await;
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    }
    rig.no_process_is_left().await;
    git(&work, &["fetch", "-q", "origin"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_no_process_and_no_lock() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    let before = rig.repository.refs().await.unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", rig.port)).await.unwrap();
    let head = format!(
        "POST /git-receive-pack HTTP/1.1\r\nHost: x\r\n{BASIC}\r\nContent-Type: application/x-git-receive-pack-request\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let main = &before.refs["refs/heads/main"];
    let command = format!("{main} {} refs/heads/main\0 report-status\n", "1".repeat(40));
    let body = format!("{:04x}{command}0000PACK", command.len() + 4);
    stream.write_all(format!("{:x}\r\n{body}\r\n", body.len()).as_bytes()).await.unwrap();
    let dir = rig.repository.dir().to_str().unwrap().to_owned();
    until("git is at work", || users_of(&dir).len() >= 3).await;
    drop(stream);
    rig.no_process_is_left().await;
    assert_eq!(rig.repository.refs().await.unwrap(), before);
    super::rig::change(&work, "next", "1", "next").await;
    git(&work, &["push", "-q", "origin", "main"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_ends_the_group_when_the_node_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    write_program(&bin.join("git"), "#!/bin/sh\necho up\nexec sleep 1000\n");
    let alive = dir.path().join("alive");
    rustix::fs::mkfifoat(rustix::fs::CWD, &alive, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let held = std::fs::File::options().read(true).write(true).open(&alive).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", include_str!("../http/guard.sh"), "guard"]).arg(&alive).env("PATH", path);
    let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 3];
    child.stdout.take().unwrap().read_exact(&mut up).await.unwrap();
    drop(held);
    let status = child.wait().await.unwrap();
    assert!(!status.success());
}

fn write_program(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
}
