//! `tutti key`: the keys that clients ask with.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use tutti_api::{Auth, HumanDuration, KeySpec, Priority, Timestamp, keys_json_schema};
use tutti_gateway::keys::file::{self, Unusable};
use tutti_gateway::keys::{KeysStatus, NewKey, Store, StoreError, id_in};

use crate::admin::{Admin, Answer};
use crate::config::{self, Wrong};
use crate::print::{self, plain, say};

#[derive(Args, Clone, Debug)]
pub(crate) struct Key {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Makes a key and prints it on standard output, once: the file holds only its hash
    ///
    /// KEY=$(tutti key new --name ci --tenant acme) keeps it in a variable. What else there is to say goes to standard
    /// error.
    New(New),
    /// Shows the keys: what each is for, what it may do, and whether it is good
    List(List),
    /// Revokes a key: requests that begin from now on are refused, those that run go on to their end
    ///
    /// The key stays in the file with the time of this, so that old logs can be read.
    Revoke(Revoke),
    /// Prints the JSON schema of the keys file, for editors
    Schema,
}

/// Which keys file.
#[derive(Args, Clone, Debug)]
struct Where {
    #[command(flatten)]
    admin: Admin,
    /// The keys file; else gateway.auth.keysFile of the configuration
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
struct New {
    #[command(flatten)]
    at: Where,
    /// What the key is for
    #[arg(long)]
    name: String,
    /// Who has it: logs and metrics tell tenants apart
    #[arg(long)]
    tenant: String,
    /// The models it may use, by name or alias; acme/* for all that begin so. Else all
    #[arg(long, value_name = "MODEL,…", value_delimiter = ',')]
    models: Vec<String>,
    /// Most requests in a minute, which may also come at once. Else no limit
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers in a minute. Else no limit
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u32>,
    /// Most requests at once. Else no limit
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// The highest class its requests may have
    #[arg(long, value_enum, default_value_t = Class::Normal)]
    priority: Class,
    /// How much its tenant has of slots that several wait for, beside tenants of weight 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(KeySpec::MOST_WEIGHT)))]
    weight: u32,
    /// Its requests may name the revision that answers them, by x-tutti-revision
    #[arg(long)]
    pin_revisions: bool,
    /// When it expires: 90d, 12h, or a time as 2026-12-31T23:59:59Z. Else never
    #[arg(long, value_name = "WHEN", value_parser = Expires::read)]
    expires: Option<Expires>,
}

#[derive(Args, Clone, Debug)]
struct List {
    #[command(flatten)]
    at: Where,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct Revoke {
    #[command(flatten)]
    at: Where,
    /// The key's id: `tutti key list` shows it
    #[arg(value_name = "ID")]
    id: String,
}

/// [`Priority`] as an argument.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum Class {
    Interactive,
    Normal,
    Bulk,
}

/// When a key ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expires {
    In(Duration),
    At(Timestamp),
}

impl Key {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        match &self.command {
            Command::New(new) => new.run(),
            Command::List(list) => list.run(),
            Command::Revoke(revoke) => revoke.run(),
            Command::Schema => print::page(&format!("{}\n", serde_json::to_string_pretty(&keys_json_schema())?)),
        }
    }
}

impl Where {
    fn path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.keys_file {
            return Ok(path.clone());
        }
        match config::gateway_part(&self.admin.source)?.auth {
            Some(Auth::Keys { keys_file }) => Ok(PathBuf::from(keys_file)),
            _ => bail!(
                "the configuration names no keys file: write `auth: {{ keysFile: /path/to/keys.yaml }}` under `gateway`, \
                 or name one with --keys-file FILE"
            ),
        }
    }
}

impl Where {
    /// Has a running gateway take up the file, and says what came of it: an error where one goes by other keys.
    fn tell(&self, path: &Path) -> Result<ExitCode> {
        let later = "one that follows this file takes it up within 2 seconds";
        let Answer { admin, status, body } = match self.admin.ask("POST", "/keys/reload") {
            Ok(answer) => answer,
            Err(error) => {
                say!("no running gateway was told ({error:#}); {later}");
                return Ok(ExitCode::SUCCESS);
            }
        };
        match (status, serde_json::from_str::<KeysStatus>(&body)) {
            (200, Ok(told)) if std::fs::canonicalize(&told.file).is_ok_and(|file| file == path) => {
                say!("the gateway at {admin} goes by it");
            }
            (200, Ok(told)) => {
                say!("the gateway at {admin} goes by another file, {}; {later}", told.file.display());
            }
            (404, _) => say!("the gateway at {admin} wants no keys: its configuration names no keysFile"),
            _ => bail!("the file is written, but the gateway at {admin} answered {status}: {}", body.trim()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl New {
    fn run(&self) -> Result<ExitCode> {
        let store = Store::open(&self.at.path()?).map_err(shown)?;
        let (path, is_new) = (store.path().to_owned(), store.is_new());
        let key = loop {
            let key = NewKey::make().context("the system has no random numbers")?;
            if !store.has(&key.id) {
                break key;
            }
        };
        store.put(self.spec(&key)?).map_err(|error| shown_of_new(error, &path))?;
        let printed = writeln!(io::stdout(), "{}", key.text()).and_then(|()| io::stdout().flush());
        if let Err(error) = printed {
            bail!("the key cannot be printed ({error}), and nobody has it; revoke it: tutti key revoke {}", key.id);
        }
        if is_new {
            say!("made the keys file {}", path.display());
        }
        say!("key {} for tenant {}: it is shown this once, and never again", key.id, self.tenant);
        self.at.tell(&path)
    }

    fn spec(&self, key: &NewKey) -> Result<KeySpec> {
        let now = Timestamp::now();
        let expires = self.expires.map(|expires| expires.from(now));
        if expires.is_some_and(|expires| expires <= now) {
            bail!("expires: that time is over");
        }
        Ok(KeySpec {
            id: key.id.clone(),
            name: self.name.clone(),
            tenant: self.tenant.clone(),
            sha256: key.sha256(),
            models: (!self.models.is_empty()).then(|| self.models.iter().map(|name| name.trim().to_owned()).collect()),
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            concurrency: self.concurrency,
            priority: match self.priority {
                Class::Interactive => Priority::Interactive,
                Class::Normal => Priority::Normal,
                Class::Bulk => Priority::Bulk,
            },
            weight: self.weight,
            pin_revisions: self.pin_revisions,
            created: Some(now),
            expires,
            revoked: None,
        })
    }
}

impl List {
    fn run(&self) -> Result<ExitCode> {
        let path = self.at.path()?;
        let (file, mend) = file::read(&path).map_err(unusable)?;
        if let Some(mend) = mend {
            say!("tutti: {mend}");
        }
        let now = Timestamp::now();
        if self.json {
            let keys: Vec<_> = file.keys.iter().map(|key| as_json(key, now)).collect();
            return print::page(&format!("{:#}\n", json!(keys)));
        }
        print::page(&table(&file.keys, now))
    }
}

impl Revoke {
    fn run(&self) -> Result<ExitCode> {
        if let Some(id) = id_in(&self.id) {
            bail!("this is a key, and an id is wanted: tutti key revoke {}", plain(id));
        }
        let store = Store::open(&self.at.path()?).map_err(shown)?;
        let (path, now) = (store.path().to_owned(), Timestamp::now());
        let key = store.revoke(&self.id, now).map_err(shown)?;
        match key.revoked.filter(|at| *at != now) {
            Some(before) => say!("key {} ({}) was revoked already, at {before}", key.id, plain(&key.name)),
            None => say!("key {} ({}) is revoked", key.id, plain(&key.name)),
        }
        self.at.tell(&path)
    }
}

impl Expires {
    fn read(text: &str) -> Result<Self, String> {
        let days =
            text.strip_suffix('d').filter(|days| days.len() <= 5 && days.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(Ok(days)) = days.map(str::parse::<u64>) {
            return Ok(Expires::In(Duration::from_secs(days * 86_400)));
        }
        let duration = || text.parse::<HumanDuration>().ok().map(|duration| Expires::In(duration.get()));
        let time = || text.parse().ok().map(Expires::At);
        duration().or_else(time).ok_or_else(|| "write 90d, 12h, or a time as 2026-12-31T23:59:59Z".to_owned())
    }

    fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Expires::At(time) => time,
            Expires::In(duration) => {
                let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
                Timestamp::from_unix(now.unix().saturating_add(seconds))
            }
        }
    }
}

/// The exit code 2 is a wrong file's, as it is a wrong configuration's.
fn shown(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Unusable(error) => unusable(error),
        error => anyhow!(error),
    }
}

fn shown_of_new(error: StoreError, path: &Path) -> anyhow::Error {
    match error {
        StoreError::Refused(_) => anyhow!("no such key can be: {error}"),
        error => shown(error).context(format!("no key was made in {}", path.display())),
    }
}

fn unusable(error: Unusable) -> anyhow::Error {
    match error {
        Unusable::Wrong(_) => Wrong::of(error).into(),
        error => anyhow!(error),
    }
}

/// A key without its hash.
fn as_json(key: &KeySpec, now: Timestamp) -> serde_json::Value {
    let mut shown = json!(key);
    if let Some(shown) = shown.as_object_mut() {
        shown.remove("sha256");
        shown.insert("state".to_owned(), json!(key.state(now).name()));
    }
    shown
}

/// The keys as people read them.
fn table(keys: &[KeySpec], now: Timestamp) -> String {
    let mut rows =
        vec![["ID", "STATE", "TENANT", "NAME", "EXPIRES", "PRIORITY", "LIMITS", "MODELS"].map(str::to_owned)];
    rows.extend(keys.iter().map(|key| {
        let limits = [
            key.requests_per_minute.map(|limit| format!("{limit} requests/min")),
            key.tokens_per_minute.map(|limit| format!("{limit} tokens/min")),
            key.concurrency.map(|limit| format!("{limit} at once")),
        ];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        [
            key.id.clone(),
            key.state(now).name().to_owned(),
            key.tenant.clone(),
            plain(&key.name),
            key.expires.map_or("never".to_owned(), |expires| expires.to_string()),
            key.priority.name().to_owned(),
            if limits.is_empty() { "none".to_owned() } else { limits.join(", ") },
            key.models.as_ref().map_or("all".to_owned(), |models| plain(&models.join(", "))),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let line = |row: &[String; 8]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_in_a_while_or_at_a_time() {
        let now = Timestamp::from_unix(1_000);
        for (text, seconds) in [("90d", 1_000 + 90 * 86_400), ("2h", 8_200), ("1970-01-01T01:00:00Z", 3_600)] {
            assert_eq!(Expires::read(text).unwrap().from(now).unix(), seconds, "{text}");
        }
        for wrong in ["", "d", "-1d", "90", "999999d", "tomorrow", "2026-12-31"] {
            assert!(Expires::read(wrong).is_err(), "{wrong}");
        }
    }
}
