//! When to look at an instance, when to give it up, and how long to pause before it is started again. Pure: time and what
//! was seen are arguments.

use std::time::Duration;

use super::probe::Look;

/// Starts in a row that end before an answer until waiting for an answer is called useless.
pub(super) const FAILED_STARTS_MAX: u32 = 5;

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// An instance that has not answered by then is started again.
    pub(super) start_within: Duration,
    /// Between two looks at an instance that answers: seldom, because each look costs the app a request.
    pub(super) look_every: Duration,
    /// After a look that was not answered.
    pub(super) look_again: Duration,
    /// How long an answer may take.
    pub(super) look_timeout: Duration,
    /// Looks in a row without an answer until an instance is given up. One is not enough: a busy app is not a dead one.
    pub(super) misses_max: u32,
    /// The first pause before a new start; it doubles.
    pub(super) pause_first: Duration,
    /// The longest pause.
    pub(super) pause_max: Duration,
    /// How long an instance that gets no requests any more may finish those that it has, before it is asked to end; of its grace
    /// at most a half. Many servers drop them when they are asked.
    pub(super) drain_max: Duration,
    /// An instance that ran so long is believed in again: the next pause is the first.
    pub(super) steady_after: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            start_within: Duration::from_secs(120),
            look_every: Duration::from_secs(5),
            look_again: Duration::from_secs(1),
            look_timeout: Duration::from_secs(5),
            misses_max: 3,
            pause_first: Duration::from_millis(100),
            pause_max: Duration::from_secs(30),
            drain_max: Duration::from_secs(2),
            steady_after: Duration::from_secs(60),
        }
    }
}

/// The pause before the next start.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new(pace: &Pace) -> Self {
        Self { next: pace.pause_first }
    }

    /// After a run that was `up` for so long.
    pub(super) fn pause(&mut self, pace: &Pace, up: Duration) -> Duration {
        if up >= pace.steady_after {
            self.next = pace.pause_first;
        }
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(pace.pause_max);
        pause
    }
}

/// How one run of an instance is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// It has not answered yet.
    Starting,
    /// It answers, apart from the last `misses` looks.
    Up { misses: u32 },
}

/// What a look means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing changed for its callers.
    Same,
    /// It answers: let it have requests.
    Answers,
    /// Nobody listens: requests would fail at once, so it gets none; it is not given up yet.
    Refuses,
    /// Kill it and start it again.
    GiveUp,
}

impl Health {
    /// How long to wait before the next look, for an instance that was started `age` ago.
    pub(super) fn pause(self, pace: &Pace, age: Duration) -> Duration {
        match self {
            // Most apps answer within a second or two, and a recovery waits for them; refused connections cost nothing.
            Self::Starting if age < Duration::from_secs(3) => Duration::from_millis(25),
            Self::Starting if age < Duration::from_secs(15) => Duration::from_millis(100),
            Self::Starting => Duration::from_millis(500),
            Self::Up { misses: 0 } => pace.look_every,
            Self::Up { .. } => pace.look_again,
        }
    }

    /// Takes note of a look at an instance that was started `age` ago.
    pub(super) fn saw(&mut self, look: &Look, pace: &Pace, age: Duration) -> Verdict {
        match (*self, look.is_healthy()) {
            (Self::Up { misses: 0 }, true) => Verdict::Same,
            (Self::Starting | Self::Up { .. }, true) => {
                *self = Self::Up { misses: 0 };
                Verdict::Answers
            }
            (Self::Starting, false) if age >= pace.start_within => Verdict::GiveUp,
            (Self::Starting, false) => Verdict::Same,
            (Self::Up { misses }, false) if misses + 1 >= pace.misses_max => Verdict::GiveUp,
            (Self::Up { misses }, false) => {
                *self = Self::Up { misses: misses + 1 };
                if *look == Look::Refused { Verdict::Refuses } else { Verdict::Same }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter a look: `.` answered, `5` answered with 500, `r` refused, `s` silent. One letter a verdict.
    fn check(looks: &str, expected: &str) {
        let pace = Pace { start_within: Duration::from_secs(4), ..Pace::default() };
        let mut health = Health::Starting;
        let seen: String = looks
            .chars()
            .zip(0_u64..)
            .map(|(look, second)| {
                let look = match look {
                    '.' => Look::Answered(200),
                    '5' => Look::Answered(500),
                    'r' => Look::Refused,
                    _ => Look::Silent("nothing".to_owned()),
                };
                match health.saw(&look, &pace, Duration::from_secs(second)) {
                    Verdict::Same => ' ',
                    Verdict::Answers => 'A',
                    Verdict::Refuses => 'R',
                    Verdict::GiveUp => 'X',
                }
            })
            .collect();
        assert_eq!(seen, expected, "{looks}");
    }

    #[test]
    fn an_instance_is_up_with_its_first_answer_and_given_up_after_three_misses() {
        check("rr.", "  A");
        check("rrrrr", "    X");
        check("5s5r5", "    X");
        check(".........", "A        ");
        check(".ss.ss.", "A  A  A");
        check(".sss", "A  X");
        check(".5s5", "A  X");
    }

    #[test]
    fn a_refusing_instance_gets_no_requests_at_once() {
        check(".r.", "ARA");
        check(".rr", "ARR");
        check(".srs", "A RX");
    }

    #[test]
    fn the_pause_doubles_up_to_its_limit_and_starts_anew_after_a_steady_run() {
        let pace = Pace::default();
        let mut backoff = Backoff::new(&pace);
        let pauses: Vec<u128> =
            (0..11).map(|_| backoff.pause(&pace, Duration::from_secs(59)).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert_eq!(backoff.pause(&pace, Duration::from_secs(60)), pace.pause_first);
    }

    #[test]
    fn looks_are_frequent_only_while_somebody_waits() {
        let pace = Pace::default();
        assert!(Health::Starting.pause(&pace, Duration::ZERO) < Duration::from_millis(50));
        assert_eq!(Health::Up { misses: 0 }.pause(&pace, Duration::ZERO), pace.look_every);
        assert_eq!(Health::Up { misses: 1 }.pause(&pace, Duration::ZERO), pace.look_again);
    }
}
