//! Answers of the inference endpoints, token by token or whole.

use std::time::SystemTime;

use bytes::Bytes;
use serde::Serialize;

use super::later::Later;
use super::time::{rfc3339, unix};
use super::{Api, Call, Reply, to_json};
use crate::engine::Timing;
use crate::faults::Fault;

/// The token of an answer that tells of its weights, where they lie on the replica's disk.
const WEIGHTS_AT: u32 = 4;
/// Length of an embedding vector.
const DIMENSIONS: usize = 16;

/// Prints the answer to one request.
#[derive(Debug)]
pub(crate) struct Printer {
    api: Api,
    model: String,
    id: String,
    include_usage: bool,
    /// The weights that its answers tell of.
    weights: Option<String>,
}

impl Printer {
    /// A printer for this call; `number` makes the id, which Ollama draws from 999 values.
    pub(crate) fn new(call: &Call, number: u64) -> Self {
        let prefix = if call.api == Api::OpenaiChat { "chatcmpl" } else { "cmpl" };
        let id = format!("{prefix}-{}", number % 999);
        Printer { api: call.api, model: call.model.clone(), id, include_usage: call.include_usage, weights: None }
    }

    /// Has its answers tell of weights, as those of other weights are others: in their fifth token.
    pub(crate) fn of_weights(self, weights: Option<String>) -> Self {
        Printer { weights, ..self }
    }

    fn word(&self, n: u32) -> String {
        match &self.weights {
            Some(weights) if n == WEIGHTS_AT => format!(" {weights}"),
            _ => word(n),
        }
    }

    /// The whole text of an answer.
    fn text(&self, timing: &Timing) -> String {
        (0..timing.tokens).map(|n| self.word(n)).collect()
    }

    /// The content type of a stream.
    pub(crate) fn stream_type(&self) -> &'static str {
        if self.api.is_native() { "application/x-ndjson" } else { "text/event-stream" }
    }

    /// The stream's part for token `n`, from 0.
    pub(crate) fn token(&self, n: u32) -> Bytes {
        if self.api.is_later() {
            return self.later().token(n, &self.word(n));
        }
        self.part(&self.word(n), None, None)
    }

    /// The stream's end.
    pub(crate) fn last(&self, timing: &Timing, reason: &str) -> Bytes {
        if self.api.is_later() {
            return self.later().last(&self.text(timing), timing, reason);
        }
        let part = self.part("", Some(reason), Some(timing));
        if !self.api.is_openai() {
            return part;
        }
        let mut end = part.to_vec();
        if self.include_usage {
            let usage = Some(Usage::from(timing));
            end.extend(sse(&Openai { choices: Vec::new(), usage, ..self.openai(".chunk") }));
        }
        end.extend_from_slice(b"data: [DONE]\n\n");
        end.into()
    }

    /// An error after the header: natively a line that says so; on `/v1` an empty delta, and no `[DONE]` after it, and by
    /// the later APIs nothing at all.
    pub(crate) fn failure(&self) -> Bytes {
        if self.api.is_later() {
            return Bytes::new();
        }
        if self.api.is_openai() {
            let nameless = Printer { model: String::new(), id: self.id.clone(), weights: None, ..*self };
            return nameless.part("", None, None);
        }
        Bytes::from_static(b"{\"error\":\"an error was encountered while running the model: unexpected EOF\"}\n")
    }

    /// An error after the header, as engines say it that say it: an event of its own, which ends the stream.
    pub(crate) fn error_event(&self) -> Bytes {
        match self.api {
            Api::Responses | Api::Messages => self.later().error_event(),
            _ if self.api.is_openai() => Bytes::from_static(b"data: {\"error\":{\"message\":\"the engine died\"}}\n\n"),
            _ => Bytes::from_static(b"{\"error\":\"the engine died\"}\n"),
        }
    }

    fn later(&self) -> Later<'_> {
        Later { api: self.api, model: &self.model, id: &self.id }
    }

    /// The answer in one document.
    pub(crate) fn whole(&self, timing: &Timing, reason: &str) -> Reply {
        let text = self.text(timing);
        if self.api.is_later() {
            return Reply::openai(200, &self.later().whole(&text, timing, reason));
        }
        if self.api.is_openai() {
            let choices = vec![self.choice(&text, Some(reason), false)];
            return Reply::openai(200, &Openai { choices, usage: Some(Usage::from(timing)), ..self.openai("") });
        }
        Reply::native(200, &self.native(&text, Some(reason), Some(timing)))
    }

    /// The answer to a load or an unload, which has no durations.
    pub(crate) fn loaded(&self, reason: &str) -> Reply {
        match self.api {
            Api::Embed => Reply::native(200, &Vectors::new(&self.model, Vec::new(), None)),
            Api::Embeddings => Reply::native(200, &serde_json::json!({ "embedding": [] })),
            _ if self.api.is_openai() => self.whole(&Timing::default(), reason),
            _ => Reply::native(200, &self.native("", Some(reason), None)),
        }
    }

    /// One vector for each input, but for what `fault` makes of them.
    pub(crate) fn vectors(&self, inputs: &[String], timing: &Timing, fault: Option<Fault>) -> Reply {
        let mut vectors: Vec<_> = inputs.iter().map(|text| vector(text)).collect();
        if fault == Some(Fault::TooFewVectors) {
            vectors.pop();
        }
        match self.api {
            Api::Embeddings => Reply::native(200, &serde_json::json!({ "embedding": vectors.first() })),
            Api::Embed => Reply::native(200, &Vectors::new(&self.model, vectors, Some(timing))),
            _ => {
                let last = vectors.len().saturating_sub(1);
                let index = |at| if at == last && fault == Some(Fault::RepeatedIndex) { 0 } else { at };
                let mut data: Vec<_> = vectors
                    .iter()
                    .enumerate()
                    .map(|(at, v)| serde_json::json!({ "object": "embedding", "embedding": v, "index": index(at) }))
                    .collect();
                if fault == Some(Fault::TurnedVectors) {
                    data.reverse();
                }
                let usage = serde_json::json!({
                    "prompt_tokens": timing.prompt_tokens, "total_tokens": timing.prompt_tokens,
                });
                let list = serde_json::json!({ "object": "list", "data": data, "model": self.model, "usage": usage });
                Reply::openai(200, &list)
            }
        }
    }

    fn part(&self, text: &str, reason: Option<&str>, timing: Option<&Timing>) -> Bytes {
        if self.api.is_openai() {
            // Completions carry zeros until the end where usage was asked for; chats carry nothing.
            let usage = (self.include_usage && self.api == Api::OpenaiCompletions).then(Usage::default);
            let choices = vec![self.choice(text, reason, true)];
            return sse(&Openai { choices, usage, ..self.openai(".chunk") }).into();
        }
        let mut line = to_json(&self.native(text, reason, timing));
        line.push(b'\n');
        line.into()
    }

    fn native(&self, text: &str, reason: Option<&str>, timing: Option<&Timing>) -> Native {
        let is_chat = self.api == Api::Chat;
        Native {
            model: self.model.clone(),
            created_at: rfc3339(SystemTime::now()),
            message: is_chat.then(|| Message { role: "assistant", content: text.to_owned() }),
            response: (!is_chat).then(|| text.to_owned()),
            done: reason.is_some(),
            done_reason: reason.map(str::to_owned),
            context: (!is_chat && timing.is_some()).then(|| vec![0, 1, 2]),
            durations: timing.map(Durations::from),
        }
    }

    fn openai(&self, suffix: &str) -> Openai {
        let object =
            if self.api == Api::OpenaiChat { format!("chat.completion{suffix}") } else { "text_completion".into() };
        Openai {
            id: self.id.clone(),
            object,
            created: unix(SystemTime::now()),
            model: self.model.clone(),
            system_fingerprint: "fp_ollama",
            choices: Vec::new(),
            usage: None,
        }
    }

    fn choice(&self, text: &str, reason: Option<&str>, is_part: bool) -> Choice {
        let is_chat = self.api == Api::OpenaiChat;
        let message = || Message { role: "assistant", content: text.to_owned() };
        Choice {
            text: (!is_chat).then(|| text.to_owned()),
            index: 0,
            message: (is_chat && !is_part).then(message),
            delta: (is_chat && is_part).then(message),
            finish_reason: reason.map(str::to_owned),
        }
    }
}

/// A whole `/v1/chat/completions` answer of about 300 bytes, to be sent again and again.
pub(crate) fn prerendered(model: &str) -> Reply {
    let printer = Printer {
        api: Api::OpenaiChat,
        model: model.to_owned(),
        id: "chatcmpl-1".into(),
        include_usage: false,
        weights: None,
    };
    printer.whole(&Timing { prompt_tokens: 250, tokens: 6, ..Timing::default() }, "stop")
}

/// Token `n` of every answer: it says what this is, then counts, so that a lost token shows.
fn word(n: u32) -> String {
    match ["simulated", " answer", " from", " tutti"].get(n as usize) {
        Some(&word) => word.to_owned(),
        None => format!(" {n}"),
    }
}

/// A vector of length 1 that depends on the text alone.
fn vector(text: &str) -> Vec<f32> {
    let mut state =
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let raw: Vec<f32> = (0..DIMENSIONS)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    let length = raw.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    raw.iter().map(|v| v / length).collect()
}

fn sse(document: &Openai) -> Vec<u8> {
    [b"data: ".as_slice(), &to_json(document), b"\n\n"].concat()
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
}

/// `/api/chat` and `/api/generate`; what is zero or empty is left out, as Go's `omitempty` does.
#[derive(Serialize)]
struct Native {
    model: String,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Vec<u32>>,
    #[serde(flatten)]
    durations: Option<Durations>,
}

/// Nanoseconds and tokens.
#[derive(Serialize)]
struct Durations {
    #[serde(skip_serializing_if = "is_zero")]
    total_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    load_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_duration: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl From<&Timing> for Durations {
    fn from(timing: &Timing) -> Self {
        let nanos = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Durations {
            total_duration: nanos(timing.total),
            load_duration: nanos(timing.load),
            prompt_eval_count: timing.prompt_tokens.into(),
            prompt_eval_duration: nanos(timing.prompt_eval),
            eval_count: timing.tokens.into(),
            eval_duration: nanos(timing.eval),
        }
    }
}

#[derive(Serialize)]
struct Vectors<'a> {
    model: &'a str,
    embeddings: Vec<Vec<f32>>,
    #[serde(skip_serializing_if = "is_zero")]
    total_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    load_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_count: u64,
}

impl<'a> Vectors<'a> {
    fn new(model: &'a str, embeddings: Vec<Vec<f32>>, timing: Option<&Timing>) -> Self {
        let durations = Durations::from(timing.unwrap_or(&Timing::default()));
        Vectors {
            model,
            embeddings,
            total_duration: durations.total_duration,
            load_duration: durations.load_duration,
            prompt_eval_count: durations.prompt_eval_count,
        }
    }
}

#[derive(Serialize)]
struct Openai {
    id: String,
    object: String,
    created: u64,
    model: String,
    system_fingerprint: &'static str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Choice {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Message>,
    finish_reason: Option<String>,
}

#[derive(Serialize, Default)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
}

impl From<&Timing> for Usage {
    fn from(timing: &Timing) -> Self {
        Usage {
            prompt_tokens: timing.prompt_tokens,
            completion_tokens: timing.tokens,
            total_tokens: timing.prompt_tokens.saturating_add(timing.tokens),
        }
    }
}
