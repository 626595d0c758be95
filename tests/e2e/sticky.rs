//! Who stays on which revision: clients told apart by a header, by their key, by their tenant.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::collections::BTreeSet;

use tutti_simulator::{Config, Model, Running};
use tutti_tests::{Driver, Fleet, Keyed, Tutti, simulator_with};

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false}"#;
/// A change whose candidate's share rises at somebody's word.
const RISES: [&str; 6] =
    ["traffic", "m", "--to", "v2", "--canary", "25%,until-promoted,50%,until-promoted,75%,until-promoted"];
/// One in which half are sent to it.
const HALF: [&str; 6] = ["traffic", "m", "--to", "v2", "--canary", "50%,until-promoted"];

fn two() -> [Running; 2] {
    ["ma", "mb"].map(|model| simulator_with(Config::quick(Model::chat(model, 1 << 20))))
}

fn yaml([a, b]: &[Running; 2], sticky: &str) -> String {
    format!(
        "pools:\n  - {{ name: p, endpoints: [{{ url: \"{}\" }}] }}\n  - {{ name: b, endpoints: [{{ url: \"{}\" }}] }}\n\
         models:\n  - name: m\n    revisions: [{{ name: v1, pool: p, upstream: ma }}, {{ name: v2, pool: b, upstream: mb }}]\n    \
         traffic: {{ revision: v1, sticky: {{ {sticky} }} }}\n",
        a.url(),
        b.url()
    )
}

/// The revision that answers a request with this header.
fn of(tutti: &Tutti, header: (&str, &str)) -> String {
    let answer = tutti.client().ask("POST", "/api/chat", &[header], CHAT);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-tutti-revision").unwrap_or_default().to_owned()
}

fn good(tutti: &Tutti, arguments: &[&str]) {
    let ended = tutti.command(arguments);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
}

fn users(count: usize) -> Vec<String> {
    (0..count).map(|user| format!("user-{user}")).collect()
}

/// Those of them whom the candidate answers.
fn moved(clients: &[String], of: impl Fn(&str) -> String) -> BTreeSet<&str> {
    clients.iter().map(String::as_str).filter(|client| of(client) == "v2").collect()
}

/// Keys of as many tenants, two of each.
fn keys(keyed: &Keyed, tenants: usize) -> Vec<[String; 2]> {
    (0..tenants).map(|tenant| [(); 2].map(|()| keyed.new_key_of(&format!("tenant-{tenant}"), &[]))).collect()
}

fn with_key(tutti: &Tutti, key: &str) -> String {
    of(tutti, ("authorization", &format!("Bearer {key}")))
}

/// Whether the candidate's clients become more, step by step, and none of them moves back.
fn rises(clients: &[String], of: impl Fn(&str) -> String, resume: impl Fn()) {
    let mut before = BTreeSet::new();
    for _ in 0..3 {
        let now = moved(clients, &of);
        assert!(before.is_subset(&now) && now.len() < clients.len(), "nobody moves back: {before:?} {now:?}");
        assert_eq!(now, moved(clients, &of), "nor is it by chance");
        before = now;
        resume();
    }
    assert!(!before.is_empty());
    assert_eq!(moved(clients, &of).len(), clients.len(), "at the end it has all");
}

#[test]
fn a_key_stays_where_it_is_whatever_else_its_tenant_has() {
    let replicas = two();
    let keyed = Keyed::start(&yaml(&replicas, "key: true"));
    let pairs = keys(&keyed, 16);
    let all: Vec<String> = pairs.iter().flatten().cloned().collect();
    let of = |key: &str| with_key(&keyed.tutti, key);
    good(&keyed.tutti, &HALF);
    let apart = pairs.iter().filter(|[one, other]| of(one) != of(other)).count();
    assert!(apart > 0, "of sixteen tenants with two keys each, half of which move, some have one of each");
    good(&keyed.tutti, &["rollback", "m"]);
    good(&keyed.tutti, &RISES);
    rises(&all, of, || good(&keyed.tutti, &["traffic", "m", "--resume"]));
}

#[test]
fn a_tenant_stays_where_it_is_with_whichever_of_its_keys() {
    let replicas = two();
    let keyed = Keyed::start(&yaml(&replicas, "tenant: true"));
    let pairs = keys(&keyed, 16);
    let of = |key: &str| with_key(&keyed.tutti, key);
    good(&keyed.tutti, &HALF);
    for [one, other] in &pairs {
        assert_eq!(of(one), of(other));
    }
    let first: Vec<String> = pairs.iter().map(|[one, _]| one.clone()).collect();
    let half = moved(&first, of).len();
    assert!((1..16).contains(&half), "some tenants, and not all: {half}");
    good(&keyed.tutti, &["rollback", "m"]);
    good(&keyed.tutti, &RISES);
    rises(&first, of, || good(&keyed.tutti, &["traffic", "m", "--resume"]));
}

#[test]
fn each_release_begins_with_other_clients() {
    let replicas = two();
    let tutti = Tutti::start(&yaml(&replicas, "header: x-user"));
    let users = users(80);
    let half = || {
        good(&tutti, &HALF);
        let moved: BTreeSet<String> =
            moved(&users, |user| of(&tutti, ("x-user", user))).into_iter().map(str::to_owned).collect();
        good(&tutti, &["rollback", "m"]);
        assert!(users.iter().all(|user| of(&tutti, ("x-user", user)) == "v1"), "all are taken back");
        assert!((20..=60).contains(&moved.len()), "about half of them: {}", moved.len());
        moved
    };
    let (one, other) = (half(), half());
    let again = one.intersection(&other).count();
    assert!(again + 10 < one.len().min(other.len()), "{again} of {} and {}", one.len(), other.len());
}

#[test]
fn every_gateway_has_a_client_at_the_same_revision_and_who_is_nobody_goes_by_weight() {
    let replicas = two();
    let fleet = Fleet::new(3);
    let pools = yaml(&replicas, "header: x-user");
    let gateways = fleet.start(3, "drain: 1s", &pools);
    let driver = Driver::of(&fleet, &pools, "m");
    let users = users(40);
    driver.good(&RISES);
    let everywhere = |user: &str| {
        let all: Vec<String> = gateways.iter().map(|tutti| of(tutti, ("x-user", user))).collect();
        assert!(all.iter().all(|revision| *revision == all[0]), "{user}: {all:?}");
        all[0].clone()
    };
    // Another header is none of it: lots by turns, of which a quarter is the candidate's.
    for tutti in &gateways {
        let candidates = (0..40).filter(|_| of(tutti, ("x-other", "user-1")) == "v2").count();
        assert!((9..=11).contains(&candidates), "{candidates} of 40");
    }
    rises(&users, everywhere, || _ = driver.good(&["traffic", "m", "--resume"]));
}
