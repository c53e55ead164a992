//! Questions of an operator to one hub, and to a pair of them.

mod runners;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::{Epoch, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::{Pull, ReplicationMode};
use serde_json::json;

use super::*;
use crate::fleet::{FleetOptions, Standing};
use crate::link::{Duties, Duty, LinkOptions};
use crate::sas::ConnectionString;
use crate::telemetry::Event;

struct Asked {
    desk: Desk,
    _dir: tempfile::TempDir,
}

/// A hub that serves in `region` under an epoch.
async fn hub(region: &str, epoch: u64) -> Asked {
    let dir = tempfile::tempdir().unwrap();
    let region = Region::parse(region).unwrap();
    let fleet = Fleet::open(FleetOptions::new("fleet", region.clone(), dir.path().join("fleet"))).unwrap();
    fleet.open_to_devices(Epoch(epoch), Standing::Current);
    fleet.make_policies().await.unwrap();
    let runners = Runners::spawn(&fleet, Vec::new());
    let desk = Desk {
        fleet,
        item: ItemId::parse("hub/fleet").unwrap(),
        here: region,
        role: Role::Active,
        partner: None,
        hosts: vec!["fleet.hub.test".to_owned(), "contoso.test".to_owned()],
        endpoints: vec![Endpoint { name: "mqtt".to_owned(), uri: "mqtt://127.0.0.1:1883".to_owned() }],
        ca: Some("PEM".to_owned()),
        dir: dir.path().to_owned(),
        noted: Arc::new(Noted::new(dir.path().to_owned())),
        link: None,
        runners,
    };
    Asked { desk, _dir: dir }
}

impl Asked {
    async fn ask(&self, question: Value) -> Value {
        self.desk.ask(&question).await.unwrap_or_else(|error| panic!("{question}: {error:?}"))
    }

    async fn refusal(&self, question: Value) -> String {
        match self.desk.ask(&question).await {
            Err(StepError::Fatal { what }) => what,
            other => panic!("{question}: {other:?}"),
        }
    }

    async fn say(&self, device: &str, body: &str, count: u64) {
        let key = Key::parse(device).unwrap();
        let generation = self.desk.registry().get(&key).unwrap().unwrap().generation.clone();
        for number in 0..count {
            let event = Event {
                key: key.clone(),
                generation: Arc::clone(&generation),
                enqueued: Moment(1_700_000_000_000_000 + number),
                system: vec![("$.mid".to_owned(), format!("{body}{number}"))],
                properties: vec![("bare".to_owned(), None)],
                body: body.as_bytes().to_vec().into(),
            };
            self.desk.fleet.telemetry().append(Epoch(1), event).await.unwrap();
        }
    }
}

#[tokio::test]
async fn devices_are_made_shown_changed_and_removed() {
    let hub = hub("paris", 1).await;
    let made = hub.ask(json!({"ask": "device-add", "id": "pump"})).await;
    assert_eq!((&made["deviceId"], &made["status"]), (&json!("pump"), &json!("enabled")));
    hub.ask(json!({"ask": "device-add", "id": "pump/valve"})).await;
    let other = hub
        .ask(json!({"ask": "device-add", "id": "scale", "enabled": false,
                    "auth": {"type": "selfSigned", "primary": "ab".repeat(20)}}))
        .await;
    assert_eq!(
        (&other["status"], &other["authentication"]["type"]),
        (&json!("disabled"), &json!("selfSigned"))
    );
    let listed = hub.ask(json!({"ask": "devices", "limit": 2})).await;
    assert_eq!(listed["devices"][1]["id"], "pump/valve");
    let rest = hub.ask(json!({"ask": "devices", "limit": 2, "after": listed["next"]})).await;
    assert_eq!((rest["devices"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));

    hub.ask(json!({"ask": "twin-set", "id": "pump", "tags": {"place": "oslo"}, "desired": {"every": 5}}))
        .await;
    let twin = hub.ask(json!({"ask": "twin-set", "id": "pump", "desired": {"every": null, "at": 1}})).await;
    assert_eq!(twin["properties"]["desired"]["at"], 1);
    assert!(twin["properties"]["desired"].get("every").is_none());
    let query = "SELECT * FROM devices WHERE tags.place = 'oslo'";
    let found = hub.ask(json!({"ask": "devices", "limit": 9, "query": query})).await;
    assert_eq!((found["devices"].as_array().unwrap().len(), &found["devices"][0]["id"]), (1, &json!("pump")));

    let set = hub.ask(json!({"ask": "device-set", "id": "pump", "enabled": false, "reason": "stolen"})).await;
    assert_eq!((&set["status"], &set["statusReason"]), (&json!("disabled"), &json!("stolen")));
    let keys = hub.ask(json!({"ask": "device-keys", "id": "pump", "which": "secondary"})).await;
    let key = |device: &Value, which: &str| device["authentication"]["symmetricKey"][which].clone();
    assert_eq!(key(&keys, "primaryKey"), key(&made, "primaryKey"));
    assert_ne!(key(&keys, "secondaryKey"), key(&made, "secondaryKey"));

    hub.ask(json!({"ask": "device-remove", "id": "pump"})).await;
    let left = hub.ask(json!({"ask": "devices", "limit": 9})).await;
    assert_eq!(left["devices"].as_array().unwrap().len(), 1, "its module went with it");
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_words() {
    let hub = hub("paris", 1).await;
    hub.ask(json!({"ask": "device-add", "id": "pump"})).await;
    hub.ask(json!({"ask": "device-add", "id": "scale", "auth": {"type": "certificateAuthority"}})).await;
    for (question, why) in [
        (json!({"ask": "fly"}), "not asked \"fly\""),
        (json!({"ask": "device"}), "device: missing field `id`"),
        (json!({"ask": "device", "id": "none"}), "there is no device none"),
        (json!({"ask": "device", "id": "a b"}), "is no device or module id"),
        (json!({"ask": "device-add", "id": "pump"}), "pump exists already"),
        (json!({"ask": "device-add", "id": "none/module"}), "there is no device none"),
        (json!({"ask": "device-add", "id": "x", "auth": {"type": "sas", "primary": "?"}}), "auth.primary"),
        (
            json!({"ask": "device-add", "id": "x", "auth": {"type": "selfSigned", "primary": "zz"}}),
            "thumbprint",
        ),
        (json!({"ask": "device-keys", "id": "scale", "which": "both"}), "has no keys"),
        (json!({"ask": "device-set", "id": "none", "enabled": true}), "there is no device none"),
        (json!({"ask": "device-remove", "id": "none"}), "there is no device none"),
        (json!({"ask": "devices", "limit": 9, "query": "SELECT"}), "query"),
        (json!({"ask": "twin-set", "id": "pump", "tags": {"a.b": 1}}), "a.b"),
        (json!({"ask": "method", "id": "pump", "name": "open", "timeout_seconds": 1}), "is not connected"),
        (json!({"ask": "send", "id": "none", "body": ""}), "there is no device none"),
        (json!({"ask": "events", "limit": 9, "from": "yesterday"}), "write start, now, or a moment"),
        (json!({"ask": "events", "limit": 9, "group": "a b"}), "a group is named by"),
        (json!({"ask": "checkpoint", "group": "g", "cursor": {"rome": 1}}), "there is no log of rome here"),
        (json!({"ask": "group-delete", "group": "g"}), "there is no consumer group"),
        (json!({"ask": "set-policy", "name": "p", "rights": ["Everything"]}), "is no right"),
        (json!({"ask": "regenerate", "policy": "p", "which": "primary"}), "there are: device, iothubowner"),
        (json!({"ask": "connection-string"}), "name a policy or a device"),
        (json!({"ask": "import", "lines": [], "mode": "magic"}), "is no import mode"),
        (json!({"ask": "merge", "plan": true}), "in one region only"),
    ] {
        let what = hub.refusal(question.clone()).await;
        assert!(what.contains(why), "{question}: {what}");
    }
}

#[tokio::test]
async fn who_does_not_serve_answers_and_changes_nothing() {
    let mut hub = hub("oslo", 1).await;
    hub.ask(json!({"ask": "device-add", "id": "pump"})).await;
    hub.desk.fleet.fence().await;
    hub.desk.role = Role::Target;
    hub.desk.partner = Some(Region::parse("paris").unwrap());
    assert_eq!(hub.ask(json!({"ask": "summary"})).await["devices"]["total"], 1);
    assert_eq!(hub.ask(json!({"ask": "device", "id": "pump"})).await["deviceId"], "pump");
    for question in [
        json!({"ask": "device-add", "id": "new"}),
        json!({"ask": "device-set", "id": "pump", "enabled": false}),
        json!({"ask": "import", "lines": ["{\"id\":\"new\"}"]}),
        json!({"ask": "set-policy", "name": "p", "rights": ["RegistryRead"]}),
        json!({"ask": "send", "id": "pump", "body": "x"}),
        json!({"ask": "method", "id": "pump", "name": "open", "timeout_seconds": 1}),
        json!({"ask": "checkpoint", "group": "g", "cursor": {}}),
    ] {
        let what = hub.refusal(question.clone()).await;
        assert!(what.contains("active in paris, not in oslo"), "{question}: {what}");
    }
    assert_eq!(hub.ask(json!({"ask": "summary"})).await["devices"]["total"], 1);
}

#[tokio::test]
async fn policies_and_the_texts_made_of_them() {
    let hub = hub("paris", 1).await;
    let made = hub.ask(json!({"ask": "set-policy", "name": "report", "rights": ["ServiceConnect"]})).await;
    let wider = json!({"ask": "set-policy", "name": "report", "rights": ["RegistryRead", "ServiceConnect"]});
    let changed = hub.ask(wider).await;
    assert_eq!(changed["rights"], json!(["RegistryRead", "ServiceConnect"]));
    assert_eq!(changed["primary"], made["primary"], "its keys stay");
    let renewed = hub.ask(json!({"ask": "regenerate", "policy": "report", "which": "primary"})).await;
    assert_ne!(renewed["primary"], made["primary"]);
    assert_eq!(renewed["secondary"], made["secondary"]);
    let asked = json!({"ask": "connection-string", "policy": "report", "which": "secondary"});
    let text = hub.ask(asked).await;
    assert_eq!(text["ca"], "PEM");
    let text = text["connection_string"].as_str().unwrap();
    assert_eq!(
        text,
        format!(
            "HostName=fleet.hub.test;SharedAccessKeyName=report;SharedAccessKey={}",
            made["secondary"].as_str().unwrap()
        )
    );
    assert!(ConnectionString::parse(text).is_ok());
    hub.ask(json!({"ask": "delete-policy", "name": "report"})).await;
    assert_eq!(hub.ask(json!({"ask": "policies"})).await.as_array().unwrap().len(), 5);

    let device = hub.ask(json!({"ask": "device-add", "id": "pump"})).await;
    let text = hub.ask(json!({"ask": "connection-string", "device": "pump"})).await;
    let key = device["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap();
    assert_eq!(
        text["connection_string"],
        format!("HostName=fleet.hub.test;DeviceId=pump;SharedAccessKey={key}")
    );
    hub.ask(json!({"ask": "device-add", "id": "scale", "auth": {"type": "certificateAuthority"}})).await;
    let text = hub.ask(json!({"ask": "connection-string", "device": "scale"})).await;
    assert_eq!(text["connection_string"], "HostName=fleet.hub.test;DeviceId=scale;x509=true");
}

#[tokio::test]
async fn telemetry_is_read_in_pages_and_groups_keep_their_place() {
    let hub = hub("paris", 1).await;
    hub.ask(json!({"ask": "device-add", "id": "pump"})).await;
    let none = hub.ask(json!({"ask": "events", "limit": 9, "from": "now"})).await;
    hub.say("pump", "{\"t\":20}", 3).await;
    let page = hub.ask(json!({"ask": "events", "limit": 2, "wait_ms": 10_000, "cursor": none["next"]})).await;
    assert_eq!(page["events"].as_array().unwrap().len(), 2);
    let event = &page["events"][0];
    assert_eq!(
        (&event["device"], &event["body"], &event["region"]),
        (&json!("pump"), &json!("{\"t\":20}"), &json!("paris"))
    );
    assert_eq!(
        (&event["offset"], &event["properties"], &event["late"]),
        (&json!(0), &json!({"bare": null}), &json!(false))
    );
    hub.ask(json!({"ask": "checkpoint", "group": "g", "cursor": page["next"]})).await;
    assert_eq!(
        hub.ask(json!({"ask": "groups"})).await,
        json!([{"name": "g", "cursor": {"paris": 2}, "behind": 1}])
    );
    let rest = hub.ask(json!({"ask": "events", "limit": 9, "group": "g", "from": "now"})).await;
    assert_eq!((rest["events"].as_array().unwrap().len(), &rest["next"]), (1, &json!({"paris": 3})));
    let since = hub.ask(json!({"ask": "events", "limit": 9, "from": "2023-11-14T22:13:20.000002Z"})).await;
    assert_eq!(since["events"].as_array().unwrap().len(), 1);
    let summary = hub.ask(json!({"ask": "summary"})).await;
    assert_eq!(
        (&summary["telemetry"]["ends"], &summary["endpoints"]["mqtt"]),
        (&json!({"paris": 3}), &json!("mqtt://127.0.0.1:1883"))
    );
    hub.ask(json!({"ask": "group-delete", "group": "g"})).await;
    assert_eq!(hub.ask(json!({"ask": "groups"})).await, json!([]));
}

#[tokio::test]
async fn a_first_event_is_waited_for() {
    let hub = hub("paris", 1).await;
    hub.ask(json!({"ask": "device-add", "id": "pump"})).await;
    let question = json!({"ask": "events", "limit": 9, "from": "now", "wait_ms": 10_000});
    let (page, ()) = tokio::join!(hub.ask(question), async {
        tokio::task::yield_now().await;
        hub.say("pump", "x", 1).await;
    });
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn messages_wait_and_are_not_doubled() {
    let hub = hub("paris", 1).await;
    hub.ask(json!({"ask": "device-add", "id": "pump"})).await;
    let question =
        json!({"ask": "send", "id": "pump", "body": "x", "properties": {"a": "1"}, "message_id": "m"});
    for _ in 0..2 {
        assert_eq!(hub.ask(question.clone()).await["message_id"], "m");
    }
    assert_eq!(hub.ask(json!({"ask": "summary"})).await["messages_pending"], 1);
    assert_eq!(hub.ask(json!({"ask": "device", "id": "pump"})).await["messages_pending"], 1);
}

#[tokio::test]
async fn lines_go_out_and_come_in_again() {
    let (from, to) = (hub("paris", 1).await, hub("oslo", 1).await);
    for id in ["a", "b", "c"] {
        from.ask(json!({"ask": "device-add", "id": id})).await;
    }
    let first = from.ask(json!({"ask": "export", "limit": 2, "keys": true})).await;
    assert_eq!((first["lines"].as_array().unwrap().len(), &first["next"]), (2, &json!("b")));
    let rest = from.ask(json!({"ask": "export", "limit": 2, "keys": true, "after": "b"})).await;
    assert_eq!((rest["lines"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));
    let without = from.ask(json!({"ask": "export", "limit": 9, "keys": false})).await;
    assert!(!without["lines"][0].as_str().unwrap().contains("primaryKey\":\""));

    let mut lines = first["lines"].as_array().unwrap().clone();
    lines.extend([json!(""), json!("{"), json!("{\"id\":\"x\",\"importMode\":\"delete\"}")]);
    let question = json!({"ask": "import", "lines": lines, "first_line": 11, "mode": "create"});
    let imported = to.ask(question.clone()).await;
    assert_eq!(imported["applied"], 2);
    let errors = imported["errors"].as_array().unwrap();
    assert_eq!(
        (&errors[0]["line"], &errors[1]["line"], &errors[1]["id"]),
        (&json!(14), &json!(15), &json!("x"))
    );
    let again = to.ask(question).await;
    assert_eq!((&again["applied"], again["errors"].as_array().unwrap().len()), (&json!(0), 4));
    let same = |hub: Value| (hub["generationId"].clone(), hub["etag"].clone(), hub["authentication"].clone());
    let device = json!({"ask": "device", "id": "a"});
    assert_eq!(same(to.ask(device.clone()).await), same(from.ask(device).await));
}

/// The way to the other hub, in the same process.
struct Way(std::sync::Mutex<Option<(Region, Arc<Link>)>>);

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Way")
    }
}

#[async_trait::async_trait]
impl Pull for Way {
    async fn pull(&self, _: &Region, _: &ItemId, request: Vec<u8>) -> Result<Vec<u8>, StepError> {
        let to = self.0.lock().unwrap().clone();
        let (by, link) = to.ok_or(StepError::Retry { what: "not there yet".to_owned() })?;
        link.answer(&by, &request).await
    }
}

fn connect(hub: &mut Asked, partner: &str, duty: Duty) -> Arc<Way> {
    let way = Arc::new(Way(std::sync::Mutex::default()));
    let partner = Region::parse(partner).unwrap();
    let link = Link::spawn(LinkOptions {
        item: hub.desk.item.clone(),
        here: hub.desk.here.clone(),
        partner: partner.clone(),
        registry: hub.desk.registry().clone(),
        telemetry: hub.desk.fleet.telemetry().clone(),
        far: Arc::clone(&way) as Arc<dyn Pull>,
        duties: Arc::new(Duties::new(duty)),
        before: 0,
        epoch: duty.token.epoch,
        noted: Arc::clone(&hub.desk.noted),
        mode: ReplicationMode::Async,
    });
    (hub.desk.partner, hub.desk.link) = (Some(partner), Some(Arc::new(link)));
    way
}

#[tokio::test]
async fn a_merge_is_planned_done_and_kept() {
    let (mut paris, mut oslo) = (hub("paris", 1).await, hub("oslo", 2).await);
    // Both know the same device, and then disagree about it.
    let known = paris.ask(json!({"ask": "device-add", "id": "pump"})).await;
    let lines = paris.ask(json!({"ask": "export", "limit": 9, "keys": true})).await["lines"].clone();
    oslo.ask(json!({"ask": "import", "lines": lines})).await;
    paris.ask(json!({"ask": "device-set", "id": "pump", "enabled": false, "reason": "stolen"})).await;
    oslo.ask(json!({"ask": "twin-set", "id": "pump", "tags": {"place": "oslo"}})).await;
    paris.ask(json!({"ask": "device-add", "id": "late"})).await;
    paris.say("late", "x", 3).await;
    paris.desk.fleet.fence().await;
    let token = |epoch: u64| Token { incarnation: 0, epoch: Epoch(epoch) };
    let to_oslo = connect(&mut paris, "oslo", Duty { token: token(2), role: Role::Fenced });
    let to_paris = connect(&mut oslo, "paris", Duty { token: token(2), role: Role::Active });
    *to_oslo.0.lock().unwrap() = Some((paris.desk.here.clone(), oslo.desk.link.clone().unwrap()));
    *to_paris.0.lock().unwrap() = Some((oslo.desk.here.clone(), paris.desk.link.clone().unwrap()));

    let plan = oslo.ask(json!({"ask": "merge", "plan": true})).await;
    assert_eq!(
        (&plan["plan"], &plan["partner"], &plan["created"]),
        (&json!(true), &json!("paris"), &json!(1)),
        "{plan}"
    );
    assert_eq!(plan["telemetry"]["late"], 3);
    let conflict = plan["conflicts"].as_array().unwrap().iter().find(|one| one["group"] == "status");
    let conflict = conflict.unwrap_or_else(|| panic!("{plan}"));
    assert_eq!((&conflict["device"], &conflict["winner"]["region"]), (&json!("pump"), &json!("paris")));
    assert_eq!(oslo.ask(json!({"ask": "summary"})).await["devices"]["total"], 1, "nothing was changed");
    let other = oslo.ask(json!({"ask": "merge", "plan": true, "policy": "active-epoch-wins"})).await;
    let status = other["conflicts"].as_array().unwrap().iter().find(|one| one["group"] == "status").cloned();
    assert_eq!(status.unwrap()["winner"]["region"], "oslo");

    let done = oslo.ask(json!({"ask": "merge", "plan": false})).await;
    assert_eq!(
        (&done["plan"], &done["created"], &done["telemetry"]["late"]),
        (&json!(false), &json!(1), &json!(3))
    );
    let pump = oslo.ask(json!({"ask": "device", "id": "pump"})).await;
    assert_eq!((&pump["status"], &pump["twin"]["tags"]["place"]), (&json!("disabled"), &json!("oslo")));
    assert_eq!(pump["generationId"], known["generationId"]);
    let report = std::fs::read_to_string(done["file"].as_str().unwrap()).unwrap();
    assert!(report.contains("\"winner\""), "{report}");
    let conflicts = oslo.ask(json!({"ask": "conflicts"})).await;
    let noted = std::fs::read_to_string(conflicts["file"].as_str().unwrap()).unwrap();
    assert_eq!(conflicts["kept"], noted.lines().count());
    assert_eq!(conflicts["open"].as_array().unwrap().len(), noted.lines().count());
    assert!(noted.lines().all(|line| line.contains("\"noted\":\"")), "{noted}");
    assert_eq!(conflicts["noted"].as_array().unwrap().len(), noted.lines().count());

    let again = oslo.ask(json!({"ask": "merge", "plan": false})).await;
    assert_eq!(
        (&again["created"], &again["telemetry"]["late"], &again["file"]),
        (&json!(0), &json!(0), &Value::Null)
    );
    assert_eq!(
        oslo.ask(json!({"ask": "conflicts"})).await["kept"],
        conflicts["kept"],
        "repeating it changes nothing"
    );
    let late = oslo.ask(json!({"ask": "events", "limit": 9})).await;
    assert_eq!(late["events"].as_array().unwrap().len(), 3);
}
