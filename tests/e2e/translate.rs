//! Clients of one API on replicas of the other: what they say arrives, what comes back is in their words, and what goes
//! wrong goes wrong in their words too.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tutti_simulator::{Config, Fault, Running, Scope};
use tutti_tests::{
    Answer, Client, PATIENCE, Tutti, eventually, inference, pool, quick, reached, simulator, simulator_with,
};

/// A gateway before replicas of which it knows only that they speak OpenAI's API.
fn openai(replicas: &[&Running], fields: &str) -> Tutti {
    let urls: Vec<String> = replicas.iter().map(|replica| replica.url()).collect();
    Tutti::start(&pool(&urls, &format!("engine: openai\n    expose: all\n    {fields}")))
}

fn chat(stream: bool) -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": stream })
}

fn prompt(stream: bool) -> Value {
    json!({ "model": "m", "prompt": "hi", "stream": stream })
}

fn ok(answer: Answer) -> Answer {
    assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
    answer
}

fn lines(answer: &Answer) -> Vec<Value> {
    let line = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    answer.lines().iter().map(line).collect()
}

/// The text of a native answer, whole or in a stream.
fn said(answer: &Answer) -> String {
    let text = |line: &Value| {
        let text = line["message"]["content"].as_str().or(line["response"].as_str());
        text.unwrap_or_else(|| panic!("{line} says nothing")).to_owned()
    };
    lines(answer).iter().map(text).collect()
}

#[test]
fn ollamas_clients_get_what_an_ollama_answers() {
    let replica = simulator();
    let tutti = openai(&[&replica], "");
    let mut direct = Client::connect(&replica.addr().to_string()).unwrap();
    for (path, bodies) in [("/api/chat", [chat(false), chat(true)]), ("/api/generate", [prompt(false), prompt(true)])] {
        for body in bodies.map(|body| body.to_string()) {
            let through = ok(tutti.ask("POST", path, &body));
            let native = ok(direct.ask("POST", path, &[], &body));
            assert_eq!(through.header("content-type"), native.header("content-type"), "{path}");
            assert_eq!(said(&through), said(&native), "{path}");
            let (through, native) = (lines(&through).pop().unwrap(), lines(&native).pop().unwrap());
            for field in ["model", "done", "done_reason", "eval_count", "prompt_eval_count"] {
                assert_eq!(through[field], native[field], "{path} {field}: {through}");
            }
            assert!(through["total_duration"].as_u64().is_some_and(|nanoseconds| nanoseconds > 0), "{through}");
            assert!(through["created_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{through}");
        }
    }
    for (path, body) in [
        ("/api/embed", json!({ "model": "e", "input": ["a", "b"] })),
        ("/api/embed", json!({ "model": "e", "input": "a", "truncate": false })),
        ("/api/embeddings", json!({ "model": "e", "prompt": "a" })),
    ] {
        let through = ok(tutti.ask("POST", path, &body.to_string())).json();
        let native = ok(direct.ask("POST", path, &[], &body.to_string())).json();
        for field in ["model", "prompt_eval_count"] {
            assert_eq!(through.get(field), native.get(field), "{path} {field}: {through}");
        }
        // The simulator prints them by one API as 32 bits and by the other as 64.
        let vectors = |answer: &Value| {
            let text = [&answer["embeddings"], &answer["embedding"]].map(Value::to_string).concat();
            let numbers = text.split(['[', ']', ',']).filter_map(|number| number.parse::<f32>().ok());
            (text.matches('[').count(), numbers.collect::<Vec<_>>())
        };
        assert_eq!(vectors(&through), vectors(&native), "{path}");
        assert!(vectors(&through).1.len() > 1, "{path}: {through}");
    }
}

#[test]
fn what_ollamas_clients_ask_arrives_in_openais_words() {
    let replica = simulator();
    let tutti = openai(&[&replica], "");
    let schema = json!({ "type": "object", "properties": { "a": { "type": "string" } } });
    let pixel = "iVBORw0KGgoAAAANSUhEUg==";
    let body = json!({
        "model": "M:latest",
        "messages": [{ "role": "system", "content": "be\n\"kind\"" }, { "role": "user", "content": "look", "images": [pixel] }],
        "tools": [{ "type": "function", "function": { "name": "f", "parameters": schema } }],
        "format": schema, "think": "low", "keep_alive": "5m",
        "options": { "temperature": 0.25, "top_p": 0.5, "seed": 7, "num_predict": 3, "stop": ["x"], "presence_penalty": 1 },
    });
    let answer = ok(tutti.client().ask("POST", "/api/chat", &[("accept", "application/x-ndjson")], &body.to_string()));
    assert_eq!(lines(&answer)[0]["model"], "M:latest", "the name that the client asked for");
    assert_eq!(answer.header("x-tutti-adjusted"), Some("keep_alive"));
    let seen = &reached(&replica, 1)[0];
    assert_eq!((seen.path.as_str(), seen.header("accept").count()), ("/v1/chat/completions", 0));
    assert_eq!(
        serde_json::from_slice::<Value>(&seen.body).unwrap(),
        json!({
            "model": "m:latest",
            "messages": [
                { "role": "system", "content": "be\n\"kind\"" },
                { "role": "user", "content": [
                    { "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{pixel}") } },
                    { "type": "text", "text": "look" },
                ] },
            ],
            "tools": body["tools"],
            "response_format": { "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } },
            "reasoning_effort": "low", "temperature": 0.25, "top_p": 0.5, "seed": 7, "max_tokens": 3, "stop": ["x"],
            "presence_penalty": 1, "stream": true, "stream_options": { "include_usage": true },
        })
    );

    let body =
        json!({ "model": "m", "system": "s", "prompt": "p", "images": [pixel], "format": "json", "stream": false });
    ok(tutti.ask("POST", "/api/generate", &body.to_string()));
    let seen: Value = serde_json::from_slice(&reached(&replica, 2)[1].body).unwrap();
    assert_eq!(
        (&seen["messages"][0], &seen["messages"][1]["content"][1]["text"]),
        (&json!({ "role": "system", "content": "s" }), &json!("p"))
    );
    assert_eq!((&seen["response_format"], seen.get("stream")), (&json!({ "type": "json_object" }), None));
}

#[test]
fn what_means_nothing_there_is_refused_by_name_and_reaches_no_replica() {
    let replica = simulator();
    let tutti = openai(&[&replica], "");
    for (path, field, value) in [
        ("/api/chat", "options", json!({ "num_ctx": 8192 })),
        ("/api/generate", "raw", json!(true)),
        ("/api/generate", "template", json!("{{ .Prompt }}")),
        ("/api/generate", "suffix", json!("x")),
        ("/api/generate", "context", json!([1, 2])),
        ("/api/embed", "options", json!({ "num_ctx": 8192 })),
        ("/api/chat", "a_field_of_mine", json!(1)),
    ] {
        let mut body =
            if path == "/api/chat" { chat(true) } else { json!({ "model": "m", "prompt": "hi", "input": "hi" }) };
        if path == "/api/embed" {
            body.as_object_mut().unwrap().remove("prompt");
        } else {
            body.as_object_mut().unwrap().remove("input");
        }
        body[field] = value;
        let answer = tutti.ask("POST", path, &body.to_string());
        let message = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(
            answer.status == 400 && message.contains(if field == "options" { "num_ctx" } else { field }),
            "{message}"
        );
    }
    assert_eq!(inference(&replica.seen()).len(), 0);
    eventually("a line each", || (tutti.logged().len() == 7).then_some(()));
    let logged = format!("{:?}", tutti.logged());
    assert!(logged.contains("untranslatable") && !logged.contains("a_field_of_mine"), "{logged}");
}

#[test]
fn to_load_a_model_is_done_at_once_and_to_unload_it_cannot_be() {
    let replica = simulator();
    let tutti = openai(&[&replica], "");
    for (path, body) in [
        ("/api/chat", json!({ "model": "m" })),
        ("/api/chat", json!({ "model": "m", "messages": [], "keep_alive": "1h" })),
        ("/api/generate", json!({ "model": "m", "system": "s" })),
    ] {
        let answer = ok(tutti.ask("POST", path, &body.to_string())).json();
        assert_eq!(
            (&answer["done"], &answer["done_reason"], &answer["model"]),
            (&json!(true), &json!("load"), &json!("m"))
        );
    }
    let answer = ok(tutti.ask("POST", "/api/embed", r#"{"model":"e","input":""}"#)).json();
    assert_eq!((&answer["embeddings"], &answer["model"]), (&json!([]), &json!("e")));
    for keep_alive in [json!(0), json!("0s")] {
        let body = json!({ "model": "m", "keep_alive": keep_alive });
        assert_eq!(tutti.ask("POST", "/api/generate", &body.to_string()).status, 400);
    }
    assert_eq!(inference(&replica.seen()).len(), 0);
    eventually("nothing in flight", || (tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
}

#[test]
fn before_an_answer_a_fault_is_an_error_in_the_clients_words() {
    for (fault, status) in [
        (Fault::Silent, 504),
        (Fault::Garbage, 502),
        (Fault::CloseBeforeHeader, 502),
        (Fault::RunnerDied, 500),
        (Fault::Busy, 503),
    ] {
        let replica = simulator();
        replica.set_fault(Some((fault, Scope::Inference)));
        let tutti = openai(&[&replica], "timeouts: { firstByte: 300ms, idle: 300ms }");
        for stream in [true, false] {
            let answer = tutti.ask("POST", "/api/chat", &chat(stream).to_string());
            let message = answer.json()["error"].as_str().unwrap_or_default().to_owned();
            assert_eq!((answer.status, message.is_empty()), (status, false), "{fault:?}: {}", answer.text());
            if fault == Fault::Busy {
                assert!(message.contains("server busy"), "what the replica says is told: {message}");
            }
            assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json")));
        }
        let unknown = tutti.ask("POST", "/api/chat", &chat(true).to_string().replace("\"m\"", "\"nope\""));
        assert_eq!((unknown.status, unknown.json()["error"].as_str()), (404, Some("model \"nope\" not found")));
    }
    let replica = simulator();
    let tutti = openai(&[&replica], "");
    let answer = tutti.ask("POST", "/api/chat", &chat(true).to_string().replace("\"m\"", "\"e\""));
    assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("\"e:latest\" does not support chat")));
}

#[test]
fn a_busy_replicas_request_goes_to_another() {
    let (busy, good) = (simulator(), simulator());
    busy.set_fault(Some((Fault::Busy, Scope::Inference)));
    let tutti = openai(&[&busy, &good], "");
    for _ in 0..4 {
        ok(tutti.ask("POST", "/api/chat", &chat(true).to_string()));
    }
    assert!(tutti.metric("tutti_retries_total", &[]) >= 1.0);
}

#[test]
fn a_broken_stream_never_ends_like_a_success() {
    for fault in [Fault::CloseAfterHeader, Fault::BreakMidToken, Fault::Stall, Fault::ErrorMidStream] {
        let replica = simulator();
        replica.set_fault(Some((fault, Scope::Inference)));
        let tutti = openai(&[&replica], "timeouts: { firstByte: 2s, idle: 300ms }");
        for (path, body) in [("/api/chat", chat(true)), ("/api/generate", prompt(true))] {
            let answer = tutti.ask("POST", path, &body.to_string());
            let lines = lines(&answer);
            assert!(lines.iter().all(|line| line["done"] != true), "{fault:?}: {lines:?}");
            assert!(lines.last().is_some_and(|line| line["error"].is_string()), "{fault:?}: {}", answer.text());
        }
        for (path, body) in [("/api/chat", chat(false)), ("/api/embed", json!({ "model": "e", "input": "a" }))] {
            let answer = tutti.ask("POST", path, &body.to_string());
            let broken = fault != Fault::ErrorMidStream; // which is one of streams
            assert_eq!((answer.status >= 500, answer.complete), (broken, true), "{fault:?}: {}", answer.text());
        }
        eventually("nothing in flight", || (tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
        eventually("no memory held", || (tutti.metric("tutti_buffered_body_bytes", &[]) == 0.0).then_some(()));
        let line = tutti.wait_logged("the stream's", |line| line["api"] == "/api/generate");
        assert_eq!((&line["outcome"], &line["code"]), (&json!("failed"), &json!("stream_interrupted")), "{line}");
    }
}

#[test]
fn a_client_that_goes_ends_the_replicas_work() {
    let machine = tutti_simulator::engine::Machine {
        token_time: std::time::Duration::from_millis(20),
        ..tutti_simulator::engine::Machine::instant()
    };
    let replica = simulator_with(Config { machine, answer_tokens: 100_000, ..quick() });
    let tutti = openai(&[&replica], "");
    let mut streams = tutti.begin("/api/chat", &chat(true).to_string());
    assert_eq!(streams.head().unwrap().status, 200);
    for _ in 0..3 {
        assert!(!streams.chunk().unwrap().is_empty());
    }
    drop(streams);
    let waits = tutti.begin("/api/generate", &prompt(false).to_string());
    reached(&replica, 2);
    drop(waits);
    for number in 0..2 {
        let ended = replica.wait(PATIENCE, |seen| inference(seen).get(number)?.ended_early);
        assert!(ended.is_some(), "request {number} goes on at the replica");
    }
    let line = tutti.wait_logged("the stream's", |line| line["api"] == "/api/chat");
    assert_eq!((&line["outcome"], &line["phase"]), (&json!("cancelled"), &json!("answering")), "{line}");
    assert!(line["output_tokens"].as_u64().is_some_and(|tokens| tokens >= 3), "{line}");
    assert!(line["ttft_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{line}");
}

/// A replica made by hand: it has the model `m`, answers what is posted with these very bytes, and keeps what that was.
fn by_hand(kind: &str, answer: &str) -> (String, Arc<Mutex<Vec<Value>>>) {
    by_hand_so("200 OK", kind, Duration::ZERO, answer)
}

/// The same with this status, and a pause between the answer's head and its body.
fn by_hand_so(status: &str, kind: &str, pause: Duration, answer: &str) -> (String, Arc<Mutex<Vec<Value>>>) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: ";
    let length = answer.len();
    let answer =
        (format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"), answer.to_owned());
    let list = r#"{"object":"list","data":[{"id":"m"}],"models":[{"name":"m"}],"version":"0"}"#;
    let list = format!("{head}application/json\r\ncontent-length: {}\r\n\r\n{list}", list.len());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
    let seen = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (answer, list, seen) = (answer.clone(), list.clone(), seen.clone());
            std::thread::spawn(move || {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                    let posted = text.starts_with("POST");
                    if posted {
                        let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
                        seen.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(serde_json::from_str(body).unwrap_or_default());
                    }
                    let (first, rest) = if posted { (&answer.0, &*answer.1) } else { (&list, "") };
                    let _ = stream.write_all(first.as_bytes());
                    std::thread::sleep(if posted { pause } else { Duration::ZERO });
                    let _ = stream.write_all(rest.as_bytes());
                }
            });
        }
    });
    (url, asked)
}

#[test]
fn a_replica_that_refuses_the_gateways_key_does_not_seem_to_refuse_the_clients() {
    let error = r#"{"error":{"message":"wrong key","type":"invalid_request_error"}}"#;
    let (url, _) = by_hand_so("401 Unauthorized", "application/json", Duration::ZERO, error);
    let tutti = Tutti::start(&pool(&[url], "engine: openai\n    expose: all"));
    for (path, streams) in [("/v1/chat/completions", true), ("/v1/chat/completions", false), ("/api/chat", true)] {
        let answer = tutti.ask("POST", path, &chat(streams).to_string());
        assert_eq!((answer.status, answer.header("www-authenticate")), (502, None), "{path}: {}", answer.text());
        assert!(answer.text().contains("apiKeyFile") && !answer.text().contains("wrong key"), "{}", answer.text());
    }
    let line = tutti.wait_logged("its line", |line| line["status"] == 502);
    assert_eq!((&line["code"], &line["level"]), (&json!("upstream_error"), &json!("error")), "{line}");
}

#[test]
fn a_server_that_sends_its_head_at_once_has_as_long_as_another_for_its_first_token() {
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"late\"}}]}\n\ndata: [DONE]\n\n";
    let (url, _) = by_hand_so("200 OK", "text/event-stream", Duration::from_secs(1), stream);
    let timeouts =
        |first: &str| format!("engine: openai\n    expose: all\n    timeouts: {{ firstByte: {first}, idle: 100ms }}");
    let tutti = Tutti::start(&pool(std::slice::from_ref(&url), &timeouts("20s")));
    assert_eq!(said(&ok(tutti.ask("POST", "/api/chat", &chat(true).to_string()))), "late");
    let tutti = Tutti::start(&pool(&[url], &timeouts("200ms")));
    let answer = tutti.ask("POST", "/api/chat", &chat(true).to_string());
    assert!(lines(&answer)[0]["error"].as_str().is_some_and(|error| error.contains("silent")), "{}", answer.text());
}

#[test]
fn a_round_of_tools_goes_there_and_back() {
    let events = [
        json!({ "choices": [{ "delta": { "role": "assistant", "content": "", "tool_calls": [
            { "index": 0, "id": "call_a", "type": "function", "function": { "name": "freeze", "arguments": "" } }] } }] }),
        json!({ "choices": [{ "delta": { "tool_calls": [{ "index": 0, "function": { "arguments": "{\n  \"account\":" } }] } }] }),
        json!({ "choices": [{ "delta": { "tool_calls": [
            { "index": 1, "id": "call_b", "type": "function", "function": { "name": "thaw", "arguments": "{}" } }] } }] }),
        json!({ "choices": [{ "delta": { "tool_calls": [{ "index": 0, "function": { "arguments": "\"A1\"}" } }] } }] }),
        json!({ "choices": [{ "delta": {}, "finish_reason": "tool_calls" }] }),
        json!({ "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": 8 } }),
    ];
    let stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let (url, asked) = by_hand("text/event-stream", &format!("{stream}data: [DONE]\n\n"));
    let tutti = Tutti::start(&pool(&[url], "engine: openai\n    expose: all"));
    let tool = json!({ "type": "function", "function": { "name": "freeze", "description": "d", "parameters": {} } });
    let mut body = chat(true);
    body["tools"] = json!([tool]);
    let answer = ok(tutti.ask("POST", "/api/chat", &body.to_string()));
    let told = lines(&answer);
    assert_eq!(told.len(), 2, "{told:?}");
    let calls = &told[0]["message"]["tool_calls"];
    assert_eq!(calls[0]["function"], json!({ "name": "freeze", "arguments": { "account": "A1" } }));
    assert_eq!(calls[1]["function"], json!({ "name": "thaw", "arguments": {} }));
    assert_eq!(
        (&told[1]["done"], &told[1]["done_reason"], &told[1]["eval_count"]),
        (&json!(true), &json!("stop"), &json!(8))
    );

    // The next turn, as Ollama's Python package sends it: without identifiers.
    let calls: Vec<Value> =
        calls.as_array().unwrap().iter().map(|call| json!({ "function": call["function"] })).collect();
    let called = json!({ "role": "assistant", "content": "", "tool_calls": calls });
    let result = |name: &str| json!({ "role": "tool", "tool_name": name, "content": format!("{name} is done") });
    body["messages"] = json!([{ "role": "user", "content": "hi" }, called, result("thaw"), result("freeze")]);
    ok(tutti.ask("POST", "/api/chat", &body.to_string()));
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0]["tools"], json!([tool]));
    let messages = asked[1]["messages"].as_array().unwrap();
    let id = |at: usize| messages[1]["tool_calls"][at]["id"].as_str().unwrap();
    assert_ne!(id(0), id(1));
    assert_eq!(messages[1]["tool_calls"][0]["function"]["arguments"], r#"{"account":"A1"}"#);
    assert_eq!(
        (messages[2]["tool_call_id"].as_str(), messages[3]["tool_call_id"].as_str()),
        (Some(id(1)), Some(id(0)))
    );
    assert_eq!(messages[2]["content"], "thaw is done");
}

#[test]
fn what_a_replica_says_of_an_error_is_for_the_client_and_not_for_the_log() {
    for (kind, answer, stream) in [
        (
            "text/event-stream",
            "data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\ndata: {\"error\":{\"message\":\"boom SECRET\"}}\n\n",
            true,
        ),
        ("application/json", "{\"error\":{\"message\":\"boom SECRET\"}}", false),
        (
            "application/json",
            "{\"choices\":[{\"message\":{\"tool_calls\":[{\"function\":{\"name\":\"SECRET\",\"arguments\":\"SECRET\"}}]}}]}",
            false,
        ),
    ] {
        let (url, _) = by_hand(kind, answer);
        let tutti = Tutti::start(&pool(&[url], "engine: openai\n    expose: all"));
        let told = tutti.ask("POST", "/api/chat", &chat(stream).to_string());
        assert_eq!((told.status, told.complete), (if stream { 200 } else { 502 }, true), "{}", told.text());
        let error = lines(&told).pop().unwrap()["error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains("boom SECRET") || error.contains("no JSON object"), "{error}");
        tutti.wait_logged("its line", |line| line["outcome"] == "failed");
        assert!(!format!("{:?}", tutti.logged()).contains("SECRET"), "{:?}", tutti.logged());
    }
}

#[test]
fn vectors_that_are_not_what_was_asked_for_are_no_answer() {
    let two =
        r#"{"data":[{"index":1,"embedding":[3,4]},{"index":0,"embedding":[1,2.50]}],"usage":{"prompt_tokens":4}}"#;
    let (url, _) = by_hand("application/json", two);
    let tutti = Tutti::start(&pool(&[url], "engine: openai\n    expose: all"));
    let ask = |body: Value| tutti.ask("POST", "/api/embed", &body.to_string());
    let answer = ok(ask(json!({ "model": "m", "input": ["a", "b"] }))).text();
    assert!(answer.contains(r#""embeddings":[[1,2.50],[3,4]]"#), "in order, and to the digit: {answer}");
    assert_eq!(ask(json!({ "model": "m", "input": ["a"] })).status, 502);
    let answer = ask(json!({ "model": "m", "input": ["a", "b"], "dimensions": 3 }));
    assert!(answer.status == 400 && answer.text().contains("dimensions"), "{}", answer.text());
}

#[test]
fn what_is_carried_over_counts_as_memory() {
    let replica = simulator();
    let limits = "gateway: { limits: { body: 64Ki, bufferedBodies: 96Ki } }\n";
    let fields = "engine: openai\n    expose: all";
    let tutti = Tutti::start(&format!("{limits}{}", pool(&[replica.url()], fields)));
    let large = |text: &str| chat(false).to_string().replace("hi", text);
    ok(tutti.ask("POST", "/v1/chat/completions", &large(&"x".repeat(60_000))));
    assert_eq!(tutti.ask("POST", "/api/chat", &large(&"x".repeat(60_000))).status, 503, "it would be there twice");
    let many = format!("[{}]", vec!["{}"; 2000].join(","));
    let body = json!({ "model": "m", "tools": serde_json::from_str::<Value>(&many).unwrap() }).to_string();
    assert_eq!(tutti.ask("POST", "/api/chat", &body).status, 503, "6 KB of text would be hundreds of values");
    ok(tutti.ask("POST", "/api/chat", &large("hi")));
    eventually("no memory held", || (tutti.metric("tutti_buffered_body_bytes", &[]) == 0.0).then_some(()));
}
