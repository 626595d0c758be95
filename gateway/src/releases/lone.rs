//! A lone gateway drives its releases itself.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tutti_api::{Config, TrafficWord};
use tutti_control_plane::{Floor, Report, Standing};

use super::{Disobeyed, Keeper, Store, Wish};
use crate::table::Table;

/// What its own evidence is called.
const HERE: &str = "here";
/// How often a change under way is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often one looks whether a former process has let go of what is kept.
const TAKE: Duration = Duration::from_millis(50);

/// The releases of a lone gateway.
#[derive(Debug)]
pub(crate) struct Lone {
    keeper: Keeper,
    next: Instant,
}

impl Lone {
    /// Of a gateway of this name, which keeps its releases in this file.
    pub(crate) fn open(name: &str, file: Option<PathBuf>) -> Self {
        let mut keeper = Keeper::new(name, file.map(Store::at));
        keeper.claim();
        keeper.begin(0);
        Self { keeper, next: Instant::now() }
    }

    /// When there is something to look at.
    pub(crate) fn due(&self) -> Option<Instant> {
        let looks = !self.is_over() && (self.waits() || self.keeper.driver.is_at_work());
        looks.then_some(self.next)
    }

    /// Whether a former process has not let go of what is kept yet.
    pub(crate) fn waits(&self) -> bool {
        !self.is_over() && self.keeper.another().is_some()
    }

    /// Whether another process has taken over, so that nothing is decided here any more.
    pub(crate) fn is_over(&self) -> bool {
        self.keeper.is_over()
    }

    /// Lets what is kept go: this process has taken over, and need not wait until this one has drained.
    pub(crate) fn let_go(&mut self, successor: u32) {
        self.keeper.let_go(format!("process {successor} has taken over from this gateway, and drives its releases"));
    }

    /// Takes up a configuration; whether anything is new for it.
    pub(crate) fn configure(&mut self, config: &Config) -> bool {
        !self.is_over() && self.keeper.configure(config)
    }

    /// Does what is due by itself; whether anything is new for it.
    pub(crate) fn tick(&mut self, table: &Table) -> bool {
        if self.is_over() {
            return false;
        }
        let waits = self.waits();
        self.next = Instant::now() + if waits { TAKE } else { TICK };
        if waits {
            self.keeper.claim();
            if self.waits() {
                return false;
            }
            // Only now: what the former process decided last is in it, and is news for the table here.
            self.keeper.begin(0);
            self.keeper.configure(&table.config);
            return true;
        }
        self.hear(table);
        self.keeper.tick()
    }

    fn hear(&mut self, table: &Table) {
        self.keeper.driver.hear(HERE, super::heard(table));
    }

    /// Obeys somebody.
    ///
    /// # Errors
    /// Why not; then all stays as it was.
    pub(crate) fn command(&mut self, table: &Table, wish: &Wish) -> Result<(), Disobeyed> {
        self.hear(table);
        self.keeper.command(wish)
    }

    /// What is told of a model.
    pub(crate) fn report(&mut self, table: &Table, model: &str) -> Result<Report, Disobeyed> {
        self.hear(table);
        self.keeper.report(model)
    }

    /// What tables go by.
    pub(crate) fn word(&self) -> TrafficWord {
        self.keeper.driver.word()
    }

    /// What pools need for what is under way, and how all releases stand.
    pub(crate) fn stands(&self) -> (Vec<Floor>, Vec<Standing>) {
        (self.keeper.floors(), self.keeper.driver.standing())
    }

    /// Keeps what was decided.
    pub(crate) async fn keep(&mut self) {
        self.keeper.keep().await;
    }
}
