//! `tutti drain` and `undrain`: a replica out of service by hand, and back.

use serde_json::json;
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Client, Finished, Tutti, eventually, inference, pool, simulator, simulator_with};

fn chat() -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] }).to_string()
}

fn asked(tutti: &Tutti) -> u16 {
    tutti.ask("POST", "/api/chat", &chat()).status
}

fn count(replica: &Running) -> usize {
    inference(&replica.seen()).len()
}

/// The state that `tutti status` shows of a replica.
fn state(tutti: &Tutti, replica: &Running) -> String {
    let page = tutti.command(&["status"]).stdout;
    let line = page.lines().find(|line| line.contains(&replica.url())).unwrap_or_default();
    line.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

/// Two replicas, a gateway before them, and a stream that the first one works on.
fn with_a_stream() -> ([Running; 2], Tutti, Client) {
    let replicas = [simulator(), simulator()];
    let tutti = Tutti::before(&replicas.each_ref().map(Running::url));
    replicas[0].set_fault(Some((Fault::Stall, Scope::Inference)));
    let stream = eventually("a stream at the first replica", || {
        let mut stream = tutti.begin("/api/chat", &chat());
        let is_there = stream.head().is_ok_and(|head| head.status == 200) && replicas[0].in_flight() == 1;
        is_there.then_some(stream)
    });
    replicas[0].set_fault(None);
    (replicas, tutti, stream)
}

fn drain(tutti: &Tutti, replica: &Running, flags: &[&str]) -> Finished {
    tutti.command(&[&["drain", &replica.url()], flags].concat())
}

#[test]
fn a_drained_replica_ends_its_streams_and_gets_nothing_new() {
    let (replicas, tutti, stream) = with_a_stream();
    let before = count(&replicas[0]);
    let ended = drain(&tutti, &replicas[0], &["--no-wait"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("1 request is in flight"), "{}", ended.stdout);
    assert_eq!(state(&tutti, &replicas[0]), "DRAINING");
    let gauge = |at: usize| tutti.metric("tutti_replica_drained", &[&replicas[at].url()]);
    assert_eq!([gauge(0), gauge(1)], [1.0, 0.0]);

    let ended = drain(&tutti, &replicas[0], &["--timeout", "300ms"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("1 request is still in flight"), "{}", ended.stderr);
    for _ in 0..6 {
        assert_eq!(asked(&tutti), 200);
    }
    assert_eq!(count(&replicas[0]), before);

    std::thread::scope(|scope| {
        let waits = scope.spawn(|| drain(&tutti, &replicas[0], &[]));
        eventually("the wait", || (!waits.is_finished()).then_some(()));
        drop(stream); // its end is this one's leaving
        let ended = waits.join().unwrap_or_else(|_| panic!("the command does not end"));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stdout.contains("is drained"), "{}", ended.stdout);
    });
    assert_eq!(state(&tutti, &replicas[0]), "DRAINED");
    assert_eq!(tutti.command(&["undrain", &format!("{}/", replicas[0].url())]).code, Some(0), "however it is spelt");
    assert_eq!(gauge(0), 0.0);
    for _ in 0..6 {
        assert_eq!(asked(&tutti), 200);
    }
    assert!(count(&replicas[0]) > before);
}

#[test]
fn it_holds_through_changes_of_the_configuration() {
    let replicas = [simulator(), simulator()];
    let urls = replicas.each_ref().map(Running::url);
    let tutti = Tutti::before(&urls);
    assert_eq!(drain(&tutti, &replicas[1], &[]).code, Some(0));
    tutti.write_config(&pool(&urls, "expose: all\n    slots: 2"));
    tutti.wait_said("the changed configuration is in force");
    let before = count(&replicas[1]);
    for _ in 0..6 {
        assert_eq!(asked(&tutti), 200);
    }
    assert_eq!((count(&replicas[1]), &*state(&tutti, &replicas[1])), (before, "DRAINED"));
    // Even while the list leaves it out.
    tutti.write_config(&pool(&urls[..1], "expose: all\n    slots: 3"));
    eventually("one replica", || (!tutti.command(&["status"]).stdout.contains(&urls[1])).then_some(()));
    tutti.write_config(&pool(&urls, "expose: all\n    slots: 4"));
    eventually("two replicas", || (state(&tutti, &replicas[1]) == "DRAINED").then_some(()));
}

#[test]
fn one_that_is_named_no_more_is_waited_for_and_may_be_taken_back() {
    let (replicas, tutti, stream) = with_a_stream();
    let urls = replicas.each_ref().map(Running::url);
    assert_eq!(drain(&tutti, &replicas[0], &["--no-wait"]).code, Some(0));
    tutti.write_config(&pool(&urls[1..], "expose: all"));
    eventually("it leaves", || (state(&tutti, &replicas[0]) == "LEAVING").then_some(()));
    let ended = drain(&tutti, &replicas[0], &["--timeout", "300ms"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert!(ended.stderr.contains("1 request is still in flight"), "{}", ended.stderr);
    drop(stream);
    assert_eq!(drain(&tutti, &replicas[0], &[]).code, Some(0));
    assert_eq!(state(&tutti, &replicas[0]), "", "it has nothing to do any more");

    assert_eq!(tutti.command(&["undrain", &urls[0]]).code, Some(0));
    assert_eq!(tutti.command(&["undrain", &urls[0]]).code, Some(1), "nobody knows it any more");
    tutti.write_config(&pool(&urls, "expose: all"));
    eventually("it is back", || (state(&tutti, &replicas[0]) == "reachable").then_some(()));
}

#[test]
fn the_last_one_of_a_model_and_strangers_are_refused() {
    let replicas = [simulator(), simulator()];
    let tutti = Tutti::before(&replicas.each_ref().map(Running::url));
    let ended = tutti.command(&["drain", "http://127.0.0.1:1"]);
    assert_eq!(ended.code, Some(1));
    for replica in &replicas {
        assert!(ended.stderr.contains(&replica.url()), "it names those that there are: {}", ended.stderr);
    }
    let ended = tutti.command(&["drain", "nonsense"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("write http://host:port"), "{}", ended.stderr);

    assert_eq!(drain(&tutti, &replicas[0], &[]).code, Some(0));
    assert_eq!(drain(&tutti, &replicas[0], &[]).code, Some(0), "it is already");
    let ended = drain(&tutti, &replicas[1], &[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("the last replica") && ended.stderr.contains("m:latest"), "{}", ended.stderr);
    assert_eq!(asked(&tutti), 200);

    assert_eq!(drain(&tutti, &replicas[1], &["--force"]).code, Some(0));
    let refused = tutti.ask("POST", "/v1/chat/completions", &chat());
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("no_replica")));
    assert_eq!(tutti.command(&["undrain", &replicas[1].url()]).code, Some(0));
    assert_eq!(asked(&tutti), 200);
}

#[test]
fn a_model_whose_only_replica_is_drained_is_not_unknown() {
    let other = simulator_with(Config::quick(Model::chat("other", 1 << 20)));
    let replicas = [simulator(), other];
    let urls = replicas.each_ref().map(Running::url);
    let named = "models:\n  - { name: m, revisions: [{ name: r, pool: p, upstream: m }] }\n";
    let tutti = Tutti::start(&format!("{}{named}", pool(&urls, "")));
    assert_eq!(asked(&tutti), 200);
    assert_eq!(drain(&tutti, &replicas[0], &[]).code, Some(1), "the other has it not");
    assert_eq!(drain(&tutti, &replicas[0], &["--force"]).code, Some(0));
    let refused = tutti.ask("POST", "/v1/chat/completions", &chat());
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("no_replica")));
    assert_eq!(count(&replicas[1]), 0);
}

#[test]
fn who_waits_for_a_replica_that_is_drained_goes_to_another() {
    let replicas = [simulator(), simulator()];
    let tutti = Tutti::start(&pool(&replicas.each_ref().map(Running::url), "expose: all\n    slots: 1"));
    replicas.iter().for_each(|replica| replica.set_fault(Some((Fault::Stall, Scope::Inference))));
    let mut streams = [(); 2].map(|()| {
        let mut stream = tutti.begin("/api/chat", &chat());
        assert_eq!(stream.head().ok().map(|head| head.status), Some(200));
        (replicas[0].in_flight() == 1, stream)
    });
    // The first stream may have begun at either.
    streams.sort_by_key(|(first, _)| !first);
    replicas.iter().for_each(|replica| replica.set_fault(None));
    let mut waits = tutti.begin("/api/chat", &chat());
    eventually("it waits", || (tutti.metric("tutti_requests_queued", &[]) == 1.0).then_some(()));
    assert_eq!(drain(&tutti, &replicas[0], &["--no-wait"]).code, Some(0));
    let before = count(&replicas[0]);
    drop(streams);
    assert_eq!(waits.answer().ok().map(|answer| answer.status), Some(200));
    assert_eq!(count(&replicas[0]), before);
}

#[test]
fn the_admin_port_changes_nothing_without_the_token_or_by_a_get() {
    let replicas = [simulator(), simulator()];
    let tutti = Tutti::before(&replicas.each_ref().map(Running::url));
    let mut client = Client::connect(&tutti.admin()).unwrap();
    let path = format!("/drain?replica={}", replicas[0].url());
    assert_eq!(client.ask("POST", &path, &[], "").status, 401);
    let token = format!("Bearer {}", std::fs::read_to_string(tutti.token_file()).unwrap().trim());
    assert_eq!(client.ask("GET", &path, &[("authorization", &token)], "").status, 405);
    assert_eq!(state(&tutti, &replicas[0]), "reachable");
    assert_eq!(client.ask("POST", &path, &[("authorization", &token)], "").status, 200);
    assert_eq!(state(&tutti, &replicas[0]), "DRAINED");
    assert_eq!(client.ask("POST", "/status", &[("authorization", &token)], "").status, 405);
}
