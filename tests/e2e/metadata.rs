//! What models there are, what is known of them, and what is in memory: pages that wait for no slot.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use serde_json::{Value, json};
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Answer, Client, Tutti, eventually, pool, quick, reached, simulator_with};

fn ok(answer: Answer) -> Answer {
    assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
    answer
}

fn chat(model: &str) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "stream": false }).to_string()
}

/// A replica with a base and an adapter of it, and a model that nobody named.
fn replica() -> Running {
    let base = Model::chat("base", 1 << 20);
    let models = vec![base.with_adapter("acme/risk:v1-0a1b"), base, Model::chat("hidden", 1 << 20)];
    simulator_with(Config { models, ..quick() })
}

const NAMED: &str = "models:\n\
    \x20 - { name: risk, aliases: [r], revisions: [{ name: v1, pool: p, upstream: \"acme/risk:v1-0a1b\" }] }\n\
    \x20 - { name: twin, revisions: [{ name: v1, pool: p, upstream: \"ACME/risk:v1-0a1b\" }] }\n\
    \x20 - { name: \"foundation:7b\", revisions: [{ name: v1, pool: p, upstream: base }] }\n";

#[test]
fn show_waits_for_no_slot_and_takes_the_name_that_was_the_models_before() {
    let replica = replica();
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1\n    queue: { size: 0 }"));
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let _holding = tutti.begin("/api/chat", &chat("base"));
    reached(&replica, 1);
    assert_eq!(
        tutti.ask("POST", "/api/chat", &chat("base")).status,
        429,
        "its only slot is in use, and nobody may wait"
    );
    for body in [
        r#"{"model":"base"}"#,
        r#"{"model":"","system":"","template":"","verbose":false,"options":null,"name":"base"}"#,
        r#"{"name":"BASE:latest"}"#,
    ] {
        let shown = ok(tutti.ask("POST", "/api/show", body)).json();
        assert!(shown["capabilities"].is_array(), "{body}: {shown}");
    }
    ok(tutti.ask("POST", "/models/base/api/show", "{}"));
    for (body, status) in [(r#"{"name":"nope"}"#, 404), ("{}", 400), (r#"{"name":"a","NAME":"b"}"#, 400)] {
        assert_eq!(tutti.ask("POST", "/api/show", body).status, status, "{body}");
    }
    let line = tutti.wait_logged("one of them", |line| line["api"] == "/api/show" && line["status"] == 200);
    assert_eq!((&line["outcome"], &line["model"], &line["pool"]), (&json!("ok"), &json!("base:latest"), &json!("p")));
}

#[test]
fn show_says_the_names_that_clients_use() {
    let replica = replica();
    let tutti = Tutti::start(&format!("{}{NAMED}", pool(&[replica.url()], "expose: named")));
    let shown = ok(tutti.ask("POST", "/api/show", r#"{"model":"r"}"#));
    assert!(shown.json()["modelfile"].as_str().is_some_and(|file| file.contains("\n# FROM r\n")), "{}", shown.text());
    assert_eq!(shown.json()["details"]["parent_model"], "foundation:7b");
    assert!(!shown.text().contains("0a1b"), "{}", shown.text());
    // A base that clients may not see has no name.
    let alone = NAMED.lines().filter(|line| !line.contains("foundation")).collect::<Vec<_>>().join("\n");
    tutti.write_config(&format!("{}{alone}\n", pool(&[replica.url()], "expose: named")));
    tutti.wait_said("the changed configuration is in force");
    let shown = ok(tutti.ask("POST", "/api/show", r#"{"name":"risk"}"#));
    assert_eq!(shown.json()["details"]["parent_model"], "");
    assert!(!shown.text().contains("base:latest"), "{}", shown.text());
}

#[test]
fn show_asks_the_next_replica_where_one_is_gone() {
    let replicas = [replica(), replica()];
    let urls = replicas.each_ref().map(Running::url);
    let tutti = Tutti::start(&pool(&urls, "expose: all"));
    let [first, second] = replicas;
    first.stop();
    ok(tutti.ask("POST", "/api/show", r#"{"model":"base"}"#));
    second.stop();
    let none = tutti.ask("POST", "/api/show", r#"{"model":"base"}"#);
    assert_eq!((none.status, none.header("x-should-retry")), (503, Some("true")), "{}", none.text());
}

/// Names and their entries, as `GET /api/ps` lists them.
fn resident(tutti: &Tutti) -> Vec<(String, Value)> {
    let listed = ok(tutti.ask("GET", "/api/ps", "")).json();
    let named = |entry: &Value| (entry["name"].as_str().unwrap().to_owned(), entry.clone());
    listed["models"].as_array().unwrap().iter().map(named).collect()
}

/// Waits until these are in memory, in whatever order.
fn resident_are(tutti: &Tutti, names: &[&str]) -> Vec<(String, Value)> {
    eventually(&format!("{names:?} in memory"), || {
        let listed = resident(tutti);
        let mut found: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
        found.sort_unstable();
        (found == names).then_some(listed)
    })
}

/// Loads a model at a replica, past the gateway.
fn load(replica: &Running, model: &str, keep_alive: &str) {
    let body = json!({ "model": model, "keep_alive": keep_alive }).to_string();
    ok(Client::connect(&replica.addr().to_string()).unwrap().ask("POST", "/api/generate", &[], &body));
}

#[test]
fn ps_is_of_all_replicas_by_the_names_that_clients_use() {
    let replicas = [replica(), replica(), replica()];
    let (named, all) = (replicas.each_ref().map(Running::url), pool(&[replicas[2].url()], "expose: all"));
    let second = all.replace("pools:\n", "").replace("name: p", "name: q");
    let tutti = Tutti::start(&format!("{}{second}{NAMED}", pool(&named[..2], "expose: named")));
    assert_eq!(resident(&tutti), []);
    load(&replicas[0], "acme/risk:v1-0a1b", "1m");
    load(&replicas[0], "hidden", "1m");
    load(&replicas[1], "acme/risk:v1-0a1b", "1h");
    let listed = resident_are(&tutti, &["risk:latest", "twin:latest"]);
    for (name, entry) in &listed {
        assert_eq!((&entry["model"], &entry["details"]["parent_model"]), (&json!(name), &json!("")), "{entry}");
        assert!(entry["size"].is_u64() && entry["context_length"].is_u64(), "{entry}");
        assert_eq!(entry["digest"].as_str().map(str::len), Some(64), "{entry}");
    }
    // What the other pool shows, it shows by the replica's own names.
    load(&replicas[2], "hidden", "5m");
    load(&replicas[2], "base", "-1s");
    let listed = resident_are(&tutti, &["base:latest", "hidden:latest", "risk:latest", "twin:latest"]);
    let order: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(order, ["base:latest", "risk:latest", "twin:latest", "hidden:latest"], "what stays longest comes first");
}

#[test]
fn ps_is_gentle_and_does_without_a_replica_that_does_not_answer() {
    let replicas = [replica(), replica()];
    let urls = replicas.each_ref().map(Running::url);
    let tutti = Tutti::start(&pool(&urls, "expose: all"));
    load(&replicas[0], "base", "1h");
    replicas[1].set_fault(Some((Fault::Silent, Scope::Everything)));
    let began = std::time::Instant::now();
    let clients: Vec<Client> = (0..50)
        .map(|_| {
            let mut client = tutti.client();
            client.send("GET", "/api/ps", &[], "").unwrap();
            client
        })
        .collect();
    for mut client in clients {
        assert_eq!(ok(client.answer().unwrap()).json()["models"].as_array().map(Vec::len), Some(1));
    }
    let seconds = began.elapsed().as_secs() + 1;
    let asked = replicas[0].seen().iter().filter(|seen| seen.path == "/api/ps").count() as u64;
    assert!(asked <= seconds, "50 clients, {asked} questions in {seconds} s");
}

#[test]
fn lists_have_the_shape_of_models_that_no_replica_has_spoken_of() {
    let model = "models:\n  - { name: later, revisions: [{ name: v1, pool: p, upstream: x }] }\n";
    let tutti = Tutti::start(&format!("{}{model}", pool(&["http://127.0.0.1:1".to_owned()], "expose: named")));
    let tags = ok(tutti.ask("GET", "/api/tags", "")).json();
    let entry = &tags["models"][0];
    assert_eq!((&entry["name"], &entry["model"]), (&json!("later:latest"), &json!("later:latest")));
    assert_eq!(entry["digest"].as_str().map(str::len), Some(64));
    assert!(entry["details"]["family"].is_string() && entry["modified_at"].is_string(), "{entry}");
    assert_eq!(ok(tutti.ask("GET", "/v1/models/later", "")).json()["id"], "later");
}

#[test]
fn pages_take_head_and_options_and_a_slash_more() {
    let replica = replica();
    let tutti = Tutti::before(&[replica.url()]);
    let pages = ["/", "/api/tags", "/api/ps", "/api/version", "/v1/models", "/v1/models/base", "/healthz", "/readyz"];
    for path in pages {
        let whole = ok(tutti.ask("GET", path, ""));
        let mut client = tutti.client();
        client.send("HEAD", path, &[], "").unwrap();
        let head = client.head().unwrap();
        assert_eq!((head.status, head.header("content-length")), (200, whole.header("content-length")), "{path}");
        let options = tutti.ask("OPTIONS", path, "");
        assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS")), "{path}");
        if path != "/" {
            assert_eq!(ok(tutti.ask("GET", &format!("{path}/"), "")).status, 200, "{path}/");
            let wrong = tutti.ask("DELETE", path, "");
            assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET, HEAD")), "{path}");
        }
    }
    ok(tutti.ask("POST", "/api/chat/", &chat("base")));
    ok(tutti.ask("POST", "/models/base/v1/chat/completions/", &chat("other")));
    let options = tutti.ask("OPTIONS", "/v1/chat/completions", "");
    assert_eq!((options.status, options.header("allow")), (204, Some("POST, OPTIONS")));
    for path in ["//", "//api/tags", "/api//tags", "/api/tags//", "/./api/tags", "/api/../api/tags"] {
        assert_eq!(tutti.ask("GET", path, "").status, 404, "{path}");
    }
}
