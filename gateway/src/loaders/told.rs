//! What a loader has told: which adapter its engine serves under which name, and how far the others are. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use tutti_api::{AdapterPath, EngineName, Phase, ProbeRequest, Quarantine, Reason};

use crate::adapters;

/// Most adapters of a list that are read.
const MAX_ADAPTERS: usize = 10_000;
/// Most of a message that is kept. Unit: characters.
const MAX_MESSAGE: usize = 1000;

/// One answer of a loader.
#[derive(Debug, Default)]
pub(crate) struct List {
    /// Tells one run of the loader from the next.
    pub(crate) instance: String,
    pub(crate) version: u64,
    adapters: Vec<Adapter>,
}

/// An adapter, as a loader has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Adapter {
    pub(crate) path: AdapterPath,
    pub(crate) engine_name: Option<EngineName>,
    /// `None`: one that this version does not know.
    pub(crate) phase: Option<Phase>,
    pub(crate) reason: Option<Reason>,
    /// For those who run it: it may name files.
    pub(crate) message: Option<String>,
    pub(crate) probe: Option<ProbeRequest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    instance: String,
    version: u64,
    adapters: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenAdapter {
    path: AdapterPath,
    #[serde(default)]
    engine_name: Value,
    #[serde(default)]
    phase: Value,
    #[serde(default)]
    reason: Value,
    #[serde(default)]
    probe: Value,
}

impl List {
    /// Reads an answer. What a later version may have added is passed over; a path that is none is left out.
    ///
    /// # Errors
    /// It is no list.
    pub(crate) fn read(body: &[u8]) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(body).map_err(|error| format!("it answers no list: {error}"))?;
        let Written { instance, version, adapters } = written;
        if adapters.len() > MAX_ADAPTERS {
            return Err(format!("it lists {} adapters, and at most {MAX_ADAPTERS} are read", adapters.len()));
        }
        let adapters = adapters.into_iter().filter_map(Adapter::read).collect();
        Ok(Self { instance: instance.chars().take(100).collect(), version, adapters })
    }

    /// Whether it is the first word of a loader that has not looked at anything yet.
    fn says_nothing(&self) -> bool {
        self.version <= 1 && self.adapters.is_empty()
    }
}

impl Adapter {
    fn read(value: Value) -> Option<Self> {
        let written: WrittenAdapter = serde_json::from_value(value).ok()?;
        let WrittenAdapter { path, engine_name, phase, reason, probe } = written;
        let message = reason["message"].as_str().map(|message| message.chars().take(MAX_MESSAGE).collect());
        let known: Option<Quarantine> = serde_json::from_value(reason).ok();
        let name: Option<EngineName> = serde_json::from_value(engine_name).ok();
        let probe: Option<ProbeRequest> = serde_json::from_value(probe).ok();
        Some(Self {
            // A loader names what is its path's; whatever else it says leads nowhere.
            engine_name: name.filter(|name| adapters::is_of(name.as_str(), &path)),
            probe: probe.filter(|probe| adapters::is_of(probe.engine_name.as_str(), &path)),
            phase: serde_json::from_value(phase).ok(),
            reason: known.map(|known| known.reason),
            message,
            path,
        })
    }
}

/// What a loader's words come to.
#[derive(Debug, Default)]
pub(crate) struct Told {
    heard: bool,
    adapters: BTreeMap<AdapterPath, Adapter>,
    /// What requests may go to.
    serves: BTreeMap<AdapterPath, EngineName>,
}

/// What is known of the name under which an engine serves an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nobody has said anything: the engine's own list is all there is.
    None,
    /// Its loader says: by this, or by none.
    Serves(Option<EngineName>),
}

impl Told {
    /// Takes a list in. `leased`: the names that the loader has promised to keep. Yields whether requests go elsewhere now.
    ///
    /// What was ready stays so until something better is ready, it is quarantined, or it is gone: a loader that has just
    /// started has not looked at its engine yet, and says of all that it waits.
    pub(crate) fn hear(&mut self, list: List, leased: &BTreeSet<EngineName>) -> bool {
        if list.says_nothing() {
            return false;
        }
        let first = !std::mem::replace(&mut self.heard, true);
        let before = std::mem::take(&mut self.serves);
        self.adapters = list.adapters.into_iter().map(|adapter| (adapter.path.clone(), adapter)).collect();
        for (path, adapter) in &self.adapters {
            let known = before.get(path);
            let serves = match adapter.phase {
                Some(Phase::Ready) => adapter.engine_name.as_ref().or(known),
                Some(Phase::Quarantined) => None,
                // It goes as soon as nobody has a lease: it is not for those who have none.
                Some(Phase::Retiring) => known.filter(|name| leased.contains(*name)),
                _ => known,
            };
            if let Some(name) = serves.cloned() {
                self.serves.insert(path.clone(), name);
            }
        }
        first || self.serves != before
    }

    /// The loader has promised to keep these and no others. Yields whether requests go elsewhere now.
    pub(crate) fn keeps(&mut self, leased: &BTreeSet<EngineName>) -> bool {
        let before = self.serves.len();
        let retires = |path: &AdapterPath| self.adapters.get(path).is_some_and(|of| of.phase == Some(Phase::Retiring));
        self.serves.retain(|path, name| !retires(path) || leased.contains(name));
        self.serves.len() != before
    }

    /// What is known of an adapter.
    pub(crate) fn word(&self, path: &AdapterPath) -> Word {
        if self.heard { Word::Serves(self.serves.get(path).cloned()) } else { Word::None }
    }

    /// The names under which it serves anything.
    pub(crate) fn names(&self) -> impl Iterator<Item = &EngineName> {
        self.serves.values()
    }

    /// How it has an adapter.
    pub(crate) fn adapter(&self, path: &AdapterPath) -> Option<&Adapter> {
        self.adapters.get(path)
    }

    /// All adapters that it has told of, in order.
    pub(crate) fn adapters(&self) -> impl Iterator<Item = &Adapter> {
        self.adapters.values()
    }

    /// The first probe that it asks for after that of this name, in the order of the paths; round and round, so that one which
    /// fails again and again is in nobody's way.
    pub(crate) fn probe_after(&self, last: Option<&str>) -> Option<&ProbeRequest> {
        let probes = || self.adapters.values().filter_map(|adapter| adapter.probe.as_ref());
        let later = last.and_then(|last| {
            let mut from = probes().skip_while(|probe| probe.engine_name.as_str() != last);
            from.next()?;
            from.next()
        });
        later.or_else(|| probes().next())
    }

    /// How many it asks for.
    pub(crate) fn probes(&self) -> usize {
        self.adapters.values().filter(|adapter| adapter.probe.is_some()).count()
    }

    /// Whether a name is of the loader's making: no model of its own to show.
    pub(crate) fn is_its_own(&self, name: &str) -> bool {
        let own = |adapter: &Adapter| {
            let probe = adapter.probe.as_ref().map(|probe| &probe.staging_name);
            adapter.engine_name.iter().chain(probe).any(|own| own.as_str() == name)
        };
        self.adapters.values().any(own) || self.serves.values().any(|own| own.as_str() == name)
    }
}

/// Why no replica serves an adapter, of what the loaders of all of them have told: how far the best is, and the code of a
/// reason. Clients read it: nothing else of what the loaders say is in it. `None`: no loader has told anything of it.
pub(crate) fn why<'a>(of: impl Iterator<Item = &'a Adapter>) -> Option<String> {
    // One that is on its way will serve; one that is quarantined will not.
    let rank = |of: &&Adapter| match of.phase {
        Some(Phase::Quarantined) => (0, of.phase),
        _ => (1, of.phase),
    };
    let best = of.max_by_key(rank)?;
    let phase = best.phase?.to_string().to_lowercase();
    Some(match (best.phase?, best.reason) {
        (Phase::Ready, _) => "ready at its loader, but not found on a replica that serves".to_owned(),
        (_, Some(reason)) => format!("{phase}: {reason}"),
        (_, None) => phase,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ONE: &str = "risk:v1-aaaaaaaaaaaa";
    const OTHER: &str = "risk:v1-bbbbbbbbbbbb";

    fn list(version: u64, adapters: &[Value]) -> List {
        let list = json!({ "instance": "i", "version": version, "adapters": adapters });
        List::read(list.to_string().as_bytes()).unwrap()
    }

    fn of(phase: &str, name: &str) -> Value {
        json!({ "path": "risk/v1", "phase": phase, "engineName": name })
    }

    fn serves(told: &Told) -> Option<String> {
        match told.word(&"risk/v1".parse().unwrap()) {
            Word::None => Some("?".to_owned()),
            Word::Serves(name) => name.map(|name| name.to_string()),
        }
    }

    #[test]
    fn what_was_ready_serves_until_something_better_does_or_it_is_quarantined() {
        let (none, leased) = (BTreeSet::new(), BTreeSet::from([ONE.parse().unwrap()]));
        let mut told = Told::default();
        assert!(!told.hear(list(1, &[]), &none), "a loader that has just started");
        assert_eq!(serves(&told).as_deref(), Some("?"));
        assert!(told.hear(list(2, &[of("Probing", ONE)]), &none));
        assert_eq!(serves(&told), None);
        assert!(told.hear(list(3, &[of("Ready", ONE)]), &none));
        for phase in ["Pending", "Registering", "Probing", "Ready", "Dreaming"] {
            assert!(!told.hear(list(4, &[of(phase, ONE)]), &none), "{phase}");
            assert_eq!(serves(&told).as_deref(), Some(ONE), "{phase}");
        }
        assert!(!told.hear(list(1, &[]), &none), "it was started again");
        assert_eq!(serves(&told).as_deref(), Some(ONE));
        assert!(!told.hear(list(5, &[of("Retiring", ONE)]), &leased));
        assert!(told.keeps(&none) && serves(&told).is_none(), "the lease has ended");
        assert!(!told.hear(list(6, &[of("Retiring", ONE)]), &leased), "nobody begins with what goes");
        told.hear(list(7, &[of("Ready", ONE)]), &none);
        assert!(told.hear(list(8, &[of("Ready", OTHER)]), &none));
        assert_eq!(serves(&told).as_deref(), Some(OTHER));
        assert!(told.hear(list(9, &[of("Quarantined", OTHER)]), &none));
        assert_eq!(serves(&told), None);
        told.hear(list(10, &[of("Ready", ONE)]), &none);
        assert!(told.hear(list(11, &[]), &none) && serves(&told).is_none(), "it is gone");
    }

    #[test]
    fn whatever_a_loader_says_leads_to_no_other_adapters_weights() {
        let none = BTreeSet::new();
        for name in ["risk:v2-aaaaaaaaaaaa", "base", "risk:v1", "acme/risk:v1-aaaaaaaaaaaa", "", "风险"] {
            let mut told = Told::default();
            told.hear(list(2, &[of("Ready", name)]), &none);
            assert_eq!(serves(&told), None, "{name}");
        }
        let strange = [json!(1), json!({}), json!({ "path": "../etc", "phase": "Ready" }), json!(null), json!([])];
        let mut told = Told::default();
        told.hear(list(2, &[&strange[..], &[of("Ready", ONE)]].concat()), &none);
        assert_eq!((serves(&told).as_deref(), told.adapters().count()), (Some(ONE), 1));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for wrong in ["", "[]", "{}", "<html>", r#"{"version":"1","adapters":[]}"#, r#"{"version":1}"#] {
            assert!(List::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let many = vec![json!(0); MAX_ADAPTERS + 1];
        let many = json!({ "version": 1, "adapters": many }).to_string();
        assert!(List::read(many.as_bytes()).unwrap_err().contains("at most"));
        let long = json!({ "path": "a/b", "phase": "Quarantined", "reason": { "reason": "New", "message": "x".repeat(5000) } });
        let list = list(2, &[long]);
        assert_eq!((list.adapters[0].reason, list.adapters[0].message.as_ref().unwrap().len()), (None, MAX_MESSAGE));
    }

    #[test]
    fn clients_hear_how_far_the_best_is() {
        let why = |states: &[Value]| why(list(2, states).adapters.iter());
        let bad =
            json!({ "path": "a/b", "phase": "Quarantined", "reason": { "reason": "WrongBase", "message": "/a" } });
        assert_eq!(why(&[bad.clone(), bad.clone()]).as_deref(), Some("quarantined: WrongBase"));
        assert_eq!(why(&[bad, json!({ "path": "a/b", "phase": "Probing" })]).as_deref(), Some("probing"));
        let waits =
            json!({ "path": "a/b", "phase": "Pending", "reason": { "reason": "SourceUnavailable", "message": "" } });
        assert_eq!(why(&[waits]).as_deref(), Some("pending: SourceUnavailable"));
        assert_eq!(why(&[]), None);
    }
}
