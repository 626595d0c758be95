//! What can be asked of a loader, and told.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tutti_api::{EngineName, Leases, ProbeResult};

use super::Wanted;
use super::token::Token;
use crate::board::{Board, LeaseRefused};

/// Largest body that is read. Unit: bytes.
const MAX_BODY: usize = 4 << 20;
/// Longest wait for news.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(30);

type Answer = Response<Full<Bytes>>;

/// Answers one request. Health and metrics are for all who reach the port, the rest for those who show what is wanted;
/// `certified`: with a certificate.
pub(super) async fn respond(board: &Board, wanted: &Wanted, certified: bool, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let read = request.method() == Method::GET || request.method() == Method::HEAD;
    match &*path {
        "/healthz" | "/startupz" | "/readyz" | "/metrics" if !read => return wants("GET, HEAD"),
        "/healthz" => return text(StatusCode::OK, "ok\n"),
        "/startupz" => return state(board.is_started(), "what was wanted first is not on the disk yet\n"),
        "/readyz" => return state(board.is_ready(), "what was wanted first is neither ready nor quarantined yet\n"),
        "/metrics" => {
            let page = board.metrics.page(&board.list(), board.is_serving(Instant::now()));
            return typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page.into());
        }
        _ => {}
    }
    if wanted.tls.is_some() && !certified {
        let why = "a certificate is wanted, of those who sign for gateways (adapters.tls.ca)\n";
        return text(StatusCode::UNAUTHORIZED, why);
    }
    if wanted.token.as_ref().is_some_and(|token| !is_authorized(token, &request)) {
        let mut refused = text(StatusCode::UNAUTHORIZED, "the loader's token is wanted (adapters.tokenFile)\n");
        refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refused;
    }
    match &*path {
        "/v1/adapters" if read => adapters(board, request.uri().query().unwrap_or_default()).await,
        "/v1/adapters" => wants("GET, HEAD"),
        "/v1/leases" if request.method() == Method::PUT => match body::<Leases>(request).await {
            Ok(leases) => match board.lease(leases, Instant::now()) {
                Ok(()) => empty(),
                // Not for long: who asks again a moment later is heard.
                Err(refused @ LeaseRefused::Going(_)) => text_of(StatusCode::CONFLICT, format!("{refused}\n")),
                Err(refused) => text_of(StatusCode::UNPROCESSABLE_ENTITY, format!("{refused}\n")),
            },
            Err(refused) => refused,
        },
        "/v1/leases" => wants("PUT"),
        path => match path.strip_prefix("/v1/probes/") {
            Some(name) if request.method() == Method::PUT => probe(board, &decoded(name), request).await,
            Some(_) => wants("PUT"),
            None => text(StatusCode::NOT_FOUND, "there is no such page\n"),
        },
    }
}

fn is_authorized(token: &Token, request: &Request<Incoming>) -> bool {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| token.is(given, Instant::now()))
}

/// `?since=<version>&wait=<seconds>`; a gateway always writes `wait`, be it 0.
async fn adapters(board: &Board, query: &str) -> Answer {
    let value = |name: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
    let number = |name: &str| match value(name) {
        None => Ok(None),
        Some((_, text)) => text.parse::<u64>().map(Some).map_err(|_| {
            text_of(StatusCode::BAD_REQUEST, format!("{name} is a number: the version that is known, or seconds\n"))
        }),
    };
    let (since, wait) = match (number("since"), number("wait")) {
        (Ok(since), Ok(wait)) => (since, wait),
        (Err(refused), _) | (_, Err(refused)) => return refused,
    };
    let list = board.list_after(since, wait.map(|wait| Duration::from_secs(wait).min(MAX_WAIT))).await;
    match serde_json::to_vec(&*list) {
        Ok(json) => typed(StatusCode::OK, "application/json", json.into()),
        Err(error) => text_of(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

async fn probe(board: &Board, name: &str, request: Request<Incoming>) -> Answer {
    let Ok(name) = name.parse::<EngineName>() else {
        return text(StatusCode::NOT_FOUND, "this is no engine's name\n");
    };
    match body::<ProbeResult>(request).await {
        Ok(result) => match board.probed(&name, result) {
            true => empty(),
            false => text(StatusCode::CONFLICT, "nobody waits for this probe any more\n"),
        },
        Err(refused) => refused,
    }
}

/// Reads a body of JSON.
async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Answer> {
    let collect = tokio::time::timeout(BODY_WITHIN, Limited::new(request.into_body(), MAX_BODY).collect());
    let bytes = match collect.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(text_of(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {MAX_BODY} bytes, please\n")));
        }
        Ok(Err(error)) => return Err(text_of(StatusCode::BAD_REQUEST, format!("{error}\n"))),
        Err(_) => return Err(text(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n")),
    };
    serde_json::from_slice(&bytes).map_err(|error| text_of(StatusCode::BAD_REQUEST, format!("no such body: {error}\n")))
}

/// `%2F` and `%3A` are what a name's `/` and `:` may be written as.
fn decoded(name: &str) -> String {
    percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned()
}

fn state(is: bool, not: &str) -> Answer {
    if is { text(StatusCode::OK, "ok\n") } else { text(StatusCode::SERVICE_UNAVAILABLE, not) }
}

fn wants(methods: &'static str) -> Answer {
    let mut answer = text_of(StatusCode::METHOD_NOT_ALLOWED, format!("{methods}, please\n"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

fn empty() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

pub(super) fn text(status: StatusCode, text: &str) -> Answer {
    text_of(status, text.to_owned())
}

fn text_of(status: StatusCode, text: String) -> Answer {
    typed(status, "text/plain; charset=utf-8", text.into())
}

fn typed(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
