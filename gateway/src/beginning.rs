//! How a gateway begins: one among several serves nobody before it knows what the others go by, or it would send requests to
//! a revision that was rolled back.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;

/// How long a gateway that has asked its replicas waits for what others say of traffic. Where nobody says anything it goes by
/// what it went by last, or where it has kept nothing by its configuration.
pub(crate) const WITHIN: Duration = Duration::from_secs(3);

/// What is said to who asks whether it is ready meanwhile.
pub(crate) const WAITS: &str = "starting: it waits for what the other gateways say of traffic, 3 s at most";

/// The beginning of one gateway. One that knows no others has none.
#[derive(Debug)]
pub(crate) struct Beginning {
    /// What [`Self::changed`] says, for the hot path, which takes no lock.
    waits: AtomicBool,
    changed: watch::Sender<bool>,
}

impl Default for Beginning {
    fn default() -> Self {
        Self { waits: AtomicBool::new(false), changed: watch::Sender::new(false) }
    }
}

impl Beginning {
    /// From now on nobody is served.
    pub(crate) fn begin(&self) {
        self.waits.store(true, Relaxed);
        self.changed.send_replace(true);
    }

    /// It is known what the others go by, or has been waited for long enough.
    pub(crate) fn end(&self) {
        self.waits.store(false, Relaxed);
        self.changed.send_replace(false);
    }

    /// Whether nobody is served yet.
    pub(crate) fn waits(&self) -> bool {
        self.waits.load(Relaxed)
    }

    /// Resolves once somebody may be served.
    pub(crate) async fn over(&self) {
        if self.waits() {
            // A sender that is gone was dropped with the whole gateway.
            let _ = self.changed.subscribe().wait_for(|waits| !waits).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_served_before_it_is_over() {
        let beginning = Beginning::default();
        beginning.over().await;
        beginning.begin();
        assert!(beginning.waits() && WAITS.contains(&format!("{WITHIN:?}").replace('s', " s")));
        let (waits, ends) = (beginning.over(), async { beginning.end() });
        tokio::join!(waits, ends);
        assert!(!beginning.waits());
    }
}
