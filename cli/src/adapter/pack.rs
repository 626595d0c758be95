//! `tutti adapter pack`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;
use tutti_adapter_loader::{manifest, pack};
use tutti_api::{BaseRef, Digest, Kind, Manifest, ManifestProbe};

use super::bars::size;
use crate::print::{self, plain, say};

#[derive(Args, Clone, Debug)]
pub(super) struct Pack {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The base model it is for, by the engine's name; with the digest of its GGUF it serves on that one alone
    #[arg(long, value_name = "NAME[@sha256:…]", value_parser = base)]
    base: Option<BaseRef>,
    /// What it must answer to before it serves, asked with temperature 0
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// What must stand in the answer; else anything but the base's own answer will do
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    expect: Option<String>,
    /// Where it comes from, as often as you like: --lineage run=42 --lineage dataset=complaints@7
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    lineage: Vec<(String, String)>,
    /// What the folder holds
    #[arg(long, value_enum, default_value_t = What::Adapter)]
    kind: What,
    /// Of a base model: a file with the template of its prompts, as Ollama writes one
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Of a base model: what its engine calls parameters, as often as you like: --parameter num_ctx=8192
    /// --parameter 'stop=["<|im_end|>"]'
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    parameter: Vec<(String, Value)>,
}

/// [`Kind`] as an argument.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq)]
enum What {
    Adapter,
    Base,
}

impl Pack {
    pub(super) fn run(&self) -> Result<ExitCode> {
        if (self.template.is_some() || !self.parameter.is_empty()) && self.kind == What::Adapter {
            bail!("--template and --parameter are of a base model: say --kind base");
        }
        let read = |file: &PathBuf| std::fs::read_to_string(file).with_context(|| file.display().to_string());
        let wanted = Manifest {
            kind: if self.kind == What::Base { Kind::Base } else { Kind::Adapter },
            base: self.base.clone(),
            lineage: self.lineage.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect(),
            probe: self.prompt.clone().map(|prompt| ManifestProbe { prompt, expect: self.expect.clone() }),
            template: self.template.as_ref().map(read).transpose()?,
            parameters: self.parameter.iter().cloned().collect(),
            ..Manifest::default()
        };
        let told = |name: &str, bytes| say!("{}: {}", plain(name), size(bytes));
        let packed = pack::pack(&self.folder, wanted, &told)?;
        if !packed.left_out.is_empty() {
            let names: Vec<String> = packed.left_out.iter().map(|name| plain(name)).collect();
            say!("left out: {}", names.join(", "));
        }
        let known = packed.manifest;
        if known.kind == Kind::Adapter && known.base.is_none() {
            say!("it names no base: say --base NAME, so that nobody serves it on another one");
        }
        let path = self.folder.join(Manifest::FILE);
        pack::write(&self.folder, &known).with_context(|| path.display().to_string())?;
        say!("wrote {}", path.display());
        print::page(&format!("{}\n", manifest::digest(&known)))
    }
}

/// `NAME` or `NAME@sha256:…`
fn base(text: &str) -> Result<BaseRef, String> {
    let (name, digest) = match text.rsplit_once('@') {
        Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|error| error.to_string())?)),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("write NAME, or NAME@sha256:…".to_owned());
    }
    Ok(BaseRef { name: name.to_owned(), digest })
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "write KEY=VALUE".to_owned())
}

/// `NAME=VALUE`, where the value is JSON or else a text.
fn parameter(text: &str) -> Result<(String, Value), String> {
    let (name, value) = pair(text)?;
    Ok((name, serde_json::from_str(&value).unwrap_or(Value::String(value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_has_a_name_and_may_have_a_digest() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(base("qwen2.5:0.5b").unwrap(), BaseRef { name: "qwen2.5:0.5b".into(), digest: None });
        assert_eq!(
            base(&format!("a@b@{digest}")).unwrap(),
            BaseRef { name: "a@b".into(), digest: digest.parse().ok() }
        );
        assert!(base("").is_err() && base("a@b").is_err() && base(&format!("@{digest}")).is_err());
        assert_eq!(pair("run=a=b").unwrap(), ("run".into(), "a=b".into()));
        assert_eq!(parameter("num_ctx=8192").unwrap(), ("num_ctx".into(), 8192.into()));
        assert_eq!(parameter(r#"stop=["x"]"#).unwrap().1, serde_json::json!(["x"]));
        assert_eq!(parameter("stop=<|im_end|>").unwrap().1, "<|im_end|>");
        assert!(pair("run").is_err() && pair("=x").is_err());
    }
}
