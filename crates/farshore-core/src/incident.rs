//! Incidents: what was wrong, from when to when, and what was said about it. Pure.
//!
//! Read in this order: [`Incident`] (the record `incidents/ID`), [`Finding`] (what is wrong now), [`Rounds`] (which incidents
//! are to be opened, changed and closed because of it).
//!
//! Must always hold: there is at most one open incident for a subject and a cause; one that a person opened is closed by a
//! person only; nothing is closed because nobody can tell.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::moment::Moment;
use crate::verdict::Health;

/// Rounds in a row in which something is wrong before an incident is opened; what is shorter shows in the status only.
pub const OPEN_ROUNDS: u32 = 3;
/// Rounds in a row in which it is right before the incident is closed.
pub const CLOSE_ROUNDS: u32 = 5;
/// Changes that one incident keeps; later ones replace the newest of the machine's own, so that a flapping text cannot grow
/// the record without bound.
pub const HISTORY_MAX: usize = 100;
/// The cause of an incident that a person opened.
pub const BY_HAND: &str = "reported";

/// One incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Its name; sorts by age.
    pub id: String,
    /// What it is about: `machine/web-1`, `region/paris`, or a person's words.
    pub subject: String,
    /// Short and stable: `unreachable`, `rpo`; [`BY_HAND`] when a person opened it.
    pub cause: String,
    /// How bad it is.
    pub severity: Health,
    /// What is wrong, as last seen.
    pub text: String,
    /// What to do.
    pub advice: Option<String>,
    /// When it began.
    pub opened_at: Moment,
    /// When it ended, if it has.
    pub closed_at: Option<Moment>,
    /// What happened, oldest first.
    pub history: Vec<Change>,
}

/// One entry of an incident's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at: Moment,
    /// Who: a person, or `control-plane`.
    pub who: String,
    /// What.
    pub what: String,
}

/// Something that is not as it should be, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub state: Health,
    /// Short and stable, for programs; one finding of a cause for each subject.
    pub cause: &'static str,
    /// Why we say so.
    pub reason: String,
    /// What to do.
    pub advice: String,
}

/// What an incident is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    /// See [`Incident::subject`].
    pub subject: String,
    /// See [`Incident::cause`].
    pub cause: String,
}

/// What is to be done about an incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Open one.
    Open(About, Finding),
    /// What is said of the open one is different now.
    Change(About, Finding),
    /// It is over.
    Close(About),
}

impl Incident {
    /// What it is about.
    #[must_use]
    pub fn about(&self) -> About {
        About { subject: self.subject.clone(), cause: self.cause.clone() }
    }

    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.closed_at.is_none()
    }

    /// With one more entry.
    #[must_use]
    pub fn noted(mut self, at: Moment, who: &str, what: &str) -> Self {
        if self.history.len() >= HISTORY_MAX {
            self.history.pop();
        }
        self.history.push(Change { at, who: who.to_owned(), what: what.to_owned() });
        self
    }

    /// As it is when `finding` is what is seen now.
    #[must_use]
    pub fn changed(self, finding: &Finding, at: Moment, who: &str) -> Self {
        let what = format!("{}: {}", finding.state.as_str(), finding.reason);
        let next = Self {
            severity: finding.state,
            text: finding.reason.clone(),
            advice: Some(finding.advice.clone()),
            ..self
        };
        next.noted(at, who, &what)
    }

    /// As it is when it is over.
    #[must_use]
    pub fn closed(self, at: Moment, who: &str, what: &str) -> Self {
        Self { closed_at: Some(at), ..self }.noted(at, who, what)
    }
}

/// How many rounds in a row something was wrong, or was right again.
#[derive(Debug, Default)]
pub struct Rounds {
    wrong: BTreeMap<About, u32>,
    right: BTreeMap<About, u32>,
}

impl Rounds {
    /// One more round. `found` is what is wrong now, `unknown` the subjects of which nobody can tell: nothing is opened or
    /// closed about those. `open` is what is open.
    pub fn round(
        &mut self,
        found: BTreeMap<About, Finding>,
        unknown: &BTreeSet<String>,
        open: &BTreeMap<About, Incident>,
    ) -> Vec<Act> {
        let mut acts = Vec::new();
        self.wrong.retain(|about, _| found.contains_key(about) || unknown.contains(&about.subject));
        self.right.retain(|about, _| open.contains_key(about) && !found.contains_key(about));
        for (about, finding) in found {
            let rounds = self.wrong.entry(about.clone()).or_default();
            *rounds = rounds.saturating_add(1);
            match open.get(&about) {
                // Figures in the text change each second: what it says is told again only when it is worse or better.
                Some(incident) if incident.severity == finding.state => {}
                Some(_) => acts.push(Act::Change(about, finding)),
                None if *rounds >= OPEN_ROUNDS => acts.push(Act::Open(about, finding)),
                None => {}
            }
        }
        for (about, incident) in open {
            if self.wrong.contains_key(about) || unknown.contains(&about.subject) || incident.cause == BY_HAND
            {
                continue;
            }
            let rounds = self.right.entry(about.clone()).or_default();
            *rounds = rounds.saturating_add(1);
            if *rounds >= CLOSE_ROUNDS {
                acts.push(Act::Close(about.clone()));
            }
        }
        acts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About { subject: "machine/web-1".to_owned(), cause: "rpo".to_owned() }
    }

    fn finding(state: Health) -> Finding {
        Finding { state, cause: "rpo", reason: "too far behind".to_owned(), advice: "wait".to_owned() }
    }

    fn incident(cause: &str) -> Incident {
        Incident {
            id: "1".to_owned(),
            subject: "machine/web-1".to_owned(),
            cause: cause.to_owned(),
            severity: Health::Warning,
            text: String::new(),
            advice: None,
            opened_at: Moment(1),
            closed_at: None,
            history: Vec::new(),
        }
    }

    /// Plays rounds (`w` a warning, `u` Unhealthy, `.` all is well, `?` nobody can tell) against a world that obeys.
    fn play(rounds: &str, by_hand: bool) -> String {
        let mut told = String::new();
        let mut state = Rounds::default();
        let mut open: BTreeMap<About, Incident> = BTreeMap::new();
        if by_hand {
            let incident = incident(BY_HAND);
            open.insert(incident.about(), incident);
        }
        for word in rounds.chars() {
            let found = match word {
                'w' => BTreeMap::from([(about(), finding(Health::Warning))]),
                'u' => BTreeMap::from([(about(), finding(Health::Unhealthy))]),
                _ => BTreeMap::new(),
            };
            let unknown = if word == '?' { BTreeSet::from([about().subject]) } else { BTreeSet::new() };
            let acts = state.round(found, &unknown, &open);
            assert!(acts.len() <= 1);
            told.push(match acts.into_iter().next() {
                None => '.',
                Some(Act::Open(about, finding)) => {
                    open.insert(about, Incident { severity: finding.state, ..incident("rpo") });
                    'O'
                }
                Some(Act::Change(about, finding)) => {
                    open.insert(about, Incident { severity: finding.state, ..incident("rpo") });
                    'C'
                }
                Some(Act::Close(about)) => {
                    open.remove(&about);
                    'X'
                }
            });
        }
        told
    }

    #[test]
    fn incidents_open_change_and_close_by_themselves_and_do_not_flap() {
        let check = |rounds: &str, expected: &str| assert_eq!(play(rounds, false), expected, "{rounds}");
        check("ww.ww.", "......");
        check("www", "..O");
        check("wwwwuuw", "..O.C.C");
        check("www....w", "..O.....");
        check("www.....", "..O....X");
        // Nobody can tell: nothing is closed, and what was wrong before counts on afterwards.
        check("www??????", "..O......");
        check("ww??w", "....O");
        check("www.....www", "..O....X..O");
    }

    #[test]
    fn what_a_person_opened_a_person_closes() {
        assert_eq!(play("..........", true), "..........");
    }

    #[test]
    fn a_history_is_bounded() {
        let full = (0..3 * HISTORY_MAX).fold(incident("rpo"), |incident, count| {
            incident.noted(Moment(count as u64), "anna", &count.to_string())
        });
        assert_eq!(full.history.len(), HISTORY_MAX);
        assert_eq!(full.history.last().map(|change| change.at), Some(Moment(299)));
        assert_eq!(full.history[0].at, Moment(0));
        let closed = full.closed(Moment(7), "anna", "mended");
        assert!(!closed.is_open());
    }
}
