//! Devices of both official SDKs that are on together: some talk all the time, one of each only listens.

use std::collections::BTreeSet;

use serde_json::json;

use crate::hub_device::{Device, Talk};
use crate::hub_reader::{Read, Reader};
use crate::hub_rig::{Rest, Rig};

/// Acknowledged messages of a device that show that it goes on.
const SOME: usize = 40;

/// The devices.
pub(crate) struct Fleet {
    talkers: Vec<Talk>,
    listeners: Vec<Device>,
}

impl Fleet {
    /// So many that talk of each SDK, and one that listens.
    pub(crate) async fn start(rig: &Rig, talkers: usize) -> Self {
        let mut fleet = (Vec::new(), Vec::new());
        for sdk in ["py", "js"] {
            let program = format!("device.{sdk}");
            for number in 0..talkers {
                fleet.0.push(Device::start(rig, &program, &format!("talker-{sdk}-{number}"), &[]).await);
            }
            let listen = ["messages", "methods", "desired"];
            fleet.1.push(Device::start(rig, &program, &format!("listener-{sdk}"), &listen).await);
        }
        let (talkers, listeners) = fleet;
        for device in talkers.iter().chain(&listeners) {
            device.ready().await;
        }
        Self { talkers: talkers.into_iter().map(Talk::start).collect(), listeners }
    }

    /// Every device that talks is acknowledged some messages more.
    pub(crate) async fn talks_on(&self) {
        for talker in &self.talkers {
            talker.goes_on(SOME).await;
        }
    }

    /// Who never says anything gets all that there is: methods, twin, desired properties, messages.
    pub(crate) async fn listens_on(&self, service: &Rest, round: &str) {
        for device in &self.listeners {
            reaches(service, device, round).await;
        }
    }

    /// The devices fall silent. Nothing that was acknowledged to them is missing at the reader, and nothing was read twice.
    pub(crate) async fn reckon(self, reader: Reader) {
        let mut acknowledged = BTreeSet::new();
        for talker in self.talkers {
            acknowledged.extend(talker.end().await);
        }
        reader.has(&acknowledged).await;
        is_once(&reader.end().await);
    }
}

/// All that a service can do to a device: a method, desired properties and, unless it is a module, a message.
pub(crate) async fn reaches(service: &Rest, device: &Device, round: &str) {
    let mark = device.mark();
    let answer = service.call(&device.id, "ping", &json!({"round": round})).await;
    assert_eq!(answer["status"], 200, "{answer}");
    assert_eq!(answer["payload"]["payload"]["round"], round, "{answer}");
    service.desire(&device.id, &json!({"round": round})).await;
    device.says(mark, "desired", |line| line["patch"]["round"] == round).await;
    if !device.id.contains('/') {
        service.send(&device.id, &json!({"round": round})).await;
        let is_it = |body: &str| body.contains(round);
        device.says(mark, "message", |line| line["body"].as_str().is_some_and(is_it)).await;
    }
    let twin = device.twin().await;
    assert_eq!(twin["desired"]["round"], round, "{twin}");
}

/// Nothing was read twice.
pub(crate) fn is_once(read: &Read) {
    let twice: Vec<(&String, &u32)> = read.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{} of {} were read more than once: {twice:?}", twice.len(), read.len());
}
