//! Which bases a replica cannot hold in memory at once, as far as was seen there.
//!
//! An Ollama holds as many as OLLAMA_MAX_LOADED_MODELS and its memory let it, and says neither. Where one comes as another goes
//! before its time, and they are never seen together, they take each other's place: requests for them take turns as those for
//! adapters of one base do.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// So often one must have come as the other went: once it may have been unloaded by hand, or the replica restarted.
const SEEN: u32 = 2;
/// Most bases of a replica that are looked at.
const MOST: usize = 64;

/// Two bases, in order.
type Pair = (Box<str>, Box<str>);

/// What was seen of a replica's bases.
#[derive(Debug, Default)]
pub(crate) struct Crowding {
    /// What it held, and until when that was to stay. Unit: seconds since 1970.
    held: BTreeMap<Box<str>, i64>,
    /// How often one came as the other went, since they were seen together.
    took_place: HashMap<Pair, u32>,
    /// The runner of each that excludes others, by the first of them.
    runners: BTreeMap<Box<str>, Box<str>>,
}

impl Crowding {
    /// The replica holds these now. Whether other bases exclude each other than before.
    pub(crate) fn see(&mut self, held: BTreeMap<Box<str>, i64>, now: i64) -> bool {
        let held: BTreeMap<Box<str>, i64> = held.into_iter().take(MOST).collect();
        let before = std::mem::replace(&mut self.held, held);
        let gone = before.iter().filter(|(base, until)| **until > now && !self.held.contains_key(*base));
        for (gone, _) in gone {
            for new in self.held.keys().filter(|base| !before.contains_key(*base)) {
                if self.took_place.len() < MOST * MOST {
                    *self.took_place.entry(pair(gone, new)).or_default() += 1;
                }
            }
        }
        self.took_place.retain(|(one, other), _| !(self.held.contains_key(one) && self.held.contains_key(other)));
        let runners = self.together();
        let is_news = runners != self.runners;
        self.runners = runners;
        is_news
    }

    /// What stands for the runner that a base has there: the same for those that exclude each other.
    pub(crate) fn runner<'a>(&'a self, base: &'a str) -> &'a str {
        self.runners.get(base).map_or(base, |first| first)
    }

    /// Those that exclude each other, and whom those exclude: each by the first of them.
    fn together(&self) -> BTreeMap<Box<str>, Box<str>> {
        let mut first: BTreeMap<Box<str>, Box<str>> = BTreeMap::new();
        let pairs: BTreeSet<&Pair> =
            self.took_place.iter().filter(|(_, times)| **times >= SEEN).map(|(pair, _)| pair).collect();
        for (one, other) in pairs {
            let [a, b] = [one, other].map(|base| first.get(base).unwrap_or(base).clone());
            let least = a.clone().min(b.clone());
            first.values_mut().filter(|known| **known == a || **known == b).for_each(|known| *known = least.clone());
            first.insert(one.clone(), least.clone());
            first.insert(other.clone(), least);
        }
        first
    }
}

fn pair(one: &str, other: &str) -> Pair {
    if one < other { (one.into(), other.into()) } else { (other.into(), one.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sees this, of what stays for 300 s.
    fn see(crowding: &mut Crowding, held: &[&str], now: i64) -> bool {
        crowding.see(held.iter().map(|base| ((*base).into(), now + 300)).collect(), now)
    }

    #[test]
    fn what_takes_each_others_place_twice_is_one_runners() {
        let mut crowding = Crowding::default();
        assert!(!see(&mut crowding, &["b"], 0) && !see(&mut crowding, &["a"], 5), "once may be chance");
        assert_eq!(crowding.runner("b"), "b");
        assert!(see(&mut crowding, &["b"], 10));
        assert_eq!([crowding.runner("a"), crowding.runner("b"), crowding.runner("c")], ["a", "a", "c"]);
        assert!(!see(&mut crowding, &["a"], 15), "known already");
        assert!(!see(&mut crowding, &["c"], 20) && !see(&mut crowding, &["b"], 25));
        assert!(see(&mut crowding, &["c"], 30), "a third, by one of them");
        assert_eq!(crowding.runner("c"), "a");
    }

    #[test]
    fn what_is_seen_together_is_not() {
        let mut crowding = Crowding::default();
        for (now, held) in [(0, "a"), (5, "b"), (10, "a")] {
            see(&mut crowding, &[held], now);
        }
        assert_eq!(crowding.runner("b"), "a");
        assert!(see(&mut crowding, &["a", "b"], 15), "there is more room by now");
        assert_eq!(crowding.runner("b"), "b");
        assert!(!see(&mut crowding, &["a"], 20) && !see(&mut crowding, &["b"], 25), "and it is seen anew from here");
    }

    #[test]
    fn what_goes_in_its_time_was_not_driven_out() {
        let mut crowding = Crowding::default();
        for round in 0..4 {
            let now = round * 1000;
            assert!(
                !see(&mut crowding, &["a"], now) && !see(&mut crowding, &["b"], now + 500),
                "a keep_alive was over"
            );
        }
        for round in 4..8 {
            let now = round * 1000;
            assert!(!see(&mut crowding, &["a"], now) && !see(&mut crowding, &[], now + 5), "nobody came");
            assert!(!see(&mut crowding, &["b"], now + 10) && !see(&mut crowding, &[], now + 15));
        }
    }
}
