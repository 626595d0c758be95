//! What the end-to-end tests share: the binary `tutti` as a process, and a client that writes its bytes by hand.

mod client;
mod tutti;

pub use client::{Answer, Client};
pub use tutti::{Finished, Tutti, pool, run};

use std::time::{Duration, Instant};

/// Longest wait for something that must happen. A test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `look` finds what it looks for.
///
/// # Panics
/// After [`PATIENCE`], naming what was waited for.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2)); // between two looks: nothing tells us
    }
}
