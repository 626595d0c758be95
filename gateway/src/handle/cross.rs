//! A request whose replicas speak another API than its client: carried over, and its answer carried back.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;

use super::attempt::Attempt;
use super::head::header;
use crate::classify::Dialect;
use crate::dialect::{self, Crossing};
use crate::errors::Failure;
use crate::exchange::{Framing, Passing, ResponseBody, Translator, now};
use crate::settle::Settlement;
use crate::table::Route;

impl Attempt<'_> {
    /// Reads the request once more where its replicas speak another API; before it waits for a slot, so that what means
    /// nothing there waits for none.
    ///
    /// # Errors
    /// What has no counterpart there; or no memory is left.
    pub(super) fn cross(&mut self, route: &Route, settlement: &mut Settlement) -> Result<(), Failure> {
        let api = self.reading.facts.api;
        let Some(to) = dialect::other_api(api, route.pool.engine, route.pool.wants_native()) else {
            self.crossing = None;
            return Ok(());
        };
        if self.crossing.as_ref().is_none_or(|crossing| crossing.to != to) {
            settlement.grow(dialect::weight(self.body), self.budget)?;
            self.crossing = Some(Crossing::read(api, to, self.body)?);
        }
        Ok(())
    }

    /// The answer to a request that asks its replica for nothing.
    ///
    /// # Errors
    /// It asks for what nobody there can do.
    pub(super) fn at_once(&self, settlement: &Settlement) -> Result<Option<Response<ResponseBody>>, Failure> {
        let Some(crossing) = &self.crossing else { return Ok(None) };
        let now = now(settlement.record.started);
        let Some(body) = crossing.loaded(self.body, &self.reading.facts.model, now)? else { return Ok(None) };
        let mut response = Response::new(ResponseBody::whole(body.into()));
        self.headers_across(false, response.headers_mut());
        if let Some(adjusted) = crossing.adjusted.header() {
            response.headers_mut().insert(header::ADJUSTED, adjusted);
        }
        Ok(Some(response))
    }

    /// How its answer is carried back.
    pub(super) fn across(&self, crossing: &Crossing<'_>, streams: bool, settlement: &Settlement) -> Passing {
        let facts = &self.reading.facts;
        let from = crossing.to.dialect();
        let framing = if streams { Framing::of_stream(from) } else { Framing::Whole };
        let printer = crossing.printer(&facts.model, crate::random());
        let translator = Translator::new(from, facts.api.dialect(), printer);
        Passing::translated(translator, framing, settlement.record.started)
    }

    /// What the answer's head says of its body.
    pub(super) fn headers_across(&self, streams: bool, headers: &mut HeaderMap) {
        let content_type = Translator::content_type(self.reading.facts.api.dialect(), streams);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.remove(CONTENT_ENCODING);
    }
}

/// A replica's own error in its client's words: the message as it is, and of the rest what both APIs have.
pub(super) fn error_across(status: StatusCode, body: &[u8], to: Dialect) -> Bytes {
    let message = dialect::error_of(body).unwrap_or_else(|| format!("the replica answered {status}"));
    let error = match to {
        Dialect::Ollama => json!({ "error": message }),
        Dialect::OpenAi | Dialect::Anthropic => {
            // As Ollama's `/v1` names them.
            let kind = match status {
                StatusCode::NOT_FOUND => "not_found_error",
                status if status.is_client_error() => "invalid_request_error",
                _ => "api_error",
            };
            json!({ "error": { "message": message, "type": kind, "param": null, "code": null } })
        }
    };
    error.to_string().into()
}
