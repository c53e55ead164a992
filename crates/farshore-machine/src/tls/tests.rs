//! Two ends over a real socket.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::TlsStream;

const DEADLINE: Duration = Duration::from_secs(30);

fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["oslo".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(leaf.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&ring));
    let client = client.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let server = ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
    (Arc::new(server), Arc::new(client.with_no_client_auth()))
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

fn pair() -> (TlsStream, TlsStream) {
    let ((server, client), (server_config, client_config)) = (sockets(), configs());
    let until = Instant::now() + DEADLINE;
    let accepting = std::thread::spawn(move || TlsStream::accept(server, server_config, until).unwrap());
    let client = TlsStream::connect(client, client_config, "oslo", until, &|| false).unwrap();
    let server = accepting.join().unwrap();
    for end in [&server, &client] {
        end.socket().set_read_timeout(Some(DEADLINE)).unwrap();
        end.socket().set_write_timeout(Some(DEADLINE)).unwrap();
    }
    (server, client)
}

/// Different at every place and for each end.
fn content(end: u8, at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8 ^ end
}

#[test]
fn both_directions_are_busy_at_once() {
    /// Many times what the sockets hold: an end that waited for the other would do so for ever.
    const LEN: usize = 24 << 20;
    let (server, client) = pair();
    std::thread::scope(|scope| {
        for (end, mine, its) in [(&server, 1, 2), (&client, 2, 1)] {
            scope.spawn(move || {
                let data: Vec<u8> = (0..LEN).map(|at| content(mine, at)).collect();
                let mut left = &data[..];
                // All lengths, from a byte to more than is sealed at once.
                for len in [1, 100_000, 4096, 16_384, 65_537].into_iter().cycle() {
                    let (now, later) = left.split_at(len.min(left.len()));
                    let mut stream = end;
                    stream.write_all(now).unwrap();
                    left = later;
                    if left.is_empty() {
                        break;
                    }
                }
            });
            scope.spawn(move || {
                let (mut stream, mut data) = (end, vec![0; LEN]);
                stream.read_exact(&mut data).unwrap();
                assert!(data.iter().enumerate().all(|(at, byte)| *byte == content(its, at)));
            });
        }
    });
}

#[test]
fn a_good_bye_is_an_end_and_a_cut_is_an_error() {
    let (server, client) = pair();
    (&client).write_all(b"all of it").unwrap();
    client.hang_up();
    let mut all = Vec::new();
    (&server).read_to_end(&mut all).unwrap();
    assert_eq!(all, b"all of it");

    let (server, client) = pair();
    (&client).write_all(b"all of it").unwrap();
    client.socket().shutdown(Shutdown::Both).unwrap();
    let mut all = Vec::new();
    assert_eq!((&server).read_to_end(&mut all).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(all, b"all of it");
}

#[test]
fn a_read_that_timed_out_can_be_repeated_and_a_changed_byte_is_found() {
    let (server, client) = pair();
    server.socket().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buf = [0; 16];
    assert_eq!((&server).read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
    server.socket().set_read_timeout(Some(DEADLINE)).unwrap();
    (&client).write_all(b"late").unwrap();
    assert_eq!((&server).read(&mut buf).unwrap(), 4);
    // A record that nobody with the keys has made.
    let mut forged = vec![23, 3, 3, 0, 32];
    forged.extend([9; 32]);
    let mut raw = client.socket();
    raw.write_all(&forged).unwrap();
    assert_eq!((&server).read(&mut buf).unwrap_err().kind(), ErrorKind::InvalidData);
    server.hang_up();
    let told = (&client).read(&mut buf).unwrap_err().to_string();
    assert!(told.contains("alert"), "{told}");
}

#[test]
fn nothing_is_sent_after_a_write_that_failed() {
    let (server, client) = pair();
    client.socket().set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let block = vec![7; 1 << 20];
    let error = loop {
        if let Err(error) = (&client).write_all(&block) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "nobody reads");
    assert_eq!((&client).write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    // Not even a good-bye, which would make the half of a record look whole.
    client.hang_up();
    let end = std::io::copy(&mut &server, &mut std::io::sink()).unwrap_err();
    assert!(matches!(end.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{end}");
}

#[test]
fn a_handshake_ends_at_its_deadline_or_when_told_to() {
    let ((server, _client), (config, client_config)) = (sockets(), configs());
    let soon = Instant::now() + Duration::from_millis(100);
    assert_eq!(TlsStream::accept(server, config, soon).unwrap_err().kind(), ErrorKind::TimedOut);
    let (_server, client) = sockets();
    let late = Instant::now() + DEADLINE;
    assert!(TlsStream::connect(client, client_config, "oslo", late, &|| true).is_err());
    assert!(Instant::now() < late);
}
