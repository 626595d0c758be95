//! What the loop knows of one path.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::AbortHandle;
use tutti_api::{EngineName, Quarantine, Reason};

use super::plan::{Retry, Running};
use crate::pipeline::{Progress, pause};
use crate::store::Record;
use crate::wanted::Wanted;

/// How often in a row a step has to break off before that counts as a word on what lies there: once may have been what else was
/// going on.
const BREAKS: u32 = 3;

/// All that is known of a path.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) wanted: Option<Wanted>,
    /// As it was when no work was under way; else the work has it.
    pub(super) record: Record,
    pub(super) job: Option<Job>,
    pub(super) retry: Option<Retry>,
    /// Before which it does not go, though nobody wants it.
    pub(super) stays_until: Option<Instant>,
    /// Disk that the work under way has been given. Unit: bytes.
    pub(super) reserved: u64,
}

/// Work on a path.
#[derive(Debug)]
pub(super) struct Job {
    progress: Arc<Progress>,
    abort: AbortHandle,
    /// Whether it brings something that may be stopped; a retirement goes on to its end.
    brings: bool,
}

impl Job {
    pub(super) fn bringing(progress: Arc<Progress>, abort: AbortHandle) -> Self {
        Self { progress, abort, brings: true }
    }

    pub(super) fn retiring(progress: Arc<Progress>, abort: AbortHandle) -> Self {
        Self { progress, abort, brings: false }
    }

    /// Whether it brings something.
    pub(super) fn brings(&self) -> bool {
        self.brings
    }

    /// Whether all that it does is wait for a gateway.
    pub(super) fn waits_for_gateway(&self) -> bool {
        self.progress.seen().1.probe.is_some()
    }

    /// The name that it works towards.
    pub(super) fn engine_name(&self) -> Option<EngineName> {
        self.progress.seen().1.engine_name
    }
}

impl Entry {
    pub(super) fn new(record: Record, stays_until: Option<Instant>) -> Self {
        Self { wanted: None, record, job: None, retry: None, stays_until, reserved: 0 }
    }

    /// The record as it is now, and the work on it. Of a retirement nothing is shown: it has a phase of its own.
    pub(super) fn now(&self) -> (Record, Option<Running>) {
        match &self.job {
            Some(job) => {
                let (record, running) = job.progress.seen();
                (record, Some(running))
            }
            None => (self.record.clone(), None),
        }
    }

    /// Somebody wants it.
    pub(super) fn want(&mut self, wanted: &Wanted) {
        if self.wanted.as_ref().is_some_and(|before| before.expected != wanted.expected) {
            self.retry = None;
            self.stop();
        }
        self.wanted = Some(wanted.clone());
        self.stays_until = None;
    }

    /// Nobody wants it any more.
    pub(super) fn unwant(&mut self, until: Instant, now: u64) {
        self.stop();
        (self.wanted, self.retry, self.stays_until) = (None, None, Some(until));
        self.record.used = now;
    }

    fn stop(&mut self) {
        if let Some(job) = self.job.take_if(|job| job.brings) {
            job.abort.abort();
            self.record = job.progress.seen().0;
            self.reserved = 0;
        }
    }

    /// The work on it is over.
    pub(super) fn end_job(&mut self) {
        if let Some(job) = self.job.take() {
            self.record = job.progress.seen().0;
        }
        self.reserved = 0;
    }

    /// Whether a step has now broken off on it as often as it is put up with, and it does not serve.
    pub(super) fn breaks_off(&self, why: &Quarantine) -> bool {
        let broke = |why: &Quarantine| why.reason == Reason::LoaderBroke;
        let before = self.retry.as_ref().filter(|retry| broke(&retry.why)).map_or(0, |retry| retry.failures);
        broke(why) && self.record.served.is_none() && before + 1 >= BREAKS
    }

    /// A step failed, and is tried again later.
    pub(super) fn fail(&mut self, why: Quarantine, now: Instant, random: f64) {
        let failures = self.retry.as_ref().map_or(0, |retry| retry.failures).saturating_add(1);
        if failures == 1 {
            tracing::warn!(path = %self.record.path, reason = %why.reason, why = why.message, "it is tried again");
        }
        let at = now + pause(why.reason, failures, random);
        self.retry = Some(Retry { why, at, failures });
    }
}
