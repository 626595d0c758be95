//! The ports for those who run the gateway: metrics and health, and its state behind a token.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::sync::Semaphore;

use super::socket::Socket;
use crate::control::Control;
use crate::drain::{Refused, Wish};
use crate::limits::{self, Limit};
use crate::metrics::{self, Format};
use crate::shared::Shared;
use crate::status;

/// Which pages a port has.
#[derive(Clone)]
pub(super) enum Page {
    /// `/metrics`, `/healthz`, `/readyz`
    Ops,
    /// `/status`, `/drain`, `/undrain`, `/keys/reload`, for those with the token
    Admin { token: String, control: Control },
}

/// Connections to one of the ports. Further ones wait.
const CONNECTIONS: usize = 256;
/// How long a head may take to arrive, and how long a connection may lie idle before it.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long who asks may take nothing of the answer.
const STALLED: Duration = Duration::from_secs(10);
/// Pause after an accept that failed: out of files, mostly.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves the pages on this runtime.
pub(super) fn start(listener: TcpListener, page: Page, shared: Arc<Shared>) {
    tokio::spawn(async move {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "cannot wait for connections"),
        };
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            if places.available_permits() == 0 {
                limits::hit(Limit::OpsConnections);
            }
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let (page, shared) = (page.clone(), shared.clone());
            let service = service_fn(move |request| {
                let response = respond(page.clone(), shared.clone(), request);
                async { Ok::<_, Infallible>(response.await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(Socket::new(socket, STALLED)), service);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the ops or admin port ended early");
                }
                drop(place);
            });
        }
    });
}

async fn respond(page: Page, shared: Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let changes = matches!((&page, request.uri().path()), (Page::Admin { .. }, "/drain" | "/undrain" | "/keys/reload"));
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    if if changes { request.method() != Method::POST } else { !reads } {
        return text(StatusCode::METHOD_NOT_ALLOWED, if changes { "POST, please\n" } else { "GET, please\n" });
    }
    match (&page, request.uri().path()) {
        (_, "/healthz") => text(StatusCode::OK, "ok\n"),
        (_, "/readyz") if shared.draining() => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        (_, "/readyz") => text(StatusCode::OK, "ready\n"),
        (Page::Ops, "/metrics") => printed(shared, request.headers()).await,
        (Page::Admin { token, .. }, path) if !authorized(&request, token) => {
            let mut response = text(StatusCode::UNAUTHORIZED, &format!("{path} wants the admin token\n"));
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        (Page::Admin { control, .. }, path @ ("/drain" | "/undrain")) => {
            drained(control, path, request.uri().query().unwrap_or_default()).await
        }
        (Page::Admin { .. }, "/keys/reload") => keys_reloaded(&shared).await,
        (Page::Admin { .. }, "/status") => {
            typed(StatusCode::OK, "application/json", status::Status::of(&shared).to_json())
        }
        _ => text(StatusCode::NOT_FOUND, "there is no such page\n"),
    }
}

/// Takes the replica `?replica=URL` out of service, with `&force=true` also where it is the last that serves a model;
/// or takes it back.
async fn drained(control: &Control, path: &str, query: &str) -> Response<Full<Bytes>> {
    let value = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.into_iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| percent_decode_str(value).decode_utf8_lossy().into_owned())
    };
    let force = value("force").is_some_and(|force| force == "true");
    let wish = if path == "/drain" { Wish::Drain { force } } else { Wish::Undrain };
    match control.drain(value("replica").unwrap_or_default(), wish).await {
        Ok(drained) => typed(StatusCode::OK, "application/json", serde_json::to_string(&drained).unwrap_or_default()),
        Err(refused) => {
            let status = match refused {
                Refused::NoUrl { .. } => StatusCode::BAD_REQUEST,
                Refused::Unknown { .. } => StatusCode::NOT_FOUND,
                Refused::Last { .. } => StatusCode::CONFLICT,
                Refused::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            text(status, &format!("{refused}\n"))
        }
    }
}

/// The metrics. This thread has queues to see to, so they are printed on another, for one scraper after the other.
async fn printed(shared: Arc<Shared>, headers: &HeaderMap) -> Response<Full<Bytes>> {
    static ONE: Semaphore = Semaphore::const_new(1);
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    let _turn = ONE.acquire().await;
    match tokio::task::spawn_blocking(move || metrics::page(&shared, format)).await {
        Ok(page) => typed(StatusCode::OK, format.content_type(), page),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

/// Has the keys file looked at.
async fn keys_reloaded(shared: &Shared) -> Response<Full<Bytes>> {
    match shared.keys.reload().await {
        Some(Ok(status)) => {
            typed(StatusCode::OK, "application/json", serde_json::to_string(&status).unwrap_or_default())
        }
        Some(Err(why)) => text(StatusCode::CONFLICT, &format!("{why}\n")),
        None => text(StatusCode::NOT_FOUND, "this gateway wants no keys: its configuration names no keysFile\n"),
    }
}

/// Compares in a time that says nothing about where two tokens differ.
fn authorized(request: &Request<Incoming>, token: &str) -> bool {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| {
        given.len() == token.len() && given.iter().zip(token.as_bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    })
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", text.to_owned())
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
