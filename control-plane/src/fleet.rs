//! Which of several gateways go by a driver's word, and which do not.

use std::collections::BTreeMap;

/// What a driver knows of its gateways, by where they are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet(BTreeMap<String, Gateway>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Gateway {
    /// Its number: another at each start.
    id: String,
    /// Term and generation of what it goes by.
    acknowledged: Option<(u64, u64)>,
    /// Why it does not go by what was said last.
    trouble: Option<String>,
}

impl Fleet {
    /// From now on these are all that there are.
    pub fn at(&mut self, addresses: &[String]) {
        self.0.retain(|address, _| addresses.contains(address));
        for address in addresses {
            self.0.entry(address.clone()).or_default();
        }
    }

    /// A gateway says who it is; whether it is another than before, which goes by nothing yet.
    pub fn is(&mut self, address: &str, id: &str) -> bool {
        let Some(known) = self.0.get_mut(address).filter(|known| known.id != id) else { return false };
        let was_known = !known.id.is_empty();
        *known = Gateway { id: id.to_owned(), ..Gateway::default() };
        was_known
    }

    /// A gateway goes by this.
    pub fn acknowledges(&mut self, address: &str, age: (u64, u64)) {
        if let Some(known) = self.0.get_mut(address) {
            known.acknowledged = known.acknowledged.max(Some(age));
            known.trouble = None;
        }
    }

    /// It does not, or does not answer.
    pub fn fails(&mut self, address: &str, why: &str) {
        if let Some(known) = self.0.get_mut(address) {
            known.trouble = Some(why.to_owned());
        }
    }

    /// Those that are to be told this.
    pub fn lacking(&self, age: (u64, u64)) -> Vec<String> {
        let lacks = |(_, known): &(&String, &Gateway)| known.acknowledged < Some(age);
        self.0.iter().filter(lacks).map(|(address, _)| address.clone()).collect()
    }

    /// Those that do not go by this, and why.
    pub fn silent(&self, age: (u64, u64)) -> Vec<(String, String)> {
        let why = |known: &Gateway| known.trouble.clone().unwrap_or_else(|| "it has not answered".to_owned());
        let lacks = self.lacking(age);
        self.0
            .iter()
            .filter(|(address, _)| lacks.contains(address))
            .map(|(at, known)| (at.clone(), why(known)))
            .collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_said_that_he_goes_by_it_is_named() {
        let (a, b) = ("a:1".to_owned(), "b:1".to_owned());
        let mut fleet = Fleet::default();
        fleet.at(&[a.clone(), b.clone()]);
        assert_eq!(fleet.lacking((1, 1)), [a.clone(), b.clone()]);
        assert!(!fleet.is(&a, "x"), "it was not known before");
        fleet.acknowledges(&a, (1, 1));
        fleet.fails(&b, "no connection");
        assert_eq!(fleet.silent((1, 1)), [(b.clone(), "no connection".to_owned())]);
        assert_eq!(fleet.lacking((1, 2)), [a.clone(), b.clone()], "something newer");
        fleet.acknowledges(&a, (1, 2));
        fleet.acknowledges(&a, (1, 1));
        fleet.acknowledges(&b, (2, 1));
        assert_eq!(fleet.lacking((1, 2)), <[String; 0]>::default(), "also by something newer still");
        assert!(!fleet.is(&a, "x") && fleet.is(&a, "y"));
        assert_eq!(fleet.lacking((1, 1)), [a], "it has started anew");
        fleet.at(std::slice::from_ref(&b));
        assert_eq!((fleet.count(), fleet.silent((1, 2)).len()), (1, 0));
    }
}
