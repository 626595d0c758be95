//! A loader that has no secret of its own: it shows the token of an OpenID provider, and a real MinIO's own STS gives it
//! credentials that end. Both are taken up again without a restart.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tutti_rig::{Minio, Ollama, OllamaOptions};
use tutti_tests::site::{FILES, says, write};
use tutti_tests::{BUCKET, Fault, Faulty, OpenId, Site, eventually};

/// How long a token is good for that ends while it is looked at.
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(3600);

/// Puts what a site has at a path into the bucket, the manifest last.
fn push(minio: &Minio, site: &Site, path: &str) {
    for name in FILES.iter().copied().chain(["manifest.json"]) {
        minio.put(BUCKET, &format!("{path}/{name}"), &fs::read(site.models().join(path).join(name)).unwrap()).unwrap();
    }
}

#[test]
fn a_rotated_token_is_taken_up_and_credentials_that_end_are_asked_for_anew() {
    let provider = OpenId::start();
    let minio = Minio::start_with_identities(&provider.discovery()).unwrap();
    minio.make_bucket(BUCKET).unwrap();
    let sts = Faulty::before(minio.port());
    let ollama = Ollama::start(&OllamaOptions::default()).unwrap();
    let mut site = Site::beside(&ollama.url());
    for (path, adapter) in [("risk/v1", "risk-v1"), ("risk/v2", "risk-v2")] {
        site.put(path, adapter);
        push(&minio, &site, path);
    }
    site.from = Some(format!("s3://{BUCKET}/"));
    site.adapters = json!({ "s3": { "endpoint": minio.url() } });
    let token = site.models().join("token");
    let rotate = |text: &str| write(&token, text.as_bytes());

    rotate(&provider.token(Minio::client(), LONG));
    let file = token.display().to_string();
    let env = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &*file),
        ("AWS_ROLE_ARN", Minio::role()),
        ("AWS_ENDPOINT_URL_STS", &sts.url()),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let loading = site.spawn(&site.config(&["risk/v1"]), &env);
    let name = loading.serves("risk/v1");
    assert_eq!(says(&ollama, &name), "高风险");
    no_secret_is_said(&loading.0.said(), &token);

    // The next token, and the credentials that it gives, are soon over: it says so, and what served serves on.
    let polls = |outcome: &str| loading.metric(&format!("tutti_loader_polls_total{{result=\"{outcome}\"}}"));
    rotate(&provider.token(Minio::client(), SHORT));
    eventually("the end of the credentials", || (polls("failed") > 0.0).then_some(()));
    loading.0.write_config(&site.config(&["risk/v1", "risk/v2"]));
    let waits = |state: &Value| state["reason"]["reason"] == "SourceUnavailable";
    let state = loading.wait_for("risk/v2", "to wait for credentials", waits);
    let why = state["reason"]["message"].as_str().unwrap();
    assert!(why.contains("credentials"), "{why}");
    assert_eq!((&*loading.serves("risk/v1"), &*says(&ollama, &name)), (&*name, "高风险"));

    // Another token, in the same place.
    rotate(&provider.token(Minio::client(), LONG));
    assert_eq!(says(&ollama, &loading.serves("risk/v2")), "高风险：需人工复核");
    // From now on they are good for long: nobody is asked again but where the token changes.
    sts.set(|_, _| Fault::Pass);
    let good = polls("ok");
    eventually("some polls", || (polls("ok") > good + 3.0).then_some(()));
    assert_eq!(sts.seen(), [""; 0], "credentials that are good are asked for again");
    rotate(&provider.token(Minio::client(), LONG * 2));
    eventually("the newest token", || (sts.seen().len() == 1).then_some(()));
    // One that is none changes nothing for as long as the credentials last, nor does an STS that is gone.
    rotate("no token");
    sts.set(|_, _| Fault::Close);
    let (good, failed) = (polls("ok"), polls("failed"));
    eventually("some polls", || (polls("ok") > good + 5.0).then_some(()));
    assert_eq!(polls("failed"), failed);
    assert!((1..=3).contains(&sts.seen().len()), "it was asked {} times", sts.seen().len());
    no_secret_is_said(&loading.0.said(), &token);
}

/// No log line holds the token.
fn no_secret_is_said(said: &[Value], token: &Path) {
    let token = fs::read_to_string(token).unwrap();
    assert!(token.len() < 20 || said.iter().all(|line| !line.to_string().contains(&token)), "the token is in the log");
}
