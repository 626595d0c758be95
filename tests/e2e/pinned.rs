//! OpenAI's clients on Ollamas whose pool pins what OpenAI's API has no field for: they are carried over to Ollama's own
//! API, and notice nothing but that.

use serde_json::{Value, json};
use tutti_simulator::{Config, Fault, Running, Scope};
use tutti_tests::{
    Answer, Client, PATIENCE, Tutti, eventually, inference, pool, quick, reached, simulator, simulator_with,
};

/// A gateway that pins something for this replica.
fn pinned(replica: &Running, fields: &str) -> Tutti {
    let pins = "runner: { numCtx: 2048, useMmap: false }\n    keepAlive: 2h";
    Tutti::start(&pool(&[replica.url()], &format!("expose: all\n    {pins}\n    {fields}")))
}

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

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

/// What an answer says, line by line, without what differs from one to the next.
fn steady(answer: &Answer) -> Vec<Value> {
    let line = |line: String| {
        let mut value: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|name, _| !["id", "created"].contains(&name.as_str()));
        }
        value
    };
    answer.lines().into_iter().map(line).collect()
}

#[test]
fn a_pin_changes_nothing_of_what_an_ollamas_v1_answers() {
    let replica = simulator();
    let tutti = pinned(&replica, "");
    let mut direct = Client::connect(&replica.addr().to_string()).unwrap();
    let with_usage = |mut body: Value| {
        body["stream_options"] = json!({ "include_usage": true });
        body
    };
    for (path, body) in [
        (CHAT, chat(false)),
        (CHAT, chat(true)),
        (CHAT, with_usage(chat(true))),
        (COMPLETIONS, prompt(false)),
        (COMPLETIONS, prompt(true)),
    ] {
        let body = body.to_string();
        let through = ok(tutti.ask("POST", path, &body));
        let plain = ok(direct.ask("POST", path, &[], &body));
        assert_eq!(steady(&through), steady(&plain), "{path} {body}");
        assert_eq!(through.header("content-type"), plain.header("content-type"), "{path}");
        assert_eq!(through.header("x-tutti-adjusted"), Some("num_ctx=2048, use_mmap=false, keep_alive=2h0m0s"));
    }
    let first = ok(tutti.ask("POST", CHAT, &chat(false).to_string())).json()["id"].clone();
    assert_ne!(ok(tutti.ask("POST", CHAT, &chat(false).to_string())).json()["id"], first, "each has its own");
    // The simulator prints vectors by one API as 32 bits and by the other as 64: compared as what they are.
    let floats = |answer: &Value| {
        let vectors: Vec<Vec<f32>> = answer["data"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| serde_json::from_value(item["embedding"].clone()).unwrap())
            .collect();
        (vectors, answer["usage"].clone(), answer["model"].clone())
    };
    let body = json!({ "model": "e", "input": ["a", "b"] }).to_string();
    let through = ok(tutti.ask("POST", EMBEDDINGS, &body)).json();
    assert_eq!(floats(&through), floats(&ok(direct.ask("POST", EMBEDDINGS, &[], &body)).json()));
    assert_eq!(through["data"][1]["index"], 1);
    let body = body.replace("}", ",\"encoding_format\":\"base64\"}");
    let coded = ok(tutti.ask("POST", EMBEDDINGS, &body)).json();
    assert!(coded["data"][0]["embedding"].is_string(), "{coded}");
}

#[test]
fn what_openais_clients_ask_arrives_in_ollamas_words_with_the_pins() {
    let replica = simulator();
    let tutti = pinned(&replica, "");
    let pixel = "iVBORw0KGgoAAAANSUhEUg==";
    let schema = json!({ "type": "object", "properties": { "a": { "type": "string" } } });
    let tool = json!({ "type": "function", "function": { "name": "f", "parameters": schema } });
    let call = json!({ "id": "call_1", "type": "function", "function": { "name": "f", "arguments": "{\"a\":\"x\"}" } });
    let body = json!({
        "model": "M",
        "messages": [
            { "role": "user", "content": [
                { "type": "text", "text": "look" },
                { "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{pixel}"), "detail": "low" } },
            ] },
            { "role": "assistant", "content": null, "tool_calls": [call] },
            { "role": "tool", "tool_call_id": "call_1", "content": "done" },
        ],
        "tools": [tool], "tool_choice": "auto", "user": "u", "max_tokens": 9, "max_completion_tokens": 3, "stop": "x",
        "response_format": { "type": "json_schema", "json_schema": { "name": "n", "strict": true, "schema": schema } },
    });
    let answer = ok(tutti.ask("POST", CHAT, &body.to_string()));
    assert_eq!(answer.json()["model"], "M", "the name that the client asked for");
    assert_eq!(
        answer.header("x-tutti-adjusted"),
        Some("messages[].content[].image_url.detail, user, num_ctx=2048, use_mmap=false, keep_alive=2h0m0s")
    );
    let seen = &reached(&replica, 1)[0];
    assert_eq!(seen.path, "/api/chat");
    assert_eq!(
        serde_json::from_slice::<Value>(&seen.body).unwrap(),
        json!({
            "model": "M",
            // As Ollama's own `/v1` cuts a message of several parts.
            "messages": [
                { "role": "user", "content": "look" },
                { "role": "user", "content": "", "images": [pixel] },
                { "role": "assistant", "content": "", "tool_calls": [
                    { "id": "call_1", "function": { "name": "f", "arguments": { "a": "x" } } }] },
                { "role": "tool", "content": "done", "tool_name": "f", "tool_call_id": "call_1" },
            ],
            "tools": [tool], "format": schema, "stream": false, "keep_alive": "2h0m0s",
            "options": { "num_ctx": 2048, "use_mmap": false, "temperature": 1.0, "top_p": 1.0, "num_predict": 3, "stop": ["x"] },
        })
    );
    ok(tutti.ask("POST", COMPLETIONS, &json!({ "model": "m", "prompt": "hi", "temperature": 0 }).to_string()));
    let seen = &reached(&replica, 2)[1];
    let options = serde_json::from_slice::<Value>(&seen.body).unwrap()["options"].clone();
    assert_eq!(seen.path, "/api/generate");
    assert_eq!(
        options,
        json!({ "num_ctx": 2048, "use_mmap": false, "temperature": 0, "top_p": 1.0, "presence_penalty": 0, "frequency_penalty": 0 })
    );
}

#[test]
fn what_ollama_would_drop_without_a_word_is_refused_by_name() {
    let replica = simulator();
    let tutti = pinned(&replica, "");
    let named = json!({ "type": "function", "function": { "name": "f" } });
    let tokens = json!({ "model": "e", "input": [[1, 2]] });
    for (path, body, field, value) in [
        (CHAT, chat(true), "n", json!(2)),
        (CHAT, chat(true), "logprobs", json!(true)),
        (CHAT, chat(true), "top_logprobs", json!(2)),
        (CHAT, chat(true), "tool_choice", json!("required")),
        (CHAT, chat(true), "tool_choice", named),
        (CHAT, chat(true), "parallel_tool_calls", json!(false)),
        (CHAT, chat(true), "reasoning_effort", json!("minimal")),
        (CHAT, chat(true), "functions", json!([{ "name": "f" }])),
        (CHAT, chat(true), "function_call", json!("auto")),
        (CHAT, chat(true), "logit_bias", json!({ "1": 1 })),
        (CHAT, chat(true), "a_field_of_mine", json!(1)),
        (COMPLETIONS, prompt(false), "best_of", json!(2)),
        (COMPLETIONS, prompt(false), "logprobs", json!(2)),
        (COMPLETIONS, prompt(false), "echo", json!(true)),
        (COMPLETIONS, prompt(false), "prompt", json!(["a", "b"])),
        (COMPLETIONS, prompt(false), "prompt", json!([1, 2])),
        (COMPLETIONS, prompt(false), "max_completion_tokens", json!(2)),
        (EMBEDDINGS, tokens, "input", json!([1, 2])),
    ] {
        let mut body = body;
        body[field] = value;
        let answer = tutti.ask("POST", path, &body.to_string());
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["code"], &error["type"]),
            (400, &json!("untranslatable"), &json!("invalid_request_error")),
            "{path} {field}: {}",
            answer.text()
        );
        assert!(error["message"].as_str().is_some_and(|message| message.contains(field)), "{error}");
        let unknown = field == "a_field_of_mine" || field == "max_completion_tokens"; // there
        let param = if unknown { Value::Null } else { json!(field) };
        assert_eq!(error["param"], param);
    }
    assert_eq!(inference(&replica.seen()).len(), 0);
    // Where nothing is pinned the replica reads the body itself, whatever it makes of it.
    let plain = Tutti::before(&[replica.url()]);
    let mut body = chat(false);
    body["n"] = json!(2);
    ok(plain.ask("POST", CHAT, &body.to_string()));
    assert_eq!(reached(&replica, 1)[0].body, body.to_string().as_bytes());
}

#[test]
fn the_later_apis_go_as_they_are_and_carry_no_pins() {
    let replica = simulator_with(Config { later_apis: true, ..quick() });
    let tutti = pinned(&replica, "");
    let body =
        json!({ "model": "m", "input": "hi", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 9 });
    for (number, path) in ["/v1/responses", "/v1/messages"].into_iter().enumerate() {
        let answer = ok(tutti.ask("POST", path, &body.to_string()));
        assert_eq!(answer.header("x-tutti-adjusted"), None, "{path}");
        let seen = &reached(&replica, number + 1)[number];
        assert_eq!((seen.path.as_str(), &seen.body[..]), (path, body.to_string().as_bytes()));
    }
}

#[test]
fn what_goes_wrong_goes_wrong_in_openais_words() {
    for (fault, status, kind) in [
        (Fault::Silent, 504, "server_error"),
        (Fault::CloseBeforeHeader, 502, "server_error"),
        (Fault::RunnerDied, 500, "api_error"),
        (Fault::Busy, 503, "api_error"),
    ] {
        let replica = simulator();
        replica.set_fault(Some((fault, Scope::Inference)));
        let tutti = pinned(&replica, "timeouts: { firstByte: 300ms, idle: 300ms }");
        for stream in [true, false] {
            let answer = tutti.ask("POST", CHAT, &chat(stream).to_string());
            let error = &answer.json()["error"];
            assert_eq!((answer.status, &error["type"]), (status, &json!(kind)), "{fault:?}: {}", answer.text());
            assert!(error["message"].is_string(), "{error}");
        }
    }
    let replica = simulator();
    let tutti = pinned(&replica, "");
    let answer = tutti.ask("POST", CHAT, &chat(true).to_string().replace("\"m\"", "\"e\""));
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["message"]), (400, &json!("\"e\" does not support chat")), "{error}");
    assert_eq!(tutti.ask("POST", CHAT, r#"{"model":"m","messages":[]}"#).status, 400);
}

#[test]
fn a_broken_stream_never_ends_like_a_success() {
    for fault in [Fault::CloseAfterHeader, Fault::BreakMidToken, Fault::Stall, Fault::ErrorMidStream] {
        let replica = simulator();
        replica.set_fault(Some((fault, Scope::Inference)));
        let tutti = pinned(&replica, "timeouts: { firstByte: 2s, idle: 300ms }");
        for (path, body) in [(CHAT, chat(true)), (COMPLETIONS, prompt(true))] {
            let lines = tutti.ask("POST", path, &body.to_string()).lines();
            assert!(!lines.iter().any(|line| line == "[DONE]"), "{fault:?}: {lines:?}");
            let last: Value = lines.last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
            assert_eq!(last["error"]["code"], "stream_interrupted", "{fault:?}: {lines:?}");
        }
        eventually("nothing in flight", || (tutti.metric("tutti_requests_in_flight", &[]) == 0.0).then_some(()));
        eventually("no memory held", || (tutti.metric("tutti_buffered_body_bytes", &[]) == 0.0).then_some(()));
    }
}

#[test]
fn a_client_that_goes_ends_the_replicas_work() {
    let machine = tutti_simulator::engine::Machine {
        token_time: std::time::Duration::from_millis(20),
        ..tutti_simulator::engine::Machine::instant()
    };
    let replica = simulator_with(Config { machine, answer_tokens: 100_000, ..quick() });
    let tutti = pinned(&replica, "");
    let mut client = tutti.begin(CHAT, &chat(true).to_string());
    assert_eq!(client.head().unwrap().status, 200);
    for _ in 0..3 {
        assert!(!client.chunk().unwrap().is_empty());
    }
    drop(client);
    let ended = replica.wait(PATIENCE, |seen| inference(seen).first()?.ended_early);
    assert!(ended.is_some(), "it goes on at the replica");
    let line = tutti.wait_logged("its line", |line| line["api"] == CHAT);
    assert_eq!((&line["outcome"], &line["phase"]), (&json!("cancelled"), &json!("answering")), "{line}");
    assert!(line["output_tokens"].as_u64().is_some_and(|tokens| tokens >= 3), "{line}");
}
