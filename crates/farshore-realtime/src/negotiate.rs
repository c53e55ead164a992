//! Which endpoint a client is sent to: a pure function of what is configured and what is known to be healthy.
//!
//! The primary when it is healthy, else a healthy secondary, else nobody, and then the client is told when to come back.
//! When the primary is back, new negotiations return it at once; who is connected to a secondary stays until it is drained.

use std::time::Duration;

use farshore_core::ids::Region;
use serde::{Deserialize, Serialize};

/// How the regions of a hub share its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// One region serves all clients; the others stand by.
    #[default]
    ActivePassive,
    /// Each region sends its own clients to its own endpoint; all back each other up.
    ActiveActive,
}

/// One region's endpoint of a hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it is.
    pub region: Region,
    /// What clients connect to.
    pub url: String,
    /// Seen healthy from end to end (a message went through; an open port proves nothing).
    pub healthy: bool,
}

/// The regions of a hub, as one of its nodes knows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Course {
    /// The other region, if there is one.
    pub partner: Option<Region>,
    /// The active region.
    pub primary: Region,
}

/// What a negotiation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The place where the client belongs.
    Primary(&'a Endpoint),
    /// The primary is not healthy; this one is.
    Secondary(&'a Endpoint),
    /// Nobody is healthy: 503 with `Retry-After`.
    Nobody {
        /// When to ask again.
        retry_after: Duration,
    },
}

/// Clients that find nobody are spread over this, since the official ones have no jitter of their own.
pub const RETRY_SPREAD_SECONDS: u64 = 10;

/// Sends one client somewhere. `endpoints` are in the order of the configuration: the first is the primary of an
/// active/passive hub, and the order is the preference among secondaries. `asked` is the region that answers the
/// negotiation: its endpoint is the primary of an active/active hub. `client` is any number that differs between clients; it
/// spreads them over the secondaries of an active/active hub and over the time to come back.
#[must_use]
pub fn negotiate<'a>(sharing: Sharing, endpoints: &'a [Endpoint], asked: &Region, client: u64) -> Choice<'a> {
    let primary = match sharing {
        Sharing::ActivePassive => endpoints.first(),
        // A region without an endpoint of its own is served by the others.
        Sharing::ActiveActive => endpoints.iter().find(|endpoint| endpoint.region == *asked),
    };
    if let Some(primary) = primary.filter(|endpoint| endpoint.healthy) {
        return Choice::Primary(primary);
    }
    let healthy: Vec<&Endpoint> = endpoints.iter().filter(|endpoint| endpoint.healthy).collect();
    let count = healthy.len() as u64;
    if count == 0 {
        return Choice::Nobody { retry_after: Duration::from_secs(1 + client % RETRY_SPREAD_SECONDS) };
    }
    let place = match sharing {
        Sharing::ActivePassive => 0,
        Sharing::ActiveActive => client % count,
    };
    let place = usize::try_from(place).expect("below the number of endpoints");
    Choice::Secondary(healthy[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGIONS: [&str; 3] = ["paris", "oslo", "rome"];

    fn region(name: &str) -> Region {
        Region::parse(name).unwrap()
    }

    /// One endpoint for each letter: `h` healthy, `x` not.
    fn endpoints(health: &str) -> Vec<Endpoint> {
        let endpoint = |(name, health): (&&str, char)| Endpoint {
            region: region(name),
            url: format!("wss://{name}/client"),
            healthy: health == 'h',
        };
        REGIONS.iter().zip(health.chars()).map(endpoint).collect()
    }

    /// `+` before a primary, `-` before a secondary.
    fn check(sharing: Sharing, health: &str, asked: &str, client: u64, expected: &str) {
        let endpoints = endpoints(health);
        let said = match negotiate(sharing, &endpoints, &region(asked), client) {
            Choice::Primary(endpoint) => format!("+{}", endpoint.region),
            Choice::Secondary(endpoint) => format!("-{}", endpoint.region),
            Choice::Nobody { retry_after } => format!("in {} s", retry_after.as_secs()),
        };
        assert_eq!(said, expected, "{sharing:?} {health} asked in {asked} by {client}");
    }

    #[test]
    fn active_passive_has_one_primary_and_an_order_of_reserves() {
        use Sharing::ActivePassive as Passive;
        for asked in REGIONS {
            check(Passive, "hhh", asked, 1, "+paris");
            check(Passive, "hxx", asked, 1, "+paris");
            check(Passive, "xhh", asked, 1, "-oslo");
            check(Passive, "xxh", asked, 1, "-rome");
            check(Passive, "xxx", asked, 12, "in 3 s");
        }
        check(Passive, "", "paris", 0, "in 1 s");
    }

    #[test]
    fn active_active_sends_each_to_its_own_and_spreads_the_rest() {
        use Sharing::ActiveActive as Active;
        check(Active, "hhh", "oslo", 1, "+oslo");
        check(Active, "xhx", "oslo", 1, "+oslo");
        check(Active, "hxh", "oslo", 0, "-paris");
        check(Active, "hxh", "oslo", 1, "-rome");
        check(Active, "hhh", "elba", 1, "-oslo");
        check(Active, "xxx", "oslo", 9, "in 10 s");
    }

    #[test]
    fn for_every_health_nobody_gets_a_secondary_while_the_primary_is_healthy() {
        for health in ["hhh", "hhx", "hxh", "hxx", "xhh", "xhx", "xxh", "xxx"] {
            for sharing in [Sharing::ActivePassive, Sharing::ActiveActive] {
                for (asked, client) in REGIONS.into_iter().zip(0..) {
                    let endpoints = endpoints(health);
                    let asked = region(asked);
                    let own = match sharing {
                        Sharing::ActivePassive => &endpoints[0],
                        Sharing::ActiveActive => endpoints.iter().find(|e| e.region == asked).unwrap(),
                    };
                    match negotiate(sharing, &endpoints, &asked, client) {
                        Choice::Primary(endpoint) => assert!(endpoint.healthy && endpoint == own),
                        Choice::Secondary(endpoint) => assert!(endpoint.healthy && !own.healthy),
                        Choice::Nobody { .. } => assert!(endpoints.iter().all(|endpoint| !endpoint.healthy)),
                    }
                }
            }
        }
    }
}
