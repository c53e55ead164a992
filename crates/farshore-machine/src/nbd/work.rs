//! Carrying out requests: what a connection's own thread does at once, and the helpers that do what may wait.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use super::errno::{self, EOVERFLOW};
use super::export::Export;
use super::handshake::Contexts;
use super::proto::{CONTEXT_ALLOCATION_ID, CONTEXT_DIRTY_ID, EXTENTS_MAX, chunk};
use super::reply::{Address, Outbox, allocation_runs, dirty_runs};
use super::request::{Command, Header, Refusal};
use super::stream::Stream;
use crate::disk::{Extent, ExtentKind};

/// Helpers of one connection: enough to keep a disk's queue busy with reads that miss the cache; each may hold one
/// 32 MiB reply.
const HELPERS_MAX: usize = 4;
/// Requests that wait for a helper, a few dozen bytes each. When there are more, the connection is not read from.
const JOBS_MAX: usize = 256;
/// Reads from here on are looked at for holes, which are not sent: below, looking costs as much as sending.
const HOLES_FROM: u32 = 256 << 10;
/// Extents of such a read; with more, it is sent as data.
const HOLES_EXTENTS_MAX: usize = 64;
/// Memory that a thread keeps for the next request.
pub(super) const MEMORY_KEPT: usize = 4 << 20;

/// The sending side of a connection, shared by its threads.
#[derive(Debug)]
pub(super) struct Sender<'a> {
    pub(super) stream: &'a Stream,
    /// Whose replies they are: it says whether they may still leave.
    export: &'a dyn Export,
    /// Held while whole replies are sent, so that they do not mix.
    turn: Mutex<()>,
}

impl<'a> Sender<'a> {
    pub(super) fn new(stream: &'a Stream, export: &'a dyn Export) -> Self {
        Self { stream, export, turn: Mutex::new(()) }
    }

    /// A client that takes its replies slowly gets none that are due after the right to send them has ended.
    fn send_while_allowed(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write_while(bytes, &|| self.export.may_reply()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends everything in `out` and empties it.
    pub(super) fn send(&self, out: &mut Outbox) -> io::Result<()> {
        if out.len() > 0 {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.send_while_allowed(out.as_slice())?;
        }
        out.clear();
        if out.capacity() > MEMORY_KEPT {
            out.shrink(MEMORY_KEPT);
        }
        Ok(())
    }
}

/// What all threads of a connection know.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    pub(super) export: &'a dyn Export,
    pub(super) contexts: Contexts,
    pub(super) structured: bool,
    pub(super) sender: Sender<'a>,
}

/// A request that a helper finishes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) header: Header,
    pub(super) command: Command,
}

impl Desk<'_> {
    pub(super) fn address(&self, header: &Header) -> Address {
        Address { cookie: header.cookie, structured: self.structured }
    }

    /// Answers a read if it need not wait; otherwise leaves `out` as it was and returns `false`.
    pub(super) fn read_at_once(&self, header: &Header, whole: bool, out: &mut Outbox) -> bool {
        let read = |offset, buf: &mut [u8]| self.export.read_nowait(offset, buf);
        match self.read(header, whole, out, read) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            done => {
                self.settle(header, done, out);
                true
            }
        }
    }

    /// Carries out `job`, however long it takes, and answers into `out`.
    fn finish(&self, job: &Job, out: &mut Outbox) {
        let Job { header, command } = job;
        let (offset, len) = (header.offset, u64::from(header.len));
        let done = match *command {
            Command::Read { whole } => {
                let done = self.read(header, whole, out, |offset, buf| self.export.read(offset, buf));
                return self.settle(header, done, out);
            }
            Command::BlockStatus { one } => {
                let done = self.block_status(header, one, out);
                return self.settle(header, done, out);
            }
            // The write itself is done: only its durability is left.
            Command::Write { .. } | Command::Flush => self.export.flush(),
            Command::Trim { fua } => self.export.trim(offset, len).and_then(|()| self.flush_if(fua)),
            Command::Zero { fua, no_hole, fast } => {
                self.zero(offset, len, no_hole, fast).and_then(|()| self.flush_if(fua))
            }
            Command::Cache => self.export.prefetch(offset, len),
            Command::Disconnect => Ok(()),
        };
        if done.is_ok() {
            out.done(self.address(header));
        }
        self.settle(header, done, out);
    }

    fn zero(&self, offset: u64, len: u64, no_hole: bool, fast: bool) -> io::Result<()> {
        if fast {
            self.export.zero_fast(offset, len, no_hole)
        } else {
            self.export.zero(offset, len, no_hole)
        }
    }

    fn flush_if(&self, fua: bool) -> io::Result<()> {
        if fua { self.export.flush() } else { Ok(()) }
    }

    /// Answers with the error, if there is one.
    pub(super) fn settle(&self, header: &Header, done: io::Result<()>, out: &mut Outbox) {
        let Err(error) = done else { return };
        let errno = errno::to_wire(&error);
        tracing::debug!(%error, errno, offset = header.offset, len = header.len, "request failed");
        let at = matches!(header.command, super::proto::cmd::READ).then_some(header.offset);
        out.error(self.address(header), Refusal { errno, why: errno::text(errno) }, at);
    }

    /// On an error `out` is as it was.
    fn read(
        &self,
        header: &Header,
        whole: bool,
        out: &mut Outbox,
        read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let before = out.len();
        let extents = self.extents_worth_sending(header, whole);
        let done = match extents.as_slice() {
            [] | [Extent { kind: ExtentKind::Data, .. }] => {
                out.data_header(self.address(header), header.offset, header.len);
                read(header.offset, out.space(header.len as usize))
            }
            extents => read_pieces(header, extents, out, read),
        };
        if done.is_err() {
            out.rewind(before);
        }
        done
    }

    /// The extents of a read whose holes are worth leaving out; none if it is to be sent as it is.
    fn extents_worth_sending(&self, header: &Header, whole: bool) -> Vec<Extent> {
        if !self.structured || header.len < HOLES_FROM {
            return Vec::new();
        }
        let len = u64::from(header.len);
        // One more than are of use tells whether there are too many.
        let Ok(extents) = self.export.extents(header.offset, len, HOLES_EXTENTS_MAX) else {
            return Vec::new();
        };
        let covered = extents.iter().map(|extent| extent.len).sum::<u64>() == len;
        let holes = extents.iter().any(|extent| extent.kind != ExtentKind::Data);
        if covered && holes && (!whole || extents.len() == 1) { extents } else { Vec::new() }
    }

    fn block_status(&self, header: &Header, one: bool, out: &mut Outbox) -> io::Result<()> {
        let before = out.len();
        let done = self.describe(header, if one { 1 } else { EXTENTS_MAX }, out);
        if done.is_err() {
            out.rewind(before);
        }
        done
    }

    fn describe(&self, header: &Header, max: usize, out: &mut Outbox) -> io::Result<()> {
        let (offset, len) = (header.offset, u64::from(header.len));
        let done_after = |last: bool| if last { chunk::FLAG_DONE } else { 0 };
        if self.contexts.allocation {
            let extents = self.export.extents(offset, len, max)?;
            let runs = allocation_runs(&extents, header.len);
            out.status_chunk(done_after(!self.contexts.dirty), header.cookie, CONTEXT_ALLOCATION_ID, &runs);
        }
        if self.contexts.dirty {
            // No longer tracked: everything may have changed.
            let ranges = self.export.dirty(offset, len, max).unwrap_or_else(|| Ok(vec![(len, true)]))?;
            let runs = dirty_runs(&ranges, header.len);
            out.status_chunk(done_after(true), header.cookie, CONTEXT_DIRTY_ID, &runs);
        }
        Ok(())
    }
}

/// Answers a read in chunks: data where there is some, and holes without content.
fn read_pieces(
    header: &Header,
    extents: &[Extent],
    out: &mut Outbox,
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = header.offset;
    for (index, extent) in extents.iter().enumerate() {
        let flags = if index + 1 == extents.len() { chunk::FLAG_DONE } else { 0 };
        // The extents add up to the length of the request.
        let len = u32::try_from(extent.len).map_err(|_| io::Error::from_raw_os_error(EOVERFLOW as i32))?;
        if extent.kind == ExtentKind::Data {
            out.data_chunk(flags, header.cookie, at, len);
            read(at, out.space(len as usize))?;
        } else {
            out.hole_chunk(flags, header.cookie, at, len);
        }
        at += extent.len;
    }
    Ok(())
}

/// Requests that wait for a helper.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
    room: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    helpers: usize,
    idle: usize,
    closed: bool,
}

impl Queue {
    /// Gives `job` to a helper, a new one if all are busy.
    pub(super) fn put<'scope>(
        &'scope self,
        job: Job,
        desk: &'scope Desk<'scope>,
        scope: &'scope Scope<'scope, '_>,
    ) -> io::Result<()> {
        let mut state = self.state();
        while state.jobs.len() >= JOBS_MAX {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.idle <= state.jobs.len() && state.helpers < HELPERS_MAX {
            match std::thread::Builder::new()
                .name("nbd-helper".into())
                .spawn_scoped(scope, || self.help(desk))
            {
                Ok(_) => state.helpers += 1,
                // The others will get to it.
                Err(_) if state.helpers > 0 => {}
                Err(error) => return Err(error),
            }
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// No job will follow: helpers finish what is there and end.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    fn help(&self, desk: &Desk<'_>) {
        let _hangup = HangUpOnPanic(desk.sender.stream);
        let mut out = Outbox::default();
        while let Some(job) = self.next() {
            desk.finish(&job, &mut out);
            if desk.sender.send(&mut out).is_err() {
                // The connection's own thread notices and ends everything.
                desk.sender.stream.shutdown(Shutdown::Both);
                out.clear();
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                self.room.notify_one();
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that panics is never answered; a client that is cut off asks again instead of waiting for ever.
struct HangUpOnPanic<'a>(&'a Stream);

impl Drop for HangUpOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.shutdown(Shutdown::Both);
        }
    }
}
