//! Clients' connections: those that end behind bytes that nobody reads yet, more than may be, and half a head.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::json;
use tutti_simulator::{Fault, Scope};
use tutti_tests::{Client, PATIENCE, Tutti, eventually, inference, pool, reached, simulator};

/// What a client may have sent when it leaves, behind a request that is not answered yet.
const TAILS: [&str; 3] = ["\r\n", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", "GET /hea"];

fn chat(content: &str) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": content }] }).to_string()
}

fn queued(tutti: &Tutti, count: f64) {
    eventually(&format!("{count} queued"), || (tutti.metric("tutti_requests_queued", &[]) == count).then_some(()));
}

#[test]
fn a_client_that_leaves_behind_unread_bytes_is_noticed() {
    let replica = simulator();
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    for tail in TAILS {
        for together in [true, false] {
            let tutti = Tutti::before(&[replica.url()]);
            let before = inference(&replica.seen()).len();
            let mut client = tutti.client();
            let body = chat("hi");
            let length = body.len();
            let head = format!("POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
            if together {
                client.send_raw(format!("{head}{body}{tail}").as_bytes()).unwrap();
                reached(&replica, before + 1);
            } else {
                client.send_raw(format!("{head}{body}").as_bytes()).unwrap();
                reached(&replica, before + 1);
                client.send_raw(tail.as_bytes()).unwrap();
            }
            drop(client);
            replica
                .wait(PATIENCE, |seen| inference(seen).last()?.ended_early.map(|_| ()))
                .unwrap_or_else(|| panic!("{tail:?}, together: {together}: the replica does not see it"));
            let line = tutti.wait_logged("cancelled", |line| line["outcome"] == "cancelled");
            assert_eq!(line["phase"], "waiting", "{line}");
        }
    }
}

#[test]
fn queued_behind_unread_bytes_it_is_never_dispatched() {
    let replica = simulator();
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1"));
    let holds = tutti.begin("/api/chat", &chat("holds"));
    reached(&replica, 1);
    for tail in TAILS {
        let mut leaves = tutti.begin("/api/chat", &chat("leaves"));
        queued(&tutti, 1.0);
        leaves.send_raw(tail.as_bytes()).unwrap();
        drop(leaves);
        queued(&tutti, 0.0);
    }
    let mut stays = tutti.begin("/api/chat", &chat("stays"));
    queued(&tutti, 1.0);
    replica.set_fault(None);
    drop(holds);
    assert_eq!(stays.answer().unwrap().status, 200);
    let seen = reached(&replica, 2);
    assert!(!seen.iter().any(|seen| String::from_utf8_lossy(&seen.body).contains("leaves")));
}

#[test]
fn no_more_connections_are_open_than_may_be() {
    let replica = simulator();
    let limit = "gateway: { limits: { connections: 10 } }\n";
    let tutti = Tutti::start(&format!("{limit}{}", pool(&[replica.url()], "expose: all")));
    let clients: Vec<_> = (0..300).map(|_| tutti.client()).collect();
    eventually("all others refused", || {
        (tutti.metric("tutti_limit_hits_total", &["limit=\"connections\""]) == 290.0).then_some(())
    });
    assert_eq!(tutti.metric("tutti_connections ", &[]), 10.0); // the blank: not those refused
    drop(clients);
    eventually("room again", || (tutti.metric("tutti_connections ", &[]) == 0.0).then_some(()));
    assert_eq!(tutti.ask("GET", "/healthz", "").status, 200);
}

#[test]
fn half_a_head_does_not_hold_a_drain() {
    let replica = simulator();
    let mut tutti = Tutti::start(&format!("gateway: {{ drain: 60s }}\n{}", pool(&[replica.url()], "expose: all")));
    let (mut first, mut second) = (tutti.client(), tutti.client());
    assert_eq!(second.ask("GET", "/healthz", &[], "").status, 200);
    for client in [&mut first, &mut second] {
        client.send_raw(b"GET / HTTP/1.1\r\nHo").unwrap();
    }
    tutti.signal(Signal::TERM);
    assert_eq!(tutti.wait_ended(), Some(0)); // in less time than a drain may take
    assert!(first.closed_within(PATIENCE) && second.closed_within(PATIENCE));
}

#[test]
fn a_gateway_without_files_does_not_blame_its_replicas() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let (mut client, mut ops) = (tutti.client(), Client::connect(&tutti.ops()).unwrap());
    for client in [&mut client, &mut ops] {
        assert_eq!(client.ask("GET", "/healthz", &[], "").status, 200);
    }
    let pid = Pid::from_raw(i32::try_from(tutti.pid()).unwrap());
    let maximum = getrlimit(Resource::Nofile).maximum;
    let files = |current| prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap().current;
    assert_eq!(files(Some(3)), maximum, "as many as it may"); // those that are open stay so
    let answer = client.ask("POST", "/v1/chat/completions", &[], &chat("hi"));
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (503, Some("overloaded")),
        "{}",
        answer.text()
    );
    let metrics = ops.ask("GET", "/metrics", &[], "").text();
    let reachable = metrics.lines().find(|line| line.starts_with("tutti_replica_reachable{"));
    assert!(reachable.is_some_and(|line| line.ends_with(" 1")), "{reachable:?}");
    files(maximum);
    assert_eq!(client.ask("POST", "/v1/chat/completions", &[], &chat("hi")).status, 200);
}

#[test]
fn idle_connections_go_when_files_run_out() {
    let (first, second) = (simulator(), simulator());
    let pools = format!(
        "pools:\n  - {{ name: a, endpoints: [{{ url: \"{}\" }}] }}\n  - {{ name: b, endpoints: [{{ url: \"{}\" }}] }}\n",
        first.url(),
        second.url()
    );
    let models = "models:\n  - { name: m, revisions: [{ name: r, pool: a, upstream: m }] }\n  \
                  - { name: other, revisions: [{ name: r, pool: b, upstream: m }] }\n";
    let tutti = Tutti::start(&(pools + models));
    // At once, so that each gets a connection to the replica of its own.
    first.set_fault(Some((Fault::SlowFirstByte(Duration::from_secs(1)), Scope::Inference)));
    let mut clients: Vec<_> = (0..8).map(|_| tutti.client()).collect();
    for client in &mut clients {
        client.send("POST", "/v1/chat/completions", &[], &chat("hi")).unwrap();
    }
    reached(&first, 8);
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().status, 200);
    }
    let pid = Pid::from_raw(i32::try_from(tutti.pid()).unwrap());
    // The lowest number that is free: what is opened next takes that of one that has gone.
    let free = (0..).find(|file| !Path::new(&format!("/proc/{}/fd/{file}", tutti.pid())).exists());
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: free, maximum }).unwrap();
    let answer = clients[0].ask("POST", "/v1/chat/completions", &[], &chat("hi").replace("\"m\"", "\"other\""));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn the_ops_port_keeps_nobody_for_ever_and_has_so_many_places() {
    let tutti = Tutti::before(&[simulator().url()]);
    let connect = || Client::connect(&tutti.ops()).unwrap();
    let mut silent: Vec<_> = (0..256).map(|_| connect()).collect();
    silent[0].send_raw(b"GET / HTTP/1.1\r\nHo").unwrap();
    assert_eq!(connect().ask("GET", "/healthz", &[], "").status, 200);
    // There was a place only once the others were cut.
    assert!(silent.iter_mut().any(|client| client.closed_within(Duration::from_millis(1))));
    assert!(silent.iter_mut().all(|client| client.closed_within(PATIENCE)));
}

#[test]
fn heads_that_are_none_or_too_long_are_refused_and_counted() {
    let tutti = Tutti::before(&[simulator().url()]);
    let get = |lines: &str| {
        let mut client = tutti.client();
        client.send_raw(format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n").as_bytes()).unwrap();
        client.answer().unwrap().status
    };
    assert_eq!(get(&format!("x: {}\r\n", "x".repeat(32_000))), 200);
    assert_eq!(get(&format!("x: {}\r\n", "x".repeat(33_000))), 431, "limits.header is 32Ki");
    assert_eq!(get(&"x: x\r\n".repeat(101)), 431);
    assert_eq!(get("x y: z\r\n"), 400);
    eventually("counted", || (tutti.metric("tutti_heads_refused_total", &[]) == 3.0).then_some(()));
    assert_eq!(tutti.metric("tutti_limit_hits_total", &["limit=\"header\""]), 2.0);
    assert_eq!(tutti.wait_said("the head of a request is refused")["fields"]["client"], "127.0.0.1");
}
