//! Which API a method and a path mean.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::errors::{Code, Failure};

/// Whose words a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `/v1/…`: streams are server-sent events ending in `[DONE]`, errors are objects.
    OpenAi,
    /// `/v1/messages`: streams are named server-sent events ending in `message_stop`, errors are objects with a type.
    Anthropic,
    /// `/api/…`: streams are lines of JSON ending in `"done": true`, errors are strings.
    Ollama,
}

impl Dialect {
    /// The dialect of a path, also of one that leads nowhere.
    pub fn of(path: &str) -> Self {
        match path.strip_prefix("/v1") {
            Some(rest) if rest == "/messages" || rest.starts_with("/messages/") => Dialect::Anthropic,
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Dialect::OpenAi,
            _ => Dialect::Ollama,
        }
    }
}

/// An API that a model serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Api {
    /// `POST /v1/chat/completions`
    OpenAiChat,
    /// `POST /v1/completions`
    OpenAiCompletions,
    /// `POST /v1/embeddings`
    OpenAiEmbeddings,
    /// `POST /v1/responses`
    OpenAiResponses,
    /// `POST /v1/messages`
    AnthropicMessages,
    /// `POST /api/chat`
    OllamaChat,
    /// `POST /api/generate`
    OllamaGenerate,
    /// `POST /api/embed`
    OllamaEmbed,
    /// `POST /api/embeddings`
    OllamaEmbeddings,
    /// `POST /api/show`
    OllamaShow,
}

impl Api {
    /// Every one, in the order of their numbers.
    pub const ALL: &[Api] = &[
        Api::OpenAiChat,
        Api::OpenAiCompletions,
        Api::OpenAiEmbeddings,
        Api::OpenAiResponses,
        Api::AnthropicMessages,
        Api::OllamaChat,
        Api::OllamaGenerate,
        Api::OllamaEmbed,
        Api::OllamaEmbeddings,
        Api::OllamaShow,
    ];

    /// The path at the replica.
    pub const fn path(self) -> &'static str {
        match self {
            Api::OpenAiChat => "/v1/chat/completions",
            Api::OpenAiCompletions => "/v1/completions",
            Api::OpenAiEmbeddings => "/v1/embeddings",
            Api::OpenAiResponses => "/v1/responses",
            Api::AnthropicMessages => "/v1/messages",
            Api::OllamaChat => "/api/chat",
            Api::OllamaGenerate => "/api/generate",
            Api::OllamaEmbed => "/api/embed",
            Api::OllamaEmbeddings => "/api/embeddings",
            Api::OllamaShow => "/api/show",
        }
    }

    /// The words its clients speak.
    pub const fn dialect(self) -> Dialect {
        match self {
            Api::OpenAiChat | Api::OpenAiCompletions | Api::OpenAiEmbeddings | Api::OpenAiResponses => Dialect::OpenAi,
            Api::AnthropicMessages => Dialect::Anthropic,
            _ => Dialect::Ollama,
        }
    }

    /// OpenTelemetry's `gen_ai.operation.name`.
    pub const fn operation(self) -> &'static str {
        match self {
            Api::OpenAiChat | Api::OpenAiResponses | Api::AnthropicMessages | Api::OllamaChat => "chat",
            Api::OpenAiCompletions | Api::OllamaGenerate => "text_completion",
            Api::OpenAiEmbeddings | Api::OllamaEmbed | Api::OllamaEmbeddings => "embeddings",
            Api::OllamaShow => "show",
        }
    }

    /// Whether its requests carry Ollama's `options` and `keep_alive`.
    pub const fn takes_options(self) -> bool {
        matches!(self, Api::OllamaChat | Api::OllamaGenerate | Api::OllamaEmbed | Api::OllamaEmbeddings)
    }

    /// Whether it answers in a stream when the body does not say `stream`; `None` where it never streams.
    pub const fn streams_by_default(self) -> Option<bool> {
        match self {
            Api::OpenAiChat | Api::OpenAiCompletions | Api::OpenAiResponses | Api::AnthropicMessages => Some(false),
            Api::OllamaChat | Api::OllamaGenerate => Some(true),
            _ => None,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Work for a model; its name, where the path gave it.
    Inference(Api, Option<String>),
    /// `GET|HEAD /v1/models`
    Models,
    /// `GET|HEAD /v1/models/{id}`
    Model(String),
    /// `GET|HEAD /api/tags`
    Tags,
    /// `GET|HEAD /api/ps`
    Resident,
    /// `GET|HEAD /api/version`
    Version,
    /// `GET|HEAD /`
    Root,
    /// `GET|HEAD /healthz`
    Health,
    /// `GET|HEAD /readyz`
    Ready,
}

/// Reads a request line. `path` is the raw path without its query. With one slash more at its end it is the same path:
/// Ollama redirects such a client, and not all of them follow.
///
/// # Errors
/// What to answer where the path leads nowhere, wants another method, or is not for clients.
pub fn ask(method: &Method, path: &str) -> Result<Ask, Failure> {
    let path = path.strip_suffix('/').filter(|path| !path.is_empty() && !path.ends_with('/')).unwrap_or(path);
    let (path, named) = split_model(path)?;
    if let Some(api) = Api::ALL.iter().copied().find(|api| api.path() == path) {
        return if method == Method::POST { Ok(Ask::Inference(api, named)) } else { Err(wants("POST", method, path)) };
    }
    if named.is_some() {
        return Err(Failure::quoting(Code::NotFound, format!("there is no {path} under /models/…")));
    }
    let look = |ask: Ask| {
        if method == Method::GET || method == Method::HEAD { Ok(ask) } else { Err(wants("GET, HEAD", method, path)) }
    };
    match path {
        "/" => look(Ask::Root),
        "/healthz" => look(Ask::Health),
        "/readyz" => look(Ask::Ready),
        "/api/tags" => look(Ask::Tags),
        "/api/ps" => look(Ask::Resident),
        "/api/version" => look(Ask::Version),
        "/v1/models" => look(Ask::Models),
        "/api/create" | "/api/copy" | "/api/delete" | "/api/pull" | "/api/push" => Err(Failure::new(
            Code::ManagementRefused,
            format!("{path} is not for clients: manage models at the replica, or in tutti's configuration"),
        )),
        _ if path.starts_with("/api/blobs/") => {
            Err(Failure::new(Code::ManagementRefused, "blobs are not for clients: push them to the replica"))
        }
        _ => match path.strip_prefix("/v1/models/") {
            Some(id) if !id.is_empty() => look(Ask::Model(decoded(id)?)),
            _ => Err(Failure::new(Code::NotFound, "there is no such path")),
        },
    }
}

/// `/models/{percent-encoded name}/rest` → (`/rest`, name).
fn split_model(path: &str) -> Result<(&str, Option<String>), Failure> {
    let Some((name, _)) = path.strip_prefix("/models/").and_then(|rest| rest.split_once('/')) else {
        return Ok((path, None));
    };
    let rest = &path["/models/".len() + name.len()..];
    Ok((rest, Some(decoded(name)?)))
}

fn decoded(part: &str) -> Result<String, Failure> {
    match percent_decode_str(part).decode_utf8() {
        Ok(name) => Ok(name.into_owned()),
        Err(_) => Err(Failure::new(Code::InvalidModelName, "the model's name in the path is not UTF-8")),
    }
}

/// The methods that a path takes, for who asks by OPTIONS.
pub fn methods(path: &str) -> &'static str {
    match ask(&Method::GET, path) {
        Ok(_) => "GET, HEAD, OPTIONS",
        Err(Failure { allow: Some("POST"), .. }) => "POST, OPTIONS",
        Err(_) => "GET, HEAD, POST, OPTIONS",
    }
}

fn wants(allow: &'static str, method: &Method, path: &str) -> Failure {
    let mut failure = Failure::quoting(Code::MethodNotAllowed, format!("{path} takes {allow}, not {method}"));
    failure.allow = Some(allow);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_is_found_by_its_path_and_under_a_model() {
        for api in Api::ALL.iter().copied() {
            assert_eq!(ask(&Method::POST, api.path()).unwrap(), Ask::Inference(api, None));
            let path = format!("/models/acme%2Frisk%3Av2{}", api.path());
            assert_eq!(ask(&Method::POST, &path).unwrap(), Ask::Inference(api, Some("acme/risk:v2".into())));
            let refused = ask(&Method::GET, api.path()).unwrap_err();
            assert_eq!((refused.code, refused.allow), (Code::MethodNotAllowed, Some("POST")));
        }
    }

    #[test]
    fn a_path_has_the_dialect_of_its_clients() {
        for api in Api::ALL.iter().copied() {
            assert_eq!(Dialect::of(api.path()), api.dialect(), "{}", api.path());
        }
        assert_eq!(Dialect::of("/v1/messages/count_tokens"), Dialect::Anthropic);
        for (path, dialect) in [("/v1", Dialect::OpenAi), ("/v1/messagesx", Dialect::OpenAi), ("/v1x", Dialect::Ollama)]
        {
            assert_eq!(Dialect::of(path), dialect, "{path}");
        }
    }

    #[test]
    fn options_names_the_methods_of_the_path() {
        assert_eq!(methods("/api/tags/"), "GET, HEAD, OPTIONS");
        assert_eq!(methods("/models/m/api/chat"), "POST, OPTIONS");
        assert_eq!(methods("/nowhere"), "GET, HEAD, POST, OPTIONS");
    }

    #[test]
    fn what_is_no_inference() {
        let get = |path| ask(&Method::GET, path);
        assert_eq!(get("/").unwrap(), Ask::Root);
        assert_eq!(ask(&Method::HEAD, "/").unwrap(), Ask::Root);
        assert_eq!(get("/v1/models/acme%2Frisk").unwrap(), Ask::Model("acme/risk".into()));
        assert_eq!(get("/v1/models/acme/risk").unwrap(), Ask::Model("acme/risk".into()));
        assert_eq!(get("/v1/models/acme/risk/").unwrap(), Ask::Model("acme/risk".into()));
        for (path, ask) in [("/api/ps", Ask::Resident), ("/api/tags/", Ask::Tags), ("/v1/models/", Ask::Models)] {
            assert_eq!(get(path).unwrap(), ask, "{path}");
            let refused = super::ask(&Method::PUT, path).unwrap_err();
            assert_eq!((refused.code, refused.allow), (Code::MethodNotAllowed, Some("GET, HEAD")), "{path}");
        }
        let chat = ask(&Method::POST, "/models/m/api/chat/").unwrap();
        assert_eq!(chat, Ask::Inference(Api::OllamaChat, Some("m".into())));
        for (path, code) in [
            ("/api/pull", Code::ManagementRefused),
            ("/api/blobs/sha256:00", Code::ManagementRefused),
            ("/nowhere", Code::NotFound),
            ("/api/tags//", Code::NotFound),
            ("//", Code::NotFound),
            ("", Code::NotFound),
            ("/models/m/", Code::NotFound),
            ("/models/x", Code::NotFound),
            ("/models/x/api/tags", Code::NotFound),
            ("/models/%ff/api/chat", Code::InvalidModelName),
        ] {
            assert_eq!(get(path).unwrap_err().code, code, "{path}");
        }
    }
}
