//! RFC 6455 as far as a client that trusts its server needs it: whole frames in, short frames out.

/// Longer frames than a server under test makes; a number above it means that bytes were misread.
const FRAME_MAX: u64 = 64 << 20;
/// Any mask will do where nobody between could be confused.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// What a server sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
}

/// Cuts what was read into frames; holds memory only between the halves of one.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    carried: Vec<u8>,
}

impl Frames {
    /// Calls `on` for each whole frame. An error: these are not frames.
    pub(crate) fn feed(&mut self, input: &[u8], mut on: impl FnMut(Frame<'_>)) -> Result<(), &'static str> {
        let mut joined = std::mem::take(&mut self.carried);
        let mut rest = if joined.is_empty() {
            input
        } else {
            joined.extend_from_slice(input);
            joined.as_slice()
        };
        while let Some((frame, length)) = first(rest)? {
            on(frame);
            rest = &rest[length..];
        }
        self.carried.extend_from_slice(rest);
        Ok(())
    }
}

fn first(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, &'static str> {
    let &[start, short, ..] = bytes else { return Ok(None) };
    let (length, head) = match short {
        126 => match bytes.get(2..).and_then(<[u8]>::first_chunk) {
            Some(length) => (u64::from(u16::from_be_bytes(*length)), 4),
            None => return Ok(None),
        },
        127 => match bytes.get(2..).and_then(<[u8]>::first_chunk) {
            Some(length) => (u64::from_be_bytes(*length), 10),
            None => return Ok(None),
        },
        0..126 => (u64::from(short), 2),
        128.. => return Err("the server masks its frames"),
    };
    if length > FRAME_MAX {
        return Err("a frame above 64 MiB: the server's bytes are no frames");
    }
    let whole = head + usize::try_from(length).map_err(|_| "a frame longer than memory")?;
    Ok(bytes.get(head..whole).map(|payload| (Frame { opcode: start & 15, payload }, whole)))
}

/// A client's frame: masked.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..126), _) => bytes.push(0x80 | short),
        (_, Ok(medium)) => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}
