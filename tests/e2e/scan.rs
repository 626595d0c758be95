//! The body's scan beside the reader that Ollama has: Go's.

use std::cell::{Cell, RefCell};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Cases, TestRunner};
use tutti_api::{Engine, HumanDuration, KeepAlive, PoolSpec, RunnerSpec};
use tutti_gateway::classify::{self, Api, Pins, Rewrite, Wanted};
use tutti_rig::{Decoded, GoJson};

/// The name that every accepted body is made to say.
const ENGINE: &str = "acme/risk:v2-1a2b3c4d5e6f";

fn wanted(pins: &Pins) -> Wanted<'_> {
    Wanted { model: ENGINE, engine: Engine::Ollama, pins }
}

/// Keys that are controlled, look so to some readers, or only nearly.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => select(vec!["model", "stream", "messages", "options", "x", ""]).prop_map(str::to_owned),
        3 => select(vec![
            "Model", "MODEL", "mOdel", "Stream", "\u{17f}tream", "\\u0073tream", "\\u006dodel", "m\\u006fdel",
            "\\u017ftream", "model ", "mode", "models", "\\ud800model", "model\\u0000", "m\\odel", "\u{212a}eep_alive",
        ]).prop_map(str::to_owned),
        1 => "[a-zé]{0,8}",
    ]
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("null".to_owned()),
        select(vec!["0", "-1", "1e9", "01", "1.", "-", "1e", "+1", "NaN", "tru"]).prop_map(str::to_owned),
        "[a-z:/ 数\u{1f600}]{0,6}".prop_map(|text| format!("\"{text}\"")),
        select(vec![
            r#""a\nb""#,
            r#""\ud83d\ude00""#,
            r#""\ud83d""#,
            r#""\u00e9""#,
            r#""\x""#,
            "\"\t\"",
            "\"open",
            r#""risk""#,
            r#""\u0072isk""#,
            r#""RISK:latest""#,
            r#""\"""#,
            r#""\\""#,
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::vec((key(), inner), 0..4).prop_map(|members| object(&members, ",")),
        ]
    })
}

fn object(members: &[(String, String)], comma: &str) -> String {
    let members: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    format!("{{{}}}", members.join(comma))
}

/// Bodies: mostly objects with the members that matter, then what is done to them on the way.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let filler = prop_oneof![60 => Just(0), 1 => Just(1_100_000)];
    let comma = select(vec![",", " , ", ",\r\n\t", ",,", ""]);
    let comma = prop_oneof![5 => Just(","), 1 => comma];
    let spoil = prop_oneof![
        12 => Just(Spoil::Nothing),
        1 => any::<prop::sample::Index>().prop_map(Spoil::Truncate),
        1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Spoil::Replace(at, byte)),
        1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Spoil::Insert(at, byte)),
        1 => select(vec!["\u{feff}", " \n", "{}", "\0", "//x\n"]).prop_map(Spoil::Before),
        1 => select(vec![" ", "{}", "x", "\0", "]"]).prop_map(Spoil::After),
    ];
    let model = prop_oneof![4 => Just(true), 1 => Just(false)];
    (proptest::collection::vec((key(), value()), 0..6), comma, filler, model, spoil).prop_map(
        |(mut members, comma, filler, model, spoil)| {
            if filler > 0 {
                members.insert(0, ("prompt".to_owned(), format!("\"{}\"", "长".repeat(filler / 3)))); // `stream` after 1 MB
            }
            if model {
                members.push(("model".to_owned(), "\"risk\"".to_owned()));
            }
            spoil.applied(object(&members, comma).into_bytes())
        },
    )
}

#[derive(Clone, Debug)]
enum Spoil {
    Nothing,
    Truncate(prop::sample::Index),
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Before(&'static str),
    After(&'static str),
}

impl Spoil {
    fn applied(&self, mut body: Vec<u8>) -> Vec<u8> {
        match self {
            Spoil::Nothing => {}
            Spoil::Truncate(at) => body.truncate(at.index(body.len())),
            Spoil::Replace(at, byte) => {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            Spoil::Insert(at, byte) => body.insert(at.index(body.len()), *byte),
            Spoil::Before(text) => body.splice(0..0, text.bytes()).for_each(drop),
            Spoil::After(text) => body.extend_from_slice(text.as_bytes()),
        }
        body
    }
}

#[test]
fn what_is_accepted_says_to_go_what_it_says_to_us() {
    let go = RefCell::new(GoJson::start().unwrap());
    let cases = Cases::default().cases.max(3000); // more by PROPTEST_CASES
    let mut runner = TestRunner::new(Cases { cases, failure_persistence: None, ..Cases::default() });
    let none = Pins::default();
    let (accepted, refused) = (Cell::new(0), Cell::new(0));
    let outcome = runner.run(&body(), |body| {
        match classify::read(Api::OllamaChat, None, &body) {
            Ok(reading) => {
                accepted.set(accepted.get() + 1);
                let pieces = {
                    let body = bytes::Bytes::from(body.clone());
                    reading.rewrite(&body, &wanted(&none)).unwrap().edits.apply(&body)
                };
                let sent: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
                let decoded = go.borrow_mut().decode(&sent).unwrap();
                prop_assert!(decoded.valid && decoded.decoded, "Go does not take {:?}", show(&sent));
                prop_assert_eq!(&decoded.model, ENGINE, "{:?}", show(&sent));
                prop_assert_eq!(decoded.stream.unwrap_or(true), reading.facts.stream, "{:?}", show(&sent));
                let before = go.borrow_mut().decode(&body).unwrap();
                prop_assert_eq!(&before.model, &reading.facts.model, "the client's own name: {:?}", show(&body));
            }
            Err(failure) => {
                refused.set(refused.get() + 1);
                // What serde takes, Go takes, and nobody can read in two ways, is not refused.
                let plain = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body);
                if let Ok(plain) = plain {
                    let known = ["model", "stream", "messages", "x", "prompt"];
                    let text = String::from_utf8_lossy(&body);
                    let once = |key: &str| text.matches(key).count() <= 1;
                    let plainly = plain.keys().all(|key| known.contains(&key.as_str()))
                        && !text.contains("\\u00")
                        && once("\"model\"")
                        && once("\"stream\"")
                        && plain.get("model").and_then(serde_json::Value::as_str).is_some_and(is_name)
                        && plain.get("stream").is_none_or(|stream| stream.is_boolean());
                    prop_assert!(!plainly, "refused ({}): {:?}", failure.message, show(&body));
                }
            }
        }
        Ok(())
    });
    outcome.unwrap();
    assert!(accepted.get() > 100 && refused.get() > 100, "both happen: {accepted:?} accepted, {refused:?} refused");
}

/// A bound of tokens, as somebody may write it.
fn bound() -> impl Strategy<Value = &'static str> {
    select(vec!["5", " 1 ", "null", "-1", "1e2", "\"5\"", "{}"])
}

#[test]
fn the_newer_bound_of_tokens_is_the_one_that_go_reads() {
    let go = RefCell::new(GoJson::start().unwrap());
    let keys = select(vec!["max_tokens", "max_completion_tokens", "max\\u005ftokens", "Max_tokens", "x"]);
    let members = proptest::collection::vec((keys.prop_map(str::to_owned), bound().prop_map(str::to_owned)), 0..4);
    let (honoured, none) = (Cell::new(0), Pins::default());
    let mut runner = TestRunner::new(Cases { cases: 2000, failure_persistence: None, ..Cases::default() });
    let outcome = runner.run(&members, |mut members| {
        members.push(("model".to_owned(), "\"risk\"".to_owned()));
        let body = bytes::Bytes::from(object(&members, ","));
        let Ok(reading) = classify::read(Api::OpenAiChat, None, &body) else { return Ok(()) };
        let before = go.borrow_mut().decode(&body).unwrap();
        let Ok(Rewrite { edits, .. }) = reading.rewrite(&body, &wanted(&none)) else {
            prop_assert!(["\"5\"", "{}"].contains(&before.max_completion_tokens.as_str()), "{:?}", show(&body));
            return Ok(());
        };
        let after = go.borrow_mut().decode(&edits.apply(&body).concat()).unwrap();
        let newer = &before.max_completion_tokens;
        let says = !["", "null"].contains(&newer.as_str());
        honoured.set(honoured.get() + usize::from(says));
        let expected = if says { newer } else { &before.max_tokens };
        prop_assert_eq!(&after.max_tokens, expected, "{:?}", show(&body));
        prop_assert_eq!(&after.model, ENGINE);
        Ok(())
    });
    outcome.unwrap();
    assert!(honoured.get() > 100, "{honoured:?} with a newer bound");
}

/// The members of `options`, or what somebody may write in their place.
fn options() -> impl Strategy<Value = String> {
    let keys =
        select(vec!["num_ctx", "num_ctx", "NUM_CTX", "num\\u005fctx", "num_gpu", "use_mmap", "seed", "\\ud800", ""]);
    let values =
        select(vec!["8192", "8192.5", "4096", "-1", "null", "true", "false", "\"x\"", "{\"num_ctx\":1}", "[8192]"]);
    let members = proptest::collection::vec((keys.prop_map(str::to_owned), values.prop_map(str::to_owned)), 0..5);
    let comma = select(vec![",", " , ", ",\n\t"]);
    prop_oneof![
        8 => (members, comma).prop_map(|(members, comma)| object(&members, comma)),
        1 => select(vec!["null", "{ }", "5", "[]", "\"num_ctx\""]).prop_map(str::to_owned),
        1 => Just("{\"use_mmap\":true,\"num_ctx\":8192}".to_owned()),
    ]
}

#[test]
fn what_a_pool_pins_is_what_go_reads_and_all_else_is_the_clients() {
    let pins = Pins::of(&PoolSpec {
        runner: Some(RunnerSpec { num_ctx: Some(8192), use_mmap: Some(true), ..RunnerSpec::default() }),
        keep_alive: KeepAlive::For(HumanDuration::from_secs(300)),
        ..PoolSpec::default()
    });
    let go = RefCell::new(GoJson::start().unwrap());
    let member = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let stay = select(vec!["300", "\"5m\"", "\"5m0s\"", "\"1h\"", "0", "null", "[]"]);
    let fields =
        (proptest::option::of(options()), proptest::option::of(stay), proptest::option::of(value()), any::<bool>());
    let (accepted, untouched) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(Cases { cases: 4000, failure_persistence: None, ..Cases::default() });
    let outcome = runner.run(&fields, |(options, stay, other, last)| {
        let mut members = vec![member("model", &format!("\"{ENGINE}\""))];
        members.extend(options.as_deref().map(|options| member("options", options)));
        members.extend(stay.map(|stay| member("keep_alive", stay)));
        members.extend(other.as_deref().map(|other| member("x", other)));
        if last {
            members.reverse();
        }
        let body = bytes::Bytes::from(object(&members, ","));
        let Ok(reading) = classify::read(Api::OllamaGenerate, None, &body) else { return Ok(()) };
        let before = go.borrow_mut().decode(&body).unwrap();
        let Ok(Rewrite { edits, adjusted }) = reading.rewrite(&body, &wanted(&pins)) else { return Ok(()) };
        accepted.set(accepted.get() + 1);
        let sent = edits.apply(&body).concat();
        let after = go.borrow_mut().decode(&sent).unwrap();
        prop_assert!(after.decoded && after.valid, "{:?}", show(&sent));
        for (name, json) in pins.options() {
            let got = after.options.get(name).map(String::as_str);
            prop_assert!(got == Some(json) || (name == "num_ctx" && got == Some("8192.5")), "{:?}", show(&sent));
        }
        prop_assert!(["300", "\"5m\"", "\"5m0s\""].contains(&&*after.keep_alive), "{:?}", show(&sent));
        let others = |decoded: &Decoded| {
            let mut others = decoded.options.clone();
            others.retain(|name, _| !pins.options().any(|(pinned, _)| pinned == name));
            others
        };
        prop_assert_eq!(others(&before), others(&after), "{:?}", show(&sent));
        prop_assert_eq!((&before.model, before.stream), (&after.model, after.stream));
        prop_assert_eq!(adjusted.is_none(), sent == body, "what is changed is said: {:?}", show(&body));
        untouched.set(untouched.get() + usize::from(adjusted.is_none()));
        Ok(())
    });
    outcome.unwrap();
    assert!(accepted.get() > 1000 && untouched.get() > 0, "{accepted:?} accepted, {untouched:?} of them untouched");
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(char::is_control)
}

fn show(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned()
}
