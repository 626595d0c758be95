//! How a gateway ends, step by step: it leaves, drains, and is over.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use tokio::sync::watch;

use crate::errors::{Code, Failure};

/// How far a gateway has come. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// It serves, and says that it is not ready any more, so that whoever balances sends new work elsewhere; each answer
    /// over HTTP/1.1 is its connection's last.
    Leaving,
    /// It takes no new connections; what is on those that it has goes on.
    Draining,
    /// What has not ended by now is told so: an error where no head of an answer is out, an error event in a stream.
    Over,
}

/// The end of one gateway.
#[derive(Debug)]
pub(crate) struct Ending {
    /// What [`Self::changed`] says, for the hot path, which takes no lock.
    phase: AtomicU8,
    changed: watch::Sender<Phase>,
    /// The process that has the ports, once another one does.
    successor: watch::Sender<Option<u32>>,
}

impl Default for Ending {
    fn default() -> Self {
        Self {
            phase: AtomicU8::new(0),
            changed: watch::Sender::new(Phase::Serving),
            successor: watch::Sender::new(None),
        }
    }
}

impl Ending {
    /// Goes on to this phase; it never goes back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Relaxed);
        self.changed.send_if_modified(|now| {
            let forward = phase > *now;
            *now = phase.max(*now);
            forward
        });
    }

    /// Whether it has come to this phase.
    pub(crate) fn has_reached(&self, phase: Phase) -> bool {
        self.phase.load(Relaxed) >= phase as u8
    }

    /// Resolves when it comes to this phase.
    pub(crate) async fn reached(&self, phase: Phase) {
        // A sender that is gone was dropped with the whole gateway.
        let _ = self.changed.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// This process has the ports, and answers there from now on.
    pub(crate) fn succeed(&self, pid: u32) {
        self.successor.send_replace(Some(pid));
    }

    /// Whether another process has them.
    pub(crate) fn is_succeeded(&self) -> bool {
        self.successor().is_some()
    }

    /// Which process has them, if it is another.
    pub(crate) fn successor(&self) -> Option<u32> {
        *self.successor.borrow()
    }

    /// Resolves when another process has them.
    pub(crate) async fn succeeded(&self) {
        let _ = self.successor.subscribe().wait_for(Option::is_some).await;
    }

    /// Whether new work should come to this address: while it serves, or where another process does.
    pub(crate) fn is_ready(&self) -> bool {
        !self.has_reached(Phase::Leaving) || self.is_succeeded()
    }
}

/// What is said to a request that has not ended when the gateway is over.
pub(crate) fn over() -> Failure {
    Failure::new(Code::ShuttingDown, "the gateway is shutting down: ask again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_goes_forward_only() {
        let ending = Ending::default();
        assert!(ending.is_ready());
        ending.enter(Phase::Draining);
        ending.enter(Phase::Leaving);
        assert!(ending.has_reached(Phase::Draining) && !ending.has_reached(Phase::Over) && !ending.is_ready());
        ending.reached(Phase::Leaving).await;
        ending.succeed(7);
        ending.succeeded().await;
        assert_eq!(ending.successor(), Some(7));
        assert!(ending.is_ready());
    }
}
