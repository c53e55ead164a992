//! Modules, and devices that come by WebSocket, by the official SDKs.

use crate::hub_device::{Device, Talk, Via};
use crate::hub_fleet::{is_once, reaches};
use crate::hub_place::alone;
use crate::hub_reader::Reader;
use crate::hub_rig::Rig;

/// Acknowledged messages of a device that show that it goes on.
const SOME: usize = 20;

/// One of each SDK by WebSocket, and a module of each.
async fn all(rig: &Rig) -> Vec<Talk> {
    let mut devices = Vec::new();
    for sdk in ["py", "js"] {
        let program = format!("device.{sdk}");
        let listen = ["messages", "methods", "desired"];
        devices.push(Device::start_via(rig, &program, &format!("web-{sdk}"), &listen, Via::WebSocket).await);
        rig.device(&format!("host-{sdk}")).await;
        let module = format!("host-{sdk}/pump");
        devices.push(Device::start(rig, &program, &module, &["methods", "desired"]).await);
    }
    for device in &devices {
        device.ready().await;
    }
    devices.into_iter().map(Talk::start).collect()
}

#[test]
fn modules_and_devices_behind_web_sockets_follow_their_hub() {
    alone(|| async {
        let rig = Rig::start().await;
        let devices = all(&rig).await;
        let reader = Reader::start(&rig);
        for region in ["paris", "oslo"] {
            if region == "oslo" {
                rig.move_to_oslo().await;
            }
            for talk in &devices {
                talk.goes_on(SOME).await;
                reaches(&rig.rest(region), talk.device(), region).await;
            }
        }
        for talk in devices {
            reader.has(&talk.end().await).await;
        }
        is_once(&reader.end().await);
    });
}
