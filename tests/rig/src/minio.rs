//! Real object stores: MinIO, which lies beside the project as Ollama does and is no part of it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::cache::{self, hex};
use crate::{Supervised, ollama};

/// The Go proxy refuses its releases' own tags.
const VERSION: &str = "v0.0.0-20260212201848-7aac2a2c5b7c";
/// What people call that version.
const RELEASE: &str = "RELEASE.2026-02-12 (7aac2a2c5b7c)";

/// How long one may take to answer: about 2 s on two idle cores.
const START: Duration = Duration::from_secs(60);
/// How often a start is tried: a port that was free may be taken by the time it is wanted.
const STARTS: usize = 5;

/// What it says, in its folder.
const LOG: &str = "minio.log";
/// Where it looks for a certificate, in its folder.
const CERTS: &str = "certs";
/// Where it says it is.
const REGION: &str = "us-east-1";

/// The binary, built if need be.
pub(crate) fn binary() -> Result<PathBuf> {
    let made = cache::made(&format!("minio-{VERSION}"), "about 4 minutes", |half| {
        let mut go = Command::new("go");
        go.args(["install", "-ldflags", "-s -w"]).arg(format!("github.com/minio/minio@{VERSION}"));
        go.env("GOBIN", half).env("GOFLAGS", "").env("CGO_ENABLED", "0").current_dir(half);
        ollama::run_go(go)
    })?;
    Ok(made.join("minio"))
}

/// A real MinIO on a port of its own, with a folder and credentials of its own. Dropping it ends it and removes them.
#[derive(Debug)]
pub struct Minio {
    process: Supervised,
    port: u16,
    user: String,
    password: String,
    /// What else it is told, as environment variables.
    told: Vec<(&'static str, String)>,
    folder: TempDir,
}

/// Who may come with a token of an OpenID provider, as this client.
const CLIENT: &str = "tutti";
/// The role that it then has: MinIO makes its name of its region and of the SHA-1 of [`CLIENT`].
const ROLE: &str = "arn:minio:iam:us-east-1::role/Lak7CFBhdC1oT0Y1nxCMIobR2YU";

impl Minio {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// It cannot be built or does not come to answer; its log is in the error.
    pub fn start() -> Result<Self> {
        Self::start_told(Vec::new())
    }

    /// The same, and whoever has a token of this OpenID provider for [`Self::client`] gets credentials for it from
    /// MinIO's own STS (`AssumeRoleWithWebIdentity`), for the role [`Self::role`], which may do anything.
    ///
    /// # Errors
    /// As [`Self::start`]; it asks the provider at once.
    pub fn start_with_identities(discovery: &str) -> Result<Self> {
        Self::start_told(vec![
            ("MINIO_IDENTITY_OPENID_CONFIG_URL", discovery.to_owned()),
            ("MINIO_IDENTITY_OPENID_CLIENT_ID", CLIENT.to_owned()),
            ("MINIO_IDENTITY_OPENID_ROLE_POLICY", "readwrite".to_owned()),
        ])
    }

    /// Whom tokens are for.
    pub fn client() -> &'static str {
        CLIENT
    }

    /// What they give a right to.
    pub fn role() -> &'static str {
        ROLE
    }

    fn start_told(told: Vec<(&'static str, String)>) -> Result<Self> {
        let folder = TempDir::with_prefix("tutti-minio-")?;
        let (user, password) = (random("key"), random("secret"));
        let mut last = None;
        for _ in 0..STARTS {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            match launch(folder.path(), port, (&user, &password), &told) {
                Ok(process) => return Ok(Self { process, port, user, password, told, folder }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("it was never started")?)
    }

    /// What people call its version.
    pub fn version() -> &'static str {
        RELEASE
    }

    /// Where it is reached: `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its region.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// The access key and the secret that it takes.
    pub fn credentials(&self) -> (&str, &str) {
        (&self.user, &self.password)
    }

    /// Writes a file with its credentials, as AWS's tools have them.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_credentials(&self, file: &Path) -> Result<()> {
        let (user, password) = self.credentials();
        let text = format!("[default]\naws_access_key_id = {user}\naws_secret_access_key = {password}\n");
        // Whoever follows the file sees the old one or the new one.
        let new = file.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, file)?)
    }

    /// Kills it, as a crash does. What it has stays.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again on the same port after [`Self::kill`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.process = launch(self.folder.path(), self.port, self.credentials(), &self.told)?;
        Ok(())
    }

    /// Starts it again with other credentials: the old ones are none any more.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart_with_other_credentials(&mut self) -> Result<()> {
        (self.user, self.password) = (random("key"), random("secret"));
        self.restart()
    }

    /// Starts it again behind TLS, with this certificate and its key (PEM). [`Self::ask`] does not reach it from then on.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart_with_tls(&mut self, certificate: &str, key: &str) -> Result<()> {
        self.kill()?;
        let certs = self.folder.path().join(CERTS);
        fs::create_dir_all(&certs)?;
        fs::write(certs.join("public.crt"), certificate)?;
        fs::write(certs.join("private.key"), key)?;
        self.restart()
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// It refuses.
    pub fn make_bucket(&self, bucket: &str) -> Result<()> {
        self.done("PUT", &format!("/{bucket}"), "", &[])
    }

    /// Removes an empty bucket.
    ///
    /// # Errors
    /// It refuses.
    pub fn remove_bucket(&self, bucket: &str) -> Result<()> {
        self.done("DELETE", &format!("/{bucket}"), "", &[])
    }

    /// Puts an object, whatever its key is.
    ///
    /// # Errors
    /// It refuses.
    pub fn put(&self, bucket: &str, key: &str, content: &[u8]) -> Result<()> {
        self.done("PUT", &format!("/{bucket}/{}", encoded(key)), "", content)
    }

    /// Puts an object into one that listens at this port, for whoever has its address alone.
    ///
    /// # Errors
    /// It refuses.
    pub fn put_at(port: u16, credentials: (&str, &str), bucket: &str, key: &str, content: &[u8]) -> Result<()> {
        let path = format!("/{bucket}/{}", encoded(key));
        let (status, said) = ask(port, credentials, "PUT", &path, "", content)?;
        ensure!(status == 200, "PUT {path}: {status} {}", String::from_utf8_lossy(&said));
        Ok(())
    }

    /// Removes an object.
    ///
    /// # Errors
    /// It refuses.
    pub fn remove(&self, bucket: &str, key: &str) -> Result<()> {
        self.done("DELETE", &format!("/{bucket}/{}", encoded(key)), "", &[])
    }

    /// An object's content.
    ///
    /// # Errors
    /// It refuses, or has none.
    pub fn get(&self, bucket: &str, key: &str) -> Result<Vec<u8>> {
        let (status, body) = self.ask("GET", &format!("/{bucket}/{}", encoded(key)), "", &[])?;
        ensure!(status == 200, "GET {key}: {status} {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    fn done(&self, method: &str, path: &str, query: &str, body: &[u8]) -> Result<()> {
        let (status, said) = self.ask(method, path, query, body)?;
        ensure!((200..300).contains(&status), "{method} {path}: {status} {}", String::from_utf8_lossy(&said));
        Ok(())
    }

    /// Asks it anything, signed as S3 wants it (Signature Version 4): path and query as they are sent, the query's
    /// parameters in order.
    ///
    /// # Errors
    /// It does not answer.
    pub fn ask(&self, method: &str, path: &str, query: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        ask(self.port, self.credentials(), method, path, query, body)
    }
}

fn ask(
    port: u16,
    (user, password): (&str, &str),
    method: &str,
    path: &str,
    query: &str,
    body: &[u8],
) -> Result<(u16, Vec<u8>)> {
    let host = format!("127.0.0.1:{}", port);
    let (time, digest) = (amz_time(SystemTime::now()), hex(&Sha256::digest(body)));
    let headers = format!("host:{host}\nx-amz-content-sha256:{digest}\nx-amz-date:{time}\n");
    let signed = "host;x-amz-content-sha256;x-amz-date";
    let request = format!("{method}\n{path}\n{query}\n{headers}\n{signed}\n{digest}");
    let scope = format!("{}/{REGION}/s3/aws4_request", &time[..8]);
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(request)));
    let first = format!("AWS4{}", password).into_bytes();
    let key = scope.split('/').fold(first, |key, part| hmac(&key, part.as_bytes()).to_vec());
    let signature = hex(&hmac(&key, to_sign.as_bytes()));
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}", user);
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("http://{host}{path}{query}"))
        .header("x-amz-date", time)
        .header("x-amz-content-sha256", digest)
        .header("authorization", authorization)
        .body(body)?;
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let mut answer = agent.run(request)?;
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(1 << 32).read_to_vec()?;
    Ok((status, body))
}

fn launch(
    folder: &Path,
    port: u16,
    (user, password): (&str, &str),
    told: &[(&'static str, String)],
) -> Result<Supervised> {
    let path = folder.join(LOG);
    let log = File::create(&path)?;
    let mut command = Command::new(binary()?);
    command.arg("server").arg(folder.join("data")).args(["--address", &format!("127.0.0.1:{port}")]);
    command.arg("--certs-dir").arg(folder.join(CERTS)).current_dir(folder).env("HOME", folder);
    command.envs(told.iter().map(|(name, value)| (name, value)));
    command.env("MINIO_ROOT_USER", user).env("MINIO_ROOT_PASSWORD", password);
    // It asks nobody else anything.
    command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off").env("MINIO_REGION", REGION);
    let mut process = Supervised::start(&command, &log)?;
    let until = Instant::now() + START;
    // The port alone says little: another may have taken it.
    let scheme = if folder.join(CERTS).join("public.crt").exists() { "https" } else { "http" };
    let says = format!("{scheme}://127.0.0.1:{port}");
    while !fs::read_to_string(&path).unwrap_or_default().contains(&says) || scheme == "http" && !is_live(port) {
        if process.ended()?.is_some() || Instant::now() > until {
            bail!("MinIO does not answer: {}", fs::read_to_string(&path).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(10)); // between two looks: nothing tells us
    }
    Ok(process)
}

fn is_live(port: u16) -> bool {
    ureq::get(format!("http://127.0.0.1:{port}/minio/health/ready")).call().is_ok()
}

/// A word that nobody guesses.
fn random(what: &str) -> String {
    let folder = TempDir::with_prefix("x").map(|folder| folder.path().display().to_string()).unwrap_or_default();
    format!("{what}{}", &hex(&Sha256::digest(folder))[..20])
}

/// A key as it stands in a path.
fn encoded(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    key.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// RFC 2104.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    let hashed = Sha256::digest(key);
    let key = if key.len() > block.len() { &hashed[..] } else { key };
    block[..key.len()].copy_from_slice(key);
    let padded = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

/// `20261129T051558Z`.
fn amz_time(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's `civil_from_days`, for days since 1970: https://howardhinnant.github.io/date_algorithms.html
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_signatures_are_those_of_others() {
        let at = |seconds| amz_time(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!((at(0), at(1_709_164_800)), ("19700101T000000Z".into(), "20240229T000000Z".into()));
        assert_eq!(at(1_795_929_358), "20261129T051558Z");
        // RFC 4231, test cases 2 and 6.
        let known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&hmac(b"Jefe", b"what do ya want for nothing?")), known);
        let long = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        assert_eq!(hex(&hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")), long);
        assert_eq!(encoded("a/b +é"), "a/b%20%2B%C3%A9");
    }
}
