//! The replica's answer becomes the client's.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, response};
use hyper::body::Incoming;

use super::attempt::{Answer, Attempt};
use super::cross::error_across;
use super::head::{PASSED_BACK, header};
use crate::batch::in_order;
use crate::budget::Room;
use crate::classify::Api;
use crate::dialect::Usage;
use crate::errors::{Code, Failure};
use crate::exchange::{Framing, Idle, Line, Passing, ResponseBody, Source, Streaming, Watch, collect, in_base64, now};
use crate::health::Cause;
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
        let Some(replica) = settlement.record.replica.clone() else { return Err(give_way()) };
        let (head, incoming) = response.into_parts();
        accepted(&head, settlement)?;
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
                source: Some(Source::Replica { line, incoming, replica: replica.clone() }),
                passing,
                dialect: self.reading.facts.api.dialect(),
                idle: Idle::new(route.pool.first_byte.saturating_sub(settlement.waited()).max(idle), idle),
                ending: self.shared.ending.clone(),
                at_line_end: true,
            })
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = head.status;
        give_headers(answer.headers_mut(), &head.headers, Some(replica.opaque.clone()), route, settlement);
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
        passing: Passing,
        status: StatusCode,
        settlement: &mut Settlement,
    ) -> Result<ResponseBody, Failure> {
        let Some(replica) = settlement.record.replica.clone() else { return Err(give_way()) };
        let mut room = Room { held: self.shared.budget.hold(), limit: self.budget };
        let body = collect(line, incoming, &replica, route.pool.idle, &mut room).await?;
        let body = self.printed(route, (status, body), passing, room, settlement)?;
        settlement.replica_done();
        Ok(ResponseBody::whole(body))
    }

    /// What a client reads of a whole answer. `room`: what the answer holds of the budget.
    fn printed(
        &self,
        route: &Route,
        (status, body): (StatusCode, Bytes),
        mut passing: Passing,
        mut room: Room,
        settlement: &mut Settlement,
    ) -> Result<Bytes, Failure> {
        if self.crossing.is_some() {
            room.grow(body.len())?; // for what is printed anew
        }
        settlement.hold(Some(room.held)); // the request's body is not needed any more
        let facts = &self.reading.facts;
        let body = match facts.api {
            _ if !status.is_success() && self.crossing.is_some() => error_across(status, &body, facts.api.dialect()),
            _ if !status.is_success() => body,
            Api::OllamaShow => self.shown(route, body),
            api => {
                let body = match self.texts.filter(|_| self.crossing.is_none()) {
                    Some(texts) => in_order(body, texts, (api, &facts.model), now(settlement.record.started))?,
                    None => body,
                };
                let body = passing.whole(body)?;
                if facts.base64 { in_base64(body) } else { body }
            }
        };
        settlement.counted(passing.usage());
        Ok(body)
    }

    /// The client's answer of one that came on its behalf, in the API that its replica was asked by. `counted`: its tokens,
    /// where it is one that the gateway has printed, under the client's name of the model.
    pub(super) fn told(
        &self,
        route: &Route,
        (status, given, body): (StatusCode, &HeaderMap, Bytes),
        counted: Option<Usage>,
        settlement: &mut Settlement,
    ) -> Result<Response<ResponseBody>, Failure> {
        let replica = settlement.record.replica.clone();
        let opaque = replica.map(|replica| replica.opaque.clone()).or_else(|| given.get(header::REPLICA).cloned());
        let mut room = Room { held: self.shared.budget.hold(), limit: self.budget };
        room.grow(body.len())?;
        let body = match (&self.crossing, counted) {
            (None, Some(usage)) => {
                settlement.hold(Some(room.held));
                settlement.counted(usage);
                if self.reading.facts.base64 { in_base64(body) } else { body }
            }
            (crossing, _) => {
                let passing = match crossing {
                    Some(crossing) => self.across(crossing, false, settlement),
                    None => Passing::Watched(self.watch(route, false)),
                };
                self.printed(route, (status, body), passing, room, settlement)?
            }
        };
        let mut answer = Response::new(ResponseBody::whole(body));
        *answer.status_mut() = status;
        give_headers(answer.headers_mut(), given, opaque, route, settlement);
        if self.crossing.is_some() {
            self.headers_across(false, answer.headers_mut());
        }
        Ok(answer)
    }
}

/// Takes a replica's answer that it begins so.
///
/// # Errors
/// It is none.
pub(super) fn accepted(head: &response::Parts, settlement: &mut Settlement) -> Result<(), Failure> {
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
    Ok(())
}

/// The failure of what has no replica where it must have one.
pub(super) fn give_way() -> Failure {
    Failure::new(Code::NoReplica, "no replica was chosen")
}

/// What a client sees of the replica's headers, and what the gateway says beside them.
fn give_headers(
    headers: &mut HeaderMap,
    given: &HeaderMap,
    replica: Option<HeaderValue>,
    route: &Route,
    settlement: &Settlement,
) {
    for name in PASSED_BACK {
        if let Some(value) = given.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let queued = u64::try_from(settlement.record.queued.as_millis()).unwrap_or(u64::MAX);
    headers.extend(replica.map(|replica| (header::REPLICA, replica)));
    headers.insert(header::QUEUE_MS, HeaderValue::from(queued));
    if let Ok(revision) = HeaderValue::from_str(&route.served.revision)
        && !revision.is_empty()
    {
        headers.insert(header::REVISION, revision);
    }
}
