//! Agreeing on an export and its terms.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustls::{ServerConfig, ServerConnection};

use super::option::{InfoRequest, MetaRequest, OptionError, plain_name};
use super::proto::{
    BLOCK_SIZE_MIN, BLOCK_SIZE_PREFERRED, CONTEXT_ALLOCATION, CONTEXT_ALLOCATION_ID, CONTEXT_DIRTY,
    CONTEXT_DIRTY_ID, FIXED_NEWSTYLE, HANDSHAKE_TIMEOUT, NBD_MAGIC, NO_ZEROES, OPTION_DATA_MAX, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, OPTION_SKIPPED_MAX, OPTIONS_MAX, PAYLOAD_MAX, flag, info, opt, rep,
};
use super::registry::{Entry, Exports, Lease};
use super::stream::Stream;
use crate::tls::loopback_only;

/// Whether a listener's clients may, or must, begin TLS.
#[derive(Debug, Clone)]
pub(super) enum TlsTerms {
    /// There is none.
    None,
    /// They may.
    Offered(Arc<ServerConfig>),
    /// They get to see nothing before.
    Required(Arc<ServerConfig>),
}

impl TlsTerms {
    /// On a listener at `address`.
    pub(super) fn on(address: SocketAddr, config: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let local = loopback_only(address, "serve disks");
        match (config, local) {
            (Some(config), Ok(())) => Ok(Self::Offered(config)),
            (Some(config), Err(_)) => Ok(Self::Required(config)),
            (None, local) => local.map(|()| Self::None),
        }
    }
}

/// What was agreed on.
#[derive(Debug)]
pub(super) struct Agreement {
    pub(super) lease: Lease,
    pub(super) structured: bool,
    pub(super) contexts: Contexts,
}

/// The meta contexts that `BLOCK_STATUS` reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Contexts {
    pub(super) allocation: bool,
    pub(super) dirty: bool,
}

impl Contexts {
    /// Whether `BLOCK_STATUS` makes sense at all.
    pub(super) fn any(self) -> bool {
        self.allocation || self.dirty
    }
}

/// Talks until the client chose an export (`Some`) or went away (`None`). An error means rubbish, silence or a broken
/// connection.
pub(super) fn shake(
    stream: &Arc<Stream>,
    exports: &Exports,
    terms: &TlsTerms,
    deadline: Instant,
) -> io::Result<Option<Agreement>> {
    let mut hands =
        Handshake { stream, exports, terms, deadline, no_zeroes: false, structured: false, contexts: None };
    hands.greet()?;
    for _ in 0..OPTIONS_MAX {
        let (option, len) = hands.option_header()?;
        let Some(data) = hands.option_data(option, len)? else { continue };
        match hands.option(option, &data)? {
            Next::Option => {}
            Next::Gone => return Ok(None),
            Next::Agreed(agreement) => return Ok(Some(agreement)),
        }
    }
    Err(rubbish("too many options"))
}

enum Next {
    Option,
    Gone,
    Agreed(Agreement),
}

struct Handshake<'a> {
    stream: &'a Arc<Stream>,
    exports: &'a Exports,
    terms: &'a TlsTerms,
    deadline: Instant,
    no_zeroes: bool,
    structured: bool,
    /// Contexts hold for the export they were asked for only.
    contexts: Option<(String, Contexts)>,
}

impl Handshake<'_> {
    fn greet(&mut self) -> io::Result<()> {
        let mut hello = Vec::with_capacity(18);
        hello.extend_from_slice(&NBD_MAGIC.to_be_bytes());
        hello.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        hello.extend_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        self.send(&hello)?;
        let flags = u32::from_be_bytes(self.receive()?);
        if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return Err(rubbish("unknown client flags"));
        }
        self.no_zeroes = flags & u32::from(NO_ZEROES) != 0;
        Ok(())
    }

    fn option_header(&mut self) -> io::Result<(u32, u32)> {
        if u64::from_be_bytes(self.receive()?) != OPTION_MAGIC {
            return Err(rubbish("an option without its magic"));
        }
        Ok((u32::from_be_bytes(self.receive()?), u32::from_be_bytes(self.receive()?)))
    }

    /// `None`: it was too long, was skipped and answered.
    fn option_data(&mut self, option: u32, len: u32) -> io::Result<Option<Vec<u8>>> {
        if len <= OPTION_DATA_MAX {
            let mut data = vec![0; len as usize];
            self.receive_into(&mut data)?;
            return Ok(Some(data));
        }
        if len > OPTION_SKIPPED_MAX || option == opt::EXPORT_NAME {
            return Err(rubbish("option data beyond any reason"));
        }
        let mut scratch = vec![0; OPTION_DATA_MAX as usize];
        let mut left = len as usize;
        while left > 0 {
            let piece = left.min(scratch.len());
            self.receive_into(&mut scratch[..piece])?;
            left -= piece;
        }
        if self.needs_tls(option) {
            self.reply_tls_required(option)?;
        } else {
            self.reply(option, rep::ERR_TOO_BIG, b"option data is limited to 65536 bytes")?;
        }
        Ok(None)
    }

    /// Before TLS, where it is required, nothing is answered but its beginning and the end.
    fn needs_tls(&self, option: u32) -> bool {
        matches!(self.terms, TlsTerms::Required(_))
            && !self.stream.is_secure()
            && !matches!(option, opt::STARTTLS | opt::ABORT)
    }

    fn reply_tls_required(&self, option: u32) -> io::Result<()> {
        self.reply(
            option,
            rep::ERR_TLS_REQD,
            b"this server needs TLS: use nbds:// and the cluster's certificates",
        )
    }

    /// From the reply on the client speaks TLS, and what was agreed on in plain text is forgotten.
    fn start_tls(&mut self, data: &[u8]) -> io::Result<()> {
        let (TlsTerms::Offered(config) | TlsTerms::Required(config)) = self.terms else {
            return self.reply(opt::STARTTLS, rep::ERR_UNSUP, b"this server has no TLS here");
        };
        if !data.is_empty() {
            return self.reply(opt::STARTTLS, rep::ERR_INVALID, b"this option has no data");
        }
        if self.stream.is_secure() {
            return self.reply(opt::STARTTLS, rep::ERR_INVALID, b"TLS has begun already");
        }
        let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        self.reply(opt::STARTTLS, rep::ACK, &[])?;
        (self.structured, self.contexts) = (false, None);
        self.stream.secure(connection.into(), self.deadline)
    }

    fn option(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        if self.needs_tls(option) {
            if option == opt::EXPORT_NAME {
                // It has no reply that says no.
                return Ok(Next::Gone);
            }
            return self.reply_tls_required(option).map(|()| Next::Option);
        }
        let answered = match option {
            opt::EXPORT_NAME => return self.export_name(data),
            opt::ABORT => {
                // The client may be gone already: that is what it said.
                drop(self.reply(option, rep::ACK, &[]));
                return Ok(Next::Gone);
            }
            opt::STARTTLS => self.start_tls(data),
            opt::INFO | opt::GO => return self.info(option, data),
            opt::LIST if data.is_empty() => self.list(),
            opt::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.reply(option, rep::ACK, &[])
            }
            opt::LIST | opt::STRUCTURED_REPLY => {
                self.reply(option, rep::ERR_INVALID, b"this option has no data")
            }
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.meta(option, data),
            _ => self.reply(option, rep::ERR_UNSUP, b"this option is not supported"),
        };
        answered.map(|()| Next::Option)
    }

    /// The old way: no reply but the export, no error but the end of the connection.
    fn export_name(&mut self, data: &[u8]) -> io::Result<Next> {
        let name = plain_name(data).map_err(|error| rubbish(&error.to_string()))?;
        let Some(entry) = self.exports.get(name) else { return Ok(Next::Gone) };
        let Some(lease) = entry.enter(self.stream) else { return Ok(Next::Gone) };
        let mut reply = Vec::with_capacity(134);
        reply.extend_from_slice(&entry.export().size().to_be_bytes());
        reply.extend_from_slice(&self.transmission_flags(&entry).to_be_bytes());
        if !self.no_zeroes {
            reply.extend_from_slice(&[0; 124]);
        }
        self.send(&reply)?;
        Ok(Next::Agreed(self.agree(lease, name)))
    }

    fn info(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        let request = match InfoRequest::parse(data) {
            Ok(request) => request,
            Err(error) => return self.invalid(option, &error).map(|()| Next::Option),
        };
        let Some(entry) = self.exports.get(request.name) else {
            return self.unknown(option).map(|()| Next::Option);
        };
        // Before the replies: what is agreed on below must still hold.
        let lease = if option == opt::GO {
            let Some(lease) = entry.enter(self.stream) else {
                self.reply(option, rep::ERR_SHUTDOWN, b"the export is being stopped")?;
                return Ok(Next::Option);
            };
            Some(lease)
        } else {
            None
        };
        self.reply_info(option, &request, &entry)?;
        self.reply(option, rep::ACK, &[])?;
        Ok(match lease {
            Some(lease) => Next::Agreed(self.agree(lease, request.name)),
            None => Next::Option,
        })
    }

    fn reply_info(&self, option: u32, request: &InfoRequest<'_>, entry: &Entry) -> io::Result<()> {
        let mut export = Vec::with_capacity(12);
        export.extend_from_slice(&info::EXPORT.to_be_bytes());
        export.extend_from_slice(&entry.export().size().to_be_bytes());
        export.extend_from_slice(&self.transmission_flags(entry).to_be_bytes());
        self.reply(option, rep::INFO, &export)?;

        let mut blocks = Vec::with_capacity(14);
        blocks.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
        for size in [BLOCK_SIZE_MIN, BLOCK_SIZE_PREFERRED, PAYLOAD_MAX] {
            blocks.extend_from_slice(&size.to_be_bytes());
        }
        self.reply(option, rep::INFO, &blocks)?;

        if request.wants_name {
            let name = [&info::NAME.to_be_bytes()[..], request.name.as_bytes()].concat();
            self.reply(option, rep::INFO, &name)?;
        }
        Ok(())
    }

    fn list(&mut self) -> io::Result<()> {
        for name in self.exports.list() {
            let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
            self.reply(opt::LIST, rep::SERVER, &[&len.to_be_bytes(), name.as_bytes()].concat())?;
        }
        self.reply(opt::LIST, rep::ACK, &[])
    }

    fn meta(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let request = match MetaRequest::parse(data) {
            Ok(request) => request,
            Err(error) => return self.invalid(option, &error),
        };
        let set = option == opt::SET_META_CONTEXT;
        if set {
            self.contexts = None;
        }
        if !self.structured {
            return self.reply(option, rep::ERR_INVALID, b"meta contexts need structured replies");
        }
        let Some(entry) = self.exports.get(request.name) else { return self.unknown(option) };
        let offered = Contexts { allocation: true, dirty: offers_dirty(&entry) };
        let chosen = choose(&request.queries, offered, !set);
        if chosen.allocation {
            self.reply_context(option, CONTEXT_ALLOCATION_ID, CONTEXT_ALLOCATION)?;
        }
        if chosen.dirty {
            self.reply_context(option, CONTEXT_DIRTY_ID, CONTEXT_DIRTY)?;
        }
        if set {
            self.contexts = Some((request.name.to_owned(), chosen));
        }
        self.reply(option, rep::ACK, &[])
    }

    fn reply_context(&self, option: u32, id: u32, name: &str) -> io::Result<()> {
        // In a list the identifier means nothing and must be zero.
        let id = if option == opt::LIST_META_CONTEXT { 0 } else { id };
        self.reply(option, rep::META_CONTEXT, &[&id.to_be_bytes(), name.as_bytes()].concat())
    }

    fn agree(&mut self, lease: Lease, name: &str) -> Agreement {
        let contexts = match self.contexts.take() {
            Some((for_name, contexts)) if for_name == name => contexts,
            _ => Contexts::default(),
        };
        Agreement { lease, structured: self.structured, contexts }
    }

    fn transmission_flags(&self, entry: &Entry) -> u16 {
        let always = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::SEND_TRIM
            | flag::SEND_WRITE_ZEROES
            | flag::SEND_FAST_ZERO
            | flag::SEND_CACHE
            | flag::CAN_MULTI_CONN;
        let read_only = if entry.export().read_only() { flag::READ_ONLY } else { 0 };
        let df = if self.structured { flag::SEND_DF } else { 0 };
        always | read_only | df
    }

    fn invalid(&self, option: u32, error: &OptionError) -> io::Result<()> {
        self.reply(option, rep::ERR_INVALID, error.to_string().as_bytes())
    }

    fn unknown(&self, option: u32) -> io::Result<()> {
        self.reply(option, rep::ERR_UNKNOWN, b"no export of this name: NBD_OPT_LIST tells the names")
    }

    fn reply(&self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).map_err(|_| rubbish("an option reply of 4 GiB"))?;
        let mut reply = Vec::with_capacity(20 + data.len());
        reply.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        reply.extend_from_slice(&option.to_be_bytes());
        reply.extend_from_slice(&kind.to_be_bytes());
        reply.extend_from_slice(&len.to_be_bytes());
        reply.extend_from_slice(data);
        self.send(&reply)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
        (&**self.stream).write_all(bytes)
    }

    fn receive<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.receive_into(&mut bytes)?;
        Ok(bytes)
    }

    /// Fills `buf` by the deadline of the whole handshake: a peer that drips bytes gets no more time.
    fn receive_into(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match (&**self.stream).read(buf) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(have) => buf = &mut buf[have..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn offers_dirty(entry: &Entry) -> bool {
    let export = entry.export();
    export.dirty(0, export.size().min(1), 1).is_some()
}

/// Which of the offered contexts the queries name. A list without queries means all; wildcards hold in lists only.
fn choose(queries: &[&str], offered: Contexts, list: bool) -> Contexts {
    let named = |context: &str, wildcard: &str| {
        (list && queries.is_empty())
            || queries.iter().any(|query| *query == context || (list && *query == wildcard))
    };
    Contexts {
        allocation: offered.allocation && named(CONTEXT_ALLOCATION, "base:"),
        dirty: offered.dirty && named(CONTEXT_DIRTY, "farshore:"),
    }
}

fn rubbish(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("handshake: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_choose_contexts() {
        let all = Contexts { allocation: true, dirty: true };
        let allocation = Contexts { allocation: true, dirty: false };
        let none = Contexts::default();
        let rows: [(&[&str], Contexts, bool, Contexts); 8] = [
            (&[], all, true, all),
            (&[], all, false, none),
            (&["base:"], all, true, allocation),
            (&["base:"], all, false, none),
            (&["base:allocation"], all, false, allocation),
            (&["farshore:dirty", "base:allocation"], all, false, all),
            (&["farshore:dirty"], allocation, false, none),
            (&["x:y", "base"], all, true, none),
        ];
        for (queries, offered, list, expected) in rows {
            assert_eq!(choose(queries, offered, list), expected, "{queries:?} {list}");
        }
    }
}
