//! The benches' machinery on tiny sizes: what they count is what happens. Not how fast anything is.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;
use tutti_bench::{DeathsBench, FieldBench, SoakBench, StreamsBench};

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
        tutti: Some(tutti_tests::binary()),
        replica: Some(replica()),
        out: out.path().to_owned(),
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
fn a_death_explains_what_fails_and_nothing_else_does() {
    let out = TempDir::new().unwrap();
    let ended = tutti_bench::deaths(DeathsBench {
        seconds: 4.0,
        every: 0.7,
        away: 0.2,
        clients: 12,
        tutti: Some(tutti_tests::binary()),
        replica: Some(replica()),
        out: out.path().to_owned(),
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
        tutti: Some(tutti_tests::binary()),
        replica: Some(replica()),
        out: out.path().to_owned(),
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
        tutti: Some(tutti_tests::binary()),
        without_peers: true,
        out: out.path().to_owned(),
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
