//! The requests of one HTTP/2 connection. Each but the first takes a place among `gateway.limits.connections`, as a
//! connection of HTTP/1.1 does with its one request: the limit bounds what is at work, by whatever protocol.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::core::Counted;
use crate::limits;
use crate::shared::Shared;

/// How many requests a connection has, and since when it has had none.
pub(super) struct Places {
    /// The connection's own, which its first request uses.
    counted: Counted,
    taken: AtomicUsize,
    /// When the last one ended.
    idle_since: Mutex<Instant>,
}

/// A request's place; dropping it gives it back.
pub(super) struct Place {
    places: Arc<Places>,
    _more: Option<Counted>,
}

impl Places {
    pub(super) fn new(counted: Counted) -> Self {
        Self { counted, taken: AtomicUsize::new(0), idle_since: Mutex::new(Instant::now()) }
    }

    /// A place for a request, if there is one.
    pub(super) fn take(self: &Arc<Self>, shared: &Shared) -> Option<Place> {
        let first = self.taken.load(Relaxed) == 0;
        let more = if first {
            None
        } else if let Some(limit) = shared.full() {
            limits::hit(limit);
            return None;
        } else {
            Some(self.counted.another())
        };
        self.taken.fetch_add(1, Relaxed);
        Some(Place { places: self.clone(), _more: more })
    }

    /// How many requests there are.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Resolves once there has been no request for this long.
    pub(super) async fn idle_for(&self, long: Duration) {
        loop {
            let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = if self.taken() == 0 { since.elapsed() } else { Duration::ZERO };
            if idle >= long {
                return;
            }
            tokio::time::sleep(long - idle).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.places.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.places.taken.fetch_sub(1, Relaxed);
    }
}
