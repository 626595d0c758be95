//! `/v1/responses` and `/v1/messages`, as Ollama answers them from 0.13 and 0.14 on (its openai/responses.go and
//! anthropic/anthropic.go).

use std::time::SystemTime;

use bytes::Bytes;
use serde_json::{Value, json};

use super::time::unix;
use super::{Api, Reply};
use crate::engine::Timing;

/// Prints the answer to one request.
#[derive(Debug)]
pub(super) struct Later<'a> {
    pub(super) api: Api,
    pub(super) model: &'a str,
    pub(super) id: &'a str,
}

/// An error in Anthropic's shape.
pub(super) fn error(status: u16, message: &str) -> Reply {
    let kind = match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        503 => "overloaded_error",
        _ => "api_error",
    };
    Reply::openai(
        status,
        &json!({ "type": "error", "error": { "type": kind, "message": message }, "request_id": "req_1" }),
    )
}

/// Events with their names, each with the number it has in its stream where responses want one.
fn events(events: impl IntoIterator<Item = Value>, first: Option<u32>) -> Bytes {
    let mut bytes = Vec::new();
    for (at, mut event) in (0..).zip(events) {
        if let Some(first) = first {
            event["sequence_number"] = (first + at).into();
        }
        let name = event["type"].as_str().unwrap_or_default().to_owned();
        bytes.extend_from_slice(format!("event: {name}\ndata: {event}\n\n").as_bytes());
    }
    bytes.into()
}

/// Events of a stream of responses before the first token's own.
const BEFORE: u32 = 4;

impl Later<'_> {
    /// The stream's part for token `n`, from 0, with what comes before the first.
    pub(super) fn token(&self, n: u32, word: &str) -> Bytes {
        let mut all = Vec::new();
        if self.api == Api::Messages {
            if n == 0 {
                let message = json!({
                    "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
                    "usage": { "input_tokens": 1, "output_tokens": 0 },
                });
                all.push(json!({ "type": "message_start", "message": message }));
                let block = json!({ "type": "text", "text": "" });
                all.push(json!({ "type": "content_block_start", "index": 0, "content_block": block }));
            }
            let delta = json!({ "type": "text_delta", "text": word });
            all.push(json!({ "type": "content_block_delta", "index": 0, "delta": delta }));
            return events(all, None);
        }
        if n == 0 {
            let begun = self.response("in_progress", &json!([]), &Value::Null);
            let item = json!({ "id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": [] });
            all.extend([
                json!({ "type": "response.created", "response": begun }),
                json!({ "type": "response.in_progress", "response": begun }),
                json!({ "type": "response.output_item.added", "output_index": 0, "item": item }),
                json!({
                    "type": "response.content_part.added", "item_id": "msg_1", "output_index": 0, "content_index": 0,
                    "part": part(""),
                }),
            ]);
        }
        all.push(json!({
            "type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": word,
            "logprobs": [],
        }));
        events(all, Some(if n == 0 { 0 } else { BEFORE + n }))
    }

    /// The stream's end.
    pub(super) fn last(&self, text: &str, timing: &Timing, reason: &str) -> Bytes {
        if self.api == Api::Messages {
            return events(
                [
                    json!({ "type": "content_block_stop", "index": 0 }),
                    json!({ "type": "message_delta", "delta": { "stop_reason": stop(reason) }, "usage": usage(timing) }),
                    json!({ "type": "message_stop" }),
                ],
                None,
            );
        }
        let item = item(text);
        let done = |name: &str, field: &str, value: &Value| {
            let mut event = json!({ "type": name, "item_id": "msg_1", "output_index": 0, "content_index": 0 });
            event[field] = value.clone();
            event
        };
        let (status, kind) = if reason == "length" {
            ("incomplete", "response.incomplete")
        } else {
            ("completed", "response.completed")
        };
        let response = self.response(status, &json!([item]), &usage(timing));
        events(
            [
                done("response.output_text.done", "text", &json!(text)),
                done("response.content_part.done", "part", &part(text)),
                json!({ "type": "response.output_item.done", "output_index": 0, "item": item }),
                json!({ "type": kind, "response": response }),
            ],
            Some(BEFORE + timing.tokens),
        )
    }

    /// A failure that is said, in mid-stream.
    pub(super) fn error_event(&self) -> Bytes {
        let error = json!({ "type": "api_error", "code": "server_error", "message": "the engine died" });
        if self.api == Api::Messages {
            return events([json!({ "type": "error", "error": error })], None);
        }
        let mut failed = self.response("failed", &json!([]), &Value::Null);
        failed["error"] = error;
        events([json!({ "type": "response.failed", "response": failed })], Some(BEFORE))
    }

    /// The answer in one document.
    pub(super) fn whole(&self, text: &str, timing: &Timing, reason: &str) -> Value {
        if self.api == Api::Messages {
            return json!({
                "id": self.id, "type": "message", "role": "assistant", "model": self.model,
                "content": [{ "type": "text", "text": text }], "stop_reason": stop(reason), "usage": usage(timing),
            });
        }
        let status = if reason == "length" { "incomplete" } else { "completed" };
        self.response(status, &json!([item(text)]), &usage(timing))
    }

    fn response(&self, status: &str, output: &Value, usage: &Value) -> Value {
        let incomplete = (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
        json!({
            "id": self.id, "object": "response", "created_at": unix(SystemTime::now()), "status": status,
            "incomplete_details": incomplete, "model": self.model, "output": output, "error": null, "usage": usage,
            "tools": [], "tool_choice": "auto", "parallel_tool_calls": true, "text": { "format": { "type": "text" } },
            "top_p": 1.0, "temperature": 1.0, "store": false, "metadata": {},
        })
    }
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

fn item(text: &str) -> Value {
    json!({ "id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part(text)] })
}

fn usage(timing: &Timing) -> Value {
    json!({
        "input_tokens": timing.prompt_tokens, "output_tokens": timing.tokens,
        "total_tokens": timing.prompt_tokens.saturating_add(timing.tokens),
        "input_tokens_details": { "cached_tokens": 0 }, "output_tokens_details": { "reasoning_tokens": 0 },
    })
}

/// Anthropic's word for why an answer ended.
fn stop(reason: &str) -> &'static str {
    if reason == "length" { "max_tokens" } else { "end_turn" }
}
