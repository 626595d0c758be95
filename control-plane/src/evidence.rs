//! What was seen of a revision: how its requests ended, and how long its engine took.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The shortest time that is told from shorter ones. Unit: seconds.
const SHORTEST: f64 = 100e-6;
/// How much longer the times of a bucket are than those of the one before: a time is known to 1 %.
pub(crate) const GROWTH: f64 = 1.02;
/// How many buckets there are: the last begins at about 11 hours.
pub const BUCKETS: usize = 1_000;

/// The bucket of a time.
pub fn bucket(time: Duration) -> usize {
    let above = (time.as_secs_f64() / SHORTEST).ln() / GROWTH.ln();
    // Below the first for no time at all, which is the first too.
    if above > 0.0 { (above.ceil() as usize).min(BUCKETS - 1) } else { 0 }
}

/// The time that stands for a bucket: no more than 1 % from any in it, but for the first and the last.
pub(crate) fn time_of(bucket: usize) -> Duration {
    Duration::from_secs_f64(SHORTEST * GROWTH.powf(bucket as f64 - 0.5))
}

/// How many times were in each bucket; of those alone that have any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(BTreeMap<u16, u64>);

impl Histogram {
    /// Of counts by bucket.
    pub fn of(counts: impl IntoIterator<Item = (usize, u64)>) -> Self {
        let counts = counts.into_iter().filter(|(bucket, count)| *count > 0 && *bucket < BUCKETS);
        Self(counts.filter_map(|(bucket, count)| Some((u16::try_from(bucket).ok()?, count))).collect())
    }

    /// One time more.
    pub fn add(&mut self, time: Duration) {
        *self.0.entry(u16::try_from(bucket(time)).unwrap_or(u16::MAX)).or_default() += 1;
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The time that this share of them, from 0 to 1, does not exceed; `None` where there are none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut below = 0;
        self.0.iter().find_map(|(bucket, count)| {
            below += count;
            (below >= wanted).then(|| time_of(usize::from(*bucket)))
        })
    }

    /// Its buckets, the first first.
    pub(crate) fn buckets(&self) -> impl DoubleEndedIterator<Item = (usize, u64)> {
        self.0.iter().map(|(bucket, count)| (usize::from(*bucket), *count))
    }

    fn since(&self, before: &Self) -> Self {
        let left = self.0.iter().map(|(bucket, count)| {
            (usize::from(*bucket), count.saturating_sub(before.0.get(bucket).copied().unwrap_or(0)))
        });
        Self::of(left)
    }

    fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            *self.0.entry(*bucket).or_default() += count;
        }
    }
}

/// What was seen of a revision since some moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Seen {
    /// Requests that ended well or by the revision's fault; those that clients spoilt or left say nothing of it.
    pub requests: u64,
    /// Those that ended by its fault.
    pub errors: u64,
    /// How long the engine had each that ended well, without the queue before it.
    pub engine: Histogram,
    /// Of streams, how long until the first of it came.
    pub first_token: Histogram,
}

impl Seen {
    /// What was seen since `before`. Where the count began anew meanwhile, all of it.
    pub fn since(&self, before: &Self) -> Self {
        if self.requests < before.requests || self.errors < before.errors {
            return self.clone();
        }
        Self {
            requests: self.requests - before.requests,
            errors: self.errors - before.errors,
            engine: self.engine.since(&before.engine),
            first_token: self.first_token.since(&before.first_token),
        }
    }

    /// Takes in what somebody else has seen.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.engine.merge(&other.engine);
        self.first_token.merge(&other.first_token);
    }

    /// One that ended well.
    pub fn good(&mut self, engine: Duration, first_token: Option<Duration>) {
        self.requests += 1;
        self.engine.add(engine);
        if let Some(time) = first_token {
            self.first_token.add(time);
        }
    }

    /// One that did not.
    pub fn bad(&mut self) {
        self.requests += 1;
        self.errors += 1;
    }
}

/// Who can serve a revision now: has it, proven, and can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Ready {
    /// The pool's name.
    pub pool: String,
    /// How many replicas.
    pub replicas: u32,
    /// Requests that these work on at once.
    pub slots: u32,
}

/// What a gateway tells of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RevisionHeard {
    /// What was seen of it, since the gateway began.
    pub seen: Seen,
    /// Who can serve it.
    pub ready: Ready,
}

/// What a gateway tells of its models: by model and revision.
pub type Heard = BTreeMap<String, BTreeMap<String, RevisionHeard>>;

/// Both revisions over the last intervals alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// How many these are. Unit: intervals.
    pub intervals: usize,
    /// Of the current revision.
    pub current: Seen,
    /// Of the candidate.
    pub candidate: Seen,
}

/// What a release is judged by: both revisions over the same time, since its weights last changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Of the current revision.
    pub current: Seen,
    /// Of the candidate.
    pub candidate: Seen,
    /// The end of it alone, where it is time to look and there were enough looks before.
    pub recent: Vec<Recent>,
    /// Who can serve the current one.
    pub current_ready: Ready,
    /// Who can serve the candidate.
    pub candidate_ready: Ready,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_is_known_to_one_percent(micros in 101u64..39_000_000_000) {
            let time = Duration::from_micros(micros);
            let told = time_of(bucket(time)).as_secs_f64();
            prop_assert!((told / time.as_secs_f64() - 1.0).abs() < 0.010_1, "{:?} {}", time, told);
        }

        #[test]
        fn what_came_after_is_the_difference(before in prop::collection::vec(1u64..100_000, 0..50), after in prop::collection::vec(1u64..100_000, 0..50)) {
            let mut seen = Seen::default();
            before.iter().for_each(|millis| seen.good(Duration::from_millis(*millis), None));
            let mark = seen.clone();
            let mut only = Seen::default();
            for millis in &after {
                seen.good(Duration::from_millis(*millis), None);
                only.good(Duration::from_millis(*millis), None);
            }
            seen.bad();
            only.bad();
            prop_assert_eq!(seen.since(&mark), only.clone());
            let mut sum = mark;
            sum.merge(&only);
            prop_assert_eq!(sum, seen);
        }
    }

    #[test]
    fn a_count_that_began_anew_is_taken_whole() {
        let mut before = Seen::default();
        (0..5).for_each(|_| before.bad());
        let mut now = Seen::default();
        now.good(Duration::from_secs(1), Some(Duration::from_millis(1)));
        assert_eq!(now.since(&before), now);
    }
}
