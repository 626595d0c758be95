//! How a pool stands, and what is answered to who asks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tutti_api::demand::{Name, Replica};

use super::{FRESH, Fleet, HOLD, LINGER, MEAN, WARM};
use crate::wanted::{Stand, wanted};

/// A guard from fewer values says nothing. Unit: requests in a minute.
const GUARD_FROM: u64 = 20;

/// How many gateways an answer rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Where gateways are said to be.
    pub discovered: usize,
    /// Heard within [`FRESH`].
    pub fresh: usize,
    /// Not heard any more, and their last word counts still.
    pub held: usize,
    /// Where one is said to be that has no word that counts.
    pub silent: usize,
}

/// What is answered for a pool.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// So many replicas are wanted, and whether there is anything to do.
    Known {
        /// Replicas.
        wanted: f64,
        /// Whether there is, or was a moment ago, work for it, or a floor under it.
        is_active: bool,
    },
    /// It is not known: nothing is to be concluded from that.
    Blind(String),
    /// Every gateway was heard, and none has a pool of this name.
    NoSuchPool(String),
}

impl Fleet {
    /// On how many gateways answers rest.
    pub fn sources(&self, now: Instant) -> Sources {
        let mut sources = Sources::default();
        for gateway in self.gateways.values() {
            sources.discovered += usize::from(gateway.is_discovered);
            match gateway.last.as_ref().map(|last| now.saturating_duration_since(last.at)) {
                Some(age) if age < FRESH => sources.fresh += 1,
                Some(age) if age < HOLD => sources.held += 1,
                _ => sources.silent += usize::from(gateway.is_discovered),
            }
        }
        sources
    }

    /// Where gateways are, how old the last word of each is, and why it was not heard the last time.
    pub fn gateways(&self, now: Instant) -> impl Iterator<Item = (&str, Option<Duration>, Option<&str>)> {
        self.gateways.iter().map(move |(address, gateway)| {
            let age = gateway.last.as_ref().map(|last| now.saturating_duration_since(last.at));
            (&**address, age, gateway.failing.as_deref())
        })
    }

    /// Whether enough is known to ask for less than there is: every gateway has a word that counts, or who has none was
    /// waited for long enough.
    pub fn is_warm(&self, now: Instant) -> bool {
        let mut awaited = self.gateways.values().filter(|gateway| gateway.is_discovered);
        let heard = self.is_told && self.is_sighted(now) && awaited.all(|gateway| gateway.counts(now));
        heard || now.saturating_duration_since(self.warming) >= WARM
    }

    /// The pools that anybody tells of.
    pub fn pools(&self, now: Instant) -> Vec<String> {
        let mut names: Vec<String> =
            self.words(now).flat_map(|(_, last)| &last.pools).map(|pool| pool.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// How a pool stands, by those whose word counts. `None`: none of them tells of it.
    pub fn stand(&self, pool: &str, now: Instant) -> Option<Stand> {
        let mut stand = self.pool(pool, now)?;
        stand.work = self.mean(pool, stand.requests() as f64, now);
        // It counts only while requests wait, and is much to gather.
        stand.guard = (stand.queued > 0).then(|| self.guard(pool, now)).flatten();
        Some(stand)
    }

    /// The same, as it is at this moment.
    pub(super) fn pool(&self, name: &str, now: Instant) -> Option<Stand> {
        let told = self.words(now).flat_map(|(_, last)| last.pools_named(name).map(move |pool| (last.at, pool)));
        let told: Vec<_> = told.collect();
        let highest = told.iter().map(|(_, pool)| pool.epoch).max()?;
        // Of two words of one epoch (its owner has moved to another address) the later is right.
        let owner = told.iter().filter(|(_, pool)| pool.epoch == highest && highest > 0).max_by_key(|(at, _)| *at);
        let each = told.iter().filter(|(_, pool)| pool.epoch == 0);
        let mut stand = Stand::default();
        let mut newest: Option<Instant> = None;
        for (at, pool) in each.chain(owner) {
            stand.queued = stand.queued.saturating_add(pool.queued);
            stand.in_flight = stand.in_flight.saturating_add(pool.in_flight);
            stand.oldest_ms = stand.oldest_ms.max(pool.oldest_ms);
            stand.ready = stand.ready.max(pool.ready);
            stand.replicas = stand.replicas.max(pool.replicas);
            // A gateway that its driver does not reach forgets it.
            stand.release = stand.release.max(pool.release);
            if newest.is_none_or(|newest| *at >= newest) {
                // What the configuration says, which may have changed: as the last one has it.
                newest = Some(*at);
                (stand.slots_each, stand.target) = (pool.slots_each, pool.target);
                (stand.floor, stand.most) = (pool.floor, pool.most);
            }
        }
        Some(stand)
    }

    /// The work of a pool over the last [`MEAN`], each word counting for as long as it was the last.
    fn mean(&self, pool: &str, current: f64, now: Instant) -> f64 {
        let Some(memory) = self.memory.get(pool).filter(|memory| !memory.work.is_empty()) else { return current };
        let begin = now.checked_sub(MEAN).unwrap_or(self.started);
        let (mut sum, mut time) = (0.0, 0.0);
        let ends = memory.work.iter().skip(1).map(|(at, _)| *at).chain([now]);
        for ((at, work), end) in memory.work.iter().zip(ends) {
            let held = end.saturating_duration_since((*at).max(begin)).as_secs_f64();
            sum += *work as f64 * held;
            time += held;
        }
        if time > 0.0 { sum / time } else { current }
    }

    /// The P99 of the time to the first token over its SLO, of the model for which that is largest.
    fn guard(&self, pool: &str, now: Instant) -> Option<f64> {
        let mut slos = self.slos(now);
        slos.retain(|name, [ttft, _]| name.pool == pool && *ttft > 0);
        if slos.is_empty() {
            return None;
        }
        let measured = self.measured(Some(pool), now);
        let ratios = slos.iter().filter_map(|(name, [slo, _])| {
            let ttft = &measured.get(name)?.ttft;
            (ttft.count() >= GUARD_FROM).then(|| ttft.quantile(0.99).map(|micros| micros / 1e3 / *slo as f64))?
        });
        ratios.max_by(f64::total_cmp)
    }

    /// The replicas that anybody tells of.
    pub fn replicas(&self, now: Instant) -> impl Iterator<Item = &Replica> {
        self.words(now).flat_map(|(_, last)| &last.pools).flat_map(|pool| &pool.told)
    }

    /// What the configuration promises of models: the time to the first token and that of a whole request, in
    /// milliseconds; 0: nothing.
    pub fn slos(&self, now: Instant) -> BTreeMap<&Name, [u64; 2]> {
        let rows = self.words(now).flat_map(|(_, last)| last.rows());
        rows.map(|(name, row)| (name, [row.slo_ttft_ms, row.slo_p99_ms])).collect()
    }

    /// Whether there is, or was a moment ago, work for a pool, or a floor under it, as far as is known. Cheap: it is asked
    /// whenever a gateway was heard.
    pub fn is_active(&self, pool: &str, now: Instant) -> bool {
        self.pool(pool, now).is_some_and(|stand| self.has_work(pool, &stand, now))
    }

    fn has_work(&self, pool: &str, stand: &Stand, now: Instant) -> bool {
        let busy = self.memory.get(pool).and_then(|memory| memory.busy);
        let lingers = busy.is_some_and(|at| now.saturating_duration_since(at) < LINGER);
        stand.requests() > 0 || lingers || stand.floor.max(stand.release) > 0
    }

    /// What is answered for a pool.
    pub fn answer(&self, pool: &str, now: Instant) -> Answer {
        let Sources { fresh, held, silent, .. } = self.sources(now);
        if fresh + held == 0 {
            return Answer::Blind(format!("no gateway was heard within {HOLD:?} ({silent} are silent)"));
        }
        let Some(stand) = self.stand(pool, now) else {
            let known = self.memory.contains_key(pool);
            return if !known && self.is_warm(now) && silent == 0 {
                let there_are = self.pools(now).join(", ");
                Answer::NoSuchPool(format!("no gateway has a pool named {pool:?}; there are: {there_are}"))
            } else {
                Answer::Blind(format!("no gateway that was heard schedules pool {pool:?} now"))
            };
        };
        let wanted = wanted(&stand);
        let is_active = self.has_work(pool, &stand, now);
        let raises = wanted > f64::from(stand.ready) || stand.ready == 0 && is_active;
        if !raises && !self.is_warm(now) {
            return Answer::Blind(format!("not every gateway was heard yet ({silent} are silent)"));
        }
        Answer::Known { wanted, is_active }
    }
}
