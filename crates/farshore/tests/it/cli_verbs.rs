//! The program against a control plane: exit status, what is on stdout and what on stderr.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::api_bench::Served;

/// Runs the program without a terminal.
async fn farshore(served: &Served, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farshore"))
        .args(args)
        .env_remove("FARSHORE_DATA")
        .env("FARSHORE_API", &served.url)
        .env("FARSHORE_TOKEN_FILE", served.token_file())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap()
}

/// Exit status, stdout and stderr.
pub(crate) async fn run(served: &Served, line: &str) -> (i32, String, String) {
    let output = farshore(served, &line.split(' ').collect::<Vec<_>>()).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

async fn done(served: &Served, line: &str) -> String {
    let (code, out, err) = run(served, line).await;
    assert_eq!(code, 0, "{line}: {err}");
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verbs_wait_for_their_jobs_and_tell_the_steps_on_stderr() {
    let served = Served::new().await;
    let (code, out, err) = run(&served, "machine create web-1 --region paris --disk root=1G").await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("machine/web-1: create done in "), "{out}");
    assert!(err.contains("create machine/web-1: running create"), "{err}");
    let out = done(&served, "protect machine/web-1 --to oslo --replication sync").await;
    assert!(out.starts_with("machine/web-1: protect done"), "{out}");
    let item: Value = serde_json::from_str(&done(&served, "machine show web-1 --output json").await).unwrap();
    assert_eq!((item["phase"].as_str(), item["mode"].as_str()), (Some("Protected"), Some("sync")));
    let yaml = done(&served, "status machine/web-1 --output yaml").await;
    assert!(yaml.contains("\nphase: Protected\n"), "{yaml}");
    let out = done(&served, "failover machine/web-1 --planned").await;
    assert!(out.contains("paris to oslo at ") && out.contains("lost nothing"), "{out}");
    let id = done(&served, "commit machine/web-1 --yes --no-wait").await;
    let out = done(&served, &format!("job watch {}", id.trim())).await;
    assert_eq!(out, "commit of machine/web-1: succeeded\n");
    let out = done(&served, &format!("job show {}", id.trim())).await;
    assert!(out.contains("no way back from here") && out.contains("commit verified"), "{out}");
    for line in [
        "status",
        "points machine/web-1",
        "region list",
        "region show oslo",
        "job list",
        "audit",
        "machine list",
    ] {
        let out = done(&served, line).await;
        assert!(out.lines().all(|line| line.chars().count() <= 120), "{line} is too wide:\n{out}");
        assert!(!out.contains('\x1b'), "no colours without a terminal");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_exits_with_3_and_says_what_is_possible() {
    let served = Served::protected().await;
    let table = [
        (3, "machine show none", "there is machine/web-1"),
        (3, "region show rome", "there are oslo, paris"),
        (3, "machine create w2 --region rome --disk a=1M", "there is no region rome"),
        (3, "machine create web-1 --region oslo --disk a=1M", "is taken"),
        (3, "protect machine/web-1 --to oslo", "possible: test-failover, failover"),
        (3, "test-failover machine/web-1 --point nope", "there is no recovery point nope"),
        (3, "failback machine/web-1", "is at home in paris"),
        (3, "job cancel 01ABC", "there is no job"),
        (2, "job cancel ../items", "is not a job's id"),
        (2, "failover machine/web-1", "add --yes"),
        (2, "machine delete web-1", "add --yes"),
        (2, "disable machine/web-1", "add --yes"),
        (2, "commit machine/web-1", "add --yes"),
        (2, "drop-divergence machine/web-1", "add --yes"),
        (2, "failover machine/web-1 --planned --point latest", "cannot be used with"),
    ];
    for (code, line, says) in table {
        let (found, out, err) = run(&served, line).await;
        assert_eq!(found, code, "{line}: {err}");
        assert!(err.contains(says), "{line}: {err}");
        assert_eq!(out, "", "{line}");
    }
    assert_eq!(served.item().await.phase, "Protected", "nothing was changed");
    let source = "disable machine/web-1 --yes";
    done(&served, source).await;
    let (code, _, err) = run(&served, "protect machine/web-1 --to paris").await;
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("choose another region as its target"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_gets_stuck_exits_with_1_and_says_how_to_go_on() {
    let served = Served::protected().await;
    served.bench.sim.fail_at("/promote/do");
    let (code, _, err) = run(&served, "failover machine/web-1 --planned").await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("is stuck") && err.contains("farshore job retry "), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_and_an_absent_control_plane_are_told_apart() {
    let served = Served::new().await;
    std::fs::write(served.token_file(), "guess").unwrap();
    let (code, _, err) = run(&served, "status").await;
    assert_eq!((code, err.contains("not the one of this cluster")), (1, true), "{err}");
    // Reserved, and nothing listens there.
    let (code, _, err) = run(&served, "--api http://127.0.0.1:1 status").await;
    assert_eq!((code, err.contains("start it with `farshore up`")), (1, true), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_port_is_taken_says_which() {
    let served = Served::new().await;
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let dir = served.dir.path();
    let config = format!(
        "region = \"paris\"\ndata = {data:?}\nroles = [\"machines\"]\nlisten = \"{address}\"\nnbd = \"127.0.0.1:0\"\n\
         replication = \"127.0.0.1:0\"\nsecret_file = {secret:?}\n",
        data = dir.join("paris"),
        secret = served.token_file(),
    );
    std::fs::write(dir.join("region.toml"), config).unwrap();
    let line = format!("node --config {}", dir.join("region.toml").display());
    let (code, _, err) = run(&served, &line).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains(&format!("cannot listen on {address}")), "{err}");
}

/// Passes bytes on to the control plane, but loses the first answer.
async fn lossy(to: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut control = tokio::net::TcpStream::connect(&to).await.unwrap();
        let mut asked = vec![0; 64 * 1024];
        let mut len = client.read(&mut asked).await.unwrap();
        // Head and body may come apart.
        while !asked[..len].ends_with(b"}") {
            len += client.read(&mut asked[len..]).await.unwrap();
        }
        control.write_all(&asked[..len]).await.unwrap();
        assert!(control.read(&mut asked).await.unwrap() > 0, "it was done");
        drop(client);
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut control = tokio::net::TcpStream::connect(&to).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut control).await });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verb_whose_answer_was_lost_is_done_once() {
    let served = Served::protected().await;
    let url = lossy(served.url.trim_start_matches("http://").to_owned()).await;
    let line = format!("--api {url} mark-point machine/web-1 --name a");
    done(&served, &line).await;
    let jobs: Value = served.get("/api/v1/jobs").await;
    let marks = jobs.as_array().unwrap().iter().filter(|job| job["verb"] == "mark-point").count();
    assert_eq!(marks, 1);
}
