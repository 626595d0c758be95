//! Fleets in simulated time.

use proptest::prelude::*;
use prost::Message;
use tutti_api::demand::{FORMAT, Gathered, RELATIVE_ERROR, Slice};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A gateway, as it would answer.
#[derive(Clone)]
struct Sim {
    instance: &'static str,
    /// Unit: milliseconds.
    uptime: u64,
    pool: Pool,
    row: Row,
    closed: Vec<Slice>,
}

fn name() -> Name {
    Name { model: "risk".to_owned(), revision: "v1".to_owned(), pool: "p".to_owned() }
}

impl Sim {
    fn new(instance: &'static str, uptime: u64, epoch: u64) -> Self {
        let pool = Pool {
            name: "p".to_owned(),
            epoch,
            slots_each: 4,
            replicas: 2,
            ready: 2,
            target: 0.8,
            most: 10,
            ..Pool::default()
        };
        Self { instance, uptime, pool, row: Row::default(), closed: Vec::new() }
    }

    fn with(mut self, queued: u64, in_flight: u64) -> Self {
        (self.pool.queued, self.pool.in_flight) = (queued, in_flight);
        (self.row.queued, self.row.in_flight) = (queued, in_flight);
        self
    }

    fn says(&self) -> Snapshot {
        Snapshot {
            format: FORMAT,
            instance: self.instance.to_owned(),
            uptime_ms: self.uptime,
            relative_error: RELATIVE_ERROR,
            names: vec![name()],
            rows: vec![self.row.clone()],
            pools: vec![self.pool.clone()],
            closed: self.closed.clone(),
            open: None,
        }
    }
}

struct World {
    fleet: Fleet,
    now: Instant,
}

impl World {
    fn of(addresses: &[&str]) -> Self {
        let now = Instant::now() + Duration::from_secs(1 << 20);
        let mut world = Self { fleet: Fleet::new(now), now };
        world.discovered(addresses);
        world
    }

    fn discovered(&mut self, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        self.fleet.discovered(&addresses, self.now);
    }

    fn hear(&mut self, address: &str, sim: &Sim) {
        self.fleet.hear(address, &sim.says().encode_to_vec(), self.now).expect("a snapshot");
    }

    /// These are heard once a second, for so long.
    fn pass(&mut self, seconds: u64, heard: &mut [(&str, &mut Sim)]) {
        for _ in 0..seconds {
            self.now += SECOND;
            for (address, sim) in heard.iter_mut() {
                sim.uptime += 1_000;
                let sim = sim.clone();
                self.hear(address, &sim);
            }
        }
    }

    fn answer(&self) -> Answer {
        self.fleet.answer("p", self.now)
    }

    fn wanted(&self) -> f64 {
        match self.answer() {
            Answer::Known { wanted, .. } => wanted,
            other => panic!("{other:?}"),
        }
    }

    fn is_blind(&self) -> bool {
        matches!(self.answer(), Answer::Blind(_))
    }

    fn is_active(&self) -> bool {
        matches!(self.answer(), Answer::Known { is_active: true, .. })
    }
}

#[test]
fn a_gateway_that_dies_with_demand_on_it_is_held_and_then_is_not() {
    let mut world = World::of(&["a", "b"]);
    let (mut a, mut b) = (Sim::new("a", 0, 0).with(8, 8), Sim::new("b", 0, 0).with(0, 8));
    world.pass(30, &mut [("a", &mut a), ("b", &mut b)]);
    assert_eq!(world.wanted(), 7.5);
    world.pass(59, &mut [("b", &mut b)]);
    assert_eq!(world.wanted(), 7.5, "held");
    assert_eq!(world.fleet.sources(world.now), Sources { discovered: 2, fresh: 1, held: 1, silent: 0 });
    world.pass(20, &mut [("b", &mut b)]);
    assert_eq!(world.wanted(), 2.5);
}

#[test]
fn half_of_them_unreachable_is_no_reason_to_ask_for_less_within_a_minute() {
    let all = ["a", "b", "c", "d"];
    let mut world = World::of(&all);
    let mut sims: Vec<Sim> = all.iter().map(|name| Sim::new(name, 0, 0).with(0, 4)).collect();
    let mut heard: Vec<_> = all.iter().copied().zip(&mut sims).collect();
    world.pass(20, &mut heard);
    let before = world.wanted();
    world.pass(50, &mut heard[..2]);
    assert_eq!(world.wanted(), before);
    assert_eq!(world.fleet.sources(world.now).held, 2);
}

#[test]
fn with_nothing_fresh_or_held_nothing_is_known() {
    let mut world = World::of(&["a"]);
    let mut a = Sim::new("a", 0, 0).with(0, 4);
    assert!(world.is_blind());
    world.pass(5, &mut [("a", &mut a)]);
    world.now += HOLD - SECOND;
    assert!(!world.is_blind());
    world.now += SECOND;
    assert!(world.is_blind(), "never 0");
}

#[test]
fn a_scaler_that_restarts_asks_for_no_less_until_it_has_heard_all() {
    let mut world = World::of(&["a", "b"]);
    let mut a = Sim::new("a", 3_600_000, 0);
    world.pass(10, &mut [("a", &mut a)]);
    assert!(world.is_blind(), "b may have all the work");
    let mut busy = a.clone().with(12, 8);
    busy.pool.oldest_ms = 2_000;
    world.pass(1, &mut [("a", &mut busy)]);
    assert_eq!(world.wanted(), 6.25, "more than there are is asked for all the same");
    world.pass(1, &mut [("a", &mut a)]);
    world.hear("b", &Sim::new("b", 1, 0));
    assert!(!world.is_blind(), "all were heard");

    let mut world = World::of(&["a", "b"]);
    world.pass(60, &mut [("a", &mut a)]);
    assert!(world.is_blind(), "a minute since the first word is not over");
    world.pass(1, &mut [("a", &mut a)]);
    assert!(!world.is_blind(), "b is waited for no longer");
}

#[test]
fn the_first_one_back_after_nobody_was_heard_is_not_the_whole_fleet() {
    let mut world = World::of(&["a", "b", "c"]);
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| {
        let mut sim = Sim::new(name, 0, 0).with(0, 8);
        (sim.pool.ready, sim.pool.replicas) = (8, 8);
        sim
    });
    let silence = HOLD + 10 * SECOND;
    world.pass(70, &mut [("a", &mut a), ("b", &mut b), ("c", &mut c)]);
    assert_eq!(world.wanted(), 7.5);
    world.now += silence;
    assert!(world.is_blind());
    world.pass(1, &mut [("a", &mut a)]);
    assert!(world.is_blind(), "b and c may have work");
    let mut busy = a.clone().with(40, 8);
    busy.pool.oldest_ms = 2_000;
    world.pass(1, &mut [("a", &mut busy)]);
    assert_eq!(world.wanted(), 10.0, "more than there are is asked for all the same");
    world.pass(20, &mut [("a", &mut a), ("b", &mut b)]);
    assert!(world.is_blind(), "c may have work");
    world.pass(20, &mut [("a", &mut a), ("b", &mut b), ("c", &mut c)]);
    assert_eq!(world.wanted(), 7.5, "all were heard");

    world.now += silence;
    world.pass(60, &mut [("a", &mut a)]);
    assert!(world.is_blind());
    world.pass(1, &mut [("a", &mut a)]);
    assert_eq!(world.wanted(), 2.5, "the others are waited for no longer");
}

#[test]
fn one_fresh_gateway_with_demand_wakes_a_pool() {
    let mut world = World::of(&["a", "b", "c"]);
    let mut a = Sim::new("a", 3_600_000, 0).with(1, 0);
    (a.pool.ready, a.pool.replicas) = (0, 0);
    world.pass(1, &mut [("a", &mut a)]);
    assert!(world.is_active() && world.wanted() > 0.0);
}

#[test]
fn of_two_owners_the_one_with_the_higher_epoch_is_right() {
    let mut world = World::of(&["a", "b"]);
    let (mut a, mut b) = (Sim::new("a", 0, 5).with(0, 8), Sim::new("b", 0, 6).with(0, 2));
    world.pass(20, &mut [("a", &mut a), ("b", &mut b)]);
    assert_eq!(world.wanted(), 0.625);
    // And a dead one's word does not count beside that of who has taken over.
    world.pass(30, &mut [("b", &mut b)]);
    assert_eq!(world.wanted(), 0.625);
}

#[test]
fn a_gateway_that_starts_anew_has_none_of_its_old_work_and_counts_from_zero() {
    let mut world = World::of(&["a"]);
    world.now += SECOND; // it begins after us
    let mut a = Sim::new("a", 0, 0).with(0, 8);
    a.row.arrivals = 100;
    world.pass(5, &mut [("a", &mut a)]);
    a.row.arrivals = 120;
    world.pass(1, &mut [("a", &mut a)]);
    let mut again = Sim::new("a2", 0, 0);
    again.row.arrivals = 7;
    world.pass(20, &mut [("a", &mut again)]);
    assert_eq!(world.wanted(), 0.0);
    let counted: Vec<u64> = world.fleet.counted().map(|(_, counted)| counted.arrivals).collect();
    assert_eq!(counted, [127], "100 of a gateway that began with us, 20 more, 7 of the next");
}

#[test]
fn work_that_comes_and_goes_between_two_words_keeps_the_pool_active_for_a_while() {
    let mut world = World::of(&["a"]);
    let mut a = Sim::new("a", 3_600_000, 0);
    a.row.arrivals = 10;
    world.pass(3, &mut [("a", &mut a)]);
    assert!(!world.is_active(), "what was counted before anybody listened is nothing new");
    a.row.arrivals = 11;
    world.pass(1, &mut [("a", &mut a)]);
    assert!(world.is_active());
    world.pass(LINGER.as_secs() - 1, &mut [("a", &mut a)]);
    assert!(world.is_active());
    world.pass(2, &mut [("a", &mut a)]);
    assert!(!world.is_active());
}

#[test]
fn a_pool_that_nobody_has_is_named_once_all_were_heard() {
    let mut world = World::of(&["a", "b"]);
    let (mut a, mut b) = (Sim::new("a", 0, 0), Sim::new("b", 0, 0));
    world.pass(2, &mut [("a", &mut a)]);
    assert!(matches!(world.fleet.answer("q", world.now), Answer::Blind(_)));
    world.pass(2, &mut [("a", &mut a), ("b", &mut b)]);
    let Answer::NoSuchPool(why) = world.fleet.answer("q", world.now) else { panic!("there is none") };
    assert!(why.contains("there are: p"), "{why}");
}

#[test]
fn of_many_pools_in_any_order_each_has_what_was_said_of_it() {
    let mut world = World::of(&["a", "b"]);
    for (gateway, names) in [("a", ["r", "p", "pp", "q"]), ("b", ["q", "q", "", "r"])] {
        let mut said = Sim::new(gateway, 0, 0).says();
        let pools = names.iter().zip(1..);
        said.pools =
            pools.map(|(name, queued)| Pool { name: (*name).to_owned(), queued, ..said.pools[0].clone() }).collect();
        world.fleet.hear(gateway, &said.encode_to_vec(), world.now).expect("a snapshot");
    }
    let queued = ["", "p", "pp", "q", "r", "s"].map(|name| world.fleet.pool(name, world.now).map(|stand| stand.queued));
    assert_eq!(queued, [Some(3), Some(2), Some(3), Some(7), Some(5), None]);
    assert_eq!(world.fleet.pools(world.now), ["", "p", "pp", "q", "r"]);
}

#[test]
fn garbage_changes_nothing_but_that_it_is_told() {
    let mut world = World::of(&["a"]);
    let mut a = Sim::new("a", 0, 0).with(0, 8);
    world.pass(20, &mut [("a", &mut a)]);
    let old = Snapshot { format: FORMAT + 1, ..a.says() };
    for garbage in [b"<html>".to_vec(), Vec::new(), old.encode_to_vec()] {
        assert!(world.fleet.hear("a", &garbage, world.now).is_err());
    }
    assert_eq!(world.wanted(), 2.5);
    assert!(world.fleet.gateways(world.now).any(|(_, _, failing)| failing.is_some()));
}

#[test]
fn sums_of_numbers_that_cannot_be_end_at_the_largest() {
    let most = u64::MAX;
    let row =
        Row { arrivals: most, ended: most, errors: most, input_tokens: most, output_tokens: most, ..Row::default() };
    let mut world = World::of(&["a", "b"]);
    world.now += SECOND; // they begin after us, so that all of it counts
    let [mut a, mut b] = ["a", "b"].map(|name| {
        let mut sim = Sim { row: row.clone(), ..Sim::new(name, 0, 0) }.with(most, most);
        let rows = vec![SliceRow { ended: most, errors: most, ..SliceRow::default() }];
        sim.closed = [0, 1].map(|number| Slice { number, end_ms: 0, length_ms: 0, rows: rows.clone() }).into();
        sim
    });
    world.pass(3, &mut [("a", &mut a), ("b", &mut b)]);
    assert!(world.is_active());
    assert_eq!(world.wanted(), 10.0, "no more than there may be");
    let sums: Vec<Counted> = world.fleet.counted().map(|(_, counted)| counted.clone()).collect();
    let all = Counted { arrivals: most, ended: most, errors: most, input_tokens: most, output_tokens: most };
    assert_eq!(sums, [all]);
    let measured = world.fleet.measured(None, world.now).remove(&name()).expect("it was measured");
    assert_eq!((measured.ended, measured.errors), (most, most));
}

fn slice(number: u64, end_ms: u64, values: &[u64]) -> Slice {
    let mut all = Gathered::default();
    values.iter().for_each(|value| all.observe(*value));
    let row = SliceRow { ended: values.len() as u64, ttft: Some(all.sketch()), ..SliceRow::default() };
    Slice { number, end_ms, length_ms: 10_000, rows: vec![row] }
}

#[test]
fn clocks_an_hour_apart_are_no_matter_and_slices_count_once_and_for_a_minute() {
    let mut world = World::of(&["a", "b"]);
    let (mut a, mut b) = (Sim::new("a", 3_600_000, 0), Sim::new("b", 11_000, 0));
    a.closed = vec![slice(359, 3_600_000, &[1_000; 50])];
    b.closed = vec![slice(0, 10_000, &[9_000; 50])];
    world.pass(3, &mut [("a", &mut a), ("b", &mut b)]);
    let ttft = |world: &World| world.fleet.measured(None, world.now).remove(&name()).map(|of| of.ttft);
    let all = ttft(&world).unwrap();
    assert_eq!(all.count(), 100, "each slice once, however often it was told");
    assert!(
        (all.quantile(0.99).unwrap() - 9_000.0).abs() < 90.0 && (all.quantile(0.5).unwrap() - 1_000.0).abs() < 10.0
    );
    world.pass(70, &mut [("a", &mut a), ("b", &mut b)]);
    assert!(ttft(&world).is_none_or(|all| all.count() == 0), "it is over a minute old");
}

#[test]
fn the_guard_asks_for_more_while_requests_wait() {
    let mut world = World::of(&["a"]);
    let mut a = Sim::new("a", 60_000, 0).with(1, 4);
    a.row.slo_ttft_ms = 500;
    a.closed = vec![slice(5, 60_000, &[750_000; 30])];
    world.pass(1, &mut [("a", &mut a)]);
    assert!((world.wanted() - 3.0).abs() < 0.02, "{}", world.wanted());
    let mut a = a.with(0, 4);
    world.pass(1, &mut [("a", &mut a)]);
    assert!(world.wanted() < 2.0);
}

proptest! {
    /// Whatever gateways do, two scalers that hear the same say the same, and none says 0 of what it does not know.
    #[test]
    fn the_same_history_has_the_same_answer(steps in prop::collection::vec((0..3usize, 0..90u64, 0..9u64, 0..9u64, 0..4u64), 1..40)) {
        let addresses = ["a", "b", "c"];
        let (mut one, mut two) = (World::of(&addresses), World::of(&addresses));
        two.now = one.now;
        two.fleet = Fleet::new(one.now);
        two.discovered(&addresses);
        let mut last = [None::<Instant>; 3];
        for (who, wait, queued, in_flight, epoch) in steps {
            for world in [&mut one, &mut two] {
                world.now += Duration::from_secs(wait);
                world.hear(addresses[who], &Sim::new("x", 1, epoch).with(queued, in_flight));
            }
            last[who] = Some(one.now);
            prop_assert_eq!(one.answer(), two.answer());
            one.now += Duration::from_secs(wait);
            two.now = one.now;
            let counts = last.iter().flatten().any(|at| one.now - *at < HOLD);
            prop_assert_eq!(one.is_blind() && counts, counts && !matches!(one.answer(), Answer::Known { .. }));
            prop_assert!(counts || one.is_blind());
        }
    }
}
