//! Names as Ollama reads them (types/model/name.go of 0.11.4): `[[host/]namespace/]model[:tag]`.

use std::path::PathBuf;

const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";
/// Longest part. Unit: bytes.
const MAX_PART: usize = 80;

/// A name with all its parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) host: String,
    pub(super) namespace: String,
    pub(super) model: String,
    pub(super) tag: String,
}

impl Name {
    /// Reads a name; `None` where it is invalid.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (rest, model) = text.rsplit_once('/').map_or((None, text), |(rest, model)| (Some(rest), model));
        let (model, tag) = model.split_once(':').unwrap_or((model, TAG));
        let (host, namespace) = match rest.map(|rest| rest.rsplit_once('/').ok_or(rest)) {
            None => (HOST, NAMESPACE),
            Some(Err(namespace)) => (HOST, namespace),
            Some(Ok((host, namespace))) => (host, namespace),
        };
        let valid = part(model, ".") && part(tag, ".") && part(namespace, "") && part(host, ".:");
        let owned = str::to_owned;
        valid.then(|| Self { host: owned(host), namespace: owned(namespace), model: owned(model), tag: owned(tag) })
    }

    /// Where its manifest lies, below `manifests`.
    pub(super) fn path(&self) -> PathBuf {
        [&self.host, &self.namespace, &self.model, &self.tag].iter().collect()
    }

    /// As it is listed: without what it would have anyway, but with its tag.
    pub(super) fn shortest(&self) -> String {
        let Self { host, namespace, model, tag } = self;
        match (host == HOST, namespace == NAMESPACE) {
            (true, true) => format!("{model}:{tag}"),
            (true, false) => format!("{namespace}/{model}:{tag}"),
            _ => format!("{host}/{namespace}/{model}:{tag}"),
        }
    }

    /// The same in the letters of those that are there, part by part.
    pub(super) fn among(mut self, there: &[Self]) -> Self {
        for other in there {
            for (own, its) in [
                (&mut self.host, &other.host),
                (&mut self.namespace, &other.namespace),
                (&mut self.model, &other.model),
                (&mut self.tag, &other.tag),
            ] {
                if own.eq_ignore_ascii_case(its) {
                    own.clone_from(its);
                }
            }
        }
        self
    }
}

fn part(text: &str, more: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || more.contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    begins && text.len() <= MAX_PART && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_parts_that_it_leaves_out() {
        let shown = |text: &str| Name::parse(text).map(|name| name.shortest());
        assert_eq!(shown("m").as_deref(), Some("m:latest"));
        assert_eq!(shown("acme/risk.1:v1").as_deref(), Some("acme/risk.1:v1"));
        assert_eq!(shown("hf.co/a/b:Q4").as_deref(), Some("hf.co/a/b:Q4"));
        for wrong in ["", "a b", "x/y/z/w", "risk@v2", "a.b/risk", "m:"] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
        let there = [Name::parse("Acme/Risk:V1").unwrap()];
        assert_eq!(Name::parse("acme/risk:v1").unwrap().among(&there).shortest(), "Acme/Risk:V1");
    }
}
