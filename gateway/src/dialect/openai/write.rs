//! Prints requests of OpenAI's API.

use crate::dialect::request::{Chat, Embed, Format, Manner, Message, Part, Prompt, Role, Think};
use crate::json::Writer;

/// `/v1/chat/completions`
pub(in crate::dialect) fn chat(chat: &Chat<'_>, model: &str, mut out: Writer) -> Vec<u8> {
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
    format(chat.manner.format, &mut out);
    match chat.manner.think {
        Some(Think::Off) => out.key("reasoning_effort").string("none"),
        Some(Think::Low) => out.key("reasoning_effort").string("low"),
        // There is no word for as much as the model sees fit.
        Some(Think::On | Think::Medium) => out.key("reasoning_effort").string("medium"),
        Some(Think::High) => out.key("reasoning_effort").string("high"),
        None => &mut out,
    };
    manner(&chat.manner, &mut out);
    out.close(b'}');
    out.finish()
}

/// `/v1/completions`
pub(in crate::dialect) fn completion(prompt: &Prompt<'_>, model: &str, mut out: Writer) -> Vec<u8> {
    out.open(b'{').key("model").string(model).key("prompt").string(&prompt.prompt);
    if let Some(suffix) = &prompt.suffix {
        out.key("suffix").string(suffix);
    }
    manner(&prompt.manner, &mut out);
    out.close(b'}');
    out.finish()
}

/// `/v1/embeddings`
pub(in crate::dialect) fn embed(embed: &Embed<'_>, model: &str, mut out: Writer) -> Vec<u8> {
    out.open(b'{').key("model").string(model).key("input").open(b'[');
    for input in &embed.inputs {
        out.string(input);
    }
    out.close(b']').key("encoding_format").string("float");
    if let Some(dimensions) = embed.dimensions {
        out.key("dimensions").number(dimensions.into());
    }
    out.close(b'}');
    out.finish()
}

fn message(message: &Message<'_>, out: &mut Writer) {
    out.open(b'{').key("role").string(message.role.name()).key("content");
    match message.parts.as_slice() {
        [] => out.string(""),
        [Part::Text(text)] => out.string(text),
        parts => {
            out.open(b'[');
            for part in parts {
                self::part(part, out);
            }
            out.close(b']')
        }
    };
    if let Some(thinking) = &message.thinking {
        out.key("reasoning").string(thinking);
    }
    if !message.calls.is_empty() {
        out.key("tool_calls").open(b'[');
        for call in &message.calls {
            out.open(b'{').key("id").string(&call.id).key("type").string("function").key("function").open(b'{');
            out.key("name").string(&call.name).key("arguments").string(&call.arguments).close(b'}').close(b'}');
        }
        out.close(b']');
    }
    if let Some(answered) = message.answers.as_ref().filter(|_| message.role == Role::Tool) {
        out.key("tool_call_id").string(&answered.id);
    }
    out.close(b'}');
}

fn part(part: &Part<'_>, out: &mut Writer) {
    match part {
        Part::Text(text) => out.open(b'{').key("type").string("text").key("text").string(text).close(b'}'),
        Part::Image(image) => {
            out.open(b'{').key("type").string("image_url").key("image_url").open(b'{');
            out.key("url").plain(&["data:image/", image.subtype, ";base64,", &image.base64]);
            out.close(b'}').close(b'}')
        }
    };
}

fn format(format: Option<Format<'_>>, out: &mut Writer) {
    match format {
        None => {}
        Some(Format::Json) => {
            out.key("response_format").open(b'{').key("type").string("json_object").close(b'}');
        }
        Some(Format::Schema(schema)) => {
            out.key("response_format").open(b'{').key("type").string("json_schema").key("json_schema").open(b'{');
            // It wants a name.
            out.key("name").string("answer").key("schema").raw(schema).close(b'}').close(b'}');
        }
    }
}

fn manner(manner: &Manner<'_>, out: &mut Writer) {
    for (field, value) in [
        ("temperature", manner.temperature),
        ("top_p", manner.top_p),
        ("presence_penalty", manner.presence_penalty),
        ("frequency_penalty", manner.frequency_penalty),
        ("seed", manner.seed),
    ] {
        if let Some(value) = value {
            out.key(field).raw(value);
        }
    }
    if let Some(tokens) = manner.max_tokens {
        // The older name: servers that know the newer one know it too, but not the other way round.
        out.key("max_tokens").number(tokens.into());
    }
    if !manner.stop.is_empty() {
        out.key("stop").open(b'[');
        for stop in &manner.stop {
            out.string(stop);
        }
        out.close(b']');
    }
    if manner.stream {
        // Always with the usage: Ollama's last line has it, and the gateway counts by it.
        out.key("stream").boolean(true).key("stream_options").open(b'{').key("include_usage").boolean(true).close(b'}');
    }
}
