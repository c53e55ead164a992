//! The wire format of protocol buffers, as far as these messages use it: bounded, without allocation.

/// Groups are long deprecated, yet unknown fields may contain them: how deep they are followed before the frame is refused.
const GROUP_DEPTH_MAX: usize = 16;

/// These bytes are no encoded message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads an encoded message field by field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// A field's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Fixed numbers and groups: no field here has them.
    Other,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field, or nothing at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.tag()?;
        let value = match wire_type {
            END_GROUP => return Err(Malformed),
            START_GROUP => self.group(number)?,
            wire_type => self.value(wire_type)?,
        };
        Ok(Some((number, value)))
    }

    fn tag(&mut self) -> Result<(u64, u8), Malformed> {
        let tag = self.varint()?;
        // Field numbers have 29 bits and begin with 1.
        if tag >> 3 == 0 || tag >> 32 != 0 {
            return Err(Malformed);
        }
        Ok((tag >> 3, (tag & 7) as u8))
    }

    fn value(&mut self, wire_type: u8) -> Result<Value<'a>, Malformed> {
        match wire_type {
            0 => self.varint().map(Value::Varint),
            1 => self.take(8).map(|_| Value::Other),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                self.take(len).map(Value::Bytes)
            }
            5 => self.take(4).map(|_| Value::Other),
            _ => Err(Malformed),
        }
    }

    /// Skips to the end of the group `number` that has just begun.
    fn group(&mut self, number: u64) -> Result<Value<'a>, Malformed> {
        let mut open = [0; GROUP_DEPTH_MAX];
        open[0] = number;
        let mut depth = 1;
        while depth > 0 {
            match self.tag()? {
                (number, START_GROUP) => {
                    *open.get_mut(depth).ok_or(Malformed)? = number;
                    depth += 1;
                }
                (number, END_GROUP) => {
                    depth -= 1;
                    if open[depth] != number {
                        return Err(Malformed);
                    }
                }
                (_, wire_type) => {
                    self.value(wire_type)?;
                }
            }
        }
        Ok(Value::Other)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (at, &byte) in self.rest.iter().enumerate().take(10) {
            // The tenth byte has room for one bit.
            if at == 9 && byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(Malformed)
    }
}

const START_GROUP: u8 = 3;
const END_GROUP: u8 = 4;

/// Whether the bytes are an encoded `google.protobuf.Any`: a type URL (1) that is UTF-8, a value (2) of any bytes. They are
/// passed on inside other messages, so that bad ones would break the receivers.
pub(in super::super) fn is_any(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    loop {
        match reader.field() {
            Ok(None) => return true,
            Ok(Some((1, Value::Bytes(url)))) if std::str::from_utf8(url).is_err() => return false,
            Ok(Some(_)) => {}
            Err(Malformed) => return false,
        }
    }
}

/// How many bytes [`put_varint`] takes.
pub(in super::super) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Writes `value` at the beginning of `out`, which has room for ten bytes; says how many it took.
pub(in super::super) fn put_varint(out: &mut [u8], mut value: u64) -> usize {
    let mut len = 0;
    for byte in out {
        len += 1;
        *byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            break;
        }
        *byte |= 0x80;
    }
    len
}

/// Appends a field with a number; zero is what an absent field means.
pub(super) fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        push_varint(out, u64::from(field << 3));
        push_varint(out, value);
    }
}

/// Appends a field with bytes, text or a message.
pub(super) fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    push_varint(out, u64::from(field << 3 | 2));
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a text; an empty one is what an absent field means.
pub(super) fn put_text(out: &mut Vec<u8>, field: u32, text: &str) {
    if !text.is_empty() {
        put_bytes(out, field, text.as_bytes());
    }
}

fn push_varint(out: &mut Vec<u8>, value: u64) {
    let mut bytes = [0; 10];
    let len = put_varint(&mut bytes, value);
    out.extend_from_slice(&bytes[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_have_the_length_that_is_announced() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
            let mut bytes = [0; 10];
            let len = put_varint(&mut bytes, value);
            assert_eq!(len, varint_len(value), "{value}");
            let mut reader = Reader::new(&bytes[..len]);
            assert_eq!(reader.varint(), Ok(value));
            assert!(reader.rest.is_empty());
        }
        assert_eq!(Reader::new(&[0xFF; 11]).varint(), Err(Malformed));
        assert_eq!(
            Reader::new(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2]).varint(),
            Err(Malformed)
        );
        assert_eq!(Reader::new(&[0x80]).varint(), Err(Malformed));
    }

    #[test]
    fn fields_that_nobody_knows_are_skipped() {
        let bytes = [
            &[0x08, 5][..],                     // 1: 5
            &[0x11, 1, 2, 3, 4, 5, 6, 7, 8],    // 2: fixed64
            &[0x1D, 1, 2, 3, 4],                // 3: fixed32
            &[0x23, 0x08, 1, 0x2B, 0x2C, 0x24], // 4: a group with a number and an empty group
            &[0x2A, 2, b'h', b'i'],             // 5: "hi"
        ]
        .concat();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.field(), Ok(Some((1, Value::Varint(5)))));
        for number in 2..=4 {
            assert_eq!(reader.field(), Ok(Some((number, Value::Other))));
        }
        assert_eq!(reader.field(), Ok(Some((5, Value::Bytes(b"hi")))));
        assert_eq!(reader.field(), Ok(None));
    }

    #[test]
    fn what_is_cut_or_crossed_is_malformed() {
        for bytes in [
            &[0x08][..],   // no value
            &[0x0A, 5, 1], // too short
            &[0x00, 1],    // field 0
            &[0x0C],       // a group ends that never began
            &[0x0B, 0x14], // another group ends
            &[0x0B],       // a group without an end
            &[0x0E],       // wire type 6
            &[0x0F],       // wire type 7
            &[0x09, 1, 2], // fixed64 cut
            &[0x0B; 1000], // too deep
        ] {
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.field(), Err(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn an_any_has_a_type_and_a_value() {
        assert!(is_any(b""));
        assert!(is_any(b"\x0A\x04type\x12\x02\xFF\xFE"));
        assert!(!is_any(b"\x0A\x02\xFF\xFE"));
        assert!(!is_any(b"hello"));
    }
}
