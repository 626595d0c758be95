//! The staging names that somebody works towards: a look at the engine may be older than a name's second coming.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tutti_api::EngineName;

/// How many work towards each name.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Mutex<HashMap<EngineName, usize>>>);

/// Somebody works towards a name, as long as this is kept.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Claims,
    name: EngineName,
}

impl Claims {
    pub(super) fn claim(&self, name: &EngineName) -> Claim {
        *self.all().entry(name.clone()).or_default() += 1;
        Claim { claims: self.clone(), name: name.clone() }
    }

    pub(super) fn has(&self, name: &EngineName) -> bool {
        self.all().contains_key(name)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<EngineName, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut all = self.claims.all();
        match all.get_mut(&self.name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(all.remove(&self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_claimed_until_the_last_lets_it_go() {
        let (claims, name) = (Claims::default(), "s/risk:v1".parse().unwrap());
        let first = claims.claim(&name);
        let second = claims.claim(&name);
        drop(first);
        assert!(claims.has(&name));
        drop(second);
        assert!(!claims.has(&name));
    }
}
