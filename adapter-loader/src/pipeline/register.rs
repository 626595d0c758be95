//! The engine takes the weights, under a name that nobody sends requests for.

use tutti_api::{Phase, Reason};

use super::{Failure, Work, blocking};
use crate::engine::{Claim, listed_base};
use crate::fault::{Point, point};
use crate::reconcile::plan::to_register;
use crate::store::Made;

/// What the engine has under a staging name.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) made: Made,
    /// The engine's digest of it.
    pub(super) model: String,
    /// Whether it has the engine name already: a process that is gone came that far.
    pub(super) is_copied: bool,
    /// Keeps its staging name from being taken for what somebody has left.
    _claim: Claim,
}

/// Registers the candidate; or what serves, where the engine has lost it.
pub(super) async fn step(work: &Work) -> Result<Staged, Failure> {
    work.phase(Phase::Registering);
    let (making, base) = work.making()?;
    let made = to_register(&work.record(), &work.listed, &work.engine).cloned();
    let made =
        made.ok_or_else(|| Failure::passing(Reason::EngineUnavailable, "there is nothing to register: this is a bug"))?;
    let (name, digest) = (made.engine_name.clone(), made.manifest);
    work.tell(|running| (running.engine_name, running.digest) = (Some(name), Some(digest)));
    work.keep(|record| record.candidate = Some(made.clone()))?;
    let staged = work.tools.engine.staging().name(&made.engine_name);
    let claim = work.tools.engine.claim(&staged);
    if let Some(model) = made.proven.clone().filter(|_| work.engine.serves(&made)) {
        return Ok(Staged { made, model, is_copied: true, _claim: claim });
    }
    point(Point::RegisterBefore);
    let artefact = work.tools.store.artefact(&work.wanted.path, &made.identity);
    let takes = work.tools.engine.takes().await?;
    let right = work.tools.engine.making().await;
    if let Err(error) = right.ensure_blob(&artefact, &made.blob).await {
        let failure = Failure::from(error);
        return Err(lost(work, &made).await?.unwrap_or(failure));
    }
    point(Point::RegisterAfterBlob);
    match making.merged {
        None => right.create_adapter(&staged, &work.wants.base, &made.blob).await?,
        Some(_) => right.create_model(&staged, &made.blob, &base, takes).await?,
    }
    drop(right);
    point(Point::RegisterAfterCreate);
    let models = work.tools.engine.models().await?;
    if making.merged.is_none() && listed_base(&models, &work.wants.base).is_some_and(|now| *now != base.listed) {
        let why =
            format!("{} has become another model while {staged} was made of it: it is made again", work.wants.base);
        return Err(Failure::passing(Reason::EngineUnavailable, why));
    }
    let lost = || Failure::passing(Reason::EngineUnavailable, format!("the engine took {staged} and does not have it"));
    let model = models.get(&staged).cloned().ok_or_else(lost)?;
    work.tools.board.metrics.registered();
    Ok(Staged { made, model, is_copied: false, _claim: claim })
}

/// Whether the artefact is not what it was; then it goes, and is made again.
async fn lost(work: &Work, made: &Made) -> Result<Option<Failure>, Failure> {
    let artefact = work.tools.store.artefact(&work.wanted.path, &made.identity);
    let (file, blob) = (artefact.clone(), made.blob);
    let is_whole = blocking(move || crate::store::digest(&file).is_ok_and(|digest| digest == blob)).await?;
    if is_whole {
        return Ok(None);
    }
    work.tools.store.remove(&artefact)?;
    let identity = made.identity;
    work.keep(|record| {
        record.candidate = None;
        record.served.iter_mut().filter(|made| made.identity == identity).for_each(|made| made.on_disk = false);
    })?;
    let why = format!("{} is not what was written: it is made again", artefact.display());
    tracing::error!("{why}");
    Ok(Some(Failure::passing(Reason::InvalidFile, why)))
}
