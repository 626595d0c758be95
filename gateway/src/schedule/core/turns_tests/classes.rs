//! Turns of those whom somebody awaits, and of bulk.

use super::*;

/// The groups that a runner went to, one after the other, each until nobody waits for it.
fn turns_of(world: &mut World) -> Vec<GroupId> {
    let mut turns = Vec::new();
    while !world.waiting.is_empty() || !world.running.is_empty() {
        if let Some(group) = world.loading.values().next().copied() {
            turns.push(group);
            world.load_ends(0, true);
        }
        while !world.running.is_empty() {
            world.done(0);
        }
    }
    turns
}

#[test]
fn late_bulk_goes_after_whom_somebody_awaits_and_before_other_bulk() {
    let mut world = alone();
    let wish = |group, class| Wish { group, class, tenant: 0, exclude: None };
    world.ask(0);
    world.load_ends(0, true);
    for (group, class) in [(1, Priority::Bulk), (2, Priority::Bulk)] {
        world.ask_as(wish(group, class), None);
        world.pass(1_000);
    }
    world.pass(60_000);
    world.ask_as(wish(3, Priority::Normal), None);
    assert_eq!(turns_of(&mut world), [3, 1, 2]);
}

#[test]
fn who_has_a_runner_wants_no_other_for_the_bulk_behind_him() {
    let mut world = World::new(1);
    world.table(0b10);
    let wish = |class| Wish { group: 0, class, tenant: 0, exclude: None };
    for group in [0, 2] {
        world.ask(group);
        world.load_ends(0, true);
    }
    world.ask_as(wish(Priority::Normal), None);
    (0..200).for_each(|_| world.ask_as(wish(Priority::Bulk), None));
    world.ask(1);
    let other = world.running.iter().position(|(slot, _)| slot.group == 2).unwrap();
    world.done(other);
    assert_eq!(world.loading.values().collect::<Vec<_>>(), [&1]);
}

#[test]
fn bulk_that_waits_is_not_before_whom_somebody_awaits_and_refuses_him_nothing() {
    let mut world = alone();
    let wish = |group, class| Wish { group, class, tenant: 0, exclude: None };
    world.ask(0);
    world.load_ends(0, true);
    for group in [1, 2] {
        (0..50).for_each(|_| world.ask_as(wish(group, Priority::Bulk), None));
    }
    // Its turn is next: what runs ends, its load takes a second, and it is in time.
    world.ask_as(wish(3, Priority::Interactive), Some(Duration::from_secs(5)));
    assert!(world.refused.is_empty());
    world.done(0);
    assert_eq!(world.loading.get(&0), Some(&3));
}

#[test]
fn late_bulk_takes_no_replica_from_those_who_await_their_answers() {
    let mut world = alone();
    let wish = |group, class| Wish { group, class, tenant: 0, exclude: None };
    world.ask(0);
    world.load_ends(0, true);
    (0..100).for_each(|_| world.ask_as(wish(0, Priority::Normal), None));
    world.ask_as(wish(1, Priority::Bulk), None);
    for _ in 0..100 {
        world.pass(500);
        world.done(0);
    }
    assert!(world.loading.is_empty(), "the quantum is over, and those of the group that somebody awaits go on");
    world.done(0);
    world.pass(1);
    assert!(world.loading.is_empty(), "it is used without pause");
    world.pass(120_000);
    assert_eq!(world.loading.get(&0), Some(&1), "until it is not");
}

#[test]
fn who_is_late_takes_the_replica_from_late_bulk() {
    let mut world = alone();
    let wish = |group, class| Wish { group, class, tenant: 0, exclude: None };
    world.ask(0);
    world.load_ends(0, true);
    (0..50).for_each(|_| world.ask_as(wish(1, Priority::Bulk), None));
    world.pass(60_000);
    world.done(0);
    world.load_ends(0, true);
    world.ask_as(wish(2, Priority::Normal), None);
    world.pass(1_001); // it has served as long as a load takes
    world.done(0);
    assert_eq!(world.loading.get(&0), Some(&2));
}

/// A fast group and a slow one, each with a runner of its own.
#[test]
fn who_comes_anew_to_a_slow_group_is_not_behind_all_who_wait_there() {
    let mut world = World::new(1);
    let ask = |world: &mut World, group, tenant| {
        world.ask_as(Wish { group, class: Priority::Normal, tenant, exclude: None }, None);
        world.next - 1
    };
    // A flood of tenant 1 waits for the slow group, and tenant 0's many are served by the fast one.
    for _ in 0..20 {
        ask(&mut world, 1, 1);
    }
    world.load_ends(0, true);
    for _ in 0..100 {
        ask(&mut world, 0, 0);
        world.load_ends(0, true);
        let fast = world.running.iter().position(|(slot, _)| slot.group == 0);
        fast.into_iter().for_each(|at| world.done(at));
    }
    let new = ask(&mut world, 1, 2);
    let before = |world: &World| world.waiting.keys().filter(|waiter| **waiter < new).count();
    let waited = before(&world);
    while world.waiting.contains_key(&new) {
        let slow = world.running.iter().position(|(slot, _)| slot.group == 1).expect("it goes on");
        world.done(slow);
    }
    assert!(waited - before(&world) <= 2, "one before it, and perhaps one beside it: {waited}, {}", before(&world));
}
