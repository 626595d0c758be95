//! Releases, as far as they change what the cores see.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tutti_api::TrafficWord;
use tutti_control_plane::Report;

use super::Task;
use crate::releases::{Disobeyed, NotTaken, Releases, Wish};

/// How soon a table that could not be built is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A table that could not be built, so that what was decided is not in force.
#[derive(Debug)]
pub(super) struct Unbuilt {
    why: String,
    again: Instant,
}

impl Unbuilt {
    pub(super) fn new(why: &str) -> Self {
        Self { why: why.to_owned(), again: Instant::now() + AGAIN }
    }
}

impl Task {
    /// Resolves when a release is to be looked at, or is another process's from now on.
    pub(super) fn release_due(&self) -> impl Future<Output = ()> + use<> {
        let (due, drives) = match &self.releases {
            Releases::Lone(lone) => (lone.due(), !lone.is_over()),
            Releases::Led(_) => (None, false),
        };
        let shared = self.shared.clone();
        let due = due.into_iter().chain(self.unbuilt.as_ref().map(|unbuilt| unbuilt.again)).min();
        async move {
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = shared.ending.succeeded(), if drives => {}
            }
        }
    }

    /// Does what is due of releases by itself.
    pub(super) async fn release_tick(&mut self) {
        if self.unbuilt.as_ref().is_some_and(|unbuilt| unbuilt.again <= Instant::now()) {
            self.publish_again().await;
        }
        let table = self.shared.table().clone();
        let Releases::Lone(lone) = &mut self.releases else { return };
        if let Some(successor) = self.shared.ending.successor() {
            if !lone.is_over() {
                lone.let_go(successor);
            }
            return;
        }
        let before = lone.word();
        let is_new = lone.tick(&table);
        if is_new {
            lone.keep().await;
            if lone.word() != before {
                self.publish_again().await;
            }
        }
        self.tell();
    }

    /// Tells of the releases, for who scales and who looks.
    pub(super) fn tell(&self) {
        if let Releases::Lone(lone) = &self.releases {
            let (floors, standing) = lone.stands();
            self.shared.demand.floors.say(&floors, Instant::now());
            self.shared.releases.store(Arc::new(standing));
        }
    }

    /// Obeys somebody; yields once every queue goes by it.
    pub(super) async fn release(&mut self, wish: &Wish) -> Result<Report, Disobeyed> {
        // Whoever has just been taken over decides nothing, and whoever has just taken over need not be asked again.
        if self.shared.ending.is_succeeded() || matches!(&self.releases, Releases::Lone(lone) if lone.waits()) {
            self.release_tick().await;
        }
        let table = self.shared.table().clone();
        match &mut self.releases {
            Releases::Lone(lone) => {
                let before = lone.word();
                lone.command(&table, wish)?;
                // First it is kept: nobody is sent anywhere by what a restart would not know.
                lone.keep().await;
                if lone.word() != before {
                    let unbuilt =
                        |why| format!("it is decided, and not in force: the table for it cannot be built: {why}");
                    let published = self.publish(table.config.clone()).await;
                    published.map_err(|why| Disobeyed::Failed(unbuilt(why)))?;
                }
                self.tell();
                self.report(&wish.model)
            }
            Releases::Led(led) => Err(led.whose()),
        }
    }

    /// Tells of a model's release.
    pub(super) fn report(&mut self, model: &str) -> Result<Report, Disobeyed> {
        let table = self.shared.table().clone();
        match &mut self.releases {
            Releases::Lone(lone) => {
                let mut report = lone.report(&table, model)?;
                let unbuilt = self.unbuilt.as_ref();
                report.warnings.extend(unbuilt.map(|unbuilt| {
                    format!("this gateway goes by what was before: the table cannot be built: {}", unbuilt.why)
                }));
                Ok(report)
            }
            Releases::Led(led) => Err(led.whose()),
        }
    }

    /// Goes by a driver's word; yields once every queue does, with term and generation of what they go by.
    pub(super) async fn word(&mut self, word: TrafficWord) -> Result<(u64, u64), NotTaken> {
        let Releases::Led(led) = &mut self.releases else { return Err(NotTaken::Lone) };
        let table = self.shared.table().clone();
        let lacks = lacking(&table.config, &word);
        let age = word.age();
        if led.take(word)? {
            // Others that start learn it here, whether or not this gateway can go by it.
            if let Some(peers) = &self.shared.peers {
                peers.word.store(led.word().cloned().map(Arc::new));
            }
            if let Err(why) = self.publish(table.config.clone()).await {
                tracing::error!(why, "the driver's word is not gone by: the table could not be built");
                let in_force = match &self.releases {
                    Releases::Led(led) => led.goes_by(),
                    Releases::Lone(_) => None,
                };
                return Err(NotTaken::Unbuilt { why, in_force });
            }
        }
        if lacks.is_empty() { Ok(age) } else { Err(NotTaken::Lacking(lacks.join(", "))) }
    }
}

/// The revisions that a word names and a configuration does not have.
fn lacking(config: &tutti_api::Config, word: &TrafficWord) -> Vec<String> {
    let has = |model: &str, revision: &str| {
        let model = config.models.iter().find(|known| known.name == model);
        model.is_some_and(|model| model.revisions.iter().any(|known| known.name == revision))
    };
    let named = word.models.iter().flat_map(|of| of.revisions.iter().map(move |part| (&of.model, &part.revision)));
    named.filter(|(model, revision)| !has(model, revision)).map(|(model, of)| format!("{model}@{of}")).collect()
}
