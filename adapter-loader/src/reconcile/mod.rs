//! The loop: what is wanted, what is there and what is known become work, until the one is the other. It has one way, for a
//! loader that starts and for one that has run for months.

mod base;
mod caught;
mod disk;
mod done;
mod entry;
mod look;
pub(crate) mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tutti_api::{AdapterPath, EngineName, Phase, Quarantine, Reason};

use crate::board::{Readiness, Standing};
use crate::engine::BaseFacts;
use crate::fetch::Limits;
use crate::identity::settings;
use crate::pipeline::{Failure, Room, Tools, Work, list, retire, seconds};
use crate::source::{Source, SourceError};
use crate::store::{Record, StoreError};
use crate::wanted::Wants;

use base::Base;
use caught::caught;
use done::{Done, On};
use entry::{Entry, Job};
use look::Looked;
use plan::{Decision, EngineSeen, Need, SourceSeen, View};

/// How often the engine is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often while it does not answer.
const LOOK_DOWN: Duration = Duration::from_millis(500);
/// Adapters that are worked on at once, beside those that wait for a gateway to probe them.
const WORKING: usize = 8;
/// The same beside an engine that serves: what is fetched, converted and registered takes disk and cores from its requests, and
/// they are not to wait longer for it (P99 at most 1.2 ×). What this number does to them is not measured yet.
const WORKING_BESIDE: usize = 2;
/// Longest nap.
const NAP: Duration = Duration::from_secs(60);

/// All that the loop holds.
#[derive(Debug)]
pub(crate) struct Reconciler {
    tools: Arc<Tools>,
    wants: Arc<Wants>,
    changes: watch::Receiver<Arc<Wants>>,
    source: Arc<Source>,
    limits: Limits,
    rooms: mpsc::Receiver<Room>,
    retire_after: Duration,
    entries: BTreeMap<AdapterPath, Entry>,
    listed: SourceSeen,
    engine: EngineSeen,
    base: Option<Arc<BaseFacts>>,
    work: JoinSet<Done>,
    polls_at: Instant,
    polling: bool,
    looks_at: Instant,
    looking: bool,
    /// Names that are being taken from the engine, left there by a process that is gone.
    sweeping: usize,
    /// The base, on its way from the source.
    bringing_base: Base,
}

impl Reconciler {
    /// Takes up what the disk has.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub(crate) fn new(
        tools: Arc<Tools>,
        source: Source,
        changes: watch::Receiver<Arc<Wants>>,
        rooms: mpsc::Receiver<Room>,
        retire_after: Duration,
    ) -> Result<Self, StoreError> {
        let (now, wants) = (Instant::now(), changes.borrow().clone());
        let records = tools.store.records()?;
        if let Err(error) = tools.store.sweep(&records, base::path(&wants.spec).as_ref()) {
            tracing::warn!(%error, "what no record tells of stays");
        }
        let stays = |record: Record| (record.path.clone(), Entry::new(record, Some(now + retire_after)));
        let mut this = Self {
            entries: records.into_iter().map(stays).collect(),
            wants: wants.clone(),
            source: Arc::new(source),
            limits: Limits::new(&wants.spec.fetch),
            listed: SourceSeen::default(),
            engine: EngineSeen::default(),
            base: None,
            work: JoinSet::new(),
            polls_at: now,
            polling: false,
            looks_at: now,
            looking: false,
            sweeping: 0,
            bringing_base: Base::default(),
            tools,
            changes,
            rooms,
            retire_after,
        };
        let first = wants.adapters.iter().map(|wanted| wanted.path.clone()).collect();
        this.tools.board.begin(Readiness::new(first, now, wants.spec.startup_budget.get()));
        this.want(&wants, now);
        Ok(this)
    }

    /// Works until it is dropped; what it was in the midst of, the next start finds.
    pub(crate) async fn run(mut self) {
        loop {
            let next = self.turn();
            tokio::select! {
                changed = self.changes.changed() => match changed {
                    Ok(()) => self.take_changes(),
                    Err(_) => return, // whoever told what is wanted is gone
                },
                Some(done) = self.work.join_next() => match done {
                    Ok(done) => self.done(done),
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => tracing::error!(%error, "work broke off"),
                },
                Some(room) = self.rooms.recv() => self.make_room(room),
                () = self.tools.board.news.notified() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    /// Looks at all there is, begins what can be begun, says how it stands; yields when to look again at the latest.
    fn turn(&mut self) -> Instant {
        let now = Instant::now();
        self.ask(now);
        let mut next = now + NAP;
        for path in self.by_urgency() {
            match self.decide(&path, now) {
                Decision::Rest => {}
                Decision::Until(when) => next = next.min(when),
                Decision::Bring if self.is_busy(now) => {}
                Decision::Bring => self.bring(&path),
                Decision::Retire(names) => self.retire(&path, names),
                Decision::Forget => self.forget(&path),
            }
        }
        self.announce(now);
        let leases = self.tools.board.next_lease_end(now);
        let ready = self.tools.board.look(now, |path| self.standing(path, now));
        let own = [(!self.polling).then_some(self.polls_at), (!self.looking).then_some(self.looks_at)];
        own.into_iter().flatten().chain(leases).chain(ready).fold(next, Instant::min).max(now)
    }

    /// The wanted ones as they are wanted, then the others.
    fn by_urgency(&self) -> Vec<AdapterPath> {
        let wanted = self.wants.adapters.iter().map(|wanted| wanted.path.clone());
        let others = self.entries.iter().filter(|(_, entry)| entry.wanted.is_none()).map(|(path, _)| path.clone());
        wanted.chain(others).collect()
    }

    fn is_busy(&self, now: Instant) -> bool {
        let most = if self.tools.board.may_be_serving(now) { WORKING_BESIDE } else { WORKING };
        let jobs = self.entries.values().filter_map(|entry| entry.job.as_ref());
        jobs.filter(|job| job.brings() && !job.waits_for_gateway()).count() >= most
    }

    /// Asks source and engine where it is time.
    fn ask(&mut self, now: Instant) {
        if !self.polling && now >= self.polls_at {
            self.polling = true;
            let (source, from) = (self.source.clone(), self.wants.spec.from.clone());
            let paths: Vec<AdapterPath> = self.wants.adapters.iter().map(|wanted| wanted.path.clone()).collect();
            let board = self.tools.board.clone();
            self.work.spawn(async move {
                let listed = caught(&board.metrics, &from, list::look(&source, &paths)).await;
                let unavailable =
                    |error: SourceError| Quarantine { reason: Reason::SourceUnavailable, message: error.to_string() };
                let result = listed.and_then(|listed| listed.map_err(unavailable));
                Done::Polled { from, result }
            });
        }
        if !self.looking && now >= self.looks_at {
            self.looking = true;
            let (tools, wants) = (self.tools.clone(), self.wants.clone());
            let known = self.base.clone().filter(|_| self.engine.up);
            self.work.spawn(async move {
                let looked = caught(&tools.board.metrics, &wants.base, look::look(&tools.engine, &wants, known)).await;
                Done::Looked(looked.unwrap_or_else(Looked::nothing))
            });
        }
    }

    fn looked(&mut self, looked: Looked, now: Instant) {
        self.looking = false;
        let was_up = self.engine.up && self.engine.down.is_none();
        let Looked { has, base, making, mut down, lacks_base } = looked;
        if lacks_base {
            self.bring_base(&mut down, now);
        } else if down.is_none() {
            self.has_base();
        }
        self.engine.up = has.is_some();
        if has.is_some() {
            let is_first = self.engine.has.is_none();
            self.engine.has = has;
            let served = self.entries.values().filter_map(|entry| entry.record.served.as_ref());
            if is_first && served.into_iter().any(|made| self.engine.serves(made)) {
                self.tools.board.resume();
            }
        }
        if making.is_some() {
            (self.engine.making, self.base) = (making, base);
        }
        if self.engine.down != down
            && let Some(why) = &down
        {
            tracing::warn!(why = why.message, "the engine");
        }
        self.engine.down = down;
        self.tools.board.metrics.engine(self.engine.up);
        let is_up = self.engine.up && self.engine.down.is_none();
        self.looks_at = now + if is_up { LOOK } else { LOOK_DOWN };
        if is_up && !was_up {
            tracing::info!("the engine answers");
            let waits = |entry: &&mut Entry| {
                entry.retry.as_ref().is_some_and(|retry| retry.why.reason == Reason::EngineUnavailable)
            };
            self.entries.values_mut().filter(waits).for_each(|entry| entry.retry = None);
        }
        if is_up && self.sweeping == 0 {
            self.sweep();
        }
    }

    fn bring(&mut self, path: &AdapterPath) {
        let Some(entry) = self.entries.get_mut(path) else { return };
        let Some(wanted) = entry.wanted.clone() else { return };
        let progress = Work::progress(entry.record.clone(), self.tools.board.clone());
        let listed = self.listed.of(path);
        let on = Box::new(On {
            seen: listed.at.get(path).map(|seen| seen.digest),
            expected: wanted.expected,
            base: self.engine.making.as_ref().map(|making| making.base),
            settings: settings(&self.wants.spec),
        });
        let work = Work {
            tools: self.tools.clone(),
            wants: self.wants.clone(),
            wanted,
            source: self.source.clone(),
            limits: self.limits.clone(),
            listed,
            engine: self.engine.clone(),
            base: self.base.clone(),
            progress: progress.clone(),
        };
        let (path, board) = (path.clone(), self.tools.board.clone());
        let abort = self.work.spawn(async move {
            let brought = caught(&board.metrics, path.as_str(), work.bring()).await;
            let result = brought.unwrap_or_else(|broke| Err(Failure::Passing(broke)));
            Done::Brought { path, on, result }
        });
        entry.job = Some(Job::bringing(progress, abort));
    }

    fn retire(&mut self, path: &AdapterPath, names: Vec<EngineName>) {
        let Some(entry) = self.entries.get_mut(path) else { return };
        let progress = Work::progress(entry.record.clone(), self.tools.board.clone());
        let served = entry.record.served.as_ref().map(|made| made.engine_name.clone());
        progress.retires(served.filter(|name| names.contains(name)));
        let (tools, record, path) = (self.tools.clone(), entry.record.clone(), path.clone());
        let board = tools.board.clone();
        let abort = self.work.spawn(async move {
            let retired = caught(&board.metrics, path.as_str(), retire::step(tools, record, names)).await;
            let result = retired.unwrap_or_else(|broke| Err(Failure::Passing(broke)));
            Done::Retired { path, result: result.map(Box::new) }
        });
        entry.job = Some(Job::retiring(progress, abort));
    }

    fn take_changes(&mut self) {
        let wants = self.changes.borrow_and_update().clone();
        let now = Instant::now();
        if (&wants.spec.from, &wants.spec.s3) != (&self.wants.spec.from, &self.wants.spec.s3) {
            match Source::open(&wants.spec) {
                Ok(source) => {
                    self.source = Arc::new(source);
                    self.listed = SourceSeen::default();
                }
                Err(error) => return tracing::error!(%error, "the new source is refused, and all stays as it was"),
            }
        }
        if wants.base != self.wants.base || wants.spec.strategy != self.wants.spec.strategy {
            (self.engine.making, self.base) = (None, None);
        }
        if (&wants.base, &wants.spec) != (&self.wants.base, &self.wants.spec) {
            self.stop_base();
        }
        if wants.spec.fetch != self.wants.spec.fetch {
            self.limits = Limits::new(&wants.spec.fetch);
        }
        if wants.spec != self.wants.spec {
            self.entries.values_mut().for_each(|entry| entry.retry = None); // it may go better now
        }
        self.want(&wants, now);
        self.wants = wants;
        (self.polls_at, self.looks_at) = (now, now);
    }

    /// Takes up what is wanted from now on.
    fn want(&mut self, wants: &Wants, now: Instant) {
        for wanted in &wants.adapters {
            let record = || Record::new(wanted.path.clone());
            let entry = self.entries.entry(wanted.path.clone()).or_insert_with(|| Entry::new(record(), None));
            entry.want(wanted);
        }
        let until = now + self.retire_after;
        for (path, entry) in &mut self.entries {
            if entry.wanted.is_some() && !wants.adapters.iter().any(|wanted| wanted.path == *path) {
                entry.unwant(until, seconds());
                if let Err(error) = self.tools.store.keep(&entry.record) {
                    tracing::warn!(%error, "when an adapter was last of use is not on the disk");
                }
            }
        }
    }

    /// What counts for a path now.
    fn with_view<T>(&self, path: &AdapterPath, now: Instant, look: impl FnOnce(&View<'_>) -> T) -> Option<T> {
        let entry = self.entries.get(path)?;
        let (record, running) = entry.now();
        let leased = |name: &EngineName| self.tools.board.is_leased(name, now);
        Some(look(&View {
            wanted: entry.wanted.as_ref(),
            record: &record,
            source: &self.listed,
            engine: &self.engine,
            running: running.as_ref(),
            retry: entry.retry.as_ref(),
            settings: settings(&self.wants.spec),
            leased: &leased,
            stays_until: entry.stays_until,
            now,
        }))
    }

    fn decide(&self, path: &AdapterPath, now: Instant) -> Decision {
        self.with_view(path, now, plan::decide).unwrap_or(Decision::Rest)
    }

    fn announce(&self, now: Instant) {
        let states = self.by_urgency().into_iter().filter_map(|path| self.with_view(&path, now, plan::state).flatten());
        self.tools.board.announce(states.collect());
    }

    fn standing(&self, path: &AdapterPath, now: Instant) -> Option<Standing> {
        self.with_view(path, now, |view| {
            view.wanted?;
            let phase = plan::state(view)?.phase;
            let record = view.record;
            let fetched = record.fetched.as_ref().is_some_and(|fetched| fetched.complete);
            let needs_source = plan::need(record, view.source, view.engine) == Need::Source;
            let asks = view.source.down.is_some() || !view.source.at.contains_key(path);
            let failed = view.retry.is_some_and(|retry| retry.why.reason == Reason::SourceUnavailable);
            Some(Standing {
                on_disk: fetched || record.artefacts().next().is_some() || record.served.is_some(),
                ready: phase == Phase::Ready,
                quarantined: phase == Phase::Quarantined,
                waits_for_source: needs_source && (asks || failed),
            })
        })
        .flatten()
    }
}

/// From 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    let _ = getrandom::fill(&mut bytes); // without: whole pauses
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
