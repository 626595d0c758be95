//! What merging costs: many gateways with many busy revisions, each heard once a second.

use std::time::{Duration, Instant};

use prost::Message;
use serde::{Deserialize, Serialize};
use tutti_api::demand::{FORMAT, Gathered, Name, Pool, RELATIVE_ERROR, Row, SLICE_MS, Slice, SliceRow, Snapshot};
use tutti_scaler_metrics::fleet::Fleet;

use super::world::Random;

/// Seconds of a fleet that are merged: the window is full, and slices have closed.
const SECONDS: u64 = 90;
/// Requests of a revision on a gateway in a slice.
const REQUESTS: u64 = 30;

/// What it took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Merged {
    pub(super) gateways: usize,
    pub(super) revisions: usize,
    /// The share of a core that reading and merging took, at one word of each gateway a second.
    pub(super) core: f64,
    /// To answer for one pool. Unit: milliseconds.
    pub(super) answer_ms: f64,
    /// To print all quantiles, as for Prometheus. Unit: milliseconds.
    pub(super) quantiles_ms: f64,
    /// The process's peak of memory. Unit: bytes.
    pub(super) peak: u64,
    /// A snapshot's mean size. Unit: bytes.
    pub(super) snapshot: usize,
}

fn slice(random: &mut Random, number: u64, uptime: u64, revisions: usize, requests: u64) -> Slice {
    let mut rows = Vec::new();
    for name in 0..revisions {
        let mut sketches = [(); 4].map(|()| Gathered::default());
        for _ in 0..requests {
            let micros = random.service() * 1e6;
            for (at, sketch) in sketches.iter_mut().enumerate() {
                sketch.observe((micros / (at + 1) as f64) as u64);
            }
        }
        let [latency, ttft, queue, engine] = sketches.map(|sketch| Some(sketch.sketch()));
        let name = u32::try_from(name).unwrap_or(0);
        rows.push(SliceRow { name, ended: requests, errors: 0, latency, ttft, queue, engine });
    }
    Slice { number, end_ms: uptime, length_ms: SLICE_MS.min(uptime), rows }
}

/// Merges a fleet.
pub(super) fn merge(gateways: usize, revisions: usize) -> Merged {
    let mut random = Random::new(7);
    let start = Instant::now();
    let mut fleet = Fleet::new(start);
    fleet.discovered(&(0..gateways).map(|number| number.to_string()).collect(), start);
    let name =
        |number: usize| Name { model: format!("model-{number}"), revision: "v1".to_owned(), pool: "p".to_owned() };
    let names: Vec<Name> = (0..revisions).map(name).collect();
    let (mut spent, mut bytes, mut words) = (Duration::ZERO, 0, 0usize);
    for second in 1..=SECONDS {
        let uptime_ms = second * 1_000;
        let now = start + Duration::from_secs(second);
        for gateway in 0..gateways {
            let closes = second % 10 == 0;
            let closed = if closes {
                vec![slice(&mut random, second / 10 - 1, uptime_ms, revisions, REQUESTS)]
            } else {
                Vec::new()
            };
            let open = slice(&mut random, second / 10, uptime_ms, revisions, REQUESTS * (second % 10) / 10);
            let row = |name: usize| Row {
                name: u32::try_from(name).unwrap_or(0),
                in_flight: 2,
                arrivals: second * 3,
                ended: second * 3 - 2,
                slo_ttft_ms: 500,
                ..Row::default()
            };
            let pool =
                Pool { name: "p".to_owned(), slots_each: 4, target: 0.8, in_flight: 9, ready: 9, ..Pool::default() };
            let snapshot = Snapshot {
                format: FORMAT,
                instance: "g".to_owned(),
                uptime_ms,
                relative_error: RELATIVE_ERROR,
                names: names.clone(),
                rows: (0..revisions).map(row).collect(),
                pools: vec![pool],
                closed,
                open: Some(open),
            };
            let word = snapshot.encode_to_vec();
            (bytes, words) = (bytes + word.len(), words + 1);
            let begun = Instant::now();
            let heard = fleet.hear(&gateway.to_string(), &word, now);
            spent += begun.elapsed();
            debug_assert!(heard.is_ok());
        }
    }
    let now = start + Duration::from_secs(SECONDS);
    let begun = Instant::now();
    let answer = fleet.answer("p", now);
    let answer_ms = begun.elapsed().as_secs_f64() * 1e3;
    std::hint::black_box(answer);
    let begun = Instant::now();
    let quantiles: Vec<_> = fleet.measured(None, now).values().map(|of| of.latency.quantile(0.99)).collect();
    std::hint::black_box(quantiles);
    Merged {
        gateways,
        revisions,
        core: spent.as_secs_f64() / SECONDS as f64,
        answer_ms,
        quantiles_ms: begun.elapsed().as_secs_f64() * 1e3,
        peak: peak(),
        snapshot: bytes / words.max(1),
    }
}

/// The most memory that this process has had, the simulation's own included. Unit: bytes; 0 where nobody tells.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
