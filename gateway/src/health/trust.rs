//! How far one thing is trusted: a replica, or one model on it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::core::Policy;

/// Longest ejection, unless the first is longer.
const LONGEST: Duration = Duration::from_secs(60);

/// Why something is held against a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It answered 503 or 429.
    Busy,
    /// It closed before its answer, or within it, or spoke no HTTP.
    Closed,
    /// It was silent for too long, before its answer or within it.
    Silent,
    /// It gave no token when the gateway asked for one.
    Probe,
    /// It answered for a model with a 5xx other than 503, or broke off with an error: a load that failed, mostly.
    Error,
    /// It did not find a model that it said it has.
    Missing,
    /// It did not take the gateway's key (401).
    Denied,
}

impl Cause {
    /// All of them.
    pub(crate) const ALL: [Cause; 7] =
        [Cause::Busy, Cause::Closed, Cause::Silent, Cause::Probe, Cause::Error, Cause::Missing, Cause::Denied];

    /// As metrics and programs read it.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Busy => "busy",
            Cause::Closed => "closed",
            Cause::Silent => "silent",
            Cause::Probe => "probe",
            Cause::Error => "error",
            Cause::Missing => "missing",
            Cause::Denied => "denied",
        }
    }

    /// Whether it was silence, which ends with any answer.
    fn is_silence(self) -> bool {
        matches!(self, Cause::Silent | Cause::Probe)
    }

    /// Whether it says something of the model that was asked for alone.
    pub(crate) fn is_of_model(self) -> bool {
        matches!(self, Cause::Error | Cause::Missing)
    }
}

/// An ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ejection {
    pub(crate) cause: Cause,
    pub(crate) since: Instant,
    pub(crate) until: Instant,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Well,
    Ejected(Ejection),
    /// Its ejection is over. `answered`: when it answered for the first time since.
    Back {
        answered: Option<Instant>,
    },
}

/// What is held against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    phase: Phase,
    /// Failures since the last answer.
    failures: u32,
    /// The last ejection's length; zero once it is well again.
    back_off: Duration,
    /// When the last ejection began.
    ejected_at: Option<Instant>,
}

impl Trust {
    /// After an exchange that was sent then and failed.
    pub(crate) fn failed(mut self, cause: Cause, sent: Instant, policy: &Policy, now: Instant) -> Self {
        let stale = self.ejected_at.is_some_and(|at| sent < at); // sent before that: it says nothing new
        if stale || matches!(self.phase, Phase::Ejected(_)) {
            return self;
        }
        self.failures = self.failures.saturating_add(1);
        // Nothing has been answered since its ejection: one failure is enough.
        let untried = matches!(self.phase, Phase::Back { answered: None });
        if untried || self.failures >= policy.failures {
            let longest = LONGEST.max(policy.ejection);
            self.back_off = (self.back_off * 2).clamp(policy.ejection, longest);
            self.phase = Phase::Ejected(Ejection { cause, since: now, until: now + self.back_off });
            self.ejected_at = Some(now);
        }
        self
    }

    /// After a probe that brought nothing: it is ejected at once, and at least until the next one's outcome is known.
    pub(crate) fn silent_to_a_probe(mut self, at_least: Duration, policy: &Policy, now: Instant) -> Self {
        let longest = LONGEST.max(policy.ejection);
        self.back_off = (self.back_off * 2).clamp(policy.ejection, longest);
        self.failures = self.failures.saturating_add(1);
        let since = self.ejection().map_or(now, |ejection| ejection.since);
        let until = now + self.back_off.max(at_least);
        self.phase = Phase::Ejected(Ejection { cause: Cause::Probe, since, until });
        self.ejected_at = Some(since);
        self
    }

    /// After an exchange that was sent then and answered whole.
    pub(crate) fn answered(mut self, sent: Instant, policy: &Policy, now: Instant) -> Self {
        // What was sent before its ejection says nothing of it since; but who is silent answers nothing at all, and who
        // answers after all was only slow.
        if self.ejected_at.is_some_and(|at| sent < at) && self.is_blamed() {
            let slow = self.ejection().is_some_and(|ejection| ejection.cause.is_silence());
            return if slow { Self { ejected_at: self.ejected_at, ..Self::default() } } else { self };
        }
        self.failures = 0;
        self.phase = match self.phase {
            Phase::Well => Phase::Well,
            Phase::Back { answered: Some(first) } => Phase::Back { answered: Some(first) },
            Phase::Back { answered: None } | Phase::Ejected(_) => Phase::Back { answered: Some(now) },
        };
        self.tick(policy, now) // a slow start of no time is over
    }

    /// Of one that could not be reached, and can be again.
    pub(crate) fn reached(mut self) -> Self {
        if self.phase == Phase::Well {
            self.phase = Phase::Back { answered: None };
        }
        self
    }

    /// After time has passed.
    pub(crate) fn tick(mut self, policy: &Policy, now: Instant) -> Self {
        match self.phase {
            Phase::Ejected(ejection) if ejection.until <= now => self.phase = Phase::Back { answered: None },
            Phase::Back { answered: Some(first) } if first + policy.slow_start <= now => {
                self.phase = Phase::Well;
                self.back_off = Duration::ZERO;
            }
            _ => {}
        }
        self
    }

    /// Its ejection, if it is in one.
    pub(crate) fn ejection(self) -> Option<Ejection> {
        match self.phase {
            Phase::Ejected(ejection) => Some(ejection),
            _ => None,
        }
    }

    /// How many of this many slots it may use: fewer while it comes back.
    pub(crate) fn slots(self, all: u16, policy: &Policy, now: Instant) -> u16 {
        match self.phase {
            Phase::Well | Phase::Ejected(_) => all,
            Phase::Back { answered: None } => all.min(1),
            Phase::Back { answered: Some(first) } => {
                let part = now.saturating_duration_since(first).as_secs_f64() / policy.slow_start.as_secs_f64();
                let more = f64::from(all.saturating_sub(1)) * part.clamp(0.0, 1.0);
                all.min(1 + more as u16)
            }
        }
    }

    /// Whether it is neither ejected nor on its way back.
    pub(crate) fn is_well(self) -> bool {
        self.phase == Phase::Well
    }

    /// Whether it is on its way back.
    pub(crate) fn is_back(self) -> bool {
        matches!(self.phase, Phase::Back { .. })
    }

    /// Whether an answer changes anything.
    pub(crate) fn is_blamed(self) -> bool {
        self.failures > 0 || matches!(self.phase, Phase::Ejected(_) | Phase::Back { answered: None })
    }

    /// When [`Self::tick`] is next worth calling; every `step` while slots come back.
    pub(crate) fn next_tick(self, step: Duration, policy: &Policy, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Well | Phase::Back { answered: None } => None,
            Phase::Ejected(ejection) => Some(ejection.until),
            Phase::Back { answered: Some(first) } => Some((now + step).min(first + policy.slow_start)),
        }
    }
}
