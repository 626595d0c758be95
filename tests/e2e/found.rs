//! Where `tutti scaler-metrics` finds the gateways: in a list, by a name whose addresses come and go, and at one that is gone
//! and comes back.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use serde_json::Value;
use tutti_tests::scaler::Scaler;
use tutti_tests::{Client, Dns, Says, Tutti, eventually};

const CHAT: &str = r#"{"model":"risk","messages":[{"role":"user","content":"hi"}],"stream":false}"#;

/// A gateway with its ops port here, and a pool without a replica: whoever asks waits. One request wants one replica.
fn gateway(ops: &str) -> Option<Tutti> {
    let nothing = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(nothing.path(), "# none").unwrap();
    let yaml = format!(
        "pools:\n  - {{ name: p, endpoints: [{{ file: {:?} }}], slots: 2, scale: {{ min: 0, max: 9, target: 50% }}, queue: {{ coldWait: 10m }} }}\n\
         models:\n  - {{ name: risk, revisions: [{{ name: v1, pool: p, upstream: m }}] }}\n",
        nothing.path().display().to_string()
    );
    let arguments = ["gateway", "--config", "tutti.yaml", "--cores", "1"];
    let tutti = Tutti::spawn(&arguments, &yaml, &[("TUTTI__GATEWAY__OPS", ops)]);
    let serves = eventually("it serves, or cannot", || {
        (tutti.has_said("tutti serves") || tutti.has_said("in use")).then(|| tutti.has_said("tutti serves"))
    });
    serves.then_some(tutti)
}

/// Gateways at these addresses, all with one ops port, as those of one name have.
fn gateways(addresses: &[&str]) -> (Vec<Tutti>, String) {
    let all = || {
        let first = gateway(&format!("{}:0", addresses[0]))?;
        let port = first.ops().rsplit(':').next()?.to_owned();
        let mut gateways = vec![first];
        for address in &addresses[1..] {
            gateways.push(gateway(&format!("{address}:{port}"))?);
        }
        Some((gateways, port))
    };
    (0..20).find_map(|_| all()).expect("a port that is free on all addresses")
}

fn waits(tutti: &Tutti) -> Client {
    tutti.begin("/api/chat", CHAT)
}

fn page(scaler: &Scaler) -> Value {
    scaler.page("/v1/metrics/p").json()
}

/// Waits until so many gateways are known, heard, and held, and so many requests wait by what all of them say.
fn stands(scaler: &Scaler, what: &str, [discovered, fresh, held, queued]: [u64; 4]) {
    eventually(what, || {
        let page = page(scaler);
        let of = |name: &str| page["gateways"][name].as_u64();
        let is = (of("discovered"), of("fresh"), of("held"), page["queued"].as_u64());
        (is == (Some(discovered), Some(fresh), Some(held), Some(queued))).then_some(())
    });
}

#[test]
fn a_name_is_as_many_gateways_as_it_has_addresses_now() {
    let (all, port) = gateways(&["127.0.0.2", "127.0.0.3"]);
    let dns = Dns::start();
    dns.set_addresses("gateways.test", &["127.0.0.2"]);
    let scaler = Scaler::resolving(&dns, &["--dns", &format!("gateways.test:{port}")]);
    let (first, _second) = (waits(&all[0]), waits(&all[1]));
    stands(&scaler, "the one that the name names", [1, 1, 0, 1]);
    assert_eq!((scaler.is_active("p"), scaler.wanted("p")), (Ok(true), Some(1.0)));
    dns.set_addresses("gateways.test", &["127.0.0.2", "127.0.0.3"]);
    stands(&scaler, "the other is found", [2, 2, 0, 2]);
    assert_eq!(scaler.wanted("p"), Some(2.0), "by the work of both");

    // While nobody can tell, and where the answer is that there is none at all, those that were known stay.
    for says in [Says::Fails, Says::Garbage, Says::Nothing(1), Says::NoSuchName] {
        dns.set("gateways.test", says.clone());
        let asked = dns.asked("gateways.test");
        eventually(&format!("{says:?}"), || (dns.asked("gateways.test") > asked + 4).then_some(()));
        stands(&scaler, "both", [2, 2, 0, 2]);
    }
    // One that has left the name is not asked any more, and its last word holds.
    dns.set_addresses("gateways.test", &["127.0.0.3"]);
    stands(&scaler, "one is held", [1, 1, 1, 2]);
    drop(first);
    eventually("its client has gone", || {
        (all[0].metric("tutti_requests_queued", &["pool=\"p\""]) == 0.0).then_some(())
    });
    stands(&scaler, "which nobody has heard", [1, 1, 1, 2]);
    dns.set_addresses("gateways.test", &["127.0.0.3", "127.0.0.2"]);
    stands(&scaler, "it is asked again", [2, 2, 0, 1]);
}

#[test]
fn a_name_that_nobody_knows_is_a_gateway_that_is_not_heard_and_hides_no_other() {
    let (all, port) = gateways(&["127.0.0.2"]);
    let dns = Dns::start();
    let list = format!("127.0.0.2:{port},gone.test:{port}");
    let scaler = Scaler::resolving(&dns, &["--gateways", &list]);
    let _first = waits(&all[0]);
    // Which asks for more than there is: that is answered at once, though not all have been heard.
    stands(&scaler, "the other one is heard", [2, 1, 0, 1]);
    assert_eq!((scaler.is_active("p"), scaler.wanted("p")), (Ok(true), Some(1.0)));
    let gone = format!("gone.test:{port}");
    let status = scaler.page("/status").json();
    let found = status.as_array().into_iter().flatten().find(|gateway| gateway["address"] == *gone);
    assert_eq!(found.map(|gateway| &gateway["failing"]), Some(&"its name has no address".into()), "{status}");
    let failing = || scaler.page("/metrics").text().contains("tutti_scaler_discovery_failing 1\n");
    assert!(failing());
    scaler.process.wait_said("it is not known where all gateways are");
    dns.set_addresses("gone.test", &["127.0.0.2"]);
    stands(&scaler, "it leads to the same one", [1, 1, 0, 1]);
    assert!(!failing());
}

#[test]
fn of_a_list_one_that_dies_is_held_and_comes_back_without_its_old_work() {
    let (mut all, port) = gateways(&["127.0.0.2", "127.0.0.3"]);
    let list = [2, 3].map(|host| format!("127.0.0.{host}:{port}")).join(",");
    let scaler = Scaler::of(&list);
    let _first = waits(&all[0]);
    let _second = waits(&all[1]);
    stands(&scaler, "both", [2, 2, 0, 2]);
    drop(all.remove(0));
    stands(&scaler, "one is held, with what it last said", [2, 1, 1, 2]);
    assert_eq!((scaler.is_active("p"), scaler.wanted("p")), (Ok(true), Some(2.0)), "no replica is taken for it");
    let status = scaler.page("/status").json();
    let failing: Vec<bool> =
        status.as_array().into_iter().flatten().map(|gateway| gateway["failing"].is_string()).collect();
    assert_eq!(failing, [true, false], "{status}");
    let back = gateway(&format!("127.0.0.2:{port}")).expect("its port is free again");
    stands(&scaler, "another in its place", [2, 2, 0, 1]);
    let _third = waits(&back);
    stands(&scaler, "whose work counts", [2, 2, 0, 2]);
}
