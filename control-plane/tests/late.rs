//! Long releases of seeded candidates, in virtual time: how often an equal one is ended, however long it is looked at, and
//! how soon one that turns bad after a long good time.

use std::time::Duration;

use tutti_api::{Config, Share};
use tutti_control_plane::{
    BUCKETS, Command, Driver, Heard, Histogram, How, Ready, RevisionHeard, Seen, State, WINDOWS, bucket,
};

/// How often a candidate is judged. Unit: milliseconds.
const INTERVAL: u64 = 30_000;
/// So many intervals are 80 minutes.
const LONG: u64 = 160;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How a revision behaves.
struct Kind {
    /// Of 2^24 requests so many fail.
    errors: u64,
    /// The buckets of 2^12 times that are as likely as each other.
    times: Vec<usize>,
}

impl Kind {
    /// With this share of errors, and times that are so much longer than some whose logarithm is normal, of 300 ms in the
    /// middle.
    fn new(errors: f64, slower: f64) -> Self {
        let mut random = Random(7);
        let time = |random: &mut Random| {
            let normal =
                (-2.0 * random.share().max(1e-300).ln()).sqrt() * (std::f64::consts::TAU * random.share()).cos();
            bucket(Duration::from_secs_f64(0.3 * (0.2 * normal).exp() * slower))
        };
        Self { errors: (errors * f64::from(1 << 24)) as u64, times: (0..1 << 12).map(|_| time(&mut random)).collect() }
    }

    fn good() -> Self {
        Self::new(0.005, 1.0)
    }
}

/// What a gateway has counted of a revision.
struct Counted {
    requests: u64,
    errors: u64,
    times: Vec<u64>,
}

impl Counted {
    fn new() -> Self {
        Self { requests: 0, errors: 0, times: vec![0; BUCKETS] }
    }

    /// One request more, by lots.
    fn add(&mut self, kind: &Kind, lots: u64) {
        self.requests += 1;
        if lots & 0xff_ffff < kind.errors {
            self.errors += 1;
        } else {
            self.times[kind.times[(lots >> 24 & 0xfff) as usize]] += 1;
        }
    }

    fn seen(&self) -> Seen {
        let engine = Histogram::of(self.times.iter().copied().enumerate());
        Seen { requests: self.requests, errors: self.errors, engine, first_token: Histogram::default() }
    }
}

/// A model whose candidate has half of the requests until somebody promotes it, and what else its analysis is told.
fn config(analysis: &str) -> Config {
    let steps = "[{ setWeight: 50% }, { pause: until-promoted }]";
    let analysis = format!("{{ interval: 30s, inconclusiveLimit: 1000000{analysis} }}");
    let yaml = format!(
        "pools: [{{ name: p, endpoints: [{{ url: 'http://h:1' }}, {{ url: 'http://h:2' }}] }}]\nmodels:\n  - name: m\n    revisions: [{{ name: v1, pool: p, upstream: a }}, {{ name: v2, pool: p, upstream: b }}]\n    traffic: {{ revision: v1, strategy: {{ canary: {{ steps: {steps}, analysis: {analysis} }} }} }}\n"
    );
    tutti_api::load(&yaml, "t", []).expect("it is right")
}

/// Runs so many intervals of so many requests of both; yields in which the candidate was rolled back, from 1.
fn ended<'k>(
    (config, seed): (&Config, u64),
    (intervals, requests): (u64, u64),
    kind: impl Fn(u64, bool) -> &'k Kind,
) -> Option<u64> {
    let mut random = Random(seed.wrapping_mul(0x1234_5678_9abc_def1));
    let mut driver = Driver::new("test", State::default());
    driver.configure(&config.models, &config.pools, 0);
    let mut counted = [Counted::new(), Counted::new()];
    let heard = |counted: &[Counted; 2]| -> Heard {
        let ready = Ready { pool: "p".to_owned(), replicas: 2, slots: 8 };
        let of = |counted: &Counted| RevisionHeard { seen: counted.seen(), ready: ready.clone() };
        [("m".to_owned(), [("v1".to_owned(), of(&counted[0])), ("v2".to_owned(), of(&counted[1]))].into())].into()
    };
    driver.hear("g", heard(&counted));
    let to = Command::To { revision: "v2".to_owned(), how: How::Configured, mirror: None, force: false };
    driver.command("m", &to, "test", 0).expect("it is obeyed");
    let half = Share::of_parts(driver.release("m").expect("the model is there").weight("v2"));
    assert_eq!(half, Share::percent(50.0));
    for interval in 1..=intervals {
        let kinds = [kind(interval, false), kind(interval, true)];
        for _ in 0..requests {
            let lots = random.next();
            let at = (lots >> 63) as usize;
            counted[at].add(kinds[at], lots);
        }
        driver.hear("g", heard(&counted));
        driver.tick(interval * INTERVAL);
        if driver.release("m").expect("the model is there").candidate.is_none() {
            return Some(interval);
        }
    }
    None
}

/// How many of so many releases of an equal candidate are ended.
fn false_alarms(seeds: u64, analysis: &str, load: (u64, u64)) -> usize {
    let (config, good) = (config(analysis), Kind::good());
    let ended = (0..seeds).filter(|seed| ended((&config, *seed), load, |_, _| &good).is_some()).count();
    eprintln!("an equal candidate, {} intervals of {} requests: {seeds} releases, {ended} rolled back", load.0, load.1);
    ended
}

#[test]
fn an_equal_candidate_is_ended_in_one_release_of_a_hundred_at_most_however_long_it_is_looked_at() {
    let seeds = 1_000;
    assert!(false_alarms(seeds, "", (LONG, 1_000)) <= 10);
}

/// Where it may be no worse at all, nothing but the tests themselves stands between an equal candidate and its end.
#[test]
fn the_rate_of_false_alarms_is_that_of_the_tests_and_not_of_what_they_allow() {
    let none = ", maxErrorRateIncrease: 0%, maxP99Increase: 0%, maxTtftIncrease: 0%";
    let seeds = 1_000;
    let ended = false_alarms(seeds, none, (40, 1_200));
    assert!(ended <= 10, "{ended}");
}

/// How long after it turned bad each of so many candidates was ended. Unit: intervals.
fn delays(seeds: u64, bad: &Kind, turns: u64) -> Vec<u64> {
    let (config, good) = (config(""), Kind::good());
    let kind = |interval: u64, candidate: bool| if candidate && interval > turns { bad } else { &good };
    let all = (0..seeds).map(|seed| ended((&config, seed), (turns + 40, 2_000), kind));
    let mut delays: Vec<u64> = all.map(|ended| ended.map_or(u64::MAX, |ended| ended.saturating_sub(turns))).collect();
    delays.sort_unstable();
    eprintln!(
        "bad after {turns} intervals: {seeds} releases, ended after {} to {} intervals, {} in half",
        delays[0],
        delays[delays.len() - 1],
        delays[delays.len() / 2]
    );
    delays
}

/// Of those that turn bad 99 of 100 are ended within the shortest window, however long they were good.
fn is_soon(delays: &[u64]) {
    let soon = delays.iter().filter(|delay| (1..=WINDOWS[0] as u64).contains(*delay)).count();
    assert!(soon * 100 >= delays.len() * 99, "{delays:?}");
}

#[test]
fn a_candidate_that_comes_to_fail_one_of_twenty_is_ended_within_four_intervals() {
    for turns in [20, LONG - 20] {
        is_soon(&delays(100, &Kind::new(0.05, 1.0), turns));
    }
}

#[test]
fn a_candidate_that_comes_to_take_twice_as_long_is_ended_within_four_intervals() {
    for turns in [20, LONG - 20] {
        is_soon(&delays(100, &Kind::new(0.005, 2.0), turns));
    }
}
