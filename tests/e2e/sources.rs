//! Where adapters come from: a real object store on good and bad days, and folders.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use tutti_adapter_loader::source::{Source, SourceError, Trouble};
use tutti_api::S3Spec;
use tutti_tests::{BUCKET, Certificate, Fault, Lister, Store};

fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn keys(source: &Source, path: &str) -> Result<Vec<String>, SourceError> {
    now(source.list(path, 1000)).map(|objects| objects.into_iter().map(|object| object.key).collect())
}

/// No error holds what would let a reader in.
fn names_no_secret(store: &Store, error: &SourceError) {
    let (key, secret) = store.minio.credentials();
    let said = format!("{error} {error:?}");
    assert!(!said.contains(key) && !said.contains(secret) && !said.contains("secret-of-the-store"), "{said}");
}

#[test]
fn a_list_has_what_lies_below_the_path_and_nothing_beside_it() {
    let store = Store::start();
    for key in ["foo/v1/a", "foo/v1/sub/b", "foo/v10/c", "foo-bar/v1/d", "foo/v1.x/e", "foo/v1"] {
        // MinIO keeps objects as files: what is a folder for it is no object.
        if key != "foo/v1" {
            store.put(key, b"content");
        }
    }
    let source = store.source();
    assert_eq!(keys(&source, "foo/v1").unwrap(), ["a", "sub/b"]);
    assert_eq!(keys(&source, "foo/v2").unwrap(), [""; 0]);
    assert_eq!(keys(&source, "").unwrap().len(), 5);
    let below = Source::at(&format!("s3://{BUCKET}/foo"), &store.spec()).unwrap();
    assert_eq!(keys(&below, "v1").unwrap(), ["a", "sub/b"]);
    let object = now(source.list("foo/v1", 10)).unwrap().remove(0);
    assert_eq!(now(source.read_whole("foo/v1/a", &object, 10)).unwrap(), "content");
    let error = now(source.read_whole("foo/v1/a", &object, 3)).unwrap_err();
    assert_eq!(error.trouble(), Trouble::TooLarge);
}

#[test]
fn a_poll_asks_once_and_reads_nothing() {
    let store = Store::start();
    for n in 0..20 {
        store.put(&format!("m/v{n}/manifest.json"), format!("{n}").as_bytes());
    }
    let source = store.source();
    let paths: Vec<String> = (0..20).map(|n| format!("m/v{n}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let before = now(source.look(&paths)).unwrap();
    store.way.set(|_, _| Fault::Pass);
    let after = now(source.look(&paths)).unwrap();
    assert_eq!((&before.paths, before.requests), (&after.paths, 1));
    let seen = store.way.seen();
    assert!(seen.len() == 1 && seen[0].contains("list-type=2"), "{seen:?}");
    store.put("m/v7/manifest.json", b"8");
    let later = now(source.look(&paths)).unwrap();
    let changed: Vec<_> = later.paths.iter().filter(|(path, listing)| after.paths[*path] != **listing).collect();
    assert_eq!(changed.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["m/v7"], "a digit for another");
}

#[test]
fn odd_keys_are_wrong_with_their_adapter_alone() {
    let store = Store::start();
    store.put("good/v1/a", b"x");
    let odd = ["模型", "a\\b", "a:b", "café", "a\u{202e}b", "tab\there", "a*"];
    let mut taken = 0;
    for (n, name) in odd.iter().enumerate() {
        taken += usize::from(store.minio.put(BUCKET, &format!("odd/v{n}/{name}"), b"x").is_ok());
    }
    assert!(taken >= 5, "MinIO took only {taken}");
    let source = store.source();
    let paths: Vec<String> = (0..odd.len()).map(|n| format!("odd/v{n}")).collect();
    let all: Vec<&str> = paths.iter().map(String::as_str).chain(["good/v1"]).collect();
    let look = now(source.look(&all)).unwrap();
    let refused = look.paths.values().filter_map(|listing| listing.as_ref().err());
    let refused: Vec<&SourceError> = refused.collect();
    assert_eq!(refused.len(), taken);
    for error in refused {
        assert_eq!(error.trouble(), Trouble::OddKey);
        assert!(error.to_string().is_ascii() && error.to_string().starts_with("s3://models/odd/v"), "{error}");
    }
    assert_eq!(look.paths["good/v1"].as_ref().unwrap().len(), 1);
    // A list of answers that the store never would have given.
    assert!(
        matches!(now(source.list("../x", 10)), Ok(objects) if objects.is_empty()) || keys(&source, "../x").is_err()
    );
}

/// What lies beside the many.
const FEW: [&str; 3] = ["a/v1", "m/few", "z/v1"];

fn many(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("m/many/checkpoint-{n:06}"))
}

/// So many objects below one path hold up no other and cost one question for 1,000 keys at most. `asked`: how many there were
/// since it was last called.
fn are_no_matter(source: &Source, wanted: usize, asked: &dyn Fn() -> usize) {
    let look = now(source.look(&FEW)).unwrap();
    assert!(look.paths.values().all(|listing| listing.as_ref().unwrap().len() == 1));
    assert!(look.requests <= 3, "{} questions", look.requests);
    let look = now(source.look(&["a/v1", "m/many", "z/v1"])).unwrap();
    assert_eq!(look.paths["m/many"].as_ref().unwrap_err().trouble(), Trouble::TooMany);
    assert!(look.paths["z/v1"].is_ok() && look.requests <= 5, "{} questions", look.requests);
    asked();
    let all = now(source.list("", wanted + 10)).unwrap();
    let asked = asked();
    let keys: Vec<&String> = all.iter().map(|object| &object.key).collect();
    assert_eq!(keys.iter().filter(|key| key.starts_with("m/many/")).count(), wanted);
    assert!(keys.len() == wanted + 3 && keys.is_sorted(), "each once");
    assert!(asked <= wanted / 1000 + 1, "{asked} questions");
}

#[test]
fn a_hundred_thousand_objects_are_no_matter() {
    let count = 100_000;
    let store = Lister::of(many(count).chain(FEW.map(|path| format!("{path}/manifest.json"))).collect());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    fs::write(&file, "[default]\naws_access_key_id = key\naws_secret_access_key = secret\n").unwrap();
    let credentials_file = Some(file.display().to_string());
    let spec = S3Spec { endpoint: Some(store.url()), credentials_file, ..S3Spec::default() };
    are_no_matter(&Source::at(&format!("s3://{BUCKET}/"), &spec).unwrap(), count, &|| store.asked());
}

#[test]
fn many_objects_of_a_real_store_are_no_matter() {
    // Each costs MinIO a file and a folder: so many as a minute brings, and 100,000 where there is time.
    let wanted: usize = std::env::var("TUTTI_TEST_OBJECTS").map_or(4000, |count| count.parse().unwrap());
    let store = Arc::new(Store::start());
    let puts: Vec<_> = (0..8)
        .map(|at| {
            let store = store.clone();
            thread::spawn(move || many(wanted).skip(at).step_by(8).for_each(|key| store.put(&key, b"")))
        })
        .collect();
    puts.into_iter().for_each(|put| put.join().unwrap());
    for path in FEW {
        store.put(&format!("{path}/manifest.json"), b"{}");
    }
    are_no_matter(&store.source(), wanted, &|| {
        let seen = store.way.seen().len();
        store.way.set(|_, _| Fault::Pass);
        seen
    });
}

#[test]
fn what_is_wrong_with_a_store_has_a_name_and_says_what_to_do() {
    let mut store = Store::start();
    store.put("a/v1/manifest.json", b"{}");
    let source = store.source();
    let trouble = |store: &Store, wanted: Trouble, says: &str| {
        let error = keys(&source, "a/v1").unwrap_err();
        assert_eq!(error.trouble(), wanted, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        names_no_secret(store, &error);
    };
    store.way.set(|_, _| Fault::Answer(503, "SlowDown"));
    trouble(&store, Trouble::Busy, "answers 503 SlowDown");
    assert_eq!(store.way.seen().len(), 4, "it is asked again, but not for ever");
    for (status, code, wanted) in [
        (403, "ExpiredToken", Trouble::Expired),
        (403, "AccessDenied", Trouble::Forbidden),
        (301, "PermanentRedirect", Trouble::Region),
        (500, "InternalError", Trouble::Busy),
        (418, "Teapot", Trouble::Other),
    ] {
        store.way.set(move |_, _| Fault::Answer(status, code));
        trouble(&store, wanted, code);
    }
    store.way.set(|_, _| Fault::Close);
    trouble(&store, Trouble::Unreachable, "check the endpoint");
    store.way.set(|_, count| if count < 2 { Fault::Close } else { Fault::Pass });
    assert_eq!(keys(&source, "a/v1").unwrap(), ["manifest.json"], "it came back while it was asked");
    // A half of the list, or a list with a fault, is none.
    store.way.set(|_, _| Fault::Cut(400));
    assert!(keys(&source, "a/v1").is_err());

    store.way.set(|_, _| Fault::Pass);
    store.minio.restart_with_other_credentials().unwrap();
    trouble(&store, Trouble::Credentials, "InvalidAccessKeyId");
    store.write_credentials();
    assert_eq!(keys(&source, "a/v1").unwrap(), ["manifest.json"], "rotated credentials are taken up");
    fs::write(store.credentials_file(), "nonsense").unwrap();
    trouble(&store, Trouble::Credentials, "check adapters.s3.credentialsFile");
    store.write_credentials();

    store.minio.remove(BUCKET, "a/v1/manifest.json").unwrap();
    store.minio.remove_bucket(BUCKET).unwrap();
    trouble(&store, Trouble::NoBucket, "NoSuchBucket");
    store.minio.kill().unwrap();
    trouble(&store, Trouble::Unreachable, "cannot be reached");
    store.minio.restart().unwrap();
    store.minio.make_bucket(BUCKET).unwrap();
    assert_eq!(keys(&source, "a/v1").unwrap(), [""; 0]);
}

#[test]
fn a_clock_that_goes_wrong_is_allowed_for_or_named() {
    let store = Store::start();
    store.put("a/v1/x", b"x");
    let from = format!("s3://{BUCKET}/");
    let late = || SystemTime::now() - Duration::from_secs(3600);
    let source = Source::with_clock(&from, &store.spec(), Arc::new(late)).unwrap();
    assert_eq!(keys(&source, "a/v1").unwrap(), ["x"], "the store's own clock is heard");
    store.way.set(|_, _| Fault::Answer(403, "RequestTimeTooSkewed"));
    let error = keys(&source, "a/v1").unwrap_err();
    assert_eq!(error.trouble(), Trouble::ClockSkew);
    assert!(error.to_string().contains("set both by NTP"), "{error}");
}

#[test]
fn only_the_authorities_of_the_ca_file_are_trusted() {
    let (own, other) = (Certificate::new("own"), Certificate::new("other"));
    let mut store = Store::start();
    store.put("a/v1/x", b"x");
    store.minio.restart_with_tls(&own.cert, &own.key).unwrap();
    let ca = store.folder.path().join("ca.pem");
    let endpoint = Some(format!("https://localhost:{}", store.minio.port()));
    let spec = S3Spec { endpoint, ca_file: Some(ca.display().to_string()), ..store.spec() };
    let open = |pem: &str| {
        fs::write(&ca, pem).unwrap();
        Source::at("s3://models/", &spec)
    };
    assert_eq!(keys(&open(&own.cert).unwrap(), "a/v1").unwrap(), ["x"]);
    let error = keys(&open(&other.cert).unwrap(), "a/v1").unwrap_err();
    assert_eq!(error.trouble(), Trouble::Unreachable);
    assert!(error.to_string().contains("certificate"), "{error}");
    // The file is followed. What is no authority changes nothing; the store's own, which it comes to have, does.
    let source = open(&own.cert).unwrap();
    assert_eq!(keys(&source, "a/v1").unwrap(), ["x"]);
    let write = |pem: &str| {
        fs::write(ca.with_extension("new"), pem).unwrap();
        fs::rename(ca.with_extension("new"), &ca).unwrap();
    };
    for wrong in ["", "no certificate"] {
        write(wrong);
        assert_eq!(keys(&source, "a/v1").unwrap(), ["x"], "those before stay");
    }
    store.minio.restart_with_tls(&other.cert, &other.key).unwrap();
    assert!(keys(&source, "a/v1").unwrap_err().to_string().contains("certificate"));
    write(&other.cert);
    assert_eq!(keys(&source, "a/v1").unwrap(), ["x"], "the new authority is taken up");
    for wrong in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = open(wrong).unwrap_err();
        assert_eq!(error.trouble(), Trouble::Configuration, "{wrong}: {error}");
    }
}

#[test]
fn a_folder_is_a_source_that_follows_no_link() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("models");
    fs::create_dir_all(root.join("foo/v1/sub")).unwrap();
    fs::create_dir_all(root.join("foo-bar/v1")).unwrap();
    fs::write(root.join("foo/v1/a"), "content").unwrap();
    fs::write(root.join("foo/v1/sub/b"), "b").unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    symlink(folder.path().join("secret"), root.join("foo/v1/link")).unwrap();
    symlink(folder.path(), root.join("foo/v1/up")).unwrap();
    symlink("foo", root.join("alias")).unwrap();
    let source = Source::at(root.to_str().unwrap(), &S3Spec::default()).unwrap();
    assert_eq!(keys(&source, "foo/v1").unwrap(), ["a", "sub/b"]);
    assert_eq!(keys(&source, "alias/v1").unwrap(), [""; 0]);
    let look = now(source.look(&["foo/v1", "alias/v1", "../x", "none/v1"])).unwrap();
    assert_eq!(look.paths["foo/v1"].as_ref().unwrap().len(), 2);
    assert!(look.paths["alias/v1"].as_ref().unwrap().is_empty() && look.paths["none/v1"].as_ref().unwrap().is_empty());
    assert_eq!(look.paths["../x"].as_ref().unwrap_err().trouble(), Trouble::OddKey);

    let object = now(source.list("foo/v1", 10)).unwrap().remove(0);
    assert_eq!(now(source.read_whole("foo/v1/a", &object, 10)).unwrap(), "content");
    let trouble = |key: &str| now(source.read_whole(key, &object, 10)).unwrap_err().trouble();
    assert_eq!((trouble("foo/../foo/v1/a"), trouble("foo/v1/sub/b")), (Trouble::OddKey, Trouble::Replaced));
    assert!(
        now(source.read_whole("alias/v1/a", &object, 10)).is_err()
            && now(source.read_whole("foo/v1/link", &object, 10)).is_err()
    );
    fs::write(root.join("foo/v1/new"), "CONTENT").unwrap();
    fs::rename(root.join("foo/v1/new"), root.join("foo/v1/a")).unwrap();
    assert_eq!(trouble("foo/v1/a"), Trouble::Replaced);
    let nowhere = Source::at("/nonexistent/models", &S3Spec::default()).unwrap();
    assert_eq!(keys(&nowhere, "a/v1").unwrap_err().trouble(), Trouble::NoBucket);
}
