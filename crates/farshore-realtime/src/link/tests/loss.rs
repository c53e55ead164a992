//! When one of the regions, or the line between them, is lost.

use super::*;
use crate::hub::Recovery;
use crate::hub::record::Position;

async fn pair() -> (Side, Side) {
    let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
    plug(&paris, &oslo).await;
    level(&paris, &oslo).await;
    (paris, oslo)
}

/// Exactly one of them has each of these sessions, and both agree on it.
async fn one_owner(paris: &Side, oslo: &Side, count: u64) {
    eventually("one owner", || (0..count).all(|number| paris.owns(number) != oslo.owns(number))).await;
    level(paris, oslo).await;
    assert!((0..count).all(|number| paris.owns(number) != oslo.owns(number)));
}

/// Whether each gets all of the other before their line is lost.
async fn become_level(paris: &Side, oslo: &Side) -> bool {
    let is_lost = |side: &Side| matches!(side.link.status().state, LinkState::Disconnected { .. });
    while !(paris.is_level() && oslo.is_level()) {
        // A new link is disconnected until its first connection was taken.
        sleep(Duration::from_millis(1)).await;
        if is_lost(paris) || is_lost(oslo) {
            return false;
        }
    }
    true
}

#[tokio::test(start_paused = true)]
async fn a_line_cut_at_any_byte_loses_and_repeats_nothing() {
    let (mut forth, mut back) = (1, usize::MAX);
    // First every byte of one direction, then every byte of the other.
    loop {
        let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
        let (near, far, line) = line(forth, back);
        let joined = join(&paris, &oslo, near, far).await && become_level(&paris, &oslo).await;
        paris.open(1);
        paris.hub.ask(send(Scope::All, "one", None)).await.unwrap();
        oslo.open(2);
        oslo.hub.ask(send(Scope::Group(group(0)), "two", None)).await.unwrap();
        paris.hub.with(|hub| hub.acked(&connection(1), 1));
        paris.hub.ask(send(Scope::All, "three", None)).await.unwrap();
        let survived = joined && become_level(&paris, &oslo).await && Arc::strong_count(&line.frozen) > 1;
        plug(&paris, &oslo).await;
        level(&paris, &oslo).await;
        assert_eq!((paris.hub.counts().sessions, oslo.hub.counts().sessions), (1, 1), "{forth} {back}");
        assert_same(&paris, &oslo).await;
        paris.link.stop().await;
        match (survived, back) {
            (false, usize::MAX) => forth += 1,
            (true, usize::MAX) => (forth, back) = (usize::MAX, 1),
            (false, _) => back += 1,
            (true, _) => break,
        }
    }
    println!("all of {back} bytes back were cut");
    assert!(back > 200, "a conversation of {back} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_partner_holds_nobody_up_for_longer_than_the_silence() {
    let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
    let (near, far, line) = line(usize::MAX, usize::MAX);
    assert!(join(&paris, &oslo, near, far).await);
    paris.open(1);
    eventually("level", || paris.is_level()).await;
    line.frozen.store(true, Ordering::SeqCst);
    let before = Instant::now();
    paris.hub.ask(send(Scope::All, "hello", None)).await.unwrap();
    // The clock is the test's own.
    assert!(before.elapsed() <= SILENCE_MAX + Duration::from_millis(50), "{:?}", before.elapsed());
    assert!(!paris.hub.is_partner_here());
    let before = Instant::now();
    paris.hub.ask(send(Scope::All, "hello", None)).await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    let status = paris.link.status();
    assert!(matches!(status.state, LinkState::Disconnected { .. }), "{status:?}");
    assert_eq!(status.lag_records(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_back_at_once_lets_nobody_off() {
    let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
    let (near, far, line) = line(usize::MAX, usize::MAX);
    assert!(join(&paris, &oslo, near, far).await);
    paris.open(1);
    eventually("level", || paris.is_level()).await;
    line.frozen.store(true, Ordering::SeqCst);
    let hub = Arc::clone(&paris.hub);
    let asked = tokio::spawn(async move { hub.ask(send(Scope::All, "hello", None)).await });
    sleep(SILENCE_MAX / 2).await;
    assert!(!asked.is_finished());
    plug(&paris, &oslo).await;
    asked.await.unwrap().unwrap();
    assert_eq!(oslo.shared.applied().unwrap().position, Position(2));
    assert!(paris.hub.is_partner_here());
    assert_eq!(paris.hub.counters.alone.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_partner_is_adopted_once_and_only_on_the_word_of_its_health() {
    let (paris, oslo) = pair().await;
    for number in 0..10 {
        paris.open(number);
    }
    eventually("copied", || oslo.hub.counts().copies == 10).await;
    paris.link.stop().await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(oslo.hub.counts().sessions, 0, "its health says that it lives");
    oslo.partner_is_lost.store(true, Ordering::SeqCst);
    eventually("adopted", || oslo.hub.counts().sessions == 10).await;
    assert_eq!(oslo.hub.counters.adopted.load(Ordering::Relaxed), 10);
}

#[tokio::test(start_paused = true)]
async fn an_order_to_adopt_holds_when_the_link_is_lost_right_after() {
    let (paris, oslo) = pair().await;
    paris.open(1);
    eventually("copied", || oslo.hub.counts().copies == 1).await;
    assert_eq!(oslo.link.adopt().await, 0, "the partner answers");
    assert!(paris.owns(1));
    paris.link.stop().await;
    eventually("adopted", || oslo.owns(1)).await;
}

#[tokio::test]
async fn sessions_of_a_hub_that_was_started_anew_go_on_in_the_other_region() {
    let (paris, oslo) = pair().await;
    for number in 0..10 {
        paris.open(number);
    }
    eventually("copied", || oslo.hub.counts().copies == 10).await;
    paris.link.stop().await;
    let paris = Side::new("paris", "oslo");
    paris.open(100);
    plug(&paris, &oslo).await;
    eventually("adopted", || oslo.hub.counts().sessions == 10).await;
    eventually("copied back", || paris.hub.counts().copies == 10 && oslo.hub.counts().copies == 1).await;
}

#[tokio::test]
async fn after_a_wrong_adoption_the_one_with_the_client_is_left() {
    let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
    let (near, far, line) = line(usize::MAX, usize::MAX);
    assert!(join(&paris, &oslo, near, far).await);
    let attached: Vec<_> = (0..10).map(|number| paris.open(number)).collect();
    // Of half of them the client is away, in both regions: either may keep these, but not both.
    for (number, attached) in (0..5).zip(&attached) {
        paris.hub.with(|hub| hub.detach(&connection(number), attached.transport, None, live::now()));
    }
    eventually("copied", || oslo.hub.counts().copies == 10).await;
    line.frozen.store(true, Ordering::SeqCst);
    eventually("lost", || !oslo.hub.is_partner_here()).await;
    assert_eq!(oslo.link.adopt().await, 10);
    assert!((0..10).all(|number| paris.owns(number) && oslo.owns(number)));
    plug(&paris, &oslo).await;
    one_owner(&paris, &oslo, 10).await;
    assert!((5..10).all(|number| paris.owns(number)), "their clients are there");
}

#[tokio::test]
async fn after_an_adoption_the_one_to_whom_the_client_came_is_left() {
    let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
    let (near, far, line) = line(usize::MAX, usize::MAX);
    assert!(join(&paris, &oslo, near, far).await);
    for number in 0..6 {
        paris.open(number);
    }
    eventually("copied", || oslo.hub.counts().copies == 6).await;
    line.frozen.store(true, Ordering::SeqCst);
    eventually("lost", || !oslo.hub.is_partner_here()).await;
    oslo.link.adopt().await;
    for number in 0..3 {
        let seen = Seen { pulse: Pulse(0), now: live::now(), follows: true };
        let hello = |_, _: Option<&UserId>| bytes::Bytes::new();
        let found = oslo.hub.with(|hub| hub.recover(&connection(number), false, hello, seen));
        assert!(matches!(found, Recovery::Attached(..)), "{found:?}");
    }
    plug(&paris, &oslo).await;
    one_owner(&paris, &oslo, 6).await;
    assert!((0..3).all(|number| oslo.owns(number)) && (3..6).all(|number| paris.owns(number)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_a_lost_region_is_served_from_the_copy() {
    let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
    let (near, far, line) = line(usize::MAX, usize::MAX);
    assert!(join(&paris, &oslo, near, far).await);
    paris.open(1);
    eventually("copied", || oslo.hub.counts().copies == 1 && oslo.is_level()).await;
    line.frozen.store(true, Ordering::SeqCst);
    assert!(oslo.link.claim(&connection(1)).await);
    assert!(oslo.owns(1));
}
