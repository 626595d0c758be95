//! How a gateway among several begins: it serves nobody before it knows what the others go by, and says so; where none of them
//! answers it goes by what it kept, or else by its configuration. A successor has its predecessor's word.

use std::net::TcpListener;

use rustix::process::Signal;
use tutti_simulator::{Config, Model, Running};
use tutti_tests::{Answer, Client, Driver, Fleet, Tutti, eventually, simulator_with};

const CHAT: &str = r#"{"model":"risk","messages":[{"role":"user","content":"hi"}],"stream":false}"#;
const GATEWAY: [&str; 5] = ["gateway", "--config", "tutti.yaml", "--cores", "1"];

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

fn yaml(fleet: &Fleet, number: usize, knows: &[usize], pools: &str) -> String {
    format!("gateway: {{ {}, drain: 1s }}\n{pools}", fleet.yaml(number, knows))
}

/// The revision that answers.
fn revision(answer: &Answer) -> &str {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-tutti-revision").unwrap_or_default()
}

fn asked(tutti: &Tutti) -> String {
    revision(&tutti.ask("POST", "/api/chat", CHAT)).to_owned()
}

/// What is said at an ops port of whether it is ready, once somebody answers there.
fn readiness(ops: &str) -> Answer {
    eventually("the ops port answers", || Client::connect(ops).ok()).ask("GET", "/readyz", &[], "")
}

/// Addresses that a gateway is to take for its clients and its ops port, which are known before it says so.
fn addresses() -> [String; 2] {
    let mut free = Fleet::new(2).addresses;
    [free.remove(0), free.remove(0)]
}

/// That it is not ready, and waits for the others.
fn waits(ops: &str) {
    let ready = readiness(ops);
    let why = "starting: it waits for what the other gateways say of traffic, 3 s at most";
    assert_eq!((ready.status, ready.text().trim_end()), (503, why));
}

#[test]
fn who_starts_serves_nobody_before_it_knows_what_the_others_go_by() {
    let replicas = two();
    let (fleet, pools) = (Fleet::new(3), models(&replicas));
    let mut gateways = fleet.start(3, "drain: 1s", &pools);
    let driver = Driver::of(&fleet, &pools, "risk");
    driver.good(&["traffic", "risk", "--to", "v2"]);
    drop(driver);
    gateways.pop();
    gateways[1].signal(Signal::STOP); // so that it takes two seconds to know who is there

    let [listen, ops] = addresses();
    let env = [("TUTTI__GATEWAY__LISTEN", &*listen), ("TUTTI__GATEWAY__OPS", &*ops)];
    let late = Tutti::spawn(&GATEWAY, &yaml(&fleet, 2, &[0, 1, 2], &pools), &env);
    let mut early = eventually("it can be connected to", || Client::connect(&listen).ok());
    early.send("POST", "/api/chat", &[], CHAT).expect("it is sent");
    waits(&ops);
    let page = Client::connect(&ops).expect("a connection").ask("GET", "/demand", &[], "");
    assert_eq!(page.status, 503, "it tells nobody of no work: {}", page.text());
    let at_clients = Client::connect(&listen).expect("a connection").ask("GET", "/readyz", &[], "");
    assert_eq!(at_clients.status, 503, "{}", at_clients.text());
    assert_eq!(revision(&early.answer().expect("an answer")), "v2");
    late.wait_said("tutti serves");
    assert_eq!(readiness(&ops).status, 200);
    assert_eq!(asked(&late), "v2");
}

#[test]
fn where_nobody_answers_it_goes_by_what_it_kept_or_as_configured() {
    let replicas = two();
    let (fleet, pools) = (Fleet::new(2), models(&replicas));
    let _silent = TcpListener::bind(&fleet.addresses[1]).expect("the address is free");
    let [_, ops] = addresses();
    let env = [("TUTTI__GATEWAY__OPS", &*ops)];
    let mut first = Tutti::spawn(&GATEWAY, &yaml(&fleet, 0, &[0, 1], &pools), &env);
    waits(&ops);
    first.wait_said("no other gateway has said what traffic goes by");
    first.wait_said("tutti serves");
    assert_eq!(asked(&first), "v1", "as configured");

    let driver = Driver::start(&yaml(&fleet, 0, &[0], &pools), Driver::folder());
    driver.settle("risk");
    driver.good(&["traffic", "risk", "--to", "v2"]);
    let kept = first.folder().join("tutti/releases-127-0-0-1-0.word");
    eventually("it is kept", || std::fs::read_to_string(&kept).ok().filter(|text| text.contains(r#""revision":"v2""#)));
    drop(driver);
    first.signal(Signal::TERM);
    first.wait_ended();
    let again = first.beside(&GATEWAY, &env);
    again.wait_said("tutti serves");
    assert_eq!(asked(&again), "v2", "what it went by last");
}

#[test]
fn a_successor_has_its_predecessors_word() {
    let replicas = two();
    let (fleet, pools) = (Fleet::new(2), models(&replicas));
    let _silent = TcpListener::bind(&fleet.addresses[1]).expect("the address is free");
    let mut old = Tutti::spawn(&GATEWAY, &yaml(&fleet, 0, &[0, 1], &pools), &[]);
    old.wait_said("tutti serves");
    let driver = Driver::start(&yaml(&fleet, 0, &[0], &pools), Driver::folder());
    driver.settle("risk");
    driver.good(&["traffic", "risk", "--to", "v2"]);
    let kept = old.folder().join("tutti/releases-127-0-0-1-0.word");
    eventually("it is kept", || std::fs::read_to_string(&kept).ok().filter(|text| text.contains(r#""revision":"v2""#)));
    drop(driver);
    std::fs::remove_file(&kept).expect("it is there"); // not by what is on the disk
    let new = old.beside(&["gateway", "--config", "tutti.yaml", "--take-over"], &[]);
    new.wait_said("tutti serves");
    assert_eq!(asked(&new), "v2");
    assert_eq!(old.wait_ended(), Some(0));
    assert_eq!(asked(&new), "v2");
}
