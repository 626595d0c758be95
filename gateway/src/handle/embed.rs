//! Embeddings: with others in one call, or an array in several. Who goes alone goes as any other request.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{HeaderValue, Response, StatusCode};

use super::attempt::{Attempt, refused};
use super::errand::{Errand, in_flight, sample};
use super::head::header;
use crate::batch::{self, Arrived, Batch, Brought, Desk, Key, Seat, Texts, Told, Waiting};
use crate::budget::Room;
use crate::classify::{Api, Pins};
use crate::errors::{Code, Failure};
use crate::exchange::{ResponseBody, now};
use crate::replica::Replica;
use crate::schedule::Ticket;
use crate::settle::Settlement;
use crate::shared::Shared;
use crate::table::Route;

/// How often it is looked whether weights are still being loaded for those who wait for a call.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What becomes of a request.
pub(super) enum Way {
    /// It goes by itself; of embeddings, with the call that it is.
    Alone(Option<Call>),
    /// It has been answered.
    Done(Response<ResponseBody>),
}

/// What calls for a model want.
#[derive(Clone)]
struct Ground {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    /// What the replicas call the model.
    model: Box<str>,
    /// What all bodies may have together. Unit: bytes.
    budget: usize,
}

/// A call under way that others may wait for.
pub(super) struct Call {
    ground: Ground,
    key: Arc<Key>,
    /// How many texts, and their weight.
    size: (usize, usize),
    /// On how many calls the replica worked when it came.
    busy: u16,
}

impl Call {
    /// It has a slot.
    pub(super) fn begins(&mut self, route: &Route, settlement: &Settlement) {
        self.busy = settlement.record.replica.as_ref().map_or(1, |replica| in_flight(route, replica));
    }

    /// It was answered.
    pub(super) fn answered(self, route: &Route, answer: &Response<ResponseBody>, settlement: &Settlement) {
        if answer.status().is_success() {
            sample(route, self.size, self.busy, settlement);
        }
    }
}

impl Drop for Call {
    /// Those who waited for it leave.
    fn drop(&mut self) {
        let Some(batch) = self.ground.desk.ended(&self.key, &self.ground.model) else { return };
        let call = Self { ground: self.ground.clone(), key: batch.key.clone(), size: (0, 0), busy: 1 };
        // Without a runtime the core has ended: who waits hears so when this is dropped.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(together(batch, call));
        }
    }
}

impl Attempt<'_> {
    /// Has a request for vectors go with others, or in pieces, where that is better than by itself.
    ///
    /// # Errors
    /// As any request's.
    pub(super) async fn embeds(&mut self, settlement: &mut Settlement) -> Result<Way, Failure> {
        let facts = &self.reading.facts;
        // What another gateway sends has been put together, or cut, there.
        if facts.api.operation() != "embeddings" || self.inbound.is_some() {
            return Ok(Way::Alone(None));
        }
        let (_, route) = self.route(&mut false).await?;
        settlement.waits_for(&route.served);
        self.cross(&route, settlement)?;
        let Some((api, texts)) = self.read_texts() else { return Ok(Way::Alone(None)) };
        let (desk, model) = (&route.pool.desk, route.engine_name());
        let replicas = route.target(facts.api)?.slots().len().max(1);
        if let Some(pieces) = desk.cut(model, &texts, replicas) {
            return self.spread(&route, (api, texts), pieces, settlement).await.map(Way::Done);
        }
        self.texts = (texts.len() > 1).then_some(texts.len());
        let fields = texts.fields.clone();
        let revision = (route.served.revision.clone(), self.choice.pin.is_some());
        let key = Arc::new(Key { class: self.ticket.class, api, model: (*facts.model).into(), revision, fields });
        let size = (texts.len(), texts.weight());
        let who = (texts, &settlement.record.request_id, (self.ticket.tenant, self.ticket.cost));
        match desk.arrive(&key, model, who, (replicas, route.pool.most_waiting), self.ticket.deadline) {
            Arrived::Alone => {
                let (shared, desk, budget) = (self.shared.clone(), desk.clone(), self.budget);
                let ground = Ground { shared, desk, model: model.into(), budget };
                Ok(Way::Alone(Some(Call { ground, key, size, busy: 1 })))
            }
            Arrived::Waits(waiting) => self.wait(&route, waiting, settlement).await.map(Way::Done),
            Arrived::Full => Err(refused(Code::QueueFull, None, &route)),
            Arrived::Late(by) => Err(refused(Code::TooLate, Some(by), &route)),
        }
    }

    /// The texts as its replicas are asked for them, and by which API; `None` where that takes one text alone, or these are
    /// none.
    fn read_texts(&self) -> Option<(Api, Texts)> {
        match &self.crossing {
            Some(crossing) => {
                let (body, _) = crossing.write(&self.reading.facts.model, &Pins::default());
                Some((crossing.to, Texts::read(&body.into())?))
            }
            None if self.reading.facts.api == Api::OllamaEmbeddings => None,
            None => Some((self.reading.facts.api, Texts::read(self.body)?)),
        }
    }

    /// Waits until those it leaves with have been answered.
    async fn wait(
        &self,
        route: &Route,
        mut waiting: Waiting,
        settlement: &mut Settlement,
    ) -> Result<Response<ResponseBody>, Failure> {
        settlement.queue();
        let since = Instant::now();
        // Once there is a replica, all come at once who waited for one.
        let mut until = since
            + if route.pool.replicas.is_empty() { route.pool.cold_wait.max(route.pool.wait) } else { route.pool.wait };
        let mut asked = false;
        loop {
            let told = if asked {
                waiting.inbox.recv().await
            } else {
                // What would be answered later than that is of no use.
                let last = self.ticket.deadline.map(|deadline| deadline.checked_sub(waiting.takes).unwrap_or(since));
                let last = last.map_or(until, |last| last.min(until));
                match tokio::time::timeout_at(last.into(), waiting.inbox.recv()).await {
                    Ok(told) => told,
                    Err(_) if last < until => return Err(refused(Code::TooLate, None, route)),
                    Err(_) => {
                        until = self.longer(since, until).await?;
                        continue;
                    }
                }
            };
            match told {
                None => return Err(refused(Code::ShuttingDown, None, route)),
                Some(Told::Asked(replica)) => {
                    settlement.handed(replica.as_ref());
                    asked = true;
                }
                Some(Told::Answer(brought)) => return self.bring(route, (*brought)?, settlement),
            }
        }
    }

    /// Until when one may wait who has waited as long as for a slot: as others do while weights are being loaded, or there is
    /// no replica.
    ///
    /// # Errors
    /// No longer.
    async fn longer(&self, since: Instant, until: Instant) -> Result<Instant, Failure> {
        let (_, route) = self.route(&mut true).await?;
        let cold = since + route.pool.cold_wait;
        let is_asleep = route.pool.replicas.is_empty();
        if is_asleep && until < cold {
            return Ok(cold);
        }
        let target = route.target(self.reading.facts.api)?;
        if !is_asleep && route.pool.owner.is_loading(target, since, route.pool.wait).await {
            return Ok((Instant::now() + LOOK_AGAIN).min(cold));
        }
        Err(refused(if is_asleep { Code::NoReplica } else { Code::QueueTimeout }, None, &route))
    }

    /// Asks for an array in pieces, a few at once, each in a slot of its own.
    async fn spread(
        &self,
        route: &Route,
        (api, texts): (Api, Texts),
        pieces: Vec<Range<usize>>,
        settlement: &mut Settlement,
    ) -> Result<Response<ResponseBody>, Failure> {
        settlement.queue();
        settlement.record.calls = pieces.len();
        let (model, id) = (&*self.reading.facts.model, settlement.record.request_id.clone());
        let errand = Errand {
            shared: self.shared,
            api,
            model,
            revision: &route.served.revision,
            pinned: true,
            id: &id,
            headers: self.headers,
            ticket: Ticket {
                cost: self.ticket.cost / u32::try_from(pieces.len().max(1)).unwrap_or(u32::MAX),
                ..self.ticket
            },
            budget: self.budget,
            callers: 1,
        };
        let settlement = Mutex::new(settlement); // of this one future: nobody waits for it
        let (errand, texts, told) = (&errand, &texts, &settlement);
        let (begun, replicas) = (Instant::now(), route.target.slots().len().max(1));
        let calls = pieces.into_iter().map(|piece| async move {
            let piece = texts.piece(piece);
            let asked =
                |replica: Option<&Arc<Replica>>| told.lock().unwrap_or_else(PoisonError::into_inner).handed(replica);
            let brought = errand.run(std::iter::once(&piece), asked).await.map_err(Err)?;
            let took = begun.elapsed();
            told.lock().unwrap_or_else(PoisonError::into_inner).grow(brought.body.len(), self.budget).map_err(Err)?;
            if !brought.status.is_success() {
                return Err(Ok(brought)); // one that is refused is the answer to all
            }
            // While other replicas are at work still.
            let rows = batch::Rows::read(&brought.body, piece.len()).map_err(Err)?;
            Ok((brought, rows, (piece.weight(), took)))
        });
        // One for each replica to work on, and one to begin with at once.
        let at_once = 2 * replicas;
        let answers = few_at_once(calls, at_once).await;
        let settlement = settlement.into_inner().unwrap_or_else(PoisonError::into_inner);
        let brought = match answers {
            Ok(answers) => {
                let first: Vec<_> = answers.iter().take(replicas).map(|(.., took)| *took).collect();
                route.pool.desk.spread(route.engine_name(), &first);
                let retries = answers.iter().map(|(brought, ..)| brought.retries).fold(0, u8::saturating_add);
                let (mut brought, rows): (Vec<_>, Vec<_>) =
                    answers.into_iter().map(|(brought, rows, _)| (brought, rows)).unzip();
                let (body, usage) = batch::join(rows, (api, model), now(settlement.record.started));
                let Some(last) = brought.pop() else { return Err(refused(Code::NoReplica, None, route)) };
                Brought { body, counted: Some(usage), retries, ..last }
            }
            Err(brought) => brought?,
        };
        self.bring(route, brought, settlement)
    }

    /// Makes what a replica answered on its behalf the client's.
    fn bring(
        &self,
        route: &Route,
        brought: Brought,
        settlement: &mut Settlement,
    ) -> Result<Response<ResponseBody>, Failure> {
        let Brought { status, headers, body, counted, revision, adjusted, retries, callers } = brought;
        settlement.record.retries = settlement.record.retries.saturating_add(retries);
        settlement.record.callers = callers;
        let mut answer = self.told(route, (status, &headers, body), counted, settlement)?;
        let adjusted = match &self.crossing {
            Some(crossing) => crossing.write(&self.reading.facts.model, &route.pool.pins).1.header(),
            None => adjusted,
        };
        if let Some(adjusted) = adjusted {
            answer.headers_mut().insert(header::ADJUSTED, adjusted);
        }
        if let Some(revision) = HeaderValue::from_str(&revision).ok().filter(|revision| !revision.is_empty()) {
            answer.headers_mut().insert(header::REVISION, revision); // it may have changed while this one waited
        }
        let calls = settlement.record.calls;
        let said = if calls > 1 { format!("calls={calls}") } else { format!("callers={callers}") };
        if let (true, Ok(said)) = (calls > 1 || callers > 1, said.parse()) {
            answer.headers_mut().insert(header::BATCH, said);
        }
        Ok(answer)
    }
}

/// Makes the call for those who leave together, and tells each what came of it. Where it fails, it is made again for each
/// half of them, so that in the end who caused it has the error alone.
async fn together(batch: Batch, call: Call) {
    let Batch { key, seats } = batch;
    let texts: usize = seats.iter().map(|seat| seat.texts.len()).sum();
    let (ground, mut call) = (call.ground.clone(), Some(call));
    let (mut parts, mut halved, mut guilty) = (vec![seats], false, false);
    while let Some(mut seats) = parts.pop() {
        seats.retain(|seat| !seat.tell.is_closed());
        if seats.is_empty() {
            continue;
        }
        let all_left = async {
            for seat in &seats {
                seat.tell.closed().await;
            }
        };
        let begun = Instant::now();
        let brought = tokio::select! {
            biased;
            () = all_left => continue,
            brought = asked_for(&seats, &key, &ground) => brought,
        };
        if parts.is_empty() && brought.is_ok() {
            call = None; // the replica shall not wait while its answer is shared out
        }
        match brought.and_then(|brought| shared_out(&seats, &key, &ground, brought, begun)) {
            Err(Refused::ForOne(_)) if seats.len() > 1 => {
                ground.desk.halved();
                halved = true;
                let later = seats.split_off(seats.len() / 2);
                parts.extend([later, seats]);
            }
            Err(Refused::ForOne(answer) | Refused::ForAll(answer)) => {
                guilty = true;
                seats.iter().for_each(|seat| drop(seat.tell.send(Told::Answer(Box::new(answer.clone())))));
            }
            Ok(answers) => {
                let each = seats.iter().zip(answers);
                each.for_each(|(seat, answer)| drop(seat.tell.send(Told::Answer(Box::new(Ok(answer))))));
            }
        }
    }
    if halved && !guilty {
        ground.desk.refused(&ground.model, texts);
    }
    drop(call);
}

/// A call that brought nobody a vector; what there is to answer.
enum Refused {
    /// One caller's texts may be the reason.
    ForOne(Result<Brought, Failure>),
    /// It is nobody's fault.
    ForAll(Result<Brought, Failure>),
}

/// Asks on behalf of all of them.
async fn asked_for(seats: &[Seat], key: &Key, ground: &Ground) -> Result<Brought, Refused> {
    // It has the turn of the first of them: the others go along.
    let (tenant, cost) = seats[0].charge;
    // And is of use until the last of them must have been answered.
    let deadline = seats.iter().map(|seat| seat.deadline).reduce(|a, b| Some(a?.max(b?))).flatten();
    let errand = Errand {
        shared: &ground.shared,
        api: key.api,
        model: &key.model,
        revision: &key.revision.0,
        pinned: key.revision.1,
        id: &seats[0].id,
        headers: &[],
        ticket: Ticket { class: key.class, tenant, cost, deadline, ..Ticket::default() },
        budget: ground.budget,
        callers: seats.len(),
    };
    let texts = seats.iter().map(|seat| &seat.texts);
    let asked = |replica: Option<&Arc<Replica>>| {
        seats.iter().for_each(|seat| drop(seat.tell.send(Told::Asked(replica.cloned()))))
    };
    let brought = errand.run(texts, asked).await.map_err(|failure| Refused::ForAll(Err(failure)))?;
    match brought.status {
        status if status.is_success() => Ok(brought),
        status if may_be_one(status) => Err(Refused::ForOne(Ok(brought))),
        _ => Err(Refused::ForAll(Ok(brought))),
    }
}

/// An answer to all of them, for each.
fn shared_out(
    seats: &[Seat],
    key: &Key,
    ground: &Ground,
    brought: Brought,
    begun: Instant,
) -> Result<Vec<Brought>, Refused> {
    let sizes: Vec<_> = seats.iter().map(|seat| (seat.texts.len(), seat.texts.weight())).collect();
    let mut room = Room { held: ground.shared.budget.hold(), limit: ground.budget };
    room.grow(2 * brought.body.len()).map_err(|failure| Refused::ForAll(Err(failure)))?;
    let bodies = batch::share(&brought.body, &sizes, (key.api, &key.model), now(begun));
    let bodies = bodies.map_err(|failure| Refused::ForOne(Err(failure)))?;
    let own = |(body, usage)| Brought { body, counted: Some(usage), ..brought.clone() };
    Ok(bodies.into_iter().map(own).collect())
}

/// Whether a replica answers so because of what it was sent. Some say it by a 500.
fn may_be_one(status: StatusCode) -> bool {
    use StatusCode as S;
    matches!(status, S::BAD_REQUEST | S::PAYLOAD_TOO_LARGE | S::UNPROCESSABLE_ENTITY | S::INTERNAL_SERVER_ERROR)
}

/// Runs futures, at most so many at once; yields what they do in their order, or the first error, with which the others
/// end.
async fn few_at_once<F, T, E>(mut futures: impl Iterator<Item = F>, at_once: usize) -> Result<Vec<T>, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut done: Vec<Option<T>> = Vec::new();
    poll_fn(|cx| {
        loop {
            while running.len() < at_once
                && let Some(next) = futures.next()
            {
                running.push((done.len(), Box::pin(next)));
                done.push(None);
            }
            if running.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let (mut failed, before) = (None, running.len());
            running.retain_mut(|(place, future)| match future.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(Ok(output)) => {
                    done[*place] = Some(output);
                    false
                }
                Poll::Ready(Err(error)) => {
                    failed.get_or_insert(error);
                    false
                }
            });
            if let Some(error) = failed {
                return Poll::Ready(Err(error));
            }
            if running.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await?;
    Ok(done.into_iter().flatten().collect())
}
