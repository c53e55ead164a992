//! Everything that the official packages can do, against a hub of two regions: unmodified, as an application uses them.

use std::net::TcpListener;

use crate::realtime_rig::{Program, Rig};

/// Runs a program against the hub's own region.
async fn satisfies(program: &str, checks: usize) {
    let rig = Rig::start("active-passive").await;
    Program::start(program, &rig.given("paris", "region").await).ends_well(checks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_service_sdk_for_javascript() {
    satisfies("service_ops.js", 37).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_service_sdk_for_python() {
    satisfies("service_ops.py", 29).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_and_recovery_of_the_client_sdk_for_javascript() {
    satisfies("client.js", 22).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_and_recovery_of_the_client_sdk_for_python() {
    satisfies("client.py", 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pair_takes_the_same_calls_with_the_same_tokens() {
    let rig = Rig::start("active-passive").await;
    for program in ["service_ops.js", "service_ops.py", "client.js"] {
        Program::start(program, &rig.given("paris", "pair").await).ends_well(20).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_for_express_decide_and_answer() {
    let rig = Rig::start("active-passive").await;
    let mut given = rig.given("paris", "region").await;
    given["port"] = free_port().into();
    let mut program = Program::start("express.js", &given);
    let port = program.says(|line| line["listening"].is_u64()).await["listening"].clone();
    rig.handler(&format!("http://127.0.0.1:{port}/events")).await;
    program.go_on().await;
    program.ends_well(10).await;
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
