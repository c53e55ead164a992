//! What goes to the other region: confirmations and signs of life first, then records as they are logged.
//!
//! No timer gathers records: what is there goes at once, and while one write is under way more come together.
//!
//! Must always hold: records go without a gap from where the partner is, or from a snapshot; the answer to a claim comes after
//! all records that were logged before it.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::session::{EndReason, LinkState, Replies, SILENCE_MAX, Shared};
use super::snapshot::{self, Split};
use super::wire::{Applied, Frame, FrameWriter, Message, WireError, encode};
use crate::hub::record::{Position, Record};
use crate::live;

/// Between two signs of life.
const PING_EVERY: Duration = Duration::from_millis(250);
/// Records in one turn: confirmations and signs of life go between the turns.
const TURN_BYTES: usize = 256 * 1024;
/// A partner that is heard but answers nothing for so long is stuck. Longer than the silence, because a slow line's buffers
/// lie between a question and its answer.
const UNANSWERED_MAX: Duration = Duration::from_secs(3);

type Said<'a> = Message<Cow<'a, Record>>;

/// Where the records come from.
#[derive(Debug)]
enum Source {
    /// The partner lacks too much: it is given everything.
    Snapshot(Box<Split>),
    /// It has, or is being sent, everything up to here.
    Log(Position),
}

/// One connection's sending side.
pub(super) struct Sender<'a> {
    shared: &'a Shared,
    replies: &'a Replies,
    writer: FrameWriter,
    source: Source,
    logged: watch::Receiver<Position>,
    /// Version of the settings that were sent.
    settings: Option<u64>,
    ping_at: Instant,
    out: Vec<u8>,
}

impl<'a> Sender<'a> {
    /// `applied`: up to where the partner says that it has this region's records.
    pub(super) fn new(
        shared: &'a Shared,
        replies: &'a Replies,
        writer: FrameWriter,
        applied: Option<Applied>,
    ) -> Self {
        let known = applied.filter(|applied| applied.start == shared.start).map(|applied| applied.position);
        let held = known.filter(|position| shared.hub.records_after(*position, 1).is_ok());
        let mut sender = Self {
            shared,
            replies,
            writer,
            source: Source::Log(Position(0)),
            logged: shared.hub.logged(),
            settings: None,
            ping_at: Instant::now(),
            out: Vec::new(),
        };
        match held {
            Some(position) => {
                shared.hub.partner_has(position);
                sender.resume(position);
            }
            None => sender.seed(),
        }
        sender
    }

    fn resume(&mut self, position: Position) {
        self.source = Source::Log(position);
        self.replies.said().sent = Some(position);
        let mut progress = self.shared.progress();
        progress.state = LinkState::Connected;
        progress.note = None;
        progress.confirmed = Some((position, live::now()));
    }

    fn seed(&mut self) {
        // What was promised is in none of the records that follow: nobody waits until the partner has the snapshot.
        self.shared.hub.partner_away();
        let split = Split::new(self.shared.hub.snapshot());
        self.replies.said().floor = split.position();
        self.source = Source::Snapshot(Box::new(split));
        self.shared.progress().state = LinkState::Seeding;
    }

    pub(super) async fn run(&mut self) -> EndReason {
        loop {
            let turn = self.gather();
            let turn = match turn {
                Ok(()) if self.out.is_empty() => {
                    self.wait().await;
                    self.check_answers()
                }
                Ok(()) => self.flush().await,
                Err(error) => Err(error),
            };
            if let Err(reason) = turn {
                return reason;
            }
        }
    }

    async fn flush(&mut self) -> Result<(), EndReason> {
        self.shared.moved.fetch_add(self.out.len() as u64, Ordering::Relaxed);
        self.writer.write(&self.out, SILENCE_MAX).await?;
        self.out.clear();
        // A snapshot's part may be large; most turns are small.
        self.out.shrink_to(2 * TURN_BYTES);
        self.check_answers()
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.logged.changed() => {}
            () = self.shared.wake.notified() => {}
            () = sleep_until(self.ping_at) => {}
        }
    }

    fn check_answers(&self) -> Result<(), EndReason> {
        match self.replies.said().asked {
            Some(since) if since.elapsed() > UNANSWERED_MAX => Err(EndReason::Unanswered(UNANSWERED_MAX)),
            _ => Ok(()),
        }
    }

    /// Puts one turn's frames together.
    fn gather(&mut self) -> Result<(), EndReason> {
        self.answers()?;
        self.settings()?;
        for connection in self.shared.claims.unsent() {
            self.say(Message::Claim(connection))?;
        }
        self.records()?;
        self.late_answers()?;
        if self.ping_at <= Instant::now() {
            self.say(Message::Ping)?;
            self.ping_at = Instant::now() + PING_EVERY;
            self.replies.said().asked.get_or_insert(Instant::now());
        }
        Ok(())
    }

    fn say(&mut self, message: Said<'_>) -> Result<(), WireError> {
        encode(&Frame { token: self.shared.fence.highest(), message }, &mut self.out)
    }

    fn answers(&mut self) -> Result<(), WireError> {
        let (has, pongs) = {
            let mut said = self.replies.said();
            (said.has.take(), std::mem::take(&mut said.pongs))
        };
        if let Some(has) = has {
            self.say(Message::Has(has))?;
        }
        if pongs > 0 {
            self.say(Message::Pong)?;
        }
        Ok(())
    }

    fn settings(&mut self) -> Result<(), WireError> {
        let settings = self.shared.hub.settings();
        if self.settings == Some(settings.version) {
            return Ok(());
        }
        self.settings = Some(settings.version);
        let text = serde_json::to_vec(&*settings).map_err(|error| WireError::Rubbish(error.to_string()))?;
        self.say(Message::Settings(text))
    }

    fn records(&mut self) -> Result<(), WireError> {
        // Marked before they are looked at, so that what comes meanwhile wakes the next turn.
        self.logged.mark_unchanged();
        let position = match &mut self.source {
            Source::Log(position) => *position,
            Source::Snapshot(split) => {
                let position = split.position();
                let Some(said) = split.next() else { return Ok(()) };
                if matches!(said, Message::End) {
                    self.source = Source::Log(position);
                    self.replies.said().sent = Some(position);
                    self.shared.wake.notify_one();
                }
                return self.say(said);
            }
        };
        let Ok(found) = self.shared.hub.records_after(position, TURN_BYTES) else {
            self.seed();
            self.shared.wake.notify_one();
            return Ok(());
        };
        let (Some((first, _)), Some((last, _))) = (found.first(), found.last()) else { return Ok(()) };
        let (first, last) = (*first, *last);
        let records = found.iter().map(|(_, record)| sendable(record)).collect();
        self.say(Message::Records { first, records })?;
        self.source = Source::Log(last);
        let mut said = self.replies.said();
        said.sent = Some(last);
        said.asked.get_or_insert(Instant::now());
        Ok(())
    }

    /// Answers to claims, once all records that were logged before them are out.
    fn late_answers(&mut self) -> Result<(), WireError> {
        let Source::Log(sent) = self.source else { return Ok(()) };
        let due: Vec<_> = {
            let mut said = self.replies.said();
            said.not_mine.extract_if(.., |(after, _)| *after <= sent).collect()
        };
        due.into_iter().try_for_each(|(_, connection)| self.say(Message::NotMine(connection)))
    }
}

/// A session that cannot be copied is not there, to the partner.
fn sendable(record: &Record) -> Cow<'_, Record> {
    match record {
        Record::Opened(card) if !snapshot::fits(card) => Cow::Owned(Record::Closed(card.connection.clone())),
        record => Cow::Borrowed(record),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use farshore_core::ids::{Epoch, Region, Token};
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::super::fence::Fence;
    use super::super::receiver::Receiver;
    use super::super::tests::settings;
    use super::super::wire::halves;
    use super::*;
    use crate::handler::Handlers;
    use crate::live::LiveHub;

    #[tokio::test]
    async fn a_word_about_records_that_came_before_a_snapshot_makes_nobody_wait_for_it() {
        let hub = LiveHub::new(settings(1), Handlers::new(), true);
        let region = |name| Region::parse(name).unwrap();
        let fence = Fence::new(Token::new(1, Epoch(1)));
        let shared = Shared::new(Arc::clone(&hub), region("paris"), region("oslo"), fence);
        let replies = Replies::default();
        let (near, mut far) = duplex(1024);
        let (reader, writer) = halves(near);
        let has = Applied { start: shared.start, position: Position(0) };
        let mut sender = Sender::new(&shared, &replies, writer, Some(has));
        hub.with(|hub| hub.fill_log(1));
        sender.records().unwrap();
        assert!(hub.is_partner_here());
        // More than is held: it has to be sent everything.
        hub.with(|hub| hub.fill_log(300_000));
        sender.records().unwrap();
        assert!(matches!(sender.source, Source::Snapshot(_)) && !hub.is_partner_here());
        let mut late = Vec::new();
        let frame = Frame { token: Token::new(1, Epoch(1)), message: Message::<Record>::Has(Position(1)) };
        encode(&frame, &mut late).unwrap();
        far.write_all(&late).await.unwrap();
        drop(far);
        let reason = Receiver::new(&shared, &replies, reader, 7).run().await;
        assert!(matches!(reason, EndReason::Wire(WireError::Ended)), "{reason}");
        assert!(!hub.is_partner_here(), "publishers would wait for the whole snapshot");
    }
}
