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
        let waits = self.keeper.another().is_some();
        (waits || self.keeper.driver.is_at_work()).then_some(self.next)
    }

    /// Takes up a configuration; whether anything is new for it.
    pub(crate) fn configure(&mut self, config: &Config) -> bool {
        self.keeper.configure(config)
    }

    /// Does what is due by itself; whether anything is new for it.
    pub(crate) fn tick(&mut self, table: &Table) -> bool {
        let waits = self.keeper.another().is_some();
        self.next = Instant::now() + if waits { TAKE } else { TICK };
        if waits {
            self.keeper.claim();
            self.keeper.begin(0);
            if self.keeper.another().is_some() {
                return false;
            }
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
