//! What is stored and sent can be read back: every variant, and with fields of a newer program.

use std::fmt::Debug;

use serde::de::DeserializeOwned;

use super::*;
use crate::command::Verb;
use crate::fencing::OnControlLoss;
use crate::ids::JobId;
use crate::workload::{ExecutorClaim, OnlyIf, Order, PointChoice, ReplicationMode, StepError, Watermark};

fn oslo() -> Region {
    Region::parse("oslo").unwrap()
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(values: &[T]) {
    for value in values {
        let text = serde_json::to_string(value).unwrap();
        assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{text}");
        let mut newer = serde_json::to_value(value).unwrap();
        if let Some(record) = newer.as_object_mut() {
            record.insert("from_a_newer_program".into(), serde_json::json!({ "a": [1, "b"] }));
            assert_eq!(&serde_json::from_value::<T>(newer).unwrap(), value, "{text}, with a newer field");
        }
    }
}

fn points() -> Vec<PointChoice> {
    vec![
        PointChoice::Latest,
        PointChoice::LatestProcessed,
        PointChoice::Id("p7".into()),
        PointChoice::At(Moment(1_700_000_000_000_001)),
    ]
}

fn commands() -> Vec<Command> {
    let mut commands = vec![
        Command::Create {
            region: oslo(),
            spec: serde_json::json!({ "disks": [{ "name": "root", "size_bytes": 1 }] }),
            on_control_loss: OnControlLoss::Fence,
            automatic: true,
        },
        Command::Create {
            region: oslo(),
            spec: serde_json::Value::Null,
            on_control_loss: OnControlLoss::Hold,
            automatic: false,
        },
        Command::Delete,
        Command::Adopt { region: oslo(), above: Epoch(4), others_are_down: true },
        Command::Protect { target: oslo(), mode: ReplicationMode::Sync },
        Command::Disable,
        Command::CleanUp,
        Command::Commit,
        Command::Reprotect,
        Command::Failback,
        Command::MarkPoint { name: "before".into() },
        Command::DropDivergence,
    ];
    for point in points() {
        commands.push(Command::TestFailover { point: point.clone() });
        commands.push(Command::ChangePoint { point: point.clone() });
        commands.push(Command::Failover { planned: false, point, source_is_down: true });
    }
    commands
}

fn actions() -> Vec<Action> {
    let at = Watermark { epoch: Epoch(3), seq: 9, bytes: 1 << 60, at: Moment(5) };
    let mut actions = vec![
        Action::Create { spec: serde_json::json!([1, null]) },
        Action::Delete,
        Action::Serve,
        Action::PrepareTarget { source: oslo(), shape: serde_json::json!({}) },
        Action::Replicate { target: oslo(), address: "127.0.0.1:1".into(), mode: ReplicationMode::Async },
        Action::StopReplicating,
        Action::Fence { lost_after: None },
        Action::Fence { lost_after: Some(at) },
        Action::Drain,
        Action::Commit,
        Action::CleanUp,
        Action::Follow { source: oslo(), diverged_after: at },
        Action::DropDivergence,
        Action::MarkPoint { name: "x".into() },
    ];
    for point in points() {
        actions.push(Action::Promote { point: point.clone() });
        actions.push(Action::ChangePoint { point: point.clone() });
        actions.push(Action::TestFailover { point });
    }
    actions
}

#[test]
fn commands_verbs_and_choices() {
    round_trip(&commands());
    round_trip(&Verb::ALL);
    for command in commands() {
        // The word in the record, the word in the CLI and the word in the verb's own record are one.
        let record = serde_json::to_value(&command).unwrap();
        assert_eq!(record["verb"], command.verb().as_str());
        assert_eq!(serde_json::to_value(command.verb()).unwrap(), command.verb().as_str());
    }
    let every = Verb::ALL.iter().all(|verb| commands().iter().any(|command| command.verb() == *verb));
    assert!(every, "each verb has a command above");
    round_trip(&points());
}

#[test]
fn orders_with_every_action() {
    let order = |action| Order {
        key: StepKey("01J/fence/do".into()),
        item: ItemId::parse("machine/web-1").unwrap(),
        token: Token::new(2, Epoch(7)),
        action,
        only_if: Some(OnlyIf { role: Some(Role::Fenced), start: Some("01J".into()) }),
        lease: Some(crate::fencing::FenceTimings::FAST),
        by: Some(ExecutorClaim { job: JobId("01J".into()), epoch: 3 }),
    };
    round_trip(&actions().into_iter().map(order).collect::<Vec<_>>());
    round_trip(&actions());
}

#[test]
fn errors_of_agents() {
    round_trip(&[
        StepError::Retry { what: "a".into() },
        StepError::Fatal { what: "b".into() },
        StepError::Fenced { current: Token::new(1, Epoch(2)) },
        StepError::Unknown,
    ]);
}

#[test]
fn expectations() {
    let (region, token) = (oslo(), Token::new(1, Epoch(2)));
    let mut all = vec![
        Expect::Nothing,
        Expect::Gone { region: region.clone() },
        Expect::Replicating { region: region.clone() },
        Expect::NotReplicating { region: region.clone() },
        Expect::Streaming { region: region.clone() },
        Expect::PointOffered { region: region.clone(), name: None },
        Expect::PointOffered { region: region.clone(), name: Some("n".into()) },
        Expect::Drained { source: Region::parse("paris").unwrap(), target: region.clone() },
        Expect::DrillOpen { region: region.clone() },
        Expect::DrillGone { region: region.clone() },
        Expect::Promoted { region: region.clone(), token },
        Expect::Committed { region: region.clone() },
        Expect::DivergenceGone { region: region.clone() },
    ];
    for role in [Role::Active, Role::Unconfirmed, Role::Fenced, Role::Target] {
        all.push(Expect::Role { region: region.clone(), role, token });
    }
    round_trip(&all);
    for expect in &all {
        let looks = expect.regions().len();
        let unseen = vec![None; looks];
        let by_absence = matches!(
            expect,
            Expect::Nothing
                | Expect::Gone { .. }
                | Expect::NotReplicating { .. }
                | Expect::DrillGone { .. }
                | Expect::DivergenceGone { .. }
        );
        assert_eq!(
            expect.holds(&unseen),
            by_absence,
            "{expect}: an unknown item proves absence and nothing else"
        );
    }
}

#[test]
fn jobs_in_every_state() {
    let (why, residue) = ("it broke".to_owned(), vec!["fence: no".to_owned()]);
    let states = [
        JobState::Running,
        JobState::Unwinding { why: why.clone(), cancelled: true },
        JobState::Stuck { why: why.clone(), turned: None },
        JobState::Stuck { why: why.clone(), turned: Some(Turned { why: why.clone(), cancelled: false }) },
        JobState::Succeeded,
        JobState::Failed { why: why.clone(), residue: residue.clone() },
        JobState::Cancelled { residue: residue.clone() },
        JobState::Cancelled { residue: Vec::new() },
        JobState::Abandoned { why },
    ];
    let in_state = |state| Job { state, residue: residue.clone(), ..job("a:u b:n c:m") };
    round_trip(&states.map(in_state));
    // Written before the direction of a stuck job was remembered.
    let old: JobState = serde_json::from_str(r#"{"state":"stuck","why":"x"}"#).unwrap();
    assert_eq!(old, JobState::Stuck { why: "x".into(), turned: None });
}

#[test]
fn the_journal() {
    let job = job("a:u b");
    let words = ["start", "ok", "fail", "fatal", "cancel", "retry", "skip", "abandon", "unknown", "claim"];
    round_trip(&words.map(|word| happened(&job, word)));
}
