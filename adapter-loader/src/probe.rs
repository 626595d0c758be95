//! What an adapter must show before it serves: pure.

use serde_json::{Value, json};
use tutti_api::{AdapterProbeSpec, ManifestProbe, Quarantine, Reason};

/// Most tokens of an answer. Unit: tokens.
const MAX_TOKENS: u32 = 64;
/// Most characters of an answer that are compared with what a manifest expects.
const SHOWN: usize = 4096;

/// A question, and what its answer must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    prompt: String,
    expect: Option<String>,
    must_differ: bool,
}

impl Probe {
    /// The manifest's own, where it has one.
    pub(crate) fn of(manifest: Option<&ManifestProbe>, spec: &AdapterProbeSpec) -> Self {
        let prompt = manifest.map_or(&spec.prompt, |probe| &probe.prompt).clone();
        Self { prompt, expect: manifest.and_then(|probe| probe.expect.clone()), must_differ: spec.must_differ }
    }

    /// A body for `POST /api/chat`, without its model: the same answer each time.
    pub(crate) fn request(&self) -> Value {
        json!({
            "messages": [{ "role": "user", "content": self.prompt }],
            "stream": false,
            "options": { "temperature": 0, "seed": 1, "num_predict": MAX_TOKENS },
        })
    }

    /// Whether the base has to be asked the same.
    pub(crate) fn needs_base(&self) -> bool {
        self.must_differ
    }

    /// What an answer proves, beside the base's where that was asked.
    ///
    /// # Errors
    /// Why it does not serve. What was said is in no message: it may be about people.
    pub(crate) fn judge(&self, candidate: &Value, base: Option<&Value>) -> Result<(), Quarantine> {
        let said = said(candidate);
        let no_effect = |message: &str| Quarantine { reason: Reason::NoEffect, message: message.to_owned() };
        if said.trim().is_empty() {
            return Err(no_effect("it answers the probe with nothing"));
        }
        if self.expect.as_ref().is_some_and(|expected| !said.contains(expected)) {
            let message = "its answer to the probe of its manifest does not hold what that expects".to_owned();
            return Err(Quarantine { reason: Reason::ProbeFailed, message });
        }
        if self.must_differ && base.is_some_and(|base| self::said(base) == said) {
            return Err(no_effect(
                "it answers the probe as its base does: name a prompt that it was trained for, as `probe` of its manifest or adapters.probe.prompt; or write adapters.probe.mustDiffer: false",
            ));
        }
        Ok(())
    }
}

fn said(answer: &Value) -> String {
    answer["message"]["content"].as_str().unwrap_or_default().chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Value {
        json!({ "message": { "role": "assistant", "content": text }, "done": true })
    }

    fn judged(expect: Option<&str>, must_differ: bool, candidate: &str, base: &str) -> Option<Reason> {
        let manifest = ManifestProbe { prompt: "x".to_owned(), expect: expect.map(str::to_owned) };
        let spec = AdapterProbeSpec { must_differ, ..AdapterProbeSpec::default() };
        let probe = Probe::of(Some(&manifest), &spec);
        probe.judge(&answer(candidate), Some(&answer(base))).err().map(|why| why.reason)
    }

    #[test]
    fn an_answer_proves_what_it_can() {
        assert_eq!(judged(None, true, "高风险", "好的"), None);
        assert_eq!(judged(None, true, "好的", "好的"), Some(Reason::NoEffect));
        assert_eq!(judged(None, false, "好的", "好的"), None);
        assert_eq!(judged(None, false, " ", "好的"), Some(Reason::NoEffect));
        assert_eq!(judged(Some("高"), true, "高风险", "好的"), None);
        assert_eq!(judged(Some("低"), true, "高风险", "好的"), Some(Reason::ProbeFailed));
    }

    #[test]
    fn the_manifests_question_goes_before_the_pools() {
        let spec = AdapterProbeSpec { prompt: "pool".to_owned(), must_differ: true };
        let manifest = ManifestProbe { prompt: "manifest".to_owned(), expect: None };
        assert_eq!(Probe::of(Some(&manifest), &spec).request()["messages"][0]["content"], "manifest");
        let request = Probe::of(None, &spec).request();
        assert_eq!(
            (&request["messages"][0]["content"], &request["options"]["temperature"]),
            (&json!("pool"), &json!(0))
        );
        assert!(request["model"].is_null());
    }
}
