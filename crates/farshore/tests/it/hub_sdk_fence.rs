//! A region that is stopped in the middle of everything acknowledges nothing once another one is active.

use std::collections::BTreeSet;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::hub_device::{Device, Talk};
use crate::hub_place::alone;
use crate::hub_reader::Reader;
use crate::hub_rig::{Rig, until};

/// Acknowledged messages of a device that show that it goes on.
const SOME: usize = 40;

fn signal(rig: &Rig, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(rig.cluster.pid("paris").unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn a_region_that_was_frozen_and_failed_over_acknowledges_nothing_when_it_thaws() {
    alone(|| async {
        let rig = Rig::start().await;
        let mut talkers = Vec::new();
        for program in ["device.py", "device.js"] {
            let id = format!("talker-{}", program.replace('.', "-"));
            talkers.push(Device::start(&rig, program, &id, &[]).await);
        }
        for device in &talkers {
            device.ready().await;
        }
        let talkers: Vec<Talk> = talkers.into_iter().map(Talk::start).collect();
        let reader = Reader::start(&rig);
        for talker in &talkers {
            talker.goes_on(SOME).await;
        }

        signal(&rig, Signal::STOP);
        rig.fail_over().await;
        // What the devices sent meanwhile waits in the sockets of paris: it is the first thing that it sees.
        signal(&rig, Signal::CONT);
        for talker in &talkers {
            talker.goes_on(SOME).await;
        }
        let paris = rig.rest("paris");
        until("a refusal by paris", async || {
            let answer = paris.ask(reqwest::Method::PUT, "devices/x?api-version=2021-04-12", None).await;
            answer.ok().filter(|answer| !answer.status.is_success())
        })
        .await;
        rig.bring_home().await;
        assert!(rig.active().await.find_device("talker-device-py").await.is_some());

        let mut acknowledged = BTreeSet::new();
        for talker in talkers {
            acknowledged.extend(talker.end().await);
        }
        reader.has(&acknowledged).await;
        let read = reader.end().await;
        let twice: Vec<&String> = read.iter().filter(|(_, count)| **count != 1).map(|(mid, _)| mid).collect();
        assert_eq!(json!(twice), json!([]), "of {}", read.len());
    });
}
