//! The official client packages of one API on a real Ollama that is spoken to by the other.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::process::Command;

use serde_json::{Value, json};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::scripts::{clean, node, passes, python};
use tutti_tests::{Answer, Tutti, eventually, pool};

const COMPLAINT: &str = "你们的系统导致我的资金被冻结了！";

/// Has Ollama read calls of tools from what the model says: the rig's models have no template for that.
const TOOLS: &str = concat!(
    "{{ if .Tools }}<|im_start|>system\n{{ .Tools }}<|im_end|>\n{{ end }}",
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}",
    r#"{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}"#,
    "<|im_end|>\n{{ end }}<|im_start|>assistant\n",
);

/// What a pool pins whose OpenAI clients go by Ollama's own API: what each of its models has anyway.
const PINS: &str = "keepAlive: 1h";

/// A gateway before a real Ollama, with these fields of the pool, and a model more whose replica cannot be reached.
struct Served {
    tutti: Tutti,
    ollama: Ollama,
}

impl Served {
    fn start(fields: &str) -> Self {
        let ollama = Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama");
        let tools = json!({ "model": "tutti-tools", "from": "tutti-story", "template": TOOLS, "stream": false });
        ollama.post("/api/create", &tools).expect("a model with tools");
        let copy = json!({ "source": "risk-v1", "destination": "acme/risk:v2" });
        ollama.post("/api/copy", &copy).expect("a model with a name of three parts");
        let gone = "  - { name: gone, endpoints: [{ url: \"http://127.0.0.1:1\" }] }\n";
        let models = "models:\n  - { name: unreachable, revisions: [{ name: v1, pool: gone, upstream: risk-v1 }] }\n  \
                      - { name: risk, revisions: [{ name: v1, pool: p, upstream: \"risk-v1:latest\" }] }\n";
        let pool = pool(&[ollama.url()], &format!("expose: all\n    {fields}"));
        Self { tutti: Tutti::start(&format!("{pool}{gone}{models}")), ollama }
    }

    fn url(&self) -> String {
        format!("http://{}", self.tutti.listen())
    }

    fn urls(&self) -> [String; 2] {
        [self.url(), self.ollama.url()]
    }

    /// The gateway's log line of the request with this `x-request-id`.
    fn logged(&self, request: &str) -> Value {
        self.tutti.wait_logged(request, |line| line["request_id"] == request)
    }

    fn logged_cancel(&self) {
        let cancel = self.logged("cancel");
        assert_eq!((&cancel["outcome"], &cancel["phase"]), (&json!("cancelled"), &json!("answering")), "{cancel}");
        assert!(cancel["output_tokens"].as_u64().is_some_and(|tokens| tokens >= 20), "{cancel}");
    }
}

#[test]
fn ollama_for_python_on_a_server_of_openais_api() {
    let served = Served::start("engine: openai");
    let checks = [
        "chat",
        "chat_in_a_stream",
        "a_system_and_a_conversation",
        "generate",
        "options",
        "a_long_answer_in_a_stream",
        "embed",
        "tools",
        "json_schema",
        "models",
        "loading",
        "unknown_model",
        "what_means_nothing_there",
        "what_the_model_cannot",
        "abort",
    ];
    passes(python("crossing_ollama.py"), &served.urls(), &checks);
    let stream = served.logged("stream");
    assert_eq!((&stream["outcome"], &stream["output_tokens"]), (&json!("ok"), &json!(10)), "{stream}");
    served.logged_cancel();
}

#[test]
fn ollama_for_javascript_on_a_server_of_openais_api() {
    let served = Served::start("engine: openai");
    let (script, _project) = node("crossing_ollama.mjs");
    let checks = ["chat", "chat_in_a_stream", "generate", "embed", "tools", "json_schema", "models", "errors", "abort"];
    passes(script, &served.urls(), &checks);
    served.logged_cancel();
}

/// Those of `with_openai.py` and `with_openai.mjs`.
const OPENAI: [&str; 16] = [
    "chat",
    "stream",
    "stream_with_usage",
    "completions",
    "embeddings",
    "models",
    "tools",
    "tools_in_a_stream",
    "max_tokens",
    "json_schema",
    "unknown_model",
    "bad_body",
    "cancel",
    "timeout",
    "what_cannot_succeed_is_not_tried_again",
    "what_may_succeed_is_tried_again",
];

#[test]
fn openai_for_python_on_a_pool_that_pins() {
    let served = Served::start(PINS);
    passes(python("with_openai.py"), &[served.url()], &OPENAI);
    served.logged_cancel();
}

#[test]
fn openai_for_javascript_on_a_pool_that_pins() {
    let served = Served::start(PINS);
    let (script, _project) = node("with_openai.mjs");
    passes(script, &[served.url()], &OPENAI);
    served.logged_cancel();
}

fn ok(answer: Answer) -> Answer {
    assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
    answer
}

/// Without what differs from one answer to the next.
fn steady(mut answer: Value) -> Value {
    if let Some(fields) = answer.as_object_mut() {
        fields.retain(|name, _| {
            !name.ends_with("duration") && !["created", "created_at", "id", "context"].contains(&name.as_str())
        });
    }
    answer
}

#[test]
fn a_pinned_pool_answers_as_the_ollamas_own_v1_does() {
    let served = Served::start(PINS);
    let said = |text: &str| json!([{ "role": "user", "content": text }]);
    let turns = json!([
        { "role": "system", "content": "be brief" },
        { "role": "user", "content": [{ "type": "text", "text": "积分" }, { "type": "text", "text": "怎么兑换" }] },
    ]);
    let schema = json!({ "type": "object", "properties": { "high": { "type": "boolean" } }, "required": ["high"] });
    let shape = json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } });
    for (path, body) in [
        ("/v1/chat/completions", json!({ "model": "risk-v1", "messages": said(COMPLAINT), "temperature": 0 })),
        ("/v1/chat/completions", json!({ "model": "risk-v2", "messages": turns, "temperature": 0 })),
        (
            "/v1/chat/completions",
            json!({ "model": "risk-v1", "messages": said(COMPLAINT), "temperature": 0, "response_format": shape }),
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "tutti-story", "messages": said("数到200"), "temperature": 0, "max_tokens": 40, "stop": "9" }),
        ),
        // Without a temperature: then it is 1.0 there, and the same seed draws the same tokens.
        (
            "/v1/chat/completions",
            json!({ "model": "tutti-story", "messages": said("数到200"), "seed": 7, "max_tokens": 60 }),
        ),
        ("/v1/completions", json!({ "model": "risk-v1", "prompt": COMPLAINT, "temperature": 0 })),
        ("/v1/completions", json!({ "model": "tutti-story", "prompt": "数到200", "seed": 7, "max_tokens": 60 })),
        ("/v1/embeddings", json!({ "model": "tutti-embed", "input": ["资金", "积分"] })),
        ("/v1/embeddings", json!({ "model": "tutti-embed", "input": "资金" })),
    ] {
        let through = ok(served.tutti.ask("POST", path, &body.to_string()));
        assert_eq!(through.header("x-tutti-adjusted"), Some("keep_alive=1h0m0s"), "it went by Ollama's own API");
        let direct = served.ollama.post(path, &body).unwrap();
        assert_eq!(steady(through.json()), steady(direct), "{path} {body}");
    }
}

#[test]
fn a_stream_on_a_server_of_openais_api_is_ollamas_to_curl() {
    let served = Served::start("engine: openai");
    let chat = json!({ "model": "risk-v1", "messages": [{ "role": "user", "content": COMPLAINT }], "options": { "temperature": 0 } });
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-i", "-N", "--max-time", "60", "-d", &chat.to_string(), &format!("{}/api/chat", served.url())]);
    let output = clean(&mut curl).output().expect("curl runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("content-type: application/x-ndjson"), "{head}");
    let lines: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let text: String = lines.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, "高风险");
    assert!(lines.last().is_some_and(|last| last["done"] == true && last["eval_count"] == 10), "{lines:?}");
}

#[test]
fn a_client_that_goes_frees_the_real_replica_at_once() {
    for (fields, path, more) in [
        ("engine: openai", "/api/chat", json!({ "options": { "temperature": 0 } })),
        (PINS, "/v1/chat/completions", json!({ "temperature": 0 })),
    ] {
        let served = Served::start(fields);
        let body = |model: &str, said: &str| {
            let mut body = more.clone();
            body["model"] = json!(model);
            body["messages"] = json!([{ "role": "user", "content": said }]);
            body["stream"] = json!(true);
            body.to_string()
        };
        let mut client = served.tutti.begin(path, &body("tutti-story", "数到200"));
        assert_eq!(client.head().unwrap().status, 200);
        for _ in 0..20 {
            assert!(!client.chunk().unwrap().is_empty(), "{path}: a long answer");
        }
        drop(client);
        let line = served.tutti.wait_logged("cancelled", |line| line["outcome"] == "cancelled");
        assert!(line["output_tokens"].as_u64().is_some_and(|tokens| tokens >= 20), "{line}");
        eventually("nothing in flight", || (served.tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
        // The Ollama itself logs what it was asked, once it has ended it.
        eventually("the end at the replica", || {
            let log = served.ollama.log().unwrap();
            log.lines()
                .any(|line| line.contains("| 200 |") && line.contains("completions") | line.contains("/api/chat"))
                .then_some(())
        });
        ok(served.tutti.ask("POST", path, &body("tutti-story", "hi")));
    }
}
