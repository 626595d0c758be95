//! How long anybody waits at most, and what a gateway finds out late.

use super::*;

/// What a load, a request and a turn take, in the world of these tests. Unit: milliseconds.
const LOAD: u64 = 1_000;
const SERVICE: u64 = 100;
const QUANTUM: u64 = 2_000;
const MAX_WAIT: u64 = 4_000;

proptest! {
    /// One runner with one slot. Whoever comes, and when: nobody waits longer than `maxWait` and then, for each turn that his
    /// own group needs for those before him, a cycle of all groups: what runs, a load and a quantum (docs/batching.md).
    #[test]
    fn nobody_waits_longer_than_is_said(
        asks in prop::collection::vec((0..GROUPS, 0..400u64), 1..120),
        deal in any::<u64>(),
    ) {
        let mut world = alone();
        let start = world.now;
        let mut asks: VecDeque<(GroupId, u64)> = asks.into();
        let mut pause = asks.front().map_or(0, |ask| ask.1) + deal % 50;
        let (mut since, mut longest): (BTreeMap<WaiterId, (Instant, u64)>, _) = (BTreeMap::new(), 0);
        // A load or a request that runs: when it ends.
        let mut ends: Option<Instant> = None;
        while !asks.is_empty() || !world.waiting.is_empty() || !world.running.is_empty() {
            prop_assert!(world.now < start + Duration::from_secs(600), "it never ends");
            world.pass(10);
            pause = pause.saturating_sub(10);
            if pause == 0 && let Some((group, _)) = asks.pop_front() {
                let before = world.waiting.values().filter(|wish| wish.group == group).count() as u64;
                let waiter = world.next;
                world.ask(group);
                since.insert(waiter, (world.now, before));
                pause = asks.front().map_or(0, |ask| ask.1);
            }
            let is_busy = !world.loading.is_empty() || !world.running.is_empty();
            match ends {
                None if is_busy => {
                    let takes = if world.loading.is_empty() { SERVICE } else { LOAD };
                    ends = Some(world.now + Duration::from_millis(takes));
                }
                Some(at) if at <= world.now => {
                    ends = None;
                    if world.loading.is_empty() { world.done(0) } else { world.load_ends(0, true) }
                }
                _ => {}
            }
            let now = world.now;
            since.retain(|waiter, (began, before)| {
                let waits = world.waiting.contains_key(waiter);
                if !waits {
                    let waited = (now - *began).as_millis() as u64;
                    let cycle = u64::from(GROUPS) * (SERVICE + LOAD + QUANTUM + 40);
                    let turns = 1 + *before * SERVICE / QUANTUM;
                    longest = longest.max(waited.saturating_sub(MAX_WAIT + turns * cycle));
                }
                waits
            });
        }
        prop_assert_eq!(longest, 0, "longer than is said, by so many milliseconds");
        prop_assert!(world.refused.is_empty());
    }
}

/// Three runners with one slot each, and four groups that always have somebody waiting: a group that was loaded keeps its runner
/// for its quantum, though others wait. One that was not late then gives way to those who are, but not before it was of use
/// for as long as a load takes.
#[test]
fn on_each_of_several_replicas_a_group_keeps_its_quantum() {
    let mut world = World::new(1);
    let start = world.now;
    (0..100).for_each(|_| (0..GROUPS).for_each(|group| world.ask(group)));
    // What each runner has, and since when; when what it does ends.
    let mut has: BTreeMap<RunnerId, (GroupId, Instant)> = BTreeMap::new();
    let mut ends: BTreeMap<RunnerId, Instant> = BTreeMap::new();
    let mut kept = 0;
    while !world.waiting.is_empty() {
        assert!(world.now < start + Duration::from_secs(600), "it never ends");
        world.pass(10);
        for runner in 0..RUNNERS {
            let (now, loading) = (world.now, world.loading.get(&runner).copied());
            if loading.is_some()
                && let Some((group, since)) = has.remove(&runner)
                && world.waiting.values().any(|wish| wish.group == group)
            {
                // From then on all are late when their loads begin.
                let all_late = start + Duration::from_millis(MAX_WAIT + LOAD + 20);
                let least = if since < all_late { LOAD } else { QUANTUM };
                assert!(now - since >= Duration::from_millis(least), "{:?} of {group}", now - since);
                kept += 1;
            }
            let running = world.running.iter().position(|(slot, _)| slot.runner == runner);
            let takes = Duration::from_millis(if loading.is_some() { LOAD } else { SERVICE });
            if loading.is_none() && running.is_none() {
                ends.remove(&runner);
            } else if *ends.entry(runner).or_insert(now + takes) <= now {
                ends.remove(&runner);
                match (loading, running) {
                    (Some(group), _) => {
                        let at = world.loading.keys().position(|other| *other == runner).unwrap();
                        world.load_ends(at, true);
                        has.insert(runner, (group, now));
                    }
                    (None, Some(at)) => world.done(at),
                    (None, None) => {}
                }
            }
        }
    }
    assert!(kept >= 4, "{kept}");
}

#[test]
fn what_is_evicted_as_soon_as_it_is_loaded_is_loaded_again() {
    let mut world = alone();
    for times in 1..=3 {
        world.ask(0);
        world.load_ends(0, true);
        world.done(0);
        world.pass(10);
        world.on(Event::Resident(0, Vec::new(), world.now));
        assert!(world.home(0).is_empty() && world.refused.is_empty());
        assert_eq!(world.loads, times);
    }
}

#[test]
fn a_load_that_comes_too_late_refuses_also_those_behind_others() {
    let mut world = alone();
    world.ask(0);
    world.load_ends(0, true);
    world.ask(1);
    world
        .ask_as(Wish { group: 1, class: Priority::Normal, tenant: 0, exclude: None }, Some(Duration::from_millis(500)));
    assert_eq!(world.refused, [(2, Code::TooLate)]);
}

#[test]
fn one_replica_at_a_time_is_looked_at_for_whether_it_is_idle() {
    let mut world = World::new(1);
    for group in 0..3 {
        world.ask(group);
        world.load_ends(0, true);
        world.done(0);
    }
    assert!(world.views.values().all(|view| !view.closed));
    world.pass(60_000);
    let closed = world.closed;
    world.ask(3);
    assert_eq!(world.closed - closed, 1, "the first is idle: its word is enough");
    assert_eq!(world.loading.len(), 1);
}

#[test]
fn one_long_answer_says_little_of_the_next_ones() {
    let (mut group, now) = (Group::default(), Instant::now());
    let mut serve = |seconds, times| {
        (0..times).for_each(|_| {
            group.served(Served { count: 1, awaited: 1, time: Duration::from_secs(seconds) }, now);
        });
        group.service().expect("it is known").as_secs_f64()
    };
    assert!((0.99..=1.01).contains(&serve(1, 10)));
    assert!(serve(600, 1) < 2.0);
    assert!(serve(10, 20) > 9.0, "what takes longer from now on does");
}
