//! What people want of a release.

use serde::{Deserialize, Serialize};
use tutti_api::{ModelSpec, OnLost, Problem, Share, StrategySpec};

use crate::evidence::{Heard, Ready};
use crate::release::{Candidate, Millis, Release, Stage};

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, tag = "do")]
pub enum Command {
    /// That a revision serves.
    To {
        /// Its name.
        revision: String,
        /// How it comes to that.
        how: How,
        /// The share of requests that it also gets meanwhile; absent: as configured.
        mirror: Option<Share>,
        /// Also where no replica has it, proven.
        force: bool,
    },
    /// That a change ends, or where none is under way, that the former revision serves again.
    Rollback {
        /// Another than the former one.
        to: Option<String>,
        /// Also where no replica has it, proven.
        force: bool,
    },
    /// That a change that waits goes on.
    Resume,
    /// That nothing happens by itself any more.
    Freeze,
}

/// How a change comes about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum How {
    /// As the configuration says; where it says nothing, at once.
    Configured,
    /// At once.
    Now,
    /// So.
    By(Box<StrategySpec>),
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such model.
    #[error("no configured model is called {model:?}; there are {}", .known.join(", "))]
    NoModel {
        /// What was asked for.
        model: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// It has no such revision.
    #[error("{model} has no revision {revision:?}; there are {}", .known.join(", "))]
    NoRevision {
        /// The model.
        model: String,
        /// What was asked for.
        revision: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// No replica has it.
    #[error(
        "no replica that can be reached has {model}@{revision}, proven; `--force` sends requests to it all the same"
    )]
    NotReady {
        /// The model.
        model: String,
        /// The revision.
        revision: String,
    },
    /// There is nothing to go back to.
    #[error("{model} has had no revision before {current}: name one with --to")]
    NothingBefore {
        /// The model.
        model: String,
        /// The revision that serves.
        current: String,
    },
    /// Nothing waits.
    #[error("no change of {model} is under way that waits")]
    NothingWaits {
        /// The model.
        model: String,
    },
    /// A change is under way, and waits for nobody's word.
    #[error("the change of {model} to {revision} does not wait for anybody's word: {what}")]
    WaitsForNobody {
        /// The model.
        model: String,
        /// The candidate.
        revision: String,
        /// What it does instead.
        what: String,
    },
    /// How it is to come about is no way: what is wrong with that, each with what to write.
    #[error("{}", .0.join("\n"))]
    NoStrategy(Vec<String>),
    /// It would try two revisions on one replica that has the weights of one at a time.
    #[error(
        "{model}@{revision} and {current} share pool {pool:?}, whose one replica would load weights anew for each request: use --now"
    )]
    OneReplica {
        /// The model.
        model: String,
        /// The candidate.
        revision: String,
        /// The current revision.
        current: String,
        /// The pool.
        pool: String,
    },
}

/// How a release stands once a command was obeyed. `reloads` says of a pool whether its engine has the weights of one
/// model at a time.
///
/// # Errors
/// Why it is not; then all stays as it was.
pub fn command(
    release: &Release,
    spec: &ModelSpec,
    heard: &Heard,
    reloads: impl Fn(&str) -> bool,
    (command, by): (&Command, &str),
    now: Millis,
) -> Result<Release, Refused> {
    let mut next = release.clone();
    let model = || release.model.clone();
    let ready = |revision: &str| -> Ready {
        heard.get(&release.model).and_then(|of| of.get(revision)).map(|heard| heard.ready.clone()).unwrap_or_default()
    };
    let there = |revision: &str, force: bool| {
        if !spec.revisions.iter().any(|of| of.name == revision) {
            let known = spec.revisions.iter().map(|of| of.name.clone()).collect();
            return Err(Refused::NoRevision { model: model(), revision: revision.to_owned(), known });
        }
        if ready(revision).replicas == 0 && !force {
            return Err(Refused::NotReady { model: model(), revision: revision.to_owned() });
        }
        Ok(())
    };
    match command {
        Command::To { revision, how, mirror, force } => {
            let traffic = spec.traffic.as_ref();
            let configured = traffic.and_then(|traffic| traffic.strategy.as_ref());
            let strategy = match how {
                How::Configured => configured.cloned(),
                How::Now => None,
                How::By(typed) => Some(completed(judged(typed)?, configured)),
            };
            there(revision, *force || strategy.is_some())?;
            let (its, theirs) = (ready(revision), ready(&release.current));
            let mirror = mirror.or_else(|| traffic.and_then(|traffic| traffic.mirror));
            let tries = strategy.as_ref().is_some_and(|strategy| strategy.canary.is_some() || mirror.is_some());
            if tries
                && *revision != release.current
                && its.pool == theirs.pool
                && theirs.replicas < 2
                && reloads(&its.pool)
            {
                let (revision, current) = (revision.clone(), release.current.clone());
                return Err(Refused::OneReplica { model: model(), revision, current, pool: its.pool });
            }
            next.frozen = false;
            next.change(revision, strategy, mirror, by, now);
        }
        Command::Rollback { to: None, .. } if release.candidate.is_some() => {
            next.frozen = false;
            next.abort(by, "somebody wanted it so", now);
        }
        Command::Rollback { to, force } => {
            let nothing = || Refused::NothingBefore { model: model(), current: release.current.clone() };
            let to = to.clone().or_else(|| release.previous.clone()).ok_or_else(nothing)?;
            there(&to, *force)?;
            next.frozen = false;
            if to == next.current {
                next.abort(by, "somebody wanted it so", now)
            } else {
                next.switch(&to, by, "rolled back", now)
            }
        }
        Command::Resume => resume(&mut next, by, now)?,
        Command::Freeze => {
            next.frozen = true;
            next.tell(by, "frozen: nothing happens by itself until it is resumed".to_owned(), now);
        }
    }
    Ok(next)
}

/// A strategy that was typed by hand, which nobody has checked yet.
fn judged(strategy: &StrategySpec) -> Result<StrategySpec, Refused> {
    let shown = |problem: &Problem| {
        let help = problem.help.as_deref().map(|help| format!("; {help}")).unwrap_or_default();
        format!("{}: {}{help}", problem.path, problem.message)
    };
    let problems: Vec<String> = strategy.problems().iter().map(shown).collect();
    if problems.is_empty() { Ok(strategy.clone()) } else { Err(Refused::NoStrategy(problems)) }
}

/// What was typed says how the change comes about. What it leaves open of how the candidate is judged, and of what becomes
/// of one whose replicas are lost, is as configured: who types other steps does not do without what guards them.
fn completed(mut typed: StrategySpec, configured: Option<&StrategySpec>) -> StrategySpec {
    let Some(configured) = configured else { return typed };
    if typed.on_lost_replicas == OnLost::default() {
        typed.on_lost_replicas = configured.on_lost_replicas;
    }
    if let (Some(typed), Some(configured)) = (&mut typed.canary, &configured.canary)
        && typed.analysis.is_none()
    {
        typed.analysis.clone_from(&configured.analysis);
    }
    if let (Some(typed), Some(configured)) = (&mut typed.blue_green, &configured.blue_green) {
        let analyses = [
            (&mut typed.pre_promotion_analysis, &configured.pre_promotion_analysis),
            (&mut typed.post_promotion_analysis, &configured.post_promotion_analysis),
        ];
        for (typed, configured) in analyses.into_iter().filter(|(typed, _)| typed.is_none()) {
            typed.clone_from(configured);
        }
    }
    typed
}

fn resume(release: &mut Release, by: &str, now: Millis) -> Result<(), Refused> {
    if std::mem::take(&mut release.frozen) {
        release.tell(by, "resumed".to_owned(), now);
        return Ok(());
    }
    let Some(candidate) = &mut release.candidate else {
        return Err(Refused::NothingWaits { model: release.model.clone() });
    };
    // A word that nobody waits for would be taken for the next one that is waited for.
    if let Some(what) = instead(candidate) {
        let (model, revision) = (release.model.clone(), candidate.revision.clone());
        return Err(Refused::WaitsForNobody { model, revision, what: what.to_owned() });
    }
    if candidate.held.take().is_some() {
        candidate.inconclusive = 0;
    } else {
        candidate.promoted = true;
    }
    let what = format!("{} may go on", candidate.revision);
    release.tell(by, what, now);
    Ok(())
}

/// What a change does that waits for nobody's word; `None`: it waits for one, or goes on sooner by one.
fn instead(candidate: &Candidate) -> Option<&'static str> {
    const REPLICA: &str = "it waits for a replica that has it, proven";
    if candidate.held.is_some() {
        return None;
    }
    if candidate.lost {
        return Some("no replica serves it any more, and it goes on once one does");
    }
    let canary = candidate.strategy.canary.as_ref();
    let blue_green = candidate.strategy.blue_green.as_ref();
    match candidate.stage {
        Stage::Step(number) => {
            let step = canary.and_then(|canary| canary.steps.get(number));
            step.is_none_or(|step| step.pause.is_none()).then_some(REPLICA)
        }
        Stage::Proving => {
            let judged = canary.and_then(|canary| canary.analysis.as_ref());
            judged.is_none_or(|analysis| candidate.passed >= analysis.count).then_some(REPLICA)
        }
        Stage::Preparing => {
            // It may be its own time that it waits for: until there is something to judge it beside later.
            let Some(spec) = blue_green else { return Some(REPLICA) };
            let passed = |analysis: &tutti_api::AnalysisSpec| candidate.passed >= analysis.count;
            let by_itself = spec.auto_promotion_enabled
                && spec.pre_promotion_analysis.as_ref().is_none_or(passed)
                && spec.post_promotion_analysis.is_none();
            by_itself.then_some("it waits until it has as many ready slots as the revision that serves")
        }
        Stage::Watching => None,
    }
}

#[cfg(test)]
mod tests {
    use tutti_api::{Config, PoolSpec};

    use super::*;
    use crate::driver::{Driver, State};
    use crate::evidence::RevisionHeard;

    fn config() -> Config {
        let pool = |name: &str| format!("{{ name: {name}, endpoints: [{{ url: \"http://{name}:1\" }}] }}");
        let revisions = "[{ name: v1, pool: blue, upstream: a }, { name: v2, pool: green, upstream: b }]";
        let yaml =
            format!("pools: [{}, {}]\nmodels: [{{ name: m, revisions: {revisions} }}]", pool("blue"), pool("green"));
        tutti_api::load(&yaml, "t", []).expect("a configuration")
    }

    /// A driver of `m`, whose v2 so many replicas have.
    fn driver(replicas: u32) -> Driver {
        let Config { models, pools, .. } = config();
        let mut driver = Driver::new("the driver", State::default());
        driver.configure(&models, &pools, 0);
        hear(&mut driver, &pools, replicas);
        driver
    }

    fn hear(driver: &mut Driver, pools: &[PoolSpec], replicas: u32) {
        let of = |pool: &PoolSpec, replicas| {
            let ready = Ready { pool: pool.name.clone(), replicas, slots: replicas };
            RevisionHeard { ready, ..RevisionHeard::default() }
        };
        let told = [("v1".to_owned(), of(&pools[0], 1)), ("v2".to_owned(), of(&pools[1], replicas))];
        driver.hear("g", [("m".to_owned(), told.into())].into());
    }

    fn to_v2(strategy: &str) -> Command {
        let strategy = serde_json::from_str(strategy).expect("a strategy");
        Command::To { revision: "v2".to_owned(), how: How::By(Box::new(strategy)), mirror: None, force: false }
    }

    fn resumed(driver: &mut Driver) -> Result<(), String> {
        driver.command("m", &Command::Resume, "me", 5).map(|_| ()).map_err(|why| why.to_string())
    }

    #[test]
    fn what_waits_for_nobodys_word_is_not_resumed_and_skips_no_pause_later() {
        let mut driver = driver(0);
        assert_eq!(resumed(&mut driver), Err("no change of m is under way that waits".to_owned()));
        let canary = r#"{"canary":{"steps":[{"setWeight":"10%"},{"pause":"until-promoted"}]}}"#;
        driver.command("m", &to_v2(canary), "me", 1).expect("it may");
        let why = resumed(&mut driver).expect_err("nobody has it");
        assert_eq!(
            why,
            "the change of m to v2 does not wait for anybody's word: it waits for a replica that has it, proven"
        );
        hear(&mut driver, &config().pools, 1);
        driver.tick(10);
        assert_eq!(driver.release("m").map(|release| release.weight("v2")), Some(100_000), "and waits to be promoted");
        assert_eq!(resumed(&mut driver), Ok(()));
        assert_eq!(driver.release("m").map(|release| &*release.current), Some("v2"));
        assert!(resumed(&mut driver).is_err(), "it is over");
    }

    #[test]
    fn a_word_that_comes_as_a_pause_is_over_skips_none_that_is_to_come() {
        let mut driver = driver(1);
        let steps = r#"[{"setWeight":"10%"},{"pause":"4s"},{"setWeight":"50%"},{"pause":"until-promoted"}]"#;
        driver.command("m", &to_v2(&format!(r#"{{"canary":{{"steps":{steps}}}}}"#)), "me", 1).expect("it may");
        driver.command("m", &Command::Resume, "me", 4_001).expect("it waits");
        driver.tick(4_001);
        assert_eq!(driver.release("m").map(|release| release.weight("v2")), Some(500_000), "and waits to be promoted");
        assert_eq!(resumed(&mut driver), Ok(()));
        assert_eq!(driver.release("m").map(|release| &*release.current), Some("v2"));
    }

    #[test]
    fn of_blue_and_green_a_word_is_waited_for_where_it_does_not_take_over_by_itself() {
        let mut driver = driver(0);
        driver.command("m", &to_v2(r#"{"blueGreen":{}}"#), "me", 1).expect("it may");
        assert!(resumed(&mut driver).expect_err("it is not ready").contains("as many ready slots"));
        let by_hand = r#"{"blueGreen":{"autoPromotionEnabled":false}}"#;
        driver.command("m", &Command::Rollback { to: None, force: false }, "me", 2).expect("it may");
        driver.command("m", &to_v2(by_hand), "me", 3).expect("it may");
        assert_eq!(resumed(&mut driver), Ok(()), "before it is ready too");
    }

    #[test]
    fn what_is_typed_is_guarded_as_configured_where_it_does_not_say_otherwise() {
        let strategy = |json: &str| -> StrategySpec { serde_json::from_str(json).expect("a strategy") };
        let configured =
            strategy(r#"{"canary":{"steps":[{"setWeight":"5%"}],"analysis":{"count":4}},"onLostReplicas":"rollback"}"#);
        let typed = strategy(r#"{"canary":{"steps":[{"setWeight":"50%"}]}}"#);
        assert_eq!(
            completed(typed.clone(), Some(&configured)),
            strategy(
                r#"{"canary":{"steps":[{"setWeight":"50%"}],"analysis":{"count":4}},"onLostReplicas":"rollback"}"#
            )
        );
        assert_eq!(completed(typed.clone(), None), typed);
        let own = strategy(r#"{"canary":{"steps":[{"setWeight":"50%"}],"analysis":{"count":9}}}"#);
        assert_eq!(completed(own.clone(), Some(&configured)).canary, own.canary);
        let judged =
            strategy(r#"{"blueGreen":{"prePromotionAnalysis":{"count":2},"postPromotionAnalysis":{"count":3}}}"#);
        let switched = completed(strategy(r#"{"blueGreen":{"prePromotionAnalysis":{"count":7}}}"#), Some(&judged));
        let both = r#"{"blueGreen":{"prePromotionAnalysis":{"count":7},"postPromotionAnalysis":{"count":3}}}"#;
        assert_eq!(switched, strategy(both));
        assert_eq!(completed(typed.clone(), Some(&judged)), typed, "one is not judged by what is for the other");
    }

    #[test]
    fn a_strategy_that_was_typed_is_judged_as_one_that_is_configured() {
        let mut driver = driver(1);
        for (wrong, why) in [
            (r#"{"canary":{"steps":[{}]}}"#, "strategy.canary.steps[0]: a step is one thing; write"),
            (r#"{"canary":{"steps":[]}}"#, "strategy.canary.steps: a canary has 1 to 100 steps; write"),
            (r#"{"canary":{"steps":[{"pause":"1s"}]},"blueGreen":{}}"#, "strategy: a change comes about in one way"),
            ("{}", "strategy: a change comes about in one way"),
            (r#"{"blueGreen":{"prePromotionAnalysis":{"interval":"0s"}}}"#, "strategy.blueGreen.prePromotionAnalysis"),
        ] {
            let refused = driver.command("m", &to_v2(wrong), "me", 1).map(|_| ()).expect_err("it is no way");
            assert!(refused.to_string().starts_with(why), "{wrong}: {refused}");
        }
        assert!(driver.release("m").is_some_and(|release| release.candidate.is_none()));
    }
}
