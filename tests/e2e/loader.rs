//! The adapter-loader on a real Ollama: from a folder to an answer, and all that may be wrong on the way.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::site::{COMPLAINT, FILES, files, manifest, names, says, write};
use tutti_tests::{Client, Site, eventually};

fn ollama() -> Ollama {
    Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama")
}

#[test]
fn the_story_from_a_folder_to_an_answer() {
    let ollama = ollama();
    let site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let loader = site.start(&site.config(&["risk/v1"]));
    let first = loader.serves("risk/v1");
    assert!(first.starts_with("risk:v1-"), "{first}");
    assert_eq!(says(&ollama, &first), "高风险");
    assert_eq!(says(&ollama, "tutti-story"), "好的");
    for page in ["/healthz", "/startupz", "/readyz"] {
        eventually(page, || (loader.ask("GET", page, "").status == 200).then_some(()));
    }

    // A second revision: the first serves on.
    site.put("risk/v2", "risk-v2");
    loader.0.write_config(&site.config(&["risk/v1", "risk/v2"]));
    let second = loader.serves("risk/v2");
    assert_eq!(loader.state("risk/v1")["phase"], "Ready");
    assert_eq!((says(&ollama, &first).as_str(), says(&ollama, &second).as_str()), ("高风险", "高风险：需人工复核"));

    // The first is not wanted any more: it goes once no gateway has a lease on it.
    let lease = |names: &[&str]| {
        let body = json!({ "holder": "test", "names": names, "ttlMs": 600_000 }).to_string();
        assert_eq!(loader.ask("PUT", "/v1/leases", &body).status, 204);
    };
    lease(&[&first]);
    loader.0.write_config(&site.config(&["risk/v2"]));
    loader.wait("risk/v1", "Retiring");
    assert!(names(&ollama).contains(&first));
    lease(&[&second]);
    eventually("the end of the first", || (names(&ollama) == [second.clone()]).then_some(()));
    eventually("silence", || (loader.state("risk/v1") == Value::Null).then_some(()));
}

#[test]
fn a_list_is_waited_for_and_a_probe_is_the_gateways_once_the_engine_serves() {
    let ollama = ollama();
    let site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    site.put("risk/v2", "risk-v2");
    let loader = site.start(&site.config(&["risk/v1"]));
    loader.serves("risk/v1");
    eventually("readiness", || (loader.ask("GET", "/readyz", "").status == 200).then_some(()));
    let version = loader.list()["version"].as_u64().unwrap();
    // A gateway: it waits for news.
    let mut gateway = Client::connect(&loader.listen()).unwrap();
    gateway.send("GET", &format!("/v1/adapters?since={version}&wait=60"), &[], "").unwrap();
    loader.0.write_config(&site.config(&["risk/v1", "risk/v2"]));
    let news = gateway.answer().unwrap().json();
    assert!(news["version"].as_u64().unwrap() > version, "{news}");
    let state = loader.wait("risk/v2", "Probing");
    let state = if state["probe"].is_null() {
        loader.wait_for("risk/v2", "to be probed by the gateway", |state| !state["probe"].is_null())
    } else {
        state
    };
    let (staging, name) = (state["probe"]["stagingName"].clone(), state["engineName"].as_str().unwrap().to_owned());
    let mut request = state["probe"]["request"].clone();
    (request["model"], request["stream"]) = (staging, json!(false));
    let candidate = ollama.post("/api/chat", &request).unwrap();
    assert_eq!(candidate["message"]["content"], "高风险：需人工复核");
    assert!(!names(&ollama).contains(&name), "nothing has its name before it is proven");
    let base = match state["probe"]["base"].as_str() {
        Some(base) => {
            request["model"] = json!(base);
            ollama.post("/api/chat", &request).unwrap()
        }
        None => Value::Null, // the loader knows it
    };
    let result = json!({ "candidate": candidate, "base": base }).to_string();
    assert_eq!(loader.ask("PUT", &format!("/v1/probes/{name}"), &result).status, 204);
    assert_eq!(loader.serves("risk/v2"), name);
    assert_eq!(loader.ask("PUT", &format!("/v1/probes/{name}"), &result).status, 409, "nobody waits any more");
    let metrics = loader.ask("GET", "/metrics", "").text();
    assert!(metrics.contains("tutti_loader_probes_total{by=\"gateway\"} 1\n"), "{metrics}");
}

#[test]
fn what_a_gateway_hears_an_engine_refuse_for_good_is_not_asked_again_and_all_else_is() {
    let ollama = ollama();
    let site = Site::beside(&ollama.url());
    for path in ["risk/v1", "risk/v2", "risk/v3"] {
        site.put(path, "risk-v1");
    }
    let loader = site.start(&site.config(&["risk/v1"]));
    loader.serves("risk/v1");
    eventually("readiness", || (loader.ask("GET", "/readyz", "").status == 200).then_some(()));
    // What a gateway does: it waits for the list, and answers probes.
    assert_eq!(loader.ask("GET", "/v1/adapters?wait=0", "").status, 200);
    let refuse = |path: &str, error: &str| {
        eventually(&format!("the end of {path}"), || {
            let state = loader.state(path);
            if !state["probe"].is_null() {
                let name = state["engineName"].as_str().unwrap_or_default();
                let result = json!({ "error": error, "refused": true }).to_string();
                loader.ask("PUT", &format!("/v1/probes/{name}"), &result);
            }
            (state["phase"] == "Quarantined").then_some(())
        });
        loader.wait_quarantined(path, "EngineRefused")
    };
    let answered = || loader.metric("tutti_loader_probes_total{by=\"gateway\"}");
    loader.0.write_config(&site.config(&["risk/v1", "risk/v2"]));
    let message = refuse("risk/v2", "the engine answers 500 for x: error: loras are not yet implemented");
    assert!(message.contains("not yet implemented") && answered() == 1.0, "{message}, after {}", answered());
    loader.0.write_config(&site.config(&["risk/v1", "risk/v3"]));
    let message = refuse("risk/v3", "the engine answers 404 for x: model not found");
    assert!(message.contains("not found") && answered() == 4.0, "{message}, after {}", answered());
}

#[test]
fn what_is_wrong_is_quarantined_by_name_and_holds_up_nobody() {
    let ollama = ollama();
    let site = Site::beside(&ollama.url());
    site.put("ok/v1", "risk-v1");
    site.put_with("bad/digest", "risk-v1", |manifest| {
        manifest["files"][FILES[0]]["sha256"] = json!(format!("sha256:{}", "0".repeat(64)));
    });
    site.put_with("bad/size", "risk-v1", |manifest| manifest["files"][FILES[0]]["size"] = json!(1));
    site.put_with("bad/base", "risk-v1", |manifest| {
        manifest["base"] = json!({ "name": "other", "digest": format!("sha256:{}", "0".repeat(64)) });
    });
    site.put_with("bad/probe", "risk-v1", |manifest| {
        manifest["probe"] = json!({ "prompt": COMPLAINT, "expect": "没有这样的回答" });
    });
    let nan = site.put("bad/nan", "risk-v1");
    let mut weights = fs::read(nan.join(FILES[1])).unwrap();
    let end = weights.len();
    weights[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    write(&nan.join(FILES[1]), &weights);
    write(&nan.join("manifest.json"), manifest(&nan).to_string().as_bytes());
    fs::remove_file(site.put("bad/bare", "risk-v1").join("manifest.json")).unwrap();
    // What merely begins alike is another's.
    site.put("ok-bar/v1", "risk-v2");
    let revisions = ["bad/digest", "bad/size", "bad/base", "bad/probe", "bad/nan", "bad/bare", "bad/none", "ok/v1"];
    let refused = json!({ "adapter": "refused/v1", "digest": format!("sha256:{}", "1".repeat(64)) });
    site.put("refused/v1", "risk-v1");
    let all = revisions.iter().map(|path| json!({ "adapter": path })).chain([refused]).collect();
    let loader = site.start(&site.config_of(all));
    assert_eq!(says(&ollama, &loader.serves("ok/v1")), "高风险");
    for (path, reason, says) in [
        ("bad/digest", "DigestMismatch", "adapter_config.json"),
        ("bad/size", "DigestMismatch", "by its manifest"),
        ("bad/base", "WrongBase", "base"),
        ("bad/probe", "ProbeFailed", ""),
        ("bad/nan", "NotFinite", "adapter_model.safetensors"),
        ("bad/bare", "InvalidManifest", "tutti adapter pack"),
        ("bad/none", "NotFound", "nothing"),
        ("refused/v1", "DigestRefused", "insist"),
    ] {
        let message = loader.wait_quarantined(path, reason);
        assert!(message.contains(says), "{path}: {message}");
    }
    eventually("readiness", || (loader.ask("GET", "/readyz", "").status == 200).then_some(()));
    eventually("no staging name", || (names(&ollama).len() == 1).then_some(()));
    assert!(files(&site.state().join("source")).is_empty(), "what is quarantined takes no room");

    // One is mended, and found by itself.
    site.put("bad/none", "risk-v2");
    assert_eq!(says(&ollama, &loader.serves("bad/none")), "高风险：需人工复核");
}

#[test]
fn changed_content_does_not_serve_under_the_path_of_what_does() {
    let ollama = ollama();
    let site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let yaml = site.config(&["risk/v1"]);
    let mut loader = site.start(&yaml);
    let name = loader.serves("risk/v1");
    site.put("risk/v1", "risk-v2");
    let changed = |state: &Value| state["reason"]["reason"] == "RevisionChanged" && state["phase"] == "Ready";
    assert_eq!(loader.wait_for("risk/v1", "changed", changed)["engineName"], name);
    loader.0.signal(Signal::TERM);
    assert_eq!(loader.0.wait_ended(), Some(0));
    let loader = site.start(&yaml);
    assert_eq!(loader.wait_for("risk/v1", "changed, after a restart", changed)["engineName"], name);
    assert_eq!(says(&ollama, &name), "高风险");
    site.put("risk/v1", "risk-v1");
    loader.wait_for("risk/v1", "as it was", |state| state["phase"] == "Ready" && state["reason"].is_null());
}

#[test]
fn what_an_engine_loses_is_registered_again() {
    let mut ollama = ollama();
    let site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let loader = site.start(&site.config(&["risk/v1"]));
    let name = loader.serves("risk/v1");
    // Its source is gone too: what is on the disk has to do.
    fs::remove_dir_all(site.models().join("risk")).unwrap();
    ollama.kill().unwrap();
    fs::remove_dir_all(ollama.store()).unwrap();
    tutti_rig::models_into(&ollama.store()).unwrap();
    ollama.restart().unwrap();
    eventually("its registration", || names(&ollama).contains(&name).then_some(()));
    loader.wait("risk/v1", "Ready");
    assert_eq!(says(&ollama, &name), "高风险");
    // By hand, while it runs.
    ollama.post("/api/copy", &json!({ "source": "tutti-story", "destination": name })).unwrap();
    eventually("the right weights", || (says(&ollama, &name) == "高风险").then_some(()));
}

#[test]
fn a_second_loader_is_refused_by_the_firsts_pid_and_a_port_beyond_loopback_wants_a_token() {
    let ollama = ollama();
    let site = Site::beside(&ollama.url());
    let yaml = site.config(&[]);
    let first = site.start(&yaml);
    let mut second = site.spawn(&yaml, &[]);
    assert_eq!(second.0.wait_ended(), Some(1));
    second.0.wait_said(&format!("process {}", first.0.pid()));
    drop(first);
    let mut open = site.spawn_with(&yaml, &["--listen", "0.0.0.0:0"], &[]);
    assert_eq!(open.0.wait_ended(), Some(1));
    open.0.wait_said("adapters.tokenFile");

    let mut site = site;
    let token = site.models().join("token");
    fs::write(&token, "0123456789abcdef0123\n").unwrap();
    site.adapters = json!({ "tokenFile": token.display().to_string() });
    let keyed = site.spawn_with(&site.config(&[]), &["--listen", "0.0.0.0:0"], &[]);
    let port = keyed.listen().rsplit_once(':').unwrap().1.to_owned();
    let ask = |token: &str| {
        let mut client = Client::connect(&format!("127.0.0.1:{port}")).unwrap();
        client.ask("GET", "/v1/adapters", &[("authorization", &format!("Bearer {token}"))], "").status
    };
    assert_eq!((ask("0123456789abcdef0123"), ask("0123456789abcdef0124"), ask("")), (200, 401, 401));
    let mut client = Client::connect(&format!("127.0.0.1:{port}")).unwrap();
    assert_eq!(client.ask("GET", "/healthz", &[], "").status, 200, "a kubelet has no token");
}

#[test]
fn a_disk_that_is_too_small_says_so_and_the_least_recently_used_makes_room() {
    let ollama = ollama();
    let mut site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    site.put("risk/v2", "risk-v2");
    site.adapters = json!({ "disk": "1Ki" });
    let loader = site.start(&site.config(&["risk/v1"]));
    let message = loader.wait_quarantined("risk/v1", "NoSpace");
    assert!(message.contains("adapters.disk"), "{message}");
    // Room for one on its way (as it came, and converted) and half of another.
    site.adapters = json!({ "disk": "1700Ki" });
    loader.0.write_config(&site.config(&["risk/v1"]));
    loader.serves("risk/v1");
    loader.0.write_config(&site.config(&["risk/v2"]));
    loader.serves("risk/v2");
    let artefacts = files(&site.state().join("artefacts"));
    assert!(artefacts.len() == 1 && artefacts[0].starts_with("risk+v2-"), "{artefacts:?}");
}

#[test]
fn what_is_merged_into_its_base_answers_as_the_adapter_does() {
    let ollama = ollama();
    let mut named = Vec::new();
    for to in ["q8_0", "f16"] {
        let mut site = Site::beside(&ollama.url());
        site.put("risk/v1", "risk-v1");
        site.adapters = json!({ "strategy": "merge", "mergeTo": to });
        let loader = site.start(&site.config(&["risk/v1"]));
        let name = loader.serves("risk/v1");
        assert_eq!(says(&ollama, &name), "高风险", "{to}");
        let shown = ollama.post("/api/show", &json!({ "model": name })).unwrap();
        let modelfile = shown["modelfile"].as_str().unwrap();
        assert!(!modelfile.contains("\nADAPTER "), "{modelfile}");
        assert_eq!(shown["details"]["quantization_level"], to.to_uppercase(), "{shown}");
        let base = ollama.post("/api/show", &json!({ "model": "tutti-story" })).unwrap();
        let parameters = |shown: &Value| {
            let mut lines: Vec<String> = shown["parameters"].as_str().unwrap().lines().map(str::to_owned).collect();
            lines.sort(); // an Ollama has them in any order
            lines
        };
        assert_eq!((&shown["template"], parameters(&shown)), (&base["template"], parameters(&base)));
        for folder in ["temp", "source"] {
            assert_eq!(files(&site.state().join(folder)).len(), 0, "{to}: nothing is left in {folder}");
        }
        named.push(name);
    }
    assert_ne!(named[0], named[1], "what is made otherwise has another name");
}
