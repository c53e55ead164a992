//! Three regions as network namespaces on one bridge, whose links can be cut. Needs root.
//!
//! The test itself sits on the bridge too, and cuts leave it alone: it stands for a person who can reach every region.
//! Names are fresh each time, because an interface outlives its namespace for a moment. What a killed test left behind is removed by
//! the next.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::netns::{NETNS, ip, remove_orphans};

/// The regions, in the order of their addresses.
pub(crate) const REGIONS: [&str; 3] = ["paris", "oslo", "bergen"];
/// What namespaces of these tests are called first.
const PREFIX: &str = "fs";
/// Drops what comes from the addresses in a set.
const RULES: &str = "table ip cut {
  set from { type ipv4_addr; }
  chain in { type filter hook input priority 0; ip saddr @from drop; }
}";

/// The namespaces; gone when dropped.
#[derive(Debug)]
pub(crate) struct Lan {
    /// `fs-PROCESS-RANDOM`.
    id: String,
    /// The middle of all addresses.
    middle: [u8; 2],
}

impl Lan {
    /// Makes them.
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "network namespaces need root: run ./test as root");
        remove_orphans(PREFIX);
        let chance: [u8; 4] = rand::random();
        let lan = Self {
            id: format!("{PREFIX}-{}-{:02x}{:02x}", std::process::id(), chance[0], chance[1]),
            middle: [64 + chance[2] % 128, chance[3]],
        };
        lan.lay();
        lan
    }

    fn lay(&self) {
        let bridge = self.namespace("lan");
        ip(&format!("netns add {bridge}"));
        ip(&format!("-n {bridge} link add br0 type bridge forward_delay 0 stp_state 0"));
        ip(&format!("-n {bridge} link set br0 up"));
        for (index, region) in REGIONS.iter().enumerate() {
            let namespace = self.namespace(region);
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
            self.plug(&format!("-n {namespace}"), "eth0", &format!("p{index}"), self.address(region));
            self.nft(region, RULES);
        }
        // Interfaces' names are short, and unique on this machine.
        let here = format!("{PREFIX}{:x}{:x}{:x}", std::process::id(), self.middle[0], self.middle[1]);
        self.plug("", &here, "root", self.last(254));
    }

    /// A cable from an interface with this address to the bridge.
    fn plug(&self, place: &str, name: &str, port: &str, address: Ipv4Addr) {
        let bridge = self.namespace("lan");
        ip(&format!("{place} link add {name} type veth peer name {port} netns {bridge}"));
        ip(&format!("{place} addr add {address}/24 dev {name}"));
        ip(&format!("{place} link set {name} up"));
        ip(&format!("-n {bridge} link set {port} master br0 up"));
    }

    fn last(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.middle[0], self.middle[1], last)
    }

    /// The region's address.
    pub(crate) fn address(&self, region: &str) -> Ipv4Addr {
        let index = REGIONS.iter().position(|known| *known == region).unwrap();
        self.last(u8::try_from(index).unwrap() + 1)
    }

    /// The name of the region's namespace.
    pub(crate) fn namespace(&self, region: &str) -> String {
        format!("{}-{region}", self.id)
    }

    /// A program inside the region.
    pub(crate) fn command(&self, region: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(region), program]).stdin(Stdio::null());
        command
    }

    /// Runs `act` in a thread that is inside the region, as are the threads that it starts.
    pub(crate) fn inside<T: Send + 'static>(
        &self,
        region: &str,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let path = format!("{NETNS}/{}", self.namespace(region));
        let enter = move || {
            let namespace = std::fs::File::open(path).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        std::thread::spawn(enter).join().unwrap()
    }

    fn nft(&self, region: &str, rules: &str) {
        let output = self.command(region, "nft").arg(rules).output().unwrap();
        assert!(output.status.success(), "nft {rules}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What `from` sends no longer reaches `to`; what `to` sends still reaches `from`.
    pub(crate) fn cut_one_way(&self, from: &str, to: &str) {
        self.nft(to, &format!("add element ip cut from {{ {} }}", self.address(from)));
    }

    /// Neither reaches the other.
    pub(crate) fn cut_between(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// The region and the others do not reach each other.
    pub(crate) fn cut(&self, region: &str) {
        for other in REGIONS.iter().filter(|other| **other != region) {
            self.cut_between(region, other);
        }
    }

    /// Everybody reaches everybody again.
    pub(crate) fn heal(&self) {
        for region in REGIONS {
            self.nft(region, "flush set ip cut from");
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in REGIONS.iter().chain(["lan"].iter()) {
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(name)]).output();
        }
    }
}
