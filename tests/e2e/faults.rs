//! Replicas that fail in each way they can.

use std::io::{Read, Write};
use std::time::Duration;

use serde_json::{Value, json};
use tutti_simulator::{Config, Fault, Running, Scope, Simulator};
use tutti_tests::{Answer, PATIENCE, Tutti, eventually, inference, pool, quick, simulator, simulator_with};

fn chat(stream: bool) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": stream }).to_string()
}

/// A gateway before a replica that meets every inference request with this fault, and has little patience.
fn before(fault: Fault) -> (Running, Tutti) {
    let replica = simulator();
    replica.set_fault(Some((fault, Scope::Inference)));
    let fields = "expose: all\n    timeouts: { connect: 1s, firstByte: 300ms, idle: 300ms }";
    let tutti = Tutti::start(&pool(&[replica.url()], fields));
    (replica, tutti)
}

/// The answers to a chat in both dialects; all is free again afterwards.
fn asked(fault: Fault, stream: bool) -> [Answer; 2] {
    let (_replica, tutti) = before(fault);
    let answers = ["/v1/chat/completions", "/api/chat"].map(|path| tutti.ask("POST", path, &chat(stream)));
    eventually("nothing in flight", || (tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
    eventually("a line each", || (tutti.logged().len() == 2).then_some(()));
    answers
}

#[test]
fn before_an_answer_it_is_an_error_with_a_name() {
    for (fault, status, code) in [
        (Fault::Silent, 504, "upstream_timeout"),
        (Fault::Garbage, 502, "upstream_error"),
        (Fault::CloseBeforeHeader, 502, "upstream_error"),
    ] {
        for stream in [true, false] {
            let [openai, ollama] = asked(fault, stream);
            assert_eq!((openai.status, openai.json()["error"]["code"].as_str()), (status, Some(code)), "{fault:?}");
            assert_eq!(ollama.status, status, "{fault:?}");
            assert!(ollama.json()["error"].is_string(), "{fault:?}");
            assert_eq!(openai.header("x-should-retry"), Some("true"));
        }
    }
}

#[test]
fn a_whole_answer_is_never_cut_short_under_a_good_status() {
    for (fault, status) in [(Fault::CloseAfterHeader, 502), (Fault::BreakMidToken, 502), (Fault::Stall, 504)] {
        for answer in asked(fault, false) {
            assert_eq!((answer.status, answer.complete), (status, true), "{fault:?}: {}", answer.text());
        }
    }
}

#[test]
fn a_broken_stream_never_ends_like_a_success() {
    for fault in [Fault::CloseAfterHeader, Fault::BreakMidToken, Fault::Stall, Fault::ErrorMidStream] {
        let [openai, ollama] = asked(fault, true);
        let lines = openai.lines();
        assert!(!lines.iter().any(|line| line == "[DONE]"), "{fault:?}: {lines:?}");
        let parsed = |line: &String| serde_json::from_str::<Value>(line).unwrap_or_default();
        let error = lines.iter().map(parsed).find(|line| line["error"].is_object());
        assert!(error.is_some_and(|error| error["error"]["code"] == "stream_interrupted"), "{fault:?}: {lines:?}");
        let lines: Vec<Value> = ollama.lines().iter().map(parsed).collect();
        assert!(lines.iter().all(|line| line["done"] != true), "{fault:?}: {lines:?}");
        assert!(lines.last().is_some_and(|line| line["error"].is_string()), "{fault:?}: {}", ollama.text());
    }
}

/// A replica made by hand: lists `m`, answers a chat with this piece of a stream, and leaves the connection open.
fn by_hand(piece: &str) -> String {
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{piece}\r\n", piece.len());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("{error}"));
    let url = listener.local_addr().map(|address| format!("http://{address}")).unwrap_or_default();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 65536];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    let list = r#"{"version":"0","models":[{"name":"m"}]}"#;
                    let answer = match bytes[..read].starts_with(b"POST") {
                        true => answer.clone(),
                        false => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{list}", list.len()),
                    };
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
        }
    });
    url
}

#[test]
fn a_stream_that_has_ended_well_stays_well_whatever_comes_of_its_connection() {
    let url = by_hand("{\"model\":\"m\",\"done\":true}\n");
    let fields = "expose: all\n    slots: 1\n    timeouts: { idle: 300ms }";
    let tutti = Tutti::start(&pool(&[url], fields));
    let mut first = tutti.begin("/api/chat", &chat(true));
    assert_eq!(first.head().unwrap().status, 200);
    assert!(!first.chunk().unwrap().is_empty());
    // Its slot is free although its replica has not said that nothing follows.
    eventually("nothing in flight", || (tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
    assert_eq!(first.chunk().unwrap(), b"", "no error after the end");
    assert_eq!(tutti.wait_logged("its line", |line| line["api"] == "/api/chat")["outcome"], "ok");
}

#[test]
fn what_a_replica_says_is_for_the_client_and_not_for_the_log() {
    let url = by_hand("{\"error\":\"boom SECRET\"}\n");
    let tutti = Tutti::start(&pool(&[url], "expose: all"));
    assert!(tutti.ask("POST", "/api/chat", &chat(true)).text().contains("boom SECRET"));
    tutti.ask("POST", "/models/m/api/SECRET", "");
    let line = tutti.wait_logged("the stream's", |line| line["api"] == "/api/chat");
    assert_eq!(line["code"], "stream_interrupted");
    tutti.wait_logged("the other", |line| line["status"] == 404);
    assert!(!format!("{:?}", tutti.logged()).contains("SECRET"));
}

#[test]
fn what_the_replica_itself_answers_goes_through() {
    for answer in asked(Fault::RunnerDied, true) {
        assert_eq!(answer.status, 500);
    }
    let [openai, ollama] = asked(Fault::Busy, true);
    assert_eq!((openai.status, ollama.status), (503, 503), "a lone replica: nobody else to ask");
    assert!(ollama.text().contains("server busy"));
}

#[test]
fn a_busy_or_dead_replicas_request_goes_to_another_once() {
    let (busy, good) = (simulator(), simulator());
    busy.set_fault(Some((Fault::Busy, Scope::Inference)));
    let tutti = Tutti::before(&[busy.url(), good.url()]);
    for _ in 0..4 {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(false)).status, 200);
    }
    assert!(tutti.metric("tutti_retries_total", &[]) >= 1.0);
    busy.kill();
    for _ in 0..4 {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(true)).status, 200);
    }
    good.set_fault(Some((Fault::Busy, Scope::Inference)));
    assert_eq!(tutti.ask("POST", "/api/chat", &chat(false)).status, 503);
}

#[test]
fn a_model_that_its_replica_misses_is_asked_for_once_more() {
    let (misses, good) = (simulator(), simulator());
    misses.set_fault(Some((Fault::Missing, Scope::Inference)));
    let tutti = Tutti::before(&[misses.url(), good.url()]);
    for _ in 0..4 {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(false)).status, 200);
    }
    assert_eq!(tutti.metric("tutti_retries_total", &[]), inference(&misses.seen()).len() as f64);
    let (lone, tutti) = before(Fault::Missing);
    assert_eq!(tutti.ask("POST", "/api/chat", &chat(false)).status, 404);
    assert_eq!(inference(&lone.seen()).len(), 2, "the same one, once more");
}

#[test]
fn what_may_have_been_done_is_not_done_again() {
    let (breaks, good) = (simulator(), simulator());
    for replica in [&breaks, &good] {
        replica.set_fault(Some((Fault::CloseBeforeHeader, Scope::Inference)));
    }
    let tutti = Tutti::before(&[breaks.url(), good.url()]);
    assert_eq!(tutti.ask("POST", "/api/chat", &chat(false)).status, 502);
    assert_eq!(inference(&breaks.seen()).len() + inference(&good.seen()).len(), 1);
}

#[test]
fn a_killed_replica_is_used_again_when_it_is_back() {
    let (mut replica, other) = (simulator(), simulator());
    let tutti = Tutti::start(&pool(&[replica.url(), other.url()], "expose: all\n    slots: 1"));
    let address = replica.addr();
    for _ in 0..2 {
        // Killed in the middle of a stream: that client is told, and nobody else notices.
        replica.set_fault(Some((Fault::Stall, Scope::Inference)));
        other.set_fault(Some((Fault::Stall, Scope::Inference)));
        let works = || inference(&replica.seen()).iter().any(|seen| seen.finished.is_none());
        let mut streams = [(); 2].map(|()| {
            let mut stream = tutti.begin("/api/chat", &chat(true));
            assert_eq!(stream.head().unwrap().status, 200);
            (works(), stream)
        });
        streams.sort_by_key(|(works, _)| !works); // the stream that the replica works on goes first
        other.set_fault(None);
        replica.kill();
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains("\"error\"") {
            text.extend(streams[0].1.chunk().unwrap());
        }
        drop(streams);
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(false)).status, 200);
        replica = Simulator::start(Config { listen: address, ..quick() }).unwrap();
        let answered = eventually("work for the replica that is back", || {
            tutti.ask("POST", "/api/chat", &chat(false));
            inference(&replica.seen()).into_iter().find(|seen| seen.status == Some(200))
        });
        assert_eq!(answered.path, "/api/chat");
    }
}

#[test]
fn with_all_replicas_gone_it_says_so_and_recovers() {
    let replica = simulator();
    let address = replica.addr();
    let tutti = Tutti::before(&[replica.url()]);
    assert_eq!(tutti.ask("POST", "/api/chat", &chat(false)).status, 200);
    replica.kill();
    let answer = tutti.ask("POST", "/v1/chat/completions", &chat(true));
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (503, Some("no_replica")),
        "{}",
        answer.text()
    );
    assert!(answer.header("retry-after").is_some());
    assert_eq!(tutti.ask("GET", "/readyz", "").status, 200, "ready is a gateway that answers, not its replicas");
    let _replica = simulator_with(Config { listen: address, ..quick() });
    eventually("an answer again", || (tutti.ask("POST", "/api/chat", &chat(false)).status == 200).then_some(()));
}

#[test]
fn a_gateway_that_starts_before_its_replicas_finds_them() {
    let address = simulator().addr(); // free again at once
    let tutti = Tutti::before(&[format!("http://{address}")]);
    let answer = tutti.ask("POST", "/api/chat", &chat(false));
    assert_eq!(answer.status, 503, "nobody can know what it has: {}", answer.text());
    let _replica = simulator_with(Config { listen: address, ..quick() });
    eventually("an answer", || (tutti.ask("POST", "/api/chat", &chat(false)).status == 200).then_some(()));
}

#[test]
fn a_replica_that_takes_no_connection_is_given_up_in_time() {
    // A listener whose queue is full answers nothing to a connection.
    let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let address = full.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        fillers.push(filler);
        assert!(fillers.len() < 100, "the listener's queue never fills");
    }
    let good = simulator();
    let fields = "expose: all\n    timeouts: { connect: 100ms }";
    let tutti = Tutti::start(&pool(&[format!("http://{address}"), good.url()], fields));
    for _ in 0..3 {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(false)).status, 200);
    }
    assert!(good.wait(PATIENCE, |seen| (inference(seen).len() == 3).then_some(())).is_some());
    let named = "models:\n  - { name: m, revisions: [{ name: r, pool: p, upstream: m }] }\n";
    let alone =
        Tutti::start(&format!("{}{named}", pool(&[format!("http://{address}")], "timeouts: { connect: 100ms }")));
    let refused = alone.ask("POST", "/api/chat", &chat(false));
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("no connection within 100ms"), "{}", refused.text());
}
