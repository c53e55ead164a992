//! What operators write, as rows.

use super::*;

#[test]
fn words_become_handlers_and_handlers_words() {
    let rows = [
        ("http://a/{event}", "url-template=http://a/{event} user-event-pattern=*"),
        ("url-template=http://a/ user-event-pattern=*", "url-template=http://a/ user-event-pattern=*"),
        (
            "user-event-pattern=b,A,c.d SYSTEM-EVENT=disconnected,connect,Connect url-template=http://a/?x=y",
            "url-template=http://a/?x=y user-event-pattern=b,A,c.d system-event=connect,disconnected",
        ),
        (
            "url-template=http://a/ system-event=connected",
            "url-template=http://a/ user-event-pattern= system-event=connected",
        ),
        ("http://a/ user-event-pattern=a,*,b", "url-template=http://a/ user-event-pattern=*"),
        (
            "http://a/ user-event-pattern= system-event=connect auth=none",
            "url-template=http://a/ user-event-pattern= system-event=connect",
        ),
    ];
    for (words, shown) in rows {
        let handler = EventHandler::parse(words).unwrap_or_else(|error| panic!("{words}: {error}"));
        assert_eq!(handler.to_string(), shown);
        assert_eq!(EventHandler::parse(shown).unwrap(), handler, "{shown}");
        let json = serde_json::to_string(&handler).unwrap();
        assert_eq!(serde_json::from_str::<EventHandler>(&json).unwrap(), handler, "{json}");
        let record = postcard::to_allocvec(&handler).unwrap();
        assert_eq!(postcard::from_bytes::<EventHandler>(&record).unwrap(), handler);
    }
}

#[test]
fn a_token_is_kept_and_never_shown() {
    let handler = EventHandler::parse("http://a/ auth=bearer:s3cret").unwrap();
    assert_eq!(handler.auth, Auth::Bearer(Secret::of("s3cret")));
    assert!(!format!("{handler:?} {handler}").contains("s3cret"));
    for words in ["http://a/ auth=s3cret", "http://a/ author=s3cret", "http://a/ auth=basic:s3cret"] {
        let error = EventHandler::parse(words).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn what_is_not_a_handler_says_what_would_be() {
    let many = format!("http://a/ user-event-pattern={}", vec!["e"; LISTED_EVENTS_MAX + 1].join(","));
    let long = format!("http://a/ auth=bearer:{}", "t".repeat(BEARER_LEN_MAX + 1));
    let rows = [
        ("", "write url-template="),
        ("user-event-pattern=*", "write url-template="),
        ("url-template=http://a/", "takes no event"),
        ("http://a/ user-event-pattern=", "takes no event"),
        ("http://a/ http://b/", "url-template is given twice"),
        ("http://a/ user-event-pattern=a user-event-pattern=b", "user-event-pattern is given twice"),
        ("http://a/ system-event=connect system-event=connected", "system-event is given twice"),
        ("http://a/ user-event-pattern=1a", "write *, or names"),
        ("http://a/ user-event-pattern=a*", "write *, or names"),
        ("http://a/ system-event=conect", "use connect, connected, disconnected, joined and left"),
        ("http://a/ auth=", "bearer:TOKEN"),
        ("http://a/ auth=bearer:", "bearer:TOKEN"),
        ("http://a/ auth=bearer:…", "bearer:TOKEN"),
        ("http://a/ nonsense", "says nothing"),
        ("url-template=ftp://a/ user-event-pattern=*", "begin with http"),
        (many.as_str(), "at most 100"),
        (long.as_str(), "bearer:TOKEN"),
    ];
    for (words, reason) in rows {
        let error = EventHandler::parse(words).expect_err(words).to_string();
        assert!(error.contains(reason), "{words}: {error}");
    }
}

#[test]
fn the_first_handler_that_takes_an_event_wins() {
    let handlers: Vec<EventHandler> = [
        "http://a/ user-event-pattern=Greet,leave",
        "url-template=http://b/ system-event=connected",
        "http://c/",
        "http://d/ system-event=connected,disconnected",
    ]
    .into_iter()
    .map(|words| EventHandler::parse(words).unwrap())
    .collect();
    let user =
        |name: &str| first(&handlers, Kind::User(&event(name))).map(|handler| handler.url_template.as_str());
    let system = |event| first(&handlers, Kind::System(event)).map(|handler| handler.url_template.as_str());
    assert_eq!(user("greet"), Some("http://a/"));
    assert_eq!(user("LEAVE"), Some("http://a/"));
    assert_eq!(user("message"), Some("http://c/"));
    assert_eq!(user("connected"), Some("http://c/"), "a client's event of that name is not the service's");
    assert_eq!(system(SystemEvent::Connect), None);
    assert_eq!(system(SystemEvent::Connected), Some("http://b/"));
    assert_eq!(system(SystemEvent::Disconnected), Some("http://d/"));
}
