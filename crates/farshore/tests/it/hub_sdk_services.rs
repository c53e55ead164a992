//! Back ends by the official service SDKs, and devices that ask where they belong by the official provisioning clients.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::hub_device::{Device, program};
use crate::hub_place::alone;
use crate::hub_rig::{HOST, PATIENCE, Rig};

/// Runs a program to its end: every check must have held, and there must be so many at least.
pub(crate) async fn run(rig: &Rig, name: &str, given: &Value, checks: usize) {
    let mut command = program(rig, name);
    let log = rig.data().join(format!("{name}.log"));
    let said = std::fs::File::create(&log).unwrap();
    command.env("RIG", given.to_string()).stdin(Stdio::null()).stderr(said.try_clone().unwrap()).stdout(said);
    let status = timeout(PATIENCE, command.status()).await.expect("the program ends").unwrap();
    let said = std::fs::read_to_string(&log).unwrap();
    let held = said.lines().filter(|line| line.contains("\"ok\"")).count();
    assert!(status.success() && held >= checks, "{name}: {status}, {held} of {checks} checks");
}

/// The program's checks, in the region where the hub is at first and, after a failover, in the other.
async fn in_both_regions(name: &str, checks: usize) {
    let rig = Rig::start().await;
    let given = |round: &str| {
        json!({"host": HOST, "service": rig.service(), "ca": rig.ca_file(), "device": "listener", "idle": format!("idle-{round}"),
            "nobody": "nobody", "round": round})
    };
    let listener = Device::start(&rig, "device.js", "listener", &["messages", "methods", "desired"]).await;
    listener.ready().await;
    for round in ["home", "far"] {
        rig.device(&format!("idle-{round}")).await;
        run(&rig, name, &given(round), checks).await;
        if round == "home" {
            rig.move_to_oslo().await;
            // It is there when it answers.
            rig.rest("oslo").call("listener", "ping", &Value::Null).await;
        }
    }
}

#[test]
fn messages_to_devices_by_the_python_service_sdk() {
    alone(|| in_both_regions("c2d.py", 4));
}

#[test]
fn messages_to_devices_by_the_node_service_sdk() {
    alone(|| in_both_regions("c2d.js", 3));
}

#[test]
fn everything_by_rest_with_the_python_service_sdk() {
    alone(|| in_both_regions("registry.py", 7));
}

#[test]
fn everything_by_rest_with_the_node_service_sdk() {
    alone(|| in_both_regions("registry.js", 7));
}

/// A device asks the same question before and after a failover, and is told the same name, which leads elsewhere then.
async fn provisioning(name: &str) {
    let rig = Rig::start().await;
    let connection = rig.device("asks").await;
    let key = connection.split("SharedAccessKey=").nth(1).unwrap();
    rig.device("liar").await;
    let given = json!({"host": HOST, "scope": "fleet", "ca": rig.ca_file(), "hub": HOST,
        "devices": [{"id": "asks", "key": key}], "liar": {"id": "liar", "key": key}});
    run(&rig, name, &given, 2).await;
    rig.move_to_oslo().await;
    run(&rig, name, &given, 2).await;
}

#[test]
fn the_python_provisioning_client_is_told_the_active_hub() {
    alone(|| provisioning("provision.py"));
}

#[test]
fn the_node_provisioning_client_is_told_the_active_hub() {
    alone(|| provisioning("provision.js"));
}
