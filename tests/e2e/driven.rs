//! Releases on bad days: a rollback while replicas hang, clocks that differ, a driver that is killed before it has told
//! anybody, and more gateways than one driver drives.

use std::fs;

use tutti_simulator::{Config, Model, Running};
use tutti_tests::{Clock, Driver, Fault, Faulty, Fleet, Tutti, eventually, simulator_with};

const CHAT: &str = r#"{"model":"risk","messages":[{"role":"user","content":"hi"}],"stream":false}"#;
const HOUR: i64 = 3_600;

fn two() -> [Running; 2] {
    ["ma", "mb"].map(|model| simulator_with(Config::quick(Model::chat(model, 1 << 20))))
}

/// The model `risk`, whose revision v1 serves by the configuration.
fn models([a, b]: &[Running; 2]) -> String {
    format!(
        "pools:\n  - {{ name: p, endpoints: [{{ url: \"{}\" }}] }}\n  - {{ name: b, endpoints: [{{ url: \"{}\" }}] }}\nmodels:\n  - name: risk\n    revisions: [{{ name: v1, pool: p, upstream: ma }}, {{ name: v2, pool: b, upstream: mb }}]\n    traffic: {{ revision: v1 }}\n",
        a.url(),
        b.url()
    )
}

fn asked(tutti: &Tutti) -> String {
    let answer = tutti.ask("POST", "/api/chat", CHAT);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-tutti-revision").unwrap_or_default().to_owned()
}

/// A way to a replica that lives, and does not say what it has.
fn hanging(replica: &Running) -> Faulty {
    let port = replica.url().rsplit(':').next().and_then(|port| port.parse().ok());
    let way = Faulty::before(port.unwrap_or_else(|| panic!("no port in {}", replica.url())));
    way.set(|line, _| if line.starts_with("GET /api/version") { Fault::Pass } else { Fault::Silence });
    way
}

/// Has a gateway take up a configuration with one more replica, and waits until that is asked what it has, which it never says.
fn takes_up(tutti: &Tutti, hangs: &Faulty) {
    let file = tutti.folder().join("tutti.yaml");
    let yaml = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let more = format!("  - {{ name: c, endpoints: [{{ url: \"{}\" }}] }}\nmodels:", hangs.url());
    tutti.write_config(&yaml.replacen("models:", &more, 1));
    let is_asked = || hangs.seen().iter().any(|line| line.contains("/api/tags")).then_some(());
    eventually("the new replica is asked what it has", is_asked);
}

const IN_FORCE: &str = "the changed configuration is in force";

#[test]
fn a_rollback_waits_for_no_replica_that_a_new_configuration_asks() {
    let replicas = two();
    let (tutti, hangs) = (Tutti::start(&models(&replicas)), hanging(&replicas[0]));
    let good = |arguments: &[&str]| {
        let ended = tutti.command(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
    };
    good(&["traffic", "risk", "--to", "v2"]);
    takes_up(&tutti, &hangs);
    good(&["rollback", "risk"]);
    assert!(!tutti.has_said(IN_FORCE), "it is not taken up yet");
    assert_eq!(asked(&tutti), "v1");
    tutti.wait_said(IN_FORCE);
    assert_eq!(asked(&tutti), "v1");
    good(&["traffic", "risk", "--to", "v2"]);
    assert_eq!(asked(&tutti), "v2");
}

#[test]
fn a_driver_waits_for_no_replica_that_a_gateway_asks() {
    let replicas = two();
    let (fleet, pools, hangs) = (Fleet::new(3), models(&replicas), hanging(&replicas[0]));
    let gateways = fleet.start(3, "drain: 1s", &pools);
    let driver = Driver::of(&fleet, &pools, "risk");
    driver.good(&["traffic", "risk", "--to", "v2"]);
    takes_up(&gateways[1], &hangs);
    driver.good(&["rollback", "risk"]); // each of them has acknowledged it
    assert!(!gateways[1].has_said(IN_FORCE), "it is not taken up yet");
    assert!(gateways.iter().all(|tutti| asked(tutti) == "v1"));
    gateways[1].wait_said(IN_FORCE);
    assert_eq!(asked(&gateways[1]), "v1");
}

#[test]
fn clocks_an_hour_apart_change_nothing() {
    let replicas = two();
    let (fleet, pools) = (Fleet::new(3), models(&replicas));
    let clocks = [HOUR, -HOUR, 0].map(|off| {
        let clock = Clock::right();
        clock.set(off);
        clock
    });
    let spawn = |(number, clock): (usize, &Clock)| {
        let yaml = format!("gateway: {{ {}, drain: 1s }}\n{pools}", fleet.yaml(number, &[0, 1, 2]));
        let env = clock.env();
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        Tutti::spawn(&["gateway", "--config", "tutti.yaml", "--cores", "1"], &yaml, &env)
    };
    let gateways: Vec<Tutti> = clocks.iter().enumerate().map(spawn).collect();
    gateways.iter().for_each(|tutti| _ = tutti.wait_said("tutti serves"));
    Fleet::agree(&gateways.iter().collect::<Vec<_>>());
    let yaml = format!("gateway: {{ {} }}\n{pools}", fleet.yaml(0, &[0, 1, 2]));
    let driver = Driver::start(&yaml, Driver::folder());
    driver.settle("risk");

    // Its pauses are as long as they are, and there is one driver at a time.
    driver.good(&["traffic", "risk", "--to", "v2", "--canary", "50%,1s"]);
    eventually("all has gone over", || gateways.iter().all(|tutti| asked(tutti) == "v2").then_some(()));
    let mut second = Driver::spawn(&yaml, Driver::folder());
    assert_eq!(second.tutti.wait_ended(), Some(1));
    second.tutti.wait_said("there is one driver at a time");
    driver.good(&["rollback", "risk"]);
    assert!(gateways.iter().all(|tutti| asked(tutti) == "v1"));

    // One that goes on where the machine's clock was put back an hour, and then where it was put forward.
    driver.good(&["traffic", "risk", "--to", "v2", "--canary", "25%,1s,50%,until-promoted"]);
    let mut state = driver.state;
    drop(driver.tutti); // killed
    for clock in [&clocks[1], &clocks[0]] {
        let driver = Driver::start_by(clock, &yaml, state);
        driver.settle("risk");
        let page = eventually("its pause is over", || {
            let page = driver.good(&["traffic", "risk"]);
            page.contains("candidate v2: step 4 of 4").then_some(page)
        });
        assert!(page.contains("50%"), "{page}");
        state = driver.state;
    }
    let driver = Driver::start(&yaml, state);
    driver.settle("risk");
    driver.good(&["traffic", "risk", "--resume"]);
    assert!(gateways.iter().all(|tutti| asked(tutti) == "v2"));
}

#[test]
fn what_a_driver_kept_before_it_was_killed_is_told_by_the_next() {
    let replicas = two();
    let (fleet, pools) = (Fleet::new(3), models(&replicas));
    let gateways = fleet.start(3, "drain: 1s", &pools);
    let driver = Driver::of(&fleet, &pools, "risk");
    let yaml = format!("gateway: {{ {} }}\n{pools}", fleet.yaml(0, &[0, 1, 2]));
    // Somewhere else, where it reaches nobody: whatever it decides is kept, and told to no gateway.
    let nowhere = Fleet::new(1).addresses.remove(0);
    let lost = fleet.addresses.iter().fold(yaml.clone(), |yaml, address| yaml.replace(address, &nowhere));
    driver.tutti.write_config(&lost);
    eventually("it looks for them elsewhere", || {
        let report = driver.report("risk");
        let warnings = report["warnings"].as_array()?;
        warnings.iter().any(|warning| warning.as_str().is_some_and(|said| said.starts_with(&nowhere))).then_some(())
    });
    let ended = driver.command(&["traffic", "risk", "--to", "v2", "--force"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("it is decided, and 0 of 1 gateways"), "{}", ended.stderr);
    let Driver { tutti, state } = driver;
    drop(tutti); // killed
    assert!(gateways.iter().all(|tutti| asked(tutti) == "v1"), "nobody was told");

    let driver = Driver::start(&yaml, state);
    driver.settle("risk");
    let page = driver.good(&["traffic", "risk"]);
    assert!(page.contains("term 2") && page.contains("v2 serves all: at once"), "{page}");
    assert!(gateways.iter().all(|tutti| asked(tutti) == "v2"));
}

#[test]
fn gateways_beyond_the_most_are_said_and_no_command_succeeds_without_them() {
    let replicas = two();
    let fleet = Fleet::new(1);
    let ip = fleet.addresses[0].split(':').next().unwrap_or_default();
    let listed: Vec<String> = (1..=300).map(|port| format!("\"{ip}:{port}\"")).collect();
    let peer = fleet.yaml(0, &[0]).replace(&format!("[{:?}]", fleet.addresses[0]), &format!("[{}]", listed.join(", ")));
    let driver = Driver::start(&format!("gateway: {{ {peer} }}\n{}", models(&replicas)), Driver::folder());
    let beyond = "gateway.peer leads to 300 gateways, and one driver drives 256 at most: 44 are told nothing, those with the highest";
    driver.tutti.wait_said(beyond);
    let page = driver.good(&["traffic", "risk"]);
    assert!(page.contains(&format!("WARNING: {beyond}")), "{page}");
    let ended = driver.command(&["traffic", "risk", "--to", "v2", "--force"]);
    assert!(ended.code == Some(1) && ended.stderr.contains(beyond), "{}", ended.stderr);
}
