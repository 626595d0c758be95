//! By whose word it is known what a runner has, when that is doubted, and how long a load may take.

use super::super::Source;
use super::*;

const SLOT: SlotId = SlotId { runner: 0, group: 0 };

/// A request that was sent so long ago says that it had waited for its weights.
fn waited(world: &mut World, told: u64, ago: u64) {
    let sent = world.now - Duration::from_millis(ago);
    let waited = Waited { slot: SLOT, beside: [0, 1].into(), told: Duration::from_millis(told), sent };
    world.on(Event::Waited(waited));
}

/// A runner that has loaded a group in a second, which was a while ago.
fn loaded() -> World {
    let mut world = alone();
    world.ask(0);
    world.load_ends(0, true);
    world.done(0);
    world.pass(10_000);
    world
}

fn source(world: &World) -> Option<Source> {
    world.core.runners_told(world.now)[0].source
}

#[test]
fn who_waited_for_weights_that_were_there_has_the_replica_asked() {
    let mut world = loaded();
    waited(&mut world, 499, 600);
    assert_eq!(world.asked, [], "half a load is none");
    waited(&mut world, 500, 600);
    assert_eq!(world.asked, [SLOT]);
    assert!(matches!(source(&world), Some(Source::Request(at)) if at == world.now), "it has brought them again");
    for ago in [600, 1, 0] {
        waited(&mut world, 900, ago);
    }
    assert_eq!(world.asked.len(), 1, "others had waited for the same load");
    world.pass(1000);
    waited(&mut world, 900, 950);
    assert_eq!(world.asked.len(), 2, "it happens again");
    assert_eq!(world.home(0), [0], "that is for the replica to say");
    let why = world.core.decisions().filter(|told| matches!(told.why, Why::Reloaded(_))).count();
    assert_eq!(why, 2);
}

#[test]
fn our_own_loads_cast_no_doubt() {
    let mut world = loaded();
    world.ask(1);
    waited(&mut world, 900, 5_000);
    assert_eq!(world.asked, [], "one is under way");
    world.load_ends(0, true);
    waited(&mut world, 900, 5_000);
    assert_eq!(world.asked, [], "it was sent before that ended");
    world.done(0);
    let mut world = World::new(1);
    world.ask(0);
    world.load_ends(0, true);
    world.pass(10_000);
    world.ask(1);
    assert_eq!(world.loading.keys().next(), Some(&1), "a runner beside it loads: who wants this one waits");
    waited(&mut world, 900, 5_000);
    assert_eq!(world.asked, []);
}

#[test]
fn where_no_load_was_measured_it_is_doubted_from_what_can_be_no_queue() {
    let mut world = alone();
    world.pass(10);
    world.ask(0);
    let slot = SlotId { runner: 7, group: 9 };
    for (told, asked) in [(249, 0), (250, 1)] {
        let told = Duration::from_millis(told);
        let sent = world.now - Duration::from_millis(1);
        world.on(Event::Waited(Waited { slot, beside: [7].into(), told, sent }));
        assert_eq!(world.asked.len(), asked);
    }
}

#[test]
fn it_is_told_by_whose_word_it_is_known_what_a_runner_has() {
    let mut world = alone();
    assert_eq!(source(&world), None);
    world.pass(10);
    let asked = world.now;
    world.on(Event::Resident(0, Vec::new(), asked));
    assert_eq!(source(&world), Some(Source::Replica(asked)), "nothing, by its own word");
    world.ask(0);
    assert_eq!(source(&world), None, "it loads");
    world.pass(1000);
    world.load_ends(0, true);
    assert_eq!(source(&world), Some(Source::Load(world.now)));
    world.on(Event::Resident(0, vec![0], asked));
    assert!(matches!(source(&world), Some(Source::Load(_))), "that was said before");
    world.done(0);
    world.pass(1000);
    let asked = world.now;
    world.on(Event::Resident(0, vec![0], asked));
    assert_eq!(source(&world), Some(Source::Replica(asked)));
    world.pass(1000);
    world.on(Event::Resident(0, vec![2], world.now));
    assert_eq!((source(&world), world.home(2)), (Some(Source::Replica(world.now)), vec![0]));
}

#[test]
fn a_load_is_given_up_when_it_takes_many_times_as_long_as_others() {
    let mut world = alone();
    world.ask(0);
    assert_eq!(world.within, Duration::from_secs(300), "nothing is known yet");
    world.load_ends(0, true);
    world.done(0);
    world.ask(1);
    assert_eq!(world.within, Duration::from_secs(300), "a second, and no less than five minutes for it");
    let mut world = alone();
    world.ask(0);
    world.loading.clear();
    world.on(Event::Loaded(SLOT, Ok(Duration::from_secs(20))));
    world.done(0);
    world.pass(60_000);
    world.ask(1);
    assert_eq!(world.within, Duration::from_secs(400));
}
