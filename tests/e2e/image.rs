//! What the image runs, in a root of its own: the static binary, its configuration, and not one file more.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;
use tutti_rig::{Kind, deployed, static_binary};
use tutti_tests::{Dns, Tutti, eventually, simulator};

/// Who the image runs as.
const NOBODY: u32 = 65532;

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The words of all steps of the Dockerfile that have this name.
fn steps(name: &str) -> Vec<String> {
    let stages = deployed(Kind::Dockerfile, &root().join("deploy/image/Dockerfile")).expect("a Dockerfile");
    let steps = stages.as_array().into_iter().flatten().filter_map(|stage| stage["steps"].as_array());
    let named = steps.flatten().filter(|step| step["name"] == name);
    named.flat_map(|step| step["text"].as_str().unwrap_or_default().split_whitespace()).map(str::to_owned).collect()
}

/// Whether a program asks for another to load it: whether its file has a segment PT_INTERP (elf(5)).
fn wants_a_loader(program: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| {
        program[at..at + bytes].iter().rev().fold(0usize, |number, byte| number << 8 | usize::from(*byte))
    };
    assert_eq!(&program[..6], b"\x7fELF\x02\x01", "64 bits, little end first");
    let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|segment| number(start + segment * size, 4) == 3)
}

#[test]
fn the_binary_is_static() {
    let flags = ["--config", "deploy/image/cargo.toml", "--release"];
    assert!(flags.iter().all(|flag| steps("RUN").iter().any(|word| word == flag)), "the image's is built so too");
    let program = fs::read(static_binary().expect("the binary")).unwrap();
    assert!(!wants_a_loader(&program));
    assert!(wants_a_loader(&fs::read(std::env::current_exe().unwrap()).unwrap()), "this test is not, and it shows");
}

/// A folder with the binary and its configuration, as the image and what is mounted into it.
fn image(yaml: &str, resolv_conf: &str) -> TempDir {
    let image = tempfile::tempdir().expect("a folder");
    let path = |path: &str| image.path().join(path);
    for folder in ["etc/tutti", "var/lib/tutti"] {
        fs::create_dir_all(path(folder)).expect("a folder");
    }
    fs::copy(static_binary().expect("the binary"), path("tutti")).expect("the binary");
    fs::write(path("etc/tutti/tutti.yaml"), yaml).expect("a configuration");
    fs::write(path("etc/resolv.conf"), resolv_conf).expect("a resolv.conf");
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    if rustix::process::geteuid().is_root() {
        chown(path("var/lib/tutti"), Some(NOBODY), Some(NOBODY)).expect("its owner");
    }
    image
}

/// A command whose root is this folder. Only root may be somebody else there.
fn within(image: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.arg(format!("--root={}", image.display()));
    if rustix::process::geteuid().is_root() {
        command.args([format!("--setuid={NOBODY}"), format!("--setgid={NOBODY}")]);
    } else {
        command.args(["--user", "--map-root-user"]);
    }
    command.env_clear().arg("/tutti");
    for (name, value) in steps("ENV").iter().filter_map(|word| word.split_once('=')) {
        command.env(name, value);
    }
    command
}

#[test]
fn it_runs_with_nothing_around_it_and_finds_its_replicas() {
    let replica = simulator();
    let dns = Dns::start();
    dns.set_addresses("ollama.bank.svc.test", &["127.0.0.1"]);
    dns.set_addresses("gpu.internal", &["127.0.0.1"]);
    let port = replica.addr().port();
    // As in a Pod: a name of the namespace, found by the search domains.
    let yaml = format!(
        "gateway: {{ listen: \"localhost:0\", ops: \"127.0.0.1:0\", admin: {{ listen: \"127.0.0.1:0\" }} }}\n\
         pools:\n  - {{ name: p, endpoints: [{{ dns: \"ollama:{port}\" }}], expose: all }}\n  \
         - {{ name: q, endpoints: [{{ url: \"http://gpu.internal:{port}\" }}] }}\n\
         models:\n  - {{ name: named, revisions: [{{ name: v1, pool: q, upstream: m }}] }}\n"
    );
    let image =
        image(&yaml, &format!("search bank.svc.test svc.test test\nnameserver {}\noptions ndots:5\n", dns.address()));
    let tutti = Tutti::of(within(image.path()).arg("gateway"));
    tutti.wait_said("tutti serves");
    assert!(tutti.ask("GET", "/api/tags", "").text().contains("\"m:latest\""));
    for model in ["m", "named"] {
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "stream": false });
        let answer = tutti.ask("POST", "/api/chat", &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // The search goes on as it stands for a name that no domain has.
    assert!(dns.asked("gpu.internal.bank.svc.test") > 0 && dns.asked("gpu.internal") > 0);

    let status = |arguments: &[&str]| within(image.path()).arg("status").args(arguments).output().expect("a status");
    let asked = status(&["--admin", &tutti.admin()]);
    let page = String::from_utf8_lossy(&asked.stdout);
    assert!(asked.status.success() && page.contains("dns ollama"), "{page}{}", String::from_utf8_lossy(&asked.stderr));

    // Another name server from now on.
    let other = Dns::start();
    other.set("ollama.bank.svc.test", tutti_tests::Says::Nothing(1));
    fs::write(image.path().join("etc/resolv.conf"), format!("search bank.svc.test\nnameserver {}\n", other.address()))
        .unwrap();
    eventually("what the other one says", || {
        (tutti.metric("tutti_discovery_endpoints", &["\"ollama\""]) == 0.0 && other.asked("ollama.bank.svc.test") > 0)
            .then_some(())
    });
    // And a name in the hosts file, before any of them.
    fs::write(image.path().join("etc/hosts"), "127.0.0.1 localhost ollama\n").unwrap();
    eventually("what the hosts file says", || {
        (tutti.metric("tutti_discovery_endpoints", &["\"ollama\""]) == 1.0).then_some(())
    });
    drop(tutti);
    let left: Vec<String> =
        fs::read_dir(image.path()).unwrap().flatten().map(|file| file.file_name().display().to_string()).collect();
    assert_eq!(left.len(), 3, "it needs and leaves nothing else: {left:?}");
}
