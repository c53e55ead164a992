//! Messages: each reaches the clients of all nodes of its region, once.

use super::*;
use crate::hub::record::{Position, Record};

#[tokio::test]
async fn what_is_sent_on_one_node_reaches_the_clients_of_both_once() {
    let nats = Nats::start().await;
    let [one, two] = nats.two().await;
    let far = nats.node("oslo", Some(hub(1))).await;
    let near = Client::of(&one.hub(), "near", Some("ann"), &["g"]);
    let next = Client::of(&two.hub(), "next", Some("ann"), &["g"]);
    let third = Client::of(&two.hub(), "third", None, &[]);
    let elsewhere = Client::open(&far, "elsewhere");
    one.send(Scope::All, "to all").await;
    one.send(Scope::Group(group("g")), "to the group").await;
    one.send(Scope::User(user("ann")), "to ann").await;
    one.send(Scope::Connection(connection("next")), "to next").await;
    near.says("g", "from near");
    one.send(Scope::All, "end").await;
    assert_eq!(near.until("end").await, ["to all", "to the group", "to ann", "end"]);
    assert_eq!(next.until("end").await, ["to all", "to the group", "to ann", "to next", "from near", "end"]);
    assert_eq!(third.until("end").await, ["to all", "end"]);
    next.says("g", "from next");
    assert_eq!(near.until("from next").await.len(), 5);
    assert!(elsewhere.got().is_empty(), "another region has its own bus");
    assert_eq!(far.bus.stats().nodes, 0);
    assert!(one.bus.warnings().is_empty(), "{:?}", one.bus.warnings());
}

#[tokio::test]
async fn the_largest_message_goes_through_as_nats_is_installed() {
    let nats = Nats::start().await;
    let [one, two] = nats.two().await;
    let client = Client::open(&two, "reader");
    let large = "x".repeat(1 << 20);
    one.send(Scope::All, &large).await;
    one.send(Scope::Connection(connection("reader")), &large).await;
    one.send(Scope::All, "end").await;
    let got = client.until("end").await;
    assert!(got.len() == 3 && got[0] == large && got[1] == large, "{} messages", got.len());
}

#[tokio::test]
async fn the_pair_may_repeat_a_message_to_another_node() {
    let nats = Nats::start().await;
    let [one, two] = nats.two().await;
    let clients = [Client::open(&one, "first"), Client::open(&two, "second")];
    let mut message = Message::new(Sender::Server, words("once"));
    message.id = Some(7);
    let call = Call::Send { to: Scope::All, message: Arc::new(message), exclude: Vec::new(), filter: None };
    for node in [&one, &two, &one] {
        assert_eq!(node.ask(call.clone()).await, Answer::Done);
    }
    for (node, end) in [(&one, "end of one"), (&two, "end of two")] {
        node.send(Scope::All, end).await;
        for client in &clients {
            client.until(end).await;
        }
    }
    for client in &clients {
        assert_eq!(client.got().iter().filter(|text| *text == "once").count(), 1);
    }
}

#[tokio::test]
async fn a_clients_message_is_relayed_to_the_other_region_by_the_node_with_the_link_only() {
    let nats = Nats::start().await;
    let with_link = LiveHub::new(settings(1), Handlers::new(), true);
    with_link.serve(true);
    let one = nats.node("paris", Some(with_link)).await;
    let two = nats.node("paris", Some(hub(1))).await;
    eventually("they see each other", async || two.bus.stats().nodes == 1).await;
    let writer = Client::of(&two.hub(), "writer", None, &["g"]);
    let reader = Client::of(&one.hub(), "reader", None, &["g"]);
    writer.says("g", "from the client");
    two.send(Scope::All, "from the application").await;
    reader.until("from the application").await;
    let records = one.hub().records_after(Position(0), 1 << 20).unwrap();
    let relayed: Vec<_> =
        records.iter().filter(|(_, record)| matches!(**record, Record::Relayed(_))).collect();
    assert_eq!(relayed.len(), 1, "{records:?}");
    // And the other way round: what the other region relays reaches both nodes.
    one.hub().apply(vec![Record::Relayed(send(Scope::Group(group("g")), "from afar"))]);
    writer.until("from afar").await;
    assert_eq!(reader.until("from afar").await, ["from the client", "from the application", "from afar"]);
}

#[tokio::test]
async fn clients_of_a_node_that_lets_go_of_them_are_still_sent_what_is_for_them() {
    let nats = Nats::start().await;
    let [one, two] = nats.two().await;
    let near = Client::of(&one.hub(), "near", None, &["g"]);
    let next = Client::of(&two.hub(), "next", None, &["g"]);
    two.hub().drain();
    one.send(Scope::Group(group("g")), "to the group").await;
    near.says("g", "from near");
    assert_eq!(next.until("from near").await, ["to the group", "from near"]);
    let exists = Call::Exists(Scope::Connection(connection("next")));
    assert_eq!(one.ask(exists).await, Answer::Yes);
}
