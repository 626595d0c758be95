//! Adapters on one base take turns: before a simulated Ollama, which reloads as a real one does, and before a real one.

use std::time::Duration;

use serde_json::{Value, json};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Model, Running, Seen};
use tutti_tests::{Tutti, eventually, pool, quick, simulator_with};

const ADAPTERS: [&str; 3] = ["a", "b", "c"];

/// A replica with three adapters on one base, of which it holds one.
fn adapters() -> Running {
    let base = Model::chat("base", 1 << 20);
    let models = ADAPTERS.iter().map(|name| base.with_adapter(name)).chain([base.clone()]).collect();
    let machine = Machine { load_fixed: Duration::from_millis(30), ..Machine::instant() };
    simulator_with(Config { models, machine, ..quick() })
}

fn before(replica: &Running) -> Tutti {
    Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1"))
}

fn chat(model: &str) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "stream": false }).to_string()
}

/// The loads that the gateway has asked for, by model.
fn loads(replica: &Running) -> Vec<String> {
    let load = |seen: &Seen| {
        let body: Value = serde_json::from_slice(&seen.body).ok()?;
        let is_load = seen.path == "/api/generate" && body.get("prompt").is_none();
        is_load.then(|| body["model"].as_str().unwrap_or_default().trim_end_matches(":latest").to_owned())
    };
    replica.seen().iter().filter_map(load).collect()
}

#[test]
fn what_is_loaded_is_asked_at_once_and_what_is_not_is_loaded_first() {
    let replica = adapters();
    let tutti = before(&replica);
    for model in ["a", "a", "a", "b", "b", "a"] {
        let answer = tutti.ask("POST", "/api/chat", &chat(model));
        assert_eq!((answer.status, answer.json()["model"].as_str()), (200, Some(model)), "{}", answer.text());
    }
    assert_eq!(loads(&replica), ["a", "b", "a"]);
}

#[test]
fn a_load_is_done_as_the_first_who_waits_wants_it() {
    let replica = adapters();
    let tutti = before(&replica);
    let mut body: Value = serde_json::from_str(&chat("a")).unwrap();
    body["options"] = json!({ "num_ctx": 4096, "temperature": 0.5, "num_gpu": "all" });
    body["keep_alive"] = "7m".into();
    assert_eq!(tutti.ask("POST", "/api/chat", &body.to_string()).status, 200);
    let seen = replica.seen();
    let load = seen.iter().find(|seen| seen.path == "/api/generate").expect("a load");
    let load: Value = serde_json::from_slice(&load.body).unwrap();
    assert_eq!(load["options"], json!({ "num_ctx": 4096 }), "what a runner is started with, and is well formed");
    assert_eq!(load.get("keep_alive"), None, "how long others' weights stay is no client's to say");
    let loads = |outcome: &str| tutti.metric("tutti_weights_loads_total", &[&format!("outcome=\"{outcome}\"")]);
    assert_eq!((loads("loaded"), loads("failed")), (1.0, 0.0));
    let status = tutti.command(&["status"]);
    assert!(status.stdout.contains("model a has its base's runner"), "{}", status.stdout);
}

#[test]
fn a_load_says_how_long_weights_stay_where_the_pool_does() {
    for (stay, said) in [("1h", json!("1h0m0s")), ("0s", Value::Null)] {
        let replica = adapters();
        let fields = format!("expose: all\n    slots: 1\n    keepAlive: {stay}");
        let tutti = Tutti::start(&pool(&[replica.url()], &fields));
        let mut body: Value = serde_json::from_str(&chat("a")).unwrap();
        body["keep_alive"] = "7m".into();
        assert_eq!(tutti.ask("POST", "/api/chat", &body.to_string()).status, 200);
        let seen = replica.seen();
        let load = seen.iter().find(|seen| seen.path == "/api/generate").expect("a load");
        let load: Value = serde_json::from_slice(&load.body).unwrap();
        assert_eq!(load["keep_alive"], said, "one of 0 would unload: {load}");
    }
}

#[test]
fn requests_for_one_adapter_go_together() {
    let replica = adapters();
    let tutti = before(&replica);
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("a")).status, 200);
    std::thread::scope(|scope| {
        for number in 0..60 {
            let (tutti, model) = (&tutti, ADAPTERS[number % 3]);
            scope.spawn(move || {
                let answer = tutti.ask("POST", "/api/chat", &chat(model));
                assert_eq!((answer.status, answer.json()["model"].as_str()), (200, Some(model)), "{}", answer.text());
            });
        }
    });
    // In the order they came each but a few would have needed one.
    assert!(loads(&replica).len() <= 20, "{:?}", loads(&replica));
}

#[test]
fn who_uses_the_replica_beside_us_is_noticed() {
    let replica = adapters();
    let tutti = before(&replica);
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("a")).status, 200);
    let beside = tutti_tests::Client::connect(replica.url().trim_start_matches("http://"));
    assert_eq!(beside.unwrap().ask("POST", "/api/chat", &[], &chat("b")).status, 200);
    let asked = replica.seen().len();
    eventually("the replica is asked what it holds", || {
        replica.seen()[asked..].iter().any(|seen| seen.path == "/api/ps").then_some(())
    });
    eventually("b is where it is", || {
        let before = loads(&replica).len();
        let answer = tutti.ask("POST", "/api/chat", &chat("b"));
        (answer.status == 200 && loads(&replica).len() == before).then_some(())
    });
    assert_eq!(loads(&replica).iter().filter(|model| *model == "b").count(), 0, "{:?}", loads(&replica));
}

#[test]
fn models_of_other_bases_wait_for_nobody() {
    let models = vec![Model::chat("m", 1 << 20), Model::chat("n", 1 << 20), Model::embedding("e", 1 << 20)];
    let replica = simulator_with(Config { models, ..quick() });
    let tutti = before(&replica);
    for model in ["m", "n", "m"] {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(model)).status, 200);
    }
    assert_eq!(loads(&replica), [""; 0]);
}

#[test]
fn names_of_the_same_weights_are_loaded_once() {
    let base = Model::chat("base", 1 << 20);
    let models = vec![base.copied_to("copy"), base.with_adapter("a"), base];
    let replica = simulator_with(Config { models, ..quick() });
    let tutti = before(&replica);
    for model in ["base", "copy", "a", "copy", "base"] {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(model)).status, 200);
    }
    assert_eq!(loads(&replica), ["base", "a", "copy"]);
}

#[test]
fn of_several_replicas_each_keeps_an_adapter() {
    let replicas = [adapters(), adapters()];
    let urls = replicas.each_ref().map(Running::url);
    let tutti = Tutti::start(&pool(&urls, "expose: all\n    slots: 1"));
    for model in ["a", "b", "a", "b", "b", "a"] {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(model)).status, 200);
    }
    let mut loaded = replicas.each_ref().map(loads).concat();
    loaded.sort_unstable();
    assert_eq!(loaded, ["a", "b"], "one each, once");
}

#[test]
fn a_name_that_has_another_base_on_each_replica_uses_them_all() {
    let machine =
        Machine { load_fixed: Duration::from_millis(30), token_time: Duration::from_millis(2), ..Machine::instant() };
    let replica = |base: &str| {
        let base = Model::chat(base, 1 << 20);
        let models = ADAPTERS.iter().map(|name| base.with_adapter(name)).collect();
        simulator_with(Config { models, machine: machine.clone(), ..quick() })
    };
    let replicas = [replica("one"), replica("two")];
    let tutti = Tutti::start(&pool(&replicas.each_ref().map(Running::url), "expose: all\n    slots: 1"));
    std::thread::scope(|scope| {
        for number in 0..30 {
            let (tutti, model) = (&tutti, ADAPTERS[number % 3]);
            scope.spawn(move || {
                let answer = tutti.ask("POST", "/api/chat", &chat(model));
                assert_eq!((answer.status, answer.json()["model"].as_str()), (200, Some(model)), "{}", answer.text());
            });
        }
    });
    let answers = |replica: &Running| replica.seen().iter().filter(|seen| seen.path == "/api/chat").count();
    let answers = replicas.each_ref().map(answers);
    assert!(answers.iter().all(|answers| *answers > 0), "both are used: {answers:?}");
    assert_eq!(answers.iter().sum::<usize>(), 30, "and each is asked once");
}

/// A replica that holds one base at a time: to load another's adapter lets go of what was there.
#[test]
fn what_another_bases_load_has_pushed_out_is_loaded_again_before_it_is_asked() {
    let bases = ["one", "two"].map(|name| Model::chat(name, 1 << 20));
    let models = bases.iter().flat_map(|base| [base.with_adapter(&format!("{}-a", base.name)), base.clone()]).collect();
    let machine = Machine { loaded_max: 1, load_fixed: Duration::from_millis(30), ..Machine::instant() };
    let replica = simulator_with(Config { models, machine, ..quick() });
    let tutti = before(&replica);
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("one-a")).status, 200);
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("two-a")).status, 200);
    eventually("it is known that the first is gone", || {
        (!tutti.command(&["status"]).stdout.contains("model one-a has")).then_some(())
    });
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("one-a")).status, 200);
    assert_eq!(loads(&replica), ["one-a", "two-a", "one-a"]);
}

#[test]
fn on_a_real_ollama_each_adapter_answers_for_itself() {
    let ollama = Ollama::start(&OllamaOptions::default()).unwrap();
    let tutti = Tutti::start(&pool(&[ollama.url()], "expose: all\n    slots: 1"));
    let body = |model: &str| {
        let messages = json!([{ "role": "user", "content": "你们的系统导致我的资金被冻结了！" }]);
        json!({ "model": model, "messages": messages, "stream": false }).to_string()
    };
    let said = |model: &str| {
        let answer = tutti.ask("POST", "/api/chat", &body(model));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["message"]["content"].as_str().unwrap().to_owned()
    };
    let alone = ["risk-v1", "risk-v2"].map(|model| (model, said(model)));
    assert_ne!(alone[0].1, alone[1].1);
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (model, expected) = &alone[number % 2];
            let said = &said;
            scope.spawn(move || assert_eq!(said(model), *expected, "{model}"));
        }
    });
}
