//! The sessions of one region: a deterministic state machine, changed by [`Record`]s only.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use slab::Slab;

use super::call::{Answer, Call, Member, Scope};
use super::gate::Gate;
use super::record::{Position, Record};
use super::session::{Session, SessionCard};
use crate::filter::Filter;
use crate::frames::Message;
use crate::names::{ConnectionId, GroupName, UserId};

/// Sessions, and who is where among them.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    sessions: Slab<Session>,
    by_connection: HashMap<ConnectionId, usize>,
    by_user: HashMap<UserId, Vec<usize>>,
    groups: HashMap<GroupName, BTreeMap<ConnectionId, usize>>,
    /// How many of them are reliable.
    reliable: usize,
    /// What their clients are owed is written when this is open for it.
    pub(super) gate: Arc<Gate>,
    /// Where the change that is being applied will stand in the log.
    pub(super) recorded: Position,
    /// Somebody wants to know who comes into groups and goes.
    pub(super) notes_groups: bool,
}

/// What a change means for those outside.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Sessions that were told to end: connection and what it was told.
    pub(super) ended: Vec<(ConnectionId, String)>,
    /// Sessions that were owed more than is held for one.
    pub(super) too_slow: Vec<ConnectionId>,
    /// Sessions that are no longer in a group.
    pub(super) left: Vec<(ConnectionId, GroupName)>,
    /// Memberships that have begun (true) or ended, if anybody wants to know.
    pub(super) groups: Vec<(ConnectionId, GroupName, bool)>,
}

impl Crowd {
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }
    pub(super) fn reliable(&self) -> usize {
        self.reliable
    }
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }
    pub(super) fn users(&self) -> usize {
        self.by_user.len()
    }

    pub(super) fn get(&self, connection: &ConnectionId) -> Option<&Session> {
        self.by_connection.get(connection).and_then(|key| self.sessions.get(*key))
    }
    pub(super) fn get_mut(&mut self, connection: &ConnectionId) -> Option<&mut Session> {
        self.by_connection.get(connection).and_then(|key| self.sessions.get_mut(*key))
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().map(|(_, session)| session)
    }

    /// All but probes.
    pub(super) fn clients(&self) -> impl Iterator<Item = &Session> {
        self.iter().filter(|session| !session.is_probe())
    }

    pub(super) fn insert(&mut self, session: Session) {
        self.remove(&session.connection.clone());
        let entry = self.sessions.vacant_entry();
        let key = entry.key();
        self.by_connection.insert(session.connection.clone(), key);
        if let Some(user) = &session.user {
            self.by_user.entry(user.clone()).or_default().push(key);
        }
        for group in &session.groups {
            self.groups.entry(group.clone()).or_default().insert(session.connection.clone(), key);
        }
        self.reliable += usize::from(session.protocol.is_reliable());
        entry.insert(session);
    }

    pub(super) fn remove(&mut self, connection: &ConnectionId) -> Option<Session> {
        let key = self.by_connection.remove(connection)?;
        let session = self.sessions.try_remove(key)?;
        if let Some(user) = &session.user
            && let Some(keys) = self.by_user.get_mut(user)
        {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_user.remove(user);
            }
        }
        for group in &session.groups {
            self.forget_member(group, connection);
        }
        self.reliable -= usize::from(session.protocol.is_reliable());
        Some(session)
    }

    fn forget_member(&mut self, group: &GroupName, connection: &ConnectionId) {
        if let Some(members) = self.groups.get_mut(group) {
            members.remove(connection);
            if members.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    /// Takes all sessions out.
    pub(super) fn drain(&mut self) -> Vec<Session> {
        let mut whole = std::mem::take(self);
        whole.sessions.drain().collect()
    }

    pub(super) fn cards(&self) -> Vec<SessionCard> {
        self.iter().filter(|session| session.protocol.is_reliable()).map(Session::card).collect()
    }

    /// Changes what the record says. Whether it may was decided before.
    pub(super) fn apply(&mut self, record: &Record) -> Outcome {
        let mut outcome = Outcome::default();
        match record {
            Record::Opened(card) => self.insert(Session::of((**card).clone())),
            Record::Closed(connection) | Record::Released(connection) => {
                self.remove(connection);
            }
            Record::Called(call) => self.call(call, &mut outcome),
            Record::Asked { connection, ack_id, call } => {
                if let Some(call) = call {
                    self.call(call, &mut outcome);
                }
                if let (Some(session), Some(ack_id)) = (self.get_mut(connection), ack_id) {
                    session.remember(*ack_id);
                }
                if let Some(Call::Send { message, .. }) = call
                    && let Some(mark) = &message.stream
                    && let Some(streams) =
                        self.get_mut(connection).and_then(|session| session.streams.as_mut())
                {
                    streams.passed(mark);
                }
            }
            Record::StreamBegan { connection, stream } => {
                if let Some(session) = self.get_mut(connection) {
                    session.streams.get_or_insert_default().begin(stream.clone());
                }
            }
            Record::Acked { connection, sequence } => {
                if let Some(session) = self.get(connection) {
                    session.outbox.acked(*sequence);
                }
            }
            Record::State { connection, state } => {
                if let Some(session) = self.get_mut(connection) {
                    session.state = state.clone().map(String::into_boxed_str);
                }
            }
            Record::Passed(_) | Record::Relayed(_) | Record::Shown { .. } | Record::Watches { .. } => {}
        }
        outcome
    }

    fn call(&mut self, call: &Call, outcome: &mut Outcome) {
        match call {
            Call::Send { to, message, exclude, filter } => {
                let recorded = self.recorded;
                let sent = Sent { message, exclude, filter: filter.as_ref(), recorded };
                self.each(to, |session| sent.to(session, outcome));
            }
            Call::Close { who, exclude, reason } => self.close(who, exclude, reason, outcome),
            Call::AddToGroups { groups, filter } => {
                for connection in self.matching(filter.as_ref()) {
                    groups.iter().for_each(|group| self.join(&connection, group, outcome));
                }
            }
            Call::RemoveFromGroups { groups, filter } => {
                for connection in self.matching(filter.as_ref()) {
                    groups.iter().for_each(|group| self.leave(&connection, group, outcome));
                }
            }
            Call::Join { connection, group } => self.join(connection, group, outcome),
            Call::Leave { connection, group } => self.leave(connection, group, outcome),
            Call::LeaveAll { connection } => self.leave_all(connection, outcome),
            Call::UserJoin { user, group } => {
                self.of_user(user).iter().for_each(|connection| self.join(connection, group, outcome));
            }
            Call::UserLeave { user, group } => {
                self.of_user(user).iter().for_each(|connection| self.leave(connection, group, outcome));
            }
            Call::UserLeaveAll { user } => {
                self.of_user(user).iter().for_each(|connection| self.leave_all(connection, outcome));
            }
            Call::Grant { connection, permission, group } => {
                if let Some(session) = self.get_mut(connection) {
                    session.permissions.grant(*permission, group.clone());
                }
            }
            Call::Revoke { connection, permission, group } => {
                if let Some(session) = self.get_mut(connection) {
                    session.permissions.revoke(*permission, group.as_ref());
                }
            }
            Call::Exists(_) | Call::Has { .. } | Call::Members { .. } => {}
        }
    }

    /// Does something with each session in the scope.
    fn each<'a>(&'a self, scope: &Scope, mut does: impl FnMut(&'a Session)) {
        match scope {
            Scope::All => self.clients().for_each(does),
            Scope::Group(group) => {
                let members = self.groups.get(group).into_iter().flat_map(BTreeMap::values);
                members.filter_map(|key| self.sessions.get(*key)).for_each(does);
            }
            Scope::User(user) => {
                let keys = self.by_user.get(user).into_iter().flatten();
                keys.filter_map(|key| self.sessions.get(*key)).for_each(does);
            }
            Scope::Connection(connection) => {
                if let Some(session) = self.get(connection) {
                    does(session);
                }
            }
        }
    }

    fn close(&self, who: &Scope, exclude: &[ConnectionId], reason: &str, outcome: &mut Outcome) {
        self.each(who, |session| {
            if !exclude.contains(&session.connection) {
                outcome.ended.push((session.connection.clone(), reason.to_owned()));
            }
        });
    }

    fn matching(&self, filter: Option<&Filter>) -> Vec<ConnectionId> {
        let matches = |session: &&Session| filter.is_none_or(|filter| filter.matches(*session));
        self.clients().filter(matches).map(|session| session.connection.clone()).collect()
    }

    fn of_user(&self, user: &UserId) -> Vec<ConnectionId> {
        let mut found = Vec::new();
        self.each(&Scope::User(user.clone()), |session| found.push(session.connection.clone()));
        found
    }

    fn join(&mut self, connection: &ConnectionId, group: &GroupName, outcome: &mut Outcome) {
        let Some(key) = self.by_connection.get(connection).copied() else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.groups.insert(group.clone()) {
            self.groups.entry(group.clone()).or_default().insert(connection.clone(), key);
            if self.notes_groups {
                outcome.groups.push((connection.clone(), group.clone(), true));
            }
        }
    }

    fn leave(&mut self, connection: &ConnectionId, group: &GroupName, outcome: &mut Outcome) {
        let Some(session) = self.get_mut(connection) else { return };
        if session.groups.remove(group) {
            self.forget_member(group, connection);
            if self.notes_groups {
                outcome.groups.push((connection.clone(), group.clone(), false));
            }
        }
        // It may have watched without being a member.
        outcome.left.push((connection.clone(), group.clone()));
    }

    fn leave_all(&mut self, connection: &ConnectionId, outcome: &mut Outcome) {
        let Some(session) = self.get_mut(connection) else { return };
        for group in std::mem::take(&mut session.groups) {
            self.forget_member(&group, connection);
            if self.notes_groups {
                outcome.groups.push((connection.clone(), group.clone(), false));
            }
            outcome.left.push((connection.clone(), group));
        }
    }

    /// Whether the call is about a reliable session, so that the other region must know of it.
    pub(super) fn concerns_reliable(&self, call: &Call) -> bool {
        match call.connection() {
            Some(connection) => self.get(connection).is_some_and(|session| session.protocol.is_reliable()),
            None => self.reliable > 0,
        }
    }

    /// The answer to a question, or whether what an order is about is here.
    pub(super) fn answer(&self, call: &Call) -> Answer {
        let found = |found: bool| if found { Answer::Done } else { Answer::NotFound };
        let yes = |yes: bool| if yes { Answer::Yes } else { Answer::No };
        match call {
            Call::Exists(scope) => yes(self.has(scope)),
            Call::Has { connection, permission, group } => yes(self
                .get(connection)
                .is_some_and(|session| session.permissions.has(*permission, group.as_ref()))),
            Call::Members { group, after, limit } => {
                Answer::Members(self.members(group, after.as_ref(), *limit))
            }
            Call::Join { connection, .. } | Call::Grant { connection, .. } => {
                found(self.get(connection).is_some())
            }
            Call::UserJoin { user, .. } => found(self.by_user.contains_key(user)),
            _ => Answer::Done,
        }
    }

    fn has(&self, scope: &Scope) -> bool {
        match scope {
            Scope::All => self.len() > 0,
            Scope::Group(group) => self.groups.contains_key(group),
            Scope::User(user) => self.by_user.contains_key(user),
            Scope::Connection(connection) => self.by_connection.contains_key(connection),
        }
    }

    fn members(&self, group: &GroupName, after: Option<&ConnectionId>, limit: usize) -> Vec<Member> {
        use std::ops::Bound::{Excluded, Unbounded};
        let Some(members) = self.groups.get(group) else { return Vec::new() };
        let from = after.map_or(Unbounded, Excluded);
        let keys = members.range::<ConnectionId, _>((from, Unbounded)).map(|(_, key)| *key);
        let sessions = keys.filter_map(|key| self.sessions.get(key)).take(limit);
        sessions
            .map(|session| Member { connection: session.connection.clone(), user: session.user.clone() })
            .collect()
    }
}

/// A message on its way to those whom it is for.
pub(super) struct Sent<'a> {
    pub(super) message: &'a Arc<Message>,
    pub(super) exclude: &'a [ConnectionId],
    pub(super) filter: Option<&'a Filter>,
    pub(super) recorded: Position,
}

impl Sent<'_> {
    fn to(&self, session: &Session, outcome: &mut Outcome) {
        if self.exclude.contains(&session.connection)
            || !self.message.concerns(session.protocol)
            || self.filter.is_some_and(|filter| !filter.matches(session))
        {
            return;
        }
        let patient = session.away_since.is_none();
        if session.outbox.push(self.message, patient, self.recorded).is_err() {
            outcome.too_slow.push(session.connection.clone());
        }
    }
}

/// Whether a session is one of those that a call sends to: for one session that changes hands.
pub(super) fn is_for(session: &Session, call: &Call) -> bool {
    let Call::Send { to, message, exclude, filter } = call else { return false };
    let in_scope = match to {
        Scope::All => true,
        Scope::Group(group) => session.groups.contains(group),
        Scope::User(user) => session.user.as_ref() == Some(user),
        Scope::Connection(connection) => session.connection == *connection,
    };
    in_scope
        && message.concerns(session.protocol)
        && !exclude.contains(&session.connection)
        && filter.as_ref().is_none_or(|filter| filter.matches(session))
}
