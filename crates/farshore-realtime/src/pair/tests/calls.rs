//! Calls to all members, with members that work, lag, lie and die.

use std::sync::atomic::Ordering;

use super::site::*;
use crate::hub::Leaving;
use crate::hub::call::{Answer, Call, Scope};
use crate::hub::record::Position;
use crate::live::AskError;
use crate::names::{GroupName, UserId};
use crate::rest::Broadcast as _;

fn group() -> GroupName {
    GroupName::parse("g").unwrap()
}

/// What the other members were asked, by the lines of the requests.
fn asked(site: &Site) -> Vec<String> {
    site.asked.lock().unwrap().clone()
}

#[tokio::test]
async fn a_message_reaches_the_clients_of_both_regions_once() {
    let (paris, oslo, pair, _primary) = two().await;
    let (mut ann, mut bob) = (paris.client("ann", "g").await, oslo.client("bob", "g").await);
    for text in ["one", "two"] {
        let told = pair.ask(&paris.hub, to_group(text)).await.unwrap();
        assert_eq!((told.answer, told.report.as_deref()), (Answer::Done, Some("paris=done, oslo=done")));
        assert_eq!((hears(&mut ann).await.as_str(), hears(&mut bob).await.as_str()), (text, text));
    }
    let everybody = pair.ask(&paris.hub, to(Scope::All, "three")).await.unwrap();
    assert_eq!(everybody.answer, Answer::Done);
    assert_eq!((hears(&mut ann).await.as_str(), hears(&mut bob).await.as_str()), ("three", "three"));
    assert_eq!(asked(&oslo).len(), 3);
    assert!(pair.partner_is_healthy());
}

#[tokio::test]
async fn questions_are_put_to_both_regions() {
    let (paris, oslo, pair, _primary) = two().await;
    let user = |name: &str| UserId::parse(name).unwrap();
    let exists = |name: &str| Call::Exists(Scope::User(user(name)));
    let _clients =
        (paris.client("ann", "g").await, oslo.client("bob", "g").await, oslo.client("cid", "g").await);
    for (name, expected) in [("ann", Answer::Yes), ("bob", Answer::Yes), ("dan", Answer::No)] {
        assert_eq!(pair.ask(&paris.hub, exists(name)).await.unwrap().answer, expected, "{name}");
    }
    let join = |name: &str| Call::UserJoin { user: user(name), group: GroupName::parse("h").unwrap() };
    assert_eq!(pair.ask(&paris.hub, join("bob")).await.unwrap().answer, Answer::Done);
    assert_eq!(pair.ask(&paris.hub, join("dan")).await.unwrap().answer, Answer::NotFound);

    let mut after = None;
    let mut names = Vec::new();
    for _ in 0..3 {
        let call = Call::Members { group: group(), after: after.take(), limit: 1 };
        let told = pair.ask(&paris.hub, call).await.unwrap();
        let Answer::Members(page) = told.answer else { panic!("no members") };
        assert_eq!(page.len(), 1);
        names.extend(page[0].user.as_ref().map(|user| user.as_str().to_owned()));
        after = Some(page[0].connection.clone());
    }
    let call = Call::Members { group: group(), after, limit: 1 };
    assert_eq!(pair.ask(&paris.hub, call).await.unwrap().answer, Answer::Members(Vec::new()));
    names.sort();
    assert_eq!(names, ["ann", "bob", "cid"]);
}

#[tokio::test]
async fn a_dead_region_is_not_waited_for_and_is_used_again_when_it_is_back() {
    let (paris, mut oslo, pair, _primary) = two().await;
    let mut ann = paris.client("ann", "g").await;
    oslo.die().await;
    until("oslo is lost", async || pair.partner_is_lost().then_some(())).await;
    let told = pair.ask(&paris.hub, to_group("one")).await.unwrap();
    assert_eq!((told.answer, told.report.as_deref()), (Answer::Done, Some("paris=done, oslo=lost")));
    assert_eq!(hears(&mut ann).await, "one");

    oslo.rise().await;
    until("oslo is healthy again", async || pair.partner_is_healthy().then_some(())).await;
    let mut bob = oslo.client("bob", "g").await;
    let told = pair.ask(&paris.hub, to_group("two")).await.unwrap();
    assert_eq!(told.report.as_deref(), Some("paris=done, oslo=done"));
    assert_eq!((hears(&mut ann).await.as_str(), hears(&mut bob).await.as_str()), ("two", "two"));
}

#[tokio::test]
async fn a_region_whose_link_is_up_is_told_before_it_is_known_to_be_healthy() {
    let (paris, mut oslo, pair, _primary) = two().await;
    oslo.die().await;
    until("oslo is lost", async || pair.partner_is_lost().then_some(())).await;
    paris.hub.set_partner(true);
    paris.hub.partner_has(Position(u64::MAX));
    let told = pair.ask(&paris.hub, to_group("one")).await.unwrap();
    assert_eq!((told.answer, told.report.as_deref()), (Answer::Done, Some("paris=done, oslo=lost")));

    oslo.rise().await;
    let mut bob = oslo.client("bob", "g").await;
    let told = pair.ask(&paris.hub, to_group("two")).await.unwrap();
    assert_eq!(told.report.as_deref(), Some("paris=done, oslo=done"));
    assert_eq!(hears(&mut bob).await, "two");
}

#[tokio::test]
async fn a_region_that_dies_under_a_call_is_reported_and_suspected() {
    let (paris, mut oslo, pair, _primary) = two().await;
    oslo.die().await;
    let told = pair.ask(&paris.hub, to_group("one")).await.unwrap();
    assert_eq!(told.answer, Answer::Done);
    let report = told.report.unwrap();
    assert!(["paris=done, oslo=unreachable", "paris=done, oslo=lost"].contains(&report.as_str()), "{report}");
    // One refused connection is enough.
    assert!(pair.partner_is_lost());
}

#[tokio::test]
async fn a_half_dead_region_with_open_sockets_is_found_out() {
    let (paris, oslo, pair, _primary) = two().await;
    let mut ann = paris.client("ann", "g").await;
    oslo.is(Mood::Silent);
    // Nobody knows it yet: the call goes there, and is given up.
    let told = pair.ask(&paris.hub, to_group("one")).await.unwrap();
    assert_eq!(told.answer, Answer::Done);
    let report = told.report.unwrap();
    assert!(["paris=done, oslo=unreachable", "paris=done, oslo=late"].contains(&report.as_str()), "{report}");
    assert_eq!(hears(&mut ann).await, "one");
    until("oslo is lost", async || pair.partner_is_lost().then_some(())).await;
    let health = pair.health();
    assert!(!health[1].healthy && !health[1].why.is_empty(), "{health:?}");

    oslo.is(Mood::Good);
    until("oslo is healthy again", async || pair.partner_is_healthy().then_some(())).await;
}

#[tokio::test]
async fn a_slow_region_does_not_delay_the_clients_of_the_other() {
    let (paris, oslo, pair, _primary) = two().await;
    let (mut ann, mut bob) = (paris.client("ann", "g").await, oslo.client("bob", "g").await);
    oslo.is(Mood::Holding);
    let asking = {
        let (pair, hub) = (pair.clone(), paris.hub.clone());
        tokio::spawn(async move { pair.ask(&hub, to_group("one")).await })
    };
    assert_eq!(hears(&mut ann).await, "one");
    assert!(!asking.is_finished());
    oslo.go_on.notify_one();
    assert_eq!(hears(&mut bob).await, "one");
    assert_eq!(asking.await.unwrap().unwrap().report.as_deref(), Some("paris=done, oslo=done"));
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_no_call_half_told() {
    let (paris, oslo, pair, _primary) = two().await;
    let (mut ann, mut bob) = (paris.client("ann", "g").await, oslo.client("bob", "g").await);
    oslo.is(Mood::Holding);
    let asking = {
        let (pair, hub) = (pair.clone(), paris.hub.clone());
        tokio::spawn(async move { pair.ask(&hub, to_group("one")).await })
    };
    assert_eq!(hears(&mut ann).await, "one");
    until("oslo is asked", async || (!asked(&oslo).is_empty()).then_some(())).await;
    asking.abort();
    oslo.go_on.notify_one();
    assert_eq!(hears(&mut bob).await, "one");
}

#[tokio::test]
async fn a_message_whose_answer_was_lost_is_repeated_and_arrives_once() {
    let (paris, oslo, pair, _primary) = two().await;
    let mut bob = oslo.client("bob", "g").await;
    oslo.is(Mood::Rude);
    let told = pair.ask(&paris.hub, to_group("one")).await.unwrap();
    assert_eq!(told.report.as_deref(), Some("paris=done, oslo=done"));
    assert_eq!(asked(&oslo), ["POST /api/hubs/chat/groups/g/:send"; 2]);
    pair.ask(&paris.hub, to_group("two")).await.unwrap();
    assert_eq!((hears(&mut bob).await.as_str(), hears(&mut bob).await.as_str()), ("one", "two"));
}

#[tokio::test]
async fn a_region_that_does_not_serve_leaves_the_call_to_the_other() {
    let (paris, mut oslo, pair, _primary) = two().await;
    let mut bob = oslo.client("bob", "g").await;
    paris.hub.serve(false);
    let told = pair.ask(&paris.hub, to_group("one")).await.unwrap();
    assert_eq!((told.answer, told.report.as_deref()), (Answer::Done, Some("paris=lost, oslo=done")));
    assert_eq!(hears(&mut bob).await, "one");
    oslo.die().await;
    until("oslo is lost", async || pair.partner_is_lost().then_some(())).await;
    let refused = pair.ask(&paris.hub, to_group("two")).await.unwrap_err();
    let why = "no region of the pair took the call (paris=lost, oslo=lost): ask again";
    assert_eq!(refused, AskError::Failed(why.to_owned()));
}

#[tokio::test]
async fn somebody_elses_server_joins_by_connection_string_and_leaves_again() {
    let (paris, oslo, pair, _primary) = two().await;
    let other = Site::start(settings(keys(7))).await;
    let (mut cid, mut ann) = (other.client("cid", "g").await, paris.client("ann", "g").await);
    let members = vec![other.connection_string()];
    assert!(paris.hub.set(crate::live::Settings { version: 2, members, ..settings(keys(1)) }));
    until("the other is healthy", async || pair.health().get(2).filter(|other| other.healthy).cloned()).await;
    let told = pair.ask(&paris.hub, to_group("one")).await.unwrap();
    let name = other.url.strip_prefix("http://").unwrap();
    assert_eq!(told.report, Some(format!("paris=done, oslo=done, {name}=done")));
    assert_eq!((hears(&mut cid).await.as_str(), hears(&mut ann).await.as_str()), ("one", "one"));
    let call = Call::Members { group: group(), after: None, limit: 10 };
    let Answer::Members(found) = pair.ask(&paris.hub, call).await.unwrap().answer else {
        panic!("no members")
    };
    assert_eq!(found.len(), 2);

    // Its failures are news, not errors.
    other.is(Mood::Silent);
    let told = pair.ask(&paris.hub, to_group("two")).await.unwrap();
    assert_eq!(told.answer, Answer::Done);
    assert!(told.report.unwrap().starts_with("paris=done, oslo=done, "));

    assert!(paris.hub.set(crate::live::Settings { version: 3, ..settings(keys(1)) }));
    assert_eq!(pair.health().len(), 2);
    let told = pair.ask(&paris.hub, to_group("three")).await.unwrap();
    assert_eq!(told.report.as_deref(), Some("paris=done, oslo=done"));
    drop(oslo);
}

#[tokio::test]
async fn what_is_done_to_everybody_is_not_done_to_probes() {
    let (paris, oslo, pair, _primary) = two().await;
    let ann = oslo.client("ann", "h").await;
    let add = Call::AddToGroups { groups: vec![group()], filter: None };
    pair.ask(&paris.hub, add).await.unwrap();
    let call = Call::Members { group: group(), after: None, limit: 10 };
    let Answer::Members(found) = pair.ask(&paris.hub, call).await.unwrap().answer else {
        panic!("no members")
    };
    assert_eq!(found.len(), 1);
    let close = Call::Close { who: Scope::All, exclude: Vec::new(), reason: "bye".to_owned() };
    pair.ask(&paris.hub, close).await.unwrap();
    assert_eq!(oslo.hub.with(|hub| hub.shed(10, Leaving::Anybody).0), 0);
    assert_eq!((oslo.hub.counts().attached, oslo.hub.counts().probes), (0, 1));
    drop(ann);
}

#[tokio::test]
async fn an_application_whose_event_handler_is_down_does_not_make_its_region_look_lost() {
    let words = "http://127.0.0.1:1/events user-event-pattern=* system-event=connect,connected,disconnected";
    let handlers = vec![crate::handler::EventHandler::parse(words).unwrap()];
    let with = crate::live::Settings { handlers, ..settings(keys(1)) };
    let (paris, oslo) = (Site::start(with.clone()).await, Site::start(with).await);
    let primary = tokio::sync::watch::Sender::new(region("paris"));
    let pair = pair(&paris, Some(&oslo), &primary);
    until("oslo is healthy", async || pair.partner_is_healthy().then_some(())).await;
    assert_eq!(oslo.hub.counts().probes, 1);
}

#[tokio::test]
async fn a_key_that_only_one_region_has_yet_is_no_failure() {
    let (paris, _oslo, pair, _primary) = two().await;
    let new = crate::token::AccessKeys { primary: keys(9).primary, secondary: keys(1).primary };
    assert!(paris.hub.set(crate::live::Settings { version: 2, ..settings(new) }));
    let told = pair.ask(&paris.hub, to_group("one")).await.unwrap();
    assert_eq!(told.report.as_deref(), Some("paris=done, oslo=done"));
    assert!(!pair.partner_is_lost());
}

#[tokio::test]
async fn what_a_living_region_did_not_answer_comes_to_its_clients_over_the_link() {
    let (paris, oslo, pair, _primary) = two().await;
    paris.hub.set_partner(true);
    paris.hub.partner_has(Position(u64::MAX));
    let (before, mut bob) = (paris.hub.position(), oslo.client("bob", "g").await);
    // Probes go through: it stays healthy.
    oslo.is(Mood::Holding);
    let told = pair.ask(&paris.hub, to_group("one")).await.unwrap();
    assert_eq!((told.answer, told.report.as_deref()), (Answer::Done, Some("paris=done, oslo=late")));
    let records = paris.hub.records_after(before, usize::MAX).unwrap();
    oslo.hub.apply(records.into_iter().map(|(_, one)| (*one).clone()).collect());
    assert_eq!(hears(&mut bob).await, "one");
    oslo.is(Mood::Good);
    // Said by both ways it comes once.
    let records = paris.hub.records_after(before, usize::MAX).unwrap();
    oslo.hub.apply(records.into_iter().map(|(_, one)| (*one).clone()).collect());
    pair.ask(&paris.hub, to_group("two")).await.unwrap();
    assert_eq!(hears(&mut bob).await, "two");
}

#[tokio::test]
async fn what_a_region_was_not_asked_comes_to_its_clients_when_the_link_is_back() {
    let (paris, mut oslo, pair, _primary) = two().await;
    oslo.die().await;
    until("oslo is lost", async || pair.partner_is_lost().then_some(())).await;
    paris.hub.set_partner(true);
    let before = paris.hub.position();
    let told = pair.ask(&paris.hub, to_group("one")).await.unwrap();
    assert_eq!((told.answer, told.report.as_deref()), (Answer::Done, Some("paris=done, oslo=lost")));
    assert_eq!(paris.hub.counters.alone.load(Ordering::Relaxed), 1);

    oslo.rise().await;
    let mut bob = oslo.client("bob", "g").await;
    let records = paris.hub.records_after(before, usize::MAX).unwrap();
    oslo.hub.apply(records.into_iter().map(|(_, one)| (*one).clone()).collect());
    assert_eq!(hears(&mut bob).await, "one");
}
