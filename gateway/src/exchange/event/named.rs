//! Streams whose events have names: OpenAI's responses and Anthropic's messages, as Ollama speaks them from 0.13 on.
//!
//! Which event it is stands in the object's own `type`, as well as in the line before it.

use std::ops::Range;

use bytes::Bytes;
use serde_json::json;

use super::{Event, Piece, message_of, shifted, usage_of};
use crate::dialect::Usage;
use crate::errors::Failure;
use crate::json::{self, Kind, Malformed, Member};

/// The parts of an event that count, wherever they stand.
#[derive(Default)]
struct Found {
    kind: Range<usize>,
    model: Option<Range<usize>>,
    usage: Option<Usage>,
    error: Option<Range<usize>>,
}

/// Reads an event's object.
pub(super) fn object(text: &[u8]) -> Result<Piece, Malformed> {
    let mut found = Found::default();
    json::members(text, |Member { key, value, kind }| match (&text[key], kind) {
        (b"type", Kind::String) => found.kind = value,
        // `response.created` and its like; `message_start`.
        (b"response" | b"message", Kind::Object) => within(text, value, &mut found),
        (b"usage", Kind::Object) => found.usage = Some(usage_of(&text[value])),
        (b"error", Kind::Object | Kind::String) => found.error = Some(value),
        _ => {}
    })?;
    let Found { kind, model, usage, error } = found;
    let event = match &text[kind] {
        br#""response.completed""# | br#""response.incomplete""# | br#""message_stop""# => Event::Done(usage),
        br#""response.failed""# | br#""error""# => {
            // OpenAI's error event is itself the error; others hold it.
            Event::Error(message_of(error.map_or(text, |error| &text[error])))
        }
        br#""content_block_delta""# => Event::Delta(usage),
        kind if kind.starts_with(b"\"response.") && kind.ends_with(b".delta\"") => Event::Delta(usage),
        _ => Event::Step(usage),
    };
    Ok(Piece { event, model })
}

/// Reads the object that an event is about.
fn within(text: &[u8], object: Range<usize>, found: &mut Found) {
    let inner = &text[object.clone()];
    // It is well formed: the object around it was read already.
    let _ = json::members(inner, |Member { key, value, kind }| match (&inner[key], kind) {
        (b"model", Kind::String) => found.model = Some(shifted(value, object.start)),
        (b"usage", Kind::Object) => found.usage = Some(usage_of(&inner[value])),
        (b"error", Kind::Object) => found.error = Some(shifted(value, object.start)),
        _ => {}
    });
}

/// OpenAI's error event of a stream of responses. Its documentation has the parts at the top; its packages look for
/// `error`, and raise what is in it.
pub(super) fn print_error(failure: &Failure, number: u64) -> Bytes {
    let code = failure.code.row().name;
    let event = json!({
        "type": "error", "sequence_number": number, "code": code, "message": failure.message, "param": null,
        "error": { "type": "server_error", "code": code, "message": failure.message, "param": null },
    });
    Bytes::from(format!("event: error\ndata: {event}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> (Event, Option<String>) {
        let Piece { event, model } = object(text.as_bytes()).unwrap();
        (event, model.map(|range| text[range].to_owned()))
    }

    #[test]
    fn both_apis_say_the_same_things() {
        let some = |input, output| Some(Usage { input, output, ..Usage::default() });
        let model = || Some("\"a:1\"".to_owned());
        for (text, expected) in [
            (
                r#"{"response":{"model":"a:1","output":[{"model":"x"}],"usage":null,"error":null},"sequence_number":0,"type":"response.created"}"#,
                (Event::Step(None), model()),
            ),
            (r#"{"type":"response.output_text.delta","delta":"hi","logprobs":[]}"#, (Event::Delta(None), None)),
            (r#"{"type":"response.output_item.done","item":{"model":"x"}}"#, (Event::Step(None), None)),
            (
                r#"{"type":"response.completed","response":{"model":"a:1","usage":{"input_tokens":3,"output_tokens":2,"total_tokens":5}}}"#,
                (Event::Done(some(3, 2)), model()),
            ),
            (r#"{"type":"response.incomplete","response":{"model":"a:1"}}"#, (Event::Done(None), model())),
            (
                r#"{"type":"response.failed","response":{"model":"a:1","error":{"code":"x","message":"boom"}}}"#,
                (Event::Error("boom".into()), model()),
            ),
            (r#"{"type":"error","code":"x","message":"boom"}"#, (Event::Error("boom".into()), None)),
            (
                r#"{"type":"message_start","message":{"model":"a:1","usage":{"input_tokens":3,"output_tokens":0}}}"#,
                (Event::Step(some(3, 0)), model()),
            ),
            (r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"hi"}}"#, (Event::Delta(None), None)),
            (
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}"#,
                (Event::Step(some(0, 2)), None),
            ),
            (r#"{"type":"ping"}"#, (Event::Step(None), None)),
            (r#"{"type":"message_stop"}"#, (Event::Done(None), None)),
            (r#"{"type":"error","error":{"type":"api_error","message":"boom"}}"#, (Event::Error("boom".into()), None)),
            ("{}", (Event::Step(None), None)),
        ] {
            assert_eq!(event(text), expected, "{text}");
        }
        assert!(object(b"[DONE]").is_err());
    }
}
