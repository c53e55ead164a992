//! WebSocket (RFC 6455), as far as hubs need it: no extensions, no copies that can be spared.
//!
//! Read in this order: [`codec`] and `encode` (frames to bytes and back, pure), [`handshake`] (the upgrade, pure), [`client`] (a small
//! asynchronous client for probes, demonstrations, tests and load).
//!
//! Must always hold: a decoder never panics, never keeps more than its `message_max`, and keeps nothing between whole
//! messages, whatever the other side sends and however its bytes are cut.

pub mod client;
pub mod codec;
pub(crate) mod encode;
pub mod handshake;

pub use client::{ConnectError, OwnedIncoming, WsClient, WsReader, WsWriter};
pub use codec::{Decoder, Head, Incoming, Opcode, Violation, close_frame, frame, head, masked_frame};
