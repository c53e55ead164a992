//! A fleet of official-SDK devices whose region dies, and comes back.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::hub_device::{Device, Talk};
use crate::hub_place::alone;
use crate::hub_reader::{Read, Reader};
use crate::hub_rig::{Rest, Rig, until};

/// Devices that talk, for each SDK.
const TALKERS: usize = 2;
/// Acknowledged messages of a device that show that it goes on.
const SOME: usize = 40;

/// Devices of both SDKs: some talk all the time, one of each only listens.
struct Fleet {
    talkers: Vec<Talk>,
    listeners: Vec<Device>,
}

impl Fleet {
    async fn start(rig: &Rig) -> Self {
        let (mut talkers, mut listeners) = (Vec::new(), Vec::new());
        for sdk in ["py", "js"] {
            let program = format!("device.{sdk}");
            for number in 0..TALKERS {
                talkers.push(Device::start(rig, &program, &format!("talker-{sdk}-{number}"), &[]).await);
            }
            let listen = ["messages", "methods", "desired"];
            listeners.push(Device::start(rig, &program, &format!("listener-{sdk}"), &listen).await);
        }
        for device in talkers.iter().chain(&listeners) {
            device.ready().await;
        }
        Self { talkers: talkers.into_iter().map(Talk::start).collect(), listeners }
    }

    /// Every device that talks is acknowledged some messages more.
    async fn talks_on(&self) {
        for talker in &self.talkers {
            talker.goes_on(SOME).await;
        }
    }

    /// Who never says anything gets all that there is: methods, twin, desired properties, messages.
    async fn listens_on(&self, service: &Rest, round: &str) {
        for device in &self.listeners {
            reaches(service, device, round).await;
        }
    }
}

async fn reaches(service: &Rest, device: &Device, round: &str) {
    let mark = device.mark();
    let answer = service.call(&device.id, "ping", &json!({"round": round})).await;
    assert_eq!(answer["status"], 200, "{answer}");
    assert_eq!(answer["payload"]["payload"]["round"], round, "{answer}");
    service.desire(&device.id, &json!({"round": round})).await;
    device.says(mark, "desired", |line| line["patch"]["round"] == round).await;
    service.send(&device.id, &json!({"round": round})).await;
    device.says(mark, "message", |line| line["body"].as_str().is_some_and(|body| body.contains(round))).await;
    let twin = device.twin().await;
    assert_eq!(twin["desired"]["round"], round, "{twin}");
}

/// Nothing that was acknowledged is missing, and nothing was read twice.
fn reckon(acknowledged: &BTreeSet<String>, read: &Read) {
    let missing: Vec<&String> = acknowledged.iter().filter(|mid| !read.contains_key(*mid)).collect();
    assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), acknowledged.len());
    let twice: Vec<(&String, &u32)> = read.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{} of {} were read more than once: {twice:?}", twice.len(), read.len());
}

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

#[test]
fn a_fleet_of_official_devices_loses_its_region_and_goes_on() {
    alone(|| async {
        let mut rig = Rig::start().await;
        rig.device("revoked").await;
        let fleet = Fleet::start(&rig).await;
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

        let mut acknowledged = BTreeSet::new();
        for talker in fleet.talkers {
            acknowledged.extend(talker.end().await);
        }
        reader.has(&acknowledged).await;
        reckon(&acknowledged, &reader.end().await);
    });
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
