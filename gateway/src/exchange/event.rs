//! What a replica says in an answer, apart from how it says it.
//!
//! A dialect is a parser (a line into an [`Event`]) and a printer (an event into bytes). Ollama's wire shapes are those
//! of its 0.11.4; OpenAI's are its chat-completions stream as Ollama speaks it.

mod named;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use crate::classify::{Api, Dialect};
use crate::dialect::Usage;
use crate::errors::Failure;
use crate::json::{self, Kind, Malformed, Member};

/// How an answer is cut into events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// The body is one JSON object.
    Whole,
    /// A JSON object a line (`application/x-ndjson`); the last has `"done": true`.
    Ndjson,
    /// Server-sent events: `data: {…}`, the last `data: [DONE]`.
    Sse,
    /// Server-sent events with names, each an object that says its `type`: the last is `response.completed` or
    /// `response.incomplete` (OpenAI's responses), or `message_stop` (Anthropic's messages).
    Named,
}

impl Framing {
    /// How a dialect streams.
    pub fn of_stream(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenAi => Framing::Sse,
            Dialect::Anthropic => Framing::Named,
            Dialect::Ollama => Framing::Ndjson,
        }
    }

    /// How an API streams.
    pub(crate) fn of_api(api: Api) -> Self {
        if api == Api::OpenAiResponses { Framing::Named } else { Self::of_stream(api.dialect()) }
    }

    /// Whether an event ends with a blank line.
    pub(super) fn is_sse(self) -> bool {
        matches!(self, Framing::Sse | Framing::Named)
    }
}

/// A step of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A piece of the answer; with the usage so far where it is said (OpenAI says it in a chunk before the end).
    Delta(Option<Usage>),
    /// A step that brings nothing of the answer itself.
    Step(Option<Usage>),
    /// The end of an answer that is whole.
    Done(Option<Usage>),
    /// The replica gave up, and why.
    Error(String),
}

/// A piece of an answer that was read: what it means, and where it names its model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) event: Event,
    /// The value of its `model`, quotes included.
    pub(super) model: Option<Range<usize>>,
}

/// Reads a line of a stream, without its line end; `None` for lines that carry nothing (blank, comment, event name).
pub(super) fn parse(framing: Framing, line: &[u8]) -> Option<Result<Piece, Malformed>> {
    match framing {
        Framing::Whole => Some(object(line, false)),
        Framing::Ndjson if line.trim_ascii().is_empty() => None,
        Framing::Ndjson => Some(object(line, true)),
        Framing::Sse => {
            let (at, data) = data_of(line)?;
            if data.trim_ascii() == b"[DONE]" {
                return Some(Ok(Piece { event: Event::Done(None), model: None }));
            }
            Some(object(data, true).map(|mut piece| {
                piece.model = piece.model.map(|range| shifted(range, at));
                // The stream's end is `[DONE]`, whatever else a chunk looks like.
                if let Event::Done(usage) = piece.event {
                    piece.event = Event::Delta(usage);
                }
                piece
            }))
        }
        Framing::Named => {
            let (at, data) = data_of(line)?;
            Some(named::object(data).map(|piece| Piece { model: piece.model.map(|range| shifted(range, at)), ..piece }))
        }
    }
}

/// What an event's line carries, and where in the line it begins; some servers send empty ones to be heard.
fn data_of(line: &[u8]) -> Option<(usize, &[u8])> {
    let data = line.strip_prefix(b"data:").filter(|data| !data.trim_ascii().is_empty())?;
    Some((line.len() - data.len(), data))
}

fn shifted(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

/// Reads an object of either dialect. A whole answer is done by being whole; a line of a stream says it.
fn object(text: &[u8], in_stream: bool) -> Result<Piece, Malformed> {
    let (mut model, mut usage, mut error, mut done) = (None, None, None, !in_stream);
    let mut native = Usage::default();
    json::members(text, |Member { key, value, kind }| match &text[key] {
        b"model" if kind == Kind::String => model = Some(value),
        b"done" => done = kind == Kind::True,
        b"prompt_eval_count" => native.input = number(&text[value]),
        b"eval_count" => native.output = number(&text[value]),
        b"load_duration" => native.loading = Duration::from_nanos(number(&text[value])),
        b"usage" if kind == Kind::Object => usage = Some(usage_of(&text[value])),
        b"error" if kind != Kind::Null => error = Some(value),
        _ => {}
    })?;
    let usage = usage.or((native != Usage::default()).then_some(native));
    let event = match error {
        Some(value) => Event::Error(message_of(&text[value])),
        None if done => Event::Done(usage),
        None => Event::Delta(usage),
    };
    Ok(Piece { event, model })
}

/// A usage object: OpenAI's, or as its responses and Anthropic's messages have it.
fn usage_of(text: &[u8]) -> Usage {
    let (mut usage, mut read, mut written) = (Usage::default(), 0, 0);
    // The value is well formed: the object around it was read already.
    let _ = json::members(text, |Member { key, value, .. }| match &text[key] {
        b"prompt_tokens" | b"input_tokens" => usage.input = number(&text[value]),
        b"completion_tokens" | b"output_tokens" => usage.output = number(&text[value]),
        b"cache_read_input_tokens" => read = number(&text[value]),
        b"cache_creation_input_tokens" => written = number(&text[value]),
        b"prompt_tokens_details" | b"input_tokens_details" => usage.cached = cached_of(&text[value]),
        _ => {}
    });
    // OpenAI counts them in the prompt's, Anthropic beside them.
    let input = usage.input.saturating_add(read).saturating_add(written);
    Usage { input, cached: usage.cached.saturating_add(read), ..usage }
}

/// What OpenAI says of a prompt's tokens: how many were in memory. A value that is no object says nothing.
fn cached_of(text: &[u8]) -> u64 {
    let mut cached = 0;
    let _ = json::members(text, |Member { key, value, .. }| {
        if &text[key] == b"cached_tokens" {
            cached = number(&text[value]);
        }
    });
    cached
}

/// How long an answer of `/api/embed` says that it had waited for weights: it stands behind its vectors, which are not read for
/// that.
pub(crate) fn loading_of_vectors(body: &[u8]) -> Duration {
    let rest = memchr::memrchr(b']', body).map_or(&[][..], |at| &body[at + 1..]);
    let Some(rest) = rest.trim_ascii_start().strip_prefix(b",") else { return Duration::ZERO };
    match object(&[b"{", rest].concat(), false) {
        Ok(Piece { event: Event::Done(Some(usage)), .. }) => usage.loading,
        _ => Duration::ZERO,
    }
}

fn number(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// `"error": "…"` (Ollama) or `"error": {"message": "…"}` (OpenAI).
fn message_of(text: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    let message = value.as_str().or_else(|| value["message"].as_str());
    message.unwrap_or("the replica reported an error").to_owned()
}

/// Prints an error event, so that the client knows that its stream is not whole. `number`: how many events were before.
pub(super) fn print_error(framing: Framing, failure: &Failure, dialect: Dialect, number: u64) -> Bytes {
    let error = failure.json(dialect);
    match framing {
        Framing::Sse => Bytes::from(format!("data: {error}\n\n")),
        Framing::Ndjson | Framing::Whole => Bytes::from(format!("{error}\n")),
        Framing::Named if dialect == Dialect::OpenAi => named::print_error(failure, number),
        Framing::Named => Bytes::from(format!("event: error\ndata: {error}\n\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(framing: Framing, line: &str) -> Option<Event> {
        parse(framing, line.as_bytes()).map(|piece| piece.unwrap().event)
    }

    #[test]
    fn both_dialects_say_the_same_things() {
        let some = |input, output| Some(Usage { input, output, ..Usage::default() });
        for (framing, line, expected) in [
            (
                Framing::Ndjson,
                r#"{"model":"m","message":{"content":"a","done":true},"done":false}"#,
                Some(Event::Delta(None)),
            ),
            (
                Framing::Ndjson,
                r#"{"model":"m","done":true,"prompt_eval_count":5,"eval_count":7}"#,
                Some(Event::Done(some(5, 7))),
            ),
            (Framing::Ndjson, r#"{"error":"out of memory"}"#, Some(Event::Error("out of memory".into()))),
            (Framing::Ndjson, "  ", None),
            (Framing::Sse, r#"data: {"model":"m","choices":[]}"#, Some(Event::Delta(None))),
            (
                Framing::Sse,
                r#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#,
                Some(Event::Delta(some(3, 4))),
            ),
            (Framing::Sse, r#"data: {"error":{"message":"no"}}"#, Some(Event::Error("no".into()))),
            (Framing::Sse, "data: [DONE]", Some(Event::Done(None))),
            (Framing::Sse, ": a comment", None),
            (Framing::Sse, "", None),
            (Framing::Sse, "data: ", None),
            (Framing::Named, "data:", None),
            (
                Framing::Whole,
                r#"{"model":"m","usage":{"prompt_tokens":3,"completion_tokens":4}}"#,
                Some(Event::Done(some(3, 4))),
            ),
        ] {
            assert_eq!(event(framing, line), expected, "{line}");
        }
        assert!(parse(Framing::Ndjson, b"garbage").unwrap().is_err());
    }

    #[test]
    fn tokens_from_memory_are_among_the_prompts() {
        for (usage, expected) in [
            (
                r#"{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"audio":1,"cached_tokens":4}}"#,
                (9, 4),
            ),
            (r#"{"input_tokens":9,"output_tokens":2,"input_tokens_details":{"cached_tokens":4}}"#, (9, 4)),
            (r#"{"input_tokens":5,"cache_read_input_tokens":4,"output_tokens":2}"#, (9, 4)),
            (
                r#"{"input_tokens":2,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,"output_tokens":2}"#,
                (9, 4),
            ),
            (r#"{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":null}"#, (9, 0)),
        ] {
            let usage = usage_of(usage.as_bytes());
            assert_eq!(((usage.input, usage.cached), usage.output), (expected, 2), "{usage:?}");
        }
    }

    #[test]
    fn an_ollama_tells_how_long_it_waited_for_weights() {
        let line = r#"{"model":"m","done":true,"load_duration":266000000,"prompt_eval_count":5,"eval_count":7}"#;
        let Some(Event::Done(Some(usage))) = event(Framing::Ndjson, line) else { panic!("no end") };
        assert_eq!((usage.loading, usage.output), (Duration::from_millis(266), 7));
        let of = |text: &str| loading_of_vectors(text.as_bytes());
        let vectors = r#"{"model":"m","embeddings":[[1,2],[3,4]],"total_duration":9,"load_duration":3000000}"#;
        assert_eq!(of(vectors), Duration::from_millis(3));
        for none in
            ["", "{}", r#"{"embeddings":[[1]]}"#, r#"{"embeddings":[[1]],"load_duration":"x"}"#, r#"{"data":[[1]]"#]
        {
            assert_eq!(of(none), Duration::ZERO, "{none}");
        }
    }

    #[test]
    fn the_model_is_found_at_its_place_in_the_line() {
        let line = br#"data: {"id":"x","model":"risk:v1"}"#;
        let range = parse(Framing::Sse, line).unwrap().unwrap().model.unwrap();
        assert_eq!(&line[range], br#""risk:v1""#);
    }
}
