//! Where the configuration comes from, and what is said when it is wrong.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use tutti_api::{Config, Problem};

use crate::Source;

/// A configuration and the file it came from, if it came from one.
pub(crate) struct Loaded {
    pub(crate) config: Config,
    file: Option<File>,
}

struct File {
    path: PathBuf,
    /// What it held when it was last read.
    text: Result<String, String>,
}

impl Loaded {
    /// A configuration that no file says.
    pub(crate) fn unnamed(config: Config) -> Self {
        Self { config, file: None }
    }

    /// Looks at the file again; `None` where it is as it was. What it says then is remembered, right or wrong.
    pub(crate) fn changed(&mut self) -> Option<Result<Config, String>> {
        let file = self.file.as_mut()?;
        let text = fs::read_to_string(&file.path).map_err(|error| format!("{}: {error}", file.path.display()));
        if text == file.text {
            return None;
        }
        file.text.clone_from(&text);
        let outcome = text.and_then(|text| parse(&text, &file.path).map_err(|problems| join(&problems)));
        if let Ok(config) = &outcome {
            self.config = config.clone();
        }
        Some(outcome)
    }
}

/// Finds and reads the configuration; `None` where there is none. Its problems are printed here, and the exit code for
/// them is the error within.
pub(crate) fn load(source: &Source) -> Result<Result<Option<Loaded>, ExitCode>> {
    let named = source.config.clone().or_else(|| set("TUTTI_CONFIG").map(PathBuf::from));
    for path in tutti_api::search_path(named.as_deref(), config_home().as_deref()) {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => continue,
            Err(error) => {
                return Err(anyhow!(error).context(format!("cannot read the configuration {}", path.display())));
            }
        };
        return Ok(match parse(&text, &path) {
            Ok(config) => Ok(Some(Loaded { config, file: Some(File { path, text: Ok(text) }) })),
            Err(problems) => {
                eprintln!("{}", join(&problems));
                Err(ExitCode::from(2))
            }
        });
    }
    Ok(Ok(None))
}

/// The configuration that a program made, with what the environment says.
pub(crate) fn overridden(config: Config) -> Result<Config> {
    let written = serde_json::to_string(&config).context("cannot write the configuration")?;
    let read = tutti_api::load(&written, "built-in configuration", environment());
    read.map_err(|problems| anyhow!("{}", join(&problems)))
}

fn parse(text: &str, path: &Path) -> Result<Config, Vec<Problem>> {
    tutti_api::load(text, &path.display().to_string(), environment())
}

fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// `tutti check`
pub(crate) fn check(source: &Source) -> Result<ExitCode> {
    match load(source)? {
        Err(code) => Ok(code),
        Ok(None) => bail!("there is no configuration to check: name one with --config FILE, or write ./tutti.yaml"),
        Ok(Some(Loaded { config, file })) => {
            let name = file.map(|file| file.path.display().to_string()).unwrap_or_default();
            println!("{name} is right: {} pools, {} models", config.pools.len(), config.models.len());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `tutti schema`
pub(crate) fn schema() -> Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&tutti_api::json_schema())?);
    Ok(ExitCode::SUCCESS)
}

/// Where the admin token is.
pub(crate) fn token_file(config: &Config) -> PathBuf {
    if let Some(file) = &config.gateway.admin.token_file {
        return PathBuf::from(file);
    }
    let home =
        set("XDG_STATE_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/state")));
    home.unwrap_or_else(std::env::temp_dir).join("tutti/admin-token")
}

fn config_home() -> Option<PathBuf> {
    set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(set("HOME")?).join(".config")))
}

/// An environment variable that says something.
fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
