//! A driver with its clock and its file: what a lone gateway and the process that drives several have in common.

use std::time::{Instant, SystemTime};

use tutti_api::Config;
use tutti_control_plane::{Driver, Floor, Millis, Refused, Report, State};

use super::{Disobeyed, Store, Wish};

/// A driver that keeps what it decides.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) driver: Driver,
    name: String,
    /// `None`: nothing is kept.
    store: Option<Store>,
    /// What the operator should know.
    trouble: Option<String>,
    /// Another process drives from now on, and for good.
    is_over: bool,
    /// The system's clock when the process began: time goes on from there, however that is set meanwhile.
    began: (Millis, Instant),
}

impl Keeper {
    /// Of this name; what is kept where is not looked at yet.
    pub(crate) fn new(name: &str, store: Option<Store>) -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let began = (u64::try_from(wall.as_millis()).unwrap_or(0), Instant::now());
        let lost = || "there is no folder to keep it in, so that it is lost at the next start".to_owned();
        let trouble = store.is_none().then(lost);
        let driver = Driver::new(name, State::default());
        Self { driver, name: name.to_owned(), store, trouble, is_over: false, began }
    }

    /// Makes what is kept its own, unless another process has it.
    pub(crate) fn claim(&mut self) {
        if let Some(store) = &mut self.store {
            self.trouble = store.take().err();
        }
    }

    /// Goes on from what is kept, whoever has it, in a term after this one.
    pub(crate) fn begin(&mut self, after: u64) {
        let Some(store) = &self.store else { return };
        let (state, said) = store.read();
        if let Some(said) = said {
            tracing::error!("{said}");
        }
        // A clock that was put back holds nothing up: time goes on from what was done last.
        let last = state.releases.values().map(|release| release.at).max().unwrap_or_default();
        self.began.0 = self.began.0.max(last);
        self.driver = Driver::new(&self.name, State { term: state.term.max(after), ..state });
    }

    /// Lets what is kept go, to whoever drives from now on: nothing is decided here any more.
    pub(crate) fn let_go(&mut self, successor: String) {
        self.store = None;
        self.trouble = Some(successor);
        self.is_over = true;
    }

    /// Whether it was let go.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Who has what is kept, if another process does.
    pub(crate) fn another(&self) -> Option<&str> {
        let waits = self.store.as_ref().is_some_and(|store| !store.is_ours());
        self.trouble.as_deref().filter(|_| waits || self.is_over)
    }

    fn now(&self) -> Millis {
        self.began.0 + u64::try_from(self.began.1.elapsed().as_millis()).unwrap_or(0)
    }

    /// What pools need now.
    pub(crate) fn floors(&self) -> Vec<Floor> {
        self.driver.floors(self.now())
    }

    /// Takes up a configuration; whether anything is new for it.
    pub(crate) fn configure(&mut self, config: &Config) -> bool {
        let now = self.now();
        self.driver.configure(&config.models, &config.pools, now)
    }

    /// Does what is due by itself; whether anything is new for it.
    pub(crate) fn tick(&mut self) -> bool {
        let now = self.now();
        let why = |driver: &Driver| -> Vec<(String, String)> {
            let releases = driver.state().releases.iter();
            releases.map(|(model, release)| (model.clone(), release.reason.clone())).collect()
        };
        let before = why(&self.driver);
        let new = self.driver.tick(now);
        for ((model, before), (_, reason)) in before.iter().zip(why(&self.driver)) {
            if *before != reason {
                let by = self.driver.release(model).map(|release| release.by.clone());
                tracing::info!(model, by, "release: {reason}");
            }
        }
        new
    }

    /// Obeys somebody.
    ///
    /// # Errors
    /// Why not; then all stays as it was.
    pub(crate) fn command(&mut self, wish: &Wish) -> Result<(), Disobeyed> {
        if let Some(another) = self.another() {
            return Err(Disobeyed::Another(another.to_owned()));
        }
        let now = self.now();
        let release = self.driver.command(&wish.model, &wish.command, &wish.by, now)?;
        tracing::info!(model = release.model, by = release.by, "release: {}", release.reason);
        Ok(())
    }

    /// What is told of a model.
    ///
    /// # Errors
    /// There is no such model.
    pub(crate) fn report(&self, model: &str) -> Result<Report, Disobeyed> {
        let known = || self.driver.state().releases.keys().cloned().collect();
        let report = Report::of(&self.driver, model);
        let mut report = report.ok_or_else(|| Refused::NoModel { model: model.to_owned(), known: known() })?;
        report.warnings.extend(self.trouble.clone());
        Ok(report)
    }

    /// Keeps what was decided. Where that fails it holds until the next start all the same, and is told.
    pub(crate) async fn keep(&mut self) {
        let Some(store) = self.store.take_if(|store| store.is_ours()) else { return };
        let state = self.driver.state().clone();
        let kept = tokio::task::spawn_blocking(move || {
            let kept = store.write(&state);
            (store, kept)
        });
        // A thread that panics takes the lock with it: then nothing is kept any more, and that is told.
        let Ok((store, kept)) = kept.await else {
            self.trouble = Some("what was decided cannot be kept".to_owned());
            return;
        };
        self.store = Some(store);
        if let Err(why) = &kept {
            tracing::error!(why, "what was decided of releases is not kept");
        }
        self.trouble = kept.err().map(|why| format!("it is not kept, and lost at the next start: {why}"));
    }
}
