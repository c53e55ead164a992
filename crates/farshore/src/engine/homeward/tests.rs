use std::collections::HashSet;

use farshore_core::fencing::OnControlLoss;
use farshore_core::ids::{ItemId, Region};
use farshore_core::lifecycle::{FailoverReport, StopProof};
use farshore_core::moment::Moment;
use farshore_core::workload::{Loss, Point, PointKind, Promotion, Watermark};

use super::*;

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn report(planned: bool) -> FailoverReport {
    let at = Watermark::default();
    let point =
        Point { id: "p".to_owned(), watermark: at, at: Moment(1), kind: PointKind::Crash, name: None };
    let promotion =
        Promotion { point, source_last_known: at, source_last_seen: Moment(1), at_failover: Loss::default() };
    FailoverReport {
        planned,
        from: region("paris"),
        to: region("oslo"),
        requested_at: Moment(1),
        rto_seconds: 1.0,
        proof: StopProof::Shared,
        promotion,
        loss_final: None,
        exact: false,
    }
}

/// At home in paris.
fn item(name: &str, source: &str, phase: Phase, planned: bool) -> Item {
    let target = if source == "paris" { "oslo" } else { "paris" };
    Item {
        target: Some(region(target)),
        source: region(source),
        phase,
        failover: Some(report(planned)),
        automatic: true,
        ..Item::new(ItemId::parse(name).unwrap(), region("paris"), OnControlLoss::Hold, Moment(1))
    }
}

#[tokio::test(start_paused = true)]
async fn every_phase_has_its_step_and_what_a_person_moved_has_none() {
    let mut memory = Memory::default();
    memory.note(&HashSet::from([region("paris"), region("oslo")]));
    tokio::time::advance(HOME_FOR).await;
    let protected = || Phase::Protected { drill: None };
    let drilling = Phase::Protected { drill: Some("p".to_owned()) };
    for (source, phase, planned, expected) in [
        ("oslo", Phase::FailedOver, false, Some(Verb::Commit)),
        ("oslo", Phase::Committed, false, Some(Verb::Reprotect)),
        ("oslo", protected(), false, Some(Verb::Failback)),
        ("oslo", drilling, false, None),
        ("oslo", Phase::Reprotecting, false, None),
        ("oslo", Phase::NeedsUser { why: String::new() }, false, None),
        ("paris", Phase::FailedOver, true, Some(Verb::Commit)),
        ("paris", Phase::Committed, true, Some(Verb::Reprotect)),
        ("paris", protected(), true, None),
        ("oslo", Phase::FailedOver, true, None),
        ("oslo", Phase::Committed, true, None),
        ("oslo", protected(), true, None),
    ] {
        let one = item("realtime/chat", source, phase, planned);
        let found = next(&one, &memory).map(|command| command.verb());
        assert_eq!(found, expected, "{source} {} planned {planned}", one.phase.as_str());
        let machine = item("machine/web-1", source, one.phase.clone(), planned);
        assert_eq!(next(&machine, &memory), None, "a machine serves in one region at a time");
    }
}

#[tokio::test(start_paused = true)]
async fn a_home_that_flaps_is_not_gone_back_to() {
    let mut memory = Memory::default();
    let away = item("realtime/chat", "oslo", Phase::FailedOver, false);
    let both = HashSet::from([region("paris"), region("oslo")]);
    let one = HashSet::from([region("oslo")]);
    for _ in 0..5 {
        memory.note(&both);
        tokio::time::advance(HOME_FOR / 2).await;
        memory.note(&both);
        assert_eq!(next(&away, &memory), None, "not before it has answered for long enough");
        memory.note(&one);
        tokio::time::advance(HOME_FOR).await;
    }
    memory.note(&both);
    tokio::time::advance(HOME_FOR).await;
    memory.note(&both);
    assert_eq!(next(&away, &memory), Some(Command::Commit));
}
