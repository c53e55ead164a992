//! Hubs that are none, or not now.

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};

use super::fake::{Answer, Asked, Fake};
use super::*;

fn twin(id: &str) -> Value {
    json!({"deviceId": id, "etag": "AAA", "deviceEtag": format!("etag-{id}"), "tags": {}, "properties": {"desired": {}}})
}

fn identity(id: &str) -> Value {
    json!({"deviceId": id, "generationId": format!("g-{id}"), "etag": format!("etag-{id}"), "status": "enabled",
        "statusReason": null, "authentication": {"type": "sas", "symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY},
        "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null}}})
}

fn is_modules(asked: &Asked) -> bool {
    asked.body.contains("devices.modules")
}

/// A hub with these devices, and what else it is told to answer.
fn of(
    ids: &'static [&'static str],
    other: impl Fn(&Asked) -> Option<Answer>,
) -> impl Fn(usize, &Asked) -> Answer {
    move |_, asked| {
        if let Some(answer) = other(asked) {
            return answer;
        }
        match asked.line.split_once("GET /devices/").map(|(_, id)| id) {
            Some(id) if ids.contains(&id) => Answer::page(&identity(id)),
            Some(_) => Answer::missing(),
            None if is_modules(asked) => Answer::page(&json!([])),
            None => Answer::page(&ids.iter().map(|id| twin(id)).collect()),
        }
    }
}

/// What a run against it says; nothing of it is a key, and nothing was changed here.
async fn refusal(answers: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> String {
    let near = Hub::open("paris").await;
    near.fill((0..3).map(device)).await;
    let own = near.own();
    let fake = Fake::start(answers).await;
    let mut member = fake.member(&near, |setting| setting.prune = true);
    let ran = tokio::time::timeout(PATIENCE, run(&mut member, Manner::Do)).await;
    let (done, report) = ran.expect("it comes to an end");
    assert_eq!((near.own(), report.deleted), (own, 0), "{done:?}");
    let text = format!("{report:?}");
    assert!(!text.contains(KEY) && !text.contains("sig="), "{text}");
    done.unwrap_err().to_string()
}

#[tokio::test]
async fn whoever_is_no_hub_is_told_so_in_words() {
    let page = |text: &'static str| move |_: usize, _: &Asked| Answer::Whole(200, text.to_owned());
    let status = |status: u16| {
        move |_: usize, _: &Asked| {
            Answer::Whole(status, format!("{{\"Message\":\"ErrorCode:No;{KEY}{KEY}\"}}"))
        }
    };
    let endless = |_: usize, asked: &Asked| {
        let next = if asked.continuation.is_some() {
            "x-ms-continuation: b\r\n"
        } else {
            "x-ms-continuation: a\r\n"
        };
        Answer::With(200, next, "[]".to_owned())
    };
    let later = |_: usize, _: &Asked| Answer::With(429, "Retry-After: 3600\r\n", String::new());
    // Some of them are waited for, so all at once.
    let cases: [(BoxFuture<'_, String>, &str); 13] = [
        (refusal(page("<html>")).boxed(), "the answer of far.test to its list cannot be understood"),
        (refusal(page("{\"a\":1}")).boxed(), "cannot be understood"),
        (refusal(page("")).boxed(), "cannot be understood"),
        (
            refusal(status(401)).boxed(),
            "does not let the policy iothubowner do that (401): ErrorCode:No;(...)",
        ),
        (refusal(status(403)).boxed(), "(403)"),
        (refusal(status(404)).boxed(), "far.test refused its list (404)"),
        (refusal(status(302)).boxed(), "far.test refused its list (302)"),
        (refusal(status(429)).boxed(), "asked to come again later (429), for too long"),
        (refusal(status(503)).boxed(), "(503)"),
        (refusal(|_, _| Answer::Hang).boxed(), "far.test cannot be reached: it did not answer in time"),
        (refusal(|_, _| Answer::Broken("[".to_owned())).boxed(), "far.test cannot be reached"),
        (refusal(later).boxed(), "asked to come again later (429), for too long: it says nothing"),
        (refusal(endless).boxed(), "it does not end"),
    ];
    let (asked, words): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    for (said, why) in join_all(asked).await.into_iter().zip(words) {
        assert!(said.contains(why), "{said}");
    }
}

#[tokio::test]
async fn a_list_that_breaks_off_deletes_nothing() {
    // The second page never comes whole.
    let said = refusal(|_, asked| match &asked.continuation {
        None if asked.line.starts_with("POST") => {
            Answer::With(200, "x-ms-continuation: more\r\n", json!([twin("pump-0000")]).to_string())
        }
        None => Answer::Whole(404, json!({"Message": "ErrorCode:DeviceNotFound;"}).to_string()),
        Some(_) => Answer::Broken("[".to_owned()),
    })
    .await;
    assert!(said.contains("cannot be reached"), "{said}");
    // It gives the same page for ever.
    let said = refusal(|number, asked| match asked.line.starts_with("POST") {
        true if number % 2 == 0 => {
            Answer::With(200, "x-ms-continuation: a\r\n", json!([twin("x")]).to_string())
        }
        true => Answer::With(200, "x-ms-continuation: b\r\n", json!([twin("x")]).to_string()),
        false => Answer::missing(),
    })
    .await;
    assert!(said.contains("it goes round in circles") || said.contains("does not end"), "{said}");
}

#[tokio::test]
async fn nobody_is_deleted_who_is_there_when_asked_for_by_name() {
    let near = Hub::open("paris").await;
    near.fill(
        ["a", "hidden", "proxied", "gone"].map(|id| json!({"id": id, "generationId": format!("g-{id}")})),
    )
    .await;
    let other = |asked: &Asked| match asked.line.as_str() {
        "GET /devices/hidden" => Some(Answer::page(&identity("hidden"))),
        // Not the hub's own word.
        "GET /devices/proxied" => Some(Answer::Whole(404, "<h1>no such page</h1>".to_owned())),
        _ => None,
    };
    let fake = Fake::start(of(&["a"], other)).await;
    let (done, report) = run(&mut fake.member(&near, |setting| setting.prune = true), Manner::Do).await;
    done.unwrap();
    assert_eq!((report.only_here, report.deleted, report.failures), (3, 1, 2));
    assert!(near.get("gone").is_none() && near.get("hidden").is_some() && near.get("proxied").is_some());
    assert!(
        report.failed[0].why.contains("was not deleted") && report.failed[1].why.contains("(404)"),
        "{report:?}"
    );
}

#[tokio::test]
async fn bad_entries_are_named_and_the_rest_is_taken_over() {
    let near = Hub::open("paris").await;
    let fake = Fake::start(|_, asked| {
        let entries = json!([
            twin("good"), 7, {"deviceId": "a b"}, {"tags": {}}, {"deviceId": "tagged", "tags": 5},
            {"deviceId": "odd", "properties": {"desired": [1]}}, twin("other"), twin("keyless"), twin("rubbish"),
            twin("refused"), twin(".."), twin("gone"), twin("deep"), twin("a%2F#?"),
        ]);
        let mut keyless = identity("keyless");
        keyless["authentication"]["symmetricKey"] = json!({"primaryKey": null, "secondaryKey": null});
        let mut deep = identity("deep");
        deep["statusReason"] = json!("x".repeat(1000));
        match asked.line.as_str() {
            "POST /devices/query" if is_modules(asked) => {
                Answer::Whole(400, json!({"Message": "ErrorCode:ArgumentInvalid;no modules here"}).to_string())
            }
            "POST /devices/query" => Answer::page(&entries),
            "GET /devices/good" => Answer::page(&identity("good")),
            "GET /devices/other" => Answer::page(&identity("good")),
            "GET /devices/keyless" => Answer::page(&keyless),
            "GET /devices/rubbish" => Answer::Whole(200, "[".to_owned()),
            "GET /devices/refused" => Answer::Whole(400, "no".to_owned()),
            "GET /devices/deep" => Answer::page(&deep),
            "GET /devices/a%252F%23%3F" => Answer::page(&identity("a%2F#?")),
            _ => Answer::missing(),
        }
    })
    .await;
    let (done, report) = run(&mut fake.member(&near, |_| {}), Manner::Do).await;
    done.unwrap();
    assert_eq!((report.created, near.all().len()), (2, 2), "{report:?}");
    let why = |id: &str| {
        report.failed.iter().find(|failed| failed.id == id).map(|failed| failed.why.clone()).unwrap()
    };
    for (id, words) in [
        ("(no id)", "is no device or module id"),
        ("a b", "is no device or module id"),
        ("tagged", "its tags are no JSON object"),
        ("odd", "its desired properties are no JSON object"),
        ("other", "gives another one"),
        ("keyless", "its keys are not shown"),
        ("rubbish", "cannot be understood"),
        ("refused", "(400): no"),
        ("..", "no address leads to"),
        ("deep", "128"),
        ("(modules)", "no modules here"),
    ] {
        assert!(why(id).contains(words), "{id}: {}", why(id));
    }
    assert_eq!(report.failures, 12, "{report:?}");
    assert_eq!(near.get("good").unwrap().generation.as_ref(), "g-good");
}

#[tokio::test]
async fn who_is_busy_is_asked_again_and_large_pages_come_in_pieces() {
    let near = Hub::open("paris").await;
    let fake = Fake::start(move |number, asked| match number {
        0 => Answer::With(429, "Retry-After: 0\r\n", String::new()),
        1 => Answer::Broken(String::new()),
        2 => Answer::Whole(200, " ".repeat(17 << 20)),
        _ => of(&["a", "b"], |_| None)(number, asked),
    })
    .await;
    // Seventeen megabytes take a moment.
    let mut setting = setting(fake.at(), KEY, &fake.ca());
    setting.prune = true;
    let mut member = Member::new(&setting, near.fleet.clone(), Limits::default()).unwrap();
    let (done, report) = run(&mut member, Manner::Do).await;
    done.unwrap();
    assert_eq!(counts(&report), (2, 0, 0, 0));
    let sizes: Vec<usize> = fake.asked().iter().take(4).map(|asked| asked.size).collect();
    assert_eq!(sizes, [100, 100, 100, 25]);
}

#[tokio::test]
async fn who_is_refused_there_is_named_and_who_is_there_already_is_changed() {
    let near = Hub::open("paris").await;
    near.fill(["a", "b", "c"].map(|id| json!({"id": id}))).await;
    let refused = json!({"isSuccessful": false, "errors": [
        {"deviceId": "a", "errorCode": 409_001, "errorStatus": "it is there"},
        {"deviceId": "b", "errorCode": "ArgumentInvalid", "errorStatus": format!("not with {KEY}{KEY}")},
    ]});
    let fake = Fake::start(move |_, asked| match asked.line.as_str() {
        "POST /devices" if asked.body.contains("\"create\"") => Answer::Whole(400, refused.to_string()),
        "POST /devices" => Answer::page(&json!({"isSuccessful": true, "errors": [], "warnings": []})),
        _ => Answer::page(&json!([])),
    })
    .await;
    let mut member = fake.member(&near, |setting| setting.direction = Direction::To);
    let (done, report) = run(&mut member, Manner::Do).await;
    done.unwrap();
    assert_eq!((counts(&report), report.failures), ((1, 1, 0, 0), 1), "{report:?}");
    assert_eq!(
        (report.failed[0].id.as_str(), report.failed[0].why.as_str()),
        ("b", "ArgumentInvalid: not with (...)")
    );
    let updated = fake.asked().pop().unwrap();
    assert!(updated.body.contains("\"update\"") && updated.body.contains("\"a\""), "{}", updated.body);
}
