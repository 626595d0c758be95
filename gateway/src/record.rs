//! What is told of one request once it is over: metrics and log read it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use tutti_api::Priority;

use crate::classify::Api;
use crate::dialect::Usage;
use crate::errors::{Code, Failure};
use crate::keys::Key;
use crate::registry::Served;
use crate::replica::Replica;

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
    /// The client's `traceparent`, whatever it is.
    pub traceparent: Option<HeaderValue>,
    /// Whose key it came with, good or not; `None` also where anybody may ask.
    pub caller: Option<Arc<Key>>,
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
    /// Its class in a queue.
    pub class: Priority,
    /// From the head's arrival to the first byte of the answer's body.
    pub first_byte: Option<Duration>,
    /// Whether its answer was a stream: only then is the first byte a first token.
    pub streamed: bool,
    /// From the head's arrival to the last event of the answer, where it was a stream and came to its end.
    pub last_byte: Option<Duration>,
    /// Tokens.
    pub usage: Usage,
    /// How long its replica had it, once that has ended its part.
    pub engine: Option<Duration>,
    /// How often it was sent again.
    pub retries: u8,
    /// How many requests for embeddings shared its call.
    pub callers: usize,
    /// How many calls its array was cut into.
    pub calls: usize,
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
