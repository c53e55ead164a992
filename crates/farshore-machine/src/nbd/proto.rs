//! The numbers of the protocol (the NBD project's `doc/proto.md`), and our limits.

use std::time::Duration;

pub(super) const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, the same bits in both directions.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
pub(super) const NO_ZEROES: u16 = 2;

pub(super) mod opt {
    pub(in crate::nbd) const EXPORT_NAME: u32 = 1;
    pub(in crate::nbd) const ABORT: u32 = 2;
    pub(in crate::nbd) const LIST: u32 = 3;
    pub(in crate::nbd) const STARTTLS: u32 = 5;
    pub(in crate::nbd) const INFO: u32 = 6;
    pub(in crate::nbd) const GO: u32 = 7;
    pub(in crate::nbd) const STRUCTURED_REPLY: u32 = 8;
    pub(in crate::nbd) const LIST_META_CONTEXT: u32 = 9;
    pub(in crate::nbd) const SET_META_CONTEXT: u32 = 10;
}

pub(super) mod rep {
    pub(in crate::nbd) const ACK: u32 = 1;
    pub(in crate::nbd) const SERVER: u32 = 2;
    pub(in crate::nbd) const INFO: u32 = 3;
    pub(in crate::nbd) const META_CONTEXT: u32 = 4;
    pub(in crate::nbd) const ERR_UNSUP: u32 = 0x8000_0001;
    pub(in crate::nbd) const ERR_INVALID: u32 = 0x8000_0003;
    pub(in crate::nbd) const ERR_TLS_REQD: u32 = 0x8000_0005;
    pub(in crate::nbd) const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub(in crate::nbd) const ERR_SHUTDOWN: u32 = 0x8000_0007;
    pub(in crate::nbd) const ERR_TOO_BIG: u32 = 0x8000_0009;
}

pub(super) mod info {
    pub(in crate::nbd) const EXPORT: u16 = 0;
    pub(in crate::nbd) const NAME: u16 = 1;
    pub(in crate::nbd) const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub(super) mod flag {
    pub(in crate::nbd) const HAS_FLAGS: u16 = 1;
    pub(in crate::nbd) const READ_ONLY: u16 = 1 << 1;
    pub(in crate::nbd) const SEND_FLUSH: u16 = 1 << 2;
    pub(in crate::nbd) const SEND_FUA: u16 = 1 << 3;
    pub(in crate::nbd) const SEND_TRIM: u16 = 1 << 5;
    pub(in crate::nbd) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(in crate::nbd) const SEND_DF: u16 = 1 << 7;
    pub(in crate::nbd) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(in crate::nbd) const SEND_CACHE: u16 = 1 << 10;
    pub(in crate::nbd) const SEND_FAST_ZERO: u16 = 1 << 11;
}

pub(super) mod cmd {
    pub(in crate::nbd) const READ: u16 = 0;
    pub(in crate::nbd) const WRITE: u16 = 1;
    pub(in crate::nbd) const DISC: u16 = 2;
    pub(in crate::nbd) const FLUSH: u16 = 3;
    pub(in crate::nbd) const TRIM: u16 = 4;
    pub(in crate::nbd) const CACHE: u16 = 5;
    pub(in crate::nbd) const WRITE_ZEROES: u16 = 6;
    pub(in crate::nbd) const BLOCK_STATUS: u16 = 7;

    pub(in crate::nbd) const FLAG_FUA: u16 = 1;
    pub(in crate::nbd) const FLAG_NO_HOLE: u16 = 1 << 1;
    pub(in crate::nbd) const FLAG_DF: u16 = 1 << 2;
    pub(in crate::nbd) const FLAG_REQ_ONE: u16 = 1 << 3;
    pub(in crate::nbd) const FLAG_FAST_ZERO: u16 = 1 << 4;
}

/// Chunks of structured replies.
pub(super) mod chunk {
    pub(in crate::nbd) const FLAG_DONE: u16 = 1;
    pub(in crate::nbd) const NONE: u16 = 0;
    pub(in crate::nbd) const OFFSET_DATA: u16 = 1;
    pub(in crate::nbd) const OFFSET_HOLE: u16 = 2;
    pub(in crate::nbd) const BLOCK_STATUS: u16 = 5;
    pub(in crate::nbd) const ERROR: u16 = 0x8001;
    pub(in crate::nbd) const ERROR_OFFSET: u16 = 0x8002;
}

/// States within `base:allocation`.
pub(super) const STATE_HOLE: u32 = 1;
pub(super) const STATE_ZERO: u32 = 2;
/// State within `farshore:dirty`.
pub(super) const STATE_DIRTY: u32 = 1;

/// What is allocated, and what reads as zeroes.
pub(super) const CONTEXT_ALLOCATION: &str = "base:allocation";
/// What changed since it was last replicated.
pub(super) const CONTEXT_DIRTY: &str = "farshore:dirty";

/// Identifier that we give to `base:allocation` on every connection.
pub(super) const CONTEXT_ALLOCATION_ID: u32 = 1;
/// Identifier that we give to `farshore:dirty` on every connection.
pub(super) const CONTEXT_DIRTY_ID: u32 = 2;

/// Smallest request that we like; anything down to a byte works.
pub(super) const BLOCK_SIZE_MIN: u32 = 1;
/// What guests' file systems write.
pub(super) const BLOCK_SIZE_PREFERRED: u32 = 4096;
/// Largest payload of one request: what the protocol lets clients assume of every server.
pub(super) const PAYLOAD_MAX: u32 = 32 << 20;
/// A write beyond [`PAYLOAD_MAX`] is skipped and answered with an error up to here; a longer one is no client.
pub(super) const PAYLOAD_SKIPPED_MAX: u32 = 64 << 20;

/// Longest name that the protocol allows for an export or context.
pub(super) const NAME_MAX: usize = 4096;
/// Longest data of an option: sixteen names of full length, many times what clients send.
pub(super) const OPTION_DATA_MAX: u32 = 64 << 10;
/// Longer data is skipped and answered `ERR_TOO_BIG` up to here, then the client is rubbish and is cut off.
pub(super) const OPTION_SKIPPED_MAX: u32 = 16 << 20;
/// Options in one handshake: a tool that walks all exports sends three for each.
pub(super) const OPTIONS_MAX: u32 = 10_000;
/// Time for a whole handshake: a person at an interactive shell is fine, a silent peer does not hold a slot for ever.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Extents in one reply to `BLOCK_STATUS`: what clients accept at most.
pub(super) const EXTENTS_MAX: usize = 1 << 20;
