//! `protobuf.webpubsub.azure.v1` and its reliable form: one message in each binary frame.
//!
//! ```proto
//! message UpstreamMessage { oneof message {
//!     SendToGroup send_to_group = 1;  // group=1 ack_id=2 data=3 no_echo=4 ttl_seconds=5 metadata=6 stream=7
//!     Event event = 5;                // event=1 data=2 ack_id=3 metadata=4
//!     JoinGroup join_group = 6;       // group=1 ack_id=2
//!     LeaveGroup leave_group = 7;     // group=1 ack_id=2
//!     SequenceAck sequence_ack = 8;   // sequence_id=1
//!     Ping ping = 9; } }
//! message DownstreamMessage { oneof message {
//!     Ack ack = 1;                    // ack_id=1 success=2 error=3{ name=1 message=2 }
//!     Data data = 2;                  // from=1 group=2 data=3 sequence_id=4 metadata=5
//!     System system = 3;              // connected=1{ connection_id=1 user_id=2 reconnection_token=3 } disconnected=2{ reason=2 }
//!     Pong pong = 4; } }
//! message MessageData { oneof data { string text = 1; bytes binary = 2; google.protobuf.Any any = 3; string json = 4; } }
//! ```
//!
//! The published documents disagree on JSON data: the newest definition has the field `json_data` (4), older prose says that
//! JSON arrives as `text_data` (1). Here it goes out as `json_data`, so that a receiver can tell the two apart.
//!
//! Streams, group state and invocations do not exist in this protocol, neither does the sender's user.

mod read;
mod wire;
mod write;

pub(super) use read::read;
pub(super) use wire::{is_any, put_varint, varint_len};
pub(super) use write::{control, message, wrap_message};

/// `DownstreamMessage.data`, before the length of the `DataMessage`.
pub(super) const MESSAGE_TAG: u8 = 2 << 3 | 2;
/// `DataMessage.sequence_id`, before the number. It is written last, after the fields that all receivers share.
pub(super) const SEQUENCE_TAG: u8 = 4 << 3;
