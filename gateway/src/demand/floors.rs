//! The replicas that releases need while they are under way, whatever the load.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tutti_control_plane::Floor;

/// The longest that a floor holds, whoever says it. A driver that is gone keeps nobody's replicas.
const LONGEST: Duration = Duration::from_secs(120);
/// Most pools that have one. Unit: pools.
const MAX_POOLS: usize = 10_000;

/// By pool: how many, and until when.
#[derive(Debug, Default)]
pub(crate) struct Floors(Mutex<HashMap<Box<str>, (u32, Instant)>>);

impl Floors {
    /// Takes up what is needed now. What was said before holds until its own end: a pool that has just been given all
    /// requests keeps its replicas until these count as work.
    pub(crate) fn say(&self, floors: &[Floor], now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (_, until)| *until > now);
        floors.iter().for_each(|floor| _ = all.remove(&*floor.pool));
        for floor in floors {
            if all.len() >= MAX_POOLS && !all.contains_key(&*floor.pool) {
                continue;
            }
            let until = now + Duration::from_millis(floor.holds).min(LONGEST);
            let known = all.entry(floor.pool.as_str().into()).or_insert((0, until));
            *known = (known.0.max(floor.replicas), known.1.max(until));
        }
    }

    /// The replicas that a pool needs for what is under way.
    pub(crate) fn under(&self, pool: &str, now: Instant) -> u32 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(pool).filter(|(_, until)| *until > now).map_or(0, |(replicas, _)| *replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor(pool: &str, replicas: u32, seconds: u64) -> Floor {
        Floor { pool: pool.to_owned(), replicas, holds: seconds * 1_000 }
    }

    #[test]
    fn a_floor_holds_until_its_end_and_no_longer() {
        let (floors, begin) = (Floors::default(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        floors.say(&[floor("a", 2, 60), floor("b", 1, 60), floor("a", 3, 10)], at(0));
        assert_eq!((floors.under("a", at(0)), floors.under("b", at(59)), floors.under("c", at(0))), (3, 1, 0));
        floors.say(&[floor("a", 1, 60)], at(30));
        assert_eq!(floors.under("a", at(30)), 1, "the last word is right");
        assert_eq!((floors.under("b", at(59)), floors.under("b", at(60))), (1, 0), "nobody speaks of it any more");
        assert_eq!((floors.under("a", at(89)), floors.under("a", at(90))), (1, 0));
        floors.say(&[floor("d", 1, u64::MAX / 1_000)], at(100));
        assert_eq!(floors.under("d", at(220)), 0, "nobody holds replicas for ever");
    }
}
