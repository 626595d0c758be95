//! Which models a key may use, by whatever name and wherever that stands.

use serde_json::{Value, json};
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Answer, Keyed, eventually, inference, simulator_with, with_keys};

const OPENAI: &str = "/v1/chat/completions";
const OLLAMA: &str = "/api/chat";

fn replica() -> Running {
    let models = vec![Model::chat("m", 1 << 20), Model::chat("n", 1 << 20), Model::embedding("e", 1 << 20)];
    simulator_with(Config { models, ..tutti_tests::quick() })
}

/// The models `risk` (alias `chat`), `acme/score` and `secret`.
fn yaml(url: &str) -> String {
    let model = |name: &str, aliases: &str, upstream: &str| {
        let revisions = format!("[{{ name: v1, pool: p, upstream: {upstream} }}]");
        format!("  - {{ name: {name}, aliases: [{aliases}], revisions: {revisions} }}\n")
    };
    let models = [model("risk", "chat", "m"), model("acme/score", "", "e"), model("secret", "", "n")].concat();
    format!("pools: [{{ name: p, endpoints: [{{ url: \"{url}\" }}] }}]\nmodels:\n{models}")
}

fn chat(model: &str) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "stream": false }).to_string()
}

fn names(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    let list = json["models"].as_array().or(json["data"].as_array()).cloned().unwrap_or_default();
    let name = |entry: &Value| entry["name"].as_str().or(entry["id"].as_str()).unwrap_or_default().to_owned();
    list.iter().map(name).collect()
}

#[test]
fn a_key_sees_and_uses_its_models_by_any_of_their_names() {
    let replica = replica();
    let keyed = Keyed::start(&yaml(&replica.url()));
    for (models, listed, good) in [
        ("risk", &["risk"][..], &["risk", "RISK:latest", "chat"][..]),
        ("chat", &["risk"], &["risk", "chat"]),
        ("secret,acme/*", &["acme/score", "secret"], &["secret"]),
        ("*", &["risk", "acme/score", "secret"], &["risk", "secret", "chat"]),
    ] {
        let key = keyed.new_key(&["--models", models]);
        let get = |path: &str| keyed.ask(&key, "GET", path, "");
        assert_eq!(names(&get("/v1/models")), listed, "{models}");
        let tagged: Vec<String> = listed.iter().map(|name| format!("{name}:latest")).collect();
        assert_eq!(names(&get("/api/tags")), tagged, "{models}");
        for name in good {
            assert_eq!(get(&format!("/v1/models/{name}")).status, 200, "{models} {name}");
            for path in [OPENAI, OLLAMA] {
                let answer = keyed.ask(&key, "POST", path, &chat(name));
                assert_eq!(answer.status, 200, "{models} {name} {path}: {}", answer.text());
            }
        }
    }
}

#[test]
fn another_model_is_refused_and_an_unknown_one_is_unknown() {
    let replica = replica();
    let keyed = Keyed::start(&yaml(&replica.url()));
    let key = keyed.new_key(&["--models", "risk"]);
    let refused = keyed.ask(&key, "POST", OPENAI, &chat("secret"));
    let error = &refused.json()["error"];
    assert_eq!((refused.status, &error["code"], &error["param"]), (403, &json!("model_not_allowed"), &json!("model")));
    let refused = keyed.ask(&key, "POST", OLLAMA, &chat("Secret:latest"));
    assert_eq!(refused.status, 403);
    assert!(refused.json()["error"].as_str().is_some_and(|error| error.contains("may not use")), "{}", refused.text());
    for (method, path, body) in [
        ("GET", "/v1/models/secret", ""),
        ("POST", "/api/show", r#"{"model":"secret"}"#),
        ("POST", "/api/embed", r#"{"model":"acme/score","input":"x"}"#),
        ("POST", "/models/secret/api/chat", &chat("risk")),
    ] {
        assert_eq!(keyed.ask(&key, method, path, body).status, 403, "{path}");
    }
    assert_eq!(keyed.ask(&key, "POST", OLLAMA, &chat("nobody")).status, 404);
    assert_eq!(keyed.ask(&key, "GET", "/v1/models/nobody", "").status, 404);
    assert!(inference(&replica.seen()).is_empty(), "no replica heard of it");
    assert_eq!(keyed.tutti.metric("tutti_requests", &["code=\"model_not_allowed\"", "tenant=\"acme\""]), 6.0);
}

#[test]
fn header_path_and_body_cannot_say_one_model_and_use_another() {
    let replica = replica();
    let keyed = Keyed::start(&yaml(&replica.url()));
    let key = keyed.new_key(&["--models", "risk"]);
    let bearer = format!("Bearer {key}");
    let ask = |header: Option<&str>, path: &str, body: &str| {
        let mut headers = vec![("authorization", &*bearer)];
        headers.extend(header.map(|model| ("x-tutti-model", model)));
        keyed.tutti.client().ask("POST", path, &headers, body).status
    };
    assert_eq!(ask(Some("risk"), OLLAMA, &chat("secret")), 200);
    assert_eq!(ask(Some("secret"), OLLAMA, &chat("risk")), 403);
    assert_eq!(ask(None, "/models/risk/api/chat", &chat("secret")), 200);
    assert_eq!(ask(None, "/models/secret/api/chat", &chat("risk")), 403);
    assert_eq!(ask(Some("risk"), "/models/secret/api/chat", &chat("secret")), 200);
    assert_eq!(ask(Some("secret"), "/models/risk/api/chat", &chat("risk")), 403);
    let twice = r#"{"model":"risk","model":"secret","messages":[]}"#;
    assert_eq!(ask(None, OLLAMA, twice), 400);
    assert_eq!(ask(None, OLLAMA, &twice.replacen("model", "Model", 1)), 400);
    let seen = inference(&replica.seen());
    assert_eq!(seen.len(), 3);
    for seen in seen {
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(body["model"], "m", "what was allowed is what was asked");
    }
}

#[test]
fn what_is_in_memory_is_told_of_ones_own_models() {
    let replica = replica();
    let keyed = Keyed::start(&yaml(&replica.url()));
    let (all, own) = (keyed.new_key(&[]), keyed.new_key(&["--models", "risk"]));
    for model in ["risk", "secret"] {
        assert_eq!(keyed.ask(&all, "POST", OLLAMA, &chat(model)).status, 200);
    }
    eventually("the model is listed", || {
        let mut listed = names(&keyed.ask(&all, "GET", "/api/ps", ""));
        listed.sort();
        listed.contains(&"secret:latest".to_owned()).then_some(())
    });
    assert!(!names(&keyed.ask(&own, "GET", "/api/ps", "")).contains(&"secret:latest".to_owned()));
}

#[test]
fn who_waits_while_a_name_comes_to_mean_another_model_is_asked_again() {
    let (a, b) = (replica(), replica());
    let pools = format!(
        "pools:\n  - {{ name: a, endpoints: [{{ url: \"{}\" }}], slots: 1 }}\n  - {{ name: b, endpoints: [{{ url: \"{}\" }}] }}\n",
        a.url(),
        b.url()
    );
    let model = |name: &str, aliases: &str, pool: &str| {
        format!(
            "  - {{ name: {name}, aliases: [{aliases}], revisions: [{{ name: v1, pool: {pool}, upstream: m }}] }}\n"
        )
    };
    let keyed = Keyed::start(&format!("{pools}models:\n{}{}", model("risk", "chat", "a"), model("secret", "", "b")));
    let key = keyed.new_key(&["--models", "risk"]);
    a.set_fault(Some((Fault::Silent, Scope::Inference)));
    let _holds = keyed.begin(&key, OLLAMA, &chat("chat"));
    eventually("the first at the replica", || {
        (keyed.tutti.metric("tutti_requests_in_flight", &[&a.url()]) == 1.0).then_some(())
    });
    let mut waits = keyed.begin(&key, OLLAMA, &chat("chat"));
    eventually("the second in the queue", || {
        (keyed.tutti.metric("tutti_requests_queued", &["pool=\"a\""]) == 1.0).then_some(())
    });
    let changed = format!("{pools}models:\n{}", model("secret", "chat", "b"));
    keyed.tutti.write_config(&with_keys(&keyed.file().display().to_string(), &changed));
    let answer = waits.answer().unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(inference(&b.seen()).is_empty());
}
