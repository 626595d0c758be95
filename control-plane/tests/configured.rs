//! What a configuration wants at once, which is when a replica has it.

use tutti_api::Config;
use tutti_control_plane::{Driver, Floor, Ready, RevisionHeard, State};

/// The model `m`, on a pool for each revision, which wants this one.
fn config(wanted: &str) -> Config {
    let pool = |name: &str| format!("{{ name: {name}, endpoints: [{{ url: \"http://{name}:1\" }}] }}");
    let revisions = "[{ name: v1, pool: blue, upstream: a }, { name: v2, pool: green, upstream: b }]";
    let model = format!("{{ name: m, revisions: {revisions}, traffic: {{ revision: {wanted}, mirror: 10% }} }}");
    let yaml = format!("pools: [{}, {}]\nmodels: [{model}]", pool("blue"), pool("green"));
    tutti_api::load(&yaml, "t", []).expect("a configuration")
}

fn configure(driver: &mut Driver, wanted: &str, now: u64) {
    let config = config(wanted);
    driver.configure(&config.models, &config.pools, now);
}

/// What a gateway says, where so many replicas have v2.
fn hear(driver: &mut Driver, replicas: u32) {
    let told = [("v1", "blue", 3), ("v2", "green", replicas)].map(|(name, pool, replicas)| {
        let ready = Ready { pool: pool.to_owned(), replicas, slots: replicas };
        (name.to_owned(), RevisionHeard { ready, ..RevisionHeard::default() })
    });
    driver.hear("g", [("m".to_owned(), told.into())].into());
}

/// One that goes by v1, of whose v2 so many replicas are heard of.
fn driver(replicas: u32) -> Driver {
    let mut driver = Driver::new("the driver", State::default());
    configure(&mut driver, "v1", 0);
    hear(&mut driver, replicas);
    driver
}

fn current(driver: &Driver) -> &str {
    &driver.release("m").expect("the model is there").current
}

fn last(driver: &Driver) -> (String, String) {
    let entry = driver.release("m").and_then(|release| release.history.back().cloned()).expect("something happened");
    (entry.by, entry.what)
}

#[test]
fn what_a_replica_has_serves_at_once() {
    let mut driver = driver(1);
    configure(&mut driver, "v2", 10);
    assert_eq!((current(&driver), driver.is_at_work()), ("v2", false));
    assert_eq!(last(&driver), ("configuration".to_owned(), "v2 serves all: at once".to_owned()));
}

#[test]
fn what_none_has_serves_when_one_does_also_after_a_restart() {
    let mut before = driver(0);
    configure(&mut before, "v2", 10);
    let kept = serde_json::to_string(before.state()).expect("it is kept");
    let mut restarted = Driver::new("the next", serde_json::from_str(&kept).expect("it is read"));
    configure(&mut restarted, "v2", 20);
    hear(&mut restarted, 0);
    for mut driver in [before, restarted] {
        driver.tick(30);
        assert_eq!((current(&driver), driver.is_at_work()), ("v1", true));
        assert_eq!(last(&driver).1, "v2 is to serve, as soon as a replica has it, proven");
        let floor = |pool: &str, replicas| Floor { pool: pool.to_owned(), replicas, holds: 60_000 };
        assert_eq!(driver.floors(30), [floor("green", 3), floor("blue", 1)], "so that a pool at zero comes up");
        configure(&mut driver, "v2", 40);
        hear(&mut driver, 1);
        driver.tick(50);
        assert_eq!((current(&driver), driver.is_at_work()), ("v2", false));
    }
}

#[test]
fn what_is_not_wanted_any_more_is_waited_for_no_longer() {
    let mut driver = driver(0);
    configure(&mut driver, "v2", 10);
    configure(&mut driver, "v1", 20);
    hear(&mut driver, 1);
    driver.tick(30);
    assert_eq!((current(&driver), driver.is_at_work()), ("v1", false));
}
