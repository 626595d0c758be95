//! What the gateway answers itself: the lists of models, its version, whether it lives.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CONTENT_TYPE, HeaderName, HeaderValue,
};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::classify::Ask;
use crate::errors::{Code, Failure, json_response};
use crate::exchange::ResponseBody;
use crate::shared::Shared;
use crate::table::{Route, Table};

/// Says which gateway this is.
pub(crate) const INSTANCE: HeaderName = HeaderName::from_static("x-tutti-instance");

/// The answer to what is no inference.
///
/// # Errors
/// An unknown model's name.
pub(crate) fn answer(ask: &Ask, shared: &Shared) -> Result<Response<ResponseBody>, Failure> {
    let table = shared.table();
    Ok(match ask {
        Ask::Root => text(StatusCode::OK, "Ollama is running"),
        Ask::Health => text(StatusCode::OK, "ok"),
        Ask::Ready if shared.draining() => text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        Ask::Ready => text(StatusCode::OK, "ready"),
        Ask::Version => {
            let mut response = json_response(200, &json!({ "version": version(shared) }));
            // A gateway that meets itself as a replica asks this, and knows itself.
            response.headers_mut().insert(INSTANCE, shared.instance.clone());
            response
        }
        Ask::Tags => {
            json_response(200, &json!({ "models": table.listed().iter().map(|route| tag(route)).collect::<Vec<_>>() }))
        }
        Ask::Models => {
            let data: Vec<Value> = table.listed().iter().map(|route| openai(route, &route.served.model)).collect();
            json_response(200, &json!({ "object": "list", "data": data }))
        }
        Ask::Model(name) => json_response(200, &openai(found(&table, name)?, name)),
        Ask::Inference(..) => return Err(Failure::new(Code::NotFound, "there is no such path")),
    })
}

/// The answer to OPTIONS: what a page of an allowed Origin may ask, as Ollama's CORS says it.
pub(crate) fn options(asked: &http::HeaderMap) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
    if asked.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
        // Whatever it wants to send: the gateway reads the few headers that it knows.
        if let Some(wanted) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
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
pub(crate) fn found<'a>(table: &'a Table, name: &str) -> Result<&'a std::sync::Arc<Route>, Failure> {
    table.route(name).ok_or_else(|| {
        if table.unheard {
            Failure::new(Code::NoReplica, "a replica that may have this model has not been heard yet")
        } else {
            Failure::quoting(Code::ModelNotFound, format!("model {name:?} not found"))
        }
    })
}

/// The version of the first replica that has told one: clients ask it to know what they may send.
fn version(shared: &Shared) -> String {
    let table = shared.table();
    let mut versions = table.pools.iter().flat_map(|pool| &pool.replicas).filter_map(|replica| replica.version());
    versions.next().unwrap_or_else(|| "0.0.0".to_owned())
}

/// An entry of `/api/tags`: what the replica says, under the name that clients use.
fn tag(route: &Route) -> Value {
    let mut entry =
        route.entry.clone().filter(Value::is_object).unwrap_or_else(
            || json!({ "modified_at": "1970-01-01T00:00:00Z", "size": 0, "digest": "", "details": {} }),
        );
    let name = if route.served.model.contains(':') {
        route.served.model.to_string()
    } else {
        format!("{}:latest", route.served.model)
    };
    entry["name"] = json!(name);
    entry["model"] = json!(name);
    entry
}

fn openai(route: &Route, name: &str) -> Value {
    let modified =
        route.entry.as_ref().and_then(|entry| entry["modified_at"].as_str()).and_then(unix_seconds).unwrap_or(0);
    json!({ "id": name, "object": "model", "created": modified, "owned_by": if name.contains('/') { name.split('/').next() } else { Some("library") } })
}

/// Seconds since 1970 of an RFC 3339 time; `None` for what is none.
fn unix_seconds(text: &str) -> Option<i64> {
    let digits = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    let zone = text.get(19..)?.trim_start_matches(|char: char| char == '.' || char.is_ascii_digit());
    let offset = match zone.split_at_checked(1) {
        Some(("+", rest)) => rest.get(0..2)?.parse::<i64>().ok()? * 3600 + rest.get(3..5)?.parse::<i64>().ok()? * 60,
        Some(("-", rest)) => -(rest.get(0..2)?.parse::<i64>().ok()? * 3600 + rest.get(3..5)?.parse::<i64>().ok()? * 60),
        _ => 0,
    };
    // Days from the civil calendar: Howard Hinnant, "chrono-compatible low-level date algorithms".
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, year_of_era) = (y.div_euclid(400), y.rem_euclid(400));
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * m + 2) / 5 + day - 1;
    Some((era * 146_097 + day_of_era - 719_468) * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

fn text(status: StatusCode, text: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_times_that_ollama_writes() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_seconds("2026-11-24T08:23:58.123456789Z"), Some(1_795_508_638));
        assert_eq!(unix_seconds("2026-11-24T10:23:58.5+02:00"), Some(1_795_508_638));
        assert_eq!(unix_seconds("yesterday"), None);
    }
}
