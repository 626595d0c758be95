//! Requests of OpenAI's API, as its reference has them.

use std::borrow::Cow;

use super::message;
use crate::adjusted::Adjusted;
use crate::dialect::refuse::{
    among, array, boolean, bound, is_blank, no_counterpart, number, object, text, texts, unknown, untranslatable, wrong,
};
use crate::dialect::request::{Chat, Embed, Format, Manner, Prompt, Think};
use crate::dialect::tools;
use crate::errors::Failure;
use crate::json::{Kind, Node};

/// Fields that say something about the request and not about its answer: they are left out.
const HINTS: &[&str] =
    &["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];
/// Fields with a meaning that no other API has, unless they are empty.
const OWN: &[&str] = &[
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "audio",
    "prediction",
    "functions",
    "function_call",
    "web_search_options",
    "verbosity",
    "echo",
    "moderation",
];

/// What was read beside the request itself.
#[derive(Debug, Default)]
pub(in crate::dialect) struct Wishes {
    /// Whether a stream shall end with its usage.
    pub(in crate::dialect) usage: bool,
}

/// `/v1/chat/completions`
pub(in crate::dialect) fn chat<'a>(
    body: Node<'a>,
    wishes: &mut Wishes,
    adjusted: &mut Adjusted,
) -> Result<Chat<'a>, Failure> {
    let mut chat = Chat::default();
    let mut may_call = true;
    for (key, value) in object("body", body)? {
        match &*key {
            "messages" => chat.messages = message::all(value, adjusted)?,
            "tools" => chat.tools = self::tools(value, adjusted)?,
            "tool_choice" => match value.string().as_deref() {
                Some("auto") => {}
                Some("none") => may_call = false,
                _ => return Err(untranslatable("tool_choice", "can be \"auto\" or \"none\" only")),
            },
            "parallel_tool_calls" if value.boolean() == Some(true) => {}
            "parallel_tool_calls" => return Err(untranslatable("parallel_tool_calls", "can be true only")),
            "response_format" => chat.manner.format = format(value)?,
            "reasoning_effort" => chat.manner.think = Some(effort("reasoning_effort", value)?),
            "reasoning" => {
                for (key, value) in object("reasoning", value)? {
                    match &*key {
                        "effort" => chat.manner.think = Some(effort("reasoning.effort", value)?),
                        _ => return Err(unknown(" in `reasoning`", &key)),
                    }
                }
            }
            "modalities" if texts("modalities", value)?.iter().all(|kind| kind == "text") => {}
            "modalities" => return Err(untranslatable("modalities", "can be [\"text\"] only")),
            "max_completion_tokens" => {} // after all others: it goes before the older name
            _ => shared(&key, value, &mut chat.manner, wishes, adjusted)?,
        }
    }
    if !may_call {
        chat.tools.clear(); // what a model does not know it cannot call
    }
    newer_bound(body, &mut chat.manner)?;
    Ok(chat)
}

/// `/v1/completions`
pub(in crate::dialect) fn completion<'a>(
    body: Node<'a>,
    wishes: &mut Wishes,
    adjusted: &mut Adjusted,
) -> Result<Prompt<'a>, Failure> {
    let mut prompt = Prompt::default();
    for (key, value) in object("body", body)? {
        match &*key {
            "prompt" => prompt.prompt = self::prompt(value)?,
            "suffix" => prompt.suffix = Some(text("suffix", value)?).filter(|text| !text.is_empty()),
            "best_of" if value.integer() == Some(1) => {}
            "best_of" => return Err(untranslatable("best_of", "can be 1 only")),
            _ => shared(&key, value, &mut prompt.manner, wishes, adjusted)?,
        }
    }
    Ok(prompt)
}

/// `/v1/embeddings`
pub(in crate::dialect) fn embed<'a>(body: Node<'a>, adjusted: &mut Adjusted) -> Result<Embed<'a>, Failure> {
    let mut embed = Embed::default();
    for (key, value) in object("body", body)? {
        match &*key {
            "model" => {}
            "input" if is_of_tokens(value) => return Err(untranslatable("input", "cannot be tokens")),
            "input" => embed.inputs = texts("input", value)?,
            "dimensions" => embed.dimensions = bound("dimensions", value)?.filter(|dimensions| *dimensions > 0),
            "encoding_format" => {} // it is the gateway that writes base64
            _ => match among(&key, HINTS) {
                Some(hint) => adjusted.left_out(hint),
                None => return Err(unknown("", &key)),
            },
        }
    }
    if embed.inputs.is_empty() {
        return Err(wrong("input", "text, or a list of texts with one at least"));
    }
    Ok(embed)
}

/// What chat and completions have in common.
fn shared<'a>(
    key: &str,
    value: Node<'a>,
    manner: &mut Manner<'a>,
    wishes: &mut Wishes,
    adjusted: &mut Adjusted,
) -> Result<(), Failure> {
    match key {
        "model" => {}
        "stream" => manner.stream = boolean("stream", value)?,
        "stream_options" => {
            for (key, value) in object("stream_options", value)? {
                match &*key {
                    "include_usage" => wishes.usage = boolean("stream_options.include_usage", value)?,
                    "include_obfuscation" if value.boolean() == Some(false) => {}
                    "include_obfuscation" => adjusted.left_out("stream_options.include_obfuscation"),
                    _ => return Err(unknown(" in `stream_options`", &key)),
                }
            }
        }
        "temperature" => manner.temperature = Some(number("temperature", value)?),
        "top_p" => manner.top_p = Some(number("top_p", value)?),
        "presence_penalty" => manner.presence_penalty = Some(number("presence_penalty", value)?),
        "frequency_penalty" => manner.frequency_penalty = Some(number("frequency_penalty", value)?),
        "seed" => manner.seed = Some(number("seed", value)?),
        "max_tokens" => manner.max_tokens = bound("max_tokens", value)?.filter(|tokens| *tokens > 0),
        "stop" => manner.stop = texts("stop", value)?,
        "n" if value.integer() == Some(1) => {}
        "n" => return Err(untranslatable("n", "can be 1 only")),
        _ => match (among(key, HINTS), among(key, OWN)) {
            (Some(hint), _) => adjusted.left_out(hint),
            (None, Some(_)) if is_blank(value) => {}
            (None, Some(field)) => return Err(no_counterpart(field)),
            (None, None) => return Err(unknown("", key)),
        },
    }
    Ok(())
}

/// The newer name of the longest answer's length, wherever in the body it stands.
fn newer_bound(body: Node<'_>, manner: &mut Manner<'_>) -> Result<(), Failure> {
    if let Some(value) = body.get("max_completion_tokens").filter(|value| !value.is_null()) {
        manner.max_tokens = bound("max_completion_tokens", value)?.filter(|tokens| *tokens > 0);
    }
    Ok(())
}

fn tools<'a>(value: Node<'a>, adjusted: &mut Adjusted) -> Result<Vec<&'a str>, Failure> {
    // That calls keep to the schema to the letter is a promise of OpenAI's own.
    let strict = |tool: Node<'a>| tool.get("function")?.get("strict")?.boolean();
    if value.elements().any(|tool| strict(tool) == Some(true)) {
        adjusted.left_out("tools[].function.strict");
    }
    tools::declared(value)
}

fn format(value: Node<'_>) -> Result<Option<Format<'_>>, Failure> {
    let kind = value.get("type").and_then(Node::string);
    match kind.as_deref() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Format::Json)),
        Some("json_schema") => {
            let schema = value.get("json_schema").and_then(|named| named.get("schema"));
            let schema = schema.filter(|schema| schema.kind() == Kind::Object);
            let schema = schema.ok_or_else(|| wrong("response_format.json_schema.schema", "a JSON schema"))?;
            Ok(Some(Format::Schema(schema.raw())))
        }
        _ => Err(untranslatable("response_format.type", "can be text, json_object or json_schema only")),
    }
}

fn effort(field: &'static str, value: Node<'_>) -> Result<Think, Failure> {
    match value.string().as_deref() {
        Some("none") => Ok(Think::Off),
        Some("low") => Ok(Think::Low),
        Some("medium") => Ok(Think::Medium),
        Some("high") => Ok(Think::High),
        _ => Err(untranslatable(field, "can be none, low, medium or high only")),
    }
}

/// One prompt, which may stand in a list.
fn prompt<'a>(value: Node<'a>) -> Result<Cow<'a, str>, Failure> {
    let mut prompts = value.elements();
    match (value.kind(), prompts.next(), prompts.next()) {
        (Kind::String, ..) => text("prompt", value),
        (Kind::Array, Some(only), None) if only.kind() == Kind::String => text("prompt", only),
        (Kind::Array, Some(first), _) if first.kind() == Kind::String => {
            Err(untranslatable("prompt", "can be one text only"))
        }
        (Kind::Array, ..) => Err(untranslatable("prompt", "cannot be tokens")),
        _ => Err(wrong("prompt", "text")),
    }
}

/// Whether an input is a list of tokens, or of such lists.
fn is_of_tokens(value: Node<'_>) -> bool {
    array("input", value)
        .is_ok_and(|mut items| items.next().is_some_and(|first| matches!(first.kind(), Kind::Number | Kind::Array)))
}
