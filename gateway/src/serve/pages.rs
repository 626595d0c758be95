//! The pages for those who run the gateway: metrics and health for all who reach them, the rest behind a token.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use prost::Message;
use tokio::sync::Semaphore;
use tutti_api::demand::{PROTOBUF, SnapshotView};
use tutti_control_plane::{Refused as Refusal, Report};

use super::admin::{self, Admin};
use crate::beginning;
use crate::demand;
use crate::metrics::{self, Format};
use crate::releases::{Disobeyed, Releasing, Wish};
use crate::shared::Shared;

/// Which pages a port has, beside `/healthz` and `/readyz`.
#[derive(Clone)]
pub(super) enum Port {
    /// `/metrics` and `/demand`
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
    if shared.beginning.waits() && path != "/healthz" {
        return text(StatusCode::SERVICE_UNAVAILABLE, &format!("{}\n", beginning::WAITS)); // there is nothing to tell yet
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if !shared.ending.is_ready() => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/readyz" => text(StatusCode::OK, "ready\n"),
        "/metrics" => printed(shared, request.headers()).await,
        "/demand" => demanded(shared, &request).await,
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

/// The work there is, after the slice `?since=N`: as protobuf for who asks for that, else as JSON.
async fn demanded(shared: Arc<Shared>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    static ONE: Semaphore = Semaphore::const_new(1);
    let mut pairs = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let since = match pairs.next().map(|pair| pair.strip_prefix("since=").and_then(|since| since.parse().ok())) {
        None => None,
        Some(Some(since)) => Some(since),
        Some(None) => return text(StatusCode::BAD_REQUEST, "since= takes the number of a slice\n"),
    };
    let accepts = |accept: &HeaderValue| accept.to_str().is_ok_and(|accept| accept.contains(PROTOBUF));
    let wants_protobuf = request.headers().get_all(ACCEPT).iter().any(accepts);
    let _turn = ONE.acquire().await;
    let snapshot = demand::snapshot(shared, since).await;
    if wants_protobuf {
        return typed(StatusCode::OK, PROTOBUF, snapshot.encode_to_vec());
    }
    let page = serde_json::to_string(&SnapshotView::of(&snapshot)).unwrap_or_default();
    typed(StatusCode::OK, "application/json", page)
}

/// Refuses a method where others are taken.
pub(super) fn wants(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, &format!("{methods}, please\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

pub(crate) fn unauthorized(path: &str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::UNAUTHORIZED, &format!("{path} wants the admin token\n"));
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Compares in a time that says nothing about where two tokens differ.
pub(crate) fn authorized(request: &Request<Incoming>, token: &str) -> bool {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| {
        given.len() == token.len() && given.iter().zip(token.as_bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    })
}

pub(crate) fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", text.to_owned())
}

pub(super) fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A field of a query.
pub(super) fn value(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(key, _)| *key == name);
    found.map(|(_, value)| percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// Longest name of somebody. Unit: bytes.
const MAX_BY: usize = 64;

/// Tells of the release of `?model=NAME` (`GET`), or changes it by `&command=JSON`, on behalf of `&by=WHO` (`POST`).
pub(crate) async fn traffic(driver: &impl Releasing, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let model = value(query, "model").unwrap_or_default();
    if is_read(request.method()) {
        return reported(driver.report(model).await);
    }
    if request.method() != Method::POST {
        return wants("GET, HEAD, POST");
    }
    let command = value(query, "command").unwrap_or_default();
    let command = match serde_json::from_str(&command) {
        Ok(command) => command,
        Err(error) => return text(StatusCode::BAD_REQUEST, &format!("there is no such command: {error}\n")),
    };
    let by: String = value(query, "by").unwrap_or_default().chars().filter(|char| !char.is_control()).collect();
    let by = by.get(..MAX_BY).map_or(by.clone(), str::to_owned);
    let by = if by.is_empty() { "admin".to_owned() } else { by };
    reported(driver.release(Wish { model, command, by }).await)
}

fn reported(report: Result<Report, Disobeyed>) -> Response<Full<Bytes>> {
    match report {
        Ok(report) => typed(StatusCode::OK, "application/json", serde_json::to_string(&report).unwrap_or_default()),
        Err(why) => {
            let status = match &why {
                Disobeyed::Refused(Refusal::NoModel { .. } | Refusal::NoRevision { .. }) => StatusCode::NOT_FOUND,
                Disobeyed::Refused(_) | Disobeyed::Another(_) => StatusCode::CONFLICT,
                Disobeyed::Unacknowledged(_) => StatusCode::BAD_GATEWAY,
                Disobeyed::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            text(status, &format!("{why}\n"))
        }
    }
}
