//! Requests of Ollama's API (0.11.4 `api/types.go`, and the fields of later versions that are known).

use std::borrow::Cow;

use super::tools::Calls;
use crate::adjusted::Adjusted;
use crate::dialect::refuse::{
    among, array, boolean, bound, is_blank, no_counterpart, number, object, text, texts, unknown, untranslatable, wrong,
};
use crate::dialect::request::{Chat, Embed, Format, Image, Manner, Message, Part, Prompt, Role, Think};
use crate::errors::Failure;
use crate::json::{Kind, Node};

/// Fields with a meaning that no other API has, unless they are empty.
const OWN: &[&str] = &["raw", "template", "context", "suffix", "logprobs", "top_logprobs"];
/// The same for those that are on unless they are switched off.
const OWN_SWITCHES: &[&str] = &["truncate", "shift"];
/// Options with a meaning that no other API has: those that load the model anew, and ways to draw a token.
const OWN_OPTIONS: &[&str] = &[
    "options.num_ctx",
    "options.num_batch",
    "options.num_gpu",
    "options.main_gpu",
    "options.use_mmap",
    "options.use_mlock",
    "options.num_thread",
    "options.num_keep",
    "options.numa",
    "options.low_vram",
    "options.vocab_only",
    "options.f16_kv",
    "options.logits_all",
    "options.top_k",
    "options.min_p",
    "options.typical_p",
    "options.tfs_z",
    "options.repeat_last_n",
    "options.repeat_penalty",
    "options.penalize_newline",
    "options.mirostat",
    "options.mirostat_tau",
    "options.mirostat_eta",
];

/// `/api/chat`.
pub(in crate::dialect) fn chat<'a>(body: Node<'a>, adjusted: &mut Adjusted) -> Result<Chat<'a>, Failure> {
    let mut chat = Chat { manner: Manner { stream: true, ..Manner::default() }, ..Chat::default() };
    for (key, value) in object("body", body)? {
        match &*key {
            "model" => {}
            "messages" => chat.messages = messages(value)?,
            "tools" => chat.tools = crate::dialect::tools::declared(value)?,
            _ => shared(&key, value, &mut chat.manner, adjusted)?,
        }
    }
    Ok(chat)
}

/// `/api/generate`.
pub(in crate::dialect) fn generate<'a>(body: Node<'a>, adjusted: &mut Adjusted) -> Result<Prompt<'a>, Failure> {
    let mut prompt = Prompt { manner: Manner { stream: true, ..Manner::default() }, ..Prompt::default() };
    for (key, value) in object("body", body)? {
        match &*key {
            "model" => {}
            "prompt" => prompt.prompt = text("prompt", value)?,
            "suffix" => prompt.suffix = Some(text("suffix", value)?).filter(|text| !text.is_empty()),
            "system" => prompt.system = Some(text("system", value)?).filter(|text| !text.is_empty()),
            "images" => prompt.images = images("images", value)?,
            _ => shared(&key, value, &mut prompt.manner, adjusted)?,
        }
    }
    Ok(prompt)
}

/// `/api/embed` and `/api/embeddings`.
pub(in crate::dialect) fn embed<'a>(body: Node<'a>, adjusted: &mut Adjusted) -> Result<Embed<'a>, Failure> {
    let mut embed = Embed::default();
    for (key, value) in object("body", body)? {
        match &*key {
            "model" => {}
            // One empty text loads the model, as none does.
            "input" | "prompt" if value.raw() == "\"\"" => {}
            "input" => embed.inputs = texts("input", value)?,
            "prompt" => embed.inputs = vec![text("prompt", value)?],
            "dimensions" => embed.dimensions = bound("dimensions", value)?.filter(|dimensions| *dimensions > 0),
            // Others cut no text that is too long: they refuse it.
            "truncate" if boolean("truncate", value)? => adjusted.left_out("truncate"),
            "truncate" => {}
            "keep_alive" => adjusted.left_out("keep_alive"),
            "options" => {
                // How a token is drawn does not matter here; all else does.
                options(value, &mut Manner::default())?;
            }
            _ => return Err(unknown("", &key)),
        }
    }
    Ok(embed)
}

/// What chat and generate have in common.
fn shared<'a>(key: &str, value: Node<'a>, manner: &mut Manner<'a>, adjusted: &mut Adjusted) -> Result<(), Failure> {
    match key {
        "stream" => manner.stream = boolean("stream", value)?,
        "format" => manner.format = format(value)?,
        "think" => manner.think = Some(think(value)?),
        "options" => options(value, manner)?,
        "keep_alive" => adjusted.left_out("keep_alive"),
        _ => match (among(key, OWN), among(key, OWN_SWITCHES)) {
            (Some(_), _) if is_blank(value) => {}
            (_, Some(_)) if value.boolean() == Some(true) => {}
            (Some(field), _) | (_, Some(field)) => return Err(no_counterpart(field)),
            (None, None) => return Err(unknown("", key)),
        },
    }
    Ok(())
}

fn format(value: Node<'_>) -> Result<Option<Format<'_>>, Failure> {
    match value.kind() {
        Kind::String if value.raw() == "\"\"" => Ok(None),
        Kind::String if value.string().as_deref() == Some("json") => Ok(Some(Format::Json)),
        Kind::Object => Ok(Some(Format::Schema(value.raw()))),
        _ => Err(wrong("format", "\"json\" or a JSON schema")),
    }
}

fn think(value: Node<'_>) -> Result<Think, Failure> {
    match (value.boolean(), value.string().as_deref()) {
        (Some(false), _) => Ok(Think::Off),
        (Some(true), _) => Ok(Think::On),
        (_, Some("low")) => Ok(Think::Low),
        (_, Some("medium")) => Ok(Think::Medium),
        (_, Some("high")) => Ok(Think::High),
        _ => Err(wrong("think", "true, false, \"low\", \"medium\" or \"high\"")),
    }
}

fn options<'a>(value: Node<'a>, manner: &mut Manner<'a>) -> Result<(), Failure> {
    for (key, value) in object("options", value)? {
        match &*key {
            "temperature" => manner.temperature = Some(number("options.temperature", value)?),
            "top_p" => manner.top_p = Some(number("options.top_p", value)?),
            "presence_penalty" => manner.presence_penalty = Some(number("options.presence_penalty", value)?),
            "frequency_penalty" => manner.frequency_penalty = Some(number("options.frequency_penalty", value)?),
            "seed" => manner.seed = Some(number("options.seed", value)?),
            "stop" => manner.stop = texts("options.stop", value)?,
            // Neither 0 nor less is a bound there.
            "num_predict" => manner.max_tokens = bound("options.num_predict", value)?.filter(|tokens| *tokens > 0),
            _ => {
                let own = OWN_OPTIONS.iter().find(|option| option.strip_prefix("options.") == Some(&key));
                return Err(own.map_or_else(|| unknown(" in `options`", &key), |field| no_counterpart(field)));
            }
        }
    }
    Ok(())
}

fn messages<'a>(value: Node<'a>) -> Result<Vec<Message<'a>>, Failure> {
    let mut calls = Calls::default();
    array("messages", value)?.map(|message| self::message(message, &mut calls)).collect()
}

fn message<'a>(node: Node<'a>, calls: &mut Calls<'a>) -> Result<Message<'a>, Failure> {
    let (mut role, mut content, mut id) = (None, Cow::Borrowed(""), None);
    let (mut name, mut shown) = (None, Vec::new());
    let mut message = Message::new(Role::User);
    for (key, value) in object("messages[]", node)? {
        match &*key {
            "role" => role = Role::of(&text("messages[].role", value)?),
            "content" => content = text("messages[].content", value)?,
            "thinking" => message.thinking = Some(text("messages[].thinking", value)?).filter(|text| !text.is_empty()),
            "images" => shown = images("messages[].images", value)?,
            "tool_calls" => message.calls = calls.made(value)?,
            "tool_name" | "name" => name = Some(text("messages[].tool_name", value)?),
            "tool_call_id" => id = Some(text("messages[].tool_call_id", value)?),
            _ => return Err(unknown(" in `messages`", &key)),
        }
    }
    message.role = role.ok_or_else(|| wrong("messages[].role", "system, user, assistant or tool"))?;
    // As Ollama shows them to the model: the images, then the text.
    message.parts = shown.into_iter().map(Part::Image).collect();
    if !content.is_empty() {
        message.parts.push(Part::Text(content));
    }
    if message.role == Role::Tool {
        message.answers = Some(calls.answered(id, name)?);
    }
    Ok(message)
}

fn images<'a>(field: &'static str, value: Node<'a>) -> Result<Vec<Image<'a>>, Failure> {
    let image = |value| {
        let known = Image::of(text(field, value)?);
        known.ok_or_else(|| untranslatable(field, "holds what is not the base64 of a PNG, JPEG, WebP or GIF"))
    };
    array(field, value)?.map(image).collect()
}
