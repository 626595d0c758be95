//! Whether a candidate is worse than the current revision, judged again and again as requests come.
//!
//! Three things are compared, each by an exact test that keeps its promise with few samples too: the share of errors
//! (the candidate's beside what the current one's may be at most: Clopper and Pearson's bound, then the binomial
//! distribution), and the P99 of the engine's time and of the time to the first token (who has how many of the slowest
//! hundredth of all: the hypergeometric distribution, after the candidate's times were shortened by what it may be
//! slower). Each look is at all that was seen since the weights last changed, and at the last intervals alone
//! ([`WINDOWS`]), so that a candidate which turns bad after a long good time is not hidden by that. An equal candidate fails
//! with a chance of at most [`FALSE_ALARMS`] a release, however often it is judged: the k-th look may be wrong with a chance of
//! 0.8 %/(k(k+1)) at all that was seen, which is 0.8 % over all of them, and of 0.05 %/(k(k+1)) at each window, and early
//! ones, at 20, 40, 80 … requests and at errors alone, with 0.05 %, 0.025 % … . That windows overlap costs nothing: chances add up,
//! however they depend on each other.

use serde::{Deserialize, Serialize};
use tutti_api::AnalysisSpec;

use crate::evidence::{GROWTH, Histogram, Recent, Seen};
use crate::statistics::{binomial_tail, hypergeometric_tail, upper_bound};

/// The highest chance that a release of an equal candidate is ended.
pub const FALSE_ALARMS: f64 = 0.01;
/// What of it looks after enough samples may use, at all that was seen.
const WHOLE_LOOKS: f64 = 0.008;
/// What of it the same looks may use at the last intervals alone: all windows together.
const RECENT_LOOKS: f64 = 0.001;
/// What of it looks before there are enough samples may use.
const EARLY_LOOKS: f64 = FALSE_ALARMS - WHOLE_LOOKS - RECENT_LOOKS;
/// How long the windows are, the shortest first. Unit: intervals.
pub const WINDOWS: [usize; 2] = [4, 16];
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

/// Looks at both revisions over the same time: at all that was seen of them, and at the last intervals alone, where there are
/// enough for a window.
pub fn judge(spec: &AnalysisSpec, looks: &mut Looks, current: &Seen, candidate: &Seen, recent: &[Recent]) -> Verdict {
    let least = u64::from(spec.min_samples);
    if current.requests < least || candidate.requests < least {
        if candidate.requests >= FIRST_LOOK << looks.early.min(32) {
            looks.early += 1;
            let chance = EARLY_LOOKS / f64::from(2u32.pow(looks.early.min(30)));
            if let Some(why) = more_errors(spec, current, candidate, chance) {
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
    let of_look = 1.0 / (look * (look + 1.0)) / TESTS;
    if let Some(why) = worse(spec, current, candidate, WHOLE_LOOKS * of_look) {
        return Verdict::Failed(why);
    }
    for Recent { intervals, current, candidate } in recent {
        let chance = RECENT_LOOKS / WINDOWS.len() as f64 * of_look;
        let enough = current.requests >= least && candidate.requests >= least;
        if let Some(why) = enough.then(|| worse(spec, current, candidate, chance)).flatten() {
            return Verdict::Failed(format!("in the last {intervals} intervals {why}"));
        }
    }
    match seems_worse(spec, current, candidate) {
        Some(why) => Verdict::Inconclusive(format!("{why}, which may be by chance")),
        None => Verdict::Passed,
    }
}

/// What is compared of times: its name, how much longer the candidate's may be, and both of them; where there are enough.
fn times<'s>(
    spec: &AnalysisSpec,
    current: &'s Seen,
    candidate: &'s Seen,
) -> impl Iterator<Item = (&'static str, f64, &'s Histogram, &'s Histogram)> {
    let least = u64::from(spec.min_samples);
    let all = [
        ("P99", spec.max_p99_increase.fraction(), &current.engine, &candidate.engine),
        ("P99 of the first token", spec.max_ttft_increase.fraction(), &current.first_token, &candidate.first_token),
    ];
    all.into_iter().filter(move |(_, _, current, candidate)| current.count() >= least && candidate.count() >= least)
}

/// Why the candidate is worse, if each thing that says so is by chance with this chance at most.
fn worse(spec: &AnalysisSpec, current: &Seen, candidate: &Seen, chance: f64) -> Option<String> {
    let slower = || {
        times(spec, current, candidate).find_map(|(name, margin, current, candidate)| {
            is_slower(current, candidate, margin, chance).then(|| slow(name, current, candidate))
        })
    };
    more_errors(spec, current, candidate, chance).or_else(slower)
}

/// Why the candidate seems to be worse, if it does, by chance or not.
fn seems_worse(spec: &AnalysisSpec, current: &Seen, candidate: &Seen) -> Option<String> {
    let margin = spec.max_error_rate_increase.fraction();
    if rate(candidate) - rate(current) > margin {
        return Some(wrong(current, candidate));
    }
    times(spec, current, candidate).find_map(|(name, margin, current, candidate)| {
        let seems = p99(candidate) > p99(current) * (1.0 + margin);
        seems.then(|| slow(name, current, candidate))
    })
}

fn rate(seen: &Seen) -> f64 {
    seen.errors as f64 / seen.requests.max(1) as f64
}

fn p99(times: &Histogram) -> f64 {
    times.quantile(0.99).unwrap_or_default().as_secs_f64()
}

/// Why the candidate has more errors than it may, if that is by chance with this chance at most.
fn more_errors(spec: &AnalysisSpec, current: &Seen, candidate: &Seen, chance: f64) -> Option<String> {
    let margin = spec.max_error_rate_increase.fraction();
    if rate(candidate) <= rate(current) + margin {
        return None; // as many or more are as likely as not, by any bound
    }
    let at_most = upper_bound(current.requests, current.errors, chance / 2.0);
    let allowed = at_most + margin;
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
        judge(&AnalysisSpec::default(), &mut Looks::default(), current, candidate, &[])
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
    fn what_turned_bad_a_moment_ago_is_not_hidden_by_the_time_before() {
        let long = (seen(100_000, 500, 100), seen(100_000, 600, 100));
        let recent = |errors| {
            let (current, candidate) = (seen(4_000, 20, 100), seen(4_000, errors, 100));
            Recent { intervals: 4, current, candidate }
        };
        let mut looks = Looks { full: 100, early: 0 };
        let mut look = |recent| judge(&AnalysisSpec::default(), &mut looks, &long.0, &long.1, &[recent]);
        assert_eq!(look(recent(20)), Verdict::Passed);
        let why = "in the last 4 intervals 5.00% of 4000 requests failed, of the current revision 0.50% of 4000";
        assert_eq!(look(recent(200)), Verdict::Failed(why.to_owned()));
        let few = Recent { intervals: 4, current: seen(499, 0, 100), candidate: seen(499, 400, 100) };
        assert_eq!(look(few), Verdict::Passed, "too few say nothing of a window");
    }

    #[test]
    fn all_looks_together_use_what_is_promised() {
        let full = WHOLE_LOOKS + WINDOWS.map(|_| RECENT_LOOKS / WINDOWS.len() as f64).iter().sum::<f64>();
        let full: f64 = (1..1_000_000u32).map(|k| full / (f64::from(k) * (f64::from(k) + 1.0))).sum();
        let early: f64 = (1..60).map(|k| EARLY_LOOKS / 2f64.powi(k)).sum();
        assert!(full + early <= FALSE_ALARMS && full + early > 0.999 * FALSE_ALARMS);
    }
}
