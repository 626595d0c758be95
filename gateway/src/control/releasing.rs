//! Releases, as far as they change what the cores see.

use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use tutti_api::TrafficWord;
use tutti_control_plane::Report;

use super::Task;
use crate::releases::{Disobeyed, NotTaken, Releases, Wish};

impl Task {
    /// Resolves when a release is to be looked at.
    pub(super) fn release_due(&self) -> impl Future<Output = ()> + use<> {
        let due = match &self.releases {
            Releases::Lone(lone) => lone.due(),
            Releases::Led(_) => None,
        };
        async move {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => pending().await,
            }
        }
    }

    /// Does what is due of releases by itself.
    pub(super) async fn release_tick(&mut self) {
        let table = self.shared.table().clone();
        let Releases::Lone(lone) = &mut self.releases else { return };
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
        let table = self.shared.table().clone();
        match &mut self.releases {
            Releases::Lone(lone) => {
                let before = lone.word();
                lone.command(&table, wish)?;
                // First it is kept: nobody is sent anywhere by what a restart would not know.
                lone.keep().await;
                if lone.word() != before {
                    self.publish(table.config.clone()).await.map_err(Disobeyed::Failed)?;
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
            Releases::Lone(lone) => lone.report(&table, model),
            Releases::Led(led) => Err(led.whose()),
        }
    }

    /// Goes by a driver's word; yields once every queue does.
    pub(super) async fn word(&mut self, word: TrafficWord) -> Result<(), NotTaken> {
        let Releases::Led(led) = &mut self.releases else { return Err(NotTaken::Lone) };
        let table = self.shared.table().clone();
        let lacks = lacking(&table.config, &word);
        if led.take(word)? {
            let word = led.word().cloned();
            self.publish_again().await;
            if let Some(peers) = &self.shared.peers {
                peers.word.store(word.map(Arc::new));
            }
        }
        if lacks.is_empty() { Ok(()) } else { Err(NotTaken::Lacking(lacks.join(", "))) }
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
