//! What a pool's queue says of itself, in names.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cells::Cells;
use super::core::{Decision, GroupId, GroupTold, RunnerId, RunnerTold, Scheduler, Source, Tally, Why};

/// The most groups and runners that are shown.
const MOST: usize = 1000;

/// A pool's queue, in `/debug/schedule`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// The pool.
    pub pool: String,
    /// How many wait.
    pub queued: usize,
    /// The groups that somebody waits for or that a replica has, those first that have waited longest.
    pub groups: Vec<GroupExplained>,
    /// Groups beyond the most that are shown.
    pub groups_left_out: usize,
    /// The runners that several groups share.
    pub runners: Vec<RunnerExplained>,
    /// The last decisions, the newest first.
    pub decisions: Vec<DecisionExplained>,
}

/// A group.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GroupExplained {
    /// Its models, as the replicas call them.
    pub models: Vec<String>,
    /// How many wait for it.
    pub waiting: usize,
    /// How long the one has waited who waits longest.
    pub oldest_ms: u64,
    /// What they wait for: `load`, `slot`, or nothing.
    pub waits_for: String,
    /// The replicas that have its weights and serve it. Those that always have are left out.
    pub serving: Vec<String>,
    /// Those that load them.
    pub loading: Vec<String>,
    /// What a request takes of a slot, once it was measured.
    pub service_ms: Option<u64>,
    /// Requests in a second, lately.
    pub requests_per_second: f64,
}

/// A runner.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunnerExplained {
    /// Where it is.
    pub replica: String,
    /// The models whose weights it has, as far as is known.
    pub loaded: Vec<String>,
    /// How that is known.
    #[serde(default)]
    pub known: Known,
    /// How long ago the replica said so, or was loaded, or a request brought it.
    #[serde(default)]
    pub known_ms: Option<u64>,
    /// Those that it loads.
    pub loading: Vec<String>,
    /// For how long it loads them.
    pub loading_ms: Option<u64>,
    /// Whether its group gives way to another as soon as what runs has ended.
    pub gives_way: bool,
}

/// How it is known what a runner has.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// The replica said so when it was asked.
    Told,
    /// It is assumed: the gateway's own load has brought it, or a request that was sent there.
    Assumed,
    /// It is not.
    #[default]
    Unknown,
}

/// A decision.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DecisionExplained {
    /// How long ago.
    pub ago_ms: u64,
    /// On which replica, if on one.
    pub replica: Option<String>,
    /// About which models.
    pub models: Vec<String>,
    /// What was decided, and why.
    pub what: String,
}

/// Numbers to names.
struct Names {
    replicas: HashMap<RunnerId, String>,
    models: HashMap<GroupId, Vec<String>>,
}

impl Names {
    fn replica(&self, runner: RunnerId) -> String {
        self.replicas.get(&runner).cloned().unwrap_or_else(|| "one that is gone".to_owned())
    }

    fn replicas(&self, runners: &[RunnerId]) -> Vec<String> {
        runners.iter().map(|runner| self.replica(*runner)).collect()
    }

    fn models(&self, group: GroupId) -> Vec<String> {
        self.models.get(&group).cloned().unwrap_or_default()
    }
}

/// What the queue of a pool says.
pub(super) fn explained(pool: &str, core: &Scheduler, cells: &Cells, now: Instant) -> Explained {
    let mut names = Names { replicas: HashMap::new(), models: HashMap::new() };
    let mut models: HashMap<GroupId, BTreeSet<&str>> = HashMap::new();
    for (slot, slots) in cells.words() {
        names.replicas.entry(slot.runner).or_insert_with(|| slots.replica.url.to_string());
        models.entry(slot.group).or_default().insert(&slots.name);
    }
    let listed = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
    names.models = models.into_iter().map(|(group, names)| (group, listed(names))).collect();
    let groups = core.groups_told(now);
    Explained {
        pool: pool.to_owned(),
        queued: core.len(),
        groups_left_out: groups.len().saturating_sub(MOST),
        groups: groups.into_iter().take(MOST).map(|told| group(told, &names)).collect(),
        runners: core.runners_told(now).into_iter().take(MOST).map(|told| runner(told, &names, now)).collect(),
        decisions: core.decisions().map(|decision| decided(decision, &names, now)).rev().collect(),
    }
}

fn group(told: GroupTold, names: &Names) -> GroupExplained {
    let waits_for = match (told.waiting, told.wants || !told.loading.is_empty() && told.serving.is_empty()) {
        (0, _) => "",
        (_, true) => "load",
        (_, false) => "slot",
    };
    GroupExplained {
        models: names.models(told.group),
        waiting: told.waiting,
        oldest_ms: millis(told.oldest),
        waits_for: waits_for.to_owned(),
        serving: names.replicas(&told.serving),
        loading: names.replicas(&told.loading),
        service_ms: told.service.map(millis),
        requests_per_second: (told.rate * 1000.0).round() / 1000.0,
    }
}

fn runner(told: RunnerTold, names: &Names, now: Instant) -> RunnerExplained {
    let (known, since) = match told.source {
        Some(Source::Replica(at)) => (Known::Told, Some(at)),
        Some(Source::Load(at) | Source::Request(at)) => (Known::Assumed, Some(at)),
        None => (Known::Unknown, None),
    };
    RunnerExplained {
        known,
        known_ms: since.map(|at| millis(now.saturating_duration_since(at))),
        replica: names.replica(told.runner),
        loaded: told.loaded.map(|group| names.models(group)).unwrap_or_default(),
        loading: told.loading.map(|(group, _)| names.models(group)).unwrap_or_default(),
        loading_ms: told.loading.map(|(_, since)| millis(since)),
        gives_way: told.stopping,
    }
}

fn decided(decision: &Decision, names: &Names, now: Instant) -> DecisionExplained {
    let of = |group: GroupId| names.models(group).join(", ");
    let what = match decision.why {
        Why::Load { waiting, waited, late, instead } => {
            let late = if late { ", which is late" } else { "" };
            let instead = instead.map(|group| format!(", instead of {}", of(group))).unwrap_or_default();
            format!("is loaded: {waiting} wait, the first for {} ms{late}{instead}", millis(waited))
        }
        Why::Loaded(took) => format!("is there, after {} ms", millis(took)),
        Why::Failed(code) => format!("was not loaded: {}", code.row().name),
        Why::UsedUp(to) => format!("gives way to {}: its quantum is used up", of(to)),
        Why::Late(to) => format!("gives way to {}, which is late", of(to)),
        Why::Class(to) => format!("gives way to {}, for somebody of a higher class", of(to)),
        Why::Resumes => "goes on: nobody else wants the replica any more".to_owned(),
        Why::Resident => "is what the replica says that it has".to_owned(),
        Why::Reloaded(told) => format!("was not there: a request waited {} ms for it", millis(told)),
        Why::Refused(expected) => format!("one was refused: it would have taken {} ms", millis(expected)),
    };
    DecisionExplained {
        ago_ms: millis(now.saturating_duration_since(decision.at)),
        replica: decision.runner.map(|runner| names.replica(runner)),
        models: names.models(decision.group),
        what,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How often which decisions were made, for who counts them.
#[derive(Debug, Default)]
pub(crate) struct Tallied(Mutex<Tally>);

impl Tallied {
    /// The owner says so after each event that changed it.
    pub(super) fn set(&self, tally: &Tally) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = *tally;
    }

    pub(crate) fn get(&self) -> Tally {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
