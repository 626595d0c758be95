//! PEFT's patterns: values of single modules.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Names and their values, in the order of the file: of two that fit, PEFT takes the first.
#[derive(Debug)]
pub(super) struct Pattern<T>(Vec<(String, T)>);

impl<T> Default for Pattern<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Pattern<T> {
    /// The value for a module: that of its name, or of the end of it (PEFT's `get_pattern_key`).
    pub(super) fn of(&self, module: &str) -> Option<T> {
        let ends =
            |key: &str| module.strip_suffix(key).is_some_and(|before| before.is_empty() || before.ends_with('.'));
        self.0.iter().find_map(|(key, value)| ends(key).then_some(*value))
    }

    /// Its names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pattern<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Pattern<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of modules' names")
            }

            fn visit_unit<E>(self) -> Result<Pattern<T>, E> {
                Ok(Pattern::default())
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pattern<T>, M::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Pattern(all))
            }
        }
        deserializer.deserialize_any(InOrder(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_names_that_fit_the_first_counts() {
        let of = |text: &str| serde_json::from_str::<Pattern<u64>>(text).unwrap().of("layers.0.self_attn.q_proj");
        assert_eq!(of(r#"{"self_attn.q_proj": 1, "q_proj": 2}"#), Some(1));
        assert_eq!(of(r#"{"q_proj": 2, "self_attn.q_proj": 1}"#), Some(2));
        assert_eq!(of(r#"{"proj": 2, "attn.q_proj": 1}"#), None, "names end where parts end");
        assert_eq!(of("null"), None);
    }
}
