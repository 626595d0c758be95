//! A copy of a request for the revision that is mirrored to: of the lowest class, in a slot that nobody wants, gone as soon
//! as somebody does. Nobody sees its answer; how it ended is told of its revision. The gateway that holds the client makes it,
//! and hands it to the one that schedules the revision's pool, where that is another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use http_body_util::BodyExt;
use tutti_api::Priority;

use super::attempt::Attempt;
use super::head::{passed_on, request_id};
use crate::budget::Room;
use crate::classify::{self, Api};
use crate::peer::{self, Asked, Handed, Inbound, Reach, Whose};
use crate::schedule::{Permit, Slots, Ticket};
use crate::settle::Settlement;
use crate::shared::Shared;
use crate::table::{Pool, Route};
use crate::traffic::Mirrored;

/// How often it is looked whether somebody waits for its slot.
const LOOK: Duration = Duration::from_millis(20);
/// How long another gateway may take to take a copy over.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);

/// A copy of a request.
pub(crate) struct Copy {
    shared: Arc<Shared>,
    route: Arc<Route>,
    api: Api,
    model: String,
    id: HeaderValue,
    body: Bytes,
    headers: Vec<(HeaderName, HeaderValue)>,
    ticket: Ticket,
    budget: usize,
}

impl Attempt<'_> {
    /// Sends a copy to the revision that is mirrored to, if this request is one of those that it gets.
    pub(super) fn mirror(&self, route: &Route, settlement: &Settlement) {
        if route.served.counted.is_none() || self.inbound.is_some() || self.choice.pin.is_some() {
            return;
        }
        let to = {
            let table = self.shared.table();
            let split = table.lead(&self.reading.facts.model).and_then(|lead| lead.split.as_ref());
            split.and_then(|split| split.mirrored()).cloned()
        };
        let Some(to) = to.filter(|to| to.served.revision != route.served.revision) else { return };
        let whose = whose(self.shared, &to.pool);
        let copy = Copy {
            shared: self.shared.clone(),
            route: to,
            api: self.reading.facts.api,
            model: self.reading.facts.model.to_string(),
            id: settlement.record.request_id.clone(),
            body: self.body.clone(),
            headers: self.headers.to_vec(),
            ticket: Ticket { class: Priority::Bulk, deadline: None, ..self.ticket },
            budget: self.budget,
        };
        tokio::spawn(async move {
            match whose {
                Whose::Here => copy.run().await,
                Whose::There(reach) => copy.hand_over(&reach).await,
                Whose::Soon => copy.counts(Mirrored::Unreached),
            }
        });
    }
}

/// Who schedules a pool.
fn whose(shared: &Shared, pool: &Pool) -> Whose {
    let peers = shared.peers.as_ref().filter(|_| peer::one_schedules(pool));
    peers.map_or(Whose::Here, |peers| peers.whose(pool))
}

/// Takes over a copy from another gateway. `None`: it is not for here, or not whole.
pub(crate) async fn taken_over(shared: Arc<Shared>, headers: HeaderMap, mut inbound: Inbound) -> Option<Copy> {
    shared.beginning.over().await;
    let config = shared.table().config.clone();
    let limits = &config.gateway.limits;
    let budget = limits.buffered_bodies.bytes();
    let mut room = Room { held: shared.budget.hold(), limit: budget };
    let body = inbound.read(limits.body.bytes(), &mut room).await.ok()?;
    let route = {
        let table = shared.table();
        let split = table.lead(&inbound.model)?.split.as_ref()?;
        split.choose(&inbound.choice).ok().filter(|route| *route.pool.name == *inbound.pool)?.clone()
    };
    (whose(&shared, &route.pool) == Whose::Here).then_some(())?;
    let (id, headers) = (request_id(&headers), passed_on(&headers));
    let Inbound { api, model, ticket, .. } = inbound;
    Some(Copy { shared, route, api, model, id, body, headers, ticket, budget })
}

impl Copy {
    /// Takes note of what became of it.
    fn counts(&self, what: Mirrored) {
        if let Some(counted) = &self.route.served.counted {
            counted.mirror(what);
        }
    }

    /// Room for its body, which is in memory for longer than the request's.
    fn room(&self) -> Option<Room> {
        let mut room = Room { held: self.shared.budget.hold(), limit: self.budget };
        let has_room = room.grow(self.body.len()).is_ok();
        if !has_room {
            self.counts(Mirrored::NoRoom);
        }
        has_room.then_some(room)
    }

    /// Gives it to the gateway that schedules its pool, which counts it from there.
    async fn hand_over(self, reach: &Reach) {
        let (Some(_room), Some(peers)) = (self.room(), &self.shared.peers) else { return };
        let asked = Asked {
            api: self.api,
            model: &self.model,
            pool: &self.route.pool.name,
            lot: 0,
            prefers: None,
            revision: Some(&self.route.served.revision),
            ticket: self.ticket,
            left: Duration::ZERO, // it waits for nothing
            hops: 1,
            request_id: &self.id,
            headers: &self.headers,
            body: &self.body,
        };
        match peer::hand_over(peers, reach, asked, TAKEN_WITHIN).await {
            Handed::Over => {}
            Handed::Not => self.counts(Mirrored::Unreached),
            Handed::Unheard => self.counts(Mirrored::Unheard),
        }
    }

    /// Runs it, if there is room for it.
    pub(crate) async fn run(self) {
        let mut settlement = Settlement::begin(self.id.clone());
        settlement.shadow();
        let Some(room) = self.room() else { return };
        settlement.hold(Some(room.held));
        let Some((permit, slots)) = self.spare().await else { return self.counts(Mirrored::Busy) };
        settlement.record.api = Some(self.api);
        settlement.record.served = Some(self.route.served.clone());
        settlement.occupy(permit);
        tokio::select! {
            biased;
            // Whoever drops a settlement that has not ended says nothing of its revision.
            () = wanted(&slots) => self.counts(Mirrored::Cut),
            () = self.sent(settlement) => self.counts(Mirrored::Sent),
        }
    }

    /// A slot that nobody wants, on a replica that is trusted.
    async fn spare(&self) -> Option<(Permit, Arc<Slots>)> {
        let target = self.route.target(self.api).ok()?;
        let mut all: Vec<&Arc<Slots>> = target.slots().iter().filter(|slots| !slots.view().suspect).collect();
        all.sort_by_key(|slots| slots.view().in_flight);
        for slots in all {
            if let Some(permit) = self.route.pool.owner.spare(slots).await {
                return Some((permit, slots.clone()));
            }
        }
        None
    }

    /// Sends it, and reads the answer to its end.
    async fn sent(&self, mut settlement: Box<Settlement>) {
        let Ok(reading) = classify::read(self.api, Some(self.model.clone()), &self.body) else { return };
        let (body, headers) = (&self.body, &*self.headers);
        let mut attempt = Attempt::new(&self.shared, &reading, body, headers, self.ticket, self.budget);
        let answered = async {
            attempt.cross(&self.route, &mut settlement)?;
            let answer = loop {
                if let Some(answer) = attempt.exchange(&self.route, &mut settlement).await? {
                    break answer;
                }
                // Others would be tried elsewhere. A copy has this slot alone, and what comes of the last try counts.
                settlement.record.retries += 1;
            };
            attempt.answer(&self.route, answer, &mut settlement).await
        };
        match answered.await {
            Ok(mut response) => {
                settlement.goes_out(response.status().as_u16());
                response.body_mut().settle(settlement);
                while let Some(Ok(_)) = response.body_mut().frame().await {}
            }
            Err(failure) => settlement.failed(&failure),
        }
    }
}

/// Resolves once somebody waits for a slot of these.
async fn wanted(slots: &Slots) {
    while !slots.view().closed {
        tokio::time::sleep(LOOK).await;
    }
}
