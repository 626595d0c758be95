//! Files on their way from a real object store: cut, slow, replaced, forged, and onto disks that do not take them.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sha2::Digest as _;
use tutti_adapter_loader::fetch::{Counts, FetchError, Limits, fetch};
use tutti_adapter_loader::source::{Object, Source, Trouble};
use tutti_api::{Digest, FetchSpec, FileEntry, Reason};
use tutti_tests::{BUCKET, Fault, Store};

/// Size of a part here. Unit: bytes.
const PART: usize = 64 << 10;
/// What is fetched.
const KEY: &str = "risk/v2/adapter_model.safetensors";

fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn random(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

fn entry(content: &[u8]) -> FileEntry {
    FileEntry { sha256: Digest::new(sha2::Sha256::digest(content).into()), size: content.len() as u64 }
}

fn limits() -> Limits {
    Limits::new(&FetchSpec::default()).with(PART as u64, Duration::from_secs(1))
}

/// A store with one file in it, and where it is to come.
struct Case {
    store: Store,
    source: Arc<Source>,
    content: Vec<u8>,
    object: Object,
    into: PathBuf,
    counts: Arc<Counts>,
}

impl Case {
    fn of(size: usize) -> Self {
        let (store, content) = (Store::start(), random(size));
        store.put(KEY, &content);
        let source = store.source();
        let object = listed(&source);
        let into = store.folder.path().join("fetched/file");
        fs::create_dir(into.parent().unwrap()).unwrap();
        Self { store, source, content, object, into, counts: Arc::default() }
    }

    fn fetch(&self) -> Result<Digest, FetchError> {
        self.fetch_with(&limits())
    }

    fn fetch_with(&self, limits: &Limits) -> Result<Digest, FetchError> {
        let entry = entry(&self.content);
        now(fetch(&self.source, KEY, &self.object, Some(&entry), &self.into, limits, &self.counts))
    }

    /// It came, whole, and nothing beside it.
    fn came(&self) {
        assert_eq!(self.fetch().unwrap(), entry(&self.content).sha256);
        assert!(fs::read(&self.into).unwrap() == self.content, "other bytes");
        assert_eq!(files(&self.into), ["file"]);
    }

    fn retries(&self) -> u64 {
        self.counts.retries.load(Ordering::Relaxed)
    }
}

fn listed(source: &Source) -> Object {
    now(source.list("risk/v2", 10)).unwrap().remove(0)
}

/// What lies beside a file, itself included.
fn files(file: &Path) -> Vec<String> {
    let entries = fs::read_dir(file.parent().unwrap()).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn is_get(line: &str) -> bool {
    line.starts_with("GET /models/risk/v2/")
}

#[test]
fn files_of_every_size_come_whole() {
    for size in [0, 1, PART - 1, PART, PART + 1, 10 * PART + 7] {
        Case::of(size).came();
    }
}

#[test]
fn what_is_cut_goes_on_from_there() {
    let case = Case::of(20 * PART);
    case.store.way.set(|_, count| if count % 3 == 0 { Fault::Cut(PART / 2) } else { Fault::Pass });
    case.came();
    assert!(case.retries() >= 7, "{} retries", case.retries());
    let fetched = case.counts.fetched.load(Ordering::Relaxed);
    assert_eq!(fetched, case.content.len() as u64, "no byte came twice");
}

#[test]
fn what_stalls_is_asked_for_again() {
    let case = Case::of(4 * PART);
    case.store.way.set(|_, count| match count {
        0 => Fault::Stall(PART / 2),
        1 => Fault::Close,
        2 => Fault::Answer(503, "SlowDown"),
        _ => Fault::Pass,
    });
    case.came();
    assert!((3..=5).contains(&case.retries()), "{} retries", case.retries());
}

#[test]
fn what_is_slow_comes_and_a_bandwidth_is_held() {
    let case = Case::of(4 * PART);
    case.store.way.set(|_, _| Fault::Slow(128 << 10));
    case.came();
    assert_eq!(case.retries(), 0, "slow is not stalled");
    case.store.way.set(|_, _| Fault::Pass);
    let spec: FetchSpec = serde_json::from_str(r#"{"bandwidth": "256Ki"}"#).unwrap();
    let begun = Instant::now();
    case.fetch_with(&Limits::new(&spec).with(PART as u64, Duration::from_secs(5))).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[test]
fn no_more_parts_are_on_the_way_than_are_allowed() {
    let case = Case::of(12 * PART);
    let (at_once, most) = (Arc::new(std::sync::Mutex::new(0_i32)), Arc::new(std::sync::Mutex::new(0_i32)));
    case.store.way.set({
        let (at_once, most) = (at_once.clone(), most.clone());
        move |_, _| {
            // Those of the last half second: each takes that long.
            let now = {
                let mut at_once = at_once.lock().unwrap();
                *at_once += 1;
                *at_once
            };
            let mut most = most.lock().unwrap();
            *most = (*most).max(now);
            let at_once = at_once.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100)); // less than the answer takes
                *at_once.lock().unwrap() -= 1;
            });
            Fault::Slow(PART as u64 * 5)
        }
    });
    let spec = FetchSpec { parallel: 3, bandwidth: None };
    case.fetch_with(&Limits::new(&spec).with(PART as u64, Duration::from_secs(5))).unwrap();
    assert_eq!(*most.lock().unwrap(), 3);
}

#[test]
fn a_store_that_goes_away_leaves_what_came_for_the_next_time() {
    let mut case = Case::of(16 * PART);
    case.store.way.set(|_, count| if count < 9 { Fault::Pass } else { Fault::Close });
    let error = case.fetch().unwrap_err();
    assert!(matches!(&error, FetchError::Source(source) if source.trouble() == Trouble::Unreachable), "{error}");
    assert!(error.is_passing() && error.reason() == Reason::SourceUnavailable);
    assert_eq!(files(&case.into), ["file.part", "file.part.record"]);
    case.store.minio.kill().unwrap();
    assert!(case.fetch().is_err());
    case.store.minio.restart().unwrap();
    case.store.way.set(|_, _| Fault::Pass);
    case.counts = Arc::default();
    case.came();
    let fetched = case.counts.fetched.load(Ordering::Relaxed);
    assert!(fetched <= case.content.len() as u64 - 6 * PART as u64, "{fetched} bytes came again");
}

#[test]
fn a_future_that_is_dropped_stops_and_the_next_one_goes_on() {
    let case = Case::of(16 * PART);
    case.store.way.set(|_, count| if count < 8 { Fault::Pass } else { Fault::Silence });
    let patient = Limits::new(&FetchSpec::default()).with(PART as u64, Duration::from_secs(60));
    let (counts, entry) = (case.counts.clone(), entry(&case.content));
    now(async {
        let fetch = fetch(&case.source, KEY, &case.object, Some(&entry), &case.into, &patient, &counts);
        let there = async {
            while counts.there.load(Ordering::Relaxed) < 8 * PART as u64 {
                tokio::time::sleep(Duration::from_millis(2)).await; // between two looks
            }
        };
        tokio::select! {
            outcome = fetch => panic!("{outcome:?}"),
            () = there => {}
        }
    });
    case.store.way.set(|_, _| Fault::Pass);
    case.came();
}

#[test]
fn an_object_replaced_between_list_and_get_is_seen() {
    let case = Case::of(4 * PART);
    case.store.put(KEY, &random(4 * PART));
    let error = case.fetch().unwrap_err();
    assert!(matches!(&error, FetchError::Source(source) if source.trouble() == Trouble::Replaced), "{error}");
    assert!(error.to_string().starts_with("s3://models/risk/v2/adapter_model.safetensors: it is not what was listed"));
    assert_eq!(files(&case.into), [""; 0], "nothing of the one or the other stays");
    case.store.minio.remove(BUCKET, KEY).unwrap();
    let error = case.fetch().unwrap_err();
    assert_eq!(error.reason(), Reason::NotFound, "{error}");
}

#[test]
fn an_object_replaced_inside_a_ranged_get_is_seen() {
    let case = Case::of(32 * PART);
    let other = random(32 * PART);
    // Put by the way itself, when the twelfth part is asked for.
    let put = {
        let (user, password) = case.store.minio.credentials();
        let (user, password, port) = (user.to_owned(), password.to_owned(), case.store.minio.port());
        move || tutti_rig::Minio::put_at(port, (&user, &password), BUCKET, KEY, &other).unwrap()
    };
    case.store.way.set(move |line, count| {
        if is_get(line) && count == 12 {
            put();
        }
        Fault::Pass
    });
    let error = case.fetch().unwrap_err();
    assert!(matches!(&error, FetchError::Source(source) if source.trouble() == Trouble::Replaced), "{error}");
    assert_eq!(files(&case.into), [""; 0]);
}

#[test]
fn other_bytes_than_the_manifests_never_get_the_name() {
    let case = Case::of(3 * PART);
    fs::write(&case.into, "the old one").unwrap();
    case.store.way.set(|_, count| if count == 1 { Fault::Flip(PART / 2) } else { Fault::Pass });
    let error = case.fetch().unwrap_err();
    assert!(matches!(error, FetchError::Digest { .. }) && error.reason() == Reason::DigestMismatch, "{error}");
    assert_eq!(
        (fs::read_to_string(&case.into).unwrap().as_str(), files(&case.into)),
        ("the old one", vec!["file".to_owned()])
    );
    let wrong = FileEntry { size: 7, ..entry(&case.content) };
    case.store.way.set(|_, _| Fault::Pass);
    let outcome = now(fetch(&case.source, KEY, &case.object, Some(&wrong), &case.into, &limits(), &case.counts));
    assert!(matches!(outcome, Err(FetchError::Size { listed: 196_608, expected: 7, .. })), "{outcome:?}");
    assert_eq!(case.store.way.seen(), [""; 0], "nothing was asked for");
    case.came();
}

#[test]
fn a_record_that_lies_about_its_parts_brings_no_wrong_bytes() {
    let case = Case::of(8 * PART);
    case.store.way.set(|_, count| if count < 4 { Fault::Pass } else { Fault::Close });
    case.fetch().unwrap_err();
    let (part, record) = (case.into.with_file_name("file.part"), case.into.with_file_name("file.part.record"));
    let mut text = fs::read_to_string(&record).unwrap();
    (0..8).for_each(|number| text += &format!("{number}\n"));
    fs::write(&record, text).unwrap();
    case.store.way.set(|_, _| Fault::Pass);
    assert!(matches!(case.fetch(), Err(FetchError::Digest { .. })));
    case.came();
    // A file of another size than the record says, and a record that is none.
    fs::write(&part, "short").unwrap();
    fs::write(&record, "nonsense").unwrap();
    case.came();
}

#[test]
fn two_who_fetch_to_one_place_do_not_mix() {
    let case = Case::of(4 * PART);
    let held = fs::File::create(case.into.with_file_name("file.part")).unwrap();
    held.lock().unwrap();
    let error = case.fetch().unwrap_err();
    assert!(matches!(error, FetchError::Busy(_)), "{error}");
    drop(held);
    case.came();
    let two = now(async {
        let entry = entry(&case.content);
        let (source, counts, limits) = (&case.source, &case.counts, limits());
        let one = || fetch(source, KEY, &case.object, Some(&entry), &case.into, &limits, counts);
        tokio::join!(one(), one())
    });
    assert!(two.0.is_ok() && two.1.is_ok(), "{two:?}");
    assert!(fs::read(&case.into).unwrap() == case.content);
}

#[test]
fn a_folder_is_fetched_from_as_a_store_is() {
    let folder = tempfile::tempdir().unwrap();
    let content = random(5 * PART + 1);
    let file = folder.path().join("models").join(KEY);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, &content).unwrap();
    let from = folder.path().join("models");
    let source = Arc::new(Source::at(from.to_str().unwrap(), &tutti_api::S3Spec::default()).unwrap());
    let (object, into, counts) = (listed(&source), folder.path().join("file"), Arc::default());
    let entry = entry(&content);
    let bring = || now(fetch(&source, KEY, &object, Some(&entry), &into, &limits(), &counts));
    assert_eq!(bring().unwrap(), entry.sha256);
    assert!(fs::read(&into).unwrap() == content);
    fs::write(&file, random(5 * PART + 1)).unwrap();
    assert!(matches!(bring(), Err(FetchError::Source(error)) if error.trouble() == Trouble::Replaced));
}
