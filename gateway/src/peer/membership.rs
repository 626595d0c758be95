//! Which gateways are there, and which of them schedules a pool. Pure: what was heard, and the time, are handed in.
//!
//! A gateway is there while it has answered within [`ALIVE`], or while one that has says so of it: so two that do not
//! reach each other know of each other through a third. Of those that are there, the one with the highest weight (a
//! hash of its number and the pool's name) schedules the pool. It begins once nobody says any more that he does, once
//! what the one before had begun has ended, or [`DRAIN`] has passed, and once those that have just started know who is
//! there, or [`ALIVE`] has passed; who sees one of a higher weight lets go.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::hello::{Claim, Hello, Standing};
use crate::rendezvous;

/// How long a gateway counts as being there after its last answer; and how long who starts waits for the silent.
pub(super) const ALIVE: Duration = Duration::from_secs(2);
/// How long a new owner waits for the requests that the one before has on the replicas.
pub(super) const DRAIN: Duration = Duration::from_secs(5);

/// What a gateway knows of the others, and what it holds.
#[derive(Debug)]
pub(super) struct Membership {
    me: Box<str>,
    started: Instant,
    /// By address. An address at which nobody has answered yet is there, and empty.
    heard: BTreeMap<SocketAddr, Option<(Instant, Hello)>>,
    pools: BTreeMap<Box<str>, Pool>,
    settled: bool,
    conflicts: u64,
}

/// A pool that one gateway schedules.
#[derive(Debug, Default)]
struct Pool {
    holds: bool,
    epoch: u64,
    /// Somebody else holds it too.
    contested: bool,
    /// Since when it would be ours and nobody holds it.
    vacant: Option<Instant>,
}

/// The way to another gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Its number.
    pub(crate) id: Box<str>,
    /// Where to connect.
    pub(crate) address: SocketAddr,
    /// Whether that is a third, which passes on.
    pub(crate) through_another: bool,
}

/// Who schedules a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// This gateway.
    Here,
    /// This gateway, as soon as the one before has let go.
    Soon,
    /// Another.
    There(Reach),
}

/// How a pool stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolView {
    pub(crate) whose: Whose,
    /// The number of the ownership: rises with each change.
    pub(crate) epoch: u64,
}

/// How all stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Everybody known has answered, or was waited for long enough.
    pub(crate) settled: bool,
    /// The others that are there.
    pub(crate) peers: Vec<(Reach, Standing)>,
    pub(crate) pools: HashMap<Box<str>, PoolView>,
    /// How often this gateway found that it and another held a pool.
    pub(crate) conflicts: u64,
}

impl View {
    /// Whether requests go the same ways by both; what is told of the requests at work changes all the time.
    pub(super) fn leads_as(&self, other: &Self) -> bool {
        let ways = |of: &'_ Self| -> Vec<Reach> { of.peers.iter().map(|(reach, _)| reach.clone()).collect() };
        self.settled == other.settled && self.pools == other.pools && ways(self) == ways(other)
    }
}

impl Membership {
    /// Of the gateway with this number.
    pub(super) fn new(me: &str, now: Instant) -> Self {
        Self {
            me: me.into(),
            started: now,
            heard: BTreeMap::new(),
            pools: BTreeMap::new(),
            settled: false,
            conflicts: 0,
        }
    }

    /// These are the addresses at which peers may be, this gateway's own perhaps among them.
    pub(super) fn at(&mut self, addresses: &[SocketAddr]) {
        self.heard.retain(|address, _| addresses.contains(address));
        for address in addresses {
            self.heard.entry(*address).or_default();
        }
    }

    /// Somebody has answered.
    pub(super) fn hear(&mut self, from: SocketAddr, hello: Hello, now: Instant) {
        if let Some(heard) = self.heard.get_mut(&from) {
            *heard = Some((now, hello));
        }
    }

    /// Decides. `pools` are those of the table that one gateway schedules, with the requests on their replicas; `clock` is
    /// the time of day, by which a number is higher than those before a restart of all. Unit: seconds since 1970.
    pub(super) fn decide(&mut self, pools: &[(Box<str>, u32)], leaving: bool, clock: u64, now: Instant) -> View {
        let waited = now.saturating_duration_since(self.started) >= ALIVE;
        self.settled |= waited || self.heard.values().all(Option::is_some);
        let peers = self.peers(now);
        self.pools.retain(|name, _| pools.iter().any(|(pool, _)| pool == name));
        let mut view = View { settled: self.settled, peers, ..View::default() };
        for (name, _) in pools {
            let pool = self.pools.entry(name.clone()).or_default();
            self.conflicts += u64::from(pool.newly_contested(name, &view.peers));
            let whose =
                if self.settled { pool.decide(name, &self.me, &view.peers, leaving, clock, now) } else { Whose::Soon };
            view.pools.insert(name.clone(), PoolView { whose, epoch: pool.epoch });
        }
        view.conflicts = self.conflicts;
        view
    }

    /// What is told to who asks.
    pub(super) fn hello(&self, pools: &[(Box<str>, u32)], leaving: bool, view: &View) -> Hello {
        let claim = |(name, in_flight): &(Box<str>, u32)| {
            let Pool { holds, epoch, .. } = self.pools.get(name)?;
            Some(Claim { pool: name.clone(), holds: *holds, epoch: *epoch, in_flight: *in_flight })
        };
        // Before it has settled it is nobody's candidate.
        let pools = if self.settled { pools.iter().filter_map(claim).collect() } else { Vec::new() };
        let direct = view.peers.iter().filter(|(reach, _)| !reach.through_another);
        Hello {
            own: Standing { id: self.me.clone(), leaving, settled: self.settled, pools },
            sees: direct.map(|(_, standing)| standing.clone()).collect(),
        }
    }

    /// Those that are there: heard by ourselves, else by somebody that we hear.
    fn peers(&self, now: Instant) -> Vec<(Reach, Standing)> {
        let fresh = || {
            self.heard.iter().filter_map(|(address, heard)| {
                let (at, hello) = heard.as_ref()?;
                let alive = now.saturating_duration_since(*at) < ALIVE && hello.own.id != self.me;
                alive.then_some((*address, hello))
            })
        };
        let mut peers: Vec<(Reach, Standing)> = Vec::new();
        let direct = fresh().map(|(address, hello)| (address, &hello.own, false));
        let through = fresh().flat_map(|(address, hello)| hello.sees.iter().map(move |seen| (address, seen, true)));
        for (address, standing, through_another) in direct.chain(through) {
            if standing.id != self.me && !peers.iter().any(|(known, _)| known.id == standing.id) {
                peers.push((Reach { id: standing.id.clone(), address, through_another }, standing.clone()));
            }
        }
        peers
    }
}

impl Pool {
    fn decide(
        &mut self,
        name: &str,
        me: &str,
        peers: &[(Reach, Standing)],
        leaving: bool,
        clock: u64,
        now: Instant,
    ) -> Whose {
        let others = || peers.iter().filter_map(|(reach, standing)| Some((reach, standing, standing.claim(name)?)));
        let heaviest = |some: &mut dyn Iterator<Item = &'_ Reach>| -> Option<Reach> {
            some.max_by_key(|reach| weight(name, &reach.id)).cloned()
        };
        let stays = others().any(|(_, standing, _)| !standing.leaving) || !leaving;
        // Where all are about to end, they go on as they did.
        let best = heaviest(&mut others().filter(|(_, of, _)| !of.leaving || !stays).map(|(reach, ..)| reach));
        let ours = (!leaving || !stays) && best.as_ref().is_none_or(|best| weight(name, me) > weight(name, &best.id));
        let holder = heaviest(&mut others().filter(|(_, _, claim)| claim.holds).map(|(reach, ..)| reach));
        self.epoch = others().map(|(.., claim)| claim.epoch).fold(self.epoch, u64::max);
        if !ours {
            self.holds = false;
            self.vacant = None;
        }
        if self.holds {
            return Whose::Here;
        }
        match (holder, best) {
            (Some(holder), _) => Whose::There(holder),
            (None, Some(best)) if !ours => Whose::There(best),
            (None, _) => {
                let vacant = *self.vacant.get_or_insert(now);
                let drained = others().all(|(.., claim)| claim.in_flight == 0);
                // Who is about to settle may be the one that is meant: of those that start together none takes a pool
                // to give it up at once.
                let settled = peers.iter().all(|(_, standing)| standing.settled);
                let wait = if !drained {
                    DRAIN
                } else if !settled {
                    ALIVE
                } else {
                    Duration::ZERO
                };
                if now.saturating_duration_since(vacant) < wait {
                    return Whose::Soon;
                }
                self.holds = true;
                self.epoch = self.epoch.saturating_add(1).max(clock);
                Whose::Here
            }
        }
    }

    /// Whether somebody else holds it too, and did not a moment ago.
    fn newly_contested(&mut self, name: &str, peers: &[(Reach, Standing)]) -> bool {
        let other = peers.iter().any(|(_, standing)| standing.claim(name).is_some_and(|claim| claim.holds));
        let before = std::mem::replace(&mut self.contested, self.holds && other);
        self.contested && !before
    }
}

/// How much a gateway is meant for a pool.
fn weight(pool: &str, id: &str) -> u64 {
    rendezvous::weight(rendezvous::key(pool), rendezvous::key(id))
}

#[cfg(test)]
mod tests;
