//! The one that drives the releases of several gateways.

use serde_json::Value;
use tempfile::TempDir;

use crate::{Client, Clock, Finished, Fleet, Tutti, eventually, run};

/// A driver, and the folder in which it keeps its releases.
#[derive(Debug)]
pub struct Driver {
    /// The process.
    pub tutti: Tutti,
    /// The folder.
    pub state: TempDir,
}

impl Driver {
    /// A folder for one.
    ///
    /// # Panics
    /// Where there is none.
    pub fn folder() -> TempDir {
        TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"))
    }

    /// Starts one with this configuration; it is not waited for.
    pub fn spawn(yaml: &str, state: TempDir) -> Self {
        Self::spawn_with(yaml, state, &[])
    }

    fn spawn_with(yaml: &str, state: TempDir, env: &[(&str, &str)]) -> Self {
        let folder = &state.path().display().to_string();
        let arguments =
            ["scaler-metrics", "--drive", "--state", folder, "--config", "tutti.yaml", "--drive-admin", "127.0.0.1:0"];
        Self { tutti: Tutti::spawn(&arguments, yaml, env), state }
    }

    /// Starts one that goes by this clock, and waits until it drives.
    pub fn start_by(clock: &Clock, yaml: &str, state: TempDir) -> Self {
        let env = clock.env();
        let driver = Self::spawn_with(yaml, state, &env.each_ref().map(|(name, value)| (*name, value.as_str())));
        driver.tutti.wait_said("tutti drives releases");
        driver
    }

    /// Starts one, and waits until it drives.
    pub fn start(yaml: &str, state: TempDir) -> Self {
        let driver = Self::spawn(yaml, state);
        driver.tutti.wait_said("tutti drives releases");
        driver
    }

    /// Starts the one of a fleet with these pools and models, and waits until all go by it, as the state of a model says.
    pub fn of(fleet: &Fleet, pools: &str, model: &str) -> Self {
        let all: Vec<usize> = (0..fleet.addresses.len()).collect();
        let driver = Self::start(&format!("gateway: {{ {} }}\n{pools}", fleet.yaml(0, &all)), Self::folder());
        driver.settle(model);
        driver
    }

    /// Where commands reach it, and the file with its token.
    pub fn reached(&self) -> [String; 2] {
        let admin = self.tutti.said_address("tutti drives releases", "admin");
        [admin, self.state.path().join("admin-token").display().to_string()]
    }

    /// Runs a command that asks it.
    pub fn command(&self, arguments: &[&str]) -> Finished {
        let [admin, token] = self.reached();
        run(&[arguments, &["--admin", &admin, "--token-file", &token]].concat(), &[])
    }

    /// The same of one that must end well; yields what it printed.
    ///
    /// # Panics
    /// Where it does not.
    pub fn good(&self, arguments: &[&str]) -> String {
        let ended = self.command(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
        ended.stdout
    }

    /// How a model's release stands; null where it does not say.
    pub fn report(&self, model: &str) -> Value {
        let [admin, token] = self.reached();
        let bearer = format!("Bearer {}", std::fs::read_to_string(token).unwrap_or_default().trim());
        let page = format!("/traffic?model={model}");
        let client = Client::connect(&admin);
        client.map(|mut client| client.ask("GET", &page, &[("authorization", &bearer)], "").json()).unwrap_or_default()
    }

    /// Waits until each gateway goes by its word, so that the next command meets them all.
    pub fn settle(&self, model: &str) {
        eventually("all go by it", || {
            let report: Value = serde_json::from_str(&self.good(&["traffic", model, "--json"])).unwrap_or_default();
            report["warnings"].as_array().is_none_or(Vec::is_empty).then_some(())
        });
    }
}
