//! What is held against a replica, and how it comes to be trusted again.
//!
//! [`Trust`] decides and is pure. Around it, a replica that could not be reached is asked for its version until it
//! answers; one that was reached and failed its requests is left alone for a while, for its version says nothing of
//! them (Ollama can hang with a green `/api/version`).

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::replica::Replica;
use crate::schedule::Owner;
use crate::{fetch, inventory};

/// First pause before a replica that could not be reached is tried again; doubled each time.
const FIRST: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(5);
/// How long a try may take.
const TRY: Duration = Duration::from_secs(2);

/// Failures in a row that make a replica suspect.
const TOO_MANY: u32 = 3;
/// For how long, the first time; doubled each time.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
/// Longest back-off.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);

/// What a replica did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// No connection to it came about.
    Unreachable,
    /// It said its version.
    Reached,
    /// It took a request, and closed, was silent for too long or was too busy.
    Failed,
    /// It began to answer a request.
    Answered,
    /// Nothing; time has passed.
    Tick,
}

/// What is held against a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    /// No connection came about the last time.
    pub(crate) unreachable: bool,
    /// When its back-off ends, if it is in one.
    pub(crate) until: Option<Instant>,
    /// Failures in a row before that.
    failures: u32,
    /// The last back-off since it answered.
    back_off: Duration,
}

impl Trust {
    /// What is held against it after the event.
    pub(crate) fn on(self, event: Event, now: Instant) -> Self {
        let in_back_off = self.until.is_some_and(|until| now < until);
        match event {
            Event::Unreachable => Self { unreachable: true, ..self },
            Event::Reached => Self { unreachable: false, ..self },
            Event::Answered => Self { unreachable: self.unreachable, ..Self::default() },
            Event::Failed if in_back_off => self, // sent before it began, or because no other replica is better
            Event::Failed => {
                let failures = self.failures.saturating_add(1);
                if failures < TOO_MANY {
                    return Self { failures, ..self };
                }
                let back_off = (self.back_off * 2).clamp(FIRST_BACK_OFF, LONGEST_BACK_OFF);
                Self { until: Some(now + back_off), failures, back_off, ..self }
            }
            Event::Tick if in_back_off => self,
            Event::Tick => Self { until: None, ..self }, // its failures stay: one more is enough
        }
    }

    /// Whether other replicas go before it.
    pub(crate) fn suspect(self) -> bool {
        self.unreachable || self.until.is_some()
    }

    /// Whether an answer changes anything.
    pub(crate) fn blamed(self) -> bool {
        self.failures > 0
    }
}

/// Takes note of an event; the pool's owner hears of what it changes. Yields what was held against the replica before,
/// and what is now.
pub(crate) fn hear(owner: &Owner, replica: &Replica, event: Event) -> (Trust, Trust) {
    let (before, after) = replica.note(event, Instant::now());
    if before.suspect() != after.suspect() {
        owner.changed(replica);
    }
    (before, after)
}

/// Tries a replica that could not be reached until it answers, whatever it answers, or until nobody uses it any more.
pub(crate) async fn recover(pool: String, owner: Arc<Owner>, replica: Weak<Replica>) {
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        let Some(replica) = replica.upgrade() else { return };
        if fetch::get(&replica, inventory::sign_of_life(replica.engine), TRY).await.is_ok() {
            hear(&owner, &replica, Event::Reached);
            tracing::info!(pool, replica = &*replica.url, "replica is back");
            return;
        }
        pause = LONGEST.min(pause * 2);
    }
}

/// Waits for the end of a back-off; then requests try the replica again.
pub(crate) async fn sit_out(until: Instant, owner: Arc<Owner>, replica: Weak<Replica>) {
    tokio::time::sleep_until(until.into()).await;
    if let Some(replica) = replica.upgrade() {
        hear(&owner, &replica, Event::Tick);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(trust: Trust, events: &[Event], now: Instant) -> Trust {
        events.iter().fold(trust, |trust, event| trust.on(*event, now))
    }

    #[test]
    fn three_failures_in_a_row_make_it_suspect_and_an_answer_clears_it() {
        let now = Instant::now();
        let twice = after(Trust::default(), &[Event::Failed; 2], now);
        assert!(!twice.suspect() && twice.blamed());
        let answered = after(twice, &[Event::Answered, Event::Failed, Event::Failed], now);
        assert_eq!(answered, twice, "not in a row");
        let suspect = twice.on(Event::Failed, now);
        assert_eq!(suspect.until, Some(now + SECOND));
        assert!(suspect.on(Event::Reached, now).suspect(), "a version is no answer to a request");
        assert_eq!(suspect.on(Event::Answered, now), Trust::default());
    }

    #[test]
    fn its_back_off_ends_and_doubles_with_each_further_failure() {
        let mut now = Instant::now();
        let mut trust = after(Trust::default(), &[Event::Failed; 3], now);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(trust.until, Some(now + SECOND * seconds));
            assert_eq!(
                after(trust, &[Event::Failed, Event::Tick], now),
                trust,
                "once a back-off, and not before its end"
            );
            now += SECOND * seconds;
            assert!(!trust.on(Event::Tick, now).suspect());
            assert_eq!(trust.on(Event::Failed, now), after(trust, &[Event::Tick, Event::Failed], now));
            trust = after(trust, &[Event::Tick, Event::Failed], now);
        }
    }

    #[test]
    fn one_that_cannot_be_reached_is_suspect_until_it_is() {
        let now = Instant::now();
        let gone = Trust::default().on(Event::Unreachable, now);
        assert!(gone.suspect() && !gone.blamed());
        assert!(after(gone, &[Event::Tick, Event::Answered], now).suspect());
        assert_eq!(gone.on(Event::Reached, now), Trust::default());
        let both = after(gone, &[Event::Failed; 3], now);
        assert!(both.on(Event::Reached, now).suspect());
        assert!(both.on(Event::Tick, now + SECOND).suspect());
    }
}
