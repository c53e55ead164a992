use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::super::codec::{close_frame, frame};
use super::super::handshake::accept_key;
use super::*;

/// Takes one connection, answers with what `answer` makes of the request, and gives the stream back.
async fn serve_once<S>(mut stream: S, answer: impl Fn(&str) -> Vec<u8>) -> S
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
    }
    let answer = answer(std::str::from_utf8(&request).unwrap());
    stream.write_all(&answer).await.unwrap();
    stream
}

fn upgrade(request: &str) -> Vec<u8> {
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let accept = accept_key(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {accept}\r\nsec-websocket-protocol: two\r\n\r\n"
    )
    .into_bytes()
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/client/hubs/chat?a=b", listener.local_addr().unwrap());
    (listener, url)
}

/// Sends back each message, closes on a close frame.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut decoder = Decoder::server(1 << 20);
    let mut buffer = [0; 1000];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        let (mut out, mut closed) = (Vec::new(), read == 0);
        let mut on = |incoming: Incoming<'_>| match incoming {
            Incoming::Text(text) => out.push(frame(Opcode::Text, text.as_bytes())),
            Incoming::Binary(bytes) => out.push(frame(Opcode::Binary, bytes)),
            Incoming::Ping(bytes) => out.push(frame(Opcode::Pong, bytes)),
            Incoming::Pong(_) => {}
            Incoming::Close { code, reason } => {
                out.push(close_frame(code.unwrap_or(1000), reason));
                closed = true;
            }
        };
        decoder.feed(&mut buffer[..read], &mut on).unwrap();
        for frame in out {
            stream.write_all(&frame).await.unwrap();
        }
        if closed {
            return;
        }
    }
}

async fn converse(mut client: WsClient) {
    client.send_text("hello").await.unwrap();
    assert_eq!(client.next().await.unwrap(), Some(OwnedIncoming::Text("hello".into())));
    let large = vec![7; 300_000];
    client.send_binary(&large).await.unwrap();
    assert_eq!(client.next().await.unwrap(), Some(OwnedIncoming::Binary(large.into())));
    client.ping(b"?").await.unwrap();
    assert_eq!(client.next().await.unwrap(), Some(OwnedIncoming::Pong(Bytes::from_static(b"?"))));
    client.close(1000, "bye").await.unwrap();
    let close = OwnedIncoming::Close { code: Some(1000), reason: "bye".into() };
    assert_eq!(client.next().await.unwrap(), Some(close));
    assert_eq!(client.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_client_converses_over_a_plain_connection() {
    let (listener, url) = listener().await;
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = serve_once(stream, |request| {
            assert!(request.starts_with("GET /client/hubs/chat?a=b HTTP/1.1\r\n"), "{request}");
            assert!(request.contains("\r\nx-mine: yes\r\n"), "{request}");
            assert!(request.contains("\r\nSec-WebSocket-Protocol: one, two\r\n"), "{request}");
            upgrade(request)
        });
        echo(stream.await).await;
    };
    let client = async {
        let client = WsClient::connect(&url, &["one", "two"], &[("x-mine", "yes")], None).await.unwrap();
        assert_eq!(client.subprotocol(), Some("two"));
        converse(client).await;
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn a_client_converses_over_tls_by_a_name_that_is_nowhere_registered() {
    let (listener, _) = listener().await;
    let address = listener.local_addr().unwrap();
    let made = rcgen::generate_simple_self_signed(["hub.example".to_owned()]).unwrap();
    let trusted = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![trusted.clone()], key)
        .unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        let mut stream = serve_once(stream, upgrade).await;
        echo(&mut stream).await;
        stream.shutdown().await.unwrap();
    };
    let client = async {
        let tls = Some(tls_trusting([trusted]).unwrap());
        let url = "wss://hub.example/client/hubs/chat";
        converse(WsClient::connect_at(address, url, &["two"], &[], tls).await.unwrap()).await;
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn frames_right_behind_the_answer_are_not_lost() {
    let (listener, url) = listener().await;
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve_once(stream, |request| [&upgrade(request)[..], &frame(Opcode::Text, b"first")].concat()).await
    };
    let client = async {
        let (mut reader, _writer) = WsClient::connect(&url, &["two"], &[], None).await.unwrap().split();
        let mut seen = Vec::new();
        while reader.read(&mut |incoming| seen.push(OwnedIncoming::from(incoming))).await.unwrap() {
            if !seen.is_empty() {
                break;
            }
        }
        assert_eq!(seen, [OwnedIncoming::Text("first".into())]);
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn refusals_and_wrong_answers_are_told_apart() {
    let refused = "HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nno!!HTTP/1.1";
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
    for (answer, expected) in [
        (refused, "the server answered 403 instead of opening a WebSocket"),
        (wrong, "the server's answer is no WebSocket handshake: Sec-WebSocket-Accept does not fit the key"),
        ("SSH-2.0-server\r\n\r\n", "cannot connect to 127.0.0.1"),
    ] {
        let (listener, url) = listener().await;
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            serve_once(stream, |_| answer.as_bytes().to_vec()).await
        };
        let (_, connected) = tokio::join!(server, WsClient::connect(&url, &[], &[], None));
        let error = connected.unwrap_err();
        assert_eq!(error.to_string(), expected);
        if let ConnectError::Refused { status, body } = error {
            assert_eq!((status, &body[..]), (403, &b"no!!"[..]));
        }
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_before_anything_is_sent() {
    let connect = async |url, headers: &[(&str, &str)]| {
        WsClient::connect(url, &[], headers, None).await.unwrap_err().to_string()
    };
    assert_eq!(
        connect("ftp://here", &[]).await,
        "\"ftp://here\" is not the URL of a WebSocket: write it like ws://host:port/path"
    );
    assert_eq!(
        connect("wss://127.0.0.1:1/", &[]).await,
        "wss:// needs a TLS configuration: give the certificates to trust"
    );
    assert_eq!(connect("ws://127.0.0.1:1/", &[("a b", "c")]).await, "\"a b\" is not a valid header");
    assert_eq!(connect("ws://127.0.0.1:1/", &[("a", "c\r\nd: e")]).await, "\"a\" is not a valid header");
}
