//! `cargo xtask up`

use std::process::Command;

use anyhow::Result;

use crate::run::{cargo, command, root};

/// tutti before a real Ollama, in the foreground. The Ollama ends with it.
pub(crate) fn up() -> Result<()> {
    tutti_rig::prepare()?;
    cargo(&["build", "--release", "--package", "tutti"])?;
    let ollama = tutti_rig::Ollama::start(&tutti_rig::OllamaOptions::default())?;
    let mut tutti = Command::new(root().join("target/release/tutti"));
    tutti.arg("up").env("OLLAMA_HOST", ollama.url()).current_dir(root());
    command(tutti)
}
