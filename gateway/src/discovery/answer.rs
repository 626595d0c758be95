//! What follows from an answer of DNS: which addresses are known from now on, and when to ask again. Pure.

use std::net::IpAddr;
use std::time::Duration;

/// Most addresses of a name that are used. Unit: addresses.
pub(super) const MAX_ADDRESSES: usize = 1024;
/// How soon a name is asked for again at the soonest, whatever its TTL.
pub(super) const SOONEST: Duration = Duration::from_secs(1);
/// How late at the latest, while it has addresses.
const LATEST: Duration = Duration::from_secs(30);
/// How late at the latest, while it has none or nobody can tell: a first replica is found soon.
const LATEST_WITHOUT: Duration = Duration::from_secs(5);

/// What was said of a name's addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// There are these.
    Addresses {
        /// In any order.
        found: Vec<IpAddr>,
        /// How long that holds.
        ttl: Duration,
    },
    /// There are none, and a name server that knows says so.
    Nothing {
        /// Whether there is such a name.
        exists: bool,
        /// How long that holds, if it was said.
        ttl: Option<Duration>,
    },
    /// Nobody could tell; why.
    Failed(String),
}

/// What was said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The name that was asked for, in full: a search domain may be in it.
    pub(super) name: String,
    /// Its A records.
    pub(super) v4: Part,
    /// Its AAAA records.
    pub(super) v6: Part,
}

impl Answer {
    /// Whether there are addresses.
    pub(super) fn has_addresses(&self) -> bool {
        [&self.v4, &self.v6].iter().any(|part| matches!(part, Part::Addresses { found, .. } if !found.is_empty()))
    }

    /// Why nobody knows whether there are addresses, if so.
    pub(super) fn failure(&self) -> Option<&str> {
        let failure = [&self.v4, &self.v6].into_iter().find_map(|part| match part {
            Part::Failed(why) => Some(why.as_str()),
            _ => None,
        });
        failure.filter(|_| !self.has_addresses())
    }

    fn exists(&self) -> bool {
        [&self.v4, &self.v6].iter().any(|part| !matches!(part, Part::Nothing { exists: false, .. }))
    }
}

/// The addresses that a name is known to have.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The name that answered, in full; `None` before there was an answer.
    pub(super) name: Option<String>,
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    /// Failures since the last answer.
    failures: u32,
}

/// What an answer came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The addresses from now on, in order: IPv4 first, for where there is no way there that shows at once. `None`
    /// where there was no answer yet.
    pub(super) addresses: Option<Vec<IpAddr>>,
    /// Addresses beyond [`MAX_ADDRESSES`]. Unit: addresses.
    pub(super) left_out: usize,
    /// Why there is nothing, or nothing new.
    pub(super) why: Option<String>,
    /// Whether nobody could tell.
    pub(super) failed: bool,
    /// When to ask again.
    pub(super) again: Duration,
}

impl Known {
    /// Takes an answer. A failure changes nothing, neither of a name nor of one of its families beside the other.
    pub(super) fn on(&mut self, answer: Answer) -> Outcome {
        if let Some(why) = answer.failure().map(str::to_owned) {
            let again = SOONEST * 2u32.saturating_pow(self.failures);
            self.failures = self.failures.saturating_add(1);
            return self.outcome(Some(why), true, again.min(LATEST_WITHOUT));
        }
        self.failures = 0;
        let why = match (answer.has_addresses(), answer.exists()) {
            (true, _) => None,
            (false, true) => Some("the name has no address".to_owned()),
            (false, false) => Some("there is no such name".to_owned()),
        };
        let again = again(&answer);
        if self.name.as_ref() != Some(&answer.name) {
            *self = Self { name: Some(answer.name), ..Self::default() };
        }
        for (known, part) in [(&mut self.v4, answer.v4), (&mut self.v6, answer.v6)] {
            match part {
                Part::Addresses { found, .. } => *known = found,
                Part::Nothing { .. } => known.clear(),
                Part::Failed(_) => {}
            }
        }
        self.outcome(why, false, again)
    }

    fn outcome(&self, why: Option<String>, failed: bool, again: Duration) -> Outcome {
        let mut addresses: Vec<IpAddr> = self.v4.iter().chain(&self.v6).copied().collect();
        addresses.sort_unstable(); // IPv4 sorts before IPv6
        addresses.dedup();
        let left_out = addresses.len().saturating_sub(MAX_ADDRESSES);
        addresses.truncate(MAX_ADDRESSES);
        Outcome { addresses: self.name.is_some().then_some(addresses), left_out, why, failed, again }
    }
}

/// When to ask again after an answer that is none of failure.
fn again(answer: &Answer) -> Duration {
    let parts = [&answer.v4, &answer.v6];
    let of_addresses = parts.iter().filter_map(|part| match part {
        Part::Addresses { ttl, .. } => Some(*ttl),
        _ => None,
    });
    if answer.has_addresses() {
        return of_addresses.min().unwrap_or(SOONEST).clamp(SOONEST, LATEST);
    }
    let of_nothing = parts.iter().filter_map(|part| match part {
        Part::Nothing { ttl, .. } => *ttl,
        _ => None,
    });
    of_nothing.min().unwrap_or(LATEST_WITHOUT).clamp(SOONEST, LATEST_WITHOUT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NONE: Part = Part::Nothing { exists: false, ttl: None };

    fn these(addresses: &[&str], seconds: u64) -> Part {
        let found = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Part::Addresses { found, ttl: SECOND * seconds as u32 }
    }

    fn failed() -> Part {
        Part::Failed("SERVFAIL".to_owned())
    }

    fn answer(v4: Part, v6: Part) -> Answer {
        Answer { name: "n.".to_owned(), v4, v6 }
    }

    fn addresses(outcome: &Outcome) -> Vec<String> {
        outcome.addresses.iter().flatten().map(IpAddr::to_string).collect()
    }

    #[test]
    fn both_families_are_known_in_one_order() {
        let mut known = Known::default();
        let outcome = known.on(answer(these(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], 9), these(&["::1"], 7)));
        assert_eq!(addresses(&outcome), ["10.0.0.1", "10.0.0.2", "::1"]);
        assert_eq!((outcome.again, outcome.why, outcome.failed), (SECOND * 7, None, false));
    }

    #[test]
    fn a_failure_changes_nothing_and_is_tried_again_soon_and_then_later() {
        let mut known = Known::default();
        let before = known.on(answer(failed(), NONE));
        assert_eq!((before.addresses, before.failed), (None, true), "never answered is not the same as none");
        known.on(answer(these(&["10.0.0.1"], 30), NONE));
        for seconds in [1, 2, 4, 5, 5] {
            let outcome = known.on(answer(failed(), failed()));
            assert_eq!(addresses(&outcome), ["10.0.0.1"]);
            assert_eq!((outcome.again, outcome.why.as_deref()), (SECOND * seconds, Some("SERVFAIL")));
        }
        let half = known.on(answer(failed(), NONE));
        assert_eq!(addresses(&half), ["10.0.0.1"], "that it has no AAAA says nothing of its A");
        known.on(answer(these(&["10.0.0.2"], 30), NONE));
        assert_eq!(known.on(answer(failed(), failed())).again, SECOND, "the count begins anew");
    }

    #[test]
    fn one_family_may_fail_alone() {
        let mut known = Known::default();
        known.on(answer(these(&["10.0.0.1"], 30), these(&["::1"], 30)));
        let outcome = known.on(answer(these(&["10.0.0.2"], 30), failed()));
        assert_eq!((addresses(&outcome), outcome.failed), (vec!["10.0.0.2".to_owned(), "::1".to_owned()], false));
        let other = Answer { name: "n.search.".to_owned(), ..answer(these(&["10.0.0.3"], 30), failed()) };
        assert_eq!(addresses(&known.on(other)), ["10.0.0.3"], "the other name's AAAA are nobody's");
    }

    #[test]
    fn nothing_is_an_answer() {
        let mut known = Known::default();
        known.on(answer(these(&["10.0.0.1"], 30), NONE));
        let gone = known.on(answer(NONE, NONE));
        assert_eq!((gone.addresses, gone.failed), (Some(Vec::new()), false));
        assert_eq!(gone.why.as_deref(), Some("there is no such name"));
        let empty = Part::Nothing { exists: true, ttl: Some(SECOND * 2) };
        let empty = known.on(answer(empty.clone(), empty));
        assert_eq!((empty.why.as_deref(), empty.again), (Some("the name has no address"), SECOND * 2));
    }

    #[test]
    fn a_ttl_is_held_to_between_its_bounds() {
        let again = |v4, v6| Known::default().on(answer(v4, v6)).again;
        for (ttl, seconds) in [(0, 1), (1, 1), (29, 29), (3600, 30)] {
            assert_eq!(again(these(&["10.0.0.1"], ttl), NONE), SECOND * seconds);
        }
        for (ttl, seconds) in [(0, 1), (4, 4), (3600, 5)] {
            let nothing = Part::Nothing { exists: true, ttl: Some(SECOND * ttl) };
            assert_eq!(again(nothing, NONE), SECOND * seconds);
        }
        assert_eq!(again(NONE, NONE), SECOND * 5);
    }

    #[test]
    fn what_is_too_much_is_left_out_the_same_each_time() {
        let many = |from: u32| {
            let found = (from..from + 2000).rev().map(|number| IpAddr::from(number.to_be_bytes())).collect();
            Part::Addresses { found, ttl: SECOND }
        };
        let mut known = Known::default();
        let first = known.on(answer(many(1 << 24), NONE));
        assert_eq!(
            (first.addresses.as_ref().map(Vec::len), first.left_out),
            (Some(MAX_ADDRESSES), 2000 - MAX_ADDRESSES)
        );
        assert_eq!(known.on(answer(many(1 << 24), NONE)).addresses, first.addresses);
    }

    proptest! {
        /// Whatever comes: it is asked again within bounds, never for more addresses than are allowed, and a failure
        /// takes nothing away.
        #[test]
        fn whatever_comes(parts in proptest::collection::vec((part(), part()), 1..20)) {
            let mut known = Known::default();
            let mut before = None;
            for (v4, v6) in parts {
                let answer = answer(v4, v6);
                let fails = answer.failure().is_some();
                let outcome = known.on(answer);
                prop_assert_eq!(outcome.failed, fails);
                prop_assert!((SOONEST..=LATEST).contains(&outcome.again));
                if fails {
                    prop_assert_eq!(&outcome.addresses, &before);
                }
                let addresses = outcome.addresses.clone().unwrap_or_default();
                prop_assert!(addresses.is_sorted() && addresses.len() <= MAX_ADDRESSES);
                before = outcome.addresses;
            }
        }
    }

    fn part() -> impl Strategy<Value = Part> {
        prop_oneof![
            (proptest::collection::vec(any::<u8>(), 0..4), 0..100u64).prop_map(|(last, ttl)| {
                let found = last.into_iter().map(|last| IpAddr::from([10, 0, 0, last])).collect();
                Part::Addresses { found, ttl: Duration::from_secs(ttl) }
            }),
            (any::<bool>(), proptest::option::of(0..100u64))
                .prop_map(|(exists, ttl)| Part::Nothing { exists, ttl: ttl.map(Duration::from_secs) }),
            Just(failed()),
        ]
    }
}
