//! Clients that ask `/negotiate` where to go, and connect by the answer: with both regions up, with one, and at home again.

use serde_json::json;

use crate::realtime_rig::{Program, Rig};

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_where_the_pair_sends_them() {
    let mut rig = Rig::start("active-passive").await;
    let mut given = rig.given("paris", "pair").await;
    let far = rig.given("oslo", "pair").await;
    given["endpoints"] = json!({ "paris": given["connection"], "oslo": far["connection"] });
    let mut program = Program::start("negotiate.js", &given);
    program.says(|line| line["ready"] == "both").await;
    rig.clients_are([3, 0]).await;

    rig.cluster.kill("paris").await.unwrap();
    program.go_on().await;
    program.says(|line| line["ready"] == "one").await;
    rig.clients_are_now([None, Some(5)]).await;
    rig.away().await;

    rig.cluster.start_region("paris").await.unwrap();
    rig.at_home().await;
    rig.clients_are([5, 0]).await;
    program.go_on().await;
    program.ends_well(10).await;
}
