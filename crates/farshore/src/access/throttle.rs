//! How often: a bucket for each client, filled at a steady rate.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Clients told apart. When there are more, those that are at rest are forgotten; if none is, all are.
const CLIENTS_MAX: usize = 10_000;

/// Wrong tokens of one address. Somebody who mistypes needs a few; a script with an old token is told for two minutes.
const FAILURES: Rate = Rate { per_second: 1.0, burst: 120.0 };

/// Wrong tokens, by where they came from, whatever they were shown to.
#[derive(Debug)]
pub struct Failures(Mutex<Buckets<IpAddr>>);

impl Default for Failures {
    fn default() -> Self {
        Self(Mutex::new(Buckets::new(FAILURES)))
    }
}

impl Failures {
    /// How long no wrong token is looked at from the address; `None`: it is.
    #[must_use]
    pub fn wait(&self, address: IpAddr) -> Option<Duration> {
        self.buckets().wait(&client_of(address), Instant::now())
    }

    /// A wrong token from the address.
    pub fn count(&self, address: IpAddr) {
        // Whoever has none left is told so before the token is looked at.
        let _ = self.buckets().take(client_of(address), Instant::now());
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets<IpAddr>> {
        // A bucket that a panic left behind is off by one at most.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much may be taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// For ever.
    pub per_second: f64,
    /// At once, after a rest.
    pub burst: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// A bucket for each client.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    by_client: HashMap<K, Bucket>,
}

impl<K: Hash + Eq> Buckets<K> {
    /// All full.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { rate, by_client: HashMap::new() }
    }

    /// Takes one.
    ///
    /// # Errors
    /// When there is none: how long until there is.
    pub fn take(&mut self, client: K, now: Instant) -> Result<(), Duration> {
        if let Some(wait) = self.wait(&client, now) {
            return Err(wait);
        }
        self.make_room(now);
        let left = self.left(&client, now);
        self.by_client.insert(client, Bucket { left: left - 1.0, at: now });
        Ok(())
    }

    /// How long until there is one to take; `None`: there is.
    #[must_use]
    pub fn wait(&self, client: &K, now: Instant) -> Option<Duration> {
        let missing = 1.0 - self.left(client, now);
        (missing > 0.0).then(|| Duration::from_secs_f64(missing / self.rate.per_second))
    }

    fn left(&self, client: &K, now: Instant) -> f64 {
        let Some(bucket) = self.by_client.get(client) else { return self.rate.burst };
        self.filled(bucket, now)
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + since * self.rate.per_second).min(self.rate.burst)
    }

    fn make_room(&mut self, now: Instant) {
        if self.by_client.len() < CLIENTS_MAX {
            return;
        }
        let mut all = std::mem::take(&mut self.by_client);
        all.retain(|_, bucket| self.filled(bucket, now) < self.rate.burst);
        if all.len() < CLIENTS_MAX {
            self.by_client = all;
        }
    }
}

/// What is taken for one client: an address, and of IPv6 the network of one customer.
#[must_use]
pub fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_emptied_and_fills_again() {
        let mut buckets = Buckets::new(Rate { per_second: 2.0, burst: 3.0 });
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(buckets.take("a", start), Ok(()));
        }
        assert_eq!(buckets.take("a", start), Err(Duration::from_millis(500)));
        assert_eq!(buckets.take("b", start), Ok(()), "others are not touched");
        let later = start + Duration::from_millis(500);
        assert_eq!(buckets.wait(&"a", later), None);
        assert_eq!(buckets.take("a", later), Ok(()));
        assert!(buckets.take("a", later).is_err());
        let rested = later + Duration::from_secs(3600);
        for _ in 0..3 {
            assert_eq!(buckets.take("a", rested), Ok(()));
        }
        assert!(buckets.take("a", rested).is_err(), "a long rest gives no more than the burst");
    }

    #[test]
    fn memory_is_bounded_and_who_is_at_rest_goes_first() {
        let mut buckets = Buckets::new(Rate { per_second: 1.0, burst: 2.0 });
        let start = Instant::now();
        for client in 0..CLIENTS_MAX {
            buckets.take(client, start).unwrap();
        }
        let later = start + Duration::from_secs(10);
        let _ = buckets.take(CLIENTS_MAX, later);
        assert_eq!(buckets.by_client.len(), 1);
        for client in 0..3 * CLIENTS_MAX {
            buckets.take(client, later).unwrap();
            assert!(buckets.by_client.len() <= CLIENTS_MAX);
        }
    }

    #[test]
    fn a_wrong_token_costs_the_address_that_sent_it() {
        let failures = Failures::default();
        let [one, other] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        while failures.wait(one).is_none() {
            failures.count(one);
        }
        assert!(failures.wait(one) < Some(Duration::from_secs(2)));
        assert_eq!(failures.wait(other), None);
    }

    #[test]
    fn a_customer_of_ipv6_is_one_client() {
        let client = |text: &str| client_of(text.parse().unwrap());
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:2"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }
}
