//! How a gateway ends: nothing that has come is lost, and nobody is left without a word.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Running, Scope};
use tutti_tests::{Client, Http2, PATIENCE, Tutti, eventually, pool, quick, reached, simulator, simulator_with};

fn chat(content: &str, stream: bool) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": content }], "stream": stream }).to_string()
}

fn slow(answer_tokens: u32) -> Running {
    let machine = Machine { token_time: Duration::from_millis(20), ..Machine::instant() };
    simulator_with(Config { machine, answer_tokens, ..quick() })
}

fn gateway(spec: &str, replica: &Running, fields: &str) -> Tutti {
    Tutti::start(&format!("gateway: {{ {spec} }}\n{}", pool(&[replica.url()], &format!("expose: all\n    {fields}"))))
}

fn ops(tutti: &Tutti) -> u16 {
    Client::connect(&tutti.ops()).expect("a connection").ask("GET", "/readyz", &[], "").status
}

#[test]
fn it_says_that_it_is_not_ready_and_serves_on() {
    let replica = simulator();
    let mut tutti = gateway("shutdownDelay: 1h", &replica, "");
    let mut kept = tutti.client();
    assert_eq!(kept.ask("POST", "/api/chat", &[], &chat("hi", false)).header("connection"), None);
    assert_eq!((ops(&tutti), tutti.metric("tutti_ready", &[])), (200, 1.0));
    tutti.signal(Signal::TERM);
    eventually("not ready", || (ops(&tutti) == 503).then_some(()));
    assert_eq!(tutti.metric("tutti_ready", &[]), 0.0);
    assert_eq!(tutti.ask("GET", "/readyz", "").status, 503);
    // On a new connection as on an old one, whose last answer it is.
    for client in [&mut tutti.client(), &mut kept] {
        let answer = client.ask("POST", "/api/chat", &[], &chat("hi", false));
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{}", answer.text());
        assert!(client.closed_within(PATIENCE));
    }
    let mut http2 = Http2::connect(&tutti.listen());
    for _ in 0..2 {
        let (status, headers, _) = http2.ask("POST", "/api/chat", &[], &chat("hi", false));
        assert_eq!((status, headers.get("connection")), (200, None));
    }
    tutti.signal(Signal::TERM); // the second ends at once
    assert_eq!(tutti.wait_ended(), Some(0));
}

#[test]
fn the_delay_ends_by_itself_and_then_the_port_is_closed() {
    let replica = slow(100);
    let mut tutti = gateway("shutdownDelay: 300ms", &replica, "");
    let mut streams = tutti.begin("/api/chat", &chat("hi", true)); // for two seconds
    assert_eq!(streams.head().unwrap().status, 200);
    let address = tutti.listen();
    tutti.signal(Signal::TERM);
    eventually("no connection is taken", || TcpStream::connect(&address).is_err().then_some(()));
    let last = streams.last_chunk();
    assert!(String::from_utf8_lossy(&last).contains("\"done\":true"), "the stream ended whole");
    assert_eq!(tutti.wait_ended(), Some(0));
}

#[test]
fn a_request_that_is_on_its_way_on_an_idle_connection_is_answered() {
    let replica = slow(50);
    let mut tutti = gateway("drain: 1h", &replica, "");
    let (mut idle, mut streams) = (tutti.client(), tutti.client());
    assert_eq!(idle.ask("GET", "/healthz", &[], "").status, 200);
    streams.send("POST", "/api/chat", &[], &chat("hi", true)).unwrap();
    assert_eq!(streams.head().unwrap().header("connection"), None, "it is to be kept");
    tutti.signal(Signal::TERM);
    tutti.wait_said("draining");
    let answer = idle.ask("POST", "/api/chat", &[], &chat("hi", false));
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    // A stream that began before, and then the next request, at once.
    while !streams.chunk().unwrap().is_empty() {}
    let answer = streams.ask("POST", "/api/chat", &[], &chat("hi", false));
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(tutti.wait_ended(), Some(0));
}

#[test]
fn what_is_held_at_the_deadline_is_told() {
    let replica = slow(u32::MAX);
    let mut tutti = gateway("drain: 700ms", &replica, "slots: 2");
    let paths = ["/v1/chat/completions", "/api/chat"];
    let mut streams = paths.map(|path| {
        let mut client = tutti.begin(path, &chat("hi", true));
        assert_eq!(client.head().unwrap().status, 200);
        client
    });
    let mut waits = paths.map(|path| tutti.begin(path, &chat("waits", true)));
    let mut http2 = Http2::connect(&tutti.listen());
    let (waits2, _sent) = http2.send("POST", paths[0], &[], &chat("waits", false));
    eventually("all wait", || (tutti.metric("tutti_requests_queued", &[]) == 3.0).then_some(()));
    tutti.signal(Signal::TERM);
    for (client, path) in waits.iter_mut().zip(paths) {
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.header("x-should-retry")), (503, Some("true")), "{path}: {}", answer.text());
        assert!(answer.header("retry-after").is_some() && answer.header("connection") == Some("close"));
        assert_eq!(path == paths[0], answer.json()["error"]["code"] == "shutting_down", "{}", answer.text());
    }
    assert_eq!(http2.head(waits2).status(), 503);
    for (client, path) in streams.iter_mut().zip(paths) {
        let mut text = String::new();
        while let Ok(chunk) = client.chunk() {
            text += &String::from_utf8_lossy(&chunk);
            if chunk.is_empty() {
                break;
            }
        }
        assert!(!text.contains("[DONE]") && !text.contains("\"done\":true"), "{path}: no success");
        let last = text.trim_end().lines().last().unwrap_or_default().trim_start_matches("data: ");
        let last: Value = serde_json::from_str(last).unwrap_or_default();
        let error = if path == paths[0] { &last["error"]["message"] } else { &last["error"] };
        assert!(error.as_str().is_some_and(|error| error.contains("shutting down")), "{path}: {last}");
    }
    assert_eq!(tutti.wait_ended(), Some(0));
    tutti.wait_said("ended with requests that had not");
    let codes = tutti.logged().iter().filter(|line| line["code"] == "shutting_down").count();
    assert_eq!(codes, 5, "{:?}", tutti.logged());
}

#[test]
fn streams_over_http2_are_told_too_and_their_client_hears_that_it_ends() {
    let replica = slow(u32::MAX);
    let mut tutti = gateway("drain: 700ms", &replica, "slots: 8");
    let mut client = Http2::connect(&tutti.listen());
    let sent: Vec<_> = (0..4).map(|_| client.send("POST", "/v1/chat/completions", &[], &chat("hi", true))).collect();
    let heads: Vec<_> = sent.into_iter().map(|(answer, stream)| (client.head(answer), stream)).collect();
    tutti.signal(Signal::TERM);
    for (head, _stream) in heads {
        let text = client.rest(head.into_body()).expect("it ends in order");
        assert!(text.trim_end().ends_with('}') && text.contains("shutting_down"), "{text}");
    }
    client.ends(); // GOAWAY
    assert_eq!(tutti.wait_ended(), Some(0));
}

#[test]
fn before_a_silent_replica_it_is_told_as_well() {
    let replica = simulator();
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let mut tutti = gateway("drain: 300ms", &replica, "");
    let mut client = tutti.begin("/v1/embeddings", r#"{"model":"e","input":"hi"}"#);
    reached(&replica, 1);
    tutti.signal(Signal::TERM);
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("shutting_down")));
    assert_eq!(tutti.wait_ended(), Some(0));
}

/// An address that takes connections and says nothing.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("{error}"));
    let url = listener.local_addr().map(|address| format!("http://{address}")).unwrap_or_default();
    (listener, url)
}

#[test]
fn a_signal_does_not_wait_for_a_change_or_a_start_that_hangs() {
    let replica = simulator();
    let (listener, url) = silent();
    let mut tutti = Tutti::before(&[replica.url()]);
    tutti.write_config(&pool(&[replica.url(), url.clone()], "expose: all"));
    let asked = listener.accept(); // the change is under way
    tutti.signal(Signal::TERM);
    assert_eq!(tutti.wait_ended(), Some(0));
    assert!(!tutti.has_said("the changed configuration is in force"));
    drop(asked);

    let mut tutti = Tutti::spawn(&["gateway", "--config", "tutti.yaml"], &pool(&[url], "expose: all"), &[]);
    let _asked = listener.accept();
    tutti.signal(Signal::TERM);
    assert_eq!(tutti.wait_ended(), Some(0));
    assert!(!tutti.has_said("tutti serves"));
}
