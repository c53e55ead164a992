//! A network of a test's own: official SDKs know one port each, and two tests cannot both have it. Needs root.
//!
//! The whole test runs inside, on threads that were started there; so do its processes.

use std::future::Future;
use std::process::Command;

use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::netns::{NETNS, ip, remove_orphans};

/// What namespaces of these tests are called first.
const PREFIX: &str = "fshub";

/// Its name; gone when dropped.
struct Place(String);

impl Place {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "network namespaces need root: run ./test as root");
        remove_orphans(PREFIX);
        let chance: [u8; 3] = rand::random();
        let [a, b, c] = chance;
        let place = Self(format!("{PREFIX}-{}-{a:02x}{b:02x}{c:02x}", std::process::id()));
        ip(&format!("netns add {}", place.0));
        ip(&format!("-n {} link set lo up", place.0));
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// Runs a test in a network that has nothing but all addresses of loopback.
pub(crate) fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let place = Place::new();
    let path = format!("{NETNS}/{}", place.0);
    let inside = move || {
        let namespace = std::fs::File::open(path).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        // Its threads are started from here, so they are inside, too.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = std::thread::spawn(inside).join() {
        drop(place);
        std::panic::resume_unwind(panic);
    }
}
