//! A slot in use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tutti_api::Priority;

use super::core::LOAD_LEAST;
use super::owner::Owner;
use super::slots::Slots;
use crate::health::core::Event as HealthEvent;
use crate::health::{self, Cause};
use crate::replica::Replica;

/// A slot in use; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    slots: Arc<Slots>,
    owner: Arc<Owner>,
    since: Instant,
    class: Priority,
}

impl Permit {
    pub(super) fn of(slots: Arc<Slots>, owner: Arc<Owner>, class: Priority) -> Self {
        Self { slots, owner, since: Instant::now(), class }
    }

    /// The replica that the slot is on.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.slots.replica
    }

    /// An answer begins, or goes on.
    pub(crate) fn hear(&self) {
        self.slots.hear();
    }

    /// What is sent has options that make the replica load the model anew, beyond those that a probe can have too.
    pub(crate) fn set_strange(&self) {
        self.slots.set_strange();
    }

    /// What was sent then in this slot was answered whole.
    pub(crate) fn answered(&self, sent: Instant) {
        if self.slots.is_blamed() {
            health::hear(&self.owner, HealthEvent::Answered(self.slots.id(), sent));
        }
    }

    /// It says that what was sent then had waited so long for weights.
    pub(crate) fn waited_for_weights(&self, told: Duration, sent: Instant) {
        let told = told.min(sent.elapsed()); // whatever it says
        if told >= LOAD_LEAST {
            self.owner.waited(self.slots.clone(), told, sent);
        }
    }

    /// It failed.
    pub(crate) fn failed(&self, cause: Cause, sent: Instant) {
        health::hear(&self.owner, HealthEvent::Failed(self.slots.id(), cause, sent));
    }

    /// It could not be sent: no connection came about.
    pub(crate) fn unreachable(&self) {
        health::unreachable(&self.owner, &self.slots.replica);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.slots.served(self.since.elapsed(), self.class != Priority::Bulk);
        if self.slots.word.release() {
            self.owner.given_back(&self.slots);
        }
    }
}
