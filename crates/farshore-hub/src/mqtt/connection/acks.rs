//! What has come and is not acknowledged yet, in the order it came.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::num::NonZeroU16;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use super::super::behind::NotKept;

/// Most messages of one connection that wait for the disk: two group commits' worth of the fastest sender.
const WAITING_MAX: usize = 4_096;
/// Most bytes of them; one message more is taken, whatever its size.
const BYTES_MAX: usize = 1024 * 1024;

/// Whether a message is durable.
pub(super) type Keeping = BoxFuture<'static, Result<(), NotKept>>;

/// Acknowledgements that are due, once everything before them is. Without memory while nothing waits.
#[derive(Default)]
pub(super) struct Acks {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

struct Waiting {
    /// Nothing is said for quality of service 0.
    packet: Option<NonZeroU16>,
    bytes: usize,
    /// `None`: nothing to wait for but one's turn.
    keeping: Option<Keeping>,
}

impl Acks {
    /// To be acknowledged when `keeping` says so.
    pub(super) fn when(&mut self, packet: Option<NonZeroU16>, bytes: usize, keeping: Keeping) {
        self.bytes += bytes;
        self.waiting.push_back(Waiting { packet, bytes, keeping: Some(keeping) });
    }

    /// To be acknowledged as soon as what came before it is.
    pub(super) fn in_turn(&mut self, packet: Option<NonZeroU16>) {
        if packet.is_some() {
            self.waiting.push_back(Waiting { packet, bytes: 0, keeping: None });
        }
    }

    /// Whether nothing more may be read before something is acknowledged.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX || self.bytes >= BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Everything that is due now, at least one; pending otherwise. `Err`: the message after those before was not kept.
    pub(super) async fn due(&mut self, due: &mut Vec<NonZeroU16>) -> Result<(), NotKept> {
        poll_fn(|cx| self.poll_due(cx, due)).await
    }

    fn poll_due(&mut self, cx: &mut Context<'_>, due: &mut Vec<NonZeroU16>) -> Poll<Result<(), NotKept>> {
        let mut any = false;
        while let Some(first) = self.waiting.front_mut() {
            match first.keeping.as_mut().map(|keeping| keeping.as_mut().poll(cx)) {
                None | Some(Poll::Ready(Ok(()))) => {}
                Some(Poll::Pending) => break,
                // Those before it are told first; asked again, it says the same.
                Some(Poll::Ready(Err(why))) if any => {
                    first.keeping = Some(Box::pin(std::future::ready(Err(why))));
                    break;
                }
                Some(Poll::Ready(Err(why))) => return Poll::Ready(Err(why)),
            }
            due.extend(first.packet);
            self.bytes -= first.bytes;
            self.waiting.pop_front();
            any = true;
        }
        if self.waiting.is_empty() && self.waiting.capacity() > 0 {
            self.waiting = VecDeque::new();
        }
        if any { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn id(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    fn told(told: oneshot::Receiver<Result<(), NotKept>>) -> Keeping {
        Box::pin(async { told.await.unwrap() })
    }

    fn poll(acks: &mut Acks) -> (Poll<Result<(), NotKept>>, Vec<u16>) {
        let mut due = Vec::new();
        let outcome = acks.poll_due(&mut Context::from_waker(std::task::Waker::noop()), &mut due);
        (outcome, due.into_iter().map(NonZeroU16::get).collect())
    }

    #[test]
    fn the_order_is_kept_whatever_is_durable_first() {
        let mut acks = Acks::default();
        let (first, keeping) = oneshot::channel();
        acks.when(Some(id(1)), 10, told(keeping));
        let (second, keeping) = oneshot::channel();
        acks.when(Some(id(2)), 10, told(keeping));
        acks.in_turn(Some(id(3)));
        second.send(Ok(())).unwrap();
        assert_eq!(poll(&mut acks), (Poll::Pending, vec![]));
        first.send(Ok(())).unwrap();
        assert_eq!(poll(&mut acks), (Poll::Ready(Ok(())), vec![1, 2, 3]));
        assert!(acks.is_empty() && acks.bytes == 0);
    }

    #[test]
    fn nothing_after_what_was_not_kept_is_acknowledged() {
        let mut acks = Acks::default();
        acks.in_turn(Some(id(1)));
        acks.when(Some(id(2)), 10, Box::pin(std::future::ready(Err(NotKept::Fenced))));
        acks.in_turn(Some(id(3)));
        assert_eq!(poll(&mut acks), (Poll::Ready(Ok(())), vec![1]));
        assert_eq!(poll(&mut acks), (Poll::Ready(Err(NotKept::Fenced)), vec![]));
    }

    #[test]
    fn there_is_an_end_to_what_may_wait() {
        let mut acks = Acks::default();
        let never = || -> Keeping { Box::pin(std::future::pending()) };
        acks.when(None, BYTES_MAX, never());
        assert!(acks.is_full());
        let mut acks = Acks::default();
        (0..WAITING_MAX).for_each(|_| acks.when(None, 1, never()));
        assert!(acks.is_full());
    }
}
