//! Which replica a request goes to: when all are well, when one fails, and when one is full.

use std::time::Duration;

use serde_json::json;
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Client, Tutti, eventually, inference, pool, quick, reached, simulator, simulator_with};

fn chat(model: &str) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] }).to_string()
}

/// Its status.
fn asked(tutti: &Tutti) -> u16 {
    tutti.ask("POST", "/api/chat", &chat("m")).status
}

/// How many inference requests have reached a replica.
fn count(replica: &Running) -> usize {
    inference(&replica.seen()).len()
}

fn fails(replica: &Running, fault: Fault) {
    replica.set_fault(Some((fault, Scope::Inference)));
}

#[test]
fn equal_replicas_take_turns() {
    let replicas = [simulator(), simulator()];
    let tutti = Tutti::before(&replicas.each_ref().map(Running::url));
    let mut client = tutti.client();
    for _ in 0..10 {
        assert_eq!(client.ask("POST", "/api/chat", &[], &chat("m")).status, 200);
    }
    assert_eq!(replicas.each_ref().map(count), [5, 5]);
}

#[test]
fn a_replica_that_fails_is_left_alone_and_used_again_when_it_is_well() {
    for fault in [Fault::CloseBeforeHeader, Fault::Garbage, Fault::Silent] {
        let (broken, good) = (simulator(), simulator());
        fails(&broken, fault);
        let fields = "expose: all\n    timeouts: { firstByte: 100ms }";
        let tutti = Tutti::start(&pool(&[broken.url(), good.url()], fields));
        let well = (0..20).filter(|_| asked(&tutti) == 200).count();
        // Three failures in a row, and one more each time it is tried again.
        assert!(well >= 15, "{fault:?}: {well}");
        assert!((3..=5).contains(&count(&broken)), "{fault:?}: {}", count(&broken));
        broken.set_fault(None);
        let before = count(&broken);
        eventually("work for the replica that is well again", || {
            asked(&tutti);
            (count(&broken) > before).then_some(())
        });
    }
}

#[test]
fn a_replica_that_refuses_at_once_does_not_draw_all_work() {
    let (busy, good) = (simulator(), simulator());
    fails(&busy, Fault::Busy);
    let tutti = Tutti::start(&pool(&[busy.url(), good.url()], "expose: all\n    slots: 8"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10).for_each(|_| assert_eq!(asked(&tutti), 200)));
        }
    });
    assert!(count(&busy) <= 10, "{} of 40 asked the busy one first", count(&busy));
}

#[test]
fn where_all_replicas_fail_each_is_still_tried() {
    let replicas = [simulator(), simulator()];
    replicas.iter().for_each(|replica| fails(replica, Fault::CloseBeforeHeader));
    let tutti = Tutti::before(&replicas.each_ref().map(Running::url));
    for _ in 0..20 {
        assert_eq!(asked(&tutti), 502);
    }
    let counts = replicas.each_ref().map(count);
    assert!(counts.iter().sum::<usize>() == 20 && counts.iter().all(|count| *count >= 5), "{counts:?}");
    replicas[1].set_fault(None);
    eventually("the one that is well has it all", || (0..5).all(|_| asked(&tutti) == 200).then_some(()));
}

/// A replica that works on one model at a time, slowly, and lets one request for another wait: it refuses all more.
fn narrow() -> Running {
    let token_time = Duration::from_millis(100);
    let machine = Machine { loaded_max: 1, queue_max: 0, token_time, ..Machine::instant() };
    let models = ["m", "other"].map(|name| Model::chat(name, 1 << 20)).to_vec();
    simulator_with(Config { models, machine, answer_tokens: 1 << 20, ..quick() })
}

#[test]
fn a_retry_holds_no_slot_while_it_waits() {
    let replicas = [narrow(), narrow()];
    let mut others = Vec::new();
    for replica in &replicas {
        for model in ["m", "other"] {
            let mut client = Client::connect(&replica.addr().to_string()).unwrap();
            client.send("POST", "/api/chat", &[], &chat(model)).unwrap();
            if model == "m" {
                assert_eq!(client.head().unwrap().status, 200);
            }
            others.push(client);
        }
        reached(replica, 2);
        fails(replica, Fault::SlowFirstByte(Duration::from_millis(300)));
    }
    let fields = "expose: all\n    slots: 1\n    queue: { wait: 5s }";
    let tutti = Tutti::start(&pool(&replicas.each_ref().map(Running::url), fields));
    let mut clients = [(); 2].map(|()| tutti.begin("/api/chat", &chat("m")));
    for client in &mut clients {
        let answer = client.answer().unwrap();
        assert!(answer.text().contains("server busy"), "the second replica's own words: {}", answer.text());
    }
    assert_eq!(replicas.each_ref().map(count), [4, 4]);
}

#[test]
fn a_retry_waits_for_a_replica_that_has_not_failed_it() {
    let (busy, good) = (simulator(), simulator());
    fails(&busy, Fault::Busy);
    fails(&good, Fault::Stall);
    let tutti = Tutti::start(&pool(&[busy.url(), good.url()], "expose: all\n    slots: 2"));
    let streams = [(); 2].map(|()| {
        let mut stream = tutti.begin("/api/chat", &chat("m"));
        assert_eq!(stream.head().unwrap().status, 200, "one of the good replica's");
        stream
    });
    good.set_fault(None);
    busy.set_fault(None);
    assert_eq!(asked(&tutti), 200); // by the one that is not busy just now, and thought well of again
    fails(&busy, Fault::Busy);
    let before = count(&busy);
    let mut retried = tutti.begin("/api/chat", &chat("m"));
    eventually("it waits", || (tutti.metric("tutti_requests_queued", &[]) == 1.0).then_some(()));
    assert_eq!(count(&busy), before + 1);
    drop(streams);
    assert_eq!(retried.answer().unwrap().status, 200);
    assert_eq!((count(&busy), count(&good)), (before + 1, 3));
}

#[test]
fn replicas_that_all_refuse_are_not_asked_twice_as_much() {
    let replicas = [simulator(), simulator()];
    replicas.iter().for_each(|replica| fails(replica, Fault::Busy));
    let asked_by = |fields: &str| {
        let before = replicas.each_ref().map(count).iter().sum::<usize>();
        let tutti = Tutti::start(&pool(&replicas.each_ref().map(Running::url), &format!("expose: all\n    {fields}")));
        for _ in 0..100 {
            let answer = tutti.ask("POST", "/api/chat", &chat("m"));
            assert_eq!(answer.status, 503);
            assert!(answer.text().contains("server busy"), "the replica's own words: {}", answer.text());
        }
        let asked = replicas.each_ref().map(count).iter().sum::<usize>() - before;
        let retries = tutti.metric("tutti_retries_total", &[]);
        assert_eq!(asked as f64, 100.0 + retries);
        (retries, tutti.metric("tutti_retry_budget_exhausted_total", &[]))
    };
    assert_eq!(asked_by("retries: { max: 0 }"), (0.0, 0.0));
    assert_eq!(asked_by("retries: { budget: 100% }"), (100.0, 0.0));
    let (retries, exhausted) = asked_by("retries: { max: 1 }");
    // A fifth of the requests and the reserve of ten, and one more of that a second.
    assert!((28.0..=50.0).contains(&retries), "{retries}");
    assert_eq!(exhausted, 100.0 - retries);
}

#[test]
fn one_model_of_a_replica_has_its_slots_once_however_it_is_spelt() {
    let replica = simulator();
    fails(&replica, Fault::Silent);
    let upstreams = ["m", "m:latest", "M"];
    let models = upstreams.iter().enumerate().map(|(at, name)| {
        format!("  - {{ name: as{at}, revisions: [{{ name: r, pool: p, upstream: \"{name}\" }}] }}\n")
    });
    let yaml = format!("{}models:\n{}", pool(&[replica.url()], "slots: 1"), models.collect::<String>());
    let tutti = Tutti::start(&yaml);
    let clients = [0, 1, 2].map(|at| tutti.begin("/api/chat", &chat(&format!("as{at}"))));
    eventually("two wait", || (tutti.metric("tutti_requests_queued", &[]) == 2.0).then_some(()));
    eventually("one is asked for", || (count(&replica) == 1).then_some(()));
    drop(clients);
}
