//! What Ollama's own `/v1` makes of a request before its API reads it (0.11.4, `openai/openai.go`), so that a request
//! that the gateway carries there is answered as it would be by `/v1`.
//!
//! Only what shapes the answer is done again. Where `/v1` drops a field without a word (`n`, `tool_choice`, `logprobs`, …)
//! the gateway refuses it, and it reads `max_completion_tokens`, which `/v1` does not.

use super::request::{Chat, Manner, Message, Prompt};

/// A conversation as `/v1/chat/completions` hands it on.
pub(super) fn chat(chat: &mut Chat<'_>) {
    unset_is_one(&mut chat.manner);
    // Each part of a message becomes a message of its own; what belongs to all of it goes with the last.
    if chat.messages.iter().any(|message| message.parts.len() > 1) {
        chat.messages = std::mem::take(&mut chat.messages).into_iter().flat_map(split).collect();
    }
}

/// A prompt as `/v1/completions` hands it on.
pub(super) fn prompt(prompt: &mut Prompt<'_>) {
    unset_is_one(&mut prompt.manner);
    // Not what the model's own parameters say.
    prompt.manner.presence_penalty.get_or_insert("0");
    prompt.manner.frequency_penalty.get_or_insert("0");
}

/// What OpenAI's reference calls the default; Ollama's own is 0.8 and 0.9, or what the model's parameters say.
fn unset_is_one(manner: &mut Manner<'_>) {
    manner.temperature.get_or_insert("1.0");
    manner.top_p.get_or_insert("1.0");
}

fn split(mut message: Message<'_>) -> Vec<Message<'_>> {
    let last = message.parts.pop();
    let mut messages: Vec<Message<'_>> = std::mem::take(&mut message.parts)
        .into_iter()
        .map(|part| Message { parts: vec![part], answers: message.answers.clone(), ..Message::new(message.role) })
        .collect();
    message.parts.extend(last);
    messages.push(message);
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::request::{Image, Part, Role};

    #[test]
    fn a_message_of_several_parts_becomes_several() {
        let image = || Part::Image(Image { subtype: "png", base64: "iVBORw0KGgo=".into() });
        let text = |text| Part::Text(std::borrow::Cow::Borrowed(text));
        let of = |parts| Message { parts, thinking: Some("hm".into()), ..Message::new(Role::User) };
        let mut request =
            Chat { messages: vec![of(vec![text("a"), image(), text("b")]), of(vec![])], ..Chat::default() };
        chat(&mut request);
        let plain = |part| Message { parts: vec![part], ..Message::new(Role::User) };
        assert_eq!(request.messages, [plain(text("a")), plain(image()), of(vec![text("b")]), of(vec![])]);
        assert_eq!((request.manner.temperature, request.manner.top_p), (Some("1.0"), Some("1.0")));
        assert_eq!(request.manner.presence_penalty, None);
    }

    #[test]
    fn what_was_said_stays() {
        let mut request =
            Prompt { manner: Manner { temperature: Some("0"), ..Manner::default() }, ..Prompt::default() };
        prompt(&mut request);
        let Manner { temperature, top_p, presence_penalty, frequency_penalty, .. } = request.manner;
        assert_eq!((temperature, top_p), (Some("0"), Some("1.0")));
        assert_eq!((presence_penalty, frequency_penalty), (Some("0"), Some("0")));
    }
}
