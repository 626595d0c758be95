//! What people want of a release.

use serde::{Deserialize, Serialize};
use tutti_api::{ModelSpec, Share, StrategySpec};

use crate::evidence::{Heard, Ready};
use crate::release::{Millis, Release};

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, tag = "do")]
pub enum Command {
    /// That a revision serves.
    To {
        /// Its name.
        revision: String,
        /// How it comes to that.
        how: How,
        /// The share of requests that it also gets meanwhile; absent: as configured.
        mirror: Option<Share>,
        /// Also where no replica has it, proven.
        force: bool,
    },
    /// That a change ends, or where none is under way, that the former revision serves again.
    Rollback {
        /// Another than the former one.
        to: Option<String>,
        /// Also where no replica has it, proven.
        force: bool,
    },
    /// That a change that waits goes on.
    Resume,
    /// That nothing happens by itself any more.
    Freeze,
}

/// How a change comes about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum How {
    /// As the configuration says; where it says nothing, at once.
    Configured,
    /// At once.
    Now,
    /// So.
    By(Box<StrategySpec>),
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such model.
    #[error("no configured model is called {model:?}; there are {}", .known.join(", "))]
    NoModel {
        /// What was asked for.
        model: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// It has no such revision.
    #[error("{model} has no revision {revision:?}; there are {}", .known.join(", "))]
    NoRevision {
        /// The model.
        model: String,
        /// What was asked for.
        revision: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// No replica has it.
    #[error(
        "no replica that can be reached has {model}@{revision}, proven; `--force` sends requests to it all the same"
    )]
    NotReady {
        /// The model.
        model: String,
        /// The revision.
        revision: String,
    },
    /// There is nothing to go back to.
    #[error("{model} has had no revision before {current}: name one with --to")]
    NothingBefore {
        /// The model.
        model: String,
        /// The revision that serves.
        current: String,
    },
    /// Nothing waits.
    #[error("no change of {model} is under way that waits")]
    NothingWaits {
        /// The model.
        model: String,
    },
    /// It would try two revisions on one replica that has the weights of one at a time.
    #[error(
        "{model}@{revision} and {current} share pool {pool:?}, whose one replica would load weights anew for each request: use --now"
    )]
    OneReplica {
        /// The model.
        model: String,
        /// The candidate.
        revision: String,
        /// The current revision.
        current: String,
        /// The pool.
        pool: String,
    },
}

/// How a release stands once a command was obeyed. `reloads` says of a pool whether its engine has the weights of one
/// model at a time.
///
/// # Errors
/// Why it is not; then all stays as it was.
pub fn command(
    release: &Release,
    spec: &ModelSpec,
    heard: &Heard,
    reloads: impl Fn(&str) -> bool,
    (command, by): (&Command, &str),
    now: Millis,
) -> Result<Release, Refused> {
    let mut next = release.clone();
    let model = || release.model.clone();
    let ready = |revision: &str| -> Ready {
        heard.get(&release.model).and_then(|of| of.get(revision)).map(|heard| heard.ready.clone()).unwrap_or_default()
    };
    let there = |revision: &str, force: bool| {
        if !spec.revisions.iter().any(|of| of.name == revision) {
            let known = spec.revisions.iter().map(|of| of.name.clone()).collect();
            return Err(Refused::NoRevision { model: model(), revision: revision.to_owned(), known });
        }
        if ready(revision).replicas == 0 && !force {
            return Err(Refused::NotReady { model: model(), revision: revision.to_owned() });
        }
        Ok(())
    };
    match command {
        Command::To { revision, how, mirror, force } => {
            let traffic = spec.traffic.as_ref();
            let strategy = match how {
                How::Configured => traffic.and_then(|traffic| traffic.strategy.clone()),
                How::Now => None,
                How::By(strategy) => Some((**strategy).clone()),
            };
            there(revision, *force || strategy.is_some())?;
            let (its, theirs) = (ready(revision), ready(&release.current));
            let mirror = mirror.or_else(|| traffic.and_then(|traffic| traffic.mirror));
            let tries = strategy.as_ref().is_some_and(|strategy| strategy.canary.is_some() || mirror.is_some());
            if tries
                && *revision != release.current
                && its.pool == theirs.pool
                && theirs.replicas < 2
                && reloads(&its.pool)
            {
                let (revision, current) = (revision.clone(), release.current.clone());
                return Err(Refused::OneReplica { model: model(), revision, current, pool: its.pool });
            }
            next.frozen = false;
            next.change(revision, strategy, mirror, by, now);
        }
        Command::Rollback { to: None, .. } if release.candidate.is_some() => {
            next.frozen = false;
            next.abort(by, "somebody wanted it so", now);
        }
        Command::Rollback { to, force } => {
            let nothing = || Refused::NothingBefore { model: model(), current: release.current.clone() };
            let to = to.clone().or_else(|| release.previous.clone()).ok_or_else(nothing)?;
            there(&to, *force)?;
            next.frozen = false;
            if to == next.current {
                next.abort(by, "somebody wanted it so", now)
            } else {
                next.switch(&to, by, "rolled back", now)
            }
        }
        Command::Resume => resume(&mut next, by, now)?,
        Command::Freeze => {
            next.frozen = true;
            next.tell(by, "frozen: nothing happens by itself until it is resumed".to_owned(), now);
        }
    }
    Ok(next)
}

fn resume(release: &mut Release, by: &str, now: Millis) -> Result<(), Refused> {
    if std::mem::take(&mut release.frozen) {
        release.tell(by, "resumed".to_owned(), now);
        return Ok(());
    }
    let Some(candidate) = &mut release.candidate else {
        return Err(Refused::NothingWaits { model: release.model.clone() });
    };
    if candidate.held.take().is_some() {
        candidate.inconclusive = 0;
    } else {
        candidate.promoted = true;
    }
    let what = format!("{} may go on", candidate.revision);
    release.tell(by, what, now);
    Ok(())
}
