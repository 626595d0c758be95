//! The configuration's schema: the types' own, and what they cannot say. The loader obeys it, editors get it, the
//! reference page is printed from it.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use crate::{Config, KeysFile, Slots};

/// What a field's type says of itself, beside what the field says.
pub(crate) const ABOUT: &str = "x-about";

/// What a file says beyond what the types ask. They cannot ask it: a custom resource has its name from its metadata,
/// and structural schemas know no union.
static BEYOND: LazyLock<Vec<(&str, Value)>> = LazyLock::new(|| {
    let name = json!({
        "pattern": r"^[^\x00-\x1f\x7f-\x9f]{1,256}$",
        "x-form": "1 to 256 bytes without control characters",
    });
    vec![
        ("pools[]", json!({ "required": ["name", "endpoints"] })),
        ("pools[].name", json!({ "pattern": "^[A-Za-z0-9-]{1,63}$", "x-form": "1 to 63 letters, digits and `-`" })),
        ("pools[].endpoints", json!({ "minItems": 1 })),
        (
            "pools[].slots",
            json!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": Slots::MAX }] }),
        ),
        ("models[]", json!({ "required": ["name", "revisions"] })),
        ("models[].name", name.clone()),
        ("models[].aliases[]", name.clone()),
        ("keys[].models[]", name),
        ("models[].revisions", json!({ "minItems": 1 })),
        ("models[].revisions[]", json!({ "required": ["name", "pool"] })),
        (
            "models[].revisions[].name",
            json!({ "pattern": "^[!-~]{1,63}$", "x-form": "1 to 63 visible ASCII characters" }),
        ),
    ]
});

/// The schema that the loader obeys, without references. Null is in no type: a field that is null is a field that is
/// missing.
pub(crate) fn described() -> &'static Value {
    static DESCRIBED: LazyLock<Value> = LazyLock::new(described_of::<Config>);
    &DESCRIBED
}

/// The same of a keys file.
pub(crate) fn described_keys() -> &'static Value {
    static DESCRIBED: LazyLock<Value> = LazyLock::new(described_of::<KeysFile>);
    &DESCRIBED
}

fn described_of<T: JsonSchema>() -> Value {
    let mut schema = schemars::schema_for!(T).to_value();
    let types = schema.as_object_mut().and_then(|schema| schema.remove("$defs")).unwrap_or_default();
    describe(&mut schema, &types, "");
    schema
}

fn describe(schema: &mut Value, types: &Value, path: &str) {
    if let Some(schema) = schema.as_object_mut() {
        for (_, more) in BEYOND.iter().filter(|(at, _)| *at == path) {
            schema.extend(more.as_object().cloned().unwrap_or_default());
        }
        describe_within(schema, types, path);
    }
}

fn describe_within(schema: &mut Map<String, Value>, types: &Value, path: &str) {
    without_null(schema);
    without_reference(schema, types);
    schema.remove("x-kubernetes-int-or-string");
    let range = match schema.remove("format").as_ref().and_then(Value::as_str) {
        Some("uint32") => Some((0, i64::from(u32::MAX))),
        Some("int32") => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
        _ => None,
    };
    if let Some((minimum, maximum)) = range {
        schema.entry("minimum").or_insert(minimum.into());
        schema.entry("maximum").or_insert(maximum.into());
    }
    let required = schema.get("required").cloned().unwrap_or_default();
    for (name, field) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        describe(field, types, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") });
        if let Some(field) = field.as_object_mut().filter(|_| holds(&required, name)) {
            field.remove("default");
        }
    }
    if let Some(items) = schema.get_mut("items") {
        describe(items, types, &format!("{path}[]"));
    }
    let variants = schema.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten();
    for variant in variants.filter_map(Value::as_object_mut) {
        describe_within(variant, types, path);
    }
}

/// Takes null out of a schema's types.
fn without_null(schema: &mut Map<String, Value>) {
    let null = |value: &Value| *value == "null" || value["type"] == "null";
    if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
        kinds.retain(|kind| !null(kind));
        let only = kinds.pop().unwrap_or_default();
        schema.insert("type".to_owned(), only);
    }
    let Some(variants) = schema.get_mut("anyOf").and_then(Value::as_array_mut) else { return };
    variants.retain(|variant| !null(variant));
    if let [only] = variants.as_mut_slice() {
        let only = std::mem::take(only);
        schema.remove("anyOf");
        for (key, value) in only.as_object().cloned().unwrap_or_default() {
            schema.entry(key).or_insert(value);
        }
    }
}

/// Puts a type where it is referred to.
fn without_reference(schema: &mut Map<String, Value>, types: &Value) {
    let Some(reference) = schema.remove("$ref") else { return };
    let of_type = reference.as_str().and_then(|reference| types.get(reference.trim_start_matches("#/$defs/")));
    for (key, value) in of_type.and_then(Value::as_object).into_iter().flatten() {
        if key == "description" {
            schema.insert(ABOUT.to_owned(), value.clone());
        }
        schema.entry(key).or_insert_with(|| value.clone());
    }
}

/// Whether a list holds a word.
pub(crate) fn holds(list: &Value, word: &str) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|item| item == word))
}

/// The schema of a schema's fields, or of those of the one of its variants that has any.
pub(crate) fn with_fields(schema: &Value) -> Option<&Value> {
    if schema["properties"].is_object() {
        return Some(schema);
    }
    schema["anyOf"].as_array()?.iter().find_map(with_fields)
}

/// The JSON schema of `tutti.yaml` (draft 2020-12): exactly what this version takes, but for what follows from two
/// fields together.
pub fn json_schema() -> Value {
    printed(described())
}

/// The JSON schema of a keys file.
pub fn keys_json_schema() -> Value {
    printed(described_keys())
}

fn printed(described: &Value) -> Value {
    let mut schema = described.clone();
    print(&mut schema);
    schema
}

fn print(schema: &mut Value) {
    if let Some(schema) = schema.as_object_mut() {
        schema.remove(ABOUT);
    }
    let required = schema["required"].clone();
    for (name, field) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        print_field(field, holds(&required, name));
    }
    if let Some(items) = schema.get_mut("items") {
        print(items);
    }
    for variant in schema.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten() {
        print(variant);
    }
}

/// Allows null where a field may be missing.
fn print_field(field: &mut Value, required: bool) {
    print(field);
    if required {
        return;
    }
    if let Some(kind) = field.get("type").cloned() {
        field["type"] = json!([kind, "null"]);
    }
    for list in ["anyOf", "oneOf"] {
        if let Some(variants) = field.get_mut(list).and_then(Value::as_array_mut) {
            variants.push(json!({ "type": "null" }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema at a path such as `pools[].name`.
    fn at<'s>(schema: &'s Value, path: &str) -> Option<&'s Value> {
        let mut schema = schema;
        for part in path.split('.') {
            let name = part.trim_end_matches("[]");
            schema = with_fields(schema)?["properties"].get(name)?;
            if name != part {
                schema = schema.get("items")?;
            }
        }
        Some(schema)
    }

    #[test]
    fn every_path_leads_somewhere() {
        for (path, _) in BEYOND.iter() {
            assert!(at(described(), path).or(at(described_keys(), path)).is_some(), "{path}");
        }
    }

    #[test]
    fn what_is_ours_alone_is_not_printed() {
        let schema = json_schema();
        for ours in [ABOUT, "$ref"] {
            assert!(!schema.to_string().contains(ours), "{ours}");
        }
    }

    #[test]
    fn numbers_have_both_their_bounds() {
        let size = at(described(), "pools[].queue.size").cloned().unwrap_or_default();
        assert_eq!((&size["minimum"], &size["maximum"]), (&json!(0), &json!(u32::MAX)));
        let connections = at(described(), "gateway.limits.connections").cloned().unwrap_or_default();
        assert_eq!(connections["minimum"], 1);
    }
}
