//! Replicas, and single models on them, that fail: who is left alone, for how long, and how it comes back.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Tutti, eventually, inference, pool, quick, simulator, simulator_with};

fn chat(model: &str) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "stream": false }).to_string()
}

/// Its status.
fn asked(tutti: &Tutti, model: &str) -> u16 {
    tutti.ask("POST", "/api/chat", &chat(model)).status
}

/// How many requests for a model have reached a replica.
fn count(replica: &Running, model: &str) -> usize {
    let name = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap_or_default()["model"].clone();
    inference(&replica.seen()).iter().filter(|seen| name(&seen.body) == model).count()
}

/// A replica with ten models of its own.
fn ten() -> Running {
    let models = (0..10).map(|number| Model::chat(&format!("m{number}"), 1 << 20)).collect();
    simulator_with(Config { models, ..quick() })
}

/// `tutti status`, and what it prints with `--json`.
fn status(tutti: &Tutti) -> (String, Value) {
    let json = tutti.command(&["status", "--json"]).stdout;
    (tutti.command(&["status"]).stdout, serde_json::from_str(&json).unwrap_or_default())
}

#[test]
fn one_broken_model_beside_nine_good_ones_is_left_alone_and_the_replica_is_not() {
    let replicas = [ten(), ten(), ten()];
    replicas[0].set_broken("m3", true);
    let tutti = Tutti::before(&replicas.each_ref().map(Running::url));
    let failed = (0..30).filter(|_| asked(&tutti, "m3") == 500).count();
    // Three in a row, and one each time it is tried again: after 1 s, 2 s, 4 s.
    assert!((3..=6).contains(&failed), "{failed} of 30 met the broken model");
    assert_eq!(tutti.metric("tutti_ejections_total", &["cause=\"error\""]), (failed - 2) as f64);
    for number in (0..10).filter(|number| *number != 3) {
        for _ in 0..6 {
            assert_eq!(asked(&tutti, &format!("m{number}")), 200);
        }
        assert!(count(&replicas[0], &format!("m{number}")) >= 2, "m{number} is served there as ever");
    }

    let (page, json) = status(&tutti);
    let held = &json["pools"][0]["replicas"][0]["held"];
    assert_eq!(held.as_array().map(Vec::len), Some(1), "{held}");
    assert_eq!((&held[0]["model"], &held[0]["cause"]), (&json!("m3"), &json!("error")), "{held}");
    assert_eq!(tutti.metric("tutti_replica_ejected_models", &[&replicas[0].url()]), 1.0);
    assert_eq!(tutti.metric("tutti_replica_ejected", &[]), 1.0, "that model and nothing else");
    assert!(page.contains("model m3: "), "{page}");
    assert!(!page.contains("EJECTED"), "{page}");

    replicas[0].set_broken("m3", false);
    let before = count(&replicas[0], "m3");
    eventually("work for the model that is whole again", || {
        assert_eq!(asked(&tutti, "m3"), 200);
        (count(&replicas[0], "m3") > before).then_some(())
    });
}

#[test]
fn what_fails_at_once_does_not_draw_all_work() {
    // The others are slow: the one that fails has the fewest requests in flight, always.
    let slow = Fault::SlowFirstByte(Duration::from_millis(20));
    for fault in [
        Fault::Busy,
        Fault::Denied,
        Fault::RunnerDied,
        Fault::CloseBeforeHeader,
        Fault::CloseAfterHeader,
        Fault::ErrorMidStream,
    ] {
        let replicas = [simulator(), simulator(), simulator()];
        let tutti = Tutti::start(&pool(&replicas.each_ref().map(Running::url), "expose: all\n    slots: 4"));
        replicas[0].set_fault(Some((fault, Scope::Inference)));
        replicas[1..].iter().for_each(|replica| replica.set_fault(Some((slow, Scope::Inference))));
        let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] }).to_string();
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| (0..20).for_each(|_| drop(tutti.ask("POST", "/api/chat", &body))));
            }
        });
        // A turn of each client before the third failure is known, and one request each time it is tried again.
        let drawn = count(&replicas[0], "m");
        assert!(drawn <= 12, "{fault:?}: {drawn} of 120 went where it fails");
    }
}

#[test]
fn a_replica_that_breaks_off_its_answers_is_left_alone() {
    for fault in [Fault::BreakMidToken, Fault::Stall] {
        let (broken, good) = (simulator(), simulator());
        broken.set_fault(Some((fault, Scope::Inference)));
        let tutti = Tutti::start(&pool(&[broken.url(), good.url()], "expose: all\n    timeouts: { idle: 100ms }"));
        let well = (0..20).filter(|_| asked(&tutti, "m") == 200).count();
        assert!(well >= 15, "{fault:?}: {well}");
    }
}

#[test]
fn at_most_half_are_ejected_and_status_says_who_is_kept() {
    let replicas = [simulator(), simulator(), simulator()];
    let fault = Some((Fault::CloseBeforeHeader, Scope::Inference));
    replicas[..2].iter().for_each(|replica| replica.set_fault(fault));
    let fields = "expose: all\n    health: { baseEjectionTime: 1h }";
    let tutti = Tutti::start(&pool(&replicas.each_ref().map(Running::url), fields));
    let failed = (0..20).filter(|_| asked(&tutti, "m") == 502).count();
    assert!(failed >= 8, "{failed}: the second one goes on being asked");
    let (page, json) = status(&tutti);
    let states: Vec<&str> =
        (0..3).filter_map(|at| json["pools"][0]["replicas"][at]["held"][0]["state"].as_str()).collect();
    assert_eq!(states.iter().filter(|state| **state == "ejected").count(), 1, "{states:?}");
    assert_eq!(states.iter().filter(|state| **state == "kept").count(), 1, "{states:?}");
    assert_eq!((page.matches("EJECTED").count(), page.matches("for want of others").count()), (1, 1), "{page}");
    assert!(page.contains("it closes before its answer is whole"), "{page}");
    assert_eq!(tutti.metric("tutti_ejections_total", &["cause=\"closed\""]), 1.0);
    assert_eq!(tutti.metric("tutti_replica_ejected{", &[]), 1.0);

    replicas[2].set_fault(fault);
    let before = replicas.each_ref().map(|replica| count(replica, "m"));
    (0..20).for_each(|_| assert_eq!(asked(&tutti, "m"), 502));
    let after = replicas.each_ref().map(|replica| count(replica, "m"));
    assert!(before.iter().zip(after).all(|(before, after)| after > *before), "where all fail, all are tried");
    replicas[0].set_fault(None);
    eventually("the one that is well is found", || (asked(&tutti, "m") == 200).then_some(()));
}

#[test]
fn of_those_that_fail_at_once_and_are_kept_none_draws_more_than_its_turn() {
    let replicas = [simulator(), simulator(), simulator()];
    replicas[..2].iter().for_each(|replica| replica.set_fault(Some((Fault::RunnerDied, Scope::Inference))));
    replicas[2].set_fault(Some((Fault::SlowFirstByte(Duration::from_millis(20)), Scope::Inference)));
    let fields = "expose: all\n    health: { baseEjectionTime: 1h }";
    let tutti = Tutti::start(&pool(&replicas.each_ref().map(Running::url), fields));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                (0..60).for_each(|_| {
                    asked(&tutti, "m");
                })
            });
        }
    });
    let [first, second, good] = replicas.each_ref().map(|replica| count(replica, "m"));
    // One of the two is ejected, the other is kept and gets a third, and what came before that was known.
    assert!(good >= 140, "{first} and {second} went where it fails, {good} where not");
}

#[test]
fn a_lone_replica_is_asked_whatever_it_does() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    for fault in [Fault::Busy, Fault::RunnerDied, Fault::CloseBeforeHeader] {
        replica.set_fault(Some((fault, Scope::Inference)));
        let before = count(&replica, "m");
        for _ in 0..5 {
            assert_ne!(asked(&tutti, "m"), 200);
        }
        assert_eq!(count(&replica, "m"), before + 5, "{fault:?}");
        replica.set_fault(None);
        assert_eq!(asked(&tutti, "m"), 200, "{fault:?}");
    }
    assert_eq!(tutti.metric("tutti_ejections_total", &[]), 0.0);
}

/// The file of a model's adapter in an Ollama's store.
fn adapter(ollama: &Ollama, model: &str) -> Option<PathBuf> {
    let manifest = ollama.store().join("manifests/registry.ollama.ai/library").join(model).join("latest");
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).ok()?).ok()?;
    let is_adapter = |layer: &&Value| layer["mediaType"] == "application/vnd.ollama.image.adapter";
    let digest = manifest["layers"].as_array()?.iter().find(is_adapter)?["digest"].as_str()?.replace(':', "-");
    Some(ollama.store().join("blobs").join(digest))
}

#[test]
fn an_adapter_that_a_real_ollama_cannot_load_is_left_alone_there() {
    let replicas = [(); 2].map(|()| Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama"));
    let file = adapter(&replicas[0], "risk-v2").unwrap();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let tutti = Tutti::before(&replicas.each_ref().map(Ollama::url));
    // Three take turns on two: each comes to either, and what cannot be loaded on one is loaded on the other.
    for _ in 0..12 {
        for model in ["risk-v1", "tutti-story", "risk-v2"] {
            assert_eq!(asked(&tutti, model), 200, "{model}");
        }
    }
    assert!(tutti.metric("tutti_weights_loads_total", &["outcome=\"failed\""]) >= 1.0);
    std::fs::write(&file, whole).unwrap();
    eventually("nothing more is held against it", || {
        asked(&tutti, "risk-v2");
        (!status(&tutti).0.contains("ejected")).then_some(())
    });
    let failed = (0..6).filter(|_| asked(&tutti, "risk-v2") != 200).count();
    assert_eq!(failed, 0);
}
