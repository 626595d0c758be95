//! What is held against replicas, as people and programs are told.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::core::{Held, Subject};
use super::{Cause, Health};
use crate::replica::Replica;
use crate::schedule::Slots;

/// What comes of what is held against a replica, or against one model on it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum HeldState {
    /// Others go before it.
    Ejected,
    /// It fails and is used all the same: it is the last that can be reached, or enough others are ejected.
    Kept,
    /// It was ejected or out of reach, and gets its slots back bit by bit.
    Returning,
}

/// What is held against a replica, or against one model on it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct HeldStatus {
    /// The model by the replica's name for it; missing where it is about the replica.
    pub model: Option<String>,
    /// What comes of it.
    pub state: HeldState,
    /// Why.
    pub cause: Option<Cause>,
    /// Since when. Unit: seconds since 1970.
    pub since: Option<i64>,
    /// Until when. Unit: seconds since 1970.
    pub until: Option<i64>,
}

impl HeldStatus {
    fn of(model: Option<&str>, held: Held) -> Self {
        let model = model.map(str::to_owned);
        match held {
            Held::Back => Self { model, state: HeldState::Returning, cause: None, since: None, until: None },
            Held::Ejected { ejection, in_force } => Self {
                model,
                state: if in_force { HeldState::Ejected } else { HeldState::Kept },
                cause: Some(ejection.cause),
                since: Some(unix(ejection.since)),
                until: Some(unix(ejection.until)),
            },
        }
    }
}

impl Health {
    /// What is held against a replica and the models on it.
    pub(crate) fn told(&self, replica: &Replica, slots: &[Arc<Slots>]) -> Vec<HeldStatus> {
        let inner = self.lock();
        let whole = inner.core.held(Subject::Replica(replica.id)).map(|held| HeldStatus::of(None, held));
        let mut told: Vec<HeldStatus> = slots
            .iter()
            .filter_map(|slots| Some(HeldStatus::of(Some(&slots.name), inner.core.held(Subject::Slot(slots.id()))?)))
            .collect();
        told.sort_by(|a, b| a.model.cmp(&b.model));
        whole.into_iter().chain(told).collect()
    }
}

/// A moment by the calendar. Unit: seconds since 1970.
fn unix(moment: Instant) -> i64 {
    let (now, today) = (Instant::now(), SystemTime::now());
    let day = match moment.checked_duration_since(now) {
        Some(ahead) => today + ahead,
        None => today - now.saturating_duration_since(moment),
    };
    let since: Duration = day.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
