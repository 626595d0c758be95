//! How fast files may come, all of them together.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tutti_api::FetchSpec;

/// Size of a part. Unit: bytes; a question costs a few milliseconds, and so many bytes are lost at most in a kill.
const PART: u64 = 16 << 20;
/// How long nothing may come before a part is asked for again.
const STALL: Duration = Duration::from_secs(20);
/// How often in a row a part may fail without a byte in between.
const TRIES: u32 = 6;

/// Bounds that all fetches share: clones are of the same.
#[derive(Clone, Debug)]
pub struct Limits {
    permits: Arc<Semaphore>,
    parallel: usize,
    pace: Option<Arc<Pace>>,
    part: u64,
    stall: Duration,
}

impl Limits {
    /// Those of a configuration.
    pub fn new(spec: &FetchSpec) -> Self {
        let parallel = usize::from(spec.parallel.max(1));
        Self {
            permits: Arc::new(Semaphore::new(parallel)),
            parallel,
            pace: spec.bandwidth.map(|rate| Arc::new(Pace::new(rate.bytes() as u64))),
            part: PART,
            stall: STALL,
        }
    }

    /// The same with other parts and another patience, for tests: nobody waits for 20 s there.
    #[must_use]
    pub fn with(self, part: u64, stall: Duration) -> Self {
        Self { part: part.max(1), stall, ..self }
    }

    pub(super) fn part(&self) -> u64 {
        self.part
    }

    pub(super) fn parallel(&self) -> usize {
        self.parallel
    }

    pub(super) fn stall(&self) -> Duration {
        self.stall
    }

    pub(super) fn tries(&self) -> u32 {
        TRIES
    }

    /// The right to have a part on the way.
    pub(super) async fn permit(&self) -> SemaphorePermit<'_> {
        self.permits.acquire().await.expect("nobody closes it")
    }

    /// Waits until so many more bytes may have come.
    pub(super) async fn pace(&self, bytes: u64) {
        if let Some(pace) = &self.pace {
            pace.take(bytes).await;
        }
    }
}

/// Bytes a second.
#[derive(Debug)]
struct Pace {
    rate: u64,
    /// When what was taken so far has had its time.
    paid: Mutex<Instant>,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), paid: Mutex::new(Instant::now()) }
    }

    async fn take(&self, bytes: u64) {
        let until = {
            let mut paid = self.paid.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *paid = (*paid).max(Instant::now()) + time(bytes, self.rate);
            *paid
        };
        tokio::time::sleep_until(until).await;
    }
}

/// What so many bytes take.
fn time(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_held_by_all_together() {
        let pace = Pace::new(1000);
        let begun = Instant::now();
        let takes = async || {
            for _ in 0..10 {
                pace.take(100).await;
            }
        };
        tokio::join!(takes(), takes());
        let took = begun.elapsed().as_secs_f64();
        assert!((1.99..2.05).contains(&took), "{took}");
    }
}
