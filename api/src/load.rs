//! From a text to a configuration, or to everything that is wrong with it.

use std::path::{Path, PathBuf};

use crate::problem::{Place, Problem};
use crate::schema::{described, described_keys};
use crate::shape::Quotes;
use crate::{Config, KeysFile, check, keys, overrides, shape, yaml};

/// Largest configuration. Unit: bytes.
pub(crate) const MAX_TEXT: usize = 1 << 20;
/// Largest keys file; ten thousand keys have room in it. Unit: bytes.
pub const MAX_KEYS_TEXT: usize = 8 << 20;

/// Most problems that are shown at once.
const MAX_PROBLEMS: usize = 50;

/// Where the configuration is looked for, in order: the one that was named, or else `./tutti.yaml` and
/// `tutti/tutti.yaml` in the user's configuration folder. `named` is what `--config` or `TUTTI_CONFIG` say.
pub fn search_path(named: Option<&Path>, config_home: Option<&Path>) -> Vec<PathBuf> {
    match named {
        Some(named) => vec![named.to_owned()],
        None => std::iter::once(PathBuf::from("tutti.yaml"))
            .chain(config_home.map(|home| home.join("tutti/tutti.yaml")))
            .collect(),
    }
}

/// Reads a configuration. `file` is the name to show; `env` are environment variables, of which those that begin with
/// [`crate::ENV_PREFIX`] override fields.
///
/// # Errors
/// All problems that can be seen at once, in the order of their places.
pub fn load(text: &str, file: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    match read(text, env, &mut problems) {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(shown(problems, file, Some(text))),
    }
}

/// Reads a keys file, in YAML or JSON. `file` is the name to show; of its text nothing is shown.
///
/// # Errors
/// All problems that can be seen at once, in the order of their places.
pub fn load_keys(text: &str, file: &str) -> Result<KeysFile, Vec<Problem>> {
    let mut problems = Vec::new();
    match read_keys(text, &mut problems) {
        Some(keys) if problems.is_empty() => Ok(keys),
        _ => Err(shown(problems, file, None)),
    }
}

/// The problems in order, as a person gets them. `text` is what lines are shown of.
fn shown(mut problems: Vec<Problem>, file: &str, text: Option<&str>) -> Vec<Problem> {
    problems.sort_by_key(Problem::line_column);
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    problems.truncate(MAX_PROBLEMS);
    if more > 0 {
        problems.push(Problem::new(&Place::Whole, "", format!("{more} further problems are not shown"), None));
    }
    problems.into_iter().map(|problem| problem.shown_in(file, text)).collect()
}

fn read_keys(text: &str, problems: &mut Vec<Problem>) -> Option<KeysFile> {
    let root = yaml::parse(text, MAX_KEYS_TEXT, None, problems)?;
    let shaped = shape::hold(&root, described_keys(), Quotes::Nothing, problems);
    match serde_json::from_value(shaped.value) {
        Ok(file) if problems.is_empty() => {
            keys::check(&file, &root, problems);
            Some(file)
        }
        Ok(_) => None,
        Err(error) => {
            problems.push(Problem::new(&root.place, "", error.to_string(), None));
            None
        }
    }
}

/// What can be understood of a text; what is wrong with it is among the problems.
fn read(text: &str, env: impl IntoIterator<Item = (String, String)>, problems: &mut Vec<Problem>) -> Option<Config> {
    let mut root = yaml::parse(text, MAX_TEXT, None, problems)?;
    overrides::apply(&mut root, described(), env, problems);
    let shaped = shape::hold(&root, described(), Quotes::Values, problems);
    match serde_json::from_value(shaped.value) {
        Ok(config) => {
            check::config(&config, &root, &shaped.refused, problems);
            Some(config)
        }
        Err(error) => {
            problems.push(Problem::new(&root.place, "", error.to_string(), None));
            None
        }
    }
}

#[cfg(test)]
mod tests;
