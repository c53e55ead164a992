//! What clients ask for themselves, and what everybody else asks: may it be, was it done before, who must know of it.

use farshore_core::moment::Moment;

use super::call::{Answer, Call, Scope};
use super::crowd::Outcome;
use super::outbox::End;
use super::presence::said_goodbye;
use super::record::{Position, Record};
use super::{Asked, Done, Ended, Hub, close};
use crate::frames::ErrorDetail;
use crate::names::ConnectionId;
use crate::permission::{Permission, Permissions};

/// Groups that a client can join by itself: with the longest names still a session that can be copied to the other region.
const GROUPS_MAX: usize = 5_000;

impl Hub {
    /// A client asks for something itself: its permissions and its acknowledgement numbers count. A message to a group
    /// is relayed to the other region.
    pub fn client_asks(
        &mut self,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        call: Call,
        now: Moment,
    ) -> Done<Asked> {
        let refused = |value| Done { value, position: None, ended: Vec::new() };
        let Some(session) = self.mine.get(connection) else { return refused(Asked::Forbidden) };
        if ack_id.is_some_and(|ack_id| session.has_done(ack_id)) {
            return refused(Asked::Duplicate);
        }
        if !permits(&session.permissions, &call) {
            return refused(Asked::Forbidden);
        }
        if let Call::Join { group, .. } = &call
            && session.groups.len() >= GROUPS_MAX
            && !session.groups.contains(group)
        {
            let why = format!(
                "the client is in {GROUPS_MAX} groups: it can be in no more, unless a server adds it"
            );
            return refused(Asked::BadRequest(why));
        }
        self.carry_out(connection, ack_id, call, now)
    }

    /// What a client may ask for is done.
    pub(super) fn carry_out(
        &mut self,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        call: Call,
        now: Moment,
    ) -> Done<Asked> {
        let (outcome, position) = self.record(connection, ack_id, call, now);
        Done { value: Asked::Done, position, ended: self.settle(outcome) }
    }

    /// The other region does with one record all that a client's request means there: what its copies are owed, and what
    /// its own members are. Were it two, a region that is lost between them would leave half of it.
    pub(super) fn record(
        &mut self,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        call: Call,
        now: Moment,
    ) -> (Outcome, Option<Position>) {
        let reliable = self.mine.get(connection).is_some_and(|session| session.protocol.is_reliable());
        let is_copied = self.mine.concerns_reliable(&call);
        self.note(&call, now);
        if let (Some(said), Call::Send { .. }) = (&mut self.said, &call) {
            said.push(call.clone());
        }
        let asked = Record::Asked { connection: connection.clone(), ack_id, call: Some(call) };
        let outcome = self.apply_own(&asked);
        let record = match asked {
            asked if is_copied || reliable => Some(asked),
            Record::Asked { call: Some(call @ Call::Send { .. }), .. } => Some(Record::Relayed(call)),
            _ => None,
        };
        (outcome, record.map(|record| self.log.push(record)))
    }

    /// Whether a client did this before, under the same number.
    #[must_use]
    pub fn has_done(&self, connection: &ConnectionId, ack_id: u64) -> bool {
        self.mine.get(connection).is_some_and(|session| session.has_done(ack_id))
    }

    /// An event of a client was handled: its number is remembered, and what its handler wants to be told.
    pub fn handled(
        &mut self,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        state: Option<String>,
    ) -> Option<Position> {
        let mut position = None;
        if state.is_some() {
            position = self.change(connection, Record::State { connection: connection.clone(), state });
        }
        if ack_id.is_some() {
            let asked = Record::Asked { connection: connection.clone(), ack_id, call: None };
            position = self.change(connection, asked).or(position);
        }
        position
    }

    pub(super) fn change(&mut self, connection: &ConnectionId, record: Record) -> Option<Position> {
        self.apply_own(&record);
        let reliable = self.mine.get(connection).is_some_and(|session| session.protocol.is_reliable());
        reliable.then(|| self.log.push(record))
    }

    /// The number of a new event of a connection, and what its handler wants to be told with it.
    pub fn next_event(&mut self, connection: &ConnectionId) -> (u64, Option<String>) {
        let Some(session) = self.mine.get_mut(connection) else { return (0, None) };
        session.events += 1;
        (session.events, session.state.as_deref().map(str::to_owned))
    }

    /// There are other nodes to tell what clients send.
    pub(crate) fn keep_said(&mut self) {
        self.said.get_or_insert_default();
    }

    /// What clients have sent since it was last asked.
    pub(crate) fn take_said(&mut self) -> Vec<Call> {
        self.said.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Something is asked from outside.
    pub fn call(&mut self, mut call: Call, now: Moment) -> Done<Answer> {
        let value = self.mine.answer(&call);
        if call.is_question() || value == Answer::NotFound {
            return Done { value, position: None, ended: Vec::new() };
        }
        if let Call::Send { message, .. } = &call
            && message.id.is_some_and(|id| self.recent.has(id))
        {
            // The pair repeats a message when its answer was lost.
            return Done { value, position: None, ended: Vec::new() };
        }
        if let Call::Send { message, exclude, .. } = &mut call
            && let Some(id) = message.id
        {
            // It went to both regions, and some have come over with it since.
            exclude.extend(self.recent.had_elsewhere(id).cloned());
        }
        self.note(&call, now);
        let is_close = matches!(call, Call::Close { .. });
        let is_copied = !is_close && self.mine.concerns_reliable(&call);
        let passed = match &call {
            Call::Send { message, .. } if !is_copied => message.id.map(Record::Passed),
            _ => None,
        };
        let record = Record::Called(call);
        let outcome = self.apply_own(&record);
        let position = if is_copied { Some(record) } else { passed }.map(|record| self.log.push(record));
        Done { value, position, ended: self.settle(outcome) }
    }

    /// A message that a client of another node of this region has sent: for this node's members, and relayed to the other
    /// region.
    pub fn call_for_client(&mut self, call: Call, now: Moment) -> Done<Answer> {
        let came_before =
            matches!(&call, Call::Send { message, .. } if message.id.is_some_and(|id| self.recent.has(id)));
        let relayed = (!came_before).then(|| Record::Relayed(call.clone()));
        let mut done = self.call(call, now);
        if let Some(relayed) = relayed {
            done.position = Some(self.log.push(relayed));
        }
        done
    }

    /// The other region has not said that it took this message: its own members get it over the link. A region that had it
    /// all the same knows it by its id.
    pub(crate) fn hand_over(&mut self, call: Call) -> Position {
        self.log.push(Record::Relayed(call))
    }

    /// Remembers a message that sessions may have to be given that are another region's now.
    pub(super) fn note(&mut self, call: &Call, now: Moment) {
        if let Call::Send { message, .. } = call
            && let Some(id) = message.id
        {
            self.recent.applied(id, call.clone(), now);
        }
    }

    /// Ends what a change has ended.
    pub(super) fn settle(&mut self, mut outcome: Outcome) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.note_memberships(&mut outcome);
        if !self.board.is_empty() {
            outcome.left.iter().for_each(|(connection, group)| self.left(connection, group));
        }
        for (connection, reason) in outcome.ended {
            let Some(session) = self.mine.get(&connection) else { continue };
            session.outbox.end(said_goodbye(session.protocol, &reason));
            ended.extend(self.end(&connection, reason));
        }
        for connection in outcome.too_slow {
            let Some(session) = self.mine.get(&connection) else { continue };
            session
                .outbox
                .end_now(End { code: close::POLICY, ..said_goodbye(session.protocol, "SlowClient") });
            ended.extend(self.end(&connection, "SlowClient".to_owned()));
        }
        ended
    }
}

fn permits(permissions: &Permissions, call: &Call) -> bool {
    match call {
        Call::Join { group, .. } | Call::Leave { group, .. } => {
            permissions.may(Permission::JoinLeaveGroup, group)
        }
        Call::Send { to: Scope::Group(group), .. } => permissions.may(Permission::SendToGroup, group),
        _ => false,
    }
}

/// The acknowledgement of a client's request.
#[must_use]
pub fn acknowledgement(asked: &Asked, ack_id: u64) -> Option<ErrorDetail> {
    let detail = |name: &str, message: String| Some(ErrorDetail { name: name.to_owned(), message });
    match asked {
        Asked::Done => None,
        Asked::Forbidden => detail("Forbidden", "The client does not have permission for this".to_owned()),
        Asked::BadRequest(why) => detail("BadRequest", why.clone()),
        Asked::Duplicate => detail("Duplicate", format!("Message with ack-id: {ack_id} has been processed")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::Scene;
    use super::*;
    use crate::frames::Protocol;
    use crate::names::GroupName;

    #[test]
    fn a_client_joins_only_so_many_groups_by_itself() {
        let mut scene = Scene::new();
        scene.open("ann", Protocol::Json, &["webpubsub.joinLeaveGroup"], &[]);
        let join = |number: usize| Call::Join {
            connection: Scene::id("ann"),
            group: GroupName::parse(&format!("group {number}")).unwrap(),
        };
        let now = scene.now();
        let mut asks = |call| scene.hub.client_asks(&Scene::id("ann"), None, call, now).value;
        assert!((0..GROUPS_MAX).all(|number| asks(join(number)) == Asked::Done));
        assert!(matches!(asks(join(GROUPS_MAX)), Asked::BadRequest(_)));
        assert_eq!(asks(join(7)), Asked::Done, "where it is already");
        assert_eq!(scene.hub.call(join(GROUPS_MAX), now).value, Answer::Done, "a server may");
    }
}
