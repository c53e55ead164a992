//! Recovery points: their names, which of them are kept, and which one a choice means. Pure.

use std::collections::HashSet;
use std::time::Duration;

use farshore_core::moment::Moment;
use farshore_core::workload::{Point, PointChoice, PointKind, Watermark};
use serde::{Deserialize, Serialize};

use super::error::ReplicaError;
use super::segment::Place;

/// How long points are kept: a day, as Azure Site Recovery does by default; enough to notice a bad deployment or an
/// encrypting intruder the next morning.
pub const KEEP: Duration = Duration::from_secs(24 * 3600);
/// How long every point is kept: within an hour people look for "just before it happened".
pub const KEEP_ALL: Duration = Duration::from_secs(3600);
/// Older than [`KEEP_ALL`], one point per minute is kept: 1,380 a day, which a person can still read and search.
pub const THEN_EVERY: Duration = Duration::from_secs(60);

/// Which points are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Points older than this are folded into the disks.
    pub keep: Duration,
    /// Points younger than this are all kept.
    pub keep_all: Duration,
    /// Between the two, the first point of each such span is kept.
    pub then_every: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { keep: KEEP, keep_all: KEEP_ALL, then_every: THEN_EVERY }
    }
}

/// A point and the place in the journal up to which its content reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offered {
    pub(super) point: Point,
    pub(super) until: Place,
}

/// What the journal's entry of a point says besides the position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PointNote {
    pub(super) taken: Moment,
    pub(super) kind: PointKind,
    pub(super) name: Option<String>,
}

impl PointNote {
    /// The point at `watermark`.
    pub(super) fn point(self, watermark: Watermark) -> Point {
        let id = id(self.taken, watermark, self.name.as_deref());
        Point { id, watermark, at: self.taken, kind: self.kind, name: self.name }
    }
}

/// A point's id: when it was taken, the last write in it, and the name if it has one. Sorts by age.
pub(super) fn id(taken: Moment, watermark: Watermark, name: Option<&str>) -> String {
    let time: String = taken.to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    let mut id = format!("{time}-{}", watermark.seq);
    if let Some(name) = name {
        id.push('-');
        id.extend(name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }));
    }
    id
}

/// Drops the points that the policy does not keep. `points` are in order of age, oldest first.
///
/// Age counts from the newest point, not from `now`, when that is earlier: while the source is silent nothing expires.
/// Points that were dropped once would be dropped again: called later or on more points, it keeps no more of the old ones.
pub(super) fn thin(points: &mut Vec<Offered>, now: Moment, policy: &Retention) {
    let Some(newest) = points.last().map(|offered| offered.point.at) else { return };
    let reference = newest.min(now);
    let span = u64::try_from(policy.then_every.as_micros()).unwrap_or(u64::MAX).max(1);
    let mut spans = HashSet::new();
    points.retain(|Offered { point, .. }| {
        let age = reference.since(point.at);
        if age > policy.keep {
            return false;
        }
        let is_first = point.kind != PointKind::Crash || spans.insert(point.at.0 / span);
        is_first || age <= policy.keep_all
    });
}

/// Which of `points` (oldest first) is meant. `latest` is what [`PointChoice::Latest`] means.
pub(super) fn choose(
    choice: &PointChoice,
    points: &[Offered],
    latest: Option<Offered>,
) -> Result<Offered, ReplicaError> {
    let (found, wanted) = match choice {
        // A recorded point that is as new has an age that people understand, and stays the same when asked for again.
        PointChoice::Latest => {
            let recorded = |latest: &Offered| {
                points.last().filter(|point| point.point.watermark.seq >= latest.point.watermark.seq).cloned()
            };
            (latest.map(|latest| recorded(&latest).unwrap_or(latest)), "yet".to_owned())
        }
        PointChoice::LatestProcessed => (points.last().cloned(), "yet".to_owned()),
        PointChoice::Id(id) => {
            let is_it = |offered: &&Offered| {
                offered.point.id == *id || offered.point.name.as_deref() == Some(id.as_str())
            };
            let synthetic = latest.filter(|offered| offered.point.id == *id);
            (points.iter().rev().find(is_it).cloned().or(synthetic), format!("{id:?}"))
        }
        PointChoice::At(moment) => {
            let found = points.iter().rev().find(|offered| offered.point.at <= *moment);
            (found.cloned(), format!("at or before {moment}"))
        }
    };
    found.ok_or_else(|| ReplicaError::NoSuchPoint { wanted, have: describe(points) })
}

fn describe(points: &[Offered]) -> String {
    match points {
        [] => "there are none; the first appears once the seed or catch-up has ended".to_owned(),
        [only] => format!("there is one, {}", only.point.id),
        [oldest, .., newest] => {
            format!(
                "there are {}, the oldest is {}, the newest {}",
                points.len(),
                oldest.point.id,
                newest.point.id
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn crash(second: u64) -> Offered {
        note(second, PointKind::Crash, None)
    }

    fn note(second: u64, kind: PointKind, name: Option<&str>) -> Offered {
        let at = Moment::from_millis(second * 1000);
        let note = PointNote { taken: at, kind, name: name.map(str::to_owned) };
        let watermark = Watermark { seq: second, at, ..Watermark::default() };
        Offered { point: note.point(watermark), until: Place { segment: 1, pos: 8 } }
    }

    fn seconds(points: &[Offered]) -> Vec<u64> {
        points.iter().map(|offered| offered.point.at.0 / 1_000_000).collect()
    }

    #[test]
    fn an_hour_is_kept_whole_then_one_a_minute_to_a_day() {
        const DAY: u64 = 86_400;
        let mut points: Vec<Offered> = (0..=DAY + 600).step_by(5).map(crash).collect();
        let named = points.len() / 2 + 3;
        points[named] = note(seconds(&points)[named], PointKind::Named, Some("before upgrade"));
        let now = Moment::from_millis((DAY + 600) * 1000);
        thin(&mut points, now, &Retention::default());
        let kept = seconds(&points);
        assert_eq!(kept.first(), Some(&600));
        assert_eq!(kept.iter().filter(|&&second| second >= DAY + 600 - 3600).count(), 721);
        assert!(points.iter().any(|offered| offered.point.name.is_some()));
        assert_eq!(kept.len(), 721 + 23 * 60 + 1, "one a minute for 23 hours, one with a name");
    }

    #[test]
    fn a_silent_source_expires_nothing() {
        let mut points: Vec<Offered> = [0, 30, 60].map(crash).into();
        thin(&mut points, Moment::from_millis(10 * 86_400_000), &Retention::default());
        assert_eq!(seconds(&points), [0, 30, 60]);
    }

    proptest! {
        #[test]
        fn thinning_never_brings_a_point_back(
            gaps in proptest::collection::vec(1u64..200, 1..120),
            steps in proptest::collection::vec(1usize..20, 1..10),
        ) {
            let policy = Retention {
                keep: Duration::from_secs(3000),
                keep_all: Duration::from_secs(500),
                then_every: Duration::from_secs(60),
            };
            let mut second = 0;
            let all: Vec<Offered> = gaps.iter().map(|gap| { second += gap; crash(second) }).collect();
            let mut kept: Vec<Offered> = Vec::new();
            let mut next = 0;
            for step in steps {
                let end = (next + step).min(all.len());
                kept.extend_from_slice(&all[next..end]);
                next = end;
                thin(&mut kept, Moment(u64::MAX), &policy);
                let mut at_once = all[..next].to_vec();
                thin(&mut at_once, Moment(u64::MAX), &policy);
                prop_assert!(kept.iter().all(|point| at_once.contains(point)));
                prop_assert_eq!(kept.last(), all[..next].last());
            }
        }
    }

    #[test]
    fn the_latest_is_the_recorded_point_when_nothing_came_after_it() {
        let points: Vec<Offered> = [10, 20].map(crash).into();
        let at = |seq| {
            Some(Offered { point: note(7, PointKind::Crash, None).point, ..crash(seq) }).map(|mut offered| {
                offered.point.watermark.seq = seq;
                offered
            })
        };
        assert_eq!(choose(&PointChoice::Latest, &points, at(20)).unwrap(), points[1]);
        assert_eq!(choose(&PointChoice::Latest, &points, at(21)).unwrap(), at(21).unwrap());
        assert!(choose(&PointChoice::Latest, &points, None).is_err());
    }

    #[test]
    fn a_choice_that_does_not_exist_says_what_does() {
        let points: Vec<Offered> = [10, 20, 30].map(crash).into();
        let choose = |choice| choose(&choice, &points, None);
        assert_eq!(choose(PointChoice::At(Moment::from_millis(25_000))).unwrap(), points[1]);
        assert_eq!(choose(PointChoice::LatestProcessed).unwrap(), points[2]);
        let error = choose(PointChoice::Id("nope".to_owned())).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no recovery point \"nope\": there are 3, the oldest is 19700101T000010000Z-10, \
             the newest 19700101T000030000Z-30"
        );
        assert!(choose(PointChoice::At(Moment::from_millis(5_000))).is_err());
    }
}
