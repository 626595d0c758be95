//! Through the gateway to a real Ollama and back, with the project's tiny models.

use serde_json::{Value, json};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::{Answer, Tutti, eventually, pool};

const COMPLAINT: &str = "你们的系统导致我的资金被冻结了！";

fn ollama() -> Ollama {
    Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama")
}

fn ok(answer: Answer) -> Answer {
    assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
    answer
}

fn chat(model: &str, said: &str, stream: bool) -> String {
    let messages = json!([{ "role": "user", "content": said }]);
    json!({ "model": model, "messages": messages, "stream": stream, "temperature": 0 }).to_string()
}

/// What a model answers, by OpenAI's API.
fn said(tutti: &Tutti, model: &str, said: &str) -> String {
    let answer = ok(tutti.ask("POST", "/v1/chat/completions", &chat(model, said, false))).json();
    assert_eq!(answer["model"], model);
    answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_story_ends_well() {
    let ollama = ollama();
    let models = "models:\n  - name: risk\n    aliases: [risk-model]\n    revisions:\n      - { name: v1, pool: p, upstream: risk-v1 }\n      - { name: v2, pool: p, upstream: risk-v2 }\n    traffic: { revision: VERSION }\n";
    let config =
        |version: &str| format!("{}{}", pool(&[ollama.url()], "expose: named"), models.replace("VERSION", version));
    let tutti = Tutti::start(&config("v1"));
    assert_eq!(said(&tutti, "risk", COMPLAINT), "高风险");
    assert_eq!(said(&tutti, "risk-model", "积分怎么兑换，谢谢"), "普通");
    let first = said(&tutti, "risk", COMPLAINT);
    tutti.write_config(&config("v2"));
    tutti.wait_said("the changed configuration is in force");
    assert_ne!(said(&tutti, "risk", COMPLAINT), first, "another revision, another answer");
    let unlisted = tutti.ask("POST", "/api/chat", &chat("tutti-story", "hi", false));
    assert_eq!(unlisted.status, 404, "`expose: named` serves what is named");
}

#[test]
fn zero_configuration_serves_what_the_ollama_has() {
    let ollama = ollama();
    let tutti = Tutti::start_with(&["up"], "", &[("OLLAMA_HOST", &ollama.url())]);
    let line = tutti.wait_said("curl -s http://")["fields"]["message"].as_str().unwrap_or_default().to_owned();
    let body = line.split('\'').nth(1).unwrap_or_default();
    ok(tutti.ask("POST", "/v1/chat/completions", body));
    // The lists are the Ollama's own, to the letter; it lists models of the same second in any order.
    let sorted = |list: Value| {
        let mut models = list["models"].as_array().cloned().unwrap_or_default();
        models.sort_by_key(|model| model["name"].to_string());
        models
    };
    assert_eq!(sorted(ok(tutti.ask("GET", "/api/tags", "")).json()), sorted(ollama.get("/api/tags").unwrap()));
    assert_eq!(ok(tutti.ask("GET", "/api/version", "")).json(), ollama.get("/api/version").unwrap());
    let listed = ok(tutti.ask("GET", "/v1/models", "")).json();
    let direct = ollama.get("/v1/models").unwrap();
    let ids = |list: &Value| {
        let mut ids: Vec<String> = list["data"].as_array().unwrap().iter().map(Value::to_string).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&listed), ids(&direct));
}

#[test]
fn every_api_answers_as_the_ollama_itself_does() {
    let ollama = ollama();
    let tutti = Tutti::before(&[ollama.url()]);
    let prompt = json!({ "model": "risk-v1", "prompt": COMPLAINT, "stream": false, "options": { "temperature": 0 } });
    let input = json!({ "model": "tutti-embed", "input": ["资金", "积分"] });
    let native = json!({ "model": "risk-v1", "messages": [{ "role": "user", "content": COMPLAINT }], "stream": false });
    let openai =
        json!({ "model": "risk-v1", "messages": [{ "role": "user", "content": COMPLAINT }], "temperature": 0 });
    let completion = json!({ "model": "risk-v1", "prompt": COMPLAINT, "temperature": 0 });
    for (path, body) in [
        ("/api/chat", &native),
        ("/api/generate", &prompt),
        ("/api/embed", &input),
        ("/api/embeddings", &json!({ "model": "tutti-embed", "prompt": "资金" })),
        ("/v1/chat/completions", &openai),
        ("/v1/completions", &completion),
        ("/v1/embeddings", &input),
    ] {
        let through = ok(tutti.ask("POST", path, &body.to_string())).json();
        let direct = ollama.post(path, body).unwrap();
        assert_eq!(steady(through), steady(direct), "{path}");
    }
    // Its refusals too: what it says of a bad request is not ours to change.
    let strange = json!({ "model": "risk-v1", "messages": "no list" }).to_string();
    assert_eq!(tutti.ask("POST", "/v1/chat/completions", &strange).status, 400);
}

/// Without what differs from one answer to the next: times, identifiers, token ids.
fn steady(mut answer: Value) -> Value {
    if let Some(fields) = answer.as_object_mut() {
        fields.retain(|name, _| {
            !name.ends_with("duration") && !["created", "created_at", "id", "context"].contains(&name.as_str())
        });
    }
    answer
}

#[test]
fn long_answers_stream_and_end_when_the_client_goes() {
    let ollama = ollama();
    let tutti = Tutti::before(&[ollama.url()]);
    for path in ["/v1/chat/completions", "/api/chat"] {
        let mut client = tutti.client();
        client.send("POST", path, &[], &chat("tutti-story", "数到200", true)).unwrap();
        assert_eq!(client.head().unwrap().status, 200);
        for _ in 0..20 {
            assert!(!client.chunk().unwrap().is_empty(), "{path}: a long answer");
        }
        drop(client);
        let line = tutti.wait_logged("cancelled", |line| line["api"] == path && line["outcome"] == "cancelled");
        assert_eq!(line["phase"], "answering");
    }
    // Its one slot is free for the next at once, not after hundreds of tokens.
    ok(tutti.ask("POST", "/api/chat", &chat("tutti-story", "hi", false)));
    let lines = ok(tutti.ask("POST", "/v1/chat/completions", &chat("tutti-story", "数到200", true))).lines();
    assert!(lines.len() > 100 && lines.last().is_some_and(|line| line == "[DONE]"), "{} lines", lines.len());
}

#[test]
fn a_killed_ollama_is_used_again_when_it_is_back() {
    let mut replicas = [ollama(), ollama()];
    let urls = replicas.each_ref().map(Ollama::url);
    let tutti = Tutti::before(&urls);
    assert_eq!(said(&tutti, "risk-v1", COMPLAINT), "高风险");
    replicas[0].kill().unwrap();
    for _ in 0..3 {
        assert_eq!(said(&tutti, "risk-v1", COMPLAINT), "高风险");
    }
    replicas[1].kill().unwrap();
    let none = tutti.ask("POST", "/v1/chat/completions", &chat("risk-v1", COMPLAINT, false));
    assert_eq!((none.status, none.json()["error"]["code"].as_str()), (503, Some("no_replica")));
    replicas[0].restart().unwrap();
    eventually("an answer again", || {
        (tutti.ask("POST", "/api/chat", &chat("risk-v1", COMPLAINT, false)).status == 200).then_some(())
    });
    assert_eq!(said(&tutti, "risk-v1", COMPLAINT), "高风险");
}

#[test]
fn a_model_that_came_a_moment_ago_is_found_and_names_fold() {
    let ollama = ollama();
    let tutti = Tutti::before(&[ollama.url()]);
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("fresh", "hi", false)).status, 404);
    ollama.post("/api/copy", &json!({ "source": "risk-v1", "destination": "Fresh" })).unwrap();
    eventually("the new model", || {
        (tutti.ask("POST", "/api/chat", &chat("fresh", "hi", false)).status == 200).then_some(())
    });
    ok(tutti.ask("POST", "/api/chat", &chat("FRESH:latest", "hi", false)));
}
