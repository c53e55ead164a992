//! What the two regions of an app say to each other: a question and an answer, each with its version and its token.

use std::collections::BTreeSet;

use farshore_core::ids::Token;
use farshore_core::moment::Moment;
use farshore_core::workload::{Role, Watermark};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::charter::CharterTag;
use crate::scripts::Refs;

/// The first byte of every question and answer.
const VERSION: u8 = 1;

/// Where a region's gateway is, as `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Where {
    /// Without TLS.
    pub http: Option<String>,
    /// With TLS.
    pub https: Option<String>,
}

/// What is durable at a region, so that the other one knows what it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Has {
    /// Its charter.
    pub charter: CharterTag,
    /// A digest of its branches.
    pub refs: [u8; 32],
    /// The releases whose files it has.
    pub releases: BTreeSet<u64>,
    /// The backups that it has.
    pub backups: BTreeSet<String>,
    /// The app could be recovered from this alone.
    pub is_whole: bool,
    /// Bytes of the database's first copy that are there,
    pub copied: u64,
    /// of so many.
    pub of: u64,
}

/// "What do you have that I lack?" Says at the same time what is durable at the asker, and so confirms what it was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) token: Token,
    /// What the asker is to the app.
    pub(super) role: Role,
    pub(super) gateway: Where,
    pub(super) has: Has,
    pub(super) ask: Ask,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Whatever is new; it may be waited for so long.
    News { wait_millis: u32 },
    /// What the repository has beyond these branches, from this byte on.
    Pack { have: Refs, offset: u64 },
    /// The files of a release.
    Release { number: u64, offset: u64 },
    /// A file of a backup.
    Backup { id: String, file: String, offset: u64 },
    /// What the database's replica asks its source.
    Database { request: Vec<u8>, wait_millis: u32 },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) token: Token,
    pub(super) role: Role,
    pub(super) gateway: Where,
    /// The answerer's clock.
    pub(super) at: Moment,
    /// How far the answerer is.
    pub(super) watermark: Watermark,
    pub(super) body: Body,
}

/// What is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Body {
    /// The asker may not have it, or there is nothing yet.
    Nothing,
    /// What there is.
    News(News),
    /// A piece of a file.
    Piece(Piece),
    /// What the database says to its replica.
    Database(Vec<u8>),
}

/// What there is to be had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct News {
    /// The charter, when it is another one than the asker has.
    pub(super) charter: Option<Vec<u8>>,
    pub(super) refs: [u8; 32],
    pub(super) releases: BTreeSet<u64>,
    pub(super) backups: Vec<BackupFiles>,
}

/// A backup and the names of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BackupFiles {
    pub(super) id: String,
    pub(super) files: Vec<String>,
}

/// A piece of a file that is fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    /// Where the next one begins; `None`: that was the last.
    pub(super) next: Option<u64>,
    /// With a pack: the branches as they are with it.
    pub(super) refs: Option<Refs>,
}

/// Branches, briefly.
pub(super) fn print(refs: &Refs) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(refs).unwrap_or_default()).into()
}

pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(message, vec![VERSION]).unwrap_or_default()
}

/// What was said, or why it cannot be understood.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|error| {
            format!("the other region of the app says what cannot be understood ({error}): run the same farshore in both")
        }),
        Some((version, _)) => Err(format!(
            "the other region of the app speaks version {version}, this one version {VERSION}: run the same farshore in both"
        )),
        None => Err("the other region of the app says nothing".into()),
    }
}
