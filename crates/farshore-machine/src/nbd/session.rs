//! One connection after the handshake: requests in, replies out, in any order.
//!
//! The connection's own thread reads, carries out at once what does not wait, and gathers the replies until it has
//! nothing more to do; the rest goes to helpers.

use std::io::{self, Read};

use super::errno::{ENOSPC, ESHUTDOWN};
use super::handshake::Agreement;
use super::inbox::{Inbox, PAYLOAD_IN_INBOX, retry};
use super::proto::PAYLOAD_SKIPPED_MAX;
use super::registry::Lease;
use super::reply::Outbox;
use super::request::{Command, Header, Refusal, Terms};
use super::stream::Stream;
use super::work::{Desk, Job, MEMORY_KEPT, Queue, Sender};

/// Replies are sent on once they are this many bytes, even while more requests are at hand: the client works on them
/// meanwhile.
const GATHERED_MAX: usize = 64 << 10;

/// Serves until the client leaves, the connection fails or the export is removed.
pub(super) fn serve(stream: &Stream, agreement: &Agreement) -> io::Result<()> {
    let export = agreement.lease.export();
    let desk = Desk {
        export,
        contexts: agreement.contexts,
        structured: agreement.structured,
        sender: Sender::new(stream, export),
    };
    let terms = Terms {
        size: export.size(),
        read_only: export.read_only(),
        structured: agreement.structured,
        contexts: agreement.contexts.any(),
    };
    let queue = Queue::default();
    std::thread::scope(|scope| {
        let _close = CloseOnDrop(&queue);
        let mut session = Session {
            desk: &desk,
            terms,
            lease: &agreement.lease,
            inbox: Inbox::new(),
            out: Outbox::default(),
            data: Vec::new(),
        };
        let ended = session.run(&mut |job| queue.put(job, &desk, scope));
        // Replies to what was done go out also when what followed was rubbish.
        let sent = desk.sender.send(&mut session.out);
        ended.and(sent)
    })
}

/// Helpers end when the session does, also by a panic.
struct CloseOnDrop<'a>(&'a Queue);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Session<'a> {
    desk: &'a Desk<'a>,
    terms: Terms,
    lease: &'a Lease,
    inbox: Inbox,
    out: Outbox,
    /// The payload of the current write.
    data: Vec<u8>,
}

type Later<'a> = dyn FnMut(Job) -> io::Result<()> + 'a;

impl Session<'_> {
    fn run(&mut self, later: &mut Later<'_>) -> io::Result<()> {
        loop {
            let Some(bytes) = self.inbox.take_header() else {
                if self.lease.is_closed() || !self.more()? {
                    return Ok(());
                }
                continue;
            };
            let header =
                Header::parse(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match self.check(&header) {
                Ok(Command::Disconnect) => return Ok(()),
                Ok(command) => self.carry_out(&header, command, later)?,
                Err(refusal) => self.refuse(&header, refusal)?,
            }
            if self.out.len() >= GATHERED_MAX {
                self.desk.sender.send(&mut self.out)?;
            }
        }
    }

    /// Waits for more bytes, with everything answered that can be. `false`: the client is gone.
    fn more(&mut self) -> io::Result<bool> {
        self.desk.sender.send(&mut self.out)?;
        self.inbox.fill(self.desk.sender.stream)
    }

    fn check(&self, header: &Header) -> Result<Command, Refusal> {
        let command = Command::check(header, &self.terms)?;
        if self.lease.is_closed() && command != Command::Disconnect {
            return Err(Refusal { errno: ESHUTDOWN, why: "the export is being removed" });
        }
        Ok(command)
    }

    fn carry_out(&mut self, header: &Header, command: Command, later: &mut Later<'_>) -> io::Result<()> {
        match command {
            Command::Write { fua } => {
                self.receive_payload(header.len as usize)?;
                if !self.drop_overhang(header) {
                    let refusal = Refusal { errno: ENOSPC, why: "beyond the end of the disk" };
                    self.out.error(self.desk.address(header), refusal, None);
                    return Ok(());
                }
                let done = self.desk.export.write(header.offset, &mut self.data);
                if self.data.capacity() > MEMORY_KEPT {
                    self.data = Vec::new();
                }
                if fua && done.is_ok() {
                    return later(Job { header: *header, command });
                }
                if done.is_ok() {
                    self.out.done(self.desk.address(header));
                }
                self.desk.settle(header, done, &mut self.out);
                Ok(())
            }
            Command::Read { whole } if self.desk.read_at_once(header, whole, &mut self.out) => Ok(()),
            _ => later(Job { header: header.within(self.terms.size), command }),
        }
    }

    /// Cuts off what a client that counts in sectors writes beyond the end. `false`: that is not just zeroes.
    fn drop_overhang(&mut self, header: &Header) -> bool {
        let keep = self.data.len() - header.overhang(self.terms.size) as usize;
        let fits = self.data[keep..].iter().all(|byte| *byte == 0);
        self.data.truncate(keep);
        fits
    }

    fn refuse(&mut self, header: &Header, refusal: Refusal) -> io::Result<()> {
        let len = header.payload_len();
        if len > PAYLOAD_SKIPPED_MAX {
            let text = format!("a write of {len} bytes, where 32 MiB are allowed");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.skip(len as usize)?;
        tracing::debug!(
            why = refusal.why,
            errno = refusal.errno,
            command = header.command,
            "request refused"
        );
        self.out.error(self.desk.address(header), refusal, None);
        Ok(())
    }

    /// Puts the payload of a write into `self.data`.
    fn receive_payload(&mut self, len: usize) -> io::Result<()> {
        if len <= PAYLOAD_IN_INBOX {
            while self.inbox.len() < len {
                self.more_or_fail()?;
            }
            self.data.clear();
            self.data.extend_from_slice(self.inbox.take(len));
            return Ok(());
        }
        // Shortening keeps the memory without zeroing it; a new one is filled without zeroing it.
        if self.data.len() >= len {
            self.data.truncate(len);
            let here = self.inbox.take(len);
            let have = here.len();
            self.data[..have].copy_from_slice(here);
            self.desk.sender.send(&mut self.out)?;
            return read_exact(self.desk.sender.stream, &mut self.data[have..]);
        }
        self.data = Vec::with_capacity(len);
        self.data.extend_from_slice(self.inbox.take(len));
        self.desk.sender.send(&mut self.out)?;
        append(self.desk.sender.stream, &mut self.data, len)
    }

    fn skip(&mut self, len: usize) -> io::Result<()> {
        let mut left = len - self.inbox.take(len).len();
        while left > 0 {
            self.more_or_fail()?;
            left -= self.inbox.take(left).len();
        }
        Ok(())
    }

    fn more_or_fail(&mut self) -> io::Result<()> {
        if self.more()? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn read_exact(mut stream: &Stream, buf: &mut [u8]) -> io::Result<()> {
    stream.read_exact(buf)
}

/// Receives into the spare memory of `data` until it has `len` bytes.
fn append(stream: &Stream, data: &mut Vec<u8>, len: usize) -> io::Result<()> {
    while data.len() < len {
        // An allocator that gave more than was asked for must not make us take the next request's bytes.
        if data.capacity() > len {
            let have = data.len();
            data.resize(len, 0);
            return read_exact(stream, &mut data[have..]);
        }
        let got = retry(|| stream.read_spare(data))?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
