//! Names go from the engine that no model wants and no gateway has a lease on any more. The artefact stays for as long as
//! there is room: it may be wanted again.

use std::sync::Arc;

use tutti_api::EngineName;

use super::{Failure, Tools, seconds};
use crate::fault::{Point, point};
use crate::store::Record;

/// Takes names from the engine, and then out of the record.
pub(crate) async fn step(tools: Arc<Tools>, mut record: Record, names: Vec<EngineName>) -> Result<Record, Failure> {
    point(Point::RetireBefore);
    for name in &names {
        tools.engine.delete(&tools.engine.staging().name(name)).await?;
        tools.engine.delete(name).await?;
        point(Point::RetireAfterDelete);
    }
    let is_gone = |name: &EngineName| names.contains(name);
    record.leaving.retain(|name| !is_gone(name));
    if let Some(served) = record.served.take_if(|served| is_gone(&served.engine_name)) {
        let kept = crate::store::Made { proven: None, ..served };
        record.candidate = record.candidate.or(Some(kept).filter(|made| made.on_disk));
        record.used = seconds();
    }
    tools.store.keep(&record)?;
    point(Point::RetireAfterRecord);
    tracing::info!(path = %record.path, names = ?names, "retired");
    Ok(record)
}
