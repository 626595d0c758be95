//! Where groups go that could go anywhere.

use super::*;
use crate::rendezvous;

/// The replicas, by place in the list, that each group is loaded on first, where these are the numbers of replicas and groups.
fn placed(runners: [RunnerId; 3], groups: [GroupId; 4]) -> [usize; 4] {
    let keyed = |what: &str, at: usize| rendezvous::key(&format!("{what} {at}"));
    let keys = Arc::new(Keys {
        runners: runners.iter().enumerate().map(|(at, number)| (*number, keyed("replica", at))).collect(),
        groups: groups.iter().enumerate().map(|(at, number)| (*number, keyed("group", at))).collect(),
    });
    groups.map(|group| {
        let mut world = World::new(1);
        world.keys = keys.clone();
        world.table(0x7f);
        world.ask(group);
        let runner = world.loading.keys().next().expect("it is loaded");
        runners.iter().position(|known| known == runner).expect("it is one of them")
    })
}

#[test]
fn a_group_goes_to_the_same_replica_whatever_their_numbers() {
    let before = placed([0, 1, 2], [0, 1, 2, 3]);
    assert!(before.iter().any(|at| *at != before[0]), "they are spread: {before:?}");
    assert_eq!(placed([2, 0, 1], [3, 1, 0, 2]), before);
    assert_eq!(placed([1, 2, 0], [0, 3, 2, 1]), before);
}

/// A replica that is to load cannot be reached.
fn unreached(world: &mut World) {
    let (runner, group) = world.loading.pop_first().expect("one loads");
    world.on(Event::Loaded(SlotId { runner, group }, Err(Code::NoReplica)));
}

#[test]
fn that_replicas_cannot_be_reached_says_nothing_of_the_weights() {
    let mut world = World::new(1);
    world.ask(0);
    unreached(&mut world);
    unreached(&mut world);
    assert_eq!((world.loads, world.refused.len()), (3, 0), "there is a third");
    world.load_ends(0, true);
    assert_eq!(world.running.len(), 1);
    let mut world = World::new(1);
    world.ask(0);
    for _ in 0..4 {
        unreached(&mut world);
        world.pass(1_000);
    }
    assert_eq!(world.refused, [(0, Code::NoReplica)], "none of them can be");
}
