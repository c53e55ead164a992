//! Bytes that came, until they are understood: one system call receives many requests.

use std::io::{self, Read};

use super::request::HEADER_LEN;
use super::stream::Stream;

/// Room for sixteen 16 KiB writes or thousands of reads, so that a deep queue is received at once.
const INBOX_LEN: usize = 256 << 10;
/// Payloads up to here pass through the inbox; longer ones are received straight into their buffer.
pub(super) const PAYLOAD_IN_INBOX: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Inbox {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { buf: vec![0; INBOX_LEN].into_boxed_slice(), start: 0, end: 0 }
    }

    /// How much is here.
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Takes `len` bytes, or as many as there are.
    pub(super) fn take(&mut self, len: usize) -> &[u8] {
        let from = self.start;
        self.start += len.min(self.len());
        &self.buf[from..self.start]
    }

    /// Takes a header, if all of it is here.
    pub(super) fn take_header(&mut self) -> Option<[u8; HEADER_LEN]> {
        let header = *self.buf[self.start..self.end].first_chunk()?;
        self.start += HEADER_LEN;
        Some(header)
    }

    /// Waits for more. `false`: there will be no more. Room is made by moving what is here to the front.
    pub(super) fn fill(&mut self, mut stream: &Stream) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buf.len() - self.end < PAYLOAD_IN_INBOX + HEADER_LEN {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.len());
        }
        let got = retry(|| stream.read(&mut self.buf[self.end..]))?;
        self.end += got;
        Ok(got > 0)
    }
}

/// A signal is no reason to give up.
pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
