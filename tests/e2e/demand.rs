//! What gateways say of the work that they have: `/demand` on the ops port.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use serde_json::json;
use tutti_api::demand::{Gathered, Name, PROTOBUF, Pool, Row, Snapshot, SnapshotView};
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Client, Fleet, Tutti, eventually, pool, quick, reached, simulator, simulator_with};

fn chat(model: &str, stream: bool) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "stream": stream }).to_string()
}

fn demand_since(tutti: &Tutti, query: &str) -> Snapshot {
    let mut ops = Client::connect(&tutti.ops()).expect("the ops port");
    let answer = ops.ask("GET", &format!("/demand{query}"), &[("Accept", PROTOBUF)], "");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(PROTOBUF)));
    Snapshot::read(&answer.body).expect("a snapshot")
}

fn demand(tutti: &Tutti) -> Snapshot {
    demand_since(tutti, "")
}

fn row(snapshot: &Snapshot, model: &str) -> Option<(Name, Row)> {
    let named = snapshot.rows.iter().map(|row| (snapshot.names[row.name as usize].clone(), row.clone()));
    named.into_iter().find(|(name, _)| name.model == model)
}

const RISK: &str = "slots: 1\n    scale: { min: 1, max: 3, target: 50% }\nmodels:\n  - name: risk\n    \
                    revisions: [{ name: v1, pool: p, upstream: m }]\n    slo: { ttft: 500ms, p99: 5s }";

#[test]
fn who_waits_to_go_with_others_is_told_too() {
    let replica = simulator_with(Config { models: vec![Model::embedding("e", 1 << 20)], ..quick() });
    let tutti = Tutti::start(&pool(&[replica.url()], "engine: openai\n    expose: all"));
    let text = |text: &str| json!({ "model": "e", "input": text }).to_string();
    for number in 0..3 {
        assert_eq!(tutti.ask("POST", "/v1/embeddings", &text(&format!("known {number}"))).status, 200);
    }
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let held = tutti.begin("/v1/embeddings", &text("held"));
    reached(&replica, 4);
    let others: Vec<Client> = (0..5).map(|_| tutti.begin("/v1/embeddings", &text("waits"))).collect();
    eventually("each of them wants a slot, for none has gone with another yet, and waits ever longer", || {
        let pool = demand(&tutti).pools[0].clone();
        ((pool.queued, pool.in_flight) == (5, 1) && pool.oldest_ms > 0).then_some(())
    });
    drop((held, others));
    eventually("nobody is there any more", || {
        let pool = demand(&tutti).pools[0].clone();
        ((pool.queued, pool.in_flight, pool.oldest_ms) == (0, 0, 0)).then_some(())
    });
}

#[test]
fn work_is_told_while_it_is_there_and_measured_when_it_is_over() {
    let replica = simulator();
    let tutti = Tutti::start(&pool(&[replica.url()], RISK));
    assert!(demand(&tutti).rows.is_empty());
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let works = tutti.begin("/api/chat", &chat("risk", true));
    reached(&replica, 1);
    let waits = tutti.begin("/api/chat", &chat("risk", true));
    let (name, told) = eventually("one waits and one is worked on", || {
        row(&demand(&tutti), "risk").filter(|(_, row)| (row.queued, row.in_flight) == (1, 1))
    });
    assert_eq!((&*name.revision, &*name.pool), ("v1", "p"));
    assert_eq!((told.arrivals, told.ended, told.slo_ttft_ms, told.slo_p99_ms), (2, 0, 500, 5000));
    eventually("the wait grows", || row(&demand(&tutti), "risk").filter(|(_, row)| row.oldest_ms > 0));
    let pools = demand(&tutti).pools;
    let Pool { queued, in_flight, ready, replicas, slots_each, epoch, floor, most, target, .. } = pools[0].clone();
    assert_eq!((queued, in_flight, ready, replicas, slots_each), (1, 1, 1, 1, 1));
    assert_eq!((epoch, floor, most, target), (0, 1, 3, 0.5));

    drop((works, waits));
    eventually("nobody is there any more", || {
        let snapshot = demand(&tutti);
        let (_, row) = row(&snapshot, "risk")?;
        let pool = &snapshot.pools[0];
        ((row.queued, row.in_flight, row.ended) == (0, 0, 2) && pool.queued + pool.in_flight == 0).then_some(())
    });
    replica.set_fault(None);
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("risk", true)).status, 200);
    replica.set_fault(Some((Fault::RunnerDied, Scope::Inference)));
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("risk", false)).status, 500);
    let snapshot = eventually("both are measured", || {
        let snapshot = demand(&tutti);
        row(&snapshot, "risk").filter(|(_, row)| row.ended == 4).map(|_| snapshot)
    });
    let (_, told) = row(&snapshot, "risk").unwrap();
    assert!(told.errors == 1 && told.output_tokens > 0);
    let parts: Vec<_> = snapshot.slices().flat_map(|slice| &slice.rows).collect();
    assert_eq!(parts.iter().map(|part| part.ended).sum::<u64>(), 4);
    let count = |of: fn(&tutti_api::demand::SliceRow) -> &Option<tutti_api::demand::Sketch>| {
        parts.iter().filter_map(|part| of(part).as_ref()).map(|sketch| sketch.count()).sum::<u64>()
    };
    assert_eq!((count(|part| &part.latency), count(|part| &part.ttft), count(|part| &part.queue)), (1, 1, 4));
}

#[test]
fn people_read_json_and_a_wrong_question_is_one() {
    let replica = simulator();
    let tutti = Tutti::start(&pool(&[replica.url()], RISK));
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("risk", true)).status, 200);
    eventually("it is over", || row(&demand(&tutti), "risk").filter(|(_, row)| row.ended == 1));
    let ask =
        |path: &str, method: &str| Client::connect(&tutti.ops()).expect("the ops port").ask(method, path, &[], "");
    let answer = ask("/demand", "GET");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let view: SnapshotView = serde_json::from_slice(&answer.body).unwrap();
    let row = view.rows.iter().find(|row| row.model == "risk").unwrap();
    assert!(row.latency.count == 1 && row.latency.p99_ms.is_some_and(|p99| p99 > 0.0), "{row:?}");
    assert_eq!(ask("/demand?since=x", "GET").status, 400);
    assert_eq!(ask("/demand?until=1", "GET").status, 400);
    assert_eq!(ask("/demand", "POST").status, 405);
}

#[test]
fn a_pool_that_several_gateways_have_is_told_of_by_one() {
    let replica = simulator();
    let fleet = Fleet::new(2);
    let gateways = fleet.start(2, "", &pool(&[replica.url()], RISK));
    let owner = Fleet::agree(&gateways.iter().collect::<Vec<_>>());
    let (owns, other) = (&gateways[owner], &gateways[1 - owner]);
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let _works = other.begin("/api/chat", &chat("risk", true));
    reached(&replica, 1);
    let _waits = other.begin("/api/chat", &chat("risk", true));
    let told = eventually("the owner tells of both", || {
        demand(owns).pools.first().filter(|pool| (pool.queued, pool.in_flight) == (1, 1)).cloned()
    });
    assert!(told.epoch > 0);
    assert!(demand(other).pools.is_empty() && demand(owns).rows.is_empty(), "each is told of once");
    let (_, row) = row(&demand(other), "risk").unwrap();
    assert_eq!((row.queued, row.in_flight), (1, 1), "by the one that holds its client");
}

/// What scaler-metrics marks Pods by, so that those are ended last.
#[test]
fn a_replica_that_alone_has_an_adapter_in_use_is_told_of() {
    let base = Model::chat("base", 1 << 20);
    let models: Vec<Model> =
        ["a", "b", "idle"].iter().map(|name| base.with_adapter(name)).chain([base.clone()]).collect();
    let replicas = [(); 2].map(|()| simulator_with(Config { models: models.clone(), ..quick() }));
    let urls: Vec<String> = replicas.iter().map(Running::url).collect();
    let tutti = Tutti::start(&pool(&urls, "expose: all\n    slots: 1"));
    let told = || -> Vec<u32> {
        let mut sole: Vec<u32> = demand(&tutti).pools[0].told.iter().map(|replica| replica.sole).collect();
        sole.sort_unstable();
        sole
    };
    assert_eq!(told(), [0, 0], "nothing is in use");
    eventually("each has one that the other lacks", || {
        for model in ["a", "b"] {
            assert_eq!(tutti.ask("POST", "/api/chat", &chat(model, false)).status, 200);
        }
        (told() == [1, 1]).then_some(())
    });
}

#[test]
fn a_pool_at_zero_says_who_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replicas");
    std::fs::write(&file, "").unwrap();
    let scale = RISK.replace("min: 1", "min: 0");
    let yaml =
        format!("pools:\n  - name: p\n    endpoints: [{{ file: {:?} }}]\n    {scale}\n", file.display().to_string());
    let tutti = Tutti::start(&yaml);
    assert_eq!(Client::connect(&tutti.ops()).unwrap().ask("GET", "/readyz", &[], "").status, 200);
    let mut waits = tutti.begin("/api/chat", &chat("risk", false));
    let told = eventually("it waits", || demand(&tutti).pools.first().filter(|pool| pool.queued == 1).cloned());
    assert_eq!((told.ready, told.replicas, told.floor), (0, 0, 0));
    let replica = simulator();
    let new = folder.path().join("new");
    std::fs::write(&new, replica.url()).unwrap();
    std::fs::rename(&new, &file).unwrap();
    assert_eq!(waits.answer().expect("an answer").status, 200);
    eventually("nobody waits", || {
        demand(&tutti).pools.first().filter(|pool| pool.queued == 0 && pool.ready == 1).cloned()
    });
}

#[test]
fn the_p99_of_three_gateways_is_that_of_their_requests() {
    let mut config = quick();
    config.machine.slots = 4;
    let replica = simulator_with(config);
    let gateways: Vec<Tutti> = (0..3).map(|_| Tutti::start(&pool(&[replica.url()], RISK))).collect();
    let mut sent = 0;
    for round in 0..40 {
        for (number, tutti) in gateways.iter().enumerate() {
            if round % (number + 1) == 0 {
                assert_eq!(tutti.ask("POST", "/api/chat", &chat("risk", round % 2 == 0)).status, 200);
                sent += 1;
            }
        }
    }
    let (mut all, mut exact) = (Gathered::default(), Vec::new());
    for tutti in &gateways {
        let snapshot = eventually("all are measured", || {
            let snapshot = demand(tutti);
            let (_, row) = row(&snapshot, "risk")?;
            (row.ended == row.arrivals && tutti.logged().len() as u64 == row.ended).then_some(snapshot)
        });
        let parts = snapshot.slices().flat_map(|slice| &slice.rows);
        parts.filter_map(|part| part.latency.as_ref()).for_each(|sketch| all.add(sketch));
        exact.extend(tutti.logged().iter().filter_map(|line| line["duration_ms"].as_f64()));
        let last = snapshot.closed.last().map(|slice| slice.number);
        let newer = demand_since(tutti, &format!("?since={}", last.unwrap_or(1_000)));
        assert!(newer.closed.iter().all(|slice| slice.number > last.unwrap_or(1_000)));
    }
    assert_eq!((all.count(), exact.len()), (sent, sent as usize));
    exact.sort_by(f64::total_cmp);
    for share in [0.5, 0.9, 0.99] {
        let is = exact[((share * exact.len() as f64).ceil() as usize).max(1) - 1];
        let said = all.quantile(share).unwrap() / 1e3;
        assert!((said - is).abs() <= is * 0.01, "{share}: {said} of {is} ms");
    }
}
