//! What has proven itself gets the name that gateways send requests for.

use tutti_api::EngineName;

use super::register::Staged;
use super::{Failure, Work};
use crate::fault::{Point, point};

/// Copies the staged model to its engine name; what served before by another name leaves.
pub(super) async fn step(work: &Work, staged: &Staged) -> Result<(EngineName, String), Failure> {
    let name = staged.made.engine_name.clone();
    let staging = work.tools.engine.staging().name(&name);
    point(Point::CopyBefore);
    if !staged.is_copied {
        work.tools.engine.copy(&staging, &name).await?;
    }
    point(Point::CopyAfterCopy);
    let before = work.record().served;
    work.keep(|record| {
        let Some(candidate) = record.candidate.take() else { return };
        if let Some(before) = record.served.take()
            && before.engine_name != candidate.engine_name
            && !record.leaving.contains(&before.engine_name)
        {
            record.leaving.push(before.engine_name);
        }
        record.leaving.retain(|leaving| *leaving != candidate.engine_name);
        record.served = Some(candidate);
        record.quarantine = None;
    })?;
    point(Point::CopyAfterRecord);
    if let Some(before) = before.filter(|before| before.identity != staged.made.identity) {
        work.tools.store.remove(&work.tools.store.artefact(&work.wanted.path, &before.identity))?;
    }
    work.tools.engine.delete(&staging).await?;
    point(Point::CopyAfterDelete);
    work.tools.board.metrics.served();
    tracing::info!(path = %work.wanted.path, %name, "it serves");
    point(Point::AnnounceBefore);
    Ok((name, staged.model.clone()))
}
