//! A call of the gateway's own to a replica, on behalf of one caller or several: all that holds of a request's call holds
//! of it, but it leaves no record. Dropping it ends the call.

use std::sync::Arc;

use super::answer::{accepted, give_way};
use super::attempt::{Attempt, Turn};
use super::head::header;
use crate::batch::{Brought, Texts};
use crate::budget::Room;
use crate::classify::{self, Api};
use crate::dialect::Usage;
use crate::errors::Failure;
use crate::exchange::{ResponseBody, collect, loading_of_vectors};
use crate::replica::Replica;
use crate::schedule::Ticket;
use crate::settle::Settlement;
use crate::shared::Shared;
use crate::table::Route;
use crate::traffic::Choice;
use bytes::Bytes;
use http::Response;
use http::header::{HeaderName, HeaderValue};

/// What is asked, and for whom.
pub(super) struct Errand<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) api: Api,
    /// As the clients name it.
    pub(super) model: &'a str,
    /// The `x-request-id`.
    pub(super) id: &'a HeaderValue,
    /// What the replica sees of the clients' headers.
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
    /// The revision that it is for, while that gets requests.
    pub(super) revision: &'a str,
    /// That one and no other: the pieces of an array are of one revision.
    pub(super) pinned: bool,
    /// What its turn depends on.
    pub(super) ticket: Ticket,
    /// What all bodies may have together. Unit: bytes.
    pub(super) budget: usize,
    /// How many callers have it together: of one input among many it says nothing that the call fails.
    pub(super) callers: usize,
}

impl Errand<'_> {
    /// Asks for vectors of these texts. `asked` hears of each replica that is; of none where that is another gateway's.
    ///
    /// # Errors
    /// No replica was to be had, or none answered.
    pub(super) async fn run<'t>(
        &self,
        texts: impl Iterator<Item = &'t Texts> + Clone,
        mut asked: impl FnMut(Option<&Arc<Replica>>),
    ) -> Result<Brought, Failure> {
        let mut settlement = Settlement::begin(self.id.clone());
        settlement.silence();
        let mut room = Room { held: self.shared.budget.hold(), limit: self.budget };
        let body = Texts::body(self.model, texts.clone());
        room.grow(body.len())?;
        settlement.hold(Some(room.held));
        let size = texts.fold((0, 0), |(count, weight), texts| (count + texts.len(), weight + texts.weight()));
        let brought = self.asking(&body, size, &mut settlement, &mut asked).await;
        brought.inspect_err(|failure| settlement.failed(failure))
    }

    async fn asking(
        &self,
        body: &Bytes,
        size: (usize, usize),
        settlement: &mut Settlement,
        asked: &mut impl FnMut(Option<&Arc<Replica>>),
    ) -> Result<Brought, Failure> {
        let &Self { shared, api, model, headers, ticket, budget, callers, .. } = self;
        let reading = classify::read(api, Some(model.to_owned()), body)?;
        // Each was asked whether he may.
        let revision = self.revision;
        let choice = if self.pinned { Choice::pinned(revision) } else { Choice::preferring(revision) };
        let mut attempt = Attempt { callers, choice, ..Attempt::new(shared, &reading, body, headers, ticket, budget) };
        loop {
            let (route, turn) = attempt.turn(settlement).await?;
            let permit = match turn {
                Turn::Here(permit) => permit,
                Turn::There(taken) => {
                    let replica = route.pool.replicas.iter().find(|replica| replica.opaque == taken.replica);
                    asked(replica);
                    let answer = Box::pin(attempt.carried(&route, taken, settlement)).await?;
                    return Ok(there(answer, &route, settlement, callers));
                }
            };
            settlement.occupy(permit);
            let Some(replica) = settlement.record.replica.clone() else { return Err(give_way()) };
            asked(Some(&replica));
            let busy = in_flight(&route, &replica);
            let Some((response, line)) = attempt.exchange(&route, settlement).await? else {
                settlement.record.retries += 1;
                continue;
            };
            let (head, incoming) = response.into_parts();
            accepted(&head, settlement)?;
            let mut room = Room { held: shared.budget.hold(), limit: budget };
            let body = collect(line, incoming, &replica, route.pool.idle, &mut room).await?;
            settlement.hold(Some(room.held));
            if head.status.is_success() {
                sample(&route, size, busy, settlement);
                settlement.counted(Usage { loading: loading_of_vectors(&body), ..Usage::default() });
            }
            settlement.replica_done();
            let (adjusted, retries) = (attempt.adjusted.take(), settlement.record.retries);
            let revision = route.served.revision.clone();
            return Ok(Brought {
                status: head.status,
                headers: head.headers,
                body,
                counted: None,
                revision,
                adjusted,
                retries,
                callers,
            });
        }
    }
}

/// What was brought by the gateway that schedules the pool. How long its replica took is not known here.
fn there(answer: Response<ResponseBody>, route: &Route, settlement: &Settlement, callers: usize) -> Brought {
    let (mut head, body) = answer.into_parts();
    let (adjusted, retries) = (head.headers.remove(header::ADJUSTED), settlement.record.retries);
    let said = head.headers.get(header::REVISION).and_then(|value| value.to_str().ok());
    let revision = said.map_or_else(|| route.served.revision.clone(), Into::into);
    Brought {
        status: head.status,
        headers: head.headers,
        body: body.into_whole(),
        counted: None,
        revision,
        adjusted,
        retries,
        callers,
    }
}

/// How many calls a replica works on for this model.
pub(super) fn in_flight(route: &Route, replica: &Replica) -> u16 {
    let here = route.target.slots().iter().find(|slots| std::ptr::eq(replica, &raw const *slots.replica));
    here.map_or(1, |slots| slots.view().in_flight)
}

/// Takes note of what a call of so many texts and such a weight took of its replica, which worked on so many at its
/// beginning.
pub(super) fn sample(route: &Route, size: (usize, usize), busy: u16, settlement: &Settlement) {
    let Some(replica) = &settlement.record.replica else { return };
    let busy = f64::midpoint(f64::from(busy), f64::from(in_flight(route, replica))).max(1.0);
    route.pool.desk.took(route.engine_name(), size, settlement.waited().div_f64(busy));
}
