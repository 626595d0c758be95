//! What becomes of a release by itself: a candidate that is worse, as good, neither, or gone, by what real gateways have seen of
//! simulated replicas.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Driver, Fleet, Load, Tutti, eventually, simulator_with};

/// How often candidates are judged here.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many requests of either revision say something of times.
const LEAST: u64 = 500;
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false}"#;

/// A replica of each revision.
fn two() -> [Running; 2] {
    that_take(Duration::ZERO)
}

/// The same, with answers that take so long.
fn that_take(time: Duration) -> [Running; 2] {
    let machine = Machine { token_time: time, ..Machine::instant() };
    let models = ["ma", "mb"].map(|model| Model::chat(model, 1 << 20));
    models.map(|model| {
        let config = Config { records_max: 0, machine: machine.clone(), answer_tokens: 1, ..Config::quick(model) };
        simulator_with(config)
    })
}

/// The model `m`, whose revision v1 serves, with what else its traffic says.
fn yaml([a, b]: [&str; 2], traffic: &str) -> String {
    format!(
        "pools:\n  - {{ name: p, endpoints: [{a}], slots: 64 }}\n  - {{ name: b, endpoints: [{b}], slots: 64 }}\n\
         models:\n  - name: m\n    revisions: [{{ name: v1, pool: p, upstream: ma }}, {{ name: v2, pool: b, upstream: mb }}]\n    \
         traffic: {{ revision: v1, {traffic} }}\n"
    )
}

fn at(replica: &Running) -> String {
    format!("{{ url: \"{}\" }}", replica.url())
}

fn on([a, b]: &[Running; 2], traffic: &str) -> String {
    yaml([&at(a), &at(b)], traffic)
}

/// Half of the requests, as long as it takes, with what is said of its analysis.
fn half(analysis: &str) -> String {
    let interval = INTERVAL.as_secs();
    format!(
        "strategy: {{ canary: {{ steps: [{{ setWeight: 50% }}], analysis: {{ interval: {interval}s, minSamples: {LEAST}, {analysis} }} }} }}"
    )
}

/// A fault of all its answers.
fn slow(replica: &Running, millis: u64) {
    replica.set_fault(Some((Fault::SlowFirstByte(Duration::from_millis(millis)), Scope::Inference)));
}

fn good(tutti: &Tutti, arguments: &[&str]) -> String {
    let ended = tutti.command(arguments);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
    ended.stdout
}

fn report(tutti: &Tutti) -> Value {
    tutti.ask_admin("/traffic?model=m")
}

fn asked(tutti: &Tutti) -> String {
    let answer = tutti.ask("POST", "/api/chat", CHAT);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-tutti-revision").unwrap_or_default().to_owned()
}

fn is_over(report: &Value) -> bool {
    report["release"].is_object() && report["release"]["candidate"].is_null()
}

/// What happened, the last last: who did it, and what.
fn history(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = report["release"]["history"].as_array().into_iter().flatten();
    entries.map(|entry| (text(&entry["by"]), text(&entry["what"]))).collect()
}

/// The last that happened.
fn last(report: &Value) -> (String, String) {
    history(report).pop().unwrap_or_default()
}

/// Waits until the change is over; yields how it ended, and how long that took once both revisions had the samples that are
/// wanted.
fn ended(report: impl Fn() -> Value) -> (Value, Duration) {
    let mut enough: Option<Instant> = None;
    eventually("the change is over", || {
        let report = report();
        if is_over(&report) {
            return Some((report, enough.map(|at| at.elapsed()).unwrap_or_default()));
        }
        let seen = ["v1", "v2"].map(|name| report["revisions"][name]["requests"].as_u64().unwrap_or(0));
        if enough.is_none() && seen.iter().all(|seen| *seen >= LEAST) {
            enough = Some(Instant::now());
        }
        None
    })
}

/// Whether the candidate was rolled back in time, by analysis, and for this.
fn is_rolled_back(over: &(Value, Duration), why: &str) {
    is_rolled_back_within(INTERVAL, over, why);
}

fn is_rolled_back_within(interval: Duration, (report, took): &(Value, Duration), why: &str) {
    let (by, what) = last(report);
    println!("{what}, {took:?} after there was enough");
    let begins = "v2 is rolled back, v1 serves all: ";
    assert!(by == "analysis" && what.starts_with(begins) && what.contains(why), "{by}: {what}");
    // What a gateway has seen is asked for twice a second.
    assert!(*took <= 2 * interval + Duration::from_millis(500), "{took:?}");
}

#[test]
fn a_canary_with_errors_is_rolled_back_by_what_three_gateways_have_seen() {
    let replicas = two();
    replicas[1].set_fault(Some((Fault::RunnerDied, Scope::EachNth(20))));
    let fleet = Fleet::new(3);
    let pools = on(&replicas, &half("maxP99Increase: 100%, maxTtftIncrease: 100%"));
    let gateways = fleet.start(3, "drain: 1s", &pools);
    let driver = Driver::of(&fleet, &pools, "m");
    let gateways: Vec<&Tutti> = gateways.iter().collect();
    let load = Load::on(&gateways, 2);
    driver.good(&["traffic", "m", "--to", "v2"]);
    let over = ended(|| driver.report("m"));
    is_rolled_back(&over, "requests failed, of the current revision 0.00% of");
    assert_eq!(over.0["release"]["current"], "v1");
    eventually("every gateway goes by it", || {
        let weight = |tutti: &&Tutti| tutti.metric("tutti_revision_weight", &["revision=\"v2\""]);
        gateways.iter().all(|tutti| weight(tutti) == 0.0).then_some(())
    });
    let share = load.end();
    assert!(share.failed.iter().all(|why| why.starts_with("status 500")), "{:?}", share.failed.first());
    let kept = driver.good(&["traffic", "m", "--history"]);
    assert!(kept.contains("analysis       v2 is rolled back, v1 serves all: "), "{kept}");
}

#[test]
fn a_canary_that_takes_twice_as_long_is_rolled_back_within_two_intervals() {
    let replicas = two();
    slow(&replicas[0], 100);
    slow(&replicas[1], 200);
    // In an interval as many requests as a P99 takes to be told: a thousand, and not a few hundred.
    let interval = 4 * INTERVAL;
    let traffic = half("count: 4").replace("interval: 1s", &format!("interval: {}s", interval.as_secs()));
    let tutti = Tutti::start(&on(&replicas, &traffic));
    let load = Load::on(&[&tutti], 64);
    good(&tutti, &["traffic", "m", "--to", "v2"]);
    let over = ended(|| report(&tutti));
    is_rolled_back_within(interval, &over, "the P99");
    let loaded = load.end();
    assert!(loaded.failed.is_empty(), "{:?}", loaded.failed);
    assert_eq!(asked(&tutti), "v1");
}

#[test]
fn a_canary_that_is_as_good_serves_once_its_analysis_has_passed_as_often_as_it_must() {
    let replicas = two();
    replicas.iter().for_each(|replica| slow(replica, 25));
    let tutti = Tutti::start(&on(&replicas, &half("count: 2, maxP99Increase: 100%, maxTtftIncrease: 100%")));
    let load = Load::on(&[&tutti], 24);
    good(&tutti, &["traffic", "m", "--to", "v2"]);
    let (over, took) = ended(|| report(&tutti));
    let (by, what) = last(&over);
    assert_eq!(
        (by.as_str(), what.as_str()),
        ("strategy", "v2 serves all: all steps are done, analysis passed 2 of 2 times")
    );
    assert!(took >= INTERVAL / 2, "not by the first look alone: {took:?}");
    assert!(load.end().failed.is_empty());
    assert_eq!(asked(&tutti), "v2");
}

/// All requests at once, when copies have shown that it is as good.
fn by_copies(analysis: &str) -> String {
    format!("mirror: 100%, strategy: {{ blueGreen: {{ prePromotionAnalysis: {{ {analysis} }} }} }}")
}

#[test]
fn of_blue_and_green_a_bad_one_is_seen_by_copies_alone_and_never_promoted() {
    type Spoils<'a> = &'a dyn Fn(&Running);
    let bad: [(Spoils<'_>, &str); 2] = [
        (
            &|replica: &Running| replica.set_fault(Some((Fault::RunnerDied, Scope::EachNth(20)))),
            "requests failed, of the current",
        ),
        // So far apart that what the machine adds to both hides nothing.
        (&|replica: &Running| slow(replica, 240), "the P99"),
    ];
    for (turns, why) in bad {
        let replicas = two();
        slow(&replicas[0], 60);
        turns(&replicas[1]);
        let tutti = Tutti::start(&on(&replicas, &by_copies(&format!("interval: 1s, minSamples: {LEAST}"))));
        let load = Load::on(&[&tutti], 24);
        good(&tutti, &["traffic", "m", "--to", "v2"]);
        let over = ended(|| report(&tutti));
        // A moment in which the machine did nothing is in either's times until it is no more in the last intervals'; that two
        // are enough without such moments is what the simulation holds.
        is_rolled_back_within(3 * INTERVAL, &over, why);
        let loaded = load.end();
        assert!(loaded.failed.is_empty(), "no client had anything of it: {:?}", loaded.failed);
        let promoted =
            history(&over.0).iter().any(|(_, what)| what.contains("v2 has all") || what.contains("v2 serves"));
        assert!(!promoted, "{over:?}");
        let by_clients = tutti.metric("tutti_requests_total", &["revision=\"v2\""]);
        assert_eq!(by_clients, 0.0, "no client was answered by it");
    }
}

#[test]
fn of_blue_and_green_a_good_one_is_promoted_by_copies_and_stays_by_what_clients_saw() {
    let replicas = two();
    replicas.iter().for_each(|replica| slow(replica, 10));
    let judged = "interval: 100ms, count: 2, minSamples: 100, maxP99Increase: 100%, maxTtftIncrease: 100%";
    let traffic = format!(
        "mirror: 100%, strategy: {{ blueGreen: {{ prePromotionAnalysis: {{ {judged} }}, postPromotionAnalysis: {{ {judged} }} }} }}"
    );
    let tutti = Tutti::start(&on(&replicas, &traffic));
    let load = Load::on(&[&tutti], 8);
    good(&tutti, &["traffic", "m", "--to", "v2"]);
    let (over, _) = ended(|| report(&tutti));
    let what: Vec<String> = history(&over).into_iter().map(|(_, what)| what).collect();
    let expected = [
        "v1 serves, as configured",
        "v2 is to serve, all at once, when it is ready",
        "v2 has all requests, and is looked at",
        "v2 serves all: analysis passed 2 of 2 times",
    ];
    assert_eq!(what, expected);
    assert!(load.end().failed.is_empty());
    assert_eq!(asked(&tutti), "v2");
}

#[test]
fn of_blue_and_green_one_that_turns_bad_once_it_has_all_is_rolled_back() {
    let replicas = two();
    let after = "interval: 200ms, count: 1000, minSamples: 100";
    let tutti =
        Tutti::start(&on(&replicas, &format!("strategy: {{ blueGreen: {{ postPromotionAnalysis: {{ {after} }} }} }}")));
    good(&tutti, &["traffic", "m", "--to", "v2"]);
    assert_eq!(asked(&tutti), "v1", "until there is something to judge it beside");
    eventually("it has all", || {
        tutti.ask("POST", "/api/chat", CHAT);
        last(&report(&tutti)).1.contains("v2 has all requests").then_some(())
    });
    assert_eq!(asked(&tutti), "v2");
    replicas[1].set_fault(Some((Fault::RunnerDied, Scope::Inference)));
    let mut failed = 0;
    eventually("it is rolled back", || {
        failed += u32::from(tutti.ask("POST", "/api/chat", CHAT).status != 200);
        is_over(&report(&tutti)).then_some(())
    });
    let (by, what) = last(&report(&tutti));
    assert!(by == "analysis" && what.starts_with("v2 is rolled back, v1 serves all: "), "{by}: {what}");
    assert!(what.contains("of the current revision 0.00% of"), "by what was seen of it before: {what}");
    println!("{what}: {failed} requests failed");
    assert_eq!(asked(&tutti), "v1");
}

#[test]
fn what_says_neither_waits_for_somebody_and_goes_on_at_his_word() {
    let replicas = that_take(Duration::from_millis(20)); // so that its times differ by no chance
    let tutti = Tutti::start(&on(
        &replicas,
        &by_copies("interval: 100ms, count: 1, minSamples: 50, inconclusiveLimit: 0, maxP99Increase: 100%"),
    ));
    // Two of fifty: more than it may have, and by chance as likely as not.
    replicas[1].set_fault(Some((Fault::RunnerDied, Scope::EachNth(25))));
    good(&tutti, &["traffic", "m", "--to", "v2"]);
    for _ in 0..50 {
        assert_eq!(asked(&tutti), "v1");
    }
    let page = eventually("it waits", || {
        let page = good(&tutti, &["traffic", "m", "--history"]);
        page.contains("HELD: ").then_some(page)
    });
    let why = "inconclusive: 4.00% of 50 requests failed, of the current revision 0.00% of 50, which may be by chance";
    for wanted in [
        &format!("HELD: {why}; --resume goes on, `tutti rollback` ends it"),
        &format!("analysis: {why}"),
        &format!("analysis       v2 waits for somebody to decide: {why}"),
    ] {
        assert!(page.contains(wanted), "{wanted}: {page}");
    }
    replicas[1].set_fault(None);
    for _ in 0..200 {
        assert_eq!(asked(&tutti), "v1", "while it waits");
    }
    let copies = || report(&tutti)["revisions"]["v2"]["requests"].as_u64();
    eventually("its copies are counted", || (copies() >= Some(240)).then_some(()));
    assert_eq!(report(&tutti)["release"]["candidate"]["held"], why);
    let over = eventually("at his word it goes on", || {
        let report = report(&tutti);
        // Times on a busy machine may say neither once more.
        if report["release"]["candidate"]["held"].is_string() {
            good(&tutti, &["traffic", "m", "--resume"]);
        }
        asked(&tutti);
        is_over(&report).then_some(report)
    });
    assert_eq!(last(&over).1, "v2 serves all: it is ready");
}

#[test]
fn who_has_all_and_is_asked_nothing_is_not_looked_at_for_ever() {
    let replicas = two();
    let after = "interval: 100ms, count: 1, minSamples: 50, inconclusiveLimit: 2";
    let tutti =
        Tutti::start(&on(&replicas, &format!("strategy: {{ blueGreen: {{ postPromotionAnalysis: {{ {after} }} }} }}")));
    good(&tutti, &["traffic", "m", "--to", "v2"]);
    eventually("it waits", || {
        let why =
            "HELD: inconclusive: 0 requests of the candidate and 0 of the current revision: 50 are wanted of each";
        good(&tutti, &["traffic", "m"]).contains(why).then_some(())
    });
    assert_eq!(asked(&tutti), "v2", "meanwhile it has all");
    let page = good(&tutti, &["rollback", "m"]);
    assert!(page.contains("v2 is rolled back, v1 serves all: somebody wanted it so"), "{page}");
    assert_eq!(asked(&tutti), "v1");
}

/// Has a file name this replica, or none.
fn names(file: &Path, replica: Option<&Running>) {
    let new = file.with_extension("new");
    std::fs::write(&new, replica.map_or("# none".to_owned(), Running::url)).unwrap();
    std::fs::rename(&new, file).unwrap();
}

/// A gateway whose candidate's replicas are in a file, one at first.
fn listed(replicas: &[Running; 2], traffic: &str) -> (Tutti, PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("green");
    names(&file, Some(&replicas[1]));
    let found = format!("{{ file: {:?} }}", file.display().to_string());
    (Tutti::start(&yaml([&at(&replicas[0]), &found], traffic)), file, folder)
}

#[test]
fn a_canary_whose_replicas_go_is_rolled_back_where_that_is_configured() {
    let replicas = two();
    let steps = "{ setWeight: 50% }, { pause: until-promoted }";
    let traffic = format!("strategy: {{ onLostReplicas: rollback, canary: {{ steps: [{steps}] }} }}");
    let (tutti, file, _folder) = listed(&replicas, &traffic);
    good(&tutti, &["traffic", "m", "--to", "v2"]);
    let load = Load::on(&[&tutti], 4);
    eventually("both serve", || {
        let counted = |name: &str| report(&tutti)["revisions"][name]["requests"].as_u64() > Some(20);
        (counted("v1") && counted("v2")).then_some(())
    });
    names(&file, None);
    let (over, _) = ended(|| report(&tutti));
    let expected =
        ("strategy".to_owned(), "v2 is rolled back, v1 serves all: no replica serves it any more".to_owned());
    assert_eq!(last(&over), expected);
    // For good: who comes back finds no change under way.
    names(&file, Some(&replicas[1]));
    eventually("it is back", || (report(&tutti)["revisions"]["v2"]["replicas"] == 1).then_some(()));
    assert!((0..10).all(|_| asked(&tutti) == "v1"));
    let loaded = load.end();
    assert!(loaded.failed.is_empty(), "whoever asked had an answer: {:?}", loaded.failed);
    let page = good(&tutti, &["traffic", "m", "--history"]);
    assert!(page.contains("strategy       v2 is rolled back, v1 serves all: no replica serves it any more"), "{page}");
}

#[test]
fn a_canary_whose_replicas_go_waits_for_them_where_nothing_is_configured() {
    let replicas = two();
    let steps = "{ setWeight: 50% }, { pause: until-promoted }";
    let (tutti, file, _folder) = listed(&replicas, &format!("strategy: {{ canary: {{ steps: [{steps}] }} }}"));
    good(&tutti, &["traffic", "m", "--to", "v2"]);
    let load = Load::on(&[&tutti], 4);
    names(&file, None);
    let lost = "no replica serves v2 any more: v1 serves all until one does";
    eventually("it is lost", || (last(&report(&tutti)).1 == lost).then_some(()));
    assert!((0..10).all(|_| asked(&tutti) == "v1"));
    assert_eq!(report(&tutti)["release"]["candidate"]["lost"], true);
    names(&file, Some(&replicas[1]));
    eventually("it goes on", || (last(&report(&tutti)).1 == "v2 is served again: the change goes on").then_some(()));
    assert_eq!(tutti.metric("tutti_revision_weight", &["revision=\"v2\""]), 0.5);
    good(&tutti, &["traffic", "m", "--resume"]);
    assert_eq!(asked(&tutti), "v2");
    let loaded = load.end();
    assert!(loaded.failed.is_empty(), "whoever asked had an answer: {:?}", loaded.failed);
}

#[test]
fn who_dies_with_all_requests_gives_them_back_where_that_is_configured() {
    let [a, b] = two();
    let watched =
        "postPromotionAnalysis: { interval: 100ms, count: 1000, inconclusiveLimit: 1000, maxErrorRateIncrease: 100% }";
    let traffic = format!("strategy: {{ onLostReplicas: rollback, blueGreen: {{ {watched} }} }}");
    let tutti = Tutti::start(&yaml([&at(&a), &at(&b)], &traffic));
    good(&tutti, &["traffic", "m", "--to", "v2"]);
    eventually("it has all", || (asked(&tutti) == "v2").then_some(()));
    b.kill();
    eventually("it is rolled back", || {
        tutti.ask("POST", "/api/chat", CHAT);
        is_over(&report(&tutti)).then_some(())
    });
    let (by, what) = last(&report(&tutti));
    assert!(what.starts_with("v2 is rolled back, v1 serves all: "), "{by}: {what}");
    assert_eq!((by.as_str(), what.ends_with("no replica serves it any more")), ("strategy", true), "{what}");
    assert_eq!(asked(&tutti), "v1");
}

#[test]
fn who_leaves_before_the_first_byte_has_waited_at_least_so_long() {
    let replicas = two();
    replicas[1].set_fault(Some((Fault::Silent, Scope::Inference)));
    let tutti = Tutti::start(&on(&replicas, &half("count: 2")));
    let figures = || {
        let figures = &report(&tutti)["revisions"]["v2"];
        (figures["requests"].as_u64().unwrap_or(0), figures["errors"].as_u64().unwrap_or(0), figures["p99Ms"].as_f64())
    };
    let in_flight = |count: f64| {
        let is_so = || tutti.metric("tutti_requests_in_flight", &["pool=\"b\""]) == count;
        eventually("as many are worked on", || is_so().then_some(()));
    };
    let mut client = tutti.client();
    client.send("POST", "/api/chat", &[("x-tutti-revision", "v2")], CHAT).unwrap();
    in_flight(1.0);
    let asked = Instant::now();
    assert_eq!(asked_of_v1(&tutti), "v1"); // it takes its time, in which the other one waits
    let waited = asked.elapsed();
    drop(client);
    in_flight(0.0);
    let (requests, errors, p99) =
        eventually("it is counted", || Some(figures()).filter(|(requests, ..)| *requests > 0));
    assert_eq!((requests, errors), (1, 0));
    assert!(p99.is_some_and(|p99| p99 >= waited.as_secs_f64() * 0.9e3), "{p99:?} of {waited:?}");
}

fn asked_of_v1(tutti: &Tutti) -> String {
    let answer = tutti.client().ask("POST", "/api/chat", &[("x-tutti-revision", "v1")], CHAT);
    answer.header("x-tutti-revision").unwrap_or_default().to_owned()
}
