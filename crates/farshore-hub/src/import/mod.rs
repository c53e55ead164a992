//! `devices.txt`: identities and twins as JSON lines, in and out, without ever being in memory as a whole.
//!
//! Read in this order: [`line`](mod@line) (one identity, and what its import mode means), [`reader`] (many of them, in), [`writer`] (out).
//!
//! Must always hold: a bad line is reported by its number and changes nothing, and the rest is imported; importing the
//! same file again changes nothing; what was exported here and imported elsewhere has the same generation ids, etags,
//! keys, tags, properties and versions.

pub mod line;
pub mod reader;
pub mod writer;

pub use line::{ImportMode, Line, LineError};
pub use reader::{ImportError, Imported, LINE_BYTES_MAX, import};
pub use writer::{Keys, export, line_of};

#[cfg(test)]
mod tests;
