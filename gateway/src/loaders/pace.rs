//! When a serving replica may be asked to prove an adapter: a share of its time and no more. Pure.

use std::time::{Duration, Instant};

/// How long a moment is waited for in which the replica has nothing to do.
const IDLE_WITHIN: Duration = Duration::from_secs(3);
/// How long one in which nobody waits in the pool's queue. Then a probe takes its turn like any other: it is within its share.
const QUIET_WITHIN: Duration = Duration::from_secs(120);
/// How long requests may be held back at first, for those that run to end; doubled after each time that was not enough.
const HOLD: Duration = Duration::from_secs(2);
/// What a probe is taken to cost before one was seen.
const GUESS: Duration = Duration::from_secs(2);
/// Longest pause between two: a look by hand should find it at work.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// It has nothing to do.
    Idle,
    /// It works, and nobody waits for it.
    Quiet,
    /// Somebody waits.
    Busy,
}

/// The probes of one replica.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Before which there is no other.
    next: Option<Instant>,
    /// Since when one is wanted and may be.
    due: Option<Instant>,
    /// What the last one cost.
    cost: Option<Duration>,
    /// How many in a row did not get their turn.
    held_back: u32,
}

impl Pace {
    /// Whether a probe that is wanted is made now.
    pub(super) fn may(&mut self, load: Load, now: Instant) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let waited = now.saturating_duration_since(*self.due.get_or_insert(now));
        match load {
            Load::Idle => true,
            Load::Quiet => waited >= IDLE_WITHIN,
            Load::Busy => waited >= QUIET_WITHIN,
        }
    }

    /// None is wanted.
    pub(super) fn rests(&mut self) {
        self.due = None;
    }

    /// How long requests may be held back for one, at most so long.
    pub(super) fn hold(&self, most: Duration) -> Duration {
        HOLD.saturating_mul(1 << self.held_back.min(10)).min(most)
    }

    /// One took so much of the replica's time, since then, of which this share is for probes. `had_its_turn`: else it only held
    /// others back.
    pub(super) fn took(&mut self, begun: Instant, cost: Duration, share: f64, had_its_turn: bool) {
        self.held_back = if had_its_turn { 0 } else { self.held_back.saturating_add(1) };
        if had_its_turn {
            self.cost = Some(cost);
        }
        self.next = Some(begun + pause(cost, share));
        self.due = None;
    }

    /// When so many more are over, as far as can be told: each costs what the last one did.
    pub(super) fn finish(&self, wanted: usize, share: f64, now: Instant) -> Option<Duration> {
        let others = u32::try_from(wanted.checked_sub(1)?).unwrap_or(u32::MAX);
        let first = self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
        let cost = self.cost.unwrap_or(GUESS);
        Some(first + pause(cost, share).saturating_mul(others) + cost)
    }
}

/// From the beginning of a probe to that of the next.
fn pause(cost: Duration, share: f64) -> Duration {
    Duration::try_from_secs_f64(cost.as_secs_f64() / share).unwrap_or(LONGEST).min(LONGEST).max(cost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_probe_prefers_a_moment_when_nothing_is_to_do_and_comes_to_its_turn_all_the_same() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        assert!(!pace.may(Load::Busy, at(0)) && !pace.may(Load::Quiet, at(2)));
        assert!(pace.may(Load::Quiet, at(3)) && !pace.may(Load::Busy, at(119)) && pace.may(Load::Busy, at(120)));
        pace.took(at(120), Duration::from_secs(1), 0.01, true);
        assert!(!pace.may(Load::Idle, at(219)) && pace.may(Load::Idle, at(220)));
        assert!(!pace.may(Load::Quiet, at(222)), "it waits anew");
        assert_eq!(pace.hold(Duration::from_secs(30)), HOLD);
        pace.took(at(300), HOLD, 0.5, false);
        assert_eq!((pace.hold(Duration::from_secs(30)), pace.hold(HOLD)), (HOLD * 2, HOLD));
        assert_eq!(pace.finish(0, 0.5, at(300)), None);
        // 4 s of pause, two more of 2 s each, and the last one's second.
        assert_eq!(pace.finish(3, 0.5, at(300)), Some(Duration::from_secs(4 + 2 * 2 + 1)));
    }

    proptest! {
        #[test]
        fn probes_take_no_more_than_their_share(costs in proptest::collection::vec(1..5000_u64, 1..40), percent in 1..100_u32) {
            let (share, begun) = (f64::from(percent) / 100.0, Instant::now());
            let (mut pace, mut now, mut spent) = (Pace::default(), begun, Duration::ZERO);
            let last = costs.len() - 1;
            for (number, cost) in costs.into_iter().enumerate() {
                while !pace.may(Load::Idle, now) {
                    now += Duration::from_millis(1);
                }
                let within = now.saturating_duration_since(begun).as_secs_f64() * share;
                prop_assert!(spent.as_secs_f64() <= within + 1e-6, "{spent:?} by {:?}", now - begun);
                let cost = Duration::from_millis(cost);
                pace.took(now, cost, share, true);
                spent += cost;
                now += if number == last { Duration::ZERO } else { cost };
            }
        }
    }
}
