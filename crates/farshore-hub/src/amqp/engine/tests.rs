//! The connection as a function: frames in, frames out.

use bytes::BytesMut;
use fe2o3_amqp_types::definitions::{Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Source, Target};

use super::*;

/// What was written, as the protocol's own words.
fn written(engine: &mut Engine) -> Vec<Performative> {
    let mut said = Vec::new();
    for effect in engine.effects() {
        let Effect::Write(bytes) = effect else { continue };
        let mut bytes = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = wire::next_frame(&mut bytes) {
            said.extend(wire::performative(frame.body).unwrap().map(|(it, _)| it));
        }
    }
    said
}

fn hears(engine: &mut Engine, said: &Performative) {
    let mut bytes = BytesMut::from(&wire::frame(Kind::Amqp, 0, said, &[]).unwrap()[..]);
    engine.frame(wire::next_frame(&mut bytes).unwrap().unwrap());
}

fn attach(handle: u32, role: Role, address: &str) -> Performative {
    Performative::Attach(Attach {
        name: format!("link-{handle}"),
        handle: handle.into(),
        role,
        snd_settle_mode: SenderSettleMode::Mixed,
        rcv_settle_mode: definitions::ReceiverSettleMode::First,
        source: Some(Box::new(Source::from(address))),
        target: Some(Box::new(Target::from(address).into())),
        unsettled: None,
        incomplete_unsettled: false,
        initial_delivery_count: Some(0),
        max_message_size: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    })
}

fn begun() -> Engine {
    let mut engine = Engine::new();
    engine.header(wire::AMQP);
    hears(&mut engine, &Performative::Open(blank_open()));
    hears(&mut engine, &Performative::Begin(blank_begin()));
    engine.effects();
    engine
}

fn blank_open() -> Open {
    Open {
        container_id: String::new(),
        hostname: None,
        max_frame_size: 512.into(),
        channel_max: 0.into(),
        idle_time_out: None,
        outgoing_locales: None,
        incoming_locales: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

fn blank_begin() -> Begin {
    Begin {
        remote_channel: None,
        next_outgoing_id: 0,
        incoming_window: 1,
        outgoing_window: 1,
        handle_max: 0.into(),
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

#[test]
fn a_refused_link_is_answered_without_its_terminus_and_detached_with_the_reason() {
    let rows = [
        (Role::Sender, "/messages/devicebound", "amqp:unauthorized-access"),
        (Role::Receiver, "/messages/serviceBound/feedback", "amqp:unauthorized-access"),
        (Role::Sender, "/messages/events", "amqp:not-found"),
        (Role::Receiver, "", "amqp:not-found"),
    ];
    for (role, address, expected) in rows {
        let mut engine = begun();
        hears(&mut engine, &attach(3, role, address));
        let said = written(&mut engine);
        let [Performative::Attach(answer), Performative::Detach(detach)] = &said[..] else {
            panic!("{said:?}")
        };
        assert!(answer.source.is_none() || answer.target.is_none());
        let encoded = serde_amqp::to_vec(detach).unwrap();
        assert!(String::from_utf8_lossy(&encoded).contains(expected), "{detach:?}");
        assert!(detach.closed && detach.handle.0 == 3);
    }
}

#[test]
fn links_and_sessions_have_a_limit() {
    let mut engine = begun();
    for handle in 0..8 {
        hears(&mut engine, &attach(handle, Role::Sender, "$cbs"));
    }
    assert!(!engine.is_closed());
    hears(&mut engine, &attach(8, Role::Sender, "$cbs"));
    assert!(engine.is_closed());
    let said = written(&mut engine);
    assert!(matches!(said.last(), Some(Performative::Close(Close { error: Some(_) }))), "{said:?}");
}
