//! What those with the token see and do.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use super::levels::{self, Levels};
use super::pages::{is_read, text, traffic, typed, value, wants};
use crate::control::Control;
use crate::drain::{self, Refused};
use crate::loaders;
use crate::shared::Shared;
use crate::status::Status;

/// What the admin port works with.
pub(super) struct Admin {
    pub(super) token: String,
    pub(super) control: Control,
    /// What changes how much is said on the way; without it there is no `/log-level`.
    pub(super) levels: Option<Arc<dyn Levels>>,
}

/// `GET /status`, `/debug/schedule`, `/debug/adapters` and `/traffic`, `POST /traffic`, `/drain`, `/undrain` and `/keys/reload`, `/log-level`.
pub(super) async fn respond(admin: &Admin, shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (method, query) = (request.method(), request.uri().query());
    match (request.uri().path(), &admin.levels) {
        ("/status", _) if is_read(method) => {
            typed(StatusCode::OK, "application/json", Status::of(shared).await.to_json())
        }
        ("/debug/schedule", _) if is_read(method) => schedule(shared, query.unwrap_or_default()).await,
        ("/debug/adapters", _) if is_read(method) => adapters(shared, query.unwrap_or_default()),
        ("/status" | "/debug/schedule" | "/debug/adapters", _) => wants("GET, HEAD"),
        (path @ ("/drain" | "/undrain"), _) if method == Method::POST => {
            drained(&admin.control, path, query.unwrap_or_default()).await
        }
        ("/traffic", _) => traffic(&admin.control, request).await,
        ("/keys/reload", _) if method == Method::POST => keys_reloaded(shared).await,
        ("/drain" | "/undrain" | "/keys/reload", _) => wants("POST"),
        ("/log-level", Some(levels)) => levels::respond(&**levels, method, query),
        _ => text(StatusCode::NOT_FOUND, "there is no such page\n"),
    }
}

/// How the queues stand and what they decided last, of the pool `?pool=NAME` or of all.
async fn schedule(shared: &Shared, query: &str) -> Response<Full<Bytes>> {
    let (wanted, pools) = (wanted(query), shared.table().pools.clone());
    let mut explained = Vec::new();
    for pool in pools.iter().filter(|pool| wanted.as_ref().is_none_or(|name| **name == *pool.name)) {
        explained.extend(pool.owner.explain(&pool.name).await);
    }
    if wanted.is_some() && explained.is_empty() {
        return text(StatusCode::NOT_FOUND, "there is no such pool\n");
    }
    typed(StatusCode::OK, "application/json", serde_json::to_string(&explained).unwrap_or_default())
}

/// What the loaders have told, of the pool `?pool=NAME` or of all.
fn adapters(shared: &Shared, query: &str) -> Response<Full<Bytes>> {
    let told = loaders::status::all(&shared.table(), wanted(query).as_deref());
    typed(StatusCode::OK, "application/json", serde_json::to_string(&told).unwrap_or_default())
}

/// `?pool=NAME`
fn wanted(query: &str) -> Option<String> {
    let name = query.split('&').find_map(|pair| pair.strip_prefix("pool="))?;
    Some(percent_decode_str(name).decode_utf8_lossy().into_owned())
}

/// Takes the replica `?replica=URL` out of service, with `&force=true` also where it is the last that serves a model;
/// or takes it back.
async fn drained(control: &Control, path: &str, query: &str) -> Response<Full<Bytes>> {
    let value = |name: &str| value(query, name);
    let force = value("force").is_some_and(|force| force == "true");
    let wish = if path == "/drain" { drain::Wish::Drain { force } } else { drain::Wish::Undrain };
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
