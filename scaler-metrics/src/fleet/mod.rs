//! What all gateways say together. Pure: what was heard, and the time, are handed in; clocks of other machines are never
//! looked at.
//!
//! A gateway is *fresh* while it was heard within [`FRESH`]; then its last word is *held* until [`HOLD`] has passed, as if
//! its requests were still there; then it counts no more. Of those that schedule a pool alone the one with the highest
//! epoch is right; what each schedules for itself is added up.

mod stand;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use tutti_api::demand::{Misshapen, Name, Pool, Row, SliceRow, Snapshot};

pub use stand::{Answer, Sources};
pub use window::Measured;

use window::Window;

/// How long a gateway's word is as good as new.
pub const FRESH: Duration = Duration::from_secs(3);
/// How long the word of a gateway counts that is not heard any more.
pub const HOLD: Duration = Duration::from_secs(60);
/// How long a scaler that has not heard every gateway asks for no less than there is, from the first word after none
/// counted.
pub const WARM: Duration = Duration::from_secs(60);
/// How long work that is over keeps a pool active, so that whoever looks every 30 s sees it.
pub const LINGER: Duration = Duration::from_secs(45);
/// Over how long work is averaged.
pub const MEAN: Duration = Duration::from_secs(15);
/// How long a revision that nobody tells of is remembered in the counters.
const REMEMBERED: Duration = Duration::from_secs(15 * 60);
/// Most names in the counters.
const MAX_NAMES: usize = 10_000;

/// What is known of one gateway, by where it is.
#[derive(Debug, Default)]
struct Gateway {
    is_discovered: bool,
    last: Option<Last>,
    /// Why it was not heard the last time.
    failing: Option<String>,
}

impl Gateway {
    /// Whether its last word counts.
    fn counts(&self, now: Instant) -> bool {
        self.last.as_ref().is_some_and(|last| now.saturating_duration_since(last.at) < HOLD)
    }
}

/// The last word of a gateway.
#[derive(Debug)]
struct Last {
    at: Instant,
    instance: String,
    /// The number of the last closed slice that was taken in.
    closed: Option<u64>,
    /// By name, so that who asks for one need not look at all.
    pools: Vec<Pool>,
    names: Vec<Name>,
    /// The row of each name that has one.
    rows: Vec<Option<Row>>,
    /// What was measured since its last closed slice.
    open: Vec<SliceRow>,
}

impl Last {
    fn rows(&self) -> impl Iterator<Item = (&Name, &Row)> {
        self.names.iter().zip(&self.rows).filter_map(|(name, row)| Some((name, row.as_ref()?)))
    }

    /// What it says of the pool of this name.
    fn pools_named(&self, name: &str) -> impl Iterator<Item = &Pool> {
        let begin = self.pools.partition_point(|pool| *pool.name < *name);
        self.pools[begin..].iter().take_while(move |pool| pool.name == name)
    }
}

/// What gateways have counted of a revision since this scaler began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Requests that were routed.
    pub arrivals: u64,
    /// Requests that are over.
    pub ended: u64,
    /// Those of them that failed by no fault of their clients.
    pub errors: u64,
    /// Tokens of prompts.
    pub input_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
}

/// What is remembered of a pool.
#[derive(Debug, Default)]
struct Memory {
    /// When it last had work.
    busy: Option<Instant>,
    /// Work at the times when something was heard.
    work: VecDeque<(Instant, u64)>,
}

/// All gateways.
#[derive(Debug)]
pub struct Fleet {
    started: Instant,
    /// Since when those are waited for that were not heard: the first word after no word counted.
    warming: Instant,
    /// Whether whoever knows where gateways are has said so.
    is_told: bool,
    gateways: BTreeMap<String, Gateway>,
    window: Window,
    counted: BTreeMap<Name, (Instant, Counted)>,
    memory: BTreeMap<String, Memory>,
}

impl Fleet {
    /// Nobody was heard.
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            warming: now,
            is_told: false,
            gateways: BTreeMap::new(),
            window: Window::new(now),
            counted: BTreeMap::new(),
            memory: BTreeMap::new(),
        }
    }

    /// Gateways are at these addresses. One that is not there any more is held as one that is not heard.
    pub fn discovered(&mut self, addresses: &BTreeSet<String>, now: Instant) {
        self.is_told = true;
        for (address, gateway) in &mut self.gateways {
            gateway.is_discovered = addresses.contains(address);
        }
        for address in addresses {
            self.gateways.entry(address.clone()).or_default().is_discovered = true;
        }
        self.forget(now);
    }

    /// A gateway was not heard.
    pub fn failed(&mut self, address: &str, why: String) {
        if let Some(gateway) = self.gateways.get_mut(address) {
            gateway.failing = Some(why);
        }
    }

    /// A gateway was heard. Yields after which of its slices it is to be asked next.
    ///
    /// # Errors
    /// What it says is no snapshot; what it said before stays as it is.
    pub fn hear(&mut self, address: &str, bytes: &[u8], now: Instant) -> Result<Option<u64>, Misshapen> {
        let snapshot = match Snapshot::read(bytes) {
            Ok(snapshot) => snapshot,
            Err(why) => {
                self.failed(address, why.to_string());
                return Err(why);
            }
        };
        Ok(self.take(address, snapshot, now))
    }

    /// The same for what is a snapshot.
    pub fn take(&mut self, address: &str, snapshot: Snapshot, now: Instant) -> Option<u64> {
        if !self.is_sighted(now) {
            self.warming = now; // the first one back is not the whole fleet
        }
        let gateway = self.gateways.entry(address.to_owned()).or_default();
        gateway.failing = None;
        let before = gateway.last.take().filter(|last| last.instance == snapshot.instance);
        let Snapshot { instance, uptime_ms, names, rows, mut pools, closed: slices, open, .. } = snapshot;
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        let mut closed = before.as_ref().and_then(|last| last.closed);
        for slice in slices {
            if closed.is_some_and(|closed| slice.number <= closed) {
                continue; // it was taken in before
            }
            closed = Some(slice.number);
            let ended = now.checked_sub(Duration::from_millis(uptime_ms - slice.end_ms)).unwrap_or(now);
            for row in &slice.rows {
                self.window.add(&names[row.name as usize], row, ended, now);
            }
        }
        let mut by_name: Vec<Option<Row>> = vec![None; names.len()];
        for row in rows {
            let name = row.name as usize;
            by_name[name] = Some(row);
        }
        let open = open.map(|slice| slice.rows).unwrap_or_default();
        let last = Last { at: now, instance, closed, pools, names, rows: by_name, open };
        let has_begun_since = Duration::from_millis(uptime_ms) < now.saturating_duration_since(self.started);
        let mut busy = self.count_all(&last, before.as_ref(), has_begun_since);
        busy.extend(last.pools.iter().filter(|pool| pool.queued > 0 || pool.in_flight > 0).map(|pool| &*pool.name));
        for pool in busy {
            self.memory.entry(pool.to_owned()).or_default().busy = Some(now);
        }
        let told: Vec<String> = last.pools.iter().map(|pool| pool.name.clone()).collect();
        self.gateways.entry(address.to_owned()).or_default().last = Some(last);
        told.iter().for_each(|pool| self.remember(pool, now));
        closed
    }

    /// Adds what a gateway has counted since its word before; yields the pools that had something to do.
    fn count_all<'l>(&mut self, last: &'l Last, before: Option<&Last>, has_begun_since: bool) -> BTreeSet<&'l str> {
        // Mostly it has the same names in the same places.
        let moved = before.filter(|before| before.names != last.names);
        let places: HashMap<&Name, usize> =
            moved.iter().flat_map(|before| before.names.iter().enumerate()).map(|(at, name)| (name, at)).collect();
        let mut busy = BTreeSet::new();
        for (at, (name, row)) in last.names.iter().zip(&last.rows).enumerate() {
            let Some(row) = row else { continue };
            let earlier = match before {
                Some(before) => {
                    let at = if moved.is_some() { places.get(name).copied() } else { Some(at) };
                    at.and_then(|at| before.rows[at].clone()).unwrap_or_default()
                }
                None if has_begun_since => Row::default(),
                None => row.clone(), // what was counted before anybody listened
            };
            let more = self.count(name, row, &earlier, last.at);
            if row.queued > 0 || row.in_flight > 0 || more > 0 {
                busy.insert(&*name.pool);
            }
        }
        busy
    }

    /// Adds what was counted since the word before; yields how many requests have come.
    fn count(&mut self, name: &Name, row: &Row, before: &Row, now: Instant) -> u64 {
        // A counter that has fallen is another one: of a set that was forgotten and has begun anew.
        let more = |now: u64, before: u64| if now < before { now } else { now - before };
        let arrivals = more(row.arrivals, before.arrivals);
        let is_full = self.counted.len() >= MAX_NAMES;
        let (at, counted) = match self.counted.get_mut(name) {
            Some(known) => known,
            None if is_full => return arrivals,
            None => self.counted.entry(name.clone()).or_insert((now, Counted::default())),
        };
        *at = now;
        // Whatever a gateway says, a sum ends at the largest number there is.
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut counted.arrivals, arrivals);
        add(&mut counted.ended, more(row.ended, before.ended));
        add(&mut counted.errors, more(row.errors, before.errors));
        add(&mut counted.input_tokens, more(row.input_tokens, before.input_tokens));
        add(&mut counted.output_tokens, more(row.output_tokens, before.output_tokens));
        arrivals
    }

    /// Takes note of the work that a pool has now.
    fn remember(&mut self, pool: &str, now: Instant) {
        let Some(stand) = self.pool(pool, now) else { return };
        let memory = self.memory.entry(pool.to_owned()).or_default();
        memory.work.push_back((now, stand.requests()));
        while memory.work.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= MEAN) {
            memory.work.pop_front();
        }
    }

    /// Lets go what nobody asks for any more.
    fn forget(&mut self, now: Instant) {
        let is_old = |at: Instant, age: Duration| now.saturating_duration_since(at) >= age;
        self.gateways.retain(|_, gateway| {
            gateway.is_discovered || gateway.last.as_ref().is_some_and(|last| !is_old(last.at, HOLD))
        });
        self.counted.retain(|_, (at, _)| !is_old(*at, REMEMBERED));
        let told: BTreeSet<&String> = self
            .gateways
            .values()
            .filter_map(|gateway| gateway.last.as_ref())
            .flat_map(|last| &last.pools)
            .map(|pool| &pool.name)
            .collect();
        self.memory.retain(|pool, memory| told.contains(pool) || memory.busy.is_some_and(|at| !is_old(at, REMEMBERED)));
    }

    /// What was measured in the last minute, by revision; of one pool, or of all.
    pub fn measured(&self, pool: Option<&str>, now: Instant) -> BTreeMap<Name, Measured> {
        let is_wanted = |name: &Name| pool.is_none_or(|pool| name.pool == pool);
        let mut all = self.window.read(now, is_wanted);
        let held = self.words(now).filter(|(_, last)| now.saturating_duration_since(last.at) < FRESH);
        for (_, last) in held {
            for row in &last.open {
                let name = &last.names[row.name as usize];
                if is_wanted(name) {
                    all.entry(name.clone()).or_default().add(row);
                }
            }
        }
        all
    }

    /// What was counted, by revision.
    pub fn counted(&self) -> impl Iterator<Item = (&Name, &Counted)> {
        self.counted.iter().map(|(name, (_, counted))| (name, counted))
    }

    /// Whether anybody's word counts.
    fn is_sighted(&self, now: Instant) -> bool {
        self.gateways.values().any(|gateway| gateway.counts(now))
    }

    /// Those whose word counts.
    fn words(&self, now: Instant) -> impl Iterator<Item = (&String, &Last)> {
        let heard = self.gateways.iter().filter_map(|(address, gateway)| Some((address, gateway.last.as_ref()?)));
        heard.filter(move |(_, last)| now.saturating_duration_since(last.at) < HOLD)
    }
}
