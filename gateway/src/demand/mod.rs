//! What work there is, for who scales the pools: the page `/demand`.
//!
//! Each core counts in [`cells`] of its own; a request's [`standing`] says in which it is counted now. [`ring`] cuts what
//! was measured into slices of ten seconds that never change again. [`page`] puts it together with how the pools stand, and
//! with the [`floors`] that releases put under them.

mod cells;
mod floors;
mod page;
mod ring;
mod standing;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tutti_api::demand::SLICE_MS;

pub(crate) use self::cells::{Cells, Over};
pub(crate) use self::floors::Floors;
pub(crate) use self::page::snapshot;
use self::ring::Ring;
pub(crate) use self::standing::Standing;
use crate::shared::Shared;

/// What is remembered of the last minute.
#[derive(Debug)]
pub(crate) struct Demand {
    /// Tells this process from the one whose place it has taken.
    instance: String,
    started: Instant,
    ring: Mutex<Ring>,
    /// What releases that are under way need.
    pub(crate) floors: Floors,
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            instance: format!("{:016x}", crate::random()),
            started: Instant::now(),
            ring: Mutex::default(),
            floors: Floors::default(),
        }
    }
}

impl Demand {
    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn with_ring<T>(&self, shared: &Shared, work: impl FnOnce(&mut Ring) -> T) -> T {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.advance(self.uptime(), &page::totals(&shared.metrics));
        work(&mut ring)
    }
}

/// Closes slices in time, whether or not anybody asks; on the current runtime, for as long as the gateway lives.
pub(crate) fn start(shared: Arc<Shared>) {
    tokio::spawn(async move {
        loop {
            let uptime = shared.demand.uptime();
            let slice = Duration::from_millis(SLICE_MS);
            let into = Duration::from_nanos((uptime.as_nanos() % slice.as_nanos()) as u64); // of less than a slice
            tokio::time::sleep(slice - into).await;
            let shared = shared.clone();
            // Reads all that was counted: not on the thread that has queues to see to.
            let _ = tokio::task::spawn_blocking(move || shared.demand.with_ring(&shared, |_| ())).await;
        }
    });
}
