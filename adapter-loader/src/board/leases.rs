//! Which names gateways may still send requests for.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tutti_api::{EngineName, Leases};

/// Longest lease.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(600);
/// Most gateways that hold leases.
pub(crate) const MAX_HOLDERS: usize = 256;
/// Most names in a lease.
pub(crate) const MAX_NAMES: usize = 10_000;

/// All leases there are.
#[derive(Debug)]
pub(crate) struct LeaseBook {
    holders: HashMap<String, (HashSet<EngineName>, Instant)>,
    /// The names that are being taken from the engine.
    going: HashSet<EngineName>,
    /// Until then every name counts as leased: whoever has leases may not have told this run of the loader yet.
    blanket: Instant,
}

/// Why a lease is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LeaseRefused {
    #[error("a lease has at most {MAX_NAMES} names")]
    TooManyNames,
    #[error("{MAX_HOLDERS} gateways hold leases already")]
    TooManyHolders,
    #[error("a lease lasts at most {} ms", MAX_TTL.as_millis())]
    TooLong,
    #[error("a lease wants a holder of 1 to 200 characters")]
    NoHolder,
    #[error("{0} is being taken from the engine just now")]
    Going(EngineName),
}

impl LeaseBook {
    /// Without a lease; until `blanket` all is as if leased.
    pub(crate) fn new(blanket: Instant) -> Self {
        Self { holders: HashMap::new(), going: HashSet::new(), blanket }
    }

    /// Takes a lease in place of its holder's last one. One with a name that is going is refused, so that nobody relies on that;
    /// its other names stay all the same.
    pub(crate) fn put(&mut self, leases: Leases, now: Instant) -> Result<(), LeaseRefused> {
        let ttl = Duration::from_millis(leases.ttl_ms);
        if leases.holder.is_empty() || leases.holder.len() > 200 {
            return Err(LeaseRefused::NoHolder);
        }
        if leases.names.len() > MAX_NAMES {
            return Err(LeaseRefused::TooManyNames);
        }
        if ttl > MAX_TTL {
            return Err(LeaseRefused::TooLong);
        }
        self.holders.retain(|_, (_, until)| *until > now);
        if self.holders.len() >= MAX_HOLDERS && !self.holders.contains_key(&leases.holder) {
            return Err(LeaseRefused::TooManyHolders);
        }
        let going = leases.names.iter().find(|name| self.going.contains(*name)).cloned();
        self.holders.insert(leases.holder, (leases.names.into_iter().collect(), now + ttl));
        going.map_or(Ok(()), |name| Err(LeaseRefused::Going(name)))
    }

    /// A name is to go now; whether it may: nobody holds it. Then nobody comes to hold it before it is [`Self::gone`].
    pub(crate) fn goes(&mut self, name: &EngineName, now: Instant) -> bool {
        let may = !self.holds(name, now);
        if may {
            self.going.insert(name.clone());
        }
        may
    }

    /// A name has gone, or has not after all.
    pub(crate) fn gone(&mut self, name: &EngineName) {
        self.going.remove(name);
    }

    /// Whether a gateway may still send requests for the name.
    pub(crate) fn holds(&self, name: &EngineName, now: Instant) -> bool {
        now < self.blanket || self.holders.values().any(|(names, until)| *until > now && names.contains(name))
    }

    /// When the next one ends by itself.
    pub(crate) fn next_end(&self, now: Instant) -> Option<Instant> {
        let ends = self.holders.values().map(|(_, until)| *until).chain([self.blanket]);
        ends.filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease(holder: &str, names: &[&str], ttl_ms: u64) -> Leases {
        Leases { holder: holder.to_owned(), names: names.iter().map(|name| name.parse().unwrap()).collect(), ttl_ms }
    }

    #[test]
    fn the_last_word_of_each_holder_counts_until_it_is_over() {
        let (begun, name) = (Instant::now(), "risk:v1".parse().unwrap());
        let at = |ms| begun + Duration::from_millis(ms);
        let mut book = LeaseBook::new(at(100));
        assert!(book.holds(&name, at(99)) && !book.holds(&name, at(100)), "a loader that has just started waits");
        book.put(lease("a", &["risk:v1"], 1000), at(200)).unwrap();
        book.put(lease("b", &["risk:v1", "risk:v2"], 5000), at(300)).unwrap();
        assert_eq!(book.next_end(at(300)), Some(at(1200)));
        book.put(lease("b", &["risk:v2"], 5000), at(400)).unwrap();
        assert!(book.holds(&name, at(1199)), "a holds it still");
        assert!(!book.holds(&name, at(1200)));
        assert_eq!(book.next_end(at(9000)), None);
        assert_eq!(book.put(lease("", &[], 1), at(1)), Err(LeaseRefused::NoHolder));
        assert_eq!(book.put(lease("c", &[], 600_001), at(1)), Err(LeaseRefused::TooLong));
    }

    #[test]
    fn nobody_relies_on_a_name_that_is_going_and_what_is_held_does_not_go() {
        let now = Instant::now();
        let [first, second]: [EngineName; 2] = ["risk:v1", "risk:v2"].map(|name| name.parse().unwrap());
        let mut book = LeaseBook::new(now);
        book.put(lease("a", &["risk:v1"], 1000), now).unwrap();
        assert!(!book.goes(&first, now) && book.goes(&second, now));
        let refused = book.put(lease("b", &["risk:v1", "risk:v2"], 5000), now);
        assert_eq!(refused, Err(LeaseRefused::Going(second.clone())));
        assert!(book.holds(&first, now + Duration::from_secs(2)), "b's other name stays");
        book.gone(&second);
        book.put(lease("b", &["risk:v1", "risk:v2"], 5000), now).unwrap();
        assert!(!book.goes(&second, now));
    }

    proptest! {
        #[test]
        fn a_name_is_held_as_long_as_one_of_its_last_leases_lasts(
            puts in proptest::collection::vec((0..3_u8, any::<bool>(), 0..1000_u64, 0..1000_u64), 0..20), look in 0..3000_u64,
        ) {
            let begun = Instant::now();
            let at = |ms| begun + Duration::from_millis(ms);
            let mut puts = puts;
            puts.sort_by_key(|put| put.3);
            let mut book = LeaseBook::new(begun);
            let mut last = HashMap::new();
            for (holder, holds, ttl, when) in puts.into_iter().filter(|put| put.3 <= look) {
                let names: &[&str] = if holds { &["m:1"] } else { &[] };
                book.put(lease(&holder.to_string(), names, ttl), at(when)).unwrap();
                last.insert(holder, (holds, when + ttl));
            }
            let held = last.values().any(|(holds, until)| *holds && *until > look);
            prop_assert_eq!(book.holds(&"m:1".parse().unwrap(), at(look)), held);
        }
    }
}
