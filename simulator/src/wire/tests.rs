use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::*;
use crate::config::{Config, Model};
use crate::engine::{KeepAlive, Resident, Timing};

fn timing() -> Timing {
    let ms = Duration::from_millis;
    Timing { total: ms(12), load: ms(0), prompt_eval: ms(2), eval: ms(10), prompt_tokens: 7, tokens: 3 }
}

fn call(api: Api, body: &str) -> Call {
    Call::read(api, body.as_bytes()).unwrap()
}

fn printer(api: Api, extra: &str) -> Printer {
    let body =
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"prompt":"hi","input":"hi"{extra}}}"#);
    Printer::new(&call(api, &body), 5)
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn a_native_stream_is_lines_and_its_last_has_nanoseconds() {
    let printer = printer(Api::Chat, "");
    let token = printer.token(0);
    assert!(token.ends_with(b"\n") && token.starts_with(b"{\"model\":\"m\",\"created_at\":\""));
    let token = json(&token);
    assert_eq!(token["message"], serde_json::json!({ "role": "assistant", "content": "simulated" }));
    assert_eq!(
        (&token["done"], token.get("done_reason"), token.get("total_duration")),
        (&Value::Bool(false), None, None)
    );
    let last = json(&printer.last(&timing(), "length"));
    assert_eq!(
        (&last["message"]["content"], &last["done"], &last["done_reason"]),
        (&"".into(), &true.into(), &"length".into())
    );
    assert_eq!((&last["total_duration"], &last["eval_duration"]), (&12_000_000.into(), &10_000_000.into()));
    assert_eq!((&last["prompt_eval_count"], &last["eval_count"]), (&7.into(), &3.into()));
    assert_eq!(last.get("load_duration"), None, "what is zero is left out");
}

#[test]
fn generate_has_a_response_and_a_context() {
    let last = json(&printer(Api::Generate, "").last(&timing(), "stop"));
    assert!(last.get("message").is_none() && last["response"] == "" && last["context"].is_array());
    let whole = json(&printer(Api::Generate, "").whole(&timing(), "stop").body);
    assert_eq!(whole["response"], "simulated answer from");
}

#[test]
fn loads_have_no_durations() {
    let loaded = json(&printer(Api::Generate, "").loaded("load").body);
    assert_eq!(
        (&loaded["done_reason"], loaded.get("load_duration"), loaded.get("context")),
        (&"load".into(), None, None)
    );
    assert_eq!(json(&printer(Api::Embed, "").loaded("load").body)["embeddings"], serde_json::json!([]));
}

#[test]
fn an_openai_chunk_has_its_role_every_time() {
    let printer = printer(Api::OpenaiChat, r#","stream":true"#);
    let token = printer.token(1);
    let chunk = json(token.strip_prefix(b"data: ").unwrap());
    assert_eq!((&chunk["object"], &chunk["id"]), (&"chat.completion.chunk".into(), &"chatcmpl-5".into()));
    assert_eq!(chunk["choices"][0]["delta"], serde_json::json!({ "role": "assistant", "content": " answer" }));
    assert_eq!((chunk["choices"][0].get("finish_reason"), chunk.get("usage")), (Some(&Value::Null), None));
    let last = String::from_utf8(printer.last(&timing(), "stop").to_vec()).unwrap();
    assert!(
        last.contains(r#""finish_reason":"stop""#) && last.ends_with("data: [DONE]\n\n") && !last.contains("usage")
    );
}

#[test]
fn a_failure_in_mid_stream_looks_as_ollamas() {
    let native = json(&printer(Api::Chat, "").failure());
    assert!(native["error"].is_string());
    let openai = printer(Api::OpenaiChat, "").failure();
    let chunk = json(openai.strip_prefix(b"data: ").unwrap());
    assert_eq!(
        (&chunk["choices"][0]["delta"]["content"], &chunk["choices"][0]["finish_reason"]),
        (&"".into(), &Value::Null)
    );
    assert!(!openai.ends_with(b"[DONE]\n\n"));
}

#[test]
fn embeddings_have_length_one_and_keep_their_order() {
    let inputs = ["a".to_owned(), "b".to_owned()];
    let embed = json(&printer(Api::Embed, "").vectors(&inputs, &timing(), None).body);
    let first: Vec<f64> = serde_json::from_value(embed["embeddings"][0].clone()).unwrap();
    assert!((first.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-5);
    let alone = json(&printer(Api::Embed, "").vectors(&inputs[1..], &timing(), None).body);
    assert_eq!(embed["embeddings"][1], alone["embeddings"][0]);
    let openai = json(&printer(Api::OpenaiEmbeddings, "").vectors(&inputs, &timing(), None).body);
    assert_eq!((&openai["data"][1]["index"], &openai["usage"]["total_tokens"]), (&1.into(), &7.into()));
}

#[test]
fn a_request_defaults_as_ollamas_does() {
    let native = call(Api::Chat, r#"{"model":"m"}"#);
    assert!(native.stream && native.want == Want::Load);
    let openai =
        call(Api::OpenaiChat, r#"{"model":"m","messages":[{"content":[{"type":"text","text":"hi"}]}],"max_tokens":2}"#);
    assert_eq!((openai.stream, openai.tokens_max, &openai.prompt[..]), (false, Some(2), b"hi".as_slice()));
    let unload = call(Api::Generate, r#"{"model":"m","keep_alive":0}"#);
    assert_eq!(unload.want, Want::Unload);
    let options = call(Api::Generate, r#"{"prompt":"x","options":{"num_ctx":2,"num_predict":9,"use_mmap":false}}"#);
    assert_eq!((options.options.num_ctx, options.tokens_max, options.options.others[3]), (4, Some(9), Some(0)));
    assert!(Call::read(Api::Embed, br#"{"model":"m","input":[1]}"#).is_err());
    assert!(Call::read(Api::OpenaiEmbeddings, br#"{"model":"m","input":[]}"#).is_err());
}

#[test]
fn keep_alives_are_gos_durations() {
    let keep = |text: &str| call(Api::Generate, &format!(r#"{{"prompt":"x","keep_alive":{text}}}"#)).keep_alive;
    let seconds = |n| Some(KeepAlive::For(Duration::from_secs(n)));
    assert_eq!(
        (keep("90"), keep("\"1h30m\""), keep("\"1.5s\"")),
        (seconds(90), seconds(5400), Some(KeepAlive::For(Duration::from_millis(1500))))
    );
    assert_eq!((keep("-1"), keep("\"-5m\""), keep("null")), (Some(KeepAlive::Forever), Some(KeepAlive::Forever), None));
    for wrong in ["\"\"", "\"5\"", "\"5 m\"", "true", "[]"] {
        let body = format!(r#"{{"prompt":"x","keep_alive":{wrong}}}"#);
        assert_eq!(Call::read(Api::Generate, body.as_bytes()).unwrap_err().status, 400, "{wrong}");
    }
}

#[test]
fn listings_name_models_with_their_tags() {
    let base = Model::chat("m", 2_000_000);
    let mut config = Config::new(base.clone());
    config.models.push(base.with_adapter("acme/risk:v1"));
    let tags = json(&tags(&config, Vec::new(), SystemTime::now()).body);
    assert_eq!((&tags["models"][0]["name"], &tags["models"][0]["size"]), (&"m:latest".into(), &2_000_000.into()));
    assert_eq!(tags["models"][1]["details"]["families"].as_array().unwrap().len(), 2);
    let now = Duration::from_secs(9);
    let resident = Resident { model: "m".into(), num_ctx: 4096, expires: None };
    let ps = json(&ps(&config, &[resident], now).body);
    assert_eq!(
        (&ps["models"][0]["context_length"], &ps["models"][0]["details"]["parent_model"]),
        (&4096.into(), &"".into())
    );
    assert!(ps["models"][0]["expires_at"].as_str().unwrap() > "2300");
    let show = json(&show(&config, br#"{"model":"ACME/risk:v1"}"#, SystemTime::now()).body);
    assert_eq!(show["details"]["parent_model"], "m:latest");
    let modelfile = show["modelfile"].as_str().unwrap();
    assert!(modelfile.contains("\nFROM blobs/sha256-") && modelfile.contains("\nADAPTER blobs/sha256-"));
    let models = json(&models(&config, SystemTime::now()).body);
    assert_eq!((&models["data"][0]["owned_by"], &models["data"][1]["owned_by"]), (&"library".into(), &"acme".into()));
    assert_eq!(one_model(&config, "nope", SystemTime::now()).status, 404);
}

#[test]
fn errors_of_both_dialects() {
    let busy = json(&Reply::busy(Api::OpenaiChat).body);
    assert_eq!((&busy["error"]["type"], &busy["error"]["param"]), (&"api_error".into(), &Value::Null));
    assert_eq!(
        json(&Reply::busy(Api::Chat).body)["error"],
        "server busy, please try again.  maximum pending requests exceeded"
    );
    assert_eq!(json(&Reply::bad_request(Api::OpenaiChat, "x").body)["error"]["type"], "invalid_request_error");
    let empty = Call::read(Api::Chat, b"").unwrap_err();
    assert_eq!((empty.status, &json(&empty.body)["error"]), (400, &"missing request body".into()));
}

#[test]
fn the_later_apis_stream_events_with_names() {
    for (api, first, last) in
        [(Api::Responses, "response.created", "response.completed"), (Api::Messages, "message_start", "message_stop")]
    {
        let printer = printer(api, ",\"max_tokens\":9");
        let text = [printer.token(0), printer.token(1), printer.token(2), printer.last(&timing(), "stop")].concat();
        let text = String::from_utf8(text).unwrap();
        let events: Vec<Value> =
            text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| json(data.as_bytes())).collect();
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert!(events.iter().map(|event| &event["type"]).eq(names.iter()), "{text}");
        assert_eq!((names.first(), names.last()), (Some(&first), Some(&last)));
        let said: String =
            events.iter().filter_map(|event| event["delta"].as_str().or(event["delta"]["text"].as_str())).collect();
        assert_eq!(said, "simulated answer from");
        if api == Api::Responses {
            let numbers = events.iter().map(|event| event["sequence_number"].as_u64());
            assert!(numbers.eq((0..events.len() as u64).map(Some)), "{text}");
        }
        let whole = json(&printer.whole(&timing(), "length").body);
        assert_eq!((&whole["model"], &whole["usage"]["output_tokens"]), (&"m".into(), &3.into()));
    }
    let refused = Call::read(Api::Messages, br#"{"model":"m","messages":[]}"#).unwrap_err();
    assert_eq!(json(&refused.body)["error"]["type"], "invalid_request_error");
}
