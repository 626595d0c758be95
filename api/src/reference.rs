//! The configuration described for people.

use std::fmt::Write;

use serde_json::Value;

use crate::schema::{ABOUT, described, described_keys, holds};

/// A configuration with most of what there is, for the page.
pub(crate) const EXAMPLE: &str = "\
gateway:
  listen: 127.0.0.1:11500
  ops: 127.0.0.1:11501
  admin: { listen: 127.0.0.1:11502 }
  auth: { keysFile: /etc/tutti/keys.yaml }
  allowedHosts: [localhost, gateway.bank.example]
  tls: { cert: /etc/tutti/tls.crt, key: /etc/tutti/tls.key }
  limits: { body: 32Mi, bufferedBodies: 512Mi, connections: 20000, header: 32Ki, bodyPause: 30s, writeStall: 2m }
  log: { requests: errors }
  peer:
    listen: 0.0.0.0:11503
    tls: { cert: /etc/tutti/peer.crt, key: /etc/tutti/peer.key, ca: /etc/tutti/peers-ca.crt }
    dns: tutti-peers.default.svc:11503
  shutdownDelay: 0s
  drain: 30s
pools:
  - name: qwen
    base: qwen2.5:0.5b
    endpoints:
      - { url: http://127.0.0.1:11434 }
      - { url: http://10.0.0.7:11434 }
      - { dns: ollama.svc:11434 }
      - { file: /etc/tutti/replicas }
    expose: named
    slots: 4
    queue: { size: 1024, wait: 30s }
    timeouts: { connect: 2s, firstByte: 10m, idle: 2m }
    retries: { max: 1, budget: 20% }
    health:
      consecutiveFailures: 3
      baseEjectionTime: 1s
      maxEjectionPercent: 50%
      slowStart: 10s
      probe: { interval: 1m, timeout: 1m }
    runner: { numCtx: 8192 }
    keepAlive: 1h
  - name: vllm
    engine: openai
    endpoints:
      - { url: http://10.0.0.9:8000, apiKeyFile: /etc/tutti/vllm.key }
models:
  - name: risk
    aliases: [risk-model]
    revisions:
      - { name: base, pool: qwen, upstream: qwen2.5:0.5b }
    traffic: { revision: base }
  - name: large
    revisions:
      - { name: v1, pool: vllm, upstream: Qwen/Qwen2.5-72B-Instruct }
";

/// `docs/reference/config.md`, from the schema.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         tutti reads `--config FILE`, or the file that `TUTTI_CONFIG` names, or `./tutti.yaml`, or `tutti/tutti.yaml` in the\n\
         user's configuration folder. Without a file it serves every model of the Ollama on this machine. A changed file is\n\
         taken up without a restart; a broken one is refused and changes nothing. `tutti check` says everything that is wrong\n\
         with a file; `tutti schema` prints its JSON schema. An environment variable overrides a field: `TUTTI__GATEWAY__LISTEN`\n\
         is `gateway.listen`, `TUTTI__POOLS__0__SLOTS` is `pools[0].slots`.\n\nThis page is generated from the types in `api/src`.\n\n```yaml\n",
    );
    page.push_str(EXAMPLE);
    page.push_str("```\n");
    section(&mut page, described(), "");
    page
}

/// A keys file as a person writes it.
pub(crate) const KEYS_EXAMPLE: &str = "\
keys:
  - id: b3eds875
    name: nightly reports
    tenant: acme
    sha256: a99b3a940c3cbd9ce397dbd3759e6d1c61e2dd3febefa679722aa9756430abbb
    models: [risk, acme/*]
    requestsPerMinute: 60
    tokensPerMinute: 20000
    concurrency: 4
    priority: bulk
    expires: 2026-12-31T23:59:59Z
";

/// `docs/reference/keys.md`, from the schema.
pub fn keys_reference_markdown() -> String {
    let mut page = String::from(
        "# The keys file\n\n\
         `gateway.auth.keysFile` names it. `tutti key new` and `tutti key revoke` change it; by hand it is YAML or JSON. It\n\
         holds no key, only hashes. Only its owner may write it: a file that others may write is refused. A running gateway\n\
         takes up a changed file within 2 seconds; a broken one is refused, and the keys stay as they were. `tutti key schema`\n\
         prints its JSON schema.\n\nThis page is generated from the types in `api/src`.\n\n```yaml\n",
    );
    page.push_str(KEYS_EXAMPLE);
    page.push_str("```\n");
    section(&mut page, described_keys(), "");
    page
}

/// A table of an object's fields, then a section for each field that is an object itself.
fn section(page: &mut String, object: &Value, path: &str) {
    let Some(fields) = object["properties"].as_object() else { return };
    if !path.is_empty() {
        let about = said(object.get(ABOUT).unwrap_or(&object["description"]));
        let _ =
            write!(page, "\n## `{path}`\n{}", if about.is_empty() { String::new() } else { format!("\n{about}\n") });
    }
    page.push_str("\n| field | form | default | meaning |\n|---|---|---|---|\n");
    for (name, field) in fields {
        let default = field.get("default").filter(|default| !default.is_object() && !default.is_null());
        let default = match default {
            Some(default) => format!("`{}`", default.to_string().trim_matches('"')),
            None if holds(&object["required"], name) => "required".to_owned(),
            None => String::new(),
        };
        let _ = writeln!(
            page,
            "| `{name}` | {} | {default} | {} |",
            form(field).replace('|', "\\|"),
            said(&field["description"])
        );
    }
    for (name, field) in fields {
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match field.get("items") {
            Some(item) => section(page, item, &format!("{below}[]")),
            None => section(page, field, &below),
        }
    }
}

/// What is said of a schema, in one line.
fn said(about: &Value) -> String {
    about.as_str().unwrap_or_default().replace('\n', " ")
}

/// What is written for a field, as far as this version takes it; empty where it takes nothing.
pub(crate) fn form(schema: &Value) -> String {
    if let Some(form) = schema["x-form"].as_str() {
        return form.to_owned();
    }
    if let Some(variants) = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
        return variants.iter().map(form).filter(|form| !form.is_empty()).collect::<Vec<_>>().join(" or ");
    }
    if let Some(word) = schema["const"].as_str() {
        return format!("`{word}`");
    }
    match schema["type"].as_str() {
        Some("array") => format!("a list of: {}", form(&schema["items"])),
        Some("object") => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            let names: Vec<&str> = fields.map(|(name, _)| name.as_str()).collect();
            if names.is_empty() { String::new() } else { format!("{{ {} }}", names.join(", ")) }
        }
        Some("integer") => format!("a whole number from {} to {}", schema["minimum"], schema["maximum"]),
        Some("boolean") => "`true` or `false`".to_owned(),
        _ => "text".to_owned(),
    }
}
