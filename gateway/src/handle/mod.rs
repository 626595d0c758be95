//! One request, from its head to its settlement. [`serve`] reads top to bottom as a request goes.

mod answer;
mod attempt;
mod cross;
mod elsewhere;
mod embed;
mod errand;
mod forwarded;
mod head;
mod mirror;
mod show;
mod ticket;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CONTENT_TYPE, HeaderValue, VARY};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};

use self::attempt::{Attempt, LOOK_AGAIN};
pub(crate) use self::forwarded::forwarded;
pub(crate) use self::head::copied;
use self::head::{dialect_of, header, named, passed_on, request_id, revision};
pub(crate) use self::mirror::taken_over;
use crate::budget::Room;
use crate::classify::{self, Api, Ask};
use crate::errors::{Code, Failure};
use crate::exchange::{self, First, Framing, ResponseBody, Served, Waits};
use crate::intake::{self, Arriving};
use crate::keys::Key;
use crate::schedule::Ticket;
use crate::settle::Settlement;
use crate::shared::Shared;
use crate::traffic::Choice;
use crate::{answers, ending, identify};

/// Answers a request. Dropping the future, as hyper does when the client has gone, ends the work in whatever phase. Who
/// polls it wakes when the gateway is over: then what has not been answered is refused.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let dialect = dialect_of(request.uri().path());
    let quiet = matches!(request.uri().path(), "/healthz" | "/readyz");
    let is_head = request.method() == Method::HEAD;
    let request_id = request_id(request.headers());
    let mut settlement = Settlement::begin(request_id.clone());
    settlement.record.traceparent = request.headers().get(header::TRACEPARENT).map(copied);
    let origin = identify::origin(request.uri(), request.headers(), &shared.table().config.gateway.allowed_hosts);
    let (mut settlement, served) = match &origin {
        Ok(_) => {
            let waits = Arc::new(Waits::default());
            let serving = serving(shared.clone(), request, settlement, waits.clone());
            match exchange::first(Box::pin(serving), &waits).await {
                First::Served(settlement, served) => (settlement, served),
                First::Waits(held) => {
                    let mut response = Response::new(ResponseBody::held(held));
                    let headers = response.headers_mut();
                    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                    headers.insert(header::REQUEST_ID, request_id);
                    allow(headers, origin.ok().flatten());
                    return Ok(response);
                }
            }
        }
        Err(failure) => {
            drop(Arriving::of(request));
            (settlement, Err(failure.clone()))
        }
    };
    let mut response = served.unwrap_or_else(|failure| {
        settlement.failed(&failure);
        failure.response(dialect)
    });
    let is_refused = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(header::REQUEST_ID, request_id);
    if let Some(key) = settlement.record.caller.as_ref().filter(|_| !is_refused) {
        key.tell(headers, Instant::now());
    }
    if is_refused {
        headers.insert(answers::INSTANCE, shared.instance.clone()); // without a key, a gateway knows itself by this
    }
    allow(headers, origin.ok().flatten());
    settlement.goes_out(response.status().as_u16());
    if is_head || response.body().is_end_stream() {
        settlement.finished(); // no byte of a body will say so
    }
    if quiet {
        settlement.silence(); // asked every few seconds by whoever runs us
    }
    response.body_mut().settle(settlement);
    Ok(response)
}

/// Serves a request, wherever it is looked at from.
async fn serving(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    mut settlement: Box<Settlement>,
    waits: Arc<Waits>,
) -> (Box<Settlement>, Served) {
    let served = {
        let mut serving = pin!(serve(&shared, request, &mut settlement, waits));
        poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Pending if shared.ending.has_reached(ending::Phase::Over) => Poll::Ready(Err(ending::over())),
            other => other,
        })
        .await
    };
    (settlement, served)
}

/// Lets a page of this origin read an answer.
fn allow(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(header::EXPOSED));
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
}

/// Finds whose key a request came with, and refuses one that is not good.
fn identify(shared: &Shared, headers: &HeaderMap, settlement: &mut Settlement) -> Result<(), Failure> {
    let keys = shared.keys.set();
    let Some(keys) = &*keys else { return Ok(()) };
    let key = identify::key(headers, keys)?;
    settlement.record.caller = Some(key.clone()); // the log tells who asks with a key that was revoked
    if key.is_good() { Ok(()) } else { Err(identify::not_valid()) }
}

/// Answers a request that goes no further, and takes note of it as of any other.
pub(crate) fn refuse(request: Request<Incoming>, failure: &Failure) -> Response<ResponseBody> {
    let mut settlement = Settlement::begin(request_id(request.headers()));
    settlement.failed(failure);
    let mut response = failure.response(dialect_of(request.uri().path()));
    response.headers_mut().insert(header::REQUEST_ID, settlement.record.request_id.clone());
    settlement.goes_out(response.status().as_u16());
    response.body_mut().settle(settlement);
    drop(Arriving::of(request));
    response
}

/// What the request's revision is chosen by.
///
/// # Errors
/// It names one, and may not.
fn chosen(headers: &HeaderMap, shared: &Shared, key: Option<&Key>) -> Result<Choice, Failure> {
    let pin = revision(headers)?;
    if pin.is_some() && key.is_some_and(|key| !key.pins) {
        return Err(Failure::new(Code::RevisionNotAllowed, "this API key may not name the revision that answers"));
    }
    Ok(Choice::of(headers, &shared.table().sticky, key).naming(pin))
}

async fn serve(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    settlement: &mut Settlement,
    waits: Arc<Waits>,
) -> Served {
    let (head, body) = Arriving::of(request);
    let config = shared.table().config.clone();
    let keyed = shared.keys.set().is_some();
    identify::host(&head, (!keyed).then_some(&*config.gateway.allowed_hosts))?;
    if head.method == Method::OPTIONS {
        return Ok(answers::options(&head));
    }
    let ask = classify::ask(&head.method, head.uri.path());
    if keyed && !ask.as_ref().is_ok_and(identify::is_open) {
        identify(shared, &head.headers, settlement)?;
    }
    let ask = ask?;
    let Ask::Inference(api, in_path) = ask else {
        return answers::answer(&ask, shared, settlement.record.caller.as_deref(), LOOK_AGAIN).await;
    };
    settlement.record.api = Some(api);
    shared.beginning.over().await;
    settlement.admit()?;
    let named = named(&head.headers, in_path)?;
    let ticket = Ticket::asked(&head.headers, settlement.record.started)?;

    let limits = &config.gateway.limits;
    let budget = limits.buffered_bodies.bytes();
    let choice = chosen(&head.headers, shared, settlement.record.caller.as_deref())?;
    let mut room = Room { held: shared.budget.hold(), limit: budget };
    let body = intake::read(body, &head.headers, limits, &mut room).await?;
    settlement.record.received = body.len();
    settlement.hold(Some(room.held));
    let headers = passed_on(&head.headers);
    drop(head); // nothing holds the memory that it was read into any more
    let reading = classify::read(api, named, &body)?;

    if reading.facts.stream {
        waits.can_hear(Framing::of_api(api), api.dialect());
        settlement.tell(waits);
    }

    let (body, headers) = (&body, &*headers);
    let caller = settlement.record.caller.clone();
    let caller = caller.as_deref();
    let ticket = ticket.of(caller, &reading, body);
    settlement.record.class = ticket.class;
    let mut attempt = Attempt { caller, choice, ..Attempt::new(shared, &reading, body, headers, ticket, budget) };
    if api == Api::OllamaShow { attempt.show(settlement).await } else { attempt.run(settlement).await }
}
