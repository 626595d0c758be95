//! Releases of seeded candidates, in virtual time: how often an equal one is ended, and how soon a bad one is.

use std::time::Duration;

use tutti_api::{ModelSpec, PoolSpec};
use tutti_control_plane::{Command, Driver, Heard, How, Ready, RevisionHeard, Seen, State};

/// Releases of each kind.
const SEEDS: u64 = 1_000;
/// How often a candidate is judged. Unit: milliseconds.
const INTERVAL: u64 = 30_000;
/// How often it is looked at what is due. Unit: milliseconds.
const TICK: u64 = 5_000;
/// Requests in an interval, of both revisions.
const REQUESTS: u64 = 2_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A time, whose logarithm is normal: 300 ms in the middle, a P99 of 3.2 times that.
    fn time(&mut self) -> f64 {
        let normal = (-2.0 * self.next().max(1e-300).ln()).sqrt() * (std::f64::consts::TAU * self.next()).cos();
        0.3 * (0.5 * normal).exp()
    }
}

/// How a revision behaves: its share of errors, how much longer it takes than 300 ms, and where its answers are streams, how much
/// later the first token comes than after 5 to 25 % of that.
#[derive(Clone, Copy)]
struct Kind {
    errors: f64,
    slower: f64,
    first_token: Option<f64>,
}

const GOOD: Kind = Kind { errors: 0.005, slower: 1.0, first_token: None };
/// Its answers are streams.
const STREAMS: Kind = Kind { first_token: Some(1.0), ..GOOD };

const STEPS: &str = "{ setWeight: 25% }, { pause: 3m }, { setWeight: 50% }, { pause: 3m }";

fn spec(steps: &str) -> (ModelSpec, PoolSpec) {
    let yaml = "pools: [{ name: p, endpoints: [{ url: 'http://h:1' }, { url: 'http://h:2' }] }]
models:
  - name: m
    revisions: [{ name: v1, pool: p, upstream: a }, { name: v2, pool: p, upstream: b }]
    traffic:
      revision: v1
      strategy: { canary: { steps: [STEPS], analysis: { interval: 30s } } }
";
    let mut config = tutti_api::load(&yaml.replace("STEPS", steps), "t", []).expect("it is right");
    (config.models.remove(0), config.pools.remove(0))
}

/// How a release ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Promoted,
    /// So many intervals after the candidate had the samples that are wanted.
    RolledBack(u64),
    /// It waits for somebody.
    Waits,
}

/// Runs a release.
fn release(seed: u64, current: Kind, candidate: Kind) -> End {
    release_by(STEPS, seed, |is_candidate| if is_candidate { candidate } else { current }, candidate)
}

/// The same by these steps, of one that behaves otherwise once it has all requests.
fn release_by(steps: &str, seed: u64, kind: impl Fn(bool) -> Kind, with_all: Kind) -> End {
    let (model, pool) = spec(steps);
    let mut random = Random(seed.wrapping_mul(0x1234_5678_9abc_def1));
    let mut driver = Driver::new("test", State::default());
    driver.configure(&[model], &[pool], 0);
    let mut seen = [Seen::default(), Seen::default()];
    let heard = |seen: &[Seen; 2]| -> Heard {
        let ready = Ready { pool: "p".to_owned(), replicas: 2, slots: 8 };
        let of = |seen: &Seen| RevisionHeard { seen: seen.clone(), ready: ready.clone() };
        [("m".to_owned(), [("v1".to_owned(), of(&seen[0])), ("v2".to_owned(), of(&seen[1]))].into())].into()
    };
    driver.hear("g", heard(&seen));
    let to = Command::To { revision: "v2".to_owned(), how: How::Configured, mirror: None, force: false };
    driver.command("m", &to, "test", 0).expect("it is obeyed");
    let mut enough_since = None;
    for now in (0..40 * INTERVAL / TICK).map(|tick| tick * TICK) {
        let share = f64::from(driver.release("m").expect("the model is there").weight("v2")) / 1e6;
        for _ in 0..REQUESTS * TICK / INTERVAL {
            let at = usize::from(random.next() < share);
            let kind = if share == 1.0 { with_all } else { kind(at == 1) };
            if random.next() < kind.errors {
                seen[at].bad();
            } else {
                let whole = random.time() * kind.slower;
                let first = kind.first_token.map(|later| whole * later * (0.05 + 0.2 * random.next()));
                seen[at].good(Duration::from_secs_f64(whole), first.map(Duration::from_secs_f64));
            }
        }
        if seen[1].requests >= 500 && enough_since.is_none() {
            enough_since = Some(now);
        }
        driver.hear("g", heard(&seen));
        driver.tick(now);
        let release = driver.release("m").expect("the model is there");
        match (&release.candidate, &*release.current) {
            (None, "v2") => return End::Promoted,
            (None, _) => return End::RolledBack(now.saturating_sub(enough_since.unwrap_or(now)).div_ceil(INTERVAL)),
            (Some(candidate), _) if candidate.held.is_some() => return End::Waits,
            _ => {}
        }
    }
    End::Waits
}

fn ends(current: Kind, candidate: Kind, seeds: u64) -> Vec<End> {
    (0..seeds).map(|seed| release(seed, current, candidate)).collect()
}

fn count(ends: &[End], is: impl Fn(End) -> bool) -> usize {
    ends.iter().filter(|end| is(**end)).count()
}

fn share(ends: &[End], is: impl Fn(End) -> bool) -> f64 {
    count(ends, is) as f64 / ends.len() as f64
}

#[test]
fn an_equal_candidate_is_ended_in_one_release_of_a_hundred_at_most() {
    let all = ends(GOOD, GOOD, SEEDS);
    let is_ended = |end| matches!(end, End::RolledBack(_));
    let (of, ended, promoted) = (all.len(), count(&all, is_ended), count(&all, |end| end == End::Promoted));
    eprintln!("an equal candidate: {of} releases, {ended} rolled back, {promoted} promoted");
    let ended = share(&all, is_ended);
    assert!(ended <= 0.01, "{ended}");
    assert!(share(&all, |end| end == End::Promoted) >= 0.95, "and is promoted");
}

fn is_soon(end: End) -> bool {
    matches!(end, End::RolledBack(0..=2))
}

#[test]
fn a_candidate_that_fails_one_of_twenty_is_ended_within_two_intervals() {
    let all = ends(GOOD, Kind { errors: 0.05, ..GOOD }, 200);
    eprintln!("5 % errors: {} releases, {} rolled back in two intervals", all.len(), count(&all, is_soon));
    assert!(share(&all, is_soon) >= 0.99, "{:?}", all.iter().filter(|end| !is_soon(**end)).collect::<Vec<_>>());
}

#[test]
fn a_candidate_that_is_twice_as_slow_is_ended_within_two_intervals() {
    let all = ends(GOOD, Kind { slower: 2.0, ..GOOD }, 200);
    eprintln!("twice as slow: {} releases, {} rolled back in two intervals", all.len(), count(&all, is_soon));
    assert!(share(&all, is_soon) >= 0.99, "{:?}", all.iter().filter(|end| !is_soon(**end)).collect::<Vec<_>>());
}

#[test]
fn a_candidate_whose_first_token_alone_takes_twice_as_long_is_ended_within_two_intervals() {
    let all = ends(STREAMS, Kind { first_token: Some(2.0), ..STREAMS }, 200);
    eprintln!("twice as late: {} releases, {} rolled back in two intervals", all.len(), count(&all, is_soon));
    assert!(count(&all, is_soon) >= 198, "{:?}", all.iter().filter(|end| !is_soon(**end)).collect::<Vec<_>>());
}

#[test]
fn an_equal_candidate_whose_answers_are_streams_is_ended_in_one_release_of_a_hundred_at_most() {
    let all = ends(STREAMS, STREAMS, 500);
    let ended = count(&all, |end| matches!(end, End::RolledBack(_)));
    eprintln!("an equal candidate, by streams: {} releases, {ended} rolled back", all.len());
    assert!(ended <= 5, "{ended}");
    assert!(share(&all, |end| end == End::Promoted) >= 0.95, "and is promoted");
}

#[test]
fn who_has_all_requests_at_the_last_step_is_judged_beside_what_was_seen_before() {
    const ALL: &str = "{ setWeight: 25% }, { pause: 3m }, { setWeight: 100% }, { pause: 3m }";
    let ends = |with_all| -> Vec<End> { (0..50).map(|seed| release_by(ALL, seed, |_| GOOD, with_all)).collect() };
    assert!(share(&ends(GOOD), |end| end == End::Promoted) >= 0.95, "{:?}", ends(GOOD));
    let bad = ends(Kind { errors: 0.05, ..GOOD });
    assert!(share(&bad, |end| matches!(end, End::RolledBack(_))) >= 0.95, "{bad:?}");
}

#[test]
fn where_both_are_equally_bad_it_is_not_the_candidate() {
    let bad = Kind { errors: 0.3, slower: 4.0, ..GOOD };
    let all = ends(bad, bad, 100);
    assert!(share(&all, |end| matches!(end, End::RolledBack(_))) <= 0.01, "{all:?}");
}
