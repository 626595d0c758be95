//! One request, from its head to its settlement. [`serve`] reads top to bottom as a request goes.

mod answer;
mod attempt;
mod cross;
mod head;
mod show;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue, VARY};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};

use self::attempt::{Attempt, LOOK_AGAIN};
pub(crate) use self::head::copied;
use self::head::{dialect_of, header, named, passed_on, priority, request_id};
use crate::budget::Room;
use crate::classify::{self, Api, Ask};
use crate::errors::Failure;
use crate::exchange::ResponseBody;
use crate::intake::{self, Arriving};
use crate::record::Phase;
use crate::settle::Settlement;
use crate::shared::Shared;
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
    let mut settlement = Settlement::begin(request_id(request.headers()));
    settlement.record.traceparent = request.headers().get(header::TRACEPARENT).map(copied);
    let origin = identify::origin(request.uri(), request.headers(), &shared.table().config.gateway.allowed_hosts);
    let served = match &origin {
        Ok(_) => {
            let mut serving = pin!(serve(&shared, request, &mut settlement));
            poll_fn(|cx| match serving.as_mut().poll(cx) {
                Poll::Pending if shared.ending.has_reached(ending::Phase::Over) => Poll::Ready(Err(ending::over())),
                other => other,
            })
            .await
        }
        Err(failure) => {
            drop(Arriving::of(request));
            Err(failure.clone())
        }
    };
    let mut response = served.unwrap_or_else(|failure| {
        settlement.failed(&failure);
        failure.response(dialect)
    });
    let is_refused = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(header::REQUEST_ID, settlement.record.request_id.clone());
    if let Some(key) = settlement.record.caller.as_ref().filter(|_| !is_refused) {
        key.tell(headers, Instant::now());
    }
    if is_refused {
        headers.insert(answers::INSTANCE, shared.instance.clone()); // without a key, a gateway knows itself by this
    }
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
    settlement.record.status = response.status().as_u16();
    settlement.record.phase = Phase::Answering;
    response.body_mut().settle(settlement);
    drop(Arriving::of(request));
    response
}

async fn serve(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    settlement: &mut Settlement,
) -> Result<Response<ResponseBody>, Failure> {
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
    settlement.admit()?;
    let named = named(&head.headers, in_path)?;
    let asked = priority(&head.headers)?;

    let limits = &config.gateway.limits;
    let budget = limits.buffered_bodies.bytes();
    let mut room = Room { held: shared.budget.hold(), limit: budget };
    let body = intake::read(body, &head.headers, limits, &mut room).await?;
    settlement.record.received = body.len();
    settlement.hold(Some(room.held));
    let headers = passed_on(&head.headers);
    drop(head); // nothing holds the memory that it was read into any more
    let reading = classify::read(api, named, &body)?;

    let (body, headers) = (&body, &*headers);
    let caller = settlement.record.caller.clone();
    let caller = caller.as_deref();
    let class = caller.map_or(asked, |key| key.class(asked));
    let (crossing, failed_at, adjusted) = (None, None, None);
    let mut attempt =
        Attempt { shared, reading: &reading, body, headers, caller, class, budget, crossing, failed_at, adjusted };
    if api == Api::OllamaShow {
        return attempt.show(settlement).await;
    }
    loop {
        let (route, permit) = attempt.slot(settlement).await?;
        settlement.occupy(permit);
        if let Some(answer) = attempt.at_once(settlement)? {
            return Ok(answer);
        }
        let Some(answer) = attempt.exchange(&route, settlement).await? else {
            settlement.record.retries += 1;
            continue;
        };
        return attempt.answer(&route, answer, settlement).await;
    }
}
