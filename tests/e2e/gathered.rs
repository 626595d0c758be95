//! Texts that wait to be embedded with others: for how long, and for whom not.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::time::Duration;

use serde_json::{Value, json};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Model, Scope};
use tutti_tests::{Answer, Client, Tutti, eventually, inference, pool, quick, reached, simulator_with};

/// Single texts that the gateway has seen before anything is put together.
const KNOWN: usize = 3;

fn body(model: &str, text: &str) -> String {
    json!({ "model": model, "input": text }).to_string()
}

/// Has the gateway know what a single text takes of a model.
fn known(tutti: &Tutti, model: &str) {
    for number in 0..KNOWN {
        let answer = tutti.ask("POST", "/v1/embeddings", &body(model, &format!("known {number}")));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// Waits until so many wait.
fn wait(tutti: &Tutti, count: usize) {
    eventually("those who came wait", || (tutti.metric("tutti_requests_queued", &[]) as usize == count).then_some(()));
}

fn code(answer: &Answer) -> (u16, Value) {
    (answer.status, answer.json()["error"]["code"].clone())
}

#[test]
fn who_waits_for_a_call_waits_as_long_as_weights_take() {
    let base = Model::embedding("e", 1 << 20);
    let models = ["a", "b"].map(|name| base.with_adapter(name)).to_vec();
    // Longer than anybody waits for a slot.
    let machine = Machine { load_fixed: Duration::from_millis(1_500), loaded_max: 1, ..Machine::instant() };
    let replica = simulator_with(Config { models, machine, ..quick() });
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    queue: { wait: 300ms }"));
    known(&tutti, "a");
    assert_eq!(tutti.ask("POST", "/v1/embeddings", &body("b", "takes the runner")).status, 200);
    let clients: Vec<Client> = (1..=3)
        .map(|count| {
            let client = tutti.begin("/v1/embeddings", &body("a", &format!("text {count}")));
            wait(&tutti, count);
            client
        })
        .collect();
    let answers: Vec<Answer> = clients.into_iter().map(|mut client| client.answer().unwrap()).collect();
    answers.iter().for_each(|answer| assert_eq!(answer.status, 200, "{}", answer.text()));
    let together = |answer: &&Answer| answer.header("x-tutti-batch") == Some("callers=2");
    assert_eq!(answers.iter().filter(together).count(), 2, "the others waited for the first one's call");
}

#[test]
fn and_as_long_as_there_is_no_replica() {
    let replica = simulator_with(Config { models: vec![Model::embedding("e", 1 << 20)], ..quick() });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replicas");
    std::fs::write(&file, replica.url()).unwrap();
    let tutti = Tutti::start(&format!(
        "pools: [{{ name: p, engine: openai, endpoints: [{{ file: \"{}\" }}], queue: {{ wait: 100ms, coldWait: 3s }} }}]\n\
         models: [{{ name: e, revisions: [{{ name: v1, pool: p, upstream: e }}] }}]\n",
        file.display()
    ));
    eventually("the replica", || {
        (tutti.ask("POST", "/v1/embeddings", &body("e", "known")).status == 200).then_some(())
    });
    known(&tutti, "e");
    std::fs::write(&file, "# none").unwrap();
    eventually("no replica", || (!tutti.metrics().contains("tutti_replica_reachable{")).then_some(()));
    let clients: Vec<Client> = (1..=3)
        .map(|count| {
            let client = tutti.begin("/v1/embeddings", &body("e", &format!("text {count}")));
            wait(&tutti, count);
            client
        })
        .collect();
    for mut client in clients {
        let answer = client.answer().unwrap();
        assert_eq!(code(&answer), (503, json!("no_replica")), "{}", answer.text());
    }
}

#[test]
fn what_cannot_be_answered_in_time_is_refused_at_once() {
    let replica = simulator_with(Config { models: vec![Model::embedding("e", 1 << 20)], ..quick() });
    let tutti = Tutti::start(&pool(&[replica.url()], "engine: openai\n    expose: all"));
    replica.set_fault(Some((Fault::SlowFirstByte(Duration::from_millis(200)), Scope::Inference)));
    known(&tutti, "e");
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let held = tutti.begin("/v1/embeddings", &body("e", "held"));
    reached(&replica, KNOWN + 1);
    let within = |deadline: &str, text: &str| {
        let mut client = tutti.client();
        client.send("POST", "/v1/embeddings", &[("x-tutti-deadline-ms", deadline)], &body("e", text)).unwrap();
        client
    };
    let too_late = || tutti.metric("tutti_requests_too_late_total", &[]);
    let refused = within("100", "in vain").answer().unwrap();
    assert_eq!(code(&refused), (503, json!("too_late")), "{}", refused.text());
    let after: u64 = refused.header("retry-after").and_then(|after| after.parse().ok()).unwrap();
    assert!((1..60).contains(&after), "{after}");
    assert_eq!(too_late(), 1.0, "it has not waited");
    // For this one there is time enough, but the call that it waits for does not end.
    let refused = within("1500", "in vain").answer().unwrap();
    assert_eq!(code(&refused), (503, json!("too_late")), "{}", refused.text());
    let mut waits = within("60000", "in time");
    wait(&tutti, 1);
    replica.set_fault(None);
    drop(held);
    let answer = waits.answer().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = inference(&replica.seen());
    assert!(!seen.iter().any(|seen| String::from_utf8_lossy(&seen.body).contains("in vain")), "{seen:?}");
}

#[test]
fn a_higher_class_neither_waits_for_a_call_of_a_lower_one_nor_shares_one() {
    let replica = simulator_with(Config { models: vec![Model::embedding("e", 1 << 20)], ..quick() });
    let tutti = Tutti::start(&pool(&[replica.url()], "engine: openai\n    expose: all\n    slots: 8"));
    known(&tutti, "e");
    let bulk = |text: &str| {
        let mut client = tutti.client();
        client.send("POST", "/v1/embeddings", &[("x-tutti-priority", "bulk")], &body("e", text)).unwrap();
        client
    };
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let held = bulk("held");
    reached(&replica, KNOWN + 1);
    replica.set_fault(None);
    let first = bulk("one");
    wait(&tutti, 1);
    let mut waits = [first, bulk("two")];
    wait(&tutti, 2);
    // Of its own class no call is under way: it goes at once, while those wait.
    let answer = tutti.ask("POST", "/v1/embeddings", &body("e", "now"));
    assert_eq!((answer.status, answer.header("x-tutti-batch")), (200, None), "{}", answer.text());
    wait(&tutti, 2);
    drop(held);
    waits.iter_mut().for_each(|client| assert_eq!(client.answer().unwrap().status, 200));
    let calls: Vec<Value> =
        inference(&replica.seen()).iter().map(|seen| serde_json::from_slice(&seen.body).unwrap()).collect();
    assert!(calls.iter().any(|call| call["input"] == json!(["one", "two"])), "{calls:?}");
}
