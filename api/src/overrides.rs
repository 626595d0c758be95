//! Environment variables that override fields: `TUTTI__GATEWAY__LISTEN` is `gateway.listen`.

use serde_json::Value;

use crate::load::MAX_TEXT;
use crate::problem::{Place, Problem, offer};
use crate::schema::with_fields;
use crate::yaml::{self, Kind, Node, Step, dotted};

/// How the names of overriding environment variables begin.
pub const ENV_PREFIX: &str = "TUTTI__";

/// A value, and where it belongs.
struct Override<'s> {
    steps: Vec<Step>,
    schema: &'s Value,
    place: Place,
    value: String,
}

/// Puts the values of environment variables where their names say.
pub(crate) fn apply(
    root: &mut Node,
    schema: &Value,
    env: impl IntoIterator<Item = (String, String)>,
    problems: &mut Vec<Problem>,
) {
    let mut env: Vec<_> = env.into_iter().collect();
    env.sort(); // one field has several names; the same one always wins
    let mut overrides = Vec::new();
    for (name, value) in env {
        let Some(path) = name.strip_prefix(ENV_PREFIX) else { continue };
        let place = Place::Env(name.clone());
        match find(path, schema, &place) {
            Ok((steps, schema)) => overrides.push(Override { steps, schema, place, value }),
            Err(problem) => problems.push(problem),
        }
    }
    overrides.sort_by(|a, b| a.steps.cmp(&b.steps)); // a list's items come in order, and what is within comes later
    for Override { steps, schema, place, value } in overrides {
        let node = if is_text(schema) {
            Some(Node { place: place.clone(), kind: Kind::Scalar(value.into()) })
        } else {
            yaml::parse(&value, MAX_TEXT, Some(&place), problems)
        };
        if node.is_some_and(|node| !root.put(&steps, node)) {
            problems.push(Problem::new(&place, dotted(&steps), "does not fit what the file says there", None));
        }
    }
}

/// Where a name leads.
fn find<'s>(path: &str, schema: &'s Value, place: &Place) -> Result<(Vec<Step>, &'s Value), Problem> {
    let mut steps = Vec::new();
    let mut schema = schema;
    for part in path.split("__") {
        let known = with_fields(schema).and_then(|schema| schema["properties"].as_object());
        if let (Some(item), Ok(number)) = (schema.get("items"), part.parse()) {
            steps.push(Step::Item(number));
            schema = item;
            continue;
        }
        let flat = part.replace('_', "").to_ascii_lowercase();
        let field = known.and_then(|known| known.iter().find(|(field, _)| field.to_ascii_lowercase() == flat));
        let Some((field, of_field)) = field else {
            let names: Vec<&str> = known.into_iter().flatten().map(|(field, _)| field.as_str()).collect();
            let help = offer(&flat, names.iter().copied());
            return Err(Problem::new(place, dotted(&steps), format!("there is no field `{part}`"), help));
        };
        steps.push(Step::Field(field.clone()));
        schema = of_field;
    }
    Ok((steps, schema))
}

/// Whether a value is text, to be taken as it is: no quotes, no comments.
fn is_text(schema: &Value) -> bool {
    match schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
        Some(variants) => variants.iter().all(is_text),
        None => schema["type"] == "string",
    }
}
