//! Data of handshake options, from foreign bytes to types. Pure.

use super::proto::{NAME_MAX, info};

/// The data of an option does not have the form that the protocol gives it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum OptionError {
    #[error("option data ends {missing} bytes early")]
    Truncated { missing: usize },
    #[error("option data has {extra} bytes too many")]
    Trailing { extra: usize },
    #[error("a name has {len} bytes, more than {NAME_MAX}")]
    NameTooLong { len: usize },
    #[error("a name is not UTF-8")]
    NotText,
}

/// Data of `INFO` and `GO`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InfoRequest<'a> {
    pub(super) name: &'a str,
    /// The client asked to hear the name that we use.
    pub(super) wants_name: bool,
}

/// Data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MetaRequest<'a> {
    pub(super) name: &'a str,
    pub(super) queries: Vec<&'a str>,
}

impl<'a> InfoRequest<'a> {
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, OptionError> {
        let mut fields = Fields(data);
        let name = fields.name()?;
        let count = fields.u16()?;
        let mut wants_name = false;
        for _ in 0..count {
            wants_name |= fields.u16()? == info::NAME;
        }
        fields.end()?;
        Ok(Self { name, wants_name })
    }
}

impl<'a> MetaRequest<'a> {
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, OptionError> {
        let mut fields = Fields(data);
        let name = fields.name()?;
        let count = fields.u32()?;
        // Grows with the data that is really there, not with the count that is claimed.
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(fields.name()?);
        }
        fields.end()?;
        Ok(Self { name, queries })
    }
}

/// An export name that fills the whole data.
pub(super) fn plain_name(data: &[u8]) -> Result<&str, OptionError> {
    checked_name(data)
}

fn checked_name(bytes: &[u8]) -> Result<&str, OptionError> {
    if bytes.len() > NAME_MAX {
        return Err(OptionError::NameTooLong { len: bytes.len() });
    }
    std::str::from_utf8(bytes).map_err(|_| OptionError::NotText)
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], OptionError> {
        let Some((head, tail)) = self.0.split_at_checked(len) else {
            return Err(OptionError::Truncated { missing: len - self.0.len() });
        };
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], OptionError> {
        let Some((head, tail)) = self.0.split_first_chunk::<N>() else {
            return Err(OptionError::Truncated { missing: N - self.0.len() });
        };
        self.0 = tail;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, OptionError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, OptionError> {
        self.array().map(u32::from_be_bytes)
    }

    fn name(&mut self) -> Result<&'a str, OptionError> {
        let len = self.u32()? as usize;
        checked_name(self.bytes(len)?)
    }

    fn end(self) -> Result<(), OptionError> {
        match self.0.len() {
            0 => Ok(()),
            extra => Err(OptionError::Trailing { extra }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(name: &[u8], rest: &[u8]) -> Vec<u8> {
        [&u32::try_from(name.len()).unwrap().to_be_bytes()[..], name, rest].concat()
    }

    #[test]
    fn info_requests_are_read() {
        let request = named(b"web-1", &[0, 2, 0, 3, 0, 1]);
        assert_eq!(InfoRequest::parse(&request), Ok(InfoRequest { name: "web-1", wants_name: true }));
        assert_eq!(InfoRequest::parse(&named(b"", &[0, 0])), Ok(InfoRequest { name: "", wants_name: false }));
    }

    #[test]
    fn damaged_info_requests_say_what_is_wrong() {
        let rows: [(Vec<u8>, OptionError); 6] = [
            (vec![], OptionError::Truncated { missing: 4 }),
            (vec![0, 0, 0, 9, 1], OptionError::Truncated { missing: 8 }),
            (named(b"x", &[]), OptionError::Truncated { missing: 2 }),
            (named(b"x", &[0, 1, 0]), OptionError::Truncated { missing: 1 }),
            (named(b"x", &[0, 0, 7]), OptionError::Trailing { extra: 1 }),
            (named(&[0xff], &[0, 0]), OptionError::NotText),
        ];
        for (data, expected) in rows {
            assert_eq!(InfoRequest::parse(&data), Err(expected), "{data:?}");
        }
        let long = named(&[b'a'; NAME_MAX + 1], &[0, 0]);
        assert_eq!(InfoRequest::parse(&long), Err(OptionError::NameTooLong { len: NAME_MAX + 1 }));
    }

    #[test]
    fn meta_requests_are_read() {
        let data = named(b"a", &[&[0, 0, 0, 2][..], &named(b"base:", b""), &named(b"x:y", b"")].concat());
        let expected = MetaRequest { name: "a", queries: vec!["base:", "x:y"] };
        assert_eq!(MetaRequest::parse(&data), Ok(expected));
    }

    #[test]
    fn a_claimed_count_allocates_nothing() {
        let data = named(b"a", &[0xff; 4]);
        assert_eq!(MetaRequest::parse(&data), Err(OptionError::Truncated { missing: 4 }));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(data in proptest::collection::vec(any::<u8>(), 0..512)) {
            drop(InfoRequest::parse(&data));
            drop(plain_name(&data));
            if let Ok(request) = MetaRequest::parse(&data) {
                prop_assert!(request.queries.len() <= data.len() / 4);
            }
        }

        #[test]
        fn nearly_good_data_never_panics(cut in 0_usize..40, at in 0_usize..40, byte in any::<u8>()) {
            let mut data =
                named(b"disk", &[&[0, 0, 0, 2][..], &named(b"base:", b""), &named(b"x:y", b"")].concat());
            let at = at % data.len();
            data[at] = byte;
            data.truncate(data.len().saturating_sub(cut));
            drop(MetaRequest::parse(&data));
            drop(InfoRequest::parse(&data));
        }
    }
}
