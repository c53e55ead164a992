//! One simulated device: asks where its hub is, connects, says something under a new message id all the time, and sends again on
//! the next connection what was not acknowledged on the last.
//!
//! With that it sends the newest message that was acknowledged, as a device does whose acknowledgement got lost: the hub must
//! store it once.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rmqtt_codec::v3::ConnectAckReason;
use tokio::time::{MissedTickBehavior, interval};

use super::client::{Gone, Identity, Link, NotLetIn};
use super::place::Place;
use crate::demo::way::Way;

/// Between two messages of a device: all of them together send 400 a second.
const PACE: Duration = Duration::from_millis(500);
/// Between two attempts, and at most as much again by chance.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(250);
/// Messages that a device sends without an acknowledgement before it waits.
const WINDOW: usize = 16;

/// What all devices need.
#[derive(Debug)]
pub(super) struct Grounds {
    pub(super) way: Way,
    pub(super) tls: Arc<rustls::ClientConfig>,
    /// Nothing new is said from now on; what is not acknowledged is sent again all the same.
    pub(super) is_quiet: AtomicBool,
}

/// A device, as it is known from outside.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) who: Identity,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    /// Messages 1 to this were sent.
    pub(super) sent: u64,
    /// Messages 1 to this were acknowledged: acknowledgements come in the order of what was sent.
    pub(super) acknowledged: u64,
    /// Acknowledgements of what had been acknowledged before.
    pub(super) again: u64,
    /// The region that it is connected to.
    pub(super) at: Option<String>,
    /// Its way between the regions: when each first acknowledged something after another had, and which.
    pub(super) heard: Vec<(Instant, String)>,
    /// When it was last told that it may not come in.
    pub(super) refused: Option<Instant>,
}

impl Device {
    pub(super) fn new(who: Identity) -> Self {
        Self { who, known: Mutex::default() }
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of its message of this number.
    pub(super) fn message_id(&self, number: u64) -> String {
        format!("{}-{number}", self.who.id)
    }

    /// From the first connection to the end of the act, when it is aborted.
    pub(super) async fn live(self: Arc<Self>, grounds: Arc<Grounds>) {
        let mut concierge = grounds.way.known();
        loop {
            if let Some(place) = grounds.way.ask(&mut concierge).await.as_ref().and_then(Place::read) {
                match Link::open(&self.who, place.mqtt, &grounds.tls).await {
                    Ok(link) => {
                        self.known().at = Some(place.region.clone());
                        let Err(Gone) = self.talk(link, &place.region, &grounds.is_quiet).await;
                        self.known().at = None;
                    }
                    Err(refused) => self.note(&refused),
                }
            }
            tokio::time::sleep(BETWEEN_ATTEMPTS.mul_f64(1.0 + rand::random::<f64>())).await;
        }
    }

    fn note(&self, refused: &NotLetIn) {
        if let NotLetIn::Refused(ConnectAckReason::NotAuthorized | ConnectAckReason::BadUserNameOrPassword) =
            refused
        {
            self.known().refused = Some(Instant::now());
        }
    }

    /// One connection, until it is over.
    async fn talk(
        &self,
        mut link: Link,
        region: &str,
        is_quiet: &AtomicBool,
    ) -> Result<std::convert::Infallible, Gone> {
        let mut flying = VecDeque::new();
        let (from, to) = {
            let known = self.known();
            (known.acknowledged.max(1), known.sent)
        };
        for number in from..=to {
            flying.push_back((self.say(&mut link, number).await?, number));
        }
        let mut due = interval(PACE);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                packet = link.acknowledged() => self.hear(packet?, &mut flying, region)?,
                _ = due.tick() => {
                    if flying.len() < WINDOW && !is_quiet.load(Ordering::SeqCst) {
                        let number = self.known().sent + 1;
                        // It counts as sent before it is: whether a broken connection took it, nobody knows.
                        self.known().sent = number;
                        flying.push_back((self.say(&mut link, number).await?, number));
                    }
                }
            }
        }
    }

    async fn say(&self, link: &mut Link, number: u64) -> Result<NonZeroU16, Gone> {
        link.publish(&self.message_id(number), format!(r#"{{"number":{number}}}"#)).await
    }

    /// An acknowledgement; one that is out of turn ends the connection.
    fn hear(
        &self,
        packet: NonZeroU16,
        flying: &mut VecDeque<(NonZeroU16, u64)>,
        region: &str,
    ) -> Result<(), Gone> {
        let (expected, number) = flying.pop_front().ok_or(Gone)?;
        if expected != packet {
            return Err(Gone);
        }
        let mut known = self.known();
        if number <= known.acknowledged {
            known.again += 1;
        } else {
            known.acknowledged = number;
        }
        let is_first = known.heard.last().is_none_or(|(_, last)| last != region);
        if is_first {
            known.heard.push((Instant::now(), region.to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_again_is_not_counted_twice() {
        let who = Identity { id: "d".into(), host: "h".into(), token: String::new() };
        let device = Device::new(who);
        let packet = |number: u16| NonZeroU16::new(number).unwrap();
        let mut flying: VecDeque<_> = [(packet(2), 1), (packet(3), 2)].into();
        device.hear(packet(2), &mut flying, "paris").unwrap();
        device.hear(packet(3), &mut flying, "paris").unwrap();
        let mut flying: VecDeque<_> = [(packet(2), 2), (packet(3), 3)].into();
        device.hear(packet(2), &mut flying, "oslo").unwrap();
        device.hear(packet(3), &mut flying, "oslo").unwrap();
        let known = device.known();
        assert_eq!((known.acknowledged, known.again, known.heard.len()), (3, 1, 2));
    }

    #[test]
    fn an_acknowledgement_out_of_turn_is_not_believed() {
        let who = Identity { id: "d".into(), host: "h".into(), token: String::new() };
        let device = Device::new(who);
        let packet = |number: u16| NonZeroU16::new(number).unwrap();
        assert!(device.hear(packet(3), &mut [(packet(2), 1)].into(), "paris").is_err());
        assert!(device.hear(packet(2), &mut VecDeque::new(), "paris").is_err());
        assert_eq!(device.known().acknowledged, 0);
    }
}
