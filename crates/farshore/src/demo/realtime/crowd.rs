//! All clients together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::client::{Known, Member, live};
use super::hub::Hub;
use super::publisher::Owed;

/// What all clients got of what they were owed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reckoning {
    pub(super) owed: u64,
    pub(super) received: u64,
    pub(super) duplicates: u64,
    /// The first that is missing: client and place in the list of what is owed.
    pub(super) first_missing: Option<(usize, usize)>,
}

/// Clients that run; they end when it is dropped.
#[derive(Debug)]
pub(super) struct Crowd {
    members: Vec<Arc<Member>>,
    _tasks: JoinSet<()>,
}

impl Crowd {
    pub(super) fn start(hub: &Arc<Hub>, count: usize) -> Self {
        let members: Vec<Arc<Member>> = (0..count).map(|_| Arc::default()).collect();
        let mut tasks = JoinSet::new();
        for (number, member) in members.iter().enumerate() {
            tasks.spawn(live(number, Arc::clone(member), Arc::clone(hub)));
        }
        Self { members, _tasks: tasks }
    }

    /// How many are as asked.
    pub(super) fn count(&self, mut is: impl FnMut(&Known) -> bool) -> usize {
        self.members.iter().filter(|member| is(&member.known())).count()
    }

    /// Those whose session went on since `since` without ever being begun anew.
    pub(super) fn recovered(&self, since: Instant) -> usize {
        self.count(|known| known.anew == 0 && back_after(known, since).is_some())
    }

    /// From `since` to the first frame of the client that waited longest, of those that are back.
    pub(super) fn slowest(&self, since: Instant) -> Duration {
        let waits = self.members.iter().filter_map(|member| back_after(&member.known(), since));
        waits.max().unwrap_or_default()
    }

    /// How often anybody had to begin anew.
    pub(super) fn anew(&self) -> u64 {
        self.members.iter().map(|member| member.known().anew).sum()
    }

    /// Compares what each client got with all that is owed.
    pub(super) fn reckon(&self, owed: &[Owed]) -> Reckoning {
        let mut reckoning = Reckoning::default();
        for (client, member) in self.members.iter().enumerate() {
            let known = member.known();
            let missing = |owed: &Owed| !known.tally.has(owed.number);
            reckoning.owed += owed.len() as u64;
            reckoning.received += owed.iter().filter(|owed| !missing(owed)).count() as u64;
            reckoning.duplicates += known.tally.duplicates();
            if reckoning.first_missing.is_none() {
                reckoning.first_missing = owed.iter().position(missing).map(|place| (client, place));
            }
        }
        reckoning
    }
}

fn back_after(known: &Known, since: Instant) -> Option<Duration> {
    known.back.iter().find_map(|back| back.checked_duration_since(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_is_owed_each_accepted_message_and_nothing_else() {
        let crowd = Crowd { members: (0..3).map(|_| Arc::default()).collect(), _tasks: JoinSet::new() };
        let at = Instant::now();
        let owed = [1, 2, 4].map(|number| Owed { number, at });
        // Number 3 was not accepted, yet some have it; the second client lacks one, the third got one twice.
        for (client, numbers) in [vec![1, 2, 3, 4], vec![1, 4], vec![1, 2, 2, 4]].iter().enumerate() {
            numbers.iter().for_each(|number| crowd.members[client].known().tally.note(*number));
        }
        let expected = Reckoning { owed: 9, received: 8, duplicates: 1, first_missing: Some((1, 1)) };
        assert_eq!(crowd.reckon(&owed), expected);
    }

    #[test]
    fn who_began_anew_has_not_recovered() {
        let crowd = Crowd { members: (0..3).map(|_| Arc::default()).collect(), _tasks: JoinSet::new() };
        let disaster = Instant::now();
        let after = |millis| disaster + Duration::from_millis(millis);
        crowd.members[0].known().back = vec![after(300), after(9_000)];
        crowd.members[1].known().back = vec![after(700)];
        assert_eq!((crowd.recovered(disaster), crowd.slowest(disaster)), (2, Duration::from_millis(700)));
        crowd.members[0].known().anew = 1;
        assert_eq!(crowd.recovered(disaster), 1);
        assert_eq!(crowd.recovered(after(800)), 0);
    }
}
