//! What work came to, and what is known after it.

use std::collections::HashMap;
use std::time::Instant;

use tutti_api::{AdapterPath, Digest, EngineName, Quarantine, Reason};

use super::look::Looked;
use super::plan::{self, Seen};
use super::{Reconciler, random};
use crate::pipeline::retire::Retired;
use crate::pipeline::{Failure, list, pause};
use crate::store::Judgement;

/// What work came to.
#[derive(Debug)]
pub(super) enum Done {
    Polled { from: String, result: Result<HashMap<AdapterPath, Seen>, Quarantine> },
    Looked(Looked),
    Brought { path: AdapterPath, on: Box<On>, result: Result<Option<(EngineName, String)>, Failure> },
    Retired { path: AdapterPath, result: Result<Box<Retired>, Failure> },
    Swept,
    BroughtBase(Result<(), Failure>),
}

/// What work was done on: what is judged is that, and not what has come meanwhile.
#[derive(Debug)]
pub(super) struct On {
    pub(super) seen: Option<Digest>,
    pub(super) expected: Option<Digest>,
    pub(super) base: Option<Digest>,
    pub(super) settings: Digest,
}

impl Reconciler {
    /// Takes note of it.
    pub(super) fn done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Polled { from, result } => self.polled(&from, result, now),
            Done::Looked(looked) => self.looked(looked, now),
            Done::Brought { path, on, result } => self.brought(&path, &on, result, now),
            Done::Retired { path, result } => self.retired(&path, result, now),
            Done::Swept => self.sweeping -= 1,
            Done::BroughtBase(result) => self.brought_base(result, now),
        }
    }

    fn polled(&mut self, from: &str, result: Result<HashMap<AdapterPath, Seen>, Quarantine>, now: Instant) {
        self.polling = false;
        if from != self.wants.spec.from {
            return self.polls_at = now; // it comes from elsewhere now
        }
        self.tools.board.metrics.polled(result.is_ok());
        match result {
            Ok(at) => {
                if self.listed.down.take().is_some() {
                    tracing::info!(from, "the source answers again");
                }
                self.listed.failures = 0;
                self.polls_at = now + self.wants.spec.poll.get();
                let at = list::after(&self.listed.at, at);
                for (path, entry) in &mut self.entries {
                    if at.get(path).map(|seen| seen.digest) != self.listed.at.get(path).map(|seen| seen.digest) {
                        entry.retry = None; // there is something else now
                    }
                }
                self.listed.at = at;
            }
            Err(why) => {
                if self.listed.down.as_ref() != Some(&why) {
                    tracing::warn!(from, why = why.message, "the source does not answer: what is there serves on");
                }
                self.listed.down = Some(why);
                self.listed.failures = self.listed.failures.saturating_add(1);
                self.polls_at = now + pause(Reason::SourceUnavailable, self.listed.failures, random());
            }
        }
    }

    fn brought(
        &mut self,
        path: &AdapterPath,
        on: &On,
        result: Result<Option<(EngineName, String)>, Failure>,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(path) else { return };
        entry.end_job();
        let result = match result {
            // A step that breaks off on it again and again is a word on what lies there: it is not waited for for ever.
            Err(Failure::Passing(why)) if entry.breaks_off(&why) => Err(Failure::Judged(why)),
            other => other,
        };
        match result {
            Ok(serves) => {
                entry.retry = None;
                if let (Some((name, digest)), Some(has)) = (serves, &mut self.engine.has) {
                    has.insert(name, digest);
                }
            }
            Err(Failure::Passing(why)) => {
                self.tools.board.metrics.retried(why.reason);
                entry.fail(why, now, random());
            }
            Err(Failure::Judged(why)) => {
                tracing::warn!(%path, reason = %why.reason, why = why.message, "quarantined");
                self.tools.board.metrics.quarantined(why.reason);
                let On { seen, expected, base, settings } = *on;
                let Some(seen) = seen else { return entry.fail(why, now, random()) };
                let judged = Judgement { why: why.clone(), seen, expected, base, settings };
                let again = plan::is_tried_again(&judged);
                entry.record.quarantine = Some(judged);
                if again {
                    entry.fail(why, now, random());
                } else {
                    self.drop_files(path);
                }
            }
        }
    }

    fn retired(&mut self, path: &AdapterPath, result: Result<Box<Retired>, Failure>, now: Instant) {
        let Some(entry) = self.entries.get_mut(path) else { return };
        entry.end_job();
        match result {
            Ok(retired) => {
                let Retired { record, gone } = *retired;
                entry.retry = None;
                entry.record = record;
                if let Some(has) = &mut self.engine.has {
                    gone.iter().for_each(|name| drop(has.remove(name)));
                }
            }
            Err(Failure::Passing(why) | Failure::Judged(why)) => {
                self.tools.board.metrics.retried(why.reason);
                entry.fail(why, now, random());
            }
        }
    }
}
