//! Streams as transcripts, and what becomes of them when a region is lost after any of its records.

use std::fmt::Write as _;

use super::*;
use crate::hub::scene::{Scene, says};

/// Runs a script: one line for what is done, then ` -> ` and what the publisher is answered, then ` | ` and what comes to receivers.
fn check(script: &str) {
    let mut scene = Scene::new();
    let streams = ["webpubsub.sendToGroup.g"];
    scene.open("p", Protocol::ReliableJson, &streams, &[]);
    scene.open("r", Protocol::Json, &[], &["g"]);
    scene.open("simple", Protocol::Simple, &[], &["g"]);
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (does, wanted) = line.split_once(" -> ").expect("a line is: does -> answer");
        let mut got = step(&mut scene, does);
        for name in ["p", "r", "simple"] {
            for said in scene.take(name) {
                write!(got, " | {name}: {said}").unwrap();
            }
        }
        assert_eq!(got, wanted, "{does}\nof{script}");
    }
}

fn step(scene: &mut Scene, does: &str) -> String {
    let words: Vec<&str> = does.split(' ').collect();
    let (now, p) = (scene.now(), ConnectionId::parse("p").unwrap());
    let hub = &mut scene.hub;
    let done = match *words.as_slice() {
        ["start", stream, group] => start(hub, &p, stream, group, None, now),
        ["start", stream, group, idle] => start(hub, &p, stream, group, idle.parse().ok(), now),
        ["data", stream, sequence, data] => {
            hub.stream_data(&p, stream, sequence.parse().unwrap(), Some(Data::text(data)), now)
        }
        ["alive", stream] => hub.stream_data(&p, stream, 0, None, now),
        ["end", stream] => hub.stream_end(&p, stream, None, now),
        ["abort", stream, message] => {
            let error = StreamEndError { message: Some(message.to_owned()), user_error_code: None };
            hub.stream_end(&p, stream, Some(error), now)
        }
        ["wait", ms] => {
            scene.wait(ms.parse().unwrap());
            return "done".to_owned();
        }
        ["revoke"] => {
            let group = Some(GroupName::parse("g").unwrap());
            let call = Call::Revoke { connection: p, permission: Permission::SendToGroup, group };
            scene.hub.call(call, now);
            return "done".to_owned();
        }
        ["quit"] => {
            scene.quit("p");
            return "done".to_owned();
        }
        _ => panic!("{does}?"),
    };
    answer(&done.value)
}

fn start(
    hub: &mut Hub,
    connection: &ConnectionId,
    stream: &str,
    group: &str,
    idle_timeout_ms: Option<u64>,
    now: Moment,
) -> Done<StreamAnswer> {
    let start = StreamStart { stream_id: stream.to_owned(), idle_timeout_ms };
    hub.stream_start(connection, GroupName::parse(group).unwrap(), false, start, now)
}

fn answer(answer: &StreamAnswer) -> String {
    match answer {
        StreamAnswer::Nothing => "nothing".to_owned(),
        StreamAnswer::Ack { expected } => format!("ack {expected}"),
        StreamAnswer::Nack { error, expected } => format!("nack {} {expected}", error.name),
        StreamAnswer::Closed { error: None } => "closed".to_owned(),
        StreamAnswer::Closed { error: Some(error) } => format!("closed {}", error.name),
    }
}

#[test]
fn pieces_come_in_order_each_once_and_the_end_ends() {
    check(
        "start s g -> ack 1
         data s 1 one -> ack 2 | r: one s/1 | simple: one
         data s 1 one -> ack 2
         data s 3 three -> nack InvalidSequenceId 2
         data s 2 two -> ack 3 | r: two s/2 | simple: two
         start s g -> ack 3
         start s h -> nack BadRequest 3
         alive s -> nothing
         end s -> closed | r:  s/3 end
         end s -> closed
         data s 3 three -> closed
         start s g -> ack 1
         data s 1 again -> ack 2 | r: again s/1 | simple: again
         abort s tired -> closed | r:  s/2 end Aborted: tired
         end s -> closed",
    );
}

#[test]
fn who_may_not_or_does_not_know_is_told() {
    check(
        "data t 1 one -> closed StreamNotFound
         alive t -> closed StreamNotFound
         end t -> closed StreamNotFound
         start t other -> closed Forbidden
         start t g -> ack 1
         revoke -> done
         data t 1 one -> closed Forbidden | r:  t/1 end Forbidden: The publisher may no longer send to this group
         data t 1 one -> closed Forbidden",
    );
}

#[test]
fn a_silent_stream_is_closed_and_a_sign_of_life_keeps_it() {
    check(
        "start s g 1000 -> ack 1
         start u g -> ack 1
         wait 900 -> done
         alive s -> nothing
         wait 900 -> done
         data s 1 one -> ack 2 | r: one s/1 | simple: one
         wait 1100 -> done | p: {\"type\":\"streamClosed\",\"streamId\":\"s\",\"error\":{\"name\":\"IdleTimeout\",\"message\":\"nothing was heard of the stream for 1000 ms\"}} | r:  s/2 end IdleTimeout: nothing was heard of the stream for 1000 ms
         data s 2 two -> closed IdleTimeout
         data u 1 one -> ack 2 | r: one u/1 | simple: one",
    );
}

#[test]
fn receivers_learn_that_the_publisher_is_gone() {
    check(
        "start s g -> ack 1
         data s 1 one -> ack 2 | r: one s/1 | simple: one
         quit -> done | r:  s/2 end PublisherGone: The publisher's connection has ended",
    );
}

#[test]
fn streams_of_a_connection_are_bounded() {
    let mut scene = Scene::new();
    scene.open("p", Protocol::Json, &["webpubsub.sendToGroup"], &[]);
    let p = ConnectionId::parse("p").unwrap();
    let now = scene.now();
    for number in 0..STREAMS_MAX {
        let done = start(&mut scene.hub, &p, &number.to_string(), "g", None, now);
        assert_eq!(answer(&done.value), "ack 1");
    }
    let done = start(&mut scene.hub, &p, "more", "g", None, now);
    assert_eq!(answer(&done.value), "closed BadRequest");
    scene.hub.stream_end(&p, "0", None, now);
    assert_eq!(answer(&start(&mut scene.hub, &p, "more", "g", None, now).value), "ack 1");
    for number in 0..10 * OVER_MAX {
        start(&mut scene.hub, &p, &format!("x{number}"), "g", None, now);
        scene.hub.stream_end(&p, &format!("x{number}"), None, now);
    }
    assert!(scene.hub.mine.get(&p).unwrap().streams.as_ref().unwrap().over.len() <= OVER_MAX);
}

/// The publisher's region is lost after each of its records in turn. The publisher sends again what was not acknowledged by
/// then; wherever they are, receivers have every piece once and in order.
#[test]
fn a_stream_goes_on_in_the_other_region_wherever_it_was_cut() {
    const PIECES: u64 = 4;
    for cut in 0.. {
        let (mut first, mut second) = (Scene::of(1), Scene::of(2));
        first.open("p", Protocol::ReliableJson, &["webpubsub.sendToGroup"], &[]);
        first.open("r", Protocol::ReliableJson, &[], &["g"]);
        second.open("there", Protocol::ReliableJson, &[], &["g"]);
        first.bring_all_to(&mut second);
        let p = ConnectionId::parse("p").unwrap();
        let began = first.hub.position().0;
        let now = first.now();
        start(&mut first.hub, &p, "s", "g", None, now);
        for piece in 1..=PIECES {
            first.hub.stream_data(&p, "s", piece, Some(Data::text(&piece.to_string())), now);
        }
        first.hub.stream_end(&p, "s", None, now);
        let before = first.take("r");
        let last = first.hub.position().0;
        if began + cut > last {
            assert_eq!(cut, 1 + PIECES + 1 + 1, "the start, the pieces and the end are a record each");
            break;
        }
        let kept = first.bring_to(&mut second, usize::try_from(cut).unwrap());
        drop(first);
        second.hub.adopt(now);
        second.recover("p");
        second.recover("r");
        // What was not safe was not acknowledged, so it comes again.
        if cut == 0 {
            assert_eq!(answer(&start(&mut second.hub, &p, "s", "g", None, now).value), "ack 1");
        }
        for piece in cut.max(1)..=PIECES {
            let done = second.hub.stream_data(&p, "s", piece, Some(Data::text(&piece.to_string())), now);
            let over = cut == PIECES + 2;
            assert_eq!(
                answer(&done.value),
                if over { "closed".to_owned() } else { format!("ack {}", piece.max(cut) + 1) }
            );
        }
        assert_eq!(answer(&second.hub.stream_end(&p, "s", None, now).value), "closed");
        let whole: Vec<String> = (1..=PIECES)
            .map(|piece| format!("{piece} s/{piece}"))
            .chain([format!(" s/{} end", PIECES + 1)])
            .collect();
        assert_eq!(second.take("there"), whole, "cut after {cut}");
        // A reliable client drops what it has had, by number: what it had beyond the cut comes anew, so it may have it twice.
        let safe = usize::try_from(cut.saturating_sub(1)).unwrap();
        let again = second.take("r");
        let mut all = before[..safe].to_vec();
        all.extend(again[again.len() - (whole.len() - safe)..].to_vec());
        assert_eq!(all, whole, "cut after {cut} of {kept}");
    }
}

#[test]
fn a_stream_says_itself_in_records_that_the_wire_can_carry() {
    let mut scene = Scene::of(1);
    scene.open("p", Protocol::ReliableJson, &["webpubsub.sendToGroup"], &[]);
    let (now, p) = (scene.now(), ConnectionId::parse("p").unwrap());
    start(&mut scene.hub, &p, "s", "g", None, now);
    scene.hub.stream_data(&p, "s", 1, Some(Data::text("one")), now);
    start(&mut scene.hub, &p, "t", "g", None, now);
    scene.hub.stream_end(&p, "t", None, now);
    let snapshot = scene.hub.snapshot();
    let bytes = postcard::to_allocvec(&snapshot).unwrap();
    let back: crate::hub::record::Snapshot = postcard::from_bytes(&bytes).unwrap();
    let [card] = back.sessions.as_slice() else { panic!("one session") };
    assert_eq!(
        card.streams.iter().map(|card| (card.stream_id.as_str(), card.expected)).collect::<Vec<_>>(),
        [("s", 2)]
    );
    assert_eq!(card.streams_over, [("t".to_owned(), None)]);
    assert_eq!(
        says(&StreamAnswer::Ack { expected: 2 }.frame(Protocol::Json, "s").unwrap()),
        "{\"type\":\"streamAck\",\"streamId\":\"s\",\"expectedSequenceId\":2}"
    );
}
