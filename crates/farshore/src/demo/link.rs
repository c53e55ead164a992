//! The line between the regions: a relay that can be cut, as a digger cuts a cable.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A relayed connection notices a cut within this.
const NOTICE: Duration = Duration::from_millis(20);
/// What is relayed at a time.
const PIECE: usize = 256 * 1024;

/// A line to one address. Clones are the same line.
#[derive(Debug, Clone, Default)]
pub struct Line {
    is_cut: Arc<AtomicBool>,
}

impl Line {
    /// Starts to relay to `far` and returns where to connect instead.
    ///
    /// # Errors
    /// There is no port or no thread to be had.
    pub fn lay(&self, far: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        let near = listener.local_addr()?;
        let line = self.clone();
        std::thread::Builder::new().name("line".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if !line.is_cut() {
                    // A far end that does not answer looks to the caller like what it is: a closed connection.
                    let _ = line.relay(stream, far);
                }
            }
        })?;
        Ok(near)
    }

    /// From now on nothing passes, in either direction.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
    }

    /// New connections pass again.
    pub fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    fn relay(&self, near: TcpStream, far: SocketAddr) -> io::Result<()> {
        let far = TcpStream::connect(far)?;
        for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
            from.set_read_timeout(Some(NOTICE))?;
            from.set_nodelay(true)?;
            let line = self.clone();
            std::thread::Builder::new().name("line".into()).spawn(move || line.pass(from, to))?;
        }
        Ok(())
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut piece = vec![0; PIECE];
        while !self.is_cut() {
            let passed = match from.read(&mut piece) {
                Ok(0) => break,
                // Cut while it was waited for: it does not pass any more.
                Ok(_) if self.is_cut() => break,
                Ok(len) => to.write_all(&piece[..len]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if passed.is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_passes_nothing_and_a_mended_one_does() {
        let far = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = far.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in far.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
        let line = Line::default();
        let near = line.lay(address).unwrap();
        let talk = || -> io::Result<()> {
            let mut stream = TcpStream::connect(near)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.write_all(&[7])?;
            stream.read_exact(&mut [0])
        };
        talk().unwrap();
        line.cut();
        assert!(talk().is_err());
        line.mend();
        talk().unwrap();
    }
}
