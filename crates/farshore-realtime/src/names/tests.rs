//! Which names pass, and how they come back from records.

use proptest::prelude::*;

use super::*;

/// Tries a text as each kind of name; `accepted` has a letter for each that takes it: Hub, Group, User, Event,
/// Connection.
fn check(text: &str, accepted: &str) {
    let kinds = [
        ('H', HubName::parse(text).is_ok()),
        ('G', GroupName::parse(text).is_ok()),
        ('U', UserId::parse(text).is_ok()),
        ('E', EventName::parse(text).is_ok()),
        ('C', ConnectionId::parse(text).is_ok()),
    ];
    let found: String = kinds.iter().filter(|(_, good)| *good).map(|(letter, _)| *letter).collect();
    assert_eq!(found, accepted, "{text:?}");
}

#[test]
fn each_kind_of_name_has_its_rule() {
    check("", "");
    check("a", "HGUEC");
    check("Chat", "HGUEC");
    check("chat_2", "HGUEC");
    check("chat.room", "HGUE");
    check("chat-room", "GUEC");
    check("chat,room", "HGU");
    check("chat`1", "HGU");
    check("chat[1]", "HGU");
    check("1chat", "GUC");
    check("_chat", "GUC");
    check("-chat", "GUC");
    check(".chat", "GU");
    check("chat room", "GU");
    check("chat/room", "GU");
    check("chat:room", "GU");
    check("chat\n", "GU");
    check("sämtliche", "GU");
    check("ſ", "GU"); // its upper case is S: only ASCII is compared without regard to case
    check("聊天", "GU");
    check("😀", "GU");
    check(" ", "U");
    check("\t \u{3000}", "U");
    check("\0", "GU");
    check("*", "GU");
    check("a'b", "GU");
    check("AZaz09_-", "GUEC");
    check("message", "HGUEC");
}

#[test]
fn lengths_count_characters() {
    check(&"a".repeat(127), "HGUEC");
    check(&"a".repeat(128), "HGUEC");
    check(&"a".repeat(129), "GU");
    check(&"a".repeat(1024), "GU");
    check(&"a".repeat(1025), "");
    check(&"ä".repeat(1024), "GU");
    check(&"ä".repeat(1025), "");
    check(&"😀".repeat(1024), "GU");
    check(&format!("{}a", " ".repeat(1023)), "GU");
    check(&format!("{}a", " ".repeat(1024)), "");
}

#[test]
fn hubs_are_kept_in_lower_case_and_the_rest_as_given() {
    assert_eq!(HubName::parse("Chat").unwrap(), HubName::parse("cHAT").unwrap());
    assert_eq!(HubName::parse("Chat").unwrap().as_str(), "chat");
    assert_ne!(GroupName::parse("Room").unwrap(), GroupName::parse("room").unwrap());
    assert_eq!(EventName::parse("Message").unwrap().as_str(), "Message");
}

#[test]
fn an_id_of_random_bytes_is_url_safe_and_reads_back() {
    let id = ConnectionId::of([0xff; 16]);
    assert_eq!(id.as_str(), "_____________________w");
    assert_eq!(ConnectionId::parse(id.as_str()).unwrap(), id);
    assert_ne!(ConnectionId::of([0; 16]), id);
}

#[test]
fn errors_say_what_is_wrong_and_do_not_repeat_all_of_it() {
    let error = GroupName::parse(&"x".repeat(1_000_000)).unwrap_err();
    assert!(error.to_string().len() < 200, "{error}");
    assert_eq!(
        HubName::parse("9").unwrap_err().to_string(),
        "hub \"9\" is not valid: start with a letter and go on with at most 127 letters, digits or any of _ ` , . [ ]"
    );
}

#[test]
fn records_bring_names_back_and_check_them_again() {
    let group = GroupName::parse("room 1").unwrap();
    let json = serde_json::to_string(&group).unwrap();
    assert_eq!(json, "\"room 1\"");
    assert_eq!(serde_json::from_str::<GroupName>(&json).unwrap(), group);
    let bytes = postcard::to_allocvec(&group).unwrap();
    assert_eq!(postcard::from_bytes::<GroupName>(&bytes).unwrap(), group);
    let bytes = postcard::to_allocvec("not a hub").unwrap();
    assert!(postcard::from_bytes::<HubName>(&bytes).is_err());
    assert!(serde_json::from_str::<UserId>("\"\"").is_err());
}

#[test]
fn maps_of_names_can_be_asked_with_plain_text() {
    let map = std::collections::HashMap::from([(HubName::parse("Chat").unwrap(), 1)]);
    assert_eq!(map.get("chat"), Some(&1));
}

proptest! {
    #[test]
    fn no_text_makes_a_name_panic(text in any::<String>()) {
        for good in [
            HubName::parse(&text).map(|name| name.to_string()),
            GroupName::parse(&text).map(|name| name.to_string()),
            UserId::parse(&text).map(|name| name.to_string()),
            EventName::parse(&text).map(|name| name.to_string()),
            ConnectionId::parse(&text).map(|name| name.to_string()),
        ].into_iter().flatten() {
            prop_assert!(good.eq_ignore_ascii_case(&text));
        }
    }
}
