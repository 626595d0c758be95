//! What is known of one request, settled exactly once: when its [`Settlement`] is dropped.
//!
//! It travels with the request, then with the body of its answer, so that success, error and a client that leaves in
//! any phase end in the same few lines: the slot and the held memory are given back, one record goes to the metrics
//! and one line to the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;

use crate::budget::Held;
use crate::classify::Api;
use crate::errors::{Code, Failure};
use crate::exchange::Usage;
use crate::log;
use crate::metrics;
use crate::replica::Replica;
use crate::schedule::Permit;
use crate::table::Served;

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its body is arriving.
    Reading,
    /// It waits for a slot.
    Queued,
    /// The replica has it and has not answered.
    Waiting,
    /// The answer is on its way.
    Answering,
    /// All of the answer has gone out.
    Finished,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With the answer of a replica, or one of the gateway's own pages.
    Ok,
    /// With a replica's own error status.
    ReplicaError,
    /// With an error of the gateway.
    Failed(Code),
    /// The client left before the end.
    Cancelled,
}

/// What is told of a request once it is over.
#[derive(Debug)]
pub struct Record {
    /// When its head had arrived.
    pub started: Instant,
    /// The `x-request-id`.
    pub request_id: HeaderValue,
    /// Which API, where it was one.
    pub api: Option<Api>,
    /// Which model, revision and pool, once they were chosen.
    pub served: Option<Arc<Served>>,
    /// Which replica, once one was.
    pub replica: Option<Arc<Replica>>,
    /// How far it came.
    pub phase: Phase,
    /// The answer's status; 0 before there is one.
    pub status: u16,
    /// The error and what was said of it.
    pub failure: Option<Failure>,
    /// The body's length. Unit: bytes.
    pub received: usize,
    /// What was sent of the answer's body. Unit: bytes.
    pub sent: usize,
    /// How long it waited for a slot.
    pub queued: Duration,
    /// From the head's arrival to the first byte of the answer's body.
    pub first_byte: Option<Duration>,
    /// Tokens.
    pub usage: Usage,
    /// How often it was sent again.
    pub retries: u8,
}

impl Record {
    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        match &self.failure {
            Some(failure) => Outcome::Failed(failure.code),
            None if self.phase != Phase::Finished => Outcome::Cancelled,
            None if self.status >= 400 => Outcome::ReplicaError,
            None => Outcome::Ok,
        }
    }
}

/// A request's record, and what it holds until it is settled.
#[derive(Debug)]
pub struct Settlement {
    /// What is known so far.
    pub record: Record,
    permit: Option<Permit>,
    held: Option<Held>,
    silent: bool,
}

impl Settlement {
    /// Of a request whose head has arrived.
    pub fn begin(request_id: HeaderValue) -> Box<Self> {
        Box::new(Self {
            record: Record {
                started: Instant::now(),
                request_id,
                api: None,
                served: None,
                replica: None,
                phase: Phase::Reading,
                status: 0,
                failure: None,
                received: 0,
                sent: 0,
                queued: Duration::ZERO,
                first_byte: None,
                usage: Usage::default(),
                retries: 0,
            },
            permit: None,
            held: None,
            silent: false,
        })
    }

    /// Leaves neither record nor line.
    pub(crate) fn silence(&mut self) {
        self.silent = true;
    }

    /// Holds the memory that the body takes.
    pub(crate) fn hold(&mut self, held: Held) {
        self.held = Some(held);
    }

    /// Holds a slot; the one held before is given back.
    pub(crate) fn occupy(&mut self, permit: Permit) {
        self.record.replica = Some(permit.replica().clone());
        self.record.phase = Phase::Waiting;
        self.permit = Some(permit);
    }

    /// The replica has ended its part: its slot is free, however slowly the client reads.
    pub(crate) fn replica_done(&mut self, usage: Usage) {
        self.record.usage = usage;
        self.permit = None;
        self.held = None;
    }

    /// The request ends with this failure.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.record.failure = Some(failure.clone());
        self.permit = None;
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

impl Drop for Settlement {
    fn drop(&mut self) {
        self.permit = None;
        self.held = None;
        if self.silent {
            return;
        }
        let took = self.record.started.elapsed();
        metrics::count(&self.record, took);
        log::line(&self.record, took);
    }
}
