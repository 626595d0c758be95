//! What a client can take of the gateway, and that who goes too far is stopped, told and counted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use tutti_simulator::Config;
use tutti_simulator::engine::Machine;
use tutti_tests::{PATIENCE, Tutti, eventually, inference, pool, quick, simulator, simulator_with};

fn chat(stream: bool) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": stream }).to_string()
}

/// A gateway with these limits.
fn limited(limits: &str, replica: &str) -> Tutti {
    Tutti::start(&format!("gateway: {{ limits: {{ {limits} }} }}\n{}", pool(&[replica.to_owned()], "expose: all")))
}

fn hits(tutti: &Tutti, limit: &str, count: f64) {
    let label = format!("limit=\"{limit}\"");
    eventually(&format!("{limit} was hit"), || {
        (tutti.metric("tutti_limit_hits_total", &[&label]) == count).then_some(())
    });
}

/// Writes a byte at a time until the other side has had enough; yields what it answered.
fn trickle(tutti: &Tutti, head: &str, byte: u8) -> String {
    let connected = TcpStream::connect(tutti.listen()).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        stream.write_all(head.as_bytes())?;
        Ok(stream)
    });
    let mut stream = connected.unwrap_or_else(|error| panic!("cannot connect: {error}"));
    let (mut answer, mut bytes) = (Vec::new(), [0; 1024]);
    for _ in 0..PATIENCE.as_millis() / 20 {
        match stream.read(&mut bytes) {
            Ok(0) => return String::from_utf8_lossy(&answer).into_owned(),
            Ok(read) => answer.extend_from_slice(&bytes[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return String::from_utf8_lossy(&answer).into_owned(), // reset: it had closed before our last byte
        }
        let _ = stream.write_all(&[byte]);
    }
    panic!("a byte every 20 ms goes on for ever");
}

#[test]
fn a_head_of_a_byte_at_a_time_is_cut() {
    let replica = simulator();
    let tutti = limited("headerTimeout: 300ms", &replica.url());
    trickle(&tutti, "GET /healthz HTTP/1.1\r\nx: ", b'x');
    hits(&tutti, "header_timeout", 1.0);
    // One that only lies idle is closed and is no hit.
    let mut idle = tutti.client();
    assert_eq!(idle.ask("GET", "/healthz", &[], "").status, 200);
    assert!(idle.closed_within(PATIENCE));
    hits(&tutti, "header_timeout", 1.0);
}

#[test]
fn a_body_that_pauses_or_never_ends_is_refused() {
    let replica = simulator();
    let head = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n";
    let tutti = limited("bodyTimeout: 500ms", &replica.url());
    let answer = trickle(&tutti, head, b' ');
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("too slowly"), "{answer}");
    hits(&tutti, "body_timeout", 1.0);

    let tutti = limited("bodyPause: 300ms", &replica.url());
    let mut client = tutti.client();
    client.send_raw(head.as_bytes()).unwrap();
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (408, Some("1")));
    hits(&tutti, "body_pause", 1.0);
    assert_eq!(inference(&replica.seen()).len(), 0);
}

#[test]
fn a_client_that_does_not_read_is_cut_and_its_replica_set_free() {
    let machine = Machine { token_time: Duration::from_micros(10), ..Machine::instant() };
    let replica = simulator_with(Config { machine, answer_tokens: u32::MAX, ..quick() });
    let tutti = limited("writeStall: 500ms", &replica.url());
    let _reads_nothing = tutti.begin("/api/chat", &chat(true));
    hits(&tutti, "write_stall", 1.0);
    assert!(replica.wait(PATIENCE, |seen| inference(seen).first()?.ended_early.map(|_| ())).is_some());
    eventually("nothing in flight", || (tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
}

#[test]
fn what_is_too_large_too_deep_or_too_long_is_refused_by_name() {
    let replica = simulator();
    let tutti = limited("body: 100Ki", &replica.url());
    let deep = format!(r#"{{"model":"m","messages":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let long = json!({ "model": "m".repeat(257) }).to_string();
    let large = json!({ "model": "m", "prompt": "x".repeat(200 << 10) }).to_string();
    for (limit, body, status) in [("json_depth", deep, 400), ("model_name", long, 400), ("body", large, 413)] {
        assert_eq!(tutti.ask("POST", "/api/chat", &body).status, status, "{limit}");
        hits(&tutti, limit, 1.0);
    }
    assert_eq!(inference(&replica.seen()).len(), 0);
}

#[test]
fn unknown_models_make_no_labels_and_known_ones_so_many() {
    let models = ["a", "b", "c"].map(|name| tutti_simulator::Model::chat(name, 1 << 20));
    let replica = simulator_with(Config { models: models.to_vec(), ..quick() });
    let begun = Instant::now();
    let tutti = limited("labelValues: 2", &replica.url());
    for model in ["a", "b", "c"] {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(false).replace("\"m\"", &format!("\"{model}\""))).status, 200);
    }
    let mut client = tutti.client();
    for number in 0..1000 {
        let body = chat(false).replace("\"m\"", &format!("\"unknown-{number}\""));
        assert_eq!(client.ask("POST", "/api/chat", &[], &body).status, 404);
    }
    // The start asks for it once, a timer now and then, and who does not know a name once a second.
    let lists = replica.seen().iter().filter(|seen| seen.path == "/api/tags").count() as u64;
    assert!(lists <= 3 + begun.elapsed().as_secs() * 11 / 10, "the replica was asked {lists} times what it has");
    let value = |labels: &[&str]| tutti.metric("tutti_requests_total", labels);
    eventually("all counted", || (value(&["code=\"model_not_found\""]) == 1000.0).then_some(()));
    assert_eq!(value(&["unknown"]), 0.0);
    assert_eq!(value(&["model=\"(other)\""]), 1.0, "c, the third");
    hits(&tutti, "label_values", 1.0);
}
