//! `tutti adapter`: what people do with adapters, against a real object store.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tutti_tests::{BUCKET, Fault, Finished, Store, eventually};

/// What `pack` and `push` print: the digest of a manifest.
fn digest(finished: &Finished) -> String {
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let digest = finished.stdout.trim().to_owned();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    digest
}

fn pack(folder: &Path, more: &[&str]) -> Finished {
    let arguments = ["adapter", "pack", folder.to_str().unwrap()];
    tutti_tests::run(&[&arguments, more].concat(), &[])
}

/// Runs a command with the store's address and credentials.
fn at(store: &Store, arguments: &[&str]) -> Finished {
    let (key, secret) = store.minio.credentials();
    let env = [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)];
    let url = store.way.url();
    let finished = tutti_tests::run(&[&["adapter"], arguments, &["--endpoint", &url]].concat(), &env);
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(!said.contains(key) && !said.contains(secret), "{said}");
    finished
}

/// A copy of the adapter that the rig has.
fn adapter() -> TempDir {
    let folder = TempDir::new().unwrap();
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("rig/models/risk-v1");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    fs::write(folder.path().join("README.md"), "left by the trainer").unwrap();
    folder
}

/// A large one, whose weights are no weights: nobody looks at them here.
fn large(size: usize) -> TempDir {
    let folder = adapter();
    let mut bytes = vec![0; size];
    getrandom::fill(&mut bytes).unwrap();
    fs::write(folder.path().join("adapter_model.safetensors"), bytes).unwrap();
    digest(&pack(folder.path(), &[]));
    folder
}

fn same_files(one: &Path, other: &Path) {
    for file in ["adapter_config.json", "adapter_model.safetensors", "manifest.json"] {
        assert!(fs::read(one.join(file)).unwrap() == fs::read(other.join(file)).unwrap(), "{file}");
    }
}

#[test]
fn an_adapter_goes_into_the_store_and_comes_out_as_it_was() {
    let (store, folder) = (Store::start(), adapter());
    let probe = ["--prompt", "你们的系统导致我的资金被冻结了！", "--expect", "高风险", "--lineage", "run=42"];
    let packed = pack(folder.path(), &probe);
    let own = digest(&packed);
    assert!(packed.stderr.contains("left out: README.md"), "{}", packed.stderr);
    let place = format!("s3://{BUCKET}/team/risk/v1/");
    let pushed = at(&store, &["push", folder.path().to_str().unwrap(), &place]);
    assert_eq!(digest(&pushed), own);
    let last = store.way.seen().pop().unwrap();
    assert!(last.starts_with("PUT /models/team/risk/v1/manifest.json"), "the manifest comes last, not {last}");

    let listed = at(&store, &["ls", &format!("s3://{BUCKET}/")]);
    assert!(listed.stdout.contains("team/risk/v1  tutti-story"), "{}", listed.stdout);
    let json: Value = serde_json::from_str(&at(&store, &["ls", &place, "--json"]).stdout).unwrap();
    assert_eq!((&json[0]["path"], &json[0]["digest"]), (&"".into(), &own.clone().into()));
    let shown = at(&store, &["show", &place]);
    for part in ["高风险", "run = 42", "adapter_model.safetensors", own.as_str()] {
        assert!(shown.stdout.contains(part), "{}", shown.stdout);
    }
    assert_eq!(digest(&at(&store, &["verify", &place])), own);

    let out = folder.path().join("again");
    assert_eq!(digest(&at(&store, &["pull", &place, out.to_str().unwrap()])), own);
    same_files(folder.path(), &out);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 3, "nothing else");
}

#[test]
fn an_adapter_is_verified_against_its_base() {
    let (folder, models) = (adapter(), PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("rig/models"));
    let own = digest(&pack(folder.path(), &[]));
    let verify = |base: &str| {
        let base = models.join(base);
        tutti_tests::run(&["adapter", "verify", folder.path().to_str().unwrap(), "--base", base.to_str().unwrap()], &[])
    };
    let right = verify("tutti-story.gguf");
    assert!(digest(&right) == own && right.stderr.contains("rank 8, alpha 16"), "{}", right.stderr);
    let wrong = verify("tutti-embed.gguf");
    assert_eq!(wrong.code, Some(1), "{}", wrong.stderr);
    let weights = folder.path().join("adapter_model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    assert!(verify("tutti-story.gguf").stderr.contains("pack it again"));
    digest(&pack(folder.path(), &[]));
    let cut = verify("tutti-story.gguf");
    assert!(cut.code == Some(1) && cut.stderr.contains("adapter_model.safetensors"), "{}", cut.stderr);
}

#[test]
fn what_is_there_is_never_changed() {
    let (store, folder) = (Store::start(), adapter());
    let (from, place) = (folder.path().to_str().unwrap(), format!("s3://{BUCKET}/risk/v1/"));
    let unpacked = at(&store, &["push", from, &place]);
    assert!(
        unpacked.stderr.contains("there is no manifest.json: `tutti adapter pack` writes one"),
        "{}",
        unpacked.stderr
    );
    let own = digest(&pack(folder.path(), &[]));
    // A push that broke off leaves no adapter, and the next one makes it.
    store
        .way
        .set(|line, _| if line.contains("manifest.json") { Fault::Answer(403, "AccessDenied") } else { Fault::Pass });
    assert_eq!(at(&store, &["push", from, &place]).code, Some(1));
    store.way.set(|_, _| Fault::Pass);
    assert!(at(&store, &["show", &place]).stderr.contains("there is no manifest.json"));
    assert_eq!(digest(&at(&store, &["push", from, &place])), own);

    let again = at(&store, &["push", from, &place]);
    assert!(digest(&again) == own && again.stderr.contains("there already, and the same"), "{}", again.stderr);
    fs::write(folder.path().join("adapter_model.safetensors"), "other weights").unwrap();
    let unpacked = at(&store, &["push", from, &place]);
    assert!(unpacked.stderr.contains("pack it again"), "{}", unpacked.stderr);
    digest(&pack(folder.path(), &[]));
    let refused = at(&store, &["push", from, &place]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("a new version belongs under a new path"), "{}", refused.stderr);
    assert_eq!(digest(&at(&store, &["verify", &place])), own);
    for odd in ["s3://models/v1/", "s3://models/", "s3://models/模型/v1/", "s3://models/risk/v 1/"] {
        assert_eq!(at(&store, &["push", from, odd]).code, Some(1), "{odd}");
    }
}

#[test]
fn without_credentials_one_is_told_where_they_are_looked_for() {
    let store = Store::start();
    let url = store.way.url();
    let arguments = ["adapter", "ls", "s3://models/", "--endpoint", &url];
    let finished = tutti_tests::run(&arguments, &[("AWS_EC2_METADATA_DISABLED", "true")]);
    assert_eq!(finished.code, Some(1));
    for part in ["no credentials that it takes", "AWS_ACCESS_KEY_ID"] {
        assert!(finished.stderr.contains(part), "{}", finished.stderr);
    }
}

#[test]
fn a_large_one_goes_in_parts_and_a_pull_that_is_killed_goes_on() {
    let (store, folder) = (Store::start(), large(70 << 20));
    let place = format!("s3://{BUCKET}/risk/v1/");
    // Some parts fail once.
    store.way.set(|line, count| {
        if line.contains("partNumber") && count % 3 == 0 { Fault::Answer(503, "SlowDown") } else { Fault::Pass }
    });
    let own = digest(&at(&store, &["push", folder.path().to_str().unwrap(), &place]));
    assert!(store.way.seen().iter().any(|line| line.contains("partNumber=5")), "{:?}", store.way.seen());

    let out = folder.path().join("again");
    let is_part = |line: &str| line.starts_with("GET /models/risk/v1/adapter_model");
    // Two parts come, the others never.
    let mut parts = 0;
    store.way.set(move |line, _| {
        parts += usize::from(is_part(line));
        if parts > 2 && is_part(line) { Fault::Silence } else { Fault::Pass }
    });
    let mut pull = Command::new(tutti_tests::binary());
    pull.args(["adapter", "pull", &place, out.to_str().unwrap(), "--endpoint", &store.way.url()]);
    pull.arg("--credentials-file").arg(store.credentials_file()).stderr(Stdio::null()).stdout(Stdio::null());
    let mut pull = pull.spawn().unwrap();
    let record = out.join("adapter_model.safetensors.part.record");
    eventually("two parts are there", || {
        (fs::read_to_string(&record).unwrap_or_default().lines().count() >= 3).then_some(())
    });
    pull.kill().unwrap();
    pull.wait().unwrap();
    assert!(!out.join("adapter_model.safetensors").exists());

    store.way.set(|_, _| Fault::Pass);
    assert_eq!(digest(&at(&store, &["pull", &place, out.to_str().unwrap()])), own);
    assert_eq!(store.way.seen().iter().filter(|line| is_part(line)).count(), 3, "those that were missing of five");
    same_files(folder.path(), &out);
}

/// Pulls onto a disk of its own, in a mount namespace, where root may make one; while it does, `meanwhile` runs in the
/// disk's folder. Yields what was said and what is left there.
fn on_a_disk(store: &Store, place: &str, options: &str, meanwhile: &str) -> Option<(String, String)> {
    let disk = store.folder.path().join("disk");
    fs::create_dir_all(&disk).unwrap();
    let script = r#"mount -t tmpfs -o "$1" none "$2" || exit 77; cd "$2"
        "$3" adapter pull "$4" "$2" --endpoint "$5" --credentials-file "$6" & eval "$7"; wait; ls -A"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", options]).arg(&disk).arg(tutti_tests::binary());
    command.args([place, &store.way.url()]).arg(store.credentials_file()).arg(meanwhile);
    let output = command.output().ok()?;
    if output.status.code() == Some(77) {
        return None;
    }
    Some((String::from_utf8_lossy(&output.stderr).into_owned(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[test]
fn a_full_disk_and_one_that_takes_nothing_are_named_and_nothing_is_left_there() {
    let (store, folder) = (Store::start(), large(20 << 20));
    let place = format!("s3://{BUCKET}/risk/v1/");
    digest(&at(&store, &["push", folder.path().to_str().unwrap(), &place]));
    let Some((said, left)) = on_a_disk(&store, &place, "size=4m", "") else { return };
    assert!(said.contains("the disk is full (20971520 bytes are needed, "), "{said}");
    assert!(!left.contains("safetensors"), "{left}");
    let (said, left) = on_a_disk(&store, &place, "ro", "").unwrap();
    assert!(said.contains("the disk is read-only") && left.is_empty(), "{said} {left}");
    // Room enough when it is looked at, and none when it is written.
    store.way.set(|line, _| if line.contains("safetensors") { Fault::Slow(4 << 20) } else { Fault::Pass });
    let fill = "until [ -e adapter_model.safetensors.part.record ]; do sleep 0.01; done; cat /dev/zero > filler";
    let (said, left) = on_a_disk(&store, &place, "size=30m", fill).unwrap();
    assert!(said.contains("the disk is full: make room"), "{said}");
    assert!(left.contains("filler") && !left.contains("safetensors"), "{left}");
}
