//! One session: its links, and the windows that bound what is under way in it.

use std::collections::BTreeMap;

use bytes::Bytes;
use fe2o3_amqp_types::definitions::{
    AmqpError, Error, ErrorCondition, ReceiverSettleMode, Role, SenderSettleMode, SessionError,
};
use fe2o3_amqp_types::messaging::{DeliveryState, TargetArchetype};
use fe2o3_amqp_types::performatives::{Attach, Begin, Detach, Disposition, Flow, Performative, Transfer};

use super::link::{Delivery, Inbox, Incoming, Link, Outbox, Outgoing};
use super::{Refused, Settled, message, wire};

/// Links of one session; the official SDKs attach five at most.
const LINKS_MAX: u32 = 8;
/// Transfers that may come before the peer is told that more may: whole messages on every link, each in two.
const WINDOW: u32 = 2048;
/// Messages to the peer that it has not settled.
const UNSETTLED_MAX: usize = 64;

/// What a session wants done, in this order.
#[derive(Debug)]
pub(super) enum Said {
    Write(Box<Performative>, Bytes),
    Delivery { handle: u32, inbox: Inbox, serial: u64, delivery: Delivery },
    Settle { lock: String, settled: Settled },
}

/// The state of one session. Handles and channels are the peer's on both sides.
#[derive(Debug)]
pub(super) struct Session {
    incoming_next: u32,
    incoming_left: u32,
    outgoing_next: u32,
    peer_window: u32,
    delivery_next: u32,
    links: BTreeMap<u32, Link>,
    /// Deliveries to the peer, by the link they went over and the lease they answer for.
    unsettled: BTreeMap<u32, (u32, Option<String>)>,
}

impl Session {
    pub(super) fn new(begin: &Begin) -> Self {
        Self {
            incoming_next: begin.next_outgoing_id,
            incoming_left: WINDOW,
            outgoing_next: 0,
            peer_window: begin.incoming_window,
            delivery_next: 0,
            links: BTreeMap::new(),
            unsettled: BTreeMap::new(),
        }
    }

    /// This side's beginning of it.
    pub(super) fn begin(&self, channel: u16) -> Begin {
        Begin {
            remote_channel: Some(channel),
            next_outgoing_id: self.outgoing_next,
            incoming_window: self.incoming_left,
            outgoing_window: WINDOW,
            handle_max: (LINKS_MAX - 1).into(),
            offered_capabilities: None,
            desired_capabilities: None,
            properties: None,
        }
    }

    /// The peer attaches a link.
    ///
    /// # Errors
    /// With which the connection is to be closed.
    pub(super) fn attach(&mut self, attach: Attach, serial: u64, granted: bool) -> Result<Vec<Said>, Error> {
        let handle = attach.handle.0;
        if handle >= LINKS_MAX || self.links.contains_key(&handle) {
            let why = format!("handle {handle} is in use, or above {}", LINKS_MAX - 1);
            return Err(Error::new(SessionError::HandleInUse, why, None));
        }
        let link = match attach.role {
            Role::Sender => inbox(&attach, granted).map(|inbox| {
                let count = attach.initial_delivery_count.unwrap_or(0);
                Link::Incoming(Incoming::new(inbox, serial, count))
            }),
            Role::Receiver => outbox(&attach, granted).map(|outbox| {
                let settled =
                    outbox == Outbox::Tokens && attach.snd_settle_mode != SenderSettleMode::Unsettled;
                Link::Outgoing(Outgoing::new(outbox, settled))
            }),
        };
        let bytes_max = match &link {
            Ok(Link::Incoming(link)) => Some(link.inbox.bytes_max() as u64),
            _ => None,
        };
        let mut said = vec![Said::plain(Performative::Attach(answer(attach, link.is_ok(), bytes_max)))];
        match link {
            Ok(link) => {
                self.links.insert(handle, link);
                said.extend(self.refill(handle).map(|flow| Said::plain(Performative::Flow(flow))));
            }
            Err(refused) => {
                self.links.insert(handle, Link::Detached);
                said.push(closing(handle, Some(message::error(&refused))));
            }
        }
        Ok(said)
    }

    /// Takes what came for a session that exists.
    ///
    /// # Errors
    /// With which the connection is to be closed.
    pub(super) fn take(
        &mut self,
        said: Performative,
        payload: &[u8],
        frame_max: usize,
    ) -> Result<Vec<Said>, Error> {
        match said {
            Performative::Flow(flow) => self.flow(&flow, frame_max),
            Performative::Transfer(transfer) => self.transfer(&transfer, payload),
            Performative::Disposition(disposition) => Ok(self.disposition(&disposition, frame_max)),
            Performative::Detach(detach) => Ok(self.detached(&detach)),
            _ => Err(Error::new(
                AmqpError::NotAllowed,
                "this frame has no place in a session".to_owned(),
                None,
            )),
        }
    }

    /// The link with such messages, when the peer takes one now.
    pub(super) fn wants(&self, outbox: Outbox) -> Option<u32> {
        let free = self.unsettled.len() < UNSETTLED_MAX && self.peer_window > 0;
        self.links.iter().find_map(|(handle, link)| match link {
            Link::Outgoing(it) if free && it.outbox == outbox && it.credit > 0 && it.waiting.is_empty() => {
                Some(*handle)
            }
            _ => None,
        })
    }

    /// The link with such messages.
    pub(super) fn outbox(&self, outbox: Outbox) -> Option<u32> {
        self.links.iter().find_map(|(handle, link)| match link {
            Link::Outgoing(it) if it.outbox == outbox => Some(*handle),
            _ => None,
        })
    }

    /// The links that messages or feedback go over.
    pub(super) fn data_links(&self) -> Vec<u32> {
        let is_data = |link: &Link| match link {
            Link::Incoming(link) => link.inbox == Inbox::Devicebound,
            Link::Outgoing(link) => link.outbox != Outbox::Tokens,
            Link::Detached => false,
        };
        self.links.iter().filter(|(_, link)| is_data(link)).map(|(handle, _)| *handle).collect()
    }

    /// How many leases the peer holds.
    pub(super) fn leases(&self) -> usize {
        self.locks().count()
    }

    /// The leases the peer holds, or will when it takes what waits for it.
    pub(super) fn locks(&self) -> impl Iterator<Item = String> {
        let sent = self.unsettled.values().filter_map(|(_, lock)| lock.clone());
        let waiting = self.links.values().flat_map(|link| match link {
            Link::Outgoing(it) => {
                it.waiting.iter().filter(|it| it.id.is_none()).filter_map(|it| it.lock.clone()).collect()
            }
            _ => Vec::new(),
        });
        sent.chain(waiting)
    }

    /// A message of the link was answered; `false`: that link is gone.
    pub(super) fn answered(&mut self, handle: u32, serial: u64) -> bool {
        match self.links.get_mut(&handle) {
            Some(Link::Incoming(link)) if link.serial == serial => {
                link.answered();
                true
            }
            _ => false,
        }
    }

    /// The flow that lets more come over the link, if that is worth one.
    pub(super) fn refill(&mut self, handle: u32) -> Option<Flow> {
        let Some(Link::Incoming(link)) = self.links.get_mut(&handle) else { return None };
        let credit = link.refill()?;
        let count = link.delivery_count;
        Some(Flow {
            handle: Some(handle.into()),
            delivery_count: Some(count),
            link_credit: Some(credit),
            ..self.window()
        })
    }

    /// Sends a message over the link, now or when the peer takes it.
    ///
    /// # Errors
    /// With which the link is to be detached.
    pub(super) fn post(
        &mut self,
        handle: u32,
        bytes: Vec<u8>,
        lock: Option<String>,
        frame_max: usize,
    ) -> Result<Vec<Said>, Error> {
        if let Some(Link::Outgoing(link)) = self.links.get_mut(&handle) {
            link.push(bytes, lock)?;
        }
        Ok(self.pump(handle, frame_max))
    }

    /// Detaches the link from this side.
    pub(super) fn detach(&mut self, handle: u32, error: Error) -> Vec<Said> {
        let mut said = self.give_back(handle);
        self.links.insert(handle, Link::Detached);
        said.push(closing(handle, Some(error)));
        said
    }

    fn flow(&mut self, flow: &Flow, frame_max: usize) -> Result<Vec<Said>, Error> {
        let until = flow.next_incoming_id.unwrap_or(0).wrapping_add(flow.incoming_window);
        let left = until.wrapping_sub(self.outgoing_next);
        self.peer_window = if left > u32::MAX / 2 { 0 } else { left };
        let mut said = Vec::new();
        if let Some(handle) = &flow.handle {
            match self.links.get_mut(&handle.0) {
                Some(Link::Outgoing(link)) => {
                    link.granted(flow.delivery_count.unwrap_or(0), flow.link_credit.unwrap_or(0))
                }
                Some(Link::Incoming(_) | Link::Detached) => {}
                None => return Err(unattached(handle.0)),
            }
        }
        for handle in self.links.keys().copied().collect::<Vec<_>>() {
            said.extend(self.pump(handle, frame_max));
        }
        if flow.drain || flow.echo {
            let answer = self.echo(flow);
            said.push(Said::plain(Performative::Flow(answer)));
        }
        Ok(said)
    }

    fn echo(&mut self, flow: &Flow) -> Flow {
        let window = self.window();
        let Some(handle) = &flow.handle else { return window };
        let (count, credit) = match self.links.get_mut(&handle.0) {
            Some(Link::Outgoing(link)) => {
                if flow.drain {
                    link.drain();
                }
                (link.delivery_count, link.credit)
            }
            Some(Link::Incoming(link)) => (link.delivery_count, link.credit()),
            _ => return window,
        };
        Flow {
            handle: Some(handle.clone()),
            delivery_count: Some(count),
            link_credit: Some(credit),
            drain: flow.drain,
            ..window
        }
    }

    fn transfer(&mut self, transfer: &Transfer, payload: &[u8]) -> Result<Vec<Said>, Error> {
        if self.incoming_left == 0 {
            let why = "more transfers than the session's window".to_owned();
            return Err(Error::new(SessionError::WindowViolation, why, None));
        }
        self.incoming_left -= 1;
        self.incoming_next = self.incoming_next.wrapping_add(1);
        let handle = transfer.handle.0;
        let mut said = Vec::new();
        match self.links.get_mut(&handle) {
            Some(Link::Incoming(link)) => {
                let (inbox, serial) = (link.inbox, link.serial);
                match link.transfer(transfer, payload) {
                    Ok(whole) => {
                        said.extend(whole.map(|delivery| Said::Delivery { handle, inbox, serial, delivery }))
                    }
                    Err(error) => said.extend(self.detach(handle, error)),
                }
            }
            Some(Link::Detached) => {}
            Some(Link::Outgoing(_)) | None => return Err(unattached(handle)),
        }
        if self.incoming_left < WINDOW / 2 {
            self.incoming_left = WINDOW;
            said.push(Said::plain(Performative::Flow(self.window())));
        }
        Ok(said)
    }

    /// The peer settles what it was sent.
    fn disposition(&mut self, disposition: &Disposition, frame_max: usize) -> Vec<Said> {
        if disposition.role != Role::Receiver {
            return Vec::new();
        }
        let settled = match disposition.state {
            // Not yet a decision.
            Some(DeliveryState::Received(_)) => return Vec::new(),
            Some(DeliveryState::Accepted(_) | DeliveryState::Rejected(_)) => Settled::Completed,
            Some(DeliveryState::Released(_) | DeliveryState::Modified(_)) | None => Settled::Abandoned,
        };
        let (first, last) = (disposition.first, disposition.last.unwrap_or(disposition.first));
        if last < first {
            return Vec::new();
        }
        let ids: Vec<u32> = self.unsettled.range(first..=last).map(|(id, _)| *id).collect();
        let mut said: Vec<Said> = Vec::new();
        for id in ids {
            let lock = self.unsettled.remove(&id).and_then(|(_, lock)| lock);
            said.extend(lock.map(|lock| Said::Settle { lock, settled }));
            if !disposition.settled {
                said.push(Said::plain(Performative::Disposition(settlement(id, disposition.state.clone()))));
            }
        }
        for handle in self.links.keys().copied().collect::<Vec<_>>() {
            said.extend(self.pump(handle, frame_max));
        }
        said
    }

    /// The peer detached the link, or answers that this side did.
    fn detached(&mut self, detach: &Detach) -> Vec<Said> {
        let handle = detach.handle.0;
        let mut said = self.give_back(handle);
        match self.links.remove(&handle) {
            Some(Link::Detached) | None => {}
            Some(_) => {
                let answer = Detach { handle: handle.into(), closed: detach.closed, error: None };
                said.push(Said::plain(Performative::Detach(answer)));
            }
        }
        said
    }

    /// Leases that went over the link are nobody's now.
    fn give_back(&mut self, handle: u32) -> Vec<Said> {
        let mut locks = Vec::new();
        if let Some(Link::Outgoing(link)) = self.links.get_mut(&handle) {
            locks.extend(link.waiting.drain(..).filter(|it| it.id.is_none()).filter_map(|it| it.lock));
        }
        let ids: Vec<u32> =
            self.unsettled.iter().filter(|(_, (over, _))| *over == handle).map(|(id, _)| *id).collect();
        locks.extend(ids.iter().filter_map(|id| self.unsettled.remove(id)?.1));
        locks.into_iter().map(|lock| Said::Settle { lock, settled: Settled::Abandoned }).collect()
    }

    /// Sends what the link's credit and the session's window allow.
    fn pump(&mut self, handle: u32, frame_max: usize) -> Vec<Said> {
        let mut said = Vec::new();
        let Some(Link::Outgoing(link)) = self.links.get_mut(&handle) else { return said };
        while let Some(parcel) = link.waiting.front_mut() {
            let first = parcel.id.is_none();
            if self.peer_window == 0 || (first && (link.credit == 0 || self.unsettled.len() >= UNSETTLED_MAX))
            {
                break;
            }
            let id = *parcel.id.get_or_insert(self.delivery_next);
            if first {
                self.delivery_next = self.delivery_next.wrapping_add(1);
                link.credit -= 1;
                link.delivery_count = link.delivery_count.wrapping_add(1);
                if !link.settled {
                    self.unsettled.insert(id, (handle, parcel.lock.take()));
                }
            }
            let part = parcel.rest.split_to(wire::payload_max(frame_max).min(parcel.rest.len()));
            let more = !parcel.rest.is_empty();
            let transfer = part_of(handle, id, first, link.settled, more);
            said.push(Said::Write(Box::new(Performative::Transfer(transfer)), part));
            self.peer_window -= 1;
            self.outgoing_next = self.outgoing_next.wrapping_add(1);
            if !more {
                link.waiting.pop_front();
            }
        }
        said
    }

    /// The session's own part of a flow.
    fn window(&self) -> Flow {
        Flow {
            next_incoming_id: Some(self.incoming_next),
            incoming_window: self.incoming_left,
            next_outgoing_id: self.outgoing_next,
            outgoing_window: WINDOW,
            handle: None,
            delivery_count: None,
            link_credit: None,
            available: None,
            drain: false,
            echo: false,
            properties: None,
        }
    }
}

impl Said {
    fn plain(performative: Performative) -> Self {
        Self::Write(Box::new(performative), Bytes::new())
    }
}

/// Where messages of the link that is attached would go.
fn inbox(attach: &Attach, granted: bool) -> Result<Inbox, Refused> {
    let target = attach.target.as_deref().map(|TargetArchetype::Target(target)| target);
    let address = target.and_then(|target| target.address.as_deref()).unwrap_or_default();
    match node(address) {
        "$cbs" => Ok(Inbox::Tokens),
        it if it.eq_ignore_ascii_case("messages/devicebound") => with_token(granted, Inbox::Devicebound),
        _ => Err(unknown(address, "$cbs or /messages/devicebound")),
    }
}

/// Where messages for the link that is attached would come from.
fn outbox(attach: &Attach, granted: bool) -> Result<Outbox, Refused> {
    let address = attach.source.as_deref().and_then(|source| source.address.as_deref()).unwrap_or_default();
    match node(address) {
        "$cbs" => Ok(Outbox::Tokens),
        it if it.eq_ignore_ascii_case("messages/serviceBound/feedback") => {
            with_token(granted, Outbox::Feedback)
        }
        it if it.eq_ignore_ascii_case("messages/serviceBound/filenotifications") => {
            with_token(granted, Outbox::Files)
        }
        _ => Err(unknown(address, "$cbs or /messages/serviceBound/feedback")),
    }
}

/// The node an address means: the official SDK for Python writes the whole URL.
fn node(address: &str) -> &str {
    let path = match address.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => address,
    };
    path.trim_matches('/')
}

fn with_token<T>(granted: bool, node: T) -> Result<T, Refused> {
    granted.then_some(node).ok_or_else(|| Refused::Unauthorized("put a token to $cbs first".to_owned()))
}

fn unknown(address: &str, known: &str) -> Refused {
    Refused::NoNode(format!("there is no node {address:?} here; {known} is meant"))
}

/// This side's half of an attachment; without the terminus when it is refused, as the protocol asks.
fn answer(attach: Attach, accepted: bool, max_message_size: Option<u64>) -> Attach {
    let receives = attach.role == Role::Sender;
    Attach {
        role: if receives { Role::Receiver } else { Role::Sender },
        rcv_settle_mode: ReceiverSettleMode::First,
        source: attach.source.filter(|_| accepted || receives),
        target: attach.target.filter(|_| accepted || !receives),
        unsettled: None,
        incomplete_unsettled: false,
        initial_delivery_count: (!receives).then_some(0),
        max_message_size,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
        ..attach
    }
}

fn closing(handle: u32, error: Option<Error>) -> Said {
    Said::plain(Performative::Detach(Detach { handle: handle.into(), closed: true, error }))
}

fn unattached(handle: u32) -> Error {
    let condition: ErrorCondition = SessionError::UnattachedHandle.into();
    Error::new(condition, format!("no link for this is attached with handle {handle}"), None)
}

fn settlement(id: u32, state: Option<DeliveryState>) -> Disposition {
    Disposition { role: Role::Sender, first: id, last: None, settled: true, state, batchable: false }
}

fn part_of(handle: u32, id: u32, first: bool, settled: bool, more: bool) -> Transfer {
    Transfer {
        handle: handle.into(),
        delivery_id: first.then_some(id),
        delivery_tag: first.then(|| id.to_be_bytes().to_vec().into()),
        message_format: first.then_some(0),
        settled: first.then_some(settled),
        more,
        rcv_settle_mode: None,
        state: None,
        resume: false,
        aborted: false,
        batchable: false,
    }
}
