//! Devices that show certificates, and devices that register themselves, by the official SDKs; their region dies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::hub_device::{Device, Talk};
use crate::hub_place::alone;
use crate::hub_reader::Reader;
use crate::hub_rig::{HOST, Rig, until};
use crate::hub_sdk_services::run;

/// Acknowledged messages of a device that show that it goes on.
const SOME: usize = 40;

/// A maker of devices, with an authority of its own.
struct Maker {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

/// A device's certificate and its key.
struct Identity {
    cert: PathBuf,
    key: PathBuf,
    thumbprint: String,
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Maker {
    fn new(dir: &Path) -> Self {
        let mut params = named("the maker");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let maker = Self { issuer, dir: dir.to_owned() };
        std::fs::write(maker.file(), maker.issuer.pem()).unwrap();
        maker
    }

    /// Its authority.
    fn file(&self) -> PathBuf {
        self.dir.join("maker.pem")
    }

    /// A certificate that it signed.
    fn signs(&self, id: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = named(id).signed_by(&key, &self.issuer).unwrap();
        Identity::write(&self.dir, id, &certificate, &key)
    }
}

impl Identity {
    fn self_signed(dir: &Path, id: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::write(dir, id, &named(id).self_signed(&key).unwrap(), &key)
    }

    fn write(dir: &Path, id: &str, certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        let (cert, keyfile) = (dir.join(format!("{id}.pem")), dir.join(format!("{id}.key")));
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&keyfile, key.serialize_pem()).unwrap();
        let thumbprint = farshore_hub::sas::certificate::thumbprint(certificate.der());
        Self { cert, key: keyfile, thumbprint }
    }
}

/// The command line, which must succeed; what it says.
async fn farshore(rig: &Rig, line: &str) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_farshore"));
    command.args(line.split_whitespace()).env("FARSHORE_DATA", rig.data()).stdin(Stdio::null());
    let output = command.output().await.unwrap();
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {said}{error}");
    said.trim().to_owned()
}

/// Waits until the other region has all that this one was told.
async fn both_know(rig: &Rig) {
    until("the other region with everything", async || {
        let hub = rig.api.get("hubs/fleet").await.ok()?;
        (hub["replication"]["records_behind"] == 0).then_some(())
    })
    .await;
}

/// A device of either kind of certificate, registered as an operator does it.
async fn device(rig: &Rig, maker: &Maker, program: &str, how: &str) -> Device {
    let id = format!("{how}-{}", program.replace('.', "-"));
    let (identity, auth) = match how {
        "own" => {
            let identity = Identity::self_signed(rig.data(), &id);
            let auth = format!("self-signed --primary {}", identity.thumbprint);
            (identity, auth)
        }
        _ => (maker.signs(&id), "certificate-authority".to_owned()),
    };
    farshore(rig, &format!("hub device add fleet {id} --auth {auth}")).await;
    let connection = farshore(rig, &format!("hub connection-string fleet --device {id}")).await;
    let x509 = json!({"cert": identity.cert, "key": identity.key});
    let given = json!({"connection": connection, "x509": x509, "listen": ["methods"]});
    Device::run(rig, program, &id, given).await
}

#[test]
fn devices_with_certificates_go_on_when_their_region_is_lost() {
    alone(|| async {
        let mut rig = Rig::start().await;
        let maker = Maker::new(rig.data());
        farshore(&rig, &format!("hub authority add fleet maker {}", maker.file().display())).await;
        let mut devices = Vec::new();
        for program in ["device.py", "device.js"] {
            for how in ["own", "made"] {
                devices.push(device(&rig, &maker, program, how).await);
            }
        }
        for device in &devices {
            device.ready().await;
        }
        let talkers: Vec<Talk> = devices.into_iter().map(Talk::start).collect();
        let reader = Reader::start(&rig);
        for talker in &talkers {
            talker.goes_on(SOME).await;
        }
        both_know(&rig).await;

        rig.cluster.kill("paris").await.unwrap();
        rig.fail_over().await;
        for talker in &talkers {
            talker.goes_on(SOME).await;
        }
        let authorities = rig.api.get("hubs/fleet/authorities").await.unwrap();
        assert_eq!(authorities[0]["subjects"], json!(["CN=the maker"]));
        rig.rest("oslo").call("made-device-js", "ping", &Value::Null).await;

        rig.cluster.start_region("paris").await.unwrap();
        rig.bring_home().await;
        for talker in &talkers {
            talker.goes_on(SOME).await;
        }
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

/// Devices that nobody registered do it themselves, by keys and by certificates, connect and speak: at home, and again on the far
/// shore after their region was lost; there others come for the first time.
async fn enrolled(name: &str) {
    let mut rig = Rig::start().await;
    let maker = Maker::new(rig.data());
    farshore(&rig, "hub enrollment add fleet line").await;
    farshore(&rig, &format!("hub enrollment add fleet maker --authority {}", maker.file().display())).await;
    let by_key = async |id: &str| {
        let key = farshore(&rig, &format!("hub enrollment key fleet line --device {id}")).await;
        json!({"id": id, "key": key, "speaks": true})
    };
    let by_certificate = |id: &str| {
        let identity = maker.signs(id);
        json!({"id": id, "cert": identity.cert, "certkey": identity.key, "speaks": true})
    };
    let mut devices = vec![by_key("key-home").await, by_certificate("cert-home")];
    let wrong = by_key("liar").await["key"].clone();
    let far = [by_key("key-far").await, by_certificate("cert-far")];
    let given = |devices: &[Value], liar: Value| json!({"host": HOST, "scope": HOST, "ca": rig.ca_file(), "hub": HOST, "devices": devices, "liar": liar});
    run(&rig, name, &given(&devices, json!({"id": "stranger", "key": wrong})), 3).await;
    let paris = rig.rest("paris");
    let made = paris.find_device("cert-home").await.unwrap();
    assert_eq!(made["authentication"]["type"], "certificateAuthority");
    let generation = made["generationId"].clone();
    assert!(paris.find_device("stranger").await.is_none());
    both_know(&rig).await;

    devices.extend(far);
    // Who proves nothing is told to ask again now: the lost region may know better.
    let given = given(&devices, Value::Null);
    rig.cluster.kill("paris").await.unwrap();
    rig.fail_over().await;
    run(&rig, name, &given, 4).await;
    let oslo = rig.rest("oslo");
    let known = oslo.find_device("cert-home").await.unwrap();
    assert_eq!(known["generationId"], generation, "it is the same device");
    assert_eq!(oslo.find_device("key-far").await.unwrap()["authentication"]["type"], "sas");
}

#[test]
fn new_devices_register_themselves_by_the_python_provisioning_client() {
    alone(|| enrolled("provision.py"));
}

#[test]
fn new_devices_register_themselves_by_the_node_provisioning_client() {
    alone(|| enrolled("provision.js"));
}
