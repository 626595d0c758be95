//! How an operator follows a release: what `tutti traffic` prints while it goes on, and what his word does to it.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Driver, Fleet, Tutti, binary, eventually, run, simulator_with};

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false}"#;

fn two() -> [Running; 2] {
    ["ma", "mb"].map(|model| simulator_with(Config::quick(Model::chat(model, 1 << 20))))
}

fn yaml([a, b]: &[Running; 2], traffic: &str) -> String {
    format!(
        "pools:\n  - {{ name: p, endpoints: [{{ url: \"{}\" }}] }}\n  - {{ name: b, endpoints: [{{ url: \"{}\" }}] }}\n\
         models:\n  - name: m\n    revisions: [{{ name: v1, pool: p, upstream: ma }}, {{ name: v2, pool: b, upstream: mb }}]\n    \
         traffic: {{ revision: v1{traffic} }}\n",
        a.url(),
        b.url()
    )
}

/// The arguments that lead to a gateway.
fn reached(tutti: &Tutti) -> [String; 4] {
    ["--admin".to_owned(), tutti.admin(), "--token-file".to_owned(), tutti.token_file().display().to_string()]
}

/// Runs a command as this person.
fn by(tutti: &Tutti, person: &str, arguments: &[&str]) -> String {
    let reached = reached(tutti);
    let all: Vec<&str> = arguments.iter().copied().chain(reached.iter().map(String::as_str)).collect();
    let ended = run(&all, &[("SUDO_USER", person)]);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
    ended.stdout
}

fn asked(tutti: &Tutti) -> String {
    let answer = tutti.ask("POST", "/api/chat", CHAT);
    answer.header("x-tutti-revision").unwrap_or_default().to_owned()
}

fn report(tutti: &Tutti) -> Value {
    tutti.ask_admin("/traffic?model=m")
}

/// Waits until a process has ended; yields its exit code.
fn ended(child: &mut Child) -> Option<i32> {
    eventually("it ends", || child.try_wait().ok().flatten()).code()
}

/// `tutti traffic m --watch` by whoever is reached so; it is read line by line.
fn watch(reached: &[String]) -> Child {
    let mut command = Command::new(binary());
    command.args(["traffic", "m", "--watch"]).args(reached).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// The row of a revision on a page: its weight, replicas, slots, requests and errors.
fn row(page: &str, revision: &str) -> Vec<String> {
    let found = page.lines().rev().find(|line| line.split(' ').next() == Some(revision));
    found.unwrap_or_else(|| panic!("{revision}: {page}")).split_whitespace().skip(1).map(str::to_owned).collect()
}

/// The requests of both revisions on a page, where each has some, or neither.
fn requests(page: &str) -> u64 {
    let [one, other] = ["v1", "v2"].map(|revision| row(page, revision)[3].parse::<u64>().unwrap());
    assert!(one.abs_diff(other) <= 4, "half each: {page}");
    one + other
}

/// The pages that a command printed: each begins with the model.
fn pages(lines: &[String]) -> Vec<String> {
    let mut pages: Vec<String> = Vec::new();
    for line in lines {
        if line.starts_with("model m: ") || pages.is_empty() {
            pages.push(String::new());
        }
        pages.last_mut().unwrap().push_str(&format!("{line}\n"));
    }
    pages
}

#[test]
fn watching_shows_each_step_and_both_revisions_and_ends_with_the_change() {
    let replicas = two();
    let tutti = Tutti::start(&yaml(&replicas, ""));
    for _ in 0..7 {
        asked(&tutti);
    }
    by(&tutti, "anna", &["traffic", "m", "--to", "v2", "--canary", "50%,until-promoted,75%,until-promoted"]);
    let mut watching = watch(&reached(&tutti));
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    let mut step = 0;
    for line in lines.map_while(Result::ok) {
        let whole = line.starts_with("driven by ");
        seen.push(line);
        if !whole {
            continue;
        }
        // What comes next is done once the page before has shown that this is known.
        let page = pages(&seen).pop().unwrap();
        let so_far = |wanted: &[&str]| wanted.iter().all(|wanted| page.contains(wanted));
        match step {
            0 if so_far(&["candidate v2: step 2 of 4", "50% to v2"]) => (0..12).for_each(|_| _ = asked(&tutti)),
            1 if requests(&page) == 12 => {
                assert_eq!((&*row(&page, "v1")[0], &*row(&page, "v2")[0]), ("50%", "50%"), "{page}");
                _ = by(&tutti, "anna", &["traffic", "m", "--resume"]);
            }
            2 if so_far(&["candidate v2: step 4 of 4", "75% to v2"]) => {
                assert_eq!((&*row(&page, "v1")[0], &*row(&page, "v2")[0]), ("25%", "75%"), "{page}");
                assert_eq!(requests(&page), 0, "since the weights changed");
                _ = by(&tutti, "anna", &["traffic", "m", "--resume"]);
            }
            _ => continue,
        }
        step += 1;
    }
    assert_eq!((step, ended(&mut watching)), (3, Some(0)), "{seen:#?}");
    let page = pages(&seen).pop().unwrap();
    assert!(page.starts_with("model m: v2 serves all: all steps are done (strategy, "), "{page}");
    assert!(!page.contains("candidate v2") && row(&page, "v2")[0] == "100%", "{page}");
}

#[test]
fn who_reads_no_more_ends_the_watching() {
    let replicas = two();
    let tutti = Tutti::start(&yaml(&replicas, ""));
    by(&tutti, "anna", &["traffic", "m", "--to", "v2", "--canary", "50%,until-promoted"]);
    let mut watching = watch(&reached(&tutti));
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("model m: "));
    drop(lines); // as `| head -1`
    assert_eq!(ended(&mut watching), Some(0));
    assert!(report(&tutti)["release"]["candidate"].is_object(), "and nothing else");
}

#[test]
fn a_driver_of_several_is_watched_as_a_gateway_is() {
    let replicas = two();
    let fleet = Fleet::new(2);
    let pools = yaml(&replicas, "");
    let gateways = fleet.start(2, "drain: 1s", &pools);
    let driver = Driver::of(&fleet, &pools, "m");
    driver.good(&["traffic", "m", "--to", "v2", "--canary", "50%,until-promoted"]);
    for tutti in &gateways {
        (0..10).for_each(|_| _ = asked(tutti));
    }
    let [admin, token] = driver.reached();
    let mut watching = watch(&["--admin".to_owned(), admin, "--token-file".to_owned(), token]);
    let mut seen = Vec::new();
    for line in BufReader::new(watching.stdout.take().unwrap()).lines().map_while(Result::ok) {
        let whole = line.starts_with("driven by the driver at ");
        seen.push(line);
        let page = pages(&seen).pop().unwrap();
        if whole && page.contains("candidate") && requests(&page) == 20 {
            driver.good(&["rollback", "m"]);
        }
    }
    assert_eq!(ended(&mut watching), Some(0), "{seen:#?}");
    let page = pages(&seen).pop().unwrap();
    assert!(page.starts_with("model m: v2 is rolled back, v1 serves all: somebody wanted it so ("), "{page}");
}

#[test]
fn what_is_frozen_stays_whatever_happens_until_it_is_resumed() {
    let replicas = two();
    let analysis = "analysis: { interval: 100ms, minSamples: 20 }";
    let steps = "{ setWeight: 50% }, { pause: until-promoted }";
    let tutti =
        Tutti::start(&yaml(&replicas, &format!(", strategy: {{ canary: {{ steps: [{steps}], {analysis} }} }}")));
    by(&tutti, "anna", &["traffic", "m", "--freeze"]);
    by(&tutti, "anna", &["traffic", "m", "--resume"]);
    let begun = by(&tutti, "anna", &["traffic", "m", "--to", "v2"]);
    assert!(begun.contains("candidate v2: step 2 of 2"), "{begun}");
    let page = by(&tutti, "berta", &["traffic", "m", "--freeze"]);
    assert!(page.contains("FROZEN: nothing happens by itself\n"), "{page}");
    let stands = report(&tutti)["release"].clone();
    // It is bad enough to be rolled back, for as long as it takes to look at it five times.
    replicas[1].set_fault(Some((Fault::RunnerDied, Scope::Inference)));
    let (begun, mut failed) = (Instant::now(), 0);
    while failed < 50 || begun.elapsed() < Duration::from_millis(500) {
        failed += u32::from(tutti.ask("POST", "/api/chat", CHAT).status != 200);
    }
    let page = eventually("all are counted", || {
        let page = by(&tutti, "anna", &["traffic", "m"]);
        (row(&page, "v2")[4].parse::<usize>().unwrap_or(0) >= 50).then_some(page)
    });
    assert!(page.contains("FROZEN") && page.contains("frozen: nothing happens by itself until it is resumed (berta, "));
    assert_eq!(report(&tutti)["release"], stands, "nothing has happened to it");
    by(&tutti, "carla", &["traffic", "m", "--resume"]);
    eventually("now it is ended", || report(&tutti)["release"]["candidate"].is_null().then_some(()));

    // Who did what, in this order, each with its time.
    let page = by(&tutti, "anna", &["traffic", "m", "--history"]);
    let lines: Vec<&str> = page.split_once("\n\n").unwrap().1.lines().collect();
    let expected = [
        ("configuration", "v1 serves, as configured"),
        ("anna", "frozen: nothing happens by itself until it is resumed"),
        ("anna", "resumed"),
        ("anna", "v2 is to serve, step by step"),
        ("strategy", "step 1: 50% to v2"),
        ("berta", "frozen: nothing happens by itself until it is resumed"),
        ("carla", "resumed"),
        ("analysis", "v2 is rolled back, v1 serves all: 100.00% of "),
    ];
    assert_eq!(lines.len(), expected.len(), "{page}");
    for (line, (who, what)) in lines.iter().zip(expected) {
        let (at, rest) = line.split_once("  ").unwrap();
        assert!(at.starts_with("20") && at.ends_with('Z') && at.len() == 20, "{line}");
        assert!(rest.starts_with(&format!("{who:<14} {what}")), "{line}");
    }
    let times: Vec<&str> = lines.iter().map(|line| &line[..20]).collect();
    assert!(times.is_sorted(), "{page}");
}

#[test]
fn programs_have_all_of_it_as_json() {
    let replicas = two();
    let tutti = Tutti::start(&yaml(&replicas, ""));
    by(&tutti, "anna", &["traffic", "m", "--to", "v2", "--canary", "50%,until-promoted", "--mirror", "10%"]);
    (0..10).for_each(|_| _ = asked(&tutti));
    let report = eventually("all are counted", || {
        let report: Value = serde_json::from_str(&by(&tutti, "anna", &["traffic", "m", "--json"])).unwrap();
        let seen = |name: &str| report["revisions"][name]["requests"].as_u64().unwrap_or(0);
        (seen("v1") >= 4 && seen("v1") + seen("v2") >= 10).then_some(report)
    });
    let release = &report["release"];
    assert_eq!((&release["current"], &release["candidate"]["revision"]), (&"v1".into(), &"v2".into()));
    assert_eq!((&release["wanted"], &report["overridden"]), (&"v1".into(), &true.into()));
    assert_eq!(release["candidate"]["stage"], serde_json::json!({ "step": 1 }));
    let shares: Vec<u64> = ["v1", "v2"].map(|name| report["revisions"][name]["weight"].as_u64().unwrap()).to_vec();
    assert_eq!(shares[0], shares[1]);
    let ends =
        |value: &Value| (value["at"].as_u64() > Some(1_600_000_000_000), value["by"].clone(), value["what"].clone());
    let history = release["history"].as_array().unwrap();
    assert_eq!(ends(&history[1]), (true, "anna".into(), "v2 is to serve, step by step".into()));
    // A command says the same when it returns.
    let frozen: Value = serde_json::from_str(&by(&tutti, "anna", &["traffic", "m", "--freeze", "--json"])).unwrap();
    assert_eq!((&frozen["release"]["frozen"], &frozen["release"]["by"]), (&true.into(), &"anna".into()));
    // What cannot be both is refused before anybody is asked.
    for wrong in [&["--json", "--watch"][..], &["--freeze", "--resume"], &["--to", "v2", "--freeze"], &["--now"]] {
        let ended = tutti.command(&[&["traffic", "m"][..], wrong].concat());
        assert_eq!(ended.code, Some(2), "{wrong:?}: {}", ended.stderr);
    }
}
