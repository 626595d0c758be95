//! What makes weights these weights: the digest in an engine's name for them.

use sha2::{Digest as _, Sha256};
use tutti_api::{AdaptersSpec, Digest, MergeTo, Strategy};

/// Rises with every change of the converter that changes what it writes.
pub(crate) const CONVERTER: u32 = 1;

/// How adapters are made for an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Making {
    /// Of the base's weights.
    pub(crate) base: Digest,
    /// What they are merged to, where the engine takes no adapters.
    pub(crate) merged: Option<MergeTo>,
}

impl Making {
    /// By the strategy that is written, for an engine that takes adapters or not.
    pub(crate) fn of(spec: &AdaptersSpec, base: Digest, takes_adapters: bool) -> Self {
        let merges = match spec.strategy {
            Strategy::Auto => !takes_adapters,
            Strategy::Adapter => false,
            Strategy::Merge => true,
        };
        Self { base, merged: merges.then_some(spec.merge_to) }
    }
}

/// The digest of all that makes the weights. The same on every replica.
pub(crate) fn identity(manifest: &Digest, making: &Making) -> Digest {
    let (strategy, merge_to) = match making.merged {
        None => ("adapter", ""),
        Some(MergeTo::Q8_0) => ("merge", "q8_0"),
        Some(MergeTo::F16) => ("merge", "f16"),
    };
    let text = format!("{manifest}\n{}\n{strategy}\n{merge_to}\n{CONVERTER}\n", making.base);
    of(text.as_bytes())
}

/// Of what decides how an adapter is brought to the engine and what it has to show there: a quarantine is judged anew when
/// it changes.
pub(crate) fn settings(spec: &AdaptersSpec) -> Digest {
    let part = serde_json::json!([spec.strategy, spec.merge_to, spec.manifest, spec.probe, CONVERTER]);
    of(part.to_string().as_bytes())
}

/// The sha256 of bytes.
pub(crate) fn of(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_makes_other_weights_makes_another_name() {
        let making = |base, merged| Making { base: of(base), merged };
        let one = identity(&of(b"m"), &making(b"b", None));
        for other in [
            identity(&of(b"M"), &making(b"b", None)),
            identity(&of(b"m"), &making(b"B", None)),
            identity(&of(b"m"), &making(b"b", Some(MergeTo::Q8_0))),
            identity(&of(b"m"), &making(b"b", Some(MergeTo::F16))),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(one, identity(&of(b"m"), &making(b"b", None)));
        // A name that is in engines already: it must not change by itself.
        assert_eq!(&one.hex()[..12], "2161fa4d89e4");
    }
}
