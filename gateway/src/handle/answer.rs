//! The replica's answer becomes the client's.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, response};
use hyper::body::Incoming;

use super::attempt::{Answer, Attempt};
use super::cross::error_across;
use super::head::{PASSED_BACK, header};
use crate::budget::Room;
use crate::classify::Api;
use crate::errors::{Code, Failure};
use crate::exchange::{Framing, Idle, Line, Passing, ResponseBody, Streaming, Watch, collect, in_base64};
use crate::health::Cause;
use crate::replica::Replica;
use crate::settle::Settlement;
use crate::table::Route;

impl Attempt<'_> {
    /// Turns the replica's answer into the client's: a stream goes through while it is watched, anything else is whole
    /// before its head is sent, so that it is never cut short under a good status.
    pub(super) async fn answer(
        &self,
        route: &Route,
        (response, line): Answer,
        settlement: &mut Settlement,
    ) -> Result<Response<ResponseBody>, Failure> {
        let Some(replica) = settlement.record.replica.clone() else {
            return Err(Failure::new(Code::NoReplica, "no replica was chosen"));
        };
        let (head, incoming) = response.into_parts();
        if head.status.is_informational() {
            return Err(Failure::new(Code::UpstreamError, format!("the replica answered {}", head.status)));
        }
        if head.status == StatusCode::UNAUTHORIZED {
            // The client's own key would seem to be wrong.
            let message = "the replica does not take the gateway's key: see apiKeyFile of its endpoint";
            return Err(Failure::new(Code::UpstreamError, message).blaming(Cause::Denied));
        }
        if head.status.is_success() {
            settlement.begins_well();
        }
        let streams = self.reading.facts.stream && head.status.is_success();
        let passing = match &self.crossing {
            Some(crossing) => self.across(crossing, streams, settlement),
            None => Passing::Watched(self.watch(route, streams)),
        };
        let body = if passing.framing() == Framing::Whole {
            self.whole(route, (line, incoming), passing, head.status, settlement).await?
        } else {
            settlement.hold(None); // the request's body is not needed any more
            settlement.record.streamed = true;
            let idle = route.pool.idle;
            ResponseBody::stream(Streaming {
                line: Some(line),
                incoming,
                replica: replica.clone(),
                passing,
                dialect: self.reading.facts.api.dialect(),
                idle: Idle::new(route.pool.first_byte.saturating_sub(settlement.waited()).max(idle), idle),
                ending: self.shared.ending.clone(),
                at_line_end: true,
                ended: false,
            })
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = head.status;
        give_headers(answer.headers_mut(), &head, &replica, route, settlement);
        if self.crossing.is_some() {
            self.headers_across(streams, answer.headers_mut());
        }
        if let Some(adjusted) = &self.adjusted {
            answer.headers_mut().insert(header::ADJUSTED, adjusted.clone());
        }
        Ok(answer)
    }

    /// How the answer is read: as a stream where one was asked for and given, and renamed where the names differ.
    fn watch(&self, route: &Route, streams: bool) -> Watch {
        let facts = &self.reading.facts;
        let renamed = route.engine_name.as_deref().is_some_and(|name| name != facts.model);
        let rename = renamed.then(|| Bytes::from(serde_json::Value::from(&*facts.model).to_string()));
        let framing = if streams { Framing::of_api(facts.api) } else { Framing::Whole };
        Watch::new(framing, rename)
    }

    /// Reads an answer of one object to its end.
    async fn whole(
        &self,
        route: &Route,
        (line, incoming): (Line, Incoming),
        mut passing: Passing,
        status: StatusCode,
        settlement: &mut Settlement,
    ) -> Result<ResponseBody, Failure> {
        let Some(replica) = settlement.record.replica.clone() else {
            return Err(Failure::new(Code::NoReplica, "no replica was chosen"));
        };
        let mut room = Room { held: self.shared.budget.hold(), limit: self.budget };
        let body = collect(line, incoming, &replica, route.pool.idle, &mut room).await?;
        if self.crossing.is_some() {
            room.grow(body.len())?; // for what is printed anew
        }
        settlement.hold(Some(room.held)); // the request's body is not needed any more
        let facts = &self.reading.facts;
        let body = match facts.api {
            _ if !status.is_success() && self.crossing.is_some() => error_across(status, &body, facts.api.dialect()),
            _ if !status.is_success() => body,
            Api::OllamaShow => self.shown(route, body),
            _ => {
                let body = passing.whole(body)?;
                if facts.base64 { in_base64(body) } else { body }
            }
        };
        settlement.counted(passing.usage());
        settlement.replica_done();
        Ok(ResponseBody::whole(body))
    }
}

/// What a client sees of the replica's headers, and what the gateway says beside them.
fn give_headers(
    headers: &mut http::HeaderMap,
    head: &response::Parts,
    replica: &Replica,
    route: &Route,
    settlement: &Settlement,
) {
    for name in PASSED_BACK {
        if let Some(value) = head.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let queued = u64::try_from(settlement.record.queued.as_millis()).unwrap_or(u64::MAX);
    headers.insert(header::REPLICA, replica.opaque.clone());
    headers.insert(header::QUEUE_MS, HeaderValue::from(queued));
    if let Ok(revision) = HeaderValue::from_str(&route.served.revision)
        && !revision.is_empty()
    {
        headers.insert(header::REVISION, revision);
    }
}
