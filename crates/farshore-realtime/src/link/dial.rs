//! Reaches the partner's listener.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::Region;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::greeting::{Secret, Side, greet};
use super::listener::{HANDSHAKE_MAX, SetupError, loopback_only};
use super::session::{Connection, SILENCE_MAX, Shared};
use super::wire::{Frame, FrameReader, FrameWriter, HELLO_MAX, Message, halves};

/// One address answers within this, or the next is tried.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How to talk to the nodes of a region, asked again before each connection, so that renewed certificates are used. Must accept
/// that region only: the name that is asked for is the region's, whatever the address.
#[derive(Clone)]
pub struct ClientConfigs(pub Arc<ConfigOf>);

/// How to talk to the nodes of one region.
pub type ConfigOf = dyn Fn(&Region) -> Arc<ClientConfig> + Send + Sync;

impl fmt::Debug for ClientConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientConfigs(..)")
    }
}

/// What it takes to reach the partner, beside its address.
#[derive(Debug, Clone)]
pub(super) struct Means {
    pub(super) secret: Secret,
    pub(super) tls: Option<ClientConfigs>,
}

/// Returns with an established connection, or within [`HANDSHAKE_MAX`].
pub(super) async fn dial(
    shared: Arc<Shared>,
    address: String,
    means: Means,
) -> Result<Connection, SetupError> {
    let whole = async {
        let stream = connect(&address, means.tls.is_some()).await?;
        let (mut reader, mut writer) = match &means.tls {
            Some(ClientConfigs(config_of)) => {
                let name =
                    ServerName::try_from(shared.partner.as_str().to_owned()).map_err(io::Error::other)?;
                halves(TlsConnector::from(config_of(&shared.partner)).connect(name, stream).await?)
            }
            None => halves(stream),
        };
        greet(Side::Dialer, &means.secret, &mut reader, &mut writer, SILENCE_MAX).await?;
        ask(&shared, reader, writer).await
    };
    timeout(HANDSHAKE_MAX, whole).await.unwrap_or(Err(SetupError::TooSlow(HANDSHAKE_MAX)))
}

/// Says what this side wants, and reads what the other one has.
pub(super) async fn ask(
    shared: &Shared,
    mut reader: FrameReader,
    mut writer: FrameWriter,
) -> Result<Connection, SetupError> {
    writer.say(&shared.hello(), SILENCE_MAX).await?;
    let Frame { token, message } = reader.next(HELLO_MAX, HANDSHAKE_MAX, |_| {}).await?;
    // Also with a refusal: it may be one because the token is over.
    shared.fence.see(token)?;
    match message {
        Message::Hello(hello) => match shared.check(&hello) {
            Ok(()) => Ok(Connection { reader, writer, hello: *hello, unanswered: false }),
            Err(why) => Err(SetupError::Misdirected(why)),
        },
        Message::Refused(why) => Err(SetupError::Refused(why)),
        _ => Err(SetupError::NoHello),
    }
}

async fn connect(address: &str, is_sealed: bool) -> Result<TcpStream, SetupError> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"));
    for found in timeout(CONNECT_MAX, lookup_host(address)).await.map_err(io::Error::from)?? {
        if !is_sealed {
            loopback_only(found, "dial a link")?;
        }
        match timeout(CONNECT_MAX, TcpStream::connect(found)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(late) => last = late.into(),
        }
    }
    Err(last.into())
}
