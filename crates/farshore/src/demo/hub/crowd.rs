//! All devices together, and what they are owed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::client::Identity;
use super::device::{Device, Grounds, Known};

/// Devices that run; they end when it is dropped.
#[derive(Debug)]
pub(super) struct Crowd {
    devices: Vec<Arc<Device>>,
    grounds: Arc<Grounds>,
    _tasks: JoinSet<()>,
}

impl Crowd {
    pub(super) fn start(who: Vec<Identity>, grounds: Grounds) -> Self {
        let devices: Vec<_> = who.into_iter().map(|who| Arc::new(Device::new(who))).collect();
        let grounds = Arc::new(grounds);
        let mut tasks = JoinSet::new();
        for device in &devices {
            tasks.spawn(Arc::clone(device).live(Arc::clone(&grounds)));
        }
        Self { devices, grounds, _tasks: tasks }
    }

    /// How many of the devices from `first` on are as asked.
    pub(super) fn count_from(&self, first: usize, mut is: impl FnMut(&Known) -> bool) -> usize {
        self.devices.iter().skip(first).filter(|device| is(&device.known())).count()
    }

    /// How many of the first `end` devices are as asked.
    pub(super) fn count_to(&self, end: usize, mut is: impl FnMut(&Known) -> bool) -> usize {
        self.devices.iter().take(end).filter(|device| is(&device.known())).count()
    }

    /// How many messages of each device were acknowledged.
    pub(super) fn acknowledged(&self) -> Vec<u64> {
        self.devices.iter().map(|device| device.known().acknowledged).collect()
    }

    /// Acknowledgements of what had been acknowledged before.
    pub(super) fn again(&self) -> u64 {
        self.devices.iter().map(|device| device.known().again).sum()
    }

    /// When the region first acknowledged something after `since`, and when it did so for the last of the devices that came.
    pub(super) fn heard(&self, since: Instant, region: &str) -> Option<(Duration, Duration)> {
        let waits: Vec<_> =
            self.devices.iter().filter_map(|device| heard_after(&device.known(), since, region)).collect();
        Some((*waits.iter().min()?, *waits.iter().max()?))
    }

    /// Nothing new is said from now on.
    pub(super) fn be_quiet(&self) {
        self.grounds.is_quiet.store(true, Ordering::SeqCst);
    }

    /// The ids of all messages that were acknowledged.
    pub(super) fn owed(&self) -> Vec<String> {
        let of = |device: &Arc<Device>| {
            let acknowledged = device.known().acknowledged;
            (1..=acknowledged).map(|number| device.message_id(number)).collect::<Vec<_>>()
        };
        self.devices.iter().flat_map(of).collect()
    }
}

/// How long after `since` the region first acknowledged something of this device.
pub(super) fn heard_after(known: &Known, since: Instant, region: &str) -> Option<Duration> {
    let there = known.heard.iter().filter(|(_, by)| by == region);
    there.filter_map(|(at, _)| at.checked_duration_since(since)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_followed_when_the_far_shore_acknowledged_something_after_the_disaster() {
        let disaster = Instant::now();
        let after = |millis| disaster + Duration::from_millis(millis);
        let known = Known {
            heard: vec![
                (after(5), "paris".into()),
                (after(900), "oslo".into()),
                (after(2_000), "oslo".into()),
            ],
            ..Known::default()
        };
        assert_eq!(heard_after(&known, disaster, "oslo"), Some(Duration::from_millis(900)));
        assert_eq!(heard_after(&known, after(950), "oslo"), Some(Duration::from_millis(1_050)));
        assert_eq!(heard_after(&known, after(950), "paris"), None);
    }
}
