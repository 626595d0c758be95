//! Replicas that die: one after the other under load, all at once, and of a prompt.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Running};
use tutti_tests::{Answer, Tutti, eventually, inference, quick, simulator, simulator_with};

fn chat(said: &str, stream: bool) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": said }], "stream": stream }).to_string()
}

/// What is wrong with an answer, by its own account; `None`: nothing.
fn failure(answer: &Answer, stream: bool) -> Option<String> {
    let lines: Vec<Value> = answer.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let done = lines.last().is_some_and(|line| line["done"] == true);
    let error = lines.iter().find_map(|line| line["error"].as_str()).map(str::to_owned);
    match (answer.status, error) {
        (200, None) if done => None,
        (200, Some(error)) if stream && !done && answer.complete => Some(error),
        (502 | 503, Some(error)) => Some(error),
        _ => panic!("no honest answer: {} {}", answer.status, answer.text()),
    }
}

/// What became of requests, by their number in the log.
type Ends = Mutex<HashMap<String, Option<String>>>;

/// Asks until it shall stop: streams and whole answers in turn.
fn load(tutti: &Tutti, name: &str, ends: &Ends, stop: &AtomicBool) {
    let mut client = tutti.client();
    for number in 0.. {
        if stop.load(Relaxed) {
            return;
        }
        let (id, stream) = (format!("{name}-{number}"), number % 2 == 0);
        let answer = client.ask("POST", "/api/chat", &[("x-request-id", &id)], &chat("hi", stream));
        ends.lock().unwrap_or_else(PoisonError::into_inner).insert(id, failure(&answer, stream));
    }
}

#[test]
fn one_of_four_dies_every_second_and_only_what_it_worked_on_fails() {
    const DEATHS: usize = 6;
    // An answer takes 0.2 s.
    let machine = Machine { token_time: Duration::from_millis(10), ..Machine::instant() };
    let config = Config { machine, answer_tokens: 20, ..quick() };
    let mut replicas = [(); 4].map(|()| simulator_with(config.clone()));
    let tutti = Tutti::before(&replicas.each_ref().map(Running::url));
    let (ends, stop) = (Ends::default(), AtomicBool::new(false));
    let mut cut: HashMap<String, usize> = HashMap::new();
    std::thread::scope(|scope| {
        let (tutti, ends, stop) = (&tutti, &ends, &stop);
        for number in 0..8 {
            scope.spawn(move || load(tutti, &format!("client{number}"), ends, stop));
        }
        for death in 0..DEATHS {
            let replica = &mut replicas[death % 4];
            let address = replica.addr();
            eventually("work for the one that is to die", || (replica.in_flight() > 0).then_some(()));
            let url = replica.url();
            let seen = std::mem::replace(replica, simulator()).kill();
            *cut.entry(url).or_default() += inference(&seen).iter().filter(|seen| seen.finished.is_none()).count();
            std::thread::sleep(Duration::from_millis(300)); // it is away so long
            *replica = simulator_with(Config { listen: address, ..config.clone() });
            std::thread::sleep(Duration::from_millis(700)); // the next one dies every second: that is the load
        }
        stop.store(true, Relaxed);
    });
    let ends = ends.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failed: Vec<&String> = ends.iter().filter(|(_, failure)| failure.is_some()).map(|(id, _)| id).collect();
    assert!(ends.len() > 100, "{} requests are no load", ends.len());
    let mut by_replica: HashMap<String, usize> = HashMap::new();
    for id in &failed {
        let line = tutti.wait_logged(id, |line| line["request_id"] == **id);
        let honest = ["upstream_error", "stream_interrupted"].contains(&line["code"].as_str().unwrap_or_default());
        assert!(honest, "{line}: {:?}", ends[*id]);
        *by_replica.entry(line["replica"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    assert!(!failed.is_empty(), "nothing was cut: {cut:?}");
    for (replica, failed) in by_replica {
        // What it worked on; and once a death a request may be on its way to it just then.
        let most = cut.get(&replica).map_or(0, |cut| cut + DEATHS.div_ceil(4));
        assert!(failed <= most, "{failed} requests failed at {replica}: {cut:?}");
    }
    eventually("work for each of them again", || {
        tutti.ask("POST", "/api/chat", &chat("hi", false));
        replicas.iter().all(|replica| !inference(&replica.seen()).is_empty()).then_some(())
    });
}

#[test]
fn when_all_are_gone_it_says_so_and_serves_again_when_they_are_back() {
    let replicas = [(); 3].map(|()| simulator());
    let addresses = replicas.each_ref().map(Running::addr);
    let tutti = Tutti::before(&replicas.each_ref().map(Running::url));
    let mut client = tutti.client();
    for _ in 0..6 {
        assert_eq!(client.ask("POST", "/api/chat", &[], &chat("hi", false)).status, 200);
    }
    replicas.into_iter().for_each(|replica| drop(replica.kill()));
    let refused = eventually("a refusal", || {
        // What went to a connection that had just been cut may be an honest 502.
        let answer = client.ask("POST", "/v1/chat/completions", &[], &chat("hi", true));
        (answer.status == 503).then_some(answer)
    });
    assert_eq!(refused.json()["error"]["code"], "no_replica");
    assert!(refused.header("retry-after").is_some() && refused.header("x-should-retry") == Some("true"));
    for _ in 0..20 {
        let answer = client.ask("POST", "/v1/chat/completions", &[], &chat("hi", true));
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("no_replica")), "{}", answer.text());
    }
    let back = addresses.map(|listen| simulator_with(Config { listen, ..quick() }));
    eventually("an answer", || (client.ask("POST", "/api/chat", &[], &chat("hi", false)).status == 200).then_some(()));
    eventually("work for each of them again", || {
        assert_eq!(client.ask("POST", "/api/chat", &[], &chat("hi", false)).status, 200);
        back.iter().all(|replica| !inference(&replica.seen()).is_empty()).then_some(())
    });
}

#[test]
fn a_prompt_that_kills_its_replica_is_not_taken_to_the_next() {
    let config = Config { poison: Some("arsenic".to_owned()), ..quick() };
    let replicas = [(); 4].map(|()| simulator_with(config.clone()));
    let tutti = Tutti::before(&replicas.each_ref().map(Running::url));
    let dead = || replicas.iter().filter(|replica| replica.is_dead()).count();
    let mut client = tutti.client();
    for number in 1..=3 {
        // Over connections that have been used before, too.
        for _ in 0..8 {
            assert_eq!(client.ask("POST", "/api/chat", &[], &chat("hi", false)).status, 200);
        }
        let answer = client.ask("POST", "/api/chat", &[], &chat("arsenic", number == 2));
        assert_eq!(answer.status, 502, "{}", answer.text());
        eventually("its replica is dead", || (dead() >= number).then_some(()));
        let reached = |replica: &Running| {
            inference(&replica.seen()).iter().filter(|seen| seen.body.windows(7).any(|part| part == b"arsenic")).count()
        };
        assert_eq!(replicas.iter().map(reached).sum::<usize>(), number, "one for each");
    }
    for _ in 0..8 {
        assert_eq!(client.ask("POST", "/api/chat", &[], &chat("hi", false)).status, 200);
    }
    assert_eq!(dead(), 3);
}
