//! Which revision of a model serves: by weight, by word, by mirror; switched, rolled back, kept through restarts.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Keyed, Tutti, eventually, inference, simulator_with};

fn simulator(model: &str) -> Running {
    simulator_with(Config::quick(Model::chat(model, 1 << 20)))
}

/// A model of two revisions on pools of their own, with what its traffic says.
fn yaml([a, b]: [&Running; 2], traffic: &str, fields: &str) -> String {
    format!(
        "pools:\n  - {{ name: a, endpoints: [{{ url: \"{}\" }}]{fields} }}\n  - {{ name: b, endpoints: [{{ url: \"{}\" }}]{fields} }}\nmodels:\n  - name: risk\n    revisions: [{{ name: v1, pool: a, upstream: ma }}, {{ name: v2, pool: b, upstream: mb }}]\n    traffic: {{ {traffic} }}\n",
        a.url(),
        b.url()
    )
}

const CHAT: &str = r#"{"model":"risk","messages":[{"role":"user","content":"hi"}],"stream":false}"#;

/// The revision that answers.
fn asked(tutti: &Tutti, headers: &[(&str, &str)]) -> String {
    let answer = tutti.client().ask("POST", "/api/chat", headers, CHAT);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-tutti-revision").unwrap_or_default().to_owned()
}

fn counted(tutti: &Tutti, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts.entry(asked(tutti, &[])).or_default() += 1;
    }
    counts
}

/// Runs a command that must end well.
fn good(tutti: &Tutti, arguments: &[&str]) -> String {
    let ended = tutti.command(arguments);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
    ended.stdout
}

fn report(tutti: &Tutti) -> Value {
    serde_json::from_str(&good(tutti, &["traffic", "risk", "--json"])).unwrap_or_default()
}

fn two() -> [Running; 2] {
    [simulator("ma"), simulator("mb")]
}

#[test]
fn a_command_switches_and_a_rollback_switches_back() {
    let [a, b] = two();
    let tutti = Tutti::start(&yaml([&a, &b], "revision: v1", ""));
    assert_eq!(asked(&tutti, &[]), "v1");
    let page = good(&tutti, &["traffic", "risk", "--to", "v2"]);
    assert!(
        page.contains("v2 serves all: at once") && page.contains("OVERRIDDEN: the configuration wants v1"),
        "{page}"
    );
    assert_eq!(counted(&tutti, 5), BTreeMap::from([("v2".to_owned(), 5)]));
    assert!(good(&tutti, &["status"]).contains("b v2, OVERRIDDEN"));
    let page = good(&tutti, &["rollback", "risk"]);
    assert!(page.contains("v1 serves all: rolled back") && !page.contains("OVERRIDDEN"), "{page}");
    assert_eq!(counted(&tutti, 5), BTreeMap::from([("v1".to_owned(), 5)]));
    let page = good(&tutti, &["traffic", "risk", "--history"]);
    assert!(page.contains("v1 serves, as configured") && page.contains("v2 serves all: at once"), "{page}");

    let many = ["5%"; 101].join(",");
    let (many, why) =
        (["traffic", "risk", "--to", "v2", "--canary", &many], "a canary has 1 to 100 steps; write such as");
    for (wrong, why) in [
        (&many[..], why),
        (&["traffic", "risk", "--to", "v9"], "has no revision \"v9\"; there are v1, v2"),
        (&["traffic", "other"], "no configured model is called \"other\"; there are risk"),
        (&["traffic", "risk", "--resume"], "no change of risk is under way"),
    ] {
        let ended = tutti.command(wrong);
        assert!(ended.code == Some(1) && ended.stderr.contains(why), "{wrong:?}: {}", ended.stderr);
    }
}

#[test]
fn what_no_replica_has_is_switched_to_by_force_alone() {
    let [a, other] = [simulator("ma"), simulator("other")];
    let tutti = Tutti::start(&yaml([&a, &other], "revision: v1", ""));
    let ended = tutti.command(&["traffic", "risk", "--to", "v2"]);
    assert!(
        ended.code == Some(1) && ended.stderr.contains("no replica that can be reached has risk@v2"),
        "{}",
        ended.stderr
    );
    assert_eq!(asked(&tutti, &[]), "v1");
    good(&tutti, &["traffic", "risk", "--to", "v2", "--force"]);
    assert_eq!(tutti.ask("POST", "/api/chat", CHAT).status, 404, "by the replica's own word");
    good(&tutti, &["rollback", "risk"]);
    assert_eq!(asked(&tutti, &[]), "v1");

    // A canary of it waits for a replica, and for nobody's word.
    good(&tutti, &["traffic", "risk", "--to", "v2", "--canary", "10%,until-promoted"]);
    let ended = tutti.command(&["traffic", "risk", "--resume"]);
    let why = "the change of risk to v2 does not wait for anybody's word: it waits for a replica that has it, proven";
    assert!(ended.code == Some(1) && ended.stderr.contains(why), "{}", ended.stderr);
}

#[test]
fn a_canary_goes_step_by_step_and_waits_to_be_promoted() {
    let [a, b] = two();
    let tutti = Tutti::start(&yaml([&a, &b], "revision: v1", ""));
    good(&tutti, &["traffic", "risk", "--to", "v2", "--canary", "20%,until-promoted,50%,until-promoted"]);
    let counts = counted(&tutti, 100);
    assert!((19..=21).contains(&counts["v2"]), "{counts:?}");
    let page = good(&tutti, &["traffic", "risk"]);
    assert!(page.contains("candidate v2: step 2 of 4") && page.contains("20%"), "{page}");
    let report = report(&tutti);
    assert_eq!(report["revisions"]["v2"]["requests"], json!(counts["v2"]));
    good(&tutti, &["traffic", "risk", "--resume"]);
    let counts = counted(&tutti, 100);
    assert!((49..=51).contains(&counts["v2"]), "{counts:?}");
    good(&tutti, &["traffic", "risk", "--resume"]);
    assert_eq!(counted(&tutti, 5), BTreeMap::from([("v2".to_owned(), 5)]));
    assert!(good(&tutti, &["traffic", "risk"]).contains("all steps are done"));
}

#[test]
fn a_rollback_ends_a_canary_and_takes_its_waiters_back() {
    let [a, b] = two();
    let tutti = Tutti::start(&yaml([&a, &b], "revision: v1", ", slots: 1"));
    good(&tutti, &["traffic", "risk", "--to", "v2", "--canary", "100%,until-promoted"]);
    b.set_fault(Some((Fault::Silent, Scope::Inference)));
    let _holds = tutti.begin("/api/chat", CHAT);
    eventually("it is at the candidate", || (b.in_flight() == 1).then_some(()));
    let mut waits = tutti.begin("/api/chat", CHAT);
    eventually("it waits", || (tutti.metric("tutti_requests_queued", &["pool=\"b\""]) == 1.0).then_some(()));
    good(&tutti, &["rollback", "risk"]);
    let answer = waits.answer().unwrap();
    assert_eq!((answer.status, answer.header("x-tutti-revision")), (200, Some("v1")));
}

#[test]
fn who_names_a_revision_has_that_one_and_keys_say_who_may() {
    let [a, b] = two();
    let tutti = Tutti::start(&yaml([&a, &b], "revision: v1", ""));
    assert_eq!(asked(&tutti, &[("x-tutti-revision", "v2")]), "v2");
    let wrong = |headers: &[(&str, &str)]| {
        let answer = tutti.client().ask("POST", "/v1/chat/completions", headers, CHAT);
        (answer.status, answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(wrong(&[("x-tutti-revision", "v9")]), (404, "revision_not_found".to_owned()));
    assert_eq!(wrong(&[("x-tutti-revision", "v1"), ("x-tutti-revision", "v2")]), (400, "invalid_header".to_owned()));

    let keyed = Keyed::start(&yaml([&a, &b], "revision: v1", ""));
    let (may, may_not) = (keyed.new_key(&["--pin-revisions"]), keyed.new_key(&[]));
    let status = |key: &str| {
        let headers = [("authorization", format!("Bearer {key}")), ("x-tutti-revision", "v2".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        keyed.tutti.client().ask("POST", "/api/chat", &headers, CHAT).status
    };
    assert_eq!((status(&may), status(&may_not)), (200, 403));
}

#[test]
fn a_client_stays_where_it_is_while_weights_rise() {
    let [a, b] = two();
    let tutti = Tutti::start(&yaml([&a, &b], "revision: v1, sticky: { header: x-user }", ""));
    let users: Vec<String> = (0..60).map(|user| format!("user-{user}")).collect();
    let of = |user: &str| asked(&tutti, &[("x-user", user)]);
    let mut before: Vec<&String> = Vec::new();
    good(
        &tutti,
        &["traffic", "risk", "--to", "v2", "--canary", "25%,until-promoted,50%,until-promoted,75%,until-promoted"],
    );
    for _ in 0..3 {
        let now: Vec<&String> = users.iter().filter(|user| of(user) == "v2").collect();
        assert!(now.len() > before.len() && now.len() < users.len(), "{} of {}", now.len(), users.len());
        assert!(before.iter().all(|user| now.contains(user)), "nobody moves back");
        assert!(now.iter().all(|user| of(user) == "v2"), "nor is it by chance");
        before = now;
        good(&tutti, &["traffic", "risk", "--resume"]);
    }
}

#[test]
fn what_is_mirrored_is_seen_by_nobody_and_counted() {
    let [a, b] = two();
    let tutti = Tutti::start(&yaml([&a, &b], "revision: v1", ""));
    good(&tutti, &["traffic", "risk", "--to", "v2", "--canary", "until-promoted,50%", "--mirror", "50%"]);
    assert_eq!(counted(&tutti, 40), BTreeMap::from([("v1".to_owned(), 40)]));
    eventually("half of them at the candidate", || (inference(&b.seen()).len() == 20).then_some(()));
    eventually("and counted", || (report(&tutti)["revisions"]["v2"]["requests"] == 20).then_some(()));
    let sent = || tutti.metric("tutti_mirrored_requests_total", &["revision=\"v2\"", "outcome=\"sent\""]);
    eventually("also for Prometheus", || (sent() == 20.0).then_some(()));
    good(&tutti, &["rollback", "risk"]);
    counted(&tutti, 10);
    assert_eq!(inference(&b.seen()).len(), 20, "nothing more");
}

#[test]
fn a_candidate_whose_replica_does_not_find_it_is_known_by_its_copies() {
    let [a, b] = two();
    let tutti = Tutti::start(&yaml([&a, &b], "revision: v1", ""));
    good(&tutti, &["traffic", "risk", "--to", "v2", "--canary", "until-promoted,50%", "--mirror", "100%"]);
    b.set_fault(Some((Fault::Missing, Scope::Inference)));
    assert_eq!(counted(&tutti, 5), BTreeMap::from([("v1".to_owned(), 5)]));
    let of = |what: &str| report(&tutti)["revisions"]["v2"][what].clone();
    eventually("each is counted, once", || (of("requests") == 5).then_some(()));
    assert_eq!(of("errors"), 5, "{}", report(&tutti));
}

#[test]
fn a_mirrored_request_gives_way_to_whoever_waits() {
    let [a, b] = two();
    let tutti = Tutti::start(&yaml([&a, &b], "revision: v1", ", slots: 1"));
    good(&tutti, &["traffic", "risk", "--to", "v2", "--canary", "until-promoted,50%", "--mirror", "100%"]);
    b.set_fault(Some((Fault::Silent, Scope::Inference)));
    assert_eq!(asked(&tutti, &[]), "v1");
    eventually("the copy is at the candidate", || (b.in_flight() == 1).then_some(()));
    b.set_fault(None);
    assert_eq!(asked(&tutti, &[("x-tutti-revision", "v2")]), "v2", "in its only slot");
    let cut = || tutti.metric("tutti_mirrored_requests_total", &["revision=\"v2\"", "outcome=\"cut\""]);
    eventually("it is counted as cut off", || (cut() == 1.0).then_some(()));
}

#[test]
fn how_a_release_stands_is_a_metric() {
    let [a, b] = two();
    let tutti = Tutti::start(&yaml([&a, &b], "revision: v1", ""));
    let weights = || ["v1", "v2"].map(|name| tutti.metric("tutti_revision_weight", &[&format!("revision=\"{name}\"")]));
    let of = |name: &str| tutti.metric(name, &["model=\"risk\""]);
    assert_eq!((weights(), of("tutti_release_paused"), of("tutti_traffic_overridden")), ([1.0, 0.0], 0.0, 0.0));
    let before = of("tutti_release_generation");
    good(&tutti, &["traffic", "risk", "--to", "v2", "--canary", "5%,until-promoted,50%,until-promoted"]);
    eventually("it waits at its second step", || {
        let step = tutti.metric("tutti_release_step", &["candidate=\"v2\""]);
        (step == 2.0 && of("tutti_release_paused") == 1.0).then_some(())
    });
    assert_eq!((weights(), of("tutti_traffic_overridden")), ([0.95, 0.05], 1.0));
    assert!(of("tutti_release_generation") > before);
    assert_eq!(of("tutti_release_generation"), of("tutti_traffic_generation"));
    good(&tutti, &["rollback", "risk"]);
    assert_eq!((weights(), of("tutti_release_paused"), of("tutti_traffic_overridden")), ([1.0, 0.0], 0.0, 0.0));
}

#[test]
fn a_decision_survives_a_restart_until_the_models_own_stanza_changes() {
    let [a, b] = two();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tutti.yaml");
    let (home, path) = (folder.path().to_str().unwrap(), file.to_str().unwrap());
    let env = [("HOME", home), ("XDG_STATE_HOME", home)];
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let start = || Tutti::start_with(&["gateway", "--config", path], "", &env);
    let command = |tutti: &Tutti, arguments: &[&str]| {
        let (admin, token) = (tutti.admin(), folder.path().join("tutti/admin-token").display().to_string());
        let ended = tutti_tests::run(&[arguments, &["--admin", &admin, "--token-file", &token]].concat(), &[]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    };
    write(&yaml([&a, &b], "revision: v1", ""));
    let tutti = start();
    command(&tutti, &["traffic", "risk", "--to", "v2"]);
    drop(tutti);
    let tutti = start();
    assert_eq!(asked(&tutti, &[]), "v2");
    assert!(command(&tutti, &["traffic", "risk"]).contains("term 2"));
    // What is half written is refused, and the one before is taken.
    drop(tutti);
    let state = std::fs::read_dir(folder.path().join("tutti")).unwrap().flatten().map(|entry| entry.path());
    let state = state.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "json")).unwrap();
    let whole = std::fs::read(&state).unwrap();
    std::fs::write(&state, &whole[..whole.len() / 2]).unwrap();
    let tutti = start();
    tutti.wait_said("is refused");
    assert_eq!(asked(&tutti, &[]), "v2");
    // Another model's stanza is none of its own.
    write(&format!(
        "{}  - {{ name: more, revisions: [{{ name: v1, pool: a, upstream: ma }}] }}\n",
        yaml([&a, &b], "revision: v1", "")
    ));
    tutti.wait_said("the changed configuration is in force");
    assert_eq!(asked(&tutti, &[]), "v2");
    write(&yaml([&a, &b], "revision: v1, sticky: { header: x-user }", ""));
    eventually("its own stanza counts", || (asked(&tutti, &[]) == "v1").then_some(()));
    assert!(!command(&tutti, &["traffic", "risk"]).contains("OVERRIDDEN"));
}

#[test]
fn a_configured_strategy_brings_a_configured_revision_about() {
    let [a, b] = two();
    let canary = |to: &str| {
        format!(
            "revision: {to}, strategy: {{ canary: {{ steps: [{{ setWeight: 50% }}, {{ pause: until-promoted }}] }} }}"
        )
    };
    let tutti = Tutti::start(&yaml([&a, &b], &canary("v1"), ""));
    assert_eq!(counted(&tutti, 4), BTreeMap::from([("v1".to_owned(), 4)]));
    tutti.write_config(&yaml([&a, &b], &canary("v2"), ""));
    eventually("half of them", || (counted(&tutti, 10).get("v2") == Some(&5)).then_some(()));
    good(&tutti, &["traffic", "risk", "--freeze"]);
    assert!(good(&tutti, &["traffic", "risk"]).contains("FROZEN"));
    good(&tutti, &["traffic", "risk", "--resume"]);
    good(&tutti, &["traffic", "risk", "--resume"]);
    assert_eq!(counted(&tutti, 4), BTreeMap::from([("v2".to_owned(), 4)]));
}

#[test]
fn a_configured_revision_is_waited_for_until_a_replica_has_it() {
    let [a, other, b] = [simulator("ma"), simulator("other"), simulator("mb")];
    let tutti = Tutti::start(&yaml([&a, &other], "revision: v1", ""));
    tutti.write_config(&yaml([&a, &other], "revision: v2", ""));
    tutti.wait_said("the changed configuration is in force");
    assert_eq!(counted(&tutti, 4), BTreeMap::from([("v1".to_owned(), 4)]));
    let history = good(&tutti, &["traffic", "risk", "--history"]);
    assert!(history.contains("v2 is to serve, as soon as a replica has it, proven"), "{history}");
    let ended = tutti.command(&["traffic", "risk", "--resume"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("it waits for a replica that has it"), "{}", ended.stderr);
    tutti.write_config(&yaml([&a, &b], "revision: v2", ""));
    eventually("a replica has it", || (asked(&tutti, &[]) == "v2").then_some(()));
    let page = good(&tutti, &["traffic", "risk"]);
    assert!(page.contains("v2 serves all: at once (configuration,"), "{page}");
}

#[test]
fn a_candidate_that_fails_is_rolled_back_with_the_reason() {
    let [a, b] = two();
    let canary = "revision: v2, strategy: { canary: { steps: [{ setWeight: 50% }, { pause: until-promoted }], analysis: { interval: 100ms, minSamples: 50 } } }";
    let tutti = Tutti::start(&yaml([&a, &b], "revision: v1", ""));
    b.set_fault(Some((Fault::RunnerDied, Scope::Inference)));
    tutti.write_config(&yaml([&a, &b], canary, ""));
    tutti.wait_said("the changed configuration is in force");
    eventually("it is rolled back", || {
        tutti.ask("POST", "/api/chat", CHAT);
        report(&tutti)["release"]["candidate"].is_null().then_some(())
    });
    let page = good(&tutti, &["traffic", "risk"]);
    assert!(page.contains("v2 is rolled back, v1 serves all: 100.00% of") && page.contains("(analysis,"), "{page}");
    assert!(page.contains("OVERRIDDEN: the configuration wants v2"), "{page}");
    assert_eq!(counted(&tutti, 4), BTreeMap::from([("v1".to_owned(), 4)]));
}

#[test]
fn a_candidate_whose_replicas_vanish_has_no_share_until_they_are_back() {
    let [a, b] = two();
    let tutti = Tutti::start(&yaml([&a, &b], "revision: v1", ""));
    good(&tutti, &["traffic", "risk", "--to", "v2", "--canary", "50%,until-promoted"]);
    assert_eq!(counted(&tutti, 10)["v2"], 5);
    b.set_fault(Some((Fault::CloseBeforeHeader, Scope::Everything)));
    eventually("it is lost", || {
        tutti.ask("POST", "/api/chat", CHAT);
        good(&tutti, &["traffic", "risk"]).contains("no replica serves v2 any more").then_some(())
    });
    assert_eq!(counted(&tutti, 10), BTreeMap::from([("v1".to_owned(), 10)]));
    b.set_fault(None);
    eventually("it is back", || good(&tutti, &["traffic", "risk"]).contains("v2 is served again").then_some(()));
    // Lots go on where they were: of ten in a row from anywhere one more or less may be its.
    assert!((4..=6).contains(&counted(&tutti, 10)["v2"]));
}
