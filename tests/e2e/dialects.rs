//! Each API in its caller's own words, through the gateway.

use serde_json::{Value, json};
use tutti_simulator::{Config, Model};
use tutti_tests::{Answer, PATIENCE, Tutti, inference, pool, quick, reached, simulator, simulator_with};

/// A chat's body in either dialect.
fn chat(model: &str, stream: bool) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "stream": stream }).to_string()
}

fn ok(answer: Answer) -> Answer {
    assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
    answer
}

#[test]
fn each_api_answers_whole() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let long = |value: &Value| value.as_array().is_some_and(|vector| vector.len() > 1);
    let text = |value: &Value| value.as_str().is_some_and(|text| text.contains("simulated"));
    let prompt = json!({ "model": "m", "prompt": "hi", "stream": false }).to_string();
    let input = json!({ "model": "e", "input": ["a", "b"] }).to_string();

    let answer = ok(tutti.ask("POST", "/v1/chat/completions", &chat("m", false))).json();
    assert!(text(&answer["choices"][0]["message"]["content"]) && answer["usage"]["completion_tokens"].is_u64());
    let answer = ok(tutti.ask("POST", "/v1/completions", &prompt)).json();
    assert!(text(&answer["choices"][0]["text"]), "{answer}");
    let answer = ok(tutti.ask("POST", "/v1/embeddings", &input)).json();
    assert!(long(&answer["data"][0]["embedding"]) && long(&answer["data"][1]["embedding"]), "{answer}");
    let answer = ok(tutti.ask("POST", "/api/chat", &chat("m", false))).json();
    assert!(text(&answer["message"]["content"]) && answer["done"] == true, "{answer}");
    let answer = ok(tutti.ask("POST", "/api/generate", &prompt)).json();
    assert!(text(&answer["response"]) && answer["eval_count"].is_u64(), "{answer}");
    let answer = ok(tutti.ask("POST", "/api/embed", &input)).json();
    assert!(long(&answer["embeddings"][1]), "{answer}");
    let answer = ok(tutti.ask("POST", "/api/embeddings", r#"{"model":"e","prompt":"a"}"#)).json();
    assert!(long(&answer["embedding"]), "{answer}");
}

#[test]
fn streams_keep_their_dialect_and_end_as_it_wants() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let prompt = json!({ "model": "m", "prompt": "hi", "stream": true }).to_string();
    for (path, body) in [("/v1/chat/completions", chat("m", true)), ("/v1/completions", prompt.clone())] {
        let answer = ok(tutti.ask("POST", path, &body));
        assert_eq!(answer.header("content-type"), Some("text/event-stream"), "{path}");
        let lines = answer.lines();
        assert!(lines.len() > 3 && lines.last().unwrap() == "[DONE]", "{path}: {lines:?}");
        let first: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(first["model"], "m");
    }
    // Ollama streams unless it is told not to.
    let silent = chat("m", true).replace(",\"stream\":true", "");
    for (path, body) in [("/api/chat", silent), ("/api/generate", prompt)] {
        let answer = ok(tutti.ask("POST", path, &body));
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"), "{path}");
        let lines: Vec<Value> = answer.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.len() > 3 && lines.last().unwrap()["done"] == true, "{path}: {lines:?}");
        assert!(lines.iter().rev().skip(1).all(|line| line["done"] == false));
    }
}

#[test]
fn tokens_come_one_by_one_and_not_at_the_end() {
    let machine = tutti_simulator::engine::Machine {
        token_time: std::time::Duration::from_millis(5),
        ..tutti_simulator::engine::Machine::instant()
    };
    let replica = simulator_with(Config { machine, ..quick() });
    let tutti = Tutti::before(&[replica.url()]);
    let mut client = tutti.client();
    client.send("POST", "/api/chat", &[], &chat("m", true)).unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    let mut chunks = 0;
    while !client.chunk().unwrap().is_empty() {
        chunks += 1;
    }
    assert!(chunks >= 16, "16 tokens came in {chunks} chunks");
}

#[test]
fn the_model_is_the_headers_then_the_paths_then_the_bodys() {
    let replica =
        simulator_with(Config { models: ["a", "b", "c/d:e"].map(|name| Model::chat(name, 1 << 20)).into(), ..quick() });
    let tutti = Tutti::before(&[replica.url()]);
    let body =
        |field: &str| format!("{{{field}\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],\"stream\":false}}");
    let cases = [
        (vec![], "/api/chat", "\"model\":\"a\",", "a"),
        (vec![("x-tutti-model", "b")], "/api/chat", "\"model\":\"a\",", "b"),
        (vec![("X-Tutti-Model", "b")], "/models/a/api/chat", "", "b"),
        (vec![], "/models/c%2Fd%3Ae/v1/chat/completions", "\"model\":\"a\",", "c/d:e"),
        (vec![], "/models/a/api/chat", "", "a"),
        (vec![("x-tutti-model", "A:latest")], "/api/chat", "", "A:latest"),
    ];
    for (number, (headers, path, field, wanted)) in cases.into_iter().enumerate() {
        let answer = ok(tutti.client().ask("POST", path, &headers, &body(field)));
        assert_eq!(answer.json()["model"], wanted, "{path} {headers:?}");
        let seen: Value = serde_json::from_slice(&reached(&replica, number + 1)[number].body).unwrap();
        let canonical = |name: &str| name.to_lowercase().trim_end_matches(":latest").to_owned();
        assert_eq!(canonical(seen["model"].as_str().unwrap()), canonical(wanted), "what was found replaces the body's");
    }
}

#[test]
fn the_gateways_own_pages() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let tags = ok(tutti.ask("GET", "/api/tags", "")).json();
    let names: Vec<&str> = tags["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["e:latest", "m:latest"], "newest first, then by name");
    assert!(tags["models"][0]["digest"].as_str().is_some_and(|digest| digest.len() == 64));
    let models = ok(tutti.ask("GET", "/v1/models", "")).json();
    assert_eq!((models["object"].as_str(), models["data"].as_array().map(Vec::len)), (Some("list"), Some(2)));
    assert_eq!(ok(tutti.ask("GET", "/v1/models/m", "")).json()["id"], "m");
    assert!(ok(tutti.ask("GET", "/api/version", "")).text().contains("0.11.4"));
    assert_eq!(ok(tutti.ask("GET", "/", "")).text(), "Ollama is running");
    let mut client = tutti.client();
    client.send("HEAD", "/", &[], "").unwrap();
    let head = client.head().unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("17")));
    drop(client);
    assert_eq!(tutti.wait_logged("the last", |line| line["sent"] == 0)["outcome"], "ok", "an answer without a body");
    for path in ["/healthz", "/readyz"] {
        ok(tutti.ask("GET", path, ""));
        ok(tutti_tests::Client::connect(&tutti.ops()).unwrap().ask("GET", path, &[], ""));
    }
}

/// Path, body, status, `error.code`; the same fault has the same name in both dialects.
fn refused() -> Vec<(&'static str, String, u16, &'static str)> {
    let messages = r#""messages":[]"#;
    let bodies = [
        (r#"{"model":"m""#.to_owned(), 400, "invalid_body"),
        ("[1,2]".to_owned(), 400, "invalid_body"),
        ("".to_owned(), 400, "invalid_body"),
        ("\u{feff}{\"model\":\"m\"}".to_owned(), 400, "invalid_body"),
        (format!(r#"{{"model":"m",{messages}}} x"#), 400, "invalid_body"),
        (format!(r#"{{"model":"m","model":"n",{messages}}}"#), 400, "invalid_body"),
        (format!(r#"{{"model":"m","MODEL":"n",{messages}}}"#), 400, "invalid_body"),
        (format!(r#"{{"model":"m","\u0073tream":true,"stream":false,{messages}}}"#), 400, "invalid_body"),
        (format!(r#"{{"model":"m","stream":"yes",{messages}}}"#), 400, "invalid_body"),
        (format!(r#"{{"model":7,{messages}}}"#), 400, "invalid_body"),
        (format!(r#"{{"model":"m","x":{}{}}}"#, "[".repeat(500), "]".repeat(500)), 400, "invalid_body"),
        (format!(r#"{{"model":"m","max_tokens":1,"MAX_TOKENS":2,{messages}}}"#), 400, "invalid_body"),
        (format!("{{{messages}}}"), 400, "model_required"),
        (format!(r#"{{"model":"",{messages}}}"#), 400, "model_required"),
        (format!(r#"{{"model":"{}",{messages}}}"#, "x".repeat(300)), 400, "invalid_model_name"),
        (format!(r#"{{"model":"nope",{messages}}}"#), 404, "model_not_found"),
    ];
    let paths = ["/v1/chat/completions", "/api/chat"];
    let mut all: Vec<_> = paths
        .into_iter()
        .flat_map(|path| bodies.clone().map(|(body, status, code)| (path, body, status, code)))
        .collect();
    let bounds = format!(r#"{{"model":"m","max_completion_tokens":"many",{messages}}}"#);
    all.push(("/v1/chat/completions", bounds, 400, "invalid_parameter"));
    let hex = r#"{"model":"e","input":"hi","encoding_format":"hex"}"#.to_owned();
    all.push(("/v1/embeddings", hex, 400, "invalid_parameter"));
    for path in ["/api/pull", "/api/create", "/api/copy", "/api/push", "/api/delete", "/api/blobs/sha256:00"] {
        all.push((path, r#"{"model":"m"}"#.to_owned(), 403, "management_refused"));
    }
    all.push(("/v1/nowhere", "{}".to_owned(), 404, "not_found"));
    all.push(("/v1/models", "{}".to_owned(), 405, "method_not_allowed"));
    all
}

#[test]
fn what_is_refused_is_refused_by_name_and_reaches_no_replica() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let mut client = tutti.client(); // a refusal leaves the connection usable
    for (path, body, status, code) in refused() {
        let answer = client.ask("POST", path, &[], &body);
        let short: String = body.chars().take(60).collect();
        assert_eq!(answer.status, status, "{path} {short}: {}", answer.text());
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{path} {short}");
        let error = &answer.json()["error"];
        if path.starts_with("/v1/") {
            assert_eq!(error["code"], code, "{path} {short}: {error}");
            assert!(error["message"].is_string() && error["type"] == "invalid_request_error", "{error}");
        } else {
            assert!(error.is_string(), "{path} {short}: {error}");
        }
        assert!(answer.header("x-request-id").is_some());
    }
    assert_eq!(inference(&replica.seen()).len(), 0);
    let labels = tutti_tests::Client::connect(&tutti.ops()).unwrap().ask("GET", "/metrics", &[], "").text();
    assert!(!labels.contains("nope"), "an unknown name never becomes a label");
}

#[test]
fn a_strangers_host_is_refused_and_a_listed_one_is_not() {
    let replica = simulator();
    let config = format!("gateway: {{ allowedHosts: [gate.bank] }}\n{}", pool(&[replica.url()], "expose: all"));
    let tutti = Tutti::start(&config);
    for (host, status) in [("evil.example", 403), ("gate.bank", 200), ("gate.bank:80", 200), ("localhost", 200)] {
        assert_eq!(tutti.client().ask("GET", "/api/tags", &[("Host", host)], "").status, status, "{host}");
    }
}

#[test]
fn a_strangers_page_may_not_ask_and_a_local_one_may_read_the_answer() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let stranger = [("Origin", "https://evil.example"), ("Content-Type", "text/plain")];
    let answer = tutti.client().ask("POST", "/v1/chat/completions", &stranger, &chat("m", false));
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (403, Some("origin_not_allowed")));
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(inference(&replica.seen()).len(), 0);
    let local = ("Origin", "http://localhost:3000");
    let preflight = [local, ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "x-a")];
    let answer = tutti.client().ask("OPTIONS", "/api/chat", &preflight, "");
    assert_eq!((answer.status, answer.header("access-control-allow-headers")), (204, Some("x-a")));
    assert!(answer.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST")));
    for (path, status) in [("/api/chat", 200), ("/nowhere", 404)] {
        let answer = tutti.client().ask("POST", path, &[local], &chat("m", false));
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, Some(local.1)));
    }
}

#[test]
fn the_replica_sees_its_own_host_and_none_of_the_clients_secrets() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let sent = [
        ("Authorization", "Bearer top-secret"),
        ("Cookie", "top-secret"),
        ("Origin", "http://localhost"),
        ("x-tutti-priority", "bulk"),
        ("x-request-id", "abc-1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let answer = ok(tutti.client().ask("POST", "/api/chat", &sent, &chat("m", false)));
    assert_eq!(answer.header("x-request-id"), Some("abc-1"));
    let seen = &reached(&replica, 1)[0];
    let header =
        |name: &'static str| seen.header(name).map(|v| String::from_utf8_lossy(v).into_owned()).collect::<Vec<_>>();
    assert_eq!(header("host"), [replica.addr().to_string()]);
    assert_eq!(header("x-request-id"), ["abc-1"]);
    assert_eq!(header("traceparent").len(), 1);
    for name in ["authorization", "cookie", "origin", "x-tutti-priority"] {
        assert_eq!(header(name), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_request_leaves_one_line_and_one_count_and_nothing_of_what_was_said() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let body = chat("m", false).replace("hi", "my-account-number");
    ok(tutti.client().ask("POST", "/api/chat", &[("authorization", "Bearer top-secret")], &body));
    ok(tutti.ask("POST", "/v1/chat/completions", &chat("m", true)));
    tutti.ask("POST", "/v1/chat/completions", &chat("unknown-name", true));
    let line = tutti.wait_logged("the native one", |line| line["api"] == "/api/chat");
    assert_eq!((line["status"].as_u64(), line["outcome"].as_str()), (Some(200), Some("ok")));
    assert_eq!((line["model"].as_str(), line["pool"].as_str()), (Some("m:latest"), Some("p")));
    assert!(line["output_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{line}");
    let line = tutti.wait_logged("the refused one", |line| line["status"] == 404);
    assert_eq!(line["code"], "model_not_found");
    let streamed =
        tutti.wait_logged("the stream", |line| line["api"] == "/v1/chat/completions" && line["status"] == 200);
    assert!(streamed["ttft_ms"].as_f64() <= streamed["duration_ms"].as_f64());
    let all = format!("{:?}", tutti.logged());
    assert_eq!(tutti.logged().len(), 3, "one line a request: {all}");
    for secret in ["my-account-number", "top-secret", "simulated answer"] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
    assert_eq!(tutti.metric("tutti_requests_total", &["model=\"m:latest\""]), 2.0);
    assert_eq!(tutti.metric("tutti_requests_in_flight", &[]), 0.0);
}

#[test]
fn several_pools_and_endpoints() {
    let replicas = [simulator(), simulator()];
    let other = simulator_with(Config { models: vec![Model::chat("n", 1 << 20)], ..quick() });
    let urls = replicas.each_ref().map(tutti_simulator::Running::url);
    let second = pool(&[other.url()], "expose: all").replace("pools:\n", "").replace("name: p", "name: q");
    let tutti = Tutti::start(&format!("{}{second}", pool(&urls, "expose: all\n    slots: 1")));
    ok(tutti.ask("POST", "/api/chat", &chat("n", false)));
    assert_eq!(inference(&other.seen()).len(), 1);
    // While one replica is busy for good, the other gets the work.
    for replica in &replicas {
        replica.set_fault(Some((tutti_simulator::Fault::Silent, tutti_simulator::Scope::Inference)));
    }
    let mut holding = [tutti.client(), tutti.client()];
    for client in &mut holding {
        client.send("POST", "/api/chat", &[], &chat("m", false)).unwrap();
    }
    for replica in &replicas {
        reached(replica, 1);
    }
}

#[test]
fn bodies_may_come_in_any_way_http_allows() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let body = chat("m", false);
    let (host, length) = (tutti.listen(), body.len());
    let (left, right) = body.split_at(7);
    let head = format!("POST /api/chat HTTP/1.1\r\nHost: {host}\r\n");
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n7\r\n{left}\r\n{:x};ext=1\r\n{right}\r\n0\r\n\r\n",
        right.len()
    );
    let whole = format!("{head}Content-Length: {length}\r\n\r\n{body}");
    for bytes in [&chunked, &whole] {
        let mut client = tutti.client();
        for byte in bytes.as_bytes() {
            client.send_raw(&[*byte]).unwrap();
        }
        ok(client.answer().unwrap());
    }
    // Two at once on one connection are answered in turn.
    let mut client = tutti.client();
    client.send_raw(format!("{whole}{chunked}").as_bytes()).unwrap();
    ok(client.answer().unwrap());
    ok(client.answer().unwrap());
    // A client that waits for leave to send its body gets it.
    let mut client = tutti.client();
    client.send_raw(format!("{head}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(client.head().unwrap().status, 100);
    client.send_raw(body.as_bytes()).unwrap();
    ok(client.answer().unwrap());
    // The oldest clients close after each answer.
    let mut client = tutti.client();
    client.send_raw(format!("POST /api/chat HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes()).unwrap();
    ok(client.answer().unwrap());
    assert!(client.closed_within(PATIENCE));
    assert!(inference(&replica.seen()).iter().all(|seen| seen.body == body.as_bytes()), "not a byte was changed");
}

#[test]
fn limits_are_said() {
    let replica = simulator();
    let config = format!("gateway: {{ limits: {{ body: 4Ki }} }}\n{}", pool(&[replica.url()], "expose: all"));
    let tutti = Tutti::start(&config);
    let large = chat(&"m".repeat(5000), false);
    let answer = tutti.ask("POST", "/v1/chat/completions", &large);
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (413, Some("body_too_large")));
    // What is announced takes no memory: what arrives does.
    let mut slow = tutti.client();
    let head = format!("POST /api/chat HTTP/1.1\r\nHost: {}\r\nContent-Length: 4000\r\n\r\n{{", tutti.listen());
    slow.send_raw(head.as_bytes()).unwrap();
    tutti_tests::eventually("its first byte", || (tutti.metric("tutti_buffered_body_bytes", &[]) == 1.0).then_some(()));
    let gzip = [("Content-Encoding", "gzip")];
    let answer = tutti.client().ask("POST", "/v1/chat/completions", &gzip, &chat("m", false));
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (415, Some("unsupported_encoding")));
}
