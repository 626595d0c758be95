//! Ollama's options: the client's where nobody pins them, the pool's where somebody does.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use serde_json::{Value, json};
use tutti_api::Timestamp;
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::{Answer, Tutti, pool, reached, simulator};

const PINNED: &str = "runner: { numCtx: 2048, numThread: 1 }\n    keepAlive: 2h";

fn ok(answer: Answer) -> Answer {
    assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
    answer
}

fn config(urls: &[String], fields: &str) -> String {
    pool(urls, &format!("expose: all\n    {fields}"))
}

/// What a replica gets of a body, and what is said of that.
fn sent(fields: &str, path: &str, body: &str) -> (String, Option<String>) {
    let replica = simulator();
    let tutti = Tutti::start(&config(&[replica.url()], fields));
    let answer = ok(tutti.ask("POST", path, body));
    let said = answer.header("x-tutti-adjusted").map(str::to_owned);
    (String::from_utf8_lossy(&reached(&replica, 1)[0].body).into_owned(), said)
}

#[test]
fn without_a_word_in_the_configuration_no_byte_changes() {
    let body = r#"{ "model":"m", "prompt":"hi", "stream":false, "options":{"num_ctx":4096,"num_ctx":512,"NUM_CTX":1}, "keep_alive" : "1h" }"#;
    assert_eq!(sent("runner: {}\n    keepAlive: client", "/api/generate", body), (body.to_owned(), None));
}

#[test]
fn what_is_pinned_is_the_pools_and_the_answer_says_so() {
    let all = "num_ctx=2048, num_thread=1, keep_alive=2h0m0s";
    let chat = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    for (path, mut body) in [
        ("/api/chat", chat.clone()),
        ("/api/generate", json!({ "model": "m", "prompt": "hi" })),
        ("/api/embed", json!({ "model": "e", "input": "hi" })),
        ("/api/embeddings", json!({ "model": "e", "prompt": "hi" })),
    ] {
        body["options"] = json!({ "num_ctx": 4096, "seed": 7 });
        body["keep_alive"] = json!(-1);
        let (sent, said) = sent(PINNED, path, &body.to_string());
        body["options"] = json!({ "num_ctx": 2048, "num_thread": 1, "seed": 7 });
        body["keep_alive"] = json!("2h0m0s");
        assert_eq!((serde_json::from_str(&sent).ok(), said.as_deref()), (Some(body), Some(all)), "{path}");
    }
    // What the client says is what the pool says: nothing is changed, and nothing said.
    let same =
        json!({ "model": "m", "prompt": "hi", "options": { "num_ctx": 2048, "num_thread": 1 }, "keep_alive": 7200 });
    assert_eq!(sent(PINNED, "/api/generate", &same.to_string()), (same.to_string(), None));
}

#[test]
fn a_page_may_read_what_was_adjusted_and_a_refusal_is_by_name() {
    let replica = simulator();
    let tutti = Tutti::start(&config(&[replica.url()], PINNED));
    let body = r#"{"model":"m","prompt":"hi"}"#;
    let answer = ok(tutti.client().ask("POST", "/api/generate", &[("Origin", "http://localhost")], body));
    assert!(answer.header("x-tutti-adjusted").is_some(), "of a stream too");
    assert!(answer.header("access-control-expose-headers").is_some_and(|names| names.contains("x-tutti-adjusted")));
    reached(&replica, 1);
    for options in ["5", r#"{"num_ctx":1,"num_ctx":2}"#] {
        let body = format!(r#"{{"model":"m","prompt":"hi","options":{options}}}"#);
        assert_eq!(tutti.ask("POST", "/api/generate", &body).status, 400, "{options}");
    }
    reached(&replica, 1);
}

/// How often an Ollama has started a runner.
fn loads(ollama: &Ollama) -> usize {
    ollama.log().unwrap().matches("starting llama server").count()
}

/// Two clients that want contexts of other lengths, in turn; yields the answers' `load_duration` in ms.
fn alternate(tutti: &Tutti) -> Vec<u64> {
    let ask = |num_ctx: u32| {
        let options = json!({ "num_ctx": num_ctx, "num_predict": 1 });
        let body = json!({ "model": "risk-v1", "prompt": "hi", "stream": false, "options": options });
        let answer: Value = ok(tutti.ask("POST", "/api/generate", &body.to_string())).json();
        answer["load_duration"].as_u64().unwrap_or_default() / 1_000_000
    };
    [1024, 4096, 1024, 4096, 1024, 4096].map(ask).into()
}

#[test]
fn a_pinned_context_keeps_a_real_ollama_from_loading_again_and_again() {
    let ollama = Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama");
    let free = Tutti::start(&config(&[ollama.url()], "keepAlive: client"));
    let took = alternate(&free);
    assert_eq!(loads(&ollama), 6, "a load at every change of num_ctx: {took:?} ms");
    let pinned = Tutti::start(&config(&[ollama.url()], PINNED));
    let took = alternate(&pinned);
    assert_eq!(loads(&ollama), 7, "one load, for all: {took:?} ms");
    eprintln!("pinned, load_duration in ms: {took:?}");
    assert_eq!(ollama.get("/api/ps").unwrap()["models"][0]["context_length"], 2048);
}

/// How long the first model in memory stays. Unit: seconds.
fn stays(ollama: &Ollama) -> i64 {
    let models = ollama.get("/api/ps").unwrap();
    let expires = models["models"][0]["expires_at"].as_str().unwrap_or_default();
    expires.parse::<Timestamp>().unwrap().unix() - Timestamp::now().unix()
}

#[test]
fn a_pinned_keep_alive_is_how_long_a_real_ollama_keeps_the_model() {
    let ollama = Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama");
    let ask = |tutti: &Tutti| {
        let body = json!({ "model": "risk-v1", "prompt": "hi", "stream": false, "keep_alive": "1m" });
        ok(tutti.ask("POST", "/api/generate", &body.to_string()))
    };
    ask(&Tutti::start(&config(&[ollama.url()], "keepAlive: client")));
    assert!((0..=60).contains(&stays(&ollama)), "{} s", stays(&ollama));
    let answer = ask(&Tutti::start(&config(&[ollama.url()], "keepAlive: 2h")));
    assert_eq!(answer.header("x-tutti-adjusted"), Some("keep_alive=2h0m0s"));
    assert!((3600..=7200).contains(&stays(&ollama)), "{} s", stays(&ollama));
}
