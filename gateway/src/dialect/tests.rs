//! What both APIs must have in common: any request survives either of them.

use std::borrow::Cow;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::openai::Wishes;
use super::request::*;
use super::{ollama, openai};
use crate::adjusted::Adjusted;
use crate::classify::Pins;
use crate::json::{Node, Writer};

/// Texts with all that JSON escapes.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z\"\\\\\n\u{1f600}\u{0}]{1,20}"].prop_filter("said", |text| !text.is_empty())
}

fn cow() -> impl Strategy<Value = Cow<'static, str>> {
    text().prop_map(Cow::Owned)
}

fn image() -> impl Strategy<Value = Image<'static>> {
    prop::sample::select(&["iVBORw0KGgo=", "/9j/4AAQ", "UklGRiQAAABXRUJQ", "R0lGODlh"][..])
        .prop_map(|base64| Image::of(base64.into()).expect("each is known"))
}

/// Numbers as they may be written.
fn number() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["0", "1", "0.7", "1e-3", "-2.50", "4294967296"][..])
}

fn json_object() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&[r#"{"type":"object"}"#, r#"{ "a" : [1.0, "\u00e9\n"], "b":{} }"#, "{}"][..])
}

fn tool() -> impl Strategy<Value = &'static str> {
    let tools = [r#"{"name":"freeze","parameters":{"type":"object"}}"#, r#"{ "description":"\u00e9", "name":"" }"#];
    prop::sample::select(tools.to_vec())
}

prop_compose! {
    fn manner()(
        numbers in vec(prop::option::of(number()), 5), max_tokens in prop::option::of(1..u32::MAX),
        stop in vec(cow(), 0..3), schema in prop::option::of(prop::option::of(json_object())),
        think in prop::option::of(prop::sample::select(vec![Think::Off, Think::On, Think::Low, Think::Medium, Think::High])),
        stream: bool,
    ) -> Manner<'static> {
        Manner {
            temperature: numbers[0], top_p: numbers[1], presence_penalty: numbers[2], frequency_penalty: numbers[3],
            seed: numbers[4], max_tokens, stop, think, stream,
            format: schema.map(|schema| schema.map_or(Format::Json, Format::Schema)),
        }
    }
}

/// Turns of a conversation in which each tool's result answers a call before it.
fn messages() -> impl Strategy<Value = Vec<Message<'static>>> {
    let said = (prop::option::of(cow()), vec(image(), 0..2));
    let turn = (said, prop::option::of(cow()), vec((cow(), json_object()), 0..3), any::<bool>());
    vec(turn, 1..5).prop_map(|turns| {
        let mut messages = Vec::new();
        for (number, ((text, images), thinking, calls, asks)) in turns.into_iter().enumerate() {
            // As Ollama shows them: the images, then the text.
            let parts: Vec<Part<'_>> = images.into_iter().map(Part::Image).chain(text.map(Part::Text)).collect();
            if asks {
                let role = [Role::System, Role::Developer, Role::User][number % 3];
                messages.push(Message { parts, ..Message::new(role) });
                continue;
            }
            let calls: Vec<Call<'_>> = calls
                .into_iter()
                .enumerate()
                .map(|(at, (name, arguments))| Call {
                    id: format!("id_{number}_{at}").into(),
                    name,
                    arguments: arguments.into(),
                })
                .collect();
            let answers = calls.iter().rev().map(|call| Answered { id: call.id.clone(), name: call.name.clone() });
            let answers: Vec<_> = answers.collect();
            messages.push(Message { parts: parts.clone(), thinking, calls, ..Message::new(Role::Assistant) });
            messages.extend(answers.into_iter().map(|answered| Message {
                parts: parts.clone(),
                answers: Some(answered),
                ..Message::new(Role::Tool)
            }));
        }
        messages
    })
}

prop_compose! {
    fn chat()(messages in messages(), tools in vec(tool(), 0..3), manner in manner()) -> Chat<'static> {
        Chat { messages, tools, manner }
    }
}

prop_compose! {
    fn prompt()(prompt in cow(), suffix in prop::option::of(cow()), system in prop::option::of(cow()),
        images in vec(image(), 0..2), manner in manner()) -> Prompt<'static> {
        Prompt { prompt, suffix, system, images, manner }
    }
}

fn node(text: &[u8]) -> Node<'_> {
    Node::object(text).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(text)))
}

/// OpenAI's API has no word for thinking as much as the model sees fit.
fn without_on(mut manner: Manner<'_>) -> Manner<'_> {
    manner.think = manner.think.map(|think| if think == Think::On { Think::Medium } else { think });
    manner
}

proptest! {
    #[test]
    fn a_conversation_survives_either_api(chat in chat()) {
        let mut adjusted = Adjusted::default();
        let printed = ollama::write_chat(&chat, "m", &Pins::default(), Writer::default());
        prop_assert_eq!(&ollama::read_chat(node(&printed), &mut adjusted).unwrap(), &chat);
        let printed = openai::write_chat(&chat, "m", Writer::default());
        let mut wishes = Wishes::default();
        let read = openai::read_chat(node(&printed), &mut wishes, &mut adjusted).unwrap();
        prop_assert_eq!(read, Chat { manner: without_on(chat.manner.clone()), ..chat.clone() });
        prop_assert_eq!(wishes.usage, chat.manner.stream, "the gateway counts by it");
        prop_assert_eq!(adjusted, Adjusted::default());
    }

    #[test]
    fn a_prompt_survives_either_api(prompt in prompt()) {
        let mut adjusted = Adjusted::default();
        let printed = ollama::write_generate(&prompt, "m", &Pins::default(), Writer::default());
        prop_assert_eq!(&ollama::read_generate(node(&printed), &mut adjusted).unwrap(), &prompt);
        // What OpenAI's completions have no word for is never printed for them.
        let manner = Manner { format: None, think: None, ..prompt.manner };
        let prompt = Prompt { system: None, images: Vec::new(), manner, ..prompt };
        let printed = openai::write_completion(&prompt, "m", Writer::default());
        let read = openai::read_completion(node(&printed), &mut Wishes::default(), &mut adjusted).unwrap();
        prop_assert_eq!(read, prompt);
    }

    #[test]
    fn texts_to_embed_survive_either_api(inputs in vec(cow(), 1..4), dimensions in prop::option::of(1..4096u32)) {
        let embed = Embed { inputs, dimensions };
        let mut adjusted = Adjusted::default();
        let printed = ollama::write_embed(&embed, "m", &Pins::default(), Writer::default());
        prop_assert_eq!(&ollama::read_embed(node(&printed), &mut adjusted).unwrap(), &embed);
        let printed = openai::write_embed(&embed, "m", Writer::default());
        prop_assert_eq!(&openai::read_embed(node(&printed), &mut adjusted).unwrap(), &embed);
    }

    /// Whatever a body says, reading it as any API's request yields a request or a failure of the client's.
    #[test]
    fn no_body_is_too_strange(key in prop::sample::select(KEYS), value in crate::json::tests::any_json()) {
        let body = json!({ "model": "m", key: value }).to_string();
        let body = node(body.as_bytes());
        let mut adjusted = Adjusted::default();
        let failures = [
            ollama::read_chat(body, &mut adjusted).err(),
            ollama::read_generate(body, &mut adjusted).err(),
            ollama::read_embed(body, &mut adjusted).err(),
            openai::read_chat(body, &mut Wishes::default(), &mut adjusted).err(),
            openai::read_completion(body, &mut Wishes::default(), &mut adjusted).err(),
            openai::read_embed(body, &mut adjusted).err(),
        ];
        for failure in failures.into_iter().flatten() {
            prop_assert_eq!(failure.code.row().status, 400, "{}", failure.message);
        }
    }
}

const KEYS: &[&str] = &[
    "messages",
    "tools",
    "prompt",
    "input",
    "options",
    "format",
    "think",
    "stream",
    "stop",
    "response_format",
    "tool_choice",
    "reasoning",
    "stream_options",
    "images",
    "n",
    "keep_alive",
    "logprobs",
    "max_completion_tokens",
];

fn ollamas(body: &Value) -> Result<(Chat<'static>, Adjusted), (&'static str, Option<&'static str>, String)> {
    let text: &'static str = Box::leak(body.to_string().into_boxed_str());
    let mut adjusted = Adjusted::default();
    let read = ollama::read_chat(node(text.as_bytes()), &mut adjusted);
    read.map(|chat| (chat, adjusted)).map_err(|failure| (failure.code.row().name, failure.param, failure.message))
}

fn openais(body: &Value) -> Result<(Chat<'static>, Adjusted), (&'static str, Option<&'static str>, String)> {
    let text: &'static str = Box::leak(body.to_string().into_boxed_str());
    let mut adjusted = Adjusted::default();
    let read = openai::read_chat(node(text.as_bytes()), &mut Wishes::default(), &mut adjusted);
    read.map(|chat| (chat, adjusted)).map_err(|failure| (failure.code.row().name, failure.param, failure.message))
}

/// A body with one field more.
fn with(field: &str, value: Value) -> Value {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    body[field] = value;
    body
}

#[test]
fn what_ollama_alone_has_is_refused_by_name() {
    for (field, value, param) in [
        ("options", json!({ "num_ctx": 2 }), "options.num_ctx"),
        ("options", json!({ "mirostat": 1 }), "options.mirostat"),
        ("options", json!({ "top_k": 1 }), "options.top_k"),
        ("logprobs", json!(true), "logprobs"),
        ("truncate", json!(false), "truncate"),
        ("tools", json!([{ "type": "browser", "function": { "name": "x" } }]), "tools[].type"),
    ] {
        let (code, named, message) = ollamas(&with(field, value)).unwrap_err();
        assert_eq!((code, named), ("untranslatable", Some(param)), "{message}");
        assert!(message.contains(&format!("`{param}`")), "{message}");
    }
    for (field, value) in [("whatever", json!(1)), ("options", json!({ "new_thing": 1 }))] {
        let (code, named, message) = ollamas(&with(field, value)).unwrap_err();
        assert_eq!((code, named), ("untranslatable", None), "{message}");
        assert!(message.contains("\"whatever\"") || message.contains("\"new_thing\""), "{message}");
    }
    for (field, value, param) in [
        ("options", json!([]), "options"),
        ("options", json!({ "temperature": "hot" }), "options.temperature"),
        ("messages", json!([{ "content": "x" }]), "messages[].role"),
        ("messages", json!([{ "role": "tool", "content": "x" }]), "messages[].tool_name"),
        ("think", json!("much"), "think"),
        ("format", json!("xml"), "format"),
    ] {
        let (code, named, message) = ollamas(&with(field, value)).unwrap_err();
        assert_eq!((code, named), ("invalid_parameter", Some(param)), "{message}");
    }
}

#[test]
fn what_says_nothing_is_nothing() {
    let plain = ollamas(&with("stream", Value::Null)).unwrap();
    assert!(plain.0.manner.stream, "Ollama streams unless it is told not to");
    for (field, value) in [
        ("logprobs", json!(false)),
        ("truncate", json!(true)),
        ("raw", json!(false)),
        ("template", json!("")),
        ("context", json!([])),
        ("format", json!("")),
        ("tools", json!([])),
        ("options", json!({ "num_ctx": null, "num_predict": -1 })),
    ] {
        assert_eq!(ollamas(&with(field, value)).unwrap(), plain, "{field}");
    }
    let (_, adjusted) = ollamas(&with("keep_alive", json!("5m"))).unwrap();
    assert_eq!(adjusted.header().unwrap(), "keep_alive");

    let plain = openais(&with("stream", Value::Null)).unwrap();
    for (field, value) in [
        ("n", json!(1)),
        ("logprobs", json!(false)),
        ("logit_bias", json!({})),
        ("tool_choice", json!("auto")),
        ("parallel_tool_calls", json!(true)),
        ("modalities", json!(["text"])),
        ("response_format", json!({ "type": "text" })),
        ("stream_options", json!({ "include_obfuscation": false })),
        ("max_completion_tokens", Value::Null),
        ("max_tokens", json!(-1)),
    ] {
        assert_eq!(openais(&with(field, value)).unwrap(), plain, "{field}");
    }
    let mut body = with("user", json!("u"));
    body["metadata"] = json!({ "a": "b" });
    body["tools"] = json!([{ "type": "function", "function": { "name": "f", "strict": true } }]);
    assert_eq!(openais(&body).unwrap().1.header().unwrap(), "metadata, tools[].function.strict, user");
}

#[test]
fn what_openai_alone_has_is_refused_by_name() {
    for (field, value, param) in [
        ("n", json!(2), "n"),
        ("logprobs", json!(true), "logprobs"),
        ("logit_bias", json!({ "5": 1 }), "logit_bias"),
        ("tool_choice", json!("required"), "tool_choice"),
        ("tool_choice", json!({ "type": "function", "function": { "name": "f" } }), "tool_choice"),
        ("parallel_tool_calls", json!(false), "parallel_tool_calls"),
        ("modalities", json!(["text", "audio"]), "modalities"),
        ("audio", json!({ "voice": "x" }), "audio"),
        ("response_format", json!({ "type": "grammar" }), "response_format.type"),
        ("reasoning_effort", json!("minimal"), "reasoning_effort"),
        ("messages", json!([{ "role": "function", "content": "x" }]), "messages[].role"),
        (
            "messages",
            json!([{ "role": "user", "content": [{ "type": "input_audio", "input_audio": {} }] }]),
            "messages[].content[].type",
        ),
        (
            "messages",
            json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "https://x/y.png" } }] }]),
            "messages[].content[].image_url",
        ),
        (
            "messages",
            json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } }] }]),
            "messages[].content[].image_url",
        ),
    ] {
        let (code, named, message) = openais(&with(field, value)).unwrap_err();
        assert_eq!((code, named), ("untranslatable", Some(param)), "{message}");
    }
    for (field, value, param) in [
        ("messages", json!([]), "messages"),
        ("messages", json!("hi"), "messages"),
        ("messages", json!([{ "role": "tool", "content": "x" }]), "messages[].tool_call_id"),
        ("max_completion_tokens", json!("5"), "max_completion_tokens"),
        (
            "messages",
            json!([{ "role": "assistant", "tool_calls": [{ "id": "a", "function": { "name": "f", "arguments": "{" } }] }]),
            "messages[].tool_calls[].function.arguments",
        ),
    ] {
        let (code, named, message) = openais(&with(field, value)).unwrap_err();
        assert_eq!((code, named), ("invalid_parameter", Some(param)), "{message}");
    }
}

#[test]
fn tool_results_find_their_calls() {
    let call = |name: &str| json!({ "function": { "name": name, "arguments": { "a": 1 } } });
    let said = json!([
        { "role": "user", "content": "hi" },
        { "role": "assistant", "content": "", "tool_calls": [call("f"), call("g"), call("f")] },
        { "role": "tool", "tool_name": "g", "content": "of g" },
        { "role": "tool", "tool_name": "f", "content": "of the first f" },
        { "role": "tool", "content": "of the second f" },
        { "role": "assistant", "content": "", "tool_calls": [call("f")] },
        { "role": "tool", "tool_name": "f", "content": "of the last f" },
    ]);
    let (chat, _) = ollamas(&with("messages", said)).unwrap();
    let printed: Value = serde_json::from_slice(&openai::write_chat(&chat, "m", Writer::default())).unwrap();
    let ids = |at: usize| {
        let calls = printed["messages"][at]["tool_calls"].as_array().unwrap();
        calls.iter().map(|call| call["id"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((ids(1), ids(5)), (vec!["call_0", "call_1", "call_2"], vec!["call_3"]));
    let answered: Vec<&str> =
        [2, 3, 4, 6].iter().map(|at| printed["messages"][*at]["tool_call_id"].as_str().unwrap()).collect();
    assert_eq!(answered, ["call_1", "call_0", "call_2", "call_3"]);
    assert_eq!(printed["messages"][1]["tool_calls"][0]["function"]["arguments"], r#"{"a":1}"#);

    // And back: the results name their tools.
    let (chat, _) = openais(&printed).unwrap();
    let printed: Value =
        serde_json::from_slice(&ollama::write_chat(&chat, "m", &Pins::default(), Writer::default())).unwrap();
    let named: Vec<&str> =
        [2, 3, 4, 6].iter().map(|at| printed["messages"][*at]["tool_name"].as_str().unwrap()).collect();
    assert_eq!(named, ["g", "f", "f", "f"]);
    assert_eq!(printed["messages"][1]["tool_calls"][0]["function"]["arguments"], json!({ "a": 1 }));
}

/// A body of 32 MiB has room for so many and more; whoever looks at all before for each holds up a core for minutes.
/// How long it takes to read chats, in Ollama's words and in OpenAI's, in which so many results answer so many calls.
fn reading_results(many: usize) -> std::time::Duration {
    let body = |arguments: &str, results: &mut dyn Iterator<Item = String>| {
        let call = |number| {
            format!(r#"{{"id":"c{number}","type":"function","function":{{"name":"f","arguments":{arguments}}}}}"#)
        };
        let calls = (0..many).map(call).collect::<Vec<_>>().join(",");
        let results = results.map(|of| format!(r#",{{"role":"tool",{of},"content":""}}"#)).collect::<String>();
        format!(r#"{{"messages":[{{"role":"assistant","content":"","tool_calls":[{calls}]}}{results}]}}"#)
    };
    let of = |number: usize| format!(r#""tool_call_id":"c{number}""#);
    let ollamas =
        [body("{}", &mut (0..many).rev().map(of)), body("{}", &mut (0..many).map(|_| r#""tool_name":"f""#.to_owned()))];
    let openais = [
        body(r#""{}""#, &mut (0..many).map(of)),
        body(r#""{}""#, &mut (0..many).map(|_| r#""tool_call_id":"none""#.to_owned())),
    ];
    let began = std::time::Instant::now();
    for body in &ollamas {
        let chat = ollama::read_chat(node(body.as_bytes()), &mut Adjusted::default()).unwrap();
        assert!(chat.messages.len() == many + 1 && chat.messages[1].answers.is_some());
    }
    for body in &openais {
        let chat = openai::read_chat(node(body.as_bytes()), &mut Wishes::default(), &mut Adjusted::default()).unwrap();
        assert!(chat.messages.len() == many + 1 && chat.messages[1].answers.is_some());
    }
    began.elapsed()
}

#[test]
fn sixteen_times_the_results_take_no_256_times_the_time() {
    let (few, many) = (reading_results(1_000), reading_results(16_000));
    assert!(many < few * 100, "{few:?}, {many:?}");
}
