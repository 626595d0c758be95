//! The pages for those who run the gateway: metrics and health for all who reach them, the rest behind a token.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use super::admin::{self, Admin};
use crate::metrics::{self, Format};
use crate::shared::Shared;

/// Which pages a port has, beside `/healthz` and `/readyz`.
#[derive(Clone)]
pub(super) enum Port {
    /// `/metrics`
    Ops,
    /// Those of [`admin`], for those with the token.
    Admin(Arc<Admin>),
}

/// Answers what is asked of a port.
pub(super) async fn respond(port: Port, shared: Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if let Port::Admin(admin) = &port
        && !matches!(path, "/healthz" | "/readyz")
    {
        let known = authorized(&request, &admin.token);
        return if known { admin::respond(admin, &shared, &request).await } else { unauthorized(path) };
    }
    if !is_read(request.method()) {
        return wants("GET, HEAD");
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if !shared.ending.is_ready() => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/readyz" => text(StatusCode::OK, "ready\n"),
        "/metrics" => printed(shared, request.headers()).await,
        _ => text(StatusCode::NOT_FOUND, "there is no such page\n"),
    }
}

pub(super) fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
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

/// Refuses a method where others are taken.
pub(super) fn wants(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, &format!("{methods}, please\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn unauthorized(path: &str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::UNAUTHORIZED, &format!("{path} wants the admin token\n"));
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Compares in a time that says nothing about where two tokens differ.
fn authorized(request: &Request<Incoming>, token: &str) -> bool {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| {
        given.len() == token.len() && given.iter().zip(token.as_bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    })
}

pub(super) fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", text.to_owned())
}

pub(super) fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
