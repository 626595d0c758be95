//! What lies at the paths: asked for once a poll, for all of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tutti_api::{AdapterPath, Digest, Quarantine};

use crate::fault::{Point, point};
use crate::identity;
use crate::reconcile::plan::Seen;
use crate::source::{Object, Source, SourceError};

/// What was listed at each path.
pub(crate) async fn look(source: &Source, paths: &[AdapterPath]) -> Result<HashMap<AdapterPath, Seen>, SourceError> {
    let names: Vec<&str> = paths.iter().map(AdapterPath::as_str).collect();
    let now = Instant::now();
    let mut look = source.look(&names).await?;
    tracing::debug!(paths = paths.len(), requests = look.requests, "looked at the source");
    point(Point::ListAfter);
    let of = |path: &AdapterPath| {
        let objects = look.paths.remove(path.as_str()).unwrap_or_else(|| Ok(Vec::new()));
        let objects = objects
            .map(Arc::from)
            .map_err(|error: SourceError| Quarantine { reason: error.reason(), message: error.to_string() });
        (path.clone(), Seen { digest: digest(&objects), objects, since: now })
    };
    Ok(paths.iter().map(of).collect())
}

/// What is new, with since when it is as it is.
pub(crate) fn after(
    before: &HashMap<AdapterPath, Seen>,
    now: HashMap<AdapterPath, Seen>,
) -> HashMap<AdapterPath, Seen> {
    let kept =
        |path: &AdapterPath, seen: &Seen| before.get(path).filter(|before| before.digest == seen.digest).cloned();
    now.into_iter().map(|(path, seen)| (path.clone(), kept(&path, &seen).unwrap_or(seen))).collect()
}

fn digest(objects: &Result<Arc<[Object]>, Quarantine>) -> Digest {
    let text = match objects {
        Ok(objects) => serde_json::to_string(&**objects).unwrap_or_default(),
        Err(why) => why.message.clone(),
    };
    identity::of(text.as_bytes())
}
