//! The memory that bodies may take, in the whole process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::errors::{Code, Failure};
use crate::limits::{self, Limit};

/// The budget (`gateway.limits.bufferedBodies`). Unit: bytes.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicUsize,
}

/// A part of the budget in use; dropping it gives it back.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

/// Room for something that grows as it arrives, within all there is.
#[derive(Debug)]
pub(crate) struct Room {
    /// What it has.
    pub(crate) held: Held,
    /// What all may have together. Unit: bytes.
    pub(crate) limit: usize,
}

impl Room {
    /// Makes room for `more` bytes.
    ///
    /// # Errors
    /// There is none: a failure that may be retried.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Failure> {
        self.held.make_room(more, self.limit)
    }
}

impl Budget {
    /// How much is in use. Unit: bytes.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Nothing yet, to be grown.
    pub fn hold(self: &Arc<Self>) -> Held {
        Held { budget: self.clone(), bytes: 0 }
    }
}

impl Held {
    /// Takes `more` bytes, if all in use then stay within `limit`.
    pub fn grow(&mut self, more: usize, limit: usize) -> bool {
        if self.budget.used.fetch_add(more, Relaxed) + more > limit {
            self.budget.used.fetch_sub(more, Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }

    /// The same, for who ends where there is no room.
    ///
    /// # Errors
    /// There is none: a failure that may be retried.
    pub(crate) fn make_room(&mut self, more: usize, limit: usize) -> Result<(), Failure> {
        if self.grow(more, limit) {
            return Ok(());
        }
        limits::hit(Limit::BufferedBodies);
        Err(Failure::new(Code::Overloaded, "too many bytes of bodies and answers are in memory: try again"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back() {
        let budget = Arc::new(Budget::default());
        let mut first = budget.hold();
        assert!(first.grow(60, 100));
        let mut second = budget.hold();
        assert!(!second.grow(50, 100));
        assert!(second.grow(40, 100));
        drop(first);
        assert_eq!(budget.used(), 40);
        drop(second);
        assert_eq!(budget.used(), 0);
    }
}
