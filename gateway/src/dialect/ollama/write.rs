//! Prints requests of Ollama's API.

use std::borrow::Cow;

use crate::classify::Pins;
use crate::dialect::request::{Chat, Embed, Format, Image, Manner, Message, Part, Prompt, Think};
use crate::json::Writer;

/// `/api/chat`
pub(in crate::dialect) fn chat(chat: &Chat<'_>, model: &str, pins: &Pins, mut out: Writer) -> Vec<u8> {
    out.open(b'{').key("model").string(model).key("messages").open(b'[');
    for message in &chat.messages {
        self::message(message, &mut out);
    }
    out.close(b']');
    if !chat.tools.is_empty() {
        out.key("tools").open(b'[');
        for tool in &chat.tools {
            out.open(b'{').key("type").string("function").key("function").raw(tool).close(b'}');
        }
        out.close(b']');
    }
    manner(&chat.manner, pins, &mut out);
    out.close(b'}');
    out.finish()
}

/// `/api/generate`
pub(in crate::dialect) fn generate(prompt: &Prompt<'_>, model: &str, pins: &Pins, mut out: Writer) -> Vec<u8> {
    out.open(b'{').key("model").string(model).key("prompt").string(&prompt.prompt);
    if let Some(suffix) = &prompt.suffix {
        out.key("suffix").string(suffix);
    }
    if let Some(system) = &prompt.system {
        out.key("system").string(system);
    }
    images(prompt.images.iter(), &mut out);
    manner(&prompt.manner, pins, &mut out);
    out.close(b'}');
    out.finish()
}

/// `/api/embed`
pub(in crate::dialect) fn embed(embed: &Embed<'_>, model: &str, pins: &Pins, mut out: Writer) -> Vec<u8> {
    out.open(b'{').key("model").string(model).key("input").open(b'[');
    for input in &embed.inputs {
        out.string(input);
    }
    out.close(b']');
    if let Some(dimensions) = embed.dimensions {
        out.key("dimensions").number(dimensions.into());
    }
    out.key("options").open(b'{');
    pinned(pins, &mut out);
    out.close(b'}');
    keep_alive(pins, &mut out);
    out.close(b'}');
    out.finish()
}

fn message(message: &Message<'_>, out: &mut Writer) {
    let shown = message.parts.iter().filter_map(|part| if let Part::Image(image) = part { Some(image) } else { None });
    out.open(b'{').key("role").string(message.role.name()).key("content").string(&text(&message.parts));
    if let Some(thinking) = &message.thinking {
        out.key("thinking").string(thinking);
    }
    images(shown, out);
    if !message.calls.is_empty() {
        out.key("tool_calls").open(b'[');
        for call in &message.calls {
            // Later versions than 0.11.4 read the identifier.
            out.open(b'{').key("id").string(&call.id).key("function").open(b'{').key("name").string(&call.name);
            out.key("arguments").raw(&call.arguments).close(b'}').close(b'}');
        }
        out.close(b']');
    }
    if let Some(answered) = &message.answers {
        out.key("tool_name").string(&answered.name).key("tool_call_id").string(&answered.id);
    }
    out.close(b'}');
}

/// All that is said in a message, which here is one text.
fn text<'a>(parts: &'a [Part<'a>]) -> Cow<'a, str> {
    let mut texts = parts.iter().filter_map(|part| if let Part::Text(text) = part { Some(&**text) } else { None });
    match (texts.next(), texts.next()) {
        (None, _) => Cow::Borrowed(""),
        (Some(only), None) => Cow::Borrowed(only),
        (Some(first), Some(second)) => [first, second].into_iter().chain(texts).collect::<Vec<_>>().join("\n").into(),
    }
}

fn images<'a>(images: impl Iterator<Item = &'a Image<'a>>, out: &mut Writer) {
    let mut images = images.peekable();
    if images.peek().is_none() {
        return;
    }
    out.key("images").open(b'[');
    for image in images {
        out.plain(&[&image.base64]);
    }
    out.close(b']');
}

fn manner(manner: &Manner<'_>, pins: &Pins, out: &mut Writer) {
    match manner.format {
        Some(Format::Json) => out.key("format").string("json"),
        Some(Format::Schema(schema)) => out.key("format").raw(schema),
        None => out,
    };
    match manner.think {
        Some(Think::Off) => out.key("think").boolean(false),
        Some(Think::On) => out.key("think").boolean(true),
        Some(Think::Low) => out.key("think").string("low"),
        Some(Think::Medium) => out.key("think").string("medium"),
        Some(Think::High) => out.key("think").string("high"),
        None => out,
    };
    out.key("options").open(b'{');
    pinned(pins, out);
    for (option, value) in [
        ("temperature", manner.temperature),
        ("top_p", manner.top_p),
        ("presence_penalty", manner.presence_penalty),
        ("frequency_penalty", manner.frequency_penalty),
        ("seed", manner.seed),
    ] {
        if let Some(value) = value {
            out.key(option).raw(value);
        }
    }
    if let Some(tokens) = manner.max_tokens {
        out.key("num_predict").number(tokens.into());
    }
    if !manner.stop.is_empty() {
        out.key("stop").open(b'[');
        for stop in &manner.stop {
            out.string(stop);
        }
        out.close(b']');
    }
    out.close(b'}').key("stream").boolean(manner.stream);
    keep_alive(pins, out);
}

/// The options that the pool pins.
fn pinned(pins: &Pins, out: &mut Writer) {
    for (option, value) in pins.options() {
        out.key(option).raw(value);
    }
}

fn keep_alive(pins: &Pins, out: &mut Writer) {
    if let Some(keep_alive) = pins.keep_alive() {
        out.key("keep_alive").raw(keep_alive);
    }
}
