//! Two regions that each went on alone, and an operator with the command line who merges them.

use serde_json::{Value, json};

use crate::hub_fleet::Fleet;
use crate::hub_place::alone;
use crate::hub_reader::Reader;
use crate::hub_rig::{ITEM, Rig, until};

/// Devices that talk, for each SDK.
const TALKERS: usize = 1;

/// How paris is lost once the line between the regions is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// It is killed.
    Killed,
    /// It is alive, and nobody in the other region can know.
    CutOff,
}

/// Before anything happens: identities that both regions will change.
async fn identities_are_in_both(rig: &Rig) {
    for id in ["spare", "revoked"] {
        rig.device(id).await;
        let what = format!("{id} in oslo");
        until(&what, async || rig.rest("oslo").find_device(id).await).await;
    }
}

/// Paris says itself that it is fenced.
fn paris_is_fenced(item: &Value) -> bool {
    let mut regions = item["regions"].as_array().unwrap().iter();
    regions.any(|seen| seen["region"] == "paris" && seen["observation"]["role"] == "fenced")
}

/// What only paris gets to know, and to acknowledge.
async fn paris_goes_on_alone(rig: &Rig, fleet: &Fleet) {
    rig.line().cut();
    let paris = rig.rest("paris");
    paris.put_device("unshipped", &json!({})).await;
    paris.put_device("revoked", &json!({"statusReason": "is fine"})).await;
    paris.desire("spare", &json!({"colour": "near", "near": true})).await;
    fleet.talks_on().await;
}

/// Meanwhile on the far shore, where nobody knows of that.
async fn the_far_shore_changes(rig: &Rig) {
    let oslo = rig.rest("oslo");
    assert!(oslo.find_device("unshipped").await.is_none());
    oslo.put_device("born-far", &json!({})).await;
    oslo.put_device("revoked", &json!({"status": "disabled", "statusReason": "stolen"})).await;
    oslo.desire("spare", &json!({"colour": "far", "far": true})).await;
}

/// The devices that a plan, a report or a list of conflicts names.
fn named(conflicts: &Value) -> Vec<&str> {
    let named = conflicts.as_array().unwrap().iter().map(|conflict| conflict["device"].as_str().unwrap());
    let mut named: Vec<&str> = named.collect();
    named.sort_unstable();
    named.dedup();
    named
}

/// The plan says what the merge then does, the report keeps it, and repeating it changes nothing.
async fn the_operator_merges(rig: &Rig) {
    let plan = until("a plan", async || {
        let plan = rig.try_farshore("hub merge fleet --plan").await.ok()?;
        (plan["telemetry"]["late"].as_u64()? > 0).then_some(plan)
    })
    .await;
    assert_eq!(
        (&plan["plan"], &plan["partner"], &plan["created"]),
        (&json!(true), &json!("paris"), &json!(1))
    );
    assert_eq!(named(&plan["conflicts"]), ["revoked", "spare"], "{plan}");
    let oslo = rig.rest("oslo");
    assert!(oslo.find_device("unshipped").await.is_none(), "a plan changes nothing");

    let merged = rig.farshore("hub merge fleet").await;
    for count in ["created", "updated", "deleted"] {
        assert_eq!(merged[count], plan[count], "{count}: {merged}");
    }
    assert_eq!(merged["conflicts"], plan["conflicts"]);
    assert!(merged["telemetry"]["late"].as_u64().unwrap() > 0, "{merged}");
    assert!(oslo.find_device("unshipped").await.is_some());
    let report = std::fs::read(merged["file"].as_str().unwrap()).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(named(&report["conflicts"]), ["revoked", "spare"]);

    let again = rig.farshore("hub merge fleet").await;
    for count in ["created", "updated", "deleted"] {
        assert_eq!(again[count], 0, "{again}");
    }
    assert_eq!((&again["telemetry"]["late"], &again["file"]), (&json!(0), &Value::Null), "{again}");
    let open = rig.farshore("hub conflicts fleet").await;
    assert_eq!(named(&open["open"]), ["revoked", "spare"]);
    assert_eq!(open["kept"].as_u64().unwrap(), merged["conflicts"].as_array().unwrap().len() as u64);
}

/// In both regions the same: whoever was disabled stays so, the later colour counts, and nothing of either is missing.
async fn both_regions_agree(rig: &Rig) {
    for region in ["oslo", "paris"] {
        let rest = rig.rest(region);
        for id in ["unshipped", "born-far"] {
            let what = format!("{id} in {region}");
            until(&what, async || rest.find_device(id).await).await;
        }
        let revoked = rest.find_device("revoked").await.unwrap();
        assert_eq!((&revoked["status"], &revoked["statusReason"]), (&json!("disabled"), &json!("stolen")));
        let desired = &rest.twin("spare").await["properties"]["desired"];
        assert_eq!(
            (&desired["colour"], &desired["near"], &desired["far"]),
            (&json!("far"), &json!(true), &json!(true)),
            "{region}"
        );
    }
}

async fn the_way_home(loss: Loss) {
    let mut rig = Rig::start().await;
    identities_are_in_both(&rig).await;
    let fleet = Fleet::start(&rig, TALKERS).await;
    let reader = Reader::start(&rig);
    fleet.talks_on().await;

    paris_goes_on_alone(&rig, &fleet).await;
    if loss == Loss::Killed {
        rig.cluster.kill("paris").await.unwrap();
    }
    rig.fail_over().await;
    the_far_shore_changes(&rig).await;
    // Whoever is connected to a region that is only cut off goes on there, until it hears of the other one.
    fleet.talks_on().await;

    rig.line().mend();
    if loss == Loss::Killed {
        rig.cluster.start_region("paris").await.unwrap();
    }
    rig.api.wait_for(ITEM, "a fenced paris", paris_is_fenced).await.unwrap();
    fleet.talks_on().await;
    the_operator_merges(&rig).await;
    fleet.listens_on(&rig.rest("oslo"), "merged").await;

    rig.bring_home().await;
    both_regions_agree(&rig).await;
    fleet.talks_on().await;
    fleet.reckon(reader).await;
}

#[test]
fn a_region_that_died_alone_is_merged_and_gets_its_fleet_back() {
    alone(|| the_way_home(Loss::Killed));
}

#[test]
fn a_region_that_was_cut_off_and_went_on_is_merged_and_gets_its_fleet_back() {
    alone(|| the_way_home(Loss::CutOff));
}
