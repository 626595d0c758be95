//! Where the configuration comes from, and what is said when it is wrong.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use tutti_api::{Auth, Config, ENV_PREFIX, Expose, GatewaySpec, Problem};
use tutti_gateway::discovery::list;
use tutti_gateway::follow;
use tutti_gateway::keys::file::{self, Unusable};
use tutti_gateway::tls::{Between, check_mutual};

use crate::beside::Beside;
use crate::follow::File;
use crate::print::{self, say};
use crate::{Source, local};

/// Largest file that is read; the loader says that less than this is too large. Unit: bytes.
pub(crate) const MAX_FILE: u64 = 2 << 20;

/// What overrides the gateway's own part.
const GATEWAY_ENV: &str = "TUTTI__GATEWAY__";

/// A configuration to serve by.
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// Whether somebody wrote where the replicas are; else they are the Ollama of this machine.
    pub(crate) lists_pools: bool,
    /// The file it came from, if that can change.
    pub(crate) file: Option<File>,
    /// The loaders that run in this process, and are to be found by the gateway.
    pub(crate) beside: Beside,
}

/// Everything that is wrong with a configuration, as it is shown. Its exit code is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Wrong(String);

impl Wrong {
    /// Of what was found wrong elsewhere.
    pub(crate) fn of(error: impl std::error::Error) -> Self {
        Self(error.to_string())
    }
}

/// A configuration's text, and where it is.
struct Found {
    path: PathBuf,
    text: String,
    /// Whether it can be read again.
    regular: bool,
}

/// Finds and reads the configuration; without a file it is every model of the Ollama on this machine. One that is wrong
/// is a [`Wrong`].
pub(crate) fn load(source: &Source) -> Result<Loaded> {
    let Some(Found { path, text, regular }) = find(source)? else {
        let config = overridden(local::completed(Config::default())?)?;
        return Ok(Loaded { config, lists_pools: false, file: None, beside: Beside::default() });
    };
    let config = parse(&text, &path)?;
    if !regular {
        say!("tutti: {} is no regular file: it is read once and not followed", path.display());
    }
    let file = regular.then(|| File::new(path, text));
    Ok(Loaded {
        lists_pools: !config.pools.is_empty(),
        config: local::completed(config)?,
        file,
        beside: Beside::default(),
    })
}

fn find(source: &Source) -> Result<Option<Found>> {
    let named = source.config.clone().or_else(|| set("TUTTI_CONFIG").map(PathBuf::from));
    for path in tutti_api::search_path(named.as_deref(), config_home().as_deref()) {
        match follow::read(&path, MAX_FILE) {
            Ok((text, regular)) => return Ok(Some(Found { path, text, regular })),
            // Who has no home (HOME=/dev/null) has no configuration there.
            Err(error) if named.is_none() && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            }
            Err(error) => {
                return Err(anyhow!(error).context(format!("cannot read the configuration {}", path.display())));
            }
        }
    }
    Ok(None)
}

/// What a text says, with what the environment says.
pub(crate) fn parse(text: &str, path: &Path) -> Result<Config, Wrong> {
    parse_with(text, &path.display().to_string(), ENV_PREFIX)
}

fn parse_with(text: &str, name: &str, env_prefix: &str) -> Result<Config, Wrong> {
    let env = overrides(std::env::vars_os(), env_prefix)?;
    let joined = |problems: Vec<Problem>| problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n");
    tutti_api::load(text, name, env).map_err(|problems| Wrong(joined(problems)))
}

/// The environment variables that override fields.
fn overrides(env: impl Iterator<Item = (OsString, OsString)>, prefix: &str) -> Result<Vec<(String, String)>, Wrong> {
    env.filter(|(name, _)| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
        .map(|(name, value)| match (name.to_str(), value.to_str()) {
            (Some(name), Some(value)) => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Wrong(format!("environment variable {}: it is not UTF-8", name.display()))),
        })
        .collect()
}

/// The configuration that a program made, with what the environment says.
pub(crate) fn overridden(config: Config) -> Result<Config> {
    let written = serde_json::to_string(&config).context("cannot write the configuration")?;
    Ok(parse(&written, Path::new("built-in configuration"))?)
}

/// The gateway's own part, for those who ask one that runs. Where the rest is wrong this part may be right, and what is
/// wrong is mostly why one asks: it is said, and the defaults hold where there is nothing better.
pub(crate) fn gateway_part(source: &Source) -> Result<GatewaySpec> {
    let Some(Found { path, text, .. }) = find(source)? else {
        return Ok(parse_with("", "no configuration", GATEWAY_ENV)?.gateway);
    };
    let wrong = match parse(&text, &path) {
        Ok(config) => return Ok(config.gateway),
        Err(wrong) => wrong,
    };
    say!("{wrong}\ntutti: this configuration is wrong; what it says of `gateway` is gone by where it can be\n");
    let parsed = [top_level(&text, "gateway"), String::new()]
        .iter()
        .find_map(|part| parse_with(part, &path.display().to_string(), GATEWAY_ENV).ok());
    Ok(parsed.unwrap_or_default().gateway)
}

/// The lines of one top-level field.
fn top_level(text: &str, field: &str) -> String {
    let begins = |line: &str| line.strip_prefix(field).is_some_and(|rest| rest.starts_with(':'));
    let within = |line: &str| line.is_empty() || line.starts_with([' ', '#']);
    let mut lines = text.lines().skip_while(|line| !begins(line));
    let first = lines.next().into_iter();
    first.chain(lines.take_while(|line| within(line))).flat_map(|line| [line, "\n"]).collect()
}

/// `tutti check`, as far as it contacts nobody; yields what is right, for people.
pub(crate) fn check(source: &Source) -> Result<(Config, String)> {
    let Some(Found { path, text, .. }) = find(source)? else {
        bail!("there is no configuration to check: name one with --config FILE, or write ./tutti.yaml")
    };
    let config = parse(&text, &path)?;
    let what = if config.pools.is_empty() {
        format!("it lists no pools, so the Ollama at {} is served", local::ollama_host()?)
    } else {
        format!("{} pools, {} models", config.pools.len(), config.models.len())
    };
    for file in config.pools.iter().flat_map(|pool| &pool.endpoints).filter_map(|endpoint| endpoint.file.as_deref()) {
        // It may be another machine's, or yet to come: no reason to refuse the configuration.
        let text = follow::read(Path::new(file), list::MAX_BYTES).map_err(|error| error.to_string());
        if let Err(error) = text.and_then(|(text, _)| list::parse(&text)) {
            say!("tutti: the list of replicas {file} is not right now: {error}");
        }
    }
    check_keys(&config.gateway)?;
    if !config.pools.is_empty() && !names_models(&config) {
        say!("{}", NAMES_NO_MODELS);
    }
    check_tls(&config, &path)?;
    Ok((config, format!("{} is right: {what}\n", path.display())))
}

/// Looks at the keys file that a configuration names. One that is not there may be where the gateway runs; what can be
/// read and is wrong is a [`Wrong`].
fn check_keys(gateway: &GatewaySpec) -> Result<(), Wrong> {
    let Some(Auth::Keys { keys_file }) = &gateway.auth else { return Ok(()) };
    match file::read(Path::new(keys_file)) {
        Ok((file, mend)) => {
            if file.keys.is_empty() {
                say!("gateway.auth.keysFile: {keys_file} has no keys: every request is refused");
            }
            mend.into_iter().for_each(|mend| say!("gateway.auth.keysFile: {mend}"));
        }
        Err(why @ (Unusable::Missing(_) | Unusable::Unreadable(_))) => say!("gateway.auth.keysFile: {why}"),
        Err(why) => return Err(Wrong(format!("gateway.auth.keysFile: {why}"))),
    }
    Ok(())
}

/// Looks at the certificate and its key. Where they are another machine's, or another user's, nothing is wrong with the
/// configuration; what can be read and is wrong is a [`Wrong`].
fn check_tls(of: &Config, config: &Path) -> Result<(), Wrong> {
    let wrong = |why: String| Wrong(format!("{}: {why}", config.display()));
    let gateway = &of.gateway;
    if let Some(tls) = &gateway.tls
        && are_here("gateway.tls", &[("cert", &tls.cert), ("key", &tls.key)])
    {
        tutti_gateway::tls::check(tls).map_err(wrong)?.iter().for_each(|warning| say!("{warning}"));
    }
    let peers = gateway.peer.iter().map(|peer| (&peer.tls, Between::Gateways, "gateway.peer.tls"));
    let adapters = of.pools.iter().filter_map(|pool| pool.adapters.as_ref()?.tls.as_ref());
    for (tls, between, field) in peers.chain(adapters.map(|tls| (tls, Between::Loaders, "adapters.tls"))) {
        if are_here(field, &[("cert", &tls.cert), ("key", &tls.key), ("ca", &tls.ca)]) {
            let warnings = check_mutual(tls, between).map_err(wrong)?;
            warnings.iter().for_each(|warning| say!("{warning}"));
        }
    }
    Ok(())
}

/// Whether these files are on this machine; says of each that is not.
fn are_here(section: &str, files: &[(&str, &String)]) -> bool {
    let mut all_there = true;
    for (field, file) in files {
        let error = std::fs::File::open(file).err();
        if let Some(error) = error.filter(|e| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied)) {
            say!("{section}.{field}: {file}: {error}: a gateway with this configuration does not start here");
            all_there = false;
        }
    }
    all_there
}

/// What is said of a configuration that nobody gets an answer by.
pub(crate) const NAMES_NO_MODELS: &str =
    "The configuration names no models: list some in `models`, or write `expose: all` for a pool.";

/// Whether clients can name any model.
pub(crate) fn names_models(config: &Config) -> bool {
    !config.models.is_empty() || config.pools.iter().any(|pool| pool.expose == Expose::All)
}

/// `tutti schema`
pub(crate) fn schema() -> Result<ExitCode> {
    print::page(&format!("{}\n", serde_json::to_string_pretty(&tutti_api::json_schema())?))
}

/// Where the admin token is.
///
/// # Errors
/// Nothing says so. A folder that all users share is no place for it.
pub(crate) fn token_file(gateway: &GatewaySpec) -> Result<PathBuf> {
    if let Some(file) = &gateway.admin.token_file {
        return Ok(PathBuf::from(file));
    }
    let state = state_home().context(
        "there is no HOME to keep the admin token in: name a file as gateway.admin.tokenFile in the configuration, \
         or in the environment as TUTTI__GATEWAY__ADMIN__TOKENFILE",
    )?;
    Ok(state.join("tutti/admin-token"))
}

/// Where the loaders of `tutti up` keep adapters.
///
/// # Errors
/// Nothing says so.
pub(crate) fn loaders_state() -> Result<PathBuf> {
    let state = state_home().context("there is no HOME to keep adapters in: set XDG_STATE_HOME to a folder")?;
    Ok(state.join("tutti/adapters"))
}

/// Where a gateway keeps what was decided of releases: by where it listens, for there may be several on a machine.
pub(crate) fn releases_file(gateway: &GatewaySpec) -> Option<PathBuf> {
    let at: String = gateway.admin.listen.chars().map(|char| if char.is_alphanumeric() { char } else { '-' }).collect();
    Some(state_home()?.join(format!("tutti/releases-{at}.json")))
}

fn state_home() -> Option<PathBuf> {
    set("XDG_STATE_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".local/state")))
}

fn config_home() -> Option<PathBuf> {
    set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".config")))
}

fn home() -> Option<PathBuf> {
    set("HOME").map(PathBuf::from)
}

/// An environment variable that says something.
fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn an_override_that_is_no_text_is_reported() {
        let env = |name: &str, value: &[u8]| (OsString::from(name), OsString::from_vec(value.to_vec()));
        let good = [env("TUTTI__GATEWAY__LISTEN", b"x"), env("OTHER", b"\xff"), env("TUTTI_LOG", b"\xff")];
        assert_eq!(overrides(good.into_iter(), ENV_PREFIX).unwrap(), [("TUTTI__GATEWAY__LISTEN".into(), "x".into())]);
        let bad = overrides([env("TUTTI__GATEWAY__LISTEN", b"\xff")].into_iter(), ENV_PREFIX).unwrap_err();
        assert_eq!(bad.to_string(), "environment variable TUTTI__GATEWAY__LISTEN: it is not UTF-8");
    }

    #[test]
    fn the_lines_of_one_field() {
        let text = "# top\npools: [\ngateway:\n  admin:\n    # where\n\n    listen: a:1\nmodels: {\n  gateway: x\n";
        assert_eq!(top_level(text, "gateway"), "gateway:\n  admin:\n    # where\n\n    listen: a:1\n");
        assert_eq!(top_level("gateway: { listen: b:2 }", "gateway"), "gateway: { listen: b:2 }\n");
        assert_eq!(top_level("gateways: {}\n{gateway: {}}", "gateway"), "");
    }
}
