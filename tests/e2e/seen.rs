//! What operators look at: alert rules, by promtool, and the dashboard's queries, by a real Prometheus that scrapes a real
//! gateway and its scaler; and a picture of the dashboard, made of the answers.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tutti_bench::panels::{Panel, Series, drawn};
use tutti_rig::{Prometheus, promtool};
use tutti_simulator::Running;
use tutti_simulator::engine::Machine;
use tutti_tests::scaler::Scaler;
use tutti_tests::{PATIENCE, Tutti, quick, simulator_with};

fn deploy() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy"))
}

#[test]
fn alerts_fire_where_they_must_and_not_where_they_must_not() {
    promtool(&["check", "rules", "rules.yaml"], &deploy().join("prometheus")).unwrap();
    promtool(&["test", "rules", "tests.yaml"], &deploy().join("prometheus")).unwrap();
}

/// The values of a field of a YAML file, by its lines.
fn values(file: &Path, field: &str) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let value =
        |line: &str| line.trim().trim_start_matches("- ").strip_prefix(field).map(|value| value.trim().to_owned());
    text.lines().filter_map(value).collect()
}

#[test]
fn every_alert_has_a_severity_a_runbook_and_both_kinds_of_cases() {
    let (rules, tests) = (deploy().join("prometheus/rules.yaml"), deploy().join("prometheus/tests.yaml"));
    let alerts = values(&rules, "alert:");
    assert!(alerts.len() > 10, "{alerts:?}");
    assert_eq!(values(&rules, "labels: { severity:").len(), alerts.len());
    let runbook = fs::read_to_string(deploy().join("../docs/alerts.md")).unwrap();
    let text = fs::read_to_string(tests).unwrap();
    let cases: Vec<&str> = text.split("  - name: ").skip(1).collect();
    for alert in alerts {
        assert!(values(&rules, "runbook:").contains(&format!("docs/alerts.md#{}", alert.to_lowercase())), "{alert}");
        assert!(runbook.contains(&format!("\n## {alert}\n")), "docs/alerts.md does not tell of {alert}");
        let of = |fires: bool| {
            let is_of = |case: &&&str| case.contains(&format!("alertname: {alert}\n"));
            cases.iter().filter(is_of).any(|case| case.contains("exp_alerts: []") != fires)
        };
        assert!(of(true) && of(false), "{alert} has no case that fires, or none that does not");
    }
}

fn dashboard() -> Vec<Value> {
    let file = fs::read(deploy().join("grafana/tutti.json")).unwrap();
    let dashboard: Value = serde_json::from_slice(&file).expect("a dashboard");
    let panels = dashboard["panels"].as_array().unwrap().clone();
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "each has a number of its own");
    panels
}

/// What a panel asks for, with the dashboard's variables filled in, and what it calls the answers.
fn queries(panel: &Value) -> Vec<(String, String)> {
    let query = |target: &Value| {
        let expr = target["expr"].as_str().unwrap().replace("$pool", ".*").replace("$__rate_interval", "10s");
        (expr, target["legendFormat"].as_str().unwrap().to_owned())
    };
    panel["targets"].as_array().unwrap().iter().map(query).collect()
}

fn chat(model: &str) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "stream": true }).to_string()
}

/// How long it is looked at, and what happens meanwhile.
struct Play {
    /// Before the release begins.
    calm: Duration,
    /// The canary's steps.
    steps: &'static str,
    least: Duration,
    /// How many clients there are in each tenth of the time.
    clients: [usize; 10],
}

/// So that each query has an answer.
const SHORT: Play = Play { calm: Duration::ZERO, steps: "10%,until-promoted", least: Duration::ZERO, clients: [3; 10] };
/// So that there is something to see: `cargo xtask picture`.
const LONG: Play = Play {
    calm: Duration::from_secs(25),
    steps: "10%,25s,50%,25s",
    least: Duration::from_secs(110),
    clients: [1, 2, 4, 6, 6, 4, 2, 2, 3, 1],
};

/// A gateway with two revisions on a simulated replica each, its scaler, and a Prometheus that scrapes both.
struct World {
    tutti: Tutti,
    scaler: Scaler,
    prometheus: Prometheus,
    _replicas: [Running; 2],
}

impl World {
    fn new() -> Self {
        let mut config = quick();
        config.machine = Machine { slots: 2, token_time: Duration::from_millis(5), ..config.machine };
        let replicas = [simulator_with(config.clone()), simulator_with(config)];
        let pool = |name: &str, of: &Running| {
            format!(
                "  - {{ name: {name}, endpoints: [{{ url: \"{}\" }}], slots: 2, scale: {{ min: 0, max: 5 }} }}\n",
                of.url()
            )
        };
        let (blue, green) = (pool("blue", &replicas[0]), pool("green", &replicas[1]));
        let tutti = Tutti::start(&format!(
            "pools:\n{blue}{green}models:\n  - name: risk\n    revisions: [{{ name: v1, pool: blue, upstream: m }}, {{ name: v2, pool: green, upstream: m }}]\n    \
             traffic: {{ revision: v1 }}\n    slo: {{ ttft: 500ms }}\n"
        ));
        let scaler = Scaler::before(&[&tutti]);
        let ops = tutti.ops();
        let listen = scaler.process.said_address("tutti tells what is wanted", "listen");
        let targets = [("tutti-gateway", &*ops), ("tutti-scaler", &*listen)];
        let prometheus = Prometheus::start(&targets, &deploy().join("prometheus/rules.yaml")).expect("a Prometheus");
        Self { tutti, scaler, prometheus, _replicas: replicas }
    }

    /// Clients ask, a release goes on, KEDA looks, until the time is over and each of these queries has had an answer; those
    /// that have not within [`PATIENCE`] more are left.
    fn plays(&self, play: &Play, left: &mut BTreeSet<String>) {
        let (begun, over) = (Instant::now(), AtomicBool::new(false));
        let tenth = || (begun.elapsed().as_secs_f64() / play.least.as_secs_f64().max(0.1) * 10.0) as usize;
        std::thread::scope(|scope| {
            for number in 0..play.clients.iter().copied().max().unwrap_or(0) {
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Relaxed) {
                        if play.clients[tenth().min(9)] > number {
                            assert_eq!(self.tutti.ask("POST", "/api/chat", &chat("risk")).status, 200);
                        } else {
                            std::thread::sleep(LOOK); // until its turn comes
                        }
                    }
                });
            }
            let mut released = false;
            while begun.elapsed() < play.least || !left.is_empty() && begun.elapsed() < play.least + PATIENCE {
                assert_eq!(self.tutti.ask("POST", "/api/chat", &chat("nope")).status, 404);
                self.scaler.is_active("blue").expect("it is known");
                if !released && begun.elapsed() >= play.calm {
                    let change = ["traffic", "risk", "--to", "v2", "--canary", play.steps, "--mirror", "30%"];
                    let ended = self.tutti.command(&change);
                    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
                    released = true;
                }
                left.retain(|query| self.prometheus.query(query).expect("a query").is_empty());
                std::thread::sleep(LOOK); // Prometheus looks once a second
            }
            over.store(true, Relaxed);
        });
    }

    /// The dashboard's panels over the last seconds, as lines. The last of their points, a second apart, is now: every query
    /// has an answer by now, and a second earlier some have none.
    fn panels(&self, lasted: f64) -> Vec<Panel> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let from = now - lasted.ceil();
        let number =
            |value: &Value| value.as_str().and_then(|text| text.parse::<f64>().ok()).filter(|of| of.is_finite());
        let panel = |panel: &Value| {
            let mut series = Vec::new();
            for (query, legend) in queries(panel) {
                for found in self.prometheus.range(&query, (from, now)).expect("a query") {
                    let labels = found["metric"].as_object().cloned().unwrap_or_default();
                    let fill = |text: String, (name, value): (&String, &Value)| {
                        text.replace(&format!("{{{{{name}}}}}"), value.as_str().unwrap_or_default())
                    };
                    let name = labels.iter().fold(legend.clone(), fill);
                    // What has no such label is left out, as Grafana does.
                    let name = name.split("{{").map(|part| part.split("}}").last().unwrap_or_default()).collect();
                    let point = |pair: &Value| Some((pair[0].as_f64()? - from, number(&pair[1])?));
                    let points = found["values"].as_array().into_iter().flatten().filter_map(point).collect();
                    series.push(Series { name, points });
                }
            }
            let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or("short").to_owned();
            Panel { title: panel["title"].as_str().unwrap().to_owned(), unit, series }
        };
        dashboard().iter().map(panel).collect()
    }
}

/// How long between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// `TUTTI_PICTURE` names a file for the picture in `docs/`.
#[test]
fn every_query_of_the_dashboard_has_an_answer_and_they_make_a_picture() {
    let picture = std::env::var_os("TUTTI_PICTURE").map(PathBuf::from);
    let play = if picture.is_some() { LONG } else { SHORT };
    let world = World::new();
    let mut left: BTreeSet<String> = dashboard().iter().flat_map(queries).map(|(query, _)| query).collect();
    let records = values(&deploy().join("prometheus/rules.yaml"), "record:");
    assert!(records.len() >= 4);
    left.extend(records);
    // An error ratio wants an error of ours.
    left.remove("tutti:error_ratio_5m");
    let begun = Instant::now();
    world.plays(&play, &mut left);
    assert!(left.is_empty(), "no answer to {left:#?}");
    let lasted = begun.elapsed().as_secs_f64();
    let panels = world.panels(lasted);
    let empty: Vec<&str> =
        panels.iter().filter(|of| of.series.iter().all(|of| of.points.is_empty())).map(|of| &*of.title).collect();
    assert!(empty.is_empty(), "{empty:?} have no line");
    let caption = "Drawn by `cargo xtask picture` from the panels of deploy/grafana/tutti.json and what a Prometheus answered to their \
                   queries; not a screenshot of Grafana. One gateway, two simulated replicas, a canary from v1 to v2.";
    let svg = drawn("tutti", caption, lasted, &panels);
    assert!(svg.ends_with("</svg>\n") && svg.matches("<polyline ").count() >= panels.len());
    if let Some(file) = picture {
        fs::write(file, svg).unwrap();
    }
}
