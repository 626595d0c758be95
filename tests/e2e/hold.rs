//! Clients that wait for long: what they hear meanwhile, and a pool that has no replica yet.

use serde_json::json;
use tutti_simulator::{Fault, Running, Scope};
use tutti_tests::{Client, Tutti, eventually, pool, reached, simulator};

fn chat(stream: bool) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": stream }).to_string()
}

/// One that holds the only slot for as long as it is there.
fn holds(tutti: &Tutti, replica: &Running) -> Client {
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let mut client = tutti.client();
    client.send("POST", "/api/chat", &[], &chat(false)).expect("a request that is sent");
    reached(replica, 1);
    client
}

fn asks(tutti: &Tutti, path: &str) -> Client {
    let before = tutti.metric("tutti_requests_queued", &[]);
    let mut client = tutti.client();
    client.send("POST", path, &[], &chat(true)).expect("a request that is sent");
    eventually("it waits", || (tutti.metric("tutti_requests_queued", &[]) > before).then_some(()));
    client
}

fn text(chunk: &[u8]) -> &str {
    std::str::from_utf8(chunk).expect("text")
}

#[test]
fn who_waits_for_a_stream_of_events_hears_so_and_then_has_it() {
    let replica = simulator();
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1"));
    let holds = holds(&tutti, &replica);
    let mut lines = asks(&tutti, "/api/chat");
    let mut events = asks(&tutti, "/v1/chat/completions");
    let head = events.head().unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    assert!(head.header("x-request-id").is_some());
    assert_eq!(text(&events.chunk().unwrap()), ": waiting\n\n");
    replica.set_fault(None);
    drop(holds);
    let mut all = String::new();
    while !all.ends_with("data: [DONE]\n\n") {
        all.push_str(text(&events.chunk().unwrap()));
    }
    assert!(all.contains("chat.completion.chunk"), "{all}");
    let head = lines.head().unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/x-ndjson")));
    assert!(text(&lines.chunk().unwrap()).starts_with('{'), "every line of it is JSON");
    tutti.wait_logged("the one that heard that it waits", |line| {
        line["api"] == "/v1/chat/completions" && line["outcome"] == "ok" && line["status"] == 200
    });
}

#[test]
fn what_goes_wrong_after_a_comment_is_an_event_and_no_end() {
    let replica = simulator();
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1\n    queue: { wait: 12s }"));
    let _holds = holds(&tutti, &replica);
    let mut events = asks(&tutti, "/v1/chat/completions");
    assert_eq!(events.head().unwrap().status, 200);
    assert_eq!(text(&events.chunk().unwrap()), ": waiting\n\n");
    let mut rest = String::new();
    while let Ok(chunk) = events.chunk() {
        if chunk.is_empty() {
            break;
        }
        rest.push_str(text(&chunk));
    }
    assert!(rest.starts_with("data: {\"error\":") && rest.contains("queue_timeout"), "{rest}");
    assert!(!rest.contains("[DONE]"), "{rest}");
}

#[test]
fn the_replicas_own_error_is_an_event_too() {
    let replica = simulator();
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1"));
    let holds = holds(&tutti, &replica);
    let mut events = asks(&tutti, "/v1/chat/completions");
    assert_eq!(events.head().unwrap().status, 200);
    assert_eq!(text(&events.chunk().unwrap()), ": waiting\n\n");
    replica.set_fault(Some((Fault::RunnerDied, Scope::Inference)));
    drop(holds);
    let event = events.chunk().unwrap();
    assert!(
        text(&event).starts_with("data: {\"error\":") && text(&event).contains("upstream_error"),
        "{}",
        text(&event)
    );
    tutti.wait_logged("that it failed", |line| {
        line["api"] == "/v1/chat/completions" && line["code"] == "upstream_error" && line["status"] == 200
    });
}

#[test]
fn who_leaves_after_a_comment_leaves_the_queue() {
    let replica = simulator();
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1"));
    let _holds = holds(&tutti, &replica);
    let mut events = asks(&tutti, "/v1/chat/completions");
    assert_eq!(events.head().unwrap().status, 200);
    drop(events);
    eventually("nobody waits", || (tutti.metric("tutti_requests_queued", &[]) == 0.0).then_some(()));
    assert_eq!(replica.seen().iter().filter(|seen| seen.path == "/v1/chat/completions").count(), 0);
}

/// A pool whose replicas a file names, of which there are none, and another such with a model of the same name.
fn asleep(cold_wait: &str) -> (tempfile::TempDir, Tutti) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("replicas");
    let none = folder.path().join("none");
    for file in [&file, &none] {
        std::fs::write(file, "# none\n").expect("a file");
    }
    let pool = |name: &str, file: &std::path::Path| {
        format!(
            "  - {{ name: {name}, endpoints: [{{ file: \"{}\" }}], queue: {{ coldWait: {cold_wait} }} }}\n",
            file.display()
        )
    };
    let model = |name: &str, pool: &str| {
        format!("  - {{ name: {name}, revisions: [{{ name: v1, pool: {pool}, upstream: m }}] }}\n")
    };
    let (pools, models) = (pool("p", &file) + &pool("q", &none), model("m", "p") + &model("other", "q"));
    let tutti = Tutti::start(&format!("pools:\n{pools}models:\n{models}"));
    (folder, tutti)
}

#[test]
fn a_pool_without_a_replica_is_waited_for() {
    let (folder, tutti) = asleep("5m");
    let mut client = asks(&tutti, "/api/chat");
    let replica = simulator();
    std::fs::write(folder.path().join("replicas"), format!("{}\n", replica.url())).unwrap();
    assert_eq!(client.head().map(|head| head.status).ok(), Some(200));
}

#[test]
fn and_no_longer_than_it_may_take() {
    let (_folder, tutti) = asleep("1s");
    let answer = tutti.ask("POST", "/v1/chat/completions", &chat(false));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("no_replica")), "{}", answer.text());
}
