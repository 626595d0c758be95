//! What is to be done about a path, and what is said of it: pure functions of what is wanted, what was seen and what is
//! known. A loader that starts and one that has run for months go by the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tutti_api::{AdapterPath, AdapterState, Digest, EngineName, Phase, ProbeRequest, Quarantine, Reason};

use crate::identity::{Making, identity};
use crate::source::Object;
use crate::store::{Judgement, Made, Record};
use crate::wanted::Wanted;

/// What was listed at a path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    /// Of keys, sizes and versions.
    pub(crate) digest: Digest,
    /// The objects, by their keys below the path; or what is wrong with them.
    pub(crate) objects: Result<Arc<[Object]>, Quarantine>,
    /// Since when it is the same.
    pub(crate) since: Instant,
}

impl Seen {
    /// Whether it is what was seen then. What is gone has not changed: what came of it is as good as it was.
    fn is(&self, then: &Digest) -> bool {
        self.digest == *then || !self.is_there()
    }

    /// Whether there is anything.
    pub(crate) fn is_there(&self) -> bool {
        self.objects.as_ref().map_or(true, |objects| !objects.is_empty())
    }
}

/// What is known of the object store.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceSeen {
    /// What each path had when it was last listed. One that is not here was not listed yet.
    pub(crate) at: HashMap<AdapterPath, Seen>,
    /// Why the last look failed.
    pub(crate) down: Option<Quarantine>,
    /// How often it failed in a row.
    pub(crate) failures: u32,
}

impl SourceSeen {
    /// What counts for one path.
    pub(crate) fn of(&self, path: &AdapterPath) -> Self {
        let at = self.at.get(path).map(|seen| (path.clone(), seen.clone())).into_iter().collect();
        Self { at, down: self.down.clone(), failures: self.failures }
    }
}

/// What is known of the engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct EngineSeen {
    /// Whether it answered when it was last looked at.
    pub(crate) up: bool,
    /// What stands in the way of anything, where something does.
    pub(crate) down: Option<Quarantine>,
    /// How adapters are made for it; absent before it has told what its base is.
    pub(crate) making: Option<Making>,
    /// Its models and their digests, as it last told.
    pub(crate) has: Option<HashMap<EngineName, String>>,
}

impl EngineSeen {
    /// Whether it has these weights, as they were proven.
    pub(crate) fn serves(&self, made: &Made) -> bool {
        let has = self.has.as_ref().and_then(|has| has.get(&made.engine_name));
        made.proven.is_some() && has == made.proven.as_ref()
    }

    /// Whether these weights are what would be made for it now; as long as that is not known they are.
    pub(crate) fn is_current(&self, made: &Made) -> bool {
        self.making.as_ref().is_none_or(|making| identity(&made.manifest, making) == made.identity)
    }
}

/// A step that failed, and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retry {
    /// Why it failed.
    pub(crate) why: Quarantine,
    /// When it is tried again.
    pub(crate) at: Instant,
    /// How often it failed in a row.
    pub(crate) failures: u32,
}

/// Work on a path.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) phase: Phase,
    pub(crate) probe: Option<ProbeRequest>,
    /// The name that it works towards.
    pub(crate) engine_name: Option<EngineName>,
    pub(crate) digest: Option<Digest>,
}

/// All that counts for one path.
pub(crate) struct View<'v> {
    pub(crate) wanted: Option<&'v Wanted>,
    pub(crate) record: &'v Record,
    pub(crate) source: &'v SourceSeen,
    pub(crate) engine: &'v EngineSeen,
    pub(crate) running: Option<&'v Running>,
    pub(crate) retry: Option<&'v Retry>,
    /// How it is brought to the engine and what it has to show.
    pub(crate) settings: Digest,
    /// Whether a gateway may still send requests for a name.
    pub(crate) leased: &'v dyn Fn(&EngineName) -> bool,
    /// Before which nothing goes that is no longer wanted.
    pub(crate) stays_until: Option<Instant>,
    pub(crate) now: Instant,
}

/// What to do about a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing, until something happens.
    Rest,
    /// The same, until then.
    Until(Instant),
    /// Bring it as far as it goes.
    Bring,
    /// Take these names from the engine.
    Retire(Vec<EngineName>),
    /// Nothing of it is worth keeping.
    Forget,
}

/// The next thing that an adapter needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// Its files, or a look at whether they say the same as before: an answer of the object store.
    Source,
    /// To be made for the engine out of files that are on the disk.
    Make,
    /// To be registered and proven; the artefact is on the disk.
    Register,
}

/// What an adapter needs, by what lies at its path and what is on the disk.
pub(crate) fn need(record: &Record, source: &SourceSeen, engine: &EngineSeen) -> Need {
    let seen = source.at.get(&record.path);
    let is_same = |then: &Digest| seen.is_none_or(|seen| seen.is(then));
    let judged = record.quarantine.as_ref().is_some_and(|judged| is_same(&judged.seen));
    if let Some(served) = &record.served {
        if !is_same(&served.seen) && !judged {
            return Need::Source;
        }
        if engine.is_current(served) && engine.serves(served) {
            return Need::Nothing;
        }
    }
    if to_register(record, source, engine).is_some() {
        return Need::Register;
    }
    if record.served.is_some() && judged {
        return Need::Nothing; // what served is gone, and what lies there now is another
    }
    match &record.fetched {
        Some(fetched) if fetched.complete && is_same(&fetched.seen) => Need::Make,
        _ => Need::Source,
    }
}

/// The weights on the disk that the engine should have: the candidate, or what has served and was lost.
pub(crate) fn to_register<'r>(record: &'r Record, source: &SourceSeen, engine: &EngineSeen) -> Option<&'r Made> {
    let seen = source.at.get(&record.path);
    let served = record.served.as_ref();
    let lost = served.filter(|served| served.on_disk && engine.is_current(served));
    let candidate = record.candidate.as_ref().filter(|made| {
        let same =
            seen.is_none_or(|seen| seen.is(&made.seen)) || lost.is_some_and(|lost| lost.identity == made.identity);
        // Other content never takes the place of what has served.
        let may = served.is_none_or(|served| served.manifest == made.manifest);
        made.on_disk && engine.is_current(made) && same && may
    });
    candidate.or(lost)
}

/// Whether a judgement is of what is there now.
pub(crate) fn holds(judged: &Judgement, view: &View<'_>) -> bool {
    let seen = view.source.at.get(&view.record.path);
    let base = view.engine.making.as_ref().map(|making| making.base);
    seen.is_none_or(|seen| seen.digest == judged.seen)
        && view.wanted.is_none_or(|wanted| wanted.expected == judged.expected)
        && judged.settings == view.settings
        && base.zip(judged.base).is_none_or(|(now, then)| now == then)
}

/// What to do about a path.
pub(crate) fn decide(view: &View<'_>) -> Decision {
    if view.running.is_some() {
        return Decision::Rest;
    }
    let Some(wanted) = view.wanted else { return unwanted(view) };
    let bring = match bring(view, wanted) {
        true => match view.retry {
            Some(retry) if retry.at > view.now => Decision::Until(retry.at),
            _ => Decision::Bring,
        },
        false => Decision::Rest,
    };
    if bring == Decision::Bring {
        return bring;
    }
    let leaving: Vec<EngineName> = view.record.leaving.iter().filter(|name| !(view.leased)(name)).cloned().collect();
    if view.engine.up && !leaving.is_empty() { Decision::Retire(leaving) } else { bring }
}

/// Whether there is something that can be done for it now.
fn bring(view: &View<'_>, wanted: &Wanted) -> bool {
    let record = view.record;
    if refuses(view, wanted) {
        return false;
    }
    if record.served.is_none()
        && record.quarantine.as_ref().is_some_and(|judged| holds(judged, view) && !is_tried_again(judged))
    {
        return false;
    }
    match need(record, view.source, view.engine) {
        Need::Nothing => false,
        // What is not there cannot be brought; what is not known to be there is not asked for before the list has come.
        Need::Source => view.source.at.get(&record.path).is_some_and(Seen::is_there),
        Need::Make | Need::Register => view.engine.up && view.engine.down.is_none() && view.engine.making.is_some(),
    }
}

/// Whether what a spec insists on is not what has served under its path: then it does not serve.
fn refuses(view: &View<'_>, wanted: &Wanted) -> bool {
    let served = view.record.served.as_ref();
    wanted.expected.zip(served).is_some_and(|(expected, served)| expected != served.manifest)
}

/// Whether a judgement may turn out otherwise although nothing has changed that it was judged on.
pub(crate) fn is_tried_again(judged: &Judgement) -> bool {
    matches!(judged.why.reason, Reason::NoSpace | Reason::EngineRefused | Reason::LoaderBroke)
}

fn unwanted(view: &View<'_>) -> Decision {
    let record = view.record;
    let has = |name: &EngineName| view.engine.has.as_ref().is_some_and(|has| has.contains_key(name));
    let served = record.served.iter().map(|made| &made.engine_name);
    // Who was stopped between the copy and the record has left a name that only this tells of.
    let copied = record.candidate.iter().map(|made| &made.engine_name).filter(|name| has(name));
    let mut names: Vec<EngineName> = served.chain(&record.leaving).chain(copied).cloned().collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        // An artefact stays for as long as there is room: it may be wanted again.
        let worthless = record.candidate.is_none();
        return if worthless { Decision::Forget } else { Decision::Rest };
    }
    if let Some(until) = view.stays_until.filter(|until| *until > view.now) {
        return Decision::Until(until);
    }
    if !view.engine.up || names.iter().any(|name| (view.leased)(name)) {
        return Decision::Rest;
    }
    Decision::Retire(names)
}

/// What is said of a path; nothing of one that is neither wanted nor in the engine.
pub(crate) fn state(view: &View<'_>) -> Option<AdapterState> {
    let record = view.record;
    let path = record.path.clone();
    let served = record.served.as_ref();
    let of = |made: Option<&Made>, phase, reason| AdapterState {
        path: path.clone(),
        engine_name: made.map(|made| made.engine_name.to_string()),
        digest: made.map(|made| made.manifest),
        phase,
        reason,
        probe: None,
    };
    let Some(wanted) = view.wanted else {
        return served.map(|made| of(Some(made), Phase::Retiring, None));
    };
    if refuses(view, wanted) {
        let why = served.map(|made| refused(made, wanted));
        return Some(of(served, Phase::Quarantined, why));
    }
    let judged = record.quarantine.as_ref().filter(|judged| holds(judged, view)).map(|judged| judged.why.clone());
    // Somebody wants it again; but it is on its way out, and comes back.
    let leaves = |running: &&Running| running.phase == Phase::Retiring && running.engine_name.is_some();
    if view.running.filter(leaves).is_some() {
        return Some(of(served, Phase::Retiring, None));
    }
    if let Some(made) = served.filter(|made| view.engine.serves(made)) {
        let mut state = of(served, Phase::Ready, judged).with_digest(made.manifest);
        // What is to take its place is asked for by the gateway too.
        state.probe = view.running.and_then(|running| running.probe.clone());
        return Some(state);
    }
    if let Some(running) = view.running {
        let mut state =
            of(record.candidate.as_ref().or(served), running.phase, view.retry.map(|retry| retry.why.clone()));
        state.probe.clone_from(&running.probe);
        if let Some(name) = &running.engine_name {
            state.engine_name = Some(name.to_string());
        }
        state.digest = running.digest.or(state.digest);
        return Some(state);
    }
    let need = need(record, view.source, view.engine);
    if let Some(why) = judged.filter(|_| served.is_none() || need == Need::Nothing) {
        return Some(of(None, Phase::Quarantined, Some(why)));
    }
    let made = record.candidate.as_ref().or(served);
    let is_gone = view.source.at.get(&path).is_some_and(|seen| !seen.is_there());
    let reason = match need {
        Need::Source if is_gone => Some(nothing_there(&path)),
        Need::Source => view.retry.map(|retry| retry.why.clone()).or_else(|| view.source.down.clone()),
        _ => view.engine.down.clone().or_else(|| view.retry.map(|retry| retry.why.clone())),
    };
    let gone = reason.as_ref().is_some_and(|why| why.reason == Reason::NotFound);
    Some(of(made, if gone { Phase::Quarantined } else { Phase::Pending }, reason))
}

trait WithDigest {
    fn with_digest(self, digest: Digest) -> Self;
}

impl WithDigest for AdapterState {
    fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }
}

fn nothing_there(path: &AdapterPath) -> Quarantine {
    let message = format!("there is nothing at {path} below adapters.from: `tutti adapter push` puts an adapter there");
    Quarantine { reason: Reason::NotFound, message }
}

fn refused(made: &Made, wanted: &Wanted) -> Quarantine {
    let expected = wanted.expected.map(|digest| digest.to_string()).unwrap_or_default();
    let message = format!(
        "the models insist on {expected}, and {} has served {}: a new version is a new path",
        wanted.path, made.manifest
    );
    Quarantine { reason: Reason::DigestRefused, message }
}
