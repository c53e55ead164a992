//! Little-endian fields in a row: written without fail, read with every bound checked.

use farshore_core::ids::Epoch;
use farshore_core::moment::Moment;
use farshore_core::workload::Watermark;

use super::frame::FrameError;

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Texts are short (names, a secret, one sentence); a longer one is cut at a character.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_u16(out, u16::try_from(end).unwrap_or(u16::MAX));
    out.extend_from_slice(&text.as_bytes()[..end]);
}

pub(super) fn put_watermark(out: &mut Vec<u8>, mark: Watermark) {
    put_u64(out, mark.epoch.0);
    put_u64(out, mark.seq);
    put_u64(out, mark.bytes);
    put_u64(out, mark.at.0);
}

/// What is left of a payload.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(FrameError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(FrameError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, FrameError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn flag(&mut self) -> Result<bool, FrameError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FrameError::Invalid("a flag is neither 0 nor 1")),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, FrameError> {
        let len = usize::from(self.u16()?);
        let bytes = self.take(len)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| FrameError::Invalid("a text is not UTF-8"))
    }

    pub(super) fn watermark(&mut self) -> Result<Watermark, FrameError> {
        Ok(Watermark {
            epoch: Epoch(self.u64()?),
            seq: self.u64()?,
            bytes: self.u64()?,
            at: Moment(self.u64()?),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
