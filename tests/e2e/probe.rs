//! The gateway's own request for one token of a replica that has been silent.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Model, Running, Scope, Seen};
use tutti_tests::{Client, Tutti, eventually, inference, pool, quick, simulator, simulator_with};

/// Fields of a pool that probes soon.
const SOON: &str = "expose: all\n    health: { probe: { interval: 200ms, timeout: 200ms } }";

fn chat(options: Value) -> String {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    json!({ "model": "m", "messages": messages, "options": options }).to_string()
}

fn body(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).unwrap_or_default()
}

/// What it was asked beside the clients' chats.
fn probes(replica: &Running) -> Vec<Value> {
    inference(&replica.seen()).iter().filter(|seen| seen.path != "/api/chat").map(body).collect()
}

fn chats(replica: &Running) -> usize {
    inference(&replica.seen()).iter().filter(|seen| seen.path == "/api/chat").count()
}

fn outcomes(tutti: &Tutti, outcome: &str) -> f64 {
    tutti.metric("tutti_probes_total", &[&format!("outcome=\"{outcome}\"")])
}

/// Two replicas with the model in memory, the first of which hangs, with a request that it never answers; its lists are
/// as green as ever.
fn hangs(fields: &str, options: &Value) -> ([Running; 2], Tutti, Client) {
    let replicas = [simulator(), simulator()];
    let tutti = Tutti::start(&pool(&replicas.each_ref().map(Running::url), fields));
    for _ in 0..4 {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(options.clone())).status, 200);
    }
    replicas[0].set_fault(Some((Fault::Silent, Scope::Inference)));
    let hangs = eventually("a request at the one that hangs", || {
        let client = tutti.begin("/api/chat", &chat(options.clone()));
        replicas[0].wait(Duration::from_millis(500), |_| (replicas[0].in_flight() > 0).then_some(())).map(|()| client)
    });
    (replicas, tutti, hangs)
}

#[test]
fn a_replica_that_hangs_with_green_lists_is_found_and_left_until_it_generates_again() {
    let ([stuck, good], tutti, client) = hangs(SOON, &json!({}));
    eventually("it is ejected", || {
        let page = tutti.command(&["status"]).stdout;
        page.contains("it gives no token when it is asked for one").then_some(())
    });
    let (before, asked) = (chats(&stuck), chats(&good));
    for _ in 0..6 {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(json!({}))).status, 200);
    }
    assert_eq!((chats(&stuck), chats(&good)), (before, asked + 6));
    assert!(outcomes(&tutti, "silent") >= 1.0);
    let probe = &probes(&stuck)[0];
    assert_eq!((&probe["model"], &probe["options"]["num_predict"]), (&json!("m:latest"), &json!(1)), "{probe}");
    assert_eq!(probe["keep_alive"], Value::Null, "how long the model stays is not the gateway's to say");
    assert_eq!(probes(&good).len(), 0, "one that answers is not asked");
    assert_eq!(tutti.metric("tutti_ejections_total", &["cause=\"probe\""]), 1.0);

    assert!(stuck.in_flight() >= 1, "the request that hangs is not the gateway's to end");
    drop(client);
    stuck.set_fault(None);
    eventually("a token", || (outcomes(&tutti, "answered") >= 1.0).then_some(()));
    eventually("work for the one that generates again", || {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(json!({}))).status, 200);
        (chats(&stuck) > before).then_some(())
    });
}

#[test]
fn a_probe_asks_for_what_is_loaded_as_it_was_loaded() {
    let ([stuck, _good], tutti, _client) = hangs(SOON, &json!({ "num_ctx": 8192 }));
    eventually("a probe", || (outcomes(&tutti, "silent") >= 1.0).then_some(()));
    assert_eq!(probes(&stuck)[0]["options"]["num_ctx"], 8192);

    let ([stuck, _good], tutti, _client) = hangs(SOON, &json!({ "num_thread": 3 }));
    eventually("a probe that is left out", || (outcomes(&tutti, "skipped") >= 2.0).then_some(()));
    assert_eq!(probes(&stuck).len(), 0, "nobody can tell how it was loaded");
}

#[test]
fn nothing_is_loaded_for_a_probe() {
    let replicas = [simulator(), simulator()];
    replicas.iter().for_each(|replica| replica.set_fault(Some((Fault::Silent, Scope::Inference))));
    let tutti = Tutti::start(&pool(&replicas.each_ref().map(Running::url), SOON));
    let _clients = [(); 2].map(|()| tutti.begin("/api/chat", &chat(json!({}))));
    eventually("probes that are left out", || (outcomes(&tutti, "skipped") >= 4.0).then_some(()));
    assert_eq!(replicas.each_ref().map(|replica| probes(replica).len()), [0, 0]);
}

#[test]
fn a_probe_takes_a_slot_or_is_left_out() {
    let ([stuck, _good], tutti, _client) = hangs(&format!("{SOON}\n    slots: 1"), &json!({}));
    eventually("probes that are left out", || (outcomes(&tutti, "skipped") >= 2.0).then_some(()));
    assert_eq!(probes(&stuck).len(), 0);

    // While one is out it holds its slot, and there is one at a time.
    let fields = "expose: all\n    slots: 2\n    health: { probe: { interval: 100ms, timeout: 1h } }";
    let ([stuck, _good], tutti, _client) = hangs(fields, &json!({}));
    eventually("a probe", || (probes(&stuck).len() == 1).then_some(()));
    assert_eq!(tutti.metric("tutti_requests_in_flight", &[&stuck.url()]), 2.0);
    assert_eq!(probes(&stuck).len(), 1);
}

#[test]
fn who_writes_tokens_slowly_and_who_is_alone_is_not_asked() {
    let machine = Machine { token_time: Duration::from_millis(20), ..Machine::instant() };
    let slow = simulator_with(Config { machine, answer_tokens: 1 << 20, ..quick() });
    let (other, lone) = (simulator(), simulator_with(Config::quick(Model::chat("alone", 1 << 20))));
    let silent = simulator();
    let health = "health: { probe: { interval: 200ms, timeout: 200ms } }";
    let endpoints =
        |urls: &[String]| urls.iter().map(|url| format!("{{ url: \"{url}\" }}")).collect::<Vec<_>>().join(", ");
    let tutti = Tutti::start(&format!(
        "pools:\n  - {{ name: a, endpoints: [{}], expose: all, {health} }}\n  - {{ name: b, endpoints: [{}], expose: all, {health} }}\n",
        endpoints(&[slow.url(), other.url(), silent.url()]),
        endpoints(&[lone.url()]),
    ));
    let alone = chat(json!({})).replace("\"m\"", "\"alone\"");
    assert_eq!(tutti.ask("POST", "/api/chat", &alone).status, 200);
    for _ in 0..6 {
        tutti.begin("/api/chat", &chat(json!({}))).head().unwrap();
    }
    lone.set_fault(Some((Fault::Silent, Scope::Inference)));
    silent.set_fault(Some((Fault::Silent, Scope::Inference)));
    let _hangs = tutti.begin("/api/chat", &alone);
    let mut streams = Vec::new();
    eventually("requests at the slow and at the silent one", || {
        streams.push(tutti.begin("/api/chat", &chat(json!({}))));
        slow.wait(Duration::from_millis(100), |_| (slow.in_flight() > 0 && silent.in_flight() > 0).then_some(()))
    });
    eventually("several probes of the silent one", || (outcomes(&tutti, "silent") >= 3.0).then_some(()));
    assert_eq!([&slow, &lone].map(|replica| probes(replica).len()), [0, 0]);
}

/// A server of OpenAI's API by hand that embeds, and has no other API; what holds `hang` it never answers.
fn embeds() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("{error}"));
    let url = listener.local_addr().map(|address| format!("http://{address}")).unwrap_or_default();
    let serve = |mut stream: TcpStream| {
        let (mut bytes, mut asked) = ([0; 65536], String::new());
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            asked.push_str(&String::from_utf8_lossy(&bytes[..read]));
            if !asked.ends_with(if asked.starts_with("POST") { "}" } else { "\r\n\r\n" }) {
                continue; // the rest comes
            }
            let asked = std::mem::take(&mut asked);
            let (status, body) = match asked.split_whitespace().nth(1).unwrap_or_default() {
                "/v1/models" => ("200 OK", r#"{"data":[{"id":"m"}]}"#),
                "/v1/embeddings" if asked.contains("hang") => continue,
                "/v1/embeddings" => ("200 OK", r#"{"data":[{"embedding":[1.0]}]}"#),
                _ => ("404 Not Found", r#"{"detail":"Not Found"}"#),
            };
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    };
    std::thread::spawn(move || {
        listener.incoming().map_while(Result::ok).for_each(|stream| drop(std::thread::spawn(move || serve(stream))));
    });
    url
}

#[test]
fn a_server_that_embeds_and_has_no_other_api_is_probed_by_that() {
    let tutti = Tutti::start(&pool(&[embeds(), embeds()], &format!("engine: openai\n    {SOON}")));
    let ask = |input: &str| json!({ "model": "m", "input": input }).to_string();
    for _ in 0..4 {
        assert_eq!(tutti.ask("POST", "/v1/embeddings", &ask("hi")).status, 200);
    }
    let _hangs = tutti.begin("/v1/embeddings", &ask("hang"));
    eventually("probes", || (outcomes(&tutti, "answered") + outcomes(&tutti, "failed") >= 3.0).then_some(()));
    assert_eq!(outcomes(&tutti, "failed"), 0.0);
}

/// The process in which an Ollama computes.
fn runner(ollama: &Ollama) -> Option<Pid> {
    let store = ollama.store().display().to_string();
    let is_runner = |line: &[u8]| {
        let line = String::from_utf8_lossy(line).replace('\0', " ");
        line.contains(" runner ") && line.contains(&store)
    };
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut processes =
        processes.filter(|pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_runner(&line)));
    processes.next().and_then(Pid::from_raw)
}

#[test]
fn a_real_ollama_whose_runner_hangs_is_found_though_its_lists_are_green() {
    let replicas = [(); 2].map(|()| Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama"));
    let fields = "expose: all\n    health: { probe: { interval: 1s, timeout: 1s } }";
    let tutti = Tutti::start(&pool(&replicas.each_ref().map(Ollama::url), fields));
    let chat = chat(json!({})).replace("\"m\"", "\"risk-v1\"");
    // On either of them: adapters share their base's runner.
    let (runner, hangs) = eventually("the model in memory", || {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat).status, 200);
        replicas.iter().find_map(|replica| Some((runner(replica)?, replica)))
    });
    rustix::process::kill_process(runner, Signal::STOP).unwrap();
    let stuck = || tutti.metric("tutti_requests_in_flight", &[&hangs.url()]) >= 1.0;
    let _hangs = eventually("a request at the one that hangs", || {
        let client = tutti.begin("/api/chat", &chat);
        let over = || tutti.metric("tutti_requests_in_flight", &[]) == 0.0;
        eventually("it hangs, or is over", || (stuck() || over()).then_some(()));
        stuck().then_some(client)
    });
    eventually("it is ejected", || (tutti.metric("tutti_ejections_total", &["cause=\"probe\""]) == 1.0).then_some(()));
    for path in ["/api/version", "/api/tags", "/api/ps"] {
        assert!(hangs.get(path).is_ok(), "{path}");
    }
    assert!(hangs.get("/api/ps").unwrap().to_string().contains("risk-v1"));
    for _ in 0..6 {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat).status, 200);
    }
    rustix::process::kill_process(runner, Signal::CONT).unwrap();
    eventually("it is trusted again", || {
        let page = tutti.command(&["status"]).stdout;
        (!page.contains("EJECTED")).then_some(())
    });
    assert_eq!(tutti.ask("POST", "/api/chat", &chat).status, 200);
}
