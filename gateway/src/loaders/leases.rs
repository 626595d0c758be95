//! Which names a loader has promised to keep, and when it has to be asked again. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tutti_api::EngineName;

/// How long a loader keeps what it was asked to, unless it is asked again: longer than it is out of reach for mostly.
pub(super) const TTL: Duration = Duration::from_secs(60);
/// How often it is asked again where nothing has changed.
const RENEW: Duration = Duration::from_secs(15);
/// How soon it is asked again after it has not answered.
const AGAIN: Duration = Duration::from_secs(1);
/// Most names of a lease: a loader takes no more.
pub(super) const MAX_NAMES: usize = 10_000;

/// The lease of one gateway with one loader.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// What is promised. A name that the loader was asked to forget is not, whether or not it has heard.
    promised: BTreeSet<EngineName>,
    until: Option<Instant>,
    /// What it was last asked for.
    asked: BTreeSet<EngineName>,
    next: Option<Instant>,
    /// Whether it was given back for good.
    over: bool,
}

impl Lease {
    /// What the loader has promised to keep.
    pub(super) fn promised(&mut self, now: Instant) -> &BTreeSet<EngineName> {
        if self.until.is_none_or(|until| until <= now) {
            self.promised.clear();
        }
        &self.promised
    }

    /// What to ask for now, where it is time: these names are used, or may be from now on. From here on nothing else is
    /// promised.
    pub(super) fn ask(&mut self, mut used: BTreeSet<EngineName>, now: Instant) -> Option<BTreeSet<EngineName>> {
        while used.len() > MAX_NAMES {
            used.pop_last();
        }
        let is_due = self.next.is_none_or(|next| next <= now);
        let has_nothing = used.is_empty() && self.asked.is_empty();
        if has_nothing || (used == self.asked && !is_due) {
            return None;
        }
        self.promised.retain(|name| used.contains(name));
        self.asked.clone_from(&used);
        self.next = Some(now + AGAIN);
        Some(used)
    }

    /// Nothing is asked for any more: what was promised is given back.
    pub(super) fn end(&mut self) {
        self.over = true;
    }

    /// Whether it is given back.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The loader has taken what it was asked for then.
    pub(super) fn granted(&mut self, names: BTreeSet<EngineName>, asked: Instant) {
        self.promised = names;
        self.until = Some(asked + TTL);
        self.next = Some(asked + RENEW);
    }
}
