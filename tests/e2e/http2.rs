//! HTTP/2: as curl speaks it, as a client that resets and waits in every way, and as one that means harm.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use h2::Reason;
use serde_json::{Value, json};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Running, Scope, Seen};
use tutti_tests::{
    Certificate, Files, Http2, PATIENCE, Tutti, eventually, inference, pool, quick, reached, simulator, simulator_with,
};

fn chat(content: &str, stream: bool) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": content }], "stream": stream }).to_string()
}

fn slow(answer_tokens: u32) -> Running {
    let machine = Machine { token_time: Duration::from_millis(5), ..Machine::instant() };
    simulator_with(Config { machine, answer_tokens, ..quick() })
}

fn hits(tutti: &Tutti, limit: &str) -> f64 {
    tutti.metric("tutti_limit_hits_total", &[&format!("limit=\"{limit}\"")])
}

#[test]
fn curl_speaks_it_over_tls_and_in_clear_on_the_port_of_http1() {
    let (replica, files) = (simulator(), Files::of(&Certificate::new("a")));
    let config = pool(&[replica.url()], "expose: all");
    let clear = Tutti::start(&config);
    let tls = Tutti::start(&format!("gateway: {{ {} }}\n{config}", files.yaml()));
    let ca = files.cert().display().to_string();
    for (tutti, scheme, http2) in [(&clear, "http", "--http2-prior-knowledge"), (&tls, "https", "--http2")] {
        for (version, stream, says) in [(http2, false, "2"), ("--http1.1", true, "1.1"), (http2, true, "2")] {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--max-time", "20", "--cacert", &ca, version, "-D", "-", "-w", "%{http_version}"]);
            curl.args(["-d", &chat("hi", stream), &format!("{scheme}://{}/v1/chat/completions", tutti.listen())]);
            let output = curl.output().expect("curl runs");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && said.starts_with(&format!("HTTP/{says} 200")), "{version}: {output:?}");
            let end = if stream { "[DONE]" } else { "}" };
            assert!(said.strip_suffix(says).is_some_and(|said| said.trim_end().ends_with(end)), "{said}");
            let head = said.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
            let hop = ["connection:", "transfer-encoding:", "keep-alive:"].iter().any(|name| head.contains(name));
            assert_eq!(hop, version == "--http1.1" && stream, "connection-specific headers are HTTP/1.1's: {head}");
        }
    }
}

#[test]
fn errors_and_pages_are_the_same_as_over_http1() {
    let tutti = Tutti::before(&[simulator().url()]);
    let mut client = Http2::connect(&tutti.listen());
    let (status, headers, body) = client.ask("POST", "/v1/chat/completions", &[], r#"{"model":"nope"}"#);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &body["error"]["code"], &headers["x-should-retry"]),
        (404, &json!("model_not_found"), &"false".parse().unwrap())
    );
    assert!(client.ask("GET", "/v1/models", &[], "").2.contains("\"m:latest\""));
    let (status, headers, body) = client.ask("HEAD", "/", &[], "");
    assert_eq!((status, &*body, &headers["content-length"]), (200, "", &"17".parse().unwrap()));
    // RFC 9113, 8.3.1
    assert_eq!(client.ask("GET", "/healthz", &[("host", "evil.example")], "").0, 400);
    let host = client.authority.clone();
    assert_eq!(client.ask("GET", "/healthz", &[("host", &host)], "").0, 200);
    client.authority = "evil.example".to_owned();
    assert_eq!(client.ask("GET", "/healthz", &[], "").0, 403);
}

/// The replica sees that its client has gone, and the log says in which phase.
fn noticed(tutti: &Tutti, replica: &Running, phase: &str) {
    let gone = |seen: &[Seen]| inference(seen).into_iter().find(|seen| seen.ended_early.is_some());
    replica.wait(PATIENCE, gone).expect("the replica sees that its client has gone");
    assert_eq!(tutti.wait_logged("cancelled", |line| line["outcome"] == "cancelled")["phase"], phase);
    eventually("no request in flight", || (tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
}

#[test]
fn a_reset_ends_the_work_before_the_header_and_in_the_stream() {
    let replica = simulator();
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let tutti = Tutti::before(&[replica.url()]);
    let mut client = Http2::connect(&tutti.listen());
    let (_answer, mut stream) = client.send("POST", "/api/chat", &[], &chat("hi", true));
    reached(&replica, 1);
    stream.send_reset(Reason::CANCEL);
    noticed(&tutti, &replica, "waiting");
    assert_eq!(client.ask("GET", "/healthz", &[], "").0, 200, "the connection stands");

    let replica = slow(u32::MAX);
    let tutti = Tutti::before(&[replica.url()]);
    let mut client = Http2::connect(&tutti.listen());
    let (answer, mut stream) = client.send("POST", "/v1/chat/completions", &[], &chat("hi", true));
    let mut body = client.head(answer).into_body();
    let first = client.runtime.block_on(async { tokio::time::timeout(PATIENCE, body.data()).await });
    assert!(first.is_ok_and(|data| data.is_some_and(|data| data.is_ok())));
    stream.send_reset(Reason::CANCEL);
    noticed(&tutti, &replica, "answering");
}

#[test]
fn a_reset_in_the_queue_leaves_it_and_is_never_dispatched() {
    let replica = simulator();
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1"));
    let queued = |count: f64| {
        eventually(&format!("{count} queued"), || (tutti.metric("tutti_requests_queued", &[]) == count).then_some(()));
    };
    let mut client = Http2::connect(&tutti.listen());
    let (_held, mut holds) = client.send("POST", "/api/chat", &[], &chat("holds", true));
    reached(&replica, 1);
    let (_left, mut leaves) = client.send("POST", "/api/chat", &[], &chat("leaves", true));
    queued(1.0);
    let (stays, _stream) = client.send("POST", "/api/chat", &[], &chat("stays", false));
    queued(2.0);
    leaves.send_reset(Reason::CANCEL);
    queued(1.0);
    assert_eq!(tutti.wait_logged("cancelled", |line| line["outcome"] == "cancelled")["phase"], "queued");
    replica.set_fault(None);
    holds.send_reset(Reason::CANCEL);
    assert_eq!(client.head(stays).status(), 200);
    assert!(!reached(&replica, 2).iter().any(|seen| String::from_utf8_lossy(&seen.body).contains("leaves")));
}

#[test]
fn a_connection_that_goes_ends_all_its_requests() {
    let replica = slow(u32::MAX);
    let tutti = Tutti::before(&[replica.url()]);
    let mut client = Http2::connect(&tutti.listen());
    let streams: Vec<_> = (0..20).map(|_| client.send("POST", "/api/chat", &[], &chat("hi", true))).collect();
    reached(&replica, 20);
    drop((client, streams));
    eventually("nothing in flight", || (tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
    eventually("20 lines", || (tutti.logged().len() == 20).then_some(()));
    assert!(tutti.logged().iter().all(|line| line["outcome"] == "cancelled"), "{:?}", tutti.logged());
}

#[test]
fn requests_of_a_connection_count_among_the_connections() {
    let replica = slow(u32::MAX);
    let limits = "gateway: { limits: { connections: 4, h2Streams: 7 } }\n";
    let tutti = Tutti::start(&format!("{limits}{}", pool(&[replica.url()], "expose: all")));
    let mut client = Http2::connect(&tutti.listen());
    let (answer, _stream) = client.send("POST", "/api/chat", &[], &chat("hi", true));
    let first = client.head(answer);
    assert_eq!(client.sender.current_max_send_streams(), 7);
    // The connection's own place, and three further ones.
    let rest: Vec<_> = (0..3).map(|_| client.send("POST", "/api/chat", &[], &chat("hi", true))).collect();
    reached(&replica, 4);
    let (status, headers, body) = client.ask("POST", "/v1/chat/completions", &[], &chat("hi", true));
    assert!(status == 503 && body.contains("overloaded") && headers.contains_key("retry-after"), "{status}: {body}");
    assert_eq!(hits(&tutti, "connections"), 1.0);
    drop((rest, first));
    eventually("room again", || (client.ask("GET", "/healthz", &[], "").0 == 200).then_some(()));
}

#[test]
fn a_client_that_takes_nothing_of_a_stream_loses_that_one() {
    let machine = Machine { token_time: Duration::from_micros(10), ..Machine::instant() };
    let replica = simulator_with(Config { machine, answer_tokens: 1 << 15, ..quick() });
    let limits = "gateway: { limits: { writeStall: 700ms } }\n";
    let tutti = Tutti::start(&format!("{limits}{}", pool(&[replica.url()], "expose: all")));
    let mut client = Http2::connect(&tutti.listen());
    // Neither of these is read, and so their windows stay as they are.
    let (stream, _sent) = client.send("POST", "/api/chat", &[], &chat("hi", true));
    let (whole, _sent) = client.send("POST", "/api/chat", &[], &chat("hi", false));
    let (stream, whole) = (client.head(stream), client.head(whole));
    assert_eq!(client.ask("GET", "/healthz", &[], "").0, 200, "others are served meanwhile");
    eventually("both stalled", || (hits(&tutti, "write_stall") == 2.0).then_some(()));
    for body in [stream.into_body(), whole.into_body()] {
        let error = client.rest(body).expect_err("it was reset");
        assert_eq!(error.reason(), Some(Reason::CANCEL), "{error}");
    }
    eventually("nothing in flight", || (tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
    eventually("no memory", || (tutti.metric("tutti_buffered_body_bytes", &[]) == 0.0).then_some(()));
    assert_eq!(client.ask("GET", "/healthz", &[], "").0, 200, "the connection stands");
}

#[test]
fn a_client_that_pauses_is_not_cut() {
    let replica = simulator_with(Config { answer_tokens: 1 << 13, ..quick() });
    let limits = "gateway: { limits: { writeStall: 700ms } }\n";
    let tutti = Tutti::start(&format!("{limits}{}", pool(&[replica.url()], "expose: all")));
    let mut client = Http2::connect(&tutti.listen());
    let (answer, _sent) = client.send("POST", "/v1/chat/completions", &[], &chat("hi", true));
    let mut body = client.head(answer).into_body();
    let text = client.runtime.block_on(async {
        let (mut text, mut pauses) = (Vec::new(), 0..30);
        while let Some(data) = body.data().await {
            let data = data.expect("it goes on");
            text.extend_from_slice(&data);
            body.flow_control().release_capacity(data.len()).expect("released");
            if text.len() > 1 << 16 && pauses.next().is_some() {
                // The window is full, and all pauses together are longer than it may take nothing.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        text
    });
    assert!(String::from_utf8_lossy(&text).ends_with("data: [DONE]\n\n"));
    assert_eq!(hits(&tutti, "write_stall"), 0.0);
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let replica = slow(200);
    let limits = "gateway: { limits: { headerTimeout: 300ms } }\n";
    let tutti = Tutti::start(&format!("{limits}{}", pool(&[replica.url()], "expose: all")));
    let mut client = Http2::connect(&tutti.listen());
    let (status, _, body) = client.ask("POST", "/api/chat", &[], &chat("hi", true)); // takes a second
    assert!(status == 200 && body.trim_end().ends_with("\"done\":true}") || body.contains("\"done\":true"), "{body}");
    client.ends();
    assert_eq!(tutti.metric("tutti_connections ", &[]), 0.0);
    assert_eq!(hits(&tutti, "header_timeout"), 0.0);
}

/// Frames by hand (RFC 9113, 4.1).
struct Raw(TcpStream);

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Raw {
    fn connect(tutti: &Tutti) -> Self {
        let mut stream = TcpStream::connect(tutti.listen()).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("written");
        let mut raw = Self(stream);
        raw.frame(SETTINGS, 0, 0, &[]);
        raw
    }

    fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// False once the other side has closed.
    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.0.write_all(&Self::bytes(kind, flags, stream, payload)).is_ok()
    }

    /// Reads until a GOAWAY and yields its error code; `None` where the connection ends without one.
    fn goaway(&mut self) -> Option<u32> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.0.read_exact(&mut payload).ok()?;
            if head[3] == GOAWAY {
                return payload.get(4..8)?.try_into().ok().map(u32::from_be_bytes);
            }
        }
    }
}

/// A GET of /api/tags, in HPACK (RFC 7541): indexed fields of the static table, and two literals.
fn get() -> Vec<u8> {
    [&[0x82, 0x86, 0x04, 9][..], b"/api/tags", &[0x01, 9], b"localhost"].concat()
}

const ENHANCE_YOUR_CALM: u32 = 11;

#[test]
fn a_rapid_reset_is_cut_short() {
    let tutti = Tutti::before(&[simulator().url()]);
    let mut raw = Raw::connect(&tutti);
    let mut flood = Vec::new();
    for stream in (1..20_001).step_by(2) {
        flood.extend(Raw::bytes(HEADERS, END_STREAM | END_HEADERS, stream, &get()));
        flood.extend(Raw::bytes(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    let _ = raw.0.write_all(&flood);
    assert!(matches!(raw.goaway(), Some(ENHANCE_YOUR_CALM) | None));
    eventually("counted", || (hits(&tutti, "h2_flood") == 1.0).then_some(()));
    tutti.wait_said("an HTTP/2 client is cut");
    assert!(tutti.logged().len() < 1000, "{} of 10000 requests were begun", tutti.logged().len());
    assert_eq!(Http2::connect(&tutti.listen()).ask("GET", "/healthz", &[], "").0, 200);
}

#[test]
fn a_head_without_end_is_cut_short() {
    let tutti = Tutti::before(&[simulator().url()]);
    let mut raw = Raw::connect(&tutti);
    raw.frame(HEADERS, END_STREAM, 1, &get());
    let more = [&[0x00, 1, b'x', 0x7f, 0x81, 0x7c][..], &[b'x'; 16_000]].concat(); // a literal of 16,000 bytes
    let sent = (0..1000).take_while(|_| raw.frame(CONTINUATION, 0, 1, &more)).count();
    assert!(sent < 1000, "16 MB of one head were taken");
    raw.goaway();
    eventually("counted", || (hits(&tutti, "h2_flood") == 1.0).then_some(()));

    // Empty ones cost the client nothing, and are as endless.
    let mut raw = Raw::connect(&tutti);
    raw.frame(HEADERS, END_STREAM, 1, &get());
    let sent = (0..100_000).take_while(|_| raw.frame(CONTINUATION, 0, 1, &[])).count();
    assert!(sent < 100_000, "{sent} parts of one head were taken");
    eventually("counted", || (hits(&tutti, "h2_flood") == 2.0).then_some(()));
    assert_eq!(Http2::connect(&tutti.listen()).ask("GET", "/healthz", &[], "").0, 200);
}

#[test]
fn a_head_that_is_too_large_is_refused_and_the_connection_stands() {
    let tutti = Tutti::before(&[simulator().url()]);
    let mut client = Http2::connect(&tutti.listen());
    let large = |bytes: usize| "x".repeat(bytes);
    assert_eq!(client.ask("GET", "/healthz", &[("x", &large(31_000))], "").0, 200);
    let (status, _, body) = client.ask("GET", "/v1/models", &[("x", &large(33_000))], "");
    assert!(status == 431 && body.contains("header_too_large"), "{status}: {body}");
    let many: Vec<(String, String)> = (0..120).map(|number| (format!("x-{number}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(client.ask("GET", "/healthz", &many, "").0, 431);
    assert_eq!(hits(&tutti, "header"), 2.0);
    let (answer, _stream) = client.send("GET", "/healthz", &[("x", &large(70_000))], "");
    let refused = client.runtime.block_on(answer).map(|answer| answer.status().as_u16());
    assert!(refused.is_err() || refused.is_ok_and(|status| status == 431));
    assert_eq!(client.ask("GET", "/healthz", &[], "").0, 200);
}
