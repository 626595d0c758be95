//! The whole way: an adapter is packed and pushed into a real MinIO, a real loader brings it to a real Ollama, and a client of
//! the gateway reads what it answers.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::site::{COMPLAINT, FILES, peft, says};
use tutti_tests::{Site, Store, Tutti, eventually};

/// Packs one of the rig's adapters and pushes it, as people do.
fn push(store: &Store, adapter: &str, path: &str) {
    let folder = TempDir::new().expect("a folder");
    for file in FILES {
        fs::copy(peft(adapter).join(file), folder.path().join(file)).expect("a copy");
    }
    let (at, to) = (folder.path().display().to_string(), format!("s3://models/{path}/"));
    let (key, secret) = store.minio.credentials();
    let env = [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)];
    let url = store.way.url();
    for arguments in [&["pack", &at][..], &["push", &at, &to, "--endpoint", &url]] {
        let finished = tutti_tests::run(&[&["adapter"], arguments].concat(), &env);
        assert_eq!(finished.code, Some(0), "{arguments:?}: {}", finished.stderr);
    }
}

/// A configuration of two revisions of which this one has the traffic.
fn config(site: &Site, paths: &[&str], serves: &str) -> String {
    let mut config: Value = serde_json::from_str(&site.config(paths)).expect("JSON is YAML");
    config["models"][0]["traffic"]["revision"] = json!(serves);
    config.to_string()
}

/// What the gateway answers to the complaint, with its status.
fn asked(tutti: &Tutti) -> (u16, String) {
    let body = json!({ "model": "risk", "messages": [{ "role": "user", "content": COMPLAINT }], "temperature": 0 });
    let answer = tutti.ask("POST", "/v1/chat/completions", &body.to_string());
    let said = answer.json()["choices"][0]["message"]["content"].as_str().map(str::to_owned);
    (answer.status, said.unwrap_or_else(|| answer.text()))
}

#[test]
fn from_an_object_in_minio_to_an_answer_and_a_second_revision_once_it_is_proven() {
    let (store, ollama) = (Store::start(), Ollama::start(&OllamaOptions::default()).expect("an Ollama"));
    let mut site = Site::beside(&ollama.url());
    site.from = Some("s3://models/".to_owned());
    let spec = store.spec();
    site.adapters = json!({ "s3": { "endpoint": spec.endpoint, "credentialsFile": spec.credentials_file } });
    let one = config(&site, &["risk/v1"], "r0");
    let tutti = Tutti::start(&one);
    let (status, said) = asked(&tutti);
    assert!(status == 503 && said.contains("no_replica"), "nobody has it yet: {status} {said}");

    push(&store, "risk-v1", "risk/v1");
    let loader = site.start(&one);
    let first = loader.serves("risk/v1");
    eventually("the first revision's answer", || (asked(&tutti) == (200, "高风险".to_owned())).then_some(()));
    assert_eq!(says(&ollama, "tutti-story"), "好的", "the base answers otherwise");

    // The second is wanted and not there yet: the first serves.
    let both = ["risk/v1", "risk/v2"];
    for process in [&tutti, &loader.0] {
        process.write_config(&config(&site, &both, "r0"));
    }
    loader.wait_quarantined("risk/v2", "NotFound");
    assert_eq!(asked(&tutti), (200, "高风险".to_owned()));
    push(&store, "risk-v2", "risk/v2");
    let mut probed = 0;
    let second = eventually("the proof of the second", || {
        assert_eq!(asked(&tutti), (200, "高风险".to_owned()), "the first serves until the second is proven");
        probed += 1;
        let state = loader.state("risk/v2");
        (state["phase"] == "Ready").then(|| state["engineName"].as_str().unwrap_or_default().to_owned())
    });
    assert!(second != first && probed > 0);
    tutti.write_config(&config(&site, &both, "r1"));
    eventually("the second revision's answer", || {
        let (status, said) = asked(&tutti);
        assert_eq!(status, 200, "a switch costs nobody an answer: {said}");
        (said == "高风险：需人工复核").then_some(())
    });
    // What the clients are shown is their name for it.
    let body = json!({ "model": "risk", "messages": [{ "role": "user", "content": COMPLAINT }], "stream": false });
    let answer = tutti.ask("POST", "/api/chat", &body.to_string());
    assert_eq!((answer.status, answer.json()["model"].as_str()), (200, Some("risk")));
    assert_eq!(answer.header("x-tutti-revision"), Some("r1"));
}
