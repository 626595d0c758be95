//! How long to wait before something is tried again: twice as long each time, and a random part of that ("full jitter"), so
//! that many who failed together do not come back together.

use std::time::Duration;

/// The longest first wait.
const FIRST: Duration = Duration::from_millis(200);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(20);

/// Tries of one thing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    failed: u32,
    tries: u32,
}

impl Retry {
    /// At most so many tries, the first included.
    pub(crate) fn new(tries: u32) -> Self {
        Self { failed: 0, tries }
    }

    /// A try failed: how long to wait before the next one; none where there is no next one.
    pub(crate) fn next(&mut self) -> Option<Duration> {
        self.failed += 1;
        (self.failed < self.tries).then(|| wait(self.failed, random()))
    }

    /// Something came of it: what fails now fails for the first time.
    pub(crate) fn progressed(&mut self) {
        self.failed = 0;
    }
}

/// How long to wait after so many failures, by a random number.
fn wait(failed: u32, random: u64) -> Duration {
    let longest = FIRST.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(LONGEST);
    let most = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random % (most + 1))
}

fn random() -> u64 {
    // A system without random numbers waits as long as it may.
    getrandom::u64().unwrap_or(u64::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tries_end_and_progress_begins_them_anew() {
        let mut retry = Retry::new(3);
        assert!(retry.next().is_some() && retry.next().is_some());
        retry.progressed();
        assert!(retry.next().is_some() && retry.next().is_some() && retry.next().is_none());
    }

    proptest! {
        #[test]
        fn waits_grow_to_a_bound(failed in 1_u32..100, random in any::<u64>()) {
            prop_assert!(wait(failed, random) <= LONGEST);
            prop_assert!(failed > 1 || wait(failed, random) <= FIRST);
        }
    }
}
