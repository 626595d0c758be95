//! Pools whose replicas are servers of the OpenAI API: what they have, the key they want, and who goes through as ever.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tutti_simulator::{Config, Fault, Model, Running, Scope, Seen};
use tutti_tests::{Tutti, eventually, inference, pool, quick, run, simulator, simulator_with};

fn chat(model: &str, stream: bool) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "stream": stream }).to_string()
}

/// A gateway before a replica of which it knows only that it speaks OpenAI's API.
fn before(replica: &Running) -> Tutti {
    Tutti::start(&pool(&[replica.url()], "engine: openai\n    expose: all"))
}

/// The same with a key.
fn with_key(replica: &Running, file: &Path) -> String {
    let url = replica.url();
    format!(
        "pools:\n  - name: p\n    engine: openai\n    endpoints: [{{ url: \"{url}\", apiKeyFile: \"{}\" }}]\n    expose: all\n",
        file.display()
    )
}

/// What each request said in `authorization`.
fn keys(seen: &[Seen]) -> Vec<String> {
    let said = |seen: &Seen| seen.header("authorization").map(String::from_utf8_lossy).collect::<String>();
    seen.iter().map(said).collect()
}

#[test]
fn its_models_are_those_that_it_lists_and_its_own_api_goes_through() {
    let models = vec![Model::chat("Acme/Model-1", 1 << 20), Model::embedding("e:v1", 1 << 20)];
    let replica = simulator_with(Config { models, ..quick() });
    let tutti = before(&replica);
    let listed = tutti.ask("GET", "/v1/models", "").json();
    let ids: Vec<&str> = listed["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["Acme/Model-1:latest", "e:v1"]);
    assert_eq!(
        (&listed["data"][0]["owned_by"], tutti.ask("GET", "/api/tags", "").json()["models"][0].get("owned_by")),
        (&json!("Acme"), None)
    );
    assert!(listed["data"][0]["created"].as_i64().is_some_and(|created| created > 1_700_000_000), "{listed}");
    let tags = tutti.ask("GET", "/api/tags", "").json();
    assert_eq!((&tags["models"][0]["model"], &tags["models"][0]["size"]), (&json!("Acme/Model-1:latest"), &json!(0)));

    assert_eq!(tutti.ask("GET", "/api/ps", "").json(), json!({ "models": [] }));
    let shown = tutti.ask("POST", "/api/show", r#"{"model":"e:v1"}"#).json();
    assert_eq!(
        (&shown["modified_at"], shown.get("capabilities")),
        (&tags["models"][1]["modified_at"], None),
        "{shown}"
    );

    for stream in [false, true] {
        let answer = tutti.ask("POST", "/v1/chat/completions", &chat("acme/model-1", stream));
        assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
        let first: Value = serde_json::from_str(&answer.lines()[0]).unwrap();
        assert_eq!(first["model"], "acme/model-1", "the name that the client asked for");
    }
    let input = json!({ "model": "e:v1", "input": "a" }).to_string();
    assert_eq!(tutti.ask("POST", "/v1/embeddings", &input).status, 200);
    for seen in inference(&replica.seen()) {
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        assert!(["Acme/Model-1:latest", "e:v1"].contains(&body["model"].as_str().unwrap()), "to the letter: {body}");
    }
    assert!(replica.seen().iter().all(|seen| seen.path.starts_with("/v1/")), "it is never asked for what is Ollama's");
}

#[test]
fn a_named_model_leads_to_whatever_name_the_server_has_for_it() {
    let replica = simulator_with(Config { models: vec![Model::chat("models/a b@2", 1 << 20)], ..quick() });
    let model = "models:\n  - { name: risk, revisions: [{ name: v1, pool: p, upstream: \"models/a b@2\" }] }\n";
    let tutti = Tutti::start(&format!("{}{model}", pool(&[replica.url()], "engine: openai")));
    let answer = tutti.ask("POST", "/v1/chat/completions", &chat("risk", false));
    assert_eq!((answer.status, &answer.json()["model"]), (200, &json!("risk")), "{}", answer.text());
    let as_ollamas = format!("{}{model}", pool(&[replica.url()], "engine: ollama"));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), as_ollamas).unwrap();
    let refused = run(&["check", "--config", &file.path().display().to_string()], &[]);
    assert!(refused.stderr.contains("is no name that Ollama takes"), "{}", refused.stderr);
}

#[test]
fn its_key_is_sent_followed_and_never_told() {
    let replica = simulator();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    fs::write(&file, "sk-first\n").unwrap();
    let tutti = Tutti::start(&with_key(&replica, &file));
    let sent = [("Authorization", "Bearer the-clients-own")];
    let answer = tutti.client().ask("POST", "/v1/chat/completions", &sent, &chat("m", false));
    assert_eq!(answer.status, 200);
    assert!(keys(&replica.seen()).iter().all(|key| key == "Bearer sk-first"), "{:?}", keys(&replica.seen()));

    fs::write(&file, "not a key").unwrap();
    tutti.wait_said("the key for a replica stays as it was");
    fs::write(&file, "sk-second").unwrap();
    eventually("the second key", || {
        tutti.ask("POST", "/v1/chat/completions", &chat("m", false));
        keys(&replica.seen()).contains(&"Bearer sk-second".to_owned()).then_some(())
    });
    let told = format!("{:?} {}", tutti.logged(), tutti.metrics());
    assert!(!told.contains("sk-") && !told.contains("not a key"), "{told}");
}

#[test]
fn without_its_key_the_gateway_does_not_start_and_a_reload_changes_nothing() {
    let replica = simulator();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let mut tutti = Tutti::spawn(&["gateway", "--config", "tutti.yaml"], &with_key(&replica, &file), &[]);
    assert_ne!(tutti.wait_ended(), Some(0));
    let line = tutti.wait_said("the key for a replica cannot be read").to_string();
    assert!(line.contains(&file.display().to_string()), "{line}");

    fs::write(&file, "sk-first").unwrap();
    let tutti = Tutti::start(&with_key(&replica, &file));
    let other = folder.path().join("other");
    fs::write(&other, "two words").unwrap();
    tutti.write_config(&with_key(&replica, &other));
    let line = tutti.wait_said("the changed configuration is refused").to_string();
    assert!(line.contains("holds no key") && !line.contains("two words"), "{line}");
    assert_eq!(tutti.ask("POST", "/v1/chat/completions", &chat("m", false)).status, 200);
}

#[test]
fn a_replica_that_is_gone_is_used_again_when_it_is_back() {
    let replica = simulator();
    let address = replica.addr();
    let tutti = before(&replica);
    assert_eq!(tutti.ask("POST", "/v1/chat/completions", &chat("m", false)).status, 200);
    replica.kill();
    // The first may still find a connection that was open.
    eventually("its absence", || {
        (tutti.ask("POST", "/v1/chat/completions", &chat("m", false)).status == 503).then_some(())
    });
    let _replica = simulator_with(Config { listen: address, ..quick() });
    eventually("an answer again", || {
        (tutti.ask("POST", "/v1/chat/completions", &chat("m", false)).status == 200).then_some(())
    });
}

#[test]
fn the_gateway_knows_itself_as_a_server_of_this_api_too() {
    let replica = simulator();
    let tutti = before(&replica);
    let itself = format!("http://{}", tutti.listen());
    tutti.write_config(&pool(&[itself], "engine: openai\n    expose: all"));
    let line = tutti.wait_said("the changed configuration is refused").to_string();
    assert!(line.contains("is this gateway itself"), "{line}");
}

#[test]
fn that_a_replica_wants_another_key_is_not_the_clients_matter() {
    let replicas = [simulator(), simulator()];
    replicas[0].set_fault(Some((Fault::Denied, Scope::Inference)));
    for fields in ["engine: openai\n    expose: all", "expose: all"] {
        let alone = Tutti::start(&pool(&[replicas[0].url()], fields));
        for path in ["/v1/chat/completions", "/api/chat"] {
            let answer = alone.ask("POST", path, &chat("m", true));
            assert_eq!(answer.status, 502, "{}", answer.text());
            assert!(answer.text().contains("does not take the gateway's key"), "{}", answer.text());
            assert_eq!((answer.header("www-authenticate"), answer.header("x-tutti-instance")), (None, None));
        }
        let both = Tutti::start(&pool(&replicas.each_ref().map(Running::url), fields));
        let well =
            (0..20).filter(|_| both.ask("POST", "/v1/chat/completions", &chat("m", false)).status == 200).count();
        assert!(well >= 14, "{well}: others go before it");
        assert_eq!(both.metric("tutti_ejections_total", &["cause=\"denied\""]).min(1.0), 1.0);
        let page = both.command(&["status"]).stdout;
        assert!(page.contains("it does not take the gateway's key (401)"), "{page}");
    }
}
