//! `STARTTLS` byte by byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farshore_machine::disk::Extent;
use farshore_machine::nbd::{Client, DiskExport, Export, Exports, Limits, Options, Server};
use farshore_machine::raw::RawFile;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, StreamOwned};

use crate::certs::Authority;
use crate::place::DEADLINE;

pub(crate) const SIZE: u64 = 24 << 20;
/// What a handshake may take where that is to run out.
const SHORT: Duration = Duration::from_secs(2);

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const STARTTLS: u32 = 5;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;
const ACK: u32 = 1;
const SERVER: u32 = 2;
const ERR_UNSUP: u32 = 0x8000_0001;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_TLS_REQD: u32 = 0x8000_0005;

/// Serves a fresh disk under the empty name.
pub(crate) fn serve(address: &str, dir: &Path, tls: Option<Arc<ServerConfig>>) -> (Server, SocketAddr) {
    serve_within(address, dir, tls, Limits::default())
}

fn serve_within(
    address: &str,
    dir: &Path,
    tls: Option<Arc<ServerConfig>>,
    limits: Limits,
) -> (Server, SocketAddr) {
    let exports = Exports::new();
    let disk = RawFile::create(dir.join("disk.raw"), SIZE).unwrap();
    exports.insert("", Arc::new(DiskExport::new(Arc::new(disk), false)));
    start(Options { tcp: Some(address.parse().unwrap()), tls, exports, limits, unix: None })
}

fn start(options: Options) -> (Server, SocketAddr) {
    let server = Server::start(options).unwrap();
    let address = ([127, 0, 0, 1], server.tcp_addr().unwrap().port()).into();
    (server, address)
}

/// A client in the middle of the handshake.
struct Talk<S>(S);

impl Talk<TcpStream> {
    fn begin(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut hello = [0; 18];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello[..8], b"NBDMAGIC");
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        Self(stream)
    }

    fn secure(self, config: Arc<ClientConfig>) -> Talk<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        Talk(StreamOwned::new(ClientConnection::new(config, name).unwrap(), self.0))
    }

    /// All until the end of the connection.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            _ => rest,
        }
    }
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [&b"IHAVEOPT"[..], &option.to_be_bytes(), &len.to_be_bytes(), data].concat()
}

impl<S: Read + Write> Talk<S> {
    /// The kind and data of the reply.
    fn ask(&mut self, number: u32, data: &[u8]) -> (u32, Vec<u8>) {
        self.0.write_all(&option(number, data)).unwrap();
        self.reply(number)
    }

    fn reply(&mut self, number: u32) -> (u32, Vec<u8>) {
        let mut header = [0; 20];
        self.0.read_exact(&mut header).unwrap();
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(word(8), number);
        let mut data = vec![0; word(16) as usize];
        self.0.read_exact(&mut data).unwrap();
        (word(12), data)
    }
}

fn certified(address: &str) -> (tempfile::TempDir, Server, SocketAddr, Arc<ClientConfig>) {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let (server, address) = serve(address, dir.path(), Some(ca.server(&ca.leaf("oslo"))));
    (dir, server, address, ca.client(Some(&ca.leaf("client"))))
}

#[test]
fn before_tls_nothing_is_told_where_it_is_required() {
    let (_dir, server, address, config) = certified("0.0.0.0:0");
    let mut talk = Talk::begin(address);
    for (number, data) in [
        (LIST, vec![]),
        (GO, vec![0; 6]),
        (STRUCTURED_REPLY, vec![]),
        (SET_META_CONTEXT, vec![0; 8]),
        (77, vec![1]),
    ] {
        let (kind, text) = talk.ask(number, &data);
        assert_eq!(kind, ERR_TLS_REQD, "option {number}");
        assert!(String::from_utf8(text).unwrap().contains("nbds://"));
    }
    assert_eq!(talk.ask(LIST, &vec![0; 100_000]).0, ERR_TLS_REQD, "also of what is too long");
    assert_eq!(talk.ask(STARTTLS, b"data").0, ERR_INVALID);
    assert_eq!(talk.ask(STARTTLS, b"").0, ACK);
    let mut talk = talk.secure(config);
    assert_eq!(talk.ask(STARTTLS, b"").0, ERR_INVALID, "a second time");
    assert_eq!(talk.ask(LIST, b"").0, SERVER);

    assert_eq!(Talk::begin(address).ask(ABORT, b"").0, ACK);
    let mut old = Talk::begin(address);
    old.0.write_all(&option(EXPORT_NAME, b"")).unwrap();
    assert!(old.rest().is_empty(), "the oldest request has no answer but the end");
    server.stop();
}

#[test]
fn what_was_agreed_in_plain_text_is_forgotten() {
    let (_dir, server, address, config) = certified("127.0.0.1:0");
    let mut talk = Talk::begin(address);
    let context = [&[0; 4][..], &1_u32.to_be_bytes(), &15_u32.to_be_bytes(), b"base:allocation"].concat();
    assert_eq!(talk.ask(STRUCTURED_REPLY, b"").0, ACK);
    assert_eq!(talk.ask(SET_META_CONTEXT, &context).0, 4);
    assert_eq!(talk.reply(SET_META_CONTEXT).0, ACK);
    assert_eq!(talk.ask(STARTTLS, b"").0, ACK);
    let mut talk = talk.secure(config);
    assert_eq!(talk.ask(SET_META_CONTEXT, &context).0, ERR_INVALID, "structured replies are off again");
    server.stop();
}

#[test]
fn what_follows_starttls_in_plain_text_is_never_used() {
    for address in ["127.0.0.1:0", "0.0.0.0:0"] {
        let (_dir, server, address, _) = certified(address);
        let mut talk = Talk::begin(address);
        let injected = [option(STARTTLS, b""), option(STRUCTURED_REPLY, b""), option(LIST, b"")].concat();
        talk.0.write_all(&injected).unwrap();
        assert_eq!(talk.reply(STARTTLS).0, ACK);
        let rest = talk.rest();
        assert!(rest.is_empty() || rest[0] == 21, "an alert at most: {rest:?}");
        server.stop();
    }
}

#[test]
fn without_certificates_there_is_no_tls_and_nothing_beyond_loopback() {
    let dir = tempfile::tempdir().unwrap();
    let (server, address) = serve("127.0.0.1:0", dir.path(), None);
    assert_eq!(Talk::begin(address).ask(STARTTLS, b"").0, ERR_UNSUP);
    server.stop();
    let options = Options { tcp: Some("0.0.0.0:0".parse().unwrap()), ..Options::default() };
    assert!(Server::start(options).unwrap_err().to_string().contains("without TLS"));
}

#[test]
fn strangers_in_the_handshake_hold_up_nobody() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let limits = Limits { handshake: SHORT, ..Limits::default() };
    let (server, address) = serve_within("0.0.0.0:0", dir.path(), Some(ca.server(&ca.leaf("oslo"))), limits);
    let in_tls = || {
        let mut talk = Talk::begin(address);
        assert_eq!(talk.ask(STARTTLS, b"").0, ACK);
        talk
    };
    let mut silent = in_tls();
    let mut rubbish = in_tls();
    rubbish.0.write_all(&[0x93; 5000]).unwrap();
    let mut halfway = in_tls();
    halfway.0.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).unwrap();
    drop(halfway);
    // One byte of a ClientHello after the other: no byte gives it more time.
    let mut loris = in_tls();
    let dripping = std::thread::spawn(move || {
        let until = Instant::now() + DEADLINE;
        for byte in [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter().chain(std::iter::repeat(7)) {
            if loris.0.write_all(&[byte]).is_err() {
                return;
            }
            assert!(Instant::now() < until, "it was never cut off");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let uri = format!("nbds://localhost:{}/", address.port());
    let config = ca.client(Some(&ca.leaf("client")));
    for round in 0..5_u8 {
        let mut client = Client::connect_tls(&uri, DEADLINE, Arc::clone(&config)).unwrap();
        client.write(0, &vec![round; 300_000], true).unwrap();
        let mut back = vec![0; 300_000];
        client.read(0, &mut back).unwrap();
        assert!(back.iter().all(|byte| *byte == round));
    }
    assert!(silent.rest().len() < 64);
    assert!(rubbish.rest().len() < 64);
    dripping.join().unwrap();
    server.stop();
}

/// Serves sevens until it may not any more.
#[derive(Debug)]
struct Leased(AtomicBool);

impl Export for Leased {
    fn size(&self) -> u64 {
        1 << 30
    }
    fn read_only(&self) -> bool {
        true
    }
    fn read(&self, _: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(7);
        Ok(())
    }
    fn write(&self, _: u64, _: &mut Vec<u8>) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn trim(&self, _: u64, _: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    fn zero(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    fn extents(&self, _: u64, _: u64, _: usize) -> io::Result<Vec<Extent>> {
        Err(ErrorKind::Unsupported.into())
    }
    fn prefetch(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn may_reply(&self) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) { Ok(()) } else { Err(ErrorKind::PermissionDenied.into()) }
    }
}

#[test]
fn replies_that_wait_for_room_stay_when_the_right_to_send_them_lapses() {
    /// More than any socket holds.
    const ASKED: usize = 64 << 20;
    let ca = Authority::new();
    let exports = Exports::new();
    let export = Arc::new(Leased(AtomicBool::new(true)));
    exports.insert("", Arc::clone(&export) as Arc<dyn Export>);
    let (server, address) = start(Options {
        tcp: Some("0.0.0.0:0".parse().unwrap()),
        tls: Some(ca.server(&ca.leaf("oslo"))),
        exports,
        ..Options::default()
    });
    let mut talk = Talk::begin(address);
    assert_eq!(talk.ask(STARTTLS, b"").0, ACK);
    let mut talk = talk.secure(ca.client(Some(&ca.leaf("client"))));
    let mut kind = talk.ask(GO, &[0; 6]).0;
    while kind != ACK {
        kind = talk.reply(GO).0;
    }
    for cookie in 0..2_u64 {
        let request = [
            &0x2560_9513_u32.to_be_bytes()[..],
            &[0; 4],
            &cookie.to_be_bytes(),
            &[0; 8],
            &(32_u32 << 20).to_be_bytes(),
        ];
        talk.0.write_all(&request.concat()).unwrap();
    }
    // The first bytes are here, so the rest is under way and waits for room.
    let mut some = vec![0; 1 << 20];
    talk.0.read_exact(&mut some).unwrap();
    export.0.store(false, Ordering::SeqCst);
    let mut rest = Vec::new();
    let end = talk.0.read_to_end(&mut rest).unwrap_err();
    assert!(
        matches!(end.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
        "no orderly end: {end}"
    );
    assert!(some.len() + rest.len() < ASKED, "{} bytes left", some.len() + rest.len());
    server.stop();
}

#[test]
fn a_server_that_stops_says_good_bye() {
    let (_dir, server, address, config) = certified("0.0.0.0:0");
    let mut talk = Talk::begin(address);
    assert_eq!(talk.ask(STARTTLS, b"").0, ACK);
    let mut talk = talk.secure(config);
    assert_eq!(talk.ask(LIST, b"").0, SERVER);
    assert_eq!(talk.reply(LIST).0, ACK);
    server.stop();
    assert_eq!(talk.0.read(&mut [0; 16]).unwrap(), 0, "close_notify, not just an end");
}
