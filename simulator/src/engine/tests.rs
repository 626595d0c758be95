use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
/// What a load takes in the stories below.
const LOAD: Duration = Duration::from_millis(100);

fn machine(slots: usize, loaded_max: usize, queue_max: usize) -> Machine {
    Machine {
        slots,
        loaded_max,
        queue_max,
        load_fixed: LOAD,
        load_bytes_per_second: 0,
        prompt_token_time: MS,
        token_time: MS,
        ..Machine::default()
    }
}

fn job(base: &str, adapter: Option<&str>) -> Job {
    Job {
        model: base.into(),
        base: base.into(),
        adapter: adapter.map(Into::into),
        options: RunnerOptions::default(),
        weight_bytes: 1,
        one_slot: false,
        keep_alive: None,
        work: Work::Generate { prompt: Bytes::from_static(b"abcd"), tokens: 3 },
    }
}

/// An engine, and all it has said.
struct Story {
    engine: Engine,
    now: Time,
    said: Vec<Outcome>,
}

impl Story {
    fn new(machine: Machine) -> Self {
        Story { engine: Engine::new(machine), now: Time::ZERO, said: Vec::new() }
    }

    fn on(&mut self, event: Event) {
        self.engine.on(self.now, event, &mut self.said);
    }

    fn arrive(&mut self, id: Id, job: Job) {
        self.on(Event::Arrive(id, job));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.on(Event::Tick);
    }

    fn finished(&self) -> Vec<Id> {
        self.timings().into_iter().map(|(id, _)| id).collect()
    }

    fn timings(&self) -> Vec<(Id, Timing)> {
        self.said.iter().filter_map(|o| if let Outcome::Finished(id, t) = o { Some((*id, *t)) } else { None }).collect()
    }

    fn loaded(&self) -> Vec<String> {
        self.engine.residents(self.now).iter().map(|r| r.model.to_string()).collect()
    }
}

#[test]
fn the_first_request_pays_for_the_load_and_the_next_does_not() {
    let mut story = Story::new(machine(1, 3, 512));
    story.arrive(1, job("m", None));
    story.pass(Duration::from_secs(1));
    story.arrive(2, job("m", None));
    story.pass(Duration::from_secs(1));
    let [(1, first), (2, second)] = story.timings()[..] else { panic!("{:?}", story.said) };
    assert_eq!((first.load, first.prompt_eval, first.eval, first.total), (LOAD, MS, 2 * MS, LOAD + 3 * MS));
    assert_eq!((second.load, first.tokens), (Duration::ZERO, 3));
    let tokens = story.said.iter().filter(|o| **o == Outcome::Token(1)).count();
    assert_eq!(tokens, 3);
}

#[test]
fn two_adapters_on_one_base_reload_each_time_and_another_base_stays() {
    let mut story = Story::new(machine(1, 3, 512));
    story.arrive(0, job("other", None));
    story.pass(Duration::from_secs(1));
    for (id, adapter) in [(1, "a"), (2, "b"), (3, "a")] {
        story.arrive(id, job("m", Some(adapter)));
        story.pass(Duration::from_secs(1));
        assert_eq!(story.timings().last().unwrap().1.load, LOAD);
    }
    assert_eq!(story.loaded().len(), 2);
}

#[test]
fn a_changed_context_length_reloads_and_a_copied_name_does_not() {
    let mut story = Story::new(machine(1, 3, 512));
    let mut wide = job("m", None);
    wide.options.num_ctx = 8192;
    let copied = Job { model: "copy".into(), ..job("m", None) };
    for (id, job) in [(1, job("m", None)), (2, copied), (3, wide), (4, job("m", None))] {
        story.arrive(id, job);
        story.pass(Duration::from_secs(1));
    }
    let loads: Vec<_> = story.timings().iter().map(|(_, t)| t.load).collect();
    assert_eq!(loads, [LOAD, Duration::ZERO, LOAD, LOAD]);
}

#[test]
fn a_burst_over_a_short_queue_is_refused_as_the_real_one_refuses() {
    // Seen on the real 0.11.4 with OLLAMA_MAX_QUEUE=4: 24 at once over 4 adapters, 5 answered, 19 refused.
    let mut story = Story::new(machine(1, 3, 4));
    for id in 0..24 {
        story.arrive(id, job("m", Some(["a", "b", "c", "d"][id as usize % 4])));
    }
    assert_eq!(story.said.iter().filter(|o| matches!(o, Outcome::Busy(_))).count(), 19);
    story.pass(Duration::from_secs(60));
    assert_eq!(story.finished(), [0, 1, 2, 3, 4]);
}

#[test]
fn waiters_of_a_loaded_model_have_no_bound() {
    let mut story = Story::new(machine(1, 3, 4));
    story.arrive(0, job("m", None));
    story.pass(LOAD);
    for id in 1..1000 {
        story.arrive(id, job("m", None));
    }
    story.pass(Duration::from_secs(3600));
    assert_eq!(story.finished(), Vec::from_iter(0..1000));
}

#[test]
fn a_load_dies_with_its_requester_and_begins_again_for_the_next() {
    let mut story = Story::new(machine(1, 3, 512));
    story.arrive(1, job("m", None));
    story.pass(80 * MS);
    story.arrive(2, job("m", None));
    story.on(Event::Depart(1));
    story.pass(80 * MS);
    assert!(story.said.is_empty());
    story.pass(LOAD);
    let [(2, timing)] = story.timings()[..] else { panic!("{:?}", story.said) };
    assert_eq!(timing.load, LOAD);
    // Nobody waits for this one.
    story.arrive(3, job("n", None));
    story.pass(80 * MS);
    story.on(Event::Depart(3));
    assert_eq!(story.loaded(), ["m"]);
}

#[test]
fn idle_runners_go_first_and_then_the_shortest_keep_alive() {
    let keeping =
        |base: &str, secs| Job { keep_alive: Some(KeepAlive::For(Duration::from_secs(secs))), ..job(base, None) };
    let mut story = Story::new(machine(1, 2, 512));
    for (id, job) in [(1, keeping("long", 900)), (2, keeping("short", 60)), (3, keeping("new", 300))] {
        story.arrive(id, job);
        story.pass(Duration::from_secs(1));
    }
    assert_eq!(story.loaded(), ["long", "new"]);
    // The one with the shortest keep-alive is busy, so the idle one goes.
    story.arrive(4, Job { work: Work::Generate { prompt: Bytes::new(), tokens: 10_000 }, ..keeping("new", 300) });
    story.arrive(5, keeping("last", 10));
    story.pass(Duration::from_secs(1));
    assert_eq!(story.loaded(), ["new", "last"]);
}

#[test]
fn keep_alive_zero_unloads_when_idle_and_forever_never() {
    let mut story = Story::new(machine(1, 3, 512));
    story.arrive(1, Job { keep_alive: Some(KeepAlive::For(Duration::ZERO)), ..job("m", None) });
    story.arrive(2, Job { keep_alive: Some(KeepAlive::Forever), ..job("n", None) });
    story.pass(Duration::from_secs(86_400));
    assert_eq!((story.loaded(), story.engine.next_deadline()), (vec!["n".to_owned()], None));
    story.on(Event::Expire("n".into()));
    assert!(story.loaded().is_empty());
}

#[test]
fn what_a_slot_holds_of_a_prompt_is_not_read_again() {
    let turn = |text: &'static str| Job {
        work: Work::Generate { prompt: Bytes::from_static(text.as_bytes()), tokens: 1 },
        ..job("m", None)
    };
    let mut story = Story::new(machine(1, 3, 512));
    for (id, text) in [(1, "0123456701234567"), (2, "01234567012345678888"), (3, "different text..")] {
        story.arrive(id, turn(text));
        story.pass(Duration::from_secs(1));
    }
    let read: Vec<_> = story.timings().iter().map(|(_, t)| t.prompt_eval).collect();
    assert_eq!(read, [4 * MS, MS, 4 * MS]);
}

/// A step of a random life: who comes or leaves, and how much time passes before.
#[derive(Debug, Clone)]
enum Step {
    Arrive { base: u8, adapter: Option<u8>, wide: bool, keep_alive_ms: Option<u16>, tokens: u8, is_load: bool },
    Depart { which: prop::sample::Index },
    Expire { base: u8 },
}

fn steps() -> impl Strategy<Value = Vec<(u16, Step)>> {
    let arrive = (
        0..3u8,
        prop::option::of(0..2u8),
        prop::bool::weighted(0.1),
        prop::option::of(0..400u16),
        0..5u8,
        any::<bool>(),
    )
        .prop_map(|(base, adapter, wide, keep_alive_ms, tokens, is_load)| Step::Arrive {
            base,
            adapter,
            wide,
            keep_alive_ms,
            tokens,
            is_load: is_load && tokens == 0,
        });
    let depart = any::<prop::sample::Index>().prop_map(|which| Step::Depart { which });
    let expire = (0..3u8).prop_map(|base| Step::Expire { base });
    prop::collection::vec((0..80u16, prop_oneof![6 => arrive, 2 => depart, 1 => expire]), 1..60)
}

fn about(outcome: &Outcome) -> Id {
    let (Outcome::Busy(id) | Outcome::Token(id) | Outcome::Finished(id, _)) = outcome;
    *id
}

fn random_job(step: &Step) -> Option<Job> {
    let Step::Arrive { base, adapter, wide, keep_alive_ms, tokens, is_load } = step else { return None };
    let mut job = job(&format!("m{base}"), adapter.map(|a| ["a", "b"][usize::from(a)]));
    job.options.num_ctx = if *wide { 8192 } else { 4096 };
    job.keep_alive = keep_alive_ms.map(|ms| KeepAlive::For(MS * u32::from(ms)));
    job.work = match is_load {
        true => Work::Load,
        false => Work::Generate { prompt: Bytes::from_static(b"abcdefgh"), tokens: (*tokens).into() },
    };
    Some(job)
}

proptest! {
    #[test]
    fn nothing_is_lost_doubled_or_over_its_bound(
        (slots, loaded_max, queue_max) in (1..4usize, 1..4usize, 0..6usize),
        steps in steps(),
    ) {
        let mut story = Story::new(machine(slots, loaded_max, queue_max));
        let mut asked: BTreeMap<Id, u32> = BTreeMap::new();
        let mut left = BTreeSet::new();
        let mut heard = 0;
        for (id, (wait, step)) in (0..).zip(&steps) {
            story.pass(MS * u32::from(*wait));
            prop_assert!(story.said[heard..].iter().all(|o| !left.contains(&about(o))), "nothing is said of who left");
            heard = story.said.len();
            match (step, random_job(step)) {
                (_, Some(job)) => {
                    asked.insert(id, if let Work::Generate { tokens, .. } = job.work { tokens } else { 0 });
                    story.arrive(id, job);
                }
                (Step::Depart { which }, _) if !asked.is_empty() => {
                    let gone = *which.get(&Vec::from_iter(asked.keys().copied()));
                    story.on(Event::Depart(gone));
                    left.insert(gone);
                }
                (Step::Expire { base }, _) => story.on(Event::Expire(format!("m{base}").into())),
                _ => {}
            }
            prop_assert!(story.said[heard..].iter().all(|o| !left.contains(&about(o))), "nothing is said of who left");
            heard = story.said.len();
            let engine = &story.engine;
            prop_assert!(engine.runners.len() <= loaded_max);
            prop_assert!(engine.pending.len() <= queue_max + 1);
            prop_assert!(engine.runners.iter().filter(|r| r.state != State::Ready).count() <= 1, "one load at a time");
            let bases: BTreeSet<_> = engine.runners.iter().map(|r| r.base.clone()).collect();
            prop_assert_eq!(bases.len(), engine.runners.len(), "a base is loaded once");
            for runner in &engine.runners {
                let (active, slots) = runner.load();
                prop_assert!(active <= slots);
            }
        }
        story.pass(Duration::from_secs(3600));
        prop_assert_eq!(story.engine.in_flight(), 0, "every request ends");
        for (id, tokens) in &asked {
            let ends = story.said.iter().filter(|o| matches!(o, Outcome::Busy(i) | Outcome::Finished(i, _) if i == id)).count();
            prop_assert!(ends == 1 || (ends == 0 && left.contains(id)), "request {} ended {} times", id, ends);
            let written = story.said.iter().filter(|o| **o == Outcome::Token(*id)).count();
            let is_finished = story.timings().iter().any(|(i, _)| i == id);
            prop_assert!(!is_finished || written == *tokens as usize);
        }
        for (_, timing) in story.timings() {
            prop_assert!(timing.total >= timing.load + timing.prompt_eval + timing.eval);
        }
    }

    #[test]
    fn first_come_first_served(adapters in prop::collection::vec(0..3usize, 1..40), gaps in prop::collection::vec(0..300u32, 40)) {
        let mut story = Story::new(machine(1, 1, 512));
        for (id, (adapter, gap)) in (0..).zip(adapters.iter().zip(&gaps)) {
            story.pass(MS * *gap);
            story.arrive(id, job("m", Some(["a", "b", "c"][*adapter])));
        }
        story.pass(Duration::from_secs(3600));
        prop_assert_eq!(story.finished(), Vec::from_iter(0..adapters.len() as Id));
    }
}
