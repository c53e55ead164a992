//! Calls that came to the pair's endpoint: to every member at once, and one answer made of theirs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use farshore_core::moment::Moment;
use tokio::task::JoinHandle;

use super::Pair;
use super::answers::{Outcome, Said, merged, report};
use super::member::Member;
use super::place::{NoReply, Place, Reply};
use super::verdict::{Round, State};
use super::wire::{self, Wire};
use crate::hub::call::{self, Answer, Call};
use crate::live::{AskError, LiveHub, now};
use crate::rest::{Broadcast, Told};

/// A member that takes longer has not answered: the caller waits for the slowest.
pub(super) const CALL_MAX: Duration = Duration::from_secs(3);
/// A region that is back answers within this, or is still lost: a probe has the same patience.
const BACK_MAX: Duration = Duration::from_secs(1);
/// A link that brings nothing forward for a second is taken for down, and nobody waits for it any more. With
/// [`CALL_MAX`] before it, a caller with a patience of five seconds still has its answer.
const HAND_OVER_MAX: Duration = Duration::from_millis(1_500);
/// Pages of one group that are read from another server, whose order is not ours. The deadline bounds them, too.
const FOREIGN_PAGES_MAX: usize = 100;

#[async_trait]
impl Broadcast for Pair {
    async fn ask(&self, hub: &Arc<LiveHub>, call: Call) -> Result<Told, AskError> {
        let call = Arc::new(named(call));
        let own = (self.here.to_string(), tokio::spawn(ask_own(Arc::clone(hub), Arc::clone(&call))));
        let linked = self.hub.is_partner_here();
        // Tasks of their own: a caller that hangs up leaves no call half told.
        let others: Vec<(Arc<Member>, JoinHandle<Outcome>)> = self
            .remote()
            .into_iter()
            .map(|member| {
                let task = tokio::spawn(ask_any(Arc::clone(&member), Arc::clone(&call), linked));
                (member, task)
            })
            .collect();
        let mut said = vec![Said { name: own.0, is_ours: true, outcome: ended(own.1).await }];
        for (member, task) in others {
            let (name, is_ours) = (member.place.name.clone(), member.place.region.is_some());
            said.push(Said { name, is_ours, outcome: ended(task).await });
        }
        let answer = merged(&call, &said).map_err(AskError::Failed)?;
        if matches!(*call, Call::Send { .. }) && is_owed(&said) {
            hand_over(hub, &call, &said).await?;
        }
        Ok(Told { answer, report: Some(report(&said)) })
    }
}

/// Gives a message the id under which all regions know it as one.
fn named(call: Call) -> Call {
    match call {
        Call::Send { to, mut message, exclude, filter } => {
            if message.id.is_none() {
                Arc::make_mut(&mut message).id = Some(rand::random());
            }
            Call::Send { to, message, exclude, filter }
        }
        other => other,
    }
}

/// Whether this region has taken a message, and the other one has not said so.
fn is_owed(said: &[Said]) -> bool {
    let took = |said: &Said| matches!(said.outcome, Outcome::Answered(_));
    said.first().is_some_and(took) && said.iter().any(|said| said.is_ours && !took(said))
}

/// Gives the other region a message over the link, for its own clients. Returns when it has it, or is known to be away: then
/// it gets it with all else when it is back.
async fn hand_over(hub: &Arc<LiveHub>, call: &Call, said: &[Said]) -> Result<(), AskError> {
    let position = hub.with(|hub| hub.hand_over(call.clone()));
    // That it was away already is counted: this region's own part of the promise was.
    if !hub.is_partner_here() {
        return Ok(());
    }
    tokio::time::timeout(HAND_OVER_MAX, hub.settled(Some(position))).await.map_err(|_| {
        let report = report(said);
        AskError::Failed(format!("the other region has not got the message ({report}): ask again"))
    })
}

async fn ended(task: JoinHandle<Outcome>) -> Outcome {
    task.await.unwrap_or_else(|error| Outcome::Unreachable(error.to_string()))
}

async fn ask_own(hub: Arc<LiveHub>, call: Arc<Call>) -> Outcome {
    match tokio::time::timeout(CALL_MAX, hub.ask(Call::clone(&call))).await {
        Ok(Ok(answer)) => Outcome::Answered(answer),
        Ok(Err(AskError::NotServing { .. })) => Outcome::Lost,
        Ok(Err(AskError::Failed(why))) => Outcome::Unreachable(why),
        Err(_) => Outcome::Late,
    }
}

/// One that is known to be lost is not asked. A region whose link is up may be back, with clients of its own, before the
/// probe has seen it twice: it is told, and waited for a moment only.
async fn ask_any(member: Arc<Member>, call: Arc<Call>, linked: bool) -> Outcome {
    if member.state() != State::Lost {
        return ask_member(member, call).await;
    }
    if !linked || member.place.region.is_none() {
        return Outcome::Lost;
    }
    match tokio::time::timeout(BACK_MAX, ask_place(&member.place, &call)).await {
        Ok(answered @ Outcome::Answered(_)) => answered,
        _ => Outcome::Lost,
    }
}

async fn ask_member(member: Arc<Member>, call: Arc<Call>) -> Outcome {
    let asking = tokio::time::timeout(CALL_MAX, ask_place(&member.place, &call));
    let outcome = tokio::select! {
        outcome = asking => outcome.unwrap_or(Outcome::Late),
        // Nobody waits for a member that was found to be lost meanwhile.
        () = member.lost() => Outcome::Unreachable("it is lost".to_owned()),
    };
    let round = match &outcome {
        Outcome::Refused(why) => Some(Round::Refused(why.clone())),
        Outcome::Unreachable(why) => Some(Round::Bad(why.clone())),
        Outcome::Late => Some(Round::Bad(format!("a call was not answered within {CALL_MAX:?}"))),
        Outcome::Status(status) if *status >= 500 => {
            Some(Round::Bad(format!("it answered {status} to a call")))
        }
        Outcome::Answered(_) | Outcome::Status(_) | Outcome::Unsaid | Outcome::Lost => None,
    };
    if let Some(round) = round.filter(|_| member.state() != State::Lost) {
        tracing::warn!(member = member.place.name, ?outcome, "a member of the pair did not take a call");
        member.suspect(round);
    }
    outcome
}

async fn ask_place(place: &Place, call: &Call) -> Outcome {
    if let Call::Members { group, after, limit } = call {
        return members(place, group, after.as_ref(), *limit).await;
    }
    let Some(wire) = Wire::of(call, now()) else { return Outcome::Unsaid };
    match ask_twice(place, call, &wire).await {
        Ok(reply) => match wire::answer(call, reply.status, reply.code.as_deref()) {
            Some(answer) => Outcome::Answered(answer),
            None => Outcome::Status(reply.status.as_u16()),
        },
        Err(error) => no_reply(error),
    }
}

/// A region that has taken a message before its connection broke knows the message by its id; other servers would give it
/// to their clients twice.
async fn ask_twice(place: &Place, call: &Call, wire: &Wire) -> Result<Reply, NoReply> {
    let may_repeat = place.region.is_some() || !matches!(call, Call::Send { .. });
    match place.ask(wire).await {
        Err(NoReply::Broken(_)) if may_repeat => place.ask(wire).await,
        Err(NoReply::Unreachable(_)) => place.ask(wire).await,
        other => other,
    }
}

fn no_reply(error: NoReply) -> Outcome {
    match error {
        NoReply::Refused(why) => Outcome::Refused(why),
        NoReply::Unreachable(why) | NoReply::Broken(why) => Outcome::Unreachable(why),
    }
}

/// The first `limit` members after one, by connection. Our regions page in this order; of other servers all pages are read.
async fn members(
    place: &Place,
    group: &crate::names::GroupName,
    after: Option<&crate::names::ConnectionId>,
    limit: usize,
) -> Outcome {
    let is_ours = place.region.is_some();
    let mut mark = after.filter(|_| is_ours).map(|after| after.as_str().to_owned());
    let mut found: Vec<call::Member> = Vec::new();
    let size = if is_ours { limit } else { wire::PAGE_SIZE_MAX };
    for _ in 0..FOREIGN_PAGES_MAX {
        let wire = Wire::page(group, size, mark.as_deref());
        let reply = match place.ask(&wire).await {
            Ok(reply) if reply.status.is_success() => reply,
            Ok(reply) => return Outcome::Status(reply.status.as_u16()),
            Err(error) => return no_reply(error),
        };
        let Some((page, next)) = wire::page(&reply.body) else {
            return Outcome::Unreachable("its list of members cannot be read".to_owned());
        };
        found.extend(page.into_iter().filter(|member| after.is_none_or(|after| member.connection > *after)));
        mark = next;
        if mark.is_none() || (is_ours && found.len() >= limit) {
            break;
        }
    }
    found.sort();
    found.truncate(limit);
    Outcome::Answered(Answer::Members(found))
}

/// The own hub answers questions at once; one that does not is stuck.
pub(super) fn own_answers(hub: &Arc<LiveHub>, now: Moment) -> bool {
    let nobody = call::Scope::User(super::nobody());
    hub.is_serving() && hub.with(|hub| hub.call(Call::Exists(nobody), now).value == Answer::No)
}
