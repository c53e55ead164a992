//! Tokens made by another implementation pass, and nothing else does.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::names::ConnectionId;

mod texts;

/// Made with Python's hmac and hashlib, by hand, under [`KEY`]: a client's token with every kind of claim.
const CLIENT: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.",
    "eyJhdWQiOiJodHRwczovL2h1Yi5leGFtcGxlL2NsaWVudC9odWJzL2NoYXQiLCJzdWIiOiLDnG5hbCIsInJvbGUiOlsid2VicHVic3ViLnNl",
    "bmRUb0dyb3VwIiwid2VicHVic3ViLmpvaW5MZWF2ZUdyb3VwLmEiXSwid2VicHVic3ViLmdyb3VwIjoiYSIsIm5iZiI6MTcwMDAwMDAwMCwi",
    "aWF0IjoxNzAwMDAwMDAwLCJleHAiOjE3MDAwMDM2MDAsInRlbmFudCI6eyJpZCI6N30sImxldmVsIjozfQ.",
    "Ga83OhG7vG68PjH7rVfyFUUof12zvr4ycziccGOHB4s"
);
/// The same, with the header's members in another order and a list in `aud`.
const REST: &str = concat!(
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.",
    "eyJleHAiOjE3MDAwMDM2MDAsImF1ZCI6WyJ4IiwiaHR0cHM6Ly9odWIuZXhhbXBsZS9hcGkvaHVicy9jaGF0LzpzZW5kP2FwaS12ZXJzaW9u",
    "PTIwMjQtMTItMDEiXSwiaWF0IjoxNzAwMDAwMDAwfQ.",
    "L36OtTClTZ7zWQCnqfbR1AkFI10Mjp5Nt7j1VbzYJok"
);
/// The same, under [`SECOND`].
const BY_SECOND: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJ4IiwiZXhwIjoxNzAwMDAzNjAwfQ.",
    "dd0xPH638ZtBjKjEokG2w3i3X8e2_ufAaTM78OMqdyY"
);
/// `{"alg":"none","typ":"JWT"}`
const NONE_HEADER: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";

/// Looks like base64 and is not decoded.
const KEY: &str = "bGtqaGdmZHNhcG9pdXl0cmV3cQ+/==";
const SECOND: &str = "the second key";
/// When the tokens above begin.
const START: u64 = 1_700_000_000;

fn keys() -> AccessKeys {
    AccessKeys { primary: AccessKey::parse(KEY).unwrap(), secondary: AccessKey::parse(SECOND).unwrap() }
}

fn at(seconds: u64) -> Moment {
    Moment(seconds * 1_000_000)
}

fn read(token: &str) -> Result<Claims, TokenError> {
    verify(token, &keys(), at(START), |_| true)
}

/// Any header and payload, rightly signed under [`KEY`].
fn forge(header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// `payload` in a good token at [`START`]: "ok", or which error.
fn check(payload: &str, expected: &str) {
    let found = match read(&forge(r#"{"alg":"HS256"}"#, payload)) {
        Ok(_) => "ok".to_owned(),
        Err(TokenError::Claim { claim, .. }) => format!("claim {claim}"),
        Err(error) => format!("{error:?}").split([' ', '(']).next().unwrap().to_owned(),
    };
    assert_eq!(found, expected, "{payload}");
}

fn check_header_is(header: &str, good: bool) {
    let found = read(&forge(header, r#"{"aud":"x","exp":1700003600}"#));
    assert_eq!(found.is_ok(), good, "{header}: {found:?}");
}

#[test]
fn a_token_of_another_implementation_says_what_it_says() {
    let claims = read(CLIENT).unwrap();
    assert_eq!(claims.user, Some(UserId::parse("Ünal").unwrap()));
    assert_eq!(claims.audiences, ["https://hub.example/client/hubs/chat"]);
    assert_eq!(claims.roles, ["webpubsub.sendToGroup", "webpubsub.joinLeaveGroup.a"]);
    assert_eq!(claims.groups, [GroupName::parse("a").unwrap()]);
    assert_eq!(claims.expires, at(START + 3600));
    let all: Vec<_> =
        claims.all.iter().map(|(name, values)| format!("{name}={}", values.join("|"))).collect();
    assert_eq!(
        all,
        [
            "aud=https://hub.example/client/hubs/chat",
            "exp=1700003600",
            "iat=1700000000",
            "level=3",
            "nbf=1700000000",
            "role=webpubsub.sendToGroup|webpubsub.joinLeaveGroup.a",
            "sub=Ünal",
            "tenant={\"id\":7}",
            "webpubsub.group=a",
        ]
    );
}

#[test]
fn every_audience_of_a_list_is_asked() {
    let wanted = "https://hub.example/api/hubs/chat/:send?api-version=2024-12-01";
    assert!(verify(REST, &keys(), at(START), |audience| audience == wanted).is_ok());
    assert_eq!(verify(REST, &keys(), at(START), |audience| audience == "y"), Err(TokenError::Audience));
}

#[test]
fn both_keys_are_accepted_and_no_third() {
    assert!(read(BY_SECOND).is_ok());
    let others = AccessKeys { primary: AccessKey::of([1; 32]), secondary: AccessKey::of([2; 32]) };
    assert_eq!(verify(CLIENT, &others, at(START), |_| true), Err(TokenError::Signature));
}

#[test]
fn what_is_signed_here_is_what_others_sign() {
    let key = AccessKey::parse("k").unwrap();
    assert_eq!(
        sign(&json!({"aud": "x", "exp": 1_700_003_600}), &key),
        concat!(
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJ4IiwiZXhwIjoxNzAwMDAzNjAwfQ.",
            "gUspDce2cHRf_bZiCfVImU6gtr8NbBOpameS7h3FMYg"
        )
    );
}

#[test]
fn only_hs256_without_demands_is_an_algorithm() {
    check_header_is(r#"{"alg":"HS256"}"#, true);
    check_header_is(r#"{"typ":"at+jwt","alg":"HS256","kid":"1"}"#, true);
    check_header_is(r#"{"alg":"hs256"}"#, false);
    check_header_is(r#"{"alg":"HS256 "}"#, false);
    check_header_is(r#"{"alg":"HS384"}"#, false);
    check_header_is(r#"{"alg":"HS512"}"#, false);
    check_header_is(r#"{"alg":"RS256"}"#, false);
    check_header_is(r#"{"alg":"none"}"#, false);
    check_header_is(r#"{"alg":""}"#, false);
    check_header_is(r#"{"alg":null}"#, false);
    check_header_is(r#"{"alg":["HS256"]}"#, false);
    check_header_is(r#"{"Alg":"HS256"}"#, false);
    check_header_is(r#"{"alg":"HS256","alg":"none"}"#, false);
    check_header_is(r#"{"alg":"HS256","crit":["exp"]}"#, false);
    check_header_is("{}", false);
    check_header_is("[]", false);
    check_header_is("\"HS256\"", false);
    check_header_is("", false);
}

#[test]
fn a_token_without_a_signature_is_refused() {
    let payload = CLIENT.split('.').nth(1).unwrap();
    assert_eq!(read(&format!("{NONE_HEADER}.{payload}.")), Err(TokenError::Algorithm));
    assert_eq!(read(&format!("{HEADER}.{payload}.")), Err(TokenError::Signature));
    assert!(matches!(read(&format!("{NONE_HEADER}.{payload}")), Err(TokenError::Malformed(_))));
}

#[test]
fn a_changed_token_is_refused_wherever_it_was_changed() {
    for at in 0..CLIENT.len() {
        let mut bytes = CLIENT.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert!(read(std::str::from_utf8(&bytes).unwrap()).is_err(), "changed at {at}");
    }
    for length in 0..CLIENT.len() {
        assert!(read(&CLIENT[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn what_is_not_a_token_is_refused() {
    for text in ["", ".", "..", "...", "a.b.c", "a.b.c.d", " ", "Bearer x", "ä.ö.ü"] {
        assert!(read(text).is_err(), "{text:?}");
    }
    assert!(read(&format!("{CLIENT} ")).is_err());
    assert!(read(&format!("{CLIENT}.")).is_err());
    assert!(read(&format!("{CLIENT}=")).is_err());
    assert!(read(&"a".repeat(TOKEN_LEN_MAX + 1)).is_err());
    assert!(read(&".".repeat(TOKEN_LEN_MAX)).is_err());
}

#[test]
fn times_are_kept_with_five_minutes_of_grace() {
    check(r#"{"aud":"x"}"#, "NoExpiry");
    check(r#"{"aud":"x","exp":null}"#, "NoExpiry");
    check(r#"{"aud":"x","exp":1700000000}"#, "ok");
    check(r#"{"aud":"x","exp":1699999700}"#, "ok");
    check(r#"{"aud":"x","exp":1699999699}"#, "Expired");
    check(r#"{"aud":"x","exp":1699999699.9}"#, "Expired");
    check(r#"{"aud":"x","exp":1699999700.5}"#, "ok");
    check(r#"{"aud":"x","exp":0}"#, "Expired");
    check(r#"{"aud":"x","exp":-1}"#, "Expired");
    check(r#"{"aud":"x","exp":1e300}"#, "ok");
    check(r#"{"aud":"x","exp":18446744073709551615}"#, "ok");
    check(r#"{"aud":"x","exp":"1700003600"}"#, "claim exp");
    check(r#"{"aud":"x","exp":[1700003600]}"#, "claim exp");
    check(r#"{"aud":"x","exp":true}"#, "claim exp");
    check(r#"{"aud":"x","exp":1700003600,"nbf":1700000300}"#, "ok");
    check(r#"{"aud":"x","exp":1700003600,"nbf":1700000301}"#, "TooEarly");
    check(r#"{"aud":"x","exp":1700003600,"nbf":1e300}"#, "TooEarly");
    check(r#"{"aud":"x","exp":1700003600,"nbf":"soon"}"#, "claim nbf");
    check(r#"{"aud":"x","exp":1700003600,"nbf":null}"#, "ok");
    check(r#"{"aud":"x","exp":1700003600,"iat":1900000000}"#, "ok");
}

#[test]
fn claims_of_the_wrong_type_are_refused() {
    check(r#"{"exp":1700003600}"#, "Audience");
    check(r#"{"aud":null,"exp":1700003600}"#, "Audience");
    check(r#"{"aud":[],"exp":1700003600}"#, "Audience");
    check(r#"{"aud":7,"exp":1700003600}"#, "claim aud");
    check(r#"{"aud":["x",7],"exp":1700003600}"#, "claim aud");
    check(r#"{"aud":{"x":1},"exp":1700003600}"#, "claim aud");
    check(r#"{"aud":"x","exp":1700003600,"sub":""}"#, "ok");
    check(r#"{"aud":"x","exp":1700003600,"sub":null}"#, "ok");
    check(r#"{"aud":"x","exp":1700003600,"sub":7}"#, "claim sub");
    check(r#"{"aud":"x","exp":1700003600,"sub":["a"]}"#, "claim sub");
    check(r#"{"aud":"x","exp":1700003600,"role":"a"}"#, "ok");
    check(r#"{"aud":"x","exp":1700003600,"role":["a","b"]}"#, "ok");
    check(r#"{"aud":"x","exp":1700003600,"role":[]}"#, "ok");
    check(r#"{"aud":"x","exp":1700003600,"role":{"a":1}}"#, "claim role");
    check(r#"{"aud":"x","exp":1700003600,"role":[null]}"#, "claim role");
    check(r#"{"aud":"x","exp":1700003600,"webpubsub.group":["a","b"]}"#, "ok");
    check(r#"{"aud":"x","exp":1700003600,"webpubsub.group":""}"#, "claim webpubsub.group");
    check(r#"{"aud":"x","exp":1700003600,"webpubsub.group":[" "]}"#, "claim webpubsub.group");
    check(r#"{"aud":"x","exp":1700003600,"webpubsub.group":false}"#, "claim webpubsub.group");
    check(r#"{"aud":"x","exp":1700003600,"anything":[1,null,{"a":[]},"b"]}"#, "ok");
    check("[]", "Malformed");
    check("", "Malformed");
    check("null", "Malformed");
    check("{\"aud\":\"x\"", "Malformed");
    check(
        &format!("{{\"aud\":\"x\",\"exp\":1700003600,\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000)),
        "Malformed",
    );
    let long = format!(r#"{{"aud":"x","exp":1700003600,"sub":"{}"}}"#, "u".repeat(1025));
    check(&long, "claim sub");
}

#[test]
fn a_clients_token_reads_back() {
    let user = UserId::parse("ann/ü").unwrap();
    let groups = [GroupName::parse("g1").unwrap(), GroupName::parse("g 2").unwrap()];
    let roles = ["webpubsub.sendToGroup".to_owned()];
    let endpoint = "http://127.0.0.1:8080/client/hubs/chat";
    let token = client_token(endpoint, Some(&user), &roles, &groups, at(START), 60, &keys().primary);
    let claims = read(&token).unwrap();
    assert_eq!((claims.user, claims.groups), (Some(user), groups.to_vec()));
    assert_eq!((claims.roles, claims.audiences), (roles.to_vec(), vec![endpoint.to_owned()]));
    assert_eq!(claims.expires, at(START + 3600));

    let bare = read(&client_token(endpoint, None, &[], &[], at(START), 1, &keys().primary)).unwrap();
    assert_eq!(bare.all.keys().collect::<Vec<_>>(), ["aud", "exp", "iat", "nbf"]);
    assert_eq!(bare.user, None);
}

#[test]
fn a_reconnection_token_is_for_one_connection() {
    let (mine, other) = (ConnectionId::of([1; 16]), ConnectionId::of([2; 16]));
    let token = reconnection_token(&mine, at(START), &keys().primary);
    let verified = |connection, after| verify_reconnection(&token, connection, &keys(), at(START + after));
    assert_eq!(verified(&mine, 0), Ok(()));
    assert_eq!(verified(&mine, 6 * 86_400), Ok(()));
    assert_eq!(verified(&other, 0), Err(TokenError::Audience));
    assert!(matches!(verified(&mine, 8 * 86_400), Err(TokenError::Expired { .. })));
    let access = client_token(mine.as_str(), None, &[], &[], at(START), 60, &keys().primary);
    assert!(verify_reconnection(&access, &mine, &keys(), at(START)).is_err());
}

#[test]
fn events_are_signed_with_both_keys() {
    let keys = AccessKeys {
        primary: AccessKey::parse("first").unwrap(),
        secondary: AccessKey::parse("second").unwrap(),
    };
    assert_eq!(
        event_signature(&ConnectionId::parse("conn-1").unwrap(), &keys),
        "sha256=ca87f7de84126b554b564fdc11b9f7bd005b91ab046696294d44a9a6c03fe2fc,\
         sha256=453922033270a1846a71d266f037178cac1d327b74bda812539150be08da5690"
    );
}

#[test]
fn keys_do_not_show_in_logs() {
    assert!(!format!("{:?}", keys()).contains("bGtq"));
    let connection: ConnectionString = format!("Endpoint=https://h;AccessKey={KEY}").parse().unwrap();
    assert!(!format!("{connection:?}").contains("bGtq"));
    assert_eq!(AccessKey::of([0; 32]).expose().len(), 44);
    for bad in ["", " ", "a;b", "a\nb", &"k".repeat(1025)] {
        assert!(AccessKey::parse(bad).is_err(), "{bad:?}");
        assert!(serde_json::from_value::<AccessKey>(json!(bad)).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_token_panic(text in any::<String>(), header in any::<String>(), payload in any::<String>()) {
        prop_assert!(read(&text).is_err());
        let _ = read(&forge(&header, &payload));
        let _ = read(&forge(r#"{"alg":"HS256"}"#, &payload));
    }

    #[test]
    fn no_claims_make_a_token_panic(exp in any::<f64>(), nbf in any::<i64>(), role in prop::collection::vec(any::<String>(), 0..4)) {
        let token = sign(&json!({"aud": "x", "exp": exp, "nbf": nbf, "role": role}), &keys().primary);
        if let Ok(claims) = read(&token) {
            prop_assert_eq!(claims.roles, role);
        }
    }
}
