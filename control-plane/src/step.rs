//! What happens to a release by itself.

use tutti_api::{AnalysisSpec, BlueGreenSpec, CanarySpec, OnLost, Pause, WHOLE};

use crate::analysis::{Verdict, judge};
use crate::evidence::{Evidence, Recent};
use crate::release::{Candidate, Former, Millis, Release, Stage, is_at_once, millis};

/// How a release stands by what was seen and the time. It is the same release where nothing is to happen.
pub fn step(release: &Release, evidence: &Evidence, now: Millis) -> Release {
    let mut next = release.clone();
    let Some(mut candidate) = next.candidate.take() else { return next };
    if next.frozen {
        next.candidate = Some(candidate);
        return next;
    }
    let outcome = whole(&mut next, &mut candidate, evidence, now);
    next.candidate = Some(candidate);
    match outcome {
        Outcome::Goes => {}
        Outcome::Ends { by, why } => next.abort(by, &why, now),
        Outcome::Serves(why) => {
            let candidate = next.candidate.as_ref();
            let at_once = candidate.is_some_and(|candidate| is_at_once(&candidate.strategy));
            let by = if at_once { "configuration" } else { "strategy" };
            let to = candidate.map(|candidate| candidate.revision.clone()).unwrap_or_default();
            let former = former(&next, evidence, now);
            next.switch(&to, by, &why, now);
            next.former = former;
        }
    }
    next
}

/// Of blue and green, the one that is replaced stays for a while with as many replicas as it has: a way back would find none
/// otherwise, for nothing wants them any more.
fn former(release: &Release, evidence: &Evidence, now: Millis) -> Option<Former> {
    let strategy = &release.candidate.as_ref()?.strategy;
    let blue_green = strategy.blue_green.as_ref().filter(|_| strategy.canary.is_none())?;
    let until = now.saturating_add(millis(blue_green.scale_down_delay.get()));
    let replicas = evidence.current_ready.replicas.max(1);
    (until > now).then(|| Former { revision: release.current.clone(), replicas, until })
}

enum Outcome {
    /// The change goes on, or waits.
    Goes,
    /// It is over, and the current revision stays.
    Ends { by: &'static str, why: String },
    /// It is over, and the candidate serves.
    Serves(String),
}

fn whole(release: &mut Release, candidate: &mut Candidate, evidence: &Evidence, now: Millis) -> Outcome {
    if let Some(outcome) = lost(release, candidate, evidence, now) {
        return outcome;
    }
    if let Some(outcome) = looked_at(release, candidate, evidence, now) {
        return outcome;
    }
    if candidate.held.is_some() {
        return Outcome::Goes;
    }
    match (candidate.strategy.canary.clone(), candidate.strategy.blue_green.clone()) {
        (Some(canary), _) => steps(release, candidate, &canary, evidence, now),
        (None, Some(blue_green)) => blue_green_step(release, candidate, &blue_green, evidence, now),
        (None, None) if evidence.candidate_ready.replicas == 0 => Outcome::Goes, // nobody has it, proven
        (None, None) => Outcome::Serves("at once".to_owned()),
    }
}

/// A candidate that nobody serves has no share; where the current revision is served no better it keeps it.
fn lost(release: &mut Release, candidate: &mut Candidate, evidence: &Evidence, now: Millis) -> Option<Outcome> {
    let is_served = evidence.candidate_ready.replicas > 0;
    if candidate.lost {
        if !is_served {
            return Some(Outcome::Goes);
        }
        candidate.lost = false;
        candidate.since = now;
        release.split(&candidate.revision, share(candidate));
        release.tell("strategy", format!("{} is served again: the change goes on", candidate.revision), now);
        return None;
    }
    let has_share = release.weight(&candidate.revision) > 0;
    if is_served || !has_share || evidence.current_ready.replicas == 0 {
        return None;
    }
    if candidate.strategy.on_lost_replicas == OnLost::Rollback {
        return Some(Outcome::Ends { by: "strategy", why: "no replica serves it any more".to_owned() });
    }
    candidate.lost = true;
    release.split(&candidate.revision, 0);
    let what =
        format!("no replica serves {} any more: {} serves all until one does", candidate.revision, release.current);
    release.tell("strategy", what, now);
    Some(Outcome::Goes)
}

/// The share that a candidate has by its stage.
fn share(candidate: &Candidate) -> u32 {
    let canary = candidate.strategy.canary.as_ref();
    let done = |canary: &CanarySpec, steps: usize| {
        canary.steps.iter().take(steps).rev().find_map(|step| step.set_weight).map_or(0, tutti_api::Share::parts)
    };
    match candidate.stage {
        Stage::Step(number) => canary.map_or(0, |canary| done(canary, number)),
        Stage::Proving => canary.map_or(0, |canary| done(canary, usize::MAX)),
        Stage::Preparing => 0,
        Stage::Watching => WHOLE,
    }
}

/// What judges a candidate at this stage.
fn analysis(candidate: &Candidate) -> Option<AnalysisSpec> {
    let blue_green = candidate.strategy.blue_green.as_ref();
    match candidate.stage {
        Stage::Step(_) | Stage::Proving => candidate.strategy.canary.as_ref()?.analysis.clone(),
        Stage::Preparing => blue_green?.pre_promotion_analysis.clone(),
        Stage::Watching => blue_green?.post_promotion_analysis.clone(),
    }
}

/// Judges the candidate, if it is time.
fn looked_at(release: &mut Release, candidate: &mut Candidate, evidence: &Evidence, now: Millis) -> Option<Outcome> {
    let spec = analysis(candidate)?;
    // Who has all requests is judged beside what was seen of the current revision before.
    let has_all = candidate.stage == Stage::Watching || release.weight(&candidate.revision) == WHOLE;
    let reference = candidate.reference.as_ref().filter(|_| has_all);
    let current = reference.unwrap_or(&evidence.current).clone();
    let beside = |of: &Recent| Recent { current: reference.unwrap_or(&of.current).clone(), ..of.clone() };
    let recent: Vec<Recent> = evidence.recent.iter().map(beside).collect();
    // As soon as there is enough for the first time, and then in turn.
    let least = u64::from(spec.min_samples);
    let enough = current.requests >= least && evidence.candidate.requests >= least;
    let first = candidate.looks.full == 0 && enough;
    if now < candidate.next_look && !first || (candidate.held.is_some() && candidate.stage == Stage::Preparing) {
        return None;
    }
    candidate.next_look = now + millis(spec.interval.get());
    let verdict = judge(&spec, &mut candidate.looks, &current, &evidence.candidate, &recent);
    match verdict {
        Verdict::Passed => {
            candidate.passed += 1;
            candidate.verdict = format!("passed {} of {} times", candidate.passed, spec.count);
        }
        Verdict::Failed(why) => {
            candidate.failed += 1;
            candidate.verdict = format!("failed: {why}");
            if candidate.failed > spec.failure_limit {
                return Some(Outcome::Ends { by: "analysis", why });
            }
            release.tell("analysis", format!("{} failed, which it may: {why}", candidate.revision), now);
        }
        Verdict::Inconclusive(why) => {
            candidate.inconclusive += 1;
            candidate.verdict = format!("inconclusive: {why}");
            hold(release, candidate, &spec, &why, now);
        }
        Verdict::TooFew(why) => {
            candidate.verdict = format!("too few: {why}");
            // A canary's share may be small for long; who has everything is not looked at for ever.
            if has_all {
                candidate.inconclusive += 1;
                hold(release, candidate, &spec, &why, now);
            }
        }
    }
    None
}

/// Has somebody decide where too many looks said neither.
fn hold(release: &mut Release, candidate: &mut Candidate, spec: &AnalysisSpec, why: &str, now: Millis) {
    if candidate.inconclusive > spec.inconclusive_limit && candidate.held.is_none() {
        let held = format!("inconclusive: {why}");
        release.tell("analysis", format!("{} waits for somebody to decide: {held}", candidate.revision), now);
        candidate.held = Some(held);
    }
}

/// Does a canary's steps as far as they go now.
fn steps(
    release: &mut Release,
    candidate: &mut Candidate,
    spec: &CanarySpec,
    evidence: &Evidence,
    now: Millis,
) -> Outcome {
    while let Stage::Step(number) = candidate.stage {
        let Some(step) = spec.steps.get(number) else {
            candidate.stage = Stage::Proving;
            candidate.since = now;
            break;
        };
        if let Some(weight) = step.set_weight {
            if evidence.candidate_ready.replicas == 0 {
                return Outcome::Goes; // nobody has it, proven
            }
            if weight.parts() == WHOLE {
                candidate.reference = Some(evidence.current.clone());
            }
            release.split(&candidate.revision, weight.parts());
            release.tell("strategy", format!("step {}: {weight} to {}", number + 1, candidate.revision), now);
        } else {
            let over = match step.pause {
                Some(Pause::For(time)) => now >= candidate.since.saturating_add(millis(time.get())),
                Some(Pause::UntilPromoted) => false,
                None => true,
            };
            // The word first: one that came as the time was over would be taken for the next pause.
            if !std::mem::take(&mut candidate.promoted) && !over {
                return Outcome::Goes;
            }
        }
        candidate.stage = Stage::Step(number + 1);
        candidate.since = now;
    }
    match &spec.analysis {
        _ if evidence.candidate_ready.replicas == 0 => Outcome::Goes,
        Some(analysis) if candidate.passed < analysis.count && !std::mem::take(&mut candidate.promoted) => {
            Outcome::Goes
        }
        Some(_) => Outcome::Serves(format!("all steps are done, analysis {}", candidate.verdict)),
        None => Outcome::Serves("all steps are done".to_owned()),
    }
}

fn blue_green_step(
    release: &mut Release,
    candidate: &mut Candidate,
    spec: &BlueGreenSpec,
    evidence: &Evidence,
    now: Millis,
) -> Outcome {
    if candidate.stage == Stage::Preparing {
        let (its, theirs) = (&evidence.candidate_ready, &evidence.current_ready);
        let ready = its.replicas > 0 && its.slots >= theirs.slots;
        let passed = spec.pre_promotion_analysis.as_ref().is_none_or(|analysis| candidate.passed >= analysis.count);
        let referenced = spec.post_promotion_analysis.as_ref().is_none_or(|analysis| {
            let until =
                candidate.since.saturating_add(millis(analysis.interval.get()) * u64::from(analysis.count.max(1)));
            evidence.current.requests >= u64::from(analysis.min_samples) || now >= until
        });
        let may = spec.auto_promotion_enabled && passed && referenced;
        if !ready || !(may || candidate.promoted) {
            return Outcome::Goes;
        }
        candidate.promoted = false;
        let Some(analysis) = &spec.post_promotion_analysis else {
            return Outcome::Serves("it is ready".to_owned());
        };
        candidate.reference = Some(evidence.current.clone());
        (candidate.passed, candidate.failed, candidate.inconclusive) = (0, 0, 0);
        candidate.stage = Stage::Watching;
        candidate.since = now;
        candidate.next_look = now + millis(analysis.interval.get());
        release.split(&candidate.revision, WHOLE);
        release.tell("strategy", format!("{} has all requests, and is looked at", candidate.revision), now);
        return Outcome::Goes;
    }
    let count = spec.post_promotion_analysis.as_ref().map_or(0, |analysis| analysis.count);
    if candidate.passed < count && !std::mem::take(&mut candidate.promoted) {
        return Outcome::Goes;
    }
    Outcome::Serves(format!("analysis {}", candidate.verdict))
}
