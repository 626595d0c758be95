//! What happens on one connection, for who must know whether it lies idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// How often one looks within the time for which a connection must be idle.
const LOOKS: u32 = 4;

/// The requests of a connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    at_work: AtomicU32,
    begun: AtomicU32,
}

/// A request at work, until it is dropped.
#[derive(Debug)]
pub(super) struct AtWork(Arc<Activity>);

impl Activity {
    /// Another request.
    pub(super) fn begin(self: &Arc<Self>) -> AtWork {
        self.at_work.fetch_add(1, Relaxed);
        self.begun.fetch_add(1, Relaxed);
        AtWork(self.clone())
    }

    /// How many requests are at work.
    pub(super) fn at_work(&self) -> u32 {
        self.at_work.load(Relaxed)
    }

    /// Resolves once none has been at work for this long, or up to a quarter of it longer.
    pub(super) async fn idle_for(&self, long: Duration) {
        let (mut quiet, mut known) = (0, self.begun.load(Relaxed));
        while quiet <= LOOKS {
            tokio::time::sleep(long / LOOKS).await;
            let begun = self.begun.load(Relaxed);
            quiet = if self.at_work() == 0 && begun == known { quiet + 1 } else { 0 };
            known = begun;
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_is_who_has_done_nothing_for_so_long() {
        let activity = Arc::new(Activity::default());
        let long = Duration::from_secs(4);
        let worker = tokio::spawn({
            let activity = activity.clone();
            async move {
                for _ in 0..10 {
                    let at_work = activity.begin();
                    sleep(Duration::from_millis(100)).await;
                    drop(at_work);
                    sleep(Duration::from_millis(2900)).await;
                }
                let _one_that_takes_long = activity.begin();
                sleep(Duration::from_secs(60)).await;
            }
        });
        let begun = Instant::now();
        activity.idle_for(long).await;
        let took = begun.elapsed();
        assert!(worker.is_finished() && (94..=95).contains(&took.as_secs()), "{took:?}");
    }
}
