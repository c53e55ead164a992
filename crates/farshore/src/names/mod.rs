//! Names: where clients find what is active, told by DNS and by the concierge (HTTP), also while the control plane is away.
//!
//! Read in this order: `directory` (what this node knows), `answer` (an entry and its signed answers), `signature`
//! (the keys), `copy` (what is known, on disk), [`concierge`] (HTTP), `zone` and [`dns`], [`client`] (what whoever asks
//! must check), `follow` (where the records come from).
//!
//! Must always hold: a name never goes back to an older record, here or at a client that checks; an answer is the last
//! record known or an error, never a guess; what cannot be known is not said to be absent.

mod answer;
pub mod client;
pub mod concierge;
mod copy;
mod directory;
pub mod dns;
mod follow;
mod signature;
mod zone;

pub use concierge::{AnswerView, EndpointView, KeyView, KeysView};
pub use copy::CopyError;
pub use directory::{Directory, DirectoryError};
pub use follow::follow;
pub use signature::{KeyError, PublicKey, SIGNATURE_HEADER, SigningKey};
