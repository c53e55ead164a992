//! What the two regions say to each other about a PostgreSQL database: a replica's request and its source's answer.
//!
//! Both are a version byte and a postcard record. Bytes of the log and of a base travel compressed when that helps, each run
//! with its checksum.

use serde::{Deserialize, Serialize};

use super::records::Reach;
use crate::data::{DataError, Position};

/// The only version so far.
const VERSION: u8 = 1;
/// Shorter runs are sent as they are.
const PACK_BYTES_MIN: usize = 512;
/// No run is longer: what one answer may bring.
pub(super) const RUN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One history of the log: what a base and the log after it must have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    /// The server's own number, made with its first files.
    pub(super) system: u64,
    /// Raised each time a region takes over.
    pub(super) timeline: u32,
    /// Made by chance each time a directory is opened first, and when its numbers were raised: a test and a failover from the
    /// same replica are two.
    pub(super) series: u64,
}

/// What a replica has, and what it wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Request {
    /// What it follows; nothing at first.
    pub(super) chain: Option<Chain>,
    /// The next byte of the log that it wants.
    pub(super) from: u64,
    /// Everything before it is durable there.
    pub(super) durable: Reach,
    /// Whether it can be restored.
    pub(super) is_whole: bool,
    /// Whether it wants a base.
    pub(super) base: Wish,
}

/// What a replica wants of a base: a copy of the server's files, from which the log leads on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Wish {
    /// It has one.
    Nothing,
    /// One from the beginning.
    New,
    /// The next bytes of one.
    GoOn {
        /// Which.
        id: u64,
        /// What is there already.
        offset: u64,
    },
}

/// What the source sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// What the source writes.
    pub(super) chain: Chain,
    /// How far it is.
    pub(super) theirs: Position,
    /// The log that the replica wants is not there: it must begin anew, with a base.
    pub(super) is_broken: bool,
    /// Some of the base.
    pub(super) base: Option<BaseRun>,
    /// Some of the log.
    pub(super) log: Option<LogRun>,
}

/// Some bytes of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LogRun {
    /// Where they lie.
    pub(super) from: u64,
    /// They.
    pub(super) run: Run,
}

/// Some bytes of a base, an archive of files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BaseRun {
    /// Which.
    pub(super) id: u64,
    /// Where they lie.
    pub(super) offset: u64,
    /// They.
    pub(super) run: Run,
    /// About how long the base will be.
    pub(super) total: u64,
    /// The log that is needed begins here.
    pub(super) begins: Reach,
    /// With the last bytes: the log is needed at least up to here.
    pub(super) ends: Option<u64>,
}

/// Bytes on their way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    len: u32,
    crc: u32,
    is_packed: bool,
    #[serde(with = "serde_bytes_vec")]
    bytes: Vec<u8>,
}

/// Bytes as bytes: element by element they would take a call each.
mod serde_bytes_vec {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

impl Run {
    /// Packs at most [`RUN_BYTES_MAX`].
    pub(super) fn pack(bytes: &[u8]) -> Self {
        debug_assert!(bytes.len() <= RUN_BYTES_MAX);
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let crc = crc32c::crc32c(bytes);
        if bytes.len() >= PACK_BYTES_MIN {
            let packed = lz4_flex::block::compress(bytes);
            if packed.len() < bytes.len() {
                return Self { len, crc, is_packed: true, bytes: packed };
            }
        }
        Self { len, crc, is_packed: false, bytes: bytes.to_vec() }
    }

    /// The bytes as they were, or a word on what is wrong with them.
    pub(super) fn unpack(self) -> Result<Vec<u8>, DataError> {
        let foreign = |what: &str| DataError::Foreign(format!("{what}: nothing of it was kept"));
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        if len > RUN_BYTES_MAX {
            return Err(foreign("more bytes at once than anyone may"));
        }
        let bytes = if self.is_packed {
            lz4_flex::block::decompress(&self.bytes, len).map_err(|_| foreign("bytes that do not unpack"))?
        } else {
            self.bytes
        };
        if bytes.len() != len || crc32c::crc32c(&bytes) != self.crc {
            return Err(foreign("bytes that were changed on their way"));
        }
        Ok(bytes)
    }
}

impl Request {
    /// As it is sent.
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// As it came.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DataError> {
        decode(bytes, "a request for a PostgreSQL database")
    }
}

impl Answer {
    /// As it is sent.
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// As it came.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DataError> {
        decode(bytes, "an answer about a PostgreSQL database")
    }
}

fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    postcard::to_extend(record, vec![VERSION]).expect("plain data is always encoded")
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, DataError> {
    let foreign = |why: String| DataError::Foreign(format!("{what} that {why}"));
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|error| foreign(format!("cannot be read ({error})")))
        }
        Some((version, _)) => Err(foreign(format!("has the version {version}; this region knows {VERSION}"))),
        None => Err(foreign("is empty".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::moment::Moment;

    use super::*;

    fn answer(bytes: &[u8]) -> Answer {
        let position = Position { commits: 3, bytes: 400, at: Moment(5) };
        let run = Run::pack(bytes);
        Answer {
            chain: Chain { system: 7, timeline: 2, series: 1 },
            theirs: position,
            is_broken: false,
            base: Some(BaseRun {
                id: 1,
                offset: 9,
                run: run.clone(),
                total: 10,
                begins: Reach::at(8, position),
                ends: Some(3),
            }),
            log: Some(LogRun { from: 5, run }),
        }
    }

    #[test]
    fn an_answer_comes_as_it_was_sent_and_small() {
        let zeros = vec![0; RUN_BYTES_MAX];
        let sent = answer(&zeros);
        let bytes = sent.encode();
        assert!(bytes.len() < 64 * 1024, "{}", bytes.len());
        let came = Answer::decode(&bytes).unwrap();
        assert_eq!(came, sent);
        assert_eq!(came.log.unwrap().run.unpack().unwrap(), zeros);
    }

    #[test]
    fn an_answer_that_was_changed_is_never_taken() {
        let good = answer(&(0..=255).cycle().take(600).collect::<Vec<u8>>()).encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            let run = |answer: Answer| answer.log.map(|log| log.run.unpack()).transpose();
            let same = |came: &Answer| *came == Answer::decode(&good).unwrap();
            if let Ok(came) = Answer::decode(&bad) {
                assert!(!same(&came), "byte {at}");
                drop(run(came)); // May be refused; must not panic.
            }
        }
        for cut in 0..good.len() {
            assert!(Answer::decode(&good[..cut]).is_err(), "{cut}");
        }
        assert!(Request::decode(&[9, 1]).unwrap_err().to_string().contains("version 9"));
    }
}
