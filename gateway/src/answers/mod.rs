//! What the gateway answers itself: the lists of models, its version, whether it lives.

mod resident;

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CONTENT_TYPE, HeaderName, HeaderValue,
};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tutti_api::Timestamp;

pub(crate) use self::resident::Residents;
use crate::beginning;
use crate::classify::{self, Ask};
use crate::errors::{Code, Failure, json_response};
use crate::exchange::ResponseBody;
use crate::keys::Key;
use crate::shared::Shared;
use crate::table::{Lead, Route, Table};

/// Of a model's entry, where its replica speaks OpenAI's API.
pub(crate) const OWNED_BY: &str = "owned_by";

/// Says which gateway this is.
pub(crate) const INSTANCE: HeaderName = HeaderName::from_static("x-tutti-instance");

/// The answer to what is no inference, and asks no replica.
///
/// # Errors
/// An unknown model's name.
fn own(ask: &Ask, shared: &Shared, caller: Option<&Key>) -> Result<Response<ResponseBody>, Failure> {
    let table = shared.table();
    let listed = table.listed().iter().filter(|route| may_use(caller, &table, route));
    Ok(match ask {
        Ask::Root => text(StatusCode::OK, "Ollama is running"),
        Ask::Health => text(StatusCode::OK, "ok"),
        Ask::Ready if shared.beginning.waits() => text(StatusCode::SERVICE_UNAVAILABLE, beginning::WAITS),
        Ask::Ready if !shared.ending.is_ready() => text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        Ask::Ready => text(StatusCode::OK, "ready"),
        Ask::Version => with_instance(json_response(200, &json!({ "version": version(shared) })), shared),
        Ask::Tags => json_response(200, &json!({ "models": listed.map(|route| tag(route)).collect::<Vec<_>>() })),
        Ask::Models => {
            let data: Vec<Value> = listed.map(|route| openai(route, &route.served.model)).collect();
            with_instance(json_response(200, &json!({ "object": "list", "data": data })), shared)
        }
        Ask::Model(name) => json_response(200, &openai(&found(&table, name, caller)?.route, name)),
        Ask::Resident | Ask::Inference(..) => return Err(Failure::new(Code::NotFound, "there is no such path")),
    })
}

/// The answer to what is no inference. A name that is not known may be known once the replicas were asked again, for
/// which it waits no longer than `within`.
///
/// # Errors
/// An unknown model's name, or that of one which is not the caller's.
pub(crate) async fn answer(
    ask: &Ask,
    shared: &Shared,
    caller: Option<&Key>,
    within: Duration,
) -> Result<Response<ResponseBody>, Failure> {
    if *ask == Ask::Resident {
        let list = shared.residents.list(shared.table().clone(), caller).await;
        let mut response = Response::new(ResponseBody::whole(list));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Ok(response);
    }
    let first = own(ask, shared, caller);
    if first.as_ref().is_err_and(may_come) && shared.table().exposes() {
        shared.look_again(within).await;
        return own(ask, shared, caller);
    }
    first
}

/// Whether a model's name may lead somewhere once the replicas were asked again.
pub(crate) fn may_come(failure: &Failure) -> bool {
    matches!(failure.code, Code::ModelNotFound | Code::NoReplica)
}

/// Whether a caller may use the model that a route of this table leads to.
pub(crate) fn may_use(caller: Option<&Key>, table: &Table, route: &Route) -> bool {
    caller.is_none_or(|key| key.may_use(table, route))
}

/// A gateway that meets itself as a replica asks for this, and knows itself.
fn with_instance(mut response: Response<ResponseBody>, shared: &Shared) -> Response<ResponseBody> {
    response.headers_mut().insert(INSTANCE, shared.instance.clone());
    response
}

/// The answer to OPTIONS: what a page of an allowed Origin may ask, as Ollama's CORS says it.
pub(crate) fn options(head: &Parts) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(classify::methods(head.uri.path())));
    if head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
        // Whatever it wants to send: the gateway reads the few headers that it knows.
        if let Some(wanted) = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("43200"));
    }
    response
}

/// A name that leads somewhere.
///
/// # Errors
/// In Ollama's words, which clients look for. Where a replica that shows all it has was not heard yet, nobody can know.
/// Or the model is there, and the caller may not use it.
pub(crate) fn found<'a>(table: &'a Table, name: &str, caller: Option<&Key>) -> Result<&'a Lead, Failure> {
    match table.lead(name) {
        Some(lead) if may_use(caller, table, &lead.route) => Ok(lead),
        Some(_) => Err(Failure::quoting(Code::ModelNotAllowed, format!("this API key may not use model {name:?}"))),
        None if table.unheard => {
            Err(Failure::new(Code::NoReplica, "a replica that may have this model has not been heard yet"))
        }
        None => Err(Failure::quoting(Code::ModelNotFound, format!("model {name:?} not found"))),
    }
}

/// The version of the first replica that has told one: clients ask it to know what they may send.
fn version(shared: &Shared) -> String {
    let table = shared.table();
    let mut versions = table.pools.iter().flat_map(|pool| &pool.replicas).filter_map(|replica| replica.version());
    versions.next().unwrap_or_else(|| "0.0.0".to_owned())
}

/// An entry of `/api/tags`: what the replica says, under the name that clients use. Of a model that no replica has spoken
/// of yet, the shape: Ollama's command line cuts the digest without looking at its length.
fn tag(route: &Route) -> Value {
    let mut entry = route.entry.clone().filter(Value::is_object).unwrap_or_else(|| {
        json!({
            "modified_at": "1970-01-01T00:00:00Z", "size": 0, "digest": "0".repeat(64),
            "details": {
                "parent_model": "", "format": "", "family": "", "families": null, "parameter_size": "",
                "quantization_level": "",
            },
        })
    });
    name(&mut entry, &route.served.model);
    if let Some(entry) = entry.as_object_mut() {
        entry.remove(OWNED_BY); // the other API's word
    }
    entry
}

/// The answer to `/api/show` for a model of a replica that has no such answer: what its list says, and no more. Not even
/// whether the model chats or embeds is known, so `capabilities` is left out, as an older Ollama does.
pub(crate) fn shown(route: &Route) -> Response<ResponseBody> {
    let entry = route.entry.as_ref();
    let said = |name: &str| entry.and_then(|entry| entry.get(name)).cloned();
    let details = said("details").unwrap_or_else(|| json!({ "format": "", "family": "" }));
    let modified = said("modified_at").unwrap_or_else(|| json!("1970-01-01T00:00:00Z"));
    json_response(
        200,
        &json!({ "modelfile": "", "template": "", "details": details, "model_info": {}, "modified_at": modified }),
    )
}

/// Gives an entry the name that clients use, with its tag, as Ollama lists it; that of another model it loses.
fn name(entry: &mut Value, model: &str) {
    let has_tag = model.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let name = if has_tag { model.to_owned() } else { format!("{model}:latest") };
    entry["name"] = json!(name);
    entry["model"] = json!(name);
    if let Some(parent) = entry.pointer_mut("/details/parent_model") {
        *parent = json!("");
    }
}

fn openai(route: &Route, name: &str) -> Value {
    let modified = route.entry.as_ref().and_then(|entry| unix(&entry["modified_at"])).unwrap_or(0);
    // What a server of this API says itself; else as Ollama has it, by the name.
    let said = route.entry.as_ref().and_then(|entry| entry[OWNED_BY].as_str());
    let by_name = name.split_once('/').map_or("library", |(owner, _)| owner);
    json!({ "id": name, "object": "model", "created": modified, "owned_by": said.unwrap_or(by_name) })
}

/// A time that Ollama wrote. Unit: seconds since 1970.
pub(crate) fn unix(time: &Value) -> Option<i64> {
    time.as_str()?.parse().ok().map(Timestamp::unix)
}

fn text(status: StatusCode, text: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
