use proptest::prelude::*;

use super::*;

const KEY: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ=";
const OTHER: &str = "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItMTI=";

fn at(seconds: u64) -> Moment {
    Moment(seconds * 1_000_000)
}

/// As the official Python service SDK (2.7.0) makes it with [`KEY`].
const PYTHON: &str = "SharedAccessSignature sr=contoso.hub%3A8443&sig=OV1a9p2KwHgnZfERJmMK%2BS8G%2BSYTKoKOOdqVPZZxUNE%3D&se=1900000000&skn=iothubowner";

#[test]
fn a_token_is_a_map_in_any_order() {
    let made = Token::make("contoso.hub/devices/pump", KEY, None, at(1_900_000_000)).unwrap();
    assert!(
        made.starts_with("SharedAccessSignature sr=contoso.hub%2Fdevices%2Fpump&sig=")
            && made.ends_with("&se=1900000000")
    );
    let mut fields: Vec<&str> = made.strip_prefix("SharedAccessSignature ").unwrap().split('&').collect();
    fields.reverse();
    let turned = format!("SharedAccessSignature {}", fields.join("&"));
    for text in [made.as_str(), turned.as_str(), made.strip_prefix(SCHEME).unwrap()] {
        let token = Token::parse(text).unwrap();
        assert_eq!(token.verify(&[OTHER, KEY], at(1_800_000_000)), Ok(()), "{text}");
        assert_eq!(token.policy(), None);
    }
}

#[test]
fn what_is_signed_is_the_text_as_it_came() {
    let lower = "contoso.hub%2fdevices%2fPump";
    let tag = hmac::sign(&hmac_key(KEY).unwrap(), format!("{lower}\n1900000000").as_bytes());
    let signature = percent::encode(&STANDARD.encode(tag));
    let token = Token::parse(&format!("sr={lower}&sig={signature}&se=1900000000")).unwrap();
    assert_eq!(token.verify(&[KEY], at(1)), Ok(()));
    assert!(token.covers("contoso.hub", &["devices", "Pump"]));
    assert!(!token.covers("contoso.hub", &["devices", "pump"]));
    let tidied =
        Token::parse(&format!("sr={}&sig={signature}&se=1900000000", lower.replace("%2f", "%2F"))).unwrap();
    assert_eq!(tidied.verify(&[KEY], at(1)), Err(Refused::Signature));
}

#[test]
fn a_token_counts_until_its_end_and_a_little_longer() {
    let token = Token::parse(&Token::make("h", KEY, Some("service"), at(1000)).unwrap()).unwrap();
    assert_eq!(token.policy(), Some("service"));
    assert_eq!(token.verify(&[KEY], at(1000)), Ok(()));
    assert_eq!(token.verify(&[KEY], at(1300)), Ok(()));
    assert_eq!(token.verify(&[KEY], at(1301)), Err(Refused::Expired));
    assert_eq!(token.verify(&[OTHER, "", "not base64"], at(1301)), Err(Refused::Signature));
    assert_eq!(token.verify(&[], at(1)), Err(Refused::Signature));
}

#[test]
fn a_prefix_is_one_of_whole_segments() {
    let covers = |resource: &str, policy: Option<&str>, host: &str, path: &[&str]| {
        Token::parse(&Token::make(resource, KEY, policy, at(9)).unwrap()).unwrap().covers(host, path)
    };
    for (resource, host, path, expected) in [
        ("contoso.hub", "contoso.hub", &["devices", "a"][..], true),
        ("CONTOSO.hub/", "contoso.hub", &[], true),
        ("contoso.hub", "contoso.hub:8443", &[], true),
        ("127.0.0.2:8443", "127.0.0.2:8443", &[], true),
        ("127.0.0.2:8443", "127.0.0.2", &[], false),
        ("contoso.hub", "contoso.hub.evil", &[], false),
        ("", "", &[], false),
        ("", "contoso.hub", &[], false),
        ("contoso.hub/devices/a", "contoso.hub", &["devices", "a", "modules", "m"], true),
        ("contoso.hub/devices/a", "contoso.hub", &["devices", "ab"], false),
        ("contoso.hub/devices/a/b", "contoso.hub", &["devices", "a"], false),
        ("contoso.hub/devices/a%2Bb", "contoso.hub", &["devices", "a+b"], true),
    ] {
        assert_eq!(covers(resource, None, host, path), expected, "{resource} for {host} {path:?}");
    }
    assert!(!covers("contoso.hub/devices/%41", Some("device"), "contoso.hub", &["devices", "A"]));
}

#[test]
fn what_is_no_token() {
    for (text, why) in [
        ("", "no '='"),
        ("SharedAccessSignature sr=a&sig=YQ%3D%3D", "se is missing"),
        ("sig=YQ%3D%3D&se=1", "sr is missing"),
        ("sr=a&se=1", "sig is missing"),
        ("sr=a&sig=%zz&se=1", "not percent-encoded"),
        ("sr=a&sig=***&se=1", "not base64"),
        ("sr=a&sig=YQ==&se=soon", "no number"),
        ("sr=a&sig=YQ==&se=-1", "no number"),
        ("sr=a&sr=b&sig=YQ==&se=1", "twice"),
        (&"x".repeat(5000), "longer"),
    ] {
        let error = Token::parse(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text:.40}: {error}");
    }
    let endless = Token::parse("sr=a&sig=YQ==&se=99999999999999999999999999").unwrap();
    assert!(!endless.is_expired(Moment(u64::MAX)));
}

#[test]
fn a_token_of_the_official_sdk_is_accepted() {
    let token = Token::parse(PYTHON).unwrap();
    assert_eq!(token.verify(&[KEY], at(1_899_999_999)), Ok(()));
    assert_eq!(token.policy(), Some("iothubowner"));
    assert!(token.covers("contoso.hub:8443", &["devices", "a"]));
}

#[test]
fn keys_are_made_and_checked() {
    assert_eq!(check_key(&new_key()), Ok(()));
    assert_ne!(new_key(), new_key());
    assert_eq!(check_key(""), Err(BadKey));
    assert_eq!(check_key("%%%"), Err(BadKey));
    let token = Token::parse(&Token::make("h", KEY, None, at(1)).unwrap()).unwrap();
    assert!(!format!("{token:?}").contains("signature: "), "{token:?}");
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "(SharedAccessSignature )?[srigekn=&%a-zA-Z0-9]{0,80}") {
        if let Ok(token) = Token::parse(&text) {
            let _ = token.covers("h", &["devices", "a"]);
            prop_assert!(token.verify(&[KEY], at(1)).is_err());
        }
    }

    #[test]
    fn what_was_made_verifies_with_its_key_only(resource in "[a-z.]{1,20}(/[a-zA-Z0-9+%$]{1,10}){0,4}", end in 1u64..4_000_000_000) {
        let token = Token::parse(&Token::make(&resource, KEY, Some("p/1"), at(end)).unwrap()).unwrap();
        prop_assert_eq!(token.verify(&[KEY], at(end)), Ok(()));
        prop_assert_eq!(token.verify(&[OTHER], at(end)), Err(Refused::Signature));
        prop_assert_eq!(token.policy(), Some("p/1"));
        let mut parts = resource.split('/');
        let host = parts.next().unwrap();
        prop_assert!(token.covers(host, &parts.collect::<Vec<_>>()));
    }
}
