//! Wakes when files of a directory change: an idle database costs nothing, and a commit is seen at once.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

/// How often to look when the system gives no notice (its number of watches is limited).
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A watched directory.
#[derive(Debug)]
pub(super) enum Watch {
    /// The system tells.
    Told(AsyncFd<OwnedFd>),
    /// It does not: look now and then.
    Looking,
}

impl Watch {
    /// Watches files directly in `dir`.
    pub(super) fn open(dir: &Path) -> Self {
        match told(dir) {
            Ok(fd) => Self::Told(fd),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "no notice of changes: looking every {LOOK_EVERY:?}");
                Self::Looking
            }
        }
    }

    /// Returns when something may have changed since the last call.
    pub(super) async fn changed(&self) {
        let Self::Told(fd) = self else { return tokio::time::sleep(LOOK_EVERY).await };
        loop {
            let Ok(mut ready) = fd.readable().await else { return tokio::time::sleep(LOOK_EVERY).await };
            let drained = drain(fd.get_ref());
            ready.clear_ready();
            if drained {
                return;
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe to call, and asks for what holds here: the descriptor is owned"
)]
fn told(dir: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let what = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::DELETE
        | inotify::WatchFlags::MOVE;
    inotify::add_watch(&fd, dir, what)?;
    AsyncFd::new(fd)
}

/// Takes all notices. True when there was one.
fn drain(fd: &OwnedFd) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut notices = inotify::Reader::new(fd, &mut buffer);
    let mut some = false;
    while notices.next().is_ok() {
        some = true;
    }
    some
}
