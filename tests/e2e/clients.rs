//! The official client packages, as their users have them, through the gateway to a real Ollama.
//!
//! The scripts in `tests/clients/` do and check; here is what the gateway's log must say of it.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::scripts::{clean, node, passes, python};
use tutti_tests::{Tutti, eventually, pool};

const COMPLAINT: &str = "你们的系统导致我的资金被冻结了！";
const ANSWER: &str = "高风险";

/// Has Ollama read calls of tools from what the model says: the rig's models have no template for that.
const TOOLS: &str = concat!(
    "{{ if .Tools }}<|im_start|>system\n{{ .Tools }}<|im_end|>\n{{ end }}",
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}",
    r#"{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}"#,
    "<|im_end|>\n{{ end }}<|im_start|>assistant\n",
);

/// A gateway before a real Ollama, with two models more: one by a name of its own, and one whose replica cannot be reached.
struct Served {
    tutti: Tutti,
    _ollama: Ollama,
}

impl Served {
    fn start() -> Self {
        let ollama = Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama");
        let tools = json!({ "model": "tutti-tools", "from": "tutti-story", "template": TOOLS, "stream": false });
        ollama.post("/api/create", &tools).expect("a model with tools");
        let copy = json!({ "source": "risk-v1", "destination": "acme/risk:v2" });
        ollama.post("/api/copy", &copy).expect("a model with a name of three parts");
        let gone = "  - { name: gone, endpoints: [{ url: \"http://127.0.0.1:1\" }] }\n";
        let models = "models:\n  - { name: unreachable, revisions: [{ name: v1, pool: gone, upstream: risk-v1 }] }\n  \
                      - { name: risk, revisions: [{ name: v1, pool: p, upstream: risk-v1 }] }\n";
        let tutti = Tutti::start(&format!("{}{gone}{models}", pool(&[ollama.url()], "expose: all")));
        Self { tutti, _ollama: ollama }
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
        // Left out: that the stream's outcome is `ok`. Now and then it is `cancelled`, where the client closes as soon as
        // it has read `[DONE]` and the gateway sees that before the end of the replica's body.
        assert_eq!(self.logged("stream")["status"], 200);
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
        let cancel = self.logged("cancel");
        // Left out: that its `output_tokens` are those that went out. They are 0.
        assert_eq!((&cancel["outcome"], &cancel["phase"]), (&json!("cancelled"), &json!("answering")), "{cancel}");
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

const OLLAMA: [&str; 13] = [
    "chat",
    "chat_in_a_stream",
    "generate",
    "options",
    "embed",
    "tools",
    "json_schema",
    "models",
    "show",
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
}

#[test]
fn openai_for_javascript() {
    let served = Served::start();
    let (script, _project) = node("with_openai.mjs");
    served.passes(script, &OPENAI);
    served.logged_openais();
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
        "openai_batch",
        "openai_tools",
        "openai_structured_output",
        "openai_embeddings",
        "openai_unknown_model",
        "ollama_invoke",
        "ollama_stream",
        "ollama_tools",
        "ollama_structured_output",
        "ollama_embeddings",
        "ollama_unknown_model",
        "ollama_validates_its_model",
    ];
    Served::start().passes(python("with_langchain.py"), &checks);
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
    let (said, ok) = ollama(&["run", "nope", "hi"]);
    assert!(!ok && said.contains("is not for clients"), "it tries to pull what it does not find: {said}");
    for managed in [&["pull", "x"][..], &["rm", "risk-v1"], &["cp", "risk-v1", "y"]] {
        let (said, ok) = ollama(managed);
        assert!(!ok && said.contains("is not for clients"), "{managed:?}: {said}");
    }
}

#[test]
fn curl() {
    let served = Served::start();
    let curl = |path: &str, arguments: &[&str]| {
        let url = format!("{}{path}", served.url());
        let (said, ok) =
            run(Command::new("curl").args(["--silent", "--show-error", "--max-time", "60"]).args(arguments).arg(url));
        assert!(ok, "{path}: {said}");
        said
    };
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
