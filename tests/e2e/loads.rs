//! Loads that fail, hang or are of no use, and what replicas have in memory by their own word: before simulated Ollamas.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Model, Running, Scope, Seen};
use tutti_tests::{Client, PATIENCE, Tutti, eventually, pool, quick, simulator_with};

/// What a load takes.
const LOAD: Duration = Duration::from_millis(100);
/// The same of models of their own: so long that an answer which tells of it is not taken for one that waited in a queue.
const LONG_LOAD: Duration = Duration::from_millis(300);

fn replica(models: Vec<Model>, loaded_max: usize, load_fixed: Duration) -> Running {
    let machine = Machine { load_fixed, loaded_max, ..Machine::instant() };
    simulator_with(Config { models, machine, ..quick() })
}

/// One with three adapters on one base.
fn adapters() -> Running {
    let base = Model::chat("base", 1 << 20);
    replica(["a", "b", "c"].iter().map(|name| base.with_adapter(name)).chain([base.clone()]).collect(), 3, LOAD)
}

/// One with two models of their own.
fn models(loaded_max: usize) -> Running {
    replica(["one", "two"].map(|name| Model::chat(name, 1 << 20)).to_vec(), loaded_max, LONG_LOAD)
}

fn before(replicas: &[&Running]) -> Tutti {
    let urls: Vec<String> = replicas.iter().map(|replica| replica.url()).collect();
    Tutti::start(&pool(&urls, "expose: all\n    slots: 1\n    timeouts: { firstByte: 3s }"))
}

fn chat(model: &str) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "stream": false }).to_string()
}

fn works(tutti: &Tutti, model: &str) {
    let answer = tutti.ask("POST", "/api/chat", &chat(model));
    assert_eq!((answer.status, answer.json()["model"].as_str()), (200, Some(model)), "{}", answer.text());
}

/// Whose load the gateway has asked for here.
fn load(seen: &Seen) -> Option<String> {
    let body: Value = serde_json::from_slice(&seen.body).ok()?;
    let is_load = seen.path == "/api/generate" && body.get("prompt").is_none();
    is_load.then(|| body["model"].as_str().unwrap_or_default().trim_end_matches(":latest").to_owned())
}

fn loads(replicas: &[&Running]) -> Vec<String> {
    replicas.iter().flat_map(|replica| replica.seen()).filter_map(|seen| load(&seen)).collect()
}

fn count(tutti: &Tutti, outcome: &str) -> f64 {
    tutti.metric("tutti_weights_loads_total", &[&format!("outcome=\"{outcome}\"")])
}

fn status(tutti: &Tutti, says: &str) {
    eventually(says, || tutti.command(&["status"]).stdout.contains(says).then_some(()));
}

#[test]
fn a_load_that_fails_fails_its_own_group_alone() {
    let replica = adapters();
    let tutti = before(&[&replica]);
    works(&tutti, "a");
    replica.set_broken("b", true);
    std::thread::scope(|scope| {
        let fails = scope.spawn(|| tutti.ask("POST", "/api/chat", &chat("b")));
        for _ in 0..20 {
            works(&tutti, "a");
            works(&tutti, "c");
        }
        let failed = fails.join().unwrap();
        assert_eq!(failed.status, 502, "{}", failed.text());
    });
    assert_eq!(count(&tutti, "failed"), 2.0, "it was tried once more");
    replica.set_broken("b", false);
    eventually("it is tried again", || (tutti.ask("POST", "/api/chat", &chat("b")).status == 200).then_some(()));
}

#[test]
fn a_load_that_hangs_holds_nobody_else_and_is_given_up() {
    let (one, other) = (adapters(), adapters());
    let both = [&one, &other];
    let tutti = before(&both);
    works(&tutti, "a");
    both.iter().for_each(|replica| replica.set_fault(Some((Fault::Silent, Scope::Loads))));
    let mut waits = tutti.client();
    waits.send("POST", "/api/chat", &[], &chat("b")).unwrap();
    let hung = |seen: &[Seen]| seen.iter().any(|seen| load(seen).as_deref() == Some("b")).then_some(());
    eventually("its load is under way", || both.iter().find_map(|replica| hung(&replica.seen())));
    both.iter().for_each(|replica| replica.set_fault(None));
    let (mut asked, begun) = (0, Instant::now());
    while count(&tutti, "failed") < 1.0 {
        let sent = Instant::now();
        works(&tutti, "a");
        assert!(sent.elapsed() < Duration::from_secs(1), "it waits for nobody's load");
        asked += 1;
        assert!(begun.elapsed() < PATIENCE, "the load is never given up");
    }
    assert!(asked > 10, "{asked}");
    assert_eq!(waits.answer().map(|answer| answer.status).ok(), Some(200), "it is loaded elsewhere");
    let given_up = |seen: &Seen| load(seen).as_deref() == Some("b") && seen.ended_early.is_some();
    eventually("the replica hears of it", || {
        both.iter().any(|replica| replica.seen().iter().any(given_up)).then_some(())
    });
}

#[test]
fn weights_that_are_evicted_at_once_are_loaded_again_for_their_own_group_alone() {
    let (one, other) = (adapters(), adapters());
    let both = [&one, &other];
    let tutti = before(&both);
    works(&tutti, "a");
    let evicts = || {
        let mut body: Value = serde_json::from_str(&chat("b")).unwrap();
        body["keep_alive"] = 0.into();
        let answer = tutti.ask("POST", "/api/chat", &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let lost = || tutti.metric("tutti_weights_load_seconds_total", &[]);
    for times in 1..=3 {
        evicts();
        let before = lost();
        evicts();
        eventually("its answer tells of it", || (count(&tutti, "unasked") == f64::from(times)).then_some(()));
        assert!(lost() - before > 0.99 * LOAD.as_secs_f64(), "{} s more", lost() - before);
        status(&tutti, "no model has its base's runner, as the replica said");
        works(&tutti, "a");
    }
    assert_eq!(loads(&both).iter().filter(|name| *name == "a").count(), 1, "{:?}", loads(&both));
    assert_eq!(loads(&both).iter().filter(|name| *name == "b").count(), 3, "first asked for, then loaded again");
}

#[test]
fn who_uses_a_replica_beside_us_is_found_out_by_what_an_answer_says() {
    for stream in [false, true] {
        let replica = adapters();
        let tutti = before(&[&replica]);
        works(&tutti, "a");
        let mut beside = Client::connect(replica.url().trim_start_matches("http://")).unwrap();
        assert_eq!(beside.ask("POST", "/api/chat", &[], &chat("b")).status, 200);
        let body = chat("a").replace("\"stream\":false", &format!("\"stream\":{stream}"));
        assert_eq!(tutti.ask("POST", "/api/chat", &body).status, 200);
        eventually("it is found out", || (count(&tutti, "unasked") == 1.0).then_some(()));
        let told = tutti.ask_admin("/debug/schedule");
        let said: Vec<&str> =
            told[0]["decisions"].as_array().unwrap().iter().filter_map(|told| told["what"].as_str()).collect();
        assert!(said.iter().any(|said| said.starts_with("was not there: a request waited ")), "{said:?}");
        works(&tutti, "a");
        assert_eq!((count(&tutti, "unasked"), loads(&[&replica])), (1.0, vec!["a".to_owned()]), "it has it again");
    }
}

#[test]
fn what_is_guessed_is_told_as_such() {
    let replica = adapters();
    let tutti = before(&[&replica]);
    status(&tutti, "it is not known which model has a base's runner");
    works(&tutti, "a");
    status(&tutti, "model a has its base's runner, assumed: it was loaded, or asked for, ");
    let known = || tutti.ask_admin("/debug/schedule")[0]["runners"][0]["known"].clone();
    assert_eq!(known(), json!("assumed"));
    status(&tutti, "model a has its base's runner, as the replica said "); // it is asked every five seconds
    assert_eq!(known(), json!("told"));
}

#[test]
fn models_of_which_a_replica_holds_one_at_a_time_take_turns() {
    let replica = models(1);
    let tutti = before(&[&replica]);
    let runners = || tutti.ask_admin("/debug/schedule")[0]["runners"].as_array().map_or(0, Vec::len);
    eventually("it is seen that they take each other's place", || {
        works(&tutti, "one");
        works(&tutti, "two");
        (runners() == 1).then_some(())
    });
    let (before, unasked) = (count(&tutti, "loaded"), count(&tutti, "unasked"));
    std::thread::scope(|scope| {
        for number in 0..60 {
            let (tutti, model) = (&tutti, ["one", "two"][number % 2]);
            scope.spawn(move || works(tutti, model));
        }
    });
    let loads = count(&tutti, "loaded") - before;
    assert!((1.0..=10.0).contains(&loads), "{loads} loads for 60 requests");
    assert!(count(&tutti, "unasked") - unasked <= 1.0, "and the replica had none to do by itself");
}

#[test]
fn models_that_a_replica_holds_together_wait_for_nobody() {
    let replica = models(2);
    let tutti = before(&[&replica]);
    for _ in 0..10 {
        works(&tutti, "one");
        works(&tutti, "two");
    }
    assert_eq!(tutti.ask_admin("/debug/schedule")[0]["runners"], json!([]));
    assert_eq!((count(&tutti, "loaded"), loads(&[&replica])), (0.0, Vec::new()));
}
