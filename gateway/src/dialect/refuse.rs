//! Fields that mean nothing, or nothing in the other API.

use std::borrow::Cow;

use crate::errors::{Code, Failure};
use crate::json::{Kind, Node};

/// Longest unknown key that a message quotes. Unit: characters.
const MAX_QUOTED: usize = 64;

/// The failure of a known field that the other API has no word for.
pub(super) fn untranslatable(field: &'static str, why: &str) -> Failure {
    let message = format!("`{field}` {why}, and this model's replicas speak another API than you do");
    Failure { param: Some(field), ..Failure::new(Code::Untranslatable, message) }
}

/// The same where nothing more is to say.
pub(super) fn no_counterpart(field: &'static str) -> Failure {
    untranslatable(field, "has no counterpart")
}

/// The failure of a key that nobody knows.
pub(super) fn unknown(within: &'static str, key: &str) -> Failure {
    let key: String = key.chars().take(MAX_QUOTED).collect();
    let message = format!(
        "{key:?}{within} is not known, so that it cannot be translated, and this model's replicas speak another API than you do"
    );
    Failure::quoting(Code::Untranslatable, message)
}

/// The failure of a known field with a value that means nothing.
pub(super) fn wrong(field: &'static str, wanted: &str) -> Failure {
    Failure::of(field, format!("`{field}` must be {wanted}"))
}

/// The name of a list that a key is, for messages that outlive the body.
pub(super) fn among(key: &str, known: &[&'static str]) -> Option<&'static str> {
    known.iter().copied().find(|name| *name == key)
}

/// Whether a value says what its absence would: for fields that are switched on by anything else.
pub(super) fn is_blank(node: Node<'_>) -> bool {
    match node.kind() {
        Kind::Null | Kind::False => true,
        Kind::True => false,
        Kind::String => node.raw() == "\"\"",
        Kind::Number => node.integer() == Some(0),
        Kind::Array => node.elements().next().is_none(),
        Kind::Object => node.members().next().is_none(),
    }
}

pub(super) fn text<'a>(field: &'static str, node: Node<'a>) -> Result<Cow<'a, str>, Failure> {
    node.string().ok_or_else(|| wrong(field, "text"))
}

pub(super) fn number<'a>(field: &'static str, node: Node<'a>) -> Result<&'a str, Failure> {
    node.number().ok_or_else(|| wrong(field, "a number"))
}

pub(super) fn boolean(field: &'static str, node: Node<'_>) -> Result<bool, Failure> {
    node.boolean().ok_or_else(|| wrong(field, "true or false"))
}

/// A whole number that may be negative, which stands for no bound.
pub(super) fn bound(field: &'static str, node: Node<'_>) -> Result<Option<u32>, Failure> {
    let number = node.integer().ok_or_else(|| wrong(field, "a whole number"))?;
    if number < 0 {
        return Ok(None);
    }
    u32::try_from(number).map(Some).map_err(|_| wrong(field, "a whole number of at most 32 bits"))
}

pub(super) fn array<'a>(
    field: &'static str,
    node: Node<'a>,
) -> Result<impl Iterator<Item = Node<'a>> + use<'a>, Failure> {
    if node.kind() == Kind::Array { Ok(node.elements()) } else { Err(wrong(field, "a list")) }
}

/// An object's members that are not null, which says what absence says.
pub(super) fn object<'a>(
    field: &'static str,
    node: Node<'a>,
) -> Result<impl Iterator<Item = (Cow<'a, str>, Node<'a>)> + use<'a>, Failure> {
    if node.kind() != Kind::Object {
        return Err(wrong(field, "an object"));
    }
    Ok(node.members().filter(|(_, value)| !value.is_null()))
}

/// One text or several.
pub(super) fn texts<'a>(field: &'static str, node: Node<'a>) -> Result<Vec<Cow<'a, str>>, Failure> {
    match node.kind() {
        Kind::String => Ok(vec![text(field, node)?]),
        Kind::Array => node.elements().map(|one| text(field, one)).collect(),
        _ => Err(wrong(field, "text, or a list of texts")),
    }
}
