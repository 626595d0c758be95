//! Whether a candidate is worse than the current revision, judged again and again as requests come.
//!
//! Three things are compared, each by an exact test that keeps its promise with few samples too: the share of errors
//! (the candidate's beside what the current one's may be at most: Clopper and Pearson's bound, then the binomial
//! distribution), and the P99 of the engine's time and of the time to the first token (who has how many of the slowest
//! hundredth of all: the hypergeometric distribution, after the candidate's times were shortened by what it may be
//! slower). An equal candidate fails with a chance of at most [`FALSE_ALARMS`] a release, however often it is judged: the
//! k-th look may be wrong with a chance of 0.8 %/(k(k+1)), which is 0.8 % over all of them, and early ones, at 20, 40,
//! 80 … requests and at errors alone, with 0.1 %, 0.05 % … .

use serde::{Deserialize, Serialize};
use tutti_api::AnalysisSpec;

use crate::evidence::{GROWTH, Histogram, Seen};
use crate::statistics::{binomial_tail, hypergeometric_tail, upper_bound};

/// The highest chance that a release of an equal candidate is ended.
pub const FALSE_ALARMS: f64 = 0.01;
/// What of it looks after enough samples may use.
const FULL_LOOKS: f64 = 0.008;
/// What of it looks before may use.
const EARLY_LOOKS: f64 = FALSE_ALARMS - FULL_LOOKS;
/// Fewest requests of a candidate whose errors are looked at.
const FIRST_LOOK: u64 = 20;
/// What is compared in a full look.
const TESTS: f64 = 3.0;

/// How often a release was judged: what its next look may use depends on that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Looks {
    /// With enough samples.
    pub full: u32,
    /// With fewer, at errors alone.
    pub early: u32,
}

/// What came of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is nothing against the candidate.
    Passed,
    /// It is worse.
    Failed(String),
    /// It seems to be worse, and may yet be by chance.
    Inconclusive(String),
    /// There is too little to tell.
    TooFew(String),
}

/// Looks at both revisions over the same time.
pub fn judge(spec: &AnalysisSpec, looks: &mut Looks, current: &Seen, candidate: &Seen) -> Verdict {
    let least = u64::from(spec.min_samples);
    let errors = |chance: f64| more_errors(spec, current, candidate, chance);
    if current.requests < least || candidate.requests < least {
        if candidate.requests >= FIRST_LOOK << looks.early.min(32) {
            looks.early += 1;
            if let Some(why) = errors(EARLY_LOOKS / f64::from(2u32.pow(looks.early.min(30)))) {
                return Verdict::Failed(why);
            }
        }
        let (seen, of) = (candidate.requests, current.requests);
        return Verdict::TooFew(format!(
            "{seen} requests of the candidate and {of} of the current revision: {least} are wanted of each"
        ));
    }
    looks.full += 1;
    let look = f64::from(looks.full);
    let chance = FULL_LOOKS / (look * (look + 1.0)) / TESTS;
    let times = [
        ("P99", spec.max_p99_increase.fraction(), &current.engine, &candidate.engine),
        ("P99 of the first token", spec.max_ttft_increase.fraction(), &current.first_token, &candidate.first_token),
    ];
    let enough = |times: &Histogram| times.count() >= least;
    let times = times.into_iter().filter(|(_, _, current, candidate)| enough(current) && enough(candidate));
    let slower = times.clone().find_map(|(name, margin, current, candidate)| {
        is_slower(current, candidate, margin, chance).then(|| slow(name, current, candidate))
    });
    if let Some(why) = errors(chance).or(slower) {
        return Verdict::Failed(why);
    }
    let seems = times.into_iter().find_map(|(name, margin, current, candidate)| {
        let seems = p99(candidate) > p99(current) * (1.0 + margin);
        seems.then(|| slow(name, current, candidate))
    });
    let margin = spec.max_error_rate_increase.fraction();
    let seems_wrong = (rate(candidate) - rate(current) > margin).then(|| wrong(current, candidate));
    match seems_wrong.or(seems) {
        Some(why) => Verdict::Inconclusive(format!("{why}, which may be by chance")),
        None => Verdict::Passed,
    }
}

fn rate(seen: &Seen) -> f64 {
    seen.errors as f64 / seen.requests.max(1) as f64
}

fn p99(times: &Histogram) -> f64 {
    times.quantile(0.99).unwrap_or_default().as_secs_f64()
}

/// Why the candidate has more errors than it may, if that is by chance with this chance at most.
fn more_errors(spec: &AnalysisSpec, current: &Seen, candidate: &Seen, chance: f64) -> Option<String> {
    let at_most = upper_bound(current.requests, current.errors, chance / 2.0);
    let allowed = at_most + spec.max_error_rate_increase.fraction();
    if allowed >= 1.0 {
        return None;
    }
    let tail = binomial_tail(candidate.requests, allowed, candidate.errors);
    (tail <= chance / 2.0).then(|| wrong(current, candidate))
}

/// Whether the candidate's P99 is longer by more than this margin, if that is by chance with this chance at most.
fn is_slower(current: &Histogram, candidate: &Histogram, margin: f64, chance: f64) -> bool {
    // Whole buckets: the margin is at most 2 % more.
    let shift = ((1.0 + margin).ln() / GROWTH.ln()).ceil() as usize;
    let (of_current, of_candidate) = (current.count(), candidate.count());
    let all = of_current + of_candidate;
    let slowest = all / 100;
    let mut by_bucket: std::collections::BTreeMap<usize, (u64, u64)> = std::collections::BTreeMap::new();
    current.buckets().for_each(|(bucket, count)| by_bucket.entry(bucket).or_default().0 += count);
    candidate
        .buckets()
        .for_each(|(bucket, count)| by_bucket.entry(bucket.saturating_sub(shift)).or_default().1 += count);
    let (mut theirs, mut its) = (0, 0);
    for (current, candidate) in by_bucket.into_values().rev() {
        if theirs + its + current + candidate > slowest {
            break;
        }
        theirs += current;
        its += candidate;
    }
    its > 0 && hypergeometric_tail(all, theirs + its, of_candidate, its) <= chance
}

fn wrong(current: &Seen, candidate: &Seen) -> String {
    format!(
        "{:.2}% of {} requests failed, of the current revision {:.2}% of {}",
        rate(candidate) * 100.0,
        candidate.requests,
        rate(current) * 100.0,
        current.requests
    )
}

fn slow(name: &str, current: &Histogram, candidate: &Histogram) -> String {
    format!("the {name} is {:.0} ms, of the current revision {:.0} ms", p99(candidate) * 1e3, p99(current) * 1e3)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seen(requests: u64, errors: u64, millis: u64) -> Seen {
        let mut seen = Seen::default();
        (0..errors).for_each(|_| seen.bad());
        // From 1 to 2 of the time, evenly.
        (errors..requests).for_each(|at| {
            let share = (at - errors) as f64 / (requests - errors) as f64;
            seen.good(Duration::from_secs_f64(millis as f64 * (1.0 + share) / 1e3), None);
        });
        seen
    }

    fn of(current: &Seen, candidate: &Seen) -> Verdict {
        judge(&AnalysisSpec::default(), &mut Looks::default(), current, candidate)
    }

    #[test]
    fn equal_ones_pass_and_worse_ones_fail_and_few_say_nothing() {
        assert_eq!(of(&seen(1_000, 0, 100), &seen(1_000, 0, 100)), Verdict::Passed);
        assert_eq!(of(&seen(1_000, 10, 100), &seen(1_000, 12, 110)), Verdict::Passed);
        assert!(
            matches!(of(&seen(5_000, 5, 100), &seen(500, 25, 100)), Verdict::Failed(why) if why.contains("5.00% of 500"))
        );
        assert!(matches!(of(&seen(5_000, 0, 100), &seen(500, 0, 200)), Verdict::Failed(why) if why.contains("P99 is")));
        assert!(matches!(of(&seen(5_000, 0, 100), &seen(499, 0, 900)), Verdict::TooFew(_)));
        assert!(matches!(of(&seen(1_000, 0, 100), &seen(600, 12, 100)), Verdict::Inconclusive(_)));
        assert_eq!(of(&seen(1_000, 0, 200), &seen(1_000, 0, 100)), Verdict::Passed, "a faster one");
    }

    #[test]
    fn what_fails_at_all_is_seen_at_twenty_requests() {
        assert!(matches!(of(&seen(400, 0, 100), &seen(20, 20, 100)), Verdict::Failed(_)));
        assert!(matches!(of(&seen(400, 400, 100), &seen(20, 20, 100)), Verdict::TooFew(_)), "both are bad");
        assert!(matches!(of(&seen(0, 0, 100), &seen(20, 20, 100)), Verdict::TooFew(_)), "there is nothing beside it");
    }

    #[test]
    fn all_looks_together_use_what_is_promised() {
        let full: f64 = (1..1_000_000u32).map(|k| FULL_LOOKS / (f64::from(k) * (f64::from(k) + 1.0))).sum();
        let early: f64 = (1..60).map(|k| EARLY_LOOKS / 2f64.powi(k)).sum();
        assert!(full + early <= FALSE_ALARMS && full + early > 0.999 * FALSE_ALARMS);
    }
}
