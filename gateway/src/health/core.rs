//! The decisions: who is ejected, for how long, and how many slots it gets when it is back.
//!
//! Pure: [`Core::on`] takes an event and the time and appends actions. What is wanted and what is in force are two
//! things. Each replica, and each model on it, has a [`Trust`] that says whether it should be ejected; of the replicas
//! of a model only so many are, the first to fail first, and only while another that can be reached does not fail.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tutti_api::HealthSpec;

use super::trust::{Cause, Ejection, Trust};
use crate::schedule::SlotsId;

/// How often a replica that comes back gets more slots, at most.
const STEP: Duration = Duration::from_millis(100);

/// A replica's number.
pub(crate) type ReplicaId = u64;

/// When a pool ejects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Policy {
    /// Failures in a row that are too many.
    pub(crate) failures: u32,
    /// The first ejection.
    pub(crate) ejection: Duration,
    /// The share of a model's replicas that may be ejected at once, from 0 to 1.
    pub(crate) share: f64,
    /// From the first answer of one that is back to its full number of slots.
    pub(crate) slow_start: Duration,
}

/// The slots of one model on one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) slot: SlotsId,
    pub(crate) replica: ReplicaId,
    /// How many there are.
    pub(crate) limit: u16,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A new table: each model's slots, on each replica that has it.
    Table(Policy, Vec<Vec<Member>>),
    /// No connection to a replica came about.
    Unreachable(ReplicaId),
    /// It answered a question, whatever it said; or it is gone for good.
    Reached(ReplicaId),
    /// An exchange failed that was sent then.
    Failed(SlotsId, Cause, Instant),
    /// One was answered whole.
    Answered(SlotsId, Instant),
    /// A replica gave no token to a probe; the next one's outcome is known after that time.
    Unanswered(ReplicaId, Duration),
    /// Time has passed.
    Tick,
}

/// What holds for slots, beside how many are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Force {
    /// Others go before them.
    pub(crate) suspect: bool,
    /// They fail, and are used for want of others: no more than in their turn.
    pub(crate) kept: bool,
    /// How many may be in use, if not all.
    pub(crate) cap: Option<u16>,
    /// An answer would change something: it wants to be heard.
    pub(crate) blamed: bool,
}

/// What an ejection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// A whole replica.
    Replica(ReplicaId),
    /// One model on it.
    Slot(SlotsId),
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Let this hold for the slots.
    Set(SlotsId, Force),
    /// Try a replica until it can be reached.
    Recover(ReplicaId),
    /// Tell that something is ejected from now on.
    Ejected(Subject, Ejection),
    /// Tell that it is no longer.
    Returned(Subject),
}

/// What is held against one thing, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// It should be ejected; `in_force`: it is.
    Ejected { ejection: Ejection, in_force: bool },
    /// It was, and has not all its slots back.
    Back,
}

#[derive(Debug)]
struct Slot {
    member: Member,
    /// Which list of the table it stands in.
    model: usize,
    trust: Trust,
    force: Force,
    /// Ejected, by itself or with its replica; not only out of reach.
    ejected: bool,
}

/// What is held against the replicas of one pool.
#[derive(Debug)]
pub(crate) struct Core {
    policy: Policy,
    models: Vec<Vec<SlotsId>>,
    slots: HashMap<SlotsId, Slot>,
    replicas: HashMap<ReplicaId, Trust>,
    unreachable: HashSet<ReplicaId>,
    in_force: HashSet<Subject>,
}

impl Default for Policy {
    fn default() -> Self {
        Self::of(&HealthSpec::default())
    }
}

impl Core {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            models: Vec::new(),
            slots: HashMap::new(),
            replicas: HashMap::new(),
            unreachable: HashSet::new(),
            in_force: HashSet::new(),
        }
    }

    /// Takes an event; appends what follows from it.
    pub(crate) fn on(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Table(policy, models) => {
                self.table(policy, models, actions);
                self.enforce_all(now, actions);
            }
            Event::Unreachable(replica) => {
                if self.unreachable.insert(replica) {
                    actions.push(Action::Recover(replica));
                    self.enforce(self.models_on(replica), now, actions);
                }
            }
            Event::Reached(replica) => {
                if self.unreachable.remove(&replica) && self.slots_on(replica).next().is_some() {
                    let trust = self.replicas.entry(replica).or_default();
                    *trust = trust.reached();
                    self.enforce(self.models_on(replica), now, actions);
                }
            }
            Event::Failed(slot, cause, sent) => {
                let policy = self.policy;
                let change = |trust: Trust| trust.failed(cause, sent, &policy, now);
                self.change(slot, cause.is_of_model(), !cause.is_of_model(), change, now, actions);
            }
            Event::Answered(slot, sent) => {
                let policy = self.policy;
                self.change(slot, true, true, |trust| trust.answered(sent, &policy, now), now, actions);
            }
            Event::Unanswered(replica, at_least) => {
                if self.slots_on(replica).next().is_some() {
                    let trust = self.trust(replica).silent_to_a_probe(at_least, &self.policy, now);
                    self.replicas.insert(replica, trust);
                    self.enforce(self.models_on(replica), now, actions);
                }
            }
            Event::Tick => {
                let policy = self.policy;
                for trust in self.slots.values_mut().map(|slot| &mut slot.trust).chain(self.replicas.values_mut()) {
                    *trust = trust.tick(&policy, now);
                }
                self.enforce_all(now, actions);
            }
        }
    }

    /// When [`Event::Tick`] is due.
    pub(crate) fn next_tick(&self, now: Instant) -> Option<Instant> {
        let trusts = self.slots.values().map(|slot| &slot.trust).chain(self.replicas.values());
        trusts.filter_map(|trust| trust.next_tick(STEP, &self.policy, now)).min()
    }

    /// Whether a replica could be reached the last time.
    pub(crate) fn is_reachable(&self, replica: ReplicaId) -> bool {
        !self.unreachable.contains(&replica)
    }

    /// What is held against a replica or a model on it, if anything is.
    pub(crate) fn held(&self, subject: Subject) -> Option<Held> {
        let trust = match subject {
            Subject::Replica(replica) => self.replicas.get(&replica)?,
            Subject::Slot(slot) => &self.slots.get(&slot)?.trust,
        };
        match trust.ejection() {
            Some(ejection) => Some(Held::Ejected { ejection, in_force: self.in_force.contains(&subject) }),
            None => trust.is_back().then_some(Held::Back),
        }
    }

    fn table(&mut self, policy: Policy, models: Vec<Vec<Member>>, actions: &mut Vec<Action>) {
        self.policy = policy;
        let mut known = std::mem::take(&mut self.slots);
        self.models = models.iter().map(|members| members.iter().map(|member| member.slot).collect()).collect();
        for (model, member) in models.into_iter().enumerate().flat_map(|(at, of)| of.into_iter().map(move |m| (at, m)))
        {
            let (trust, force, ejected) =
                known.remove(&member.slot).map(|slot| (slot.trust, slot.force, slot.ejected)).unwrap_or_default();
            self.slots.insert(member.slot, Slot { member, model, trust, force, ejected });
        }
        // A later table may name them again.
        let left = known.into_iter().filter(|(_, slot)| slot.force != Force::default());
        actions.extend(left.map(|(id, _)| Action::Set(id, Force::default())));
        let used: HashSet<ReplicaId> = self.slots.values().map(|slot| slot.member.replica).collect();
        self.replicas.retain(|replica, _| used.contains(replica));
        let slots = &self.slots;
        self.in_force.retain(|subject| match subject {
            Subject::Replica(replica) => used.contains(replica),
            Subject::Slot(slot) => slots.contains_key(slot),
        });
    }

    fn change(
        &mut self,
        slot: SlotsId,
        of_slot: bool,
        of_replica: bool,
        change: impl Fn(Trust) -> Trust,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(known) = self.slots.get_mut(&slot) else { return }; // an older table's
        let (model, replica) = (known.model, known.member.replica);
        let (mut models, trust) = (Vec::new(), change(known.trust));
        if of_slot && trust != known.trust {
            known.trust = trust;
            models.push(model);
        }
        let trust = change(self.trust(replica));
        if of_replica && trust != self.trust(replica) {
            self.replicas.insert(replica, trust);
            models = self.models_on(replica);
        }
        self.enforce(models, now, actions);
    }

    fn slots_on(&self, replica: ReplicaId) -> impl Iterator<Item = &Slot> {
        self.slots.values().filter(move |slot| slot.member.replica == replica)
    }

    fn models_on(&self, replica: ReplicaId) -> Vec<usize> {
        self.slots_on(replica).map(|slot| slot.model).collect()
    }

    fn enforce_all(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.enforce((0..self.models.len()).collect(), now, actions);
    }

    /// Brings into force what is wanted for these models, as far as it may be.
    fn enforce(&mut self, models: Vec<usize>, now: Instant, actions: &mut Vec<Action>) {
        let mut touched = HashSet::new();
        for model in models {
            for (slot, ejected, force) in self.forces(&self.models[model], now) {
                let Some(known) = self.slots.get_mut(&slot) else { continue };
                known.ejected = ejected;
                touched.extend([Subject::Slot(slot), Subject::Replica(known.member.replica)]);
                if known.force != force {
                    known.force = force;
                    actions.push(Action::Set(slot, force));
                }
            }
        }
        for subject in touched {
            self.tell(subject, actions);
        }
    }

    /// Tells where an ejection has come into force, or is no longer.
    fn tell(&mut self, subject: Subject, actions: &mut Vec<Action>) {
        let (trust, in_force) = match subject {
            Subject::Slot(slot) => {
                let Some(known) = self.slots.get(&slot) else { return };
                (known.trust, known.ejected)
            }
            Subject::Replica(replica) => (self.trust(replica), self.slots_on(replica).any(|slot| slot.ejected)),
        };
        match trust.ejection().filter(|_| in_force) {
            Some(ejection) if self.in_force.insert(subject) => actions.push(Action::Ejected(subject, ejection)),
            None if self.in_force.remove(&subject) => actions.push(Action::Returned(subject)),
            _ => {}
        }
    }

    /// What is to hold for the slots of one model, and which of them are ejected.
    fn forces(&self, model: &[SlotsId], now: Instant) -> Vec<(SlotsId, bool, Force)> {
        let slots: Vec<&Slot> = model.iter().filter_map(|id| self.slots.get(id)).collect();
        let reachable = slots.iter().filter(|slot| self.is_reachable(slot.member.replica)).count();
        let ejected = self.ejected(&slots, reachable);
        let others_are_well = slots.iter().any(|slot| {
            self.is_reachable(slot.member.replica) && self.trusts(slot).iter().all(|trust| trust.is_well())
        });
        let of = |slot: &Slot| {
            let (id, all, trusts) = (slot.member.slot, slot.member.limit, self.trusts(slot));
            let most = trusts.iter().map(|trust| trust.slots(all, &self.policy, now)).min().unwrap_or(all);
            let force = Force {
                suspect: ejected.contains(&id) || !self.is_reachable(slot.member.replica),
                kept: !ejected.contains(&id) && trusts.iter().any(|trust| trust.ejection().is_some()),
                cap: (others_are_well && most < all).then_some(most),
                blamed: trusts.iter().any(|trust| trust.is_blamed()),
            };
            (id, ejected.contains(&id), force)
        };
        slots.into_iter().map(of).collect()
    }

    /// Which of a model's slots are ejected: the first to fail, as many as may be. Where all fail, none is: who has been
    /// well the longest ago is as good a guess as any.
    fn ejected(&self, slots: &[&Slot], reachable: usize) -> HashSet<SlotsId> {
        let share = (slots.len() as f64 * self.policy.share) as usize;
        let most = if self.policy.share > 0.0 { share.max(1) } else { 0 };
        let mut wanted: Vec<(Instant, SlotsId)> = slots
            .iter()
            .filter(|slot| self.is_reachable(slot.member.replica))
            .filter_map(|slot| {
                let since = self.trusts(slot).iter().filter_map(|trust| Some(trust.ejection()?.since)).min()?;
                Some((since, slot.member.slot))
            })
            .collect();
        wanted.sort_unstable();
        let most = if wanted.len() < reachable { most } else { 0 };
        wanted.into_iter().take(most).map(|(_, slot)| slot).collect()
    }

    fn trust(&self, replica: ReplicaId) -> Trust {
        self.replicas.get(&replica).copied().unwrap_or_default()
    }

    /// What is held against slots: their own, and their replica's.
    fn trusts(&self, slot: &Slot) -> [Trust; 2] {
        [slot.trust, self.trust(slot.member.replica)]
    }
}

#[cfg(test)]
mod tests;
