//! Frames of RFC 6455 as a stream of bytes, without input or output.

/// The longest payload of a control frame (RFC 6455, 5.5).
pub(super) const CONTROL_MAX: usize = 125;
/// Two bytes, eight of length, four of mask.
const HEADER_MAX: usize = 14;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Close,
    Ping,
    Pong,
}

/// The other side broke the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a frame with a reserved bit, an unknown kind or text: MQTT comes in binary frames")]
    Kind,
    #[error("a client's frame without a mask")]
    Unmasked,
    #[error("a control frame in fragments or of more than 125 bytes")]
    Control,
    #[error("a frame of more than 2^63 bytes")]
    Length,
}

/// A ping's payload, or nothing.
type Control = (Kind, Vec<u8>);

/// Cuts the stream out of frames, wherever they are cut themselves.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; HEADER_MAX],
    header_len: u8,
    frame: Option<Frame>,
    control: Vec<u8>,
}

#[derive(Debug)]
struct Frame {
    kind: Kind,
    left: u64,
    mask: [u8; 4],
}

impl Frames {
    /// Moves what `bytes` carry to their beginning and returns its length. Control frames go to `on`, which returns whether to
    /// go on; what comes after is ignored if not.
    pub(super) fn unwrap(
        &mut self,
        bytes: &mut [u8],
        on: &mut dyn FnMut(Control) -> bool,
    ) -> Result<usize, Violation> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() {
            let Some(frame) = &mut self.frame else {
                from += self.take_header(&bytes[from..])?;
                if !self.take_empty(on) {
                    return Ok(to);
                }
                continue;
            };
            let len = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len() - from);
            unmask(&mut bytes[from..from + len], &mut frame.mask);
            frame.left -= len as u64;
            if frame.kind == Kind::Data {
                bytes.copy_within(from..from + len, to);
                to += len;
            } else {
                self.control.extend_from_slice(&bytes[from..from + len]);
            }
            from += len;
            if !self.take_empty(on) {
                return Ok(to);
            }
        }
        Ok(to)
    }

    /// Ends a frame of which nothing is left.
    fn take_empty(&mut self, on: &mut dyn FnMut(Control) -> bool) -> bool {
        match self.frame.take_if(|frame| frame.left == 0) {
            Some(frame) if frame.kind != Kind::Data => on((frame.kind, std::mem::take(&mut self.control))),
            _ => true,
        }
    }

    /// Takes as much of a header as there is.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let had = usize::from(self.header_len);
        let add = (HEADER_MAX - had).min(bytes.len());
        self.header[had..had + add].copy_from_slice(&bytes[..add]);
        match parse(&self.header[..had + add])? {
            Some((frame, len)) => {
                self.frame = Some(frame);
                self.header_len = 0;
                // A header is never whole before its last byte came with these.
                Ok(len - had)
            }
            None => {
                self.header_len = u8::try_from(had + add).unwrap_or(0);
                Ok(add)
            }
        }
    }
}

/// Nothing while bytes are missing.
fn parse(bytes: &[u8]) -> Result<Option<(Frame, usize)>, Violation> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let kind = match first & 0x7F {
        0x0 | 0x2 => Kind::Data,
        0x8 => Kind::Close,
        0x9 => Kind::Ping,
        0xA => Kind::Pong,
        _ => return Err(Violation::Kind),
    };
    if second & 0x80 == 0 {
        return Err(Violation::Unmasked);
    }
    let short = second & 0x7F;
    if kind != Kind::Data && (usize::from(short) > CONTROL_MAX || first & 0x80 == 0) {
        return Err(Violation::Control);
    }
    let (left, wide) = match short {
        126 => (rest.first_chunk().map(|wide| u64::from(u16::from_be_bytes(*wide))), 2),
        127 => (rest.first_chunk().map(|wide| u64::from_be_bytes(*wide)), 8),
        short => (Some(u64::from(short)), 0),
    };
    let Some((left, mask)) = left.zip(rest.get(wide..).and_then(<[u8]>::first_chunk)) else {
        return Ok(None);
    };
    if left >> 63 != 0 {
        return Err(Violation::Length);
    }
    Ok(Some((Frame { kind, left, mask: *mask }, 2 + wide + mask.len())))
}

/// Turns `mask` so that it fits what comes next.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let (words, tail) = bytes.as_chunks_mut::<4>();
    let wide = u32::from_ne_bytes(*mask);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(*mask) {
        *byte ^= key;
    }
    mask.rotate_left(tail.len());
}

/// The header of a server's frame.
pub(super) fn head(kind: Kind, len: usize, out: &mut Vec<u8>) {
    let opcode = match kind {
        Kind::Data => 0x2,
        Kind::Close => 0x8,
        Kind::Ping => 0x9,
        Kind::Pong => 0xA,
    };
    out.push(0x80 | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short), _) if short < 126 => out.push(short),
        (_, Ok(wide)) => {
            out.push(126);
            out.extend_from_slice(&wide.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A client's frame.
    fn masked(kind: Kind, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut frame = Vec::new();
        head(kind, payload.len(), &mut frame);
        frame[1] |= 0x80;
        frame.extend_from_slice(&mask);
        let at = frame.len();
        frame.extend_from_slice(payload);
        unmask(&mut frame[at..], &mut mask.clone());
        frame
    }

    fn unwrapped(pieces: &[Vec<u8>]) -> Result<(Vec<u8>, Vec<Control>), Violation> {
        let (mut frames, mut carried, mut controls) = (Frames::default(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut piece = piece.clone();
            let len = frames.unwrap(&mut piece, &mut |control| {
                controls.push(control);
                true
            })?;
            carried.extend_from_slice(&piece[..len]);
        }
        Ok((carried, controls))
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bytes, expected) in [
            (vec![0x81, 0x80], Violation::Kind),
            (vec![0xC2, 0x80], Violation::Kind),
            (vec![0x8B, 0x80], Violation::Kind),
            (vec![0x82, 0x00], Violation::Unmasked),
            (vec![0x09, 0x80], Violation::Control),
            (vec![0x89, 0xFE], Violation::Control),
            ([&[0x82, 0xFF][..], &[0xFF; 12][..]].concat(), Violation::Length),
        ] {
            assert_eq!(unwrapped(std::slice::from_ref(&bytes)), Err(expected), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn the_stream_is_the_same_however_it_is_cut(
            payloads in vec((vec(any::<u8>(), 0..300), any::<[u8; 4]>(), any::<bool>()), 0..6),
            cut in 1_usize..50,
        ) {
            let (mut sent, mut data, mut pings) = (Vec::new(), Vec::new(), Vec::new());
            for (payload, mask, ping) in payloads {
                if ping {
                    let payload = payload[..payload.len().min(CONTROL_MAX)].to_vec();
                    sent.extend(masked(Kind::Ping, &payload, mask));
                    pings.push((Kind::Ping, payload));
                } else {
                    sent.extend(masked(Kind::Data, &payload, mask));
                    data.extend(payload);
                }
            }
            let pieces: Vec<_> = sent.chunks(cut).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(unwrapped(&pieces).unwrap(), (data, pings));
        }

        #[test]
        fn rubbish_never_panics(pieces in vec(vec(any::<u8>(), 0..40), 0..6)) {
            let _ = unwrapped(&pieces);
        }
    }
}
