//! So much in a minute: a bucket that fills evenly and holds a minute's worth.
//!
//! It is the generic cell rate algorithm (ITU-T I.371, annex A): one word says when the bucket will be full again, were
//! nothing more taken. All cores share it and take by compare-and-swap. The time is the monotonic clock's, so that a
//! clock that is set does nothing here; an earlier time than the last one takes from what was there then.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Nanoseconds.
const MINUTE: u64 = 60_000_000_000;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment, as buckets count it. Unit: nanoseconds since the first one was asked for.
pub(super) fn moment(now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(*START).as_nanos()).unwrap_or(u64::MAX)
}

/// How fast a bucket fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// How long one takes to come. Rounded up: never more than was said. Unit: nanoseconds.
    each: u64,
    /// How long a whole bucket takes. Unit: nanoseconds.
    all: u64,
}

/// What is in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    /// How many can be taken now.
    pub(super) left: u64,
    /// How long it takes to be full.
    pub(super) full_in: Duration,
}

/// When a bucket will be full. Unit: nanoseconds, as [`moment`] counts them; 0 is a full one.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Rate {
    /// So many in a minute, and at least one.
    pub(super) fn per_minute(number: u32) -> Self {
        let number = u64::from(number.max(1));
        let each = MINUTE.div_ceil(number);
        Self { each, all: each * number }
    }
}

impl Bucket {
    /// Takes one.
    ///
    /// # Errors
    /// There is none, and there will be after this long.
    pub(super) fn take(&self, rate: Rate, now: u64) -> Result<(), Duration> {
        let mut full_at = self.0.load(Relaxed);
        loop {
            let after = full_at.max(now).saturating_add(rate.each);
            let missing = after - now;
            if missing > rate.all {
                return Err(Duration::from_nanos(missing - rate.all));
            }
            match self.0.compare_exchange_weak(full_at, after, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(changed) => full_at = changed,
            }
        }
    }

    /// Whether there is one to take; takes none.
    ///
    /// # Errors
    /// There is none, and there will be after this long.
    pub(super) fn has_any(&self, rate: Rate, now: u64) -> Result<(), Duration> {
        let missing = self.missing(now).saturating_add(rate.each);
        if missing > rate.all { Err(Duration::from_nanos(missing - rate.all)) } else { Ok(()) }
    }

    /// Takes so many, whether they are there or not: those that are not are paid back before any other is taken.
    pub(super) fn charge(&self, rate: Rate, number: u64, now: u64) {
        let cost = rate.each.saturating_mul(number);
        let _ = self.0.fetch_update(Relaxed, Relaxed, |full_at| Some(full_at.max(now).saturating_add(cost)));
    }

    /// What is in it.
    pub(super) fn level(&self, rate: Rate, now: u64) -> Level {
        let missing = self.missing(now);
        Level { left: rate.all.saturating_sub(missing) / rate.each, full_in: Duration::from_nanos(missing) }
    }

    /// How long it takes to be full. Unit: nanoseconds.
    fn missing(&self, now: u64) -> u64 {
        self.0.load(Relaxed).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = MINUTE / 60;

    #[test]
    fn a_minutes_worth_comes_at_once_and_then_evenly() {
        let (bucket, rate) = (Bucket::default(), Rate::per_minute(60));
        assert_eq!(bucket.level(rate, 0), Level { left: 60, full_in: Duration::ZERO });
        for _ in 0..60 {
            assert_eq!(bucket.take(rate, 0), Ok(()));
        }
        assert_eq!(bucket.level(rate, 0), Level { left: 0, full_in: Duration::from_secs(60) });
        assert_eq!(bucket.take(rate, SECOND / 4), Err(Duration::from_millis(750)));
        assert_eq!(bucket.take(rate, SECOND), Ok(()));
        assert_eq!(bucket.take(rate, SECOND), Err(Duration::from_secs(1)));
        assert_eq!(bucket.level(rate, 3 * SECOND), Level { left: 2, full_in: Duration::from_secs(58) });
        assert_eq!(bucket.level(rate, 1000 * SECOND), Level { left: 60, full_in: Duration::ZERO });
    }

    #[test]
    fn what_was_charged_beyond_the_bucket_is_paid_back_first() {
        let (bucket, rate) = (Bucket::default(), Rate::per_minute(60));
        bucket.charge(rate, 90, 0);
        assert_eq!(bucket.has_any(rate, 0), Err(Duration::from_secs(31)));
        assert_eq!(bucket.level(rate, 0).left, 0);
        assert_eq!(bucket.has_any(rate, 31 * SECOND), Ok(()));
        bucket.charge(rate, u64::MAX, 31 * SECOND);
        assert!(bucket.has_any(rate, 32 * SECOND).is_err(), "no overflow lets anybody in");
    }

    #[test]
    fn all_cores_together_take_no_more_than_there_is() {
        let (bucket, rate, taken) = (Bucket::default(), Rate::per_minute(1000), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if bucket.take(rate, 5).is_ok() {
                            taken.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), 1000);
    }

    proptest! {
        /// In no window more than the bucket and what flows into it, whatever the clock does.
        #[test]
        fn never_more_than_the_limit(number in 1..300u32, steps in prop::collection::vec((-3..200i64, 1..20u32), 1..40)) {
            let (bucket, rate) = (Bucket::default(), Rate::per_minute(number));
            let (mut now, mut taken) = (1_000 * SECOND, Vec::new());
            for (hundredths, tries) in steps {
                now = now.saturating_add_signed(hundredths * (SECOND as i64 / 100));
                for _ in 0..tries {
                    match bucket.take(rate, now) {
                        Ok(()) => taken.push(now),
                        Err(wait) => {
                            prop_assert!(!wait.is_zero());
                            // Whoever waits as long as was said gets one, unless another took it.
                            let probe = Bucket(AtomicU64::new(bucket.0.load(Relaxed)));
                            prop_assert_eq!(probe.take(rate, now + wait.as_nanos() as u64), Ok(()));
                        }
                    }
                }
            }
            for first in 0..taken.len() {
                let (mut earliest, mut latest) = (u64::MAX, 0);
                for (more, at) in taken[first..].iter().enumerate() {
                    (earliest, latest) = (earliest.min(*at), latest.max(*at));
                    let window = u128::from(latest - earliest);
                    let most = u128::from(number) + window * u128::from(number) / u128::from(MINUTE);
                    prop_assert!((more + 1) as u128 <= most, "{} in {window} ns", more + 1);
                }
            }
        }

        /// Charged when it is over, a request may cost what is not there: so much for each that runs at once, and no more.
        #[test]
        fn never_more_tokens_than_the_limit_and_what_runs(number in 1..5000u32, at_once in 1..5usize,
            steps in prop::collection::vec((0..100u64, 0..400u64), 1..100)) {
            let (bucket, rate) = (Bucket::default(), Rate::per_minute(number));
            let (mut now, start, mut spent, mut running) = (1_000 * SECOND, 1_000 * SECOND, 0u64, Vec::new());
            for (tenths, cost) in steps {
                now += tenths * (SECOND / 10);
                if running.len() == at_once {
                    let cost = running.remove(0);
                    bucket.charge(rate, cost, now);
                    spent += cost;
                }
                if bucket.has_any(rate, now).is_ok() {
                    running.push(cost);
                }
                let flowed = u128::from(now - start) * u128::from(number) / u128::from(MINUTE);
                let most = u128::from(number) + flowed + at_once as u128 * 400;
                prop_assert!(u128::from(spent) <= most, "{spent} of {most}");
            }
        }
    }
}
