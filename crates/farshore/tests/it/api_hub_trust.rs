//! Authorities and enrollments of a hub over HTTP and on the command line: what is asked of which region, and that no secret goes
//! astray.

use farshore::api::views::{AuditView, HubAuthorityView, HubEnrollmentView, HubKeysView};
use reqwest::Method;
use serde_json::{Value, json};

use crate::access_matrix::stored;
use crate::api_bench::{Served, problem};
use crate::cli_verbs::run;
use crate::engine_sim::region;

const HUB: &str = "/api/v1/hubs/fleet";
const PRIMARY: &str = "cHJpbWFyeS1zZWNyZXQ=";
const SECONDARY: &str = "c2Vjb25kYXJ5LXNlY3JldA==";

/// The hub fleet in paris, which answers everything; with more than it was asked for.
async fn hub() -> Served {
    let served = Served::new().await;
    let create = json!({"kind": "hub", "name": "fleet", "region": "paris", "spec": {}});
    assert_eq!(served.run("/api/v1/items", &create).await.state, "succeeded");
    let maker = json!({"name": "maker", "subjects": ["CN=root"], "expires": "2040-01-01T00:00:00.000Z", "expired": false});
    let line = json!({"name": "line", "kind": "keys", "primary": PRIMARY, "secondary": SECONDARY});
    for (sort, answer) in [
        ("summary", json!({"hub": "fleet", "hosts": ["fleet.hub.test"], "serving": true, "region": "paris"})),
        ("authorities", json!([maker])),
        ("set-authority", maker.clone()),
        ("delete-authority", json!({})),
        ("enrollments", json!([line])),
        ("set-enrollment", line.clone()),
        ("delete-enrollment", json!({})),
        ("enrollment-key", json!({"id": "new-1", "primary": PRIMARY, "secondary": SECONDARY})),
    ] {
        served.bench.sim.answer(sort, Ok(answer));
    }
    served
}

#[tokio::test]
async fn who_may_come_is_asked_of_the_active_region_and_noted_without_secrets() {
    let served = hub().await;
    let paris = |question: Value| (region("paris"), question);
    served.bench.sim.questions();
    let put = async |path: &str, body: Value| {
        let answer = served.request(Method::PUT, &format!("{HUB}{path}")).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let text = answer.text().await.unwrap();
        assert!(!text.contains(PRIMARY), "{text}");
    };
    put("/authorities/maker", json!({"pem": "PEM"})).await;
    put("/enrollments/line", json!({"primary": PRIMARY})).await;
    put("/enrollments/line", json!({"pem": "PEM"})).await;
    for path in ["/authorities/maker", "/enrollments/line"] {
        let request = served.request(Method::DELETE, &format!("{HUB}{path}")).json(&json!({}));
        assert_eq!(request.send().await.unwrap().status(), 200, "{path}");
    }
    let authorities: Vec<HubAuthorityView> = served.get(&format!("{HUB}/authorities")).await;
    assert_eq!(authorities[0].subjects, ["CN=root"]);
    let shown: Value = served.get(&format!("{HUB}/enrollments")).await;
    assert!(!shown.to_string().contains(PRIMARY));
    let all: Vec<HubEnrollmentView> = served.get(&format!("{HUB}/enrollments?keys=true")).await;
    assert_eq!(all[0].primary.as_deref(), Some(PRIMARY));
    assert!(!format!("{all:?}").contains(PRIMARY), "it is not logged by accident");
    let keys: HubKeysView = served.get(&format!("{HUB}/enrollments/line/key?device=new%2D1")).await;
    assert_eq!(keys.primary.as_deref(), Some(PRIMARY));
    assert_eq!(
        served.bench.sim.questions(),
        [
            paris(json!({"ask": "set-authority", "name": "maker", "pem": "PEM"})),
            paris(json!({"ask": "set-enrollment", "name": "line", "primary": PRIMARY})),
            paris(json!({"ask": "set-enrollment", "name": "line", "pem": "PEM"})),
            paris(json!({"ask": "delete-authority", "name": "maker"})),
            paris(json!({"ask": "delete-enrollment", "name": "line"})),
            paris(json!({"ask": "authorities"})),
            paris(json!({"ask": "enrollments", "keys": false})),
            paris(json!({"ask": "enrollments", "keys": true})),
            paris(json!({"ask": "enrollment-key", "name": "line", "device": "new-1"})),
        ]
    );
    for (key, value) in stored(&served).await {
        let text = String::from_utf8_lossy(&value);
        assert!(!text.contains(PRIMARY) && !text.contains(SECONDARY), "{key} holds a secret");
    }
    let audit: Vec<AuditView> = served.get("/api/v1/audit?limit=1000").await;
    for line in [
        "asked to believe the authority maker about devices of hub/fleet",
        "asked to believe the authority maker no more about devices of hub/fleet",
        "asked to let devices of the enrollment line register themselves with hub/fleet by keys",
        "asked to let devices of the enrollment line register themselves with hub/fleet by certificates",
        "asked to delete the enrollment line of hub/fleet",
        "asked for the keys of all enrollments of hub/fleet",
        "asked for the key of the device new-1 by the enrollment line of hub/fleet",
    ] {
        assert_eq!(audit.iter().filter(|entry| entry.what == line).count(), 1, "{line:?} in {audit:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anybody_is_asked() {
    let served = hub().await;
    served.bench.sim.questions();
    for (method, path, body, why) in [
        (Method::PUT, "/authorities/a%20b", json!({"pem": "PEM"}), "authority: its name"),
        (Method::PUT, "/authorities/a", json!({}), "pem"),
        (Method::PUT, "/enrollments/a%2Fb", json!({}), "enrollment: its name"),
        (Method::PUT, "/enrollments/a", json!({"pem": "PEM", "primary": PRIMARY}), "not both"),
        (Method::PUT, "/enrollments/a", json!({"key": PRIMARY}), "key"),
        (Method::GET, "/enrollments/a/key", json!({}), "device"),
        (Method::GET, "/enrollments?secrets=1", json!({}), "secrets"),
    ] {
        let request = served.request(method.clone(), &format!("{HUB}{path}"));
        let request = if method == Method::GET { request } else { request.json(&body) };
        let refused = problem(request.send().await.unwrap()).await;
        assert_eq!(refused.status, 400, "{path}: {refused:?}");
        assert!(refused.detail.contains(why), "{path}: {}", refused.detail);
    }
    assert!(served.bench.sim.questions().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_come_is_said_on_the_command_line() {
    let served = hub().await;
    let file = served.dir.path().join("root.pem");
    std::fs::write(&file, "PEM").unwrap();
    let file = file.display();
    let add_authority = format!("hub authority add fleet maker {file}");
    let add_enrollment = format!("hub enrollment add fleet line --authority {file}");
    for (line, expected) in [
        ("hub authority list fleet", "maker      2040-01-01  CN=root"),
        (&*add_authority, "next: farshore hub device add fleet ID --auth certificate-authority"),
        ("hub authority remove fleet maker --yes", "maker is removed"),
        ("hub enrollment list fleet", "line        keys"),
        ("hub enrollment list fleet --keys", SECONDARY),
        ("hub enrollment add fleet line", "next: farshore hub enrollment key fleet line --device ID"),
        (&*add_enrollment, "register themselves"),
        ("hub enrollment key fleet line --device new-1", PRIMARY),
        ("hub enrollment key fleet line --device new-1 --key secondary", SECONDARY),
        ("hub enrollment remove fleet line --yes", "line is removed"),
    ] {
        let (code, out, err) = run(&served, line).await;
        assert_eq!(code, 0, "{line}: {err}");
        assert!(out.contains(expected), "{line}: {out}");
    }
    let (_, _, err) = run(&served, "hub enrollment key fleet line --device new-1").await;
    assert!(err.contains("registers itself at fleet.hub.test with fleet.hub.test as its scope"), "{err}");
    for (line, code, why) in [
        ("hub authority add fleet maker /nowhere", 2, "FILE: cannot read /nowhere"),
        ("hub authority remove fleet maker", 2, "add --yes"),
        ("hub enrollment add fleet line --authority /nowhere", 2, "--authority: cannot read /nowhere"),
        ("hub enrollment add fleet line --authority a --primary b", 2, "cannot be used with"),
        ("hub enrollment add fleet a/b", 2, "enrollment: its name"),
        ("hub enrollment remove fleet line", 2, "add --yes"),
        ("hub enrollment key fleet line", 2, "--device <ID>"),
    ] {
        let (status, _, err) = run(&served, line).await;
        assert_eq!(status, code, "{line}: {err}");
        assert!(err.contains(why), "{line}: {err}");
    }
}
