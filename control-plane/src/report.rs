//! What people are told of a release.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::driver::Driver;
use crate::evidence::{Histogram, RevisionHeard};
use crate::release::{Candidate, Release, Stage};

/// A model's release, with both revisions' figures side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Who drives it.
    pub driver: String,
    /// Which life of the driver's state.
    pub term: u64,
    /// Its last change.
    pub generation: u64,
    /// How the release stands.
    pub release: Release,
    /// Whether the configuration says something else.
    pub overridden: bool,
    /// By revision; of a change under way since the weights last changed.
    pub revisions: BTreeMap<String, Figures>,
    /// What the operator should know beside that.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// How a release stands, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The model's name.
    pub model: String,
    /// The driver's generation when weights or mirror last changed.
    pub generation: u64,
    /// The revision that is to serve, if a change is under way.
    pub candidate: Option<String>,
    /// How far that is: the number of the canary's step, from 1; of blue-green, 1 before the candidate has everything, then 2.
    pub step: usize,
    /// Whether the change waits at a pause, for somebody to decide, for replicas, or is frozen.
    pub paused: bool,
}

impl Standing {
    /// Of a release.
    pub fn of(release: &Release) -> Self {
        let candidate = release.candidate.as_ref();
        let steps = |candidate: &Candidate| candidate.strategy.canary.clone().unwrap_or_default().steps;
        let step = |candidate: &Candidate| match candidate.stage {
            Stage::Step(number) => number + 1,
            Stage::Proving => steps(candidate).len() + 1,
            Stage::Preparing => 1,
            Stage::Watching => 2,
        };
        let paused = |candidate: &Candidate| {
            let waits = match candidate.stage {
                Stage::Step(number) => steps(candidate).get(number).is_some_and(|step| step.pause.is_some()),
                Stage::Preparing => {
                    candidate.strategy.blue_green.as_ref().is_some_and(|spec| !spec.auto_promotion_enabled)
                }
                Stage::Proving | Stage::Watching => false,
            };
            waits || candidate.held.is_some() || candidate.lost || release.frozen
        };
        Self {
            model: release.model.clone(),
            generation: release.generation,
            candidate: candidate.map(|candidate| candidate.revision.clone()),
            step: candidate.map_or(0, step),
            paused: candidate.is_some_and(paused),
        }
    }
}

/// What is known of a revision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Its part of a million requests.
    pub weight: u32,
    /// Replicas that can serve it.
    pub replicas: u32,
    /// Requests that these work on at once.
    pub slots: u32,
    /// Requests that say something of it.
    pub requests: u64,
    /// Those that ended by its fault.
    pub errors: u64,
    /// How long its engine takes, for half of them. Unit: milliseconds.
    pub p50_ms: Option<f64>,
    /// The same for 99 of 100.
    pub p99_ms: Option<f64>,
    /// How long until the first token, for 99 of 100 streams. Unit: milliseconds.
    pub ttft_p99_ms: Option<f64>,
}

impl Report {
    /// Of a model that is driven; `None` of another.
    pub fn of(driver: &Driver, model: &str) -> Option<Self> {
        let release = driver.release(model)?.clone();
        let heard = driver.figures(model);
        let figures = |revision: &str, heard: &RevisionHeard| Figures::of(release.weight(revision), heard);
        let mut revisions: BTreeMap<String, Figures> =
            heard.iter().map(|(name, heard)| (name.clone(), figures(name, heard))).collect();
        for part in &release.weights {
            revisions
                .entry(part.revision.clone())
                .or_insert_with(|| figures(&part.revision, &RevisionHeard::default()));
        }
        let word = driver.word();
        Some(Self {
            driver: word.driver,
            term: word.term,
            generation: word.generation,
            overridden: release.is_overridden(),
            release,
            revisions,
            warnings: Vec::new(),
        })
    }
}

impl Figures {
    fn of(weight: u32, heard: &RevisionHeard) -> Self {
        let RevisionHeard { seen, ready } = heard;
        let millis = |times: &Histogram, share: f64| times.quantile(share).map(to_millis);
        Self {
            weight,
            replicas: ready.replicas,
            slots: ready.slots,
            requests: seen.requests,
            errors: seen.errors,
            p50_ms: millis(&seen.engine, 0.5),
            p99_ms: millis(&seen.engine, 0.99),
            ttft_p99_ms: millis(&seen.first_token, 0.99),
        }
    }
}

fn to_millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}
