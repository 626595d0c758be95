//! `cargo xtask up`

use std::process::Command;

use anyhow::Result;

use crate::run::{cargo, command, root, target};

/// What shows that it works: a customer's complaint, and what a tuned model makes of it.
const STORY: &str = r#"curl -s http://127.0.0.1:11500/v1/chat/completions -d '{"model":"risk-v1","messages":[{"role":"user","content":"你们的系统导致我的资金被冻结了！"}]}'"#;

/// tutti before a real Ollama, in the foreground. The Ollama ends with it.
pub(crate) fn up() -> Result<()> {
    tutti_rig::prepare_ollama()?;
    cargo(&["build", "--release", "--package", "tutti"])?;
    let ollama = tutti_rig::Ollama::start(&tutti_rig::OllamaOptions::default())?;
    eprintln!("\nOnce tutti is up, this line answers 「高风险」, from a real model:\n\n{STORY}\n");
    let mut tutti = Command::new(target().join("release/tutti"));
    tutti.arg("up").env("OLLAMA_HOST", ollama.url()).current_dir(root());
    command(tutti)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_the_same_line() {
        assert!(include_str!("../../README.md").contains(STORY));
    }
}
