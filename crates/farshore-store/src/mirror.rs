//! A copy of a part of the store in memory, fed by a watch, that knows how far it may be believed.
//!
//! For reads that must be answered when the store cannot be reached: names, status. What decides reads the store.
//! Read in this order: [`Mirror`] (what callers hold), [`Shared`] (what is known), [`Feeder`] (list, then watch, for
//! ever), [`Prober`] (asks once a second whether the store can still be read).
//!
//! Must always hold: the copy is the state at [`Mirror::revision`], never half of a transaction; [`MirrorState::Live`] is
//! said only within [`PROOF_VALID`] of a linearizable read that succeeded while the watch was followed.

use std::collections::BTreeMap;
use std::mem::Discriminant;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farshore_core::moment::Moment;
use farshore_core::store::{Change, Entry, ReadError, Revision, Store, Watch};
use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// After this long without a proof the copy is called stale.
pub const PROOF_VALID: Duration = Duration::from_secs(3);

/// How often a proof is asked for: two may fail to come before the copy is called stale.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Between two attempts to list or watch a store that does not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How long [`Mirror::reach`] trusts that the watch brings the revision: it brings only revisions with changes of the
/// prefix.
const REACH_PATIENCE: Duration = Duration::from_millis(100);

/// When the store has been ahead for so long, the copy is compared with it: most likely all of that was elsewhere in the
/// store, but a watch that lost something would be found out.
const COMPARE_AFTER: Duration = Duration::from_secs(30);

/// No key starts with it: a list of it is a linearizable read of nothing, and tells the revision.
const NOTHING: &str = "\u{0}";

/// How far the copy may be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorState {
    /// Nothing has been read yet: every answer is "unknown", not "absent".
    Starting {
        /// Since when.
        since: Moment,
        /// What keeps it.
        why: String,
    },
    /// At most [`PROOF_VALID`] behind.
    Live,
    /// The last known values; the store may have others.
    Stale {
        /// When it was last known to be current.
        since: Moment,
        /// What is wrong.
        why: String,
    },
}

/// A copy of all keys that start with a prefix. Clones are the same copy; the last one ends its tasks.
#[derive(Debug, Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
    _tasks: Arc<JoinSet<()>>,
}

impl Mirror {
    /// Starts to follow the keys of `store` that start with `prefix`, on the current runtime; never gives up.
    #[must_use]
    pub fn start(store: Arc<dyn Store>, prefix: &str) -> Self {
        let shared = Arc::new(Shared::new());
        let feeder =
            Feeder { store: Arc::clone(&store), prefix: prefix.to_owned(), shared: Arc::clone(&shared) };
        let prober = Prober { store, shared: Arc::clone(&shared), behind: None };
        let mut tasks = JoinSet::new();
        tasks.spawn(feeder.run());
        tasks.spawn(prober.run());
        Self { shared, _tasks: Arc::new(tasks) }
    }

    /// The last known value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.shared.read().entries.get(key).cloned()
    }

    /// The last known entries whose key starts with `prefix`, sorted by key.
    #[must_use]
    pub fn list(&self, prefix: &str) -> Vec<Entry> {
        let copy = self.shared.read();
        let from = copy.entries.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry.clone()).collect()
    }

    /// The copy is the state at this revision, and no change of its keys is known after it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared.read().revision
    }

    /// How far it may be believed now.
    #[must_use]
    pub fn state(&self) -> MirrorState {
        self.shared.read().state()
    }

    /// Waits until the copy is at `revision` or later; `false` when it is not after `limit`. With the revision of a
    /// commit one reads one's own writes.
    pub async fn reach(&self, revision: Revision, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut changes = self.shared.version.subscribe();
        let mut patience = Some(deadline.min(Instant::now() + REACH_PATIENCE));
        while self.revision() < revision {
            let waited = timeout_at(patience.unwrap_or(deadline), changes.changed()).await;
            match (waited, patience) {
                (Ok(_), _) => {}
                (Err(_), Some(_)) => {
                    patience = None;
                    self.shared.compare.notify_one();
                }
                (Err(_), None) => return self.revision() >= revision,
            }
        }
        true
    }

    /// The next change of values or state after the call: take it before you look, then nothing is missed.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut changes = self.shared.version.subscribe();
        async move {
            if changes.changed().await.is_err() {
                // The mirror is gone: nothing will ever change.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[derive(Debug)]
struct Shared {
    copy: RwLock<Copied>,
    /// Rises with each change of the copy or of its state.
    version: watch::Sender<u64>,
    /// Asks the feeder to list.
    compare: Notify,
}

#[derive(Debug)]
struct Copied {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
    began: Moment,
    /// When the copy was last known to be current.
    proven: Option<(Instant, Moment)>,
    /// Whether a watch is followed from `revision` on.
    following: bool,
    /// The last thing that went wrong since the last proof.
    trouble: Option<String>,
    /// What those who wait were told last. A state can change with time alone: then they hear of it at the next probe.
    told: Option<(Revision, Discriminant<MirrorState>)>,
}

impl Copied {
    fn state(&self) -> MirrorState {
        let why = |otherwise: &str| self.trouble.clone().unwrap_or_else(|| otherwise.to_owned());
        match self.proven {
            None => MirrorState::Starting { since: self.began, why: why("the first list is under way") },
            Some((at, _)) if at.elapsed() < PROOF_VALID => MirrorState::Live,
            Some((_, since)) => MirrorState::Stale { since, why: why("the store does not answer") },
        }
    }

    /// Applies changes that are not in the copy yet.
    fn apply(&mut self, changes: Vec<Change>, known: Revision) {
        for change in changes {
            let revision = revision_of(&change);
            if revision <= known {
                continue;
            }
            self.revision = self.revision.max(revision);
            match change {
                Change::Put(entry) => drop(self.entries.insert(entry.key.clone(), entry)),
                Change::Deleted { key, .. } => drop(self.entries.remove(&key)),
            }
        }
    }
}

impl Shared {
    fn new() -> Self {
        let copy = Copied {
            entries: BTreeMap::new(),
            revision: Revision(0),
            began: now(),
            proven: None,
            following: false,
            trouble: None,
            told: None,
        };
        Self { copy: RwLock::new(copy), version: watch::Sender::new(0), compare: Notify::new() }
    }

    fn read(&self) -> RwLockReadGuard<'_, Copied> {
        self.copy.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, and tells those who wait when anybody could see it.
    fn update(&self, change: impl FnOnce(&mut Copied)) {
        let mut copy: RwLockWriteGuard<'_, _> = self.copy.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut copy);
        let seen = (copy.revision, std::mem::discriminant(&copy.state()));
        let told = copy.told.replace(seen);
        drop(copy);
        if told != Some(seen) {
            self.version.send_modify(|version| *version += 1);
        }
    }

    fn trouble(&self, error: &ReadError) {
        self.update(|copy| copy.trouble = Some(error.to_string()));
    }
}

/// Lists, then follows the watch; again from the start when that ends.
struct Feeder {
    store: Arc<dyn Store>,
    prefix: String,
    shared: Arc<Shared>,
}

impl Feeder {
    async fn run(self) {
        loop {
            let Err(error) = self.feed().await;
            self.shared.update(|copy| copy.following = false);
            self.shared.trouble(&error);
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn feed(&self) -> Result<std::convert::Infallible, ReadError> {
        let mut known = self.list().await?;
        let mut watch = self.store.watch(&self.prefix, known).await?;
        self.shared.update(|copy| copy.following = true);
        loop {
            tokio::select! {
                change = watch.next() => {
                    let mut changes = vec![change?];
                    let ended = drain(&mut *watch, &mut changes, |done| {
                        self.shared.update(|copy| copy.apply(done, known));
                    });
                    self.shared.update(|copy| copy.apply(changes, known));
                    ended?;
                }
                // What the watch brings later and the list knew already is passed over.
                () = self.shared.compare.notified() => known = self.list().await?,
            }
        }
    }

    /// Replaces the copy by what the store has. Returns the revision of that.
    async fn list(&self) -> Result<Revision, ReadError> {
        let sent = (Instant::now(), now());
        let (entries, revision) = self.store.list(&self.prefix).await?;
        self.shared.update(|copy| {
            copy.entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            copy.revision = revision;
            copy.proven = Some(sent);
            copy.trouble = None;
        });
        Ok(revision)
    }
}

/// Takes what the watch has ready, which ends with a whole revision; gives away all but the last revision as it goes.
fn drain(
    watch: &mut dyn Watch,
    changes: &mut Vec<Change>,
    mut done: impl FnMut(Vec<Change>),
) -> Result<(), ReadError> {
    while let Some(next) = watch.next().now_or_never() {
        let next = next?;
        if changes.last().is_some_and(|last| revision_of(last) < revision_of(&next)) {
            done(std::mem::take(changes));
        }
        changes.push(next);
    }
    Ok(())
}

/// Asks the store for a sign of life.
struct Prober {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    /// A revision that the store had and the copy did not, and since when.
    behind: Option<(Instant, Revision)>,
}

impl Prober {
    async fn run(mut self) {
        loop {
            sleep(PROBE_EVERY).await;
            let sent = (Instant::now(), now());
            let following = self.shared.read().following;
            match timeout(PROOF_VALID, self.store.list(NOTHING)).await {
                Ok(Ok((_, head))) => {
                    self.shared.update(|copy| {
                        if following && copy.following {
                            copy.proven = Some(sent);
                            copy.trouble = None;
                        }
                    });
                    self.compare(head);
                }
                Ok(Err(error)) => self.shared.trouble(&error),
                Err(_) => {
                    let why = format!("the store did not answer within {PROOF_VALID:?}");
                    self.shared.trouble(&ReadError::Unavailable(why));
                }
            }
        }
    }

    fn compare(&mut self, head: Revision) {
        let revision = self.shared.read().revision;
        match self.behind {
            Some((_, seen)) if revision >= seen => self.behind = None,
            Some((since, _)) if since.elapsed() >= COMPARE_AFTER => {
                self.behind = None;
                self.shared.compare.notify_one();
            }
            Some(_) => {}
            None if head > revision => self.behind = Some((Instant::now(), head)),
            None => {}
        }
    }
}

fn revision_of(change: &Change) -> Revision {
    match change {
        Change::Put(entry) => entry.revision,
        Change::Deleted { revision, .. } => *revision,
    }
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
