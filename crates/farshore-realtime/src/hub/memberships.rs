//! Who comes into groups and goes, for event handlers that want to know. A session that changes hands stays where it is a member.

use super::crowd::Outcome;
use super::session::Session;
use super::{Hub, Membership};
use crate::names::{ConnectionId, GroupName};

impl Hub {
    /// Whether anybody wants to know.
    pub(crate) fn note_groups(&mut self, wanted: bool) {
        self.mine.notes_groups = wanted;
    }

    /// A client that has just come is a member of these already.
    pub(crate) fn note_first_groups(&mut self, connection: &ConnectionId) {
        if !self.mine.notes_groups {
            return;
        }
        let Some(session) = self.mine.get_mut(connection) else { return };
        let groups: Vec<GroupName> = session.groups.iter().cloned().collect();
        self.memberships.extend(groups.into_iter().map(|group| membership(session, group, true)));
    }

    /// What has happened since it was last asked.
    pub(crate) fn take_memberships(&mut self) -> Vec<Membership> {
        std::mem::take(&mut self.memberships)
    }

    pub(super) fn note_memberships(&mut self, outcome: &mut Outcome) {
        for (connection, group, begins) in outcome.groups.drain(..) {
            let Some(session) = self.mine.get_mut(&connection) else { continue };
            self.memberships.push(membership(session, group, begins));
        }
    }

    /// The session is over: it is a member no longer.
    pub(super) fn note_last_groups(&mut self, session: &mut Session) {
        if !self.mine.notes_groups {
            return;
        }
        for group in std::mem::take(&mut session.groups) {
            self.memberships.push(membership(session, group, false));
        }
    }
}

fn membership(session: &mut Session, group: GroupName, begins: bool) -> Membership {
    session.events += 1;
    Membership {
        connection: session.connection.clone(),
        user: session.user.clone(),
        protocol: session.protocol,
        state: session.state.as_deref().map(str::to_owned),
        event_id: session.events,
        group,
        begins,
    }
}
