//! Credentials as AWS's tools take them, taken up again when the files that they come from change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{
    ProvideCredentials, Result, SharedCredentialsProvider, error::CredentialsError, future,
};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::config::Region;
use tokio::sync::Mutex;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;
use tutti_api::S3Spec;

use super::print::{Print, print};
use super::web_identity::WebIdentity;
use crate::source::Clock;

/// How long before credentials end new ones are asked for.
const EARLY: Duration = Duration::from_secs(300);
/// How soon new ones are asked for again that were not given out, while those before are still good.
const AGAIN: Duration = Duration::from_secs(10);
/// How long those who give credentials out may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Credentials that are followed. Every question asks for them, which costs a look at the times of a few files.
#[derive(Clone)]
pub(super) struct Following(Arc<Inner>);

struct Inner {
    /// The file that the configuration names; else they come from wherever AWS's tools look.
    file: Option<PathBuf>,
    /// Files that they may come from.
    files: Vec<PathBuf>,
    provider: ProviderConfig,
    web_identity: Option<WebIdentity>,
    region: Region,
    clock: Clock,
    held: Mutex<Option<Held>>,
    /// Whether what is held was refused.
    refused: AtomicBool,
}

/// The files as they were when they were looked at.
type Prints = Vec<Option<Print>>;

/// What was read.
struct Held {
    credentials: Credentials,
    /// What they were read from.
    prints: Prints,
    /// When new ones were asked for in vain, and of what.
    failed: Option<(SystemTime, Prints)>,
}

impl Held {
    /// Whether new ones need not be asked for yet, as the files are.
    fn is_good(&self, now: SystemTime, prints: &Prints) -> bool {
        let end = self.credentials.expiry();
        let is_current = self.prints == *prints && end.is_none_or(|end| end > now + EARLY);
        let rests = self.failed.as_ref().is_some_and(|(at, of)| now < *at + AGAIN && of == prints);
        is_current || (rests && end.is_some_and(|end| end > now))
    }
}

impl Following {
    pub(super) fn new(
        spec: &S3Spec,
        provider: ProviderConfig,
        web_identity: Option<WebIdentity>,
        clock: Clock,
    ) -> Self {
        let file = spec.credentials_file.clone().map(PathBuf::from);
        let files = file.clone().map_or_else(usual_files, |file| vec![file]);
        let region = Region::new(spec.region.clone());
        let (held, refused) = (Mutex::new(None), AtomicBool::new(false));
        Self(Arc::new(Inner { file, files, provider, web_identity, region, clock, held, refused }))
    }

    /// What is held was not taken: it is read anew for the next question.
    pub(super) fn forget(&self) {
        self.0.refused.store(true, Ordering::Relaxed);
    }

    async fn current(&self) -> Result {
        let inner = &*self.0;
        let mut held = inner.held.lock().await;
        // Looked at before they are read: what changes in between is read again.
        let prints: Prints = inner.files.iter().map(|file| print(file)).collect();
        let refused = inner.refused.swap(false, Ordering::Relaxed);
        let now = (inner.clock)();
        if let Some(held) = &*held
            && !refused
            && held.is_good(now, &prints)
        {
            return Ok(held.credentials.clone());
        }
        // The library logs whose credentials it has found, and that at each reading: our own errors say what went wrong.
        let asked = inner.ask().with_subscriber(NoSubscriber::new());
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        match asked.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(PATIENCE))) {
            Ok(credentials) => {
                *held = Some(Held { credentials: credentials.clone(), prints, failed: None });
                Ok(credentials)
            }
            // Those who give them out may be gone for a while: what is not over yet is still good.
            Err(error) => match &mut *held {
                Some(held) if held.credentials.expiry().is_some_and(|end| end > now) && !refused => {
                    // Whatever changed the files is not taken up yet: it is asked for again, though these may last.
                    held.failed = Some((now, prints));
                    Ok(held.credentials.clone())
                }
                _ => Err(error),
            },
        }
    }
}

impl Inner {
    /// Reads them anew: the library's own providers read a file once.
    async fn ask(&self) -> Result {
        let provider = match (&self.file, &self.web_identity) {
            (Some(file), _) => {
                let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file).build();
                let profile = ProfileFileCredentialsProvider::builder().configure(&self.provider).profile_files(files);
                SharedCredentialsProvider::new(profile.build())
            }
            (None, Some(identity)) => return identity.ask().await,
            (None, None) => {
                let chain = DefaultCredentialsChain::builder().configure(self.provider.clone());
                SharedCredentialsProvider::new(chain.region(self.region.clone()).build().await)
            }
        };
        provider.provide_credentials().await
    }
}

impl ProvideCredentials for Following {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.current())
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Following")
    }
}

/// Where AWS's tools keep credentials.
fn usual_files() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("HOME");
    let usual = |name: &str, file: &str| set(name).or_else(|| Some(home.as_ref()?.join(".aws").join(file)));
    let files = [
        usual("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
        usual("AWS_CONFIG_FILE", "config"),
        set("AWS_WEB_IDENTITY_TOKEN_FILE"),
        set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    ];
    files.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::AtomicU64;

    use aws_sdk_sts::config::BehaviorVersion;
    use aws_sdk_sts::primitives::{DateTime, DateTimeFormat};
    use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};

    use super::*;

    #[tokio::test]
    async fn a_file_is_taken_up_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        let write = |key: &str| {
            let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n");
            fs::write(file.with_extension("new"), text).unwrap();
            fs::rename(file.with_extension("new"), &file).unwrap();
        };
        let spec = S3Spec { credentials_file: Some(file.display().to_string()), ..S3Spec::default() };
        let (_, following, _) = super::super::client::open(&spec, Arc::new(SystemTime::now)).unwrap();
        assert!(following.current().await.is_err(), "there is no file");
        write("one");
        assert_eq!(following.current().await.unwrap().access_key_id(), "one");
        write("two");
        assert_eq!(following.current().await.unwrap().access_key_id(), "two");
        fs::write(&file, "no file of credentials").unwrap();
        assert!(following.current().await.is_err(), "what is no credentials is none");
        write("three");
        assert_eq!(following.current().await.unwrap().access_key_id(), "three");
        following.forget();
        assert_eq!(following.current().await.unwrap().access_key_id(), "three");
        assert_eq!(format!("{following:?}"), "Following");
    }

    /// An STS that gives the token that it is shown as a key, good for an hour by this clock; where it is down, nothing.
    fn sts(down: Arc<AtomicBool>, seconds: Arc<AtomicU64>) -> (String, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            for mut client in listener.incoming().map_while(std::result::Result::ok) {
                let (mut request, mut chunk) = (String::new(), [0; 4096]);
                while !request.contains("WebIdentityToken=") {
                    let read = client.read(&mut chunk).unwrap_or_default();
                    request.push_str(&String::from_utf8_lossy(&chunk[..read]));
                    if read == 0 {
                        break;
                    }
                }
                count.fetch_add(1, Ordering::Relaxed);
                let token = request.split("WebIdentityToken=").nth(1).and_then(|rest| rest.split('&').next());
                let end = DateTime::from_secs(seconds.load(Ordering::Relaxed) as i64 + 3600);
                let end = end.fmt(DateTimeFormat::DateTime).unwrap();
                let given = format!(
                    "<AccessKeyId>{}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>{end}</Expiration>",
                    token.unwrap_or_default()
                );
                let body = format!(
                    "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>{given}</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
                );
                let status = if down.load(Ordering::Relaxed) { "403 No" } else { "200 OK" };
                let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = client.write_all(format!("{head}{body}").as_bytes());
            }
        });
        (url, asked)
    }

    #[tokio::test]
    async fn a_rotation_that_nobody_answered_for_is_taken_up_once_somebody_does() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        let rotate = |text: &str| {
            fs::write(token.with_extension("new"), text).unwrap();
            fs::rename(token.with_extension("new"), &token).unwrap();
        };
        let (down, seconds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(1_800_000_000)));
        let (url, asked) = sts(down.clone(), seconds.clone());
        let time = seconds.clone();
        let clock: Clock = Arc::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(time.load(Ordering::Relaxed)));
        let spec = S3Spec { credentials_file: Some(token.display().to_string()), ..S3Spec::default() };
        let config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .http_client(super::super::authorities::http(None).unwrap())
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .endpoint_url(url);
        let mut following = Following::new(&spec, ProviderConfig::without_region(), None, clock);
        let inner = Arc::get_mut(&mut following.0).unwrap();
        // As the environment would say it: the token's file is followed, and shown.
        (inner.file, inner.web_identity) = (None, Some(WebIdentity::of(token.clone(), "role", "session", config)));
        let key = async || following.current().await.map(|given| given.access_key_id().to_owned()).unwrap_or_default();
        let pass = |time: u64| seconds.fetch_add(time, Ordering::Relaxed);
        let count = || asked.load(Ordering::Relaxed);

        rotate("one");
        assert_eq!((key().await, key().await, count()), ("one".to_owned(), "one".to_owned(), 1));
        // The next token comes while nobody gives anything for it: those before serve on, and it is not asked at once again.
        down.store(true, Ordering::Relaxed);
        rotate("two");
        assert_eq!((key().await, key().await, count()), ("one".to_owned(), "one".to_owned(), 2));
        down.store(false, Ordering::Relaxed);
        pass(AGAIN.as_secs());
        assert_eq!((key().await, count()), ("two".to_owned(), 3), "though those before would last for most of an hour");
        // What changes meanwhile is another token: it does not wait.
        down.store(true, Ordering::Relaxed);
        rotate("three");
        assert_eq!(key().await, "two");
        down.store(false, Ordering::Relaxed);
        rotate("four");
        assert_eq!((key().await, count()), ("four".to_owned(), 5));
        // Nobody answers until they are over: then there are none.
        down.store(true, Ordering::Relaxed);
        pass(3600);
        assert_eq!(key().await, "");
    }
}
