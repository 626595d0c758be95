//! A request's place in a queue, and what its turn there depends on.

use std::sync::Arc;
use std::time::Instant;

use tutti_api::Priority;

use super::core::{Turn, WaiterId};
use super::owner::Owner;
use crate::classify::LoadWith;

/// What a request's turn depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// Its class.
    pub class: Priority,
    /// Who asks: of a class tenants have turns by what they ask for.
    pub tenant: u64,
    /// What it asks for, in tokens of its tenant's share, as far as can be told.
    pub cost: u32,
    /// When it must have been answered to be of use.
    pub deadline: Option<Instant>,
    /// What it has in common with others that an engine does not read twice.
    pub session: Option<u64>,
}

/// A request's place in a queue, once it has had to take one. Dropping it before a verdict came takes the request out.
#[derive(Debug, Default)]
pub struct Place {
    pub(super) ticket: Ticket,
    pub(super) with: LoadWith,
    pub(super) awaits: bool,
    taken: Option<(Arc<Owner>, WaiterId)>,
    /// Since when it waits.
    pub(crate) since: Option<Instant>,
    pub(super) turn: Option<Turn>,
    pub(super) waits: bool,
}

impl Place {
    /// None yet, for a request of this ticket. Where its weights are loaded for it, it is done with what it says.
    pub(crate) fn of(ticket: Ticket, with: LoadWith) -> Self {
        Self { ticket, with, awaits: false, taken: None, since: None, turn: None, waits: false }
    }

    /// Whether its pool has no replica at all, and it waits until there is one.
    pub(crate) fn set_awaits(&mut self, awaits: bool) {
        self.awaits |= awaits; // also once there is one: all who waited for it come then
    }

    /// The place in this queue: the one it has, or a new one behind all others.
    pub(super) fn at(&mut self, owner: &Arc<Owner>) -> WaiterId {
        match &self.taken {
            Some((known, waiter)) if Arc::ptr_eq(known, owner) => *waiter,
            _ => {
                self.turn = None; // another queue's
                self.taken.insert((owner.clone(), owner.number())).1
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let (true, Some((owner, waiter))) = (self.waits, &self.taken) {
            owner.departs(*waiter);
        }
    }
}
