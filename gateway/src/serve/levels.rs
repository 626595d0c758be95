//! How much the gateway says of itself, changed while it runs.

use std::fmt::Debug;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::pages::{text, typed, wants};

/// Longest filter. Unit: bytes.
const MAX_FILTER: usize = 1024;

/// The filter of what the gateway says of itself, as whoever set up its log lets it be changed.
pub trait Levels: Debug + Send + Sync {
    /// How it stands.
    fn filter(&self) -> Filter;

    /// Puts another in force, or that of the start again.
    ///
    /// # Errors
    /// What is wrong with it; then all stays as it was.
    fn set(&self, filter: Option<&str>) -> Result<(), String>;
}

/// The answer of `/log-level`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Filter {
    /// The filter in force.
    pub filter: String,
    /// That of the start.
    pub start: String,
}

/// Shows the filter (`GET`), puts another in force (`PUT ?filter=…`), or that of the start again (`DELETE`).
pub(super) fn respond(levels: &dyn Levels, method: &Method, query: Option<&str>) -> Response<Full<Bytes>> {
    let set = match *method {
        Method::GET | Method::HEAD => Ok(()),
        Method::DELETE => levels.set(None),
        Method::PUT => match query.and_then(|query| query.strip_prefix("filter=")) {
            Some(filter) if filter.len() <= MAX_FILTER => match percent_decode_str(filter).decode_utf8() {
                Ok(filter) => levels.set(Some(&filter)),
                Err(_) => Err("it is not UTF-8".to_owned()),
            },
            Some(_) => Err(format!("it is longer than {MAX_FILTER} bytes")),
            None => Err("there is none: ask for /log-level?filter=FILTER".to_owned()),
        },
        _ => return wants("GET, HEAD, PUT, DELETE"),
    };
    match set {
        Ok(()) => {
            let filter = serde_json::to_string(&levels.filter()).unwrap_or_default();
            typed(StatusCode::OK, "application/json", filter)
        }
        Err(why) => text(StatusCode::BAD_REQUEST, &format!("{why}\n")),
    }
}
