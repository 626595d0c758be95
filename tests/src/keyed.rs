//! A gateway that wants keys.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::{Answer, Client, Finished, Tutti, run};

/// A running `tutti gateway` with a keys file, and the command that changes it.
#[derive(Debug)]
pub struct Keyed {
    /// The gateway.
    pub tutti: Tutti,
    folder: TempDir,
}

impl Keyed {
    /// Starts it with a keys file that nobody has a key in. `yaml` is the configuration without `gateway`.
    ///
    /// # Panics
    /// Where it does not come to serve.
    pub fn start(yaml: &str) -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let file = folder.path().join("keys.yaml");
        std::fs::write(&file, "keys: []\n").unwrap_or_else(|error| panic!("cannot write: {error}"));
        make_private(&file);
        Self { tutti: Tutti::start(&with_keys(&file.display().to_string(), yaml)), folder }
    }

    /// The keys file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("keys.yaml")
    }

    /// Writes the keys file as by hand, at once.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn write(&self, text: &str) {
        std::fs::write(self.file(), text).unwrap_or_else(|error| panic!("cannot write: {error}"));
    }

    /// Runs `tutti key` with these arguments; the gateway is told.
    pub fn key(&self, arguments: &[&str]) -> Finished {
        let (file, token) = (self.file(), self.tutti.token_file());
        let (file, token, admin) = (file.display().to_string(), token.display().to_string(), self.tutti.admin());
        let there = ["--keys-file", &file, "--admin", &admin, "--token-file", &token];
        run(&[&["key"], arguments, &there].concat(), &[])
    }

    /// Makes a key of tenant `acme`, which the gateway takes at once.
    ///
    /// # Panics
    /// Where it does not.
    pub fn new_key(&self, arguments: &[&str]) -> String {
        self.new_key_of("acme", arguments)
    }

    /// The same of any tenant.
    ///
    /// # Panics
    /// Where the gateway does not take it.
    pub fn new_key_of(&self, tenant: &str, arguments: &[&str]) -> String {
        let made = self.key(&[&["new", "--name", "test", "--tenant", tenant], arguments].concat());
        assert!(made.code == Some(0) && made.stderr.contains("goes by it"), "{}", made.stderr);
        made.stdout.trim_end().to_owned()
    }

    /// Asks with a key on a connection of its own.
    pub fn ask(&self, key: &str, method: &str, path: &str, body: &str) -> Answer {
        self.tutti.client().ask(method, path, &[("authorization", &format!("Bearer {key}"))], body)
    }

    /// Posts with a key and leaves the answer to be read.
    ///
    /// # Panics
    /// Where the request cannot be sent.
    pub fn begin(&self, key: &str, path: &str, body: &str) -> Client {
        let mut client = self.tutti.client();
        let sent = client.send("POST", path, &[("authorization", &format!("Bearer {key}"))], body);
        sent.unwrap_or_else(|error| panic!("POST {path}: {error}"));
        client
    }

    /// What `/status` says of the keys.
    pub fn status(&self) -> Value {
        let token = std::fs::read_to_string(self.tutti.token_file()).unwrap_or_default();
        let token = format!("Bearer {}", token.trim());
        let client = Client::connect(&self.tutti.admin());
        let page = client.map(|mut client| client.ask("GET", "/status", &[("authorization", &token)], "").json());
        page.unwrap_or_default()["keys"].clone()
    }
}

/// A configuration that wants the keys of this file.
pub fn with_keys(file: &str, yaml: &str) -> String {
    format!("gateway: {{ auth: {{ keysFile: {file:?} }} }}\n{yaml}")
}

/// The id in a key.
pub fn id_of(key: &str) -> String {
    key.split('_').nth(1).unwrap_or_default().to_owned()
}

fn make_private(file: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let private = std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600));
    private.unwrap_or_else(|error| panic!("cannot make it private: {error}"));
}
