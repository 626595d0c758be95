//! What the loader counts, and the page that Prometheus reads (text format 0.0.4).
//!
//! A loader is scraped and works on one thread, so these are plain numbers under a lock.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tutti_api::{AdapterList, Phase, Reason};

/// A metric: its name as it is printed, its kind, the name of its label, what it says.
type Row = (&'static str, &'static str, &'static str, &'static str);

const ADAPTERS: Row = ("tutti_loader_adapters", "gauge", "phase", "Adapters by how far they are");
const QUARANTINED: Row =
    ("tutti_loader_quarantined", "gauge", "reason", "Adapters that do not serve and will not as they are, by why");
const QUARANTINES: Row =
    ("tutti_loader_quarantines_total", "counter", "reason", "Times that an adapter was quarantined");
const RETRIES: Row = ("tutti_loader_retries_total", "counter", "reason", "Times that a step failed and is tried again");
const LISTS: Row = ("tutti_loader_polls_total", "counter", "result", "Looks at `adapters.from`. result: ok, failed");
const FETCHED: Row = ("tutti_loader_fetched_bytes_total", "counter", "", "Bytes that came from `adapters.from`");
const FETCH: Row = ("tutti_loader_fetch_seconds", "histogram", "", "Time that all files of one adapter took to come");
const PROBES: Row = (
    "tutti_loader_probes_total",
    "counter",
    "by",
    "Probes that were answered. by: gateway (in its turn, on an engine that serves), loader (on one that does not)",
);
const REGISTERED: Row = (
    "tutti_loader_registered_total",
    "counter",
    "",
    "Times that an engine took an adapter, also again after it had lost it",
);
const EVICTED: Row = ("tutti_loader_evicted_total", "counter", "", "Adapters that went from the disk to make room");
const DISK: Row = ("tutti_loader_disk_bytes", "gauge", "", "Bytes of adapters on the loader's disk");
const BUDGET: Row = ("tutti_loader_disk_budget_bytes", "gauge", "", "Bytes that they may take (`adapters.disk`)");
const NEWEST: Row = (
    "tutti_loader_newest_served_timestamp_seconds",
    "gauge",
    "",
    "When the newest adapter that serves came to serve, since 1970; absent before the first",
);
const ENGINE: Row = ("tutti_loader_engine_up", "gauge", "", "Whether the engine answers");
const SOURCE: Row = ("tutti_loader_source_up", "gauge", "", "Whether `adapters.from` answered the last time");
const PANICS: Row = (
    "tutti_loader_panics_total",
    "counter",
    "",
    "Times that a step broke off by a panic, which is a bug; the log says on what, and it is tried again",
);
const FULL: Row = (
    "tutti_loader_connections_full_total",
    "counter",
    "",
    "Connections to the loader's port that came when it had as many as it takes: the one that had done nothing for longest was closed",
);
const GATEWAY: Row = ("tutti_loader_gateway_up", "gauge", "", "Whether a gateway has asked within the last 30 s");

const ALL: [Row; 18] = [
    ADAPTERS,
    QUARANTINED,
    QUARANTINES,
    RETRIES,
    LISTS,
    FETCHED,
    FETCH,
    PROBES,
    REGISTERED,
    EVICTED,
    DISK,
    BUDGET,
    NEWEST,
    ENGINE,
    SOURCE,
    GATEWAY,
    PANICS,
    FULL,
];

/// Upper bounds of the buckets of [`FETCH`]. Unit: seconds.
const BUCKETS: [f64; 10] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0];

/// All that is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// Counters and gauges by row and label.
    values: BTreeMap<(&'static str, String), f64>,
    buckets: [u64; BUCKETS.len()],
    fetches: u64,
    fetch_seconds: f64,
}

impl Metrics {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, row: Row, label: &str, more: f64) {
        *self.counted().values.entry((row.0, label.to_owned())).or_default() += more;
    }

    fn set(&self, row: Row, value: f64) {
        self.counted().values.insert((row.0, String::new()), value);
    }

    /// An adapter was quarantined.
    pub(crate) fn quarantined(&self, reason: Reason) {
        self.add(QUARANTINES, &reason.to_string(), 1.0);
    }

    /// A step failed, and is tried again.
    pub(crate) fn retried(&self, reason: Reason) {
        self.add(RETRIES, &reason.to_string(), 1.0);
    }

    /// The source was looked at.
    pub(crate) fn polled(&self, ok: bool) {
        self.add(LISTS, if ok { "ok" } else { "failed" }, 1.0);
        self.set(SOURCE, f64::from(u8::from(ok)));
    }

    /// Bytes came.
    pub(crate) fn bytes(&self, bytes: u64) {
        self.add(FETCHED, "", bytes as f64);
    }

    /// All files of an adapter have come.
    pub(crate) fn fetched(&self, took: Duration) {
        let (mut counted, took) = (self.counted(), took.as_secs_f64());
        for (bucket, bound) in counted.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(took <= bound);
        }
        counted.fetches += 1;
        counted.fetch_seconds += took;
    }

    /// A probe was answered.
    pub(crate) fn probed(&self, by: &'static str) {
        self.add(PROBES, by, 1.0);
    }

    /// The engine took an adapter.
    pub(crate) fn registered(&self) {
        self.add(REGISTERED, "", 1.0);
    }

    /// An adapter serves that did not.
    pub(crate) fn served(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.set(NEWEST, now.as_secs_f64());
    }

    /// An adapter went to make room.
    pub(crate) fn evicted(&self) {
        self.add(EVICTED, "", 1.0);
    }

    /// What is on the disk, and may be.
    pub(crate) fn disk(&self, bytes: u64, budget: u64) {
        self.set(DISK, bytes as f64);
        self.set(BUDGET, budget as f64);
    }

    /// Whether the engine answers.
    pub(crate) fn engine(&self, up: bool) {
        self.set(ENGINE, f64::from(u8::from(up)));
    }

    /// A step broke off.
    pub(crate) fn broke(&self) {
        self.add(PANICS, "", 1.0);
    }

    /// A connection came when there were as many as there may be.
    pub(crate) fn full(&self) {
        self.add(FULL, "", 1.0);
    }

    /// The page.
    pub(crate) fn page(&self, list: &AdapterList, gateway: bool) -> String {
        let mut counted = self.counted();
        counted.values.insert((GATEWAY.0, String::new()), f64::from(u8::from(gateway)));
        let count = |phase| list.adapters.iter().filter(|adapter| adapter.phase == phase).count() as f64;
        for phase in Phase::ALL {
            counted.values.insert((ADAPTERS.0, phase.to_string()), count(phase));
        }
        counted.values.retain(|(name, _), _| *name != QUARANTINED.0);
        for why in
            list.adapters.iter().filter(|one| one.phase == Phase::Quarantined).filter_map(|one| one.reason.as_ref())
        {
            *counted.values.entry((QUARANTINED.0, why.reason.to_string())).or_default() += 1.0;
        }
        let mut page = String::new();
        for row in ALL {
            counted.print(row, &mut page);
        }
        page
    }
}

impl Counted {
    fn print(&self, (name, kind, label, help): Row, page: &mut String) {
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
        if kind == "histogram" {
            for (bucket, bound) in self.buckets.iter().zip(BUCKETS) {
                let _ = writeln!(page, "{name}_bucket{{le=\"{bound}\"}} {bucket}");
            }
            let (count, sum) = (self.fetches, self.fetch_seconds);
            let _ = writeln!(page, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
            return;
        }
        let mut of_this = self.values.iter().filter(|((of, _), _)| *of == name).peekable();
        if of_this.peek().is_none() && label.is_empty() && kind == "counter" {
            let _ = writeln!(page, "{name} 0");
        }
        for ((_, value_of), value) in of_this {
            let _ = match label {
                "" => writeln!(page, "{name} {value}"),
                label => writeln!(page, "{name}{{{label}=\"{value_of}\"}} {value}"),
            };
        }
    }
}

/// The metrics described for people, as a section of their page.
pub fn reference_markdown() -> String {
    let mut text = "\n## Of an adapter-loader\n\n`tutti adapter-loader` prints these at `/metrics` of its own port.\n\n| metric | kind | labels | |\n|---|---|---|---|\n".to_owned();
    for (name, kind, label, help) in ALL {
        let label = if label.is_empty() { String::new() } else { format!("`{label}`") };
        let _ = writeln!(text, "| `{name}` | {kind} | {label} | {help}. |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_family_once_and_what_was_counted() {
        let metrics = Metrics::default();
        metrics.quarantined(Reason::NotFinite);
        metrics.bytes(7);
        metrics.fetched(Duration::from_secs(2));
        metrics.engine(true);
        let page = metrics.page(&AdapterList::default(), false);
        for (name, kind, ..) in ALL {
            assert_eq!(page.matches(&format!("# TYPE {name} {kind}\n")).count(), 1, "{name}");
        }
        for line in [
            "tutti_loader_quarantines_total{reason=\"NotFinite\"} 1\n",
            "tutti_loader_fetched_bytes_total 7\n",
            "tutti_loader_fetch_seconds_bucket{le=\"1\"} 0\ntutti_loader_fetch_seconds_bucket{le=\"3\"} 1\n",
            "tutti_loader_fetch_seconds_count 1\n",
            "tutti_loader_adapters{phase=\"Ready\"} 0\n",
            "tutti_loader_registered_total 0\n",
            "tutti_loader_engine_up 1\n",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
    }
}
