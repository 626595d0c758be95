//! The benches' machinery on tiny sizes: what they count is what happens. Not how fast anything is.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;
use tutti_bench::{
    Adapters, DeathsBench, FieldBench, FleetBench, GatewaysBench, Kept, ReplicaProgram, SignalBench, SoakBench,
    StreamsBench, TuttiProgram,
};
use tutti_simulator::{Config, Model};

/// The program that replicas are, built if it is not there.
fn replica() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let build = ["build", "--quiet", "--package", "tutti-bench", "--bin", "tutti-bench-replica"];
        let built = Command::new(env!("CARGO")).args(build).current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.is_ok_and(|status| status.success()), "cannot build tutti-bench-replica");
        tutti_tests::binary().with_file_name("tutti-bench-replica")
    };
    BINARY.get_or_init(build).clone()
}

fn into(folder: &TempDir) -> Kept {
    Kept { out: folder.path().to_owned() }
}

fn kept(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("results").join(name).with_extension("json")).unwrap()).unwrap()
}

#[test]
fn streams_arrive_whole_and_are_counted() {
    let out = TempDir::new().unwrap();
    tutti_bench::streams(StreamsBench {
        streams: 40,
        tokens: 4,
        least_ms: 50,
        most_ms: 400,
        tutti: TuttiProgram { tutti: Some(tutti_tests::binary()) },
        replica: ReplicaProgram { replica: Some(replica()) },
        kept: into(&out),
    })
    .unwrap();
    let results = kept(out.path(), "streams");
    assert_eq!(results["tokens_right"], 160);
    assert_eq!(results["ends"], serde_json::json!([["Whole", 40]]));
    let bytes = |of: &str| results["peak"][of].as_u64().unwrap();
    assert!(bytes("pages") > 1 << 20, "{results}");
    let page = std::fs::read_to_string(out.path().join("RESULTS.md")).unwrap();
    assert!(page.contains("## Slow streams"), "{page}");
}

#[test]
fn a_pool_is_scaled_by_every_signal() {
    let out = TempDir::new().unwrap();
    let (gateways, revisions, seconds) = (3, 4, 1_200.0);
    let bench = SignalBench { seeds: 1, seconds, gateways, revisions, kept: into(&out) };
    tutti_bench::signal(bench).unwrap();
    let results = kept(out.path(), "signal");
    let rows = results["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 20);
    for row in rows {
        let day = &row["days"][0];
        assert!((0.0..=1.0).contains(&day["good"].as_f64().unwrap()) && day["hours"].as_f64().unwrap() > 0.3, "{row}");
    }
    assert!(results["merged"]["snapshot"].as_u64().unwrap() > 100);
    assert!(std::fs::read_to_string(out.path().join("results/signal.svg")).unwrap().contains("ours"));
}

#[test]
fn a_fleet_is_simulated_under_every_policy() {
    let out = TempDir::new().unwrap();
    tutti_bench::fleet(FleetBench { seeds: 1, seconds: 240.0, largest: 20, kept: into(&out) }).unwrap();
    let results = kept(out.path(), "fleet");
    let loads = results["loads"].as_array().unwrap();
    let good = |row: &Value| row["goodput"][0].as_f64().unwrap();
    for scenario in loads {
        let rows = scenario["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 5, "{scenario}");
        assert!(rows.iter().all(|row| (0.0..=1.0).contains(&good(row))), "{scenario}");
        let most = scenario["most"].as_f64().unwrap();
        assert!(good(&rows[4]) <= most + 0.1, "more than can be: {scenario}");
    }
    let last = loads.last().unwrap();
    assert!(good(&last["rows"][4]) > good(&last["rows"][0]), "{last}");
    assert!(results["costs"]["events"][0]["count"].as_u64().unwrap() > 100, "{results}");
    let page = std::fs::read_to_string(out.path().join("RESULTS.md")).unwrap();
    assert!(page.contains("## Fleets in virtual time") && out.path().join("results/fleet.svg").exists(), "{page}");
}

#[test]
fn a_death_explains_what_fails_and_nothing_else_does() {
    let out = TempDir::new().unwrap();
    let ended = tutti_bench::deaths(DeathsBench {
        seconds: 4.0,
        every: 0.7,
        away: 0.2,
        clients: 12,
        tutti: TuttiProgram { tutti: Some(tutti_tests::binary()) },
        replica: ReplicaProgram { replica: Some(replica()) },
        kept: into(&out),
    });
    let results = kept(out.path(), "deaths");
    assert!(ended.is_ok(), "{ended:?}: {results:#}");
    assert!(results["deaths"].as_u64().unwrap() >= 4, "{results}");
    let ends: Vec<&Value> = results["ends"].as_array().unwrap().iter().map(|end| &end[1]).collect();
    assert!(ends.iter().any(|end| **end == "Whole"), "{results}");
    assert!(ends.iter().any(|end| **end != "Whole"), "nobody noticed a death: {results}");
}

#[test]
fn what_a_soak_sends_is_what_the_gateway_counts() {
    let out = TempDir::new().unwrap();
    let ended = tutti_bench::soak(SoakBench {
        requests: 1000,
        clients: 8,
        rest: 0, // connections to the replica lie idle for a minute: here nobody waits for it
        tutti: TuttiProgram { tutti: Some(tutti_tests::binary()) },
        replica: ReplicaProgram { replica: Some(replica()) },
        kept: into(&out),
    });
    let results = kept(out.path(), "soak");
    let counted: u64 = results["counted"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(counted, 1000, "{ended:?}: {results:#}");
    assert_eq!((&results["counted"]["invalid_body"], &results["counted"]["model_not_found"]), (&50.into(), &50.into()));
    let page = std::fs::read_to_string(out.path().join("RESULTS.md")).unwrap();
    for bar in ["counters do not tell as they ended: **0.00**", "did not end as they must: **0.00**"] {
        assert!(page.contains(bar), "{page}");
    }
}

#[test]
fn the_field_is_measured_with_a_key_and_without() {
    let out = TempDir::new().unwrap();
    let bench = FieldBench {
        quick: false,
        rounds: 1,
        seconds: 0.2,
        cores: 2,
        tutti: TuttiProgram { tutti: Some(tutti_tests::binary()) },
        without_peers: true,
        kept: into(&out),
    };
    tutti_bench::field(bench, &|_| anyhow::bail!("nobody asked for peers")).unwrap();
    let results = kept(out.path(), "field");
    let rows = results["rows"].as_array().unwrap();
    for name in ["direct", "tutti", "tutti, keys and limits"] {
        let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}: {results:#}"));
        assert!(row["rate"][0].as_f64().unwrap() > 0.0 && row["long_p50"][0].as_f64().unwrap() > 0.0, "{row}");
    }
    let page = std::fs::read_to_string(out.path().join("RESULTS.md")).unwrap();
    assert!(page.contains("(results/field.svg)") && out.path().join("results/field.svg").exists(), "{page}");
}

#[test]
fn several_gateways_are_measured_beside_one() {
    let out = TempDir::new().unwrap();
    let base = Model::chat("base", 1 << 20);
    let models = ["a", "b"].map(|name| base.with_adapter(name));
    let config = Config { models: models.into_iter().chain([base]).collect(), ..tutti_tests::quick() };
    let replica = tutti_tests::simulator_with(config);
    let (names, version) = (vec!["a".to_owned(), "b".to_owned()], "simulated".to_owned());
    let bench = GatewaysBench {
        gateways: vec![1, 2],
        replicas: 1,
        clients: 8,
        seconds: 0.5,
        rounds: 1,
        tutti: TuttiProgram { tutti: Some(tutti_tests::binary()) },
        kept: into(&out),
    };
    tutti_bench::gateways(bench, &[Adapters { addr: replica.addr(), names, version }]).unwrap();
    let results = kept(out.path(), "gateways");
    for row in results["rows"].as_array().unwrap() {
        assert!(row["runs"][0]["rate"].as_f64().unwrap() > 0.0 && row["runs"][0]["failed"] == 0, "{row}");
    }
    let page = std::fs::read_to_string(out.path().join("RESULTS.md")).unwrap();
    assert!(page.contains("- 2 gateways, × one: **"), "{page}");
}
