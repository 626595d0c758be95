//! `cargo xtask picture`

use std::process::Command;

use anyhow::{Result, ensure};

use crate::run::root;

/// Where the picture of the dashboard is.
const FILE: &str = "docs/img/dashboard.svg";

/// Has the test of the dashboard's queries watch for two minutes, and draw what it saw.
pub(crate) fn write() -> Result<()> {
    let file = root().join(FILE);
    std::fs::create_dir_all(file.parent().unwrap_or(&file))?;
    let mut test = Command::new(env!("CARGO"));
    test.args(["test", "--package", "tutti-tests", "--test", "seen", "--", "they_make_a_picture"]);
    let status = test.env("TUTTI_PICTURE", &file).current_dir(root()).status()?;
    ensure!(status.success() && file.exists(), "{FILE} is not drawn");
    eprintln!("wrote {FILE}");
    Ok(())
}
