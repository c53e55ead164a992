//! The protocol byte by byte: what well-made clients never send.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use farshore_machine::nbd::{Exports, Limits, Server};

use crate::stage::{SIZE, serve};

const OPTION_MAGIC: &[u8] = b"IHAVEOPT";
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const GO: u32 = 7;
const STRUCTURED: u32 = 8;
const SET_META: u32 = 10;
const ACK: u32 = 1;
const ERR_UNSUP: u32 = 0x8000_0001;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_UNKNOWN: u32 = 0x8000_0006;
const ERR_TOO_BIG: u32 = 0x8000_0009;
const EINVAL: u32 = 22;

struct House {
    exports: Exports,
    server: Server,
    dir: tempfile::TempDir,
}

impl House {
    fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (server, exports) = serve(&dir.path().join("nbd.sock"), dir.path(), limits);
        Self { exports, server, dir }
    }

    fn visit(&self) -> Visitor {
        let stream = UnixStream::connect(self.dir.path().join("nbd.sock")).unwrap();
        // Only so that a server that never answers fails the test.
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Visitor(stream)
    }

    /// Past the greeting, with client flags `flags`.
    fn greeted(&self, flags: u32) -> Visitor {
        let mut visitor = self.visit();
        assert_eq!(&visitor.take::<8>(), b"NBDMAGIC");
        assert_eq!(&visitor.take::<8>(), b"IHAVEOPT");
        assert_eq!(visitor.take::<2>(), [0, 3], "fixed newstyle, no zeroes");
        visitor.give(&flags.to_be_bytes());
        visitor
    }

    /// The server serves others as before.
    fn is_well(&self) {
        self.greeted(3).go("");
    }
}

struct Visitor(UnixStream);

impl Visitor {
    fn give(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn option_header(&mut self, option: u32, len: u32) {
        self.give(&[OPTION_MAGIC, &option.to_be_bytes(), &len.to_be_bytes()].concat());
    }

    fn ask(&mut self, option: u32, data: &[u8]) {
        self.option_header(option, u32::try_from(data.len()).unwrap());
        self.give(data);
    }

    fn answer(&mut self, option: u32) -> (u32, Vec<u8>) {
        assert_eq!(u64::from_be_bytes(self.take()), OPTION_REPLY);
        assert_eq!(self.u32(), option);
        let kind = self.u32();
        let mut data = vec![0; self.u32() as usize];
        self.0.read_exact(&mut data).unwrap();
        (kind, data)
    }

    /// The last of the answers.
    fn outcome(&mut self, option: u32, data: &[u8]) -> u32 {
        self.ask(option, data);
        loop {
            let (kind, _) = self.answer(option);
            if kind == ACK || kind & 0x8000_0000 != 0 {
                return kind;
            }
        }
    }

    fn go(&mut self, name: &str) {
        assert_eq!(self.outcome(GO, &named(name, &[0, 0])), ACK);
    }

    fn request(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, len: u32) {
        self.give(
            &[
                &0x2560_9513_u32.to_be_bytes()[..],
                &flags.to_be_bytes(),
                &command.to_be_bytes(),
                &cookie.to_be_bytes(),
                &offset.to_be_bytes(),
                &len.to_be_bytes(),
            ]
            .concat(),
        );
    }

    /// A simple reply: its error.
    fn reply(&mut self, cookie: u64) -> u32 {
        assert_eq!(self.u32(), 0x6744_6698);
        let errno = self.u32();
        assert_eq!(u64::from_be_bytes(self.take()), cookie);
        errno
    }

    fn is_cut_off(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            // What the other end did not read is a reset.
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    [&u32::try_from(name.len()).unwrap().to_be_bytes()[..], name.as_bytes(), rest].concat()
}

#[test]
fn unknown_options_are_answered_and_the_session_goes_on() {
    let house = House::new(Limits::default());
    let mut visitor = house.greeted(3);
    // STARTTLS, PEEK_EXPORT, extended headers, and what nobody has thought of yet.
    for option in [4, 5, 11, 77, u32::MAX] {
        assert_eq!(visitor.outcome(option, b"whatever"), ERR_UNSUP, "option {option}");
    }
    visitor.go("");
    visitor.request(0, 0, 9, SIZE - 4, 4);
    assert_eq!(visitor.reply(9), 0);
    assert_eq!(visitor.take::<4>(), [0; 4]);
}

#[test]
fn damaged_options_are_refused_and_the_session_goes_on() {
    let house = House::new(Limits::default());
    let mut visitor = house.greeted(3);
    let rows: [(u32, Vec<u8>, u32); 8] = [
        (GO, vec![], ERR_INVALID),
        (GO, vec![0xff; 4], ERR_INVALID),
        (GO, named("", &[0, 9]), ERR_INVALID),
        (GO, named("nobody", &[0, 0]), ERR_UNKNOWN),
        (LIST, vec![1], ERR_INVALID),
        (STRUCTURED, vec![1], ERR_INVALID),
        (SET_META, named("", &[0; 4]), ERR_INVALID),
        (99, vec![7; 60_000], ERR_UNSUP),
    ];
    for (option, data, expected) in rows {
        assert_eq!(visitor.outcome(option, &data), expected, "option {option}, {} bytes", data.len());
    }
    assert_eq!(visitor.outcome(STRUCTURED, &[]), ACK);
    assert_eq!(visitor.outcome(SET_META, &named("", &[0xff; 4])), ERR_INVALID);
    visitor.go("");
}

#[test]
fn option_data_that_is_too_long_is_skipped_or_ends_the_session() {
    let house = House::new(Limits::default());
    let mut visitor = house.greeted(3);
    visitor.ask(GO, &vec![1; 1 << 20]);
    assert_eq!(visitor.answer(GO).0, ERR_TOO_BIG);
    visitor.go("");

    let mut rude = house.greeted(3);
    rude.option_header(GO, u32::MAX);
    assert!(rude.is_cut_off());
    let mut rude = house.greeted(3);
    rude.option_header(EXPORT_NAME, 1 << 20);
    assert!(rude.is_cut_off());
    house.is_well();
}

#[test]
fn the_oldest_way_to_choose_an_export_works() {
    let house = House::new(Limits::default());
    for (flags, zeroes) in [(1, true), (3, false)] {
        let mut visitor = house.greeted(flags);
        visitor.ask(EXPORT_NAME, b"locked");
        assert_eq!(u64::from_be_bytes(visitor.take()), 1 << 20);
        let flags = u16::from_be_bytes(visitor.take());
        assert_eq!(flags & 0b11, 0b11, "has flags, read-only");
        if zeroes {
            assert_eq!(visitor.take::<124>(), [0; 124]);
        }
        visitor.request(0, 0, 1, 0, 512);
        assert_eq!(visitor.reply(1), 0);
        assert_eq!(visitor.take::<512>(), [0; 512]);
        visitor.request(0, 2, 2, 0, 0);
        assert!(visitor.is_cut_off(), "a good-bye ends the session");
    }
    let mut visitor = house.greeted(3);
    visitor.ask(EXPORT_NAME, b"nobody");
    assert!(visitor.is_cut_off(), "there is no other way to say no");
}

#[test]
fn rubbish_ends_the_session_and_nothing_else() {
    let house = House::new(Limits::default());
    let mut web = house.greeted(u32::from_be_bytes(*b"GET "));
    assert!(web.is_cut_off());
    let mut visitor = house.greeted(3);
    visitor.give(&[0x55; 16]);
    assert!(visitor.is_cut_off());
    let mut visitor = house.greeted(3);
    visitor.go("");
    visitor.give(&[0x55; 28]);
    assert!(visitor.is_cut_off());
    let mut visitor = house.greeted(3);
    assert_eq!(visitor.outcome(ABORT, &[]), ACK);
    assert!(visitor.is_cut_off());
    drop(house.visit());
    drop(house.greeted(3));
    house.is_well();
}

#[test]
fn replies_before_rubbish_are_still_sent() {
    let house = House::new(Limits::default());
    let mut visitor = house.greeted(3);
    visitor.go("");
    visitor.request(0, 1, 5, 0, 4);
    visitor.give(b"kept");
    visitor.give(&[0x55; 28]);
    assert_eq!(visitor.reply(5), 0);
    assert!(visitor.is_cut_off());
}

#[test]
fn writes_that_are_too_long_are_skipped_or_end_the_session() {
    let house = House::new(Limits::default());
    let mut visitor = house.greeted(3);
    visitor.go("");
    let len = (32 << 20) + 1;
    visitor.request(0, 1, 1, 0, len);
    visitor.give(&vec![1; len as usize]);
    assert_eq!(visitor.reply(1), EINVAL);
    visitor.request(0, 0, 2, 0, 4);
    assert_eq!(visitor.reply(2), 0);
    assert_eq!(visitor.take::<4>(), [0; 4], "nothing of it was written");
    visitor.request(0, 1, 3, 0, u32::MAX);
    assert!(visitor.is_cut_off());
    house.is_well();
}

#[test]
fn without_structured_replies_answers_are_short() {
    let house = House::new(Limits::default());
    let mut visitor = house.greeted(3);
    visitor.go("");
    visitor.request(1, 1, 1, 100, 3);
    visitor.give(b"abc");
    assert_eq!(visitor.reply(1), 0);
    visitor.request(0, 0, 2, 99, 5);
    assert_eq!(visitor.reply(2), 0);
    assert_eq!(&visitor.take::<5>(), b"\0abc\0");
    // A request nobody knows, a forbidden flag, block status without a context: refused, and on it goes.
    for (cookie, (flags, command)) in (10..).zip([(0, 99), (1 << 2, 0), (0, 7), (1 << 15, 1)]) {
        visitor.request(flags, command, cookie, 0, 1);
        if command == 1 {
            visitor.give(b"x");
        }
        assert_eq!(visitor.reply(cookie), EINVAL);
    }
    visitor.request(0, 3, 3, 0, 0);
    assert_eq!(visitor.reply(3), 0);
}

#[test]
fn a_visitor_who_dawdles_is_shown_out() {
    let house = House::new(Limits { handshake: Duration::from_millis(1), ..Limits::default() });
    assert!(house.visit().is_cut_off());
}

#[test]
fn one_visitor_too_many_is_turned_away_until_one_leaves() {
    let house = House::new(Limits { connections: 1, ..Limits::default() });
    let mut first = house.greeted(3);
    first.go("");
    assert!(house.visit().is_cut_off());
    first.request(0, 2, 1, 0, 0);
    assert!(first.is_cut_off());
    house.server.stop();
}

#[test]
fn a_removed_export_answers_what_it_has_begun_and_lets_nobody_in() {
    let house = House::new(Limits::default());
    let mut visitor = house.greeted(3);
    visitor.go("locked");
    visitor.request(0, 0, 1, 0, 4);
    assert_eq!(visitor.reply(1), 0);
    assert_eq!(visitor.take::<4>(), [0; 4]);
    assert!(house.exports.remove("locked"));
    assert!(visitor.is_cut_off());
    assert_eq!(house.greeted(3).outcome(GO, &named("locked", &[0, 0])), ERR_UNKNOWN);
    house.is_well();
}
