//! What is known of one request, settled exactly once: when its [`Settlement`] is dropped.
//!
//! It travels with the request, then with the body of its answer, so that success, error and a client that leaves in
//! any phase end in the same few lines: the slot and the held memory are given back, one record goes to the metrics
//! and one line to the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use tutti_api::Priority;

use crate::budget::Held;
use crate::demand::Standing;
use crate::dialect::Usage;
use crate::errors::Failure;
use crate::exchange::Waits;
use crate::health::Cause;
use crate::keys::AtOnce;
use crate::log;
use crate::metrics;
use crate::record::{Outcome, Phase, Record};
use crate::registry::Served;
use crate::replica::Replica;
use crate::schedule::Permit;

/// A request's record, and what it holds until it is settled.
#[derive(Debug)]
pub struct Settlement {
    /// What is known so far.
    pub record: Record,
    permit: Option<Permit>,
    standing: Standing,
    at_once: Option<AtOnce>,
    /// When the slot was taken.
    sent: Instant,
    /// The replica has begun to answer with a success.
    good: bool,
    held: Option<Held>,
    waits_since: Option<Instant>,
    /// For who tells the client that it waits.
    waits: Option<Arc<Waits>>,
    silent: bool,
    /// Nobody waits for its answer, and yet it says something of its revision.
    shadow: bool,
}

impl Settlement {
    /// Of a request whose head has arrived.
    pub fn begin(request_id: HeaderValue) -> Box<Self> {
        let started = Instant::now();
        Box::new(Self {
            record: Record {
                started,
                request_id,
                traceparent: None,
                caller: None,
                api: None,
                served: None,
                replica: None,
                phase: Phase::Reading,
                status: 0,
                failure: None,
                received: 0,
                sent: 0,
                queued: Duration::ZERO,
                class: Priority::default(),
                first_byte: None,
                streamed: false,
                last_byte: None,
                usage: Usage::default(),
                engine: None,
                retries: 0,
                callers: 1,
                calls: 1,
            },
            permit: None,
            standing: Standing::default(),
            at_once: None,
            sent: started,
            good: false,
            held: None,
            waits_since: None,
            waits: None,
            silent: false,
            shadow: false,
        })
    }

    /// Leaves neither record nor line.
    pub(crate) fn silence(&mut self) {
        self.silent = true;
    }

    /// Leaves neither record nor line, and says something of its revision.
    pub(crate) fn shadow(&mut self) {
        (self.silent, self.shadow) = (true, true);
    }

    /// Whether it is a copy's.
    pub(crate) fn is_shadow(&self) -> bool {
        self.shadow
    }

    /// Takes it in as far as its key's limits go. A place among the key's requests is held to the end: until the last
    /// byte has gone out.
    ///
    /// # Errors
    /// Which limit is used up.
    pub(crate) fn admit(&mut self) -> Result<(), Failure> {
        if let Some(key) = &self.record.caller {
            self.at_once = key.admit(self.record.started)?;
        }
        Ok(())
    }

    /// Holds memory for the body, or for the whole answer in its place; what was held before is given back.
    pub(crate) fn hold(&mut self, held: Option<Held>) {
        self.held = held;
    }

    /// Holds so many bytes more, within `limit` for all requests together.
    ///
    /// # Errors
    /// There is no room for them.
    pub(crate) fn grow(&mut self, more: usize, limit: usize) -> Result<(), Failure> {
        self.held.as_mut().map_or(Ok(()), |held| held.make_room(more, limit))
    }

    /// From now on who tells the client hears when it waits.
    pub(crate) fn tell(&mut self, waits: Arc<Waits>) {
        self.waits = Some(waits);
    }

    /// The answer's head has gone out, or goes out now, with this status.
    pub(crate) fn goes_out(&mut self, status: u16) {
        self.record.status = status;
        self.record.phase = Phase::Answering;
    }

    /// It begins to wait for a slot, and gives back the one it held: two retries must not wait for each other's.
    pub(crate) fn queue(&mut self) {
        self.permit = None;
        self.standing.queues_again();
        self.record.phase = Phase::Queued;
        self.waits_since = Some(Instant::now());
        if let Some(waits) = &self.waits {
            waits.set(true);
        }
    }

    /// It waits for a slot of this revision.
    pub(crate) fn waits_for(&mut self, served: &Arc<Served>) {
        self.record.served = Some(served.clone());
        if self.silent {
            return; // it is another's, and counted there
        }
        if let Some(cells) = metrics::stands(&self.record) {
            self.standing.queues(&cells);
        }
    }

    /// It waits no longer, and holds a slot.
    pub(crate) fn occupy(&mut self, permit: Permit) {
        self.sent = Instant::now();
        self.unqueue(self.sent);
        self.standing.is_sent();
        self.asks(permit.replica());
        self.permit = Some(permit);
    }

    /// It waits no longer, and is sent to this replica by another gateway, or with others in a slot that is not its own.
    pub(crate) fn handed(&mut self, replica: Option<&Arc<Replica>>) {
        self.sent = Instant::now();
        self.unqueue(self.sent);
        self.standing.is_sent();
        self.record.phase = Phase::Waiting;
        self.record.replica = replica.cloned();
    }

    /// A replica is asked.
    pub(crate) fn asks(&mut self, replica: &Arc<Replica>) {
        self.record.replica = Some(replica.clone());
        self.record.phase = Phase::Waiting;
    }

    fn unqueue(&mut self, now: Instant) {
        if let Some(waits) = &self.waits {
            waits.set(false);
        }
        if let Some(since) = self.waits_since.take() {
            self.record.queued += now.saturating_duration_since(since);
        }
    }

    /// The replica failed it, and it may be tried elsewhere or ends with the replica's own words.
    pub(crate) fn blame(&self, cause: Cause) {
        if let Some(permit) = &self.permit {
            permit.failed(cause, self.sent);
        }
    }

    /// No connection to the replica came about.
    pub(crate) fn unreachable(&self) {
        if let Some(permit) = &self.permit {
            permit.unreachable();
        }
    }

    /// How long its replica has had it.
    pub(crate) fn waited(&self) -> Duration {
        self.sent.elapsed()
    }

    /// The replica has begun to answer with a success.
    pub(crate) fn begins_well(&mut self) {
        self.good = true;
        self.hear();
    }

    /// The replica's answer goes on.
    pub(crate) fn hear(&self) {
        if let Some(permit) = &self.permit {
            permit.hear();
        }
    }

    /// What is sent makes the replica load the model anew, and the gateway cannot ask for the same.
    pub(crate) fn set_strange(&self) {
        if let Some(permit) = &self.permit {
            permit.set_strange();
        }
    }

    /// The tokens so far.
    pub(crate) fn counted(&mut self, usage: Usage) {
        self.record.usage = usage;
    }

    /// The replica has ended its part: its slot is free, however slowly the client reads.
    pub(crate) fn replica_done(&mut self) {
        self.standing.leaves();
        if self.record.engine.is_none() && self.record.replica.is_some() {
            self.record.engine = Some(self.sent.elapsed());
        }
        if let Some(permit) = self.permit.take()
            && self.good
        {
            permit.answered(self.sent);
            permit.waited_for_weights(self.record.usage.loading, self.sent);
        }
    }

    /// The replica's stream has come to its end.
    pub(crate) fn stream_done(&mut self) {
        if self.record.last_byte.is_none() {
            self.record.last_byte = Some(self.record.started.elapsed());
        }
        self.replica_done();
    }

    /// The request ends with this failure.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.record.failure = Some(failure.clone());
        if let Some(cause) = failure.blames {
            self.blame(cause);
        }
        self.permit = None;
        self.standing.leaves();
        self.held = None;
    }

    /// Bytes of the answer's body have gone to the client.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.record.sent += bytes;
        if self.record.first_byte.is_none() {
            self.record.first_byte = Some(self.record.started.elapsed());
        }
    }

    /// The last of them has.
    pub(crate) fn finished(&mut self) {
        self.record.phase = Phase::Finished;
    }
}

impl Settlement {
    /// Tells who judges the revision.
    fn judged(&self, now: Instant) {
        let counted = self.record.served.as_ref().and_then(|served| served.counted.as_ref());
        // What another gateway holds the client of is counted there.
        let Some(counted) = counted.filter(|_| !self.silent || self.shadow) else { return };
        if self.shadow && self.record.outcome() == Outcome::Cancelled {
            return; // a copy gives way when somebody waits, however quick its replica is
        }
        let waited = self.sent.saturating_duration_since(self.record.started);
        let engine = self.record.engine.unwrap_or_else(|| now.saturating_duration_since(self.sent));
        let first = self.record.first_byte.map(|first| first.saturating_sub(waited));
        counted.count(&self.record, engine, first);
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        if self.record.phase == Phase::Answering {
            self.replica_done(); // it answered as long as its client listened
        }
        self.permit = None;
        self.standing.leaves();
        self.held = None;
        self.at_once = None;
        let now = Instant::now();
        self.unqueue(now);
        if self.record.status == 0 && self.waits.as_ref().is_some_and(|waits| waits.is_told()) {
            self.record.status = 200; // that is what went out
        }
        self.judged(now);
        if self.silent {
            return;
        }
        if let Some(key) = &self.record.caller {
            key.charge(&self.record, now);
        }
        let took = now.saturating_duration_since(self.record.started);
        metrics::count(&self.record, took);
        log::line(&self.record, took);
    }
}
