//! `tutti scaler-metrics` before real gateways: what KEDA hears by gRPC, and others by HTTP.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;
use tutti_simulator::{Fault, Running, Scope};
use tutti_tests::scaler::{Numbers, Ref, SERVICE, Scaler};
use tutti_tests::{Authority, Client, Tutti, eventually, pool, simulator};

const INVALID_ARGUMENT: u32 = 3;
const NOT_FOUND: u32 = 5;
const UNAVAILABLE: u32 = 14;
const SCALE: &str = "slots: 2\n    scale: { min: 0, max: 5, target: 50% }";

/// A gateway with a pool without a replica, and the file that may name one.
fn at_zero(folder: &TempDir) -> (Tutti, PathBuf) {
    let file = folder.path().join("replicas");
    std::fs::write(&file, "").unwrap();
    let yaml = format!(
        "pools:\n  - name: p\n    endpoints: [{{ file: {:?} }}]\n    {SCALE}\nmodels: [{MODEL}]\n",
        file.display().to_string()
    );
    (Tutti::start(&yaml), file)
}

const MODEL: &str = "{ name: risk, revisions: [{ name: v1, pool: p, upstream: m }], slo: { ttft: 500ms } }";

fn chat() -> String {
    json!({ "model": "risk", "messages": [{ "role": "user", "content": "hi" }], "stream": false }).to_string()
}

fn gains(file: &PathBuf, replica: &Running) {
    let new = file.with_extension("new");
    std::fs::write(&new, replica.url()).unwrap();
    std::fs::rename(&new, file).unwrap();
}

#[test]
fn the_first_request_for_a_pool_at_zero_is_pushed_and_wants_a_replica() {
    let folder = tempfile::tempdir().unwrap();
    let (tutti, file) = at_zero(&folder);
    let scaler = Scaler::before(&[&tutti]);
    eventually("the gateway was heard", || (scaler.is_active("p") == Ok(false)).then_some(()));
    assert_eq!(scaler.wanted("p"), Some(0.0));
    let stream = format!("{SERVICE}/StreamIsActive");
    let message = Ref::of(&[("pool", "p")]).encode_to_vec();
    assert_eq!(
        scaler.keda.call_within(&stream, &message, 1, Duration::from_secs(1)),
        None,
        "nothing to do, nothing said"
    );

    let begun = Instant::now();
    let mut waits = tutti.begin("/api/chat", &chat());
    let pushed = scaler.keda.call(&stream, &message, 1);
    let took = begun.elapsed();
    assert_eq!(pushed.messages, [[8, 1]]);
    assert!(took < Duration::from_secs(2), "{took:?}");
    println!("from the first request at zero to the push: {took:?}");
    assert_eq!(
        (scaler.is_active("p"), scaler.wanted("p")),
        (Ok(true), Some(1.0)),
        "one of two slots, half of which shall be used"
    );

    let replica = simulator();
    gains(&file, &replica);
    assert_eq!(waits.answer().expect("an answer").status, 200);
    eventually("its work is over", || (scaler.page("/v1/metrics/p").json()["queued"] == 0).then_some(()));
    assert_eq!(scaler.is_active("p"), Ok(true), "it lingers for whoever looks every 30 s");
}

#[test]
fn what_is_wrong_is_said_and_what_is_not_known_is_no_zero() {
    let blind = Scaler::of("127.0.0.1:1");
    assert_eq!((blind.is_active("p"), blind.wanted("p")), (Err(UNAVAILABLE), None));
    assert_eq!(blind.page("/v1/metrics/p").status, 503);
    assert_eq!(blind.page("/readyz").status, 200);

    let replica = simulator();
    let tutti = Tutti::start(&pool(&[replica.url()], SCALE));
    let scaler = Scaler::before(&[&tutti]);
    eventually("the gateway was heard", || scaler.is_active("p").ok());
    for (metadata, status, said) in [
        (Ref::of(&[]), INVALID_ARGUMENT, "metadata.pool is missing"),
        (Ref::of(&[("pool", "p"), ("poll", "1")]), INVALID_ARGUMENT, "metadata.poll"),
        (Ref::of(&[("pool", "q")]), NOT_FOUND, "there are: p"),
    ] {
        let called = scaler.call("IsActive", &metadata);
        let message = called.said.replace("%20", " ");
        assert!(called.status == Some(status) && message.contains(said), "{called:?}");
        let spec = scaler.call("GetMetricSpec", &metadata);
        let numbers = Numbers::decode(&*spec.messages[0]).unwrap();
        assert_eq!(
            (numbers.all[0].whole, numbers.all[0].exact),
            (1, 1.0),
            "whatever is wrong: else KEDA scales by CPU"
        );
    }
    // A gateway that is gone is held, not forgotten.
    drop(tutti);
    eventually("it is not heard", || scaler.page("/status").json()[0]["failing"].as_str().map(str::to_owned));
    assert_eq!(scaler.is_active("p"), Ok(false));
    assert_eq!(scaler.call("Nothing", &Ref::of(&[])).status, Some(12));
}

#[test]
fn health_and_reflection_are_there() {
    let scaler = Scaler::of("127.0.0.1:1");
    let health = scaler.keda.call("grpc.health.v1.Health/Check", &[], 0);
    assert_eq!((health.status, health.messages[0].as_slice()), (Some(0), &[8, 1][..]));
    // list_services is field 7 of ServerReflectionRequest.
    let reflected = scaler.keda.call("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &[58, 0], 1);
    let text = String::from_utf8_lossy(&reflected.messages[0]).into_owned();
    assert!(text.contains(SERVICE) && text.contains("grpc.health.v1.Health"), "{text}");
    // file_containing_symbol is field 4.
    let symbol = format!("{SERVICE}.GetMetrics");
    let ask = [&[34, u8::try_from(symbol.len()).unwrap()], symbol.as_bytes()].concat();
    let reflected = scaler.keda.call("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &ask, 1);
    assert!(String::from_utf8_lossy(&reflected.messages[0]).contains("metricValueFloat"));
}

#[test]
fn three_gateways_are_one_fleet_on_the_page_that_prometheus_reads() {
    let replica = simulator();
    let yaml = format!("{}models: [{MODEL}]\n", pool(&[replica.url()], SCALE));
    let gateways: Vec<Tutti> = (0..3).map(|_| Tutti::start(&yaml)).collect();
    let scaler = Scaler::before(&gateways.iter().collect::<Vec<_>>());
    eventually("all were heard", || scaler.page("/metrics").text().contains("state=\"fresh\"} 3").then_some(()));
    for tutti in &gateways {
        for _ in 0..4 {
            assert_eq!(tutti.ask("POST", "/api/chat", &chat()).status, 200);
        }
    }
    let page = eventually("all are counted", || {
        let page = scaler.page("/metrics").text();
        page.contains("tutti_fleet_requests_total{model=\"risk\",revision=\"v1\",pool=\"p\"} 12").then_some(page)
    });
    for wanted in [
        "tutti_fleet_request_duration_seconds{model=\"risk\",revision=\"v1\",pool=\"p\",quantile=\"0.99\"} 0.",
        "tutti_fleet_requests_last_minute{model=\"risk\",revision=\"v1\",pool=\"p\",of=\"duration\"} 12",
        "tutti_fleet_replicas_ready{pool=\"p\"} 1",
        "tutti_scaler_blind{pool=\"p\"} 0",
    ] {
        assert!(page.contains(wanted), "{wanted}: {page}");
    }
    let pool: Value = scaler.page("/v1/metrics/p").json();
    assert!(pool["replicasWanted"].is_f64() && pool["gateways"]["fresh"] == 3, "{pool}");
    // A replica that holds all of its slots: its work is in flight, by whichever gateway.
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let _held: Vec<Client> = gateways.iter().map(|tutti| tutti.begin("/api/chat", &chat())).collect();
    eventually("it shows", || (scaler.page("/v1/metrics/p").json()["inFlight"] == 3).then_some(()));
}

#[test]
fn with_certificates_nobody_is_answered_who_has_none() {
    let authority = Authority::new("keda");
    let [cert, key] = authority.sign("scaler");
    let shown = |path: &PathBuf| path.display().to_string();
    let (cert, key, ca) = (shown(&cert), shown(&key), shown(&authority.ca()));
    let arguments = [
        "scaler-metrics",
        "--gateways",
        "127.0.0.1:1",
        "--grpc",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.1:0",
        "--cert",
        &cert,
        "--key",
        &key,
        "--client-ca",
        &ca,
    ];
    let process = Tutti::spawn(&arguments, "", &[]);
    let url = format!("https://{}/{SERVICE}/GetMetricSpec", process.said_address("tutti tells what is wanted", "grpc"));
    let body = process.folder().join("empty.grpc");
    std::fs::write(&body, [0; 5]).unwrap();
    let curl = |more: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--http2",
            "--insecure",
            "--noproxy",
            "*",
            "--max-time",
            "10",
            "--output",
            "-",
        ]);
        curl.args(["--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary"]);
        curl.arg(format!("@{}", body.display())).args(more).arg(&url);
        curl.output().expect("curl")
    };
    let known = curl(&["--cert", &cert, "--key", &key]);
    assert!(
        known.status.success() && String::from_utf8_lossy(&known.stdout).contains("tutti-replicas-wanted"),
        "{known:?}"
    );
    assert!(!curl(&[]).status.success(), "without one");
    let [cert, key] = Authority::new("else").sign("keda");
    assert!(!curl(&["--cert", &shown(&cert), "--key", &shown(&key)]).status.success(), "of somebody else");
}
