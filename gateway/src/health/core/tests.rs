//! The core against replicas that fail and answer at random, and by name.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: u16 = 8;
/// The longest ejection, for a replica that is not probed again so soon.
const LONGEST_PROBE: Duration = Duration::from_secs(120);

/// Models by their replicas: slot `10 * model + replica` is the model's on the replica.
const MODELS: [&[ReplicaId]; 4] = [&[0, 1, 2, 3], &[0, 1, 2], &[2, 3], &[1]];

fn policy() -> Policy {
    Policy { failures: 3, ejection: SECOND, share: 0.5, slow_start: 10 * SECOND }
}

fn slot(model: usize, replica: ReplicaId) -> SlotsId {
    10 * model as u64 + replica
}

struct World {
    core: Core,
    now: Instant,
    forces: BTreeMap<SlotsId, Force>,
    ejected: HashSet<Subject>,
    recovering: HashSet<ReplicaId>,
    /// The last ejection of each.
    lengths: HashMap<Subject, Duration>,
}

impl World {
    fn new(policy: Policy) -> Self {
        let mut world = Self {
            core: Core::new(policy),
            now: Instant::now(),
            forces: BTreeMap::new(),
            ejected: HashSet::new(),
            recovering: HashSet::new(),
            lengths: HashMap::new(),
        };
        world.table(policy);
        world
    }

    fn table(&mut self, policy: Policy) {
        let of = |(model, on): (usize, &&[ReplicaId])| {
            on.iter().map(|&replica| Member { slot: slot(model, replica), replica, limit: LIMIT }).collect()
        };
        self.on(Event::Table(policy, MODELS.iter().enumerate().map(of).collect()));
    }

    fn on(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.core.on(event, self.now, &mut actions);
        for action in actions {
            match action {
                Action::Set(slot, force) => {
                    assert_ne!(self.forces.insert(slot, force), Some(force), "said twice");
                }
                Action::Recover(replica) => assert!(self.recovering.insert(replica), "recovered twice"),
                Action::Ejected(subject, ejection) => {
                    assert!(self.ejected.insert(subject), "ejected twice");
                    let length = ejection.until - ejection.since;
                    assert!(ejection.until <= self.now + LONGEST_PROBE && length >= SECOND);
                    self.lengths.insert(subject, length);
                }
                Action::Returned(subject) => assert!(self.ejected.remove(&subject), "returned, and was not ejected"),
            }
        }
        self.check();
    }

    fn force(&self, model: usize, replica: ReplicaId) -> Force {
        self.forces.get(&slot(model, replica)).copied().unwrap_or_default()
    }

    fn suspects(&self, model: usize) -> Vec<ReplicaId> {
        MODELS[model].iter().copied().filter(|replica| self.force(model, *replica).suspect).collect()
    }

    /// What always holds.
    fn check(&self) {
        for (model, on) in MODELS.iter().enumerate() {
            let reachable: Vec<_> = on.iter().filter(|replica| self.core.is_reachable(**replica)).collect();
            let ejected = reachable.iter().filter(|replica| self.force(model, ***replica).suspect).count();
            let half = ((on.len() as f64 * self.core.policy.share) as usize).max(1);
            assert!(ejected <= half, "model {model}: more than half ejected");
            assert!(reachable.is_empty() || ejected < reachable.len(), "model {model}: the last is ejected");
            for replica in *on {
                let force = self.force(model, *replica);
                assert!(self.core.is_reachable(*replica) || force.suspect, "out of reach, and not behind others");
                assert!(force.cap.is_none_or(|cap| (1..LIMIT).contains(&cap)), "{force:?}");
            }
            let room = on.iter().any(|replica| {
                let force = self.force(model, *replica);
                !force.suspect && force.cap.is_none()
            });
            assert!(room || reachable.is_empty(), "model {model}: nobody has all its slots");
        }
    }

    fn fail(&mut self, model: usize, replica: ReplicaId, cause: Cause) {
        self.on(Event::Failed(slot(model, replica), cause, self.now));
    }

    fn answer(&mut self, model: usize, replica: ReplicaId) {
        self.on(Event::Answered(slot(model, replica), self.now));
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(tick) = self.core.next_tick(self.now).filter(|tick| *tick <= until) {
            assert!(tick > self.now, "a tick that changes nothing");
            self.now = tick;
            self.on(Event::Tick);
        }
        self.now = until;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Fail(usize, usize, usize, u64),
    Answer(usize, usize, u64),
    Unanswered(ReplicaId, u64),
    Unreachable(ReplicaId),
    Reached(ReplicaId),
    Pass(u64),
    Table,
}

fn step() -> impl Strategy<Value = Step> {
    let causes = Cause::ALL.len();
    prop_oneof![
        8 => (0..4usize, any::<usize>(), 0..causes, 0..3000u64)
            .prop_map(|(model, at, cause, ago)| Step::Fail(model, at, cause, ago)),
        3 => (0..4usize, any::<usize>(), 0..3000u64).prop_map(|(model, at, ago)| Step::Answer(model, at, ago)),
        1 => (0..4u64, 0..120u64).prop_map(|(replica, seconds)| Step::Unanswered(replica, seconds)),
        1 => (0..4u64).prop_map(Step::Unreachable),
        2 => (0..4u64).prop_map(Step::Reached),
        3 => (0..5000u64).prop_map(Step::Pass),
        1 => Just(Step::Table),
    ]
}

proptest! {
    /// The invariants are those of [`World::check`]; and once nothing fails any more, all is as in the beginning.
    #[test]
    fn at_most_half_never_the_last_and_it_heals(steps in prop::collection::vec(step(), 0..150)) {
        let mut world = World::new(policy());
        let on = |model: usize, at: usize| MODELS[model][at % MODELS[model].len()];
        for step in steps {
            let ago = |world: &World, millis| world.now.checked_sub(Duration::from_millis(millis)).unwrap_or(world.now);
            match step {
                Step::Fail(model, at, cause, millis) => {
                    let sent = ago(&world, millis);
                    world.on(Event::Failed(slot(model, on(model, at)), Cause::ALL[cause], sent));
                }
                Step::Answer(model, at, millis) => {
                    let sent = ago(&world, millis);
                    world.on(Event::Answered(slot(model, on(model, at)), sent));
                }
                Step::Unanswered(replica, seconds) => {
                    world.on(Event::Unanswered(replica, Duration::from_secs(seconds)));
                }
                Step::Unreachable(replica) => world.on(Event::Unreachable(replica)),
                Step::Reached(replica) => {
                    world.recovering.remove(&replica);
                    world.on(Event::Reached(replica));
                }
                Step::Pass(millis) => world.pass(Duration::from_millis(millis)),
                Step::Table => world.table(policy()),
            }
        }
        for replica in 0..4 {
            world.recovering.remove(&replica);
            world.on(Event::Reached(replica));
        }
        world.pass(LONGEST_PROBE);
        for (model, on) in MODELS.iter().enumerate() {
            on.iter().for_each(|replica| world.answer(model, *replica));
        }
        world.pass(11 * SECOND);
        prop_assert!(world.forces.values().all(|force| *force == Force::default()), "{:?}", world.forces);
        prop_assert!(world.ejected.is_empty());
        prop_assert_eq!(world.core.next_tick(world.now), None);
    }

    /// However often one fails again, its ejections get no shorter, and no longer than a minute.
    #[test]
    fn the_back_off_rises_to_its_cap(answers in prop::collection::vec(any::<bool>(), 1..20)) {
        let mut world = World::new(policy());
        let mut last = Duration::ZERO;
        for answers in answers {
            for _ in 0..3 {
                world.fail(0, 0, Cause::Closed);
            }
            let length = world.lengths[&Subject::Replica(0)];
            prop_assert_eq!(length, (last * 2).clamp(SECOND, 60 * SECOND));
            last = length;
            world.pass(length);
            prop_assert!(world.ejected.is_empty(), "its time is over");
            if answers {
                world.answer(0, 0); // it answers once, and fails again before it has all its slots back
            }
        }
    }
}

#[test]
fn a_broken_model_is_ejected_alone() {
    let mut world = World::new(policy());
    for _ in 0..3 {
        world.fail(0, 1, Cause::Error);
        world.answer(1, 1); // what else the replica answers forgives nothing
    }
    assert_eq!(world.ejected, [Subject::Slot(slot(0, 1))].into());
    assert_eq!(world.suspects(0), [1]);
    assert_eq!(world.suspects(1), [0; 0]);
    for _ in 0..3 {
        world.fail(1, 2, Cause::Silent);
    }
    assert_eq!((world.suspects(0), world.suspects(1), world.suspects(2)), (vec![1, 2], vec![2], vec![2]));
}

#[test]
fn an_answer_between_failures_forgives_them() {
    let mut world = World::new(policy());
    for _ in 0..5 {
        world.fail(0, 0, Cause::Busy);
        world.fail(0, 0, Cause::Closed);
        assert!(world.force(0, 0).blamed);
        world.answer(1, 0);
        assert_eq!(world.force(0, 0), Force::default());
    }
    assert!(world.ejected.is_empty());
}

#[test]
fn a_lone_replica_is_neither_ejected_nor_slowed_down() {
    let mut world = World::new(policy());
    for _ in 0..20 {
        world.fail(3, 1, Cause::Error);
        let force = world.force(3, 1);
        assert!(!force.suspect && force.cap.is_none());
        world.pass(SECOND);
    }
    assert!(matches!(world.core.held(Subject::Slot(slot(3, 1))), Some(Held::Ejected { in_force: false, .. })));
    assert!(world.ejected.is_empty());
}

#[test]
fn one_that_is_back_gets_one_slot_until_it_answers_and_then_the_others() {
    let mut world = World::new(policy());
    for _ in 0..3 {
        world.fail(0, 0, Cause::Closed);
    }
    world.pass(SECOND);
    let back = world.force(0, 0);
    assert_eq!((back.suspect, back.cap), (false, Some(1)));
    world.pass(100 * SECOND);
    assert_eq!(world.force(0, 0).cap, Some(1), "nobody has tried it");
    world.answer(0, 0);
    let mut last = 1;
    for _ in 0..9 {
        world.pass(SECOND);
        let cap = world.force(0, 0).cap.unwrap_or(LIMIT);
        assert!(cap >= last && cap < LIMIT, "{cap} after {last}");
        last = cap;
    }
    assert!(last > LIMIT / 2);
    world.pass(SECOND);
    assert_eq!(world.force(0, 0), Force::default());
}

#[test]
fn one_failure_is_enough_for_one_that_has_not_answered_since() {
    let mut world = World::new(policy());
    for _ in 0..3 {
        world.fail(0, 0, Cause::Busy);
    }
    world.pass(SECOND);
    world.fail(0, 0, Cause::Busy);
    assert_eq!(world.lengths[&Subject::Replica(0)], 2 * SECOND);
}

#[test]
fn what_was_sent_before_an_ejection_changes_nothing_of_it() {
    let mut world = World::new(policy());
    let sent = world.now;
    world.now += SECOND;
    for _ in 0..3 {
        world.fail(0, 0, Cause::Busy);
    }
    world.on(Event::Answered(slot(0, 0), sent));
    assert_eq!(world.suspects(0), [0], "it was busy after that");
    world.pass(SECOND);
    world.on(Event::Failed(slot(0, 0), Cause::Silent, sent));
    assert_eq!(world.suspects(0), [0; 0], "a request of long ago has run out of time");
    world.answer(0, 0);
    assert!(!world.force(0, 0).blamed);

    let sent = world.now;
    world.now += SECOND;
    for _ in 0..3 {
        world.fail(0, 1, Cause::Silent);
    }
    world.on(Event::Answered(slot(0, 1), sent));
    assert_eq!(world.suspects(0), [0; 0], "it is silent no more");
}

#[test]
fn one_that_gives_a_probe_no_token_is_ejected_until_it_answers_anything() {
    let mut world = World::new(policy());
    let sent = world.now;
    world.now += SECOND;
    world.on(Event::Unanswered(0, 5 * SECOND));
    assert_eq!((world.suspects(0), world.suspects(1)), (vec![0], vec![0]), "once is enough");
    for _ in 0..10 {
        world.pass(4 * SECOND);
        assert_eq!(world.suspects(0), [0], "until the next probe is over");
        world.on(Event::Unanswered(0, 5 * SECOND));
    }
    world.on(Event::Answered(slot(0, 0), sent));
    assert_eq!(world.force(0, 0), Force::default(), "it was only slow");

    world.on(Event::Unanswered(0, 5 * SECOND));
    world.pass(4 * SECOND);
    world.answer(0, 0); // the next probe
    assert_eq!((world.suspects(0).len(), world.force(0, 0).cap), (0, Some(1)), "it comes back bit by bit");
    world.on(Event::Unanswered(1, 5 * SECOND));
    world.pass(6 * SECOND);
    assert_eq!(world.suspects(0), [0; 0], "nobody could probe it: requests do");
}

#[test]
fn one_that_cannot_be_reached_is_behind_the_others_whatever_else() {
    let mut world = World::new(policy());
    for replica in [0, 1, 2] {
        world.on(Event::Unreachable(replica));
        world.on(Event::Unreachable(replica));
    }
    for _ in 0..3 {
        world.fail(0, 3, Cause::Closed);
    }
    assert_eq!(world.suspects(0), [0, 1, 2], "3 fails, and is the last that can be reached");
    world.on(Event::Reached(1));
    assert_eq!(world.suspects(0), [0, 2, 3]);
    for _ in 0..3 {
        world.fail(0, 1, Cause::Closed);
    }
    assert_eq!(world.suspects(0), [0, 2], "both that can be reached fail");
    world.answer(0, 1);
    assert_eq!(world.suspects(0), [0, 2, 3]);
    assert_eq!(world.force(0, 1).cap, None, "nobody else is well");
    world.answer(0, 3);
    world.pass(11 * SECOND);
    world.on(Event::Reached(0));
    assert_eq!(world.force(0, 0).cap, Some(1), "others are");
}

#[test]
fn a_share_of_none_ejects_nobody() {
    let mut world = World::new(Policy { share: 0.0, ..policy() });
    for _ in 0..9 {
        world.fail(0, 0, Cause::Closed);
    }
    assert_eq!(world.suspects(0), [0; 0]);
}

#[test]
fn no_slow_start_is_none() {
    let mut world = World::new(Policy { slow_start: Duration::ZERO, ..policy() });
    for _ in 0..3 {
        world.fail(0, 0, Cause::Closed);
    }
    world.pass(SECOND);
    assert_eq!(world.force(0, 0).cap, Some(1));
    world.answer(0, 0);
    assert_eq!(world.force(0, 0), Force::default());
}

#[test]
fn slots_that_a_table_leaves_out_are_as_new_when_they_are_named_again() {
    let mut world = World::new(policy());
    for _ in 0..3 {
        world.fail(0, 0, Cause::Closed);
    }
    world.on(Event::Table(policy(), Vec::new()));
    assert!(world.forces.values().all(|force| *force == Force::default()));
    world.table(policy());
    assert_eq!(world.suspects(0), [0; 0]);
}
