//! Whom a loader lets in changes while it runs: tokens and certificates rotate, on its side and on the gateway's, one after the
//! other, and the configuration names others. No call between the two fails for it. Nor does one for strangers who come and say
//! nothing.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use tutti_rig::{Ollama, OllamaOptions};
use tutti_tests::site::write;
use tutti_tests::{Authority, Loading, Site, Tutti, eventually};

const OLD: &str = "the-first-token-of-all";
const NEW: &str = "the-second-token-of-all";
const NEWEST: &str = "the-third-token-of-all";

fn ollama() -> Ollama {
    Ollama::start(&OllamaOptions::default()).expect("the rig starts an Ollama")
}

/// The files of one side.
struct Side(TempDir);

impl Side {
    fn new(authority: &Authority) -> Self {
        let side = Self(TempDir::new().unwrap());
        side.token(OLD);
        side.certify(authority);
        side.trust(&[authority]);
        side
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn token(&self, token: &str) {
        write(&self.file("token"), format!("{token}\n").as_bytes());
    }

    /// A new certificate and its key.
    fn certify(&self, authority: &Authority) {
        let [cert, key] = authority.sign("one");
        write(&self.file("tls.key"), &fs::read(key).unwrap());
        write(&self.file("tls.crt"), &fs::read(cert).unwrap());
    }

    /// Who signs for the others.
    fn trust(&self, authorities: &[&Authority]) {
        let all: Vec<u8> = authorities.iter().flat_map(|of| fs::read(of.ca()).unwrap()).collect();
        write(&self.file("ca.crt"), &all);
    }

    fn tls(&self) -> Value {
        let shown = |name: &str| self.file(name).display().to_string();
        json!({ "cert": shown("tls.crt"), "key": shown("tls.key"), "ca": shown("ca.crt") })
    }

    fn token_file(&self) -> Value {
        json!(self.file("token").display().to_string())
    }

    fn adapters(&self) -> Value {
        json!({ "tokenFile": self.token_file(), "tls": self.tls() })
    }
}

/// How often a process has said this.
fn times(tutti: &Tutti, message: &str) -> usize {
    let said = tutti.said();
    said.iter().filter(|line| line["fields"]["message"].as_str().is_some_and(|said| said.contains(message))).count()
}

/// Does something, and waits until a process has taken it up, by what it says.
fn taken(tutti: &Tutti, message: &str, what: impl FnOnce()) {
    let before = times(tutti, message);
    what();
    eventually(message, || (times(tutti, message) > before).then_some(()));
}

const CERTIFICATE: &str = "the changed certificate is in force";
const KEY: &str = "the changed key for a replica is in force";

/// A loader and the gateway before it, each with its own files.
struct Both {
    loader: Loading,
    tutti: Tutti,
    loaders: Side,
    gateways: Side,
    site: Site,
    wanted: usize,
}

impl Both {
    /// The gateway hears of what the loader hears of: twice, since what is asked now waits for the first.
    fn talk(&mut self, when: &str) {
        for _ in 0..2 {
            self.wanted += 1;
            let path = format!("none/v{}", self.wanted);
            self.site.adapters = self.loaders.adapters();
            self.loader.0.write_config(&self.site.config(&[&path]));
            eventually(&format!("{when}: the word of {path}"), || {
                let status = self.tutti.command(&["status", "--json"]);
                let status: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
                let adapters = status["pools"][0]["replicas"][0]["loader"]["adapters"].as_array().cloned();
                adapters.into_iter().flatten().find(|of| of["path"] == path).map(|_| ())
            });
        }
        for failed in ["a loader does not answer", "a loader takes no lease"] {
            assert!(!self.tutti.has_said(failed), "{when}: {:#?}", self.tutti.said());
        }
    }

    fn of_loader(&self, what: impl FnOnce(&Side)) {
        taken(&self.loader.0, CERTIFICATE, || what(&self.loaders));
    }

    fn of_gateway(&self, what: impl FnOnce(&Side)) {
        taken(&self.tutti, CERTIFICATE, || what(&self.gateways));
    }
}

#[test]
fn tokens_and_certificates_rotate_on_either_side_first_without_a_failed_call() {
    let (ollama, old, new) = (ollama(), Authority::new("old"), Authority::new("new"));
    let mut site = Site::beside(&ollama.url());
    let (loaders, gateways) = (Side::new(&old), Side::new(&old));
    site.adapters = loaders.adapters();
    let loader = site.start(&site.config(&[]));
    site.loader = Some(format!("https://{}", loader.listen()));
    site.adapters = gateways.adapters();
    let tutti = Tutti::start(&site.config(&[]));
    let mut both = Both { loader, tutti, loaders, gateways, site, wanted: 0 };
    both.talk("before all");

    taken(&both.tutti, KEY, || both.gateways.token(NEW));
    both.talk("the gateway has the new token, the loader the old one");
    both.loaders.token(NEW);
    both.talk("both have it");
    both.loaders.token(NEWEST);
    both.talk("the loader has a newer one");
    taken(&both.tutti, KEY, || both.gateways.token(NEWEST));
    both.talk("both have that");

    both.of_loader(|side| side.certify(&old));
    both.of_gateway(|side| side.certify(&old));
    both.talk("other certificates of the same authority");
    both.of_loader(|side| side.trust(&[&old, &new]));
    both.of_gateway(|side| side.trust(&[&old, &new]));
    both.talk("both trust another authority as well");
    both.of_gateway(|side| side.certify(&new));
    both.talk("the gateway has a certificate of that");
    both.of_loader(|side| side.certify(&new));
    both.talk("the loader too");
    both.of_loader(|side| side.trust(&[&new]));
    both.of_gateway(|side| side.trust(&[&new]));
    both.talk("nobody trusts the old one");

    // And that holds: who comes with the old authority's certificate, or with no token, is refused.
    let url = format!("https://{}", both.loader.listen());
    let shown = |authority: &Authority| authority.sign("curl").map(|file| file.display().to_string());
    let ([cert, key], [old_cert, old_key]) = (shown(&new), shown(&old));
    assert_eq!(curl(&url, &["--cert", &cert, "--key", &key], NEWEST), "200");
    assert_eq!(curl(&url, &["--cert", &old_cert, "--key", &old_key], NEWEST), "000", "signed by the old one");
    assert_eq!(curl(&url, &["--cert", &cert, "--key", &key], "no-token-of-ours-at-all"), "401");
}

/// The status of the list that curl asks for; 000 where there is no answer.
fn curl(url: &str, arguments: &[&str], token: &str) -> String {
    let (url, bearer) = (format!("{url}/v1/adapters"), format!("authorization: Bearer {token}"));
    let words = ["--silent", "--insecure", "--output", "/dev/null", "--write-out", "%{http_code}", "--header", &bearer];
    let said = Command::new("curl").args(words).args(arguments).arg(&url).output().expect("curl runs");
    String::from_utf8_lossy(&said.stdout).into_owned()
}

#[test]
fn what_the_configuration_says_of_who_is_let_in_is_taken_up_by_a_loader_that_runs() {
    let (ollama, authority) = (ollama(), Authority::new("ours"));
    let (one, other) = (Side::new(&authority), Side::new(&authority));
    other.token(NEW);
    let mut site = Site::beside(&ollama.url());
    site.adapters = json!({ "tokenFile": one.token_file() });
    let loader = site.spawn_with(&site.config(&[]), &["--listen", "0.0.0.0:0"], &[]);
    let port = loader.listen().rsplit_once(':').unwrap().1.to_owned();
    let (plain, secured) = (format!("http://127.0.0.1:{port}"), format!("https://127.0.0.1:{port}"));
    let shown = |path: &Path| path.display().to_string();
    let (cert, key) = (shown(&one.file("tls.crt")), shown(&one.file("tls.key")));
    let certified = ["--cert", &*cert, "--key", &*key];
    let mut tell = |adapters: Value, paths: &[&str]| {
        site.adapters = adapters;
        loader.0.write_config(&site.config(paths));
    };
    assert_eq!((curl(&plain, &[], OLD).as_str(), curl(&plain, &[], NEW).as_str()), ("200", "401"));

    tell(json!({ "tokenFile": other.token_file() }), &[]);
    eventually("the other file's token", || (curl(&plain, &[], NEW) == "200").then_some(()));
    assert_eq!(curl(&plain, &[], OLD), "200", "a gateway may not have heard of the change yet");

    tell(json!({ "tokenFile": other.token_file(), "tls": one.tls() }), &[]);
    eventually("TLS", || (curl(&secured, &certified, NEW) == "200").then_some(()));
    assert_eq!(curl(&plain, &[], NEW), "000");
    assert_eq!((curl(&secured, &[], NEW).as_str(), curl(&secured, &certified, "").as_str()), ("401", "401"));

    // What would let everybody in, and files that are none, change nothing at all.
    const REFUSED: &str = "the changed configuration is refused";
    let nowhere = json!({ "cert": "/nowhere/a", "key": "/nowhere/b", "ca": "/nowhere/c" });
    for wrong in [json!({}), json!({ "tokenFile": "/nowhere/token", "tls": one.tls() }), json!({ "tls": nowhere })] {
        taken(&loader.0, REFUSED, || tell(wrong, &["none/v1"]));
        assert_eq!((curl(&secured, &certified, NEW).as_str(), curl(&secured, &[], NEW).as_str()), ("200", "401"));
        assert_eq!(curl(&plain, &[], NEW), "000");
    }
    tell(json!({ "tls": one.tls() }), &[]);
    eventually("no token is wanted", || (curl(&secured, &certified, "") == "200").then_some(()));
    assert_eq!(curl(&secured, &[], NEW), "401", "a certificate is");
    tell(json!({ "tokenFile": other.token_file() }), &["none/v1"]);
    eventually("no certificate is wanted", || (curl(&plain, &[], NEW) == "200").then_some(()));
    assert_eq!(curl(&plain, &[], ""), "401", "a token is");
}

#[test]
fn strangers_who_say_nothing_keep_neither_a_gateway_out_nor_a_kubelet() {
    let (ollama, authority) = (ollama(), Authority::new("ours"));
    for tls in [false, true] {
        let mut site = Site::beside(&ollama.url());
        let side = Side::new(&authority);
        site.adapters = if tls { side.adapters() } else { json!({ "tokenFile": side.token_file() }) };
        let loader = site.start(&site.config(&[]));
        let url = format!("{}://{}", if tls { "https" } else { "http" }, loader.listen());
        let silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(loader.listen()).unwrap()).collect();
        let shown = |name: &str| side.file(name).display().to_string();
        let (cert, key) = (shown("tls.crt"), shown("tls.key"));
        let certified: &[&str] = if tls { &["--cert", &cert, "--key", &key] } else { &[] };
        for _ in 0..3 {
            assert_eq!(curl(&url, certified, OLD), "200");
        }
        let page = Command::new("curl").args(["--silent", "--insecure", &format!("{url}/metrics")]).output().unwrap();
        let page = String::from_utf8_lossy(&page.stdout).into_owned();
        let full = page
            .lines()
            .find_map(|line| line.strip_prefix("tutti_loader_connections_full_total ")?.parse::<f64>().ok());
        assert!(full.is_some_and(|full| full >= 44.0), "{page}");
        drop(silent);
    }
}
