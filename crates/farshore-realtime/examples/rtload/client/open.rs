//! The upgrade of a connection to WebSocket.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than the worst accept queue of a storm; then the server counts as gone.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(30);
/// An answer's head; the longest seen has 300 bytes.
const HEAD_MAX: usize = 8 * 1024;
/// Sixteen bytes, base64: what they are does not matter to anyone.
const KEY: &str = "ZmFyc2hvcmUgYmVuY2ghIQ==";

/// Returns the connection and what the server sent after its answer.
pub(super) async fn open(
    address: &str,
    path: &str,
    subprotocol: Option<&str>,
) -> io::Result<(TcpStream, Vec<u8>)> {
    tokio::time::timeout(UPGRADE_DEADLINE, upgrade(address, path, subprotocol)).await?
}

async fn upgrade(address: &str, path: &str, subprotocol: Option<&str>) -> io::Result<(TcpStream, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let subprotocol =
        subprotocol.map(|name| format!("sec-websocket-protocol: {name}\r\n")).unwrap_or_default();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n{subprotocol}\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut read = Vec::with_capacity(512);
    loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = read.split_off(at + 4);
            return if read.starts_with(b"HTTP/1.1 101") {
                Ok((stream, rest))
            } else {
                Err(io::Error::other(
                    String::from_utf8_lossy(&read).lines().next().unwrap_or_default().to_owned(),
                ))
            };
        }
        if read.len() > HEAD_MAX || stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
