//! The two dialects of Ollama 0.11.4, and two APIs of later versions, as bytes: what is asked and what is answered.

mod answer;
mod call;
mod fields;
mod later;
mod listing;
mod time;

pub(crate) use answer::{Printer, prerendered};
pub(crate) use call::{Call, Want};
pub(crate) use fields::Fields;
pub(crate) use listing::{models, one_model, ps, show, tags};
pub(crate) use time::rfc3339;

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

/// An inference endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `/api/chat`
    Chat,
    /// `/api/generate`
    Generate,
    /// `/api/embed`
    Embed,
    /// `/api/embeddings`
    Embeddings,
    /// `/v1/chat/completions`
    OpenaiChat,
    /// `/v1/completions`
    OpenaiCompletions,
    /// `/v1/embeddings`
    OpenaiEmbeddings,
    /// `/v1/responses`, of later versions
    Responses,
    /// `/v1/messages`, of later versions: Anthropic's
    Messages,
}

impl Api {
    /// The endpoint at this path.
    pub fn at(path: &str) -> Option<Api> {
        Some(match path {
            "/api/chat" => Api::Chat,
            "/api/generate" => Api::Generate,
            "/api/embed" => Api::Embed,
            "/api/embeddings" => Api::Embeddings,
            "/v1/chat/completions" => Api::OpenaiChat,
            "/v1/completions" => Api::OpenaiCompletions,
            "/v1/embeddings" => Api::OpenaiEmbeddings,
            "/v1/responses" => Api::Responses,
            "/v1/messages" => Api::Messages,
            _ => return None,
        })
    }

    /// Whether streams are OpenAI's, as 0.11.4 has them.
    pub fn is_openai(self) -> bool {
        matches!(self, Api::OpenaiChat | Api::OpenaiCompletions | Api::OpenaiEmbeddings)
    }

    /// Whether it came with a later version.
    pub fn is_later(self) -> bool {
        matches!(self, Api::Responses | Api::Messages)
    }

    /// Whether it is Ollama's own.
    pub fn is_native(self) -> bool {
        !self.is_openai() && !self.is_later()
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Value of `content-type`.
    pub content_type: &'static str,
    /// The document.
    pub body: Bytes,
}

const JSON_NATIVE: &str = "application/json; charset=utf-8";
const JSON_OPENAI: &str = "application/json";

impl Reply {
    /// A document in Ollama's own dialect.
    pub fn native(status: u16, document: &impl Serialize) -> Self {
        Reply { status, content_type: JSON_NATIVE, body: to_json(document).into() }
    }

    /// A document as the OpenAI layer writes it: with a line feed at its end.
    pub fn openai(status: u16, document: &impl Serialize) -> Self {
        let mut body = to_json(document);
        body.push(b'\n');
        Reply { status, content_type: JSON_OPENAI, body: body.into() }
    }

    /// Plain text.
    pub fn text(status: u16, text: &'static str) -> Self {
        Reply { status, content_type: "text/plain; charset=utf-8", body: Bytes::from_static(text.as_bytes()) }
    }

    /// An error from behind the OpenAI layer, which calls all of them `api_error`, or from Ollama itself.
    pub fn error(api: Api, status: u16, message: &str) -> Self {
        match api {
            Api::Messages => later::error(status, message),
            _ if api.is_native() => native_error(status, message),
            _ => openai_error(status, "api_error", message),
        }
    }

    /// An error in the request's own form, found before a model is looked for.
    pub fn bad_request(api: Api, message: &str) -> Self {
        match api {
            Api::Messages => later::error(400, message),
            _ if api.is_native() => native_error(400, message),
            _ => Reply { content_type: JSON_NATIVE, ..openai_error(400, "invalid_request_error", message) },
        }
    }

    /// The answer of a full queue.
    pub fn busy(api: Api) -> Self {
        Reply::error(api, 503, "server busy, please try again.  maximum pending requests exceeded")
    }
}

fn native_error(status: u16, message: &str) -> Reply {
    Reply::native(status, &json!({ "error": message }))
}

fn openai_error(status: u16, kind: &str, message: &str) -> Reply {
    #[derive(Serialize)]
    struct Error<'a> {
        message: &'a str,
        r#type: &'a str,
        param: Option<()>,
        code: Option<()>,
    }
    #[derive(Serialize)]
    struct Envelope<'a> {
        error: Error<'a>,
    }
    Reply::openai(status, &Envelope { error: Error { message, r#type: kind, param: None, code: None } })
}

fn to_json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("these documents have string keys and finite numbers only")
}

#[cfg(test)]
mod tests;
