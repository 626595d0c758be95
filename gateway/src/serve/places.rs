//! The requests of one HTTP/2 connection. Each but the first takes a place among `gateway.limits.connections`, as a
//! connection of HTTP/1.1 does with its one request: the limit bounds what is at work, by whatever protocol.

use std::sync::Arc;

use super::activity::{Activity, AtWork};
use super::core::Counted;
use crate::limits;
use crate::shared::Shared;

/// A connection's place, and what happens on it.
pub(super) struct Places {
    /// The connection's own, which its first request uses.
    counted: Counted,
    pub(super) activity: Arc<Activity>,
}

/// A request's place; dropping it gives it back.
pub(super) struct Place {
    _at_work: AtWork,
    _more: Option<Counted>,
}

impl Places {
    pub(super) fn new(counted: Counted) -> Self {
        Self { counted, activity: Arc::default() }
    }

    /// A place for a request, if there is one.
    pub(super) fn take(&self, shared: &Shared) -> Option<Place> {
        let more = if self.activity.at_work() == 0 {
            None
        } else if let Some(limit) = shared.full() {
            limits::hit(limit);
            return None;
        } else {
            Some(self.counted.another())
        };
        Some(Place { _at_work: self.activity.begin(), _more: more })
    }
}
