//! The page of all metrics.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tutti_api::Priority;

use super::cells::{Counts, Histogram, Shape, Sums};
use super::ends;
use super::family::{self as f, Metric};
use super::process::Process;
use super::releases;
use super::sets::{CountsKey, Metrics, Names, Set, Sets, ShapeKey, Shown};
use super::text::{Format, Page};
use crate::discovery::Discovery;
use crate::health::{HeldState, HeldStatus};
use crate::keys::KeysStatus;
use crate::peer::{Peers, Whose};
use crate::replica::Replica;
use crate::schedule::core::SIZES_SHOWN;
use crate::shared::Shared;
use crate::table::{Pool, Table};
use crate::tls::Tls;
use crate::{batch, limits, log};

/// What clients of the gateway did in each phase when they left, in the order of [`Counts::cancelled`].
const PHASES: [&str; 4] = ["reading", "queued", "waiting", "answering"];

/// All metrics. Takes milliseconds where there are many: not for a thread that serves.
pub fn page(shared: &Shared, format: Format) -> String {
    let mut page = Page::new(format);
    requests(&shared.metrics, &mut page);
    replicas(&shared.table(), &mut page);
    releases::traffic(&shared.table(), &mut page);
    releases::driven(&shared.releases.load(), &mut page);
    discovery(&shared.discovery, &mut page);
    peers(shared.peers.as_deref(), &mut page);
    gateway(shared, &mut page);
    process(&mut page);
    page.finish()
}

pub(super) fn requests(metrics: &Metrics, page: &mut Page) {
    let Shown { counts, shapes } = metrics.read(Instant::now());
    let mut family = page.family(&f::REQUESTS);
    for (key, set) in counts.iter() {
        for (end, said) in ends::ALL.iter().enumerate() {
            let sum: u64 = set.cores().map(|counts| counts.ends[end].get()).sum();
            if sum > 0 {
                let [model, revision, pool, api, tenant] = labels(key);
                family.value([model, revision, pool, api, tenant, said.code, &said.status], sum);
            }
        }
    }
    let mut family = page.family(&f::CANCELLED);
    for (key, set) in counts.iter() {
        for (at, phase) in PHASES.into_iter().enumerate() {
            let sum: u64 = set.cores().map(|counts| counts.cancelled[at].get()).sum();
            if sum > 0 {
                let [model, revision, pool, api, tenant] = labels(key);
                family.value([model, revision, pool, api, tenant, phase], sum);
            }
        }
    }
    counter(page, &f::RETRIES, &counts, |counts| counts.retries.get());
    counter(page, &f::INPUT_TOKENS, &counts, |counts| counts.input.get());
    counter(page, &f::CACHED_TOKENS, &counts, |counts| counts.cached.get());
    counter(page, &f::OUTPUT_TOKENS, &counts, |counts| counts.output.get());
    histograms(page, &shapes);
}

/// A counter of requests that were for an API.
fn counter(page: &mut Page, metric: &'static Metric, counts: &Sets<CountsKey, Counts>, pick: fn(&Counts) -> u64) {
    let mut family = page.family(metric);
    for (key, set) in counts.iter().filter(|(key, _)| !key.api.is_empty()) {
        family.value(labels(key), set.cores().map(pick).sum::<u64>());
    }
}

fn labels(key: &CountsKey) -> [&str; 5] {
    let Names { model, revision, pool, .. } = &key.names;
    [model, revision, pool, key.api, &key.tenant]
}

/// The histograms of requests that were for an API.
fn histograms(page: &mut Page, shapes: &Sets<ShapeKey, Shape>) {
    let mut family = page.family(&f::QUEUE_TIME);
    for (key, set) in measured(shapes) {
        let Names { model, revision, pool, .. } = &key.names;
        for class in Priority::ALL {
            let sums = Sums::of(set.cores().map(|shape| &shape.queued[class as usize]));
            if !sums.is_empty() {
                family.histogram([model, revision, pool, key.operation, class.name()], &sums);
            }
        }
    }
    let mut family = page.family(&f::DURATION);
    for (key, set) in measured(shapes) {
        let [operation, provider, model, revision, pool] = conventional(key);
        for (end, said) in ends::ALL.iter().enumerate() {
            let sums = Sums::of(set.cores().filter_map(|shape| shape.duration(end)));
            if !sums.is_empty() {
                family.histogram([operation, provider, model, revision, pool, &said.error], &sums);
            }
        }
    }
    observed(page, &f::FIRST_TOKEN, shapes, |shape| &shape.first_token);
    observed(page, &f::PER_TOKEN, shapes, |shape| &shape.per_token);
    let mut family = page.family(&f::TOKENS);
    for (key, set) in measured(shapes) {
        let [operation, provider, model, revision, pool] = conventional(key);
        let input = Sums::of(set.cores().map(|shape| &shape.input));
        let output = Sums::of(set.cores().map(|shape| &shape.output));
        for (kind, sums) in [("input", input), ("output", output)] {
            if !sums.is_empty() {
                family.histogram([operation, provider, model, revision, pool, kind], &sums);
            }
        }
    }
}

/// One of OpenTelemetry's, where there is anything to it.
fn observed<const N: usize>(
    page: &mut Page,
    metric: &'static Metric,
    shapes: &Sets<ShapeKey, Shape>,
    pick: fn(&Shape) -> &Histogram<N>,
) {
    let mut family = page.family(metric);
    for (key, set) in measured(shapes) {
        let sums = Sums::of(set.cores().map(pick));
        if !sums.is_empty() {
            family.histogram(conventional(key), &sums);
        }
    }
}

fn measured(shapes: &Sets<ShapeKey, Shape>) -> impl Iterator<Item = (&ShapeKey, &Set<Shape>)> {
    shapes.iter().filter(|(key, _)| !key.operation.is_empty())
}

/// OpenTelemetry's labels, with the revision and the pool.
fn conventional(key: &ShapeKey) -> [&str; 5] {
    let Names { model, revision, pool, provider } = &key.names;
    [key.operation, provider, model, revision, pool]
}

fn replicas(table: &Table, page: &mut Page) {
    of_pools(table, page, &f::QUEUED, |pool| (pool.owner.queued() + pool.desk.waiting()) as u64);
    of_replicas(table, page, &f::IN_FLIGHT, |_, replica| u64::from(replica.in_flight()));
    of_replicas(table, page, &f::REACHABLE, |pool, replica| u64::from(pool.owner.health.is_reachable(replica)));
    of_replicas(table, page, &f::EJECTED, |pool, replica| ejected(pool, replica, |held| held.model.is_none()));
    of_replicas(table, page, &f::MODELS_EJECTED, |pool, replica| ejected(pool, replica, |held| held.model.is_some()));
    of_replicas(table, page, &f::DRAINED, |pool, replica| u64::from(pool.drained.contains(&replica.id)));
    let mut family = page.family(&f::EJECTIONS);
    for pool in &table.pools {
        for (cause, count) in pool.owner.health.ejections() {
            family.value([&*pool.name, cause.name()], count);
        }
    }
    let mut family = page.family(&f::PROBES);
    for pool in &table.pools {
        for (outcome, count) in pool.owner.health.probes() {
            family.value([&*pool.name, outcome.name()], count);
        }
    }
    loaders(table, page);
    of_pools(table, page, &f::RETRIES_REFUSED, |pool| pool.owner.retries.refused());
    let mut family = page.family(&f::LOADS);
    for pool in &table.pools {
        for (outcome, count) in pool.owner.loads.told() {
            family.value([&*pool.name, outcome], count);
        }
    }
    let mut family = page.family(&f::LOAD_SECONDS);
    table.pools.iter().for_each(|pool| family.value([&*pool.name], pool.owner.loads.micros() as f64 / 1e6));
    turns(table, page);
    batches(table, page);
}

/// What the loaders beside the replicas have told.
fn loaders(table: &Table, page: &mut Page) {
    let all = || {
        table
            .pools
            .iter()
            .flat_map(|pool| pool.with_loaders().filter_map(move |(of, beside)| Some((pool, of, beside?))))
    };
    let mut family = page.family(&f::LOADER_UP);
    all().for_each(|(pool, of, loader)| family.value([&*pool.name, &of.url], u8::from(loader.answers())));
    let mut family = page.family(&f::ADAPTERS);
    for (pool, of, loader) in all() {
        for (phase, count) in loader.phases().filter(|(_, count)| *count > 0) {
            family.value([&*pool.name, &of.url, &phase.to_string()], count as u64);
        }
    }
    let mut family = page.family(&f::PROOFS);
    for pool in table.pools.iter().filter(|pool| pool.loaders.iter().any(Option::is_some)) {
        for (outcome, count) in pool.owner.proofs.told() {
            family.value([&*pool.name, outcome.name()], count);
        }
    }
}

/// What was decided of groups that take turns.
fn turns(table: &Table, page: &mut Page) {
    of_pools(table, page, &f::LOADS_AVOIDED, |pool| pool.owner.tallied.get().avoided);
    of_pools(table, page, &f::LATE_GROUPS, |pool| pool.owner.tallied.get().late);
    of_pools(table, page, &f::TOO_LATE, |pool| pool.owner.tallied.get().refused + pool.desk.told().0.late);
    let mut family = page.family(&f::BATCH);
    for pool in &table.pools {
        let tally = pool.owner.tallied.get();
        family.histogram([&*pool.name], &Sums::counted(&SIZES_SHOWN, &tally.batches, tally.batched));
    }
}

/// Calls for embeddings, and who shared them.
fn batches(table: &Table, page: &mut Page) {
    let told: Vec<_> = table.pools.iter().map(|pool| (&*pool.name, pool.desk.told())).collect();
    let mut family = page.family(&f::BATCH_SIZE);
    told.iter().for_each(|(pool, (_, sizes))| family.histogram([*pool], sizes));
    type Pick = fn(&batch::Counts) -> u64;
    let counters: [(&'static Metric, Pick); 3] = [
        (&f::BATCH_SHARED, |counts| counts.shared),
        (&f::BATCH_PIECES, |counts| counts.pieces),
        (&f::BATCH_HALVED, |counts| counts.halved),
    ];
    for (metric, pick) in counters {
        let mut family = page.family(metric);
        told.iter().for_each(|(pool, (counts, _))| family.value([*pool], pick(counts)));
    }
}

fn of_pools(table: &Table, page: &mut Page, metric: &'static Metric, value: fn(&Pool) -> u64) {
    let mut family = page.family(metric);
    table.pools.iter().for_each(|pool| family.value([&*pool.name], value(pool)));
}

fn of_replicas(table: &Table, page: &mut Page, metric: &'static Metric, value: fn(&Pool, &Replica) -> u64) {
    let mut family = page.family(metric);
    for pool in &table.pools {
        pool.replicas.iter().for_each(|replica| family.value([&*pool.name, &replica.url], value(pool, replica)));
    }
}

/// What of a replica is ejected: itself, or models on it.
fn ejected(pool: &Pool, replica: &Replica, which: fn(&HeldStatus) -> bool) -> u64 {
    let held = pool.owner.health.told(replica, &replica.all_slots());
    held.iter().filter(|held| held.state == HeldState::Ejected && which(held)).count() as u64
}

fn discovery(discovery: &Discovery, page: &mut Page) {
    let sources = discovery.heard();
    let named = || sources.iter().map(|(source, heard)| (source.kind_and_name(), heard));
    let mut family = page.family(&f::DISCOVERED);
    for ((kind, name), heard) in named() {
        family.value([kind, &name], heard.endpoints());
    }
    let mut family = page.family(&f::DISCOVERY_FAILING);
    for ((kind, name), heard) in named() {
        family.value([kind, &name], u8::from(heard.failing));
    }
    let mut family = page.family(&f::DISCOVERY_FAILURES);
    for ((kind, name), heard) in named() {
        family.value([kind, &name], heard.failures);
    }
    let mut family = page.family(&f::DISCOVERY_AT);
    for ((kind, name), heard) in named() {
        family.value([kind, &name], heard.at.unwrap_or_default());
    }
}

fn peers(peers: Option<&Peers>, page: &mut Page) {
    let view = peers.map(|peers| peers.view());
    let mut family = page.family(&f::FORWARDED);
    for (direction, outcome, count) in peers.iter().flat_map(|peers| peers.counts.told()) {
        family.value([direction, outcome], count);
    }
    let mut family = page.family(&f::PEERS);
    if let Some(view) = &view {
        let through = view.peers.iter().filter(|(reach, _)| reach.through_another).count();
        family.value(["direct"], view.peers.len() - through);
        family.value(["through_another"], through);
    }
    let pools = || view.iter().flat_map(|view| &view.pools);
    let mut family = page.family(&f::POOL_OWNED);
    pools().for_each(|(pool, view)| family.value([&**pool], u8::from(view.whose == Whose::Here)));
    let mut family = page.family(&f::POOL_EPOCH);
    pools().for_each(|(pool, view)| family.value([&**pool], view.epoch));
    page.family(&f::POOL_CONFLICTS).maybe(view.as_ref().map(|view| view.conflicts));
    let certificate = peers.map(|peers| peers.mutual.status());
    page.family(&f::PEER_CERTIFICATE_EXPIRY).maybe(certificate.as_ref().map(|of| of.expires.unix()));
    page.family(&f::PEER_CERTIFICATE_OK).maybe(certificate.map(|of| u8::from(of.reload.error.is_none())));
}

fn gateway(shared: &Shared, page: &mut Page) {
    let reload = shared.reload_outcome();
    page.family(&f::READY).value([], u8::from(shared.is_ready()));
    page.family(&f::CONNECTIONS).value([], shared.connections.load(Relaxed));
    page.family(&f::HEADS_REFUSED).value([], shared.refused_heads.load(Relaxed));
    page.family(&f::HANDSHAKES_FAILED).value([], shared.failed_handshakes.load(Relaxed));
    let certificate = shared.tls.as_ref().map(Tls::status);
    page.family(&f::CERTIFICATE_EXPIRY).maybe(certificate.as_ref().map(|of| of.expires.unix()));
    page.family(&f::CERTIFICATE_OK).maybe(certificate.as_ref().map(|of| u8::from(of.reload.error.is_none())));
    page.family(&f::CERTIFICATE_AT).maybe(certificate.map(|of| of.reload.at));
    page.family(&f::BODY_BYTES).value([], shared.budget.used());
    let mut family = page.family(&f::LIMIT_HITS);
    limits::hits().for_each(|(limit, hits)| family.value([limit], hits));
    page.family(&f::LOG_DROPPED).value([], log::dropped());
    page.family(&f::GENERATION).value([], shared.table().generation);
    page.family(&f::RELOAD_OK).value([], u8::from(reload.error.is_none()));
    page.family(&f::RELOAD_AT).value([], reload.at);
    keys(shared, page);
    page.family(&f::BUILD).value([env!("CARGO_PKG_VERSION")], 1);
}

fn keys(shared: &Shared, page: &mut Page) {
    let status = shared.keys.status();
    let mut family = page.family(&f::KEYS);
    if let Some(KeysStatus { keys, .. }) = &status {
        for (state, count) in [("active", keys.active), ("expired", keys.expired), ("revoked", keys.revoked)] {
            family.value([state], count);
        }
    }
    page.family(&f::KEYS_OK).maybe(status.as_ref().map(|of| u8::from(of.reload.error.is_none())));
    page.family(&f::KEYS_AT).maybe(status.map(|of| of.reload.at));
}

fn process(page: &mut Page) {
    let process = Process::now();
    page.family(&f::CPU).maybe(process.map(|process| process.cpu));
    page.family(&f::RESIDENT).maybe(process.map(|process| process.resident));
    page.family(&f::OPEN_FILES).maybe(process.map(|process| process.open_files));
    page.family(&f::MOST_FILES).maybe(process.and_then(|process| process.most_files));
    page.family(&f::STARTED).maybe(process.map(|process| process.started));
}
