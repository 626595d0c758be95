//! What is counted, and how it is shown.
//!
//! Each core counts in cells of its own, which nobody else writes; a scrape adds them up. A label is only ever a
//! configured or discovered name, an API or a code: never what a client wrote.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::classify::Api;
use crate::errors::Code;
use crate::limits::{self, Limit};
use crate::record::{Outcome, Record};
use crate::registry::Served;

/// OpenTelemetry's advised buckets for `gen_ai.server.request.duration`. Unit: seconds.
const DURATION: [f64; 14] = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// OpenTelemetry's advised buckets for `gen_ai.server.time_to_first_token`; also used for waiting. Unit: seconds.
const FIRST_TOKEN: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Ends that are no error of the gateway, behind those that are.
const OK: usize = Code::ALL.len();
const REPLICA_ERROR: usize = OK + 1;
const CANCELLED: usize = OK + 2;
const CODES: usize = OK + 3;

/// A number that one core writes and any may read.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed); // one writer: no locked instruction
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug)]
struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    counts: [Cell; N],
    beyond: Cell,
    micros: Cell,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: &'static [f64; N]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| Cell::default()),
            beyond: Cell::default(),
            micros: Cell::default(),
        }
    }

    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let at = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts.get(at).unwrap_or(&self.beyond).add(1);
        self.micros.add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }
}

/// What one core has counted for one model revision and API.
#[derive(Debug)]
struct Series {
    ends: [Cell; CODES],
    duration: Histogram<14>,
    first_token: Histogram<16>,
    queued: Histogram<16>,
    input: Cell,
    output: Cell,
    retries: Cell,
}

impl Series {
    fn new() -> Self {
        Self {
            ends: std::array::from_fn(|_| Cell::default()),
            duration: Histogram::new(&DURATION),
            first_token: Histogram::new(&FIRST_TOKEN),
            queued: Histogram::new(&FIRST_TOKEN),
            input: Cell::default(),
            output: Cell::default(),
            retries: Cell::default(),
        }
    }
}

/// The labels of a series: model, revision, pool, API.
type Labels = [(&'static str, String); 4];

/// The label of models beyond `gateway.limits.labelValues`.
const OTHER: &str = "(other)";

/// All cells of one gateway.
#[derive(Debug, Default)]
pub struct Metrics {
    known: Mutex<Known>,
    /// How many models have labels of their own.
    models_max: AtomicUsize,
}

/// The series there are.
#[derive(Debug, Default)]
struct Known {
    series: Vec<(Labels, Arc<Series>)>,
    /// The models that have a label of their own. They keep it.
    models: HashSet<Box<str>>,
}

/// A core's own series, by the number of [`Served`] (0: none was chosen) and API.
struct Own {
    metrics: Arc<Metrics>,
    series: HashMap<(u32, Option<Api>), Arc<Series>>,
}

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// From now on what this thread settles is counted here.
pub fn enter(metrics: Arc<Metrics>) {
    OWN.set(Some(Own { metrics, series: HashMap::new() }));
}

/// Counts a request that is over.
pub(crate) fn count(record: &Record, took: Duration) {
    OWN.with_borrow_mut(|own| {
        let Some(own) = own else { return };
        let key = (record.served.as_ref().map_or(0, |served| served.number), record.api);
        let series =
            own.series.entry(key).or_insert_with(|| own.metrics.register(record.served.as_deref(), record.api));
        series.ends[match record.outcome() {
            Outcome::Failed(code) => code as usize,
            Outcome::Ok => OK,
            Outcome::ReplicaError => REPLICA_ERROR,
            Outcome::Cancelled => CANCELLED,
        }]
        .add(1);
        if record.api.is_none() {
            return;
        }
        series.duration.observe(took);
        series.queued.observe(record.queued);
        // Only what a replica began to answer has a first token: refusals are quick, and say nothing of the engine.
        let answered = record.replica.is_some() && record.status < 400;
        if let Some(first) = record.first_byte.filter(|_| answered) {
            series.first_token.observe(first);
        }
        series.input.add(record.usage.input);
        series.output.add(record.usage.output);
        series.retries.add(u64::from(record.retries));
    });
}

impl Metrics {
    fn register(&self, served: Option<&Served>, api: Option<Api>) -> Arc<Series> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let told_apart = served.is_none_or(|served| self.told_apart(&mut known.models, &served.model));
        let name = |pick: fn(&Served) -> &str| served.map(pick).unwrap_or_default().to_owned();
        let labels = [
            ("model", if told_apart { name(|served| &served.model) } else { OTHER.to_owned() }),
            ("revision", if told_apart { name(|served| &served.revision) } else { String::new() }),
            ("pool", name(|served| &served.pool)),
            ("api", api.map_or("", Api::path).to_owned()),
        ];
        let series = Arc::new(Series::new());
        known.series.push((labels, series.clone()));
        series
    }

    /// Takes note of `gateway.limits.labelValues`.
    pub(crate) fn bound_models(&self, max: u32) {
        self.models_max.store(max as usize, Relaxed);
    }

    /// Whether a model has a label of its own, now if not before.
    fn told_apart(&self, models: &mut HashSet<Box<str>>, model: &str) -> bool {
        if models.contains(model) {
            return true;
        }
        if models.len() >= self.models_max.load(Relaxed) {
            limits::hit(Limit::LabelValues);
            return false;
        }
        models.insert(model.into())
    }

    /// The cores' series under each set of labels.
    fn by_labels(&self) -> BTreeMap<Labels, Vec<Arc<Series>>> {
        let mut all: BTreeMap<Labels, Vec<_>> = BTreeMap::new();
        for (labels, series) in self.known.lock().unwrap_or_else(PoisonError::into_inner).series.iter() {
            all.entry(labels.clone()).or_default().push(series.clone());
        }
        all
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let all = self.by_labels();
        let mut requests = encoder.encode_descriptor(
            "tutti_requests",
            "Requests that are over, by how they ended: ok, replica_error (the replica's own error status), cancelled (the client left), or a code of the error table",
            None,
            MetricType::Counter,
        )?;
        for (labels, series) in &all {
            for end in 0..CODES {
                let code = ["ok", "replica_error", "cancelled"].get(end.wrapping_sub(OK)).copied();
                let code = code.unwrap_or_else(|| Code::ALL[end].row().name);
                let [model, revision, pool, api] = borrowed(labels);
                let with_code = [model, revision, pool, api, ("code", code)];
                let sum: u64 = series.iter().map(|series| series.ends[end].get()).sum();
                if sum > 0 {
                    ConstCounter::new(sum).encode(requests.encode_family(&with_code)?)?;
                }
            }
        }
        for (name, help, pick) in counters() {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, series) in inference(&all) {
                let sum: u64 = series.iter().map(|series| pick(series).get()).sum();
                ConstCounter::new(sum).encode(family.encode_family(&borrowed(labels))?)?;
            }
        }
        let mut duration = encoder.encode_descriptor(
            "gen_ai_server_request_duration_seconds",
            "From the head of a request to its settlement",
            None,
            MetricType::Histogram,
        )?;
        for (labels, series) in inference(&all) {
            sum(series.iter().map(|series| &series.duration), duration.encode_family(&borrowed(labels))?)?;
        }
        let mut first = encoder.encode_descriptor(
            "gen_ai_server_time_to_first_token_seconds",
            "From the head of a request to the first byte of its answer's body",
            None,
            MetricType::Histogram,
        )?;
        for (labels, series) in inference(&all) {
            sum(series.iter().map(|series| &series.first_token), first.encode_family(&borrowed(labels))?)?;
        }
        let mut queued = encoder.encode_descriptor(
            "tutti_queue_time_seconds",
            "Time waited for a slot",
            None,
            MetricType::Histogram,
        )?;
        for (labels, series) in inference(&all) {
            sum(series.iter().map(|series| &series.queued), queued.encode_family(&borrowed(labels))?)?;
        }
        Ok(())
    }
}

type Pick = fn(&Series) -> &Cell;

/// The plain counters: name, help, and where their cells are.
fn counters() -> [(&'static str, &'static str, Pick); 3] {
    [
        (
            "tutti_input_tokens",
            "Tokens of prompts, as the replicas counted them; 0 where a stream does not say",
            |series| &series.input,
        ),
        (
            "tutti_output_tokens",
            "Tokens of answers, as the replicas counted them; an event a token where a stream does not say",
            |series| &series.output,
        ),
        ("tutti_retries", "Requests sent again after a replica could not be reached or was busy", |series| {
            &series.retries
        }),
    ]
}

/// The series of requests that were for an API.
fn inference(all: &BTreeMap<Labels, Vec<Arc<Series>>>) -> impl Iterator<Item = (&Labels, &Vec<Arc<Series>>)> {
    all.iter().filter(|([.., (_, api)], _)| !api.is_empty())
}

fn borrowed(labels: &Labels) -> [(&'static str, &str); 4] {
    labels.each_ref().map(|(key, value)| (*key, value.as_str()))
}

fn sum<'a, const N: usize>(
    cells: impl Iterator<Item = &'a Histogram<N>>,
    mut into: MetricEncoder,
) -> Result<(), fmt::Error> {
    let (mut buckets, mut seconds, mut count) = (Vec::new(), 0.0, 0);
    for histogram in cells {
        if buckets.is_empty() {
            buckets = histogram.bounds.iter().copied().chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
        }
        for ((_, sum), cell) in buckets.iter_mut().zip(histogram.counts.iter().chain([&histogram.beyond])) {
            *sum += cell.get();
            count += cell.get();
        }
        seconds += histogram.micros.get() as f64 / 1e6;
    }
    into.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_beyond_the_limit_are_counted_together() {
        let metrics = Metrics::default();
        metrics.bound_models(2);
        let served = |model: &str| Served { number: 1, model: model.into(), revision: "v1".into(), pool: "p".into() };
        for model in ["a", "b", "c", "a", "d"] {
            metrics.register(Some(&served(model)), Some(Api::OllamaChat));
        }
        metrics.register(None, None);
        let labels: Vec<_> = metrics.by_labels().into_keys().map(|labels| labels.map(|(_, value)| value)).collect();
        let chat = Api::OllamaChat.path();
        let expected = [["", "", "", ""], ["(other)", "", "p", chat], ["a", "v1", "p", chat], ["b", "v1", "p", chat]];
        assert_eq!(labels, expected);
    }
}
