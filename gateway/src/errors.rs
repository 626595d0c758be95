//! Every error a client can get, in one table.
//!
//! A handler names a [`Code`]; status, blame and whether to retry come from the table, so no two places can answer the
//! same fault differently. `message` is what the client may read and never holds what another client sent.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use crate::classify::Dialect;
use crate::exchange::ResponseBody;
use crate::health::Cause;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request was wrong: sending it again brings the same answer.
    Client,
    /// The gateway could not or would not serve it now.
    Gateway,
    /// The replica behind it failed.
    Replica,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The name in `error.code`, in logs and in the metric label `code`.
    pub name: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// Whose fault it is.
    pub fault: Fault,
    /// Whether the same request may succeed later, and after how long to try; `None`: it will not.
    pub retry: Option<Duration>,
    /// When it happens and what to do, for the documentation.
    pub about: &'static str,
}

macro_rules! codes {
    ($($code:ident $name:literal $status:literal $fault:ident $retry:expr, $about:literal;)*) => {
        /// What went wrong; a name for a row of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Code { $(#[doc = $about] $code,)* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$code,)*];

            /// The code's row.
            pub const fn row(self) -> &'static Row {
                match self { $(Code::$code => const { &Row {
                    name: $name, status: $status, fault: Fault::$fault, retry: $retry, about: $about,
                } },)* }
            }
        }
    };
}

const fn after_ms(ms: u64) -> Option<Duration> {
    Some(Duration::from_millis(ms))
}

codes! {
    InvalidBody "invalid_body" 400 Client None, "The body is no JSON object, or says one thing to one reader and another to the next (a controlled key twice, or in another case). Mend the body.";
    InvalidParameter "invalid_parameter" 400 Client None, "A field of the body has a value that means nothing: `error.param` and the message name it. Mend the field.";
    Untranslatable "untranslatable" 400 Client None, "The model's replicas speak the other API (Ollama's or OpenAI's), and a field of the body means nothing there: `error.param` or the message names it. Leave it out, or use the replicas' own API.";
    InvalidHeader "invalid_header" 400 Client None, "A header that the gateway reads cannot be read, or stands twice. Mend the header.";
    InvalidModelName "invalid_model_name" 400 Client None, "The model's name is longer than 256 bytes or holds control characters. Mend the name.";
    ModelRequired "model_required" 400 Client None, "Neither the header `x-tutti-model`, nor a path `/models/NAME/…`, nor the body names a model. Name one.";
    MissingApiKey "missing_api_key" 401 Client None, "This gateway wants a key. Send it as `Authorization: Bearer KEY`, `x-api-key: KEY` or `api-key: KEY`.";
    InvalidApiKey "invalid_api_key" 401 Client None, "The key is wrong, expired or revoked: which of these is not said. `tutti key list` tells whoever runs the gateway.";
    OriginNotAllowed "origin_not_allowed" 403 Client None, "The page that asks is of another site: its Origin is neither local, nor an application's, nor in `gateway.allowedHosts`. Have its host added.";
    HostNotAllowed "host_not_allowed" 403 Client None, "The Host header names neither an address, nor localhost, nor a name in `gateway.allowedHosts`. Use one of these, or have the name added.";
    ModelNotAllowed "model_not_allowed" 403 Client None, "The key may not use this model. `GET /v1/models` or `GET /api/tags` list those that it may.";
    RevisionNotAllowed "revision_not_allowed" 403 Client None, "The key may not name the revision that answers (`x-tutti-revision`): its `pinRevisions` is not set. Leave the header out.";
    ManagementRefused "management_refused" 403 Client None, "Models are managed at the replica or by tutti's configuration, not through the gateway.";
    ModelNotFound "model_not_found" 404 Client None, "No model has this name. `GET /v1/models` or `GET /api/tags` list the names.";
    RevisionNotFound "revision_not_found" 404 Client None, "The model has no revision of the name in `x-tutti-revision`. `tutti status` shows the model's.";
    ApiNotServed "api_not_served" 404 Client None, "No replica that has the model has this API: `/v1/responses` and `/v1/messages` came with later versions of Ollama. Use another API, or replicas that have it.";
    NotFound "not_found" 404 Client None, "No API has this path.";
    MethodNotAllowed "method_not_allowed" 405 Client None, "The path wants another method: see the `Allow` header.";
    RequestTimeout "request_timeout" 408 Client after_ms(1_000), "No byte of the body arrived for `gateway.limits.bodyPause`, or not all of it within `gateway.limits.bodyTimeout`.";
    BodyTooLarge "body_too_large" 413 Client None, "The body is larger than `gateway.limits.body`.";
    HeaderTooLarge "header_too_large" 431 Client None, "The head of a request over HTTP/2 is larger than `gateway.limits.header`, or has more than 100 headers. Over HTTP/1.1 the same is a 431 without a body.";
    UnsupportedEncoding "unsupported_encoding" 415 Client None, "The body is compressed. Send it without Content-Encoding.";
    RateLimited "rate_limited" 429 Gateway after_ms(1_000), "The key has used up its `requestsPerMinute` at this gateway. `retry-after` says when there is one more.";
    TokensLimited "tokens_limited" 429 Gateway after_ms(1_000), "The key has used up its `tokensPerMinute` at this gateway: requests that are over were charged for it. `retry-after` says when there is one more.";
    ConcurrencyLimited "concurrency_limited" 429 Gateway after_ms(1_000), "The key has as many requests at once at this gateway as its `concurrency` allows. Wait for one to end.";
    QueueFull "queue_full" 429 Gateway after_ms(1_000), "As many requests wait for this pool as `queue.size` allows. Who came last of a lower class makes room for one of a higher.";
    NotSupported "not_supported" 501 Client None, "The API exists, and this version of tutti does not serve it.";
    Overloaded "overloaded" 503 Gateway after_ms(1_000), "The bodies and answers in memory have reached `gateway.limits.bufferedBodies`, or the process may open no more files.";
    TooLate "too_late" 503 Gateway after_ms(1_000), "By what loads and requests take now, it would have had no slot within `queue.wait`, or no answer within `x-tutti-deadline-ms`: refused at once, or when the deadline passed. `retry-after` says when it may be otherwise, where that is known.";
    QueueTimeout "queue_timeout" 503 Gateway after_ms(1_000), "No replica had a free slot within `queue.wait`.";
    NoReplica "no_replica" 503 Gateway after_ms(1_000), "No replica of the pool can be reached; or none serves this revision, an adapter: the message says how far it is (`risk@v2 is quarantined: WrongBase`).";
    ShuttingDown "shutting_down" 503 Gateway after_ms(1_000), "The gateway is draining. Another one, or this one in a moment, will serve the request.";
    UpstreamError "upstream_error" 502 Replica after_ms(0), "The replica answered what is no HTTP, closed before its answer was whole, or does not take the gateway's key for it (`apiKeyFile`).";
    UpstreamTimeout "upstream_timeout" 504 Replica after_ms(0), "The replica was silent for `timeouts.firstByte` before or `timeouts.idle` within its answer.";
    StreamInterrupted "stream_interrupted" 502 Replica after_ms(0), "The stream ended before its last event. The answer is incomplete.";
}

/// An error on its way to the client.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which row of the table.
    pub code: Code,
    /// What happened this time, for the client.
    pub message: String,
    /// The methods a path takes, where that was the matter.
    pub allow: Option<&'static str>,
    /// When the same request may succeed, where that is known better than the table has it.
    pub after: Option<Duration>,
    /// The field of the body that was the matter.
    pub param: Option<&'static str>,
    /// The message quotes what a client or a replica said: it is for the client alone, and never logged.
    pub quotes: bool,
    /// What is held against the replica for it.
    pub blames: Option<Cause>,
}

impl Failure {
    /// A failure of this code with its message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let of_model = [Code::ModelNotFound, Code::ModelNotAllowed, Code::ModelRequired, Code::InvalidModelName];
        let blames = match code {
            Code::UpstreamError | Code::StreamInterrupted => Some(Cause::Closed),
            Code::UpstreamTimeout => Some(Cause::Silent),
            _ => None,
        };
        let (message, param) = (message.into(), of_model.contains(&code).then_some("model"));
        Self { code, message, allow: None, after: None, param, quotes: false, blames }
    }

    /// The failure of a field whose value means nothing.
    pub fn of(param: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param), ..Self::new(Code::InvalidParameter, message) }
    }

    /// The same with something else held against the replica.
    pub(crate) fn blaming(self, cause: Cause) -> Self {
        Self { blames: Some(cause), ..self }
    }

    /// The same with nothing held against the replica.
    pub(crate) fn blaming_none(self) -> Self {
        Self { blames: None, ..self }
    }

    /// The same with a message that quotes what a client or a replica said.
    pub fn quoting(code: Code, message: impl Into<String>) -> Self {
        Self { quotes: true, ..Self::new(code, message) }
    }

    /// The error's JSON in the client's dialect: OpenAI's error object, Anthropic's with its type, or Ollama's plain
    /// `{"error": "…"}`.
    pub fn json(&self, dialect: Dialect) -> serde_json::Value {
        let row = self.code.row();
        match dialect {
            Dialect::Anthropic => serde_json::json!({
                "type": "error",
                "error": { "type": anthropic_type(row), "message": self.message, "code": row.name },
            }),
            Dialect::Ollama => serde_json::json!({ "error": self.message }),
            Dialect::OpenAi => serde_json::json!({ "error": {
                "message": self.message,
                "type": match row.fault {
                    Fault::Client => "invalid_request_error",
                    Fault::Gateway if row.status == 429 => "rate_limit_error",
                    Fault::Gateway | Fault::Replica => "server_error",
                },
                "param": self.param,
                "code": row.name,
            } }),
        }
    }

    /// The whole answer, with the headers that say whether and when to retry.
    pub fn response(&self, dialect: Dialect) -> Response<ResponseBody> {
        let row = self.code.row();
        let mut response = json_response(row.status, &self.json(dialect));
        let headers = response.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if row.status == 401 {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")); // RFC 9110, 11.6.1
        }
        let after = self.after.or(row.retry);
        let worth_it = after.is_some_and(|after| after <= LONGEST_WAIT);
        headers.insert(SHOULD_RETRY, HeaderValue::from_static(if worth_it { "true" } else { "false" }));
        if let Some(after) = after {
            let up_to = |unit: u128| u64::try_from(after.as_nanos().div_ceil(unit)).unwrap_or(u64::MAX);
            headers.insert(RETRY_AFTER, HeaderValue::from(up_to(1_000_000_000)));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(up_to(1_000_000)));
        }
        response
    }
}

/// What Anthropic calls an error with this status (docs.claude.com/en/api/errors). Its clients know no other types.
fn anthropic_type(row: &Row) -> &'static str {
    match (row.status, row.fault) {
        (401, _) => "authentication_error",
        (403, _) => "permission_error",
        (404, _) => "not_found_error",
        (413, _) => "request_too_large",
        (429, _) => "rate_limit_error",
        (503, _) => "overloaded_error",
        (504, _) => "timeout_error",
        (_, Fault::Client) => "invalid_request_error",
        _ => "api_error",
    }
}

/// Longest that a client should wait of itself. OpenAI's clients wait no longer than this, and would ask too early.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Read by OpenAI's clients before they look at the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// Read by OpenAI's clients before `retry-after`. Unit: milliseconds.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// A JSON answer.
pub(crate) fn json_response(status: u16, body: &serde_json::Value) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::from(body.to_string())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `docs/reference/errors.md`, from the table.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Errors\n\nEvery error tutti itself answers with. OpenAI and Anthropic clients get the name in `error.code`, Ollama\n\
         clients the message in `error`; all get `x-should-retry`, and `retry-after` and `retry-after-ms` where a retry may help. What a replica\n\
         answers with an error status of its own passes through unchanged, but for a 401. This page is generated from the table in\n\
         `gateway/src/errors.rs`.\n\n| code | status | whose fault | retry | when, and what to do |\n|---|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let row = code.row();
        let fault = match row.fault {
            Fault::Client => "client",
            Fault::Gateway => "gateway",
            Fault::Replica => "replica",
        };
        let retry = match row.retry {
            None => "no".to_owned(),
            Some(Duration::ZERO) => "at once".to_owned(),
            Some(after) => format!("after {} s", after.as_secs()),
        };
        page.push_str(&format!("| `{}` | {} | {fault} | {retry} | {} |\n", row.name, row.status, row.about));
    }
    page
}
