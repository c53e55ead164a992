//! Which exports there are, and who uses them.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::export::Export;
use super::stream::Stream;

/// How long clients of a removed export have to take their last replies before they are cut off.
const GRACE: Duration = Duration::from_secs(2);

/// The exports of one or more servers, by name. Clones share the same registry.
#[derive(Debug, Clone, Default)]
pub struct Exports {
    names: Arc<Mutex<BTreeMap<String, Named>>>,
}

/// What is behind a name.
#[derive(Debug)]
struct Named {
    /// What new connections get.
    current: Arc<Entry>,
    /// What it replaced, for as long as connections use it.
    earlier: Vec<Arc<Entry>>,
}

impl Exports {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `export` to whoever connects from now on. The empty name is what clients get that ask for none.
    ///
    /// An export that already has the name is replaced: connections made before keep it until they end or the name is
    /// removed, so that a repeated step cuts nobody off.
    pub fn insert(&self, name: &str, export: Arc<dyn Export>) {
        let entry = Arc::new(Entry::new(export));
        let mut names = self.names();
        let Some(named) = names.get_mut(name) else {
            names.insert(name.to_owned(), Named { current: entry, earlier: Vec::new() });
            return;
        };
        let replaced = std::mem::replace(&mut named.current, entry);
        named.earlier.push(replaced);
        named.earlier.retain(|entry| entry.retire());
    }

    /// Stops serving `name`. Requests that are running are finished, later ones are answered `ESHUTDOWN` or find the
    /// connection closed. On return nothing of the server calls the export any more. `false`: no such export.
    ///
    /// Waits for running requests: an export whose requests may wait for a peer must make them fail first. Not to be
    /// called from within a request.
    pub fn remove(&self, name: &str) -> bool {
        let Some(named) = self.names().remove(name) else { return false };
        named.earlier.iter().chain([&named.current]).for_each(|entry| entry.close());
        true
    }

    /// The names, in order.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        self.names().keys().cloned().collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Entry>> {
        self.names().get(name).map(|named| Arc::clone(&named.current))
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, Named>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One export and the connections that use it.
#[derive(Debug)]
pub(super) struct Entry {
    export: Arc<dyn Export>,
    closed: AtomicBool,
    users: Mutex<Users>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Users {
    next: u64,
    retired: bool,
    streams: BTreeMap<u64, Arc<Stream>>,
}

impl Entry {
    fn new(export: Arc<dyn Export>) -> Self {
        Self { export, closed: AtomicBool::new(false), users: Mutex::default(), left: Condvar::new() }
    }

    /// For a look during the handshake; requests need [`Entry::enter`].
    pub(super) fn export(&self) -> &dyn Export {
        &*self.export
    }

    /// Starts using the export over `stream`. `None`: it is being removed.
    pub(super) fn enter(self: &Arc<Self>, stream: &Arc<Stream>) -> Option<Lease> {
        let mut users = self.users();
        // Under the lock, so that `close` either sees this user or stops it here.
        if users.retired || self.closed.load(Ordering::Acquire) {
            return None;
        }
        let id = users.next;
        users.next += 1;
        users.streams.insert(id, Arc::clone(stream));
        Some(Lease { entry: Arc::clone(self), id })
    }

    /// Lets nobody in any more; those who are in stay. `false`: there is nobody.
    fn retire(&self) -> bool {
        let mut users = self.users();
        users.retired = true;
        !users.streams.is_empty()
    }

    /// Sends everybody out, and returns when they are.
    fn close(&self) {
        let users = self.users();
        self.closed.store(true, Ordering::Release);
        // Ends the reading side only: replies to what was read still go out.
        users.streams.values().for_each(|stream| stream.shutdown(Shutdown::Read));
        let (users, _) = self
            .left
            .wait_timeout_while(users, GRACE, |users| !users.streams.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        users.streams.values().for_each(|stream| stream.shutdown(Shutdown::Both));
        drop(
            self.left
                .wait_while(users, |users| !users.streams.is_empty())
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right of one connection to call its export; given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    entry: Arc<Entry>,
    id: u64,
}

impl Lease {
    pub(super) fn export(&self) -> &dyn Export {
        &*self.entry.export
    }

    /// The export is being removed: answer what comes with `ESHUTDOWN`.
    pub(super) fn is_closed(&self) -> bool {
        self.entry.closed.load(Ordering::Relaxed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.entry.users().streams.remove(&self.id);
        self.entry.left.notify_all();
    }
}
