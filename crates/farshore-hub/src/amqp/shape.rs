//! The shape of encoded values, walked without decoding them.
//!
//! The library that decodes recurses once per nested value and believes counts: a frame of nothing but nesting would end the
//! process, and an array of four thousand million empty values would fill its memory. What passes here can do neither.

/// Deepest nesting of values. The deepest the official SDKs send is 6: a frame, its source, a filter, what it describes.
const DEPTH_MAX: usize = 16;

/// Bytes that are no encoded value, or one that nobody sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the value ends before its end")]
    Short,
    #[error("{0:#04x} begins no value")]
    Code(u8),
    #[error("a list, map or array is longer or shorter than it says")]
    Length,
    #[error("values are nested deeper than {DEPTH_MAX}")]
    Deep,
    #[error("an array holds values that no field here can have")]
    Array,
}

/// What is left to walk: so many values, which end by `end`.
struct Level {
    values: u32,
    end: usize,
    /// A list or map says its length; a described value does not.
    exact: bool,
}

/// Where the value at the beginning of `bytes` ends.
pub(super) fn end_of_value(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut levels = vec![Level { values: 1, end: bytes.len(), exact: false }];
    let mut at = 0;
    while let Some(level) = levels.last_mut() {
        if level.values == 0 {
            if level.exact && at != level.end {
                return Err(Malformed::Length);
            }
            levels.pop();
            continue;
        }
        level.values -= 1;
        let end = level.end;
        let inner = value(bytes.get(..end).ok_or(Malformed::Short)?, &mut at)?;
        if let Some(inner) = inner {
            if levels.len() == DEPTH_MAX {
                return Err(Malformed::Deep);
            }
            levels.push(inner);
        }
    }
    Ok(at)
}

/// Steps over one value, or into it.
fn value(bytes: &[u8], at: &mut usize) -> Result<Option<Level>, Malformed> {
    let code = take(bytes, at, 1)?[0];
    match code >> 4 {
        0 if code == 0 => return Ok(Some(Level { values: 2, end: bytes.len(), exact: false })),
        0x4..=0x9 => {
            take(bytes, at, fixed_width(code).ok_or(Malformed::Code(code))?)?;
        }
        0xA | 0xB => {
            let length = size(bytes, at, code)?;
            take(bytes, at, length)?;
        }
        0xC | 0xD => {
            let length = size(bytes, at, code)?;
            let end = at.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(Malformed::Length)?;
            let values = u32::try_from(size(&bytes[..end], at, code)?).map_err(|_| Malformed::Length)?;
            return Ok(Some(Level { values, end, exact: true }));
        }
        0xE | 0xF => array(bytes, at, code)?,
        _ => return Err(Malformed::Code(code)),
    }
    Ok(None)
}

/// Steps over an array. Its elements are without their own code: only plain ones can be told apart by looking.
fn array(bytes: &[u8], at: &mut usize, code: u8) -> Result<(), Malformed> {
    let length = size(bytes, at, code)?;
    let end = at.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(Malformed::Length)?;
    let bytes = &bytes[..end];
    let count = size(bytes, at, code)?;
    if count > length {
        return Err(Malformed::Length);
    }
    let element = take(bytes, at, 1)?[0];
    for _ in 0..count {
        match element >> 4 {
            0x4..=0x9 => take(bytes, at, fixed_width(element).ok_or(Malformed::Code(element))?)?,
            0xA | 0xB => {
                let length = size(bytes, at, element)?;
                take(bytes, at, length)?
            }
            _ => return Err(Malformed::Array),
        };
    }
    if *at == end { Ok(()) } else { Err(Malformed::Length) }
}

fn fixed_width(code: u8) -> Option<usize> {
    match code >> 4 {
        0x4 => Some(0),
        class @ 0x5..=0x9 => Some(1 << (class - 5)),
        _ => None,
    }
}

/// A size or count: one byte in the codes A, C and E, four in the others.
fn size(bytes: &[u8], at: &mut usize, code: u8) -> Result<usize, Malformed> {
    if matches!(code >> 4, 0xA | 0xC | 0xE) {
        return Ok(usize::from(take(bytes, at, 1)?[0]));
    }
    let four = take(bytes, at, 4)?;
    Ok(u32::from_be_bytes([four[0], four[1], four[2], four[3]]) as usize)
}

fn take<'a>(bytes: &'a [u8], at: &mut usize, count: usize) -> Result<&'a [u8], Malformed> {
    let end = at.checked_add(count).ok_or(Malformed::Short)?;
    let taken = bytes.get(*at..end).ok_or(Malformed::Short)?;
    *at = end;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_where_they_end() {
        let rows: [(&[u8], Result<usize, Malformed>); 22] = [
            (&[0x40, 9, 9], Ok(1)),
            (&[0x56, 1], Ok(2)),
            (&[0x71, 0, 0, 0, 1], Ok(5)),
            (&[0x98, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], Ok(17)),
            (&[0xA1, 2, b'h', b'i'], Ok(4)),
            (&[0xB1, 0, 0, 0, 1, b'h', 7], Ok(6)),
            (&[0x45], Ok(1)),
            (&[0xC0, 3, 2, 0x40, 0x41], Ok(5)),
            (&[0xD0, 0, 0, 0, 5, 0, 0, 0, 1, 0x40], Ok(10)),
            (&[0x00, 0x53, 0x10, 0xC0, 1, 0], Ok(6)),
            (&[0xE0, 4, 1, 0xA3, 1, b'x'], Ok(6)),
            (&[], Err(Malformed::Short)),
            (&[0x00], Err(Malformed::Short)),
            (&[0xA1, 5, b'h'], Err(Malformed::Short)),
            (&[0x20], Err(Malformed::Code(0x20))),
            (&[0xC0, 9, 1, 0x40], Err(Malformed::Length)),
            (&[0xC0, 3, 1, 0x40, 0x40], Err(Malformed::Length)),
            (&[0xC0, 2, 3, 0x40], Err(Malformed::Short)),
            (&[0xD0, 0, 0, 0, 4, 0xFF, 0xFF, 0xFF, 0xFF], Err(Malformed::Short)),
            (&[0xF0, 0, 0, 0, 5, 0xFF, 0xFF, 0xFF, 0xFF, 0x40], Err(Malformed::Length)),
            (&[0xE0, 2, 1, 0xC0], Err(Malformed::Array)),
            (&[0xFF; 9], Err(Malformed::Length)),
        ];
        for (bytes, expected) in rows {
            assert_eq!(end_of_value(bytes), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn nesting_ends_the_walk_and_not_the_process() {
        assert_eq!(end_of_value(&vec![0; 1 << 20]), Err(Malformed::Deep));
        let lists = [0xC0, 200, 1].repeat(1000);
        assert!(end_of_value(&lists).is_err());
    }
}
