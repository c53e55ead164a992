//! Who is let in, who is held, and who is refused.

use super::*;
use crate::mqtt::behind::Closing;
use crate::record::NewDevice;

#[tokio::test]
async fn a_hub_that_does_not_serve_refuses_nobody_for_good() {
    let hub = closed("oslo");
    let stranger = || hello("stranger", &new_key());
    assert!(matches!(hub.admit(stranger()).await, Verdict::Unavailable), "closed");
    hub.fleet.stand_by();
    assert!(matches!(hub.admit(stranger()).await, Verdict::Unavailable), "standing by");
    hub.fleet.open_to_devices(Epoch(1), Standing::Behind);
    assert!(matches!(hub.admit(stranger()).await, Verdict::Unavailable), "the registry may lack it");
    let sas = hub.register("pump").await;
    assert!(matches!(hub.admit(hello("pump", &new_key())).await, Verdict::Unavailable), "its key may be old");
    hub.connect("pump", &sas).await;
    hub.edit("pump", vec![Edit::Status { enabled: false, reason: String::new() }]).await;
    assert!(matches!(hub.admit(hello("pump", &sas)).await, Verdict::Unavailable), "it may be enabled there");
    hub.fleet.open_to_devices(Epoch(1), Standing::Current);
    assert!(matches!(hub.admit(stranger()).await, Verdict::Unauthorized));
    assert!(matches!(hub.admit(hello("pump", &sas)).await, Verdict::Unauthorized));
    hub.fleet.fence().await;
    assert!(matches!(hub.admit(stranger()).await, Verdict::Unavailable), "fenced");
    assert_eq!(hub.fleet.stats().held, 0);
}

#[tokio::test]
async fn a_device_that_waits_comes_in_when_the_hub_opens_or_learns_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options("oslo", &dir);
    options.admission.hold_max = PATIENCE;
    let hub = Hub { fleet: Fleet::open(options).unwrap(), dir };
    let sas = hub.register("pump").await;
    hub.fleet.stand_by();
    let fleet = hub.fleet.clone();
    let early = tokio::spawn(async move { fleet.admit(hello("pump", &sas)).await });
    within(async {
        while hub.fleet.stats().held == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!early.is_finished());
    hub.fleet.open_to_devices(Epoch(1), Standing::Behind);
    opened(within(early).await.unwrap());

    let (fleet, primary) = (hub.fleet.clone(), new_key());
    let unknown = hello("valve", &primary);
    let unknown = tokio::spawn(async move { fleet.admit(unknown).await });
    let auth = Auth::Sas { primary, secondary: new_key() };
    hub.edit("valve", vec![Edit::Create(NewDevice::with(auth))]).await;
    opened(within(unknown).await.unwrap());
}

#[tokio::test]
async fn whoever_waits_here_is_sent_on_as_soon_as_another_region_serves() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options("oslo", &dir);
    (options.admission.hold_max, options.admission.fenced_hold_max) = (4 * PATIENCE, 4 * PATIENCE);
    let hub = Hub { fleet: Fleet::open(options).unwrap(), dir };
    hub.fleet.fence().await;
    let fleet = hub.fleet.clone();
    let early = tokio::spawn(async move { fleet.admit(hello("pump", &new_key())).await });
    within(async {
        while hub.fleet.stats().held == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!early.is_finished());
    hub.fleet.follow();
    assert!(matches!(within(early).await.unwrap(), Verdict::Unavailable));
}

#[tokio::test]
async fn whoever_goes_away_while_they_wait_is_forgotten() {
    let hub = closed("oslo");
    let waits = hub.fleet.admit(hello("pump", &new_key()));
    assert!(timeout(Duration::from_millis(10), waits).await.is_err());
    assert_eq!(hub.fleet.stats().held, 0);
}

#[tokio::test]
async fn what_a_device_shows_is_held_against_its_registration() {
    let hub = open("oslo");
    let sas = hub.register("pump").await;
    hub.register("valve").await;
    type Spoil = fn(&mut Hello);
    let cases: [(&str, Spoil); 6] = [
        ("another key", |hello| hello.password = super::hello("pump", &new_key()).password),
        ("another device's token", |hello| hello.key = key("valve")),
        ("another host", |hello| hello.host = "fabrikam.hub".to_owned()),
        ("nothing", |hello| hello.password = None),
        ("rubbish", |hello| hello.password = Some("SharedAccessSignature sr".to_owned())),
        ("an unknown module", |hello| hello.key = key("pump/unknown")),
    ];
    for (what, spoil) in cases {
        let mut hello = hello("pump", &sas);
        spoil(&mut hello);
        assert!(matches!(hub.admit(hello).await, Verdict::Unauthorized), "{what}");
    }
    let mut expired = hello("pump", &sas);
    let resource = format!("{HOST}/devices/pump");
    expired.password = Some(Token::make(&resource, &sas, None, farshore_core::moment::Moment(1)).unwrap());
    assert!(matches!(hub.admit(expired).await, Verdict::Unauthorized), "an expired token");
    let session = hub.connect("pump", &sas).await;
    assert!(session.expires().unwrap() > now().after(Duration::from_secs(3600)));
}

#[tokio::test]
async fn a_policy_of_the_hub_connects_devices_if_it_may() {
    let hub = open("oslo");
    hub.register("pump").await;
    hub.fleet.make_policies().await.unwrap();
    for policy in hub.fleet.registry().policies().unwrap() {
        let until = now().after(PATIENCE);
        let token =
            Token::make(&format!("{HOST}/devices/pump"), &policy.secondary, Some(&policy.name), until);
        let mut hello = hello("pump", &policy.primary);
        hello.password = Some(token.unwrap());
        let is_open = matches!(hub.admit(hello).await, Verdict::Open(_));
        assert_eq!(is_open, ["device", "iothubowner"].contains(&&*policy.name), "{}", policy.name);
    }
}

#[tokio::test]
async fn who_came_by_a_key_that_its_policy_has_no_more_goes() {
    let hub = open("oslo");
    hub.fleet.make_policies().await.unwrap();
    let registry = hub.fleet.registry();
    let of = |name: &str| registry.policies().unwrap().into_iter().find(|one| one.name == name).unwrap();
    let (device, owner) = (of("device"), of("iothubowner"));
    let shown = |id: &str, policy: &str, sas: &str| {
        let resource = format!("{HOST}/devices/{id}");
        let token = Token::make(&resource, sas, Some(policy), now().after(PATIENCE)).unwrap();
        Hello { password: Some(token), ..hello(id, sas) }
    };
    let mut sessions = Vec::new();
    for (id, policy, sas) in [
        ("primary", &device, &device.primary),
        ("secondary", &device, &device.secondary),
        ("owned", &owner, &owner.primary),
    ] {
        hub.register(id).await;
        sessions.push(opened(hub.admit(shown(id, &policy.name, sas)).await));
    }
    let own = hub.register("own").await;
    let own = hub.connect("own", &own).await;
    let changed = crate::sas::Policy { primary: new_key(), ..device.clone() };
    registry.set_policy(changed).await.unwrap();
    assert_eq!(next(&sessions[0]).await, Outgoing::Close(Closing::Revoked));
    let again = hub.admit(shown("primary", "device", &device.primary)).await;
    assert!(matches!(again, Verdict::Unauthorized));
    assert!(is_quiet(&sessions[1]).await, "it stands on the other key");
    registry.delete_policy("device").await.unwrap();
    assert_eq!(next(&sessions[1]).await, Outgoing::Close(Closing::Revoked));
    let owner = crate::sas::Policy { rights: crate::sas::Rights::SERVICE_CONNECT, ..owner };
    registry.set_policy(owner).await.unwrap();
    assert_eq!(next(&sessions[2]).await, Outgoing::Close(Closing::Revoked), "the right was taken");
    assert!(is_quiet(&own).await, "a device's own key has nothing to do with it");
}

#[tokio::test]
async fn a_certificate_connects_by_its_thumbprint() {
    let hub = open("oslo");
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = named("pump").self_signed(&pair).unwrap().der().clone();
    let thumbprint = crate::sas::certificate::thumbprint(&certificate);
    let auth = Auth::SelfSigned { primary_thumbprint: None, secondary_thumbprint: Some(thumbprint) };
    hub.edit("pump", vec![Edit::Create(NewDevice::with(auth))]).await;
    let shown = |certificates| Hello { password: None, certificates, ..hello("pump", &new_key()) };
    opened(hub.admit(shown(vec![certificate])).await);
    assert!(matches!(hub.admit(shown(Vec::new())).await, Verdict::Unauthorized));
}

#[tokio::test]
async fn a_newer_connection_takes_the_place_of_the_older() {
    let hub = open("oslo");
    let sas = hub.register("pump").await;
    let older = hub.connect("pump", &sas).await;
    let newer = hub.connect("pump", &sas).await;
    assert_eq!(next(&older).await, Outgoing::Close(Closing::Replaced));
    older.closed(None).await;
    drop(older);
    assert_eq!(hub.fleet.connected(), 1, "the end of the older leaves the newer alone");
    assert!(hub.fleet.connection_of(&key("pump")).is_some());
    newer.closed(None).await;
    assert_eq!(hub.fleet.connected(), 0);
    assert!(hub.fleet.connection_of(&key("pump")).is_none());
}

#[tokio::test]
async fn a_device_that_is_disabled_deleted_or_given_other_keys_is_disconnected_at_once() {
    let hub = open("oslo");
    let other = Auth::Sas { primary: new_key(), secondary: new_key() };
    let edits =
        [Edit::Status { enabled: false, reason: "stolen".to_owned() }, Edit::Delete, Edit::Auth(other)];
    for (number, edit) in edits.into_iter().enumerate() {
        let id = format!("pump-{number}");
        let sas = hub.register(&id).await;
        let session = hub.connect(&id, &sas).await;
        hub.edit(&id, vec![edit]).await;
        assert_eq!(next(&session).await, Outgoing::Close(Closing::Revoked));
        assert!(matches!(hub.admit(hello(&id, &sas)).await, Verdict::Unauthorized));
    }
}

#[tokio::test]
async fn a_module_goes_with_its_device() {
    let hub = open("oslo");
    hub.register("pump").await;
    let sas = hub.register("pump/valve").await;
    let session = hub.connect("pump/valve", &sas).await;
    hub.edit("pump", vec![Edit::Status { enabled: false, reason: String::new() }]).await;
    assert_eq!(next(&session).await, Outgoing::Close(Closing::Revoked));
    assert!(matches!(hub.admit(hello("pump/valve", &sas)).await, Verdict::Unauthorized));
}

#[tokio::test]
async fn other_changes_leave_a_connection_alone() {
    let hub = open("oslo");
    let sas = hub.register("pump").await;
    let session = hub.connect("pump", &sas).await;
    hub.edit("pump", vec![Edit::Tags { patch: json!({ "floor": 3 }), replace: false }]).await;
    hub.edit("pump", vec![desired(json!({ "speed": 1 }))]).await;
    assert!(is_quiet(&session).await, "it is not subscribed to desired properties");
}

#[tokio::test]
async fn when_changes_were_missed_every_connection_is_looked_at() {
    let hub = open("oslo");
    let mut sessions = Vec::new();
    for id in ["disabled", "rekeyed", "behind", "same"] {
        let sas = hub.register(id).await;
        let session = hub.connect(id, &sas).await;
        session.subscribe(ALL).await.unwrap();
        sessions.push(session);
    }
    hub.fleet.0.stop_following();
    hub.edit("disabled", vec![Edit::Status { enabled: false, reason: String::new() }]).await;
    let auth = Auth::Sas { primary: new_key(), secondary: new_key() };
    hub.edit("rekeyed", vec![Edit::Auth(auth)]).await;
    hub.edit("behind", vec![desired(json!({ "speed": 1 }))]).await;
    hub.edit("same", vec![Edit::Tags { patch: json!({ "floor": 1 }), replace: false }]).await;
    hub.fleet.look_at_all();
    for (session, why) in sessions.iter().zip([Closing::Revoked, Closing::Revoked, Closing::Leaving]) {
        assert_eq!(next(session).await, Outgoing::Close(why));
    }
    assert!(is_quiet(&sessions[3]).await);
}

fn named(name: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

/// An authority, with its certificate in PEM.
fn authority() -> (rcgen::CertifiedIssuer<'static, rcgen::KeyPair>, String) {
    let mut params = named("root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    let pem = issuer.pem();
    (issuer, pem)
}

#[tokio::test]
async fn a_certificate_of_an_authority_connects_as_long_as_it_is_believed_in_either_region() {
    let (oslo, paris) = (open("oslo"), open("paris"));
    let (issuer, pem) = authority();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = named("pump").signed_by(&key, &issuer).unwrap().der().clone();
    oslo.edit("pump", vec![Edit::Create(NewDevice::with(Auth::Authority))]).await;
    oslo.register("valve").await;
    let shown =
        || Hello { password: None, certificates: vec![certificate.clone()], ..hello("pump", &new_key()) };
    assert!(matches!(oslo.admit(shown()).await, Verdict::Unauthorized), "nobody is believed");
    let settings = oslo.fleet.registry();
    settings.set_setting("authorities", "maker", Some(json!({ "pem": pem }))).await.unwrap();
    settings.set_setting("authorities", "broken", Some(json!({ "pem": "x" }))).await.unwrap();
    settings.set_setting("authorities", "strange", Some(json!(7))).await.unwrap();
    let session = opened(oslo.admit(shown()).await);
    oslo.is_pulled_by(&paris).await;
    opened(paris.admit(shown()).await);

    // By another setting, it goes on being believed.
    settings.set_setting("enrollments", "line", Some(json!({ "authority": pem }))).await.unwrap();
    settings.set_setting("authorities", "maker", None).await.unwrap();
    assert!(is_quiet(&session).await);
    settings.set_setting("enrollments", "line", None).await.unwrap();
    assert_eq!(next(&session).await, Outgoing::Close(Closing::Leaving));
    assert!(matches!(oslo.admit(shown()).await, Verdict::Unauthorized));
    oslo.is_pulled_by(&paris).await;
    assert!(matches!(paris.admit(shown()).await, Verdict::Unauthorized));
}
