//! A client that goes is noticed in every phase. How soon is measured in `bench/`; here it is that it happens.

use serde_json::json;
use tutti_simulator::{Config, Fault, Running, Scope, Seen};
use tutti_tests::{PATIENCE, Tutti, eventually, inference, pool, quick, reached, simulator, simulator_with};

fn chat(stream: bool) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": stream }).to_string()
}

/// The replica sees that its client has gone, the slot is free, and the log says in which phase.
fn noticed(tutti: &Tutti, replica: &Running, phase: &str) -> Seen {
    let gone = |seen: &[Seen]| inference(seen).into_iter().find(|seen| seen.ended_early.is_some());
    let seen = replica.wait(PATIENCE, gone).expect("the replica sees that its client has gone");
    let line = tutti.wait_logged("cancelled", |line| line["outcome"] == "cancelled");
    assert_eq!(line["phase"], phase, "{line}");
    free(tutti);
    seen
}

fn free(tutti: &Tutti) {
    eventually("no request in flight", || (tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
}

#[test]
fn before_any_header() {
    let replica = simulator();
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    for (path, stream) in [("/api/chat", true), ("/api/chat", false), ("/v1/chat/completions", true)] {
        let tutti = Tutti::before(&[replica.url()]);
        let before = inference(&replica.seen()).len();
        let client = tutti.begin(path, &chat(stream));
        reached(&replica, before + 1);
        drop(client);
        noticed(&tutti, &replica, "waiting");
    }
}

#[test]
fn after_the_header_and_in_the_middle_of_a_stream() {
    let machine = tutti_simulator::engine::Machine {
        token_time: std::time::Duration::from_millis(20),
        ..tutti_simulator::engine::Machine::instant()
    };
    for (path, chunks) in [("/api/chat", 0), ("/api/chat", 3), ("/v1/chat/completions", 3)] {
        let replica = simulator_with(Config { machine: machine.clone(), answer_tokens: 100_000, ..quick() });
        let tutti = Tutti::before(&[replica.url()]);
        let mut client = tutti.begin(path, &chat(true));
        assert_eq!(client.head().unwrap().status, 200);
        for _ in 0..chunks {
            assert!(!client.chunk().unwrap().is_empty());
        }
        drop(client);
        noticed(&tutti, &replica, "answering");
    }
}

#[test]
fn while_a_whole_answer_is_made() {
    let replica = simulator();
    replica.set_fault(Some((Fault::Stall, Scope::Inference))); // a header, half a document, and nothing more
    let tutti = Tutti::before(&[replica.url()]);
    let client = tutti.begin("/v1/chat/completions", &chat(false));
    replica.wait(PATIENCE, |seen| {
        inference(seen).iter().any(|seen| seen.phase == tutti_simulator::Phase::Answering).then_some(())
    });
    drop(client);
    noticed(&tutti, &replica, "waiting");
}

#[test]
fn while_queued_it_leaves_the_queue_and_is_never_dispatched() {
    let replica = simulator();
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1"));
    let queued = |count: f64| {
        eventually(&format!("{count} queued"), || (tutti.metric("tutti_requests_queued", &[]) == count).then_some(()));
    };
    let holds = tutti.begin("/api/chat", &chat(true));
    reached(&replica, 1);
    let leaves = tutti.begin("/api/chat", &chat(true).replace("hi", "leaves"));
    queued(1.0);
    let mut stays = tutti.begin("/api/chat", &chat(true).replace("hi", "stays"));
    queued(2.0);
    drop(leaves);
    queued(1.0);
    assert_eq!(tutti.wait_logged("cancelled", |line| line["outcome"] == "cancelled")["phase"], "queued");
    replica.set_fault(None);
    drop(holds);
    assert_eq!(stays.answer().unwrap().status, 200);
    let seen = reached(&replica, 2);
    assert!(!seen.iter().any(|seen| String::from_utf8_lossy(&seen.body).contains("leaves")));
    free(&tutti);
}

#[test]
fn while_its_body_arrives() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let mut client = tutti.client();
    let head = format!("POST /api/chat HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000\r\n\r\n{{", tutti.listen());
    client.send_raw(head.as_bytes()).unwrap();
    drop(client);
    let line = tutti.wait_logged("a request", |line| line["api"] == "/api/chat");
    assert_ne!(line["outcome"], "ok", "{line}");
    eventually("its memory given back", || (tutti.metric("tutti_buffered_body_bytes", &[]) == 0.0).then_some(()));
    assert_eq!(inference(&replica.seen()).len(), 0);
}

#[test]
fn a_client_that_asks_the_next_thing_and_goes_is_noticed_too() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let mut client = tutti.client();
    // Kept alive: the connection had an answer before.
    assert_eq!(client.ask("POST", "/api/chat", &[], &chat(false)).status, 200);
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    client.send("POST", "/api/chat", &[], &chat(true)).unwrap();
    reached(&replica, 2);
    drop(client);
    noticed(&tutti, &replica, "waiting");
}

#[test]
fn a_client_that_has_read_the_last_event_did_not_cancel_and_one_that_did_has_its_tokens() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    for _ in 0..20 {
        let mut client = tutti.begin("/v1/chat/completions", &chat(true));
        assert_eq!(client.head().unwrap().status, 200);
        while !String::from_utf8_lossy(&client.chunk().unwrap()).contains("[DONE]") {}
    }
    eventually("a line each", || (tutti.logged().len() == 20).then_some(()));
    assert!(tutti.logged().iter().all(|line| line["outcome"] == "ok"), "{:?}", tutti.logged());

    let machine = tutti_simulator::engine::Machine {
        token_time: std::time::Duration::from_millis(5),
        ..tutti_simulator::engine::Machine::instant()
    };
    let replica = simulator_with(Config { machine, answer_tokens: 100_000, ..quick() });
    let tutti = Tutti::before(&[replica.url()]);
    let mut client = tutti.begin("/api/chat", &chat(true));
    assert_eq!(client.head().unwrap().status, 200);
    for _ in 0..5 {
        assert!(!client.chunk().unwrap().is_empty());
    }
    drop(client);
    let line = tutti.wait_logged("cancelled", |line| line["outcome"] == "cancelled");
    assert!(line["output_tokens"].as_u64().is_some_and(|tokens| tokens >= 5), "{line}");
}
