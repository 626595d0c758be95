//! What holds of a release whatever happens, in whatever order, with the driver restarted anywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use tutti_api::{Config, StrategySpec, WHOLE};
use tutti_control_plane::{Command, Driver, How, Ready, RevisionHeard, Seen, State};

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    /// Time goes on. Unit: milliseconds.
    Wait(u64),
    /// Requests end, of a revision, well or not.
    Requests(usize, u64, bool),
    /// So many replicas can serve a revision.
    Ready(usize, u32),
    Command(Command),
    /// The configuration wants this revision, with a strategy or at once.
    Configure(usize, bool),
    /// The driver ends, and another goes on by what was kept.
    Restart,
}

const NAMES: [&str; 3] = ["v1", "v2", "v3"];

fn strategy(number: usize) -> StrategySpec {
    let text = [
        "{ canary: { steps: [{ setWeight: 10% }, { pause: 5s }, { setWeight: 60% }, { pause: until-promoted }], analysis: { interval: 1s, count: 1, minSamples: 30 } } }",
        "{ canary: { steps: [{ setWeight: 50% }, { pause: 1s }] }, onLostReplicas: rollback }",
        "{ blueGreen: { prePromotionAnalysis: { interval: 1s, count: 1, minSamples: 10 } } }",
        "{ blueGreen: { autoPromotionEnabled: false, postPromotionAnalysis: { interval: 1s, count: 2, minSamples: 20 } } }",
    ][number % 4];
    config(0, Some(text)).models[0].traffic.clone().expect("it is right").strategy.expect("it is right")
}

fn config(wanted: usize, strategy: Option<&str>) -> Config {
    let strategy = strategy.map(|text| format!(", strategy: {text}")).unwrap_or_default();
    let revisions: Vec<String> =
        NAMES.iter().map(|name| format!("{{ name: {name}, pool: p, upstream: {name} }}")).collect();
    let yaml = format!(
        "pools: [{{ name: p, endpoints: [{{ url: 'http://h:1' }}, {{ url: 'http://h:2' }}] }}]\nmodels: [{{ name: m, revisions: [{}], traffic: {{ revision: {}{strategy} }} }}]",
        revisions.join(", "),
        NAMES[wanted]
    );
    tutti_api::load(&yaml, "t", []).expect("it is right")
}

fn event() -> impl Strategy<Value = Event> {
    let how = prop_oneof![
        Just(How::Configured),
        Just(How::Now),
        (0usize..4).prop_map(|number| How::By(Box::new(strategy(number)))),
    ];
    let command = prop_oneof![
        4 => (0usize..3, how, any::<bool>()).prop_map(|(to, how, force)| Command::To {
            revision: NAMES[to].to_owned(), how, mirror: None, force,
        }),
        2 => (prop::option::of(0usize..3), any::<bool>()).prop_map(|(to, force)| Command::Rollback {
            to: to.map(|to| NAMES[to].to_owned()), force,
        }),
        2 => Just(Command::Resume),
        1 => Just(Command::Freeze),
    ];
    prop_oneof![
        6 => (0u64..4_000).prop_map(Event::Wait),
        6 => (0usize..3, 0u64..80, any::<bool>()).prop_map(|(of, count, good)| Event::Requests(of, count, good)),
        2 => (0usize..3, 0u32..3).prop_map(|(of, replicas)| Event::Ready(of, replicas)),
        4 => command.prop_map(Event::Command),
        1 => (0usize..3, any::<bool>()).prop_map(|(wanted, by)| Event::Configure(wanted, by)),
        1 => Just(Event::Restart),
    ]
}

/// The world around a driver.
struct World {
    driver: Driver,
    config: Config,
    heard: [(Seen, u32); 3],
    now: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            driver: Driver::new("a", State::default()),
            config: config(0, None),
            heard: std::array::from_fn(|_| (Seen::default(), 2)),
            now: 1_000_000,
        };
        world.configure();
        world
    }

    fn configure(&mut self) {
        self.driver.configure(&self.config.models, &self.config.pools, self.now);
    }

    fn hear(&mut self) {
        let of = |(seen, replicas): &(Seen, u32)| {
            let ready = Ready { pool: "p".to_owned(), replicas: *replicas, slots: *replicas };
            RevisionHeard { seen: seen.clone(), ready }
        };
        let told: BTreeMap<_, _> =
            NAMES.iter().zip(&self.heard).map(|(name, heard)| ((*name).to_owned(), of(heard))).collect();
        self.driver.hear("g", [("m".to_owned(), told)].into());
    }

    fn on(&mut self, event: &Event) {
        match event {
            Event::Wait(millis) => self.now += millis,
            Event::Requests(of, count, good) => {
                let seen = &mut self.heard[*of].0;
                (0..*count).for_each(|_| if *good { seen.good(Duration::from_millis(100), None) } else { seen.bad() });
            }
            Event::Ready(of, replicas) => self.heard[*of].1 = *replicas,
            Event::Configure(wanted, by) => {
                let text = "{ canary: { steps: [{ setWeight: 5% }, { pause: 2s }] } }";
                self.config = config(*wanted, by.then_some(text));
                self.configure();
            }
            Event::Restart => {
                let kept = serde_json::to_string(self.driver.state()).expect("it is right");
                self.driver = Driver::new("b", serde_json::from_str(&kept).expect("it is right"));
                self.configure();
            }
            Event::Command(command) => {
                self.hear();
                let before = self.driver.state().clone();
                if self.driver.command("m", command, "me", self.now).is_err() {
                    assert_eq!(*self.driver.state(), before, "what is refused changes nothing");
                }
            }
        }
        self.hear();
        self.driver.tick(self.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_weights_are_a_whole_and_every_change_has_a_new_generation_and_a_reason(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        for event in &events {
            let (before, word) = (world.driver.release("m").unwrap().clone(), world.driver.word());
            world.on(event);
            let (release, now) = (world.driver.release("m").unwrap(), world.driver.word());
            let sum: u64 = release.weights.iter().map(|part| u64::from(part.weight)).sum();
            prop_assert_eq!(sum, u64::from(WHOLE));
            let is_meant = |name: &str| name == release.current || release.candidate.as_ref().is_some_and(|of| of.revision == name);
            prop_assert!(release.weights.iter().all(|part| is_meant(&part.revision)), "{:?}", release);
            prop_assert!(now.age() >= word.age());
            if now.models != word.models {
                prop_assert!(now.generation > word.generation, "{:?}", event);
            }
            if release.weights != before.weights {
                prop_assert!(release.history.back() != before.history.back(), "a reason for {:?}", release.weights);
            }
            if let Some(candidate) = &release.candidate {
                prop_assert!(candidate.revision != release.current);
                prop_assert!(candidate.failed == 0, "a failure ends it, as nothing else is configured");
            }
        }
    }

    #[test]
    fn what_is_frozen_stays(events in prop::collection::vec(event(), 1..30), after in prop::collection::vec((0u64..4_000, 0usize..3, 0u64..80, any::<bool>()), 1..30)) {
        let mut world = World::new();
        events.iter().for_each(|event| world.on(event));
        world.on(&Event::Command(Command::Freeze));
        let frozen = world.driver.word().models;
        for (wait, of, count, good) in after {
            world.on(&Event::Wait(wait));
            world.on(&Event::Requests(of, count, good));
            prop_assert_eq!(&world.driver.word().models, &frozen);
        }
    }

    /// Whatever was before: with good replicas, good answers and somebody who says so, the revision that is wanted serves.
    #[test]
    fn it_heals(events in prop::collection::vec(event(), 1..40), wanted in 0usize..3) {
        let mut world = World::new();
        events.iter().for_each(|event| world.on(event));
        (0..3).for_each(|of| world.on(&Event::Ready(of, 2)));
        world.on(&Event::Command(Command::Rollback { to: None, force: true }));
        let to = Command::To { revision: NAMES[wanted].to_owned(), how: How::By(Box::new(strategy(0))), mirror: None, force: true };
        world.on(&Event::Command(to));
        for _ in 0..40 {
            (0..3).for_each(|of| world.on(&Event::Requests(of, 50, true)));
            world.on(&Event::Wait(2_000));
            world.on(&Event::Command(Command::Resume));
        }
        let release = world.driver.release("m").unwrap();
        prop_assert_eq!((&*release.current, release.candidate.is_none()), (NAMES[wanted], true));
    }

    /// A restart loses nothing but the evidence of the moment: it says the same, in a later term.
    #[test]
    fn a_restart_changes_nothing(events in prop::collection::vec(event(), 1..40)) {
        let mut world = World::new();
        events.iter().for_each(|event| world.on(event));
        let before = world.driver.word();
        let kept = serde_json::to_string(world.driver.state()).unwrap();
        let mut driver = Driver::new("b", serde_json::from_str(&kept).unwrap());
        driver.configure(&world.config.models, &world.config.pools, world.now);
        let word = driver.word();
        prop_assert_eq!(word.models, before.models);
        prop_assert_eq!((word.term, word.generation), (before.term + 1, before.generation));
    }
}
