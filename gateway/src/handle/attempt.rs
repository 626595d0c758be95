//! One request on its way to a replica: a slot, and an exchange in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tutti_api::{Engine, Priority};

use super::head::header;
use crate::answers;
use crate::classify::{Api, Reading, Rewrite, Wanted};
use crate::dialect::Crossing;
use crate::errors::{Code, Failure};
use crate::exchange::{Line, NoHead, Outgoing};
use crate::health::Cause;
use crate::keys::Key;
use crate::limits::{self, Limit};
use crate::replica::Replica;
use crate::schedule::{Permit, Place, Verdict};
use crate::settle::Settlement;
use crate::shared::Shared;
use crate::table::{Pool, Route};

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
    /// Before whom it goes in a queue.
    pub(super) class: Priority,
    /// What all bodies may have together. Unit: bytes.
    pub(super) budget: usize,
    /// The request in other words, where its replicas speak another API.
    pub(super) crossing: Option<Crossing<'a>>,
    /// The replica that has just failed it: a retry goes elsewhere.
    pub(super) failed_at: Option<Arc<Replica>>,
    /// Which of the client's options were changed for the replica that is asked.
    pub(super) adjusted: Option<HeaderValue>,
}

pub(super) type Answer = (Response<Incoming>, Line);

impl Attempt<'_> {
    /// Admits the request and waits for its turn. A revision is final once the slot is taken: where the table changes
    /// before that, it is chosen again.
    pub(super) async fn slot(&mut self, settlement: &mut Settlement) -> Result<(Arc<Route>, Permit), Failure> {
        let asked = Instant::now();
        let mut looked = false;
        let mut place = Place::of(self.class, self.reading.loads_with(self.body));
        settlement.queue();
        loop {
            let (generation, route) = self.route(&mut looked).await?;
            settlement.record.served = Some(route.served.clone());
            self.cross(&route, settlement)?;
            let target = route.target(self.reading.facts.api)?;
            let until = asked + route.pool.wait;
            let exclude = self.failed_at.as_deref();
            let verdict = route.pool.owner.acquire(target, generation, until, &mut place, exclude).await;
            match verdict {
                Verdict::Go(permit) => return Ok((route, permit)),
                Verdict::Reroute => tokio::task::yield_now().await,
                Verdict::Refused(code) => return Err(refused(code, &route)),
            }
        }
    }

    /// Where the table leads, and its generation. Once, the replicas are asked again for a name that is not known.
    pub(super) async fn route(&self, looked: &mut bool) -> Result<(u32, Arc<Route>), Failure> {
        loop {
            let (found, exposes) = {
                let table = self.shared.table();
                let route = answers::found(&table, &self.reading.facts.model, self.caller).cloned();
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
        let Some(replica) = settlement.record.replica.clone() else { return Ok(None) };
        let request = self.request(route, &replica, settlement)?;
        let replicas = route.target(self.reading.facts.api)?.slots().len();
        let may_retry = u32::from(settlement.record.retries) < route.pool.retries && replicas > 1;
        if may_retry {
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
                if let Some(cause) = blamed(route.pool.engine, self.reading.facts.api, status) {
                    settlement.blame(cause);
                }
                if status != StatusCode::SERVICE_UNAVAILABLE || !may_retry || !can_retry(&route.pool) {
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

fn refused(code: Code, route: &Route) -> Failure {
    let pool = &route.pool.name;
    if code == Code::QueueFull {
        limits::hit(Limit::Queue);
    }
    Failure::new(
        code,
        match code {
            Code::QueueFull => format!("as many requests wait for pool {pool} as may"),
            Code::QueueTimeout => format!("no replica of pool {pool} had room within {:?}", route.pool.wait),
            Code::ShuttingDown => "the gateway is shutting down".to_owned(),
            _ => format!("pool {pool} has no replica for this model"),
        },
    )
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
}
