//! So many connections at once. When all places are taken, the connection that has done nothing for longest gives its place to
//! the one that comes: whoever opens many and says nothing keeps nobody out.
//!
//! The gateway's port has a limit as well, and closes who comes too much (`gateway/src/serve/accept.rs`): its clients are many
//! and know how to come again. Here a few gateways and a kubelet come, once a question, and none of them is to be missed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::metrics::Metrics;

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    open: Mutex<Open>,
    /// A place is free, or who has it does nothing now.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    /// By the connections' numbers.
    connections: HashMap<u64, Connection>,
    /// Counts connections, and times that one came to do nothing.
    last: u64,
}

#[derive(Debug)]
struct Connection {
    /// Since when it does nothing, as [`Open::last`] counts; `None`: a request of it is at work.
    idle: Option<u64>,
    /// Its place is another's.
    taken: Arc<Notify>,
}

/// A connection's place. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    taken: Arc<Notify>,
}

/// A request at work, until it is dropped.
#[derive(Debug)]
pub(super) struct AtWork<'p>(&'p Place);

impl Open {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Places {
    /// For at most so many.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default(), freed: Notify::new() })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that has come. Where requests are at work on all others, the first that ends is waited for.
    pub(super) async fn take(self: &Arc<Self>, metrics: &Metrics) -> Place {
        if self.open().connections.len() >= self.most {
            metrics.full();
        }
        loop {
            if let Some(place) = self.find() {
                return place;
            }
            self.freed.notified().await;
        }
    }

    fn find(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open();
        if open.connections.len() >= self.most {
            let idle = open.connections.iter().filter_map(|(number, of)| Some((of.idle?, *number)));
            let (_, longest) = idle.min()?;
            if let Some(of) = open.connections.remove(&longest) {
                of.taken.notify_one();
            }
        }
        let (number, taken) = (open.next(), Arc::<Notify>::default());
        open.connections.insert(number, Connection { idle: Some(number), taken: taken.clone() });
        Some(Place { places: self.clone(), number, taken })
    }
}

impl Place {
    /// Resolves once another has it.
    pub(super) async fn taken(&self) {
        self.taken.notified().await;
    }

    /// A request has come.
    pub(super) fn begin(&self) -> AtWork<'_> {
        self.set(|_| None);
        AtWork(self)
    }

    fn set(&self, idle: impl FnOnce(&mut Open) -> Option<u64>) {
        let mut open = self.places.open();
        let idle = idle(&mut open);
        if let Some(of) = open.connections.get_mut(&self.number) {
            of.idle = idle;
        }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.set(|open| Some(open.next()));
        self.0.places.freed.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open().connections.remove(&self.number);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_done_nothing_for_longest_gives_way_and_who_works_does_not() {
        let (places, metrics) = (Places::new(2), Arc::new(Metrics::default()));
        let first = places.take(&metrics).await;
        let second = places.take(&metrics).await;
        let works = first.begin();
        let third = places.take(&metrics).await;
        second.taken().await;
        drop(second); // it gives back nothing that it has not
        let also_works = third.begin();

        let (all, counts) = (places.clone(), metrics.clone());
        let fourth = tokio::spawn(async move { all.take(&counts).await });
        tokio::task::yield_now().await;
        assert!(!fourth.is_finished(), "both are at work");
        drop(works);
        let fourth = fourth.await.unwrap();
        first.taken().await;
        drop(also_works);
        // The fourth has done nothing since before the third was done.
        let _fifth = places.take(&metrics).await;
        fourth.taken().await;
        drop((first, third, fourth));
        let _sixth = places.take(&metrics).await;
        let page = metrics.page(&tutti_api::AdapterList::default(), false);
        assert!(page.contains("tutti_loader_connections_full_total 3\n"), "{page}");
    }
}
