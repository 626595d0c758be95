//! How many retries a pool may make: a share of its requests, and a small reserve.
//!
//! After Finagle's and linkerd's retry budgets: each request deposits the share of a retry, each retry withdraws one,
//! and what is not used is forgotten after a while. So replicas that all refuse get little more than they would without
//! retries, and not twice as much.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What was deposited this long ago has lost two thirds of its worth: the age at which Finagle and linkerd forget.
const MEMORY: Duration = Duration::from_secs(10);
/// Retries that are to be had without any deposit: as many at once, and as many again in [`MEMORY`].
const RESERVE: f64 = 10.0;
/// Cells that requests are counted in; further cores share them.
const CELLS: usize = 64;

/// One pool's budget. Deposits take no lock and no other core's memory; retries take a lock.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    /// Requests, counted by core.
    deposits: [Cell; CELLS],
    balance: Mutex<Balance>,
    refused: AtomicU64,
}

/// A counter that shares its cache line with nothing.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cell(AtomicU64);

impl RetryBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            deposits: std::array::from_fn(|_| Cell::default()),
            balance: Mutex::new(Balance::new(now)),
            refused: AtomicU64::new(0),
        }
    }

    /// Counts a request that is sent for the first time.
    pub(crate) fn deposit(&self) {
        static CORES: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static CELL: usize = CORES.fetch_add(1, Relaxed) % CELLS;
        }
        self.deposits[CELL.with(|cell| *cell)].0.fetch_add(1, Relaxed);
    }

    /// Takes a retry out; false where there is none. `share`: what a request deposits, from 0 to 1.
    pub(crate) fn withdraw(&self, share: f64, now: Instant) -> bool {
        let deposits = self.deposits.iter().map(|cell| cell.0.load(Relaxed)).sum();
        let granted = self.balance.lock().unwrap_or_else(PoisonError::into_inner).withdraw(deposits, share, now);
        if !granted {
            self.refused.fetch_add(1, Relaxed);
        }
        granted
    }

    /// How many retries there were none for.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

/// What is left. Pure.
#[derive(Debug)]
struct Balance {
    /// Retries that were deposited.
    saved: f64,
    reserve: f64,
    /// Requests that had been counted the last time.
    counted: u64,
    at: Instant,
}

impl Balance {
    fn new(now: Instant) -> Self {
        Self { saved: 0.0, reserve: RESERVE, counted: 0, at: now }
    }

    /// Takes a retry out, where there is one. `requests` are all that ever came; when is not known, so those since the
    /// last time are taken to have come evenly.
    fn withdraw(&mut self, requests: u64, share: f64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64() / MEMORY.as_secs_f64();
        let kept = (-passed).exp();
        let new = requests.saturating_sub(self.counted) as f64 * share;
        self.saved = self.saved * kept + if passed > 0.0 { new * (1.0 - kept) / passed } else { new };
        self.reserve = RESERVE.min(self.reserve + RESERVE * passed);
        (self.counted, self.at) = (requests, now);
        let from = if self.saved >= 1.0 { &mut self.saved } else { &mut self.reserve };
        if *from < 1.0 {
            return false;
        }
        *from -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes when: no more retries than the share of all requests and the reserve allow.
        #[test]
        fn retries_stay_within_their_share(
            share in 0.0..1.0f64,
            steps in prop::collection::vec((0..50u64, 0..2000u64, 0..20usize), 1..60),
        ) {
            let begun = Instant::now();
            let (mut balance, mut now, mut requests, mut retries) = (Balance::new(begun), begun, 0, 0);
            for (more, millis, tries) in steps {
                requests += more;
                now += Duration::from_millis(millis);
                retries += (0..tries).filter(|_| balance.withdraw(requests, share, now)).count();
                let time = (now - begun).as_secs_f64() / MEMORY.as_secs_f64();
                let most = requests as f64 * share + RESERVE * (1.0 + time);
                prop_assert!(retries as f64 <= most + 1e-6, "{retries} of at most {most}");
            }
        }

        /// When one looks makes no difference to what is there, as long as requests come evenly.
        #[test]
        fn how_often_it_is_looked_at_does_not_matter(looks in 1..50u32) {
            let begun = Instant::now();
            let (mut seldom, mut often) = (Balance::new(begun), Balance::new(begun));
            for look in 1..=looks {
                let at = begun + 20 * MEMORY * look / looks;
                often.withdraw(u64::from(10_000 * look / looks), 0.2, at);
                often.saved += 1.0; // given back
            }
            seldom.withdraw(10_000, 0.2, begun + 20 * MEMORY);
            seldom.saved += 1.0;
            prop_assert!((seldom.saved - often.saved).abs() < 0.15 * seldom.saved, "{seldom:?} {often:?}");
        }
    }

    #[test]
    fn without_requests_there_is_the_reserve_and_it_comes_back() {
        let mut now = Instant::now();
        let mut balance = Balance::new(now);
        let mut taken = |now| (0..100).filter(|_| balance.withdraw(0, 1.0, now)).count();
        assert_eq!(taken(now), 10);
        now += MEMORY / 2;
        assert_eq!(taken(now), 5);
        now += 10 * MEMORY;
        assert_eq!(taken(now), 10);
    }

    #[test]
    fn what_was_deposited_long_ago_is_forgotten() {
        let begun = Instant::now();
        let mut balance = Balance::new(begun);
        assert!(balance.withdraw(1_000, 0.2, begun + Duration::from_millis(1)));
        let taken = |balance: &mut Balance, now| (0..1_000).filter(|_| balance.withdraw(1_000, 0.2, now)).count();
        assert_eq!(taken(&mut balance, begun + 10 * MEMORY), 10, "only the reserve");
    }

    #[test]
    fn all_cores_deposit() {
        let budget = RetryBudget::new(Instant::now());
        std::thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(|| (0..100).for_each(|_| budget.deposit()))));
        });
        let granted = (0..1_000).filter(|_| budget.withdraw(0.2, Instant::now())).count();
        assert!((85..=91).contains(&granted), "{granted}: a fifth of 400, and the reserve");
        assert_eq!(budget.refused(), 1_000 - granted as u64);
    }
}
