//! What the gateway lets be seen of itself: metrics as a scraper reads them, lines of the log, the log's level.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tutti_gateway::metrics::{ALL, Kind};
use tutti_simulator::{Config, Fault, Model, Scope};
use tutti_tests::{
    Answer, Client, Keyed, Tutti, eventually, id_of, pool, quick, reached, run, simulator, simulator_with,
};

fn chat(model: &str, stream: bool) -> String {
    let messages = json!([{ "role": "user", "content": "my-account-number is 4711" }]);
    json!({ "model": model, "messages": messages, "stream": stream, "stream_options": { "include_usage": true } })
        .to_string()
}

fn page(tutti: &Tutti, method: &str, accept: &[(&str, &str)]) -> Answer {
    Client::connect(&tutti.ops()).expect("the ops port").ask(method, "/metrics", accept, "")
}

/// The names of all series, without their values.
fn series(tutti: &Tutti) -> BTreeSet<String> {
    let page = page(tutti, "GET", &[]).text();
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

/// What Prometheus' own parsers read, by format.
fn parsed(tutti: &Tutti) -> Value {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", tutti_rig::python().expect("the rig's Python packages"));
    python.env("no_proxy", "127.0.0.1").env("NO_PROXY", "127.0.0.1");
    python.arg("-SB").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/metrics.py"));
    let output = python.arg(format!("http://{}", tutti.ops())).output().expect("the script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

/// The values of a family's samples by name and labels; those that pass by themselves left out.
fn values(family: &Value) -> BTreeMap<String, f64> {
    let samples = family["samples"].as_array().into_iter().flatten();
    samples.map(|sample| (format!("{}{}", sample[0], sample[1]), sample[2].as_f64().unwrap_or_default())).collect()
}

#[test]
fn a_scraper_reads_all_metrics_in_both_formats() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    assert_eq!(tutti.ask("POST", "/v1/chat/completions", &chat("m", true)).status, 200);
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("m", false)).status, 200);
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("nope", false)).status, 404);
    replica.set_fault(Some((Fault::RunnerDied, Scope::Inference)));
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("m", false)).status, 500);
    replica.set_fault(Some((Fault::Stall, Scope::Inference)));
    let leaves = tutti.begin("/api/chat", &chat("m", false));
    reached(&replica, 4);
    drop(leaves);
    eventually("cancelled", || {
        (tutti.metric("tutti_requests_cancelled_total", &["phase=\"waiting\""]) == 1.0).then_some(())
    });

    let read = parsed(&tutti);
    let families = |format: &str| read[format]["families"].as_array().unwrap().clone();
    assert_eq!(read["openmetrics"]["content_type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(read["plain"]["content_type"], "text/plain; version=0.0.4; charset=utf-8");
    let alone = ["tutti_forwarded_requests", "tutti_peer", "tutti_pool_"];
    let loaders = ["tutti_replica_loader_up", "tutti_replica_adapters", "tutti_adapter_probes"];
    let models = ["tutti_revision_weight", "tutti_traffic_", "tutti_release_", "tutti_mirror"];
    let files = ["tutti_discovery_", "tutti_tls_certificate", "tutti_tls_last_reload", "tutti_keys"];
    let absent = [&files[..], &alone, &loaders, &models].concat(); // there are none
    assert_eq!(families("openmetrics").len(), ALL.len());
    for metric in ALL {
        let read = families("openmetrics");
        let family = read.iter().find(|family| family["name"] == metric.name).expect(metric.name);
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        assert_eq!(family["type"], kind, "{}", metric.name);
        assert_eq!((&family["unit"], &family["help"]), (&json!(metric.unit), &json!(metric.help)), "{}", metric.name);
        let samples = family["samples"].as_array().unwrap();
        assert!(!samples.is_empty() || absent.iter().any(|name| metric.name.starts_with(name)), "{}", metric.name);
        for label in samples.iter().flat_map(|sample| sample[1].as_object().unwrap().keys()) {
            assert!(metric.labels.contains(&label.as_str()) || label == "le", "{}: {label}", metric.name);
        }
    }
    for (open, plain) in families("openmetrics").iter().zip(families("plain")) {
        let name = open["name"].as_str().unwrap();
        if !name.starts_with("process_") {
            assert_eq!(values(open), values(&plain), "{name}");
        }
    }
}

#[test]
fn requests_are_measured_as_the_conventions_say() {
    let replica = simulator();
    let tutti = Tutti::start(&format!(
        "{}models: [{{ name: risk, revisions: [{{ name: v1, pool: p, upstream: m }}] }}]\n",
        pool(&[replica.url()], "")
    ));
    let stream = tutti.ask("POST", "/v1/chat/completions", &chat("risk", true));
    let usage = stream.lines().iter().find_map(|line| {
        let chunk: Value = serde_json::from_str(line).ok()?;
        chunk["usage"]["completion_tokens"].as_f64()
    });
    assert!(usage.is_some_and(|tokens| tokens >= 2.0), "{}", stream.text());
    tutti.wait_logged("the stream", |line| line["status"] == 200);
    let risk = |operation: &str| {
        [
            format!("gen_ai_operation_name=\"{operation}\""),
            "gen_ai_provider_name=\"ollama\"".to_owned(),
            "gen_ai_request_model=\"risk\"".to_owned(),
            "revision=\"v1\"".to_owned(),
            "pool=\"p\"".to_owned(),
        ]
    };
    let metric = |name: &str, operation: &str, more: &str| {
        let labels = risk(operation);
        let labels: Vec<&str> = labels.iter().map(String::as_str).chain([more]).collect();
        tutti.metric(name, &labels)
    };
    assert_eq!(metric("gen_ai_server_request_duration_seconds_count", "chat", ""), 1.0);
    assert_eq!(metric("gen_ai_server_time_to_first_token_seconds_count", "chat", ""), 1.0);
    assert_eq!(metric("gen_ai_server_time_per_output_token_seconds_count", "chat", ""), 1.0);
    let output = metric("gen_ai_client_token_usage_sum", "chat", "gen_ai_token_type=\"output\"");
    assert_eq!(Some(output), usage);
    assert_eq!(tutti.metric("tutti_output_tokens_total", &["model=\"risk\"", "revision=\"v1\""]), output);
    // An answer of one piece has no first token, nor time between its tokens.
    assert_eq!(tutti.ask("POST", "/api/generate", &chat("risk", false)).status, 200);
    replica.set_fault(Some((Fault::RunnerDied, Scope::Inference)));
    assert_eq!(tutti.ask("POST", "/api/generate", &chat("risk", false)).status, 500);
    tutti.wait_logged("the failure", |line| line["status"] == 500);
    assert_eq!(metric("gen_ai_server_request_duration_seconds_count", "text_completion", "error_type=\"500\""), 1.0);
    assert_eq!(metric("gen_ai_server_request_duration_seconds_count", "text_completion", ""), 2.0);
    assert_eq!(metric("gen_ai_server_time_to_first_token_seconds_count", "text_completion", ""), 0.0);
    assert_eq!(metric("gen_ai_server_time_per_output_token_seconds_count", "text_completion", ""), 0.0);
}

#[test]
fn ten_thousand_unknown_models_add_no_series() {
    let replica = simulator();
    let tutti = Tutti::start(&format!(
        "{}models: [{{ name: risk, revisions: [{{ name: v1, pool: p, upstream: m }}] }}]\n",
        pool(&[replica.url()], "")
    ));
    let mut client = tutti.client();
    let mut ask = |n: usize| client.ask("POST", "/api/chat", &[], &chat(&format!("invented-{n}"), false)).status;
    assert_eq!(ask(0), 404);
    tutti.wait_logged("the first", |line| line["status"] == 404);
    let before = series(&tutti);
    for n in 1..10_000 {
        assert_eq!(ask(n), 404);
    }
    let unknown = || tutti.metric("tutti_requests_total", &["code=\"model_not_found\""]);
    eventually("all counted", || (unknown() == 10_000.0).then_some(()));
    let new: Vec<String> = series(&tutti).difference(&before).cloned().collect();
    // Where these 10,000 took longer than the first, its buckets are there already.
    assert!(new.is_empty(), "{new:?}");
    assert!(!format!("{:?}", tutti.logged()).contains("invented"), "nor are they logged");
}

#[test]
fn models_that_a_replica_invents_share_one_name_beyond_the_limit() {
    let models = (0..40).map(|n| Model::chat(&format!("evil-{n}"), 1 << 20)).collect();
    let replica = simulator_with(Config { models, ..quick() });
    let limits = "gateway: { limits: { labelValues: 8 } }\n";
    let configured = "models: [{ name: risk, revisions: [{ name: v1, pool: p, upstream: evil-39 }] }]\n";
    let tutti = Tutti::start(&format!("{limits}{}{configured}", pool(&[replica.url()], "expose: all")));
    for n in 0..40 {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(&format!("evil-{n}"), false)).status, 200);
    }
    assert_eq!(tutti.ask("POST", "/api/chat", &chat("risk", false)).status, 200);
    eventually("all counted", || (tutti.metric("tutti_requests_total", &["code=\"ok\""]) == 41.0).then_some(()));
    let own = series(&tutti).into_iter().filter(|name| name.starts_with("tutti_requests_total{model=\"evil-")).count();
    assert_eq!(own, 8);
    assert_eq!(tutti.metric("tutti_requests_total", &["model=\"(other)\"", "pool=\"p\""]), 32.0);
    assert_eq!(tutti.metric("tutti_requests_total", &["model=\"risk\"", "revision=\"v1\""]), 1.0);
    assert!(tutti.metric("tutti_limit_hits_total", &["limit=\"label_values\""]) >= 32.0);
}

#[test]
fn the_ops_port_wants_no_token_and_answers_heads() {
    let tutti = Tutti::before(&[simulator().url()]);
    let open = [("accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")];
    let got = page(&tutti, "GET", &open);
    assert!(got.text().ends_with("# EOF\n") && got.header("content-type").unwrap().contains("openmetrics"));
    assert!(!page(&tutti, "GET", &[]).text().contains("# EOF"));
    let mut client = Client::connect(&tutti.ops()).unwrap();
    client.send("HEAD", "/metrics", &open, "").unwrap();
    let head = client.head().unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, got.header("content-type")));
    assert!(head.header("content-length").unwrap().parse::<usize>().unwrap() > 1000);
    assert_eq!(client.ask("POST", "/metrics", &[], "").status, 405, "no body was left on the connection");
    assert_eq!(Client::connect(&tutti.admin()).unwrap().ask("GET", "/metrics", &[], "").status, 401);
}

#[test]
fn a_line_of_the_log_has_the_fields_of_its_page() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all\n    slots: 1\n    queue: { wait: 200ms }"));
    let (tutti, key) = (&keyed.tutti, keyed.new_key(&[]));
    let parent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let with_key = ("authorization", &*format!("Bearer {key}"));
    let ask = || tutti.client().ask("POST", "/api/chat", &[parent, with_key], &chat("m", true)).status;
    assert_eq!(ask(), 200);
    replica.set_fault(Some((Fault::Stall, Scope::Inference)));
    let held = keyed.begin(&key, "/api/chat", &chat("m", true));
    reached(&replica, 2);
    assert_eq!(ask(), 503);
    drop(held);
    tutti.wait_logged("the one that left", |line| line["outcome"] == "cancelled");
    tutti.wait_logged("the one that waited in vain", |line| line["outcome"] == "failed");
    let traced = tutti.wait_logged("the first", |line| line["outcome"] == "ok");
    assert_eq!(traced["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((&traced["tenant"], &traced["key"]), (&json!("acme"), &json!(id_of(&key))));
    assert_eq!(tutti.metric("tutti_requests_total", &["model=\"m:latest\"", "tenant=\"acme\""]), 3.0);
    let lines = tutti.logged();
    assert_eq!(lines.len(), 3);
    let seen: BTreeSet<&str> =
        lines.iter().flat_map(|line| line.as_object().unwrap().keys().map(String::as_str)).collect();
    let told: BTreeSet<&str> = tutti_gateway::log::field_names().collect();
    let told = &told - &BTreeSet::from(["cached_tokens", "callers", "calls"]); // where there are such
    assert_eq!(seen, told);
}

#[test]
fn which_requests_are_logged_is_configured_and_taken_up() {
    let replica = simulator();
    let with = |requests: &str| {
        format!("gateway: {{ log: {{ requests: {requests} }} }}\n{}", pool(&[replica.url()], "expose: all"))
    };
    let tutti = Tutti::start(&with("errors"));
    let change = |requests: &str| {
        let generation = tutti.metric("tutti_config_generation", &[]);
        tutti.write_config(&with(requests));
        eventually("the change", || (tutti.metric("tutti_config_generation", &[]) > generation).then_some(()));
    };
    let ask = |id: &str, model: &str| {
        tutti.client().ask("POST", "/api/chat", &[("x-request-id", id)], &chat(model, false));
    };
    ask("well", "m");
    ask("badly", "nope");
    change("none");
    ask("silently", "nope");
    change("all");
    ask("again", "m");
    tutti.wait_logged("badly", |line| line["request_id"] == "badly");
    tutti.wait_logged("again", |line| line["request_id"] == "again");
    let mut ids: Vec<String> = tutti.logged().iter().map(|line| line["request_id"].to_string()).collect();
    ids.sort_unstable(); // cores write apart
    assert_eq!(ids, ["\"again\"", "\"badly\""]);
    assert_eq!(tutti.metric("tutti_requests_total", &["api=\"/api/chat\""]), 4.0, "counted all the same");
}

/// Runs `tutti log-level` against a gateway; yields what it printed, errors included, and its exit code.
fn log_level(tutti: &Tutti, arguments: &[&str]) -> (String, Option<i32>) {
    let (admin, token) = (tutti.admin(), tutti.token_file().display().to_string());
    let whom = ["--admin", &admin, "--token-file", &token];
    let ended = run(&[&["log-level"], arguments, &whom].concat(), &[]);
    (ended.stdout + &ended.stderr, ended.code)
}

#[test]
fn the_level_of_the_log_is_changed_at_run_time() {
    let replica = simulator();
    let tutti = Tutti::start_with(
        &["gateway", "--config", "tutti.yaml"],
        &pool(&[replica.url()], "expose: all"),
        &[("TUTTI_LOG", "tutti=info,tutti_gateway=warn")],
    );
    let start = "tutti_gateway=warn,tutti=info";
    assert_eq!(log_level(&tutti, &[]), (format!("{start}\n"), Some(0)));
    let (said, code) = log_level(&tutti, &["inof"]);
    assert!(code == Some(1) && said.contains("\"inof\" is no level: write one of off"), "{said}");
    assert_eq!(log_level(&tutti, &[]).0, format!("{start}\n"), "as it was");

    assert_eq!(log_level(&tutti, &["trace"]), (format!("trace (at the start: {start})\n"), Some(0)));
    let mut client = tutti.client();
    let secret = [("authorization", "Bearer sk-tutti-SECRET"), ("x-tutti-model", "m")];
    assert_eq!(client.ask("POST", "/v1/chat/completions", &secret, &chat("m", true)).status, 200);
    let debugged = || tutti.said().iter().filter(|line| line["level"] == "DEBUG").count();
    let ends_early = || Client::connect(&tutti.ops()).unwrap().send_raw(b"no HTTP\r\n\r\n").unwrap();
    assert_eq!(debugged(), 0);
    eventually("what is said only then", || {
        ends_early();
        (debugged() > 0).then_some(())
    });
    let said = format!("{:?}", tutti.said());
    for secret in ["SECRET", "my-account-number", "4711"] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }

    assert_eq!(log_level(&tutti, &["--reset"]), (format!("{start}\n"), Some(0)));
    let mut admin = Client::connect(&tutti.admin()).unwrap();
    assert_eq!(admin.ask("GET", "/log-level", &[], "").status, 401);
    assert_eq!(admin.ask("PUT", "/log-level?filter=trace", &[], "").status, 401);
    assert_eq!(log_level(&tutti, &[]).0, format!("{start}\n"));
}

#[test]
fn a_filter_that_is_none_at_the_start_is_said() {
    let replica = simulator();
    let yaml = pool(&[replica.url()], "expose: all");
    let tutti = Tutti::start_with(&["gateway", "--config", "tutti.yaml"], &yaml, &[("TUTTI_LOG", "verbose")]);
    tutti.wait_said("TUTTI_LOG is no filter, so info is in force: \"verbose\" is no level");
}

/// An address that is free now.
fn free() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

#[test]
fn a_gateway_whose_logs_cannot_be_written_serves_all_the_same() {
    let replica = simulator();
    let [listen, ops, admin] = [(); 3].map(|()| free());
    let gateway = format!("gateway: {{ listen: \"{listen}\", ops: \"{ops}\", admin: {{ listen: \"{admin}\" }} }}\n");
    let mut tutti = Tutti::spawn_unheard(&format!("{gateway}{}", pool(&[replica.url()], "expose: all")));
    let mut client = eventually("it serves", || Client::connect(&listen).ok());
    assert_eq!(client.ask("POST", "/api/chat", &[], &chat("m", false)).status, 200);
    let _ = Client::connect(&listen).and_then(|mut client| client.send_raw(b"no HTTP\r\n\r\n")); // is said, in vain
    replica.kill();
    assert_eq!(client.ask("POST", "/api/chat", &[], &chat("m", false)).status, 503, "is said, too");
    let dropped = || {
        let page = Client::connect(&ops).expect("the ops port").ask("GET", "/metrics", &[], "").text();
        let line = page.lines().find_map(|line| line.strip_prefix("tutti_log_lines_dropped_total "));
        line.and_then(|count| count.parse::<f64>().ok())
    };
    eventually("both lines are missed", || (dropped()? >= 2.0).then_some(()));
    tutti.signal(rustix::process::Signal::TERM);
    assert_eq!(tutti.wait_ended(), Some(0));
}
