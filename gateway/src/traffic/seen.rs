//! What is counted of a revision, for who judges it: by whom its requests were spoilt, and how long its engine took.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tutti_control_plane::{BUCKETS, Histogram, Seen, bucket};

use crate::errors::Fault;
use crate::record::{Outcome, Record};

macro_rules! mirrored {
    ($($name:ident $label:literal;)*) => {
        /// What became of a copy of a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Mirrored { $($name,)* }

        /// Each, as the metric calls it.
        pub(crate) const MIRRORED: &[(Mirrored, &str)] = &[$((Mirrored::$name, $label),)*];
    };
}

mirrored! {
    Sent "sent";
    Cut "cut";
    Busy "busy";
    NoRoom "no_room";
    Unreached "unreached";
    Unheard "unheard";
}

/// The counts of a revision. Cores add to them without a lock, and seldom to the same one; only models of several
/// revisions have any.
pub(crate) struct Counted {
    requests: AtomicU64,
    errors: AtomicU64,
    engine: Box<[AtomicU64]>,
    first_token: Box<[AtomicU64]>,
    mirrored: [AtomicU64; MIRRORED.len()],
}

impl Default for Counted {
    fn default() -> Self {
        let buckets = || (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        let (requests, errors, mirrored) = Default::default();
        Self { requests, errors, engine: buckets(), first_token: buckets(), mirrored }
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted")
            .field("requests", &self.requests)
            .field("errors", &self.errors)
            .finish_non_exhaustive()
    }
}

/// How a request speaks of its revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Good,
    Bad,
    /// Its client left before its first byte: that takes at least as long as he has waited for it.
    Waited,
    Nothing,
}

/// What a request that is over says. What its client spoilt, or left within the answer, says nothing, and neither does what
/// never came to a replica.
fn says(record: &Record) -> Says {
    match record.outcome() {
        _ if record.replica.is_none() => Says::Nothing,
        Outcome::Ok => Says::Good,
        // That it is busy, broken, or does not find the model; what else is 4xx was the client's.
        Outcome::ReplicaError if record.status >= 500 || matches!(record.status, 404 | 429) => Says::Bad,
        Outcome::Failed(code) if code.row().fault == Fault::Replica => Says::Bad,
        Outcome::Failed(crate::errors::Code::NoReplica) => Says::Bad,
        Outcome::Cancelled if record.first_byte.is_none() => Says::Waited,
        _ => Says::Nothing,
    }
}

impl Counted {
    /// Takes note of a request. `engine`: how long its replica had it; `first`: how long until its first byte.
    pub(crate) fn count(&self, record: &Record, engine: Duration, first: Option<Duration>) {
        let said = says(record);
        if said == Says::Nothing {
            return;
        }
        self.requests.fetch_add(1, Relaxed);
        if said == Says::Bad {
            self.errors.fetch_add(1, Relaxed);
            return;
        }
        self.engine[bucket(engine)].fetch_add(1, Relaxed);
        // Whether the answer would have been a stream is not known.
        let first = if said == Says::Waited { None } else { first.filter(|_| record.streamed) };
        if let Some(first) = first {
            self.first_token[bucket(first)].fetch_add(1, Relaxed);
        }
    }

    /// Takes note of a copy.
    pub(crate) fn mirror(&self, what: Mirrored) {
        self.mirrored[what as usize].fetch_add(1, Relaxed);
    }

    /// How many copies came to what, in the order of [`MIRRORED`].
    pub(crate) fn mirrored(&self) -> impl Iterator<Item = u64> {
        self.mirrored.iter().map(|count| count.load(Relaxed))
    }

    /// All so far.
    pub(crate) fn seen(&self) -> Seen {
        let times = |counts: &[AtomicU64]| Histogram::of(counts.iter().map(|count| count.load(Relaxed)).enumerate());
        // First what is counted last: never more errors than requests.
        let (engine, first_token) = (times(&self.engine), times(&self.first_token));
        let errors = self.errors.load(Relaxed);
        Seen { requests: self.requests.load(Relaxed), errors, engine, first_token }
    }
}
