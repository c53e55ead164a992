//! How well something is, from what several observers say of it. Pure.
//!
//! Read in this order: [`Health`] (the four words), [`Streak`] (what one observer thinks after several rounds), [`Testimony`]
//! and [`agree`] (what all of them together are believed).
//!
//! Must always hold (each has a property test below):
//! - nothing is [`Health::Unhealthy`] unless more than half of all that look at it say so;
//! - whoever hears nobody else says [`Health::Unknown`] of what only it cannot reach;
//! - one cut link never makes a region Unhealthy where a third one can tell: it is a Warning that names the link.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::Region;

/// Bad rounds in a row before an observer says that something does not answer: one lost packet is repeated by TCP within
/// one round, a restart of a node takes about two.
pub const BAD_ROUNDS: u32 = 3;
/// Good rounds in a row before it says that it answers again: a node that dies each second does not flap.
pub const GOOD_ROUNDS: u32 = 2;

/// How well something is. Ordered: the worst wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum Health {
    /// All is as it should be.
    Healthy,
    /// Nobody can tell.
    Unknown,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work.
    Unhealthy,
}

impl Health {
    /// All of them, best first.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Unknown, Self::Warning, Self::Unhealthy];

    /// The word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unknown => "Unknown",
            Self::Warning => "Warning",
            Self::Unhealthy => "Unhealthy",
        }
    }
}

/// What one observer thinks of one thing, after some rounds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Streak {
    /// What it has settled on; `None`: not yet.
    settled: Option<bool>,
    /// Rounds in a row that said the other.
    contrary: u32,
    /// What the last bad round said.
    why: String,
}

impl Streak {
    /// After one more round. The first good one settles at once: there is nothing to distrust yet.
    #[must_use]
    pub fn after(mut self, round: Result<(), String>) -> Self {
        let good = round.is_ok();
        if let Err(why) = round {
            self.why = why;
        }
        if self.settled == Some(good) {
            self.contrary = 0;
            return self;
        }
        self.contrary += 1;
        let needed = match (self.settled, good) {
            (None, true) => 1,
            (_, true) => GOOD_ROUNDS,
            (_, false) => BAD_ROUNDS,
        };
        if self.contrary >= needed {
            self.settled = Some(good);
            self.contrary = 0;
        }
        self
    }

    /// What it says now.
    #[must_use]
    pub fn says(&self) -> Testimony {
        match self.settled {
            None => Testimony::NotHeard,
            Some(true) => Testimony::Answers,
            Some(false) => Testimony::Silent { why: self.why.clone() },
        }
    }
}

/// What one observer says of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Testimony {
    /// It answers.
    Answers,
    /// It does not.
    Silent {
        /// How the last try failed.
        why: String,
    },
    /// The observer cannot be heard itself, or has not looked for long enough.
    NotHeard,
}

/// Whoever judges, and what it can be sure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judge<'a> {
    /// The region in which it is; `None`: in none of them.
    pub here: Option<&'a Region>,
    /// It reaches its store: it is not on the small side of a cut.
    pub store: bool,
}

/// What is believed of one thing, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// How well it is.
    pub state: Health,
    /// Why it is not Healthy.
    pub reason: Option<String>,
}

fn agreed(state: Health, reason: String) -> Agreed {
    Agreed { state, reason: Some(reason) }
}

/// What is believed of `subject`, from what the others say. `others` names every observer there is, heard or not; the
/// subject's word about itself is not asked.
#[must_use]
pub fn agree(subject: &str, others: &BTreeMap<String, Testimony>, judge: Judge<'_>) -> Agreed {
    let answers: Vec<&str> = named(others, |said| *said == Testimony::Answers);
    let silent: Vec<(&str, &str)> = others
        .iter()
        .filter_map(|(observer, said)| match said {
            Testimony::Silent { why } => Some((observer.as_str(), why.as_str())),
            _ => None,
        })
        .collect();
    let itself = judge.here.is_some_and(|here| here.as_str() == subject);
    let Some((first, why)) = silent.first() else {
        return match answers.is_empty() && !(itself && judge.store) {
            true => agreed(Health::Unknown, format!("nobody that looks at {subject} can be heard")),
            false => Agreed { state: Health::Healthy, reason: None },
        };
    };
    let against: Vec<&str> = silent.iter().map(|(observer, _)| *observer).collect();
    let only_here = silent.len() == 1 && judge.here.is_none_or(|here| here.as_str() == *first);
    if 2 * silent.len() <= others.len() && answers.is_empty() {
        let quiet = named(others, |said| *said == Testimony::NotHeard).join(" and ");
        return agreed(
            Health::Unknown,
            format!(
                "only {} looks at {subject} and gets no answer ({why}); {quiet} cannot be heard",
                against.join(" and ")
            ),
        );
    }
    if 2 * silent.len() <= others.len() || silent.len() <= answers.len() {
        let (against, answers) = (against.join(" and "), answers.join(" and "));
        return agreed(
            Health::Warning,
            format!("{against} cannot reach {subject}, {answers} can: the link is cut ({why})"),
        );
    }
    if only_here && !judge.store {
        return agreed(
            Health::Unknown,
            format!(
                "{subject} does not answer {first}, which does not reach its store either: it may be cut off itself"
            ),
        );
    }
    let but = match answers.is_empty() {
        true => String::new(),
        false => format!("; {} still reaches it", answers.join(" and ")),
    };
    agreed(Health::Unhealthy, format!("{subject} does not answer {}: {why}{but}", against.join(" and ")))
}

fn named(others: &BTreeMap<String, Testimony>, which: impl Fn(&Testimony) -> bool) -> Vec<&str> {
    others.iter().filter(|(_, said)| which(said)).map(|(observer, _)| observer.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(word: char) -> Testimony {
        match word {
            '+' => Testimony::Answers,
            '-' => Testimony::Silent { why: "refused".to_owned() },
            _ => Testimony::NotHeard,
        }
    }

    fn all(words: &str) -> BTreeMap<String, Testimony> {
        let names = ["paris", "oslo", "rome", "turin"];
        names.into_iter().zip(words.chars()).map(|(name, word)| (name.to_owned(), said(word))).collect()
    }

    fn judged(words: &str, here: &str, store: bool) -> Agreed {
        let here = Region::parse(here).unwrap();
        agree("bergen", &all(words), Judge { here: Some(&here), store })
    }

    #[test]
    fn the_table_of_who_says_what() {
        use Health::{Healthy, Unhealthy, Unknown, Warning};
        // What the others say of bergen (+ answers, - does not, . not heard), from where, whether the store is reached.
        let rows = [
            ("+", "paris", true, Healthy),
            ("-", "paris", true, Unhealthy),
            ("-", "paris", false, Unknown),
            (".", "paris", true, Unknown),
            (".", "bergen", true, Healthy),
            (".", "bergen", false, Unknown),
            ("++", "paris", true, Healthy),
            ("+-", "paris", true, Warning),
            ("-+", "paris", true, Warning),
            ("--", "paris", true, Unhealthy),
            ("-.", "paris", true, Unknown),
            ("-.", "paris", false, Unknown),
            ("+.", "paris", true, Healthy),
            ("..", "paris", true, Unknown),
            ("--", "bergen", true, Unhealthy),
            ("--+", "paris", true, Unhealthy),
            ("-+.", "paris", true, Warning),
            ("--..", "paris", true, Unknown),
            ("--++", "paris", true, Warning),
            ("---+", "paris", true, Unhealthy),
            ("", "bergen", true, Healthy),
            ("", "paris", true, Unknown),
        ];
        for (words, here, store, expected) in rows {
            let found = judged(words, here, store);
            assert_eq!(found.state, expected, "{words:?} from {here}, store {store}: {found:?}");
            assert_eq!(found.reason.is_none(), expected == Healthy, "{words:?}");
        }
    }

    #[test]
    fn a_cut_link_is_named() {
        let reason = judged("-+", "paris", true).reason.unwrap();
        assert_eq!(reason, "paris cannot reach bergen, oslo can: the link is cut (refused)");
    }

    #[test]
    fn a_single_bad_round_changes_nothing_and_a_single_good_one_neither() {
        let rounds = |words: &str| {
            words.chars().fold(Streak::default(), |streak, word| {
                streak.after(if word == '+' { Ok(()) } else { Err("refused".to_owned()) })
            })
        };
        let check = |words: &str, expected: char| assert_eq!(rounds(words).says(), said(expected), "{words}");
        check("", '.');
        check("+", '+');
        check("--", '.');
        check("---", '-');
        check("+--+--", '+');
        check("+---", '-');
        check("---+", '-');
        check("---+-+-+", '-');
        check("---++", '+');
    }

    fn testimonies() -> impl Strategy<Value = String> {
        proptest::collection::vec(prop_oneof![Just('+'), Just('-'), Just('.')], 0..5)
            .prop_map(|words| words.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_minority_is_never_believed(words in testimonies(), inside in any::<bool>(), store in any::<bool>()) {
            let found = judged(&words, if inside { "bergen" } else { "paris" }, store);
            let all = all(&words);
            let silent = all.values().filter(|said| matches!(said, Testimony::Silent { .. })).count();
            let answers = all.values().filter(|said| **said == Testimony::Answers).count();
            if found.state == Health::Unhealthy {
                prop_assert!(2 * silent > all.len() && silent > answers, "{words}");
            }
            if silent + answers == 0 && !(inside && store) {
                prop_assert_eq!(found.state, Health::Unknown);
            }
            if silent == 0 && answers > 0 {
                prop_assert_eq!(found.state, Health::Healthy);
            }
        }

        #[test]
        fn one_cut_link_never_demotes_where_another_can_tell(others in 2_usize..5, cut in 0_usize..5) {
            let words: String = (0..others).map(|index| if index == cut % others { '-' } else { '+' }).collect();
            prop_assert_eq!(judged(&words, "paris", true).state, Health::Warning);
        }

        #[test]
        fn fewer_bad_rounds_than_needed_are_forgotten(bad in 0..BAD_ROUNDS) {
            let streak = (0..bad).fold(Streak::default().after(Ok(())), |streak, _| streak.after(Err(String::new())));
            prop_assert_eq!(streak.says(), Testimony::Answers);
        }
    }
}
