//! Which refusals of an engine are believed at once.
//!
//! Ollama 0.11.4 fails calls that meet the deletion of another name, with errors that say nothing of what was asked (see the
//! module above). What it says of the weights themselves it would say again: to ask three times would have a model made, or
//! weights loaded, three times for nothing.

use crate::retry::Retry;

use super::EngineError;

/// How often an engine has to refuse before it is believed: a name may have been deleted meanwhile, a disk be full just now, a
/// file not be closed yet. What it says the last time counts.
pub(crate) const REFUSALS: u32 = 3;

/// Words that engines have for weights, and for nothing else (read in 0.11.4's and 0.34.2's sources): a create or an answer that is
/// refused by them is refused for good. Lower case.
const CERTAIN: [&str; 5] = [
    "no longer supported",
    "not yet implemented",
    "was not in gguf format",
    "invalid file magic",
    "unknown model architecture",
];

/// Whether what an engine says of its refusal is of the weights, whatever else happens there.
pub(crate) fn is_certain(why: &str) -> bool {
    let why = why.to_ascii_lowercase();
    CERTAIN.iter().any(|words| why.contains(words))
}

/// Whether an engine is to be asked again: what it refuses is not believed at once.
#[derive(Debug)]
pub(super) struct Doubt(Retry);

impl Doubt {
    pub(super) fn new() -> Self {
        Self(Retry::new(REFUSALS))
    }

    /// Waits for the time of the next try, where there is to be one.
    pub(super) async fn holds<T>(&mut self, answer: &Result<T, EngineError>) -> bool {
        let Err(refusal @ EngineError::Refused { why, .. }) = answer else { return false };
        if is_certain(why) {
            return false;
        }
        let Some(wait) = self.0.next() else { return false };
        tracing::debug!(%refusal, ?wait, "what the engine refuses is asked again");
        tokio::time::sleep(wait).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_said_of_the_weights_is_believed_at_once_and_all_else_the_third_time() {
        for (why, asked) in [
            ("500 stat /models/manifests/registry.ollama.ai/library/x/y: no such file or directory", 3),
            ("400 model is required", 3),
            ("404 model \"x\" not found, try pulling it first", 3),
            // Who has closed the runner, and why, it does not say: memory may have been short.
            ("500 llama runner process has terminated: signal: killed", 3),
            ("400 supplied file was not in GGUF format", 1),
            ("400 LoRA adapters are no longer supported", 1),
            ("500 llama runner process has terminated: error: loras are not yet implemented", 1),
            ("500 error loading model architecture: unknown model architecture: 'x'", 1),
        ] {
            let refused: Result<(), _> = Err(EngineError::Refused { what: "x".to_owned(), why: why.to_owned() });
            let (mut doubt, mut count) = (Doubt::new(), 1);
            while doubt.holds(&refused).await {
                count += 1;
            }
            assert_eq!(count, asked, "{why}");
        }
    }
}
