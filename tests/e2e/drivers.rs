//! Releases of several gateways: one driver, whose word all go by.

use serde_json::Value;
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Driver, Fleet, Tutti, eventually, inference, simulator_with};

fn simulator(model: &str) -> Running {
    simulator_with(Config::quick(Model::chat(model, 1 << 20)))
}

fn models([a, b]: [&Running; 2], fields: &str) -> String {
    format!(
        "pools:\n  - {{ name: p, endpoints: [{{ url: \"{}\" }}]{fields} }}\n  - {{ name: b, endpoints: [{{ url: \"{}\" }}]{fields} }}\nmodels:\n  - name: risk\n    revisions: [{{ name: v1, pool: p, upstream: ma }}, {{ name: v2, pool: b, upstream: mb }}]\n    traffic: {{ revision: v1 }}\n",
        a.url(),
        b.url()
    )
}

const CHAT: &str = r#"{"model":"risk","messages":[{"role":"user","content":"hi"}],"stream":false}"#;

fn asked(tutti: &Tutti) -> String {
    let answer = tutti.ask("POST", "/api/chat", CHAT);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-tutti-revision").unwrap_or_default().to_owned()
}

/// Three gateways that know each other, their driver, and what all are configured with.
fn three(fields: &str) -> ([Running; 2], Fleet, Vec<Tutti>, Driver, String) {
    let replicas = [simulator("ma"), simulator("mb")];
    let fleet = Fleet::new(3);
    let pools = models([&replicas[0], &replicas[1]], fields);
    let gateways = fleet.start(3, "drain: 1s", &pools);
    let yaml = format!("gateway: {{ {} }}\n{pools}", fleet.yaml(0, &[0, 1, 2]));
    let driver = Driver::start(&yaml, Driver::folder());
    driver.settle("risk");
    (replicas, fleet, gateways, driver, yaml)
}

#[test]
fn all_go_by_a_command_when_it_returns_and_one_that_starts_later_too() {
    let ([a, b], fleet, mut gateways, driver, _) = three("");
    for tutti in &gateways {
        assert_eq!(asked(tutti), "v1");
        let refused = tutti.command(&["traffic", "risk", "--to", "v2"]);
        assert!(refused.code == Some(1) && refused.stderr.contains("ask the driver at"), "{}", refused.stderr);
    }
    driver.good(&["traffic", "risk", "--to", "v2"]);
    assert!(gateways.iter().all(|tutti| asked(tutti) == "v2"));
    driver.good(&["rollback", "risk"]);
    assert!(gateways.iter().all(|tutti| asked(tutti) == "v1"));
    driver.good(&["traffic", "risk", "--to", "v2"]);

    // One that starts while the driver is gone hears it from the others.
    drop(driver);
    gateways.pop();
    let late = fleet.spawn(2, &[0, 1, 2], "drain: 1s", &models([&a, &b], ""));
    late.wait_said("tutti serves");
    assert_eq!(asked(&late), "v2");
}

#[test]
fn a_gateway_that_does_not_acknowledge_is_named_and_told_again() {
    let (_replicas, fleet, gateways, driver, _) = three("");
    gateways[2].signal(rustix::process::Signal::STOP);
    let ended = driver.command(&["traffic", "risk", "--to", "v2"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert!(
        ended.stderr.contains("2 of 3 gateways go by it") && ended.stderr.contains(&fleet.addresses[2]),
        "{}",
        ended.stderr
    );
    assert!(gateways[..2].iter().all(|tutti| asked(tutti) == "v2"));
    gateways[2].signal(rustix::process::Signal::CONT);
    driver.settle("risk");
    assert_eq!(asked(&gateways[2]), "v2");
}

#[test]
fn a_gateway_that_hangs_holds_up_nobody_else() {
    let (_replicas, _fleet, gateways, driver, _) = three("");
    gateways[2].signal(rustix::process::Signal::STOP);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| driver.command(&["traffic", "risk", "--to", "v2"]));
        // Not by asking them for an answer: a pool that the one that hangs has scheduled is nobody's for seconds.
        let overridden = |tutti: &Tutti| tutti.metric("tutti_traffic_overridden", &["model=\"risk\""]) == 1.0;
        eventually("the others go by it", || gateways[..2].iter().all(overridden).then_some(()));
        assert!(!waits.is_finished(), "who wants to hear of all of them waits on");
        let report: Value = serde_json::from_str(&driver.good(&["traffic", "risk", "--json"])).unwrap_or_default();
        assert_eq!(report["release"]["current"], "v2");
        assert_eq!(waits.join().expect("a command").code, Some(1));
    });
    assert!(gateways[..2].iter().all(|tutti| asked(tutti) == "v2"));
    gateways[2].signal(rustix::process::Signal::CONT);
    driver.settle("risk");
}

#[test]
fn a_model_that_is_not_configured_any_more_is_in_nobodys_word() {
    let ([a, b], fleet, gateways, driver, _) = three("");
    driver.good(&["traffic", "risk", "--to", "v2"]);
    assert!(gateways.iter().all(|tutti| tutti.metric("tutti_traffic_overridden", &["model=\"risk\""]) == 1.0));
    let bare = models([&a, &b], "").split("models:").next().unwrap_or_default().to_owned();
    driver.tutti.write_config(&format!("gateway: {{ {} }}\n{bare}", fleet.yaml(0, &[0, 1, 2])));
    eventually("no gateway is told of it", || {
        let overridden = |tutti: &Tutti| tutti.metric("tutti_traffic_overridden", &["model=\"risk\""]);
        gateways.iter().all(|tutti| overridden(tutti) == 0.0 && asked(tutti) == "v1").then_some(())
    });
}

#[test]
fn a_copy_is_made_once_wherever_the_candidates_pool_is_scheduled() {
    let ([_a, b], _fleet, gateways, driver, _) = three("");
    driver.good(&["traffic", "risk", "--to", "v2", "--canary", "until-promoted,50%", "--mirror", "100%"]);
    for tutti in &gateways {
        for _ in 0..5 {
            assert_eq!(asked(tutti), "v1");
        }
    }
    eventually("one copy of each", || (inference(&b.seen()).len() == 15).then_some(()));
    let counts = |outcome: &str| -> Vec<f64> {
        let label = format!("outcome=\"{outcome}\"");
        gateways.iter().map(|tutti| tutti.metric("tutti_mirrored_requests_total", &[&label])).collect()
    };
    eventually("counted where the pool is scheduled", || (counts("sent").iter().sum::<f64>() == 15.0).then_some(()));
    assert_eq!(counts("sent").iter().filter(|count| **count > 0.0).count(), 1, "{:?}", counts("sent"));
    eventually("and known to the driver once", || {
        let report: Value = serde_json::from_str(&driver.good(&["traffic", "risk", "--json"])).unwrap_or_default();
        (report["revisions"]["v2"]["requests"] == 15).then_some(())
    });
    assert_eq!(inference(&b.seen()).len(), 15, "and no more");
}

#[test]
fn of_a_copy_whose_fate_is_not_known_nobody_says_that_it_was_dropped() {
    let replicas = [simulator("ma"), simulator("mb")];
    let fleet = Fleet::new(3);
    // Whoever holds a client schedules the one pool himself, for its engine loads nothing; the other has one for all.
    let pools = models([&replicas[0], &replicas[1]], "").replace("name: p,", "name: here, engine: openai,");
    let pools =
        pools.replace("name: b,", "name: p,").replace("pool: p,", "pool: here,").replace("pool: b,", "pool: p,");
    let gateways = fleet.start(3, "drain: 1s", &pools);
    let driver = Driver::of(&fleet, &pools, "risk");
    driver.good(&["traffic", "risk", "--to", "v2", "--canary", "until-promoted,50%", "--mirror", "100%"]);
    let owner = Fleet::agree(&gateways.iter().collect::<Vec<_>>());
    let (owns, other) = (&gateways[owner], &gateways[(owner + 1) % 3]);
    let count = |tutti: &Tutti, outcome: &str| {
        tutti.metric("tutti_mirrored_requests_total", &[&format!("outcome=\"{outcome}\"")])
    };
    assert_eq!(asked(other), "v1");
    eventually("a copy goes over", || (count(owns, "sent") == 1.0).then_some(()));
    owns.signal(rustix::process::Signal::STOP);
    assert_eq!(asked(other), "v1", "who asks has his answer all the same");
    eventually("nothing was heard of it", || (count(other, "unheard") == 1.0).then_some(()));
    owns.signal(rustix::process::Signal::CONT);
    driver.settle("risk");
    Fleet::agree(&gateways.iter().collect::<Vec<_>>()); // for a while nobody may have had the pool
    assert_eq!(asked(other), "v1");
    let sent = || gateways.iter().map(|tutti| count(tutti, "sent")).sum::<f64>();
    eventually("copies go on", || (sent() >= 2.0).then_some(()));
    assert!(gateways.iter().all(|tutti| count(tutti, "unreached") == 0.0), "it may have been taken");
    let seen = || inference(&replicas[1].seen()).len() as f64;
    eventually("each that was sent is counted once", || (seen() == sent()).then_some(()));
}

#[test]
fn who_waits_at_any_of_them_is_sent_elsewhere_before_the_command_returns() {
    let ([_a, b], _fleet, gateways, driver, _) = three(", slots: 1");
    driver.good(&["traffic", "risk", "--to", "v2"]);
    b.set_fault(Some((Fault::Silent, Scope::Inference)));
    let _holds = gateways[0].begin("/api/chat", CHAT);
    eventually("it is at the replica", || (b.in_flight() == 1).then_some(()));
    let mut waits: Vec<_> = gateways.iter().map(|tutti| tutti.begin("/api/chat", CHAT)).collect();
    let queued = || gateways.iter().map(|tutti| tutti.metric("tutti_requests_queued", &["pool=\"b\""])).sum::<f64>();
    eventually("they wait where the pool is scheduled", || (queued() == 3.0).then_some(()));
    driver.good(&["rollback", "risk"]);
    for waiting in &mut waits {
        let answer = waiting.answer().unwrap();
        assert_eq!((answer.status, answer.header("x-tutti-revision")), (200, Some("v1")), "{}", answer.text());
    }
}

#[test]
fn there_is_one_driver_and_it_goes_on_after_a_restart() {
    let (_replicas, _fleet, gateways, driver, yaml) = three("");
    driver.good(&["traffic", "risk", "--to", "v2", "--canary", "50%,until-promoted"]);
    let mut second = Driver::spawn(&yaml, Driver::folder());
    assert_eq!(second.tutti.wait_ended(), Some(1));
    second.tutti.wait_said("there is one driver at a time");

    let Driver { tutti, state } = driver;
    drop(tutti); // killed
    let driver = Driver::start(&yaml, state);
    driver.settle("risk");
    let page = driver.good(&["traffic", "risk"]);
    assert!(page.contains("term 2") && page.contains("candidate v2: step 2 of 2"), "{page}");
    driver.good(&["traffic", "risk", "--resume"]);
    assert!(gateways.iter().all(|tutti| asked(tutti) == "v2"));
}
