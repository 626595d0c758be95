//! The messages of OpenAI's conversations.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::adjusted::Adjusted;
use crate::dialect::refuse::{array, is_blank, no_counterpart, object, text, unknown, untranslatable, wrong};
use crate::dialect::request::{Answered, Call, Image, Message, Part, Role};
use crate::errors::Failure;
use crate::json::{Kind, Node};

/// The tools that were called so far, by the calls' identifiers: the last one of each.
type Names<'a> = HashMap<Cow<'a, str>, Cow<'a, str>>;

/// Reads a conversation.
pub(super) fn all<'a>(value: Node<'a>, adjusted: &mut Adjusted) -> Result<Vec<Message<'a>>, Failure> {
    let (mut messages, mut names) = (Vec::new(), Names::default());
    for node in array("messages", value)? {
        let message = one(node, &names, adjusted)?;
        names.extend(message.calls.iter().map(|call| (call.id.clone(), call.name.clone())));
        messages.push(message);
    }
    if messages.is_empty() {
        return Err(wrong("messages", "a list with one message at least"));
    }
    Ok(messages)
}

fn one<'a>(node: Node<'a>, names: &Names<'a>, adjusted: &mut Adjusted) -> Result<Message<'a>, Failure> {
    let (mut role, mut id, mut name) = (None, None, None);
    let mut message = Message::new(Role::User);
    for (key, value) in object("messages[]", node)? {
        match &*key {
            "role" => role = Role::of(&text("messages[].role", value)?),
            "content" => message.parts = content(value, adjusted)?,
            "name" => name = Some(text("messages[].name", value)?),
            "tool_call_id" => id = Some(text("messages[].tool_call_id", value)?),
            "tool_calls" => {
                message.calls = array("messages[].tool_calls", value)?.map(call).collect::<Result<_, _>>()?
            }
            // Some servers call it one way, some the other.
            "reasoning" | "reasoning_content" => {
                message.thinking = Some(text("messages[].reasoning", value)?).filter(|text| !text.is_empty());
            }
            "refusal" | "audio" | "function_call" | "annotations" if is_blank(value) => {}
            "refusal" => return Err(no_counterpart("messages[].refusal")),
            "audio" => return Err(no_counterpart("messages[].audio")),
            "function_call" => return Err(no_counterpart("messages[].function_call")),
            "annotations" => adjusted.left_out("messages[].annotations"),
            _ => return Err(unknown(" in `messages`", &key)),
        }
    }
    let role = role
        .ok_or_else(|| untranslatable("messages[].role", "can be system, developer, user, assistant or tool only"))?;
    message.role = role;
    match (role, name) {
        (Role::Tool, name) => message.answers = Some(answered(id, name, names)?),
        (_, Some(_)) => adjusted.left_out("messages[].name"),
        (_, None) => {}
    }
    Ok(message)
}

/// Which call a result belongs to. The tool's name, if it is not said, is that of the last call with this identifier.
fn answered<'a>(
    id: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
    names: &Names<'a>,
) -> Result<Answered<'a>, Failure> {
    let id = id.ok_or_else(|| wrong("messages[].tool_call_id", "that of the call that is answered"))?;
    let name = name.or_else(|| names.get(&id).cloned()).unwrap_or_default();
    Ok(Answered { id, name })
}

/// A text, or a list of parts; those that are empty are none.
fn content<'a>(value: Node<'a>, adjusted: &mut Adjusted) -> Result<Vec<Part<'a>>, Failure> {
    let mut parts = match value.kind() {
        Kind::String => vec![Part::Text(text("messages[].content", value)?)],
        Kind::Array => value.elements().map(|node| part(node, adjusted)).collect::<Result<_, _>>()?,
        _ => return Err(wrong("messages[].content", "text, or a list of parts")),
    };
    parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
    Ok(parts)
}

fn part<'a>(node: Node<'a>, adjusted: &mut Adjusted) -> Result<Part<'a>, Failure> {
    let (mut kind, mut said, mut shown) = (None, None, None);
    for (key, value) in object("messages[].content[]", node)? {
        match &*key {
            "type" => kind = value.string(),
            "text" => said = Some(value),
            "image_url" => shown = Some(value),
            _ => {}
        }
    }
    match kind.as_deref() {
        Some("text") => {
            let said = said.ok_or_else(|| wrong("messages[].content[].text", "text"))?;
            Ok(Part::Text(text("messages[].content[].text", said)?))
        }
        Some("image_url") => {
            let mut url = shown.ok_or_else(|| wrong(IMAGE, "an object with a `url`"))?;
            for (key, value) in url.members() {
                match &*key {
                    "url" => url = value,
                    "detail" if value.string().as_deref() != Some("auto") => {
                        adjusted.left_out("messages[].content[].image_url.detail");
                    }
                    _ => {}
                }
            }
            image(url).map(Part::Image)
        }
        _ => Err(untranslatable("messages[].content[].type", "can be text or image_url only")),
    }
}

const IMAGE: &str = "messages[].content[].image_url";

/// An image that the request itself holds. One at another address nobody fetches.
fn image<'a>(url: Node<'a>) -> Result<Image<'a>, Failure> {
    let url = text(IMAGE, url)?;
    if !url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) {
        return Err(untranslatable(
            IMAGE,
            "is the address of an image, which is not fetched: send it as `data:image/png;base64,…`",
        ));
    }
    let wanted = || untranslatable(IMAGE, "can be a PNG, JPEG, WebP or GIF in base64 only: `data:image/png;base64,…`");
    let comma =
        url.find(',').filter(|comma| url[..*comma].to_ascii_lowercase().ends_with(";base64")).ok_or_else(wanted)?;
    let base64 = match url {
        Cow::Borrowed(url) => Cow::Borrowed(&url[comma + 1..]),
        Cow::Owned(url) => Cow::Owned(url[comma + 1..].to_owned()),
    };
    Image::of(base64).ok_or_else(wanted)
}

fn call<'a>(node: Node<'a>) -> Result<Call<'a>, Failure> {
    let kind = node.get("type").and_then(Node::string);
    if kind.is_some_and(|kind| kind != "function") {
        return Err(no_counterpart("messages[].tool_calls[].type"));
    }
    let id = node.get("id").ok_or_else(|| wrong("messages[].tool_calls[].id", "text"))?;
    let function = node.get("function").ok_or_else(|| wrong("messages[].tool_calls[].function", "an object"))?;
    let field = |name: &str| function.get(name).filter(|value| !value.is_null());
    let name = field("name").ok_or_else(|| wrong("messages[].tool_calls[].function.name", "text"))?;
    let arguments = field("arguments").map(|given| text(ARGUMENTS, given)).transpose()?.unwrap_or_default();
    let arguments = if arguments.trim().is_empty() { Cow::Borrowed("{}") } else { arguments };
    if Node::object(arguments.as_bytes()).is_err() {
        return Err(wrong(ARGUMENTS, "the text of a JSON object"));
    }
    Ok(Call {
        id: text("messages[].tool_calls[].id", id)?,
        name: text("messages[].tool_calls[].function.name", name)?,
        arguments,
    })
}

const ARGUMENTS: &str = "messages[].tool_calls[].function.arguments";
