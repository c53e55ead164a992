use serde_json::{Value, json};

use super::fixture::Fixture;

#[tokio::test]
async fn an_identity_is_created_read_changed_and_deleted() {
    let hub = Fixture::new().await;
    let created = hub.create("pump").await;
    assert_eq!(created["status"], "enabled");
    assert_eq!(created["authentication"]["type"], "sas");
    assert_eq!(created["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap().len(), 44);
    assert_eq!(created["connectionState"], "Disconnected");
    let read = hub.get("/devices/pump?api-version=2021-04-12").await;
    assert_eq!(read.json(), created);
    assert_eq!(read.header("etag"), format!("\"{}\"", created["etag"].as_str().unwrap()));

    let change = json!({ "deviceId": "pump", "status": "disabled", "statusReason": "stolen" });
    let changed = hub.with("PUT /devices/pump", &[("if-match", "\"*\"")], change).await.json();
    assert_eq!((&changed["status"], &changed["statusReason"]), (&json!("disabled"), &json!("stolen")));
    assert_eq!(changed["authentication"], created["authentication"], "keys that are not mentioned stay");
    assert_eq!(changed["generationId"], created["generationId"]);
    assert_ne!(changed["etag"], created["etag"]);

    let etag = format!("\"{}\"", changed["etag"].as_str().unwrap());
    assert_eq!(hub.with("DELETE /devices/pump", &[("if-match", &etag)], Value::Null).await.status, 204);
    hub.create("pump").await;
    let again = hub.get("/devices/pump").await.json();
    assert_ne!(again["generationId"], created["generationId"], "it is another device");
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_the_codes_of_the_sdks() {
    let hub = Fixture::new().await;
    hub.create("pump").await;
    let stale: &[(&str, &str)] = &[("if-match", "\"stale\"")];
    let any: &[(&str, &str)] = &[("if-match", "*")];
    for (line, headers, body, status, code) in [
        ("GET /devices/none", &[][..], Value::Null, 404, "DeviceNotFound"),
        ("GET /devices/pump/modules/none", &[], Value::Null, 404, "ModuleNotFound"),
        ("GET /devices/none/modules", &[], Value::Null, 404, "DeviceNotFound"),
        ("GET /devices/a%20b", &[], Value::Null, 400, "ArgumentInvalid"),
        ("GET /nothing", &[], Value::Null, 404, "GenericNotFound"),
        ("PATCH /devices/pump", &[], json!({}), 405, "GenericMethodNotAllowed"),
        ("PUT /devices/pump", &[], json!({}), 409, "DeviceAlreadyExists"),
        ("PUT /devices/pump", stale, json!({}), 412, "PreconditionFailed"),
        ("PUT /devices/none", any, json!({}), 404, "DeviceNotFound"),
        ("PUT /devices/none/modules/m", &[], json!({}), 404, "DeviceNotFound"),
        ("PUT /devices/new", &[], Value::Null, 400, "ArgumentInvalid"),
        ("PUT /devices/new", &[], json!([]), 400, "ArgumentInvalid"),
        ("PUT /devices/new", &[], json!({"deviceId": "other"}), 400, "ArgumentInvalid"),
        ("PUT /devices/new", &[], json!({"status": "asleep"}), 400, "ArgumentInvalid"),
        ("PUT /devices/new", &[], json!({"statusReason": "x".repeat(200)}), 400, "ArgumentInvalid"),
        ("PUT /devices/new", &[], json!({"authentication": {"type": "magic"}}), 400, "ArgumentInvalid"),
        (
            "PUT /devices/new",
            &[],
            json!({"authentication": {"x509Thumbprint": {"primaryThumbprint": "12"}}}),
            400,
            "ArgumentInvalid",
        ),
        (
            "PUT /devices/new",
            &[],
            json!({"authentication": {"symmetricKey": {"primaryKey": "no base64"}}}),
            400,
            "ArgumentInvalid",
        ),
        ("DELETE /devices/pump", stale, Value::Null, 412, "PreconditionFailed"),
        ("DELETE /devices/none", any, Value::Null, 404, "DeviceNotFound"),
        ("GET /devices?top=many", &[], Value::Null, 400, "ArgumentInvalid"),
        ("GET /configurations/none", &[], Value::Null, 404, "ConfigurationNotFound"),
        ("PUT /configurations/new", &[], json!({}), 400, "ArgumentInvalid"),
    ] {
        let answered = hub.with(line, headers, body).await;
        Fixture::is(&answered, line, status, code);
        assert_eq!(answered.header("iothub-errorcode"), code, "{line}");
    }
    assert_eq!(hub.get("/devices/new").await.status, 404, "what was refused changed nothing");
}

#[tokio::test]
async fn modules_belong_to_their_device() {
    let hub = Fixture::new().await;
    hub.create("pump").await;
    let module =
        hub.ask("PUT /devices/pump/modules/valve", json!({ "deviceId": "pump", "moduleId": "valve" })).await;
    assert_eq!((module.status, &module.json()["moduleId"]), (200, &json!("valve")));
    let again = hub.ask("PUT /devices/pump/modules/valve", json!({})).await;
    Fixture::is(&again, "again", 409, "ModuleAlreadyExistsOnDevice");
    assert_eq!(hub.get("/devices/pump/modules").await.json().as_array().unwrap().len(), 1);
    assert_eq!(
        hub.get("/devices").await.json().as_array().unwrap().len(),
        1,
        "modules are not listed as devices"
    );
    assert_eq!(hub.ask("DELETE /devices/pump", Value::Null).await.status, 204);
    assert_eq!(hub.get("/devices/pump/modules/valve").await.status, 404, "they go with it");
}

#[tokio::test]
async fn devices_are_listed_and_counted() {
    let hub = Fixture::new().await;
    for id in ["b", "a", "c"] {
        hub.create(id).await;
    }
    hub.with("PUT /devices/c", &[("if-match", "*")], json!({ "status": "Disabled" })).await;
    for path in ["/devices", "/devices/"] {
        let ids: Vec<Value> = hub
            .get(path)
            .await
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["deviceId"].clone())
            .collect();
        assert_eq!(ids, ["a", "b", "c"]);
    }
    assert_eq!(hub.get("/devices?top=2").await.json().as_array().unwrap().len(), 2);
    let counts = hub.get("/statistics/devices").await.json();
    assert_eq!(counts, json!({"totalDeviceCount": 3, "enabledDeviceCount": 2, "disabledDeviceCount": 1}));
    assert_eq!(hub.get("/statistics/service").await.json(), json!({"connectedDeviceCount": 1}));
    assert_eq!(hub.get("/configurations").await.json(), json!([]));
}

#[tokio::test]
async fn a_token_opens_what_its_policy_allows() {
    let hub = Fixture::new().await;
    hub.create("pump").await;
    for (policy, line, status) in [
        ("registryRead", "GET /devices/pump", 200),
        ("registryRead", "GET /twins/pump", 200),
        ("registryRead", "DELETE /devices/pump", 401),
        ("registryRead", "GET /messages/events", 401),
        ("registryReadWrite", "POST /twins/pump/methods", 401),
        ("service", "GET /twins/pump", 200),
        ("service", "GET /devices/pump", 401),
        ("device", "GET /devices/pump", 401),
        ("device", "GET /messages/events", 401),
    ] {
        let token = hub.token(policy);
        let answered = hub.with(line, &[("authorization", &token)], Value::Null).await;
        assert_eq!(answered.status, status, "{policy} {line}: {}", answered.json());
        let code = if status == 401 { "IotHubUnauthorizedAccess" } else { "" };
        assert_eq!(answered.header("iothub-errorcode"), code);
    }
    let owner = hub.token("iothubowner");
    for token in ["", "Bearer x", "SharedAccessSignature sr=contoso.hub", &owner.replace("sig=", "sig=AA")] {
        let answered = hub.with("GET /devices/pump", &[("authorization", token)], Value::Null).await;
        Fixture::is(&answered, token, 401, "IotHubUnauthorizedAccess");
    }
}

#[tokio::test]
async fn queries_page_and_count() {
    let hub = Fixture::new().await;
    for id in 0..5 {
        hub.create(&format!("d{id}")).await;
        hub.ask(&format!("PATCH /twins/d{id}"), json!({ "tags": { "even": id % 2 == 0 } })).await;
    }
    hub.ask("PUT /devices/d0/modules/m", json!({})).await;
    let ask = async |query: &str, headers: &[(&str, &str)]| {
        hub.with("POST /devices/query", headers, json!({ "query": query })).await
    };
    let even = "SELECT deviceId FROM devices WHERE tags.even = true";
    let first = ask(even, &[("x-ms-max-item-count", "2")]).await;
    assert_eq!(first.json(), json!([{"deviceId": "d0"}, {"deviceId": "d2"}]));
    assert_eq!(first.header("x-ms-item-type"), "Raw");
    let next = first.header("x-ms-continuation").to_owned();
    let second = ask(even, &[("x-ms-max-item-count", "2"), ("x-ms-continuation", &next)]).await;
    assert_eq!(second.json(), json!([{"deviceId": "d4"}]));
    assert_eq!(second.header("x-ms-continuation"), "");

    for (query, expected) in [
        ("SELECT COUNT() AS n FROM devices", json!([{"n": 5}])),
        ("SELECT COUNT() AS n FROM devices WHERE NOT tags.even", json!([{"n": 2}])),
        ("SELECT COUNT() AS n FROM devices.modules", json!([{"n": 1}])),
        ("SELECT moduleId FROM devices.modules WHERE deviceId = 'd0'", json!([{"moduleId": "m"}])),
        (
            "SELECT deviceId FROM devices WHERE deviceId IN ['d3', 'd1', 'none', 'no id']",
            json!([{"deviceId": "d1"}, {"deviceId": "d3"}]),
        ),
        ("SELECT deviceId FROM devices WHERE deviceId = 'd3' AND tags.even = true", json!([])),
    ] {
        assert_eq!(ask(query, &[]).await.json(), expected, "{query}");
    }
    let all = ask("SELECT * FROM devices WHERE deviceId = 'd1'", &[]).await;
    assert_eq!((all.header("x-ms-item-type"), &all.json()[0]["tags"]), ("Twin", &json!({"even": false})));
    Fixture::is(&ask("SELECT * FROM devices GROUP BY tags.even", &[]).await, "group", 400, "ArgumentInvalid");
    let forged = ask(even, &[("x-ms-continuation", "zzz")]).await;
    Fixture::is(&forged, "continuation", 400, "ArgumentInvalid");
}
