//! What holds on any walk of a job, whatever happens.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const WORDS: [&str; 10] =
    ["start", "ok", "fail", "fatal", "cancel", "retry", "skip", "abandon", "unknown", "claim"];

fn any_steps() -> impl Strategy<Value = String> {
    let marks = prop::sample::select(vec!["", "u", "u3", "um", "m", "2", "u2", "u", "un", "n"]);
    prop::collection::vec(marks, 1..7).prop_map(|marks| {
        marks.iter().enumerate().map(|(n, marks)| format!("s{n}:{marks}")).collect::<Vec<_>>().join(" ")
    })
}

/// Which effects were started, in order, and which milestones were to be recorded.
#[derive(Debug, Default)]
struct Seen {
    begun: Vec<String>,
    undone: Vec<String>,
    milestones: Vec<Milestone>,
    keys: BTreeMap<String, String>,
    abandoned_or_skipped_back: bool,
}

impl Seen {
    fn note(&mut self, before: &Job, happened: &Happened, milestone: Option<Milestone>) {
        self.milestones.extend(milestone);
        match happened {
            Happened::Started { step, half: Half::Do, .. } if self.begun.last() != Some(step) => {
                self.begun.push(step.clone());
            }
            Happened::Started { step, half: Half::Undo, .. } if self.undone.last() != Some(step) => {
                self.undone.push(step.clone());
            }
            Happened::Skip { .. } => {
                self.abandoned_or_skipped_back |=
                    matches!(before.state, JobState::Stuck { turned: Some(_), .. });
            }
            _ => {}
        }
    }

    /// One key for each step and half, and never the same for two.
    fn note_key(&mut self, job: &Job) {
        if let Next::Perform { step, half, key, .. } = job.next() {
            let owner = format!("{step} {half:?}");
            assert_eq!(self.keys.entry(key.0).or_insert_with(|| owner.clone()), &owner);
        }
    }
}

fn check_step(before: &Job, after: &Job, happened: &Happened) {
    assert!(!before.state.is_terminal(), "an ended job changed: {happened:?}");
    assert_eq!(after.log_len, before.log_len + 1);
    assert_eq!(after.steps, before.steps, "the plan is fixed");
    if before.past_no_return().is_some() {
        assert!(after.past_no_return().is_some(), "{happened:?} reopened the way back");
        assert!(
            !matches!(
                after.state,
                JobState::Unwinding { .. } | JobState::Cancelled { .. } | JobState::Failed { .. }
            ),
            "{happened:?}"
        );
        assert!(!matches!(happened, Happened::CancelAsked { .. }));
    }
    if before.state == JobState::Running && after.state == JobState::Running {
        assert!(after.progress() >= before.progress(), "{happened:?}");
    }
    if before.state != JobState::Running && matches!(before.state, JobState::Unwinding { .. }) {
        assert_ne!(after.state, JobState::Running, "{happened:?} turned it forward again");
    }
}

/// The steps that must be undone: begun, with an undo, last first.
fn to_undo(job: &Job, begun: &[String]) -> Vec<String> {
    let undoable = |name: &&String| job.steps.iter().any(|step| step.name == **name && step.undo.is_some());
    begun.iter().rev().filter(undoable).cloned().collect()
}

fn check_end(job: &Job, seen: &Seen) {
    let count = |milestone| seen.milestones.iter().filter(|seen| **seen == milestone).count();
    let (turned, unwound) = (count(Milestone::FailoverUndone), count(Milestone::ProtectUndone));
    match &job.state {
        JobState::Failed { .. } | JobState::Cancelled { .. } => {
            assert_eq!(turned, 1, "the turn is recorded once");
            // A job that turns and has nothing to undo records its turn; a plan has only one of the two (see `plan`).
            assert!(unwound == 1 || (seen.undone.is_empty() && unwound == 0), "{unwound}");
            if !seen.abandoned_or_skipped_back {
                assert_eq!(seen.undone, to_undo(job, &seen.begun), "what was begun is undone, last first");
            }
        }
        JobState::Succeeded => assert_eq!((turned, unwound), (0, 0)),
        _ => assert!(unwound == 0 && turned <= 1),
    }
}

proptest! {
    #[test]
    fn any_walk_of_a_job_keeps_the_promises(steps in any_steps(), words in prop::collection::vec(
        prop_oneof![6 => Just("start"), 5 => Just("ok"), 3 => Just("fail"), 4 => prop::sample::select(WORDS.to_vec())], 1..80))
    {
        let mut job = job(&steps);
        let mut seen = Seen::default();
        for word in words {
            let happened = happened(&job, word);
            seen.note_key(&job);
            match job.apply(&happened, Moment(2)) {
                Ok((next, milestone)) => {
                    seen.note(&job, &happened, milestone);
                    check_step(&job, &next, &happened);
                    job = next;
                }
                Err(JobRefusal::PastNoReturn { .. }) => {
                    prop_assert!(word == "cancel" && job.past_no_return().is_some());
                }
                Err(_) => prop_assert!(job.state.is_terminal() || job.apply(&happened, Moment(2)).is_err()),
            }
            let text = serde_json::to_string(&job).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Job>(&text).unwrap(), &job);
        }
        check_end(&job, &seen);
    }

    /// Left alone, with nothing that goes wrong for ever, every job ends; nobody has to speak unless it is stuck.
    #[test]
    fn every_job_ends_or_asks(steps in any_steps(), luck in prop::collection::vec(any::<bool>(), 0..40)) {
        let mut job = job(&steps);
        let mut luck = luck.into_iter().chain(std::iter::repeat(true));
        for _ in 0..200 {
            let word = match job.next() {
                Next::Start { .. } => "start",
                Next::Perform { .. } if luck.next() == Some(true) => "ok",
                Next::Perform { .. } => "fail",
                Next::Rest if job.state.is_terminal() => return Ok(()),
                Next::Rest => "retry",
            };
            job = job.apply(&happened(&job, word), Moment(2)).unwrap().0;
        }
        prop_assert!(false, "still {} after 200 records", job.state.as_str());
    }
}
