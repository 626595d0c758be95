//! What the simulator answers to who makes models is what a real Ollama answers: the same is asked of both.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tutti_rig::{Ollama, OllamaOptions};
use tutti_simulator::{Config, Model, Running, Simulator};
use tutti_tests::Client;

/// An engine, and where it keeps its models.
struct Asked {
    url: String,
    store: String,
}

impl Asked {
    /// What it answers: a status, and a document or lines.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let host = self.url.trim_start_matches("http://");
        let mut client = Client::connect(host).expect("it is there");
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n", body.len());
        client.send_raw(&[head.as_bytes(), body].concat()).expect("it listens");
        let answer = if method == "HEAD" { client.head() } else { client.answer() };
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let text = answer.text();
        let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        let said = match lines {
            Ok(lines) if lines.len() == 1 => lines[0].clone(),
            Ok(lines) => lines.into(),
            Err(_) => text.into(),
        };
        (answer.status, self.without_place(said))
    }

    /// The same without what is each engine's own: its folder, times, and the order in which Go has the members of a map.
    fn without_place(&self, mut said: Value) -> Value {
        match &mut said {
            Value::String(text) => *text = text.replace(&self.store, "STORE"),
            Value::Array(all) => {
                all.iter_mut().for_each(|one| *one = self.without_place(one.take()));
                // What is new to one was there in the other: which depends on what a test did before.
                all.retain(|one| !one["status"].as_str().is_some_and(|status| status.contains(" layer ")));
            }
            Value::Object(members) => {
                for gone in ["modified_at", "digest", "size", "capabilities", "projector_info"] {
                    members.remove(gone);
                }
                for (name, member) in members.iter_mut() {
                    *member = self.without_place(member.take());
                    if let Value::String(text) = member
                        && (name == "modelfile" || name == "parameters")
                    {
                        let mut lines: Vec<&str> = text.lines().collect();
                        lines.sort_unstable();
                        *text = lines.join("\n");
                    }
                }
            }
            _ => {}
        }
        said
    }
}

fn simulated(folder: &TempDir, takes_adapters: bool) -> (Running, Asked) {
    let store = folder.path().join("models");
    let mut config = Config::quick(Model::chat("unused", 1));
    (config.models, config.store, config.takes_adapters) = (Vec::new(), Some(store.clone()), takes_adapters);
    let running = Simulator::start(config).expect("a free port");
    let url = running.url();
    (running, Asked { url, store: store.display().to_string() })
}

fn gguf(name: &str) -> (Vec<u8>, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("rig/models").join(name);
    let bytes = std::fs::read(path).expect("a model of the rig");
    let hex: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    (bytes, format!("sha256:{hex}"))
}

/// All that is asked, in this order.
fn questions() -> Vec<(&'static str, String, Vec<u8>)> {
    let ((model, base), (lora, adapter)) = (gguf("tutti-story.gguf"), gguf("risk-v1.gguf"));
    let (plain, embed) = gguf("tutti-embed.gguf"); // it brings no template
    let nowhere = format!("sha256:{}", "0".repeat(64));
    let blob = |digest: &str| format!("/api/blobs/{digest}");
    let json = |method, path: &str, body: Value| (method, path.to_owned(), body.to_string().into_bytes());
    let create = |mut body: Value| {
        body["stream"] = body.get("stream").cloned().unwrap_or(json!(false));
        json("POST", "/api/create", body)
    };
    let more = json!({ "stop": ["<|im_end|>", "x"], "temperature": 0.5, "num_ctx": 2048, "typical_p": 0.9 });
    let messages = json!([{ "role": "user", "content": "one\ntwo" }, { "role": "assistant", "content": "three" }]);
    vec![
        ("HEAD", blob(&base), vec![]),
        ("HEAD", blob("sha256:1"), vec![]),
        ("POST", blob(&nowhere), b"other".to_vec()),
        ("POST", blob("md5:x"), b"other".to_vec()),
        ("POST", blob(&base), model.clone()),
        ("POST", blob(&base), model),
        ("POST", blob(&adapter), lora),
        ("POST", blob(&embed), plain),
        ("HEAD", blob(&adapter), vec![]),
        ("POST", "/api/create".into(), vec![]),
        create(json!({ "model": "acme/x y", "files": { "m.gguf": base } })),
        create(json!({ "model": "risk@v2", "files": { "m.gguf": base } })),
        create(json!({ "model": "story" })),
        create(json!({ "model": "story", "files": {} })),
        create(json!({ "model": "story", "files": { "m.gguf": nowhere } })),
        create(json!({ "model": "story", "files": { "m.gguf": base }, "parameters": more, "messages": messages,
            "template": "{{ .Prompt }}\n\"x\"", "system": "Be brief.", "license": "MIT" })),
        create(json!({ "model": "bare", "files": { "m.gguf": embed }, "stream": true })),
        json("POST", "/api/show", json!({ "model": "story", "verbose": true })),
        json("POST", "/api/show", json!({ "name": "BARE", "verbose": true })),
        create(
            json!({ "model": "acme/risk:v2-1a2b3c4d5e6f", "from": "story", "adapters": { "adapter.gguf": adapter } }),
        ),
        create(json!({ "model": "no", "from": "story", "adapters": { "adapter.gguf": nowhere } })),
        create(json!({ "model": "no", "from": "story", "adapters": { "a.gguf": adapter, "b.gguf": adapter } })),
        create(json!({ "model": "no", "adapters": { "adapter.gguf": nowhere } })),
        json("POST", "/api/show", json!({ "model": "acme/risk:v2-1a2b3c4d5e6f", "verbose": true })),
        create(
            json!({ "model": "over", "from": "story", "template": "{{ .Prompt }}", "parameters": { "num_ctx": 1 } }),
        ),
        json("POST", "/api/show", json!({ "model": "over", "verbose": true })),
        json("POST", "/api/copy", json!({ "source": "STORY", "destination": "acme/copy:x" })),
        json("POST", "/api/copy", json!({ "source": "none", "destination": "copy" })),
        json("POST", "/api/copy", json!({ "source": "a b", "destination": "copy" })),
        json("POST", "/api/copy", json!({ "source": "story", "destination": "a b" })),
        json("GET", "/api/copy", json!({})),
        json("DELETE", "/api/delete", json!({ "model": "story" })),
        json("DELETE", "/api/delete", json!({ "model": "story" })),
        json("DELETE", "/api/delete", json!({ "name": "a b" })),
        json("POST", "/api/show", json!({ "model": "acme/copy:x", "verbose": true })),
        json("DELETE", "/api/delete", json!({ "model": "over" })),
        ("HEAD", blob(&base), vec![]),
        json("DELETE", "/api/delete", json!({ "model": "ACME/Copy:X" })),
        json("DELETE", "/api/delete", json!({ "model": "bare" })),
        json("DELETE", "/api/delete", json!({ "model": "acme/risk:v2-1a2b3c4d5e6f" })),
        // Nothing refers to them any more.
        ("HEAD", blob(&base), vec![]),
        ("HEAD", blob(&adapter), vec![]),
        ("GET", "/api/tags".into(), vec![]),
    ]
}

#[test]
fn the_simulator_makes_models_as_a_real_one_does() {
    let options = OllamaOptions { models: false, ..OllamaOptions::default() };
    let real = Ollama::start(&options).expect("the rig starts an Ollama");
    let real = Asked { url: real.url(), store: real.store().display().to_string() }.also(real);
    let folder = TempDir::new().expect("a folder");
    let (_running, simulated) = simulated(&folder, true);
    for (method, path, body) in questions() {
        let shown: String = String::from_utf8_lossy(&body).chars().take(300).collect();
        let (wanted, got) = (real.0.ask(method, &path, &body), simulated.ask(method, &path, &body));
        let mut others = Vec::new();
        differ("", &got.1, &wanted.1, &mut others);
        assert!(got.0 == wanted.0 && others.is_empty(), "{method} {path} {shown}: {} {} {others:#?}", got.0, wanted.0);
    }
}

/// Says where two answers differ, the simulated one first.
fn differ(at: &str, got: &Value, wanted: &Value, others: &mut Vec<String>) {
    match (got, wanted) {
        (Value::Object(of_got), Value::Object(of_wanted)) => {
            for name in of_got.keys().chain(of_wanted.keys()) {
                differ(&format!("{at}.{name}"), &got[name], &wanted[name], others);
            }
        }
        _ if got != wanted => {
            let cut = |value: &Value| value.to_string().chars().take(500).collect::<String>();
            others.push(format!("{at}: {} {}", cut(got), cut(wanted)));
        }
        _ => {}
    }
}

/// An engine that lives as long as who asks it.
struct Kept<T>(Asked, #[allow(dead_code, reason = "it ends with this")] T);

impl Asked {
    fn also<T>(self, kept: T) -> Kept<T> {
        Kept(self, kept)
    }
}

#[test]
fn the_store_of_a_real_one_is_one_for_the_simulator() {
    let folder = TempDir::new().expect("a folder");
    tutti_rig::models_into(&folder.path().join("models")).expect("the rig has models");
    let (running, simulated) = simulated(&folder, true);
    let tags = simulated.ask("GET", "/api/tags", b"").1;
    let mut names: Vec<&str> =
        tags["models"].as_array().unwrap().iter().filter_map(|tag| tag["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["risk-v1:latest", "risk-v2:latest", "tutti-embed:latest", "tutti-story:latest"]);
    // Other weights answer otherwise, the same by another name do not.
    let says = |model: &str| {
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "x" }], "stream": false });
        simulated.ask("POST", "/api/chat", body.to_string().as_bytes()).1["message"]["content"].clone()
    };
    let copy = json!({ "source": "risk-v1", "destination": "copy" }).to_string();
    assert_eq!(simulated.ask("POST", "/api/copy", copy.as_bytes()).0, 200);
    assert_eq!(says("copy"), says("risk-v1"));
    assert!(says("risk-v1") != says("tutti-story") && says("risk-v1") != says("risk-v2"));
    assert_eq!(running.pulls(), 0);
    // A base by other letters is another's for who makes models, and would be looked for outside.
    let create = json!({ "model": "a", "from": "TUTTI-story", "stream": false }).to_string();
    assert_eq!(simulated.ask("POST", "/api/create", create.as_bytes()).0, 500);
    assert_eq!(running.pulls(), 1);
}

/// As a 0.34.2 answered that was built and asked by hand.
#[test]
fn a_later_one_takes_no_adapters_and_no_typical_p() {
    let folder = TempDir::new().expect("a folder");
    let (_running, simulated) = simulated(&folder, false);
    let ((model, base), (lora, adapter)) = (gguf("tutti-story.gguf"), gguf("risk-v1.gguf"));
    for (digest, bytes) in [(&base, &model), (&adapter, &lora)] {
        assert_eq!(simulated.ask("POST", &format!("/api/blobs/{digest}"), bytes).0, 201);
    }
    let create = |mut body: Value| {
        (body["model"], body["stream"]) = (json!("m"), json!(false));
        simulated.ask("POST", "/api/create", body.to_string().as_bytes())
    };
    let refused = |why: &str| (400, json!({ "error": why }));
    let nowhere = format!("sha256:{}", "0".repeat(64));
    let no_adapters = refused("LoRA adapters are no longer supported");
    assert_eq!(create(json!({ "adapters": { "adapter.gguf": nowhere } })), no_adapters);
    assert_eq!(create(json!({ "from": "m", "adapters": { "adapter.gguf": adapter } })), no_adapters);
    let as_model = "LoRA adapters are no longer supported: a.gguf is a LoRA adapter";
    assert_eq!(create(json!({ "files": { "a.gguf": adapter } })), refused(as_model));
    let typical = json!({ "files": { "m.gguf": base }, "parameters": { "typical_p": 0.9 } });
    assert_eq!(create(typical), refused("typical_p is no longer supported"));
    assert_eq!(create(json!({ "adapters": {} })), refused("neither 'from' or 'files' was specified"));
    assert_eq!(create(json!({ "files": { "m.gguf": base }, "parameters": { "unknown": 1 } })).0, 200);
    let version = simulated.ask("GET", "/api/version", b"").1;
    assert_eq!(version, json!({ "version": "0.34.2-simulated" }));
}
