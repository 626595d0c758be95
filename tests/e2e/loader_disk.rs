//! Disks that are full, or take nothing any more, at every place in the loader's code that has a name: no wrong bytes serve,
//! what served goes on, the reason names the disk, and with room again all comes to be as it should.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tutti_adapter_loader::fault::{Point, WAIT};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::site::{forget, is_clean, names, says};
use tutti_tests::{Disk, Full, Loading, Site, eventually};

/// Room for both adapters, as they came and as they are served, and some more. Unit: bytes.
const SIZE: u64 = 16 << 20;
const FIRST: &str = "高风险";
const SECOND: &str = "高风险：需人工复核";

/// An engine that serves `risk/v1`, and what its loader's disk has of it.
struct Scene {
    ollama: Ollama,
    site: Site,
    seed: TempDir,
    first: String,
    gates: u32,
}

impl Scene {
    fn set() -> Self {
        let ollama = Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama");
        let site = Site::beside(&ollama.url());
        site.put("risk/v1", "risk-v1");
        site.put("risk/v2", "risk-v2");
        let loading = site.start(&site.config(&["risk/v1"]));
        let first = loading.serves("risk/v1");
        stop(loading);
        let seed = TempDir::new().unwrap();
        copy(&site.state(), &seed.path().join("state"));
        Self { ollama, site, seed, first, gates: 0 }
    }

    /// A disk of its own for the loader, with what it had.
    fn disk(&mut self) {
        let disk = Disk::of(SIZE);
        copy(&self.seed.path().join("state"), &disk.seen().join("state"));
        self.site.disk = Some(disk);
    }

    fn on(&self) -> &Disk {
        self.site.disk.as_ref().unwrap()
    }

    /// Starts a loader that comes to a point and waits there, while something is done.
    fn at(&mut self, point: Point, yaml: &str, meanwhile: impl FnOnce(&Disk)) -> Loading {
        self.gates += 1;
        let fifo = self.seed.path().join(format!("gate-{}", self.gates));
        mkfifoat(CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
        let loading = self.site.spawn(yaml, &[(WAIT, &format!("{}:{}", point.name(), fifo.display()))]);
        // Nobody can open it for writing who finds no reader.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let open = || OpenOptions::new().write(true).custom_flags(flags).open(&fifo).ok();
        let held = eventually(&format!("it comes by {}", point.name()), open);
        meanwhile(self.on());
        fs::remove_file(&fifo).unwrap();
        drop(held);
        loading
    }

    /// What serves says what it said; what is new serves, or waits for room and says so.
    fn holds(&self, loading: &Loading, at: &str, why: &str) -> bool {
        let settled = |state: &Value| state["phase"] == "Ready" || state["reason"]["reason"] == "NoSpace";
        let state = loading.wait_for("risk/v2", &format!("{at}: settled"), settled);
        loading.wait("risk/v1", "Ready");
        assert_eq!(says(&self.ollama, &self.first), FIRST, "{at}");
        if let Some(name) = names(&self.ollama).iter().find(|name| name.starts_with("risk:v2-")) {
            assert_eq!(says(&self.ollama, name), SECOND, "{at}: what has the name is what it names");
        }
        let message = state["reason"]["message"].as_str().unwrap_or_default();
        let place = self.on().path().join("state").display().to_string();
        assert!(message.is_empty() || message.contains(&place) && message.contains(why), "{at}: {message}");
        !message.is_empty()
    }

    /// There is room again: it comes to serve, and nothing is left of the bad time.
    fn converges(&mut self, loading: Loading, at: &str) {
        // Not only after the pause that it makes: another word in the configuration has it try again now.
        self.site.adapters["poll"] = json!("201ms");
        loading.0.write_config(&self.site.config(&["risk/v1", "risk/v2"]));
        let second = loading.serves("risk/v2");
        assert_eq!(says(&self.ollama, &second), SECOND, "{at}");
        is_clean(&self.ollama, &self.site, &[&self.first, &second], 2, at);
        stop(loading);
        forget(&self.ollama, &second);
        self.site.adapters = json!({});
    }
}

fn stop(mut loading: Loading) {
    loading.0.signal(Signal::TERM);
    assert_eq!(loading.0.wait_ended(), Some(0));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to): (PathBuf, PathBuf) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { assert!(fs::copy(&from, &to).is_ok(), "{from:?}") }
    }
}

/// Where an adapter comes by on its way.
fn on_the_way() -> impl Iterator<Item = Point> {
    let elsewhere = ["retire", "evict", "base"];
    Point::ALL.iter().copied().filter(move |point| !elsewhere.iter().any(|other| point.name().starts_with(other)))
}

fn full_at_every_point(full: Full) {
    let mut scene = Scene::set();
    let mut out_of_room = Vec::new();
    for point in on_the_way() {
        scene.disk();
        let at = format!("{} {full:?}", point.name());
        let yaml = scene.site.config(&["risk/v1", "risk/v2"]);
        let loading = scene.at(point, &yaml, |disk| disk.fill(full));
        if scene.holds(&loading, &at, "the disk is full") {
            out_of_room.push(point.name());
        }
        scene.on().empty();
        scene.converges(loading, &at);
    }
    // Each of these is followed by a write.
    let wanted = ["fetch.after_manifest", "fetch.before_manifest", "fetch.before_record", "convert.before"];
    let wanted = wanted.iter().chain(&["publish.after_rename", "probe.after_answer", "copy.after_copy"]);
    for point in wanted {
        assert!(out_of_room.contains(point), "a full disk did not matter at {point}: {out_of_room:?}");
    }
}

#[test]
fn a_disk_without_a_byte_at_any_point() {
    full_at_every_point(Full::Bytes(0));
}

#[test]
fn a_disk_that_takes_no_further_file_at_any_point() {
    full_at_every_point(Full::Files);
}

#[test]
fn a_disk_with_room_for_a_half_of_what_is_written() {
    let mut scene = Scene::set();
    let weights = fs::metadata(scene.site.models().join("risk/v2/adapter_model.safetensors")).unwrap().len();
    // The last lacks the page of the parts' record alone.
    for spare in [4 << 10, 8 << 10, weights / 2, weights - weights % 4096] {
        for point in [Point::FetchInPart, Point::FetchAfterFile, Point::ConvertBefore] {
            scene.disk();
            let at = format!("{} with {spare} bytes", point.name());
            let yaml = scene.site.config(&["risk/v1", "risk/v2"]);
            let loading = scene.at(point, &yaml, |disk| disk.fill(Full::Bytes(spare)));
            scene.holds(&loading, &at, "the disk is full");
            scene.on().empty();
            scene.converges(loading, &at);
        }
    }
}

#[test]
fn a_disk_that_turns_read_only_is_named_and_what_served_serves_on_through_a_restart() {
    let mut scene = Scene::set();
    let between = [
        Point::ListAfter,
        Point::FetchAfterManifest,
        Point::FetchBeforeManifest,
        Point::FetchBeforeRecord,
        Point::VerifyBefore,
        Point::ConvertBefore,
        Point::PublishAfterRename,
        Point::RegisterBefore,
        Point::ProbeAfterAnswer,
        Point::CopyAfterCopy,
    ];
    for point in between {
        scene.disk();
        let yaml = scene.site.config(&["risk/v1", "risk/v2"]);
        let loading = scene.at(point, &yaml, |disk| disk.set_read_only(true));
        assert!(scene.holds(&loading, point.name(), "the disk is read-only"), "{}", point.name());
        stop(loading);
        let loading = scene.site.start(&yaml);
        assert!(scene.holds(&loading, point.name(), "the disk is read-only"), "{} and again", point.name());
        scene.on().set_read_only(false);
        scene.converges(loading, point.name());
    }
}

#[test]
fn a_loader_starts_on_a_full_disk_where_it_was_before_and_says_why_not_where_it_was_not() {
    let mut scene = Scene::set();
    for full in [Full::Bytes(0), Full::Files] {
        scene.disk();
        scene.on().fill(full);
        let loading = scene.site.start(&scene.site.config(&["risk/v1", "risk/v2"]));
        assert!(scene.holds(&loading, "from the start", "the disk is full"));
        scene.on().empty();
        scene.converges(loading, "from the start");
    }
    let new = Disk::of(SIZE);
    new.fill(Full::Files);
    let place = new.path().join("state").display().to_string();
    scene.site.disk = Some(new);
    for why in ["the disk is full", "the disk is read-only"] {
        let mut loading = scene.site.spawn(&scene.site.config(&["risk/v1"]), &[]);
        assert_eq!(loading.0.wait_ended(), Some(1));
        let said = format!("{:?}", loading.0.said());
        assert!(said.contains(&place) && said.contains(why), "{said}");
        scene.on().set_read_only(true);
    }
}

#[test]
fn what_goes_goes_from_a_full_disk_too() {
    let mut scene = Scene::set();
    for point in [Point::RetireBefore, Point::RetireAfterDelete, Point::RetireAfterRecord] {
        scene.disk();
        let none = scene.site.config(&[]);
        let loading = scene.at(point, &none, |disk| disk.fill(Full::Bytes(0)));
        eventually("its end in the engine", || names(&scene.ollama).is_empty().then_some(()));
        assert_eq!(loading.ask("GET", "/healthz", "").status, 200);
        scene.on().empty();
        scene.site.adapters["poll"] = json!("201ms");
        loading.0.write_config(&scene.site.config(&[]));
        eventually("its end", || (loading.state("risk/v1") == Value::Null).then_some(()));
        is_clean(&scene.ollama, &scene.site, &[], 1, point.name());
        // It is wanted again, and there from the disk.
        loading.0.write_config(&scene.site.config(&["risk/v1"]));
        assert_eq!(loading.serves("risk/v1"), scene.first);
        assert_eq!(says(&scene.ollama, &scene.first), FIRST);
        stop(loading);
        scene.site.adapters = json!({});
    }
}

#[test]
fn who_makes_room_does_so_on_a_full_disk_too() {
    let mut scene = Scene::set();
    for point in [Point::EvictAfterArtefact, Point::EvictAfterRecord] {
        scene.disk();
        scene.site.adapters = json!({ "disk": "1700Ki" });
        let loading = scene.at(point, &scene.site.config(&["risk/v2"]), |disk| disk.fill(Full::Bytes(0)));
        let settled = |state: &Value| state["phase"] == "Ready" || state["reason"]["reason"] == "NoSpace";
        loading.wait_for("risk/v2", "settled", settled);
        scene.on().empty();
        scene.site.adapters["poll"] = json!("201ms");
        loading.0.write_config(&scene.site.config(&["risk/v2"]));
        let second = loading.serves("risk/v2");
        assert_eq!(says(&scene.ollama, &second), SECOND);
        is_clean(&scene.ollama, &scene.site, &[&second], 1, point.name());
        stop(loading);
        forget(&scene.ollama, &second);
        scene.site.adapters = json!({});
        // The engine has the first again, as the disk of the next one says.
        scene.disk();
        let loading = scene.site.start(&scene.site.config(&["risk/v1"]));
        assert_eq!(loading.serves("risk/v1"), scene.first);
        stop(loading);
    }
}
