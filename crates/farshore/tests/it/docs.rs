//! Every command that the documentation shows is run, in order, against two real regions, one cluster for each page.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use farshore::up::{Cluster, ClusterOptions};

const PROGRAM: &str = env!("CARGO_BIN_EXE_farshore");

fn page(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines that start with `$ ` in `console` blocks.
fn commands(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut commands = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(kind) => inside = kind == "console",
            None if inside => commands.extend(line.strip_prefix("$ ").map(str::to_owned)),
            None => {}
        }
    }
    commands
}

/// A command of the docs that takes longer hangs.
const SECONDS_MAX: &str = "60";

/// As somebody types it who has the program in the path and stands in a checkout.
fn run(command: &str, data: &Path) -> Output {
    assert!(command.starts_with("farshore "), "{command}");
    let own = Path::new(PROGRAM).parent().expect("the program is in a directory").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path)));
    Command::new("timeout")
        .args([SECONDS_MAX, "sh", "-c", command])
        .env("PATH", path.expect("no directory has a colon in its name"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .env("FARSHORE_DATA", data)
        .output()
        .expect("the program runs")
}

async fn commands_of(name: &str) {
    let commands = commands(&page(name));
    assert!(commands.len() > 2, "{name} shows commands");
    let dir = tempfile::tempdir().expect("a directory");
    let options =
        ClusterOptions { point_seconds: 1, program: Some(PROGRAM.into()), ..ClusterOptions::new(dir.path()) };
    let mut cluster = Cluster::start(options).await.expect("two regions start");
    for command in &commands {
        let (text, data) = (command.clone(), dir.path().to_owned());
        let output = tokio::task::spawn_blocking(move || run(&text, &data)).await.expect("it ends");
        assert!(
            output.status.success(),
            "{name}: {command}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    cluster.stop().await.expect("the regions stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_real_time_hubs_tells_commands_that_work() {
    commands_of("realtime.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_app_services_tells_commands_that_work() {
    commands_of("apps.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_device_hubs_tells_commands_that_work() {
    commands_of("hubs.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_protecting_tells_commands_that_work() {
    commands_of("protect.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_drills_tells_commands_that_work() {
    commands_of("drill.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_failover_tells_commands_that_work() {
    commands_of("failover.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_going_home_tells_commands_that_work() {
    commands_of("failback.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_access_tells_commands_that_work() {
    commands_of("access.md").await;
}

#[test]
fn no_page_tells_people_to_delete_what_was_lost() {
    for name in ["failover.md", "failback.md", "drill.md", "three-hosts.md", "trouble.md", "etcd.md"] {
        let text = page(name);
        assert!(
            !text.contains("machine delete"),
            "{name} tells to delete a machine on the way of a recovery"
        );
        assert!(!text.contains("rm -r"), "{name} tells to remove a directory");
    }
}
