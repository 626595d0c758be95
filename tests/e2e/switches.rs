//! Revisions switched under load, back and forth: nobody fails, and nobody who asks after a command has returned, or waits
//! then, is answered by the other revision.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tutti_simulator::{Config, Model, Running};
use tutti_tests::{Client, Fleet, Tutti, eventually, inference, run, simulator_with};

fn simulator(model: &str) -> Running {
    simulator_with(Config { records_max: 10_000_000, ..Config::quick(Model::chat(model, 1 << 20)) })
}

fn models([a, b]: [&Running; 2]) -> String {
    format!(
        "pools:\n  - {{ name: p, endpoints: [{{ url: \"{}\" }}] }}\n  - {{ name: b, endpoints: [{{ url: \"{}\" }}] }}\nmodels:\n  - name: risk\n    revisions: [{{ name: v1, pool: p, upstream: ma }}, {{ name: v2, pool: b, upstream: mb }}]\n    traffic: {{ revision: v1 }}\n",
        a.url(),
        b.url()
    )
}

/// An answer.
struct Asked {
    began: Instant,
    ended: Instant,
    /// The revision, or what went wrong.
    outcome: Result<String, String>,
}

/// Asks on one connection, each second time for a stream, so often a second or as often as it can, until it is to end.
fn client(address: &str, rate: Option<f64>, ends: &AtomicBool) -> Vec<Asked> {
    let (mut kept, mut all, start) = (None, Vec::new(), Instant::now());
    while !ends.load(Relaxed) {
        let number = all.len();
        if let Some(rate) = rate {
            let due = start + Duration::from_secs_f64(number as f64 / rate);
            std::thread::park_timeout(due.saturating_duration_since(Instant::now())); // its pace, not a wait for anything
        }
        let streams = number.is_multiple_of(2);
        let body = format!(r#"{{"model":"risk","messages":[{{"role":"user","content":"hi"}}],"stream":{streams}}}"#);
        let began = Instant::now();
        let outcome = once(&mut kept, address, &body, streams);
        all.push(Asked { began, ended: Instant::now(), outcome });
    }
    all
}

fn once(kept: &mut Option<Client>, address: &str, body: &str, streams: bool) -> Result<String, String> {
    let mut client = match kept.take() {
        Some(client) => client,
        None => Client::connect(address).map_err(|error| error.to_string())?,
    };
    let sent = client.send("POST", "/v1/chat/completions", &[], body);
    let answer = sent.and_then(|()| client.answer()).map_err(|error| error.to_string())?;
    let whole = answer.complete && (!streams || answer.text().ends_with("data: [DONE]\n\n"));
    if answer.status != 200 || !whole {
        return Err(format!("status {}, whole: {whole}", answer.status));
    }
    *kept = Some(client);
    Ok(answer.header("x-tutti-revision").unwrap_or_default().to_owned())
}

/// What came of it.
struct Figures {
    requests: usize,
    failed: Vec<String>,
    wrong: usize,
    /// From a command to the last request that reached the revision which it ended, in order of time.
    last: Vec<Duration>,
    rate: f64,
}

/// Switches so often under so many clients.
fn switched(
    replicas: [&Running; 2],
    addresses: &[String],
    switches: usize,
    (clients, rate): (usize, Option<f64>),
    command: impl Fn(&str),
) -> Figures {
    let ends = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let threads: Vec<_> = (0..clients)
        .map(|number| {
            let (address, ends) = (addresses[number % addresses.len()].clone(), ends.clone());
            std::thread::spawn(move || client(&address, rate.map(|rate| rate / clients as f64), &ends))
        })
        .collect();
    let mut told = Vec::new();
    for number in 0..switches {
        let to = ["v2", "v1"][number % 2];
        let begins = Instant::now();
        command(to);
        told.push((to, begins, Instant::now()));
        // Each revision gets some requests before the next switch.
        let replica = replicas[1 - number % 2];
        let before = replica.requests();
        while replica.requests() < before + 20 {
            std::thread::yield_now();
        }
    }
    ends.store(true, Relaxed);
    let all: Vec<Asked> = threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect();
    let took = started.elapsed();
    let (mut wrong, mut last) = (0, Vec::new());
    let seen = replicas.map(|replica| inference(&replica.seen()));
    for (number, (to, begins, returned)) in told.iter().enumerate() {
        let next = told.get(number + 1).map_or(Instant::now(), |(_, begins, _)| *begins);
        let meant = all.iter().filter(|asked| asked.began > *returned && asked.ended < next);
        wrong += meant.filter(|asked| asked.outcome.as_ref().is_ok_and(|revision| revision != to)).count();
        let after = seen[number % 2].iter().filter(|seen| seen.arrived > *begins && seen.arrived < next);
        last.push(after.map(|seen| seen.arrived - *begins).max().unwrap_or_default());
    }
    last.sort_unstable();
    let failed = all.iter().filter_map(|asked| asked.outcome.as_ref().err().cloned()).collect();
    Figures { requests: all.len(), failed, wrong, last, rate: all.len() as f64 / took.as_secs_f64() }
}

fn print(name: &str, switches: usize, figures: &Figures) {
    eprintln!(
        "{name}: {switches} switches, {} requests, {} failed, {} wrong, {} us to the last, {} us in half, {:.0} a second",
        figures.requests,
        figures.failed.len(),
        figures.wrong,
        figures.last.last().map_or(0, Duration::as_micros),
        figures.last.get(switches / 2).map_or(0, Duration::as_micros),
        figures.rate
    );
}

/// What an operator says: for the new revision by its name, and back in one word.
fn there_or_back(to: &str) -> Vec<&str> {
    if to == "v1" { vec!["rollback", "risk"] } else { vec!["traffic", "risk", "--to", to, "--force"] }
}

fn alone(switches: usize, load: (usize, Option<f64>)) -> Figures {
    let replicas = [simulator("ma"), simulator("mb")];
    let tutti = Tutti::start(&models([&replicas[0], &replicas[1]]));
    switched([&replicas[0], &replicas[1]], &[tutti.listen()], switches, load, |to| {
        let ended = tutti.command(&there_or_back(to));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    })
}

fn three(switches: usize, load: (usize, Option<f64>)) -> Figures {
    let replicas = [simulator("ma"), simulator("mb")];
    let fleet = Fleet::new(3);
    let pools = models([&replicas[0], &replicas[1]]);
    let gateways = fleet.start(3, "drain: 1s", &pools);
    let state = tempfile::tempdir().expect("there is a folder for temporary files");
    let (folder, token) = (state.path().display().to_string(), state.path().join("admin-token").display().to_string());
    let arguments =
        ["scaler-metrics", "--drive", "--state", &folder, "--config", "tutti.yaml", "--drive-admin", "127.0.0.1:0"];
    let driver = Tutti::spawn(&arguments, &format!("gateway: {{ {} }}\n{pools}", fleet.yaml(0, &[0, 1, 2])), &[]);
    let admin = driver.wait_said("tutti drives releases")["fields"]["admin"].as_str().unwrap_or_default().to_owned();
    let addresses: Vec<String> = gateways.iter().map(Tutti::listen).collect();
    let command = |to: &str| {
        let ended = run(&[&*there_or_back(to), &["--admin", &admin, "--token-file", &token]].concat(), &[]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    };
    let ended = run(&["traffic", "risk", "--to", "v1", "--force", "--admin", &admin, "--token-file", &token], &[]);
    assert_eq!(ended.code, Some(0), "all of them are there: {}", ended.stderr);
    switched([&replicas[0], &replicas[1]], &addresses, switches, load, command)
}

/// How far from its weight a candidate's share of so many requests is. Unit: millionths.
fn off(requests: usize) -> f64 {
    let replicas = [simulator("ma"), simulator("mb")];
    let tutti = Tutti::start(&models([&replicas[0], &replicas[1]]));
    let ended = tutti.command(&["traffic", "risk", "--to", "v2", "--canary", "13%,until-promoted"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let weight = || tutti.metric("tutti_revision_weight", &["revision=\"v2\""]);
    eventually("it has its weight", || (weight() == 0.13).then_some(()));
    let each = requests / 8;
    let candidates = std::thread::scope(|scope| {
        let asks = || {
            let (mut kept, address) = (None, tutti.listen());
            let body = r#"{"model":"risk","messages":[{"role":"user","content":"hi"}],"stream":false}"#;
            let answers = (0..each).map(|_| once(&mut kept, &address, body, false).expect("an answer"));
            answers.filter(|revision| revision == "v2").count()
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(asks)).collect();
        clients.into_iter().map(|client| client.join().expect("a count")).sum::<usize>()
    });
    let off = (candidates as f64 / (8 * each) as f64 - 0.13).abs() * 1e6;
    eprintln!("weights: {} requests, {off:.0} millionths off", 8 * each);
    off
}

#[test]
fn of_two_thousand_requests_each_revision_gets_its_share() {
    assert!(off(2_000) <= 1_000.0);
}

fn good(figures: &Figures) {
    assert!(figures.failed.is_empty(), "{:?}", figures.failed);
    assert_eq!(figures.wrong, 0);
}

#[test]
fn one_gateway_switches_under_load() {
    let figures = alone(10, (8, None));
    print("one gateway", 10, &figures);
    good(&figures);
}

#[test]
fn three_gateways_switch_under_load() {
    let figures = three(10, (9, None));
    print("three gateways", 10, &figures);
    good(&figures);
}

/// For `cargo xtask bench release`.
#[test]
#[ignore = "it takes minutes, and its figures are for a machine that does nothing else"]
fn a_hundred_switches_at_two_thousand_a_second() {
    for (name, figures) in
        [("one gateway", alone(100, (32, Some(2_000.0)))), ("three gateways", three(100, (33, Some(2_000.0))))]
    {
        print(name, 100, &figures);
        good(&figures);
    }
    assert!(off(10_000) <= 1_000.0);
}
