//! Who may register: what a device claims, and how it proves that.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use farshore_core::moment::Moment;
use ring::hmac;
use rustls_pki_types::CertificateDer;

use super::{Admission, Credential, Group, Known};
use crate::names::DeviceId;
use crate::sas::Token;
use crate::sas::certificate::check_thumbprint;

/// What a device says of itself when it connects.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) scope: String,
    pub(super) registration: DeviceId,
    pub(super) token: Option<String>,
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

/// Why a claim is not believed. The device is told no more than that; the operator reads this in the log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unproved(pub(super) String);

/// The text of a group's key is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key of the group is not base64, or empty: make one with 32 random bytes")]
pub struct BadGroupKey;

/// The key of one device of a group: the HMAC-SHA256 of its registration id under the group's key, both keys in base64.
/// The device's maker computes the same.
///
/// # Errors
/// [`BadGroupKey`].
pub fn derived_key(group_key: &str, registration: &str) -> Result<String, BadGroupKey> {
    let bytes = STANDARD.decode(group_key).ok().filter(|bytes| !bytes.is_empty()).ok_or(BadGroupKey)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
    Ok(STANDARD.encode(hmac::sign(&key, registration.as_bytes())))
}

/// `{scope}/registrations/{registration}/api-version=…&ClientVersion=…`: the scope and the registration.
pub(super) fn username(text: &str) -> Option<(String, DeviceId)> {
    let mut parts = text.splitn(4, '/');
    let (scope, word, registration) = (parts.next()?, parts.next()?, parts.next()?);
    let query = parts.next()?.trim_start_matches('?');
    let has_version = query.split('&').any(|field| field.starts_with("api-version="));
    if scope.is_empty() || word != "registrations" || !has_version {
        return None;
    }
    Some((scope.to_owned(), DeviceId::parse(registration).ok()?))
}

/// Whether a claim is true; `None`: nobody can tell now.
pub(super) fn admitted(claim: &Claim, known: &Known, now: Moment) -> Option<Result<Admission, Unproved>> {
    Some(match known {
        Known::Device(credential) => proved(claim, credential, now).map(|()| Admission::Registered),
        Known::Disabled => Err(Unproved("the device is disabled".to_owned())),
        Known::Stranger(groups) => member(claim, groups, now),
        Known::Perhaps(known) => Ok(admitted(claim, known, now)?.ok()?),
        Known::NotNow { .. } => return None,
    })
}

/// The first group that the device proves to belong to.
fn member(claim: &Claim, groups: &[Group], now: Moment) -> Result<Admission, Unproved> {
    let mut why = Unproved("the device is not registered and no group may create devices".to_owned());
    for group in groups {
        match joins(claim, group, now) {
            Ok(admission) => return Ok(admission),
            Err(unproved) => why = unproved,
        }
    }
    Err(why)
}

fn joins(claim: &Claim, group: &Group, now: Moment) -> Result<Admission, Unproved> {
    match group {
        Group::Keys { primary, secondary } => {
            let own = |key: &str| {
                derived_key(key, claim.registration.as_str()).map_err(|why| Unproved(why.to_string()))
            };
            let (primary, secondary) = (own(primary)?, own(secondary)?);
            signed(claim, &[&primary, &secondary], now)?;
            Ok(Admission::WithKeys { primary, secondary })
        }
        Group::Authority(authorities) => {
            let checked = authorities.check(&claim.certificates, claim.registration.as_str(), now);
            checked.map(|()| Admission::WithAuthority).map_err(|why| Unproved(why.to_string()))
        }
    }
}

fn proved(claim: &Claim, credential: &Credential, now: Moment) -> Result<(), Unproved> {
    match credential {
        Credential::Keys { primary, secondary } => signed(claim, &[primary, secondary], now),
        Credential::Thumbprints(registered) => {
            let registered: Vec<&str> = registered.iter().map(String::as_str).collect();
            check_thumbprint(&claim.certificates, &registered, now).map_err(|why| Unproved(why.to_string()))
        }
        Credential::Authority(authorities) => {
            let checked = authorities.check(&claim.certificates, claim.registration.as_str(), now);
            checked.map_err(|why| Unproved(why.to_string()))
        }
        Credential::None => Err(Unproved("the device has neither keys nor a certificate".to_owned())),
    }
}

fn signed(claim: &Claim, keys: &[&str], now: Moment) -> Result<(), Unproved> {
    let text = claim.token.as_deref().ok_or_else(|| Unproved("no token was shown".to_owned()))?;
    let token = Token::parse(text).map_err(|why| Unproved(why.to_string()))?;
    token.verify(keys, now).map_err(|why| Unproved(why.to_string()))?;
    if !token.covers(&claim.scope, &["registrations", claim.registration.as_str()]) {
        return Err(Unproved("the token is for another registration".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sas::{Authorities, new_key};

    const NOW: Moment = Moment(1_900_000_000_000_000);

    fn claim(resource: &str, key: &str) -> Claim {
        let token =
            Token::make(resource, key, Some("registration"), NOW.after(Duration::from_secs(60))).unwrap();
        let registration = DeviceId::parse("pump").unwrap();
        Claim { scope: "0ne1".to_owned(), registration, token: Some(token), certificates: Vec::new() }
    }

    #[test]
    fn user_names_say_scope_and_registration() {
        let rows = [
            ("0ne1/registrations/pump/api-version=2019-03-31&ClientVersion=x%2F1", Some(("0ne1", "pump"))),
            ("0ne1/registrations/pump/?api-version=2019-03-31", Some(("0ne1", "pump"))),
            ("hub.example/pump/?api-version=2019-03-31", None),
            ("0ne1/registrations/pump", None),
            ("0ne1/registrations/pu mp/api-version=1", None),
            ("/registrations/pump/api-version=1", None),
            ("0ne1/registrations/pump/ClientVersion=1", None),
        ];
        for (text, expected) in rows {
            let expected = expected.map(|(scope, id)| (scope.to_owned(), DeviceId::parse(id).unwrap()));
            assert_eq!(username(text), expected, "{text}");
        }
    }

    #[test]
    fn the_derived_key_is_the_one_that_makers_of_devices_compute() {
        // Computed by Python's hmac from the documented rule.
        let group = STANDARD.encode("0123456789abcdef0123456789abcdef");
        assert_eq!(derived_key(&group, "new-1").unwrap(), "qFn/0gZ5Y4CUASSlk82hmY/G1EzVoe8oX+TGkYRxLmY=");
        assert_eq!(derived_key("no base64!", "pump"), Err(BadGroupKey));
        assert_eq!(derived_key("", "pump"), Err(BadGroupKey));
    }

    #[test]
    fn a_claim_is_believed_when_it_is_proved() {
        let (primary, secondary, other) = (new_key(), new_key(), new_key());
        let device =
            Known::Device(Credential::Keys { primary: primary.clone(), secondary: secondary.clone() });
        let group = Known::Stranger(vec![
            Group::Authority(Authorities::new(&[]).unwrap()),
            Group::Keys { primary: primary.clone(), secondary: secondary.clone() },
        ]);
        let own = derived_key(&secondary, "pump").unwrap();
        let resource = "0ne1/registrations/pump";
        let created =
            Admission::WithKeys { primary: derived_key(&primary, "pump").unwrap(), secondary: own.clone() };
        let rows = [
            ("its first key", claim(resource, &primary), &device, Some(Admission::Registered)),
            ("its second key", claim(resource, &secondary), &device, Some(Admission::Registered)),
            ("another key", claim(resource, &other), &device, None),
            ("a key of another registration", claim("0ne1/registrations/valve", &primary), &device, None),
            ("a key of another scope", claim("0ne2/registrations/pump", &primary), &device, None),
            ("nothing", Claim { token: None, ..claim(resource, &primary) }, &device, None),
            ("a derived key", claim(resource, &own), &group, Some(created)),
            ("the group's own key", claim(resource, &primary), &group, None),
            ("a key, and is disabled", claim(resource, &primary), &Known::Disabled, None),
            ("a key, and no group", claim(resource, &own), &Known::Stranger(Vec::new()), None),
        ];
        for (what, claim, known, expected) in rows {
            assert_eq!(admitted(&claim, known, NOW).unwrap().ok(), expected, "{what}");
        }
        let not_now = Known::NotNow { retry_after: Duration::from_secs(1) };
        assert!(admitted(&claim(resource, &primary), &not_now, NOW).is_none());
        let perhaps = |known: &Known| Known::Perhaps(Box::new(known.clone()));
        let admission = admitted(&claim(resource, &primary), &perhaps(&device), NOW).unwrap().ok();
        assert_eq!(admission, Some(Admission::Registered), "proof is proof");
        for known in [perhaps(&Known::Disabled), perhaps(&Known::Stranger(Vec::new())), perhaps(&device)] {
            assert!(admitted(&claim(resource, &other), &known, NOW).is_none(), "{known:?}");
        }
        let late = NOW.after(Duration::from_secs(3600));
        assert!(admitted(&claim(resource, &primary), &device, late).unwrap().is_err());
    }
}
