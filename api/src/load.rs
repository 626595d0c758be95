//! From a text to a configuration, or to everything that is wrong with it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_path_to_error::Segment;

use crate::problem::{Place, Problem};
use crate::yaml::{self, Kind, Node, Step};
use crate::{Config, check, json_schema};

/// How the names of overriding environment variables begin: `TUTTI__GATEWAY__LISTEN` is `gateway.listen`.
pub const ENV_PREFIX: &str = "TUTTI__";

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
/// [`ENV_PREFIX`] override fields.
///
/// # Errors
/// All problems that can be seen at once, in the order of their places.
pub fn load(text: &str, file: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, Vec<Problem>> {
    let shown = |problems: Vec<Problem>| -> Vec<Problem> {
        problems.into_iter().map(|problem| problem.shown_in(file, text)).collect()
    };
    let mut root = yaml::parse(text, None).map_err(|problem| shown(vec![problem]))?;
    let mut problems = Vec::new();
    let mut overrides: Vec<_> = env.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    overrides.sort(); // a list's items come in order
    for (name, value) in overrides {
        problems.extend(override_with(&mut root, &name, &value).err());
    }
    let config = read(&root, &mut problems);
    check::not_yet(&root, &mut problems);
    if let Some(config) = config.filter(|_| problems.is_empty()) {
        check::config(&config, &root, &mut problems);
        if problems.is_empty() {
            return Ok(config);
        }
    }
    problems.sort_by_key(Problem::line_column);
    Err(shown(problems))
}

/// Has serde read the tree, again and again without what it refused, so that everything is found at once.
fn read(root: &Node, problems: &mut Vec<Problem>) -> Option<Config> {
    let mut rest = root.clone();
    while problems.len() < MAX_PROBLEMS {
        match serde_path_to_error::deserialize::<_, Config>(rest.value()) {
            Ok(config) => return Some(config),
            Err(error) => {
                let mut steps = steps(error.path());
                let message = error.into_inner().to_string();
                let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
                if let Some(name) = unknown
                    && steps.last() != Some(&Step::Field(name.to_owned()))
                {
                    steps.push(Step::Field(name.to_owned()));
                }
                problems.push(problem(root, &steps, &message));
                if !rest.remove(&steps) {
                    return None; // the whole is of the wrong kind, or what is wrong has been said
                }
            }
        }
    }
    None
}

fn steps(path: &serde_path_to_error::Path) -> Vec<Step> {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Item(*index)),
            Segment::Map { key } => Some(Step::Field(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// Puts serde's words into a user's.
fn problem(root: &Node, steps: &[Step], message: &str) -> Problem {
    let (parent, last) = steps.split_at(steps.len().saturating_sub(1));
    if let (Some(rest), [Step::Field(name)]) = (message.strip_prefix("unknown field `"), last) {
        let known: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
        let holder = root.nearest(parent);
        let place = holder.field(name).map_or(&holder.place, |field| &field.place);
        return Problem::new(place, dotted(parent), format!("unknown field `{name}`"), nearest(name, &known));
    }
    let message = match message.strip_prefix("missing field `") {
        Some(rest) => format!("`{}` is missing", rest.trim_end_matches('`')),
        None if message.starts_with("data did not match any variant of untagged enum Auth") => {
            "write `none`, or `{ keysFile: … }`".to_owned()
        }
        None => message.replace("invalid type: ", "").replace("invalid value: ", "").replace("unit value", "nothing"),
    };
    Problem::new(&root.nearest(steps).place, dotted(steps), message, None)
}

/// The known name that was most likely meant; else all of them.
fn nearest(name: &str, known: &[&str]) -> Option<String> {
    let best = known.iter().max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)))?;
    Some(if strsim::jaro_winkler(best, name) > 0.75 {
        format!("did you mean `{best}`?")
    } else {
        format!("there are {}", known.join(", "))
    })
}

pub(crate) fn dotted(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Field(name) if path.is_empty() => path.push_str(name),
            Step::Field(name) => path.push_str(&format!(".{name}")),
            Step::Item(at) => path.push_str(&format!("[{at}]")),
        }
    }
    path
}

/// Puts an environment variable's value where its name says.
fn override_with(root: &mut Node, name: &str, value: &str) -> Result<(), Problem> {
    let place = Place::Env(name.to_owned());
    let schema = json_schema();
    let mut at = &schema;
    let mut steps = Vec::new();
    for part in name[ENV_PREFIX.len()..].split("__") {
        at = resolve(&schema, at);
        if let Ok(item) = part.parse::<usize>() {
            steps.push(Step::Item(item));
            at = &at["items"];
            continue;
        }
        let flat = part.replace('_', "").to_ascii_lowercase();
        let known = at["properties"].as_object();
        let field = known.and_then(|known| known.iter().find(|(field, _)| field.to_ascii_lowercase() == flat));
        let Some((field, schema)) = field else {
            let names: Vec<&str> = known.into_iter().flatten().map(|(field, _)| field.as_str()).collect();
            return Err(Problem::new(
                &place,
                dotted(&steps),
                format!("there is no field `{part}`"),
                nearest(&flat, &names),
            ));
        };
        steps.push(Step::Field(field.clone()));
        at = schema;
    }
    let mut node = yaml::parse(value, Some(&place))?;
    // A scalar that a file would quote need not be quoted here.
    if let Kind::Scalar(Value::Number(number)) = &node.kind
        && resolve(&schema, at)["type"] == "string"
    {
        node.kind = Kind::Scalar(Value::from(number.to_string()));
    }
    if root.put(&steps, node) {
        return Ok(());
    }
    Err(Problem::new(&place, dotted(&steps), "does not fit what the file says there", None))
}

/// The schema behind references and optional values.
fn resolve<'s>(root: &'s Value, mut schema: &'s Value) -> &'s Value {
    loop {
        if let Some(reference) = schema["$ref"].as_str() {
            schema = root.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
        } else if let Some(first) = schema["anyOf"].get(0) {
            schema = if schema["anyOf"].as_array().is_some_and(|any| any.len() == 2) { first } else { return schema };
        } else {
            return schema;
        }
    }
}

#[cfg(test)]
mod tests;
