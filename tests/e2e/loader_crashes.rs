//! `kill -9` at every place in the loader's code that has a name: the next start converges, no wrong bytes ever serve, and
//! no orphan is left. A panic there ends nothing but the step that it is in.

use rustix::process::Signal;
use serde_json::{Value, json};
use tutti_adapter_loader::fault::{PANIC, Point, VARIABLE};
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::site::{forget, is_clean, names, says};
use tutti_tests::{Loading, Site, eventually};

fn stop(mut loading: Loading) {
    loading.0.signal(Signal::TERM);
    assert_eq!(loading.0.wait_ended(), Some(0));
}

/// Starts a loader that ends at a point, and waits until it has.
fn die(site: &Site, yaml: &str, point: Point) {
    let mut loading = site.spawn(yaml, &[(VARIABLE, point.name())]);
    let ended = loading.0.wait_ended();
    assert_eq!(ended, None, "{}: it came by and ended by a signal: {:?}", point.name(), loading.0.said());
}

/// From nothing to ready, through a crash.
fn brought(ollama: &Ollama, point: Point) {
    let site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let yaml = site.config(&["risk/v1"]);
    die(&site, &yaml, point);
    let before = names(ollama).into_iter().find(|name| name.starts_with("risk:"));
    if let Some(name) = before {
        assert_eq!(says(ollama, &name), "高风险", "{}: what has the name is what it names", point.name());
    }
    let loading = site.start(&yaml);
    let name = loading.serves("risk/v1");
    assert_eq!(says(ollama, &name), "高风险", "{}", point.name());
    is_clean(ollama, &site, &[&name], 1, point.name());
    stop(loading);
    forget(ollama, &name);
}

/// From an engine that has nothing to an answer, through a crash while its base comes from the source.
fn based(point: Point) {
    let ollama = Ollama::start(&OllamaOptions { models: false, ..OllamaOptions::default() }).expect("an Ollama");
    let mut site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    site.put_base("bases/story");
    site.adapters = json!({ "baseFrom": "bases/story" });
    let yaml = site.config(&["risk/v1"]);
    die(&site, &yaml, point);
    let loading = site.start(&yaml);
    let name = loading.serves("risk/v1");
    assert_eq!(says(&ollama, &name), "高风险", "{}", point.name());
    is_clean(&ollama, &site, &[&name], 1, point.name());
    stop(loading);
}

/// From ready to gone, through a crash.
fn retired(ollama: &Ollama, point: Point) {
    let site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let loading = site.start(&site.config(&["risk/v1"]));
    loading.serves("risk/v1");
    stop(loading);
    let none = site.config(&[]);
    die(&site, &none, point);
    let loading = site.start(&none);
    eventually("its end", || (loading.state("risk/v1") == Value::Null && names(ollama).is_empty()).then_some(()));
    is_clean(ollama, &site, &[], 1, point.name());
    stop(loading);
}

/// One makes room for another, through a crash.
fn evicted(ollama: &Ollama, point: Point) {
    let mut site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    site.put("risk/v2", "risk-v2");
    site.adapters = json!({ "disk": "1700Ki" });
    let loading = site.start(&site.config(&["risk/v1"]));
    loading.serves("risk/v1");
    stop(loading);
    let second = site.config(&["risk/v2"]);
    die(&site, &second, point);
    let loading = site.start(&second);
    let name = loading.serves("risk/v2");
    assert_eq!(says(ollama, &name), "高风险：需人工复核", "{}", point.name());
    is_clean(ollama, &site, &[&name], 1, point.name());
    stop(loading);
    forget(ollama, &name);
}

fn all(points: impl Iterator<Item = &'static Point>) {
    let ollama = Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama");
    for point in points {
        match point.name().split('.').next() {
            Some("retire") => retired(&ollama, *point),
            Some("evict") => evicted(&ollama, *point),
            Some("base") => based(*point),
            _ => brought(&ollama, *point),
        }
    }
}

#[test]
fn whoever_starts_after_a_crash_at_any_point_converges() {
    all(Point::ALL.iter().step_by(2));
}

#[test]
fn whoever_starts_after_a_crash_at_any_other_point_converges() {
    all(Point::ALL.iter().skip(1).step_by(2));
}

#[test]
fn what_was_on_its_way_at_a_crash_and_is_not_wanted_any_more_leaves_no_name_in_the_engine() {
    let ollama = Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama");
    let steps = ["register", "probe", "copy", "announce"];
    for point in Point::ALL.iter().filter(|point| steps.iter().any(|step| point.name().starts_with(step))) {
        let site = Site::beside(&ollama.url());
        site.put("risk/v1", "risk-v1");
        die(&site, &site.config(&["risk/v1"]), *point);
        let loading = site.start(&site.config(&[]));
        eventually(point.name(), || {
            (loading.state("risk/v1") == Value::Null && names(&ollama).is_empty()).then_some(())
        });
        is_clean(&ollama, &site, &[], 1, point.name());
        stop(loading);
    }
}

#[test]
fn a_name_that_a_crash_has_left_goes_where_other_weights_lie_at_its_path_now() {
    let ollama = Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama");
    let site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let yaml = site.config(&["risk/v1"]);
    die(&site, &yaml, Point::CopyAfterCopy);
    let left = names(&ollama).into_iter().find(|name| name.starts_with("risk:")).expect("the copy");
    site.put("risk/v1", "risk-v2");
    let loading = site.start(&yaml);
    let name = loading.serves("risk/v1");
    assert_ne!(name, left);
    assert_eq!(says(&ollama, &name), "高风险：需人工复核");
    is_clean(&ollama, &site, &[&name], 1, "copy.after_copy");
}

/// Places in steps. A panic at the others would be the loop's own.
const IN_STEPS: [Point; 10] = [
    Point::ListAfter,
    Point::FetchAfterManifest,
    Point::FetchInPart,
    Point::FetchAfterRecord,
    Point::VerifyBefore,
    Point::ConvertInTemp,
    Point::PublishAfterRename,
    Point::RegisterAfterCreate,
    Point::ProbeAfterAnswer,
    Point::CopyAfterCopy,
];

#[test]
fn a_step_that_panics_is_tried_again_and_the_loader_goes_on() {
    let ollama = Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama");
    for point in IN_STEPS {
        let site = Site::beside(&ollama.url());
        site.put("risk/v1", "risk-v1");
        site.put("risk/v2", "risk-v2");
        let loading = site.spawn(&site.config(&["risk/v1", "risk/v2"]), &[(PANIC, &format!("{}:1", point.name()))]);
        let [first, second] = ["risk/v1", "risk/v2"].map(|path| loading.serves(path));
        let answers = [says(&ollama, &first), says(&ollama, &second)];
        assert_eq!(answers, ["高风险", "高风险：需人工复核"], "{}", point.name());
        assert_eq!(loading.metric("tutti_loader_panics_total"), 1.0, "{}", point.name());
        loading.0.wait_said("a step broke off");
        is_clean(&ollama, &site, &[&first, &second], 2, point.name());
        stop(loading);
        [first, second].iter().for_each(|name| forget(&ollama, name));
    }
}

#[test]
fn what_a_step_breaks_off_on_again_and_again_holds_up_no_replica_and_is_tried_again_all_the_same() {
    let ollama = Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama");
    let site = Site::beside(&ollama.url());
    site.put("risk/v1", "risk-v1");
    let loading = site.spawn(&site.config(&["risk/v1"]), &[(PANIC, "verify.before:4")]);
    let message = loading.wait_quarantined("risk/v1", "LoaderBroke");
    assert!(message.contains("verify.before"), "{message}");
    eventually("readiness", || (loading.ask("GET", "/readyz", "").status == 200).then_some(()));
    assert_eq!(says(&ollama, &loading.serves("risk/v1")), "高风险");
    assert_eq!(loading.metric("tutti_loader_panics_total"), 4.0);
}
