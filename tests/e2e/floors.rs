//! What a release needs counts as work before anybody is sent there: the candidate's pool wants as many replicas as serve.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::path::PathBuf;

use tutti_simulator::Running;
use tutti_tests::scaler::Scaler;
use tutti_tests::{Fleet, Tutti, eventually, run, simulator};

const CHAT: &str = r#"{"model":"risk","messages":[{"role":"user","content":"hi"}],"stream":false}"#;
const CHANGE: [&str; 5] = ["traffic", "risk", "--to", "v2", "--blue-green"];

/// Two replicas of the pool that serves, and none of the one that is to.
struct World {
    serve: [Running; 2],
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { serve: [simulator(), simulator()], folder: tempfile::tempdir().unwrap() };
        std::fs::write(world.file(), "").unwrap();
        world
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("green")
    }

    fn yaml(&self) -> String {
        let urls: Vec<String> = self.serve.iter().map(|replica| format!("{{ url: \"{}\" }}", replica.url())).collect();
        let scale = "slots: 1, scale: { min: 0, max: 5 }";
        format!(
            "pools:\n  - {{ name: p, endpoints: [{}], {scale} }}\n  - {{ name: green, endpoints: [{{ file: {:?} }}], {scale} }}\n\
             models:\n  - name: risk\n    revisions: [{{ name: v1, pool: p, upstream: m }}, {{ name: v2, pool: green, upstream: m }}]\n    \
             traffic: {{ revision: v1 }}\n",
            urls.join(", "),
            self.file().display().to_string()
        )
    }

    /// Replicas come, as KEDA would have them.
    fn gains(&self, replicas: &[Running]) {
        let new = self.folder.path().join("new");
        let urls: Vec<String> = replicas.iter().map(Running::url).collect();
        std::fs::write(&new, urls.join("\n")).unwrap();
        std::fs::rename(&new, self.file()).unwrap();
    }
}

fn asked(tutti: &Tutti) -> String {
    let answer = tutti.ask("POST", "/api/chat", CHAT);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-tutti-revision").unwrap_or_default().to_owned()
}

/// A change to a pool at zero, from the command to the new revision's first answer.
fn goes_through_zero(world: &World, gateways: &[&Tutti], scaler: &Scaler, command: impl Fn(&[&str])) {
    eventually("nothing is wanted there", || {
        (scaler.is_active("green") == Ok(false) && scaler.wanted("green") == Some(0.0)).then_some(())
    });
    command(&CHANGE);
    eventually("as many are wanted as serve", || (scaler.wanted("green") == Some(2.0)).then_some(()));
    assert_eq!(scaler.is_active("green"), Ok(true), "so that KEDA raises it from zero");
    let page = scaler.page("/v1/metrics/green").json();
    assert_eq!(
        (page["byRelease"].as_f64(), page["queued"].as_u64(), page["ready"].as_u64()),
        (Some(2.0), Some(0), Some(0))
    );
    assert!(scaler.page("/metrics").text().contains("tutti_scaler_term{pool=\"green\",term=\"release\"} 2\n"));
    assert!(gateways.iter().all(|tutti| asked(tutti) == "v1"), "nobody is sent there yet");

    let green = [simulator(), simulator()];
    world.gains(&green);
    eventually("it serves", || gateways.iter().all(|tutti| asked(tutti) == "v2").then_some(()));
    assert_eq!(scaler.wanted("green"), Some(2.0), "while the first requests come");
}

#[test]
fn of_a_gateway_that_drives_alone() {
    let world = World::new();
    let tutti = Tutti::start(&world.yaml());
    let scaler = Scaler::before(&[&tutti]);
    goes_through_zero(&world, &[&tutti], &scaler, |arguments| {
        let ended = tutti.command(arguments);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    });
}

#[test]
fn of_several_gateways_with_a_driver_in_the_scaler() {
    let world = World::new();
    let fleet = Fleet::new(2);
    let gateways = fleet.start(2, "", &world.yaml());
    let gateways: Vec<&Tutti> = gateways.iter().collect();
    let yaml = format!("gateway: {{ {} }}\n{}", fleet.yaml(0, &[0, 1]), world.yaml());
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().display().to_string();
    let drives = ["--drive", "--state", &folder, "--config", "tutti.yaml", "--drive-admin", "127.0.0.1:0"];
    let ops: Vec<String> = gateways.iter().map(|tutti| tutti.ops()).collect();
    let scaler = Scaler::with(&ops.join(","), &drives, &yaml);
    let said = scaler.process.wait_said("tutti drives releases");
    let admin = said["fields"]["admin"].as_str().unwrap().to_owned();
    let token = state.path().join("admin-token").display().to_string();
    let command = |arguments: &[&str]| {
        let ended = run(&[arguments, &["--admin", &admin, "--token-file", &token]].concat(), &[]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    };
    goes_through_zero(&world, &gateways, &scaler, command);
    // Whoever asks the gateways hears the same: the floor is theirs, not this process's.
    let other = Scaler::before(&gateways);
    eventually("another says the same", || (other.wanted("green") == Some(2.0)).then_some(()));
    let page = scaler.page("/metrics").text();
    assert!(page.contains("tutti_release_generation{model=\"risk\"} "), "{page}");
}
