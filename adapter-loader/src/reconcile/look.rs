//! A look at the engine: what it has, and what its base is.

use std::collections::HashMap;
use std::sync::Arc;

use tutti_api::{EngineName, Quarantine, Reason};

use super::entry::Job;
use super::{Done, Reconciler, caught};
use crate::engine::{BaseFacts, Ollama, Takes, listed_base};
use crate::identity::Making;
use crate::wanted::Wants;

/// What a look came to.
#[derive(Debug)]
pub(super) struct Looked {
    /// Its models and their digests; absent where it does not answer.
    pub(super) has: Option<HashMap<EngineName, String>>,
    /// The base, where it has one.
    pub(super) base: Option<Arc<BaseFacts>>,
    /// How adapters are made for it.
    pub(super) making: Option<Making>,
    /// What stands in the way.
    pub(super) down: Option<Quarantine>,
    /// Whether that is that it has no base.
    pub(super) lacks_base: bool,
}

impl Looked {
    /// Nothing was seen, for this reason.
    pub(super) fn nothing(why: Quarantine) -> Self {
        Self { has: None, base: None, making: None, down: Some(why), lacks_base: false }
    }
}

/// Looks at the engine. What is `known` of its base is not asked again as long as it lists the base under the same digest.
pub(super) async fn look(engine: &Ollama, wants: &Wants, known: Option<Arc<BaseFacts>>) -> Looked {
    let unavailable = |why: String| Quarantine { reason: Reason::EngineUnavailable, message: why };
    let has = match engine.models().await {
        Ok(has) => has,
        Err(error) => return Looked::nothing(unavailable(error.to_string())),
    };
    let mut looked = Looked { has: None, base: None, making: None, down: None, lacks_base: false };
    let listed = listed_base(&has, &wants.base).cloned();
    looked.has = Some(has);
    let Some(listed) = listed else {
        looked.lacks_base = true;
        let how = match &wants.spec.base_from {
            Some(path) => format!("it comes from {path} below adapters.from"),
            None => format!("`ollama pull {0}` there, or name where it comes from as adapters.baseFrom", wants.base),
        };
        let message = format!("the engine has no {:?}, the pool's base: {how}", wants.base);
        looked.down = Some(unavailable(message));
        return looked;
    };
    let facts = match known.filter(|known| known.listed == listed) {
        Some(known) => Ok(known),
        None => engine.show(&wants.base, &listed).await.map(Arc::new),
    };
    let takes = engine.takes().await;
    match (facts, takes) {
        (Ok(facts), Ok(takes)) => {
            looked.making = Some(Making::of(&wants.spec, facts.digest, takes == Takes::Adapters));
            looked.base = Some(facts);
        }
        (Err(error), _) | (_, Err(error)) => looked.down = Some(unavailable(error.to_string())),
    }
    looked
}

impl Reconciler {
    /// Takes staging names from the engine that nobody works towards: what a process has left that is gone.
    pub(super) fn sweep(&mut self) {
        let staging = self.tools.engine.staging();
        let jobs = self.entries.values().filter_map(|entry| entry.job.as_ref());
        let towards: Vec<EngineName> = jobs.filter_map(Job::engine_name).map(|name| staging.name(&name)).collect();
        let has = self.engine.has.iter().flat_map(|has| has.keys());
        let orphans = has.filter(|name| staging.has(name) && !towards.contains(name));
        for name in orphans.cloned().collect::<Vec<_>>() {
            let tools = self.tools.clone();
            self.sweeping += 1;
            self.work.spawn(async move {
                match caught(&tools.board.metrics, name.as_str(), tools.engine.delete_orphan(&name)).await {
                    Ok(Ok(true)) => tracing::info!(%name, "removed what an earlier run has left in the engine"),
                    Ok(Err(error)) => tracing::debug!(%name, %error, "not removed yet"),
                    Ok(Ok(false)) | Err(_) => {}
                }
                Done::Swept
            });
        }
    }
}
