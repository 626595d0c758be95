//! A snapshot as it is sent.

use prost::Message;

use super::{FORMAT, MAX_NAMES, MAX_SNAPSHOT, RELATIVE_ERROR, Sketch};

/// Why bytes are no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misshapen {
    /// They are no such message.
    #[error("these bytes are no snapshot of demand")]
    Bytes,
    /// There are too many of them.
    #[error("a snapshot of {0} bytes is longer than any may be")]
    TooLong(usize),
    /// It is of another shape.
    #[error("a snapshot of format {0}, and this version of tutti reads format {FORMAT}")]
    Format(u32),
    /// Its sketches cannot be added to others.
    #[error("its sketches are of another relative error")]
    RelativeError,
    /// A sketch is none.
    #[error("a sketch in it is none")]
    Sketch,
    /// A number leads to no name.
    #[error("a row in it has no name, or there are more names than may be")]
    Name,
    /// A share or a time in it cannot be.
    #[error("a number in it cannot be")]
    Number,
}

/// The work that a gateway has, and what it measured in the last minute.
#[derive(Clone, PartialEq, Message)]
pub struct Snapshot {
    /// The shape: [`FORMAT`].
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// The gateway's process: another at each start, and then all counters begin at 0.
    #[prost(string, tag = "2")]
    pub instance: String,
    /// How long it has run when it said this. Unit: milliseconds.
    #[prost(uint64, tag = "3")]
    pub uptime_ms: u64,
    /// The sketches' relative error. Unit: a share.
    #[prost(double, tag = "4")]
    pub relative_error: f64,
    /// What rows refer to by number.
    #[prost(message, repeated, tag = "5")]
    pub names: Vec<Name>,
    /// What has work, or had some in the last minute.
    #[prost(message, repeated, tag = "6")]
    pub rows: Vec<Row>,
    /// The pools that it schedules.
    #[prost(message, repeated, tag = "7")]
    pub pools: Vec<Pool>,
    /// Slices that do not change any more, by ascending numbers; of those that were asked for.
    #[prost(message, repeated, tag = "8")]
    pub closed: Vec<Slice>,
    /// The one that does.
    #[prost(message, optional, tag = "9")]
    pub open: Option<Slice>,
}

/// What a row is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Message)]
pub struct Name {
    /// The model, as clients call it.
    #[prost(string, tag = "1")]
    pub model: String,
    /// The revision; empty where the replicas show it themselves.
    #[prost(string, tag = "2")]
    pub revision: String,
    /// The pool.
    #[prost(string, tag = "3")]
    pub pool: String,
}

/// The requests of one revision whose clients this gateway holds.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Row {
    /// Its place in [`Snapshot::names`].
    #[prost(uint32, tag = "1")]
    pub name: u32,
    /// Requests that wait for a slot.
    #[prost(uint64, tag = "2")]
    pub queued: u64,
    /// Requests that a replica works on.
    #[prost(uint64, tag = "3")]
    pub in_flight: u64,
    /// How long the one has waited who waits longest, where this gateway schedules the pool. Unit: milliseconds.
    #[prost(uint64, tag = "4")]
    pub oldest_ms: u64,
    /// Requests that were routed, since the start.
    #[prost(uint64, tag = "5")]
    pub arrivals: u64,
    /// Requests that are over, since the start.
    #[prost(uint64, tag = "6")]
    pub ended: u64,
    /// Those of them that failed by no fault of their clients, since the start.
    #[prost(uint64, tag = "7")]
    pub errors: u64,
    /// Tokens of prompts, since the start.
    #[prost(uint64, tag = "8")]
    pub input_tokens: u64,
    /// Tokens of answers, since the start.
    #[prost(uint64, tag = "9")]
    pub output_tokens: u64,
    /// The model's `slo.ttft`; 0: it has none. Unit: milliseconds.
    #[prost(uint64, tag = "10")]
    pub slo_ttft_ms: u64,
    /// The model's `slo.p99`; 0: it has none. Unit: milliseconds.
    #[prost(uint64, tag = "11")]
    pub slo_p99_ms: u64,
}

/// How a pool stands that this gateway schedules, with the requests that other gateways sent it.
#[derive(Clone, PartialEq, Message)]
pub struct Pool {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The number of the ownership: of two that say they schedule it, the higher is right. 0: every gateway schedules the
    /// pool for itself, and all have a part of it.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Slots that a replica has.
    #[prost(uint32, tag = "3")]
    pub slots_each: u32,
    /// Replicas that are known.
    #[prost(uint32, tag = "4")]
    pub replicas: u32,
    /// Those of them that can be given requests.
    #[prost(uint32, tag = "5")]
    pub ready: u32,
    /// Requests that wait.
    #[prost(uint64, tag = "6")]
    pub queued: u64,
    /// Requests that its replicas work on.
    #[prost(uint64, tag = "7")]
    pub in_flight: u64,
    /// How long the one has waited who waits longest. Unit: milliseconds.
    #[prost(uint64, tag = "8")]
    pub oldest_ms: u64,
    /// The share of slots that shall be in use: `scale.target`. Unit: a share.
    #[prost(double, tag = "9")]
    pub target: f64,
    /// Replicas that there shall be at least, whatever the work. Unit: replicas.
    #[prost(uint32, tag = "10")]
    pub floor: u32,
    /// Replicas that there may be: `scale.max`. 0: nobody says. Unit: replicas.
    #[prost(uint32, tag = "11")]
    pub most: u32,
    /// The replicas that are known by an address.
    #[prost(message, repeated, tag = "12")]
    pub told: Vec<Replica>,
    /// Replicas that there shall be at least for a release that is under way. Unit: replicas.
    #[prost(uint32, tag = "13")]
    pub release: u32,
}

/// A replica, for who chooses which of them is ended.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Replica {
    /// Its IP address.
    #[prost(string, tag = "1")]
    pub ip: String,
    /// Requests that it works on.
    #[prost(uint64, tag = "2")]
    pub in_flight: u64,
    /// Groups of adapters that are in use and that no other replica has in memory.
    #[prost(uint32, tag = "3")]
    pub sole: u32,
}

/// What was measured in some seconds.
#[derive(Clone, PartialEq, Message)]
pub struct Slice {
    /// Its number, from 0 at the gateway's start.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// When it ended, or how far it has come. Unit: milliseconds since the gateway's start.
    #[prost(uint64, tag = "2")]
    pub end_ms: u64,
    /// How long it is. Unit: milliseconds.
    #[prost(uint64, tag = "3")]
    pub length_ms: u64,
    /// What was measured.
    #[prost(message, repeated, tag = "4")]
    pub rows: Vec<SliceRow>,
}

/// What was measured of a revision. Sketches are of microseconds.
#[derive(Clone, PartialEq, Message)]
pub struct SliceRow {
    /// Its place in [`Snapshot::names`].
    #[prost(uint32, tag = "1")]
    pub name: u32,
    /// Requests that came to their end.
    #[prost(uint64, tag = "2")]
    pub ended: u64,
    /// Those of them that failed by no fault of their clients.
    #[prost(uint64, tag = "3")]
    pub errors: u64,
    /// From the head of a request to its end, where a replica answered it well.
    #[prost(message, optional, tag = "4")]
    pub latency: Option<Sketch>,
    /// From the head of a request to the first byte of its stream.
    #[prost(message, optional, tag = "5")]
    pub ttft: Option<Sketch>,
    /// Time waited for a slot, also by those that got none.
    #[prost(message, optional, tag = "6")]
    pub queue: Option<Sketch>,
    /// The latency without the wait: what the engine took.
    #[prost(message, optional, tag = "7")]
    pub engine: Option<Sketch>,
}

impl SliceRow {
    /// Its sketches.
    fn sketches(&self) -> impl Iterator<Item = &Sketch> {
        [&self.latency, &self.ttft, &self.queue, &self.engine].into_iter().flatten()
    }
}

impl Snapshot {
    /// Reads one that came from elsewhere.
    ///
    /// # Errors
    /// What is wrong with it; nothing of it is to be used.
    pub fn read(bytes: &[u8]) -> Result<Self, Misshapen> {
        if bytes.len() > MAX_SNAPSHOT {
            return Err(Misshapen::TooLong(bytes.len()));
        }
        let snapshot = Self::decode(bytes).map_err(|_| Misshapen::Bytes)?;
        if snapshot.format != FORMAT {
            return Err(Misshapen::Format(snapshot.format));
        }
        if snapshot.relative_error != RELATIVE_ERROR {
            return Err(Misshapen::RelativeError);
        }
        let rows = || snapshot.slices().flat_map(|slice| &slice.rows);
        let numbers = snapshot.rows.iter().map(|row| row.name).chain(rows().map(|row| row.name));
        if snapshot.names.len() > MAX_NAMES || numbers.into_iter().any(|name| name as usize >= snapshot.names.len()) {
            return Err(Misshapen::Name);
        }
        let times =
            snapshot.slices().all(|slice| slice.end_ms <= snapshot.uptime_ms && slice.length_ms <= slice.end_ms);
        let shares = snapshot.pools.iter().all(|pool| pool.target > 0.0 && pool.target <= 1.0);
        if !times || !shares {
            return Err(Misshapen::Number);
        }
        rows().flat_map(SliceRow::sketches).try_for_each(Sketch::check)?;
        Ok(snapshot)
    }

    /// All slices, the open one last.
    pub fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.closed.iter().chain(&self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn good() -> Snapshot {
        let row = SliceRow { name: 0, ended: 1, latency: Some(Sketch::of([(7, 1)], 0)), ..SliceRow::default() };
        let slice = Slice { number: 0, end_ms: 10_000, length_ms: 10_000, rows: vec![row] };
        Snapshot {
            format: FORMAT,
            instance: "a".to_owned(),
            uptime_ms: 12_000,
            relative_error: RELATIVE_ERROR,
            names: vec![Name { model: "m".to_owned(), revision: String::new(), pool: "p".to_owned() }],
            rows: vec![Row { queued: 1, ..Row::default() }],
            pools: vec![Pool { name: "p".to_owned(), target: 0.8, ..Pool::default() }],
            closed: vec![slice],
            open: None,
        }
    }

    #[test]
    fn what_is_no_snapshot_is_refused_by_name() {
        let changed = |change: fn(&mut Snapshot)| {
            let mut snapshot = good();
            change(&mut snapshot);
            Snapshot::read(&snapshot.encode_to_vec()).err()
        };
        assert_eq!(changed(|_| ()), None);
        assert_eq!(changed(|of| of.format = 2), Some(Misshapen::Format(2)));
        assert_eq!(changed(|of| of.relative_error = 0.01), Some(Misshapen::RelativeError));
        assert_eq!(changed(|of| of.rows[0].name = 1), Some(Misshapen::Name));
        assert_eq!(changed(|of| of.closed[0].rows[0].name = 9), Some(Misshapen::Name));
        assert_eq!(changed(|of| of.uptime_ms = 9_999), Some(Misshapen::Number));
        assert_eq!(changed(|of| of.pools[0].target = 0.0), Some(Misshapen::Number));
        assert_eq!(changed(|of| of.pools[0].target = f64::NAN), Some(Misshapen::Number));
        let broken =
            |of: &mut Snapshot| of.closed[0].rows[0].latency = Some(Sketch { gaps: vec![1], ..Sketch::default() });
        assert_eq!(changed(broken), Some(Misshapen::Sketch));
        assert_eq!(Snapshot::read(b"# HELP this is no snapshot\n"), Err(Misshapen::Bytes));
        assert_eq!(Snapshot::read(b""), Err(Misshapen::Format(0)));
    }

    proptest! {
        #[test]
        fn bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let _ = Snapshot::read(&bytes);
            bytes = good().encode_to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = Snapshot::read(&bytes);
            let _ = Snapshot::read(&bytes[..at]);
        }
    }
}
