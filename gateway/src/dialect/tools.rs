//! The tools that a model may call, which both APIs write alike.

use super::refuse::{array, no_counterpart, object, text, wrong};
use crate::errors::Failure;
use crate::json::{Kind, Node};

/// Reads a list of tools; yields what stands below `function` of each.
pub(super) fn declared<'a>(value: Node<'a>) -> Result<Vec<&'a str>, Failure> {
    array("tools", value)?.map(|tool| function(tool).map(Node::raw)).collect()
}

fn function<'a>(tool: Node<'a>) -> Result<Node<'a>, Failure> {
    let mut function = None;
    for (key, value) in object("tools[]", tool)? {
        match &*key {
            "function" if value.kind() == Kind::Object => function = Some(value),
            "type" if matches!(&*text("tools[].type", value)?, "function" | "") => {}
            "type" => return Err(no_counterpart("tools[].type")),
            _ => {}
        }
    }
    let function = function.ok_or_else(|| wrong("tools[].function", "an object"))?;
    if function.get("name").and_then(Node::string).is_none() {
        return Err(wrong("tools[].function.name", "text"));
    }
    Ok(function)
}
