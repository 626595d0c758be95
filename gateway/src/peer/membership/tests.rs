use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Gateways in simulated time: each hears those that it is linked to, every [`POLL`].
struct World {
    now: Instant,
    clock: u64,
    half: bool,
    gateways: Vec<Gateway>,
    /// Pairs that do not reach each other.
    cut: BTreeSet<(usize, usize)>,
    /// The numbers of ownerships, in the order in which they began.
    epochs: Vec<u64>,
}

struct Gateway {
    membership: Membership,
    view: View,
    lives: bool,
    leaving: bool,
    in_flight: u32,
}

const POLL: Duration = Duration::from_millis(500);

fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1000 + u16::try_from(number).unwrap()))
}

fn pools() -> Vec<Box<str>> {
    ["p", "q", "r"].map(Into::into).to_vec()
}

impl World {
    fn new(count: usize) -> Self {
        let now = Instant::now();
        let mut world =
            Self { now, clock: 1_000, half: false, gateways: Vec::new(), cut: BTreeSet::new(), epochs: Vec::new() };
        (0..count).for_each(|_| world.join());
        world
    }

    fn join(&mut self) {
        let id = format!("{:016x}", self.gateways.len());
        let membership = Membership::new(&id, self.now);
        let view = View::default();
        self.gateways.push(Gateway { membership, view, lives: true, leaving: false, in_flight: 0 });
    }

    fn linked(&self, a: usize, b: usize) -> bool {
        self.gateways[a].lives && self.gateways[b].lives && !self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn pools_of(&self, number: usize) -> Vec<(Box<str>, u32)> {
        pools().into_iter().map(|pool| (pool, self.gateways[number].in_flight)).collect()
    }

    /// Each in turn hears the others and decides.
    fn round(&mut self) {
        let all: Vec<SocketAddr> = (0..self.gateways.len()).map(address).collect();
        for me in 0..self.gateways.len() {
            if !self.gateways[me].lives {
                continue;
            }
            for other in 0..self.gateways.len() {
                if self.linked(me, other) {
                    let of = &self.gateways[other];
                    let hello = of.membership.hello(&self.pools_of(other), of.leaving, &of.view);
                    self.gateways[me].membership.at(&all);
                    self.gateways[me].membership.hear(address(other), hello, self.now);
                }
            }
            let (pools, now, clock) = (self.pools_of(me), self.now, self.clock);
            let of = &mut self.gateways[me];
            let before = of.view.clone();
            of.view = of.membership.decide(&pools, of.leaving, clock, now);
            for (pool, view) in &of.view.pools {
                let began =
                    view.whose == Whose::Here && before.pools.get(pool).is_none_or(|was| was.whose != Whose::Here);
                if began && &**pool == "p" {
                    self.epochs.push(view.epoch);
                }
            }
        }
        self.now += POLL;
        self.half = !self.half;
        self.clock += u64::from(self.half);
    }

    fn rounds(&mut self, count: usize) {
        (0..count).for_each(|_| self.round());
    }

    fn holders(&self, pool: &str) -> Vec<usize> {
        let holds = |of: &Gateway| of.lives && of.view.pools.get(pool).is_some_and(|view| view.whose == Whose::Here);
        (0..self.gateways.len()).filter(|number| holds(&self.gateways[*number])).collect()
    }

    /// One holds each pool, and all others lead to it, by themselves or through one that leads to it by itself.
    fn check_one_owner(&self) -> Result<(), TestCaseError> {
        for pool in pools() {
            let holders = self.holders(&pool);
            prop_assert_eq!(holders.len(), 1, "{:?}", holders);
            for number in (0..self.gateways.len()).filter(|number| self.gateways[*number].lives) {
                if number == holders[0] {
                    continue;
                }
                let Whose::There(reach) = &self.gateways[number].view.pools[&pool].whose else {
                    return Err(TestCaseError::fail(format!("{number} does not know whose {pool} is")));
                };
                let at = (0..self.gateways.len()).find(|of| address(*of) == reach.address).unwrap();
                prop_assert!(self.linked(number, at));
                prop_assert_eq!(reach.through_another, at != holders[0]);
                prop_assert!(at == holders[0] || self.linked(at, holders[0]));
            }
        }
        Ok(())
    }
}

/// Enough for any change: the silent are waited for, then what was begun, then all hear of it.
const LONG: usize = 24;

#[test]
fn those_that_start_together_take_each_pool_once_and_keep_it() {
    for count in 2..8 {
        let mut world = World::new(count);
        world.rounds(LONG);
        world.check_one_owner().unwrap();
        assert_eq!(world.epochs.len(), 1, "{count}: {:?}", world.epochs);
    }
}

#[test]
fn who_never_settles_is_waited_for_two_seconds() {
    let now = Instant::now();
    let pools = [("p".into(), 0)];
    let mut one = Membership::new("a", now);
    one.at(&[address(1)]);
    let whose = |of: &mut Membership, at: Duration| {
        let own = Standing { id: "b".into(), ..Standing::default() };
        of.hear(address(1), Hello { own, sees: Vec::new() }, now + at);
        of.decide(&pools, false, 7, now + at).pools["p"].whose.clone()
    };
    assert_eq!(whose(&mut one, Duration::ZERO), Whose::Soon);
    assert_eq!(whose(&mut one, ALIVE / 2), Whose::Soon);
    assert_eq!(whose(&mut one, ALIVE), Whose::Here);
}

#[test]
fn a_lone_gateway_holds_all_at_once_and_one_with_silent_peers_after_two_seconds() {
    let now = Instant::now();
    let pools = [("p".into(), 0)];
    let whose = |of: &mut Membership, at| of.decide(&pools, false, 7, at).pools["p"].clone();
    let mut alone = Membership::new("a", now);
    assert_eq!(whose(&mut alone, now), PoolView { whose: Whose::Here, epoch: 7 });
    let mut waits = Membership::new("a", now);
    waits.at(&[address(1)]);
    assert_eq!(whose(&mut waits, now).whose, Whose::Soon);
    assert_eq!(whose(&mut waits, now + ALIVE / 2).whose, Whose::Soon);
    assert_eq!(whose(&mut waits, now + ALIVE).whose, Whose::Here);
}

#[test]
fn a_new_owner_waits_for_what_the_one_before_has_begun() {
    let mut world = World::new(1);
    world.gateways[0].in_flight = 3;
    while world.gateways.last().unwrap().membership.me.as_ref() == "0000000000000000"
        || weight("p", &world.gateways.last().unwrap().membership.me) < weight("p", "0000000000000000")
    {
        world.join();
        let last = world.gateways.len() - 1;
        if weight("p", &world.gateways[last].membership.me) < weight("p", "0000000000000000") {
            world.gateways[last].lives = false;
        }
    }
    let new = world.gateways.len() - 1;
    world.gateways[new].lives = false;
    world.rounds(8);
    assert_eq!(world.holders("p"), [0]);
    world.gateways[new].lives = true;
    world.rounds(4);
    assert_eq!(world.holders("p"), [0; 0], "the old one has let go, and works on three still");
    world.gateways[0].in_flight = 0;
    world.rounds(2);
    assert_eq!(world.holders("p"), [new]);
}

#[test]
fn weights_spread_pools_evenly() {
    let ids: Vec<String> = (0..4).map(|number| format!("{number:016x}")).collect();
    let mut owned = [0; 4];
    for pool in 0..4000 {
        let name = format!("pool-{pool}");
        let best = (0..4).max_by_key(|id| weight(&name, &ids[*id])).unwrap();
        owned[best] += 1;
    }
    assert!(owned.iter().all(|count| (850..1150).contains(count)), "{owned:?}");
}

proptest! {
    #[test]
    fn all_who_reach_each_other_agree_and_each_ownership_has_a_higher_number(
        count in 1..6usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, 0..3u32), 0..6),
    ) {
        let mut world = World::new(count);
        world.rounds(LONG);
        world.check_one_owner()?;
        for (which, what, in_flight) in changes {
            let number = which.index(world.gateways.len());
            match what {
                0 => world.join(),
                1 => world.gateways[number].leaving = true,
                _ => world.gateways[number].lives = false,
            }
            if !world.gateways.iter().any(|of| of.lives) {
                world.join();
            }
            let number = world.gateways.len() - 1;
            world.gateways[number].in_flight = in_flight;
            world.rounds(LONG);
            world.check_one_owner()?;
        }
        prop_assert!(world.epochs.is_sorted_by(|a, b| a < b), "{:?}", world.epochs);
    }

    #[test]
    fn who_is_cut_off_from_the_owner_finds_it_through_a_third(count in 3..6usize, pair in any::<prop::sample::Index>()) {
        let pairs: Vec<_> = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).collect();
        let mut world = World::new(count);
        world.rounds(LONG);
        world.cut.insert(pairs[pair.index(pairs.len())]);
        world.rounds(LONG);
        world.check_one_owner()?;
    }

    #[test]
    fn after_any_split_one_of_two_owners_yields(
        count in 2..6usize,
        cuts in prop::collection::vec((0..6usize, 0..6usize), 0..12),
    ) {
        let mut world = World::new(count);
        world.cut = cuts.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        world.rounds(LONG);
        // Whoever reach nobody else hold everything; nobody is without an owner.
        for pool in pools() {
            prop_assert!(!world.holders(&pool).is_empty());
        }
        let split = world.holders("p").len() > 1;
        world.cut.clear();
        world.rounds(LONG);
        world.check_one_owner()?;
        let conflicts: u64 = world.gateways.iter().map(|of| of.view.conflicts).sum();
        prop_assert!(conflicts > 0 || !split, "two held a pool, and neither noticed");
    }
}
