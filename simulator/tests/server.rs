//! The replica over real sockets, driven by hand-written bytes.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tutti_simulator::{Config, Fault, Model, Phase, Running, Scope, Seen, Simulator};

const BOUND: Duration = Duration::from_secs(10);

fn start(config: Config) -> Running {
    Simulator::start(config).expect("a free port")
}

fn quick() -> Running {
    start(Config::quick(Model::chat("m", 1000)))
}

/// One token every 20 ms, for as long as a test may take.
fn slow() -> Running {
    let mut config = Config::quick(Model::chat("m", 1000));
    config.machine.token_time = Duration::from_millis(20);
    config.answer_tokens = 100_000;
    start(config)
}

fn send(replica: &Running, path: &str, extra: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(replica.addr()).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    let length = body.len();
    write!(stream, "POST {path} HTTP/1.1\r\nHost: localhost\r\n{extra}Content-Length: {length}\r\n\r\n{body}").unwrap();
    stream
}

/// Reads to the end of the connection.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the last byte is one of the endings under test.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn ask(replica: &Running, path: &str, body: &Value) -> String {
    rest(send(replica, path, "Connection: close\r\n", &body.to_string()))
}

fn document(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn chat(stream: bool) -> Value {
    json!({ "model": "m", "stream": stream, "messages": [{ "role": "user", "content": "hello" }] })
}

fn gone(all: &[Seen]) -> Option<Seen> {
    all.iter().find(|s| s.ended_early.is_some()).cloned()
}

#[test]
fn every_inference_endpoint_answers_and_says_what_it_is() {
    let replica = quick();
    let answer = document(&ask(&replica, "/api/chat", &chat(false)));
    assert!(answer["message"]["content"].as_str().unwrap().starts_with("simulated answer from tutti"));
    assert_eq!(
        (&answer["done"], &answer["done_reason"], &answer["eval_count"]),
        (&true.into(), &"stop".into(), &16.into())
    );
    let answer = document(&ask(&replica, "/api/generate", &json!({ "model": "m", "prompt": "x", "stream": false })));
    assert!(answer["response"].as_str().unwrap().starts_with("simulated"));
    let answer = document(&ask(&replica, "/v1/chat/completions", &chat(false)));
    assert_eq!((&answer["object"], &answer["usage"]["completion_tokens"]), (&"chat.completion".into(), &16.into()));
    let answer = document(&ask(&replica, "/v1/completions", &json!({ "model": "m", "prompt": "x", "max_tokens": 2 })));
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["choices"][0]["finish_reason"]),
        (&"simulated answer".into(), &"length".into())
    );
    let answer = document(&ask(&replica, "/api/embed", &json!({ "model": "m", "input": ["a", "b"] })));
    assert_eq!(answer["embeddings"].as_array().unwrap().len(), 2);
    let answer = document(&ask(&replica, "/v1/embeddings", &json!({ "model": "m", "input": "a" })));
    assert_eq!(answer["data"][0]["object"], "embedding");
    let answer = document(&ask(&replica, "/api/embeddings", &json!({ "model": "m", "prompt": "a" })));
    assert!(!answer["embedding"].as_array().unwrap().is_empty());
}

#[test]
fn streams_end_as_ollama_ends_them() {
    let replica = quick();
    let native = ask(&replica, "/api/chat", &chat(true));
    assert!(native.contains("application/x-ndjson") && native.contains("\"done\":true"), "{native}");
    let mut asked = chat(true);
    asked["stream_options"] = json!({ "include_usage": true });
    let sse = ask(&replica, "/v1/chat/completions", &asked);
    let events: Vec<_> = sse.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
    assert_eq!(events.len(), 16 + 3);
    assert_eq!(events[18], "[DONE]");
    let usage: Value = serde_json::from_str(events[17]).unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &16.into()));
}

#[test]
fn errors_have_ollamas_words() {
    let replica = quick();
    let unknown =
        ask(&replica, "/api/chat", &json!({ "model": "nope", "messages": [{ "role": "user", "content": "x" }] }));
    assert!(unknown.starts_with("HTTP/1.1 404"));
    assert_eq!(document(&unknown), json!({ "error": "model \"nope\" not found, try pulling it first" }));
    let empty = ask(&replica, "/v1/chat/completions", &json!({ "model": "nope", "messages": [] }));
    assert!(empty.starts_with("HTTP/1.1 400"));
    let expected = json!({ "error": {
        "message": "[] is too short - 'messages'", "type": "invalid_request_error", "param": null, "code": null } });
    assert_eq!(document(&empty), expected);
    let cut = rest(send(&replica, "/api/chat", "Connection: close\r\n", "{\"model\":"));
    assert_eq!(document(&cut), json!({ "error": "unexpected EOF" }));
    let mut stream = TcpStream::connect(replica.addr()).unwrap();
    stream.write_all(b"GET /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let wrong = rest(stream);
    assert!(wrong.starts_with("HTTP/1.1 405") && wrong.contains("allow: POST"), "{wrong}");
    let mut stream = TcpStream::connect(replica.addr()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n").unwrap();
    assert!(rest(stream).starts_with("HTTP/1.1 403"));
}

#[test]
fn records_what_arrived() {
    let replica = quick();
    ask(&replica, "/api/chat?x=1", &chat(false));
    let seen = replica.wait(BOUND, |all| all.iter().find(|s| s.finished.is_some()).cloned()).unwrap();
    assert_eq!((seen.number, seen.method.as_str(), seen.path.as_str()), (0, "POST", "/api/chat?x=1"));
    assert_eq!(seen.body, chat(false).to_string().as_bytes());
    assert_eq!(seen.header("host").collect::<Vec<_>>(), [b"localhost"]);
    assert_eq!((seen.phase, seen.status, replica.in_flight()), (Phase::Done, Some(200), 0));
    let mut stream = TcpStream::connect(replica.addr()).unwrap();
    stream.write_all(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    assert!(rest(stream).starts_with("HTTP/1.1 200"));
    assert_eq!((replica.seen()[1].phase, replica.requests()), (Phase::Done, 2));
}

#[test]
fn sees_a_client_go_in_every_phase() {
    // The body is not there yet.
    let replica = slow();
    let mut stream = TcpStream::connect(replica.addr()).unwrap();
    stream.write_all(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{").unwrap();
    replica.wait(BOUND, |all| (!all.is_empty()).then_some(())).unwrap();
    drop(stream);
    assert_eq!(replica.wait(BOUND, gone).unwrap().phase, Phase::Body);
    // It waits for a whole answer.
    let replica = slow();
    let stream = send(&replica, "/api/chat", "", &chat(false).to_string());
    replica.wait(BOUND, |all| all.iter().find(|s| s.phase == Phase::Waiting).map(|_| ())).unwrap();
    drop(stream);
    assert_eq!(replica.wait(BOUND, gone).unwrap().phase, Phase::Waiting);
    // It is in mid-stream.
    let replica = slow();
    let mut stream = send(&replica, "/api/chat", "", &chat(true).to_string());
    stream.read_exact(&mut [0; 12]).unwrap();
    let left = Instant::now();
    drop(stream);
    let seen = replica.wait(BOUND, gone).unwrap();
    assert_eq!(seen.phase, Phase::Answering);
    assert!(seen.ended_early.unwrap() >= left);
}

#[test]
fn a_load_dies_with_its_requester() {
    let mut config = Config::quick(Model::chat("m", 1000));
    config.machine.load_fixed = Duration::from_secs(3600);
    let replica = start(config);
    let stream = send(&replica, "/api/chat", "", &chat(false).to_string());
    replica.wait(BOUND, |all| all.iter().find(|s| s.phase == Phase::Waiting).map(|_| ())).unwrap();
    drop(stream);
    replica.wait(BOUND, gone).unwrap();
    let mut stream = TcpStream::connect(replica.addr()).unwrap();
    stream.write_all(b"GET /api/ps HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(document(&rest(stream)), json!({ "models": [] }));
}

#[test]
fn faults_fail_as_they_say() {
    let replica = quick();
    let with = |fault: &str, stream: bool| {
        let extra = format!("Connection: close\r\nx-simulate-fault: {fault}\r\n");
        rest(send(&replica, "/v1/chat/completions", &extra, &chat(stream).to_string()))
    };
    assert_eq!(with("close-before-header", false), "");
    assert!(with("garbage", false).contains("this is not HTTP"));
    let header_only = with("close-after-header", false);
    assert!(header_only.starts_with("HTTP/1.1 200") && header_only.ends_with("\r\n\r\n"));
    let broken = with("break-mid-token", true);
    assert!(broken.contains(" answer") && !broken.contains("[DONE]") && !broken.ends_with("0\r\n\r\n"), "{broken}");
    let half = with("break-mid-token", false);
    assert!(
        half.starts_with("HTTP/1.1 200")
            && serde_json::from_str::<Value>(half.split_once("\r\n\r\n").unwrap().1).is_err()
    );
    let error = with("error-mid-stream", true);
    assert!(!error.contains("[DONE]") && error.ends_with("0\r\n\r\n"), "{error}");
    let busy = with("busy", false);
    assert!(busy.starts_with("HTTP/1.1 503") && busy.contains("server busy, please try again.  maximum pending"));
    assert!(with("runner-died", false).starts_with("HTTP/1.1 500"));
    assert!(with("slow-first-byte=1", false).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_stalled_stream_shows_two_tokens_and_a_silent_replica_nothing() {
    let replica = quick();
    replica.set_fault(Some((Fault::Stall, Scope::Inference)));
    let mut stream = send(&replica, "/api/chat", "", &chat(true).to_string());
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(" answer") {
        let mut bytes = [0; 1024];
        let n = stream.read(&mut bytes).unwrap();
        got.extend_from_slice(&bytes[..n]);
    }
    drop(stream);
    assert_eq!(replica.wait(BOUND, gone).unwrap().phase, Phase::Answering);
    replica.set_fault(Some((Fault::Silent, Scope::Everything)));
    let stream = send(&replica, "/api/show", "", "{}");
    replica.wait(BOUND, |all| all.get(1).filter(|s| s.phase == Phase::Waiting).map(|_| ())).unwrap();
    drop(stream);
    let silent = replica.wait(BOUND, |all| all.get(1).filter(|s| s.ended_early.is_some()).cloned()).unwrap();
    assert_eq!(silent.status, None);
}

#[test]
fn ends_at_once_and_starts_again_on_its_port() {
    let replica = slow();
    let addr = replica.addr();
    let mut stream = send(&replica, "/api/chat", "", &chat(true).to_string());
    stream.read_exact(&mut [0; 12]).unwrap();
    replica.kill();
    let ending = stream.read_to_end(&mut Vec::new());
    assert_eq!(ending.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let again = start(Config { listen: addr, ..Config::instant(Model::chat("m", 1)) });
    let answer = ask(&again, "/v1/chat/completions", &chat(false));
    assert!((250..350).contains(&answer.split_once("\r\n\r\n").unwrap().1.len()), "{answer}");
    assert_eq!((again.seen().len(), again.requests()), (0, 1));
    again.stop();
    assert!(TcpStream::connect(addr).is_err());
}

#[tokio::test]
async fn a_task_can_wait_without_blocking() {
    let replica = slow();
    let stream = send(&replica, "/api/chat", "", &chat(true).to_string());
    replica.until(BOUND, |all| all.iter().find(|s| s.phase == Phase::Answering).map(|_| ())).await.unwrap();
    drop(stream);
    assert!(replica.until_gone(0, BOUND).await.is_some());
    assert!(replica.until(Duration::from_millis(1), |all| all.get(1).map(|_| ())).await.is_none());
}

#[test]
fn an_answer_made_once_is_for_who_asks_for_no_stream() {
    let replica = start(Config { health: true, ..Config::instant(Model::chat("m", 1)) });
    let status = |stream: &str| {
        let body = format!(r#"{{"model":"other","messages":[{{"role":"user","content":"x"}}]{stream}}}"#);
        let answer = rest(send(&replica, "/v1/chat/completions", "Connection: close\r\n", &body));
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    // It is not looked at which model is wanted.
    assert_eq!(status(""), "200");
    assert_eq!(status(r#","stream" : false"#), "200");
    assert_eq!(status(r#","stream" : true"#), "404");
    assert_eq!(status(r#","stream" : "#), "400");
    let health = |replica: &Running| {
        let mut stream = TcpStream::connect(replica.addr()).unwrap();
        write!(stream, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        rest(stream)
    };
    assert!(health(&replica).starts_with("HTTP/1.1 200"));
    assert!(health(&quick()).starts_with("HTTP/1.1 404"), "an Ollama has no such path");
}
