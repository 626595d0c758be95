use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

use super::*;
use crate::classify::Api;
use crate::dialect::{Crossing, Done, Piece, Reason};

const NOW: Moment = Moment { at: SystemTime::UNIX_EPOCH, since: Duration::from_millis(1) };

/// All that an answer said, put together.
#[derive(Debug, Default, PartialEq)]
struct Said {
    text: String,
    thinking: String,
    /// Names and arguments.
    calls: Vec<(String, Value)>,
    done: Option<Done>,
    errors: Vec<String>,
}

impl Said {
    /// What the lines of a stream, or a whole answer, say.
    fn of(dialect: Dialect, bytes: &[u8], whole: bool) -> Self {
        let mut parser = Parser::of(dialect);
        let (mut said, mut arguments) = (Self::default(), Vec::<(String, String)>::new());
        let mut step = |step: Step<'_>| match step {
            Step::Text(text) => said.text.push_str(&text),
            Step::Thinking(text) => said.thinking.push_str(&text),
            Step::Call(piece) => {
                arguments.resize_with(arguments.len().max(piece.index + 1), Default::default);
                arguments[piece.index].0.push_str(piece.name.as_deref().unwrap_or_default());
                arguments[piece.index].1.push_str(&piece.arguments);
            }
            Step::Done(done) => said.done = Some(done),
            Step::Error(message) => said.errors.push(message),
        };
        if whole {
            parser.whole(bytes, &mut step).unwrap();
        } else {
            bytes.split(|byte| *byte == b'\n').for_each(|line| parser.line(line, &mut step).unwrap());
        }
        said.calls = arguments.into_iter().map(|(name, text)| (name, serde_json::from_str(&text).unwrap())).collect();
        said
    }
}

/// An answer of a tool-calling chat: pieces of text, calls, an end.
#[derive(Clone, Debug)]
struct Answer {
    pieces: Vec<(bool, String)>,
    calls: Vec<(String, &'static str)>,
    done: Done,
}

prop_compose! {
    fn answer()(
        pieces in vec((any::<bool>(), "[a-zé\"\\\\\n\u{2028}\u{1f600}]{1,8}"), 0..6),
        calls in vec(("[a-z]{1,5}", prop::sample::select(&["{}", r#"{"a":"\u00e9\n","b":[1.5,null]}"#, "{\n  \"a\":\r\n 1\n}"][..])), 0..3),
        length: bool, input in 1..1000u64, output in 1..1000u64,
    ) -> Answer {
        let reason = if length { Reason::Length } else { Reason::Stop };
        Answer { pieces, calls, done: Done { reason, usage: Some(Usage { input, output, ..Usage::default() }) } }
    }
}

impl Answer {
    /// As a stream of a replica of this dialect, or whole.
    fn printed(&self, dialect: Dialect, whole: bool) -> Vec<u8> {
        let mut printer = printer(other(dialect));
        let mut steps: Vec<Step<'_>> = Vec::new();
        for (thinking, text) in &self.pieces {
            steps.push(if *thinking { Step::Thinking(text.into()) } else { Step::Text(text.into()) });
        }
        for (index, (name, arguments)) in self.calls.iter().enumerate() {
            let id = Some(format!("id{index}").into());
            // OpenAI's arguments come in pieces.
            let (first, rest) = arguments.split_at(if dialect == Dialect::OpenAi { 1 } else { arguments.len() });
            steps.push(Step::Call(Piece { index, id, name: Some(name.into()), arguments: first.into() }));
            if !rest.is_empty() {
                steps.push(Step::Call(Piece { index, id: None, name: None, arguments: rest.into() }));
            }
        }
        steps.push(Step::Done(self.done));
        if whole {
            return printer.print_whole(&steps, NOW).unwrap();
        }
        let mut out = Vec::new();
        for step in &steps {
            printer.step(step, NOW, &mut out).unwrap();
        }
        out
    }

    fn said(&self) -> Said {
        let pieces = |wanted: bool| {
            self.pieces.iter().filter(|(thinking, _)| *thinking == wanted).map(|(_, text)| &**text).collect()
        };
        Said {
            text: pieces(false),
            thinking: pieces(true),
            calls: self.calls.iter().map(|(name, text)| (name.clone(), serde_json::from_str(text).unwrap())).collect(),
            done: Some(self.done),
            errors: Vec::new(),
        }
    }
}

fn other(dialect: Dialect) -> Dialect {
    if dialect == Dialect::OpenAi { Dialect::Ollama } else { Dialect::OpenAi }
}

/// What prints for a client of the other dialect than the replica's.
fn printer(replicas: Dialect) -> Printer {
    let (body, from, to) = match replicas {
        Dialect::OpenAi | Dialect::Anthropic => (r#"{"messages":[{"role":"user"}]}"#, Api::OllamaChat, Api::OpenAiChat),
        Dialect::Ollama => {
            let body = r#"{"messages":[{"role":"user"}],"stream_options":{"include_usage":true}}"#;
            (body, Api::OpenAiChat, Api::OllamaChat)
        }
    };
    Crossing::read(from, to, body.as_bytes()).unwrap().printer("risk \"x\"", 7)
}

fn translator(replicas: Dialect) -> Translator {
    Translator::new(replicas, other(replicas), printer(replicas))
}

/// Cuts a text at these places and translates the chunks; yields all that went out, and how it ended.
fn translated(replicas: Dialect, text: &[u8], cuts: &[Index]) -> (Vec<u8>, Translator, Option<Broken>) {
    let mut translator = translator(replicas);
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
    at.sort_unstable();
    let mut out = Vec::new();
    for pair in at.windows(2) {
        match translator.chunk(&text[pair[0]..pair[1]], NOW) {
            Ok(bytes) => out.extend_from_slice(&bytes),
            Err((good, broken)) => {
                out.extend_from_slice(&good);
                return (out, translator, Some(broken));
            }
        }
    }
    let ended = translator.end(NOW);
    out.extend_from_slice(match &ended {
        Ok(left) | Err((left, _)) => left,
    });
    (out, translator, ended.err().map(|(_, broken)| broken))
}

fn dialects() -> impl Strategy<Value = Dialect> {
    prop::sample::select(&[Dialect::OpenAi, Dialect::Ollama][..])
}

/// Whether anything in an answer looks like the end of a whole one.
fn looks_whole(out: &[u8]) -> bool {
    let text = String::from_utf8_lossy(out);
    text.contains("[DONE]") || text.contains("\"done\":true")
}

proptest! {
    #[test]
    fn wherever_a_stream_is_cut_it_says_the_same(answer in answer(), replicas in dialects(), cuts in vec(any::<Index>(), 0..8)) {
        let (out, translator, broken) = translated(replicas, &answer.printed(replicas, false), &cuts);
        prop_assert_eq!(broken, None);
        prop_assert_eq!(Said::of(other(replicas), &out, false), answer.said());
        prop_assert_eq!((translator.is_done(), Some(translator.usage())), (true, answer.done.usage));
    }

    #[test]
    fn a_whole_answer_says_what_the_stream_says(answer in answer(), replicas in dialects()) {
        let mut translator = translator(replicas);
        let out = translator.whole(&answer.printed(replicas, true), NOW).unwrap();
        prop_assert_eq!(Said::of(other(replicas), &out, true), answer.said());
        prop_assert_eq!(Some(translator.usage()), answer.done.usage);
    }

    #[test]
    fn a_stream_cut_short_never_ends_like_a_success(answer in answer(), replicas in dialects(), short in any::<Index>(), cuts in vec(any::<Index>(), 0..4)) {
        let text = answer.printed(replicas, false);
        // Its last line's end, or the blank line behind it, are not missed.
        let whole = text.trim_ascii_end().len();
        let (out, translator, broken) = translated(replicas, &text[..short.index(whole)], &cuts);
        prop_assert!(broken.is_some() && !translator.is_done());
        prop_assert!(!looks_whole(&out), "{}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn a_replicas_error_is_told_and_ends_the_stream(answer in answer(), replicas in dialects(), at in any::<Index>(), cuts in vec(any::<Index>(), 0..4)) {
        let text = answer.printed(replicas, false);
        let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let error: &[u8] = match replicas {
            Dialect::OpenAi | Dialect::Anthropic => b"data: {\"error\":{\"message\":\"boom\",\"type\":\"x\"}}\n",
            Dialect::Ollama => b"{\"error\":\"boom\"}\n",
        };
        lines.insert(at.index((lines.len() - 1).max(1)), error);
        let (out, _, broken) = translated(replicas, &lines.concat(), &cuts);
        prop_assert_eq!(broken, Some(Broken::Said("boom".into())));
        prop_assert_eq!(Said::of(other(replicas), &out, false).errors, ["boom"]);
        prop_assert!(!looks_whole(&out));
    }

    #[test]
    fn nothing_that_a_replica_sends_is_too_strange(text in vec(any::<u8>(), 0..200), replicas in dialects(), whole: bool) {
        if whole {
            let _ = translator(replicas).whole(&text, NOW);
        } else {
            let (out, ..) = translated(replicas, &text, &[]);
            prop_assert!(!looks_whole(&out));
        }
    }
}

#[test]
fn what_servers_say_beside_their_words_is_nothing() {
    let stream = concat!(
        ": a comment\r\n\r\nevent: message\r\nid: 1\r\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\r\n\r\n",
        "data:{\"choices\":[{\"delta\":{\"content\":null,\"reasoning_content\":\"hm\"}}]}\r\n\r\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"logprobs\":null}],\"usage\":null}\r\n\r\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\r\n\r\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\r\n\r\n",
        "data: [DONE]\r\n\r\ndata: what comes after the end\r\n",
    );
    let (out, _, broken) = translated(Dialect::OpenAi, stream.as_bytes(), &[]);
    let lines: Vec<Value> =
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((broken, lines.len()), (None, 3), "{lines:?}");
    assert_eq!(lines[0]["message"], serde_json::json!({ "role": "assistant", "content": "", "thinking": "hm" }));
    assert_eq!(lines[1]["message"]["content"], "hi");
    let last = &lines[2];
    assert_eq!((&last["done"], &last["done_reason"]), (&true.into(), &"length".into()));
    assert_eq!((&last["prompt_eval_count"], &last["eval_count"]), (&3.into(), &2.into()));
    assert_eq!((&last["total_duration"], last.get("eval_duration")), (&1_000_000.into(), None), "nobody said it");
    assert_eq!((&last["model"], &last["created_at"]), (&"risk \"x\"".into(), &"1970-01-01T00:00:00Z".into()));
}

#[test]
fn until_a_replica_counts_a_piece_is_a_token() {
    let mut translator = translator(Dialect::OpenAi);
    for _ in 0..3 {
        translator.chunk(b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n", NOW).unwrap();
    }
    assert_eq!(translator.usage(), Usage { output: 3, ..Usage::default() });
}

#[test]
fn what_is_too_long_or_no_call_is_broken() {
    let mut endless = translator(Dialect::OpenAi);
    let piece = vec![b'x'; MAX_LINE / 2 + 1];
    assert_eq!(endless.chunk(&piece, NOW), Ok(Bytes::new()));
    assert!(matches!(endless.chunk(&piece, NOW), Err((_, Broken::Garbled(_)))));

    let call = |arguments: &str| {
        let call = format!(r#"{{"index":0,"function":{{"name":"f","arguments":"{arguments}"}}}}"#);
        format!("data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{call}]}}}}]}}\n\n")
    };
    let stream = format!("{}data: [DONE]\n\n", call("{\\\"a\\\":"));
    let (out, _, broken) = translated(Dialect::OpenAi, stream.as_bytes(), &[]);
    assert!(matches!(&broken, Some(Broken::Unsayable(why)) if why.contains("no JSON object")), "{broken:?}");
    assert!(!looks_whole(&out));

    let mut many = translator(Dialect::OpenAi);
    let line = call(&"x".repeat(1 << 20));
    let ended = (0..16).find_map(|_| many.chunk(line.as_bytes(), NOW).err());
    assert!(ended.is_some(), "calls without an end are not kept for ever");
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    for (replicas, body, code) in [
        (Dialect::OpenAi, "<html>", Code::UpstreamError),
        (Dialect::OpenAi, "{}", Code::UpstreamError),
        (Dialect::OpenAi, r#"{"choices":[]}"#, Code::UpstreamError),
        (Dialect::OpenAi, r#"{"error":{"message":"no"},"choices":[{}]}"#, Code::UpstreamError),
        (Dialect::Ollama, r#"{"message":{"content":"half"},"done":false}"#, Code::UpstreamError),
        (Dialect::Ollama, r#"{"error":"no"}"#, Code::UpstreamError),
    ] {
        let failure = translator(replicas).whole(body.as_bytes(), NOW).unwrap_err();
        assert_eq!(failure.code, code, "{body}");
        assert!(
            !failure.message.contains("html")
                && (!failure.message.contains("no") || failure.message != "no" || failure.quotes)
        );
    }
}
