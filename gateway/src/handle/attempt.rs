//! One request on its way to a replica: a slot, and an exchange in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tutti_api::Engine;

use super::answer::give_way;
use super::elsewhere::Step;
use super::embed::Way;
use super::head::header;
use crate::answers;
use crate::classify::{Api, Reading, Rewrite, Wanted};
use crate::dialect::Crossing;
use crate::errors::{Code, Failure};
use crate::exchange::{Line, NoHead, Outgoing, ResponseBody};
use crate::health::Cause;
use crate::keys::Key;
use crate::limits::{self, Limit};
use crate::peer::{self, Inbound, Taken};
use crate::replica::Replica;
use crate::schedule::{Permit, Place, Ticket, Verdict};
use crate::settle::Settlement;
use crate::shared::Shared;
use crate::table::{Pool, Route};
use crate::traffic::Choice;

/// Nobody who is refused for want of time is told to come again sooner.
const SOON: Duration = Duration::from_secs(1);
/// How long an unknown name may wait for the replicas to be asked whether they have it by now.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// A request that has been read, on its way to a replica.
pub(super) struct Attempt<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) reading: &'a Reading,
    pub(super) body: &'a Bytes,
    /// What the replica sees of its headers.
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
    /// Whose key it came with, where there are keys.
    pub(super) caller: Option<&'a Key>,
    /// What its revision is chosen by.
    pub(super) choice: Choice,
    /// What its turn in a queue depends on.
    pub(super) ticket: Ticket,
    /// What all bodies may have together. Unit: bytes.
    pub(super) budget: usize,
    /// The request in other words, where its replicas speak another API.
    pub(super) crossing: Option<Crossing<'a>>,
    /// The replica that has just failed it: a retry goes elsewhere.
    pub(super) failed_at: Option<Arc<Replica>>,
    /// Which of the client's options were changed for the replica that is asked.
    pub(super) adjusted: Option<HeaderValue>,
    /// The other gateway that holds its client, if one does.
    pub(super) inbound: Option<Inbound>,
    /// It has its turn here, whoever schedules its pool.
    pub(super) stays: bool,
    /// How many callers have it together.
    pub(super) callers: usize,
    /// How many vectors its answer must hold, where that is looked at.
    pub(super) texts: Option<usize>,
}

pub(super) type Answer = (Response<Incoming>, Line);

/// Where a request has its turn.
pub(super) enum Turn {
    /// Here, in this slot.
    Here(Permit),
    /// At the gateway that schedules the pool.
    There(Box<Taken>),
}

impl<'a> Attempt<'a> {
    /// Of a request that anybody may make, and that has not been anywhere.
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        reading: &'a Reading,
        body: &'a Bytes,
        headers: &'a [(HeaderName, HeaderValue)],
        ticket: Ticket,
        budget: usize,
    ) -> Self {
        let (caller, crossing, failed_at, adjusted, inbound) = (None, None, None, None, None);
        Self {
            shared,
            reading,
            body,
            headers,
            caller,
            choice: Choice::default(),
            ticket,
            budget,
            crossing,
            failed_at,
            adjusted,
            inbound,
            stays: false,
            callers: 1,
            texts: None,
        }
    }
}

impl Attempt<'_> {
    /// From its place in the queue to the client's answer.
    pub(super) async fn run(&mut self, settlement: &mut Settlement) -> Result<Response<ResponseBody>, Failure> {
        let mut call = match self.embeds(settlement).await? {
            Way::Alone(call) => call,
            Way::Done(answer) => return Ok(answer),
        };
        loop {
            let (route, turn) = self.turn(settlement).await?;
            if settlement.record.retries == 0 {
                self.mirror(&route, settlement);
            }
            match turn {
                Turn::There(taken) => return Box::pin(self.carried(&route, taken, settlement)).await,
                Turn::Here(permit) => settlement.occupy(permit),
            }
            if let (Some(inbound), Some(replica)) = (&mut self.inbound, &settlement.record.replica) {
                inbound.confirm(&replica.opaque).await?;
                self.stays = true; // also where it is tried again
            }
            if let Some(call) = &mut call {
                call.begins(&route, settlement);
            }
            if let Some(answer) = self.at_once(settlement)? {
                return Ok(answer);
            }
            let Some(answer) = self.exchange(&route, settlement).await? else {
                settlement.record.retries += 1;
                continue;
            };
            let answer = self.answer(&route, answer, settlement).await?;
            if let Some(call) = call {
                call.answered(&route, &answer, settlement);
            }
            return Ok(answer);
        }
    }

    /// No place in a queue yet.
    pub(super) fn place(&self) -> Place {
        Place::of(self.ticket, self.reading.loads_with(self.body))
    }

    /// Admits the request and waits for its turn. A revision is final once the slot is taken: where the table changes
    /// before that, it is chosen again.
    pub(super) async fn turn(&mut self, settlement: &mut Settlement) -> Result<(Arc<Route>, Turn), Failure> {
        let asked = Instant::now();
        let mut looked = false;
        let mut place = self.place();
        settlement.queue();
        loop {
            let (generation, route) = self.route(&mut looked).await?;
            settlement.waits_for(&route.served);
            self.cross(&route, settlement)?;
            let target = route.target(self.reading.facts.api)?;
            let until = self.inbound.as_ref().map_or(asked + route.pool.wait, |inbound| inbound.until);
            place.set_awaits(route.pool.replicas.is_empty());
            let verdict = match &self.shared.peers {
                Some(peers) if peer::one_schedules(&route.pool) => {
                    match Box::pin(self.wherever(peers, &route, generation, until, &mut place, settlement)).await? {
                        Step::Here(verdict) => verdict,
                        Step::There(taken) => return Ok((route, Turn::There(taken))),
                        Step::Again => continue,
                    }
                }
                _ => {
                    let exclude = self.failed_at.as_deref();
                    route.pool.owner.acquire(target, generation, until, &mut place, exclude).await
                }
            };
            match verdict {
                Verdict::Go(permit) => return Ok((route, Turn::Here(permit))),
                Verdict::Reroute => tokio::task::yield_now().await,
                Verdict::Refused(code, after) => return Err(refused(code, after, &route)),
            }
        }
    }

    /// Where the table leads, and its generation. Once, the replicas are asked again for a name that is not known.
    pub(super) async fn route(&self, looked: &mut bool) -> Result<(u32, Arc<Route>), Failure> {
        loop {
            let (found, exposes) = {
                let table = self.shared.table();
                let lead = answers::found(&table, &self.reading.facts.model, self.caller);
                let route = lead.and_then(|lead| lead.choose(&self.choice)).cloned();
                (route.map(|route| (table.generation, route)), table.exposes())
            };
            if !found.as_ref().is_err_and(answers::may_come) || *looked || !exposes {
                return found;
            }
            *looked = true;
            self.shared.look_again(LOOK_AGAIN).await;
        }
    }

    /// Sends the request and waits for the answer's head. `None`: nothing came of it, and it may be tried once more.
    pub(super) async fn exchange(
        &mut self,
        route: &Route,
        settlement: &mut Settlement,
    ) -> Result<Option<Answer>, Failure> {
        let Some(replica) = settlement.record.replica.clone() else { return Err(give_way()) };
        let request = self.request(route, &replica, settlement)?;
        let replicas = route.target(self.reading.facts.api)?.slots().len();
        let once_more = u32::from(settlement.record.retries) < route.pool.retries;
        let may_retry = once_more && replicas > 1 && !settlement.is_shadow(); // a copy has its one slot
        if once_more {
            route.pool.owner.retries.deposit();
        }
        if route.pool.probing.is_some() && self.reading.is_strange(self.body, &route.pool.pins) {
            settlement.set_strange();
        }
        let send = Line::send(&replica, request, route.pool.connect);
        let sent = tokio::time::timeout(route.pool.first_byte, send).await;
        match sent {
            Ok(Ok(answer)) => {
                let status = answer.0.status();
                let cause = blamed(route.pool.engine, self.reading.facts.api, status);
                // What one of several sent may be the reason: that shows when he is asked for alone.
                if let Some(cause) = cause.filter(|cause| self.callers == 1 || *cause != Cause::Error) {
                    settlement.blame(cause);
                }
                let again = match route.pool.engine {
                    // Also where there is no other.
                    Engine::Ollama if cause == Some(Cause::Missing) || is_without_model(&answer.0) => once_more,
                    _ => may_retry && status == StatusCode::SERVICE_UNAVAILABLE,
                };
                if !again || !can_retry(&route.pool) {
                    return Ok(Some(answer));
                }
                self.failed_at = Some(replica);
            }
            Ok(Err(why)) => {
                if matches!(why, NoHead::Connect(_)) {
                    settlement.unreachable();
                }
                if !may_retry || !matches!(why, NoHead::Connect(_)) || !can_retry(&route.pool) {
                    return Err(no_head(why));
                }
                self.failed_at = Some(replica);
            }
            Err(_) => return Err(too_late(route.pool.first_byte)),
        }
        Ok(None)
    }

    /// The request as the replica gets it: its own Host, and of the client's headers only what is on the list.
    ///
    /// # Errors
    /// The body cannot be made to say what this replica shall read.
    pub(super) fn request(
        &mut self,
        route: &Route,
        replica: &Replica,
        settlement: &mut Settlement,
    ) -> Result<Request<Outgoing>, Failure> {
        let model = route.engine_name.as_deref().unwrap_or(&self.reading.facts.model);
        let wanted = Wanted { model, engine: route.pool.engine, pins: &route.pool.pins };
        let (api, body) = if let Some(crossing) = &self.crossing {
            let (body, adjusted) = crossing.write(model, &route.pool.pins);
            self.adjusted = adjusted.header();
            settlement.grow(body.len(), self.budget)?;
            (crossing.to, vec![Bytes::from(body)])
        } else {
            let Rewrite { edits, adjusted } = self.reading.rewrite(self.body, &wanted)?;
            self.adjusted = adjusted;
            (self.reading.facts.api, edits.apply(self.body))
        };
        let mut request = Request::new(Outgoing::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(api.path());
        let headers = request.headers_mut();
        replica.introduce(headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::REQUEST_ID, settlement.record.request_id.clone());
        for (name, value) in self.headers {
            // What a client accepts in its own API says nothing of the other's.
            if name != ACCEPT || self.crossing.is_none() {
                headers.insert(name.clone(), value.clone());
            }
        }
        Ok(request)
    }
}

/// What an Ollama's chat says that was named a model and does not find it.
const NO_MODEL: [&str; 2] = [
    r#"{"error":"model is required"}"#,
    r#"{"error":{"message":"model is required","type":"api_error","param":null,"code":null}}
"#,
];

/// Whether an Ollama says so. While another name is deleted there, one call in a hundred or so does not find its model (0.11.4;
/// others than a chat answer 404), before anything is done: so it is asked once more. The length tells such a 400 from others;
/// where it is another after all, to ask again does no harm either.
fn is_without_model<B>(answer: &Response<B>) -> bool {
    let length = answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    answer.status() == StatusCode::BAD_REQUEST
        && length.is_some_and(|length: usize| NO_MODEL.iter().any(|said| said.len() == length))
}

/// Takes a retry out of the pool's budget, if there is one left.
fn can_retry(pool: &Pool) -> bool {
    pool.owner.retries.withdraw(pool.retry_budget, Instant::now())
}

/// Why a request ends that got no head of an answer.
pub(super) fn no_head(why: NoHead) -> Failure {
    match why {
        NoHead::Connect(why) => Failure::new(Code::NoReplica, format!("the replica cannot be reached: {why}")),
        NoHead::Local(why) => Failure::new(Code::Overloaded, format!("the gateway can open no connection: {why}")),
        NoHead::Broken(why) => {
            Failure::new(Code::UpstreamError, format!("the replica closed before its answer, or sent no HTTP: {why}"))
        }
    }
}

/// The same for one whose replica stayed silent.
pub(super) fn too_late(within: Duration) -> Failure {
    Failure::new(Code::UpstreamTimeout, format!("the replica sent no answer within {within:?}"))
}

/// What an answer's status says of the replica. A 400 says nothing: Ollama gives it without asking its engine. Nor does what
/// says that there is no such API: that is the client's choice, and others get their answers there.
fn blamed(engine: Engine, api: Api, status: StatusCode) -> Option<Cause> {
    match status {
        StatusCode::NOT_IMPLEMENTED => None,
        // A server of OpenAI's API has the chat, and the rest as it is started: vLLM for embeddings or not.
        StatusCode::NOT_FOUND if engine == Engine::Openai && api.operation() != "chat" => None,
        // Some servers say so by a 429 (TGI); like a 503 it comes at once, and would draw more.
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(Cause::Busy),
        // There it may as well be what the request refers to that is not found.
        StatusCode::NOT_FOUND if matches!(api, Api::OpenAiResponses | Api::AnthropicMessages) => None,
        // The replica said that it has it, and does not find it now: a file of it is gone.
        StatusCode::NOT_FOUND => Some(Cause::Missing),
        _ => status.is_server_error().then_some(Cause::Error),
    }
}

pub(super) fn refused(code: Code, after: Option<Duration>, route: &Route) -> Failure {
    let pool = &route.pool.name;
    if code == Code::QueueFull {
        limits::hit(Limit::Queue);
    }
    let failure = Failure::new(
        code,
        match code {
            Code::QueueFull => format!("as many requests wait for pool {pool} as may"),
            Code::TooLate => format!("pool {pool} has too much to do to answer this in time"),
            Code::QueueTimeout => format!("no replica of pool {pool} had room within {:?}", route.pool.wait),
            Code::ShuttingDown => "the gateway is shutting down".to_owned(),
            _ => match route.why_nobody() {
                Some(why) => format!("pool {pool} has no replica for this model: {why}"),
                None => format!("pool {pool} has no replica for this model"),
            },
        },
    );
    Failure { after: after.map(|after| after.max(SOON)).or(failure.after), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_that_is_not_there_is_not_held_against_the_replica() {
        let of = |engine, api, status| blamed(engine, api, StatusCode::from_u16(status).unwrap());
        let (chat, embeddings) = (Api::OpenAiChat, Api::OpenAiEmbeddings);
        assert_eq!(of(Engine::Ollama, embeddings, 404), Some(Cause::Missing));
        assert_eq!(of(Engine::Openai, chat, 404), Some(Cause::Missing));
        assert_eq!(of(Engine::Openai, embeddings, 404), None);
        assert_eq!(of(Engine::Openai, Api::OllamaEmbed, 404), None, "by whichever API it is asked for");
        assert_eq!(of(Engine::Ollama, Api::OpenAiResponses, 404), None);
        assert_eq!((of(Engine::Openai, embeddings, 501), of(Engine::Openai, chat, 400)), (None, None));
        assert_eq!(
            (of(Engine::Openai, chat, 500), of(Engine::Openai, chat, 503)),
            (Some(Cause::Error), Some(Cause::Busy))
        );
        assert_eq!(of(Engine::Openai, chat, 429), Some(Cause::Busy), "as some say it");
    }

    #[test]
    fn a_chat_without_a_model_is_known_by_its_length() {
        let of = |status, length| {
            let answer = Response::builder().status(status).header(CONTENT_LENGTH, length);
            is_without_model(&answer.body(()).unwrap())
        };
        assert!(of(400, 29) && of(400, 86), "as 0.11.4 says it in either dialect");
        assert!(!of(400, 30) && !of(500, 29));
        assert!(!is_without_model(&Response::builder().status(400).body(()).unwrap()));
    }
}
