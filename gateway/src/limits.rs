//! The limits that a client or a replica can run into, by name, and how often one did.
//!
//! Counted in the whole process, in atomics that are written only where somebody has gone too far: nothing of it is on
//! the way of a request that keeps within.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

macro_rules! limits {
    ($($limit:ident $name:literal, $about:literal;)*) => {
        /// A limit, by its label in the metric `tutti_limit_hits`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit { $(#[doc = $about] $limit,)* }

        /// The labels, and what each says.
        pub(crate) const ALL: &[(&str, &str)] = &[$(($name, $about),)*];
    };
}

limits! {
    Header "header", "A head larger than `gateway.limits.header`, or of more than 100 lines.";
    HeaderTimeout "header_timeout", "A head that began and did not end within `gateway.limits.headerTimeout`.";
    Body "body", "A body larger than `gateway.limits.body`.";
    BodyPause "body_pause", "A body that paused for `gateway.limits.bodyPause`.";
    BodyTimeout "body_timeout", "A body that took `gateway.limits.bodyTimeout`.";
    BufferedBodies "buffered_bodies", "All bodies and answers in memory: `gateway.limits.bufferedBodies`.";
    WriteStall "write_stall", "A client that took nothing of its answer for `gateway.limits.writeStall`.";
    Connections "connections", "More connections, and requests on HTTP/2 connections, than `gateway.limits.connections`.";
    Files "files", "More connections than the limit on open files is enough for.";
    OpsConnections "ops_connections", "More connections to the ops or admin port than it has places.";
    PeerConnections "peer_connections", "More connections to the port for other gateways than it has places.";
    H2Flood "h2_flood", "An HTTP/2 connection that was ended for resets, faults or parts of heads without end.";
    Handshakes "handshakes", "A TLS handshake that waited for one of `gateway.limits.handshakes` to end.";
    HandshakeTimeout "handshake_timeout", "A TLS handshake that took `gateway.limits.handshakeTimeout`.";
    JsonDepth "json_depth", "A body that nests deeper than 128 levels.";
    ModelName "model_name", "A model's name of more than 256 bytes.";
    Answer "answer", "A replica's answer, no stream, of more than 64 MiB.";
    Line "line", "A line of a replica's stream of more than 8 MiB.";
    Calls "calls", "Calls of tools in a translated answer that are more than 1024, or than 8 MiB.";
    KeyRequests "key_requests", "A key that has used up its `requestsPerMinute`.";
    KeyTokens "key_tokens", "A key that has used up its `tokensPerMinute`.";
    KeyConcurrency "key_concurrency", "A key that has as many requests at once as its `concurrency` allows.";
    Queue "queue", "A request that found `queue.size` others waiting.";
    Addresses "addresses", "More than 1024 addresses of a name in `dns`: those beyond are left out. Once an answer.";
    ListedReplicas "listed_replicas", "More than 1024 replicas in the file of a `file` endpoint: it is refused.";
    LabelValues "label_values", "A model or tenant beyond `gateway.limits.labelValues`, counted as `(other)`; once a core and API.";
}

static HITS: [AtomicU64; ALL.len()] = [const { AtomicU64::new(0) }; ALL.len()];

/// Counts one who ran into it.
pub fn hit(limit: Limit) {
    HITS[limit as usize].fetch_add(1, Relaxed);
}

/// Every limit's label, and how often somebody ran into it, those of none included: an alert on the rise of one needs
/// its zero.
pub(crate) fn hits() -> impl Iterator<Item = (&'static str, u64)> {
    ALL.iter().zip(&HITS).map(|((name, _), hits)| (*name, hits.load(Relaxed)))
}

/// Keeps a line that strangers can bring about from filling the log.
#[derive(Debug)]
pub(crate) struct Seldom {
    /// When it may be said again. Unit: milliseconds since [`START`].
    next: AtomicU64,
    /// How often it was not said since the last time.
    unsaid: AtomicU64,
}

/// How often such a line is written.
const SAY_EVERY: Duration = Duration::from_secs(1);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Seldom {
    pub(crate) const fn new() -> Self {
        Self { next: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    /// Whether it may be said now, and how often it was not since the last time.
    pub(crate) fn say(&self) -> Option<u64> {
        self.say_at(START.elapsed())
    }

    fn say_at(&self, now: Duration) -> Option<u64> {
        let millis = |of: Duration| u64::try_from(of.as_millis()).unwrap_or(u64::MAX);
        let (now, next) = (millis(now), self.next.load(Relaxed));
        // Of two who ask at once one may say it.
        if now < next || self.next.compare_exchange(next, now + millis(SAY_EVERY), Relaxed, Relaxed).is_err() {
            self.unsaid.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.unsaid.swap(0, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_bring_about_is_said_once_a_second() {
        let seldom = Seldom::new();
        let at = |millis| seldom.say_at(Duration::from_millis(millis));
        assert_eq!([at(0), at(1), at(999)], [Some(0), None, None]);
        assert_eq!([at(1000), at(1500), at(9000), at(9001)], [Some(2), None, Some(1), None]);
    }

    #[test]
    fn each_limit_has_a_label_of_its_own() {
        let distinct: std::collections::HashSet<_> = ALL.iter().map(|(name, _)| name).collect();
        assert_eq!(distinct.len(), ALL.len());
        assert_eq!(ALL[Limit::LabelValues as usize].0, "label_values");
    }
}
