//! What groups and sessions are placed by.

use std::collections::HashMap;

use super::{GroupId, RunnerId};
use crate::rendezvous;

/// What numbers stand for, for [`rendezvous`]: of runners and groups that have the same here and there, now and after a
/// restart, so that what was read there is asked for there again. Where one has none its number counts.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Of a runner: of the replica that it is on.
    pub runners: HashMap<RunnerId, u64>,
    /// Of a group: of its weights.
    pub groups: HashMap<GroupId, u64>,
}

impl Keys {
    /// How much a runner is meant for a group.
    pub(super) fn of_group(&self, group: GroupId, runner: RunnerId) -> u64 {
        self.of(self.groups.get(&group).copied().unwrap_or(u64::from(group)), runner)
    }

    /// How much a runner is meant for a session.
    pub(super) fn of(&self, session: u64, runner: RunnerId) -> u64 {
        rendezvous::weight(session, self.runners.get(&runner).copied().unwrap_or(u64::from(runner)))
    }
}
