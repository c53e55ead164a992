//! One answer, made of those of all members. Pure.

use std::collections::BTreeSet;

use crate::hub::call::{Answer, Call};

/// What became of a call at one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It did it, or knows.
    Answered(Answer),
    /// It answered with this status, and did nothing.
    Status(u16),
    /// Nobody listens there.
    Refused(String),
    /// It could not be reached, or the connection broke.
    Unreachable(String),
    /// It did not answer in time.
    Late,
    /// No request of the protocol says it.
    Unsaid,
    /// It was known not to work: it was not asked.
    Lost,
}

/// What one member has said.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) name: String,
    /// A region of the pair, not somebody else's server.
    pub(super) is_ours: bool,
    pub(super) outcome: Outcome,
}

impl Outcome {
    fn word(&self) -> String {
        match self {
            Self::Answered(Answer::Done) => "done".to_owned(),
            Self::Answered(Answer::Yes) => "yes".to_owned(),
            Self::Answered(Answer::No) => "no".to_owned(),
            Self::Answered(Answer::NotFound) => "absent".to_owned(),
            Self::Answered(Answer::Members(members)) => members.len().to_string(),
            Self::Status(status) => format!("refused-{status}"),
            Self::Refused(_) | Self::Unreachable(_) => "unreachable".to_owned(),
            Self::Late => "late".to_owned(),
            Self::Unsaid => "not-asked".to_owned(),
            Self::Lost => "lost".to_owned(),
        }
    }

    /// It was asked, and what it would have said is not known.
    fn is_open(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Unreachable(_) | Self::Late)
            || matches!(self, Self::Status(status) if *status >= 500)
    }
}

/// What each member did: `paris=done, oslo=unreachable`.
pub(super) fn report(said: &[Said]) -> String {
    let each: Vec<_> = said.iter().map(|said| format!("{}={}", said.name, said.outcome.word())).collect();
    each.join(", ")
}

/// One answer. A region of the pair must have given one; other servers only add to it.
///
/// `Err`: what to tell the caller. It may come again: a repeated message with the same id is applied once.
pub(super) fn merged(call: &Call, said: &[Said]) -> Result<Answer, String> {
    let answers = || {
        said.iter().filter_map(|said| match &said.outcome {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        })
    };
    let answered = |said: &Said| said.is_ours && matches!(said.outcome, Outcome::Answered(_));
    if !said.iter().any(answered) {
        return Err(format!("no region of the pair took the call ({}): ask again", report(said)));
    }
    if let Call::Members { limit, .. } = call {
        return Ok(Answer::Members(first_members(answers(), *limit)));
    }
    let (good, bad) =
        if call.is_question() { (Answer::Yes, Answer::No) } else { (Answer::Done, Answer::NotFound) };
    if answers().any(|answer| *answer == good) {
        return Ok(good);
    }
    // Whoever it is about may be where nobody answered.
    if said.iter().any(|said| said.is_ours && said.outcome.is_open()) {
        return Err(format!("not every region of the pair has answered ({}): ask again", report(said)));
    }
    Ok(bad)
}

/// The union, by connection: each member gave its own first `limit`, so the first of all are among them.
fn first_members<'a>(
    answers: impl Iterator<Item = &'a Answer>,
    limit: usize,
) -> Vec<crate::hub::call::Member> {
    let lists = answers.filter_map(|answer| match answer {
        Answer::Members(members) => Some(members),
        _ => None,
    });
    let mut seen = BTreeSet::new();
    let mut all: Vec<_> = lists.flatten().cloned().collect();
    all.sort();
    all.retain(|member| seen.insert(member.connection.clone()));
    all.truncate(limit);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::call::{Member, Scope};
    use crate::names::{ConnectionId, GroupName, UserId};

    fn outcome(text: &str) -> Outcome {
        match text {
            "done" => Outcome::Answered(Answer::Done),
            "yes" => Outcome::Answered(Answer::Yes),
            "no" => Outcome::Answered(Answer::No),
            "absent" => Outcome::Answered(Answer::NotFound),
            "unreachable" => Outcome::Unreachable("broken".to_owned()),
            "refused" => Outcome::Refused("refused".to_owned()),
            "late" => Outcome::Late,
            "lost" => Outcome::Lost,
            status => Outcome::Status(status.parse().unwrap()),
        }
    }

    /// The members are paris, oslo and, in capitals in the report, somebody else's server.
    fn said(outcomes: &str) -> Vec<Said> {
        let names = ["paris", "oslo", "OTHER"];
        let each = names.into_iter().zip(outcomes.split_whitespace());
        each.map(|(name, text)| Said {
            name: name.to_owned(),
            is_ours: name != "OTHER",
            outcome: outcome(text),
        })
        .collect()
    }

    fn check(call: &Call, outcomes: &str, expected: &str) {
        let word = merged(call, &said(outcomes));
        let word = word.map_or_else(|_| "again".to_owned(), |answer| Outcome::Answered(answer).word());
        assert_eq!(word, expected, "{call:?} {outcomes}");
    }

    #[test]
    fn an_order_is_done_when_a_region_of_the_pair_did_it() {
        let everybody = Scope::All;
        let close = Call::Close { who: everybody, exclude: Vec::new(), reason: String::new() };
        for (outcomes, expected) in [
            ("done done done", "done"),
            ("done lost late", "done"),
            ("lost done 500", "done"),
            ("done late done", "done"),
            ("done 401 done", "done"),
            ("lost lost done", "again"),
            ("lost late done", "again"),
            ("late refused", "again"),
            ("lost", "again"),
        ] {
            check(&close, outcomes, expected);
        }
    }

    #[test]
    fn whoever_is_nowhere_is_absent_unless_somebody_did_not_say() {
        let connection = ConnectionId::parse("c").unwrap();
        let join = Call::Join { connection, group: GroupName::parse("g").unwrap() };
        for (outcomes, expected) in [
            ("absent done", "done"),
            ("done absent", "done"),
            ("absent absent", "absent"),
            ("absent absent done", "done"),
            ("absent absent late", "absent"),
            ("absent lost", "absent"),
            ("absent late", "again"),
            ("absent unreachable", "again"),
            ("absent 503", "again"),
            ("absent 404", "absent"),
        ] {
            check(&join, outcomes, expected);
        }
    }

    #[test]
    fn a_question_is_answered_yes_if_anybody_says_so() {
        let exists = Call::Exists(Scope::Group(GroupName::parse("g").unwrap()));
        for (outcomes, expected) in [
            ("no yes", "yes"),
            ("yes no no", "yes"),
            ("no no yes", "yes"),
            ("yes late", "yes"),
            ("no no no", "no"),
            ("no lost late", "no"),
            ("no refused", "again"),
            ("lost lost yes", "again"),
        ] {
            check(&exists, outcomes, expected);
        }
    }

    #[test]
    fn each_member_is_reported() {
        assert_eq!(report(&said("done 403 late")), "paris=done, oslo=refused-403, OTHER=late");
        assert_eq!(
            report(&said("lost unreachable refused")),
            "paris=lost, oslo=unreachable, OTHER=unreachable"
        );
    }

    #[test]
    fn members_of_a_group_are_merged_in_order_without_repetitions() {
        let list = |ids: &str| {
            let member = |id: &str| Member {
                connection: ConnectionId::parse(id).unwrap(),
                user: Some(UserId::parse("ann").unwrap()),
            };
            Outcome::Answered(Answer::Members(ids.split_whitespace().map(member).collect()))
        };
        for (paris, oslo, other, limit, expected) in [
            ("a c e", "b d f", "", 6, "a b c d e f"),
            ("a c e", "b d f", "", 3, "a b c"),
            ("a b c", "b c d", "a d", 9, "a b c d"),
            ("", "", "x", 1, "x"),
        ] {
            let each = [("paris", paris), ("oslo", oslo), ("OTHER", other)];
            let said = each.map(|(name, ids)| Said {
                name: name.to_owned(),
                is_ours: name != "OTHER",
                outcome: list(ids),
            });
            let call = Call::Members { group: GroupName::parse("g").unwrap(), after: None, limit };
            let Ok(Answer::Members(members)) = merged(&call, &said) else { panic!("no members") };
            let ids: Vec<_> = members.iter().map(|member| member.connection.as_str()).collect();
            assert_eq!(ids.join(" "), expected);
        }
    }
}
