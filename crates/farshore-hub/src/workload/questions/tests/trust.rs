//! Authorities and enrollments, as an operator sets them.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

use super::*;
use crate::provision::derived_key;

fn authority(name: &str, year: i32) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

#[tokio::test]
async fn authorities_are_set_shown_and_removed() {
    let hub = hub("paris", 1).await;
    let pem = format!("{}{}", authority("root", 2040), authority("next", 2050));
    let set = hub.ask(json!({"ask": "set-authority", "name": "maker", "pem": pem})).await;
    assert_eq!((&set["subjects"], &set["expired"]), (&json!(["CN=root", "CN=next"]), &json!(false)));
    let old = hub.ask(json!({"ask": "set-authority", "name": "old", "pem": authority("old", 2001)})).await;
    assert_eq!((&old["expires"], &old["expired"]), (&json!("2001-01-01T00:00:00.000Z"), &json!(true)));
    let listed = hub.ask(json!({"ask": "authorities"})).await;
    assert_eq!(listed, json!([set, old]));
    assert!(!listed.to_string().contains("BEGIN"));
    for (name, pem, why) in [
        ("a b", authority("root", 2040), "names no setting"),
        ("a", "nothing".to_owned(), "pem: there is no certificate in it"),
    ] {
        let refused = hub.refusal(json!({"ask": "set-authority", "name": name, "pem": pem})).await;
        assert!(refused.contains(why), "{refused}");
    }
    hub.ask(json!({"ask": "delete-authority", "name": "old"})).await;
    let refused = hub.refusal(json!({"ask": "delete-authority", "name": "old"})).await;
    assert_eq!(refused, "\"old\" is not among the authorities; there are: maker");
    hub.desk.fleet.fence().await;
    let refused = hub.refusal(json!({"ask": "set-authority", "name": "maker", "pem": pem})).await;
    assert!(refused.contains("does not serve in paris now"), "{refused}");
    assert_eq!(hub.ask(json!({"ask": "authorities"})).await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn enrollments_are_set_shown_and_removed_and_give_each_device_its_key() {
    let hub = hub("paris", 1).await;
    let made = hub.ask(json!({"ask": "set-enrollment", "name": "line"})).await;
    assert_eq!(made, json!({"name": "line", "kind": "keys"}));
    let listed = async |keys: bool| hub.ask(json!({"ask": "enrollments", "keys": keys})).await;
    assert_eq!(listed(false).await, json!([made]));
    let shown = listed(true).await;
    let primary = shown[0]["primary"].as_str().unwrap();
    hub.ask(json!({"ask": "set-enrollment", "name": "line"})).await;
    assert_eq!(listed(true).await, shown, "its keys stay");
    let given = hub.ask(json!({"ask": "enrollment-key", "name": "line", "device": "new-1"})).await;
    assert_eq!(
        (&given["id"], &given["primary"]),
        (&json!("new-1"), &json!(derived_key(primary, "new-1").unwrap()))
    );
    hub.ask(json!({"ask": "set-enrollment", "name": "line", "secondary": "a2V5"})).await;
    let changed = listed(true).await;
    assert_eq!((&changed[0]["primary"], &changed[0]["secondary"]), (&json!(primary), &json!("a2V5")));

    let by = json!({"ask": "set-enrollment", "name": "maker", "pem": authority("root", 2040)});
    assert_eq!(hub.ask(by).await["kind"], "authority");
    let listed = listed(true).await;
    assert_eq!((&listed[1]["subjects"], &listed[1]["primary"]), (&json!(["CN=root"]), &Value::Null));
    for (question, why) in [
        (
            json!({"ask": "enrollment-key", "name": "maker", "device": "a"}),
            "have certificates of its authority",
        ),
        (json!({"ask": "enrollment-key", "name": "line", "device": "a b"}), "device:"),
        (json!({"ask": "enrollment-key", "name": "none", "device": "a"}), "there are: line, maker"),
        (json!({"ask": "set-enrollment", "name": "x", "pem": "x", "primary": "a2V5"}), "not both"),
        (json!({"ask": "set-enrollment", "name": "x", "pem": "x"}), "there is no certificate in it"),
        (json!({"ask": "set-enrollment", "name": "x", "primary": "no base64!"}), "primary:"),
    ] {
        let refused = hub.refusal(question).await;
        assert!(refused.contains(why), "{refused}");
    }
    hub.ask(json!({"ask": "delete-enrollment", "name": "line"})).await;
    assert_eq!(hub.ask(json!({"ask": "enrollments"})).await.as_array().unwrap().len(), 1);
}
