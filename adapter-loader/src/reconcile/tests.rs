//! The pure half, against a world in which every step does what it is for.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tutti_api::{AdapterState, Config, ProbeRequest, Reason};

use super::plan::*;
use super::*;
use crate::board::Board;
use crate::engine::Ollama;
use crate::identity::{Making, identity, of};
use crate::source::{Object, Version};
use crate::store::{Fetched, Judgement, Made, Store};
use crate::wanted::{Wanted, wanted};

const PATH: &str = "risk/v1";

fn path() -> AdapterPath {
    PATH.parse().unwrap()
}

fn making(base: u8) -> Making {
    Making { base: of(&[base]), merged: None }
}

fn listed(content: Option<u8>) -> Seen {
    let objects = content.map(|content| Object {
        key: "manifest.json".to_owned(),
        size: 9,
        version: Version::Etag(content.to_string()),
    });
    let objects: Vec<Object> = objects.into_iter().collect();
    let digest = of(format!("{objects:?}").as_bytes());
    Seen { digest, objects: Ok(objects.into()), since: Instant::now() }
}

/// Weights of this content, for this base, out of a list of that.
fn made(content: u8, base: u8, seen: u8) -> Made {
    let manifest = of(&[content, 1]);
    let identity = identity(&manifest, &making(base));
    Made {
        identity,
        engine_name: path().engine_name(&identity),
        manifest,
        seen: listed(Some(seen)).digest,
        base: of(&[base]),
        merged: false,
        blob: of(&[content, base]),
        bytes: 5,
        on_disk: true,
        probe: None,
        proven: None,
        made: 1,
    }
}

fn fetched(content: u8, complete: bool) -> Fetched {
    let folder = content.to_string();
    Fetched { manifest: of(&[content, 1]), seen: listed(Some(content)).digest, folder, bytes: 5, complete }
}

/// A path, an object store and an engine.
#[derive(Clone, Debug)]
struct World {
    record: Record,
    content: Option<u8>,
    source_up: bool,
    engine: EngineSeen,
    base: u8,
    wanted: Option<Wanted>,
    leased: bool,
}

impl World {
    fn new() -> Self {
        let engine = EngineSeen { up: true, down: None, making: Some(making(0)), has: Some(HashMap::new()) };
        let wanted = Some(Wanted { path: path(), expected: None, pinned: true });
        Self { record: Record::new(path()), content: Some(1), source_up: true, engine, base: 0, wanted, leased: false }
    }

    fn source(&self) -> SourceSeen {
        if !self.source_up {
            return SourceSeen::default();
        }
        SourceSeen { at: [(path(), listed(self.content))].into(), ..SourceSeen::default() }
    }

    fn with<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        look(&View {
            wanted: self.wanted.as_ref(),
            record: &self.record,
            source: &self.source(),
            engine: &self.engine,
            running: None,
            retry: None,
            settings: of(b"settings"),
            leased: &|_| self.leased,
            stays_until: None,
            now: Instant::now(),
        })
    }

    fn state(&self) -> Option<AdapterState> {
        self.with(state)
    }

    fn phase(&self) -> Option<(Phase, Option<Reason>)> {
        self.state().map(|state| (state.phase, state.reason.map(|why| why.reason)))
    }

    /// Does what a step does, or refuses.
    fn step(&mut self, need: Need) -> Result<(), Reason> {
        let content = self.content.ok_or(Reason::NotFound)?;
        match need {
            Need::Nothing => {}
            Need::Source => {
                let fresh = made(content, self.base, content);
                let expected = self.wanted.as_ref().and_then(|wanted| wanted.expected);
                if expected.is_some_and(|expected| expected != fresh.manifest) {
                    return Err(Reason::DigestRefused);
                }
                if let Some(served) = &mut self.record.served {
                    if served.manifest != fresh.manifest {
                        return Err(Reason::RevisionChanged);
                    }
                    served.seen = fresh.seen;
                    self.record.quarantine = None;
                    let served = &self.record.served;
                    if served
                        .as_ref()
                        .is_some_and(|made| self.engine.is_current(made) && (made.on_disk || self.engine.serves(made)))
                    {
                        return Ok(());
                    }
                }
                self.record.candidate = None;
                self.record.fetched = Some(fetched(content, true));
            }
            Need::Make => {
                self.record.fetched = None;
                self.record.candidate = Some(made(content, self.base, content));
            }
            Need::Register => {
                let mut candidate = to_register(&self.record, &self.source(), &self.engine).cloned().unwrap();
                self.record.candidate = None;
                candidate.proven = Some("model".to_owned());
                let has = self.engine.has.as_mut().unwrap();
                has.insert(candidate.engine_name.clone(), "model".to_owned());
                if let Some(before) = self.record.served.take()
                    && before.engine_name != candidate.engine_name
                {
                    self.record.leaving.push(before.engine_name);
                }
                self.record.served = Some(candidate);
            }
        }
        Ok(())
    }

    /// Goes on until nothing is to be done; yields how many decisions that took.
    fn settle(&mut self) -> usize {
        for decisions in 0..10 {
            match self.with(decide) {
                Decision::Rest | Decision::Until(_) => return decisions,
                Decision::Forget => {
                    self.record = Record::new(path());
                    return decisions;
                }
                Decision::Retire(names) => {
                    let has = self.engine.has.as_mut().unwrap();
                    names.iter().for_each(|name| drop(has.remove(name)));
                    self.record.leaving.retain(|name| !names.contains(name));
                    let gone = self.record.served.take_if(|made| names.contains(&made.engine_name));
                    let gone = gone.map(|made| Made { proven: None, ..made });
                    self.record.candidate = self.record.candidate.take().or(gone);
                }
                Decision::Bring => {
                    let mut steps = 0;
                    loop {
                        let need = need(&self.record, &self.source(), &self.engine);
                        if need == Need::Nothing {
                            break;
                        }
                        if let Err(reason) = self.step(need) {
                            self.judge(reason);
                            break;
                        }
                        steps += 1;
                        assert!(steps < 8, "it goes in circles: {self:?}");
                    }
                }
            }
        }
        panic!("it does not come to rest: {self:?}");
    }

    fn judge(&mut self, reason: Reason) {
        self.record.quarantine = Some(Judgement {
            why: Quarantine { reason, message: String::new() },
            seen: listed(self.content).digest,
            expected: self.wanted.as_ref().and_then(|wanted| wanted.expected),
            base: Some(of(&[self.base])),
            settings: of(b"settings"),
        });
        self.record.candidate = None;
        self.record.fetched = None;
    }

    fn serves(&self) -> Option<&Made> {
        self.record.served.as_ref().filter(|made| self.engine.serves(made))
    }
}

#[test]
fn it_comes_from_nothing_to_ready_and_then_rests() {
    let mut world = World::new();
    assert_eq!(world.phase(), Some((Phase::Pending, None)));
    assert_eq!((world.settle(), world.phase()), (1, Some((Phase::Ready, None))));
    assert_eq!(world.settle(), 0, "nothing has changed");
}

#[test]
fn changed_content_does_not_serve_and_what_served_does() {
    let mut world = World::new();
    world.settle();
    let serves = world.serves().unwrap().engine_name.clone();
    world.content = Some(2);
    assert_eq!(world.settle(), 1);
    assert_eq!(world.phase(), Some((Phase::Ready, Some(Reason::RevisionChanged))));
    assert_eq!(world.serves().unwrap().engine_name, serves);
    assert_eq!(world.settle(), 0, "it is not fetched again");
    // The engine loses it: what served is registered again, out of the disk.
    world.engine.has = Some(HashMap::new());
    assert_eq!(world.settle(), 1);
    assert_eq!(world.serves().unwrap().engine_name, serves);
    world.content = Some(1);
    world.settle();
    assert_eq!(world.phase(), Some((Phase::Ready, None)), "put back");
}

#[test]
fn what_is_gone_from_its_source_serves_on_and_is_registered_again_out_of_the_disk() {
    let mut world = World::new();
    world.settle();
    world.content = None;
    assert_eq!((world.settle(), world.phase()), (0, Some((Phase::Ready, None))));
    world.engine.has = Some(HashMap::new());
    let need = need(&world.record, &world.source(), &world.engine);
    assert_eq!((need, world.with(decide)), (Need::Register, Decision::Bring));
}

#[test]
fn a_digest_that_a_model_insists_on_is_the_only_one_that_serves() {
    let mut world = World::new();
    world.wanted.as_mut().unwrap().expected = Some(of(b"another"));
    world.settle();
    assert_eq!(world.phase(), Some((Phase::Quarantined, Some(Reason::DigestRefused))));
    world.wanted.as_mut().unwrap().expected = None;
    world.settle();
    assert_eq!(world.phase(), Some((Phase::Ready, None)), "judged anew");
    world.wanted.as_mut().unwrap().expected = Some(of(b"another"));
    assert_eq!(world.settle(), 0);
    assert_eq!(world.phase(), Some((Phase::Quarantined, Some(Reason::DigestRefused))));
}

#[test]
fn another_base_has_another_name_and_the_old_one_leaves_after_its_leases() {
    let mut world = World::new();
    world.settle();
    let before = world.serves().unwrap().engine_name.clone();
    (world.base, world.engine.making, world.leased) = (7, Some(making(7)), true);
    world.settle();
    let after = world.serves().unwrap().engine_name.clone();
    assert_ne!(before, after);
    assert!(world.engine.has.as_ref().unwrap().contains_key(&before), "a gateway may still ask for it");
    world.leased = false;
    world.settle();
    assert!(!world.engine.has.as_ref().unwrap().contains_key(&before));
    assert_eq!(world.serves().unwrap().engine_name, after);
}

#[test]
fn what_nobody_wants_goes_after_its_leases_and_comes_back_from_the_disk() {
    let mut world = World::new();
    world.settle();
    let wanted = world.wanted.take();
    world.leased = true;
    assert_eq!((world.settle(), world.phase()), (0, Some((Phase::Retiring, None))));
    world.leased = false;
    assert_eq!((world.settle(), world.phase()), (1, None));
    (world.wanted, world.source_up) = (wanted, false);
    assert_eq!((world.settle(), world.phase()), (1, Some((Phase::Ready, None))), "out of the disk");
}

#[test]
fn what_is_on_its_way_out_serves_nobody_who_wants_it_again() {
    let mut world = World::new();
    world.settle();
    let name = world.record.served.as_ref().map(|made| made.engine_name.clone());
    let phase = |engine_name| {
        let running = Running { phase: Phase::Retiring, probe: None, engine_name, digest: None };
        world.with(|view| state(&View { running: Some(&running), ..*view })).map(|state| state.phase)
    };
    assert_eq!(phase(name), Some(Phase::Retiring));
    assert_eq!(phase(None), Some(Phase::Ready), "it is another name that leaves");
}

#[test]
fn whoever_does_not_answer_is_waited_for_by_name() {
    let down = |reason| Some(Quarantine { reason, message: "gone".to_owned() });
    let mut world = World::new();
    world.content = None;
    assert_eq!((world.settle(), world.phase()), (0, Some((Phase::Quarantined, Some(Reason::NotFound)))));
    let mut world = World::new();
    world.source_up = false;
    assert_eq!((world.settle(), world.phase()), (0, Some((Phase::Pending, None))));
    let mut world = World::new();
    world.record.fetched = Some(fetched(1, true));
    world.engine = EngineSeen { down: down(Reason::EngineUnavailable), ..EngineSeen::default() };
    assert_eq!((world.settle(), world.phase()), (0, Some((Phase::Pending, Some(Reason::EngineUnavailable)))));
}

/// What any crash may have left, of any contents and bases.
fn any_world() -> impl Strategy<Value = World> {
    let made = || proptest::option::of((0..3_u8, 0..2_u8, 0..3_u8, any::<bool>(), any::<bool>()));
    let fetched = proptest::option::of((0..3_u8, any::<bool>()));
    (made(), made(), fetched, any::<[bool; 3]>(), 0..3_u8, 0..2_u8).prop_map(
        |(candidate, served, came, [has_served, has_candidate, leaving], content, base)| {
            let mut world = World::new();
            (world.content, world.base, world.engine.making) = (Some(content), base, Some(making(base)));
            let of = |(content, base, seen, proven, on_disk): (u8, u8, u8, bool, bool)| {
                let proven = proven.then(|| "model".to_owned());
                // Only what a list has shown was ever made of it.
                Made { proven, on_disk, ..self::made(content, base, if seen == content { seen } else { content }) }
            };
            let has = world.engine.has.as_mut().unwrap();
            if let Some(made) = candidate.map(of) {
                if has_candidate && made.proven.is_some() {
                    has.insert(made.engine_name.clone(), "model".to_owned());
                }
                world.record.candidate = Some(made);
            }
            if let Some(made) = served.map(of) {
                let made = Made { proven: Some("model".to_owned()), ..made };
                if has_served {
                    has.insert(made.engine_name.clone(), "model".to_owned());
                }
                world.record.served = Some(made);
            }
            world.record.fetched = came.map(|(content, complete)| self::fetched(content, complete));
            if leaving {
                world.record.leaving.push("risk:old".parse().unwrap());
            }
            world
        },
    )
}

proptest! {
    #[test]
    fn whatever_a_crash_has_left_the_next_start_converges(mut world in any_world()) {
        let before = world.record.served.clone();
        world.settle();
        let content = world.content.unwrap();
        let manifest = of(&[content, 1]);
        match (&before, world.serves()) {
            // Nothing served before, or the same: what lies there serves, for the base that there is.
            (None, serves) => prop_assert_eq!(&serves.unwrap().manifest, &manifest),
            (Some(before), serves) if before.manifest == manifest => {
                prop_assert_eq!(&serves.unwrap().identity, &identity(&manifest, &making(world.base)));
            }
            // What served may serve on; other content under its path never does.
            (Some(before), serves) => {
                prop_assert!(serves.is_none_or(|serves| serves.manifest == before.manifest));
                let judged = world.record.quarantine.as_ref().map(|judged| judged.why.reason);
                prop_assert_eq!(judged, Some(Reason::RevisionChanged));
            }
        }
        prop_assert!(world.record.leaving.iter().all(|name| !world.engine.has.as_ref().unwrap().contains_key(name)));
        prop_assert_eq!(world.settle(), 0, "and then it rests");
    }

    #[test]
    fn what_nobody_wants_leaves_nothing_in_the_engine(mut world in any_world()) {
        world.wanted = None;
        let made = world.record.served.iter().chain(&world.record.candidate);
        let names: Vec<EngineName> = made.map(|made| made.engine_name.clone()).collect();
        world.settle();
        prop_assert!(names.iter().all(|name| !world.engine.has.as_ref().unwrap().contains_key(name)));
        prop_assert!(world.record.served.is_none() && world.record.leaving.is_empty());
    }

    #[test]
    fn with_an_engine_that_does_not_answer_nothing_is_asked_of_it(mut world in any_world(), wanted: bool) {
        world.engine.up = false;
        world.engine.down = Some(Quarantine { reason: Reason::EngineUnavailable, message: String::new() });
        if !wanted {
            world.wanted = None;
        }
        match world.with(decide) {
            Decision::Bring => prop_assert_eq!(need(&world.record, &world.source(), &world.engine), Need::Source),
            Decision::Retire(names) => prop_assert!(false, "{:?}", names),
            Decision::Rest | Decision::Until(_) | Decision::Forget => {}
        }
    }
}

#[test]
fn what_is_to_take_the_place_of_what_serves_is_asked_of_the_gateway_too() {
    let mut world = World::new();
    world.settle();
    let (serves, new) =
        (world.serves().unwrap().engine_name.clone(), "risk:v1-aaaaaaaaaaaa".parse::<EngineName>().unwrap());
    let staging_name = "tutti-staging-p/risk:v1-aaaaaaaaaaaa".parse().unwrap();
    let probe = ProbeRequest { engine_name: new.clone(), staging_name, base: None, request: serde_json::json!({}) };
    let running = Running { phase: Phase::Probing, probe: Some(probe), engine_name: Some(new.clone()), digest: None };
    let state = world.with(|view| state(&View { running: Some(&running), ..*view })).unwrap();
    assert_eq!((state.phase, state.engine_name), (Phase::Ready, Some(serves.to_string())));
    assert_eq!(state.probe.map(|probe| probe.engine_name), Some(new));
}

#[test]
fn a_pause_is_kept_and_a_retirement_is_put_off() {
    let world = World::new();
    let now = Instant::now();
    let later = now + Duration::from_secs(5);
    let retry =
        Retry { why: Quarantine { reason: Reason::SourceUnavailable, message: String::new() }, at: later, failures: 1 };
    let decided = world.with(|view| decide(&View { retry: Some(&retry), now, ..*view }));
    assert_eq!(decided, Decision::Until(later));
    let mut world = World::new();
    world.settle();
    world.wanted = None;
    assert_eq!(world.with(|view| decide(&View { stays_until: Some(later), now, ..*view })), Decision::Until(later));
}

/// How many of twenty adapters are worked on at once.
fn worked_on(serves: bool) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let board = Arc::new(Board::new(Instant::now() + Duration::from_secs(600)));
    if serves {
        board.resume();
    }
    let (store, (rooms, room)) = (Store::open(folder.path()).unwrap(), mpsc::channel(1));
    let engine = Ollama::new(&"http://127.0.0.1:1".parse().unwrap(), "p");
    let tools = Arc::new(Tools::new(store, board, engine, rooms));
    let revision =
        |number: u32| json!({ "name": format!("v{number}"), "pool": "p", "adapter": format!("risk/v{number}") });
    let config = json!({
        "pools": [{ "name": "p", "base": "b", "adapters": { "from": folder.path() } }],
        "models": [{ "name": "risk", "revisions": (0..20).map(revision).collect::<Vec<_>>() }],
    });
    let wants = wanted(&serde_json::from_value::<Config>(config).unwrap(), "p").unwrap();
    let source = Source::open(&wants.spec).unwrap();
    let at = wants.adapters.iter().map(|wanted| (wanted.path.clone(), listed(Some(1)))).collect();
    let (_tell, changes) = watch::channel(Arc::new(wants));
    let mut reconciler = Reconciler::new(tools, source, changes, room, Duration::ZERO).unwrap();
    reconciler.listed.at = at;
    reconciler.turn();
    reconciler.entries.values().filter(|entry| entry.job.is_some()).count()
}

#[tokio::test]
async fn beside_an_engine_that_serves_fewer_are_made_ready_at_once() {
    assert_eq!((worked_on(false), worked_on(true)), (WORKING, WORKING_BESIDE));
}
