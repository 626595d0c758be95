//! Load over keep-alive connections from one thread: closed loop (a connection sends when it has its answer) and open
//! loop (requests have times of their own, and latency counts from them, so that a slow answer hides no other).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, LocalSet};

use crate::http::Connection;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(60);
/// How long answers may take to come in after the last request.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Every connection back to back.
    Closed,
    /// This many a second, evenly spaced.
    Even(f64),
    /// This many a second on average, as independent callers send (seeded: the same times in every run).
    Poisson(f64),
}

/// A load.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where to.
    pub addr: SocketAddr,
    /// The bytes of every request.
    pub request: Vec<u8>,
    /// Connections that are open at once.
    pub connections: usize,
    /// When requests are sent.
    pub pace: Pace,
    /// Load that is not measured.
    pub warm_up: Duration,
    /// Load that is.
    pub duration: Duration,
}

/// What was measured.
#[derive(Debug)]
pub struct Report<T> {
    /// Requests answered with 200 in the measured time.
    pub requests: u64,
    /// Other answers, and connections that broke.
    pub errors: u64,
    /// How the last of them ended, in words.
    pub last_error: String,
    /// Requests of an open loop that were due and had no answer when the drain ended.
    pub unanswered: u64,
    /// The measured time.
    pub elapsed: Duration,
    /// Nanoseconds.
    pub latency: Histogram<u64>,
    /// What the probe said when measuring began.
    pub before: T,
    /// What it said when measuring ended.
    pub after: T,
}

impl<T> Report<T> {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// A latency quantile in microseconds.
    pub fn micros(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// Counters of one run, shared by its connections on one thread.
struct Tally {
    requests: Cell<u64>,
    errors: Cell<u64>,
    last_error: RefCell<String>,
    latency: RefCell<Histogram<u64>>,
    stopping: Cell<bool>,
}

/// Runs a load on this thread; `probe` is asked when measuring begins and ends.
///
/// # Errors
/// A connection could not be opened at the start.
pub fn run<T>(plan: &Plan, probe: impl Fn() -> T) -> io::Result<Report<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measure(plan, probe))
}

/// Files that thousands of streams want of load, replica and gateway each.
const FILES: u64 = 65_536;

/// Lets this process, and those it starts later, open as many files as the benches want, or as many as it may.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map(|maximum| maximum.max(FILES));
    // Only root may have more than the maximum. If neither is granted, opening a connection says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }));
}

async fn measure<T>(plan: &Plan, probe: impl Fn() -> T) -> io::Result<Report<T>> {
    let tally = Rc::new(Tally {
        requests: Cell::new(0),
        errors: Cell::new(0),
        last_error: RefCell::default(),
        latency: RefCell::new(histogram()),
        stopping: Cell::new(false),
    });
    let mut connections = VecDeque::new();
    for _ in 0..plan.connections {
        connections.push_back(Connection::open(plan.addr).await?);
    }
    let due = match plan.pace {
        Pace::Closed => None,
        Pace::Even(rate) => Some(Due::start(plan, rate, false)),
        Pace::Poisson(rate) => Some(Due::start(plan, rate, true)),
    };
    let mut tasks = JoinSet::new();
    for connection in connections {
        let request: Rc<[u8]> = plan.request.as_slice().into();
        match &due {
            None => tasks.spawn_local(closed(connection, request, tally.clone())),
            Some(due) => tasks.spawn_local(open(connection, request, tally.clone(), due.clone())),
        };
    }
    tokio::time::sleep(plan.warm_up).await;
    tally.latency.borrow_mut().reset();
    let (requests, errors, start, before) = (tally.requests.get(), tally.errors.get(), Instant::now(), probe());
    tokio::time::sleep(plan.duration).await;
    let (after, elapsed) = (probe(), start.elapsed());
    let report_requests = tally.requests.get() - requests;
    tally.stopping.set(true);
    let drained = tokio::time::timeout(DRAIN_MAX, async { while tasks.join_next().await.is_some() {} }).await;
    let waiting = due.map_or(0, |due| due.left());
    let unanswered = waiting + if drained.is_err() { tasks.len() } else { 0 };
    let latency = tally.latency.replace(histogram());
    Ok(Report {
        requests: report_requests,
        errors: tally.errors.get() - errors,
        last_error: tally.last_error.take(),
        unanswered: unanswered as u64,
        elapsed,
        latency,
        before,
        after,
    })
}

fn histogram() -> Histogram<u64> {
    let max = u64::try_from(LATENCY_MAX.as_nanos()).unwrap_or(u64::MAX);
    Histogram::new_with_bounds(100, max, 3).expect("bounds in order and three digits are valid")
}

impl Tally {
    fn record(&self, since: Instant, result: io::Result<u16>) -> bool {
        let ok = matches!(result, Ok(200));
        if !ok {
            self.last_error
                .replace(result.as_ref().map_or_else(ToString::to_string, |status| format!("status {status}")));
        }
        let counter = if ok { &self.requests } else { &self.errors };
        counter.set(counter.get() + 1);
        let nanos = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.latency.borrow_mut().saturating_record(nanos);
        result.is_ok()
    }
}

async fn closed(mut connection: Connection, request: Rc<[u8]>, tally: Rc<Tally>) {
    while !tally.stopping.get() {
        let since = Instant::now();
        let result = connection.exchange(&request).await;
        if !tally.record(since, result) && !connection.reopen().await {
            return;
        }
    }
}

async fn open(mut connection: Connection, request: Rc<[u8]>, tally: Rc<Tally>, due: Rc<Due>) {
    while let Some(since) = due.next().await {
        let result = connection.exchange(&request).await;
        if !tally.record(since, result) && !connection.reopen().await {
            return;
        }
    }
}

/// Requests of an open loop that are due and not taken by a connection; `None` tells one connection to end.
struct Due {
    times: RefCell<VecDeque<Option<Instant>>>,
    ready: Semaphore,
}

impl Due {
    /// Starts a thread that keeps the times, as the runtime's own timer is a millisecond coarse.
    fn start(plan: &Plan, rate: f64, poisson: bool) -> Rc<Due> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let (length, connections) = (plan.warm_up + plan.duration, plan.connections);
        std::thread::spawn(move || pace(length, rate, poisson, &sender));
        let due = Rc::new(Due { times: RefCell::default(), ready: Semaphore::new(0) });
        let filled = due.clone();
        tokio::task::spawn_local(async move {
            while let Some(at) = receiver.recv().await {
                filled.push(Some(at));
            }
            (0..connections).for_each(|_| filled.push(None));
        });
        due
    }

    fn push(&self, at: Option<Instant>) {
        self.times.borrow_mut().push_back(at);
        self.ready.add_permits(1);
    }

    async fn next(&self) -> Option<Instant> {
        self.ready.acquire().await.ok()?.forget();
        self.times.borrow_mut().pop_front().flatten()
    }

    fn left(&self) -> usize {
        self.times.borrow().iter().flatten().count()
    }
}

/// Sends each time when it has come; the last one is before `length` has passed.
fn pace(length: Duration, rate: f64, poisson: bool, sender: &mpsc::UnboundedSender<Instant>) {
    let start = Instant::now();
    let mut at = 0.0;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    loop {
        at += if poisson { -uniform(&mut random).ln() / rate } else { 1.0 / rate };
        if at >= length.as_secs_f64() {
            return;
        }
        let due = start + Duration::from_secs_f64(at);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if sender.send(due).is_err() {
            return;
        }
    }
}

/// The next number of a xorshift generator, in (0, 1].
fn uniform(state: &mut u64) -> f64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    ((*state >> 11) + 1) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use tutti_simulator::{Config, Model, Running, Simulator};

    use super::*;
    use crate::http::{MODEL, chat_body, post};

    fn replica() -> Running {
        Simulator::start(Config::instant(Model::chat(MODEL, 1))).unwrap()
    }

    fn plan(replica: &Running, connections: usize, pace: Pace) -> Plan {
        Plan {
            addr: replica.addr(),
            request: post("localhost", "/v1/chat/completions", &chat_body(1024), None),
            connections,
            pace,
            warm_up: Duration::from_millis(10),
            duration: Duration::from_millis(100),
        }
    }

    #[test]
    fn a_closed_loop_counts_what_the_replica_saw() {
        let replica = replica();
        let report = run(&plan(&replica, 4, Pace::Closed), || replica.requests()).unwrap();
        assert!(report.requests > 0);
        assert_eq!((report.errors, report.unanswered, replica.connections()), (0, 0, 4));
        // At each probe every connection may have an answer on its way.
        assert!((report.after - report.before).abs_diff(report.requests) <= 4);
    }

    #[test]
    fn an_open_loop_sends_at_its_rate_and_loses_nothing() {
        for pace in [Pace::Even(500.0), Pace::Poisson(500.0)] {
            let replica = replica();
            let report = run(&plan(&replica, 8, pace), || ()).unwrap();
            assert_eq!((report.errors, report.unanswered), (0, 0));
            assert!((30..90).contains(&replica.requests()), "{pace:?}: {} requests", replica.requests());
        }
    }

    #[test]
    fn an_open_loop_counts_the_wait_for_a_free_connection() {
        let mut config = Config::quick(Model::chat(MODEL, 1));
        config.machine.token_time = Duration::from_millis(10);
        config.answer_tokens = 3;
        let replica = Simulator::start(config).unwrap();
        let mut plan = plan(&replica, 1, Pace::Even(200.0));
        plan.request = post("localhost", "/v1/completions", r#"{"model":"m:1","prompt":"x"}"#, None);
        let report = run(&plan, || ()).unwrap();
        // 20 ms of work every 5 ms on one connection: the last ones have waited for most of the run.
        assert!(report.micros(1.0) > 50_000.0, "{}", report.micros(1.0));
    }

    #[test]
    fn a_refusal_is_an_error() {
        let replica = replica();
        let mut plan = plan(&replica, 1, Pace::Closed);
        plan.request = post("localhost", "/nothing", "", None);
        let report = run(&plan, || ()).unwrap();
        assert!(report.errors > 0 && report.requests == 0);
    }
}
