//! The gateway and the loaders beside its replicas: whose word counts, what is kept while requests use it, and who proves what on
//! a replica that serves.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::site::{COMPLAINT, names};
use tutti_tests::{Authority, Load, Loading, Site, Tutti, eventually};

fn ollama() -> Ollama {
    Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama")
}

/// The site's configuration, in which `m` is another name for the model.
fn config(site: &Site, paths: &[&str], serves: &str) -> String {
    let mut config: Value = serde_json::from_str(&site.config(paths)).expect("JSON is YAML");
    config["models"][0]["traffic"]["revision"] = json!(serves);
    config["models"][0]["aliases"] = json!(["m"]);
    config.to_string()
}

/// A loader that has proven this adapter, and a gateway that knows it.
fn started(site: &mut Site, paths: &[&str]) -> (Loading, Tutti) {
    let loader = site.start(&config(site, paths, "r0"));
    for path in paths {
        loader.serves(path);
    }
    eventually("readiness", || (loader.ask("GET", "/readyz", "").status == 200).then_some(()));
    site.loader = Some(format!("http://{}", loader.listen()));
    let tutti = Tutti::start(&config(site, paths, "r0"));
    (loader, tutti)
}

/// What the gateway answers to the complaint, with its status.
fn asked(tutti: &Tutti) -> (u16, String) {
    let body = json!({ "model": "risk", "messages": [{ "role": "user", "content": COMPLAINT }], "temperature": 0 });
    let answer = tutti.ask("POST", "/v1/chat/completions", &body.to_string());
    let said = answer.json()["choices"][0]["message"]["content"].as_str().map(str::to_owned);
    (answer.status, said.unwrap_or_else(|| answer.text()))
}

/// What the gateway knows of the loader.
fn told(tutti: &Tutti) -> Value {
    let status = tutti.command(&["status", "--json"]);
    let status: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
    status["pools"][0]["replicas"][0]["loader"].clone()
}

/// What it knows of an adapter: its phase.
fn phase(tutti: &Tutti, path: &str) -> String {
    let told = told(tutti);
    let mut adapters = told["adapters"].as_array().into_iter().flatten();
    adapters.find(|of| of["path"] == path).and_then(|of| of["phase"].as_str()).unwrap_or_default().to_owned()
}

#[test]
fn requests_go_by_the_loaders_word_and_a_client_hears_why_there_is_nobody() {
    let ollama = ollama();
    let mut site = Site::beside(&ollama.url());
    site.put_with("risk/v1", "risk-v1", |manifest| {
        manifest["base"] = json!({ "name": "other", "digest": format!("sha256:{}", "0".repeat(64)) });
    });
    site.put("risk/v2", "risk-v2");
    let loader = site.start(&config(&site, &["risk/v1", "risk/v2"], "r0"));
    let name = loader.serves("risk/v2");
    loader.wait_quarantined("risk/v1", "WrongBase");
    site.loader = Some(format!("http://{}", loader.listen()));
    let tutti = Tutti::start(&config(&site, &["risk/v1", "risk/v2"], "r0"));
    eventually("why nobody serves it", || {
        let (status, said) = asked(&tutti);
        assert_eq!(status, 503, "{said}");
        said.contains("risk@r0 is quarantined: WrongBase").then_some(())
    });
    let (_, said) = asked(&tutti);
    assert!(!said.contains("sha256") && !said.contains('/'), "a phase and a word, and no more: {said}");
    // People are told more.
    let page = tutti.command(&["status"]).stdout;
    assert!(page.contains("adapter risk/v1 (risk@r0) Quarantined WrongBase: "), "{page}");
    assert!(page.contains("1 Quarantined, 1 Ready"), "{page}");
    let labels = ["phase=\"Quarantined\""];
    assert_eq!(
        (tutti.metric("tutti_replica_adapters", &labels), tutti.metric("tutti_replica_loader_up", &[])),
        (1.0, 1.0)
    );

    tutti.write_config(&config(&site, &["risk/v1", "risk/v2"], "r1"));
    eventually("the answer of the other", || (asked(&tutti) == (200, "高风险：需人工复核".to_owned())).then_some(()));
    // A name alone is nothing where a loader speaks: an engine with the name of what is quarantined gets no request.
    let forged = name.replace(":v2-", ":v1-");
    ollama.post("/api/copy", &json!({ "source": "tutti-story", "destination": forged })).expect("a copy");
    let ended = tutti.command(&["traffic", "risk", "--to", "r0"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("no replica that can be reached"), "{}", ended.stderr);
    assert_eq!(tutti.command(&["traffic", "risk", "--to", "r0", "--force"]).code, Some(0));
    assert_eq!(asked(&tutti).0, 503, "nobody again");
}

#[test]
fn a_loader_that_is_silent_changes_nothing_and_one_that_comes_back_is_heard() {
    let ollama = ollama();
    let mut site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let (loader, tutti) = started(&mut site, &["risk/v1"]);
    eventually("the word of the loader", || (phase(&tutti, "risk/v1") == "Ready").then_some(()));
    assert_eq!(asked(&tutti), (200, "高风险".to_owned()));
    let listen = loader.listen();
    drop(loader);
    eventually("its silence", || (tutti.metric("tutti_replica_loader_up", &["pool=\"p\""]) == 0.0).then_some(()));
    assert!(tutti.command(&["status"]).stdout.contains("SILENT"));
    assert_eq!(asked(&tutti), (200, "高风险".to_owned()), "what was ready serves on");
    // Who starts while it is silent goes by what the engine has.
    let other = Tutti::start(&config(&site, &["risk/v1"], "r0"));
    assert_eq!(asked(&other), (200, "高风险".to_owned()));

    let again = site.spawn_with(&config(&site, &["risk/v1"], "r0"), &["--listen", &listen], &[]);
    eventually("its word", || {
        assert_eq!(asked(&tutti), (200, "高风险".to_owned()), "one that starts has nothing taken away");
        (tutti.metric("tutti_replica_loader_up", &["pool=\"p\""]) == 1.0).then_some(())
    });
    drop(again);
}

#[test]
fn a_loader_that_says_nothing_of_use_holds_up_nobody() {
    let ollama = ollama();
    let mut site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    drop(started(&mut site, &["risk/v1"]));
    // It takes connections and never answers.
    let stalls = TcpListener::bind("127.0.0.1:0").expect("a port");
    site.loader = Some(format!("http://{}", stalls.local_addr().expect("an address")));
    let tutti = Tutti::start(&config(&site, &["risk/v1"], "r0"));
    assert_eq!(asked(&tutti), (200, "高风险".to_owned()));
    // Another service than a loader.
    site.loader = Some(ollama.url());
    tutti.write_config(&config(&site, &["risk/v1"], "r0"));
    eventually("that this is no loader", || {
        told(&tutti)["why"].as_str().is_some_and(|why| why.contains("no adapter-loader")).then_some(())
    });
    assert_eq!(asked(&tutti), (200, "高风险".to_owned()));
}

#[test]
fn a_revision_that_is_removed_under_load_costs_nobody_an_answer_and_then_goes() {
    let ollama = ollama();
    let mut site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    site.put("risk/v2", "risk-v2");
    let both = ["risk/v1", "risk/v2"];
    let (loader, tutti) = started(&mut site, &both);
    let name = |path: &str| loader.state(path)["engineName"].as_str().unwrap_or_default().to_owned();
    let (first, second) = (name("risk/v1"), name("risk/v2"));
    eventually("a lease", || {
        let page = tutti.ask_admin("/debug/adapters?pool=p");
        page[0]["loader"]["leased"].as_array().is_some_and(|leased| leased.contains(&json!(first))).then_some(())
    });
    let listen = tutti.listen();
    let load = Load::start(4, Arc::new(move || Some(listen.clone())));
    eventually("requests", || (load.asked() > 20).then_some(()));

    // The loader hears first that nobody wants it: the gateway's table leads there still.
    loader.0.write_config(&config(&site, &["risk/v2"], "r0"));
    loader.wait("risk/v1", "Retiring");
    let before = load.asked();
    eventually("requests for what is to go", || (load.asked() > before + 50).then_some(()));
    assert!(names(&ollama).contains(&first), "it is leased");
    assert_eq!(phase(&tutti, "risk/v1"), "Retiring");

    tutti.write_config(&config(&site, &["risk/v2"], "r0"));
    eventually("the end of the first", || (names(&ollama) == [second.clone()]).then_some(()));
    let before = load.asked();
    eventually("requests for the other", || (load.asked() > before + 20).then_some(()));
    let loaded = load.end();
    assert_eq!(loaded.failed, <[String; 0]>::default(), "of {}", loaded.asked);
    assert_eq!(asked(&tutti), (200, "高风险：需人工复核".to_owned()));
}

#[test]
fn on_a_replica_that_serves_the_gateway_has_a_new_revision_proven_in_its_share() {
    let ollama = ollama();
    let mut site = Site::beside(&ollama.url());
    site.adapters = json!({ "probeShare": "90%" });
    site.put("risk/v1", "risk-v1");
    site.put("risk/v2", "risk-v2");
    site.put("risk/v3", "risk-v2");
    site.put_with("risk/v4", "risk-v1", |manifest| {
        manifest["probe"] = json!({ "prompt": COMPLAINT, "expect": "没有这样的回答" });
    });
    let (loader, tutti) = started(&mut site, &["risk/v1"]);
    eventually("the gateway", || (loader.metric("tutti_loader_gateway_up") == 1.0).then_some(()));
    let all = ["risk/v1", "risk/v2", "risk/v3", "risk/v4"];
    let listen = tutti.listen();
    let load = Load::start(2, Arc::new(move || Some(listen.clone())));
    for process in [&loader.0, &tutti] {
        process.write_config(&config(&site, &all, "r0"));
    }
    eventually("when they will be proven", || {
        let told = told(&tutti);
        (told["probes"].as_u64().is_some_and(|probes| probes > 0) && told["provenIn"].is_u64()).then_some(())
    });
    for path in ["risk/v2", "risk/v3"] {
        eventually(path, || (phase(&tutti, path) == "Ready").then_some(()));
    }
    loader.wait_quarantined("risk/v4", "ProbeFailed");
    let (by_gateway, by_loader) =
        (r#"tutti_loader_probes_total{by="gateway"}"#, r#"tutti_loader_probes_total{by="loader"}"#);
    assert_eq!((loader.metric(by_gateway), loader.metric(by_loader)), (3.0, 1.0));
    eventually("their count", || {
        (tutti.metric("tutti_adapter_probes_total", &["outcome=\"answered\""]) == 3.0).then_some(())
    });
    let loaded = load.end();
    assert_eq!(loaded.failed, <[String; 0]>::default(), "of {}", loaded.asked);
    tutti.write_config(&config(&site, &all, "r1"));
    eventually("the second's answer", || (asked(&tutti) == (200, "高风险：需人工复核".to_owned())).then_some(()));
}

#[test]
fn a_loader_that_is_started_anew_beside_an_engine_that_serves_leaves_proving_to_the_gateway() {
    let ollama = ollama();
    let mut site = Site::beside(&ollama.url());
    site.adapters = json!({ "probeShare": "90%" });
    site.put("risk/v1", "risk-v1");
    site.put("risk/v2", "risk-v2");
    let (mut loader, tutti) = started(&mut site, &["risk/v1"]);
    eventually("the word of the loader", || (phase(&tutti, "risk/v1") == "Ready").then_some(()));
    let listen = loader.listen();
    loader.0.signal(Signal::TERM);
    assert_eq!(loader.0.wait_ended(), Some(0));
    let both = config(&site, &["risk/v1", "risk/v2"], "r0");
    tutti.write_config(&both);
    let again = site.spawn_with(&both, &["--listen", &listen, "--retire-after", "60s"], &[]);
    again.wait("risk/v2", "Ready");
    eventually("the second", || (phase(&tutti, "risk/v2") == "Ready").then_some(()));
    let (by_gateway, by_loader) =
        (r#"tutti_loader_probes_total{by="gateway"}"#, r#"tutti_loader_probes_total{by="loader"}"#);
    assert_eq!((again.metric(by_gateway), again.metric(by_loader)), (1.0, 0.0));
}

#[test]
fn a_gateway_that_ends_gives_back_what_was_kept_for_it() {
    let ollama = ollama();
    let mut site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let (loader, mut tutti) = started(&mut site, &["risk/v1"]);
    let name = loader.serves("risk/v1");
    eventually("a lease", || {
        let page = tutti.ask_admin("/debug/adapters?pool=p");
        page[0]["loader"]["leased"].as_array().is_some_and(|leased| leased.contains(&json!(name))).then_some(())
    });
    // Nobody wants it any more but the gateway, which does not know that yet.
    loader.0.write_config(&site.config(&[]));
    loader.wait("risk/v1", "Retiring");
    assert!(names(&ollama).contains(&name), "it is leased");
    tutti.signal(Signal::TERM);
    assert_eq!(tutti.wait_ended(), Some(0));
    // Else it would stay for a minute: longer than anything is waited for here.
    eventually("its end", || names(&ollama).is_empty().then_some(()));
}

/// By which files one side of `adapters.tls` knows the other.
fn tls(authority: &Authority, name: &str) -> Value {
    let [cert, key] = authority.sign(name).map(|file| file.display().to_string());
    json!({ "cert": cert, "key": key, "ca": authority.ca().display().to_string() })
}

#[test]
fn gateways_and_loaders_know_each_other_by_their_certificates() {
    let ollama = ollama();
    let mut site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let (authority, other) = (Authority::new("ours"), Authority::new("others"));
    site.adapters = json!({ "tls": tls(&authority, "loader") });
    // Beyond loopback without a token.
    let loader = site.spawn_with(&site.config(&["risk/v1"]), &["--listen", "0.0.0.0:0"], &[]);
    let port = loader.listen().rsplit_once(':').expect("a port").1.to_owned();
    let at = format!("https://127.0.0.1:{port}");
    let curl = |arguments: &[&str], path: &str| {
        let url = format!("{at}{path}");
        let words = ["--silent", "--insecure", "--output", "/dev/null", "--write-out", "%{http_code}"];
        let said = Command::new("curl").args(words).args(arguments).arg(&url).output().expect("curl runs");
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    // Whoever watches the replica has no certificate.
    eventually("readiness", || (curl(&[], "/readyz") == "200").then_some(()));
    assert_eq!((curl(&[], "/metrics").as_str(), curl(&[], "/v1/adapters").as_str()), ("200", "401"));
    let shown = |authority: &Authority| authority.sign("curl").map(|file| file.display().to_string());
    let [cert, key] = shown(&authority);
    assert_eq!(curl(&["--cert", &cert, "--key", &key], "/v1/adapters"), "200");
    let [cert, key] = shown(&other);
    assert_eq!(curl(&["--cert", &cert, "--key", &key], "/v1/adapters"), "000", "signed by another");

    site.loader = Some(at);
    site.adapters = json!({ "tls": tls(&authority, "gateway") });
    let tutti = Tutti::start(&config(&site, &["risk/v1"], "r0"));
    eventually("the word of the loader", || (phase(&tutti, "risk/v1") == "Ready").then_some(()));
    assert_eq!(asked(&tutti), (200, "高风险".to_owned()));
    // A gateway of another authority hears nothing, and says why.
    site.adapters = json!({ "tls": tls(&other, "gateway") });
    let stranger = Tutti::start(&config(&site, &["risk/v1"], "r0"));
    let why = eventually("why it hears nothing", || told(&stranger)["why"].as_str().map(str::to_owned));
    assert!(why.contains("adapters.tls"), "{why}");
    // Its files are followed: with a certificate of ours in the same place it is heard.
    let [cert, key] = authority.sign("gateway");
    for (from, name) in [(cert, "gateway.crt"), (key, "gateway.key"), (authority.ca(), "ca.crt")] {
        fs::copy(from, other.ca().with_file_name(name)).expect("a file");
    }
    eventually("the word of the loader", || (phase(&stranger, "risk/v1") == "Ready").then_some(()));
}

#[test]
fn tutti_up_knows_the_loaders_that_it_runs() {
    let ollama = ollama();
    let site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let tutti = Tutti::start_with(&["up", "--config", "tutti.yaml"], &config(&site, &["risk/v1"], "r0"), &[]);
    eventually("its answer", || (asked(&tutti) == (200, "高风险".to_owned())).then_some(()));
    eventually("the word of its loader", || (phase(&tutti, "risk/v1") == "Ready").then_some(()));
    site.put("risk/v2", "risk-v2");
    tutti.write_config(&config(&site, &["risk/v1", "risk/v2"], "r1"));
    eventually("the second's answer", || (asked(&tutti) == (200, "高风险：需人工复核".to_owned())).then_some(()));
    assert!(tutti.metric("tutti_adapter_probes_total", &["outcome=\"answered\""]) >= 1.0, "it was proven in its turn");
}

#[test]
fn what_an_engine_serves_in_one_pool_the_loader_of_another_keeps() {
    let ollama = ollama();
    let mut site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let loader = site.start(&site.config(&["risk/v1"]));
    let name = loader.serves("risk/v1");
    site.loader = Some(format!("http://{}", loader.listen()));
    // The engine is in two pools, and the one without a loader has the model.
    let mut two: Value = serde_json::from_str(&config(&site, &["risk/v1"], "r0")).expect("JSON is YAML");
    let mut other = two["pools"][0].clone();
    (other["name"], other["endpoints"]) = (json!("q"), json!([{ "url": ollama.url() }]));
    two["pools"].as_array_mut().expect("pools").push(other);
    two["models"][0]["revisions"][0]["pool"] = json!("q");
    let mut tutti = Tutti::start(&two.to_string());
    eventually("its answer", || (asked(&tutti) == (200, "高风险".to_owned())).then_some(()));
    eventually("a lease", || {
        let page = tutti.ask_admin("/debug/adapters?pool=p");
        page[0]["loader"]["leased"].as_array().is_some_and(|leased| leased.contains(&json!(name))).then_some(())
    });

    loader.0.write_config(&site.config(&[]));
    loader.wait("risk/v1", "Retiring");
    assert_eq!(asked(&tutti), (200, "高风险".to_owned()));
    tutti.signal(Signal::TERM);
    assert_eq!(tutti.wait_ended(), Some(0));
    eventually("its end", || names(&ollama).is_empty().then_some(()));
}

#[test]
fn what_a_loader_has_left_half_made_is_no_model_to_anybody() {
    let ollama = ollama();
    let site = Site::beside(&ollama.url());
    // By one that is gone, of a pool that is no more.
    let left = "tutti-staging-q/risk:v1-aaaaaaaaaaaa";
    ollama.post("/api/copy", &json!({ "source": "tutti-story", "destination": left })).expect("a copy");
    let mut exposed: Value = serde_json::from_str(&site.config(&[])).expect("JSON is YAML");
    exposed["pools"][0]["expose"] = json!("all");
    let tutti = Tutti::start(&exposed.to_string());
    eventually("the engine's own", || tutti.ask("GET", "/api/tags", "").text().contains("tutti-story").then_some(()));
    for list in ["/api/tags", "/v1/models"] {
        let listed = tutti.ask("GET", list, "").text();
        assert!(listed.contains("tutti-story") && !listed.contains("staging"), "{listed}");
    }
    let asks = json!({ "model": left, "prompt": "x", "stream": false });
    assert_eq!(tutti.ask("POST", "/api/generate", &asks.to_string()).status, 404);
}
