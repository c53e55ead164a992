//! A fleet of official-SDK devices whose region dies, and comes back.

use serde_json::{Value, json};

use crate::hub_device::Device;
use crate::hub_fleet::Fleet;
use crate::hub_place::alone;
use crate::hub_reader::Reader;
use crate::hub_rig::{Rig, until};

/// Devices that talk, for each SDK.
const TALKERS: usize = 2;

/// On the far shore a device is made and another is shut out.
async fn identities_change(rig: &Rig) {
    let oslo = rig.rest("oslo");
    oslo.put_device("born-far", &json!({})).await;
    oslo.put_device("revoked", &json!({"status": "disabled", "statusReason": "lost"})).await;
}

async fn identities_are_home(rig: &Rig) {
    let paris = rig.rest("paris");
    assert!(paris.find_device("born-far").await.is_some());
    let revoked = paris.find_device("revoked").await.unwrap();
    assert_eq!((&revoked["status"], &revoked["statusReason"]), (&json!("disabled"), &json!("lost")));
}

/// The fleet loses its region, goes on in the other one, and comes home.
async fn there_and_back(mut rig: Rig) {
    rig.device("revoked").await;
    let fleet = Fleet::start(&rig, TALKERS).await;
    let reader = Reader::start(&rig);
    fleet.talks_on().await;
    fleet.listens_on(&rig.rest("paris"), "first").await;

    rig.cluster.kill("paris").await.unwrap();
    rig.fail_over().await;
    fleet.talks_on().await;
    fleet.listens_on(&rig.rest("oslo"), "far").await;
    identities_change(&rig).await;

    rig.cluster.start_region("paris").await.unwrap();
    rig.bring_home().await;
    fleet.talks_on().await;
    fleet.listens_on(&rig.rest("paris"), "home").await;
    identities_are_home(&rig).await;
    fleet.reckon(reader).await;
}

#[test]
fn a_fleet_of_official_devices_loses_its_region_and_goes_on() {
    alone(|| async { there_and_back(Rig::start().await).await });
}

/// With the region a control node is lost, a member of etcd, and one of those who answer questions about names.
#[test]
fn a_fleet_of_a_cluster_with_etcd_loses_its_region_and_goes_on() {
    alone(|| async { there_and_back(Rig::start_with_etcd().await).await });
}

/// Devices that are shut out on one shore are disconnected and stay out.
#[test]
fn a_device_that_is_disabled_is_out_in_both_regions() {
    alone(|| async {
        let rig = Rig::start().await;
        let paris = rig.rest("paris");
        let device = Device::start(&rig, "device.py", "lost", &["methods"]).await;
        device.ready().await;
        let mark = device.mark();
        paris.put_device("lost", &json!({"status": "disabled"})).await;
        device.says(mark, "disconnected", |_| true).await;
        let seen = until("the device's state in oslo", async || {
            rig.rest("oslo").find_device("lost").await.filter(|device| device["status"] == "disabled")
        });
        assert_eq!(seen.await["connectionState"], Value::from("Disconnected"));
    });
}
