//! Calls of tools, which Ollama's API tells apart by the tools' names alone; OpenAI's wants an identifier for each.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::dialect::refuse::{array, object, text, unknown, wrong};
use crate::dialect::request::{Answered, Call};
use crate::errors::Failure;
use crate::json::{Kind, Node};

/// The calls of a conversation so far. Those without an identifier get one by their number, so that the same
/// conversation reads the same each time.
#[derive(Default)]
pub(super) struct Calls<'a> {
    made: usize,
    /// Those that no tool has answered yet, by their number.
    open: BTreeMap<usize, Answered<'a>>,
    /// The numbers of all that had an identifier or a name, those before the oldest open one left out: there may be as
    /// many as fit in a body, so that nobody looks through them.
    of_id: HashMap<Cow<'a, str>, VecDeque<usize>>,
    of_name: HashMap<Cow<'a, str>, VecDeque<usize>>,
}

impl<'a> Calls<'a> {
    /// Reads the calls of a message.
    pub(super) fn made(&mut self, value: Node<'a>) -> Result<Vec<Call<'a>>, Failure> {
        array("messages[].tool_calls", value)?.map(|call| self.call(call)).collect()
    }

    fn call(&mut self, node: Node<'a>) -> Result<Call<'a>, Failure> {
        let (mut id, mut function) = (None, None);
        for (key, value) in object("messages[].tool_calls[]", node)? {
            match &*key {
                "id" => id = Some(text("messages[].tool_calls[].id", value)?).filter(|id| !id.is_empty()),
                "function" => function = Some(value),
                "type" => {} // there is one
                _ => return Err(unknown(" in `tool_calls`", &key)),
            }
        }
        let function = function.ok_or_else(|| wrong("messages[].tool_calls[].function", "an object"))?;
        let (mut name, mut arguments) = (Cow::Borrowed(""), Cow::Borrowed("{}"));
        for (key, value) in object("messages[].tool_calls[].function", function)? {
            match &*key {
                "name" => name = text("messages[].tool_calls[].function.name", value)?,
                "arguments" if value.kind() == Kind::Object => arguments = Cow::Borrowed(value.raw()),
                "arguments" => return Err(wrong("messages[].tool_calls[].function.arguments", "an object")),
                "index" => {} // they stand in order
                _ => return Err(unknown(" in `tool_calls`", &key)),
            }
        }
        let id = id.unwrap_or_else(|| Cow::Owned(format!("call_{}", self.made)));
        self.of_id.entry(id.clone()).or_default().push_back(self.made);
        self.of_name.entry(name.clone()).or_default().push_back(self.made);
        self.open.insert(self.made, Answered { id: id.clone(), name: name.clone() });
        self.made += 1;
        Ok(Call { id, name, arguments })
    }

    /// Finds the call that a tool's result belongs to: by its identifier, or the oldest of this tool that has none yet, or,
    /// where the tool is not named, the oldest of all.
    pub(super) fn answered(
        &mut self,
        id: Option<Cow<'a, str>>,
        name: Option<Cow<'a, str>>,
    ) -> Result<Answered<'a>, Failure> {
        let name = name.filter(|name| !name.is_empty());
        let found = match (&id, &name) {
            (Some(id), _) => oldest(&self.open, self.of_id.get_mut(id)),
            (None, Some(name)) => oldest(&self.open, self.of_name.get_mut(name)),
            (None, None) => self.open.first_key_value().map(|(number, _)| *number),
        };
        match (found.and_then(|number| self.open.remove(&number)), id) {
            (Some(answered), _) => Ok(answered),
            (None, Some(id)) => Ok(Answered { id, name: name.unwrap_or_default() }),
            (None, None) => {
                Err(wrong("messages[].tool_name", "that of a tool that was called before and not answered"))
            }
        }
    }
}

/// The first of these numbers that is open; those before it are forgotten.
fn oldest(open: &BTreeMap<usize, Answered<'_>>, numbers: Option<&mut VecDeque<usize>>) -> Option<usize> {
    let numbers = numbers?;
    while numbers.front().is_some_and(|number| !open.contains_key(number)) {
        numbers.pop_front();
    }
    numbers.front().copied()
}
