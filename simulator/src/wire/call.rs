//! An inference request: body in, what is wanted out.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::fields::Fields;
use super::{Api, Reply};
use crate::engine::{KeepAlive, RunnerOptions};

/// What the caller wants from the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// The model loaded.
    Load,
    /// The model gone.
    Unload,
    /// A text.
    Answer,
    /// One vector an input.
    Vectors,
}

/// A request that could be read.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) api: Api,
    /// The model's name, as sent.
    pub(crate) model: String,
    pub(crate) want: Want,
    pub(crate) stream: bool,
    /// OpenAI's `stream_options.include_usage`.
    pub(crate) include_usage: bool,
    /// All text to be read.
    pub(crate) prompt: Bytes,
    /// The inputs of an embedding call.
    pub(crate) inputs: Vec<String>,
    /// `num_predict` or `max_tokens`; negative is without a bound.
    pub(crate) tokens_max: Option<i64>,
    pub(crate) options: RunnerOptions,
    pub(crate) keep_alive: Option<KeepAlive>,
}

impl Call {
    /// Reads a body; an error is the answer to give.
    pub(crate) fn read(api: Api, body: &[u8]) -> Result<Call, Reply> {
        let refuse = |message: String| Reply::bad_request(api, &message);
        let fields = Fields::read(body).map_err(|error| match (error.as_str(), api.is_native()) {
            ("EOF", true) => refuse("missing request body".into()),
            _ => refuse(error),
        })?;
        let mut call = Call {
            api,
            model: fields.string("model").map_err(refuse)?.to_owned(),
            want: Want::Answer,
            stream: fields.boolean("stream").map_err(refuse)?.unwrap_or(api.is_native()),
            include_usage: fields.get("stream_options").and_then(|o| o.get("include_usage"))
                == Some(&Value::Bool(true)),
            prompt: Bytes::new(),
            inputs: Vec::new(),
            tokens_max: None,
            options: RunnerOptions::default(),
            keep_alive: None,
        };
        call.read_content(&fields).map_err(refuse)?;
        if api.is_native() {
            call.read_options(&fields);
            call.keep_alive = fields.get("keep_alive").map(keep_alive).transpose().map_err(refuse)?;
        } else {
            let bound = if api == Api::Responses { "max_output_tokens" } else { "max_tokens" };
            call.tokens_max = fields.get(bound).and_then(Value::as_i64);
        }
        if call.want == Want::Load && call.keep_alive == Some(KeepAlive::For(Duration::ZERO)) {
            call.want = Want::Unload;
        }
        Ok(call)
    }

    fn read_content(&mut self, fields: &Fields) -> Result<(), String> {
        match self.api {
            Api::Chat | Api::OpenaiChat => {
                let messages = fields.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                if messages.is_empty() && self.api == Api::OpenaiChat {
                    return Err("[] is too short - 'messages'".into());
                }
                self.want = if messages.is_empty() { Want::Load } else { Want::Answer };
                self.prompt = messages.iter().map(message_text).collect::<String>().into();
            }
            Api::Messages => {
                let messages = fields.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                if fields.get("max_tokens").and_then(Value::as_i64).is_none_or(|max| max <= 0) {
                    return Err("max_tokens is required and must be positive".into());
                }
                if messages.is_empty() {
                    return Err("messages is required".into());
                }
                self.prompt = messages.iter().map(message_text).collect::<String>().into();
            }
            Api::Responses => {
                self.prompt = match fields.get("input") {
                    Some(Value::Array(items)) => items.iter().map(message_text).collect::<String>().into(),
                    input => input.and_then(Value::as_str).unwrap_or_default().to_owned().into(),
                };
            }
            Api::Generate | Api::OpenaiCompletions => {
                self.prompt = Bytes::copy_from_slice(fields.string("prompt")?.as_bytes());
                self.want = if self.prompt.is_empty() { Want::Load } else { Want::Answer };
            }
            Api::Embeddings => {
                self.inputs = Vec::from_iter(Some(fields.string("prompt")?.to_owned()).filter(|p| !p.is_empty()));
                self.want = if self.inputs.is_empty() { Want::Load } else { Want::Vectors };
            }
            Api::Embed | Api::OpenaiEmbeddings => {
                self.inputs = inputs(fields.get("input"))?;
                if self.api == Api::OpenaiEmbeddings && self.inputs.is_empty() {
                    if fields.get("input").is_none_or(Value::is_array) {
                        return Err("invalid input".into());
                    }
                    self.inputs.push(String::new());
                }
                self.want = if self.inputs.is_empty() { Want::Load } else { Want::Vectors };
            }
        }
        Ok(())
    }

    fn read_options(&mut self, fields: &Fields) {
        let Some(options) = fields.get("options") else { return };
        let number = |name: &str| options.get(name).and_then(|v| v.as_i64().or(v.as_bool().map(i64::from)));
        self.tokens_max = number("num_predict");
        // Ollama takes no context below four tokens.
        self.options.num_ctx = number("num_ctx").map_or(self.options.num_ctx, |n| n.max(4).unsigned_abs());
        self.options.others = ["num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"].map(number);
    }
}

/// The text of a chat message: a string, or the text parts of a list.
fn message_text(message: &Value) -> String {
    match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(|p| p.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

fn inputs(value: Option<&Value>) -> Result<Vec<String>, String> {
    let text = |v: &Value| v.as_str().map(str::to_owned).ok_or_else(|| "invalid input type".to_owned());
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(all)) => all.iter().map(text).collect(),
        Some(one) => Ok(Vec::from_iter(Some(text(one)?).filter(|t| !t.is_empty()))),
    }
}

/// A number is seconds, a string is Go's duration; negative is forever.
fn keep_alive(value: &Value) -> Result<KeepAlive, String> {
    let seconds = match value {
        // Go cuts the fraction off, but looks at the sign before.
        Value::Number(number) => match number.as_f64().unwrap_or_default() {
            negative if negative < 0.0 => -1.0,
            other => other.trunc(),
        },
        Value::String(text) => go_duration(text).ok_or_else(|| format!("time: invalid duration {text:?}"))?,
        other => return Err(format!("Unsupported type: '{other}'")),
    };
    if seconds < 0.0 {
        return Ok(KeepAlive::Forever);
    }
    Ok(Duration::try_from_secs_f64(seconds).map_or(KeepAlive::Forever, KeepAlive::For))
}

/// Seconds of a Go duration such as `1h30m`, `300ms` or `-1s`.
fn go_duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(unit_at);
        let next = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(next);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    (!text.is_empty()).then_some(sign * seconds)
}
