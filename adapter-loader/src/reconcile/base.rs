//! The engine's base, where it has none and the configuration says where it comes from.

use std::path::Path;
use std::time::Instant;

use tokio::task::AbortHandle;
use tutti_api::{AdapterPath, AdaptersSpec, Quarantine, Reason};

use super::plan::Retry;
use super::{Done, Reconciler, caught, random};
use crate::pipeline::{Failure, base, pause};

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Base {
    job: Option<(AdapterPath, AbortHandle)>,
    retry: Option<Retry>,
    /// Whether nothing of it lies about any more.
    is_swept: bool,
    /// Disk that was promised to it. Unit: bytes.
    pub(super) reserved: u64,
}

/// Where the base comes from.
pub(super) fn path(spec: &AdaptersSpec) -> Option<AdapterPath> {
    spec.base_from.as_deref().and_then(|path| path.parse().ok())
}

impl Reconciler {
    /// Has it brought, unless that was tried a moment ago; says how far it is.
    pub(super) fn bring_base(&mut self, down: &mut Option<Quarantine>, now: Instant) {
        let Some(path) = path(&self.wants.spec) else { return };
        if let Some(retry) = &self.bringing_base.retry {
            let message =
                format!("the engine has no {:?}, and it does not come: {}", self.wants.base, retry.why.message);
            *down = Some(Quarantine { reason: retry.why.reason, message });
        }
        let waits = self.bringing_base.retry.as_ref().is_some_and(|retry| retry.at > now);
        if waits || self.bringing_base.job.is_some() {
            return;
        }
        let work =
            base::bring(self.tools.clone(), self.wants.clone(), self.source.clone(), self.limits.clone(), path.clone());
        let (tools, name) = (self.tools.clone(), path.clone());
        let abort = self.work.spawn(async move {
            let brought = caught(&tools.board.metrics, name.as_str(), work).await;
            Done::BroughtBase(brought.unwrap_or_else(|broke| Err(Failure::Passing(broke))))
        });
        self.bringing_base.job = Some((path, abort));
        self.bringing_base.is_swept = false;
    }

    /// The engine has one: what came of it goes, also what a process has left that is gone.
    pub(super) fn has_base(&mut self) {
        let Some(path) = path(&self.wants.spec).filter(|_| !self.bringing_base.is_swept) else { return };
        if self.bringing_base.job.is_none() {
            match self.tools.store.keep_one_base(&path, Path::new("")) {
                Ok(()) => self.bringing_base.is_swept = true,
                Err(error) => tracing::warn!(%error, "what came of the base stays on the disk"),
            }
        }
    }

    pub(super) fn brought_base(&mut self, result: Result<(), Failure>, now: Instant) {
        let base = &mut self.bringing_base;
        (base.job, base.reserved) = (None, 0);
        let (why, slow) = match result {
            Ok(()) => {
                base.retry = None;
                return self.looks_at = now;
            }
            Err(Failure::Passing(why)) => (why, false),
            // It would be fetched again for nothing, and may be large.
            Err(Failure::Judged(why)) => (why, true),
        };
        let failures = base.retry.as_ref().map_or(0, |retry| retry.failures).saturating_add(1);
        tracing::warn!(reason = %why.reason, why = why.message, failures, "the base does not come");
        let at = now + pause(if slow { Reason::EngineRefused } else { why.reason }, failures, random());
        base.retry = Some(Retry { why, at, failures });
    }

    /// It is another's now, or comes from elsewhere.
    pub(super) fn stop_base(&mut self) {
        if let Some((path, abort)) = self.bringing_base.job.take() {
            tracing::info!(%path, "the base that was on its way is not wanted any more");
            abort.abort();
        }
        self.bringing_base = Base::default();
    }
}
