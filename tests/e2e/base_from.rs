//! A site that reaches nothing else: the base model itself comes from the object store, and so do the adapters.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::site::{FILES, files, names, peft, says};
use tutti_tests::{Site, Store, eventually};

/// The rig's base as a folder of its own, packed as people do.
fn pack(template: &Path) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("rig/models");
    fs::copy(models.join("tutti-story.gguf"), folder.path().join("story.gguf")).expect("a copy");
    let listed = fs::read(models.join("models.json")).expect("the rig's list");
    let listed: Value = serde_json::from_slice(&listed).expect("it is JSON");
    fs::write(template, listed["models"][0]["template"].as_str().expect("a template")).expect("a file");
    let (at, template) = (folder.path().display().to_string(), template.display().to_string());
    let arguments = ["adapter", "pack", &at, "--kind", "base", "--template", &template];
    let arguments =
        [&arguments[..], &["--parameter", "temperature=0", "--parameter", r#"stop=["<|im_end|>"]"#]].concat();
    let finished = tutti_tests::run(&arguments, &[]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    folder
}

fn push(store: &Store, folder: &Path, path: &str) {
    let (key, secret) = store.minio.credentials();
    let env = [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)];
    let (at, to, url) = (folder.display().to_string(), format!("s3://models/{path}/"), store.way.url());
    let finished = tutti_tests::run(&["adapter", "push", &at, &to, "--endpoint", &url], &env);
    assert_eq!(finished.code, Some(0), "{path}: {}", finished.stderr);
}

#[test]
fn an_empty_engine_gets_base_and_adapter_from_minio_and_answers() {
    let store = Store::start();
    let ollama = Ollama::start(&OllamaOptions { models: false, ..OllamaOptions::default() }).expect("an Ollama");
    let folder = TempDir::new().expect("a folder");
    push(&store, pack(&folder.path().join("template")).path(), "bases/story");
    let adapter = TempDir::new().expect("a folder");
    for file in FILES {
        fs::copy(peft("risk-v1").join(file), adapter.path().join(file)).expect("a copy");
    }
    let at = adapter.path().display().to_string();
    assert_eq!(tutti_tests::run(&["adapter", "pack", &at], &[]).code, Some(0));
    push(&store, adapter.path(), "risk/v1");

    let mut site = Site::beside(&ollama.url());
    site.from = Some("s3://models/".to_owned());
    let credentials = store.credentials_file().display().to_string();
    let s3 = json!({ "endpoint": store.way.url(), "credentialsFile": credentials });
    site.adapters = json!({ "s3": s3, "baseFrom": "bases/story" });
    let loading = site.start(&site.config(&["risk/v1"]));
    let name = loading.serves("risk/v1");
    assert_eq!((says(&ollama, &name).as_str(), says(&ollama, "tutti-story").as_str()), ("高风险", "好的"));
    assert!(files(&site.state().join("source")).is_empty(), "the engine has it, the loader needs it no more");

    // Taken away by hand: it comes again, and then the adapter.
    for gone in ["tutti-story", &name] {
        tutti_tests::site::forget(&ollama, gone);
    }
    eventually("both", || names(&ollama).contains(&name).then_some(()));
    assert_eq!(says(&ollama, &name), "高风险");
}

#[test]
fn a_base_that_is_not_what_its_manifest_says_is_not_taken_and_says_so() {
    let ollama = Ollama::start(&OllamaOptions { models: false, ..OllamaOptions::default() }).expect("an Ollama");
    let mut site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let folder = TempDir::new().expect("a folder");
    let packed = pack(&folder.path().join("template"));
    let at = site.models().join("bases/story");
    fs::create_dir_all(&at).unwrap();
    for file in ["story.gguf", "manifest.json"] {
        fs::copy(packed.path().join(file), at.join(file)).unwrap();
    }
    let whole = fs::read(at.join("story.gguf")).unwrap();
    let mut turned = whole.clone();
    turned[whole.len() / 2] ^= 1;
    fs::write(at.join("story.gguf"), &turned).unwrap();
    site.adapters = json!({ "baseFrom": "bases/story" });
    let loading = site.start(&site.config(&["risk/v1"]));
    let refused = |state: &Value| state["reason"]["reason"] == "DigestMismatch";
    let state = loading.wait_for("risk/v1", "to say why", refused);
    assert!(state["reason"]["message"].as_str().unwrap().contains("does not come"), "{state}");
    assert_eq!(ollama.get("/api/tags").unwrap()["models"], json!([]), "nothing was made of it");
    // An adapter's manifest is no base's.
    let mut site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    site.put("bases/story", "risk-v1");
    site.adapters = json!({ "baseFrom": "bases/story" });
    let loading = site.start(&site.config(&["risk/v1"]));
    let refused = |state: &Value| state["reason"]["message"].as_str().is_some_and(|why| why.contains("--kind base"));
    loading.wait_for("risk/v1", "to say why", refused);
}
