//! Which weights of the replicas are an adapter that the configuration names: what the loaders beside them have proven.
//!
//! A loader gives an engine the name `[tenant/]model:revision-<digest12>` for weights that have answered as they should, and no
//! other (`AdapterPath::engine_name`): so who has the name has the weights. Until then they have a staging name, which leads
//! nowhere here.

use std::collections::HashMap;

use tutti_api::{AdapterPath, EngineName, canonical};

use crate::loaders::Word;
use crate::table::Available;

/// Digits of a digest in a name.
const DIGITS: usize = 12;

/// Whether a name, in its canonical form, is one that a loader gives to an adapter's proven weights: `before` ends with `-`.
fn begins(name: &str, before: &str) -> bool {
    let digits = name.strip_prefix(before);
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// How the names of an adapter's weights begin.
fn beginning(path: &AdapterPath) -> String {
    let (model, revision) = path.as_str().rsplit_once('/').unwrap_or_default();
    format!("{model}:{revision}-").to_ascii_lowercase()
}

/// Whether a name is one of those that an adapter's weights may have.
pub(crate) fn is_of(name: &str, path: &AdapterPath) -> bool {
    begins(name, &beginning(path))
}

/// A name that looks like one which a loader gives: `…-<digest12>`.
pub(crate) fn of_a_loader(name: &str) -> Option<EngineName> {
    let (before, _) = name.rsplit_once('-')?;
    begins(name, &name[..=before.len()]).then(|| name.parse().ok()).flatten()
}

/// Whether a name that an engine lists, in its canonical form, is of a loader's making: no model of the engine's own to show,
/// whether or not a loader has told of it. It may be left there by one that is gone; and one that looks like a loader's to a
/// pool `with_adapters` is such a one.
pub(crate) fn is_made_by_a_loader(name: &str, with_adapters: bool) -> bool {
    name.starts_with(EngineName::STAGING) || (with_adapters && of_a_loader(name).is_some())
}

/// The name under which replicas have an adapter, by what each has and what its loader says of it; and for each whether it
/// serves it. Where they know it by several names (an engine that takes adapters beside one that wants them merged, or a base
/// that was changed) it is that of most replicas; of two such, the newer.
pub(crate) fn proven(path: &str, replicas: &[(&[Available], Word)]) -> Option<(String, Vec<bool>)> {
    let path: AdapterPath = path.parse().ok()?;
    let before = beginning(&path);
    let serves = |available: &Available, word: &Word| {
        let name = canonical(&available.name);
        match word {
            Word::None => begins(&name, &before),
            Word::Serves(serves) => serves.as_ref().is_some_and(|serves| serves.as_str() == name),
        }
    };
    let mut known: HashMap<String, (usize, &str, &str)> = HashMap::new();
    for (has, word) in replicas {
        for available in has.iter().filter(|available| serves(available, word)) {
            let since = available.entry["modified_at"].as_str().unwrap_or_default();
            let of = known.entry(canonical(&available.name).into_owned()).or_insert((0, since, &available.name));
            of.0 += 1;
            of.1 = of.1.max(since);
        }
    }
    let (_, _, name) = known.into_values().max()?;
    let key = canonical(name);
    let has = |(has, word): &(&[Available], Word)| {
        has.iter().any(|available| canonical(&available.name) == key && serves(available, word))
    };
    Some((name.to_owned(), replicas.iter().map(has).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn replica(models: &[(&str, &str)]) -> Vec<Available> {
        let model = |(name, since): &(&str, &str)| Available {
            name: (*name).to_owned(),
            entry: json!({ "modified_at": since }),
            weights: None,
        };
        models.iter().map(model).collect()
    }

    /// The name of an adapter on replicas without loaders.
    fn heard(path: &str, replicas: &[Vec<Available>]) -> Option<String> {
        let replicas: Vec<_> = replicas.iter().map(|replica| (&**replica, Word::None)).collect();
        proven(path, &replicas).map(|(name, _)| name)
    }

    #[test]
    fn a_name_with_its_digest_is_proven_and_no_other_is() {
        let names = |names: &[&str]| replica(&names.iter().map(|name| (*name, "")).collect::<Vec<_>>());
        let replicas = [names(&[
            "risk:v1",
            "risk:v1-1a2b3c4d5e6",
            "risk:v1-1a2b3c4d5e6g",
            "risk:v10-1a2b3c4d5e6f",
            "risk:v1-old-1a2b3c4d5e6f",
            "tutti-staging/risk:v1-1a2b3c4d5e6f",
            "acme/risk:v1-1a2b3c4d5e6f",
        ])];
        let of = |path| heard(path, &replicas);
        assert_eq!(of("risk/v1"), None);
        assert_eq!(of("acme/Risk/v1").as_deref(), Some("acme/risk:v1-1a2b3c4d5e6f"));
        assert_eq!(of("risk/v1-old").as_deref(), Some("risk:v1-old-1a2b3c4d5e6f"));
        assert_eq!(of("../v1"), None);
        for (name, is) in
            [("risk:v1-1a2b3c4d5e6f", true), ("risk:v1-1a2b3c4d5e6", false), ("risk", false), ("a-", false)]
        {
            assert_eq!(of_a_loader(name).is_some(), is, "{name}");
            assert_eq!((is_made_by_a_loader(name, true), is_made_by_a_loader(name, false)), (is, false), "{name}");
        }
        assert!(is_made_by_a_loader("tutti-staging-p/left:over", false), "half made, by whomever");
    }

    #[test]
    fn of_several_names_that_of_most_replicas_counts_and_then_the_newer() {
        let (a, b) = ("risk:v1-aaaaaaaaaaaa", "risk:v1-bbbbbbbbbbbb");
        let mut replicas = vec![replica(&[(a, "2026-01-02")]), replica(&[(b, "2026-01-01")])];
        assert_eq!(heard("risk/v1", &replicas).as_deref(), Some(a));
        replicas.push(replica(&[(b, "2025-01-01")]));
        assert_eq!(heard("risk/v1", &replicas).as_deref(), Some(b));
    }

    #[test]
    fn where_a_loader_speaks_its_word_counts_and_the_engine_must_have_it() {
        let (a, b) = ("risk:v1-aaaaaaaaaaaa", "risk:v1-bbbbbbbbbbbb");
        let (both, one) = (replica(&[(a, ""), (b, "")]), replica(&[(a, "")]));
        let says = |name: Option<&str>| Word::Serves(name.map(|name| name.parse().unwrap()));
        let of = |replicas: &[(&[Available], Word)]| proven("risk/v1", replicas);
        assert_eq!(of(&[(&both, says(None))]), None, "quarantined, or not yet proven");
        assert_eq!(of(&[(&one, says(Some(b)))]), None, "the engine has lost it");
        let mixed = [(&*both, says(Some(a))), (&*one, Word::None), (&*both, says(Some(b))), (&*one, says(None))];
        assert_eq!(of(&mixed), Some((a.to_owned(), vec![true, true, false, false])));
    }
}
