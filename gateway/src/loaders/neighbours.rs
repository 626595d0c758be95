//! One engine may be in several pools, each with a loader of its own or all with the same: a replica for each, at one URL.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::replica::Replica;

/// The replicas at one URL.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(Mutex<Vec<Weak<Replica>>>);

impl Neighbours {
    fn replicas(&self) -> MutexGuard<'_, Vec<Weak<Replica>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another one is there.
    pub(crate) fn join(&self, replica: &Arc<Replica>) {
        self.replicas().push(Arc::downgrade(replica));
    }

    /// All that somebody uses.
    pub(super) fn all(&self) -> Vec<Arc<Replica>> {
        self.replicas().iter().filter_map(Weak::upgrade).collect()
    }

    /// Forgets those that nobody uses any more; whether one is left.
    pub(crate) fn is_anybody_there(&self) -> bool {
        let mut replicas = self.replicas();
        replicas.retain(|replica| replica.strong_count() > 0);
        !replicas.is_empty()
    }
}
