//! The frames of the replication wire and their bytes.
//!
//! A frame is a header of [`HEADER_LEN`] bytes and a payload: `len u32, kind u8, flags u8, zero u16, incarnation u64,
//! epoch u64, crc32c u32` (of the header before it and the payload), all little-endian. Reading never trusts a length:
//! memory grows only with bytes that really arrived, up to a limit.

use std::io::{self, Read};
use std::sync::Arc;

use farshore_core::ids::{Epoch, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::{PointKind, Watermark};

use super::bytes::{Reader, put_text, put_u16, put_u32, put_u64, put_watermark};
use crate::record::{Block, Op, Range, Record};

/// Version spoken here; a session between different versions is refused with both numbers.
pub const PROTOCOL: u16 = 1;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 28;
/// Longest payload: one NBD write of 32 MiB with its fields.
pub const PAYLOAD_LEN_MAX: usize = 33 << 20;
/// Longest payload of a peer that has not shown its secret yet.
pub const HELLO_LEN_MAX: usize = 16 << 10;
/// A batch of records or blocks is closed when it has reached this size.
pub const BATCH_LEN: usize = 1 << 20;
/// Most disks of a machine.
pub const DISKS_MAX: usize = 256;
/// Ranges in one [`Message::Diverged`] frame: a frame of about 1 MiB.
pub const DIVERGED_BATCH: usize = 50_000;

/// How much is tried before a whole batch is compressed.
const SAMPLE_LEN: usize = 64 << 10;
/// The payload is `u32` length and an LZ4 block.
const FLAG_LZ4: u8 = 1;
/// How much a decoder asks the socket for at once.
const READ_LEN: usize = 256 << 10;

/// What introduces a source.
#[derive(Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u16,
    /// `machine/NAME`.
    pub item: String,
    /// The region it speaks for; empty when it does not say.
    pub source: String,
    /// Shared secret of the two regions' agents.
    pub secret: String,
    /// The token it replicates under (the one in the frame's header).
    pub token: Token,
    /// Sizes of the machine's disks, in order.
    pub disks: Vec<u64>,
    /// The newest write it accepted.
    pub head: Watermark,
}

impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello")
            .field("protocol", &self.protocol)
            .field("item", &self.item)
            .field("source", &self.source)
            .field("token", &self.token)
            .field("disks", &self.disks)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// Why a receiver does not want a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A higher token is known for the item: the sender must fence itself.
    Stale {
        /// The highest token stored there.
        highest: Token,
    },
    /// The item has no replica there.
    UnknownItem,
    /// Number or sizes of disks differ.
    WrongShape,
    /// The secret is not the one agreed on.
    WrongSecret,
    /// Another protocol version.
    WrongVersion,
    /// Not now; worth trying again.
    Busy,
    /// The replica is damaged or its disk failed; the text says more.
    Failed,
}

/// A refusal, for the sender's program and for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// What kind of refusal.
    pub reason: Reason,
    /// What was wrong and how to mend it.
    pub text: String,
}

/// The receiver's report; also its sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Bytes of this session taken off the wire and worked in: frees credit.
    pub consumed: u64,
    /// Bytes of this session that the sink's last sync covers: everything sent before this offset is durable.
    pub synced: u64,
    /// The newest durable record, as the sink says.
    pub durable: Watermark,
    /// Of the blocks of this session, the bytes that differed from what was there.
    pub differed: u64,
}

/// A recovery point, as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointFrame {
    /// The last write it includes.
    pub at: Watermark,
    /// When it was cut, on the source's clock.
    pub taken: Moment,
    /// What it promises.
    pub kind: PointKind,
    /// Its name, if a person gave one.
    pub name: Option<String>,
}

/// Everything that is said on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// First frame of a session, from the source.
    Hello(Hello),
    /// The receiver's answer: where to go on from. Followed by `diverged_frames` frames of [`Message::Diverged`].
    Welcome {
        /// The last record durable there, in an unbroken row.
        durable: Option<Watermark>,
        /// A catch-up was begun and not ended.
        catching_up: bool,
        /// How many frames of ranges follow.
        diverged_frames: u32,
    },
    /// Ranges that must be sent although the source's own map may not have them.
    Diverged(Vec<Range>),
    /// The receiver's other answer, at any time; the session is over.
    Refused(Refused),
    /// Writes, in order.
    Records {
        /// The newest write accepted at the source.
        head: Watermark,
        /// Sync and acknowledge at once: a flush waits for it.
        urgent: bool,
        /// The writes.
        records: Vec<Record>,
    },
    /// From here on blocks come, mixed with records after `from`.
    BeginCatchUp {
        /// All later records will be sent.
        from: Watermark,
    },
    /// Parts of the disks as they are now.
    Blocks(Vec<Block>),
    /// All blocks were sent, and all records up to `at`: consistent again.
    EndCatchUp {
        /// Where.
        at: Watermark,
    },
    /// A recovery point.
    Point(PointFrame),
    /// Sign of life.
    Alive {
        /// The newest write accepted at the source.
        head: Watermark,
        /// Sync and acknowledge at once.
        urgent: bool,
    },
    /// From the receiver.
    Ack(Ack),
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The token of the sender's session.
    pub token: Token,
    /// What it says.
    pub message: Message,
}

/// Why bytes are no frame. The session cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header announces more than is allowed here.
    #[error("a frame of {len} bytes is longer than the limit of {limit}")]
    TooLong {
        /// As announced.
        len: usize,
        /// As allowed.
        limit: usize,
    },
    /// Damaged on the way.
    #[error("a frame's checksum does not match: it was damaged on the way")]
    Checksum,
    /// The payload ends inside a field.
    #[error("a frame ends in the middle of a field")]
    Short,
    /// The frame breaks a rule.
    #[error("a frame is not valid: {0}")]
    Invalid(&'static str),
}

const KIND_HELLO: u8 = 1;
const KIND_WELCOME: u8 = 2;
const KIND_DIVERGED: u8 = 3;
const KIND_REFUSED: u8 = 4;
const KIND_RECORDS: u8 = 5;
const KIND_BEGIN: u8 = 6;
const KIND_BLOCKS: u8 = 7;
const KIND_END: u8 = 8;
const KIND_POINT: u8 = 9;
const KIND_ALIVE: u8 = 10;
const KIND_ACK: u8 = 11;

/// Appends the frame's bytes to `out`. With `compress`, batches are compressed if a sample says that it pays.
///
/// # Panics
/// When the payload is longer than 4 GiB, which no caller can make.
pub fn encode(token: Token, message: &Message, compress: bool, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    let kind = encode_payload(message, out);
    let mut flags = 0;
    if compress && matches!(kind, KIND_RECORDS | KIND_BLOCKS) && squeeze(out, start + HEADER_LEN) {
        flags |= FLAG_LZ4;
    }
    let len = u32::try_from(out.len() - start - HEADER_LEN).expect("payloads are far below 4 GiB");
    let header = &mut out[start..start + HEADER_LEN];
    header[0..4].copy_from_slice(&len.to_le_bytes());
    header[4] = kind;
    header[5] = flags;
    header[8..16].copy_from_slice(&token.incarnation.to_le_bytes());
    header[16..24].copy_from_slice(&token.epoch.0.to_le_bytes());
    let crc = frame_crc(&out[start..start + 24], &out[start + HEADER_LEN..]);
    out[start + 24..start + HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
}

fn frame_crc(header: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), payload)
}

/// Replaces the payload by its compressed form if a sample shrinks by a fifth; says whether it did.
fn squeeze(out: &mut Vec<u8>, from: usize) -> bool {
    let payload = &out[from..];
    let sample = &payload[..payload.len().min(SAMPLE_LEN)];
    if lz4_flex::block::compress(sample).len() * 5 > sample.len() * 4 {
        return false;
    }
    let packed = lz4_flex::block::compress(payload);
    if packed.len() + 4 >= payload.len() {
        return false;
    }
    let Ok(len) = u32::try_from(payload.len()) else { return false };
    out.truncate(from);
    put_u32(out, len);
    out.extend_from_slice(&packed);
    true
}

fn encode_payload(message: &Message, out: &mut Vec<u8>) -> u8 {
    match message {
        Message::Hello(hello) => put_hello(out, hello),
        Message::Welcome { durable, catching_up, diverged_frames } => {
            out.push(u8::from(durable.is_some()));
            put_watermark(out, durable.unwrap_or_default());
            out.push(u8::from(*catching_up));
            put_u32(out, *diverged_frames);
            KIND_WELCOME
        }
        Message::Diverged(ranges) => {
            for range in ranges {
                put_u16(out, range.disk);
                put_u64(out, range.offset);
                put_u64(out, range.len);
            }
            KIND_DIVERGED
        }
        Message::Refused(refused) => put_refused(out, refused),
        Message::Records { head, urgent, records } => {
            put_watermark(out, *head);
            out.push(u8::from(*urgent));
            records.iter().for_each(|record| put_record(out, record));
            KIND_RECORDS
        }
        Message::BeginCatchUp { from } => {
            put_watermark(out, *from);
            KIND_BEGIN
        }
        Message::Blocks(blocks) => {
            for block in blocks {
                put_u16(out, block.disk);
                put_range_and_op(out, block.offset, block.len, &block.op);
            }
            KIND_BLOCKS
        }
        Message::EndCatchUp { at } => {
            put_watermark(out, *at);
            KIND_END
        }
        Message::Point(point) => put_point(out, point),
        Message::Alive { head, urgent } => {
            put_watermark(out, *head);
            out.push(u8::from(*urgent));
            KIND_ALIVE
        }
        Message::Ack(ack) => {
            put_u64(out, ack.consumed);
            put_u64(out, ack.synced);
            put_watermark(out, ack.durable);
            put_u64(out, ack.differed);
            KIND_ACK
        }
    }
}

fn put_hello(out: &mut Vec<u8>, hello: &Hello) -> u8 {
    put_u16(out, hello.protocol);
    put_text(out, &hello.item);
    put_text(out, &hello.source);
    put_text(out, &hello.secret);
    put_watermark(out, hello.head);
    put_u16(out, u16::try_from(hello.disks.len()).unwrap_or(u16::MAX));
    hello.disks.iter().for_each(|size| put_u64(out, *size));
    KIND_HELLO
}

fn put_refused(out: &mut Vec<u8>, refused: &Refused) -> u8 {
    let (code, highest) = match refused.reason {
        Reason::Stale { highest } => (1, highest),
        Reason::UnknownItem => (2, Token::default()),
        Reason::WrongShape => (3, Token::default()),
        Reason::WrongSecret => (4, Token::default()),
        Reason::WrongVersion => (5, Token::default()),
        Reason::Busy => (6, Token::default()),
        Reason::Failed => (7, Token::default()),
    };
    out.push(code);
    put_u64(out, highest.incarnation);
    put_u64(out, highest.epoch.0);
    put_text(out, &refused.text);
    KIND_REFUSED
}

fn put_point(out: &mut Vec<u8>, point: &PointFrame) -> u8 {
    put_watermark(out, point.at);
    put_u64(out, point.taken.0);
    out.push(match point.kind {
        PointKind::Crash => 1,
        PointKind::App => 2,
        PointKind::Named => 3,
    });
    out.push(u8::from(point.name.is_some()));
    put_text(out, point.name.as_deref().unwrap_or_default());
    KIND_POINT
}

fn put_record(out: &mut Vec<u8>, record: &Record) {
    put_watermark(out, record.watermark());
    put_u16(out, record.disk);
    put_range_and_op(out, record.offset, record.len, &record.op);
}

fn put_range_and_op(out: &mut Vec<u8>, offset: u64, len: u64, op: &Op) {
    put_u64(out, offset);
    put_u64(out, len);
    match op {
        Op::Write(data) => {
            out.push(1);
            out.extend_from_slice(data);
        }
        Op::Trim => out.push(2),
        Op::Zero => out.push(3),
    }
}

fn decode_payload(token: Token, kind: u8, payload: &[u8]) -> Result<Message, FrameError> {
    let mut reader = Reader::new(payload);
    let r = &mut reader;
    let message = match kind {
        KIND_HELLO => Message::Hello(get_hello(r, token)?),
        KIND_WELCOME => {
            let some = r.flag()?;
            let mark = r.watermark()?;
            let catching_up = r.flag()?;
            Message::Welcome { durable: some.then_some(mark), catching_up, diverged_frames: r.u32()? }
        }
        KIND_DIVERGED => Message::Diverged(get_all(r, get_range)?),
        KIND_REFUSED => Message::Refused(get_refused(r)?),
        KIND_RECORDS => {
            let head = r.watermark()?;
            let urgent = r.flag()?;
            Message::Records { head, urgent, records: get_all(r, get_record)? }
        }
        KIND_BEGIN => Message::BeginCatchUp { from: r.watermark()? },
        KIND_BLOCKS => Message::Blocks(get_all(r, get_block)?),
        KIND_END => Message::EndCatchUp { at: r.watermark()? },
        KIND_POINT => Message::Point(get_point(r)?),
        KIND_ALIVE => Message::Alive { head: r.watermark()?, urgent: r.flag()? },
        KIND_ACK => Message::Ack(Ack {
            consumed: r.u64()?,
            synced: r.u64()?,
            durable: r.watermark()?,
            differed: r.u64()?,
        }),
        _ => return Err(FrameError::Invalid("unknown kind of frame")),
    };
    if reader.is_empty() { Ok(message) } else { Err(FrameError::Invalid("bytes are left over")) }
}

fn get_all<T>(
    r: &mut Reader<'_>,
    get: impl Fn(&mut Reader<'_>) -> Result<T, FrameError>,
) -> Result<Vec<T>, FrameError> {
    let mut all = Vec::new();
    while !r.is_empty() {
        all.push(get(r)?);
    }
    Ok(all)
}

fn get_hello(r: &mut Reader<'_>, token: Token) -> Result<Hello, FrameError> {
    let protocol = r.u16()?;
    let (item, source, secret) = (r.text()?, r.text()?, r.text()?);
    let head = r.watermark()?;
    let count = usize::from(r.u16()?);
    if count > DISKS_MAX {
        return Err(FrameError::Invalid("too many disks"));
    }
    let disks = (0..count).map(|_| r.u64()).collect::<Result<_, _>>()?;
    Ok(Hello { protocol, item, source, secret, token, disks, head })
}

fn get_refused(r: &mut Reader<'_>) -> Result<Refused, FrameError> {
    let code = r.u8()?;
    let highest = Token::new(r.u64()?, Epoch(r.u64()?));
    let reason = match code {
        1 => Reason::Stale { highest },
        2 => Reason::UnknownItem,
        3 => Reason::WrongShape,
        4 => Reason::WrongSecret,
        5 => Reason::WrongVersion,
        6 => Reason::Busy,
        7 => Reason::Failed,
        _ => return Err(FrameError::Invalid("unknown reason of a refusal")),
    };
    Ok(Refused { reason, text: r.text()? })
}

fn get_point(r: &mut Reader<'_>) -> Result<PointFrame, FrameError> {
    let at = r.watermark()?;
    let taken = Moment(r.u64()?);
    let kind = match r.u8()? {
        1 => PointKind::Crash,
        2 => PointKind::App,
        3 => PointKind::Named,
        _ => return Err(FrameError::Invalid("unknown kind of point")),
    };
    let named = r.flag()?;
    let name = r.text()?;
    Ok(PointFrame { at, taken, kind, name: named.then_some(name) })
}

fn get_range(r: &mut Reader<'_>) -> Result<Range, FrameError> {
    let range = Range { disk: r.u16()?, offset: r.u64()?, len: r.u64()? };
    check_range(range.offset, range.len)?;
    Ok(range)
}

fn check_range(offset: u64, len: u64) -> Result<(), FrameError> {
    if len == 0 {
        return Err(FrameError::Invalid("an empty range"));
    }
    offset.checked_add(len).map(|_| ()).ok_or(FrameError::Invalid("a range past the end of all disks"))
}

fn get_record(r: &mut Reader<'_>) -> Result<Record, FrameError> {
    let mark = r.watermark()?;
    let disk = r.u16()?;
    let (offset, len, op) = get_range_and_op(r)?;
    Ok(Record { seq: mark.seq, epoch: mark.epoch, at: mark.at, bytes: mark.bytes, disk, offset, len, op })
}

fn get_block(r: &mut Reader<'_>) -> Result<Block, FrameError> {
    let disk = r.u16()?;
    let (offset, len, op) = get_range_and_op(r)?;
    Ok(Block { disk, offset, len, op })
}

fn get_range_and_op(r: &mut Reader<'_>) -> Result<(u64, u64, Op), FrameError> {
    let (offset, len) = (r.u64()?, r.u64()?);
    check_range(offset, len)?;
    let op = match r.u8()? {
        1 => {
            let size = usize::try_from(len).map_err(|_| FrameError::Short)?;
            Op::Write(Arc::from(r.take(size)?))
        }
        2 => Op::Trim,
        3 => Op::Zero,
        _ => return Err(FrameError::Invalid("unknown kind of write")),
    };
    Ok((offset, len, op))
}

/// Turns a stream of bytes into frames. Reads may stop anywhere (a time-out) and go on later.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    limit: usize,
}

impl Decoder {
    /// A decoder that accepts payloads of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0, limit: limit.min(PAYLOAD_LEN_MAX) }
    }

    /// Changes the limit, once the peer has shown who it is.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(PAYLOAD_LEN_MAX);
    }

    /// Reads once. `Ok(0)`: the peer has closed.
    pub fn fill(&mut self, stream: &mut impl Read) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > self.buffer.len() / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() - self.end < READ_LEN {
            self.buffer.resize(self.buffer.len() + READ_LEN, 0);
        }
        let count = stream.read(&mut self.buffer[self.end..])?;
        self.end += count;
        Ok(count)
    }

    /// The next whole frame and its length on the wire, if it has arrived.
    pub fn next_frame(&mut self) -> Result<Option<(Frame, usize)>, FrameError> {
        let bytes = &self.buffer[self.start..self.end];
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let mut fields = Reader::new(header);
        let len = usize::try_from(fields.u32()?).unwrap_or(usize::MAX);
        let (kind, flags) = (fields.u8()?, fields.u8()?);
        fields.u16()?;
        let token = Token::new(fields.u64()?, Epoch(fields.u64()?));
        let crc = fields.u32()?;
        if len > self.limit {
            return Err(FrameError::TooLong { len, limit: self.limit });
        }
        let Some(payload) = rest.get(..len) else { return Ok(None) };
        if frame_crc(&header[..24], payload) != crc {
            return Err(FrameError::Checksum);
        }
        let message = if flags & FLAG_LZ4 == 0 {
            decode_payload(token, kind, payload)?
        } else {
            decode_payload(token, kind, &expand(payload, self.limit)?)?
        };
        self.start += HEADER_LEN + len;
        Ok(Some((Frame { token, message }, HEADER_LEN + len)))
    }
}

fn expand(payload: &[u8], limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut reader = Reader::new(payload);
    let len = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    if len > limit {
        return Err(FrameError::TooLong { len, limit });
    }
    lz4_flex::block::decompress(&payload[4..], len).map_err(|_| FrameError::Invalid("damaged compression"))
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
