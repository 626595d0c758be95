//! The whole loader between a real MinIO and a real Ollama. Whatever is wrong with an adapter has a reason of its own and holds up
//! nobody; whatever is wrong with the store is said by name, what serves goes on serving, and what is wanted comes once the store
//! is well again.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::fs;
use std::path::Path;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::site::{FILES, files, forget, manifest, names, says, write};
use tutti_tests::{BUCKET, Clock, Fault, Loading, Site, Store, eventually};

const FIRST: &str = "高风险";
const SECOND: &str = "高风险：需人工复核";
/// What the pool's adapters may take of the disk, and what is more than that. Unit: bytes.
const DISK: usize = 8 << 20;

fn ollama() -> Ollama {
    Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama")
}

/// A loader's site whose adapters come from the store.
fn site(store: &Store, engine: &str) -> Site {
    let mut site = Site::beside(engine);
    let spec = store.spec();
    site.from = Some(format!("s3://{BUCKET}/"));
    site.adapters = json!({ "s3": { "endpoint": spec.endpoint, "credentialsFile": spec.credentials_file } });
    site
}

/// Puts one of the rig's adapters into the store.
fn push(store: &Store, site: &Site, path: &str, adapter: &str) {
    store.push(&site.put(path, adapter), path);
}

/// Another manifest, of the files as they are now.
fn pack(folder: &Path) {
    write(&folder.join("manifest.json"), manifest(folder).to_string().as_bytes());
}

/// Changes the weights; the manifest is still of what they were.
fn change(folder: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(folder.join(FILES[1])).unwrap();
    how(&mut bytes);
    write(&folder.join(FILES[1]), &bytes);
}

/// Changes the weights, which the manifest knows.
fn weights(folder: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    change(folder, how);
    pack(folder);
}

/// Changes what the weights say of themselves.
fn header(folder: &Path, how: impl FnOnce(&mut String)) {
    weights(folder, |bytes| {
        let end = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let mut text = String::from_utf8(bytes[8..end].to_vec()).unwrap();
        let before = text.clone();
        how(&mut text);
        assert_ne!(text, before, "nothing was changed");
        bytes.splice(..end, [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat());
    });
}

/// Changes PEFT's configuration.
fn config(folder: &Path, more: Value) {
    let mut config: Value = serde_json::from_slice(&fs::read(folder.join(FILES[0])).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    write(&folder.join(FILES[0]), config.to_string().as_bytes());
    pack(folder);
}

/// Changes the manifest.
fn said(folder: &Path, how: impl FnOnce(&mut Value)) {
    let mut said = manifest(folder);
    how(&mut said);
    write(&folder.join("manifest.json"), said.to_string().as_bytes());
}

/// Adds a file, and to the manifest that there is one of its size.
fn with_file(folder: &Path, name: &str, size: usize) {
    write(&folder.join(name), &vec![0; size]);
    said(folder, |said| said["files"][name] = json!({ "sha256": format!("sha256:{}", "0".repeat(64)), "size": size }));
}

/// The end of the weights becomes this number.
fn ends_with(folder: &Path, number: f32) {
    weights(folder, |bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&number.to_le_bytes());
    });
}

/// What is wrong with one: its name, what is done to a whole one, and the reason and words that it comes to.
type Wrong = (&'static str, fn(&Path), &'static str, &'static str);

/// Wrong by its list and its manifest.
const BY_ITS_MANIFEST: [Wrong; 13] = [
    ("cut", |at| change(at, |bytes| bytes.truncate(bytes.len() - 1)), "DigestMismatch", "by its manifest"),
    ("longer", |at| change(at, |bytes| bytes.push(0)), "DigestMismatch", "by its manifest"),
    ("emptied", |at| change(at, Vec::clear), "DigestMismatch", "has 0 bytes"),
    ("flipped", |at| change(at, |bytes| bytes[6000] ^= 1), "DigestMismatch", FILES[1]),
    (
        "huge",
        |at| said(at, |said| said["files"][FILES[1]]["size"] = json!(1_u64 << 60)),
        "DigestMismatch",
        "by its manifest",
    ),
    (
        "missing",
        |at| said(at, |said| said["files"]["more.bin"] = said["files"][FILES[0]].clone()),
        "DigestMismatch",
        "is not there",
    ),
    ("manifest-empty", |at| write(&at.join("manifest.json"), b""), "InvalidManifest", "it is no manifest"),
    (
        "manifest-large",
        |at| write(&at.join("manifest.json"), &vec![b' '; (1 << 20) + 1]),
        "InvalidManifest",
        "larger than is read",
    ),
    ("manifest-half", said_half, "InvalidManifest", "it is no manifest"),
    (
        "climbs",
        |at| said(at, |said| said["files"]["../ok/v1/x"] = said["files"][FILES[0]].clone()),
        "InvalidManifest",
        "plain names",
    ),
    ("many", |at| said(at, many), "InvalidManifest", "1 to 64"),
    ("odd-key", |at| write(&at.join("a:b.bin"), b"x"), "InvalidFile", "has a name that is not taken"),
    ("above-disk", |at| with_file(at, "more.bin", DISK + 1), "NoSpace", "adapters.disk"),
];

/// Wrong by what is in its files, which are those of its manifest.
const BY_ITS_FILES: [Wrong; 20] = [
    ("zero-bytes", |at| weights(at, Vec::clear), "InvalidFile", "and no header"),
    ("packed-cut", |at| weights(at, |bytes| bytes.truncate(bytes.len() - 1)), "InvalidFile", "not into the file"),
    ("packed-longer", |at| weights(at, |bytes| bytes.push(0)), "InvalidFile", "its tensors end at byte"),
    ("header-endless", |at| weights(at, |bytes| bytes[..8].fill(0xff)), "InvalidFile", "at most"),
    ("header-beyond", |at| weights(at, |bytes| bytes[2] = 9), "InvalidFile", "it is cut off"),
    ("header-no-json", |at| header(at, |text| text.replace_range(..1, "[")), "InvalidFile", "its header"),
    (
        "shape-lies",
        |at| header(at, |text| *text = text.replacen("[8,256]", "[9,256]", 1)),
        "InvalidFile",
        "do not go together",
    ),
    (
        "shape-huge",
        |at| header(at, |text| *text = text.replacen("[8,256]", "[9223372036854775807,4]", 1)),
        "InvalidFile",
        "do not go together",
    ),
    (
        "offsets-lie",
        |at| header(at, |text| *text = text.replacen("[0,8192]", "[1,8193]", 1)),
        "InvalidFile",
        "and should at",
    ),
    (
        "config-empty",
        |at| {
            write(&at.join(FILES[0]), b"");
            pack(at)
        },
        "InvalidFile",
        "no configuration of a LoRA",
    ),
    (
        "config-large",
        |at| {
            write(&at.join(FILES[0]), &vec![b' '; (1 << 20) + 1]);
            pack(at)
        },
        "InvalidFile",
        "at most 1048576 are read",
    ),
    (
        "other-base",
        |at| said(at, |said| said["base"]["digest"] = json!(format!("sha256:{}", "0".repeat(64)))),
        "WrongBase",
        "it was trained on",
    ),
    (
        "other-layers",
        |at| header(at, |text| *text = text.replace("layers.1.", "layers.9.")),
        "WrongBase",
        "fewer layers",
    ),
    (
        "other-shapes",
        |at| {
            header(at, |text| {
                *text = text.replace("k_proj", "q_projX").replace("q_proj.", "k_proj.").replace("q_projX", "q_proj")
            })
        },
        "WrongBase",
        "is for weights of",
    ),
    ("rank", |at| config(at, json!({ "r": 4 })), "InvalidFile", "the ranks 8 and 8"),
    ("rank-said", |at| said(at, |said| said["rank"] = json!(4)), "InvalidManifest", "says rank 4"),
    ("dora", |at| config(at, json!({ "use_dora": true })), "Unsupported", "use_dora"),
    ("whole-layers", |at| config(at, json!({ "modules_to_save": ["lm_head"] })), "Unsupported", "modules_to_save"),
    ("nan", |at| ends_with(at, f32::NAN), "NotFinite", "NaN"),
    ("infinite", |at| ends_with(at, f32::NEG_INFINITY), "NotFinite", "infinite"),
];

/// Wrong by what the engine answers with it.
const BY_ITS_ANSWER: [Wrong; 2] = [
    ("no-effect", |at| weights(at, |bytes| bytes[8 + 5296..].fill(0)), "NoEffect", "as its base does"),
    (
        "unexpected",
        |at| said(at, |said| said["probe"] = json!({ "prompt": "谢谢", "expect": "没有这样的回答" })),
        "ProbeFailed",
        "its manifest",
    ),
];

fn said_half(folder: &Path) {
    let text = fs::read(folder.join("manifest.json")).unwrap();
    write(&folder.join("manifest.json"), &text[..text.len() / 2]);
}

fn many(said: &mut Value) {
    for number in 0..65 {
        said["files"][format!("f{number}")] = said["files"][FILES[0]].clone();
    }
}

#[test]
fn whatever_is_wrong_with_one_has_its_own_reason_and_whole_ones_beside_it_serve() {
    let (store, ollama) = (Store::start(), ollama());
    let mut site = site(&store, &ollama.url());
    site.adapters["disk"] = json!("8Mi");
    let all: Vec<Wrong> = BY_ITS_MANIFEST.into_iter().chain(BY_ITS_FILES).chain(BY_ITS_ANSWER).collect();
    for (name, how, ..) in &all {
        let path = format!("bad/{name}");
        let folder = site.put(&path, "risk-v1");
        how(&folder);
        store.push(&folder, &path);
    }
    push(&store, &site, "ok/v1", "risk-v1");
    push(&store, &site, "ok/v2", "risk-v2");
    let paths: Vec<String> = all.iter().map(|(name, ..)| format!("bad/{name}")).collect();
    let wanted: Vec<&str> = ["ok/v1"].into_iter().chain(paths.iter().map(String::as_str)).chain(["ok/v2"]).collect();
    let loader = site.start(&site.config(&wanted));
    for ((name, _, reason, says), path) in all.iter().zip(&paths) {
        let message = loader.wait_quarantined(path, reason);
        assert!(message.contains(says), "{name}: {message}");
    }
    let (first, second) = (loader.serves("ok/v1"), loader.serves("ok/v2"));
    assert_eq!((says(&ollama, &first), says(&ollama, &second)), (FIRST.to_owned(), SECOND.to_owned()));
    eventually("readiness", || (loader.ask("GET", "/readyz", "").status == 200).then_some(()));
    eventually("no name but theirs", || (names(&ollama) == [first.clone(), second.clone()]).then_some(()));
    assert!(files(&site.state().join("source")).is_empty(), "what is quarantined takes no room");

    // Nothing of it is fetched again while all stays as it is; only what may find room.
    store.way.set(|_, _| Fault::Pass);
    let polls = |loader: &Loading| loader.metric("tutti_loader_polls_total{result=\"ok\"}");
    let before = polls(&loader);
    eventually("some polls", || (polls(&loader) > before + 5.0).then_some(()));
    let seen = store.way.seen();
    let fetched = seen.iter().find(|line| line.contains("/bad/") && !is_list(line) && !line.contains("/above-disk/"));
    assert_eq!(fetched, None, "it is fetched again");
    // Each that is mended serves, without a restart.
    push(&store, &site, "bad/nan", "risk-v2");
    assert_eq!(says(&ollama, &loader.serves("bad/nan")), SECOND);
}

/// Whether a request is for a list.
fn is_list(line: &str) -> bool {
    line.contains("list-type=2")
}

/// Whether it is for weights.
fn is_weights(line: &str) -> bool {
    line.starts_with("GET ") && line.contains(FILES[1])
}

/// A loader that has brought one adapter, and others that it is to bring in bad weather.
struct Scene {
    store: Store,
    ollama: Ollama,
    site: Site,
    loader: Loading,
    first: String,
    wanted: Vec<String>,
}

impl Scene {
    fn set() -> Self {
        let (store, ollama) = (Store::start(), ollama());
        let site = site(&store, &ollama.url());
        push(&store, &site, "risk/v1", "risk-v1");
        let loader = site.start(&site.config(&["risk/v1"]));
        let first = loader.serves("risk/v1");
        Self { store, ollama, site, loader, first, wanted: vec!["risk/v1".to_owned()] }
    }

    /// In weather that somebody makes another adapter is wanted, which waits and says why while the first serves on. It serves
    /// once the weather is over.
    fn weathers(&mut self, why: &str, begin: impl FnOnce(&mut Store), end: impl FnOnce(&mut Store)) {
        let path = self.wants(begin);
        waits(&self.loader, &self.ollama, &path, &self.first, why);
        end(&mut self.store);
        assert_eq!(says(&self.ollama, &self.loader.serves(&path)), SECOND, "{why}");
    }

    /// Another adapter is in the store, the weather begins, and then the models refer to it.
    fn wants(&mut self, begin: impl FnOnce(&mut Store)) -> String {
        let path = format!("risk/w{}", self.wanted.len());
        push(&self.store, &self.site, &path, "risk-v2");
        self.wanted.push(path.clone());
        begin(&mut self.store);
        let wanted: Vec<&str> = self.wanted.iter().map(String::as_str).collect();
        self.loader.0.write_config(&self.site.config(&wanted));
        path
    }
}

/// Waits until it is said that the store does not do what it should, and why; what serves serves.
fn waits(loader: &Loading, ollama: &Ollama, path: &str, first: &str, why: &str) {
    let message = |state: &Value| state["reason"]["message"].as_str().unwrap_or_default().to_owned();
    let is = |state: &Value| state["reason"]["reason"] == "SourceUnavailable" && message(state).contains(why);
    let state = loader.wait_for(path, &format!("to wait: {why}"), is);
    assert_ne!(state["phase"], "Quarantined", "it waits: {state}");
    assert_eq!((&*loader.serves("risk/v1"), &*says(ollama, first)), (first, FIRST));
}

#[test]
fn whatever_a_store_answers_is_said_and_what_is_wanted_comes_once_it_is_well() {
    type Meets = fn(&str) -> bool;
    let (lists, weights, all): (Meets, Meets, Meets) = (is_list, is_weights, |_| true);
    let mut scene = Scene::set();
    for (meets, fault, why) in [
        (lists, Fault::Answer(503, "SlowDown"), "answers 503 SlowDown"),
        (weights, Fault::Answer(503, "SlowDown"), "answers 503 SlowDown"),
        (lists, Fault::Answer(500, "InternalError"), "answers 500 InternalError"),
        (lists, Fault::Answer(403, "ExpiredToken"), "have expired"),
        (weights, Fault::Answer(400, "ExpiredToken"), "have expired"),
        (lists, Fault::Answer(403, "RequestTimeTooSkewed"), "set both by NTP"),
        (lists, Fault::Answer(403, "AccessDenied"), "allow them s3:ListBucket"),
        (weights, Fault::Answer(403, "AccessDenied"), "s3:GetObject"),
        (lists, Fault::Answer(418, "Teapot"), "answers 418 Teapot"),
        (lists, Fault::Cut(400), "s3://models/"),
        (weights, Fault::Close, "cannot be reached"),
        (all, Fault::Close, "cannot be reached"),
    ] {
        let begin = |store: &mut Store| {
            store.way.set(move |line, _| if meets(line) { fault.clone() } else { Fault::Pass });
        };
        scene.weathers(why, begin, |store| store.way.set(|_, _| Fault::Pass));
    }
    // One that is slow is waited for, and that is no fault.
    let slow = |store: &mut Store| {
        store.way.set(|line, _| if is_weights(line) { Fault::Slow(100_000) } else { Fault::Pass });
    };
    let path = scene.wants(slow);
    let state = scene.loader.wait(&path, "Fetching");
    assert!(state["reason"].is_null(), "{state}");
    assert_eq!(says(&scene.ollama, &scene.loader.serves(&path)), SECOND);
}

#[test]
fn a_store_that_goes_and_comes_back_and_credentials_that_are_wrong_are_waited_for() {
    let mut scene = Scene::set();
    scene.weathers("s3://models/", |store| store.minio.kill().unwrap(), |store| store.minio.restart().unwrap());
    let others = |store: &mut Store| store.minio.restart_with_other_credentials().unwrap();
    scene.weathers("InvalidAccessKeyId", others, |store| store.write_credentials());
    let wrong = |store: &mut Store| {
        let text = fs::read_to_string(store.credentials_file()).unwrap();
        write(&store.credentials_file(), text.replace(store.minio.credentials().1, "another-secret").as_bytes());
    };
    scene.weathers("SignatureDoesNotMatch", wrong, |store| store.write_credentials());
    let none = |store: &mut Store| write(&store.credentials_file(), b"nonsense");
    scene.weathers("check adapters.s3.credentialsFile", none, |store| store.write_credentials());

    let (key, secret) = scene.store.minio.credentials();
    let said = format!("{:?}", scene.loader.0.said());
    for (word, what) in [(key, "its key"), (secret, "its secret"), ("another-secret", "a wrong secret")] {
        assert!(!said.contains(word), "the log has {what}");
    }
    assert!(scene.loader.metric("tutti_loader_polls_total{result=\"failed\"}") > 0.0);
}

#[test]
fn a_clock_that_is_an_hour_off_is_allowed_for() {
    let (store, ollama, clock) = (Store::start(), ollama(), Clock::right());
    let site = site(&store, &ollama.url());
    push(&store, &site, "risk/v1", "risk-v1");
    push(&store, &site, "risk/v2", "risk-v2");
    // A store refuses what is signed a quarter of an hour before or after its own time.
    clock.set(-3600);
    let env = clock.env();
    let loader = site.spawn(&site.config(&["risk/v1"]), &env.each_ref().map(|(name, value)| (*name, value.as_str())));
    assert_eq!(says(&ollama, &loader.serves("risk/v1")), FIRST);
    let hour = |seconds: u64| {
        // of the day, as its log has it
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        format!("T{:02}:", (now + seconds) / 3600 % 24)
    };
    let line = loader.0.wait_said("tutti loads adapters")["timestamp"].as_str().unwrap_or_default().to_owned();
    assert!(!line.contains(&hour(0)), "its clock is right: {line}");
    clock.set(3600);
    loader.0.write_config(&site.config(&["risk/v1", "risk/v2"]));
    assert_eq!(says(&ollama, &loader.serves("risk/v2")), SECOND);
}

#[test]
fn an_object_store_that_is_down_keeps_an_engine_down_for_the_startup_budget_and_no_longer() {
    let (mut store, mut ollama) = (Store::start(), ollama());
    let mut site = site(&store, &ollama.url());
    push(&store, &site, "risk/v1", "risk-v1");
    push(&store, &site, "risk/v2", "risk-v2");
    let mut loader = site.start(&site.config(&["risk/v1"]));
    let first = loader.serves("risk/v1");
    loader.0.signal(Signal::TERM);
    assert_eq!(loader.0.wait_ended(), Some(0));
    drop(loader);
    forget(&ollama, &first);

    // As in a Pod: the engine starts once the startup probe has passed.
    store.minio.kill().unwrap();
    ollama.kill().unwrap();
    let budget = std::time::Duration::from_secs(4);
    site.adapters["startupBudget"] = json!("4s");
    let begun = Instant::now();
    let loader = site.start(&site.config(&["risk/v1", "risk/v2"]));
    let status = |page: &str| loader.ask("GET", page, "").status;
    assert_eq!((status("/startupz"), status("/readyz"), status("/healthz")), (503, 503, 200));
    eventually("the startup probe", || (status("/startupz") == 200).then_some(()));
    assert!(begun.elapsed() >= budget, "after {:?}, and the second is not on the disk", begun.elapsed());
    assert_eq!(status("/readyz"), 503, "the first is on the disk, and not proven");
    ollama.restart().unwrap();
    assert_eq!(loader.serves("risk/v1"), first, "it starts with what is there");
    assert_eq!(says(&ollama, &first), FIRST);
    // The second, which waits for the store alone, keeps nobody from serving.
    eventually("readiness", || (status("/readyz") == 200).then_some(()));
    waits(&loader, &ollama, "risk/v2", &first, "");
    // Later arrivals take it back from nobody.
    loader.0.write_config(&site.config(&["risk/v1", "risk/v2", "risk/v3"]));
    loader.wait_for("risk/v3", "to wait for the store", |state| state["reason"]["reason"] == "SourceUnavailable");
    assert_eq!((status("/startupz"), status("/readyz")), (200, 200));
    store.minio.restart().unwrap();
    assert_eq!(says(&ollama, &loader.serves("risk/v2")), SECOND);
    loader.wait_quarantined("risk/v3", "NotFound");
    assert_eq!((status("/startupz"), status("/readyz")), (200, 200));
}

#[test]
fn with_nothing_on_the_disk_an_engine_starts_and_serves_after_the_budget_all_the_same() {
    let (mut store, ollama) = (Store::start(), ollama());
    let mut site = site(&store, &ollama.url());
    push(&store, &site, "risk/v1", "risk-v1");
    store.minio.kill().unwrap();
    site.adapters["startupBudget"] = json!("2s");
    let begun = Instant::now();
    let loader = site.start(&site.config(&["risk/v1"]));
    for page in ["/startupz", "/readyz"] {
        eventually(page, || (loader.ask("GET", page, "").status == 200).then_some(()));
        assert!(begun.elapsed().as_secs() >= 2, "{page} after {:?}", begun.elapsed());
    }
    assert_eq!(loader.state("risk/v1")["reason"]["reason"], "SourceUnavailable");
    store.minio.restart().unwrap();
    assert_eq!(says(&ollama, &loader.serves("risk/v1")), FIRST);
}
