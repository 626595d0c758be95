//! The heads of requests and answers: which headers are read, taken over and given.

use std::cell::Cell;
use std::time::Duration;

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING};
use tutti_api::Priority;

use crate::classify::Dialect;
use crate::errors::{Code, Failure};

/// Headers of tutti's own, and those it passes on.
pub(super) mod header {
    use http::header::HeaderName;

    pub(in crate::handle) const MODEL: HeaderName = HeaderName::from_static("x-tutti-model");
    pub(in crate::handle) const PRIORITY: HeaderName = HeaderName::from_static("x-tutti-priority");
    pub(in crate::handle) const DEADLINE_MS: HeaderName = HeaderName::from_static("x-tutti-deadline-ms");
    pub(in crate::handle) const REVISION: HeaderName = HeaderName::from_static("x-tutti-revision");
    pub(in crate::handle) const REPLICA: HeaderName = HeaderName::from_static("x-tutti-replica");
    pub(in crate::handle) const QUEUE_MS: HeaderName = HeaderName::from_static("x-tutti-queue-ms");
    pub(in crate::handle) const ADJUSTED: HeaderName = HeaderName::from_static("x-tutti-adjusted");
    pub(in crate::handle) const BATCH: HeaderName = HeaderName::from_static("x-tutti-batch");
    pub(in crate::handle) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    pub(in crate::handle) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    /// What a page's script may read of them.
    pub(in crate::handle) const EXPOSED: &str = "x-request-id, x-tutti-revision, x-tutti-replica, x-tutti-queue-ms, \
        x-tutti-adjusted, x-tutti-batch, retry-after, retry-after-ms, x-should-retry, x-ratelimit-limit-requests, \
        x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, \
        x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";
    pub(in crate::handle) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
}

/// What a replica sees of the client's headers, and nothing else.
const PASSED_ON: [HeaderName; 3] = [ACCEPT, header::TRACEPARENT, header::TRACESTATE];

/// What a client sees of the replica's headers, beside those of the gateway's own.
pub(super) const PASSED_BACK: [HeaderName; 3] = [CONTENT_TYPE, CONTENT_ENCODING, RETRY_AFTER];

/// A copy of a header's value. A clone shares the memory of the whole head, and keeps it for as long as itself.
pub(crate) fn copied(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

/// Copies of what a replica sees of the client's headers.
pub(super) fn passed_on(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    PASSED_ON.into_iter().filter_map(|name| headers.get(&name).map(copied).map(|value| (name, value))).collect()
}

/// The model's name outside the body: the header goes before the path.
pub(super) fn named(headers: &HeaderMap, in_path: Option<String>) -> Result<Option<String>, Failure> {
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(http::header::CONTENT_LENGTH) {
        return Err(Failure::new(Code::InvalidHeader, "Content-Length and Transfer-Encoding together"));
    }
    let mut given = headers.get_all(header::MODEL).iter();
    match (given.next(), given.next()) {
        (None, _) => Ok(in_path),
        (Some(_), Some(_)) => Err(Failure::new(Code::InvalidHeader, "x-tutti-model stands twice")),
        (Some(name), None) => match std::str::from_utf8(name.as_bytes()) {
            Ok(name) => Ok(Some(name.to_owned())),
            Err(_) => Err(Failure::new(Code::InvalidHeader, "x-tutti-model is not UTF-8")),
        },
    }
}

/// The class that a request asks for; `normal` where it asks for none.
pub(super) fn priority(headers: &HeaderMap) -> Result<Priority, Failure> {
    let mut given = headers.get_all(header::PRIORITY).iter();
    let Some(asked) = given.next() else { return Ok(Priority::default()) };
    let known = Priority::ALL.into_iter().find(|known| asked == known.name());
    let message = match (known, given.next()) {
        (Some(known), None) => return Ok(known),
        (_, Some(_)) => "x-tutti-priority stands twice",
        (None, None) => "x-tutti-priority is none of interactive, normal and bulk",
    };
    Err(Failure::new(Code::InvalidHeader, message))
}

/// After how long the answer is of no use, where the request says so.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    const LONGEST: u64 = 24 * 60 * 60 * 1000;
    let mut given = headers.get_all(header::DEADLINE_MS).iter();
    let Some(asked) = given.next() else { return Ok(None) };
    let known = asked.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let known = known.and_then(|text| text.parse().ok()).filter(|millis| (1..=LONGEST).contains(millis));
    let message = match (known, given.next()) {
        (Some(millis), None) => return Ok(Some(Duration::from_millis(millis))),
        (_, Some(_)) => "x-tutti-deadline-ms stands twice",
        (None, None) => "x-tutti-deadline-ms is no number of milliseconds from 1 to 86400000",
    };
    Err(Failure::new(Code::InvalidHeader, message))
}

/// The revision that shall answer, where the request names one.
pub(super) fn revision(headers: &HeaderMap) -> Result<Option<Box<str>>, Failure> {
    let mut given = headers.get_all(header::REVISION).iter();
    let Some(name) = given.next() else { return Ok(None) };
    let message = match (name.to_str(), given.next()) {
        (Ok(name), None) if !name.is_empty() => return Ok(Some(name.into())),
        (_, Some(_)) => "x-tutti-revision stands twice",
        _ => "x-tutti-revision is no revision's name",
    };
    Err(Failure::new(Code::InvalidHeader, message))
}

pub(super) fn dialect_of(path: &str) -> Dialect {
    let rest = path.strip_prefix("/models/").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    Dialect::of(rest.unwrap_or(path))
}

/// The client's `x-request-id`, if it is one to print; else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    const LONGEST: usize = 128;
    let given = headers
        .get(header::REQUEST_ID)
        .filter(|id| !id.is_empty() && id.len() <= LONGEST && id.as_bytes().iter().all(|byte| byte.is_ascii_graphic()));
    given.map_or_else(new_id, copied)
}

/// A UUID of version 4 (RFC 9562): some servers take nothing else for an `x-request-id` (those with starlette-context).
fn new_id() -> HeaderValue {
    let (high, low) = (mixed(), mixed());
    let (high, low) = (high & !0xf000 | 0x4000, low >> 2 | 1 << 63);
    let (time, rest) = (high >> 32, low & 0xffff_ffff_ffff);
    let id = format!("{time:08x}-{:04x}-{:04x}-{:04x}-{rest:012x}", high >> 16 & 0xffff, high & 0xffff, low >> 48);
    HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("0"))
}

fn mixed() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(crate::random());
    }
    // SplitMix64 (Steele, Lea, Flood 2014): well spread; nobody relies on its being unguessable.
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_made_is_a_uuid_and_no_other() {
        let ids: std::collections::HashSet<String> =
            (0..1_000).map(|_| new_id().to_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), 1_000);
        for id in ids {
            let parts: Vec<&str> = id.split('-').collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
            assert!(parts[2].starts_with('4') && matches!(parts[3].as_bytes()[0], b'8'..=b'b'), "{id}");
            assert!(parts.concat().bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
        }
    }
}
