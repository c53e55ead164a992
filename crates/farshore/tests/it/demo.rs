//! The demo as a user runs it: the program, its report, its exit status.

use std::process::Command;

use serde_json::Value;

#[test]
fn the_demo_ends_with_a_true_report() {
    let report = told(&["demo", "--output", "json", "--only", "machine"]);
    assert_eq!(report["store"], "redb", "{report:#}");
    assert_eq!(report["control"]["survivors"], 1, "{report:#}");
    assert!(report.get("realtime").is_none(), "{report:#}");
    check_machine(&report);
}

#[test]
fn clients_of_a_lost_region_go_on_and_every_message_arrives() {
    let report = told(&["demo", "--output", "json", "--only", "realtime"]);
    assert!(report.get("failover").is_none(), "{report:#}");
    check_realtime(&report);
}

#[test]
fn a_fleet_of_a_lost_region_follows_and_comes_home_with_everything_it_said() {
    let report = told(&["demo", "--output", "json", "--only", "hub"]);
    assert!(report.get("failover").is_none(), "{report:#}");
    check_hub(&report);
}

#[test]
fn an_app_of_a_lost_region_keeps_its_url_keys_scripts_and_rows_and_comes_home() {
    let report = told(&["demo", "--output", "json", "--only", "app"]);
    assert!(report.get("failover").is_none(), "{report:#}");
    check_app(&report);
}

#[test]
fn the_control_plane_outlives_the_region_that_is_lost_with_its_node_and_its_member() {
    let report = told(&["demo", "--store", "etcd", "--output", "json"]);
    assert_eq!(report["store"], "etcd", "{report:#}");
    assert_eq!(report["control"]["nodes"], 3, "{report:#}");
    assert_eq!(report["control"]["survivors"], 2, "{report:#}");
    check_machine(&report);
    check_realtime(&report);
    check_hub(&report);
    check_app(&report);
}

/// Plays the demo and checks what it says in any case.
fn told(args: &[&str]) -> Value {
    let data = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_farshore"))
        .args(args)
        .arg("--data")
        .arg(data.path())
        .output()
        .expect("the demo runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{stderr}", String::from_utf8_lossy(&output.stdout)));
    assert!(output.status.success(), "{report:#}\n{stderr}");
    assert_eq!(report["verified"], true, "{report:#}");
    report
}

fn check_machine(report: &Value) {
    assert_eq!(report["drill"]["verified"], true, "{report:#}");
    assert_eq!(report["failback"]["lost_writes"], 0, "{report:#}");
    let rpo = &report["failover"]["rpo"];
    for figure in ["writes", "bytes"] {
        assert_eq!(rpo["final"][figure], rpo["true"][figure], "{report:#}");
        assert!(rpo["at_failover"][figure].is_u64(), "{report:#}");
    }
    assert!(
        rpo["true"]["writes"].as_u64() > Some(0),
        "a cut line and a killed region lose something: {report:#}"
    );
    assert!(report["failover"]["rto_seconds"].as_f64() > Some(0.0), "{report:#}");
    assert!(report["reprotect"]["bytes_moved"].as_u64() > Some(0), "{report:#}");
}

fn check_realtime(report: &Value) {
    let realtime = &report["realtime"];
    assert_eq!(realtime["verified"], true, "{report:#}");
    assert_eq!(realtime["clients"], 500, "{report:#}");
    assert_eq!(realtime["recovered"], realtime["clients"], "{report:#}");
    assert_eq!(realtime["home_again"], true, "{report:#}");
    assert_eq!(realtime["messages_received"], realtime["messages_owed"], "{report:#}");
    assert_eq!(realtime["duplicates"], 0, "{report:#}");
    // Each of the steps sees a second's messages before it goes on.
    assert!(realtime["messages_owed"].as_u64() >= Some(3 * 50 * 500), "{report:#}");
    assert!(realtime["slowest_recovery_seconds"].as_f64() > Some(0.0), "{report:#}");
}

fn check_hub(report: &Value) {
    let hub = &report["hub"];
    assert_eq!(hub["verified"], true, "{report:#}");
    assert_eq!((&hub["devices"], &hub["followed"]), (&200.into(), &200.into()), "{report:#}");
    // Each of the steps sees two messages of each device before it goes on.
    assert!(hub["telemetry_acknowledged"].as_u64() >= Some(3 * 2 * 185), "{report:#}");
    assert!(hub["telemetry_stored"].as_u64() >= hub["telemetry_acknowledged"].as_u64(), "{report:#}");
    assert!(hub["duplicates_removed"].as_u64() > Some(0), "{report:#}");
    assert!(hub["telemetry_late"].as_u64() > Some(0), "{report:#}");
    assert_eq!(hub["identities_before"], 205, "{report:#}");
    // Five that only paris knew, twenty that were made and five that were deleted in oslo.
    assert_eq!(hub["identities_after_merge"], 205 + 5 + 20 - 5, "{report:#}");
    assert_eq!((&hub["conflicts"], &hub["revoked"]), (&5.into(), &15.into()), "{report:#}");
    assert!(hub["rto_seconds"].as_f64() > Some(0.0), "{report:#}");
}

fn check_app(report: &Value) {
    let app = &report["app"];
    for claim in
        ["same_url", "same_key", "same_git_url", "scripts_identical", "secondary_deleted", "verified"]
    {
        assert_eq!(app[claim], true, "{claim}: {report:#}");
    }
    // Each of the steps sees ten rows of each of four clients before it goes on.
    assert!(app["rows_acknowledged"].as_u64() >= Some(4 * 10 * 4), "{report:#}");
    assert_eq!(app["rows_present"], app["rows_acknowledged"], "{report:#}");
    assert!(app["rto_seconds"].as_f64() > Some(0.0), "{report:#}");
}
