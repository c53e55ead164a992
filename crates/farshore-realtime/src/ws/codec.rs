//! Frames of RFC 6455, without input or output.
//!
//! Receiving: [`Decoder`] takes bytes as they were read, removes the mask in place and hands out each whole message as a
//! slice of what it was given. Only what is cut in the middle is copied, and freed again with the message's end.
//!
//! Sending: a server's frames carry no mask, so that one encoded frame serves all receivers; [`head`] gives the bytes before
//! a payload that is written beside it, [`frame`] both in one.

use super::encode::apply_mask;
pub use super::encode::{CLOSE_REASON_MAX, Head, close_frame, close_payload, frame, head, masked_frame};

#[cfg(test)]
mod tests;

/// The longest payload of a control frame (RFC 6455, 5.5).
pub(super) const CONTROL_MAX: usize = 125;
/// Two bytes, eight of length, four of mask.
const HEADER_MAX: usize = 14;

/// The close codes with which this side ends a connection by itself.
mod code {
    pub(super) const PROTOCOL: u16 = 1002;
    pub(super) const NOT_TEXT: u16 = 1007;
    pub(super) const TOO_BIG: u16 = 1009;
}

/// What a frame is; continuations are joined before anybody sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
    /// The other side will send no more.
    Close,
    /// To be answered by a pong with the same payload.
    Ping,
    /// The answer to a ping.
    Pong,
}

impl Opcode {
    pub(super) const fn bits(self) -> u8 {
        match self {
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }
}

/// A whole message or control frame, as it lies in the bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// Answer with the same payload.
    Ping(&'a [u8]),
    /// An answer to a ping, or a sign of life.
    Pong(&'a [u8]),
    /// The last frame: what follows it is ignored.
    Close {
        /// Absent when the frame was empty.
        code: Option<u16>,
        /// Empty when none was given.
        reason: &'a str,
    },
}

/// The other side broke the rules: close with this code and reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (close code {code})")]
pub struct Violation {
    /// 1002, 1007 or 1009.
    pub code: u16,
    /// At most [`CLOSE_REASON_MAX`] bytes.
    pub reason: &'static str,
}

const fn violation(code: u16, reason: &'static str) -> Violation {
    Violation { code, reason }
}

/// Reads one connection's frames. A message in part is kept, up to `message_max` bytes; between whole messages nothing is.
#[derive(Debug)]
pub struct Decoder {
    rules: Rules,
    state: State,
    /// Absent between whole frames and messages: that is where idle connections are.
    cut: Option<Box<Cut>>,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    /// A server takes masked frames only, a client unmasked ones only.
    masked: bool,
    message_max: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Open,
    /// A close frame was read.
    Closed,
    Violated(Violation),
}

/// What has come of frames and messages that are not whole yet.
#[derive(Debug, Default)]
struct Cut {
    header: [u8; HEADER_MAX],
    header_len: usize,
    frame: Option<Frame>,
    message: Option<Partial>,
    control: Vec<u8>,
}

/// One call of [`Decoder::feed`].
struct Pass {
    rules: Rules,
    cut: Cut,
    closed: bool,
}

/// A frame whose header was read; `left` bytes of its payload are still to come.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    last: bool,
    left: usize,
    /// Turned so that its first byte belongs to the next byte of payload.
    mask: Option<[u8; 4]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Start { text: bool },
    Continuation,
    Control(Opcode),
}

/// A header as it stands, before it is held against what came earlier.
struct Header {
    kind: Kind,
    last: bool,
    payload: u64,
    mask: Option<[u8; 4]>,
    len: usize,
}

/// A message of which the end is still to come.
#[derive(Debug)]
struct Partial {
    text: bool,
    bytes: Vec<u8>,
    /// So much of `bytes` is known to be UTF-8.
    valid: usize,
}

impl Decoder {
    /// For the side that accepts connections: frames must be masked.
    #[must_use]
    pub fn server(message_max: usize) -> Self {
        Self::new(true, message_max)
    }

    /// For the side that opens connections: frames must not be masked.
    #[must_use]
    pub fn client(message_max: usize) -> Self {
        Self::new(false, message_max)
    }

    fn new(masked: bool, message_max: usize) -> Self {
        Self { rules: Rules { masked, message_max }, state: State::Open, cut: None }
    }

    /// Takes bytes as they were read, removes their mask in place, and calls `on` for each whole message and control frame,
    /// in order. What comes after a close frame is ignored. However the same bytes are cut, the calls and the outcome are
    /// the same.
    ///
    /// # Errors
    ///
    /// The other side broke the rules; each later call says so again and reads nothing.
    pub fn feed(&mut self, input: &mut [u8], on: &mut dyn FnMut(Incoming<'_>)) -> Result<(), Violation> {
        match self.state {
            State::Violated(violation) => return Err(violation),
            State::Closed => return Ok(()),
            State::Open => {}
        }
        let cut = self.cut.take().map_or_else(Cut::default, |cut| *cut);
        let mut pass = Pass { rules: self.rules, cut, closed: false };
        let mut rest = input;
        while !rest.is_empty() && !pass.closed {
            match pass.step(rest, on) {
                Ok(after) => rest = after,
                Err(violation) => {
                    self.state = State::Violated(violation);
                    return Err(violation);
                }
            }
        }
        if pass.closed {
            self.state = State::Closed;
        } else if !pass.cut.is_empty() {
            self.cut = Some(Box::new(pass.cut));
        }
        Ok(())
    }

    /// What is kept for messages and frames in part, in bytes.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.cut.as_ref().map_or(0, |cut| {
            let message = cut.message.as_ref().map_or(0, |message| message.bytes.capacity());
            size_of::<Cut>() + message + cut.control.capacity()
        })
    }
}

impl Cut {
    fn is_empty(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }
}

impl Pass {
    fn step<'a>(
        &mut self,
        input: &'a mut [u8],
        on: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<&'a mut [u8], Violation> {
        let (mut frame, input) = match self.cut.frame.take() {
            Some(frame) => (frame, input),
            None => match self.take_header(input)? {
                (Some(frame), rest) => (frame, rest),
                (None, rest) => return Ok(rest),
            },
        };
        let (bytes, rest) = input.split_at_mut(frame.left.min(input.len()));
        if let Some(mask) = &mut frame.mask {
            apply_mask(bytes, mask);
        }
        frame.left -= bytes.len();
        match frame.kind {
            Kind::Control(opcode) => self.control_payload(frame, opcode, bytes, on)?,
            Kind::Start { text } => self.data_payload(frame, text, bytes, on)?,
            Kind::Continuation => {
                // `accept` let this frame pass because a message is open; its own kind counts.
                let text = self.cut.message.as_ref().is_some_and(|message| message.text);
                self.data_payload(frame, text, bytes, on)?;
            }
        }
        if frame.left > 0 {
            self.cut.frame = Some(frame);
        }
        Ok(rest)
    }

    /// The frame that begins here, or nothing yet, and what follows its header.
    fn take_header<'a>(&mut self, input: &'a mut [u8]) -> Result<(Option<Frame>, &'a mut [u8]), Violation> {
        let had = self.cut.header_len;
        let add = (HEADER_MAX - had).min(input.len());
        self.cut.header[had..had + add].copy_from_slice(&input[..add]);
        let Some(header) = parse_header(&self.cut.header[..had + add], self.rules.masked)? else {
            self.cut.header_len = had + add;
            return Ok((None, &mut input[add..]));
        };
        self.cut.header_len = 0;
        // A header is never whole before its last byte came with this input.
        let rest = &mut input[header.len - had..];
        Ok((Some(self.accept(&header)?), rest))
    }

    /// Holds a header against what came before it.
    fn accept(&self, header: &Header) -> Result<Frame, Violation> {
        let before = self.cut.message.as_ref().map_or(0, |message| message.bytes.len());
        match (header.kind, &self.cut.message) {
            (Kind::Continuation, None) => {
                return Err(violation(code::PROTOCOL, "a continuation without a beginning"));
            }
            (Kind::Start { .. }, Some(_)) => {
                return Err(violation(code::PROTOCOL, "a new message before the end of the last one"));
            }
            _ => {}
        }
        let room = if matches!(header.kind, Kind::Control(_)) {
            CONTROL_MAX
        } else {
            self.rules.message_max - before
        };
        match usize::try_from(header.payload) {
            Ok(left) if left <= room => {
                Ok(Frame { kind: header.kind, last: header.last, left, mask: header.mask })
            }
            _ => Err(violation(code::TOO_BIG, "the message is too big")),
        }
    }

    fn control_payload(
        &mut self,
        frame: Frame,
        opcode: Opcode,
        bytes: &[u8],
        on: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Violation> {
        if frame.left > 0 || !self.cut.control.is_empty() {
            self.cut.control.extend_from_slice(bytes);
        }
        if frame.left > 0 {
            return Ok(());
        }
        let kept = std::mem::take(&mut self.cut.control);
        let whole = if kept.is_empty() { bytes } else { &kept };
        match opcode {
            Opcode::Ping => on(Incoming::Ping(whole)),
            Opcode::Pong => on(Incoming::Pong(whole)),
            _ => {
                let (code, reason) = parse_close(whole)?;
                self.closed = true;
                on(Incoming::Close { code, reason });
            }
        }
        Ok(())
    }

    fn data_payload(
        &mut self,
        frame: Frame,
        text: bool,
        bytes: &[u8],
        on: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Violation> {
        let whole = frame.last && frame.left == 0;
        if whole && self.cut.message.is_none() {
            return deliver(text, bytes, on);
        }
        if bytes.is_empty() && frame.left > 0 {
            return Ok(());
        }
        let message = self.cut.message.get_or_insert_with(|| Partial { text, bytes: Vec::new(), valid: 0 });
        message.push(bytes, self.rules.message_max)?;
        match self.cut.message.take_if(|_| whole) {
            Some(message) => deliver(message.text, &message.bytes, on),
            None => Ok(()),
        }
    }
}

impl Partial {
    /// Room grows with what has really come, never with what a header announces, and never beyond `max`.
    fn push(&mut self, bytes: &[u8], max: usize) -> Result<(), Violation> {
        let len = self.bytes.len() + bytes.len();
        if len > self.bytes.capacity() {
            let room = len.max(self.bytes.capacity().saturating_mul(2)).min(max);
            self.bytes.reserve_exact(room.max(len) - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        if self.text { self.check_text() } else { Ok(()) }
    }

    fn check_text(&mut self) -> Result<(), Violation> {
        match std::str::from_utf8(&self.bytes[self.valid..]) {
            Ok(_) => self.valid = self.bytes.len(),
            // A character that is cut here may go on in the next fragment.
            Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
            Err(_) => return Err(NOT_TEXT),
        }
        Ok(())
    }
}

const NOT_TEXT: Violation = violation(code::NOT_TEXT, "a text message is not UTF-8");

fn deliver(text: bool, bytes: &[u8], on: &mut dyn FnMut(Incoming<'_>)) -> Result<(), Violation> {
    if text {
        on(Incoming::Text(std::str::from_utf8(bytes).map_err(|_| NOT_TEXT)?));
    } else {
        on(Incoming::Binary(bytes));
    }
    Ok(())
}

/// Nothing while bytes are missing. What is wrong is said by the earliest byte that shows it.
fn parse_header(bytes: &[u8], masked: bool) -> Result<Option<Header>, Violation> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(violation(code::PROTOCOL, "a reserved bit is set and no extension was agreed"));
    }
    let last = first & 0x80 != 0;
    let kind = parse_kind(first & 0x0F)?;
    let control = matches!(kind, Kind::Control(_));
    if control && !last {
        return Err(violation(code::PROTOCOL, "a control frame in fragments"));
    }
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    if (second & 0x80 != 0) != masked {
        let reason = if masked { "a client's frame without a mask" } else { "a server's frame with a mask" };
        return Err(violation(code::PROTOCOL, reason));
    }
    if control && usize::from(second & 0x7F) > CONTROL_MAX {
        return Err(violation(code::PROTOCOL, "a control frame of more than 125 bytes"));
    }
    let Some((payload, at)) = parse_length(bytes, second & 0x7F)? else { return Ok(None) };
    if !masked {
        return Ok(Some(Header { kind, last, payload, mask: None, len: at }));
    }
    let Some(&mask) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
    Ok(Some(Header { kind, last, payload, mask: Some(mask), len: at + 4 }))
}

fn parse_kind(bits: u8) -> Result<Kind, Violation> {
    Ok(match bits {
        0x0 => Kind::Continuation,
        0x1 => Kind::Start { text: true },
        0x2 => Kind::Start { text: false },
        0x8 => Kind::Control(Opcode::Close),
        0x9 => Kind::Control(Opcode::Ping),
        0xA => Kind::Control(Opcode::Pong),
        _ => return Err(violation(code::PROTOCOL, "an opcode that does not exist")),
    })
}

/// The length of the payload, and where the header goes on behind it.
fn parse_length(bytes: &[u8], short: u8) -> Result<Option<(u64, usize)>, Violation> {
    let rest = bytes.get(2..).unwrap_or_default();
    let (length, at, least) = match short {
        126 => match rest.first_chunk() {
            Some(&wide) => (u64::from(u16::from_be_bytes(wide)), 4, 126),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(&wide) => (u64::from_be_bytes(wide), 10, 1 << 16),
            None => return Ok(None),
        },
        short => (u64::from(short), 2, 0),
    };
    if length < least || length >> 63 != 0 {
        return Err(violation(code::PROTOCOL, "a length that is not written in the shortest form"));
    }
    Ok(Some((length, at)))
}

fn parse_close(payload: &[u8]) -> Result<(Option<u16>, &str), Violation> {
    let Some((&wide, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok((None, "")),
            _ => Err(violation(code::PROTOCOL, "a close frame with half a code")),
        };
    };
    let code = u16::from_be_bytes(wide);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(violation(code::PROTOCOL, "a close code that may not be sent"));
    }
    let reason = std::str::from_utf8(reason)
        .map_err(|_| violation(code::NOT_TEXT, "the reason of a close frame is not UTF-8"))?;
    Ok((Some(code), reason))
}
