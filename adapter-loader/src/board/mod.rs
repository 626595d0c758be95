//! What the loader tells, and what it is told: between those who work and those who ask.

mod leases;
mod readiness;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};
use tutti_api::{AdapterList, AdapterState, EngineName, Leases, ProbeResult};

pub(crate) use leases::{LeaseBook, LeaseRefused};
pub(crate) use readiness::{Readiness, Standing};

use crate::metrics::Metrics;

/// How long a gateway counts as being there after its last poll.
pub(crate) const GATEWAY_GONE: Duration = Duration::from_secs(30);
/// Most probes that wait for a gateway at once.
const MAX_PROBES: usize = 10_000;

/// What all parts of a loader share.
#[derive(Debug)]
pub(crate) struct Board {
    list: watch::Sender<Arc<AdapterList>>,
    told: Mutex<Told>,
    /// Somebody told something.
    pub(crate) news: Notify,
    pub(crate) metrics: Metrics,
}

#[derive(Debug)]
struct Told {
    leases: LeaseBook,
    readiness: Option<Readiness>,
    probes: HashMap<EngineName, oneshot::Sender<ProbeResult>>,
    /// When a gateway last asked.
    asked: Option<Instant>,
    /// Those who are asking now.
    asking: usize,
    /// Whether the engine served something of ours when this run found it.
    resumes: bool,
    /// Until when gateways may be there that this run has not heard of yet.
    blanket: Instant,
}

impl Board {
    /// Of a run of the loader that starts now; until `blanket` every name counts as leased.
    pub(crate) fn new(blanket: Instant) -> Self {
        let list = AdapterList { instance: instance(), version: 1, adapters: Vec::new() };
        let told = Told {
            leases: LeaseBook::new(blanket),
            readiness: None,
            probes: HashMap::new(),
            asked: None,
            asking: 0,
            resumes: false,
            blanket,
        };
        Self {
            list: watch::Sender::new(Arc::new(list)),
            told: Mutex::new(told),
            news: Notify::new(),
            metrics: Metrics::default(),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how all adapters are; whoever waits hears of it where it is another word than before.
    pub(crate) fn announce(&self, adapters: Vec<AdapterState>) {
        self.list.send_if_modified(|list| {
            if list.adapters == adapters {
                return false;
            }
            *list = Arc::new(AdapterList { instance: list.instance.clone(), version: list.version + 1, adapters });
            true
        });
    }

    /// What was told last.
    pub(crate) fn list(&self) -> Arc<AdapterList> {
        self.list.borrow().clone()
    }

    /// What was told last, as soon as it is not version `since`, or after `wait`. Who waits is a gateway: people who look by
    /// hand do not, and nobody is to wait for them to run probes.
    pub(crate) async fn list_after(&self, since: Option<u64>, wait: Option<Duration>) -> Arc<AdapterList> {
        let _asking = wait.is_some().then(|| Asking::of(self));
        let mut list = self.list.subscribe();
        let other = list.wait_for(|list| since != Some(list.version));
        let _ = tokio::time::timeout(wait.unwrap_or_default(), other).await;
        self.list()
    }

    /// Takes a gateway's leases.
    pub(crate) fn lease(&self, leases: Leases, now: Instant) -> Result<(), LeaseRefused> {
        self.told().leases.put(leases, now)?;
        self.news.notify_one();
        Ok(())
    }

    /// Whether a gateway may still send requests for the name.
    pub(crate) fn is_leased(&self, name: &EngineName, now: Instant) -> bool {
        self.told().leases.holds(name, now)
    }

    /// Whether a name may be taken from the engine now: no gateway may still send requests for it. As long as what this yields
    /// is kept, no gateway is promised that it stays.
    pub(crate) fn let_go(&self, name: &EngineName, now: Instant) -> Option<Going<'_>> {
        self.told().leases.goes(name, now).then(|| Going { board: self, name: name.clone() })
    }

    /// When the next lease ends by itself.
    pub(crate) fn next_lease_end(&self, now: Instant) -> Option<Instant> {
        self.told().leases.next_end(now)
    }

    /// Whether a gateway sends requests to the engine, as far as can be known: it asks here, and the engine was ready once, or
    /// served something of an earlier run's.
    pub(crate) fn is_serving(&self, now: Instant) -> bool {
        let told = self.told();
        let recently = told.asked.is_some_and(|asked| now.saturating_duration_since(asked) < GATEWAY_GONE);
        let was_ready = told.resumes || told.readiness.as_ref().is_some_and(Readiness::is_ready);
        (recently || told.asking > 0) && was_ready
    }

    /// The same, or a gateway did and has not found this run of the loader yet.
    pub(crate) fn may_be_serving(&self, now: Instant) -> bool {
        let may_come = {
            let told = self.told();
            told.resumes && now < told.blanket
        };
        may_come || self.is_serving(now)
    }

    /// The engine serves something of an earlier run's.
    pub(crate) fn resume(&self) {
        self.told().resumes = true;
    }

    /// Where the answer to a probe comes in, once a gateway has asked for it. The probe itself stands in the list.
    pub(crate) fn expect_probe(&self, name: EngineName) -> Option<oneshot::Receiver<ProbeResult>> {
        let mut told = self.told();
        told.probes.retain(|_, waits| !waits.is_closed());
        if told.probes.len() >= MAX_PROBES {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        told.probes.insert(name, answer);
        Some(answered)
    }

    /// Takes what came of a probe; whether anybody waited for it.
    pub(crate) fn probed(&self, name: &EngineName, result: ProbeResult) -> bool {
        let waits = self.told().probes.remove(name);
        waits.is_some_and(|waits| waits.send(result).is_ok())
    }

    /// Begins to tell whether the replica may start and serve.
    pub(crate) fn begin(&self, readiness: Readiness) {
        self.told().readiness = Some(readiness);
    }

    /// Hears how those stand that were wanted first; yields when it wants to hear again at the latest.
    pub(crate) fn look(
        &self,
        now: Instant,
        standing: impl Fn(&tutti_api::AdapterPath) -> Option<Standing>,
    ) -> Option<Instant> {
        let mut told = self.told();
        let readiness = told.readiness.as_mut()?;
        let before = (readiness.is_started(), readiness.is_ready());
        readiness.look(now, standing);
        let after = (readiness.is_started(), readiness.is_ready());
        let next = readiness.next().filter(|next| *next > now);
        drop(told);
        if !before.0 && after.0 {
            tracing::info!("what was wanted first is on the disk: the engine may start");
        }
        if !before.1 && after.1 {
            tracing::info!("each adapter that was wanted first is ready or quarantined: the replica may serve");
        }
        next
    }

    /// Whether the engine may start.
    pub(crate) fn is_started(&self) -> bool {
        self.told().readiness.as_ref().is_some_and(Readiness::is_started)
    }

    /// Whether the replica may serve.
    pub(crate) fn is_ready(&self) -> bool {
        self.told().readiness.as_ref().is_some_and(Readiness::is_ready)
    }
}

/// Somebody who waits for news. Who is waiting is there.
struct Asking<'b>(&'b Board);

impl<'b> Asking<'b> {
    fn of(board: &'b Board) -> Self {
        board.told().asking += 1;
        Self(board)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut told = self.0.told();
        told.asking -= 1;
        told.asked = Some(Instant::now());
    }
}

/// A name on its way out of the engine.
#[derive(Debug)]
pub(crate) struct Going<'b> {
    board: &'b Board,
    name: EngineName,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.board.told().leases.gone(&self.name);
    }
}

/// Tells this run from every other.
fn instance() -> String {
    let mut bytes = [0; 8];
    // Without random numbers the time and the process have to do.
    if getrandom::fill(&mut bytes).is_err() {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        bytes = (u64::from(std::process::id()) << 32 ^ since.as_nanos() as u64).to_le_bytes();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tutti_api::Phase;

    fn state(phase: Phase) -> AdapterState {
        let path = "risk/v1".parse().unwrap();
        AdapterState { path, engine_name: None, digest: None, phase, reason: None, probe: None }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
    }

    #[test]
    fn who_waits_hears_of_the_next_change_and_of_no_repetition() {
        block_on(async {
            let board = Arc::new(Board::new(Instant::now()));
            let first = board.list_after(None, Some(Duration::from_secs(60))).await;
            assert_eq!((first.version, first.adapters.len()), (1, 0), "at once");
            let waits = tokio::spawn({
                let board = board.clone();
                async move { board.list_after(Some(1), Some(Duration::from_secs(60))).await }
            });
            tokio::task::yield_now().await;
            board.announce(Vec::new());
            tokio::task::yield_now().await;
            assert!(!waits.is_finished(), "nothing has changed");
            board.announce(vec![state(Phase::Fetching)]);
            assert_eq!(waits.await.unwrap().adapters[0].phase, Phase::Fetching);
            assert_eq!(board.list_after(Some(2), Some(Duration::from_secs(60))).await.version, 2, "after the wait");
            assert_eq!(
                board.list_after(Some(7), Some(Duration::from_secs(60))).await.version,
                2,
                "of another run: at once"
            );
        });
    }

    #[test]
    fn an_engine_serves_once_it_was_ready_and_a_gateway_asks() {
        block_on(async {
            let board = Board::new(Instant::now());
            let _ = board.list_after(None, Some(Duration::ZERO)).await;
            assert!(!board.is_serving(Instant::now()), "it was never ready");
            board.begin(Readiness::new(Vec::new(), Instant::now(), Duration::ZERO));
            board.look(Instant::now(), |_| None);
            assert!(board.is_serving(Instant::now()));
            assert!(!board.is_serving(Instant::now() + GATEWAY_GONE), "nobody has asked for long");
            let asking = Asking::of(&board);
            assert!(board.is_serving(Instant::now() + GATEWAY_GONE), "somebody is waiting for news");
            drop(asking);
        });
    }

    #[test]
    fn an_engine_that_served_before_this_run_serves_on_until_no_gateway_has_come() {
        block_on(async {
            let now = Instant::now();
            let board = Board::new(now + Duration::from_secs(30));
            let _ = board.list_after(None, Some(Duration::ZERO)).await;
            assert!(
                !board.may_be_serving(now),
                "a gateway asks, and there is nothing yet that it could send requests for"
            );
            let board = Board::new(now + Duration::from_secs(30));
            board.resume();
            assert!(board.may_be_serving(now), "a gateway may be about to come back");
            assert!(!board.may_be_serving(now + Duration::from_secs(30)), "none has");
            let _ = board.list_after(None, Some(Duration::ZERO)).await;
            assert!(
                board.may_be_serving(Instant::now() + GATEWAY_GONE / 2),
                "it has, and the replica need not be ready anew"
            );
        });
    }

    #[test]
    fn a_probe_is_answered_once() {
        let board = Board::new(Instant::now());
        let name: EngineName = "risk:v1".parse().unwrap();
        assert!(!board.probed(&name, ProbeResult::default()), "nobody asked");
        let mut answered = board.expect_probe(name.clone()).unwrap();
        assert!(board.probed(&name, ProbeResult { error: Some("x".into()), ..ProbeResult::default() }));
        assert!(!board.probed(&name, ProbeResult::default()));
        assert_eq!(answered.try_recv().unwrap().error.as_deref(), Some("x"));
    }
}
