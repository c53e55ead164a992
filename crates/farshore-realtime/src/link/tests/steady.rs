//! While both regions are there.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::hub::record::Position;
use crate::permission::Permission;

/// What clients and applications do, at random.
fn step(side: &Side, random: &mut StdRng, first: u64) {
    let number = first + random.random_range(0..12);
    let to = match random.random_range(0..4) {
        0 => Scope::All,
        1 => Scope::Group(group(random.random_range(0..4))),
        2 => Scope::User(UserId::parse("user 1").unwrap()),
        _ => Scope::Connection(connection(number)),
    };
    let (who, room) = (connection(number), group(random.random_range(0..4)));
    match random.random_range(0..12) {
        0 | 1 if !side.owns(number) => drop(side.open(number)),
        2 => side.call(Call::Join { connection: who, group: room }),
        3 => side.call(Call::Leave { connection: who, group: room }),
        4 => {
            side.call(Call::Grant { connection: who, permission: Permission::SendToGroup, group: Some(room) })
        }
        5 => side.hub.with(|hub| hub.acked(&who, random.random_range(0..40))),
        6 => drop(side.hub.with(|hub| hub.handled(&who, Some(random.random()), Some(number.to_string())))),
        7 => {
            let message = send(Scope::Group(room), "from a client", None);
            side.hub.change(|hub| hub.client_asks(&who, Some(random.random()), message, live::now()));
        }
        8 if random.random_range(0..4) == 0 => {
            let who = Scope::Connection(who);
            side.call(Call::Close { who, exclude: Vec::new(), reason: "enough".into() });
        }
        _ => side.call(send(to, &format!("message {}", random.random::<u32>()), None)),
    }
}

#[tokio::test]
async fn both_regions_have_each_others_sessions_whatever_happens_and_however_often_the_line_is_cut() {
    for seed in 0..30 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
        for _ in 0..random.random_range(1..6) {
            let (near, far, _line) = line(random.random_range(300..20_000), usize::MAX);
            join(&paris, &oslo, near, far).await;
            for _ in 0..random.random_range(1..150) {
                step(&paris, &mut random, 100);
                step(&oslo, &mut random, 200);
                if random.random_range(0..3) == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        plug(&paris, &oslo).await;
        level(&paris, &oslo).await;
        assert_same(&paris, &oslo).await;
        paris.link.stop().await;
    }
}

#[tokio::test]
async fn a_promise_is_kept_only_when_the_other_region_has_it() {
    let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
    plug(&paris, &oslo).await;
    eventually("level", || paris.is_level()).await;
    paris.open(1);
    for number in 0..50 {
        paris.hub.ask(send(Scope::All, &format!("{number}"), None)).await.unwrap();
        let has = oslo.shared.applied().unwrap().position;
        assert_eq!(has, Position(2 + number), "told before the other region had it");
    }
    assert_eq!(paris.hub.counts().sessions, 1);
    assert_eq!(oslo.hub.counts().copies, 1);
}

#[tokio::test]
async fn what_is_owed_to_many_is_sent_once_and_shared_again() {
    let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
    for number in 0..200 {
        paris.open(number);
    }
    let text = "x".repeat(10_000);
    for _ in 0..20 {
        paris.call(send(Scope::All, &text, None));
    }
    plug(&paris, &oslo).await;
    eventually("level", || paris.is_level()).await;
    let moved = paris.link.status().moved_bytes;
    assert!(moved < 1_000_000, "{moved} bytes for 200 KB of messages");
    oslo.link.stop().await;
    oslo.hub.adopt();
    let cards = oslo.cards();
    let first = &cards[0].kept;
    assert!(cards.iter().all(|card| Arc::ptr_eq(&card.kept[7].1, &first[7].1)));
    assert_eq!((cards.len(), first.len()), (200, 20));
}

#[tokio::test]
async fn the_newest_settings_of_both_regions_hold() {
    let (paris, oslo) =
        (Side::new("paris", "oslo"), Side::of("oslo", "paris", Settings { version: 4, ..settings(4) }, 1));
    plug(&paris, &oslo).await;
    eventually("taken", || paris.hub.settings().version == 4).await;
    paris.hub.set(Settings { audiences: vec!["https://chat.example.com".into()], ..settings(5) });
    eventually("followed", || oslo.hub.settings().audiences.len() == 1).await;
}

#[tokio::test]
async fn a_session_moves_to_where_its_client_is() {
    let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
    plug(&paris, &oslo).await;
    for number in 0..500 {
        paris.open(number);
    }
    level(&paris, &oslo).await;
    let claims = (0..500).map(|number| {
        let link = oslo.link.clone();
        tokio::spawn(async move { link.claim(&connection(number)).await })
    });
    for claim in claims.collect::<Vec<_>>() {
        assert!(claim.await.unwrap());
    }
    assert_eq!(paris.hub.counts().sessions, 0);
    assert!(!oslo.link.claim(&connection(1000)).await, "one that nobody knows");
    assert!(oslo.link.claim(&connection(7)).await, "its own");
}

#[tokio::test]
async fn what_is_sent_while_a_session_moves_is_in_it() {
    let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
    plug(&paris, &oslo).await;
    paris.open(1);
    level(&paris, &oslo).await;
    for id in 0..40 {
        if id == 20 {
            assert!(oslo.link.claim(&connection(1)).await);
        }
        // As the pair does: to both regions.
        paris.call(send(Scope::All, &id.to_string(), Some(id)));
        oslo.call(send(Scope::All, &id.to_string(), Some(id)));
        tokio::task::yield_now().await;
    }
    let cards = oslo.cards();
    let ids: Vec<_> = cards[0].kept.iter().map(|(_, message)| message.id.unwrap()).collect();
    assert_eq!(ids, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn it_works_over_sockets_and_connects_again_by_itself() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let options = super::super::ListenerOptions { listen, secret: Secret::new("secret"), tls: None };
    let listener = super::super::LinkListener::bind(options).await.unwrap();
    let (paris, oslo) = (Side::new("paris", "oslo"), Side::new("oslo", "paris"));
    listener.takers().put(Arc::clone(&oslo.shared), oslo.connections.clone());
    // A proxy in between, whose connections can be cut.
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, target) = (proxy.local_addr().unwrap(), listener.local_addr());
    let (cut, _) = tokio::sync::broadcast::channel::<()>(1);
    let cutter = cut.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = proxy.accept().await {
            let (mut cut, mut far) = (cutter.subscribe(), TcpStream::connect(target).await.unwrap());
            tokio::spawn(async move {
                tokio::select! {
                    _ = cut.recv() => {}
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                }
            });
        }
    });
    paris.link.dial(Some(address.to_string())).await;
    for number in 0..5 {
        paris.open(number);
        paris.hub.ask(send(Scope::All, "hello", None)).await.unwrap();
        level(&paris, &oslo).await;
        cut.send(()).unwrap();
    }
    paris.hub.ask(send(Scope::All, "and again", None)).await.unwrap();
    level(&paris, &oslo).await;
    assert_same(&paris, &oslo).await;
    listener.stop().await;
}
