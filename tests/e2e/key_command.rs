//! `tutti key`: what it prints and writes, and what of the file is left when it is cut short.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tutti_tests::{Finished, binary, id_of, run};

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("keys.yaml")
    }

    /// Runs `tutti key` with these arguments and this file.
    fn key(&self, arguments: &[&str]) -> Finished {
        let file = self.file();
        run(&[&["key"], arguments, &["--keys-file", file.to_str().expect("a plain path")]].concat(), &[])
    }

    fn new_key(&self, name: &str) -> String {
        let made = self.key(&["new", "--name", name, "--tenant", "acme"]);
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        made.stdout.trim_end().to_owned()
    }

    fn listed(&self) -> Vec<Value> {
        let listed = self.key(&["list", "--json"]);
        assert_eq!(listed.code, Some(0), "{}", listed.stderr);
        serde_json::from_str(&listed.stdout).expect("JSON")
    }

    fn ids(&self) -> BTreeSet<String> {
        self.listed().iter().map(|key| key["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// What would make a key, by a shell that runs `before` first.
    fn shell(&self, before: &str) -> Output {
        let script = format!("{before}; exec \"$0\" key new --name late --tenant acme --keys-file \"$1\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).arg(binary()).arg(self.file()).env("HOME", self.0.path()).output().expect("a shell")
    }
}

#[test]
fn a_key_is_printed_once_and_only_its_hash_is_kept() {
    let folder = Folder::new();
    let made = folder.key(&["new", "--name", "ci runner", "--tenant", "acme", "--models", "risk, acme/*"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let [key] = made.stdout.lines().collect::<Vec<_>>()[..] else { panic!("one line: {}", made.stdout) };
    assert!(key.starts_with("tutti_") && key.len() == 64, "{key}");
    let secret = key.rsplit('_').next().unwrap();
    let kept = fs::read_to_string(folder.file()).unwrap();
    assert!(!kept.contains(secret) && !made.stderr.contains(secret), "{kept}{}", made.stderr);
    assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o600);

    let table = folder.key(&["list"]).stdout;
    let row = table.lines().nth(1).unwrap();
    for cell in [&id_of(key), "active", "acme", "ci runner", "never", "risk, acme/*"] {
        assert!(row.contains(cell), "{cell} in {table}");
    }
    assert!(!table.contains(secret));
    assert!(folder.listed()[0].get("sha256").is_none());
}

#[test]
fn a_revoked_key_stays_in_the_list() {
    let folder = Folder::new();
    let (first, second) = (folder.new_key("first"), folder.new_key("second"));
    let refused = folder.key(&["revoke", &first]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains(&format!("tutti key revoke {}", id_of(&first))), "{}", refused.stderr);
    assert!(!refused.stderr.contains(&first), "a key is not shown again");
    assert_eq!(folder.key(&["revoke", &id_of(&first)]).code, Some(0));
    assert_eq!(folder.key(&["revoke", "nobody"]).code, Some(1));
    let states: Vec<Value> = folder.listed().iter().map(|key| key["state"].clone()).collect();
    assert_eq!(states, ["revoked", "active"]);
    assert!(folder.ids().contains(&id_of(&second)));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let folder = Folder::new();
    folder.new_key("first");
    let before = fs::read_to_string(folder.file()).unwrap();
    for (arguments, says) in [
        (&["--tenant", "a b"][..], "tenant: this text does not fit"),
        (&["--tenant", "a", "--models", "risk,"], "models[1]: this text does not fit"),
        (&["--tenant", "a", "--models", "a*b"], "`*` stands only at the end"),
        (&["--tenant", "a", "--concurrency", "0"], "concurrency: 0 does not fit"),
        (&["--tenant", "a", "--expires", "2020-01-01T00:00:00Z"], "that time is over"),
        (&["--tenant", "a", "--expires", "soon"], "write 90d"),
    ] {
        let ended = folder.key(&[&["new", "--name", "n"], arguments].concat());
        assert!(matches!(ended.code, Some(1 | 2)) && ended.stderr.contains(says), "{says} in {}", ended.stderr);
        assert_eq!(ended.stdout, "");
        assert_eq!(fs::read_to_string(folder.file()).unwrap(), before);
    }
    fs::write(folder.file(), "keys: [{ idd: x }]").unwrap();
    let ended = folder.key(&["new", "--name", "n", "--tenant", "t"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("keys.yaml:1:10: keys[0]: unknown field `idd`; did you mean `id`?"),
        "{}",
        ended.stderr
    );
    fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(folder.key(&["list"]).stderr.contains("chmod 600"));
}

#[test]
fn without_a_file_to_write_to_the_way_on_is_said() {
    let ended = run(&["key", "new", "--name", "n", "--tenant", "t"], &[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("keysFile") && ended.stderr.contains("--keys-file"), "{}", ended.stderr);
}

#[test]
fn a_key_that_nobody_got_is_named() {
    let folder = Folder::new();
    let ended = folder.shell("exec >/dev/full");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    let [id] = folder.ids().into_iter().collect::<Vec<_>>().try_into().unwrap();
    assert!(said.contains(&format!("revoke it: tutti key revoke {id}")), "{said}");
}

/// The files beside the keys file.
fn left_over(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".new")).collect()
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    let folder = Folder::new();
    let key = folder.new_key("first");
    let before = fs::read_to_string(folder.file()).unwrap();
    // No file may grow: writing fails, as on a full disk, where the signal for it is ignored.
    let ended = folder.shell("trap '' XFSZ; ulimit -f 0");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("which is as it was"), "{said}");
    assert!(ended.stdout.is_empty(), "no key for nothing");
    assert_eq!(fs::read_to_string(folder.file()).unwrap(), before);
    assert_eq!(left_over(folder.0.path()), <[&str; 0]>::default());
    // And where it is not, the signal kills in the middle of the write.
    let ended = folder.shell("ulimit -f 0");
    assert_eq!(ended.status.code(), None, "killed");
    assert_eq!(fs::read_to_string(folder.file()).unwrap(), before);
    let second = folder.new_key("second");
    assert_eq!(folder.ids(), BTreeSet::from([id_of(&key), id_of(&second)]));
    assert_eq!(left_over(folder.0.path()), <[&str; 0]>::default());
}

#[test]
fn killed_at_any_moment_it_leaves_a_whole_file_with_every_key_that_was_printed() {
    let folder = Folder::new();
    let mut printed = BTreeSet::from([id_of(&folder.new_key("first"))]);
    let mut killed = 0;
    for round in 0..120u64 {
        let mut command = Command::new(binary());
        command.args(["key", "new", "--name", "n", "--tenant", "t", "--keys-file"]).arg(folder.file());
        command.env("HOME", folder.0.path()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // From its start to about its end, in steps of 100 µs: the moment is what is tried here.
        std::thread::sleep(Duration::from_micros(round * 100));
        child.kill().unwrap();
        let Output { status, stdout, .. } = child.wait_with_output().unwrap();
        killed += u32::from(status.code().is_none());
        printed.extend(String::from_utf8(stdout).unwrap().lines().map(id_of));
        let ids = folder.ids();
        assert!(printed.is_subset(&ids), "round {round}: {printed:?} in {ids:?}");
    }
    assert!(killed > 10, "it ended before it could be killed: {killed}");
    folder.new_key("last");
    assert_eq!(left_over(folder.0.path()), <[&str; 0]>::default());
}

#[test]
fn two_commands_at_once_lose_nothing() {
    let folder = Folder::new();
    let keys: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..5).map(|_| folder.new_key("n")).collect())).collect();
        threads.into_iter().flat_map(|thread| -> Vec<String> { thread.join().unwrap() }).collect()
    });
    assert_eq!(folder.ids(), keys.iter().map(|key| id_of(key)).collect());
    assert_eq!(folder.ids().len(), 20);
}
