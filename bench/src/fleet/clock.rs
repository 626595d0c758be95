//! Virtual time: what happens next.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use super::demand::Wish;

/// What happens whatever a fleet does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outside {
    /// A request comes.
    Asks(usize),
    /// A replica dies.
    Dies(u32),
    /// It lives again.
    Lives(u32),
}

/// What will happen, in order; what happens at one time in the order in which it was said.
#[derive(Debug)]
pub(super) struct Clock<W> {
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    what: HashMap<u64, W>,
    next: u64,
}

impl<W> Default for Clock<W> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), what: HashMap::new(), next: 0 }
    }
}

impl<W> Clock<W> {
    /// This happens then.
    pub(super) fn at(&mut self, at: Instant, what: W) {
        self.heap.push(Reverse((at, self.next)));
        self.what.insert(self.next, what);
        self.next += 1;
    }

    /// Requests come, replicas die and live again.
    pub(super) fn set(&mut self, start: Instant, wishes: &[Wish], deaths: &[(f64, u32, f64)], what: fn(Outside) -> W) {
        for (number, wish) in wishes.iter().enumerate() {
            self.at(start + Duration::from_secs_f64(wish.at), what(Outside::Asks(number)));
        }
        for (at, replica, lasts) in deaths {
            let at = start + Duration::from_secs_f64(*at);
            self.at(at, what(Outside::Dies(*replica)));
            self.at(at + Duration::from_secs_f64(*lasts), what(Outside::Lives(*replica)));
        }
    }

    /// Goes on to what happens next.
    pub(super) fn next(&mut self) -> Option<(Instant, W)> {
        loop {
            let Reverse((at, id)) = self.heap.pop()?;
            if let Some(what) = self.what.remove(&id) {
                return Some((at, what));
            }
        }
    }

    /// These will not happen, in the order in which they were said.
    pub(super) fn take(&mut self, which: impl Fn(&W) -> bool) -> Vec<W> {
        let mut ids: Vec<u64> = self.what.iter().filter(|(_, what)| which(what)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.what.remove(&id)).collect()
    }
}
