//! Replicas that die: one after the other under load, all at once, and of a prompt.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Model, Running, Seen};
use tutti_tests::{Answer, Tutti, eventually, inference, pool, quick, simulator, simulator_with};

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

/// A replica with two adapters on one base, of which it holds one. An answer takes 0.4 s.
fn adapters() -> Config {
    let base = Model::chat("base", 1 << 20);
    let models = vec![base.with_adapter("a"), base.with_adapter("b"), base];
    let (load_fixed, token_time) = (Duration::from_millis(30), Duration::from_millis(20));
    Config { models, machine: Machine { load_fixed, token_time, ..Machine::instant() }, answer_tokens: 20, ..quick() }
}

/// The requests that reached a replica, by what they said, and whether they were answered. Loads are none.
fn said(seen: &[Seen]) -> Vec<(String, bool)> {
    let of = |seen: &Seen| {
        let body: Value = serde_json::from_slice(&seen.body).ok()?;
        Some((body["messages"][0]["content"].as_str()?.to_owned(), seen.finished.is_some()))
    };
    inference(seen).iter().filter_map(of).collect()
}

/// Before a replica with adapters, or several, of which one dies with a batch on it: two in flight, and four who wait. `back`:
/// it lives again. What reached replicas before and after, and what everybody was told.
fn dies_with_a_batch_on_it(count: usize, back: bool) {
    let mut replicas: Vec<Running> = (0..count).map(|_| simulator_with(adapters())).collect();
    let urls: Vec<String> = replicas.iter().map(Running::url).collect();
    let tutti = Tutti::start(&pool(&urls, "expose: all\n    slots: 2"));
    let body = |model: &str, said: &str| {
        json!({ "model": model, "messages": [{ "role": "user", "content": said }], "stream": false }).to_string()
    };
    for model in &["b", "a"][2 - count..] {
        assert_eq!(tutti.ask("POST", "/api/chat", &body(model, "first")).status, 200);
    }
    let has_a = |replica: &Running| {
        let asked =
            |seen: &Seen| seen.path == "/api/chat" && String::from_utf8_lossy(&seen.body).contains("\"model\":\"a");
        replica.seen().iter().any(asked)
    };
    let dying = replicas.iter().position(has_a).expect("one has a");
    let mut clients = Vec::new();
    for number in 0..6 {
        let mut client = tutti.client();
        client.send("POST", "/api/chat", &[], &body("a", &format!("a{number}"))).expect("sent");
        clients.push(client);
    }
    let replica = replicas.remove(dying);
    let address = replica.addr();
    let queued = || tutti.metric("tutti_requests_queued", &[]);
    eventually("two run and four wait", || (replica.in_flight() == 2 && queued() == 4.0).then_some(()));
    let before = said(&replica.kill());
    if back {
        replicas.push(simulator_with(Config { listen: address, ..adapters() }));
    }
    let answers: Vec<Answer> = clients.iter_mut().map(|client| client.answer().expect("an answer")).collect();
    let after: Vec<(String, bool)> = replicas.iter().flat_map(|replica| said(&replica.seen())).collect();
    for (number, answer) in answers.iter().enumerate() {
        let mine = format!("a{number}");
        let times = |of: &[(String, bool)], whole: bool| {
            of.iter().filter(|(said, done)| *said == mine && (*done || !whole)).count()
        };
        let was_cut = times(&before, false) > times(&before, true);
        let answered = times(&before, true) + times(&after, true);
        match answer.status {
            200 => assert_eq!((answered, answer.json()["model"].as_str()), (1, Some("a")), "{mine} is answered once"),
            // A request is sent once: who cannot know whether it was worked on is told so.
            502 if was_cut => assert_eq!((answered, times(&after, false)), (0, 0), "{mine}: {}", answer.text()),
            // Who had his turn before the only replica was back.
            503 if back => assert_eq!((times(&before, false), times(&after, false)), (0, 0), "{mine} may come again"),
            _ => panic!("{mine} has no honest answer: {} {}", answer.status, answer.text()),
        }
    }
    let told = answers.iter().filter(|answer| answer.status == 502).count();
    assert!(told <= 2 && (back || answers.iter().all(|answer| answer.status != 503)), "those who waited were served");
    assert_eq!(before.iter().filter(|(_, whole)| !whole).count(), 2, "two were cut: {before:?}");
    assert_eq!(queued(), 0.0);
    eventually("it goes on", || (tutti.ask("POST", "/api/chat", &body("a", "later")).status == 200).then_some(()));
}

#[test]
fn a_batch_whose_replica_dies_goes_on_at_the_other() {
    dies_with_a_batch_on_it(2, false);
}

#[test]
fn of_a_batch_whose_only_replica_dies_each_is_told_and_it_goes_on_when_it_is_back() {
    dies_with_a_batch_on_it(1, true);
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
