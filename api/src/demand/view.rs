//! A snapshot as people read it.

use serde::{Deserialize, Serialize};

use super::{Gathered, Sketch, SliceRow, Snapshot};

/// `GET /demand` without an Accept header that asks for protobuf.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotView {
    /// As [`Snapshot::instance`].
    pub instance: String,
    /// As [`Snapshot::uptime_ms`].
    pub uptime_ms: u64,
    /// As [`Snapshot::relative_error`].
    pub relative_error: f64,
    /// How pools stand.
    pub pools: Vec<PoolView>,
    /// How revisions stand.
    pub rows: Vec<RowView>,
}

/// As [`super::Pool`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are those of `Pool`, which says what they are")]
pub struct PoolView {
    pub name: String,
    pub epoch: u64,
    pub slots_each: u32,
    pub replicas: u32,
    pub ready: u32,
    pub queued: u64,
    pub in_flight: u64,
    pub oldest_ms: u64,
    pub target: f64,
    pub floor: u32,
    pub release: u32,
    pub most: u32,
}

/// As [`super::Row`], with what was measured in the slices that were asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are those of `Name`, `Row` and `SliceRow`, which say what they are")]
pub struct RowView {
    pub model: String,
    pub revision: String,
    pub pool: String,
    pub queued: u64,
    pub in_flight: u64,
    pub oldest_ms: u64,
    pub arrivals: u64,
    pub ended: u64,
    pub errors: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub latency: FractionsView,
    pub ttft: FractionsView,
    pub queue: FractionsView,
    pub engine: FractionsView,
}

/// A distribution. Unit: milliseconds; absent where there are no values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FractionsView {
    /// How many values.
    pub count: u64,
    /// Half of them are no larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// 90 % of them are no larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p90_ms: Option<f64>,
    /// 99 % of them are no larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
}

impl FractionsView {
    /// Of microseconds.
    pub fn of(values: &Gathered) -> Self {
        let millis = |share| values.quantile(share).map(|micros| (micros.round()) / 1e3);
        Self { count: values.count(), p50_ms: millis(0.5), p90_ms: millis(0.9), p99_ms: millis(0.99) }
    }
}

impl SnapshotView {
    /// Of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let gathered = |name: u32, pick: fn(&SliceRow) -> &Option<Sketch>| {
            let mut all = Gathered::default();
            let rows = snapshot.slices().flat_map(|slice| &slice.rows).filter(|row| row.name == name);
            rows.filter_map(|row| pick(row).as_ref()).for_each(|sketch| all.add(sketch));
            FractionsView::of(&all)
        };
        let rows = snapshot.rows.iter().filter_map(|row| {
            let name = snapshot.names.get(row.name as usize)?;
            Some(RowView {
                model: name.model.clone(),
                revision: name.revision.clone(),
                pool: name.pool.clone(),
                queued: row.queued,
                in_flight: row.in_flight,
                oldest_ms: row.oldest_ms,
                arrivals: row.arrivals,
                ended: row.ended,
                errors: row.errors,
                input_tokens: row.input_tokens,
                output_tokens: row.output_tokens,
                latency: gathered(row.name, |row| &row.latency),
                ttft: gathered(row.name, |row| &row.ttft),
                queue: gathered(row.name, |row| &row.queue),
                engine: gathered(row.name, |row| &row.engine),
            })
        });
        let pools = snapshot.pools.iter().cloned().map(|pool| PoolView {
            name: pool.name,
            epoch: pool.epoch,
            slots_each: pool.slots_each,
            replicas: pool.replicas,
            ready: pool.ready,
            queued: pool.queued,
            in_flight: pool.in_flight,
            oldest_ms: pool.oldest_ms,
            target: pool.target,
            floor: pool.floor,
            release: pool.release,
            most: pool.most,
        });
        Self {
            instance: snapshot.instance.clone(),
            uptime_ms: snapshot.uptime_ms,
            relative_error: snapshot.relative_error,
            pools: pools.collect(),
            rows: rows.collect(),
        }
    }
}
