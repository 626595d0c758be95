//! Which models a key may use.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tutti_api::canonical;

use crate::table::{Route, Table};

/// The models that a key lists. What the list means is found out once for each table: aliases lead where a table says.
#[derive(Debug)]
pub(super) struct Models {
    names: Box<[Name]>,
    meant: ArcSwap<Meant>,
}

/// An entry of the list, in the form in which names are compared.
#[derive(Debug)]
enum Name {
    /// A model's name, or an alias.
    Whole(Box<str>),
    /// How the names of models begin.
    Beginning(Box<str>),
}

/// What a list means by one table.
#[derive(Debug, Default)]
struct Meant {
    /// 0, which no table has, before the first.
    generation: u32,
    /// The numbers of what is served, in order.
    served: Vec<u64>,
}

impl Models {
    pub(super) fn of(names: &[String]) -> Self {
        let name = |name: &String| match name.strip_suffix('*') {
            Some(beginning) => Name::Beginning(beginning.to_ascii_lowercase().into()),
            None => Name::Whole(canonical(name).into()),
        };
        Self { names: names.iter().map(name).collect(), meant: ArcSwap::default() }
    }

    /// Whether the list has the model that a route of this table leads to.
    pub(super) fn have(&self, table: &Table, route: &Route) -> bool {
        let number = route.served.number;
        let meant = self.meant.load();
        if meant.generation == table.generation {
            return meant.served.binary_search(&number).is_ok();
        }
        drop(meant);
        // Two cores may do so at once, even by different tables: whoever finds another's finds out anew.
        let meant = Arc::new(self.meant_by(table));
        self.meant.store(meant.clone());
        meant.served.binary_search(&number).is_ok()
    }

    fn meant_by(&self, table: &Table) -> Meant {
        let has = |route: &Route| {
            let model = canonical(&route.served.model);
            self.names.iter().any(|name| match name {
                Name::Beginning(beginning) => model.starts_with(&**beginning),
                Name::Whole(name) => table.route(name).is_some_and(|meant| meant.served.number == route.served.number),
            })
        };
        let mut served: Vec<u64> =
            table.listed().iter().filter(|route| has(route)).map(|route| route.served.number).collect();
        served.sort_unstable();
        Meant { generation: table.generation, served }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use crate::table::World;

    fn table(registry: &mut Registry, generation: u32, aliased: &str) -> Table {
        let model = |name: &str, aliases: &str| {
            format!(
                "  - {{ name: {name}, aliases: [{aliases}], revisions: [{{ name: v1, pool: p, upstream: {name} }}] }}\n"
            )
        };
        let mut text = "pools: [{ name: p, endpoints: [{ url: http://127.0.0.1:1 }] }]\nmodels:\n".to_owned();
        for name in ["risk", "Acme/Score", "acme/other:v2", "secret"] {
            text.push_str(&model(name, if name == aliased { "chat" } else { "" }));
        }
        let config = tutti_api::load(&text, "", []).unwrap();
        Table::build(Arc::new(config), &World::default(), generation, registry).unwrap()
    }

    fn may(models: &Models, table: &Table) -> Vec<String> {
        let has = |route: &&Arc<Route>| models.have(table, route);
        table.listed().iter().filter(has).map(|route| route.served.model.to_string()).collect()
    }

    #[tokio::test]
    async fn a_list_means_names_aliases_and_beginnings() {
        let mut registry = Registry::default();
        let table = table(&mut registry, 1, "secret");
        for (names, expected) in [
            (&["risk"][..], &["risk"][..]),
            (&["RISK:latest"], &["risk"]),
            (&["acme/score", "acme/other"], &["Acme/Score"]),
            (&["ACME/*"], &["Acme/Score", "acme/other:v2"]),
            (&["chat"], &["secret"]),
            (&["cha*", "ri"], &[]),
            (&["*"], &["risk", "Acme/Score", "acme/other:v2", "secret"]),
        ] {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(may(&Models::of(&names), &table), expected, "{names:?}");
        }
    }

    #[tokio::test]
    async fn what_an_alias_means_is_found_out_for_each_table() {
        let mut registry = Registry::default();
        let (before, after) = (table(&mut registry, 1, "secret"), table(&mut registry, 2, "risk"));
        let models = Models::of(&["chat".to_owned()]);
        for _ in 0..2 {
            assert_eq!(may(&models, &before), ["secret"]);
            assert_eq!(may(&models, &after), ["risk"]);
        }
    }
}
