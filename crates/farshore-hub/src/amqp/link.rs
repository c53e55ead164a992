//! One link: how many messages may come over it, and what is put together of their parts.

use std::collections::VecDeque;

use bytes::Bytes;
use fe2o3_amqp_types::definitions::{AmqpError, Error, LinkError};
use fe2o3_amqp_types::performatives::Transfer;

use super::message::{MESSAGE_BYTES_MAX, TOKEN_BYTES_MAX};

/// Messages that a peer may have under way on one link: what a round trip of 50 ms and a group commit can use.
const MESSAGES_CREDIT: u32 = 50;
/// Tokens under way: anybody may put some, so that they must not take much memory.
const TOKENS_CREDIT: u32 = 4;
/// Answers to tokens that wait for the peer to take them; it renews every 45 minutes.
const PARCELS_WAITING_MAX: usize = 16;

/// Where the peer's messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inbox {
    Tokens,
    Devicebound,
}

impl Inbox {
    fn credit(self) -> u32 {
        match self {
            Self::Tokens => TOKENS_CREDIT,
            Self::Devicebound => MESSAGES_CREDIT,
        }
    }

    /// Largest message it takes.
    pub(super) fn bytes_max(self) -> usize {
        match self {
            Self::Tokens => TOKEN_BYTES_MAX,
            Self::Devicebound => MESSAGE_BYTES_MAX,
        }
    }
}

/// Where messages to the peer come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outbox {
    Tokens,
    Feedback,
    /// Nothing ever comes from here: no device uploads files. The official SDK for Node closes the whole connection when one
    /// link is refused, so that a program that asks for these too would not get feedback either.
    Files,
}

/// One end of a link.
#[derive(Debug)]
pub(super) enum Link {
    Incoming(Incoming),
    Outgoing(Outgoing),
    /// This side detached it: whatever comes before the peer's own detach is not for anybody.
    Detached,
}

/// A link on which the peer sends.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) inbox: Inbox,
    /// Tells this link from an earlier one with the same handle.
    pub(super) serial: u64,
    pub(super) delivery_count: u32,
    credit: u32,
    unanswered: u32,
    partial: Option<Delivery>,
}

/// One message, whole.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) id: u32,
    /// The peer does not want to know what becomes of it.
    pub(super) settled: bool,
    pub(super) bytes: Vec<u8>,
    /// It was larger than it may be; its bytes are not kept.
    pub(super) too_large: bool,
}

impl Incoming {
    pub(super) fn new(inbox: Inbox, serial: u64, delivery_count: u32) -> Self {
        Self { inbox, serial, delivery_count, credit: 0, unanswered: 0, partial: None }
    }

    /// Takes one transfer; the message, when it was the last of it.
    ///
    /// # Errors
    /// With which the link is to be detached.
    pub(super) fn transfer(
        &mut self,
        transfer: &Transfer,
        payload: &[u8],
    ) -> Result<Option<Delivery>, Error> {
        let mut delivery = match self.partial.take() {
            Some(begun) if transfer.delivery_id.is_none_or(|id| id == begun.id) => begun,
            Some(begun) => return Err(not_allowed(format!("delivery {} is not whole yet", begun.id))),
            None => self.begin(transfer)?,
        };
        if transfer.aborted {
            return Ok(None);
        }
        // Only the message is refused: an official SDK whose link is detached for it fails the next message too.
        delivery.too_large |= delivery.bytes.len() + payload.len() > self.inbox.bytes_max();
        if delivery.too_large {
            delivery.bytes = Vec::new();
        } else {
            delivery.bytes.extend_from_slice(payload);
        }
        delivery.settled |= transfer.settled.unwrap_or(false);
        if transfer.more {
            self.partial = Some(delivery);
            return Ok(None);
        }
        self.unanswered += 1;
        Ok(Some(delivery))
    }

    fn begin(&mut self, transfer: &Transfer) -> Result<Delivery, Error> {
        let id = transfer
            .delivery_id
            .ok_or_else(|| not_allowed("a transfer begins without delivery-id".to_owned()))?;
        if self.credit == 0 {
            return Err(Error::new(
                LinkError::TransferLimitExceeded,
                "more messages than the link has credit for".to_owned(),
                None,
            ));
        }
        self.credit -= 1;
        self.delivery_count = self.delivery_count.wrapping_add(1);
        Ok(Delivery { id, settled: false, bytes: Vec::new(), too_large: false })
    }

    /// One message was answered.
    pub(super) fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// The credit to tell the peer, when enough of it is used up for that to be worth a frame.
    pub(super) fn refill(&mut self) -> Option<u32> {
        let most = self.inbox.credit();
        let open = most - self.unanswered.min(most);
        if open < self.credit + most / 2 {
            return None;
        }
        self.credit = open;
        Some(open)
    }

    pub(super) fn credit(&self) -> u32 {
        self.credit
    }
}

fn not_allowed(why: String) -> Error {
    Error::new(AmqpError::NotAllowed, why, None)
}

/// A link on which the peer receives.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) outbox: Outbox,
    pub(super) settled: bool,
    pub(super) credit: u32,
    pub(super) delivery_count: u32,
    pub(super) waiting: VecDeque<Parcel>,
}

/// A message on its way to the peer.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) rest: Bytes,
    /// Its delivery, once the first part is sent.
    pub(super) id: Option<u32>,
    /// The lease it answers for, if it is feedback.
    pub(super) lock: Option<String>,
}

impl Outgoing {
    pub(super) fn new(outbox: Outbox, settled: bool) -> Self {
        Self { outbox, settled, credit: 0, delivery_count: 0, waiting: VecDeque::new() }
    }

    /// Puts a message into the queue.
    ///
    /// # Errors
    /// With which the link is to be detached: the peer asks and does not listen.
    pub(super) fn push(&mut self, bytes: Vec<u8>, lock: Option<String>) -> Result<(), Error> {
        if self.waiting.len() == PARCELS_WAITING_MAX {
            let why = format!("{PARCELS_WAITING_MAX} messages wait for credit");
            return Err(Error::new(AmqpError::ResourceLimitExceeded, why, None));
        }
        self.waiting.push_back(Parcel { rest: bytes.into(), id: None, lock });
        Ok(())
    }

    /// What the peer said about how much it wants, which it counts from what it has seen.
    pub(super) fn granted(&mut self, seen: u32, credit: u32) {
        let until = seen.wrapping_add(credit);
        let left = until.wrapping_sub(self.delivery_count);
        // Behind what was sent already: the peer takes credit back.
        self.credit = if left > u32::MAX / 2 { 0 } else { left };
    }

    /// Uses the credit up with nothing, which is what a draining peer asks for.
    pub(super) fn drain(&mut self) {
        self.delivery_count = self.delivery_count.wrapping_add(self.credit);
        self.credit = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(id: Option<u32>, more: bool) -> Transfer {
        Transfer {
            handle: 0.into(),
            delivery_id: id,
            delivery_tag: None,
            message_format: None,
            settled: None,
            more,
            rcv_settle_mode: None,
            state: None,
            resume: false,
            aborted: false,
            batchable: false,
        }
    }

    #[test]
    fn parts_make_a_message() {
        let mut link = Incoming::new(Inbox::Devicebound, 0, 0);
        assert_eq!(link.refill(), Some(MESSAGES_CREDIT));
        assert!(link.transfer(&transfer(Some(7), true), b"ab").unwrap().is_none());
        let whole = link.transfer(&transfer(None, false), b"c").unwrap().unwrap();
        assert_eq!((whole.id, &whole.bytes[..], link.credit()), (7, &b"abc"[..], MESSAGES_CREDIT - 1));
    }

    #[test]
    fn a_peer_cannot_make_it_remember_more_than_it_may() {
        let mut link = Incoming::new(Inbox::Devicebound, 0, 0);
        let early = link.transfer(&transfer(Some(0), false), b"").unwrap_err();
        assert_eq!(early.condition, LinkError::TransferLimitExceeded.into());
        link.refill();
        assert!(link.transfer(&transfer(None, false), b"").is_err());
        let part = vec![0; MESSAGE_BYTES_MAX / 2 + 1];
        assert!(link.transfer(&transfer(Some(0), true), &part).unwrap().is_none());
        assert!(link.transfer(&transfer(None, true), &part).unwrap().is_none());
        let large = link.transfer(&transfer(None, false), b"x").unwrap().unwrap();
        assert_eq!((large.too_large, large.bytes.len()), (true, 0));
        for id in 1..MESSAGES_CREDIT {
            link.transfer(&transfer(Some(id), false), b"").unwrap().unwrap();
        }
        assert!(link.transfer(&transfer(Some(99), false), b"").is_err());
        assert_eq!(link.refill(), None);
        for _ in 0..MESSAGES_CREDIT {
            link.answered();
        }
        assert_eq!(link.refill(), Some(MESSAGES_CREDIT));
    }

    #[test]
    fn credit_is_counted_from_what_the_peer_has_seen() {
        let mut link = Outgoing::new(Outbox::Feedback, false);
        link.delivery_count = 5;
        link.granted(3, 10);
        assert_eq!(link.credit, 8);
        link.granted(3, 1);
        assert_eq!(link.credit, 0);
        link.granted(5, 2);
        link.drain();
        assert_eq!((link.credit, link.delivery_count), (0, 7));
    }
}
