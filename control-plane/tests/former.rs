//! A revision that a switch has replaced stays ready for a while, so that there is a way back.

use tutti_api::Config;
use tutti_control_plane::{Command, Driver, Floor, How, Ready, RevisionHeard, State};

/// When the switch is over. Unit: milliseconds.
const SWITCHED: u64 = 1_000;

fn config() -> Config {
    let pool = |name: &str| format!("{{ name: {name}, endpoints: [{{ url: \"http://{name}:1\" }}] }}");
    let revision = |name: &str, pool: &str| format!("{{ name: {name}, pool: {pool}, upstream: {name} }}");
    let revisions = [revision("v1", "blue"), revision("v2", "green"), revision("v3", "green")].join(", ");
    let yaml = format!(
        "pools: [{}, {}]\nmodels: [{{ name: m, revisions: [{revisions}], traffic: {{ revision: v1 }} }}]",
        pool("blue"),
        pool("green")
    );
    tutti_api::load(&yaml, "t", []).expect("a configuration")
}

/// Of what was kept, with three replicas of blue, and four of green.
fn driver(state: State, now: u64) -> Driver {
    let config = config();
    let mut driver = Driver::new("the driver", state);
    driver.configure(&config.models, &config.pools, now);
    let told = [("v1", "blue", 3), ("v2", "green", 4), ("v3", "green", 4)].map(|(name, pool, replicas)| {
        let ready = Ready { pool: pool.to_owned(), replicas, slots: replicas };
        (name.to_owned(), RevisionHeard { ready, ..RevisionHeard::default() })
    });
    driver.hear("g", [("m".to_owned(), told.into())].into());
    driver
}

fn to(driver: &mut Driver, revision: &str, strategy: &str, now: u64) {
    let strategy = serde_json::from_str(strategy).expect("a strategy");
    let how = How::By(Box::new(strategy));
    let to = Command::To { revision: revision.to_owned(), how, mirror: None, force: false };
    driver.command("m", &to, "somebody", now).expect("it may");
}

/// One whose v2 has replaced v1, which stays for 90 seconds.
fn switched() -> Driver {
    let mut driver = driver(State::default(), 0);
    to(&mut driver, "v2", r#"{"blueGreen":{"scaleDownDelay":"90s"}}"#, SWITCHED);
    assert_eq!(current(&driver), "v2");
    driver
}

fn current(driver: &Driver) -> &str {
    &driver.release("m").expect("the model is there").current
}

fn floor(pool: &str, replicas: u32, holds: u64) -> Floor {
    Floor { pool: pool.to_owned(), replicas, holds }
}

#[test]
fn it_stays_with_what_it_had_until_its_time_is_over() {
    let mut driver = switched();
    let word = driver.word();
    assert_eq!(driver.floors(SWITCHED), [floor("blue", 3, 60_000)]);
    driver.hear("g", [].into());
    assert_eq!(driver.floors(SWITCHED), [floor("blue", 3, 60_000)], "whatever it has by now");
    assert_eq!(driver.floors(SWITCHED + 80_000), [floor("blue", 3, 10_000)], "and no longer than it is to stay");
    assert!(!driver.tick(SWITCHED + 89_999) && driver.is_at_work(), "it is to be said again");
    assert_eq!(driver.floors(SWITCHED + 90_000), []);
    assert!(driver.tick(SWITCHED + 90_000), "that it is over is kept");
    assert!(!driver.is_at_work() && driver.word() == word, "gateways go by the same as before");
}

#[test]
fn it_stays_no_longer_for_a_restart_in_between() {
    let kept = serde_json::to_string(switched().state()).expect("it is kept");
    let restarted = |now| driver(serde_json::from_str(&kept).expect("it is read"), now);
    let driver = restarted(SWITCHED + 50_000);
    assert!(driver.is_at_work());
    assert_eq!(driver.floors(SWITCHED + 50_000), [floor("blue", 3, 40_000)]);
    let mut late = restarted(SWITCHED + 200_000);
    assert_eq!(late.floors(SWITCHED + 200_000), []);
    assert!(late.tick(SWITCHED + 200_000) && !late.is_at_work());
    // What a driver kept that knew nothing of it.
    let mut before: serde_json::Value = serde_json::from_str(&kept).expect("it is read");
    before["releases"]["m"].as_object_mut().and_then(|release| release.remove("former")).expect("it was there");
    let before: State = serde_json::from_value(before).expect("it is read all the same");
    assert_eq!(before.releases["m"].former, None);
}

#[test]
fn a_way_back_or_another_change_ends_that() {
    let back = Command::Rollback { to: None, force: false };
    let mut driver = switched();
    driver.command("m", &back, "somebody", SWITCHED + 10_000).expect("it is ready");
    assert_eq!((current(&driver), driver.floors(SWITCHED + 10_000)), ("v1", Vec::new()));
    let mut driver = switched();
    to(&mut driver, "v1", r#"{"canary":{"steps":[{"setWeight":"10%"},{"pause":"1m"}]}}"#, SWITCHED + 10_000);
    let floors = [floor("blue", 4, 60_000), floor("green", 1, 60_000)];
    assert_eq!(driver.floors(SWITCHED + 10_000), floors, "what is under way says what it needs");
    driver.command("m", &back, "somebody", SWITCHED + 20_000).expect("it may");
    assert_eq!(driver.floors(SWITCHED + 20_000), [], "it was another that replaced it");
}

#[test]
fn only_a_switch_keeps_it_and_a_replica_is_enough_of_a_pool_that_both_share() {
    let mut driver = switched();
    to(&mut driver, "v3", r#"{"blueGreen":{}}"#, SWITCHED + 100_000);
    assert_eq!(current(&driver), "v3");
    assert_eq!(driver.floors(SWITCHED + 100_000), [floor("green", 1, 30_000)], "by default it is half a minute");
    to(&mut driver, "v1", r#"{"canary":{"steps":[{"setWeight":"10%"}]}}"#, SWITCHED + 110_000);
    assert_eq!((current(&driver), driver.floors(SWITCHED + 110_000)), ("v1", Vec::new()));
}

#[test]
fn one_that_nobody_had_ready_has_a_replica_and_one_that_is_not_to_stay_has_none() {
    let mut driver = driver(State::default(), 0);
    let ready = Ready { pool: "green".to_owned(), replicas: 1, slots: 1 };
    let told = [("v2".to_owned(), RevisionHeard { ready, ..RevisionHeard::default() })];
    driver.hear("g", [("m".to_owned(), told.into())].into());
    to(&mut driver, "v2", r#"{"blueGreen":{}}"#, SWITCHED);
    assert_eq!(driver.floors(SWITCHED), [floor("blue", 1, 30_000)]);
    let now = Command::To { revision: "v1".to_owned(), how: How::Now, mirror: None, force: true };
    driver.command("m", &now, "somebody", SWITCHED).expect("it may");
    to(&mut driver, "v2", r#"{"blueGreen":{"scaleDownDelay":"0s"}}"#, SWITCHED);
    assert_eq!((current(&driver), driver.floors(SWITCHED)), ("v2", Vec::new()));
}
