//! `/v1/responses` and `/v1/messages`: through to the replicas that have them, and a clear answer where none has.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::time::Duration;

use serde_json::{Value, json};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Answer, Tutti, eventually, inference, pool, quick, reached, simulator, simulator_with};

const PATHS: [&str; 2] = ["/v1/responses", "/v1/messages"];
const RISK: &str = "models:\n  - { name: risk, revisions: [{ name: v1, pool: p, upstream: m }] }\n";

fn later() -> Running {
    simulator_with(Config { later_apis: true, ..quick() })
}

fn body(model: &str, stream: bool) -> String {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    json!({ "model": model, "input": "hi", "messages": messages, "max_tokens": 64, "stream": stream }).to_string()
}

fn ok(answer: Answer) -> Answer {
    assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
    answer
}

/// A stream's events: their names, and what they carry.
fn events(answer: &Answer) -> Vec<(String, Value)> {
    let text = answer.text();
    assert!(text.ends_with("\n\n"), "the last event is not whole: {text}");
    let event = |event: &str| {
        let (name, data) = event.trim_start().split_once('\n').unwrap_or_default();
        let data: Value = serde_json::from_str(data.trim_start_matches("data: ")).unwrap_or_default();
        (name.trim_start_matches("event: ").to_owned(), data)
    };
    text.split("\n\n").filter(|part| part.contains("data: ")).map(event).collect()
}

#[test]
fn whole_answers_come_through_under_the_clients_name() {
    let replica = later();
    let tutti = Tutti::start(&format!("{}{RISK}", pool(&[replica.url()], "expose: named")));
    let said =
        |answer: &Value| answer.pointer("/output/0/content/0/text").or(answer.pointer("/content/0/text")).cloned();
    for (number, path) in PATHS.iter().enumerate() {
        let answer = ok(tutti.ask("POST", path, &body("risk", false)));
        assert_eq!(answer.json()["model"], "risk", "{path}");
        assert!(said(&answer.json()).is_some_and(|text| text.to_string().contains("simulated")), "{}", answer.text());
        let seen = &reached(&replica, number + 1)[number];
        assert_eq!(
            (seen.path.as_str(), serde_json::from_slice::<Value>(&seen.body).unwrap()["model"].clone()),
            (*path, json!("m"))
        );
        let line = tutti.wait_logged(path, |line| line["api"] == *path);
        assert_eq!((&line["outcome"], &line["output_tokens"]), (&json!("ok"), &json!(16)), "{line}");
        assert!(line["input_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{line}");
    }
}

#[test]
fn streams_come_through_and_end_as_they_do() {
    let replica = later();
    let tutti = Tutti::start(&format!("{}{RISK}", pool(&[replica.url()], "expose: named")));
    for (path, last) in PATHS.into_iter().zip(["response.completed", "message_stop"]) {
        let answer = ok(tutti.ask("POST", path, &body("risk", true)));
        assert_eq!(answer.header("content-type"), Some("text/event-stream"), "{path}");
        let events = events(&answer);
        assert!(events.iter().all(|(name, data)| data["type"] == *name), "{events:?}");
        assert_eq!(events.last().map(|(name, _)| name.as_str()), Some(last));
        for (name, data) in &events {
            let model = data.pointer("/response/model").or(data.pointer("/message/model"));
            let names_it = name == "message_start" || data["response"].is_object();
            assert_eq!(model, names_it.then(|| json!("risk")).as_ref(), "{data}");
        }
        if path == "/v1/responses" {
            let numbers = events.iter().map(|(_, data)| data["sequence_number"].as_u64());
            assert!(numbers.eq((0..events.len() as u64).map(Some)), "{events:?}");
        }
        let line = tutti.wait_logged(path, |line| line["api"] == path);
        assert_eq!((&line["outcome"], &line["output_tokens"]), (&json!("ok"), &json!(16)), "{line}");
    }
    // An answer that its bound cut short is whole too.
    let short = body("risk", true).replace("max_tokens", "max_output_tokens").replace("64", "3");
    let answer = ok(tutti.ask("POST", "/v1/responses", &short));
    assert_eq!(events(&answer).last().map(|(name, _)| name.clone()).as_deref(), Some("response.incomplete"));
    let line = tutti.wait_logged("the short one", |line| line["output_tokens"] == 3);
    assert_eq!(line["outcome"], "ok");
}

#[test]
fn where_no_replica_has_them_that_is_said_by_name() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let answer = tutti.ask("POST", "/v1/responses", &body("m", false));
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, &error["code"], &error["type"]),
        (404, &json!("api_not_served"), &json!("invalid_request_error"))
    );
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    let answer = tutti.ask("POST", "/v1/messages", &body("m", true));
    let expected = json!({ "type": "not_found_error", "code": "api_not_served",
        "message": "no replica of pool p has /v1/messages" });
    assert_eq!((answer.status, answer.json()), (404, json!({ "type": "error", "error": expected })));
    assert_eq!(inference(&replica.seen()).len(), 0);
}

#[test]
fn anthropics_clients_get_errors_in_their_own_shape() {
    let replica = later();
    let tutti = Tutti::before(&[replica.url()]);
    for (method, path, body, status, kind, code) in [
        ("POST", "/v1/messages", body("nope", false), 404, "not_found_error", "model_not_found"),
        ("POST", "/v1/messages", "{".to_owned(), 400, "invalid_request_error", "invalid_body"),
        ("GET", "/v1/messages", String::new(), 405, "invalid_request_error", "method_not_allowed"),
        ("POST", "/v1/messages/count_tokens", "{}".to_owned(), 404, "not_found_error", "not_found"),
        ("POST", "/models/nope/v1/messages", "{}".to_owned(), 404, "not_found_error", "model_not_found"),
    ] {
        let answer = tutti.ask(method, path, &body);
        let error = answer.json();
        assert_eq!((answer.status, &error["type"]), (status, &json!("error")), "{path}: {error}");
        assert_eq!((&error["error"]["type"], &error["error"]["code"]), (&json!(kind), &json!(code)), "{path}: {error}");
    }
    // What the replica says is its own affair.
    let answer = tutti.ask("POST", "/v1/messages", r#"{"model":"m","messages":[]}"#);
    assert_eq!((answer.status, &answer.json()["request_id"]), (400, &json!("req_1")), "{}", answer.text());
}

#[test]
fn only_the_replicas_that_have_them_get_them() {
    let (old, new) = (simulator(), later());
    let tutti = Tutti::before(&[old.url(), new.url()]);
    for _ in 0..3 {
        for path in PATHS {
            ok(tutti.ask("POST", path, &body("m", false)));
        }
    }
    assert_eq!(inference(&old.seen()).len(), 0);
    reached(&new, 6);
    for _ in 0..4 {
        ok(tutti.ask("POST", "/v1/chat/completions", &body("m", false)));
    }
    assert!(!inference(&old.seen()).is_empty(), "what both have both get");
}

#[test]
fn a_replica_that_has_them_from_now_on_gets_them() {
    let old = simulator();
    let listen = old.addr();
    let tutti = Tutti::before(&[old.url()]);
    assert_eq!(tutti.ask("POST", "/v1/responses", &body("m", false)).status, 404);
    old.stop();
    let _new = eventually("the port again", || {
        tutti_simulator::Simulator::start(Config { later_apis: true, listen, ..quick() }).ok()
    });
    eventually("the new one", || {
        tutti.ask("POST", "/api/chat", &body("unknown", false)); // has the replicas asked again
        (tutti.ask("POST", "/v1/responses", &body("m", false)).status == 200).then_some(())
    });
}

#[test]
fn a_broken_stream_never_ends_like_a_whole_one() {
    let replica = later();
    let tutti =
        Tutti::start(&format!("{}{RISK}", pool(&[replica.url()], "expose: all\n    timeouts: { idle: 300ms }")));
    for fault in [Fault::BreakMidToken, Fault::Stall, Fault::ErrorMidStream, Fault::ErrorEvent] {
        for (path, model) in PATHS.into_iter().flat_map(|path| [(path, "m"), (path, "risk")]) {
            replica.set_fault(Some((fault, Scope::Inference)));
            let lines = tutti.logged().len();
            let answer = tutti.ask("POST", path, &body(model, true));
            replica.set_fault(None);
            let events = events(&answer);
            let (name, data) = events.last().unwrap();
            let whole = ["response.completed", "response.incomplete", "message_stop"];
            assert!(!whole.iter().any(|whole| answer.text().contains(whole)), "{path} {fault:?}: {events:?}");
            assert!(["error", "response.failed"].contains(&name.as_str()), "{path} {fault:?}: {events:?}");
            assert_eq!(data["type"], *name, "{path} {fault:?} {model}");
            if fault != Fault::ErrorEvent {
                let message = if path == "/v1/messages" { &data["error"]["code"] } else { &data["code"] };
                assert_eq!(message, "stream_interrupted", "{data}");
                assert_eq!(data["sequence_number"].is_u64(), path == "/v1/responses", "{data}");
            }
            let line = eventually("its line", || tutti.logged().get(lines).cloned());
            assert_eq!((&line["outcome"], &line["code"]), (&json!("failed"), &json!("stream_interrupted")), "{line}");
        }
    }
}

#[test]
fn who_leaves_ends_the_work() {
    let machine = Machine { token_time: Duration::from_millis(20), ..Machine::instant() };
    let replica = simulator_with(Config { later_apis: true, machine, answer_tokens: 100_000, ..quick() });
    let tutti = Tutti::before(&[replica.url()]);
    for (number, path) in PATHS.into_iter().enumerate() {
        let mut client = tutti.begin(path, &body("m", true).replace("\"max_tokens\":64", "\"max_tokens\":90000"));
        assert_eq!(client.head().unwrap().status, 200);
        assert!(!client.chunk().unwrap().is_empty());
        drop(client);
        eventually("the replica sees it", || {
            let gone = inference(&replica.seen()).iter().filter(|seen| seen.ended_early.is_some()).count();
            (gone > number).then_some(())
        });
        let line = tutti.wait_logged(path, |line| line["api"] == path);
        assert_eq!((&line["outcome"], &line["phase"]), (&json!("cancelled"), &json!("answering")), "{line}");
        assert!(line["output_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{line}");
    }
}

#[test]
fn a_model_with_an_adapter_of_its_own_has_them_too() {
    let base = Model::chat("m", 1 << 20);
    let models = vec![base.with_adapter("acme/risk:v1"), base];
    let replica = simulator_with(Config { later_apis: true, models, ..quick() });
    let tutti = Tutti::before(&[replica.url()]);
    let answer = ok(tutti.client().ask("POST", "/models/acme%2Frisk%3Av1/v1/messages", &[], &body("m", false)));
    assert_eq!(answer.json()["model"], "acme/risk:v1");
}
