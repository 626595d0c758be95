//! From a text to a configuration, or to everything that is wrong with it.

use std::path::{Path, PathBuf};

use crate::problem::{Place, Problem};
use crate::schema::described;
use crate::{Config, check, overrides, shape, yaml};

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
    if let Some(config) = read(text, env, &mut problems).filter(|_| problems.is_empty()) {
        return Ok(config);
    }
    problems.sort_by_key(Problem::line_column);
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    problems.truncate(MAX_PROBLEMS);
    if more > 0 {
        problems.push(Problem::new(&Place::Whole, "", format!("{more} further problems are not shown"), None));
    }
    Err(problems.into_iter().map(|problem| problem.shown_in(file, text)).collect())
}

/// What can be understood of a text; what is wrong with it is among the problems.
fn read(text: &str, env: impl IntoIterator<Item = (String, String)>, problems: &mut Vec<Problem>) -> Option<Config> {
    let mut root = yaml::parse(text, None, problems)?;
    overrides::apply(&mut root, described(), env, problems);
    let shaped = shape::hold(&root, described(), problems);
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
