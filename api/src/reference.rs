//! The configuration described: as a JSON schema for editors, as a page for people.

use std::fmt::Write;

use serde_json::Value;

use crate::Config;

/// A configuration with most of what there is, for the page.
pub(crate) const EXAMPLE: &str = "\
gateway:
  listen: 127.0.0.1:11500
  ops: 127.0.0.1:11501
  admin: { listen: 127.0.0.1:11502 }
  allowedHosts: [localhost, gateway.bank.example]
  limits: { body: 32Mi, bufferedBodies: 512Mi, connections: 20000, header: 32Ki }
  drain: 30s
pools:
  - name: qwen
    base: qwen2.5:0.5b
    endpoints:
      - { url: http://127.0.0.1:11434 }
      - { url: http://10.0.0.7:11434 }
    expose: named
    slots: 4
    queue: { size: 1024, wait: 30s }
    timeouts: { connect: 2s, firstByte: 10m, idle: 2m }
    retries: { max: 1 }
models:
  - name: risk
    aliases: [risk-model]
    revisions:
      - { name: base, pool: qwen, upstream: qwen2.5:0.5b }
    traffic: { revision: base }
";

/// The JSON schema of `tutti.yaml` (draft 2020-12).
pub fn json_schema() -> Value {
    schemars::schema_for!(Config).to_value()
}

/// `docs/reference/config.md`, from the schema.
pub fn reference_markdown() -> String {
    let schema = json_schema();
    let mut page = String::from(
        "# Configuration\n\n\
         tutti reads `--config FILE`, or the file that `TUTTI_CONFIG` names, or `./tutti.yaml`, or `tutti/tutti.yaml` in the\n\
         user's configuration folder. Without a file it serves every model of the Ollama on this machine. A changed file is\n\
         taken up without a restart; a broken one is refused and changes nothing. `tutti check` says everything that is wrong\n\
         with a file; `tutti schema` prints its JSON schema. An environment variable overrides a field: `TUTTI__GATEWAY__LISTEN`\n\
         is `gateway.listen`, `TUTTI__POOLS__0__SLOTS` is `pools[0].slots`. Fields that are described here and not done by this\n\
         version are refused by name.\n\nThis page is generated from the types in `api/src`.\n\n```yaml\n",
    );
    page.push_str(EXAMPLE);
    page.push_str("```\n");
    section(&mut page, &schema, &schema, "");
    page
}

/// A table of an object's fields, then a section for each field that is an object itself.
fn section(page: &mut String, root: &Value, object: &Value, path: &str) {
    let Some(fields) = object["properties"].as_object() else { return };
    if !path.is_empty() {
        let about = text(object);
        let _ =
            write!(page, "\n## `{path}`\n{}", if about.is_empty() { String::new() } else { format!("\n{about}\n") });
    }
    page.push_str("\n| field | form | default | meaning |\n|---|---|---|---|\n");
    for (name, field) in fields {
        let target = resolved(root, field);
        let about = Some(text(field)).filter(|about| !about.is_empty()).unwrap_or_else(|| text(target));
        let default = field.get("default").filter(|default| !default.is_object() && !default.is_null());
        let default = default.map(|default| format!("`{}`", default.to_string().trim_matches('"'))).unwrap_or_default();
        let _ = writeln!(page, "| `{name}` | {} | {default} | {about} |", form(root, field).replace('|', "\\|"));
    }
    for (name, field) in fields {
        let target = resolved(root, field);
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if target["type"] == "array" {
            section(page, root, resolved(root, &target["items"]), &format!("{below}[]"));
        } else {
            section(page, root, target, &below);
        }
    }
}

fn text(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ")
}

/// What is written for a field.
fn form(root: &Value, field: &Value) -> String {
    let target = resolved(root, field);
    if let Some(form) = target["x-form"].as_str() {
        return form.to_owned();
    }
    let words = |of: &Value| of["const"].as_str().map(|word| format!("`{word}`"));
    for list in ["oneOf", "anyOf"] {
        if let Some(variants) = target[list].as_array() {
            let forms: Vec<String> =
                variants.iter().map(|variant| words(variant).unwrap_or_else(|| form(root, variant))).collect();
            return forms.join(" or ");
        }
    }
    if let Some(all) = target["enum"].as_array() {
        return all.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
    }
    let kind = match &target["type"] {
        Value::Array(kinds) => kinds.iter().find_map(|kind| kind.as_str().filter(|kind| *kind != "null")),
        kind => kind.as_str(),
    };
    match kind {
        Some("array") => format!("a list of: {}", form(root, &target["items"])),
        Some("object") => match target["properties"].as_object() {
            Some(fields) => format!("{{ {} }}", fields.keys().cloned().collect::<Vec<_>>().join(", ")),
            None => "an object".to_owned(),
        },
        Some("integer") => "a whole number".to_owned(),
        Some("number") => "a number".to_owned(),
        Some("boolean") => "`true` or `false`".to_owned(),
        _ => "text".to_owned(),
    }
}

/// The schema behind a reference or an optional value.
fn resolved<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolved(root, root.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null));
    }
    match schema["anyOf"].as_array().map(Vec::as_slice) {
        Some([some, null]) if null["type"] == "null" => resolved(root, some),
        _ => schema,
    }
}
