//! A tree held against the schema. All that does not fit is said in a user's words; what is left fits the types, and
//! serde sees nothing else. So the loader takes what `tutti schema` says, and no more.

use std::collections::{HashMap, HashSet};

use regex_lite::Regex;
use serde_json::{Map, Value};

use crate::problem::{Problem, meant, offer};
use crate::reference::form;
use crate::schema::with_fields;
use crate::yaml::{Field, Kind, Node, Step, dotted};

/// Most that is shown of a value that does not fit. Unit: characters.
const MAX_GIVEN: usize = 60;
/// Most that is shown of a field's name. Unit: bytes.
const MAX_NAME: usize = 40;

/// What messages may show of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quotes {
    /// Values that do not fit.
    Values,
    /// No values: a key may stand where its hash belongs.
    Nothing,
}

/// What is left of a tree, and where something was refused.
pub(crate) struct Shaped {
    /// Fits the schema, but for fields that are required and refused: these are empty.
    pub(crate) value: Value,
    /// Where the value is not what was written: nothing there is worth a look.
    pub(crate) refused: HashSet<Vec<Step>>,
}

/// Holds a tree against a schema.
pub(crate) fn hold(root: &Node, schema: &Value, quotes: Quotes, problems: &mut Vec<Problem>) -> Shaped {
    let mut walk = Walk { problems, quotes, refused: HashSet::new(), steps: Vec::new(), patterns: HashMap::new() };
    let value = if is_null(root) { Some(walk.map(root, &[], schema)) } else { walk.value(root, schema) };
    Shaped { value: value.unwrap_or_else(|| Map::new().into()), refused: walk.refused }
}

fn is_null(node: &Node) -> bool {
    node.kind == Kind::Scalar(Value::Null)
}

struct Walk<'s, 'p> {
    problems: &'p mut Vec<Problem>,
    quotes: Quotes,
    refused: HashSet<Vec<Step>>,
    /// Where the walk is.
    steps: Vec<Step>,
    patterns: HashMap<&'s str, Option<Regex>>,
}

impl<'s> Walk<'s, '_> {
    /// What fits of a value, if it is of the right kind.
    fn value(&mut self, node: &Node, schema: &'s Value) -> Option<Value> {
        match &node.kind {
            Kind::Map(fields) => {
                if let Some(schema) = with_fields(schema) {
                    return Some(self.map(node, fields, schema));
                }
            }
            Kind::List(items) => {
                if let Some(item) = schema.get("items") {
                    return Some(self.list(node, items, item, schema));
                }
            }
            Kind::Scalar(value) => {
                let value = whole(value);
                if self.fits(&value, schema) {
                    return Some(value);
                }
            }
            Kind::Refused => {
                self.refused.insert(self.steps.clone());
                return None;
            }
        }
        let text = schema["type"] == "string" && matches!(node.kind, Kind::Scalar(Value::Number(_) | Value::Bool(_)));
        let help = match form(schema).as_str() {
            "text" if text => "it is text: put it in quotes".to_owned(),
            form => format!("write {form}"),
        };
        self.refuse(node, format!("{} does not fit", given(node, self.quotes)), Some(help));
        None
    }

    fn refuse(&mut self, node: &Node, message: String, help: Option<String>) {
        self.problems.push(Problem::new(&node.place, dotted(&self.steps), message, help));
        self.refused.insert(self.steps.clone());
    }

    fn list(&mut self, node: &Node, items: &[Node], item: &'s Value, schema: &'s Value) -> Value {
        let mut read = Vec::new();
        for (at, node) in items.iter().enumerate() {
            self.steps.push(Step::Item(at));
            // Others are known by their numbers: what does not fit is replaced.
            read.push(self.value(node, item).unwrap_or_else(|| empty(item)));
            self.steps.pop();
        }
        if items.is_empty() && schema["minItems"].is_number() {
            self.refuse(node, "there is nothing in it".to_owned(), Some(format!("write {}", form(schema))));
        }
        read.into()
    }

    fn map(&mut self, node: &Node, fields: &[Field], schema: &'s Value) -> Value {
        let known = schema["properties"].as_object();
        let known = |name: &str| known.and_then(|known| known.get(name));
        let mut read = Map::new();
        for field in fields {
            let Some(schema) = known(&field.name) else {
                self.unknown(field, schema);
                continue;
            };
            self.steps.push(Step::Field(field.name.clone()));
            if !is_null(&field.value)
                && let Some(value) = self.value(&field.value, schema)
            {
                read.insert(field.name.clone(), value);
            }
            self.steps.pop();
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if read.contains_key(name) {
                continue;
            }
            self.steps.push(Step::Field(name.to_owned()));
            if self.refused.insert(self.steps.clone()) {
                let place = fields.iter().find(|field| field.name == name).map_or(&node.place, |field| &field.place);
                let holder = dotted(&self.steps[..self.steps.len() - 1]);
                self.problems.push(Problem::new(place, holder, format!("`{name}` is missing"), None));
            }
            read.insert(name.to_owned(), known(name).map(empty).unwrap_or_default());
            self.steps.pop();
        }
        read.into()
    }

    fn unknown(&mut self, field: &Field, schema: &Value) {
        let known: Vec<&str> =
            schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let message = match field.name.contains('@') || field.name.len() > MAX_NAME {
            true => "unknown field".to_owned(), // it may hold a password, or be one
            false => format!("unknown field `{}`", field.name),
        };
        let help = offer(&field.name, known.iter().copied());
        self.problems.push(Problem::new(&field.place, dotted(&self.steps), message, help));
        if let Some(meant) = meant(&field.name, known) {
            self.refused.insert(self.steps.iter().cloned().chain([Step::Field(meant.to_owned())]).collect());
        }
    }

    fn fits(&mut self, value: &Value, schema: &'s Value) -> bool {
        if let Some(variants) = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
            return variants.iter().any(|variant| self.fits(value, variant));
        }
        if let Some(word) = schema.get("const") {
            return value == word;
        }
        match (schema["type"].as_str(), value) {
            (Some("string"), Value::String(text)) => schema["pattern"].as_str().is_none_or(|pattern| {
                let regex = self.patterns.entry(pattern).or_insert_with(|| Regex::new(pattern).ok());
                regex.as_ref().is_some_and(|regex| regex.is_match(text))
            }),
            (Some("integer"), Value::Number(_)) => {
                let bound = |name: &str, other| schema[name].as_i64().unwrap_or(other);
                let range = bound("minimum", i64::MIN)..=bound("maximum", i64::MAX);
                value.as_i64().is_some_and(|number| range.contains(&number))
            }
            (Some("boolean"), Value::Bool(_)) => true,
            _ => false,
        }
    }
}

/// JSON knows no integers: a number without a fraction is a whole one, as 1.0 is.
fn whole(value: &Value) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    match value.as_f64() {
        #[allow(clippy::cast_possible_truncation, reason = "it is whole, and smaller than 2^53")]
        Some(number) if number.fract() == 0.0 && number.abs() < EXACT => Value::from(number as i64),
        _ => value.clone(),
    }
}

/// The least value of a kind.
fn empty(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("string") => "".into(),
        Some("array") => Vec::<Value>::new().into(),
        _ => Map::new().into(),
    }
}

/// What stands there, in a user's words.
fn given(node: &Node, quotes: Quotes) -> String {
    match &node.kind {
        Kind::List(_) => "a list".to_owned(),
        Kind::Map(_) => "a map".to_owned(),
        Kind::Scalar(Value::Null) | Kind::Refused => "an empty value".to_owned(),
        Kind::Scalar(Value::String(text))
            if quotes == Quotes::Nothing || text.contains('@') || text.chars().count() > MAX_GIVEN =>
        {
            "this text".to_owned() // it may hold a password, or is too long to show
        }
        Kind::Scalar(value) => value.to_string(),
    }
}
