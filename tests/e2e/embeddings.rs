//! Embeddings of several callers in one call, and arrays in several: before simulated replicas that fail in every way, and
//! before two real engines, of which one takes an array in one pass.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::time::Duration;

use serde_json::{Value, json};
use tutti_rig::{Llama, Ollama, OllamaOptions};
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Answer, Client, Fleet, Tutti, eventually, inference, pool, quick, reached, simulator_with};

/// A gateway before simulated replicas of an engine, of which it knows already what a single text takes.
struct World {
    replicas: Vec<Running>,
    tutti: Tutti,
}

/// Some servers read nothing else.
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// Single texts that the gateway has seen before anything is put together.
const KNOWN: usize = 3;

impl World {
    fn new(engine: &str, replicas: usize, config: Config) -> Self {
        let models = vec![Model::embedding("e", 1 << 20)];
        let replica = |_| simulator_with(Config { models: models.clone(), ..config.clone() });
        let replicas: Vec<Running> = (0..replicas).map(replica).collect();
        let urls: Vec<String> = replicas.iter().map(Running::url).collect();
        let tutti = Tutti::start(&pool(&urls, &format!("engine: {engine}\n    expose: all")));
        let world = Self { replicas, tutti };
        for number in 0..KNOWN {
            let answer = world.tutti.ask("POST", "/v1/embeddings", &openai(&format!("known {number}")));
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        world
    }

    fn replica(&self) -> &Running {
        &self.replicas[0]
    }

    fn set(&self, fault: Option<Fault>) {
        self.replicas.iter().for_each(|replica| replica.set_fault(fault.map(|fault| (fault, Scope::Inference))));
    }

    /// A call that stays under way until its client goes, and those who come meanwhile and wait for it.
    fn waiting(&self, requests: &[(&str, String)]) -> (Client, Vec<Client>) {
        let before = inference(&self.replica().seen()).len();
        self.set(Some(Fault::Silent));
        let held = self.tutti.begin("/v1/embeddings", &openai("held"));
        reached(self.replica(), before + 1);
        self.set(None);
        let mut clients = Vec::new();
        for (path, body) in requests {
            clients.push(self.tutti.begin(path, body));
            if requests.len() < 20 {
                self.wait(clients.len()); // so that they stand in this order
            }
        }
        self.wait(requests.len());
        (held, clients)
    }

    /// Waits until so many wait.
    fn wait(&self, count: usize) {
        eventually("those who came wait for the call", || {
            (self.tutti.metric("tutti_requests_queued", &[]) as usize == count).then_some(())
        });
    }

    /// The answers to requests that came while a call was under way.
    fn together(&self, requests: &[(&str, String)]) -> Vec<Answer> {
        let (held, clients) = self.waiting(requests);
        drop(held);
        clients.into_iter().map(|mut client| client.answer().unwrap()).collect()
    }

    /// The texts of each call that a replica has seen since the known ones.
    fn calls(&self) -> Vec<Value> {
        let bodies = self.replicas.iter().flat_map(|replica| inference(&replica.seen()));
        let bodies = bodies.map(|seen| serde_json::from_slice::<Value>(&seen.body).unwrap());
        bodies.filter(|body| !body["input"].to_string().contains("known")).collect()
    }

    /// What the replica itself says of a text.
    fn vector(&self, text: &str) -> Vec<f32> {
        let mut client = Client::connect(self.replica().url().trim_start_matches("http://")).unwrap();
        vectors(&client.ask("POST", "/v1/embeddings", &[], &openai(text))).remove(0)
    }
}

fn openai(text: &str) -> String {
    json!({ "model": "e", "input": text }).to_string()
}

/// The vectors of an answer of any of the three APIs, as numbers or in base64.
fn vectors(answer: &Answer) -> Vec<Vec<f32>> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    let rows = match (body.get("data"), body.get("embeddings")) {
        (Some(data), _) => data.as_array().unwrap().iter().map(|item| item["embedding"].clone()).collect(),
        (_, Some(rows)) => rows.as_array().unwrap().clone(),
        _ => vec![body["embedding"].clone()],
    };
    let numbers = |row: &Value| match row.as_str() {
        Some(text) => floats(text),
        None => row.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect(),
    };
    rows.iter().map(numbers).collect()
}

/// The little-endian 32-bit floats of a base64 text.
fn floats(text: &str) -> Vec<f32> {
    let value = |char: u8| match char {
        b'A'..=b'Z' => char - b'A',
        b'a'..=b'z' => char - b'a' + 26,
        b'0'..=b'9' => char - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let bits = text.bytes().filter(|char| *char != b'=').map(value);
    let (mut bytes, mut held, mut count) = (Vec::new(), 0u32, 0);
    for six in bits {
        (held, count) = (held << 6 | u32::from(six), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((held >> count) as u8);
        }
    }
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

/// As near as floats are that were added in another order.
fn near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

#[test]
fn each_caller_has_its_own_vectors_in_its_own_format() {
    let world = World::new("openai", 1, quick());
    let requests = [
        ("/v1/embeddings", openai("one")),
        ("/v1/embeddings", json!({ "model": "e", "input": "two", "encoding_format": "base64" }).to_string()),
        ("/api/embed", json!({ "model": "e", "input": "three" }).to_string()),
        ("/api/embeddings", json!({ "model": "e", "prompt": "four" }).to_string()),
        ("/v1/embeddings", json!({ "input": ["five", "six\u{e4}\"\n"], "model": "e" }).to_string()),
        ("/api/embed", json!({ "model": "e", "input": ["seven"] }).to_string()),
        ("/v1/embeddings", openai("eight")),
    ];
    let texts: [&[&str]; 7] =
        [&["one"], &["two"], &["three"], &["four"], &["five", "six\u{e4}\"\n"], &["seven"], &["eight"]];
    let answers = world.together(&requests);
    assert!(world.calls().len() < 1 + requests.len(), "nobody went with others: {:?}", world.calls());
    let mut shared = 0;
    for (answer, texts) in answers.iter().zip(texts) {
        let expected: Vec<Vec<f32>> = texts.iter().map(|text| world.vector(text)).collect();
        assert_eq!(vectors(answer), expected, "{texts:?}: {}", answer.text());
        shared += usize::from(answer.header("x-tutti-batch").is_some_and(|said| said.starts_with("callers=")));
        if answer.json().get("data").is_some() {
            assert_eq!(answer.json()["model"], "e");
            assert!(answer.json()["usage"]["prompt_tokens"].as_u64() > Some(0), "{}", answer.text());
        }
    }
    assert!(answers[1].json()["data"][0]["embedding"].is_string(), "{}", answers[1].text());
    assert!(answers[0].json()["data"][0]["embedding"].is_array(), "{}", answers[0].text());
    assert!(shared >= 2, "{shared}");
    assert_eq!(world.tutti.metric("tutti_batch_shared_requests_total", &[]) as usize, shared);
    // Each is told of by itself.
    let id = answers[0].header("x-request-id").unwrap().to_owned();
    let line = world.tutti.wait_logged("the first caller's line", |line| line["request_id"] == id.as_str());
    assert!(line["callers"].as_u64() > Some(1) && line["input_tokens"].as_u64() > Some(0), "{line}");
    assert_eq!(line["outcome"], "ok", "{line}");
}

#[test]
fn what_has_other_options_goes_apart() {
    let world = World::new("ollama", 1, quick());
    let fields = [
        json!({}),
        json!({ "truncate": false }),
        json!({ "keep_alive": "7m" }),
        json!({ "options": { "num_ctx": 1024 } }),
        json!({ "options": { "num_ctx": 2048 } }),
    ];
    let single = |kind: usize| {
        let mut body = json!({ "model": "e", "input": format!("kind {kind}") });
        body.as_object_mut().unwrap().extend(fields[kind].as_object().unwrap().clone());
        body.to_string()
    };
    // Those of each kind wait for the first of them.
    world.set(Some(Fault::Silent));
    let first: Vec<Client> = (0..fields.len()).map(|kind| world.tutti.begin("/api/embed", &single(kind))).collect();
    reached(world.replica(), KNOWN + fields.len());
    world.set(None);
    let more = (0..4 * fields.len()).map(|at| world.tutti.begin("/api/embed", &single(at % fields.len())));
    let more: Vec<Client> = more.collect();
    // What one text takes is not known by this API's name, but by the model's.
    world.wait(more.len());
    drop(first);
    more.into_iter().for_each(|mut client| assert_eq!(client.answer().unwrap().status, 200));
    let calls = world.calls();
    assert!(calls.len() < fields.len() + 4 * fields.len(), "nobody went with others: {calls:?}");
    for mut call in calls {
        let said = call["input"].to_string();
        let kinds: Vec<usize> = (0..fields.len()).filter(|kind| said.contains(&format!("kind {kind}"))).collect();
        assert_eq!(kinds.len(), 1, "{said}");
        call.as_object_mut().unwrap().retain(|key, _| key != "input" && key != "model");
        assert_eq!(call, fields[kinds[0]], "{said}");
    }
}

#[test]
fn a_bad_input_fails_alone() {
    let world = World::new("openai", 1, Config { too_long: Some("endless".to_owned()), ..quick() });
    let texts = ["a", "b", "endless", "c", "d", "e", "f"];
    let answers = world.together(&texts.map(|text| ("/v1/embeddings", openai(text))));
    for (answer, text) in answers.iter().zip(texts) {
        match text {
            "endless" => {
                assert_eq!(answer.status, 400, "{}", answer.text());
                assert!(answer.text().contains("input length exceeds maximum context length"), "{}", answer.text());
            }
            text => assert_eq!(vectors(answer), [world.vector(text)]),
        }
    }
    assert!(world.tutti.metric("tutti_batch_halved_total", &[]) >= 1.0);
    assert_eq!(world.tutti.metric("tutti_replica_ejections_total", &[]), 0.0);
}

#[test]
fn an_engine_that_takes_few_texts_is_sent_few() {
    let world = World::new("openai", 1, Config { inputs_max: 2, ..quick() });
    for round in 0..4 {
        let texts: Vec<String> = (0..9).map(|number| format!("round {round} number {number}")).collect();
        let requests: Vec<_> = texts.iter().map(|text| ("/v1/embeddings", openai(text))).collect();
        for (answer, text) in world.together(&requests).iter().zip(&texts) {
            assert_eq!(vectors(answer), [world.vector(text)]);
        }
    }
    // It has been found out how many it takes: one caller's array is cut so.
    let own = json!({ "model": "e", "input": ["x", "y", "z"] }).to_string();
    let expected = ["x", "y", "z"].map(|text| world.vector(text));
    assert_eq!(vectors(&world.tutti.ask("POST", "/v1/embeddings", &own)), expected);
}

#[test]
fn vectors_out_of_order_are_put_in_order_and_missing_ones_are_missed() {
    let world = World::new("openai", 1, quick());
    let array = json!({ "model": "e", "input": ["x", "y", "z"] }).to_string();
    let expected: Vec<Vec<f32>> = ["x", "y", "z"].iter().map(|text| world.vector(text)).collect();
    world.set(Some(Fault::TurnedVectors));
    assert_eq!(vectors(&world.tutti.ask("POST", "/v1/embeddings", &array)), expected);
    for fault in [Fault::TooFewVectors, Fault::RepeatedIndex] {
        world.set(Some(fault));
        let answer = world.tutti.ask("POST", "/v1/embeddings", &array);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &json!("upstream_error")), "{fault:?}");
        world.set(None);
        // What is held against the replica for it passes.
        eventually("the replica is asked again", || {
            (world.tutti.ask("POST", "/v1/embeddings", &array).status == 200).then_some(())
        });
    }
    for (fault, status) in [(Fault::TurnedVectors, 200), (Fault::RepeatedIndex, 200), (Fault::TooFewVectors, 502)] {
        let texts = ["a", "b", "c", "d"];
        let (held, clients) = world.waiting(&texts.map(|text| ("/v1/embeddings", openai(text))));
        world.set(Some(fault));
        drop(held);
        let answers: Vec<Answer> = clients.into_iter().map(|mut client| client.answer().unwrap()).collect();
        world.set(None);
        for (answer, text) in answers.iter().zip(texts) {
            assert_eq!(answer.status, status, "{fault:?} {}", answer.text());
            if status == 200 {
                assert_eq!(vectors(answer), [world.vector(text)], "{fault:?}");
            }
        }
    }
}

#[test]
fn a_replica_that_dies_with_several_callers_is_told_to_each_and_nothing_is_sent_twice() {
    let mut world = World::new("openai", 1, quick());
    let texts = ["a", "b"];
    let (held, clients) = world.waiting(&texts.map(|text| ("/v1/embeddings", openai(text))));
    world.set(Some(Fault::Silent));
    drop(held);
    let reached = reached(world.replica(), KNOWN + 2);
    assert!(reached.iter().any(|seen| String::from_utf8_lossy(&seen.body).contains(r#"["a","b"]"#)), "{reached:?}");
    world.replicas.remove(0).kill();
    for mut client in clients {
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &json!("upstream_error")));
    }
}

#[test]
fn who_leaves_is_not_called_and_the_others_are() {
    let world = World::new("openai", 1, quick());
    let (held, mut clients) = world.waiting(&["a", "b", "c"].map(|text| ("/v1/embeddings", openai(text))));
    drop(clients.remove(1));
    world.wait(2);
    world.set(Some(Fault::SlowFirstByte(Duration::from_millis(300))));
    drop(held);
    eventually("the others' call", || {
        world.calls().iter().any(|call| call["input"] == json!(["a", "c"])).then_some(())
    });
    // One of them leaves while it is under way: it goes on for the other.
    drop(clients.remove(0));
    assert_eq!(clients.remove(0).answer().unwrap().status, 200);
    assert!(!world.calls().iter().any(|call| call["input"].to_string().contains("\"b\"")), "{:?}", world.calls());
    // Where nobody is left it ends.
    let (held, clients) = world.waiting(&["d", "e"].map(|text| ("/v1/embeddings", openai(text))));
    world.set(Some(Fault::Silent));
    drop(held);
    eventually("their call", || world.calls().iter().any(|call| call["input"] == json!(["d", "e"])).then_some(()));
    drop(clients);
    eventually("its end", || (world.replica().in_flight() == 0).then_some(()));
    world.set(None);
    assert_eq!(world.tutti.ask("POST", "/v1/embeddings", &openai("f")).status, 200);
}

#[test]
fn ten_thousand_callers_who_leave_at_once_leave_nothing_behind() {
    let world = World::new("openai", 1, quick());
    for _ in 0..10 {
        let (held, clients) = world.waiting(&vec![("/v1/embeddings", openai("x")); 1_000]);
        drop(clients);
        world.wait(0);
        drop(held);
    }
    eventually("an idle replica", || (world.replica().in_flight() == 0).then_some(()));
    assert_eq!(world.calls().len(), 10, "only what was held");
    assert_eq!(world.tutti.metric("tutti_buffered_body_bytes", &[]), 0.0);
}

#[test]
fn as_many_wait_as_may() {
    let replica = simulator_with(Config { models: vec![Model::embedding("e", 1 << 20)], ..quick() });
    let fields = "engine: openai\n    expose: all\n    queue: { size: 2, wait: 300ms }";
    let tutti = Tutti::start(&pool(&[replica.url()], fields));
    let world = World { replicas: vec![replica], tutti };
    (0..KNOWN).for_each(|_| assert_eq!(world.tutti.ask("POST", "/v1/embeddings", &openai("known")).status, 200));
    let (_held, clients) = world.waiting(&["a", "b"].map(|text| ("/v1/embeddings", openai(text))));
    let answer = world.tutti.ask("POST", "/v1/embeddings", &openai("c"));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (429, &json!("queue_full")));
    for mut client in clients {
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("queue_timeout")));
    }
}

#[test]
fn a_large_array_is_cut_and_spread_and_joined_in_order() {
    let world = World::new("ollama", 2, Config { too_long: Some("endless".to_owned()), ..quick() });
    let texts: Vec<String> = (0..256).map(|number| format!("text {number}")).collect();
    let whole: Vec<Vec<f32>> = {
        let mut client = Client::connect(world.replica().url().trim_start_matches("http://")).unwrap();
        vectors(&client.ask("POST", "/api/embed", &[], &json!({ "model": "e", "input": texts }).to_string()))
    };
    let apart = |world: &World| -> Vec<usize> {
        let of = |replica: &Running| {
            inference(&replica.seen())
                .iter()
                .filter(|seen| String::from_utf8_lossy(&seen.body).contains("text "))
                .count()
        };
        world.replicas.iter().map(of).collect()
    };
    let before = apart(&world);
    for path in ["/api/embed", "/v1/embeddings"] {
        let answer = world.tutti.ask("POST", path, &json!({ "model": "e", "input": texts }).to_string());
        assert_eq!(vectors(&answer), whole, "{path}");
        assert!(answer.header("x-tutti-batch").is_some_and(|said| said.starts_with("calls=")), "{path}");
    }
    let after = apart(&world);
    assert!(after.iter().zip(&before).all(|(after, before)| after > before), "{before:?} {after:?}");
    let pieces = world.tutti.metric("tutti_batch_pieces_total", &[]) as usize;
    assert_eq!(pieces, after.iter().sum::<usize>() - before.iter().sum::<usize>());
    // One input that is refused is the answer, as it is where the array is whole.
    let mut bad = texts.clone();
    bad[200] = "endless".to_owned();
    let answer = world.tutti.ask("POST", "/api/embed", &json!({ "model": "e", "input": bad }).to_string());
    assert_eq!((answer.status, answer.text().contains("input length exceeds")), (400, true), "{}", answer.text());
    eventually("the other pieces end", || world.replicas.iter().all(|of| of.in_flight() == 0).then_some(()));
}

#[test]
fn a_replica_that_cannot_be_reached_has_its_pieces_done_by_the_other() {
    // Gone before anybody has a connection to it.
    let models = vec![Model::embedding("e", 1 << 20)];
    let mut replicas = vec![(); 2].into_iter().map(|()| simulator_with(Config { models: models.clone(), ..quick() }));
    let (replica, gone) = (replicas.next().unwrap(), replicas.next().unwrap());
    let urls = [replica.url(), gone.url()];
    gone.kill();
    let fields = "base: e\n    expose: named\nmodels:\n  - { name: e, revisions: [{ name: v, pool: p, upstream: e }] }";
    let world = World { replicas: vec![replica], tutti: Tutti::start(&pool(&urls, fields)) };
    let texts: Vec<String> = (0..256).map(|number| format!("text {number}")).collect();
    let answer = world.tutti.ask("POST", "/api/embed", &json!({ "model": "e", "input": texts }).to_string());
    let rows = vectors(&answer);
    assert_eq!(rows.len(), 256);
    assert_eq!((&rows[0], &rows[255]), (&world.vector("text 0"), &world.vector("text 255")));
}

#[test]
fn pieces_are_handed_to_the_gateway_that_schedules_the_pool() {
    let models = vec![Model::embedding("e", 1 << 20)];
    let replicas = [(); 2].map(|()| simulator_with(Config { models: models.clone(), ..quick() }));
    let fleet = Fleet::new(2);
    let gateways = fleet.start(2, "", &pool(&replicas.each_ref().map(Running::url), "expose: all"));
    let owner = Fleet::agree(&gateways.iter().collect::<Vec<_>>());
    let texts: Vec<String> = (0..100).map(|number| format!("text {number}")).collect();
    let body = json!({ "model": "e", "input": texts }).to_string();
    let answers = [&gateways[0], &gateways[1]].map(|tutti| tutti.ask("POST", "/api/embed", &body));
    assert_eq!(vectors(&answers[0]), vectors(&answers[1]));
    for answer in &answers {
        assert_eq!(vectors(answer).len(), 100);
        assert!(answer.header("x-tutti-batch").is_some_and(|said| said.starts_with("calls=")));
        assert!(answer.header("x-tutti-replica").is_some());
    }
    let forwarded = gateways[1 - owner].metric("tutti_forwarded_requests_total", &["out", "dispatched"]);
    assert_eq!(forwarded, gateways[1 - owner].metric("tutti_batch_pieces_total", &[]));
    assert!(forwarded > 1.0, "{forwarded}");
}

/// What threads are told who ask for one text after the other at the same time.
fn crowd(tutti: &Tutti, path: &str, clients: usize, rounds: usize) -> Vec<(String, Vec<f32>)> {
    std::thread::scope(|scope| {
        let ask = |client: usize| {
            let mut connection = tutti.client();
            let one = |round: usize| {
                let text = format!("client {client} in round {round}");
                let body = json!({ "model": "tutti-embed", "input": text }).to_string();
                (text, vectors(&connection.ask("POST", path, &[], &body)).remove(0))
            };
            (0..rounds).map(one).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..clients).map(|client| scope.spawn(move || ask(client))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn on_a_real_engine_that_batches_callers_go_together() {
    let llama = Llama::start().unwrap();
    let tutti = Tutti::start(&pool(&[llama.url()], "engine: openai\n    expose: all"));
    let told = eventually("callers that went together", || {
        let told = crowd(&tutti, "/v1/embeddings", 16, 10);
        (tutti.metric("tutti_batch_shared_requests_total", &[]) > 0.0).then_some(told)
    });
    let mut direct = Client::connect(llama.url().trim_start_matches("http://")).unwrap();
    for (text, vector) in told {
        let body = json!({ "model": "tutti-embed", "input": text }).to_string();
        let own = vectors(&direct.ask("POST", "/v1/embeddings", &JSON, &body)).remove(0);
        assert!(near(&own, &vector), "{text}");
    }
    let array: Vec<String> = (0..300).map(|number| format!("text {number}")).collect();
    let answer = tutti.ask("POST", "/api/embed", &json!({ "model": "tutti-embed", "input": array }).to_string());
    let one = json!({ "model": "tutti-embed", "input": "text 299" }).to_string();
    let own = vectors(&direct.ask("POST", "/v1/embeddings", &JSON, &one)).remove(0);
    assert!(near(&own, &vectors(&answer)[299]));
}

#[test]
fn on_a_real_ollama_arrays_are_spread_and_a_long_input_fails_alone() {
    let ollamas = [(); 2].map(|()| Ollama::start(&OllamaOptions::default()).unwrap());
    let urls = ollamas.each_ref().map(Ollama::url);
    let tutti = Tutti::start(&pool(&urls, "expose: all"));
    let texts: Vec<String> = (0..100).map(|number| format!("text {number}")).collect();
    let body = json!({ "model": "tutti-embed", "input": texts });
    let whole = ollamas[0].post("/api/embed", &body).unwrap();
    for path in ["/api/embed", "/v1/embeddings"] {
        let answer = tutti.ask("POST", path, &body.to_string());
        assert!(answer.header("x-tutti-batch").is_some(), "{path}");
        for (at, row) in vectors(&answer).iter().enumerate() {
            let own = whole["embeddings"][at].as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32);
            assert!(near(row, &own.collect::<Vec<_>>()), "{path} {at}");
        }
    }
    let told = crowd(&tutti, "/api/embed", 8, 20);
    for (text, vector) in told.iter().step_by(7) {
        let own = ollamas[0].post("/api/embed", &json!({ "model": "tutti-embed", "input": text })).unwrap();
        let own = own["embeddings"][0].as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32);
        assert!(near(vector, &own.collect::<Vec<_>>()), "{text}");
    }
    std::thread::scope(|scope| {
        for client in 0..12 {
            let tutti = &tutti;
            scope.spawn(move || {
                let text = if client == 7 { "long ".repeat(4_000) } else { format!("short {client}") };
                let body = json!({ "model": "tutti-embed", "input": text, "truncate": false });
                let answer = tutti.ask("POST", "/api/embed", &body.to_string());
                assert_eq!(answer.status == 200, client != 7, "{client}: {} {}", answer.status, answer.text());
            });
        }
    });
}
