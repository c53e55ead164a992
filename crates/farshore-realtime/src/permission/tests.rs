//! What roles and later grants allow.

use proptest::prelude::*;

use super::*;

use Permission::{JoinLeaveGroup, SendToGroup};

fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

fn of(roles: &[&str]) -> Permissions {
    Permissions::from_roles(&roles.iter().map(|role| (*role).to_owned()).collect::<Vec<_>>())
}

/// What `role` allows with `name`: "j" join and leave, "s" send.
fn check_role(role: &str, name: &str, expected: &str) {
    let permissions = of(&[role]);
    let mut found = String::new();
    for (letter, permission) in [('j', JoinLeaveGroup), ('s', SendToGroup)] {
        if permissions.may(permission, &group(name)) {
            found.push(letter);
        }
    }
    assert_eq!(found, expected, "{role} with {name}");
}

#[test]
fn roles_grant_all_groups_one_or_a_pattern() {
    check_role("webpubsub.joinLeaveGroup", "a", "j");
    check_role("webpubsub.sendToGroup", "a", "s");
    check_role("webpubsub.sendToGroup", "a.b c", "s");
    check_role("webpubsub.joinLeaveGroup.a", "a", "j");
    check_role("webpubsub.joinLeaveGroup.a", "A", "");
    check_role("webpubsub.joinLeaveGroup.a", "b", "");
    check_role("webpubsub.joinLeaveGroup.a.b", "a.b", "j");
    check_role("webpubsub.joinLeaveGroup.*", "a", "");
    check_role("webpubsub.joinLeaveGroup.*", "*", "j");
    check_role("webpubsub.sendToGroup.s.x", "s.x", "s");
    check_role("webpubsub.sendToGroups.x", "x", "s");
    check_role("webpubsub.sendToGroups.x", "s.x", "");
    check_role("webpubsub.sendToGroups.*", "x", "s");
    check_role("webpubsub.sendToGroups.*", "x.y", "");
    check_role("webpubsub.sendToGroups.**", "x.y", "s");
    check_role("webpubsub.joinLeaveGroups.room?", "room1", "j");
}

#[test]
fn other_and_malformed_roles_grant_nothing() {
    for role in [
        "",
        "webpubsub",
        "webpubsub.",
        "sendToGroup",
        "webpubsub.sendToGroups",
        "webpubsub.sendToGroups.",
        "webpubsub.sendToGroup.",
        "webpubsub.sendToGroup. ",
        "webpubsub.SendToGroup",
        "Webpubsub.sendToGroup",
        "webpubsub.sendToGroupx",
        "webpubsub.sendToGroup x",
        " webpubsub.sendToGroup",
        "webpubsub.sendToAll",
        "webpubsub.sendToGroups.a\\",
        "webpubsub.sendToGroups.\\a",
        "webpubsub.sendToGroups.******",
        "webpubsub.sendToGroups.*a*b*c*d*e*",
    ] {
        check_role(role, "a", "");
        assert!(of(&[role]).is_empty(), "{role}");
    }
    assert!(of(&[&format!("webpubsub.sendToGroup.{}", "g".repeat(1025))]).is_empty());
    assert!(of(&[&format!("webpubsub.sendToGroups.{}", "g".repeat(1025))]).is_empty());
}

fn check(pattern: &str, text: &str, expected: bool) {
    let pattern = Pattern::parse(pattern).unwrap_or_else(|| panic!("{pattern} is not a pattern"));
    assert_eq!(pattern.matches(text), expected, "{pattern:?} with {text:?}");
}

#[test]
fn patterns_match_whole_names() {
    check("ab*", "ab", true);
    check("ab*", "abcd", true);
    check("ab*", "ab.cd", false);
    check("ab*", "bcd", false);
    check("*", "", true);
    check("*", "x", true);
    check("*", ".", false);
    check("a*c", "a123c", true);
    check("a*c", "ac", true);
    check("a*c", "a123cd", false);
    check("a*c", "a1.3c", false);
    check("a*c", "acc", true);
    check("ab**", "ab", true);
    check("ab**", "ab.cd.ef", true);
    check("**ab", "cd.ef.ab", true);
    check("**ab", "cd.ef.abc", false);
    check("**", "", true);
    check("**", "....", true);
    check("***", "a.b", true);
    check("?", "", false);
    check("?", "a", true);
    check("?", "ä", true);
    check("?", "😀", true);
    check("?", ".", false);
    check("a?c", "abc", true);
    check("a?c", "a.c", false);
    check("a?c", "ac", false);
    check("a?c", "abbc", false);
    check("a.**.b", "a..b", true);
    check("a.**.b", "a.b", false);
    check("a*.**.*b", "ab.cd.ef.ab", true);
    check("a*.**.*b", "b.cd.ef.b", false);
    check("*.*.*", "a.b.c", true);
    check("*.*.*", "a.b", false);
    check("*.*.*", "..", true);
    check("**.c*", "a.b.cd", true);
    check("**.c*", "a.b.cd.e", false);
    check("*x**", "ax.b", true);
    check("*x**", "a.x", false);
    check(r"a\*.**b", "a*.ab", true);
    check(r"a\*.**b", "aa.ab", false);
    check(r"a\\.**b", r"a\.ab", true);
    check(r"a\\.**b", "aa.ab", false);
    check(r"a\?*", "a?bc", true);
    check(r"a\?*", "abc", false);
    check(r"\*\*", "**", true);
    check(r"\*\*", "ab", false);
    check("Room*", "Room1", true);
    check("Room*", "room1", false);
    check("Ä?", "äb", false);
    check("room", "room", true);
    check("room", "rooms", false);
    check("[a-z]", "a", false);
    check("[a-z]", "[a-z]", true);
}

#[test]
fn some_texts_are_no_patterns() {
    for text in ["", r"a\", r"a\b", r"\.", "******", "*.*.*.*.*.*", "**.**.**", r"**\"] {
        assert!(Pattern::parse(text).is_none(), "{text}");
    }
    for text in ["*****", "*.*.*.*.*", r"\*\*\*\*\*\*", "**.**.*"] {
        assert!(Pattern::parse(text).is_some(), "{text}");
    }
    assert!(Pattern::parse(&"ä".repeat(1024)).is_some());
    assert!(Pattern::parse(&"ä".repeat(1025)).is_none());
}

#[test]
fn the_hardest_pattern_is_still_cheap() {
    let pattern =
        Pattern::parse(&format!("**{}*{}*{}*z", "a".repeat(300), "a".repeat(300), "a".repeat(300))).unwrap();
    assert!(!pattern.matches(&"a".repeat(1024)));
}

#[test]
fn names_are_granted_and_revoked_over_roles() {
    let mut permissions = of(&["webpubsub.sendToGroup", "webpubsub.joinLeaveGroups.room*"]);
    assert!(permissions.has(SendToGroup, None));
    assert!(!permissions.has(JoinLeaveGroup, None));
    for permission in [SendToGroup, JoinLeaveGroup] {
        assert!(permissions.may(permission, &group("room")));
        assert!(permissions.revoke(permission, Some(&group("room"))));
        assert!(permissions.revoke(permission, Some(&group("room"))));
        assert!(!permissions.may(permission, &group("room")));
        assert!(permissions.may(permission, &group("room-other")));
    }
    assert!(!permissions.has(SendToGroup, None));
    assert!(permissions.grant(SendToGroup, Some(group("room"))));
    assert!(permissions.may(SendToGroup, &group("room")) && !permissions.may(JoinLeaveGroup, &group("room")));
    assert!(permissions.has(SendToGroup, None));
    permissions.revoke(SendToGroup, None);
    assert!(!permissions.may(SendToGroup, &group("room")));
}

#[test]
fn one_permission_says_nothing_about_the_other() {
    let mut permissions = Permissions::default();
    permissions.grant(SendToGroup, Some(group("a")));
    assert!(permissions.has(SendToGroup, Some(&group("a"))));
    assert!(!permissions.has(JoinLeaveGroup, Some(&group("a"))));
    assert!(!permissions.has(SendToGroup, Some(&group("A"))));
    permissions.grant(JoinLeaveGroup, None);
    assert!(permissions.has(JoinLeaveGroup, Some(&group("anything"))));
}

#[test]
fn no_permissions_take_no_memory() {
    assert_eq!(size_of::<Permissions>(), size_of::<usize>());
    let mut permissions = of(&["something.else"]);
    permissions.revoke(SendToGroup, Some(&group("a")));
    permissions.revoke(SendToGroup, None);
    assert!(permissions.is_empty());
    permissions.grant(SendToGroup, Some(group("a")));
    permissions.revoke(SendToGroup, Some(&group("a")));
    assert!(permissions.is_empty());
    assert_eq!(permissions, Permissions::default());
}

#[test]
fn names_and_patterns_are_bounded() {
    let mut permissions = Permissions::default();
    for i in 0..NAMES_MAX {
        assert!(permissions.grant(SendToGroup, Some(group(&format!("g{i}")))));
    }
    assert!(!permissions.grant(SendToGroup, Some(group("one more"))));
    assert!(!permissions.may(SendToGroup, &group("one more")));
    assert!(permissions.grant(SendToGroup, Some(group("g7"))));

    let mut permissions = of(&["webpubsub.sendToGroup"]);
    for i in 0..NAMES_MAX {
        assert!(permissions.revoke(SendToGroup, Some(&group(&format!("g{i}")))));
    }
    assert!(!permissions.revoke(SendToGroup, Some(&group("one more"))));
    assert!(permissions.may(SendToGroup, &group("one more")));

    let roles: Vec<String> = (0..20).map(|i| format!("webpubsub.sendToGroups.g{i}-*")).collect();
    let permissions = Permissions::from_roles(&roles);
    assert!(permissions.may(SendToGroup, &group("g9-x")));
    assert!(!permissions.may(SendToGroup, &group("g10-x")));
}

#[test]
fn permissions_read_back_from_records() {
    let mut permissions = of(&["webpubsub.sendToGroups.a*", "webpubsub.joinLeaveGroup"]);
    permissions.revoke(JoinLeaveGroup, Some(&group("x")));
    for case in [permissions, Permissions::default()] {
        let bytes = postcard::to_allocvec(&case).unwrap();
        assert_eq!(postcard::from_bytes::<Permissions>(&bytes).unwrap(), case);
    }
    assert_eq!(postcard::to_allocvec(&Permissions::default()).unwrap().len(), 1);
}

#[test]
fn permissions_have_names() {
    assert_eq!(Permission::parse("sendToGroup"), Some(SendToGroup));
    assert_eq!(Permission::parse("JOINLEAVEGROUP"), Some(JoinLeaveGroup));
    assert_eq!(Permission::parse("joinLeaveGroups"), None);
    assert_eq!(Permission::parse(""), None);
}

/// The same rule, said again by recursion: slow and plain.
fn plainly(pattern: &[char], text: &[char]) -> bool {
    let escaped = pattern.first() == Some(&'\\');
    match (pattern, text) {
        ([], _) => text.is_empty(),
        (['*', '*', rest @ ..], _) => {
            let rest = &rest[rest.iter().take_while(|c| **c == '*').count()..];
            (0..=text.len()).any(|skip| plainly(rest, &text[skip..]))
        }
        (['*', rest @ ..], _) => {
            let run = text.iter().take_while(|c| **c != '.').count();
            (0..=run).any(|skip| plainly(rest, &text[skip..]))
        }
        (['?', rest @ ..], [c, after @ ..]) => *c != '.' && plainly(rest, after),
        (_, [c, after @ ..]) => {
            let at = usize::from(escaped);
            pattern[at] == *c && plainly(&pattern[at + 1..], after)
        }
        (_, []) => false,
    }
}

proptest! {
    #[test]
    fn matching_agrees_with_the_plain_rule(pattern in "[ab.?*]{1,8}", text in "[ab.]{0,8}") {
        if let Some(checked) = Pattern::parse(&pattern) {
            let (pattern, chars): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(checked.matches(&text), plainly(&pattern, &chars));
        }
    }

    #[test]
    fn no_role_makes_permissions_panic(role in any::<String>(), name in any::<String>()) {
        let permissions = of(&[&role, &format!("webpubsub.sendToGroups.{role}"), &format!("webpubsub.joinLeaveGroup.{role}")]);
        if let Ok(name) = GroupName::parse(&name) {
            let _ = permissions.may(SendToGroup, &name);
        }
    }
}
