//! Where several gateways share the replicas: a request has its turn here, or at the gateway that schedules its pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::HeaderValue;

use super::attempt::{Attempt, refused};
use super::head::header;
use crate::budget::Room;
use crate::ending::Phase;
use crate::errors::{Code, Failure};
use crate::exchange::{Framing, Idle, MAX_WHOLE, Passing, ResponseBody, Source, Streaming, Watch};
use crate::peer::{self, Answering, Asked, Declined, MAX_HOPS, Offer, Outcome, Peers, Reach, Taken, Whose};
use crate::schedule::{Place, Verdict};
use crate::settle::Settlement;
use crate::table::Route;

/// How much longer than the owner of a pool one waits for what the owner gives a time: its own word comes first.
const GRACE: Duration = Duration::from_secs(2);

/// What came of looking whose turn it is to schedule a request.
pub(super) enum Step {
    /// It was asked for a slot here.
    Here(Verdict),
    /// It has one at another gateway.
    There(Box<Taken>),
    /// Things have changed.
    Again,
}

impl Attempt<'_> {
    /// Waits for a slot where the pool is scheduled.
    ///
    /// # Errors
    /// There is none to be had; or, of another gateway's request, it goes back.
    pub(super) async fn wherever(
        &mut self,
        peers: &Arc<Peers>,
        route: &Arc<Route>,
        generation: u32,
        until: Instant,
        place: &mut Place,
        settlement: &Settlement,
    ) -> Result<Step, Failure> {
        if let Some(inbound) = self.inbound.as_ref().filter(|inbound| *inbound.pool != *route.pool.name) {
            let declined = if self.knows(&inbound.pool) { Declined::Moved } else { Declined::Unknown };
            return Err(inbound.decline(declined));
        }
        if self.stays {
            let target = route.target(self.reading.facts.api)?;
            let exclude = self.failed_at.as_deref();
            return Ok(Step::Here(route.pool.owner.acquire(target, generation, until, place, exclude).await));
        }
        match peers.whose(&route.pool) {
            Whose::Here => {
                let target = route.target(self.reading.facts.api)?;
                let exclude = self.failed_at.as_deref();
                tokio::select! {
                    biased; // mostly there is a slot at once, and nothing else is looked at
                    verdict = route.pool.owner.acquire(target, generation, until, place, exclude) => return Ok(Step::Here(verdict)),
                    () = peers.moved(&route.pool) => {}
                }
                let since = place.since;
                *place = self.place(); // and out of this queue
                place.since = since;
                self.inbound.as_ref().map_or(Ok(Step::Again), |inbound| Err(inbound.decline(Declined::Moved)))
            }
            Whose::Soon => self.later(peers, route, (until, place)).await,
            Whose::There(reach) => {
                if let Some(inbound) = &self.inbound {
                    if self.shared.ending.has_reached(Phase::Leaving) {
                        return Err(inbound.decline(Declined::Moved));
                    }
                    if inbound.hops >= MAX_HOPS || reach.through_another {
                        peers.counts.count(Outcome::TakenMisdirected);
                        self.stays = true; // whoever is right: it goes no further
                        return Ok(Step::Again);
                    }
                }
                self.offer(peers, &reach, route, (until, place), settlement).await
            }
        }
    }

    /// Whether it would go to another pool now.
    fn leads_elsewhere(&self, route: &Route) -> bool {
        let table = self.shared.table();
        let now = table.lead(&self.reading.facts.model).and_then(|lead| lead.choose(&self.choice).ok());
        now.is_some_and(|now| now.pool.name != route.pool.name)
    }

    /// Whether another revision of the model is on this pool: then its requests go there by another word of the driver's.
    fn knows(&self, pool: &str) -> bool {
        let table = self.shared.table();
        let split = table.lead(&self.reading.facts.model).and_then(|lead| lead.split.as_ref());
        split.is_some_and(|split| split.all.iter().any(|route| *route.pool.name == *pool))
    }

    /// Tries again once something was heard.
    async fn later(
        &self,
        peers: &Peers,
        route: &Route,
        (until, place): (Instant, &mut Place),
    ) -> Result<Step, Failure> {
        // Who has waited for a replica, or for weights, may go on to.
        let cold = *place.since.get_or_insert_with(Instant::now) + route.pool.cold_wait;
        let last = if until <= Instant::now() || route.pool.replicas.is_empty() { until.max(cold) } else { until };
        if peers.wait(last).await { Ok(Step::Again) } else { Err(refused(Code::QueueTimeout, None, route)) }
    }

    async fn offer(
        &mut self,
        peers: &Peers,
        reach: &Reach,
        route: &Route,
        (until, place): (Instant, &mut Place),
        settlement: &Settlement,
    ) -> Result<Step, Failure> {
        place.since.get_or_insert_with(Instant::now);
        let asked = Asked {
            api: self.reading.facts.api,
            model: &self.reading.facts.model,
            pool: &route.pool.name,
            lot: self.choice.had(),
            prefers: self.choice.prefers.as_deref(),
            revision: self.choice.pin.as_deref(),
            ticket: self.ticket,
            left: until.saturating_duration_since(Instant::now()),
            hops: self.inbound.as_ref().map_or(0, |inbound| inbound.hops) + 1,
            request_id: &settlement.record.request_id,
            headers: self.headers,
            body: self.body,
        };
        // There it may wait for weights beyond that.
        let last = until + route.pool.cold_wait + GRACE;
        let offered = tokio::time::timeout_at(last.into(), peer::offer(peers, reach, asked)).await;
        match offered {
            Ok(Offer::Taken(taken)) => Ok(Step::There(taken)),
            Ok(Offer::Failed(failure)) => Err(failure),
            Ok(Offer::Declined(Declined::Unknown)) => {
                if let Some(inbound) = &self.inbound {
                    return Err(inbound.decline(Declined::Unknown));
                }
                self.stays = true; // nobody there schedules it
                Ok(Step::Again)
            }
            // The driver's word has come meanwhile, and it goes elsewhere.
            Ok(Offer::Declined(_)) if self.leads_elsewhere(route) => Ok(Step::Again),
            Ok(Offer::Declined(Declined::Moved)) => {
                peers.hurry();
                self.later(peers, route, (until, place)).await
            }
            Ok(Offer::Unreached(why)) => {
                tracing::debug!(peer = %reach.address, why, "a request is offered anew");
                peers.hurry();
                self.later(peers, route, (until, place)).await
            }
            Err(_) => Err(refused(Code::QueueTimeout, None, route)),
        }
    }

    /// Has a request that has a slot at another gateway sent, and carries the answer back.
    pub(super) async fn carried(
        &mut self,
        route: &Route,
        taken: Box<Taken>,
        settlement: &mut Settlement,
    ) -> Result<Response<ResponseBody>, Failure> {
        if let Some(inbound) = &mut self.inbound {
            inbound.confirm(&taken.replica).await?;
        }
        let replica = route.pool.replicas.iter().find(|replica| replica.opaque == taken.replica);
        settlement.handed(replica);
        let mut answer = taken.go();
        let within = route.pool.first_byte + GRACE;
        let head = tokio::time::timeout(within, answer.head()).await.unwrap_or_else(|_| {
            let message = format!("the gateway that has it sent no answer within {within:?}");
            Err(Failure::new(Code::UpstreamTimeout, message).blaming_none())
        })?;
        if head.status.is_success() {
            settlement.begins_well();
        }
        let facts = &self.reading.facts;
        let framing = if head.streamed { Framing::of_api(facts.api) } else { Framing::Whole };
        let mut watch = Watch::new(framing, None);
        let body = if head.streamed {
            settlement.hold(None);
            settlement.record.streamed = true;
            let idle = route.pool.idle + GRACE;
            ResponseBody::stream(Streaming {
                source: Some(Source::Peer(answer)),
                passing: Passing::Watched(watch),
                dialect: facts.api.dialect(),
                idle: Idle::new(within.saturating_sub(settlement.waited()).max(idle), idle),
                ending: self.shared.ending.clone(),
                at_line_end: true,
            })
        } else {
            let mut room = Room { held: self.shared.budget.hold(), limit: self.budget };
            let mut body = whole(answer, route.pool.idle + GRACE, &mut room).await?;
            settlement.hold(Some(room.held));
            if head.status.is_success() {
                body = watch.whole(body).map_err(|broken| Failure::new(Code::UpstreamError, broken.message()))?;
                settlement.counted(watch.usage());
            }
            ResponseBody::whole(body)
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        let queued = u64::try_from(settlement.record.queued.as_millis()).unwrap_or(u64::MAX);
        response.headers_mut().insert(header::QUEUE_MS, HeaderValue::from(queued));
        Ok(response)
    }
}

/// Reads an answer that is no stream to its end.
async fn whole(mut answer: Answering, idle: Duration, room: &mut Room) -> Result<Bytes, Failure> {
    let failed = |why: String| Failure::new(Code::UpstreamError, why).blaming_none();
    let mut body = BytesMut::new();
    loop {
        let next = std::future::poll_fn(|cx| answer.poll_data(cx));
        match tokio::time::timeout(idle, next).await {
            Ok(Some(Ok(data))) => {
                room.grow(data.len())?;
                // What was printed anew for its client may have grown.
                if body.len() + data.len() > 2 * MAX_WHOLE {
                    return Err(failed(format!("the answer is larger than {} bytes", 2 * MAX_WHOLE)));
                }
                body.extend_from_slice(&data);
            }
            Ok(Some(Err(why))) => return Err(failed(why)),
            Ok(None) => return Ok(body.freeze()),
            Err(_) => return Err(failed(format!("the gateway that has it was silent for {idle:?}"))),
        }
    }
}
