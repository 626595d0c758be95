//! The official client packages, as their users have them, through the gateway to a real Ollama.
//!
//! The scripts in `tests/clients/` do and check; here is what the gateway's log must say of it.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_simulator::{Config, Running};
use tutti_tests::scripts::{clean, node, passes, python};
use tutti_tests::{Tutti, eventually, pool, quick, simulator_with};

const COMPLAINT: &str = "你们的系统导致我的资金被冻结了！";
const ANSWER: &str = "高风险";

/// Has Ollama read calls of tools from what the model says: the rig's models have no template for that.
const TOOLS: &str = concat!(
    "{{ if .Tools }}<|im_start|>system\n{{ .Tools }}<|im_end|>\n{{ end }}",
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}",
    r#"{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}"#,
    "<|im_end|>\n{{ end }}<|im_start|>assistant\n",
);

/// Has Ollama take what the model says from 1 to 5 for thinking. The rig's models do not think; this one counts.
const THINKS: &str = concat!(
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n",
    "{{ if .Thinking }}1{{ .Thinking }}5{{ end }}{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
);

/// A gateway before a real Ollama, with three models more: one by a name of its own, one
/// of a simulated replica with the APIs of later versions, and one whose replica cannot be reached.
struct Served {
    tutti: Tutti,
    _ollama: Ollama,
    _later: Running,
}

impl Served {
    fn start() -> Self {
        let ollama = Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama");
        let tools = json!({ "model": "tutti-tools", "from": "tutti-story", "template": TOOLS, "stream": false });
        ollama.post("/api/create", &tools).expect("a model with tools");
        let thinks = json!({ "model": "tutti-thinks", "from": "tutti-story", "template": THINKS, "stream": false });
        ollama.post("/api/create", &thinks).expect("a model that thinks");
        let copy = json!({ "source": "risk-v1", "destination": "acme/risk:v2" });
        ollama.post("/api/copy", &copy).expect("a model with a name of three parts");
        let later = simulator_with(Config { later_apis: true, ..quick() });
        let others = format!(
            "  - {{ name: gone, endpoints: [{{ url: \"http://127.0.0.1:1\" }}] }}\n  \
             - {{ name: later, endpoints: [{{ url: \"{}\" }}] }}\n",
            later.url()
        );
        let models = "models:\n  - { name: unreachable, revisions: [{ name: v1, pool: gone, upstream: risk-v1 }] }\n  \
                      - { name: risk, revisions: [{ name: v1, pool: p, upstream: risk-v1 }] }\n  \
                      - { name: later, revisions: [{ name: v1, pool: later, upstream: m }] }\n";
        let tutti = Tutti::start(&format!("{}{others}{models}", pool(&[ollama.url()], "expose: all")));
        Self { tutti, _ollama: ollama, _later: later }
    }

    fn url(&self) -> String {
        format!("http://{}", self.tutti.listen())
    }

    fn passes(&self, script: Command, checks: &[&str]) {
        passes(script, &[self.url()], checks);
    }

    /// The gateway's log line of the request with this `x-request-id`.
    fn logged(&self, request: &str) -> Value {
        self.tutti.wait_logged(request, |line| line["request_id"] == request)
    }

    /// How the requests with this `x-request-id` ended, once there are `count` of them.
    fn outcomes(&self, request: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} times {request}"), || {
            let lines = self.tutti.logged().into_iter().filter(|line| line["request_id"] == request);
            let outcomes: Vec<Value> = lines.map(|line| line["outcome"].clone()).collect();
            (outcomes.len() == count).then_some(outcomes)
        })
    }

    /// What the scripts of both of OpenAI's packages leave in the log.
    fn logged_openais(&self) {
        let stream = self.logged("stream");
        assert_eq!((&stream["status"], &stream["outcome"]), (&json!(200), &json!("ok")), "{stream}");
        self.logged_cancel();
        assert_eq!(self.outcomes("timeout", 2), ["cancelled", "cancelled"], "the package's own retry, and no other");
        assert_eq!(self.outcomes("no-replica", 2), ["failed", "failed"], "the package's own retry, and no other");
        assert_eq!(self.outcomes("not-served", 1), ["failed"], "`x-should-retry: false` keeps it from trying again");
    }

    /// What the scripts of both of Ollama's packages leave in the log.
    fn logged_ollamas(&self) {
        let stream = self.logged("stream");
        assert_eq!((&stream["outcome"], &stream["output_tokens"]), (&json!("ok"), &json!(10)), "{stream}");
        self.logged_cancel();
    }

    fn logged_cancel(&self) {
        self.logged_cancelled("cancel");
    }

    fn logged_cancelled(&self, request: &str) {
        let cancel = self.logged(request);
        assert_eq!((&cancel["outcome"], &cancel["phase"]), (&json!("cancelled"), &json!("answering")), "{cancel}");
        let tokens = cancel["output_tokens"].as_u64().unwrap_or_default();
        assert!((10..700).contains(&tokens), "those that went out, and not all of the answer: {cancel}");
    }
}

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

/// Those of `with_openai_and_ollama.py` and `with_openai_and_ollama.mjs`.
const OPENAI_AND_OLLAMA: [&str; 3] = ["thinking", "responses", "responses_in_a_stream"];

const OLLAMA: [&str; 15] = [
    "chat",
    "chat_in_a_stream",
    "generate",
    "options",
    "embed",
    "tools",
    "json_schema",
    "thinking",
    "models",
    "show",
    "resident",
    "unknown_model",
    "what_the_model_cannot",
    "management_is_refused",
    "abort",
];

#[test]
fn openai_for_python() {
    let served = Served::start();
    served.passes(python("with_openai.py"), &OPENAI);
    served.logged_openais();
    served.passes(python("with_openai_and_ollama.py"), &OPENAI_AND_OLLAMA);
}

#[test]
fn openai_for_javascript() {
    let served = Served::start();
    let (script, _project) = node("with_openai.mjs");
    served.passes(script, &OPENAI);
    served.logged_openais();
    let (script, _project) = node("with_openai_and_ollama.mjs");
    served.passes(script, &OPENAI_AND_OLLAMA);
}

#[test]
fn ollama_for_python() {
    let served = Served::start();
    served.passes(python("with_ollama.py"), &OLLAMA);
    served.logged_ollamas();
}

#[test]
fn ollama_for_javascript() {
    let served = Served::start();
    let (script, _project) = node("with_ollama.mjs");
    served.passes(script, &OLLAMA);
    served.logged_ollamas();
}

#[test]
fn langchain_for_python() {
    let checks = [
        "openai_invoke",
        "openai_stream",
        "openai_completions",
        "openai_responses",
        "openai_cancel",
        "openai_batch",
        "openai_tools",
        "openai_structured_output",
        "openai_embeddings",
        "openai_unknown_model",
        "ollama_invoke",
        "ollama_stream",
        "ollama_thinking",
        "ollama_cancel",
        "ollama_tools",
        "ollama_structured_output",
        "ollama_embeddings",
        "ollama_unknown_model",
        "ollama_validates_its_model",
    ];
    let served = Served::start();
    served.passes(python("with_langchain.py"), &checks);
    for request in ["openai-cancel", "ollama-cancel"] {
        served.logged_cancelled(request);
    }
}

#[test]
fn anthropic_for_python() {
    let served = Served::start();
    served.passes(python("with_anthropic.py"), &["messages", "stream", "errors", "what_may_succeed_is_tried_again"]);
    let stream = served.logged("stream");
    assert_eq!((&stream["outcome"], &stream["output_tokens"]), (&json!("ok"), &json!(16)), "{stream}");
    for refused in ["model_not_found", "api_not_served"] {
        assert_eq!(served.outcomes(refused, 1), ["failed"], "what cannot succeed is not tried again");
    }
    assert_eq!(served.outcomes("no-replica", 2), ["failed", "failed"], "the package's own retry, and no other");
}

/// Runs a command line to its end; yields what it said, errors included, and whether it was content.
fn run(command: &mut Command) -> (String, bool) {
    let Output { status, stdout, stderr } = clean(command).output().expect("the command runs");
    (format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)), status.success())
}

#[test]
fn the_ollama_command_line() {
    let served = Served::start();
    let home = tempfile::tempdir().expect("a temporary folder");
    let ollama = |arguments: &[&str]| {
        let mut ollama = Command::new(tutti_rig::ollama().expect("the rig's Ollama"));
        let client = ollama.args(arguments).env("HOME", home.path()).stdin(Stdio::null());
        run(clean(client).env("OLLAMA_HOST", served.url()))
    };
    let good = |arguments: &[&str], expected: &[&str]| {
        let (said, ok) = ollama(arguments);
        assert!(ok && expected.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    };
    // A model of a replica that was never reached is listed beside the others.
    good(&["list"], &["risk-v1:latest", "tutti-embed:latest", "unreachable:latest", "000000000000", "risk:latest"]);
    good(&["--version"], &["0.11.4"]);
    good(&["show", "risk-v1"], &["qwen2", "completion", "num_predict"]);
    good(&["show", "--modelfile", "risk"], &["# FROM risk\n", "ADAPTER "]);
    good(&["run", "risk", COMPLAINT], &[ANSWER]);
    good(&["run", "--verbose", "acme/risk:v2", COMPLAINT], &[ANSWER, "eval count"]);
    good(&["ps"], &["risk:latest", "100% CPU", "4096"]);
    good(&["stop", "risk"], &[]);
    good(&["run", "--think", "tutti-thinks", "数到20"], &["Thinking...", "2 3 4", "done thinking", "6 7 8"]);
    let (said, ok) = ollama(&["run", "nope", "hi"]);
    assert!(!ok && said.contains("is not for clients"), "it tries to pull what it does not find: {said}");
    for managed in [&["pull", "x"][..], &["rm", "risk-v1"], &["cp", "risk-v1", "y"]] {
        let (said, ok) = ollama(managed);
        assert!(!ok && said.contains("is not for clients"), "{managed:?}: {said}");
    }
}

impl Served {
    fn curl(&self, path: &str, arguments: &[&str]) -> String {
        let url = format!("{}{path}", self.url());
        let (said, ok) =
            run(Command::new("curl").args(["--silent", "--show-error", "--max-time", "60"]).args(arguments).arg(url));
        assert!(ok, "{path}: {said}");
        said
    }
}

/// What Ollama's and OpenAI's documentation show as commands, on the rig's models.
#[test]
fn curl_by_the_documentation() {
    let served = Served::start();
    let post = |path: &str, body: Value| -> Value {
        serde_json::from_str(&served.curl(path, &["--json", &body.to_string()])).expect("JSON")
    };
    let messages = json!([{ "role": "user", "content": COMPLAINT }]);
    let shape = json!({ "type": "object", "properties": { "high": { "type": "boolean" } }, "required": ["high"] });
    let generate = json!({ "model": "risk", "prompt": COMPLAINT, "stream": false });
    assert_eq!(post("/api/generate", generate.clone())["response"], ANSWER);
    let mut shaped = generate;
    shaped["format"] = shape.clone();
    assert!(post("/api/generate", shaped)["response"].as_str().is_some_and(|text| text.contains("high")));
    let vectors = post("/api/embed", json!({ "model": "tutti-embed", "input": ["资金", "积分"] }));
    assert_eq!(vectors["embeddings"].as_array().map(Vec::len), Some(2));
    let shown = post("/api/show", json!({ "model": "risk" }));
    assert_eq!(shown["details"]["family"], "qwen2");
    let response_format = json!({ "type": "json_schema", "json_schema": { "name": "risk", "schema": shape } });
    let answer = post(
        "/v1/chat/completions",
        json!({ "model": "risk", "messages": messages, "response_format": response_format, "max_completion_tokens": 40 }),
    );
    assert!(answer["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.contains("high")), "{answer}");
    let embed = json!({ "model": "tutti-embed", "input": "资金", "encoding_format": "base64" });
    let answer = post("/v1/embeddings", embed);
    assert_eq!(answer["data"][0]["embedding"].as_str().map(str::len), Some(344), "64 floats: {answer}");
    let answer = post("/v1/responses", json!({ "model": "risk", "input": "hi" }));
    assert_eq!(answer["error"]["code"], "api_not_served", "a real 0.11.4 has none: {answer}");
    let answer = post("/v1/messages", json!({ "model": "risk", "max_tokens": 9, "messages": messages }));
    assert_eq!((&answer["type"], &answer["error"]["code"]), (&json!("error"), &json!("api_not_served")));
    let list = |path: &str, key: &str| -> Value {
        serde_json::from_str::<Value>(&served.curl(path, &[])).expect("JSON")[key].take()
    };
    assert!(list("/api/tags", "models").as_array().is_some_and(|models| models.len() > 6));
    assert!(list("/v1/models", "data").as_array().is_some_and(|models| models.len() > 6));
    assert_eq!(list("/api/ps", "models")[0]["context_length"], 4096);
}

#[test]
fn curl() {
    let served = Served::start();
    let curl = |path: &str, arguments: &[&str]| served.curl(path, arguments);
    let chat = json!({ "model": "risk-v1", "messages": [{ "role": "user", "content": COMPLAINT }], "stream": true });
    let events = curl("/v1/chat/completions", &["-N", "--json", &chat.to_string()]);
    assert!(events.starts_with("data: {") && events.ends_with("data: [DONE]\n\n"), "{events}");
    // Without a content type, as in Ollama's own documentation.
    let lines = curl("/api/chat", &["-N", "-d", &chat.to_string()]);
    let said = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(said.map(|line| line["message"]["content"].as_str().unwrap().to_owned()).collect::<String>(), ANSWER);

    for path in ["/", "/api/tags", "/api/tags/", "/api/ps", "/api/version", "/v1/models/", "/v1/models/acme/risk:v2"] {
        let head = curl(path, &["--head"]);
        assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("content-length: "), "{path}: {head}");
    }
    assert_eq!(curl("/", &[]), "Ollama is running");
    let status = |path: &str, arguments: &[&str]| {
        curl(path, &[&["--path-as-is", "--output", "/dev/null", "--write-out", "%{http_code}"], arguments].concat())
    };
    // A path means what it says: no other is looked for behind it.
    for path in ["/v1/../api/tags", "//api/tags", "/api/%74ags", "/api/tags/../tags"] {
        assert_eq!(status(path, &[]), "404", "{path}");
    }
    assert_eq!(status("/v1/chat/completions", &["--json", "{"]), "400");
    assert_eq!(status("/v1/chat/completions", &["--json", &chat.to_string().replace("risk-v1", "nope")]), "404");
    // What a browser asks before a page of this machine may.
    let page = ["--include", "-H", "Origin: http://localhost:3000"];
    let preflight = ["-X", "OPTIONS", "-H", "Access-Control-Request-Method: POST"];
    for (path, more) in [("/v1/chat/completions", &preflight[..]), ("/api/tags", &[])] {
        let answer = curl(path, &[&page[..], more].concat());
        assert!(answer.contains("access-control-allow-origin: http://localhost:3000"), "{path}: {answer}");
    }
    // A body that curl waits to be asked for, and one in chunks.
    let large = json!({ "model": "risk-v1", "prompt": "hi ".repeat(500), "options": { "num_predict": 1 } }).to_string();
    assert_eq!(status("/api/generate", &["-H", "Expect: 100-continue", "--json", &large]), "200");
    assert_eq!(status("/api/chat", &["-H", "Transfer-Encoding: chunked", "--json", &chat.to_string()]), "200");
}
