//! How a model's release stands: what is kept through every restart.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tutti_api::{ModelSpec, RevisionWeight, Share, StrategySpec, WHOLE};

use crate::analysis::Looks;
use crate::evidence::Seen;

/// A moment. Unit: milliseconds since 1970.
pub type Millis = u64;

/// Most entries of a model's history; the oldest go first.
pub const MAX_HISTORY: usize = 100;

/// A model's release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Release {
    /// The model's name.
    pub model: String,
    /// The revision that serves what a candidate does not.
    pub current: String,
    /// The one that did before: where a rollback leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The change under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// The one that a switch has replaced, while it stays ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Former>,
    /// Who gets how much.
    pub weights: Vec<RevisionWeight>,
    /// Changes with each release.
    pub salt: u64,
    /// The driver's generation when weights or mirror last changed.
    pub generation: u64,
    /// Why it stands so.
    pub reason: String,
    /// Who wanted it so: `configuration`, `analysis`, `strategy`, or a person.
    pub by: String,
    /// Since when.
    pub at: Millis,
    /// Of the model's own stanza that was last obeyed.
    pub spec_hash: String,
    /// The revision that stanza wants.
    pub wanted: String,
    /// Nothing happens by itself.
    #[serde(default)]
    pub frozen: bool,
    /// What happened, the last last.
    #[serde(default)]
    pub history: VecDeque<Entry>,
}

/// A change under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Candidate {
    /// The revision that is to serve.
    pub revision: String,
    /// How it comes to that, as it was said when the change began.
    pub strategy: StrategySpec,
    /// The share of requests that it also gets meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Share>,
    /// How far it is.
    pub stage: Stage,
    /// Since when.
    pub since: Millis,
    /// Somebody has said that it may go on.
    #[serde(default)]
    pub promoted: bool,
    /// Why it waits for somebody to decide, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Nobody serves it any more.
    #[serde(default)]
    pub lost: bool,
    /// How often it was judged.
    #[serde(default)]
    pub looks: Looks,
    /// When it is judged next.
    #[serde(default)]
    pub next_look: Millis,
    /// How often that said what.
    #[serde(default)]
    pub passed: u32,
    /// As `passed`.
    #[serde(default)]
    pub failed: u32,
    /// As `passed`.
    #[serde(default)]
    pub inconclusive: u32,
    /// What came of the last one.
    #[serde(default)]
    pub verdict: String,
    /// What was seen of the current revision before the candidate had everything: what it is then judged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Seen>,
}

/// A revision that was replaced, and stays ready for a while: for who wants it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Former {
    /// Its name.
    pub revision: String,
    /// The replicas that served it when it was replaced.
    pub replicas: u32,
    /// How long it stays.
    pub until: Millis,
}

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// A canary is at its step of this number.
    Step(usize),
    /// A canary has done its steps, and analysis has not passed often enough.
    Proving,
    /// Of blue and green, the candidate has nothing yet.
    Preparing,
    /// Of blue and green, the candidate has everything, and is looked at.
    Watching,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// When.
    pub at: Millis,
    /// Who did it.
    pub by: String,
    /// What, and why.
    pub what: String,
}

impl Release {
    /// Of a model that is served as its stanza says.
    fn begin(spec: &ModelSpec, now: Millis) -> Option<Self> {
        let wanted = wanted(spec)?;
        let mut release = Self {
            model: spec.name.clone(),
            current: wanted.to_owned(),
            previous: None,
            candidate: None,
            former: None,
            weights: alone(wanted),
            salt: 0,
            generation: 0,
            reason: String::new(),
            by: String::new(),
            at: now,
            spec_hash: spec_hash(spec),
            wanted: wanted.to_owned(),
            frozen: false,
            history: VecDeque::new(),
        };
        release.tell("configuration", format!("{wanted} serves, as configured"), now);
        Some(release)
    }

    /// Whether it is not as its stanza has it: somebody, or an analysis, decided otherwise.
    pub fn is_overridden(&self) -> bool {
        self.candidate.as_ref().map_or(&self.current, |candidate| &candidate.revision) != &self.wanted
    }

    /// The part of the requests that a revision gets.
    pub fn weight(&self, revision: &str) -> u32 {
        self.weights.iter().find(|part| part.revision == revision).map_or(0, |part| part.weight)
    }

    /// Takes note of what happened.
    pub(crate) fn tell(&mut self, by: &str, what: String, now: Millis) {
        self.reason.clone_from(&what);
        by.clone_into(&mut self.by);
        self.at = now;
        if self.history.len() >= MAX_HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(Entry { at: now, by: by.to_owned(), what });
    }

    /// Has a revision serve all from now on.
    pub(crate) fn switch(&mut self, to: &str, by: &str, why: &str, now: Millis) {
        (self.candidate, self.former) = (None, None);
        if self.current != to {
            self.previous = Some(std::mem::replace(&mut self.current, to.to_owned()));
        }
        self.weights = alone(to);
        self.tell(by, format!("{to} serves all: {why}"), now);
    }

    /// Ends a change without the candidate.
    pub(crate) fn abort(&mut self, by: &str, why: &str, now: Millis) {
        let Some(candidate) = self.candidate.take() else { return };
        self.weights = alone(&self.current);
        let what = format!("{} is rolled back, {} serves all: {why}", candidate.revision, self.current);
        self.tell(by, what, now);
    }

    /// Begins a change.
    pub(crate) fn change(
        &mut self,
        to: &str,
        strategy: Option<StrategySpec>,
        mirror: Option<Share>,
        by: &str,
        now: Millis,
    ) {
        if to == self.current {
            return self.abort(by, "it is not wanted any more", now);
        }
        let Some(strategy) = strategy else { return self.switch(to, by, "at once", now) };
        let (stage, how) = match (&strategy.canary, &strategy.blue_green) {
            (Some(_), _) => (Stage::Step(0), "step by step"),
            (None, Some(_)) => (Stage::Preparing, "all at once, when it is ready"),
            (None, None) => (Stage::Preparing, "as soon as a replica has it, proven"),
        };
        self.weights = alone(&self.current);
        self.former = None;
        // Whoever comes first in one release comes anywhere in the next.
        self.salt = self.salt.wrapping_add(now | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let interval = candidate_analysis(&strategy).map_or(0, |spec| millis(spec.interval.get()));
        self.candidate = Some(Candidate {
            revision: to.to_owned(),
            strategy,
            mirror,
            stage,
            since: now,
            promoted: false,
            held: None,
            lost: false,
            looks: Looks::default(),
            next_look: now + interval,
            passed: 0,
            failed: 0,
            inconclusive: 0,
            verdict: String::new(),
            reference: None,
        });
        self.tell(by, format!("{to} is to serve, {how}"), now);
    }

    /// Gives the candidate this part of the requests, and the current revision the rest.
    pub(crate) fn split(&mut self, candidate: &str, weight: u32) {
        let part = |revision: &str, weight| RevisionWeight { revision: revision.to_owned(), weight };
        self.weights = match weight {
            0 => alone(&self.current),
            WHOLE => alone(candidate),
            weight => vec![part(candidate, weight), part(&self.current, WHOLE - weight)],
        };
    }
}

/// What judges the candidate before it has everything.
pub(crate) fn candidate_analysis(strategy: &StrategySpec) -> Option<&tutti_api::AnalysisSpec> {
    let canary = strategy.canary.as_ref().and_then(|canary| canary.analysis.as_ref());
    canary.or_else(|| strategy.blue_green.as_ref()?.pre_promotion_analysis.as_ref())
}

pub(crate) fn millis(time: std::time::Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2)
}

fn alone(revision: &str) -> Vec<RevisionWeight> {
    vec![RevisionWeight { revision: revision.to_owned(), weight: WHOLE }]
}

/// The revision that a model's stanza wants; `None` where it has none.
fn wanted(spec: &ModelSpec) -> Option<&str> {
    let said = spec.traffic.as_ref().and_then(|traffic| traffic.revision.as_deref());
    said.or_else(|| spec.revisions.first().map(|revision| revision.name.as_str()))
}

/// What tells a model's stanza from another (FNV-1a of its JSON). It keeps nothing secret.
pub fn spec_hash(spec: &ModelSpec) -> String {
    let json = serde_json::to_string(spec).unwrap_or_default();
    let hash = json
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// How a release stands once its model's stanza was read, again or for the first time. A stanza that was obeyed already
/// changes nothing, whatever was decided since; another ends what was decided at run time.
pub fn observe(before: Option<&Release>, spec: &ModelSpec, now: Millis) -> Option<Release> {
    let Some(before) = before else { return Release::begin(spec, now) };
    let hash = spec_hash(spec);
    if before.spec_hash == hash {
        return Some(before.clone());
    }
    let (wanted, is_there) = (wanted(spec)?, |name: &str| spec.revisions.iter().any(|of| of.name == name));
    let mut release = Release { spec_hash: hash, wanted: wanted.to_owned(), frozen: false, ..before.clone() };
    release.previous = release.previous.filter(|name| is_there(name));
    let traffic = spec.traffic.as_ref();
    // Without one it is at once: who wrote it may not know that no replica has the revision yet, as who types it is told.
    let strategy = traffic.and_then(|traffic| traffic.strategy.clone()).unwrap_or_default();
    let mirror = traffic.and_then(|traffic| traffic.mirror).filter(|_| !is_at_once(&strategy));
    if !is_there(&release.current) {
        release.previous = None;
        release.switch(wanted, "configuration", "the former revision is not in the configuration any more", now);
        release.previous = None;
        return Some(release);
    }
    let goes_on = release
        .candidate
        .as_ref()
        .is_some_and(|candidate| candidate.revision == wanted && strategy == candidate.strategy);
    if goes_on {
        release.candidate.iter_mut().for_each(|candidate| candidate.mirror = mirror);
        return Some(release);
    }
    if release.current != wanted || release.candidate.is_some() {
        release.change(wanted, Some(strategy), mirror, "configuration", now);
    }
    Some(release)
}

/// Whether a change comes about at once: nothing is tried, judged, or waited for but a replica.
pub(crate) fn is_at_once(strategy: &StrategySpec) -> bool {
    strategy.canary.is_none() && strategy.blue_green.is_none()
}
