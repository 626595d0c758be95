//! What the scaler says of the fleet and of itself, and the page that Prometheus reads (text format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tutti_api::demand::{Gathered, Name, RELATIVE_ERROR};

use crate::fleet::{Answer, Counted, Fleet, Measured};
use crate::scaler::Shared;
use crate::wanted::{Stand, terms, wanted};

/// A metric: its name as it is printed, its kind, its labels, what it says.
type Row = (&'static str, &'static str, &'static str, &'static str);
/// What a row has of something.
type Of<T, V> = (Row, fn(&T) -> V);

const LATENCY: Row = (
    "tutti_fleet_request_duration_seconds",
    "gauge",
    "model, revision, pool, quantile",
    "From the head of a request to its end, over all gateways and the last minute, where a replica answered it well. quantile: 0.5, 0.9, 0.99. Within 0.5 % of the exact one, whatever the distribution: the gateways' sketches are merged exactly",
);
const TTFT: Row = (
    "tutti_fleet_time_to_first_token_seconds",
    "gauge",
    "model, revision, pool, quantile",
    "The same to the first byte of a stream",
);
const QUEUE: Row = (
    "tutti_fleet_queue_time_seconds",
    "gauge",
    "model, revision, pool, quantile",
    "The same for a slot, also by those that got none",
);
const SAMPLES: Row = (
    "tutti_fleet_requests_last_minute",
    "gauge",
    "model, revision, pool, of",
    "Values that these rest on. of: ended (all that came to their end), errors, duration, ttft",
);
const SLO: Row = (
    "tutti_fleet_slo_seconds",
    "gauge",
    "model, revision, pool, of",
    "What the configuration promises of a model (`slo`). of: ttft, p99",
);
const ARRIVALS: Row = (
    "tutti_fleet_arrivals_total",
    "counter",
    "model, revision, pool",
    "Requests that gateways routed since this scaler began",
);
const ENDED: Row = ("tutti_fleet_requests_total", "counter", "model, revision, pool", "Requests that are over");
const ERRORS: Row = (
    "tutti_fleet_errors_total",
    "counter",
    "model, revision, pool",
    "Those of them that failed by no fault of their clients",
);
const TOKENS: Row =
    ("tutti_fleet_tokens_total", "counter", "model, revision, pool, type", "Their tokens. type: input, output");
const WANTED: Row = (
    "tutti_scaler_replicas_wanted",
    "gauge",
    "pool",
    "Replicas that KEDA is told are wanted; absent while that is not known",
);
const TERM: Row = (
    "tutti_scaler_term",
    "gauge",
    "pool, term",
    "What each reason asks for; the largest is wanted. term: work, guard, floor, release",
);
const ACTIVE: Row = (
    "tutti_scaler_active",
    "gauge",
    "pool",
    "1 where KEDA is told that there is something to do; absent while that is not known",
);
const BLIND: Row =
    ("tutti_scaler_blind", "gauge", "pool", "1 where it is not known what a pool wants: KEDA gets an error");
const QUEUED: Row = ("tutti_fleet_queued", "gauge", "pool", "Requests that wait for a slot, over all gateways");
const IN_FLIGHT: Row = ("tutti_fleet_in_flight", "gauge", "pool", "Requests that replicas work on");
const OLDEST: Row =
    ("tutti_fleet_oldest_wait_seconds", "gauge", "pool", "How long the one has waited who waits longest");
const READY: Row = ("tutti_fleet_replicas_ready", "gauge", "pool", "Replicas that can be given requests");
const REPLICAS: Row = ("tutti_fleet_replicas", "gauge", "pool", "Replicas that gateways know");
const GATEWAYS: Row = (
    "tutti_scaler_gateways",
    "gauge",
    "state",
    "Gateways. state: discovered, fresh (heard within 3 s), held (not heard, and their last word counts still), silent (no word that counts), left_out (beyond the 1,000 that are asked)",
);
const DISCOVERY: Row =
    ("tutti_scaler_discovery_failing", "gauge", "", "1 where it is not known where gateways are: those that were stay");
const POLLS: Row = ("tutti_scaler_polls_total", "counter", "result", "Gateways asked. result: ok, failed");
const ASKED: Row = (
    "tutti_scaler_keda_requests_total",
    "counter",
    "call, result",
    "Questions of KEDA. result: ok, error (also where nothing is known)",
);
const PUSHED: Row =
    ("tutti_scaler_pushes_total", "counter", "", "Times that KEDA was told unasked that a pool has something to do");

const ALL: [Row; 23] = [
    LATENCY, TTFT, QUEUE, SAMPLES, SLO, ARRIVALS, ENDED, ERRORS, TOKENS, WANTED, TERM, ACTIVE, BLIND, QUEUED,
    IN_FLIGHT, OLDEST, READY, REPLICAS, GATEWAYS, DISCOVERY, POLLS, ASKED, PUSHED,
];

/// One of a revision's distributions.
type Pick = fn(&Measured) -> &Gathered;

/// The quantiles that are printed.
const QUANTILES: [(&str, f64); 3] = [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99)];

/// What the scaler was asked, and asked itself.
#[derive(Debug, Default)]
pub(crate) struct Asked(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    polls: [u64; 2],
    answers: BTreeMap<(&'static str, bool), u64>,
    pushes: u64,
}

impl Asked {
    fn with<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn polled(&self, well: bool) {
        self.with(|counts| counts.polls[usize::from(!well)] += 1);
    }

    pub(crate) fn answered(&self, call: &'static str, well: bool) {
        self.with(|counts| *counts.answers.entry((call, well)).or_default() += 1);
    }

    pub(crate) fn pushed(&self) {
        self.with(|counts| counts.pushes += 1);
    }
}

/// A page that is being written.
#[derive(Default)]
struct Page(String);

impl Page {
    fn begin(&mut self, (name, kind, _, help): Row) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}"); // a String takes all
    }

    /// A sample, with values for the labels that the row names.
    fn sample(&mut self, (name, _, labels, _): Row, values: &[&str], value: f64) {
        let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let pairs = labels.split(", ").zip(values).filter(|(_, value)| !value.is_empty());
        let pairs: Vec<String> = pairs.map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

fn labels<'a>(name: &'a Name, last: &'a str) -> [&'a str; 4] {
    [&name.model, &name.revision, &name.pool, last]
}

/// The page of all metrics.
pub(crate) fn page(shared: &Shared, now: Instant) -> String {
    let fleet = shared.fleet();
    let mut page = Page::default();
    let measured = fleet.measured(None, now);
    let of: [(Row, Pick); 3] = [(LATENCY, |of| &of.latency), (TTFT, |of| &of.ttft), (QUEUE, |of| &of.queue)];
    for (row, pick) in of {
        page.begin(row);
        for (name, of) in &measured {
            for (shown, share) in QUANTILES {
                if let Some(micros) = pick(of).quantile(share) {
                    page.sample(row, &labels(name, shown), micros / 1e6);
                }
            }
        }
    }
    page.begin(SAMPLES);
    for (name, of) in &measured {
        let counts =
            [("ended", of.ended), ("errors", of.errors), ("duration", of.latency.count()), ("ttft", of.ttft.count())];
        counts.iter().for_each(|(what, count)| page.sample(SAMPLES, &labels(name, what), *count as f64));
    }
    slos(&fleet, &mut page, now);
    let counters: [Of<Counted, u64>; 3] =
        [(ARRIVALS, |of| of.arrivals), (ENDED, |of| of.ended), (ERRORS, |of| of.errors)];
    for (row, pick) in counters {
        page.begin(row);
        fleet.counted().for_each(|(name, counted)| page.sample(row, &labels(name, ""), pick(counted) as f64));
    }
    page.begin(TOKENS);
    for (name, counted) in fleet.counted() {
        page.sample(TOKENS, &labels(name, "input"), counted.input_tokens as f64);
        page.sample(TOKENS, &labels(name, "output"), counted.output_tokens as f64);
    }
    pools(&fleet, &mut page, now);
    let sources = fleet.sources(now);
    page.begin(GATEWAYS);
    let states = [
        ("discovered", sources.discovered),
        ("fresh", sources.fresh),
        ("held", sources.held),
        ("silent", sources.silent),
        ("left_out", shared.left_out()),
    ];
    states.iter().for_each(|(state, count)| page.sample(GATEWAYS, &[state], *count as f64));
    drop(fleet);
    own(shared, &mut page);
    page.0.push_str(&shared.releases.page());
    page.0
}

fn slos(fleet: &Fleet, page: &mut Page, now: Instant) {
    page.begin(SLO);
    for (name, [ttft, p99]) in fleet.slos(now) {
        for (of, millis) in [("ttft", ttft), ("p99", p99)].into_iter().filter(|(_, millis)| *millis > 0) {
            page.sample(SLO, &labels(name, of), millis as f64 / 1e3);
        }
    }
}

fn pools(fleet: &Fleet, page: &mut Page, now: Instant) {
    let stands: Vec<_> = fleet
        .pools(now)
        .into_iter()
        .filter_map(|pool| Some((fleet.stand(&pool, now)?, fleet.answer(&pool, now), pool)))
        .collect();
    let known = |answer: &Answer| match answer {
        Answer::Known { is_active, .. } => Some(*is_active),
        _ => None,
    };
    page.begin(WANTED);
    for (stand, _, pool) in stands.iter().filter(|(_, answer, _)| known(answer).is_some()) {
        page.sample(WANTED, &[pool], wanted(stand));
    }
    page.begin(TERM);
    for (stand, _, pool) in &stands {
        let terms = terms(stand);
        let all = [("work", terms.work), ("guard", terms.guard), ("floor", terms.floor), ("release", terms.release)];
        for (term, value) in all {
            page.sample(TERM, &[pool, term], value);
        }
    }
    page.begin(ACTIVE);
    for (answer, pool) in stands.iter().filter_map(|(_, answer, pool)| Some((known(answer)?, pool))) {
        page.sample(ACTIVE, &[pool], f64::from(u8::from(answer)));
    }
    page.begin(BLIND);
    stands
        .iter()
        .for_each(|(_, answer, pool)| page.sample(BLIND, &[pool], f64::from(u8::from(known(answer).is_none()))));
    let gauges: [Of<Stand, f64>; 5] = [
        (QUEUED, |stand| stand.queued as f64),
        (IN_FLIGHT, |stand| stand.in_flight as f64),
        (OLDEST, |stand| stand.oldest_ms as f64 / 1e3),
        (READY, |stand| f64::from(stand.ready)),
        (REPLICAS, |stand| f64::from(stand.replicas)),
    ];
    for (row, pick) in gauges {
        page.begin(row);
        stands.iter().for_each(|(stand, _, pool)| page.sample(row, &[pool], pick(stand)));
    }
}

fn own(shared: &Shared, page: &mut Page) {
    page.begin(DISCOVERY);
    page.sample(DISCOVERY, &[], f64::from(u8::from(shared.discovery_failing.load(Relaxed))));
    shared.asked.with(|counts| {
        page.begin(POLLS);
        page.sample(POLLS, &["ok"], counts.polls[0] as f64);
        page.sample(POLLS, &["failed"], counts.polls[1] as f64);
        page.begin(ASKED);
        for ((call, well), count) in &counts.answers {
            page.sample(ASKED, &[call, if *well { "ok" } else { "error" }], *count as f64);
        }
        page.begin(PUSHED);
        page.sample(PUSHED, &[], counts.pushes as f64);
    });
}

/// The section of `docs/reference/metrics.md` on the scaler.
pub fn reference_markdown() -> String {
    let mut page = format!(
        "\n## Of scaler-metrics\n\n`tutti scaler-metrics` prints these at `/metrics` of its own port. Quantiles are merged from \
         the gateways' sketches, whose\nrelative error is {} %.\n\n| metric | kind | labels | |\n|---|---|---|---|\n",
        RELATIVE_ERROR * 100.0
    );
    for (name, kind, labels, help) in ALL {
        let labels: Vec<String> =
            labels.split(", ").filter(|label| !label.is_empty()).map(|label| format!("`{label}`")).collect();
        page.push_str(&format!("| `{name}` | {kind} | {} | {help}. |\n", labels.join(", ")));
    }
    page
}
