//! What connections show of themselves in groups: who is here, who writes, where a cursor is.
//!
//! The board has the states of both regions' connections, so that those who watch a group see all of it wherever they are. Each
//! region tells the other of its own connections; a connection that is lost or leaves the group shows nothing any more.
//!
//! Must always hold: only members of a group show something in it; whoever watches a group has had a snapshot of it, then every
//! change, in order, and a new snapshot when it comes back; what is held is bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use farshore_core::moment::Moment;

use super::record::Record;
use super::{Asked, Done, Hub};
use crate::frames::{self, Downstream, GroupStateItem, Protocol};
use crate::names::{ConnectionId, GroupName};
use crate::permission::Permission;

/// Bytes of one state. It is for what changes often and is told to all: names and cursors, not documents.
pub const STATE_BYTES_MAX: usize = 4 * 1024;
/// Groups in which one connection may show something, and groups that it may watch.
pub const GROUPS_MAX: usize = 64;
/// Bytes of all states of one group, roughly: whoever begins to watch it is sent as much.
pub const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of states in one frame: a large group is told in several.
const FRAME_BYTES: usize = 256 * 1024;
/// What a state costs beside its own bytes: the ids of its connection and user.
const ITEM_BYTES: usize = 256;

/// What a region tells the other of its board.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BoardCard {
    /// What its connections show.
    pub items: Vec<(GroupName, GroupStateItem)>,
    /// Which groups its reliable clients watch.
    pub watches: Vec<(ConnectionId, GroupName)>,
}

impl BoardCard {
    /// Whether nobody shows or watches anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.watches.is_empty()
    }

    /// Takes about so many bytes out; something, if there is anything.
    #[must_use]
    pub fn take(&mut self, bytes: usize) -> Self {
        let (mut taken, mut room) = (Self::default(), bytes);
        while room > 0 {
            if let Some((group, item)) = self.items.pop() {
                room = room.saturating_sub(weight(&item) + group.as_str().len());
                taken.items.push((group, item));
            } else if let Some((connection, group)) = self.watches.pop() {
                room = room.saturating_sub(ITEM_BYTES + group.as_str().len());
                taken.watches.push((connection, group));
            } else {
                break;
            }
        }
        taken
    }

    /// Puts another's in.
    pub fn extend(&mut self, other: Self) {
        self.items.extend(other.items);
        self.watches.extend(other.watches);
    }
}

/// What both regions' connections show, and who watches.
#[derive(Debug, Default)]
pub(super) struct Board {
    groups: HashMap<GroupName, Wall>,
    connections: HashMap<ConnectionId, Part>,
}

/// One group.
#[derive(Debug, Default)]
struct Wall {
    items: BTreeMap<ConnectionId, GroupStateItem>,
    bytes: usize,
    /// Whether each has had its first snapshot.
    watchers: BTreeMap<ConnectionId, bool>,
}

/// One connection.
#[derive(Debug, Default)]
struct Part {
    mine: bool,
    shows: BTreeSet<GroupName>,
    watches: BTreeSet<GroupName>,
}

impl Part {
    fn is_empty(&self) -> bool {
        self.shows.is_empty() && self.watches.is_empty()
    }
}

impl Board {
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Why a connection of this region may not show this; nothing, if it may.
    fn refuses(&self, group: &GroupName, item: &GroupStateItem) -> Option<String> {
        let Some(state) = &item.state else { return None };
        if state.len() > STATE_BYTES_MAX {
            return Some(format!("the state has {} bytes: {STATE_BYTES_MAX} at most", state.len()));
        }
        let part = self.connections.get(&item.connection);
        if part.is_some_and(|part| part.shows.len() >= GROUPS_MAX && !part.shows.contains(group)) {
            return Some(format!("this connection has a state in {GROUPS_MAX} groups already"));
        }
        let wall = self.groups.get(group)?;
        let replaced = wall.items.get(&item.connection).map_or(0, weight);
        if wall.bytes - replaced + weight(item) > GROUP_BYTES_MAX {
            return Some(format!("the states of this group have {GROUP_BYTES_MAX} bytes already"));
        }
        None
    }

    /// Puts an item up, or takes it away. False: there was nothing to take away.
    fn put(&mut self, mine: bool, group: &GroupName, item: GroupStateItem) -> bool {
        let connection = item.connection.clone();
        let wall = self.groups.entry(group.clone()).or_default();
        let part = self.connections.entry(connection.clone()).or_default();
        part.mine = mine;
        let (shows, added) = (item.state.is_some(), weight(&item));
        let before = if shows {
            part.shows.insert(group.clone());
            wall.bytes += added;
            wall.items.insert(connection.clone(), item)
        } else {
            part.shows.remove(group);
            wall.items.remove(&connection)
        };
        wall.bytes -= before.as_ref().map_or(0, weight);
        self.tidy(&connection, group);
        shows || before.is_some()
    }

    fn watch(&mut self, mine: bool, connection: &ConnectionId, group: &GroupName) {
        self.groups.entry(group.clone()).or_default().watchers.entry(connection.clone()).or_insert(false);
        let part = self.connections.entry(connection.clone()).or_default();
        part.mine = mine;
        part.watches.insert(group.clone());
    }

    fn unwatch(&mut self, connection: &ConnectionId, group: &GroupName) -> bool {
        let Some(part) = self.connections.get_mut(connection) else { return false };
        let watched = part.watches.remove(group);
        if let Some(wall) = self.groups.get_mut(group) {
            wall.watchers.remove(connection);
        }
        self.tidy(connection, group);
        watched
    }

    fn tidy(&mut self, connection: &ConnectionId, group: &GroupName) {
        if self.groups.get(group).is_some_and(|wall| wall.items.is_empty() && wall.watchers.is_empty()) {
            self.groups.remove(group);
        }
        if self.connections.get(connection).is_some_and(Part::is_empty) {
            self.connections.remove(connection);
        }
    }

    fn shows(&self, connection: &ConnectionId) -> Vec<GroupName> {
        self.connections.get(connection).map(|part| part.shows.iter().cloned().collect()).unwrap_or_default()
    }

    fn watched_by(&self, connection: &ConnectionId) -> Vec<GroupName> {
        self.connections
            .get(connection)
            .map(|part| part.watches.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The connection is another region's now.
    pub(super) fn moved(&mut self, connection: &ConnectionId, mine: bool) {
        if let Some(part) = self.connections.get_mut(connection) {
            part.mine = mine;
        }
    }

    /// Those who are told of changes of a group.
    fn watchers(&self, group: &GroupName) -> impl Iterator<Item = &ConnectionId> {
        let watchers = self.groups.get(group).into_iter().flat_map(|wall| &wall.watchers);
        watchers.filter(|(_, begun)| **begun).map(|(connection, _)| connection)
    }

    /// Takes away everything of the other region's connections. Returns the groups that changed by it.
    fn drop_theirs(&mut self) -> BTreeSet<GroupName> {
        let theirs: Vec<ConnectionId> =
            self.connections.iter().filter(|(_, part)| !part.mine).map(|(id, _)| id.clone()).collect();
        let mut changed = BTreeSet::new();
        for connection in theirs {
            changed.extend(self.shows(&connection));
            self.forget(&connection);
        }
        changed
    }

    fn forget(&mut self, connection: &ConnectionId) {
        for group in self.watched_by(connection) {
            self.unwatch(connection, &group);
        }
        for group in self.shows(connection) {
            let gone = GroupStateItem {
                connection: connection.clone(),
                user: None,
                state: None,
                updated_at: Moment(0),
            };
            self.put(true, &group, gone);
        }
    }

    /// What this region's connections show and watch.
    pub(super) fn card(&self, is_reliable: impl Fn(&ConnectionId) -> bool) -> BoardCard {
        let mut card = BoardCard::default();
        for (connection, part) in self.connections.iter().filter(|(_, part)| part.mine) {
            for group in &part.shows {
                let item = self.groups.get(group).and_then(|wall| wall.items.get(connection));
                card.items.extend(item.map(|item| (group.clone(), item.clone())));
            }
            if is_reliable(connection) {
                card.watches.extend(part.watches.iter().map(|group| (connection.clone(), group.clone())));
            }
        }
        card
    }

    /// Frames that tell a whole group: a snapshot, and if it is large the rest as updates. Only clients that speak JSON, reliable
    /// or not, have words to ask for it.
    fn frames(&self, group: &GroupName) -> Vec<Bytes> {
        let items: Vec<GroupStateItem> =
            self.groups.get(group).map(|wall| wall.items.values().cloned().collect()).unwrap_or_default();
        let mut frames = Vec::new();
        let mut rest = items.as_slice();
        loop {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|item| {
                bytes += weight(item);
                bytes <= FRAME_BYTES
            });
            let (now, later) = rest.split_at(fits.count().max(1).min(rest.len()));
            let says = if frames.is_empty() {
                Downstream::GroupStateSnapshot { group, items: now }
            } else {
                Downstream::GroupStateUpdate { group, items: now }
            };
            frames.push(frames::control(Protocol::Json, &says));
            if later.is_empty() {
                return frames;
            }
            rest = later;
        }
    }
}

fn weight(item: &GroupStateItem) -> usize {
    ITEM_BYTES + item.state.as_ref().map_or(0, Bytes::len)
}

impl Hub {
    /// A client shows something in a group, or nothing any more.
    pub fn set_group_state(
        &mut self,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        group: &GroupName,
        state: Option<Bytes>,
        now: Moment,
    ) -> Done<Asked> {
        let refused = |value| Done { value, position: None, ended: Vec::new() };
        let Some(session) = self.mine.get(connection) else { return refused(Asked::Forbidden) };
        if ack_id.is_some_and(|ack_id| session.has_done(ack_id)) {
            return refused(Asked::Duplicate);
        }
        let may = session.permissions.may(Permission::SendToGroup, group);
        if !may || !session.groups.contains(group) {
            return refused(Asked::Forbidden);
        }
        let user = session.user.clone();
        let item = GroupStateItem { connection: connection.clone(), user, state, updated_at: now };
        if let Some(why) = self.board.refuses(group, &item) {
            return refused(Asked::BadRequest(why));
        }
        let position = self.show(group, item);
        let position = self.handled(connection, ack_id, None).or(position);
        Done { value: Asked::Done, position, ended: Vec::new() }
    }

    /// A client wants to be told what a group shows. Once this is safe and acknowledged: [`Hub::begin_watching`].
    pub fn watch_group_state(
        &mut self,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        group: &GroupName,
    ) -> Done<Asked> {
        let refused = |value| Done { value, position: None, ended: Vec::new() };
        let Some(session) = self.mine.get(connection) else { return refused(Asked::Forbidden) };
        if ack_id.is_some_and(|ack_id| session.has_done(ack_id)) {
            return refused(Asked::Duplicate);
        }
        let may = session.permissions.may(Permission::JoinLeaveGroup, group);
        if !may && !session.groups.contains(group) {
            return refused(Asked::Forbidden);
        }
        let part = self.board.connections.get(connection);
        if part.is_some_and(|part| part.watches.len() >= GROUPS_MAX && !part.watches.contains(group)) {
            return refused(Asked::BadRequest(format!(
                "this connection watches {GROUPS_MAX} groups already"
            )));
        }
        self.board.watch(true, connection, group);
        let position = self.log_watch(connection, group, true);
        let position = self.handled(connection, ack_id, None).or(position);
        Done { value: Asked::Done, position, ended: Vec::new() }
    }

    /// The client is told what the group shows, and from here on each change.
    pub fn begin_watching(&mut self, connection: &ConnectionId, group: &GroupName) {
        let begun = self.board.groups.get_mut(group).and_then(|wall| wall.watchers.get_mut(connection));
        let (Some(begun), Some(session)) = (begun, self.mine.get(connection)) else { return };
        *begun = true;
        for frame in self.board.frames(group) {
            session.outbox.frame(frame);
        }
    }

    /// A client is told no longer.
    pub fn unwatch_group_state(
        &mut self,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        group: &GroupName,
    ) -> Done<Asked> {
        let has_done = ack_id.is_some_and(|ack_id| self.has_done(connection, ack_id));
        if has_done {
            return Done { value: Asked::Duplicate, position: None, ended: Vec::new() };
        }
        let was = self.board.unwatch(connection, group);
        let position = if was { self.log_watch(connection, group, false) } else { None };
        let position = self.handled(connection, ack_id, None).or(position);
        Done { value: Asked::Done, position, ended: Vec::new() }
    }

    fn log_watch(
        &mut self,
        connection: &ConnectionId,
        group: &GroupName,
        watches: bool,
    ) -> Option<super::Position> {
        let record = Record::Watches { connection: connection.clone(), group: group.clone(), watches };
        self.mine.get(connection)?.protocol.is_reliable().then(|| self.log.push(record))
    }

    /// A connection of this region shows this: to those who watch, here and there.
    fn show(&mut self, group: &GroupName, item: GroupStateItem) -> Option<super::Position> {
        if !self.board.put(true, group, item.clone()) {
            return None;
        }
        self.tell_watchers(group, &item);
        Some(self.log.push(Record::Shown { group: group.clone(), item }))
    }

    fn tell_watchers(&self, group: &GroupName, item: &GroupStateItem) {
        let mut frame: Option<Bytes> = None;
        for session in self.board.watchers(group).filter_map(|connection| self.mine.get(connection)) {
            let says = Downstream::GroupStateUpdate { group, items: std::slice::from_ref(item) };
            let frame = frame.get_or_insert_with(|| frames::control(Protocol::Json, &says));
            session.outbox.frame(frame.clone());
        }
    }

    /// The connection has left the group: it shows nothing there any more, and watches no longer.
    pub(super) fn left(&mut self, connection: &ConnectionId, group: &GroupName) {
        let Some(part) = self.board.connections.get(connection) else { return };
        let (shows, watches) = (part.shows.contains(group), part.watches.contains(group));
        if watches {
            self.board.unwatch(connection, group);
            self.log_watch(connection, group, false);
        }
        if shows {
            self.wipe(connection, group);
        }
    }

    /// The connection is gone.
    pub(super) fn end_states(&mut self, connection: &ConnectionId) {
        for group in self.board.watched_by(connection) {
            self.board.unwatch(connection, &group);
        }
        for group in self.board.shows(connection) {
            self.wipe(connection, &group);
        }
    }

    fn wipe(&mut self, connection: &ConnectionId, group: &GroupName) {
        let wall = self.board.groups.get(group);
        let user = wall.and_then(|wall| wall.items.get(connection)).and_then(|item| item.user.clone());
        let item =
            GroupStateItem { connection: connection.clone(), user, state: None, updated_at: self.clock };
        self.show(group, item);
    }

    /// The client has come back: what it was told meanwhile is lost.
    pub(super) fn watch_again(&mut self, connection: &ConnectionId) {
        for group in self.board.watched_by(connection) {
            self.begin_watching(connection, &group);
        }
    }

    /// The other region's connection shows this.
    pub(super) fn shown_there(&mut self, group: &GroupName, item: GroupStateItem) {
        // A connection that has come here since is this region's to tell of.
        if self.mine.get(&item.connection).is_none() && self.board.put(false, group, item.clone()) {
            self.tell_watchers(group, &item);
        }
    }

    /// A reliable client of the other region watches, or no longer.
    pub(super) fn watched_there(&mut self, connection: &ConnectionId, group: &GroupName, watches: bool) {
        if self.mine.get(connection).is_some() {
            return;
        }
        if watches {
            self.board.watch(false, connection, group);
        } else {
            self.board.unwatch(connection, group);
        }
    }

    /// What the other region's connections show and watch, in place of what was known of them.
    pub(super) fn take_board(&mut self, card: BoardCard) {
        let mut changed = self.board.drop_theirs();
        for (group, item) in card.items {
            if self.mine.get(&item.connection).is_none() {
                self.board.put(false, &group, item);
                changed.insert(group);
            }
        }
        for (connection, group) in card.watches {
            self.watched_there(&connection, &group, true);
        }
        self.show_anew(&changed);
    }

    /// A session has become this region's: what it shows goes on, where it still may.
    pub(super) fn own_states(&mut self, connection: &ConnectionId) {
        if self.board.is_empty() {
            return;
        }
        self.board.moved(connection, true);
        let groups = self.mine.get(connection).map(|session| session.groups.clone()).unwrap_or_default();
        for group in self.board.shows(connection).iter().filter(|group| !groups.contains(*group)) {
            self.wipe(connection, group);
        }
    }

    /// The other region is lost: what its connections showed that did not come here is gone.
    pub(super) fn drop_their_states(&mut self) {
        let changed = self.board.drop_theirs();
        self.show_anew(&changed);
    }

    fn show_anew(&self, groups: &BTreeSet<GroupName>) {
        for group in groups {
            let watchers: Vec<&Arc<super::Outbox>> = self
                .board
                .watchers(group)
                .filter_map(|connection| self.mine.get(connection))
                .map(|session| &session.outbox)
                .collect();
            if watchers.is_empty() {
                continue;
            }
            for frame in self.board.frames(group) {
                watchers.iter().for_each(|outbox| outbox.frame(frame.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
