//! The bus goes and comes, a node dies, and others shout.

use futures_util::StreamExt as _;

use super::*;
use crate::live::AskError;

#[tokio::test]
async fn without_the_bus_each_node_goes_on_and_what_was_sent_meanwhile_arrives_once() {
    let mut nats = Nats::start().await;
    let [one, two] = nats.two().await;
    let (near, next) = (Client::open(&one, "near"), Client::open(&two, "next"));
    nats.kill();
    for node in [&one, &two] {
        eventually("it notices", async || !node.bus.stats().connected).await;
    }
    one.send(Scope::All, "meanwhile").await;
    assert_eq!(near.until("meanwhile").await, ["meanwhile"]);
    let warnings = one.bus.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("start nats-server there"), "{warnings:?}");
    nats.again().await;
    one.send(Scope::All, "after").await;
    assert_eq!(next.until("after").await, ["meanwhile", "after"]);
    eventually("all is well", async || one.bus.warnings().is_empty()).await;
    assert_eq!((one.bus.stats().losses, one.bus.stats().dropped, two.bus.stats().lost), (1, 0, 0));
}

#[tokio::test]
async fn a_bus_that_comes_later_is_found_and_what_it_cannot_hold_is_counted() {
    let mut nats = Nats::start().await;
    nats.kill();
    let [one, two] = [nats.node("paris", Some(hub(1))).await, nats.node("paris", Some(hub(1))).await];
    let near = Client::open(&one, "near");
    let large = "x".repeat(1 << 20);
    for _ in 0..40 {
        one.send(Scope::User(user("nobody")), &large).await;
    }
    one.send(Scope::All, "alone").await;
    near.until("alone").await;
    let stats = one.bus.stats();
    assert!((5..=20).contains(&stats.dropped), "{stats:?}");
    assert!(one.bus.warnings().iter().any(|warning| warning.contains("were dropped")));
    nats.again().await;
    let next = Client::open(&two, "next");
    eventually("they see each other", async || two.bus.stats().nodes == 1).await;
    one.send(Scope::All, "together").await;
    next.until("together").await;
}

#[tokio::test]
async fn a_node_that_dies_is_waited_for_and_then_forgotten() {
    let nats = Nats::start().await;
    let [one, two] = nats.two().await;
    let near = Client::open(&one, "near");
    let ask = Call::Exists(Scope::User(user("ann")));
    let mut tasks = std::mem::take(&mut *two.bus.tasks.lock().unwrap());
    tasks.shutdown().await;
    let error = one.hub().ask(ask.clone()).await.unwrap_err();
    assert!(matches!(&error, AskError::Failed(why) if why.contains("did not answer in time")), "{error}");
    one.send(Scope::All, "goes on").await;
    near.until("goes on").await;
    eventually("it is forgotten", async || one.hub().ask(ask.clone()).await == Ok(Answer::No)).await;
    assert!(one.bus.stats().unanswered > 0);
}

#[tokio::test]
async fn a_node_that_leaves_is_waited_for_no_longer() {
    let nats = Nats::start().await;
    let [one, two] = nats.two().await;
    two.bus.stop().await;
    eventually("it has left", async || one.bus.stats().nodes == 0).await;
    assert_eq!(one.ask(Call::Exists(Scope::User(user("ann")))).await, Answer::No);
    assert_eq!(one.bus.stats().unanswered, 0);
    assert_eq!(two.ask(Call::Exists(Scope::User(user("ann")))).await, Answer::No);
}

#[tokio::test]
async fn rubbish_and_repeats_change_nothing() {
    let nats = Nats::start().await;
    let [one, two] = nats.two().await;
    let client = Client::open(&two, "client");
    let stranger = async_nats::connect(nats.url()).await.unwrap();
    let mut all = stranger.subscribe("farshore.>").await.unwrap();
    // The server has the subscription when its first message is here: each node says once a second that it is there.
    tokio::time::timeout(PATIENCE, all.next()).await.unwrap();
    one.send(Scope::All, "once").await;
    client.until("once").await;
    let call = one.bus.nodes.subjects.call(&HubName::parse("chat").unwrap());
    let mut of_the_hub =
        std::pin::pin!(all.filter(|message| std::future::ready(message.subject.as_str() == call)));
    let heard = tokio::time::timeout(PATIENCE, of_the_hub.next()).await.unwrap().unwrap().payload;
    let (presence, own) = (one.bus.nodes.subjects.presence(), one.bus.nodes.subjects.node(two.bus.nodes.own));
    let forged = Seal::new("another secret").close(&call, &"x").unwrap();
    let in_two = |at: usize| heard.slice(..at);
    let mut sent = 0;
    for subject in [&*call, &*presence, &*own, "farshore.paris.9.call", "farshore.paris.x.call"] {
        for payload in
            [Bytes::new(), Bytes::from_static(b"PING"), forged.clone(), in_two(40), vec![255; 9000].into()]
        {
            stranger.publish(subject.to_owned(), payload).await.unwrap();
            sent += 1;
        }
    }
    // What is well sealed, but said before, or said of something else.
    stranger.publish(call.clone(), heard.clone()).await.unwrap();
    stranger.publish("farshore.paris.other.call", heard.clone()).await.unwrap();
    let empty = Part { from: wire::NodeId(1), number: 1, first: true, more: false, piece: Bytes::new() };
    stranger.publish(call.clone(), Seal::new(SECRET).close(&call, &empty).unwrap()).await.unwrap();
    stranger.flush().await.unwrap();
    eventually("all came in", async || two.bus.stats().rubbish == sent + 2).await;
    assert_eq!(two.bus.stats().repeated, 1);
    one.send(Scope::All, "end").await;
    assert_eq!(client.until("end").await, ["once", "end"]);
    assert!(two.bus.warnings().iter().any(|warning| warning.contains("guard the bus")));
}
