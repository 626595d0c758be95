//! One request, from its head to its answer.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::PoisonError;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::answer::{Answer, outcome};
use super::connection::RawEnding;
use super::{End, Replica, driver::Ticket, making};
use crate::config::{Config, Model, ModelKind};
use crate::engine::{Job, Outcome, Work, tokens_of};
use crate::faults::{self, Fault, Scope};
use crate::records::Entry;
use crate::wire::{self, Api, Call, Printer, Reply, Want};

/// Where models are made.
pub(super) const CREATE: &str = "/api/create";

/// The connection ends without a proper answer.
#[derive(Debug)]
pub(super) struct Hangup;

impl fmt::Display for Hangup {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the connection ends without an answer")
    }
}

impl std::error::Error for Hangup {}

/// Answers a request. An error closes the connection, after what `ending` holds by then.
pub(super) async fn answer(
    replica: Rc<Replica>,
    ending: RawEnding,
    connection: u64,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Hangup> {
    let (head, body) = request.into_parts();
    let entry = replica.records.open(connection, &head);
    let body = match Limited::new(body, replica.config.body_bytes_max).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Ok(reply(entry, Reply::error(Api::Chat, 413, "http: request body too large"), None));
        }
        Err(_) => return Err(Hangup),
    };
    let fault = fault(&replica, &head, &body); // before anybody can see that it is here
    entry.body(&body);

    if let Some(poison) = &replica.config.poison
        && memchr::memmem::find(&body, poison.as_bytes()).is_some()
    {
        replica.end.send_replace(Some(End::Reset));
        return std::future::pending().await; // the connection ends with the replica
    }
    if let Some(bytes) = fault.and_then(Fault::raw_ending) {
        ending.set(Some(bytes));
        return Err(Hangup);
    }
    match fault {
        Some(Fault::Silent) => std::future::pending().await,
        // The work itself takes that long.
        Some(Fault::SlowFirstByte(_)) if head.uri.path() == CREATE => {}
        Some(Fault::SlowFirstByte(wait)) => tokio::time::sleep(wait).await,
        _ => {}
    }
    if !is_allowed(&head, &replica) {
        let refusal = Reply { status: 403, content_type: "", body: Bytes::new() };
        return Ok(reply(entry, refusal, None));
    }
    let api = Api::at(head.uri.path()).filter(|api| replica.config.later_apis || !api.is_later());
    match (api, &head.method) {
        (Some(api), &Method::POST) => infer(&replica, entry, api, &body, fault).await,
        (Some(_), _) => Ok(wrong_method(entry, "POST")),
        (None, _) => match making::answer(&replica, entry, &head, &body, fault).await {
            Ok(response) => Ok(response),
            Err(entry) => Ok(other(&replica, entry, &head, &body)),
        },
    }
}

/// The endpoints that need no model.
fn other(replica: &Replica, entry: Entry, head: &http::request::Parts, body: &Bytes) -> Response<Answer> {
    let (config, modified) = (&*replica.with_stored(), replica.modified);
    let path = head.uri.path();
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    let found = match path {
        "/" if is_read => Reply::text(200, "Ollama is running"),
        "/health" if is_read && config.health => Reply::text(200, "OK"),
        "/api/version" if is_read => Reply::native(200, &serde_json::json!({ "version": version(config) })),
        "/api/tags" if is_read => {
            let stored = replica.store.as_ref().map(|store| store.tags()).unwrap_or_default();
            wire::tags(&replica.config, stored, modified)
        }
        "/api/ps" if head.method == Method::GET => {
            let (residents, now) = replica.driver.residents();
            wire::ps(config, &residents, now)
        }
        "/api/show" if head.method == Method::POST => {
            let stored = replica.store.as_ref().and_then(|store| store.show(body));
            stored.unwrap_or_else(|| wire::show(config, body, modified))
        }
        "/v1/models" if head.method == Method::GET => wire::models(config, modified),
        "/" | "/api/version" | "/api/tags" => return wrong_method(entry, "GET, HEAD"),
        "/api/ps" | "/v1/models" => return wrong_method(entry, "GET"),
        "/api/show" => return wrong_method(entry, "POST"),
        _ => match path.strip_prefix("/v1/models/").filter(|name| !name.contains('/')) {
            Some(name) if head.method == Method::GET => wire::one_model(config, name, modified),
            Some(_) => return wrong_method(entry, "GET"),
            None => Reply::text(404, "404 page not found"),
        },
    };
    reply(entry, found, None)
}

async fn infer(
    replica: &Rc<Replica>,
    entry: Entry,
    api: Api,
    body: &Bytes,
    fault: Option<Fault>,
) -> Result<Response<Answer>, Hangup> {
    if replica.config.prerendered && api == Api::OpenaiChat && !may_stream(body) {
        return Ok(reply(entry, replica.prerendered.clone(), fault));
    }
    let call = match Call::read(api, body) {
        Ok(call) => call,
        Err(refusal) => return Ok(reply(entry, refusal, None)),
    };
    if let Some(refusal) = refused(&replica.config, &call) {
        return Ok(reply(entry, refusal, None));
    }
    let model = match model(replica, &call) {
        Ok(model) => model,
        Err(refusal) => return Ok(reply(entry, refusal, None)),
    };
    let broken = replica.switch.lock().unwrap_or_else(PoisonError::into_inner).broken.contains(&model.full_name());
    match fault {
        Some(Fault::Busy) => return Ok(reply(entry, Reply::busy(api), None)),
        Some(Fault::Denied) => return Ok(reply(entry, Reply::error(api, 401, "Unauthorized"), None)),
        Some(Fault::RunnerDied) => return Ok(reply(entry, runner_died(api), None)),
        Some(Fault::Missing) => return Ok(reply(entry, missing(api, &call.model), None)),
        Some(Fault::NoLoras) if model.adapter.is_some() => return Ok(reply(entry, no_loras(api), None)),
        _ if broken => return Ok(reply(entry, runner_died(api), None)),
        _ => {}
    }
    let printer = Printer::new(&call, replica.records.requests.load(std::sync::atomic::Ordering::Relaxed));
    let printer = printer.of_weights(model.told());
    if call.want == Want::Unload {
        replica.driver.expire(model.base.as_str().into());
        return Ok(reply(entry, printer.loaded("unload"), None));
    }
    let (tokens, reason) = length(&call, replica.config.answer_tokens);
    let mut ticket = replica.driver.submit(job(&call, &model, tokens));
    let streams = call.stream && call.want == Want::Answer;
    let first = outcome(&mut ticket, streams).await.ok_or(Hangup)?;
    Ok(match first {
        Outcome::Busy(_) => reply(entry, Reply::busy(api), None),
        first if streams => stream(entry, ticket, printer, first, reason, fault),
        Outcome::Finished(_, timing) => match call.want {
            Want::Vectors => reply(entry, printer.vectors(&call.inputs, &timing, fault), fault),
            Want::Answer => reply(entry, printer.whole(&timing, reason), fault),
            Want::Load | Want::Unload => reply(entry, printer.loaded("load"), fault),
        },
        Outcome::Token(_) => return Err(Hangup),
    })
}

/// What is said of inputs that are too long, as 0.11.4 says it, and of too many, as TEI does.
fn refused(config: &Config, call: &Call) -> Option<Reply> {
    if call.inputs.len() > config.inputs_max {
        let (sent, most) = (call.inputs.len(), config.inputs_max);
        return Some(Reply::error(call.api, 413, &format!("batch size {sent} > maximum allowed batch size {most}")));
    }
    let too_long = config.too_long.as_ref()?;
    let is_too_long = call.inputs.iter().any(|input| input.contains(too_long));
    is_too_long.then(|| Reply::error(call.api, 400, "input length exceeds maximum context length"))
}

fn version(config: &Config) -> &'static str {
    if config.takes_adapters { crate::VERSION } else { crate::LATER_VERSION }
}

/// What 0.11.4 says of an adapter that is cut short, garbage or not there, on each request anew.
fn runner_died(api: Api) -> Reply {
    Reply::error(api, 500, "llama runner process has terminated: exit status 2")
}

/// What 0.11.5 says of an adapter on an architecture whose runner has none.
fn no_loras(api: Api) -> Reply {
    Reply::error(api, 500, "llama runner process has terminated: error: loras are not yet implemented")
}

/// Whether a body asks for a stream, or is none that could be answered. All of it is read.
fn may_stream(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Asks {
        #[serde(default)]
        stream: bool,
    }
    serde_json::from_slice(body).map_or(true, |asks: Asks| asks.stream)
}

/// What Ollama says of a model that it does not find.
fn missing(api: Api, name: &str) -> Reply {
    match api {
        Api::Chat | Api::OpenaiChat | Api::Embeddings | Api::Responses | Api::Messages if name.is_empty() => {
            Reply::error(api, 400, "model is required")
        }
        Api::Generate | Api::OpenaiCompletions => Reply::error(api, 404, &format!("model '{name}' not found")),
        _ => Reply::error(api, 404, &format!("model {name:?} not found, try pulling it first")),
    }
}

/// The model that is asked for, or Ollama's words for its absence, which differ between its handlers.
fn model<'a>(replica: &'a Replica, call: &Call) -> Result<Cow<'a, Model>, Reply> {
    let (api, name) = (call.api, call.model.as_str());
    let stored = || Some(Cow::Owned(replica.with_stored().find(name)?.clone()));
    let model = replica.config.find(name).map(Cow::Borrowed);
    let Some(model) = model.or_else(|| replica.store.as_ref().and_then(|_| stored())) else {
        return Err(missing(api, name));
    };
    let completes = !matches!(api, Api::Embed | Api::Embeddings | Api::OpenaiEmbeddings);
    if completes && model.kind == ModelKind::Embedding {
        let verb = if !matches!(api, Api::Generate | Api::OpenaiCompletions) { "chat" } else { "generate" };
        return Err(Reply::error(api, 400, &format!("{name:?} does not support {verb}")));
    }
    Ok(model)
}

/// Tokens of the answer, and why it ends there.
fn length(call: &Call, natural: u32) -> (u32, &'static str) {
    match call.tokens_max.and_then(|max| u32::try_from(max).ok()) {
        Some(max) if max < natural => (max, "length"),
        _ => (natural, "stop"),
    }
}

fn job(call: &Call, model: &Model, tokens: u32) -> Job {
    let work = match call.want {
        Want::Answer => Work::Generate { prompt: call.prompt.clone(), tokens },
        Want::Vectors => Work::Embed { prompt_tokens: call.inputs.iter().map(|i| tokens_of(i.len())).sum() },
        Want::Load | Want::Unload => Work::Load,
    };
    Job {
        model: model.name.as_str().into(),
        base: model.base.as_str().into(),
        adapter: model.adapter.as_deref().map(Into::into),
        options: call.options,
        weight_bytes: model.weight_bytes,
        one_slot: model.kind == ModelKind::Embedding,
        keep_alive: call.keep_alive,
        work,
    }
}

fn stream(
    mut entry: Entry,
    ticket: Ticket,
    printer: Printer,
    first: Outcome,
    reason: &'static str,
    fault: Option<Fault>,
) -> Response<Answer> {
    entry.answering(200, false);
    let content_type = http::HeaderValue::from_static(printer.stream_type());
    let mut response = Response::new(Answer::tokens(entry, ticket, printer, first, reason, fault));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

pub(super) fn reply(mut entry: Entry, reply: Reply, fault: Option<Fault>) -> Response<Answer> {
    entry.answering(reply.status, reply.body.is_empty());
    let mut response = Response::new(Answer::whole(entry, reply.body, fault));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !reply.content_type.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(reply.content_type));
    }
    response
}

pub(super) fn wrong_method(entry: Entry, allowed: &'static str) -> Response<Answer> {
    let mut response = reply(entry, Reply::text(405, "405 method not allowed"), None);
    response.headers_mut().insert(ALLOW, http::HeaderValue::from_static(allowed));
    response
}

/// The request's own fault, or else the one that is switched on for it.
fn fault(replica: &Replica, head: &http::request::Parts, body: &Bytes) -> Option<Fault> {
    let own = head.headers.get(faults::HEADER).and_then(|v| v.to_str().ok()?.parse().ok());
    own.or_else(|| {
        let mut switches = replica.switch.lock().unwrap_or_else(PoisonError::into_inner);
        let (fault, scope) = switches.fault?;
        let path = head.uri.path();
        let wants = |what| Api::at(path).is_some_and(|api| Call::read(api, body).is_ok_and(|call| call.want == what));
        let meets = match scope {
            Scope::Inference => Api::at(path).is_some(),
            Scope::Loads => wants(Want::Load),
            Scope::EachNth(number) => {
                let counts = wants(Want::Answer);
                switches.turns += u32::from(counts);
                counts && switches.turns.is_multiple_of(number.max(1))
            }
            Scope::Creates => path == CREATE,
            Scope::Everything => return Some(fault),
        };
        (meets && head.method == Method::POST).then_some(fault)
    })
}

/// Ollama's guard against DNS rebinding: on a loopback address only local names and addresses are served.
fn is_allowed(head: &http::request::Parts, replica: &Replica) -> bool {
    if !replica.config.listen.ip().is_loopback() {
        return true;
    }
    let host = head.headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.to_ascii_lowercase();
    match name.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unspecified(),
        Err(_) => {
            name.is_empty()
                || name == "localhost"
                || [".localhost", ".local", ".internal"].iter().any(|tld| name.ends_with(tld))
        }
    }
}
