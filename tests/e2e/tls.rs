//! TLS, as clients of others speak it: curl and OpenSSL.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tutti_tests::{Certificate, Files, PATIENCE, Tutti, eventually, pool, run, simulator};

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false}"#;

fn yaml(files: &Files, gateway: &str, replica: &str) -> String {
    format!("gateway: {{ {}{gateway} }}\n{}", files.yaml(), pool(&[replica.to_owned()], "expose: all"))
}

/// Runs curl; yields its exit code and what it printed.
fn curl(tutti: &Tutti, trusts: &Path, arguments: &[&str], path: &str) -> (Option<i32>, String) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--cacert"]).arg(trusts).args(arguments);
    let output = curl.arg(format!("https://{}{path}", tutti.listen())).output().expect("curl runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// Whether who trusts this certificate alone gets an answer.
fn is_served(tutti: &Tutti, certificate: &Certificate) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let trusts = folder.path().join("ca.pem");
    fs::write(&trusts, &certificate.cert).expect("written");
    curl(tutti, &trusts, &[], "/healthz") == (Some(0), "ok".to_owned())
}

/// Runs `openssl s_client`, which says this line to the gateway.
fn openssl(tutti: &Tutti, arguments: &[&str], line: &str) -> String {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &tutti.listen(), "-ign_eof"]).args(arguments);
    let mut client =
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl");
    client.stdin.take().expect("a pipe").write_all(line.as_bytes()).expect("written");
    let output = client.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[test]
fn it_serves_over_tls_and_says_so_to_who_does_not_speak_it() {
    let (replica, files) = (simulator(), Files::of(&Certificate::new("a")));
    let tutti = Tutti::start(&yaml(&files, "", &replica.url()));
    let version = ["--http1.1", "-w", "%{http_version}"];
    let (code, said) = curl(&tutti, &files.cert(), &[&version[..], &["-d", CHAT]].concat(), "/api/chat");
    assert!(code == Some(0) && said.contains("\"done\":true") && said.ends_with("1.1"), "{said}");
    let stream = CHAT.replace("false", "true");
    let (code, said) = curl(&tutti, &files.cert(), &["--http1.1", "-d", &stream], "/v1/chat/completions");
    assert!(code == Some(0) && said.trim_end().ends_with("data: [DONE]"), "{said}");
    assert_eq!(tutti.wait_logged("the first", |line| line["api"] == "/api/chat")["outcome"], "ok");

    let answer = tutti.client().ask("POST", "/api/chat", &[], CHAT);
    assert_eq!((answer.status, answer.complete), (400, true));
    assert!(answer.text().contains("https://"), "{}", answer.text());
    tutti.wait_said("a TLS handshake came to nothing");
    assert_eq!(tutti.metric("tutti_tls_handshakes_failed_total", &[]), 1.0);
    assert!(!is_served(&tutti, &Certificate::new("another")));
}

#[test]
fn old_versions_are_refused_and_sessions_are_resumed() {
    let (replica, files) = (simulator(), Files::of(&Certificate::new("a")));
    let tutti = Tutti::start(&yaml(&files, "", &replica.url()));
    let session = files.path("session").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let said = openssl(&tutti, &[version, "-sess_out", &session], HEALTH);
        assert!(said.contains("200 OK") && said.contains("New, TLSv1."), "{version}: {said}");
        let said = openssl(&tutti, &[version, "-sess_in", &session], HEALTH);
        assert!(said.contains("200 OK") && said.contains("Reused, TLSv1."), "{version}: {said}");
    }
    let said = openssl(&tutti, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], HEALTH);
    assert!(!said.contains("200 OK") && said.contains("alert"), "{said}");
}

#[test]
fn a_changed_certificate_is_taken_up_and_a_broken_one_is_not() {
    let [a, b, c] = ["a", "b", "c"].map(Certificate::new);
    let (replica, files) = (simulator(), Files::of(&a));
    let tutti = Tutti::start(&yaml(&files, "", &replica.url()));
    assert!(is_served(&tutti, &a));
    let expires = tutti.metric("tutti_tls_certificate_expiry_timestamp_seconds", &[]);
    let status = || {
        let (admin, token) = (tutti.admin(), tutti.token_file());
        run(&["status", "--admin", &admin, "--token-file", &token.display().to_string()], &[]).stdout
    };
    assert!(status().contains("certificate: expires in 2"), "{}", status());

    files.write(&b.cert, &b.key);
    eventually("the new one", || is_served(&tutti, &b).then_some(()));
    assert!(!is_served(&tutti, &a));
    tutti.wait_said("the changed certificate is in force");

    // Of another's key, then half a file, then no file at all.
    for (cert, key, why) in [
        (&*c.cert, &*a.key, "it is not the key of the first certificate"),
        ("-----BEGIN CERTIFICATE-----\nMIIB", &*c.key, "or not a whole one"),
        ("", &*c.key, "no certificate is in it"),
        (&*c.cert, "", "no private key is in it"),
    ] {
        files.write(cert, key);
        tutti.wait_said(why);
        assert!(is_served(&tutti, &b), "{why}");
        assert_eq!(tutti.metric("tutti_tls_last_reload_successful", &[]), 0.0, "{why}");
    }
    assert!(status().contains("the last change of the certificate was refused"), "{}", status());
    fs::remove_file(files.cert()).unwrap();
    tutti.wait_said("No such file");
    assert!(is_served(&tutti, &b));

    files.write(&c.cert, &c.key);
    eventually("the good one", || is_served(&tutti, &c).then_some(()));
    assert_eq!(tutti.metric("tutti_tls_last_reload_successful", &[]), 1.0);
    assert!(tutti.metric("tutti_tls_last_reload_timestamp_seconds", &[]) > 1.6e9);
    assert!(tutti.metric("tutti_tls_certificate_expiry_timestamp_seconds", &[]) >= expires);
}

#[test]
fn a_connection_goes_on_while_the_certificate_changes() {
    let [a, b] = ["a", "b"].map(Certificate::new);
    let (replica, files) = (simulator(), Files::of(&a));
    let tutti = Tutti::start(&yaml(&files, "", &replica.url()));
    let mut client = Command::new("openssl");
    client.args(["s_client", "-quiet", "-connect", &tutti.listen()]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut to, mut from) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let mut ask = || {
        to.write_all(HEALTH.replace("close", "keep-alive").as_bytes()).unwrap();
        let mut answer = String::new();
        while !answer.ends_with("ok") {
            let mut bytes = [0; 1024];
            let read = from.read(&mut bytes).unwrap();
            assert!(read > 0, "closed after {answer:?}");
            answer += &String::from_utf8_lossy(&bytes[..read]);
        }
    };
    ask();
    files.write(&b.cert, &b.key);
    eventually("the new one", || is_served(&tutti, &b).then_some(()));
    ask();
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
fn a_start_and_a_check_say_what_is_wrong_with_the_files() {
    let [a, b] = ["a", "b"].map(Certificate::new);
    let files = Files::of(&a);
    let config = files.path("tutti.yaml");
    fs::write(&config, yaml(&files, "", "http://127.0.0.1:1")).unwrap();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (cert, key, why) in [
        (&*a.cert, &*b.key, "it is not the key of the first certificate"),
        (&*a.key, &*a.key, "no certificate is in it"),
        (&*a.cert, &*a.cert, "no private key is in it"),
        (&*a.cert, encrypted, "openssl pkey"),
    ] {
        files.write(cert, key);
        let config = config.display().to_string();
        let checked = run(&["check", "--config", &config], &[]);
        assert!(checked.code == Some(2) && checked.stderr.contains(why), "{}", checked.stderr);
        let started = run(&["gateway", "--config", &config], &[("TUTTI__GATEWAY__LISTEN", "127.0.0.1:0")]);
        assert!(started.code == Some(1) && started.stderr.contains(why), "{}", started.stderr);
    }
    // Where the files are yet to come, or another machine's, the configuration is none the worse.
    fs::remove_file(files.key()).unwrap();
    let checked = run(&["check", "--config", &config.display().to_string()], &[]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(
        checked.stderr.contains("gateway.tls.key") && checked.stderr.contains("does not start here"),
        "{checked:?}"
    );
    let expired = Certificate::expired("old");
    files.write(&expired.cert, &expired.key);
    fs::set_permissions(files.key(), fs::Permissions::from_mode(0o644)).unwrap();
    let checked = run(&["check", "--config", &config.display().to_string()], &[]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(
        checked.stderr.contains("has expired") && checked.stderr.contains("may read the key"),
        "{}",
        checked.stderr
    );
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let (replica, files) = (simulator(), Files::of(&Certificate::new("a")));
    let limits = ", limits: { handshakeTimeout: 300ms, handshakes: 1 }";
    let tutti = Tutti::start(&yaml(&files, limits, &replica.url()));
    let connect = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(tutti.listen()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let mut silent = [connect(b""), connect(b"\x16\x03\x01"), connect(b"\x16\x03\x01")];
    for stream in &mut silent {
        let read = stream.read(&mut [0; 16]);
        let closed = read.as_ref().is_ok_and(|read| *read == 0);
        assert!(closed || read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    }
    let hits = |limit: &str| tutti.metric("tutti_limit_hits_total", &[&format!("limit=\"{limit}\"")]);
    eventually("counted", || (hits("handshake_timeout") == 3.0).then_some(()));
    assert_eq!(hits("handshakes"), 1.0, "the third waited for the second");
    assert!(is_served(&tutti, &Certificate { cert: fs::read_to_string(files.cert()).unwrap(), key: String::new() }));

    let mut tutti = Tutti::start(&yaml(&files, ", drain: 60s", &replica.url()));
    let mut half = TcpStream::connect(tutti.listen()).unwrap();
    half.write_all(b"\x16\x03\x01").unwrap();
    eventually("it is there", || (tutti.metric("tutti_connections ", &[]) == 1.0).then_some(()));
    tutti.signal(Signal::TERM);
    assert_eq!(tutti.wait_ended(), Some(0)); // in less time than a drain may take
}
