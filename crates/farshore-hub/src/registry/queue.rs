//! Messages to devices, and what their senders hear of them.

use std::sync::Arc;

use super::transaction::{Flags, Found, Transaction};
use super::{Registry, RegistryError};
use crate::names::Key;
use crate::record::entry::messages_of;
use crate::record::message::Way;
use crate::record::{Entry, EntryKey, Feedback, Message, Outcome};

/// Messages on their way to one device; as the contract of the SDKs says.
pub const MESSAGES_PENDING_MAX: usize = 50;

/// Why a message was not taken in.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PushError {
    /// Too many are on their way.
    #[error("{0} has 50 messages waiting already: let it connect, or purge its queue")]
    QueueFull(Key),
    /// There is no such device.
    #[error("there is no {0}: create it first")]
    UnknownDevice(Key),
    /// The file.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Registry {
    /// Takes a message in; on return it is on the disk. Sent again with the same id and the same content while it waits, it is not
    /// doubled. Returns the message as it is kept, with its id.
    ///
    /// # Errors
    /// [`PushError`]; the message was not taken.
    pub async fn push_message(&self, device: &Key, message: Message) -> Result<Arc<Message>, PushError> {
        let key = device.clone();
        self.writer.submit(move |txn| txn.push(&key, message)).await?
    }

    /// How many messages are on their way, to all devices. Looks at each of them.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn messages_pending(&self) -> Result<u64, RegistryError> {
        let mut count = 0;
        self.store.read()?.each(b"m", b"n", |_, entry| {
            count += u64::from(pending(&entry).is_some());
            true
        })?;
        Ok(count)
    }

    /// The messages on their way to a device, oldest first.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn messages(&self, key: &Key) -> Result<Vec<Arc<Message>>, RegistryError> {
        let Some(device) = self.get(key)? else { return Ok(Vec::new()) };
        let (start, end) = bounds(key);
        let mut waiting = Vec::new();
        self.store.read()?.each(&start, &end, |_, entry| {
            waiting
                .extend(pending(&entry).filter(|message| message.generation == device.generation).cloned());
            true
        })?;
        waiting.sort_by(|one, two| (one.enqueued, &one.id).cmp(&(two.enqueued, &two.id)));
        Ok(waiting)
    }

    /// Counts that a message was handed out; returns how often it was by now. `None`: it is no longer on its way.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn count_delivery(&self, key: &Key, id: &str) -> Result<Option<u32>, RegistryError> {
        let key = EntryKey::Message(key.clone(), id.to_owned());
        self.writer.submit(move |txn| txn.count_delivery(key)).await
    }

    /// A message's way ends. `false`: it had ended before.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn finish_message(&self, key: &Key, id: &str, outcome: Outcome) -> Result<bool, RegistryError> {
        let key = EntryKey::Message(key.clone(), id.to_owned());
        self.writer.submit(move |txn| txn.finish_message(key, outcome)).await
    }

    /// Ends the way of all messages to a device; returns how many there were.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn purge_messages(&self, key: &Key) -> Result<usize, RegistryError> {
        let key = key.clone();
        self.writer.submit(move |txn| txn.purge(&key)).await
    }

    /// What senders have yet to hear, at most `limit`.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn feedback(&self, limit: usize) -> Result<Vec<Feedback>, RegistryError> {
        let read = self.store.read()?;
        let mut news = Vec::new();
        for bytes in read.with_feedback(limit)? {
            let Some((_, Entry::Message(queued))) = read.entry(&bytes)? else { continue };
            let EntryKey::Message(device, id) = EntryKey::from_bytes(&bytes)? else { continue };
            if let Some(Way::Done { outcome, at, news: Some((message_id, generation)) }) = queued.now() {
                let (message_id, generation) = (message_id.clone(), Arc::clone(generation));
                news.push(Feedback { device, id, message_id, generation, outcome: *outcome, at: *at });
            }
        }
        Ok(news)
    }

    /// The senders have heard of these.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn take_feedback(&self, heard: Vec<(Key, String)>) -> Result<(), RegistryError> {
        let work = move |txn: &mut Transaction<'_>| {
            heard.into_iter().try_for_each(|(key, id)| txn.told(EntryKey::Message(key, id)))
        };
        self.writer.submit(work).await
    }
}

fn bounds(key: &Key) -> (Vec<u8>, Vec<u8>) {
    let start = messages_of(key);
    let mut end = start.clone();
    if let Some(last) = end.last_mut() {
        *last = 1;
    }
    (start, end)
}

fn pending(entry: &Entry) -> Option<&Arc<Message>> {
    match entry {
        Entry::Message(queued) => queued.pending(),
        _ => None,
    }
}

impl Transaction<'_> {
    fn push(
        &mut self,
        key: &Key,
        mut message: Message,
    ) -> Result<Result<Arc<Message>, PushError>, RegistryError> {
        let Some(device) = self.device(key)? else { return Ok(Err(PushError::UnknownDevice(key.clone()))) };
        let (start, end) = bounds(key);
        let mut waiting = 0;
        for (place, entry) in self.range(&start, &end)? {
            let Some(other) = pending(&entry).filter(|other| other.generation == device.generation) else {
                continue;
            };
            if other.expires.is_some_and(|expires| expires < self.now()) {
                self.finish_message(place, Outcome::Expired)?;
                continue;
            }
            if other.message_id().is_some() && other.says_the_same(&message) {
                return Ok(Ok(Arc::clone(other)));
            }
            waiting += 1;
        }
        if waiting >= MESSAGES_PENDING_MAX {
            return Ok(Err(PushError::QueueFull(key.clone())));
        }
        let mark = self.mark();
        let own = format!("{:016x}-{}", mark.stamp.ticks(), mark.region());
        message.id = message.message_id().map_or_else(|| own.clone(), ToOwned::to_owned);
        message.enqueued = self.now();
        message.generation = device.generation;
        message.deliveries = 0;
        let mut found = self.find(EntryKey::Message(key.clone(), message.id.clone()))?;
        if pending(&found.entry).is_some() {
            // Another message of the same id is on its way.
            message.id = own;
            found = self.find(EntryKey::Message(key.clone(), message.id.clone()))?;
        }
        let message = Arc::new(message);
        self.put_way(found, &mark, Way::Pending(Arc::clone(&message)))?;
        Ok(Ok(message))
    }

    fn put_way(
        &mut self,
        mut found: Found,
        mark: &crate::record::Mark,
        way: Way,
    ) -> Result<(), RegistryError> {
        let EntryKey::Message(key, _) = &found.key else { return Ok(()) };
        let key = key.clone();
        let flags = flags(&way);
        if let Entry::Message(queued) = &mut found.entry {
            queued.set(mark, way);
        }
        self.put(&found, &found.entry, flags)?;
        self.tell_of_messages(&key);
        Ok(())
    }

    fn count_delivery(&mut self, key: EntryKey) -> Result<Option<u32>, RegistryError> {
        let found = self.find(key)?;
        let Some(message) = pending(&found.entry) else { return Ok(None) };
        let deliveries = message.deliveries + 1;
        let message = Arc::new(Message { deliveries, ..Message::clone(message) });
        let mark = self.mark();
        self.put_way(found, &mark, Way::Pending(message))?;
        Ok(Some(deliveries))
    }

    fn finish_message(&mut self, key: EntryKey, outcome: Outcome) -> Result<bool, RegistryError> {
        let found = self.find(key)?;
        let Some(message) = pending(&found.entry) else { return Ok(false) };
        let wanted = outcome.concerns(message.ack);
        let news = wanted.then(|| {
            let id = message.message_id().unwrap_or(&message.id).to_owned();
            (id, Arc::clone(&message.generation))
        });
        let at = self.now();
        let mark = self.mark();
        self.put_way(found, &mark, Way::Done { outcome, at, news })?;
        Ok(true)
    }

    /// Ends the way of all messages to a device.
    pub(super) fn purge(&mut self, key: &Key) -> Result<usize, RegistryError> {
        let (start, end) = bounds(key);
        let mut purged = 0;
        for (key, entry) in self.range(&start, &end)? {
            if pending(&entry).is_some() {
                purged += usize::from(self.finish_message(key, Outcome::Purged)?);
            }
        }
        Ok(purged)
    }

    fn told(&mut self, key: EntryKey) -> Result<(), RegistryError> {
        let found = self.find(key)?;
        let Entry::Message(queued) = &found.entry else { return Ok(()) };
        let Some(Way::Done { outcome, at, news: Some(_) }) = queued.now() else { return Ok(()) };
        let way = Way::Done { outcome: *outcome, at: *at, news: None };
        let mark = self.mark();
        self.put_way(found, &mark, way)
    }
}

/// In which lists a message belongs.
pub(super) fn flags(way: &Way) -> Flags {
    let feedback = matches!(way, Way::Done { news: Some(_), .. });
    let grave = matches!(way, Way::Done { news: None, .. });
    Flags { contested: false, grave, feedback }
}
