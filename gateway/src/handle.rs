//! One request, from its head to its settlement. [`serve`] reads top to bottom as a request goes.

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CONTENT_ENCODING, CONTENT_TYPE, HOST,
    HeaderName, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING, VARY,
};
use http::{HeaderMap, Method, Request, Response};
use hyper::body::{Body, Incoming};
use tokio::time::error::Elapsed;

use crate::budget::Room;
use crate::classify::{self, Api, Ask, Dialect, Reading};
use crate::errors::{Code, Failure};
use crate::exchange::{Framing, Idle, Line, NoHead, Outgoing, ResponseBody, Streaming, Watch, collect};
use crate::health::Event;
use crate::record::Phase;
use crate::replica::Replica;
use crate::schedule::{Permit, Place, Verdict};
use crate::settle::Settlement;
use crate::shared::Shared;
use crate::table::{Route, Table};
use crate::{answers, identify, intake};

/// Headers of tutti's own, and those it passes on.
mod header {
    use http::header::HeaderName;

    pub(super) const MODEL: HeaderName = HeaderName::from_static("x-tutti-model");
    pub(super) const REVISION: HeaderName = HeaderName::from_static("x-tutti-revision");
    pub(super) const REPLICA: HeaderName = HeaderName::from_static("x-tutti-replica");
    pub(super) const QUEUE_MS: HeaderName = HeaderName::from_static("x-tutti-queue-ms");
    pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    /// What a page's script may read of them.
    pub(super) const EXPOSED: &str = "x-request-id, x-tutti-revision, x-tutti-replica, x-tutti-queue-ms, retry-after";
    pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
}

/// What a replica sees of the client's headers, and nothing else.
const PASSED_ON: [HeaderName; 3] = [ACCEPT, header::TRACEPARENT, header::TRACESTATE];

/// What a client sees of the replica's headers, beside those of the gateway's own.
const PASSED_BACK: [HeaderName; 3] = [CONTENT_TYPE, CONTENT_ENCODING, RETRY_AFTER];

/// How long an unknown name may wait for the replicas to be asked whether they have it by now.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Answers a request. Dropping the future, as hyper does when the client has gone, ends the work in whatever phase.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let dialect = dialect_of(request.uri().path());
    let quiet = matches!(request.uri().path(), "/healthz" | "/readyz");
    let is_head = request.method() == Method::HEAD;
    let mut settlement = Settlement::begin(request_id(request.headers()));
    let origin = identify::origin(request.headers(), &shared.table().config.gateway.allowed_hosts);
    let served = match &origin {
        Ok(_) => serve(&shared, request, &mut settlement).await,
        Err(failure) => Err(failure.clone()),
    };
    let mut response = served.unwrap_or_else(|failure| {
        settlement.failed(&failure);
        failure.response(dialect)
    });
    let headers = response.headers_mut();
    headers.insert(header::REQUEST_ID, settlement.record.request_id.clone());
    if let Ok(Some(origin)) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(header::EXPOSED));
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
    settlement.record.status = response.status().as_u16();
    settlement.record.phase = Phase::Answering;
    if is_head || response.body().is_end_stream() {
        settlement.finished(); // no byte of a body will say so
    }
    if quiet {
        settlement.silence(); // asked every few seconds by whoever runs us
    }
    response.body_mut().settle(settlement);
    Ok(response)
}

async fn serve(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    settlement: &mut Settlement,
) -> Result<Response<ResponseBody>, Failure> {
    let (head, body) = request.into_parts();
    let config = shared.table().config.clone();
    identify::host(&head, &config.gateway.allowed_hosts)?;
    if head.method == Method::OPTIONS {
        return Ok(answers::options(&head.headers));
    }
    let ask = classify::ask(&head.method, head.uri.path())?;
    let Ask::Inference(api, in_path) = ask else {
        return with_refresh(shared, &ask).await;
    };
    settlement.record.api = Some(api);
    let named = named(&head.headers, in_path)?;

    let limits = &config.gateway.limits;
    let budget = limits.buffered_bodies.bytes();
    let mut room = Room { held: shared.budget.hold(), limit: budget };
    let body = intake::read(body, &head.headers, limits.body.bytes(), &mut room).await?;
    settlement.record.received = body.len();
    settlement.hold(Some(room.held));
    let reading = classify::read(api, named, &body)?;

    let mut attempt = Attempt { shared, reading: &reading, body: &body, headers: &head.headers, failed_at: None };
    loop {
        let (route, permit) = attempt.slot(settlement).await?;
        settlement.occupy(permit);
        let Some(answer) = attempt.exchange(&route, settlement).await? else {
            settlement.record.retries += 1;
            continue;
        };
        return attempt.answer(&route, answer, settlement, budget).await;
    }
}

/// A request that has been read, on its way to a replica.
struct Attempt<'a> {
    shared: &'a Arc<Shared>,
    reading: &'a Reading,
    body: &'a Bytes,
    headers: &'a HeaderMap,
    /// The replica that has just failed it: a retry goes elsewhere.
    failed_at: Option<Arc<Replica>>,
}

type Answer = (Response<Incoming>, Line);
type Sent = Result<Result<Answer, NoHead>, Elapsed>;

impl Attempt<'_> {
    /// Admits the request and waits for its turn. A revision is final once the slot is taken: where the table changes
    /// before that, it is chosen again.
    async fn slot(&self, settlement: &mut Settlement) -> Result<(Arc<Route>, Permit), Failure> {
        let asked = Instant::now();
        let mut looked = false;
        let mut place = Place::default();
        settlement.queue();
        loop {
            let (generation, route) = {
                let table = self.shared.table();
                (table.generation, self.route(&table))
            };
            let route = match route {
                Ok(route) => route,
                Err(_) if !looked && self.shared.table().exposes() => {
                    looked = true;
                    self.shared.look_again(LOOK_AGAIN).await;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            settlement.record.served = Some(route.served.clone());
            let until = asked + route.pool.wait;
            let exclude = self.failed_at.as_deref();
            let verdict = route.pool.owner.acquire(&route.target, generation, until, &mut place, exclude).await;
            match verdict {
                Verdict::Go(permit) => {
                    settlement.unqueue();
                    return Ok((route, permit));
                }
                Verdict::Reroute => tokio::task::yield_now().await,
                Verdict::Refused(code) => return Err(refused(code, &route)),
            }
        }
    }

    fn route(&self, table: &Table) -> Result<Arc<Route>, Failure> {
        answers::found(table, &self.reading.facts.model).cloned()
    }

    /// Sends the request and waits for the answer's head. `None`: nothing came of it, and it may be tried once more.
    async fn exchange(&mut self, route: &Route, settlement: &Settlement) -> Result<Option<Answer>, Failure> {
        let Some(replica) = settlement.record.replica.clone() else { return Ok(None) };
        let engine_name = route.engine_name.as_deref().unwrap_or(&self.reading.facts.model);
        let pieces = self.reading.edits(engine_name).apply(self.body);
        let request = self.request(&replica, Outgoing::new(pieces), settlement)?;
        let may_retry = u32::from(settlement.record.retries) < route.pool.retries && route.target.slots().len() > 1;
        let send = Line::send(&replica, request, route.pool.connect);
        let sent = tokio::time::timeout(route.pool.first_byte, send).await;
        if let Some(event) = event(&sent) {
            self.shared.heard(&route.pool, &replica, event);
        }
        match sent {
            Ok(Ok((response, _))) if response.status() == 503 && may_retry => self.failed_at = Some(replica),
            Ok(Ok(answer)) => return Ok(Some(answer)),
            Ok(Err(NoHead::Connect(why))) => {
                if !may_retry {
                    return Err(Failure::new(Code::NoReplica, format!("no replica of the pool can be reached: {why}")));
                }
                self.failed_at = Some(replica);
            }
            Ok(Err(NoHead::Local(why))) => {
                return Err(Failure::new(Code::Overloaded, format!("the gateway can open no connection: {why}")));
            }
            Ok(Err(NoHead::Broken(why))) => {
                return Err(Failure::new(
                    Code::UpstreamError,
                    format!("the replica closed before its answer, or sent no HTTP: {why}"),
                ));
            }
            Err(_) => {
                let message = format!("the replica sent no answer within {:?}", route.pool.first_byte);
                return Err(Failure::new(Code::UpstreamTimeout, message));
            }
        }
        Ok(None)
    }

    /// The request as the replica gets it: its own Host, and of the client's headers only what is on the list.
    fn request(
        &self,
        replica: &Replica,
        body: Outgoing,
        settlement: &Settlement,
    ) -> Result<Request<Outgoing>, Failure> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(self.reading.facts.api.path());
        let headers = request.headers_mut();
        headers.insert(HOST, replica.authority.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::REQUEST_ID, settlement.record.request_id.clone());
        for name in PASSED_ON {
            if let Some(value) = self.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        Ok(request)
    }

    /// Turns the replica's answer into the client's: a stream goes through while it is watched, anything else is whole
    /// before its head is sent, so that it is never cut short under a good status.
    async fn answer(
        &self,
        route: &Route,
        (response, line): Answer,
        settlement: &mut Settlement,
        budget: usize,
    ) -> Result<Response<ResponseBody>, Failure> {
        let Some(replica) = settlement.record.replica.clone() else {
            return Err(Failure::new(Code::NoReplica, "no replica was chosen"));
        };
        let facts = &self.reading.facts;
        let (head, incoming) = response.into_parts();
        if head.status.is_informational() {
            return Err(Failure::new(Code::UpstreamError, format!("the replica answered {}", head.status)));
        }
        let renamed = route.engine_name.as_deref().is_some_and(|name| name != facts.model);
        let rename = renamed.then(|| Bytes::from(serde_json::Value::from(&*facts.model).to_string()));
        let framing = if facts.stream && head.status.is_success() {
            Framing::of_stream(facts.api.dialect())
        } else {
            Framing::Whole
        };
        let mut watch = Watch::new(framing, rename);
        let body = if framing == Framing::Whole {
            let mut room = Room { held: self.shared.budget.hold(), limit: budget };
            let body = collect(line, incoming, &replica, route.pool.idle, &mut room).await?;
            settlement.hold(Some(room.held)); // the request's body is not needed any more
            let body = if head.status.is_success() && facts.api != Api::OllamaShow {
                watch.whole(body).map_err(|broken| Failure::new(Code::UpstreamError, broken.message()))?
            } else {
                body
            };
            settlement.counted(watch.usage());
            settlement.replica_done();
            ResponseBody::whole(body)
        } else {
            settlement.hold(None);
            let idle = Idle::new(route.pool.idle);
            ResponseBody::stream(Streaming {
                line: Some(line),
                incoming,
                replica: replica.clone(),
                watch,
                dialect: facts.api.dialect(),
                idle,
                at_line_end: true,
                ended: false,
            })
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = head.status;
        let headers = answer.headers_mut();
        for name in PASSED_BACK {
            if let Some(value) = head.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(header::REPLICA, replica.opaque.clone());
        headers.insert(
            header::QUEUE_MS,
            HeaderValue::from(u64::try_from(settlement.record.queued.as_millis()).unwrap_or(u64::MAX)),
        );
        if let Ok(revision) = HeaderValue::from_str(&route.served.revision)
            && !revision.is_empty()
        {
            headers.insert(header::REVISION, revision);
        }
        Ok(answer)
    }
}

/// What an exchange says of the replica; an error of its own that another replica might say too says nothing.
fn event(sent: &Sent) -> Option<Event> {
    match sent {
        Ok(Ok((response, _))) if response.status() == 503 => Some(Event::Failed),
        Ok(Ok((response, _))) => (!response.status().is_server_error()).then_some(Event::Answered),
        Ok(Err(NoHead::Connect(_))) => Some(Event::Unreachable),
        Ok(Err(NoHead::Local(_))) => None,
        Ok(Err(NoHead::Broken(_))) | Err(_) => Some(Event::Failed),
    }
}

fn refused(code: Code, route: &Route) -> Failure {
    let pool = &route.pool.name;
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

/// An answer of the gateway's own; a name that is not known may be known once the replicas were asked again.
async fn with_refresh(shared: &Arc<Shared>, ask: &Ask) -> Result<Response<ResponseBody>, Failure> {
    let first = answers::answer(ask, shared);
    if first.is_err() && shared.table().exposes() {
        shared.look_again(LOOK_AGAIN).await;
        return answers::answer(ask, shared);
    }
    first
}

/// The model's name outside the body: the header goes before the path.
fn named(headers: &HeaderMap, in_path: Option<String>) -> Result<Option<String>, Failure> {
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

fn dialect_of(path: &str) -> Dialect {
    let rest = path.strip_prefix("/models/").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    Dialect::of(rest.unwrap_or(path))
}

/// The client's `x-request-id`, if it is one to print; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    const LONGEST: usize = 128;
    let given = headers
        .get(header::REQUEST_ID)
        .filter(|id| !id.is_empty() && id.len() <= LONGEST && id.as_bytes().iter().all(|byte| byte.is_ascii_graphic()));
    given.cloned().unwrap_or_else(new_id)
}

fn new_id() -> HeaderValue {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(crate::random());
    }
    // SplitMix64 (Steele, Lea, Flood 2014): well spread; nobody relies on its being unguessable.
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    HeaderValue::from_str(&format!("{mixed:016x}")).unwrap_or(HeaderValue::from_static("0"))
}
