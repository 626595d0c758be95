//! The adapter-loader on engines that take no adapters, fail, restart and forget: simulated, for no real one fails when it is
//! asked to. That the simulated one makes models as a real one does is the test `makes`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tutti_simulator::{Config, Fault, Model, Running, Scope, Simulator};
use tutti_tests::site::files;
use tutti_tests::{Client, Loading, Site, Tutti, eventually};

/// A simulated engine on a disk that outlives it.
struct Engine {
    folder: TempDir,
    takes_adapters: bool,
    running: Option<Running>,
    /// Where it was, and comes back to.
    at: SocketAddr,
}

impl Engine {
    /// One with the rig's models.
    fn start(takes_adapters: bool) -> Self {
        let folder = TempDir::new().expect("a folder");
        let store = folder.path().join("models");
        tutti_rig::models_into(&store).expect("the rig has models");
        let running = Simulator::start(config(&store, takes_adapters, None)).expect("a free port");
        Self { folder, takes_adapters, at: running.addr(), running: Some(running) }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    fn die(&mut self) {
        drop(self.running.take().expect("it runs").kill());
    }

    fn come_back(&mut self) {
        let config = config(&self.store(), self.takes_adapters, Some(self.at));
        self.running = Some(eventually("its port", || Simulator::start(config.clone()).ok()));
    }

    fn ask(&self, path: &str, body: &Value) -> Value {
        let mut client = Client::connect(&self.at.to_string()).expect("it listens");
        let method = if body.is_null() { "GET" } else { "POST" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = client.ask(method, path, &[], &body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// The names that it has beside the rig's.
    fn names(&self) -> Vec<String> {
        let tags = self.ask("/api/tags", &Value::Null);
        let all = tags["models"].as_array().into_iter().flatten().filter_map(|model| model["name"].as_str());
        let own = |name: &&str| {
            !name.starts_with("risk-v") && !name.starts_with("tutti-story") && !name.starts_with("tutti-embed")
        };
        let mut names: Vec<String> = all.filter(own).map(str::to_owned).collect();
        names.sort();
        names
    }

    fn fault(&self, fault: Option<Fault>) {
        self.running().set_fault(fault.map(|fault| (fault, Scope::Creates)));
    }

    /// Waits until somebody has asked it to make a model of weights; not the question whether it takes adapters.
    fn asked_to_create(&self) {
        let create = |body: &[u8]| !String::from_utf8_lossy(body).contains("preflight");
        let found = self.running().wait(tutti_tests::PATIENCE, |seen| {
            let mut creates = seen.iter().filter(|seen| seen.path == "/api/create" && !seen.body.is_empty());
            creates.find(|seen| create(&seen.body)).map(|_| ())
        });
        found.expect("nobody has asked it");
    }
}

fn config(store: &Path, takes_adapters: bool, at: Option<SocketAddr>) -> Config {
    let mut config = Config::quick(Model::chat("unused", 1));
    (config.models, config.store, config.takes_adapters) = (Vec::new(), Some(store.to_owned()), takes_adapters);
    config.listen = at.unwrap_or(config.listen);
    config
}

fn site(engine: &Engine) -> Site {
    let mut site = Site::beside(&engine.url());
    site.put("risk/v1", "risk-v1");
    site.adapters = json!({ "probe": { "prompt": "x" } });
    site
}

/// A loader whose engine meets a fault in its first create. The question what it takes comes before, and is answered.
fn first_create(engine: &Engine, site: &Site, fault: Fault) -> Loading {
    let loading = site.start(&site.config(&[]));
    loading.0.wait_said("the engine answers");
    engine.fault(Some(fault));
    loading.0.write_config(&site.config(&["risk/v1"]));
    engine.asked_to_create();
    loading
}

/// It serves, nothing is left behind in the engine or on the disk, and nothing was looked for outside.
fn is_clean(engine: &Engine, site: &Site, loading: &Loading) -> String {
    let name = loading.serves("risk/v1");
    eventually("no other name", || (engine.names() == [name.clone()]).then_some(()));
    eventually("an empty folder", || files(&site.state().join("temp")).is_empty().then_some(()));
    assert!(files(&site.state().join("source")).is_empty());
    assert_eq!(files(&site.state().join("artefacts")).len(), 1);
    assert_eq!(engine.running().pulls(), 0, "nothing is looked for outside");
    name
}

#[test]
fn what_is_merged_for_an_engine_that_takes_no_adapters_is_like_its_base_but_for_what_it_refuses() {
    let engine = Engine::start(false);
    // A base with all that a base can have; `typical_p` is from before.
    let store = engine.store();
    let layer = |kind: &str, content: Value| {
        let text = content.to_string();
        let hex: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(store.join(format!("blobs/sha256-{hex}")), &text).unwrap();
        json!({ "mediaType": kind, "digest": format!("sha256:{hex}"), "size": text.len() })
    };
    let path = store.join("manifests/registry.ollama.ai/library/tutti-story/latest");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let layers = manifest["layers"].as_array_mut().unwrap();
    layers.retain(|layer| layer["mediaType"] != "application/vnd.ollama.image.params");
    let messages = json!([{ "role": "user", "content": "hi" }, { "role": "assistant", "content": "two\nlines" }]);
    let parameters = json!({ "typical_p": 0.9, "temperature": 0.5, "stop": ["<|im_end|>", "x"], "seed": 7 });
    layers.push(layer("application/vnd.ollama.image.params", parameters));
    layers.push(layer("application/vnd.ollama.image.messages", messages.clone()));
    fs::write(&path, manifest.to_string()).unwrap();

    let site = site(&engine);
    let loading = site.start(&site.config(&["risk/v1"]));
    let name = is_clean(&engine, &site, &loading);
    let shown = |name: &str| engine.ask("/api/show", &json!({ "model": name }));
    let (merged, base) = (shown(&name), shown("tutti-story"));
    assert_eq!((&merged["template"], &merged["messages"]), (&base["template"], &messages));
    let lines = |shown: &Value| shown["parameters"].as_str().unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    let wanted: Vec<String> = lines(&base).into_iter().filter(|line| !line.starts_with("typical_p")).collect();
    assert_eq!((lines(&merged), lines(&base).len()), (wanted, 5));
    assert!(!merged["modelfile"].as_str().unwrap().contains("\nADAPTER "));
    loading.0.wait_said("typical_p");
}

#[test]
fn an_engine_that_is_down_at_first_gets_all_once_it_answers() {
    for takes_adapters in [true, false] {
        let mut engine = Engine::start(takes_adapters);
        engine.die();
        let site = site(&engine);
        let loading = site.start(&site.config(&["risk/v1"]));
        let down = |state: &Value| state["reason"]["reason"] == "EngineUnavailable";
        loading.wait_for("risk/v1", "to say that the engine is down", down);
        engine.come_back();
        is_clean(&engine, &site, &loading);
    }
}

#[test]
fn an_engine_that_restarts_in_a_create_gets_it_again() {
    for takes_adapters in [true, false] {
        let mut engine = Engine::start(takes_adapters);
        let site = site(&engine);
        let loading = first_create(&engine, &site, Fault::SlowFirstByte(Duration::from_secs(600)));
        engine.die();
        engine.come_back();
        is_clean(&engine, &site, &loading);
    }
}

#[test]
fn a_create_that_breaks_off_or_fails_is_made_again() {
    for fault in [Fault::BreakMidToken, Fault::CloseBeforeHeader, Fault::RunnerDied] {
        let engine = Engine::start(true);
        let site = site(&engine);
        let loading = first_create(&engine, &site, fault);
        engine.fault(None);
        is_clean(&engine, &site, &loading);
    }
}

#[test]
fn a_create_that_goes_on_after_the_loader_has_died_does_not_collide_with_the_next() {
    let engine = Engine::start(true);
    let site = site(&engine);
    let yaml = site.config(&["risk/v1"]);
    let mut first = first_create(&engine, &site, Fault::SlowFirstByte(Duration::from_millis(1500)));
    first.0.signal(Signal::KILL);
    first.0.wait_ended();
    engine.fault(None);
    let loading = site.start(&yaml);
    loading.serves("risk/v1");
    // The first one's comes to its end, and what it makes goes.
    let creates = |seen: &[tutti_simulator::Seen]| seen.iter().filter(|seen| seen.path == "/api/create").count();
    let before = creates(&engine.running().seen());
    std::thread::sleep(Duration::from_millis(1600)); // what is waited for leaves no other trace
    is_clean(&engine, &site, &loading);
    assert_eq!(creates(&engine.running().seen()), before, "nobody makes it a second time");
}

#[test]
fn an_engine_that_loses_all_gets_it_again_and_says_what_it_lacks_meanwhile() {
    let engine = Engine::start(true);
    let site = site(&engine);
    let loading = site.start(&site.config(&["risk/v1"]));
    let name = loading.serves("risk/v1");
    fs::remove_dir_all(engine.store()).unwrap();
    let lacks = |state: &Value| state["reason"]["message"].as_str().is_some_and(|why| why.contains("the pool's base"));
    loading.wait_for("risk/v1", "to miss its base", lacks);
    tutti_rig::models_into(&engine.store()).unwrap();
    assert_eq!(is_clean(&engine, &site, &loading), name, "the same weights have the same name");
}

#[test]
fn a_base_by_other_letters_is_found_and_nothing_is_pulled() {
    let engine = Engine::start(true);
    let site = site(&engine);
    let yaml = site.config(&["risk/v1"]).replace("\"tutti-story\"", "\"Tutti-STORY:latest\"");
    let loading = site.start(&yaml);
    is_clean(&engine, &site, &loading);
}

#[test]
fn two_pools_on_one_engine_leave_each_others_candidates_alone() {
    let engine = Engine::start(true);
    let staged = |pool: &str| format!("tutti-staging-{pool}/left:over");
    for name in [staged("p"), staged("q")] {
        engine.ask("/api/copy", &json!({ "source": "risk-v1", "destination": name }));
    }
    let site = site(&engine);
    let loading = site.start(&site.config(&["risk/v1"]));
    let name = loading.serves("risk/v1");
    eventually("its own to be gone", || (engine.names() == [name.clone(), staged("q")]).then_some(()));
}

/// How often it was asked for an answer of a candidate.
fn asked_candidate(engine: &Engine) -> usize {
    let seen = engine.running().seen();
    seen.iter()
        .filter(|seen| seen.path == "/api/chat" && String::from_utf8_lossy(&seen.body).contains("staging"))
        .count()
}

#[test]
fn an_engine_that_has_no_adapters_after_all_is_believed_at_once_and_one_that_may_be_busy_is_not() {
    for (fault, says, asked) in [
        (Fault::NoLoras, "not yet implemented", 1),
        (Fault::Missing, "not found", 3),
        (Fault::RunnerDied, "terminated", 3),
    ] {
        let engine = Engine::start(true);
        let site = site(&engine);
        let loading = site.start(&site.config(&[]));
        loading.0.wait_said("the engine answers");
        // The base is asked first, and its answer is kept.
        loading.0.write_config(&site.config(&["risk/v1"]));
        loading.serves("risk/v1");
        engine.running().set_fault(Some((fault, Scope::Inference)));
        let before = asked_candidate(&engine);
        site.put("risk/v2", "risk-v2");
        loading.0.write_config(&site.config(&["risk/v1", "risk/v2"]));
        let message = loading.wait_quarantined("risk/v2", "EngineRefused");
        assert!(message.contains(says), "{message}");
        assert_eq!(asked_candidate(&engine) - before, asked, "{message}");
        engine.running().set_fault(None);
        // It is tried again, though not soon: with another word in the configuration now.
        loading.0.write_config(&site.config(&["risk/v1", "risk/v2"]).replace("200ms", "201ms"));
        loading.serves("risk/v2");
    }
}

#[test]
fn weights_that_an_engine_that_serves_does_not_load_are_quarantined_and_cost_it_one_probe() {
    let engine = Engine::start(true);
    let mut site = site(&engine);
    let loading = site.start(&site.config(&["risk/v1"]));
    loading.serves("risk/v1");
    eventually("readiness", || (loading.ask("GET", "/readyz", "").status == 200).then_some(()));
    site.loader = Some(format!("http://{}", loading.listen()));
    let tutti = Tutti::start(&site.config(&["risk/v1"]));
    let body = json!({ "model": "risk", "messages": [{ "role": "user", "content": "x" }] }).to_string();
    eventually("an answer", || (tutti.ask("POST", "/api/chat", &body).status == 200).then_some(()));
    engine.running().set_fault(Some((Fault::NoLoras, Scope::Inference)));
    site.put("risk/v2", "risk-v2");
    for process in [&loading.0, &tutti] {
        process.write_config(&site.config(&["risk/v1", "risk/v2"]));
    }
    let message = loading.wait_quarantined("risk/v2", "EngineRefused");
    assert!(message.contains("does not load"), "{message}");
    assert_eq!(tutti.metric("tutti_adapter_probes_total", &["outcome=\"failed\""]), 1.0, "it is asked once");
    assert_eq!(tutti.metric("tutti_adapter_probes_total", &["outcome=\"no_turn\""]), 0.0);
}
