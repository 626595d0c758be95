//! `tutti check --connect` and the loader's log at its start say by name what will not work; without the flag nobody is asked.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tutti_simulator::{Config, Model, Running, Simulator};
use tutti_tests::{Finished, Site, Store};

/// A simulated engine with the rig's models.
fn engine(folder: &TempDir, takes_adapters: bool) -> Running {
    let store = folder.path().join("models");
    tutti_rig::models_into(&store).expect("the rig has models");
    let mut config = Config::quick(Model::chat("unused", 1));
    (config.models, config.store, config.takes_adapters) = (Vec::new(), Some(store), takes_adapters);
    Simulator::start(config).expect("a free port")
}

/// What `tutti check` says of a site's configuration, changed.
fn check(site: &Site, flags: &[&str], change: impl FnOnce(&mut Value)) -> Finished {
    let mut config: Value = serde_json::from_str(&site.config(&["risk/v1"])).expect("JSON is YAML");
    change(&mut config["pools"][0]);
    let file = site.models().join("../tutti.yaml");
    fs::write(&file, config.to_string()).expect("a file");
    let (file, state) = (file.display().to_string(), site.state().display().to_string());
    let own: &[&str] = if flags == ["--connect"] { &["--state", &state] } else { &[] };
    tutti_tests::run(&[&["check", "--config", &file], flags, own].concat(), &[])
}

#[test]
fn what_works_is_right_and_without_the_flag_nobody_is_asked() {
    let folder = TempDir::new().expect("a folder");
    let engine = engine(&folder, true);
    let site = Site::beside(&engine.url());
    site.put("risk/v1", "risk-v1");
    let plain = check(&site, &[], |_| ());
    assert_eq!((plain.code, engine.connections()), (Some(0), 0), "{}", plain.stderr);
    let asked = check(&site, &["--connect"], |_| ());
    assert_eq!(asked.code, Some(0), "{}", asked.stderr);
    assert!(engine.connections() > 0 && !site.state().exists(), "asked, and nothing was left behind");
}

/// What is wrong, what makes it so, and what has to be said.
type Case<'c> = (&'c str, fn(&mut Value, &str), &'c [&'c str]);

#[test]
fn what_will_not_work_is_said_by_name() {
    let folder = TempDir::new().expect("a folder");
    let engine = engine(&folder, true);
    let site = Site::beside(&engine.url());
    site.put("risk/v1", "risk-v1");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it has one");
    let cases: [Case<'_>; 5] = [
        ("the engine is not there", |pool, nobody| pool["endpoints"][0]["url"] = json!(nobody), &["does not answer"]),
        (
            "no base",
            |pool, _| pool["base"] = json!("qwen2.5:0.5b"),
            &["no \"qwen2.5:0.5b\"", "ollama pull", "baseFrom"],
        ),
        ("another architecture", |pool, _| pool["base"] = json!("tutti-embed"), &["architecture bert", "llama"]),
        (
            "no such folder",
            |pool, _| pool["adapters"]["from"] = json!("/nowhere/at/all"),
            &["adapters.from", "no such bucket or folder"],
        ),
        (
            "no such base in the source",
            |pool, _| pool["adapters"]["baseFrom"] = json!("bases/x"),
            &["adapters.baseFrom", "bases/x"],
        ),
    ];
    for (what, change, says) in cases {
        let found = check(&site, &["--connect"], |pool| change(pool, &format!("http://{nobody}")));
        assert_eq!(found.code, Some(3), "{what}: {}", found.stderr);
        for say in says {
            assert!(found.stderr.contains(say), "{what}: {}", found.stderr);
        }
        assert!(found.stdout.contains("is right"), "the configuration itself is");
        assert_eq!(check(&site, &[], |pool| change(pool, &format!("http://{nobody}"))).code, Some(0), "{what}");
    }
    fs::remove_dir_all(site.models().join("risk")).expect("it was there");
    let found = check(&site, &["--connect"], |_| ());
    assert!(found.code == Some(3) && found.stderr.contains("nothing at risk/v1"), "{}", found.stderr);
}

#[test]
fn an_engine_that_takes_no_adapters_wants_a_base_that_can_be_read_and_room() {
    let folder = TempDir::new().expect("a folder");
    let engine = engine(&folder, false);
    let site = Site::beside(&engine.url());
    site.put("risk/v1", "risk-v1");
    assert_eq!(check(&site, &["--connect"], |_| ()).code, Some(0));
    let found = check(&site, &["--connect"], |pool| pool["adapters"]["strategy"] = json!("adapter"));
    assert!(found.code == Some(3) && found.stderr.contains("takes no adapters"), "{}", found.stderr);
    let found = check(&site, &["--connect"], |pool| pool["adapters"]["disk"] = json!("10Ki"));
    assert!(found.code == Some(3) && found.stderr.contains("adapters.disk is 10240"), "{}", found.stderr);
}

#[test]
fn an_engine_whose_folder_is_not_seen_from_here_is_named_where_adapters_are_merged() {
    let folder = TempDir::new().expect("a folder");
    tutti_rig::models_into(folder.path()).expect("the rig has models");
    // A path by which this process alone finds it, as one in another container has.
    let own = fs::File::open(folder.path()).expect("a folder");
    let store = format!("/proc/self/fd/{}", own.as_raw_fd());
    let mut config = Config::quick(Model::chat("unused", 1));
    (config.models, config.store, config.takes_adapters) = (Vec::new(), Some(store.into()), false);
    let engine = Simulator::start(config).expect("a free port");
    let site = Site::beside(&engine.url());
    site.put("risk/v1", "risk-v1");
    let found = check(&site, &["--connect"], |_| ());
    let says = found.stderr.contains("cannot be read here") && found.stderr.contains("OLLAMA_MODELS");
    assert!(found.code == Some(3) && says, "{}", found.stderr);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = TempDir::new().expect("a folder");
    let engine = engine(&folder, true);
    let site = Site::beside(&engine.url());
    site.put("risk/v1", "risk-v1");
    let found = check(&site, &["--connect", "--state", "/proc/tutti"], |_| ());
    assert!(found.code == Some(3) && found.stderr.contains("nothing can be written in /proc"), "{}", found.stderr);
}

#[test]
fn a_bucket_that_is_not_there_and_credentials_that_are_wrong_are_named_and_never_shown() {
    let store = Store::start();
    let folder = TempDir::new().expect("a folder");
    let engine = engine(&folder, true);
    let site = Site::beside(&engine.url());
    let wrong = folder.path().join("credentials");
    let secret = "not-the-secret-of-this-store";
    fs::write(&wrong, format!("[default]\naws_access_key_id = tutti-nobody\naws_secret_access_key = {secret}\n"))
        .unwrap();
    let s3 = |credentials: &Path| json!({ "endpoint": store.way.url(), "credentialsFile": credentials.display().to_string() });
    for (from, credentials, says) in [
        ("s3://models/", wrong.clone(), "no credentials that it takes"),
        ("s3://other/", store.credentials_file(), "no such bucket"),
        ("s3://models/", store.credentials_file(), "nothing at risk/v1"),
    ] {
        let found = check(&site, &["--connect"], |pool| {
            (pool["adapters"]["from"], pool["adapters"]["s3"]) = (json!(from), s3(&credentials));
        });
        assert!(found.code == Some(3) && found.stderr.contains(says), "{from}: {}", found.stderr);
        assert!(!found.stderr.contains(secret), "{}", found.stderr);
    }
}

#[test]
fn a_loader_says_it_at_its_start() {
    let folder = TempDir::new().expect("a folder");
    let engine = engine(&folder, true);
    let mut site = Site::beside(&engine.url());
    site.adapters = json!({ "strategy": "merge", "disk": "10Ki" });
    let loading = site.start(&site.config(&["risk/v1"]));
    loading.0.wait_said("preflight: there is nothing at risk/v1");
    loading.0.wait_said("preflight: a merged adapter takes up to");
    drop(loading);
    site.put("risk/v1", "risk-v1");
    site.adapters = json!({});
    site.start(&site.config(&["risk/v1"])).0.wait_said("preflight: nothing stands in the way");
}
