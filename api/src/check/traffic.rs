//! What a schema cannot say of how a change of revision comes about.

use std::collections::HashSet;

use super::{Pools, Report, field, item};
use crate::problem::Place;
use crate::yaml::{Kind, Node, Step};
use crate::{AnalysisSpec, CanarySpec, Engine, ModelSpec, PoolSpec, Problem, StrategySpec, TrafficSpec};

/// Most steps of a change.
const MAX_STEPS: usize = 100;

/// Whether an engine that loads weights anew for each revision has one replica, whatever discovery finds.
pub(super) fn has_one_replica(pool: &PoolSpec) -> bool {
    pool.engine == Engine::Ollama && matches!(pool.endpoints.as_slice(), [only] if only.url.is_some())
}

/// Finds what is wrong with a model's traffic.
pub(super) fn check(spec: &TrafficSpec, model: &ModelSpec, pools: &Pools<'_>, here: &[Step], report: &mut Report<'_>) {
    let at = field(here, "strategy");
    if let Some(strategy) = &spec.strategy {
        self::strategy(strategy, &at, report);
    }
    if let Some(sticky) = &spec.sticky {
        let at = field(here, "sticky");
        let said = [sticky.header.is_some(), sticky.key == Some(true), sticky.tenant == Some(true)];
        if said.iter().filter(|said| **said).count() != 1 {
            let help = "write one of `header: x-user`, `key: true` and `tenant: true`";
            report.add(&at, "one thing keeps a client on its revision", Some(help));
        }
        let is_name = |name: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            !name.is_empty() && name.len() <= 64 && name.bytes().all(good)
        };
        if sticky.header.as_deref().is_some_and(|name| !is_name(name)) {
            report.add(&field(&at, "header"), "this is no header's name", Some("write letters, digits, `-` and `_`"));
        }
    }
    let canary = spec.strategy.as_ref().is_some_and(|strategy| strategy.canary.is_some());
    let mirrors = spec.mirror.is_some_and(|share| share.parts() > 0);
    let what = if canary { Some(field(&at, "canary")) } else { mirrors.then(|| field(here, "mirror")) };
    if let Some((steps, pool)) = what.zip(shared(model, pools)) {
        let help = "add a replica, or leave it out: then the change is at once";
        let message = format!(
            "several revisions are on pool {pool:?}, whose one replica would load weights anew for each request: the \
             candidate needs a replica of its own"
        );
        report.add(&steps, message, Some(help));
    }
}

/// The pool with one replica that several of a model's revisions share.
fn shared<'m>(model: &'m ModelSpec, pools: &Pools<'_>) -> Option<&'m str> {
    let of = |pool: &str| model.revisions.iter().filter(|revision| revision.pool == pool).count();
    let mut names = model.revisions.iter().map(|revision| revision.pool.as_str());
    names.find(|pool| pools.single.contains(pool) && of(pool) > 1)
}

impl StrategySpec {
    /// What is wrong with one that stands in no configuration, as `tutti check` would say of it: one that was typed by hand.
    pub fn problems(&self) -> Vec<Problem> {
        let nowhere = Node { place: Place::Whole, kind: Kind::Refused };
        let (refused, mut problems) = (HashSet::new(), Vec::new());
        let mut report = Report { root: &nowhere, refused: &refused, problems: &mut problems };
        strategy(self, &field(&[], "strategy"), &mut report);
        problems
    }
}

fn strategy(spec: &StrategySpec, here: &[Step], report: &mut Report<'_>) {
    match (&spec.canary, &spec.blue_green) {
        (Some(canary), None) => self::canary(canary, &field(here, "canary"), report),
        (None, Some(blue_green)) => {
            let at = field(here, "blueGreen");
            for (name, spec) in [
                ("prePromotionAnalysis", &blue_green.pre_promotion_analysis),
                ("postPromotionAnalysis", &blue_green.post_promotion_analysis),
            ] {
                if let Some(spec) = spec {
                    analysis(spec, &field(&at, name), report);
                }
            }
        }
        _ => {
            let help = "write `canary: { steps: […] }` or `blueGreen: {}`, or leave `strategy` out: then it is at once";
            report.add(here, "a change comes about in one way", Some(help));
        }
    }
}

fn canary(spec: &CanarySpec, here: &[Step], report: &mut Report<'_>) {
    let steps = field(here, "steps");
    if spec.steps.is_empty() || spec.steps.len() > MAX_STEPS {
        let help = "write such as `[{ setWeight: 5% }, { pause: 2m }]`";
        report.add(&steps, format!("a canary has 1 to {MAX_STEPS} steps"), Some(help));
    }
    for (number, step) in spec.steps.iter().enumerate() {
        if step.set_weight.is_some() == step.pause.is_some() {
            let help = "write `{ setWeight: 5% }` or `{ pause: 2m }`";
            report.add(&item(here, "steps", number), "a step is one thing", Some(help));
        }
    }
    if let Some(spec) = &spec.analysis {
        analysis(spec, &field(here, "analysis"), report);
    }
}

fn analysis(spec: &AnalysisSpec, here: &[Step], report: &mut Report<'_>) {
    report.positive(&field(here, "interval"), spec.interval);
}
