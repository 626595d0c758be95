//! The page: what was counted, and how the pools stand.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tutti_api::canonical;
use tutti_api::demand::{self as told, FORMAT, Name, Pool, RELATIVE_ERROR, Row, Slice, SliceRow, Snapshot};

use super::ring::{Part, Total};
use crate::metrics::Metrics;
use crate::peer::{Whose, one_schedules};
use crate::replica::Replica;
use crate::schedule::GroupExplained;
use crate::shared::Shared;
use crate::table::{self, Table, slots_of};

/// All that was counted, by what it was counted of.
pub(super) fn totals(metrics: &Metrics) -> BTreeMap<Name, Total> {
    let mut totals: BTreeMap<Name, Total> = BTreeMap::new();
    for (names, set) in metrics.demand(Instant::now()).iter().filter(|(names, _)| !names.pool.is_empty()) {
        let [model, revision, pool] = [&names.model, &names.revision, &names.pool].map(|name| name.to_string());
        let total = totals.entry(Name { model, revision, pool }).or_default();
        for cells in set.cores() {
            // Who has left is read first: nobody is seen to leave who was not seen to come.
            let (queued, in_flight) = (cells.queued.left.get(), cells.in_flight.left.get());
            total.queued += cells.queued.came.get().saturating_sub(queued);
            total.in_flight += cells.in_flight.came.get().saturating_sub(in_flight);
            total.arrivals += cells.arrivals.get();
            total.ended += cells.ended.get();
            total.errors += cells.errors.get();
            total.input += cells.input.get();
            total.output += cells.output.get();
            for (values, (sum, zeros)) in cells.values.iter().zip(&mut total.values) {
                values.add_to(sum, zeros);
            }
        }
    }
    totals
}

/// The work there is, with the slices after that of this number.
pub(crate) async fn snapshot(shared: Arc<Shared>, since: Option<u64>) -> Snapshot {
    let table = shared.table().clone();
    let mut groups = HashMap::new();
    for pool in &table.pools {
        // Who waits, and where weights are that others would have to load.
        if (pool.owner.queued() > 0 || table.shares_runners(&pool.name))
            && let Some(explained) = pool.owner.explain(&pool.name).await
        {
            groups.insert(pool.name.clone(), explained.groups);
        }
    }
    let made = tokio::task::spawn_blocking(move || made(&shared, &table, &groups, since)).await;
    made.unwrap_or_default()
}

/// Who waits, by pool.
type Groups = HashMap<Box<str>, Vec<GroupExplained>>;

fn made(shared: &Shared, table: &Table, groups: &Groups, since: Option<u64>) -> Snapshot {
    let (mut closed, open, totals, uptime_ms) = shared.demand.with_ring(shared, |ring| {
        let totals = totals(&shared.metrics);
        let uptime = u64::try_from(shared.demand.uptime().as_millis()).unwrap_or(u64::MAX);
        let (closed, number, begun) = ring.slices(None);
        (closed, (number, uptime.saturating_sub(begun), ring.parts(&totals)), totals, uptime)
    });
    let ended = closed.iter().flat_map(|slice| &slice.parts).chain(&open.2).filter(|(_, part)| part.ended > 0);
    let works = totals.iter().filter(|(_, total)| total.queued + total.in_flight > 0);
    let in_use = ended.map(|(name, _)| name).chain(works.map(|(name, _)| name));
    let in_use: InUse = in_use.filter_map(|name| engine_name(table, name)).collect();
    closed.retain(|slice| since.is_none_or(|since| slice.number > since));
    let mut names = Names::default();
    let closed_slices = closed.iter().map(|slice| Slice {
        number: slice.number,
        end_ms: slice.end_ms,
        length_ms: slice.length_ms,
        rows: names.rows(&slice.parts),
    });
    let closed_slices = closed_slices.collect();
    let (number, length_ms, parts) = open;
    let open = Slice { number, end_ms: uptime_ms, length_ms, rows: names.rows(&parts) };
    let is_active = |(name, total): &(&Name, &Total)| {
        total.queued + total.in_flight > 0 || names.numbers.contains_key(*name) || total.ended < total.arrivals
    };
    let active: Vec<(&Name, &Total)> = totals.iter().filter(is_active).collect();
    let rows = active.into_iter().map(|(name, total)| row(table, groups, name, total, names.number(name))).collect();
    Snapshot {
        format: FORMAT,
        instance: shared.demand.instance.clone(),
        uptime_ms,
        relative_error: RELATIVE_ERROR,
        rows,
        pools: table.pools.iter().filter_map(|pool| stands(shared, table, groups, &in_use, pool)).collect(),
        closed: closed_slices,
        open: Some(open),
        names: names.list,
    }
}

/// Names, each with a number.
#[derive(Default)]
struct Names {
    list: Vec<Name>,
    numbers: HashMap<Name, u32>,
}

impl Names {
    fn number(&mut self, name: &Name) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }

    fn rows(&mut self, parts: &BTreeMap<Name, Part>) -> Vec<SliceRow> {
        let row = |(name, part): (&Name, &Part)| {
            let [latency, ttft, queue, engine] =
                part.values.clone().map(|sketch| (sketch.count() > 0).then_some(sketch));
            let name = self.number(name);
            SliceRow { name, ended: part.ended, errors: part.errors, latency, ttft, queue, engine }
        };
        parts.iter().map(row).collect()
    }
}

fn row(table: &Table, groups: &Groups, name: &Name, total: &Total, number: u32) -> Row {
    let slo = table.config.models.iter().find(|model| model.name == name.model).and_then(|model| model.slo.as_ref());
    let millis = |time: Option<tutti_api::HumanDuration>| {
        time.map_or(0, |time| u64::try_from(time.get().as_millis()).unwrap_or(u64::MAX))
    };
    let engine_name = engine_name(table, name);
    let of_pool = groups.get(name.pool.as_str()).into_iter().flatten();
    let waits =
        |group: &&GroupExplained| group.models.iter().any(|model| Some(&*canonical(model)) == engine_name.as_deref());
    Row {
        name: number,
        queued: total.queued,
        in_flight: total.in_flight,
        oldest_ms: of_pool.filter(waits).map(|group| group.oldest_ms).max().unwrap_or(0),
        arrivals: total.arrivals,
        ended: total.ended,
        errors: total.errors,
        input_tokens: total.input,
        output_tokens: total.output,
        slo_ttft_ms: millis(slo.and_then(|slo| slo.ttft)),
        slo_p99_ms: millis(slo.and_then(|slo| slo.p99)),
    }
}

/// What replicas call the models that were asked for in the last minute, by this gateway's own clients: whom others hold is
/// not counted here.
type InUse = HashSet<String>;

/// What replicas call a revision.
fn engine_name(table: &Table, name: &Name) -> Option<String> {
    let lead = table.lead(&name.model)?;
    let route = match &lead.split {
        Some(split) => split.all.iter().find(|route| *route.served.revision == *name.revision)?,
        None => &lead.route,
    };
    (*route.served.pool == *name.pool).then(|| canonical(route.engine_name()).into_owned())
}

/// Less than a request in so long of other gateways' clients is no use of an adapter. Unit: requests a second.
const IN_USE: f64 = 0.01;

fn of_replica(replica: &Replica, groups: Option<&Vec<GroupExplained>>, in_use: &InUse) -> Option<told::Replica> {
    let ip = replica.addresses().list.first()?.ip().to_string();
    // How often a group is asked for is measured only where others want its runners.
    let is_used = |group: &GroupExplained| {
        group.requests_per_second >= IN_USE || group.models.iter().any(|model| in_use.contains(&*canonical(model)))
    };
    let is_sole = |group: &&GroupExplained| {
        is_used(group) && group.loading.is_empty() && matches!(&*group.serving, [url] if **url == *replica.url)
    };
    let sole = groups.into_iter().flatten().filter(is_sole).count();
    Some(told::Replica { ip, in_flight: replica.in_flight().into(), sole: u32::try_from(sole).unwrap_or(u32::MAX) })
}

/// How a pool stands, where this gateway schedules it.
fn stands(shared: &Shared, table: &Table, groups: &Groups, in_use: &InUse, pool: &table::Pool) -> Option<Pool> {
    let epoch = match shared.peers.as_ref().filter(|_| one_schedules(pool)) {
        None => 0,
        Some(peers) => {
            let view = peers.view();
            let view = view.pools.get(&pool.name).filter(|view| view.whose == Whose::Here)?;
            view.epoch
        }
    };
    let spec = table.config.pools.iter().find(|spec| *spec.name == *pool.name)?;
    let scale = spec.scale.clone().unwrap_or_default();
    let oldest = groups.get(&pool.name).into_iter().flatten().filter(|group| group.waiting > 0);
    // Who waits to go with others is in no queue yet, and wants a slot with them.
    let (gathered, since) = pool.desk.demand();
    let gathering_ms = since.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
    let health = &pool.owner.health;
    let ready = pool.serving().filter(|replica| health.is_reachable(replica) && !health.is_ejected(replica)).count();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Some(Pool {
        name: pool.name.to_string(),
        epoch,
        slots_each: slots_of(spec).into(),
        replicas: count(pool.replicas.len()),
        ready: count(ready),
        queued: (pool.owner.queued() + gathered) as u64,
        in_flight: pool.replicas.iter().map(|replica| u64::from(replica.in_flight())).sum(),
        oldest_ms: oldest.map(|group| group.oldest_ms).max().unwrap_or(0).max(gathering_ms),
        target: scale.target.fraction(),
        floor: scale.min,
        release: shared.demand.floors.under(&pool.name, Instant::now()),
        most: spec.scale.as_ref().map_or(0, |scale| scale.max),
        told: pool.replicas.iter().filter_map(|replica| of_replica(replica, groups.get(&pool.name), in_use)).collect(),
    })
}
