//! Clients that send, hold or wait for more than anybody should.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tutti_simulator::Config;
use tutti_simulator::engine::Machine;
use tutti_tests::{Client, PATIENCE, Tutti, eventually, inference, pool, quick, simulator, simulator_with};

const MIB: usize = 1 << 20;

fn chat(stream: bool) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": stream }).to_string()
}

/// A number of `/proc/PID/status`. Unit: bytes.
fn memory(tutti: &Tutti, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", tutti.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a line of memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") << 10
}

/// Sends a head, then pieces until the other side has had enough or a whole GiB has gone; yields what was answered.
fn gigabyte(tutti: &Tutti, head: &str, piece: &[u8]) -> String {
    let mut stream = TcpStream::connect(tutti.listen()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut reads = stream.try_clone().expect("another handle");
    let reader = std::thread::spawn(move || {
        let mut answer = Vec::new();
        let _ = reads.read_to_end(&mut answer); // it may be cut at last
        String::from_utf8_lossy(&answer).into_owned()
    });
    stream.write_all(head.as_bytes()).expect("the head goes out");
    for _ in 0..(1 << 30) / piece.len() {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    drop(stream);
    reader.join().expect("no panic")
}

#[test]
fn a_body_of_a_gigabyte_is_refused_and_takes_no_memory() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let announced = format!("POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", 1 << 30);
    let chunked = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = [format!("{MIB:x}\r\n").as_bytes(), &vec![b' '; MIB], b"\r\n"].concat();
    for (head, piece) in [(&*announced, &*vec![b' '; MIB]), (chunked, &*chunk)] {
        let answer = gigabyte(&tutti, head, piece);
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("33554432 bytes"), "{answer}");
    }
    assert_eq!(tutti.metric("tutti_limit_hits_total", &["limit=\"body\""]), 2.0);
    let most = memory(&tutti, "VmHWM:");
    assert!(most < 192 * MIB, "{most} bytes for bodies of at most 32 MiB");
    eventually("all given back", || (tutti.metric("tutti_buffered_body_bytes", &[]) == 0.0).then_some(()));
    assert_eq!(inference(&replica.seen()).len(), 0);
}

/// A client that sends all before it looks for an answer, as most do, must not lose the answer to a reset.
#[test]
fn a_refusal_before_the_body_is_heard_by_who_sends_it_all_first() {
    let tutti = Tutti::before(&[simulator().url()]);
    let body = " ".repeat(40 * MIB);
    for (path, status) in [("/api/chat", 413), ("/nowhere", 404), ("/api/pull", 403)] {
        let mut client = tutti.client();
        client.send("POST", path, &[], &body).unwrap_or_else(|error| panic!("{path}: {error}"));
        let answer = client.answer().unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!((answer.status, answer.complete), (status, true), "{path}");
        assert!(client.closed_within(PATIENCE));
    }
    let mut bomb = tutti.client();
    bomb.send("GET", "/healthz", &[("x", &"x".repeat(8 * MIB))], "").expect("all of the head goes out");
    assert_eq!(bomb.answer().expect("an answer").status, 431);
}

/// Its kernel opens its window now and then, and seldom enough to be taken for one that does not read.
#[test]
fn a_client_that_reads_a_byte_at_a_time_is_cut_and_its_replica_set_free() {
    let machine = Machine { token_time: Duration::from_micros(10), ..Machine::instant() };
    let replica = simulator_with(Config { machine, answer_tokens: u32::MAX, ..quick() });
    let limits = "gateway: { limits: { writeStall: 1s } }\n";
    let tutti = Tutti::start(&format!("{limits}{}", pool(&[replica.url()], "expose: all")));
    let mut stream = TcpStream::connect(tutti.listen()).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    set_socket_recv_buffer_size(&stream, 16 << 10).expect("a small buffer"); // which is full sooner
    let body = chat(true);
    let head = format!("POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).expect("the request goes out");
    eventually("it is cut", || {
        match stream.read(&mut [0]) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Some(()),
            _ => {}
        }
        (tutti.metric("tutti_limit_hits_total", &["limit=\"write_stall\""]) == 1.0).then_some(())
    });
    assert!(replica.wait(PATIENCE, |seen| inference(seen).first()?.ended_early.map(|_| ())).is_some());
    eventually("nothing in flight", || (tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
}

/// As many idle connections as files allow, 10,000 at most: the gateway takes somewhat less than half of what it may open
/// (`serve/files.rs`).
fn crowd() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    assert!(raised.is_ok(), "{raised:?}");
    let files = maximum.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    10_000.min((files - 64) / 32 * 15 - 100)
}

#[test]
fn ten_thousand_idle_connections_cost_little_keep_nobody_out_and_are_closed() {
    let replica = simulator();
    let limits = "gateway: { limits: { headerTimeout: 5s } }\n";
    let tutti = Tutti::start(&format!("{limits}{}", pool(&[replica.url()], "expose: all")));
    assert_eq!(tutti.ask("POST", "/api/chat", &chat(false)).status, 200);
    let (crowd, before) = (crowd(), memory(&tutti, "VmRSS:"));
    let mut idle: Vec<TcpStream> =
        (0..crowd).map(|_| TcpStream::connect(tutti.listen()).expect("a connection")).collect();
    eventually("all are there", || (tutti.metric("tutti_connections ", &[]) >= crowd as f64).then_some(()));
    for _ in 0..20 {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(false)).status, 200);
    }
    let each = memory(&tutti, "VmRSS:").saturating_sub(before) / crowd;
    println!("{crowd} idle connections of {each} bytes each");
    assert!(each < 16 << 10, "{each} bytes a connection, sockets not counted");
    assert_eq!(tutti.metric("tutti_limit_hits_total", &["limit=\"connections\""]), 0.0);
    assert_eq!(tutti.metric("tutti_limit_hits_total", &["limit=\"files\""]), 0.0);
    for stream in &mut idle {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert_eq!(stream.read(&mut [0]).expect("it is closed, not reset"), 0);
    }
    eventually("none is left", || (tutti.metric("tutti_connections ", &[]) == 0.0).then_some(()));
    assert_eq!(tutti.metric("tutti_limit_hits_total", &["limit=\"header_timeout\""]), 0.0, "to lie idle is no fault");
    assert!(Client::connect(&tutti.listen()).is_ok());
}

/// The same over HTTP/2, where a stream that is reset behind its answer is an error without one to curl 7.88.
#[test]
fn a_refusal_before_the_body_is_heard_over_http2() {
    let tutti = Tutti::before(&[simulator().url()]);
    let (small, large) = (" ".repeat(2000), " ".repeat(40 * MIB));
    for (path, body, status) in [("/nowhere", &small, "404"), ("/nowhere", &large, "404"), ("/api/chat", &large, "413")]
    {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--http2-prior-knowledge", "--data-binary", "@-"]);
        curl.args(["-o", "/dev/null", "-w", "%{http_code}", &format!("http://{}{path}", tutti.listen())]);
        let mut curl = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("curl");
        curl.stdin.take().expect("a pipe").write_all(body.as_bytes()).expect("it is taken");
        let output = curl.wait_with_output().expect("it ends");
        assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stdout)), (Some(0), status), "{path}");
    }
}
