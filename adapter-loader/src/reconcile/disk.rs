//! The disk's budget: who goes when somebody needs room.

use std::collections::HashMap;
use std::time::Instant;

use tutti_api::{AdapterPath, Reason};

use super::{Reconciler, base};
use crate::fault::{Point, point};
use crate::pipeline::{Failure, Room};
use crate::store::{Held, Worth, evict};

impl Reconciler {
    /// Gives somebody room, if need be by taking others' artefacts from the disk. What serves goes on serving: the engine
    /// has it, and only where that loses it, it has to be fetched again.
    pub(super) fn make_room(&mut self, room: Room) {
        let Room { path, bytes, answer } = room;
        let found = self.room(&path, bytes);
        let is_promised = found.is_ok();
        // Who asked may have been stopped: then nothing is promised to anybody.
        if answer.send(found).is_err() || !is_promised {
            return;
        }
        if base::path(&self.wants.spec).as_ref() == Some(&path) {
            self.bringing_base.reserved = bytes;
        } else if let Some(entry) = self.entries.get_mut(&path) {
            entry.reserved += bytes;
        }
    }

    fn room(&mut self, path: &AdapterPath, bytes: u64) -> Result<(), Failure> {
        let budget = self.wants.spec.disk.bytes() as u64;
        let held: Vec<Held> = self.held().into_iter().filter(|held| held.path != *path || held.bytes > 0).collect();
        let is_base = base::path(&self.wants.spec).as_ref() == Some(path);
        let own = if is_base { Worth::Pinned } else { self.worth(path, &HashMap::new(), Instant::now()) };
        let gone = evict(&held, bytes, budget, own).map_err(|no_room| {
            let why = format!(
                "{path} needs {bytes} bytes, and of the {budget} of adapters.disk at most {} can be had",
                no_room.at_most
            );
            Failure::judged(Reason::NoSpace, why)
        })?;
        for path in gone {
            self.evict(&path)?;
        }
        self.tools.board.metrics.disk(self.held().iter().map(|held| held.bytes).sum(), budget);
        Ok(())
    }

    /// What everybody has on the disk, or was promised.
    fn held(&self) -> Vec<Held> {
        let now = Instant::now();
        let newest = self.newest();
        let of = |(path, entry): (&AdapterPath, &super::Entry)| {
            let record = entry.now().0;
            // What is worked on cannot go.
            let worth = if entry.job.is_some() { Worth::Pinned } else { self.worth(path, &newest, now) };
            let bytes = record.bytes().max(entry.reserved);
            Held { path: path.clone(), bytes, worth, used: record.used }
        };
        let base = base::path(&self.wants.spec).map(|path| {
            let bytes = self.bringing_base.reserved;
            Held { path, bytes, worth: Worth::Pinned, used: 0 }
        });
        self.entries.iter().map(of).chain(base).collect()
    }

    /// When the newest adapter of each model was made.
    fn newest(&self) -> HashMap<String, u64> {
        let mut newest = HashMap::new();
        for (path, entry) in self.entries.iter().filter(|(_, entry)| entry.wanted.is_some()) {
            let made = entry.record.served.as_ref().map_or(0, |made| made.made);
            let latest = newest.entry(model_of(path)).or_insert(made);
            *latest = made.max(*latest);
        }
        newest
    }

    fn worth(&self, path: &AdapterPath, newest: &HashMap<String, u64>, now: Instant) -> Worth {
        let Some(entry) = self.entries.get(path) else { return Worth::Unwanted };
        let made = entry.record.served.as_ref();
        match &entry.wanted {
            Some(wanted) if wanted.pinned => Worth::Pinned,
            _ if made.is_some_and(|made| self.tools.board.is_leased(&made.engine_name, now)) => Worth::Leased,
            None => Worth::Unwanted,
            Some(_) if made.is_some_and(|made| newest.get(&model_of(path)) == Some(&made.made)) => Worth::Newest,
            Some(_) => Worth::Wanted,
        }
    }

    /// Takes what somebody has from the disk.
    fn evict(&mut self, path: &AdapterPath) -> Result<(), Failure> {
        let Some(entry) = self.entries.get_mut(path) else { return Ok(()) };
        for made in entry.record.artefacts() {
            self.tools.store.remove(&self.tools.store.artefact(path, &made.identity))?;
        }
        if let Some(fetched) = entry.record.fetched.take() {
            self.tools.store.remove(&self.tools.store.source(&fetched.folder))?;
        }
        point(Point::EvictAfterArtefact);
        entry.record.give_up_candidate();
        if let Some(served) = &mut entry.record.served {
            served.on_disk = false;
        }
        self.tools.store.keep(&entry.record)?;
        point(Point::EvictAfterRecord);
        self.tools.board.metrics.evicted();
        tracing::info!(%path, "taken from the disk to make room");
        Ok(())
    }

    /// Writes a quarantine down, and takes the files from the disk that it is of.
    pub(super) fn drop_files(&mut self, path: &AdapterPath) {
        let Some(entry) = self.entries.get_mut(path) else { return };
        let (store, record) = (&self.tools.store, &mut entry.record);
        let fetched = record.fetched.take();
        let served = record.served.as_ref().map(|made| made.identity);
        let candidate = record.give_up_candidate();
        let kept = store.keep(record);
        let folder = fetched.map(|fetched| store.source(&fetched.folder));
        let artefact =
            candidate.filter(|made| Some(made.identity) != served).map(|made| store.artefact(path, &made.identity));
        let removed = folder.into_iter().chain(artefact).try_for_each(|file| store.remove(&file));
        if let Err(error) = kept.and(removed) {
            tracing::warn!(%error, "a quarantine is not on the disk: the next start finds it again");
        }
    }

    /// Nothing of a path is worth keeping.
    pub(super) fn forget(&mut self, path: &AdapterPath) {
        self.drop_files(path);
        let Some(entry) = self.entries.get_mut(path) else { return };
        entry.record.quarantine = None;
        match self.tools.store.keep(&entry.record) {
            Ok(()) => drop(self.entries.remove(path)),
            Err(error) => tracing::warn!(%error, "a record stays"),
        }
    }
}

fn model_of(path: &AdapterPath) -> String {
    path.as_str().rsplit_once('/').unwrap_or_default().0.to_owned()
}
