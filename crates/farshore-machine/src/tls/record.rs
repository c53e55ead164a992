//! A TLS connection without its socket: bytes to records and back, both directions at once.
//!
//! One thread may be in [`Tls::read`] and another in [`Tls::write`]. They share the keys, held for as long as it takes to
//! seal or open what is at hand and never while a socket is waited for. The reading side never sends: an answer that it
//! owes (a key update) leaves with the next write, which is when the protocol wants it at the latest.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::Connection;

/// Records received by one system call: eight of the largest.
const INPUT_LEN: usize = 128 << 10;
/// Plain text sealed at once, in four records: what a lapse of the right to send can leave half sent.
const PIECE: usize = 64 << 10;

/// An established connection.
pub(crate) struct Tls {
    /// Taken last, and for calculation only.
    connection: Mutex<Connection>,
    input: Mutex<Input>,
    output: Mutex<Output>,
}

/// Records that came and are not opened yet.
struct Input {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
    /// The socket has ended.
    ended: bool,
}

/// Records that are being sent.
#[derive(Default)]
struct Output {
    sealed: Vec<u8>,
    /// A write has failed: what the peer has is not known, and more would be rubbish to it.
    broken: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Shakes hands: `take` receives, `put` sends, and both must keep the deadline. A peer that is refused is told why.
    pub(crate) fn shake(
        mut connection: Connection,
        mut take: impl FnMut(&mut [u8]) -> io::Result<usize>,
        mut put: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<Self> {
        let mut input = Input::new();
        let mut output = Output::default();
        loop {
            output.seal(&mut connection)?;
            output.send(&mut put)?;
            if !connection.is_handshaking() {
                break;
            }
            if input.is_empty() {
                input.fill(&mut take)?;
                if input.ended {
                    return Err(ended_in_handshake());
                }
            }
            if let Err(error) = input.feed(&mut connection) {
                // The alert; whether it arrives is the peer's problem.
                drop(output.seal(&mut connection).and_then(|()| output.send(&mut put)));
                return Err(error);
            }
        }
        Ok(Self { connection: Mutex::new(connection), input: Mutex::new(input), output: Mutex::new(output) })
    }

    /// Reads at least a byte, or nothing after the peer's good-bye. `take` receives; when it fails for want of data (a
    /// timeout) the read can be repeated. An end without a good-bye is an `UnexpectedEof`.
    pub(crate) fn read(
        &self,
        buf: &mut [u8],
        mut take: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut input = lock(&self.input);
        loop {
            if let Some(have) = self.open(&mut input, buf)? {
                return Ok(have);
            }
            input.fill(&mut take)?;
        }
    }

    /// Opens what has come. `None`: not enough for a single byte.
    fn open(&self, input: &mut Input, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let mut connection = lock(&self.connection);
        let mut have = 0;
        while have < buf.len() {
            match connection.reader().read(&mut buf[have..]) {
                Ok(0) => return Ok(Some(have)),
                Ok(got) => {
                    have += got;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) if have > 0 => break,
                Err(error) => return Err(error),
            }
            if input.is_empty() && !input.ended {
                break;
            }
            input.feed(&mut connection)?;
        }
        Ok((have > 0).then_some(have))
    }

    /// Sends the start of `bytes` and returns how much that was: at most 64 KiB. `put` gives records to the socket; after
    /// it has failed this side sends nothing more.
    pub(crate) fn write(
        &self,
        bytes: &[u8],
        mut put: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut output = lock(&self.output);
        if output.broken {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let taken = {
            let mut connection = lock(&self.connection);
            let taken = connection.writer().write(&bytes[..bytes.len().min(PIECE)])?;
            output.seal(&mut connection)?;
            taken
        };
        output.send(&mut put)?;
        Ok(taken)
    }

    /// Says good-bye, unless somebody is sending just now. `put` should not wait.
    pub(crate) fn close(&self, mut put: impl FnMut(&[u8]) -> io::Result<usize>) {
        let Ok(mut output) = self.output.try_lock() else { return };
        if output.broken {
            return;
        }
        let mut connection = lock(&self.connection);
        connection.send_close_notify();
        let sealed = output.seal(&mut connection);
        drop(connection);
        drop(sealed.and_then(|()| output.send(&mut put)));
    }
}

impl Input {
    fn new() -> Self {
        Self { buf: vec![0; INPUT_LEN].into_boxed_slice(), start: 0, end: 0, ended: false }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Receives, when nothing is here.
    fn fill(&mut self, take: &mut impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        let got = loop {
            match take(&mut self.buf) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                got => break got?,
            }
        };
        (self.start, self.end, self.ended) = (0, got, got == 0);
        Ok(())
    }

    /// Gives some of it, or the news that it has ended, to the connection.
    fn feed(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.start += connection.read_tls(&mut &self.buf[self.start..self.end])?;
        connection.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(())
    }
}

impl Output {
    /// Takes over what the connection has to send.
    fn seal(&mut self, connection: &mut Connection) -> io::Result<()> {
        while connection.wants_write() {
            connection.write_tls(&mut self.sealed)?;
        }
        Ok(())
    }

    fn send(&mut self, put: &mut impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        self.broken = true;
        let mut left = &self.sealed[..];
        while !left.is_empty() {
            match put(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => left = &left[sent..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sealed.clear();
        self.broken = false;
        Ok(())
    }
}

fn ended_in_handshake() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the peer left in the middle of the TLS handshake")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
