//! YAML as a tree that knows where everything stands.
//!
//! What a configuration needs and no more: one document, no anchors, aliases or tags (a small file could stand for a
//! huge one), no key twice; scalars by the core schema of YAML 1.2.2, chapter 10.3.

use std::collections::HashSet;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::Value;

use crate::problem::{Place, Problem};

/// Deepest nesting. Unit: levels.
const MAX_DEPTH: usize = 32;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// What cannot be taken; why has been said.
    Refused,
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Field>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

/// A step from a value to one in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    Field(String),
    Item(usize),
}

impl Node {
    /// The value at the end of the steps, or the last one on the way there that is.
    pub(crate) fn nearest(&self, steps: &[Step]) -> &Node {
        match steps.split_first().and_then(|(step, rest)| Some((self.child(step)?, rest))) {
            Some((child, rest)) => child.nearest(rest),
            None => self,
        }
    }

    fn child(&self, step: &Step) -> Option<&Node> {
        match (step, &self.kind) {
            (Step::Field(name), Kind::Map(fields)) => Some(&fields.iter().find(|field| field.name == *name)?.value),
            (Step::Item(at), Kind::List(items)) => items.get(*at),
            _ => None,
        }
    }

    /// Puts a value at the end of the steps, making what is missing on the way; false where something else stands there.
    /// An empty field is one that is missing.
    pub(crate) fn put(&mut self, steps: &[Step], node: Node) -> bool {
        let Some((step, rest)) = steps.split_first() else {
            *self = node;
            return true;
        };
        let place = node.place.clone();
        let empty = |step: Option<&Step>| Node {
            place: place.clone(),
            kind: if matches!(step, Some(Step::Item(_))) { Kind::List(Vec::new()) } else { Kind::Map(Vec::new()) },
        };
        if self.kind == Kind::Scalar(Value::Null) {
            *self = empty(Some(step));
        }
        match (step, &mut self.kind) {
            (Step::Field(name), Kind::Map(fields)) => {
                let at = fields.iter().position(|field| field.name == *name).unwrap_or_else(|| {
                    fields.push(Field { name: name.clone(), place: place.clone(), value: empty(rest.first()) });
                    fields.len() - 1
                });
                fields[at].value.put(rest, node)
            }
            (Step::Item(at), Kind::List(items)) if *at <= items.len() => {
                if *at == items.len() {
                    items.push(empty(rest.first()));
                }
                items[*at].put(rest, node)
            }
            _ => false,
        }
    }
}

/// Reads a text of at most `max` bytes; an empty one is null. `place` overrides the places, for text that stands in no
/// file. `None` where the rest of the text cannot be understood.
pub(crate) fn parse(text: &str, max: usize, place: Option<&Place>, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut reader = Reader { parser: Parser::new_from_str(text), place, problems };
    reader.document(text.len(), max).map_err(|problem| problems.push(problem)).ok()
}

/// The path of a value as a person writes it: `pools[0].queue.size`.
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

struct Reader<'t, 'p> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    place: Option<&'p Place>,
    /// What does not keep the rest from being read.
    problems: &'p mut Vec<Problem>,
}

impl<'t> Reader<'t, '_> {
    fn document(&mut self, bytes: usize, max: usize) -> Result<Node, Problem> {
        let start = self.place.cloned().unwrap_or(Place::File { line: 1, column: 1 });
        if bytes > max {
            return Err(Problem::new(&start, "", format!("this is larger than {max} bytes"), None));
        }
        let mut document = None;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => break,
                (Event::DocumentStart(_), at) if document.is_some() => {
                    return Err(Problem::new(&at, "", "a second document: there is only one", None));
                }
                (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {}
                (event, at) => document = Some(self.node(event, at, 0)?),
            }
        }
        Ok(document.unwrap_or(Node { place: start, kind: Kind::Scalar(Value::Null) }))
    }

    fn next(&mut self) -> Result<(Event<'t>, Place), Problem> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, Place::File { line: 1, column: 1 })),
            Some(Ok((event, span))) => Ok((event, self.place(&span))),
            Some(Err(error)) => {
                let marker = error.marker();
                let at = Place::File { line: marker.line().max(1), column: marker.col() + 1 };
                Err(Problem::new(self.place.unwrap_or(&at), "", format!("this is no YAML: {}", error.info()), None))
            }
        }
    }

    fn place(&self, span: &Span) -> Place {
        let of_file = || Place::File { line: span.start.line().max(1), column: span.start.col() + 1 };
        self.place.cloned().unwrap_or_else(of_file)
    }

    fn node(&mut self, event: Event<'t>, place: Place, depth: usize) -> Result<Node, Problem> {
        if depth > MAX_DEPTH {
            return Err(Problem::new(&place, "", "nested too deeply", None));
        }
        let refused = match &event {
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                Some("tags (`!…`) are not taken")
            }
            Event::Alias(_) => Some("aliases (`*…`) are not taken: write the value again"),
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if *anchor > 0 =>
            {
                Some("anchors (`&…`) are not taken")
            }
            _ => None,
        };
        let kind = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) => Kind::Scalar(plain(&text)),
            Event::Scalar(text, ..) => Kind::Scalar(Value::from(text.into_owned())),
            Event::SequenceStart(..) => self.list(depth)?,
            Event::MappingStart(..) => self.map(depth)?,
            Event::Alias(_) => Kind::Refused,
            _ => return Err(Problem::new(&place, "", "something is missing here", None)),
        };
        let Some(why) = refused else { return Ok(Node { place, kind }) };
        self.problems.push(Problem::new(&place, "", why, None));
        Ok(Node { place, kind: Kind::Refused })
    }

    fn list(&mut self, depth: usize) -> Result<Kind, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Kind::List(items)),
                (event, at) => items.push(self.node(event, at, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Kind, Problem> {
        let mut fields: Vec<Field> = Vec::new();
        let mut names = HashSet::new();
        loop {
            let (event, place) = self.next()?;
            let name = match event {
                Event::MappingEnd => return Ok(Kind::Map(fields)),
                Event::Scalar(name, _, 0, None) => name.into_owned(),
                _ => return Err(Problem::new(&place, "", "a field's name is a plain word", None)),
            };
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth + 1)?;
            if names.insert(name.clone()) {
                fields.push(Field { name, place, value });
            } else {
                self.problems.push(Problem::new(&place, name, "this field stands twice", None));
            }
        }
    }
}

/// A scalar without quotes.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        if let Ok(number) = text.parse::<i64>() {
            return Value::from(number);
        }
    } else if digits.starts_with(|char: char| char.is_ascii_digit() || char == '.')
        && let Ok(number) = text.parse::<f64>()
        && number.is_finite()
    {
        return Value::from(number);
    }
    Value::from(text)
}
