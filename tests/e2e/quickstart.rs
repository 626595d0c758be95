//! The quickstart page, run as a new user would: its blocks, in order, in one shell, on two real Ollamas.
//!
//! The page's ports are fixed ones, so the shell has a network of its own, in which nobody else listens and from which
//! nothing leaves. Everything that it started ends with its process namespace.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

const PAGE: &str = include_str!("../../docs/quickstart.md");
/// Longest that the whole page may take. Unit: seconds.
const WITHIN: &str = "120";

/// The page's blocks of a language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    PAGE.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// The page's shell, with a mark before each block's output.
fn script() -> String {
    let waits = "for port in 11434 11435; do curl -s --retry 50 --retry-connrefused --retry-delay 1 -o /dev/null http://127.0.0.1:$port/; done\n";
    let logged = "until grep -q '\"tenant\":\"analysts\"' requests.log; do sleep 0.1; done\n";
    let mut script = String::from("set -eu -o pipefail\nip link set lo up\n");
    for (number, block) in blocks("sh").into_iter().enumerate() {
        script.push_str(&format!("printf '\\n== %d\\n' {}\n{block}\n", number + 1));
        // A user takes longer than that to write the configuration, and to have a look at the log.
        script.push_str(match number + 1 {
            1 => waits,
            6 => logged,
            _ => "",
        });
    }
    script
}

/// What the blocks printed, by number from 1.
fn printed(stdout: &str, number: usize) -> &str {
    let mark = format!("== {number}\n");
    let after = stdout.split(mark.as_str()).nth(1).unwrap_or_default();
    after.split("\n== ").next().unwrap_or_default()
}

fn in_path(folder: &Path, name: &str, binary: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    std::os::unix::fs::symlink(binary, folder.join(name)).expect("a link");
}

#[test]
fn the_page_leads_from_nothing_to_keys_and_tls_over_two_ollamas() {
    let folder = TempDir::new().expect("a folder");
    let bin = folder.path().join("bin");
    in_path(&bin, "tutti", &tutti_tests::binary());
    in_path(&bin, "ollama", &tutti_rig::ollama().expect("the rig builds an Ollama"));
    tutti_rig::models_into(&folder.path().join("models")).expect("the rig's models");
    fs::write(folder.path().join("tutti.yaml"), blocks("yaml")[0]).expect("the configuration is written");
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("timeout")
        .args([
            WITHIN,
            "unshare",
            "--map-root-user",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "bash",
            "-c",
            &script(),
        ])
        .current_dir(folder.path())
        .env("PATH", format!("{}:{path}:/usr/sbin", bin.display()))
        .env("HOME", folder.path())
        .env("OLLAMA_MODELS", folder.path().join("models"))
        .env_remove("TUTTI_CONFIG")
        .stdin(Stdio::null())
        .output()
        .expect("unshare and bash run");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let all = format!("{stdout}\n--\n{stderr}");
    assert!(output.status.success(), "{all}");
    for (block, wanted) in [
        (4, "ready"),
        (5, "高风险"),
        (6, "\"error\""),
        (7, "http://127.0.0.1:11435"),
        (7, "gen_ai_server_request_duration_seconds_count"),
        (7, "\"tenant\":\"analysts\""),
        (8, "laptop"),
        (8, "401"),
    ] {
        assert!(printed(&stdout, block).contains(wanted), "block {block} does not print {wanted}: {all}");
    }
}
