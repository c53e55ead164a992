//! `json.webpubsub.azure.v1` and its reliable form: one JSON object in each text frame.
//!
//! Data of the type `json` is never parsed into values: it goes out to the byte as it came in.

mod read;
mod write;

pub(super) use read::{JSON_DEPTH_MAX, is_too_deep, read};
pub(super) use write::{control, message};
