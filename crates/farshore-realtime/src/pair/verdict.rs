//! What rounds of probing make of a member. Pure.

use std::time::Duration;

use farshore_core::moment::Moment;

/// One lost round is a lost packet; two in a row, each with a second's patience, are a member that does not work.
const BAD_ROUNDS: u8 = 2;
/// One good round may be the last gasp of a member that flaps.
const GOOD_ROUNDS: u8 = 2;

/// What one round has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Round {
    /// The message came through, after so long.
    Good(Duration),
    /// It did not, for this reason.
    Bad(String),
    /// Nobody listens there: no need to look twice.
    Refused(String),
}

/// What is thought of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not enough was seen yet. It is given calls, but no clients.
    Unknown,
    /// It works from end to end.
    Healthy,
    /// It does not.
    Lost,
}

/// What is thought of a member, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) state: State,
    /// Rounds in a row that speak against `state`.
    against: u8,
    pub(super) why: String,
    pub(super) since: Moment,
    /// How long the last message took.
    pub(super) took: Option<Duration>,
}

impl Verdict {
    pub(super) fn unknown(now: Moment) -> Self {
        let why = "it was not looked at yet".to_owned();
        Self { state: State::Unknown, against: 0, why, since: now, took: None }
    }

    /// What is thought after one more round.
    #[must_use]
    pub(super) fn after(&self, round: Round, now: Moment) -> Self {
        let (state, against) = match (self.state, &round) {
            (State::Healthy, Round::Good(_)) => (State::Healthy, 0),
            (State::Unknown, Round::Good(_)) => (State::Healthy, 0),
            (State::Lost, Round::Good(_)) if self.against + 1 >= GOOD_ROUNDS => (State::Healthy, 0),
            (State::Lost, Round::Good(_)) => (State::Lost, self.against + 1),
            (State::Lost, _) | (_, Round::Refused(_)) => (State::Lost, 0),
            (_, Round::Bad(_)) if self.against + 1 >= BAD_ROUNDS => (State::Lost, 0),
            (state, Round::Bad(_)) => (state, self.against + 1),
        };
        let since = if state == self.state { self.since } else { now };
        match round {
            Round::Good(took) => {
                let why = format!("a message came through in {} ms", took.as_millis());
                Self { state, against, why, since, took: Some(took) }
            }
            Round::Bad(why) | Round::Refused(why) => Self { state, against, why, since, took: None },
        }
    }

    /// The next round decides: it must not be waited for.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.against > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `g` good, `b` bad, `r` refused; after each one `?` unknown, `+` healthy, `-` lost.
    fn check(rounds: &str, expected: &str) {
        let mut verdict = Verdict::unknown(Moment(0));
        let mut changed = Moment(0);
        let states: String = (1..)
            .map(Moment)
            .zip(rounds.chars())
            .map(|(now, round)| {
                let round = match round {
                    'g' => Round::Good(Duration::from_millis(3)),
                    'b' => Round::Bad("late".to_owned()),
                    _ => Round::Refused("refused".to_owned()),
                };
                let next = verdict.after(round, now);
                changed = if next.state == verdict.state { changed } else { now };
                assert_eq!(next.since, changed, "{rounds}");
                verdict = next;
                match verdict.state {
                    State::Unknown => '?',
                    State::Healthy => '+',
                    State::Lost => '-',
                }
            })
            .collect();
        assert_eq!(states, expected, "{rounds}");
    }

    #[test]
    fn two_rounds_in_a_row_change_a_verdict_and_one_refusal() {
        check("g", "+");
        check("b", "?");
        check("bb", "?-");
        check("bg", "?+");
        check("r", "-");
        check("gb", "++");
        check("gbb", "++-");
        check("gr", "+-");
        check("rgg", "--+");
        check("rgbgg", "----+");
        check("rgrgg", "----+");
    }

    #[test]
    fn a_member_that_flaps_stays_what_it_was() {
        check("gbgbgbgb", "++++++++");
        check("rgbgbgbgb", "---------");
        check("gbbgbgbgg", "++------+");
    }

    #[test]
    fn the_reason_and_the_time_are_those_of_the_last_round() {
        let verdict = Verdict::unknown(Moment(0)).after(Round::Good(Duration::from_millis(7)), Moment(1));
        assert_eq!((verdict.why.as_str(), verdict.is_in_doubt()), ("a message came through in 7 ms", false));
        let verdict = verdict.after(Round::Bad("nothing came".to_owned()), Moment(2));
        assert_eq!((verdict.why.as_str(), verdict.took, verdict.is_in_doubt()), ("nothing came", None, true));
    }
}
