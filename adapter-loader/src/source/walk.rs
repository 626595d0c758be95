//! Which pages of a listing to ask for, to see what lies below some paths of a prefix: pure. Keys come in the order of their
//! bytes, so a page that reaches beyond one path may hold the next ones whole, and what no path wants is jumped over: at most
//! one question for 1,000 keys, and at most one more for each path.

use std::collections::BTreeMap;

use super::error::{SourceError, Trouble};
use super::{Object, key};

/// What lies below a path, or why that is not taken.
pub type Listing = Result<Vec<Object>, SourceError>;

/// An object as a store lists it: with its whole key below the source.
pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) object: Object,
}

/// A walk over the keys below some paths.
pub(crate) struct Walk<'a> {
    /// Where the source is, for errors.
    place: &'a str,
    /// The paths with a slash behind each, in order; none of them within another.
    wanted: Vec<String>,
    /// Those that are within another of them: what lies below them is seen there.
    nested: Vec<String>,
    /// The path that is looked at.
    at: usize,
    /// The last key that was seen of it.
    after: Option<String>,
    /// Most keys below a path.
    most: usize,
    found: BTreeMap<String, Listing>,
}

impl<'a> Walk<'a> {
    /// Over these paths: plain ones, no slash at either end.
    pub(crate) fn new(place: &'a str, paths: &[&str], most: usize) -> Self {
        let mut found = BTreeMap::new();
        let (mut wanted, mut nested) = (Vec::<String>::new(), Vec::new());
        let mut all: Vec<String> = Vec::new();
        for path in paths {
            match key::check(path) {
                Ok(()) => all.push(format!("{path}/")),
                Err(odd) => drop(found.insert((*path).to_owned(), Err(odd_key(place, path, odd)))),
            }
        }
        all.sort_unstable();
        all.dedup();
        for path in all {
            let within = wanted.last().is_some_and(|outer| path.starts_with(outer.as_str()));
            if within { nested.push(path) } else { wanted.push(path) }
        }
        found.extend(wanted.iter().map(|path| (path[..path.len() - 1].to_owned(), Ok(Vec::new()))));
        Self { place, wanted, nested, at: 0, after: None, most, found }
    }

    /// The key after which the next page is asked for; none once all is seen.
    pub(crate) fn next(&self) -> Option<&str> {
        // The key `path/` itself would be a folder's marker: nothing is lost where the page begins behind it.
        self.after.as_deref().or_else(|| self.wanted.get(self.at).map(String::as_str))
    }

    /// Takes a page: keys in order, all behind [`Self::next`]; `is_last` where the store has no more.
    pub(crate) fn take(&mut self, page: impl IntoIterator<Item = Listed>, is_last: bool) {
        let mut last = None;
        for Listed { key, object } in page {
            if last.as_ref().is_some_and(|last| *last >= key) {
                continue; // a store that does not sort: what stands in no order is not there
            }
            while self.wanted.get(self.at).is_some_and(|path| *path < key && !key.starts_with(path)) {
                self.at += 1;
            }
            let Some(path) = self.wanted.get(self.at) else { break };
            if let Some(below) = key.strip_prefix(path) {
                let listing = self.found.get_mut(&path[..path.len() - 1]).expect("each path has its place");
                put(listing, self.place, path, below, object, self.most);
            }
            last = Some(key);
        }
        // The path that the page ended in is not over; one that was refused is.
        let is_done = |path: &String| self.found[&path[..path.len() - 1]].is_err();
        match last.filter(|_| !is_last) {
            None => self.at = self.wanted.len(),
            Some(last) => {
                while self
                    .wanted
                    .get(self.at)
                    .is_some_and(|path| is_done(path) || *path < last && !last.starts_with(path.as_str()))
                {
                    self.at += 1;
                }
                let within = self.wanted.get(self.at).is_some_and(|path| last.as_str() > path.as_str());
                self.after = within.then_some(last);
                return;
            }
        }
        self.after = None;
    }

    /// What was found, by path.
    pub(crate) fn found(mut self) -> BTreeMap<String, Listing> {
        for path in self.nested {
            let outer = self.wanted.iter().find(|outer| path.starts_with(outer.as_str()));
            let outer = outer.expect("a path is nested where it is within a wanted one");
            let listing = self.found[&outer[..outer.len() - 1]].clone().map(|objects| {
                let below = |object: Object| {
                    let key = object.key.strip_prefix(&path[outer.len()..])?.to_owned();
                    Some(Object { key, ..object })
                };
                objects.into_iter().filter_map(below).collect()
            });
            self.found.insert(path[..path.len() - 1].to_owned(), listing);
        }
        self.found
    }
}

/// Adds an object, unless it is one too many or has an odd name: then its path has no listing.
fn put(listing: &mut Listing, place: &str, path: &str, below: &str, object: Object, most: usize) {
    let Ok(objects) = listing else { return };
    match refused(place, path, below, &object, objects.len(), most) {
        Some(error) => *listing = Err(error),
        None if is_marker(below, object.size) => {}
        None => objects.push(Object { key: below.to_owned(), ..object }),
    }
}

fn refused(place: &str, path: &str, below: &str, object: &Object, count: usize, most: usize) -> Option<SourceError> {
    if count >= most {
        let at = format!("{place}{path}");
        return Some(SourceError::new(Trouble::TooMany, at, format!("more than {most}")));
    }
    let plain = if is_marker(below, object.size) { &below[..below.len() - 1] } else { below };
    key::check(plain).err().map(|odd| odd_key(place, &format!("{path}{below}"), odd))
}

/// Consoles make empty objects for folders.
pub(crate) fn is_marker(key: &str, size: u64) -> bool {
    size == 0 && key.len() > 1 && key.ends_with('/')
}

pub(crate) fn odd_key(place: &str, key: &str, odd: key::Odd) -> SourceError {
    SourceError::new(Trouble::OddKey, format!("{place}{}", key::shown(key)), odd.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::source::Version;

    fn object(key: &str) -> Listed {
        let object = Object { key: key.to_owned(), size: 1, version: Version::Etag(String::new()) };
        Listed { key: key.to_owned(), object }
    }

    /// Walks over a store with pages of this size; yields what was found and how many pages that took.
    fn walked(keys: &BTreeSet<String>, paths: &[&str], page: usize, most: usize) -> (BTreeMap<String, Listing>, usize) {
        let mut walk = Walk::new("s3://b/", paths, most);
        let mut asked = 0;
        while let Some(after) = walk.next() {
            let rest: Vec<&String> = keys.iter().filter(|key| key.as_str() > after).collect();
            walk.take(rest.iter().take(page).map(|key| object(key)), rest.len() <= page);
            asked += 1;
            assert!(asked <= keys.len() + paths.len() + 1, "it goes in circles");
        }
        (walk.found(), asked)
    }

    fn names(listing: &Listing) -> Vec<&str> {
        listing.as_ref().unwrap().iter().map(|object| object.key.as_str()).collect()
    }

    #[test]
    fn a_path_is_not_the_beginning_of_another() {
        let keys = ["foo-bar/v1/a", "foo/v1/a", "foo/v10/b", "foo/v1", "foo/v1.x/c", "foo/v1/sub/d"];
        let keys = keys.map(str::to_owned).into();
        let (found, _) = walked(&keys, &["foo/v1", "foo/v2"], 1000, 10);
        assert_eq!(names(&found["foo/v1"]), ["a", "sub/d"]);
        assert_eq!(names(&found["foo/v2"]), [""; 0]);
    }

    #[test]
    fn what_is_wrong_below_one_path_is_wrong_there_alone() {
        let keys = ["a/1/../../evil", "a/2/x", "a/3/1", "a/3/2", "a/3/3", "a/4/y"].map(str::to_owned).into();
        let (found, _) = walked(&keys, &["a/1", "a/2", "a/3", "a/4", "../x"], 2, 2);
        let trouble = |path: &str| found[path].as_ref().unwrap_err().trouble();
        assert_eq!(
            (trouble("a/1"), trouble("a/3"), trouble("../x")),
            (Trouble::OddKey, Trouble::TooMany, Trouble::OddKey)
        );
        assert_eq!((names(&found["a/2"]), names(&found["a/4"])), (vec!["x"], vec!["y"]));
        let said = found["a/1"].as_ref().unwrap_err().to_string();
        assert!(said.starts_with("s3://b/a/1/../../evil: an object has a name that is not taken (a part"), "{said}");
    }

    #[test]
    fn a_hundred_thousand_objects_elsewhere_cost_nothing_and_below_a_path_little() {
        let mut keys: BTreeSet<String> = (0..100_000).map(|n| format!("m/v1/checkpoint-{n:06}")).collect();
        keys.extend((0..3).flat_map(|n| ["a", "z"].map(|model| format!("{model}/v1/{n}"))));
        let (found, asked) = walked(&keys, &["a/v1", "z/v1"], 1000, 1000);
        assert_eq!((names(&found["a/v1"]).len(), names(&found["z/v1"]).len(), asked), (3, 3, 2));
        let (found, asked) = walked(&keys, &["a/v1", "m/v1", "z/v1"], 1000, 1000);
        assert!(found["m/v1"].is_err() && found["z/v1"].is_ok());
        assert!(asked <= 4, "{asked} questions");
    }

    #[test]
    fn two_hundred_adapters_are_one_question() {
        let keys: BTreeSet<String> = (0..200)
            .flat_map(|n| ["adapter_config.json", "manifest.json"].map(|file| format!("m/v{n}/{file}")))
            .collect();
        let paths: Vec<String> = (0..200).map(|n| format!("m/v{n}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let (found, asked) = walked(&keys, &paths, 1000, 1000);
        assert_eq!((asked, found.values().map(|listing| names(listing).len()).sum()), (1, 400));
    }

    proptest! {
        #[test]
        fn a_walk_finds_what_a_look_at_everything_finds(
            keys in prop::collection::btree_set("[ab]/[ab]{1,2}/?[ab.]{1,2}", 0..60),
            paths in prop::collection::btree_set("[abc](/[ab]{1,2})?", 0..6),
            page in 1_usize..9,
        ) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let (found, asked) = walked(&keys, &paths, page, 5);
            prop_assert!(asked <= keys.len().div_ceil(page) + paths.len(), "{} questions", asked);
            for path in &paths {
                let below: Vec<&str> =
                    keys.iter().filter_map(|key| key.strip_prefix(&format!("{path}/"))).collect();
                // What is wrong with a path is wrong with those within it.
                let outer = paths.iter().find(|outer| path.starts_with(&format!("{outer}/"))).unwrap_or(path);
                let all: Vec<&str> =
                    keys.iter().filter_map(|key| key.strip_prefix(&format!("{outer}/"))).collect();
                if all.len() <= 5 && all.iter().all(|key| key::check(key).is_ok()) {
                    prop_assert_eq!(names(&found[*path]), below);
                } else {
                    prop_assert!(found[*path].is_err());
                }
            }
        }
    }
}
