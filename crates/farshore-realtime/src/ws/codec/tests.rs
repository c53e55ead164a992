use proptest::prelude::*;

use super::*;

const MAX: usize = 1 << 20;

/// What came out, in a form that can be compared and read.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Bad(u16),
}

fn seen(incoming: Incoming<'_>) -> Seen {
    match incoming {
        Incoming::Text(text) => Seen::Text(text.to_owned()),
        Incoming::Binary(bytes) => Seen::Binary(bytes.to_vec()),
        Incoming::Ping(bytes) => Seen::Ping(bytes.to_vec()),
        Incoming::Pong(bytes) => Seen::Pong(bytes.to_vec()),
        Incoming::Close { code, reason } => Seen::Close(code, reason.to_owned()),
    }
}

fn feed(decoder: &mut Decoder, chunks: impl Iterator<Item = Vec<u8>>) -> Vec<Seen> {
    let mut all = Vec::new();
    for mut chunk in chunks {
        let fed = decoder.feed(&mut chunk, &mut |incoming| all.push(seen(incoming)));
        if let Err(violation) = fed {
            assert!(violation.reason.len() <= CLOSE_REASON_MAX);
            all.push(Seen::Bad(violation.code));
            break;
        }
    }
    all
}

fn decode(mut decoder: Decoder, bytes: &[u8], chunk: usize) -> Vec<Seen> {
    feed(&mut decoder, bytes.chunks(chunk.max(1)).map(<[u8]>::to_vec))
}

/// `first` is the whole first byte; masked as clients do.
fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = masked_frame(Opcode::Text, payload, [0x37, 0xFA, 0x21, 0x3D]);
    out[0] = first;
    out
}

fn check(name: &str, frames: &[Vec<u8>], expected: &[Seen]) {
    let bytes = frames.concat();
    for chunk in [1, 2, 3, 7, 64, 4096, bytes.len()] {
        assert_eq!(decode(Decoder::server(MAX), &bytes, chunk), expected, "{name}, {chunk} bytes at a time");
    }
}

fn text(text: &str) -> Seen {
    Seen::Text(text.to_owned())
}

const FIN_TEXT: u8 = 0x81;
const FIN_BINARY: u8 = 0x82;
const FIN_CLOSE: u8 = 0x88;
const FIN_PING: u8 = 0x89;
const FIN_PONG: u8 = 0x8A;
const TEXT: u8 = 0x01;
const BINARY: u8 = 0x02;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;

#[test]
fn whole_messages_of_every_length_form_come_out_as_they_went_in() {
    for len in [0, 1, 7, 8, 9, 125, 126, 127, 128, 65_535, 65_536, MAX] {
        let payload = vec![b'*'; len];
        check("text", &[raw(FIN_TEXT, &payload)], &[Seen::Text("*".repeat(len))]);
    }
    for len in [0, 1, 125, 126, 65_535, 65_536] {
        let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        check("binary", &[raw(FIN_BINARY, &payload)], &[Seen::Binary(payload.clone())]);
    }
}

#[test]
fn pings_and_pongs_are_told_in_order_even_amid_fragments() {
    check("ping", &[raw(FIN_PING, b"")], &[Seen::Ping(vec![])]);
    check("a full ping", &[raw(FIN_PING, &[9; 125])], &[Seen::Ping(vec![9; 125])]);
    check("ping of 126 bytes", &[raw(FIN_PING, &[9; 126])], &[Seen::Bad(1002)]);
    check("unasked pong", &[raw(FIN_PONG, b"x")], &[Seen::Pong(b"x".to_vec())]);
    check(
        "amid fragments",
        &[raw(TEXT, b"a"), raw(FIN_PING, b"p"), raw(MORE, b"b"), raw(FIN_PONG, b"q"), raw(LAST, b"c")],
        &[Seen::Ping(b"p".to_vec()), Seen::Pong(b"q".to_vec()), text("abc")],
    );
    check("a ping in fragments", &[raw(0x09, b"a")], &[Seen::Bad(1002)]);
}

#[test]
fn reserved_bits_and_opcodes_are_refused() {
    for bit in [0x40, 0x20, 0x10] {
        check(
            "reserved bit",
            &[raw(FIN_TEXT, b"a"), raw(FIN_TEXT | bit, b"b")],
            &[text("a"), Seen::Bad(1002)],
        );
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        check("opcode", &[raw(0x80 | opcode, b"")], &[Seen::Bad(1002)]);
    }
}

#[test]
fn fragments_are_joined_and_their_order_is_checked() {
    check("two", &[raw(TEXT, b"ab"), raw(LAST, b"cd")], &[text("abcd")]);
    check("binary", &[raw(BINARY, &[0xFF]), raw(LAST, &[0xFE])], &[Seen::Binary(vec![0xFF, 0xFE])]);
    check("empty ones", &[raw(TEXT, b""), raw(MORE, b""), raw(LAST, b"")], &[text("")]);
    check("an empty end", &[raw(TEXT, b"a"), raw(LAST, b"")], &[text("a")]);
    check("no beginning", &[raw(LAST, b"a")], &[Seen::Bad(1002)]);
    check("no beginning, more to come", &[raw(MORE, b"a")], &[Seen::Bad(1002)]);
    check("two beginnings", &[raw(TEXT, b"a"), raw(FIN_TEXT, b"b")], &[Seen::Bad(1002)]);
    check(
        "after an end",
        &[raw(TEXT, b"a"), raw(LAST, b"b"), raw(LAST, b"c")],
        &[text("ab"), Seen::Bad(1002)],
    );
}

#[test]
fn text_is_checked_across_fragments_and_as_early_as_can_be() {
    let word = "κόσμε 🌊";
    check("valid", &[raw(FIN_TEXT, word.as_bytes())], &[text(word)]);
    let bytes: Vec<Vec<u8>> = word.bytes().map(|byte| raw(MORE, &[byte])).collect();
    let fragments = [vec![raw(TEXT, b"")], bytes, vec![raw(LAST, b"")]].concat();
    check("byte by byte", &fragments, &[text(word)]);
    check("cut off", &[raw(FIN_TEXT, &word.as_bytes()[..2 + 1])], &[Seen::Bad(1007)]);
    check("surrogate", &[raw(FIN_TEXT, b"\xED\xA0\x80")], &[Seen::Bad(1007)]);
    check("too large", &[raw(FIN_TEXT, b"\xF4\x90\x80\x80")], &[Seen::Bad(1007)]);
    check("overlong", &[raw(FIN_TEXT, b"\xC0\xAF")], &[Seen::Bad(1007)]);
    check("early", &[raw(TEXT, b"ok\xF4\x90"), raw(FIN_PING, b"never told")], &[Seen::Bad(1007)]);
    check("cut at the end", &[raw(TEXT, b"\xCE"), raw(LAST, b"")], &[Seen::Bad(1007)]);
    check("binary may be anything", &[raw(FIN_BINARY, b"\xFF")], &[Seen::Binary(vec![0xFF])]);
}

#[test]
fn a_close_frame_ends_the_reading() {
    let close = |code: u16, reason: &[u8]| raw(FIN_CLOSE, &[&code.to_be_bytes(), reason].concat());
    check("empty", &[raw(FIN_CLOSE, b"")], &[Seen::Close(None, String::new())]);
    check("reason", &[close(1000, b"bye")], &[Seen::Close(Some(1000), "bye".into())]);
    check(
        "nothing after it",
        &[close(1000, b""), raw(FIN_PING, b""), raw(0xFF, b"")],
        &[Seen::Close(Some(1000), String::new())],
    );
    check("half a code", &[raw(FIN_CLOSE, &[3])], &[Seen::Bad(1002)]);
    check("bad reason", &[close(1000, b"\xFF")], &[Seen::Bad(1007)]);
    check("too long", &[close(1000, &[b'x'; 124])], &[Seen::Bad(1002)]);
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014, 3000, 3999, 4000, 4999] {
        check("allowed", &[close(code, b"")], &[Seen::Close(Some(code), String::new())]);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        check("not allowed", &[close(code, b"")], &[Seen::Bad(1002)]);
    }
}

#[test]
fn each_side_insists_on_its_mask() {
    let unmasked = frame(Opcode::Text, b"a");
    assert_eq!(decode(Decoder::server(MAX), &unmasked, 1), [Seen::Bad(1002)]);
    assert_eq!(decode(Decoder::client(MAX), &unmasked, 1), [text("a")]);
    assert_eq!(decode(Decoder::client(MAX), &raw(FIN_TEXT, b"a"), 99), [Seen::Bad(1002)]);
}

#[test]
fn lengths_have_one_form_only() {
    for bytes in [
        &[0x82, 0xFE, 0, 125][..],
        &[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
        &[0x82, 0xFF, 0x80, 0, 0, 0, 0, 1, 0, 0],
    ] {
        assert_eq!(decode(Decoder::server(MAX), bytes, 1), [Seen::Bad(1002)], "{bytes:?}");
    }
}

#[test]
fn what_is_too_big_is_refused_at_its_header_and_nothing_is_kept_for_it() {
    let mut decoder = Decoder::server(1000);
    let announced = [0x82, 0xFF, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4];
    assert_eq!(feed(&mut decoder, std::iter::once(announced.to_vec())), [Seen::Bad(1009)]);
    assert_eq!(decoder.kept(), 0);
    let mut again = raw(FIN_TEXT, b"a");
    assert_eq!(decoder.feed(&mut again, &mut |_| panic!("said after the end")).unwrap_err().code, 1009);

    let mut decoder = Decoder::server(1000);
    let fragments = [raw(BINARY, &[1; 600]), raw(MORE, &[1; 400]), raw(LAST, &[1; 1])];
    assert_eq!(feed(&mut decoder, fragments.into_iter()), [Seen::Bad(1009)]);
    assert_eq!(decode(Decoder::server(1000), &raw(FIN_TEXT, &[b'a'; 1001]), 1), [Seen::Bad(1009)]);
    assert_eq!(
        decode(Decoder::server(1000), &raw(FIN_TEXT, &[b'a'; 1000]), 1),
        [Seen::Text("a".repeat(1000))]
    );
}

#[test]
fn an_announced_megabyte_costs_nothing_until_it_comes() {
    let mut decoder = Decoder::server(MAX);
    let mut frame = raw(FIN_BINARY, &vec![7; MAX]);
    let (begun, rest) = frame.split_at_mut(100);
    decoder.feed(begun, &mut |_| panic!("not whole yet")).unwrap();
    assert!(decoder.kept() < 1000, "{} bytes kept", decoder.kept());
    let mut most = 0;
    for chunk in rest.chunks_mut(1000) {
        decoder.feed(chunk, &mut |_| {}).unwrap();
        most = most.max(decoder.kept());
    }
    assert!(most <= MAX + 256, "{most} bytes kept");
    assert_eq!(decoder.kept(), 0, "nothing is kept between messages");
}

#[test]
fn an_idle_decoder_is_small() {
    assert!(size_of::<Decoder>() <= 64, "{} bytes", size_of::<Decoder>());
    let mut decoder = Decoder::server(MAX);
    let mut frames = [raw(TEXT, b"a"), raw(LAST, b"b"), raw(FIN_PING, b"p")].concat();
    for byte in frames.chunks_mut(1) {
        decoder.feed(byte, &mut |_| {}).unwrap();
    }
    assert_eq!(decoder.kept(), 0);
}

#[test]
fn the_text_of_the_standard_is_encoded_as_the_standard_says() {
    assert_eq!(&frame(Opcode::Text, b"Hello")[..], b"\x81\x05Hello");
    assert_eq!(
        masked_frame(Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]),
        [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]
    );
    assert_eq!(head(Opcode::Binary, 256).as_slice(), [0x82, 0x7E, 0x01, 0x00]);
    assert_eq!(head(Opcode::Binary, 65_536).as_slice(), [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(&close_frame(1000, "")[..], [0x88, 2, 0x03, 0xE8]);
}

#[test]
fn a_long_reason_is_cut_between_two_characters() {
    let frame = close_frame(1008, &"é".repeat(100));
    let seen = decode(Decoder::client(MAX), &frame, 1000);
    assert_eq!(seen, [Seen::Close(Some(1008), "é".repeat(61))]);
}

/// Frames that are well-formed by themselves, in any order.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first =
        prop::sample::select(vec![TEXT, BINARY, MORE, LAST, FIN_TEXT, FIN_BINARY, FIN_PING, FIN_PONG]);
    (
        first,
        prop_oneof![prop::collection::vec(any::<u8>(), 0..200), "\\PC{0,50}".prop_map(String::into_bytes)],
    )
        .prop_map(|(first, payload)| raw(first, &payload[..payload.len().min(125)]))
}

/// The same bytes, cut at any places.
fn cut_at(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let (mut rest, mut chunks) = (bytes, Vec::new());
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at(rest.len().min(*size));
        chunks.push(chunk.to_vec());
        rest = after;
    }
    chunks
}

proptest! {
    #[test]
    fn the_outcome_does_not_depend_on_how_the_bytes_are_cut(
        frames in prop::collection::vec(any_frame(), 0..12),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        sizes in prop::collection::vec(1_usize..40, 1..8),
        max in 0_usize..400,
    ) {
        let mut bytes = frames.concat();
        for (at, value) in flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= value;
            }
        }
        let whole = decode(Decoder::server(max), &bytes, bytes.len());
        let mut decoder = Decoder::server(max);
        prop_assert_eq!(&whole, &feed(&mut decoder, cut_at(&bytes, &sizes).into_iter()));
        prop_assert!(decoder.kept() <= max + 512);
    }

    #[test]
    fn rubbish_is_never_more_than_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        sizes in prop::collection::vec(1_usize..40, 1..8),
    ) {
        for decoder in [Decoder::server, Decoder::client] {
            let whole = decode(decoder(500), &bytes, bytes.len());
            let mut cut = decoder(500);
            prop_assert_eq!(&whole, &feed(&mut cut, cut_at(&bytes, &sizes).into_iter()));
        }
    }

    #[test]
    fn a_mask_is_undone_wherever_it_is_cut(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        mask in any::<[u8; 4]>(),
        sizes in prop::collection::vec(1_usize..40, 1..8),
    ) {
        let bytes = masked_frame(Opcode::Binary, &payload, mask);
        let mut decoder = Decoder::server(MAX);
        let seen = feed(&mut decoder, cut_at(&bytes, &sizes).into_iter());
        prop_assert_eq!(seen, vec![Seen::Binary(payload)]);
    }
}
