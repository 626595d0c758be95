//! Several gateways that know each other.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tempfile::TempDir;

use crate::{Tutti, eventually};

/// Who signs certificates for gateways, and the files with these.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// Where there is no randomness, or no folder.
    pub fn new(name: &str) -> Self {
        let made = || {
            let mut params = rcgen::CertificateParams::new(Vec::new())?;
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = rcgen::KeyPair::generate()?;
            Ok::<_, rcgen::Error>((params.self_signed(&key)?.pem(), params, key))
        };
        let (pem, params, key) = made().unwrap_or_else(|error| panic!("no certificate: {error}"));
        let folder = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let authority = Self { folder, params, key };
        authority.write("ca.crt", &pem);
        authority
    }

    fn write(&self, name: &str, text: &str) {
        let private = || fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o600));
        let written = fs::write(self.file(name), text).and_then(|()| private());
        written.unwrap_or_else(|error| panic!("cannot write: {error}"));
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// A certificate of this name, and its key.
    ///
    /// # Panics
    /// Where there is no randomness.
    pub fn sign(&self, name: &str) -> [PathBuf; 2] {
        let made = || {
            let mut params = rcgen::CertificateParams::new([name.to_owned()])?;
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = rcgen::KeyPair::generate()?;
            let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
            Ok::<_, rcgen::Error>((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
        };
        let (cert, key) = made().unwrap_or_else(|error| panic!("no certificate: {error}"));
        let files = [format!("{name}.crt"), format!("{name}.key")];
        self.write(&files[0], &cert);
        self.write(&files[1], &key);
        files.map(|name| self.file(&name))
    }
}

/// Where gateways that are started one by one know each other.
#[derive(Debug)]
pub struct Fleet {
    /// Who signs for them.
    pub authority: Authority,
    /// Where each is reached by the others.
    pub addresses: Vec<String>,
}

/// An address of this machine that nobody listens at, and nobody else will: the loopback network has 2^24.
fn free() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let ip = Ipv4Addr::from(
        u32::from(Ipv4Addr::new(127, 64, 0, 0)) + (std::process::id() << 6 & 0x3f_ffff) + NEXT.fetch_add(1, Relaxed),
    );
    let bound = TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr());
    bound.unwrap_or_else(|error| panic!("no address: {error}")).to_string()
}

impl Fleet {
    /// Of at most so many.
    pub fn new(count: usize) -> Self {
        Self { authority: Authority::new("peers"), addresses: (0..count).map(|_| free()).collect() }
    }

    /// What the configuration of one says of those that it knows, by their numbers.
    pub fn yaml(&self, number: usize, knows: &[usize]) -> String {
        let name = format!("gateway-{number}");
        let [cert, key] = self.authority.sign(&name);
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        let (cert, key, ca) = (quoted(&cert), quoted(&key), quoted(&self.authority.ca()));
        let addresses: Vec<String> = knows.iter().map(|of| format!("{:?}", self.addresses[*of])).collect();
        let listen = &self.addresses[number];
        format!(
            "peer: {{ listen: {listen:?}, tls: {{ cert: {cert}, key: {key}, ca: {ca} }}, addresses: [{}] }}",
            addresses.join(", ")
        )
    }

    /// Starts one that knows these, with more of the section `gateway` and with these pools; it is not waited for.
    pub fn spawn(&self, number: usize, knows: &[usize], gateway: &str, pools: &str) -> Tutti {
        let yaml = format!("gateway: {{ {}, {gateway} }}\n{pools}", self.yaml(number, knows));
        Tutti::spawn(&["gateway", "--config", "tutti.yaml", "--cores", "1"], &yaml, &[])
    }

    /// Starts the first `count`, which all know each other, and waits until they agree.
    pub fn start(&self, count: usize, gateway: &str, pools: &str) -> Vec<Tutti> {
        let all: Vec<usize> = (0..self.addresses.len()).collect();
        let gateways: Vec<Tutti> = (0..count).map(|number| self.spawn(number, &all, gateway, pools)).collect();
        for tutti in &gateways {
            tutti.wait_said("tutti serves");
        }
        Self::agree(&gateways.iter().collect::<Vec<_>>());
        gateways
    }

    /// Waits until one of these schedules pool `p`, and all others know that; yields its place.
    pub fn agree(gateways: &[&Tutti]) -> usize {
        eventually("one schedules the pool", || {
            let owns: Vec<bool> = gateways.iter().map(|tutti| owns(tutti)).collect();
            let one = owns.iter().filter(|owns| **owns).count() == 1;
            let at = owns.iter().position(|owns| *owns)?;
            let know = gateways.iter().enumerate().all(|(other, tutti)| other == at || whose(tutti).is_some());
            (one && know
                && gateways.iter().enumerate().all(|(other, tutti)| other == at || whose(tutti) == id(gateways[at])))
            .then_some(at)
        })
    }
}

fn peers(tutti: &Tutti) -> serde_json::Value {
    let status = tutti.command(&["status", "--json"]);
    serde_json::from_str::<serde_json::Value>(&status.stdout).unwrap_or_default()["peers"].take()
}

/// Its number.
fn id(tutti: &Tutti) -> Option<String> {
    peers(tutti)["id"].as_str().map(str::to_owned)
}

/// The number of who schedules pool `p`, as it has it.
fn whose(tutti: &Tutti) -> Option<String> {
    peers(tutti)["pools"]["p"]["id"].as_str().map(str::to_owned)
}

/// Whether it schedules pool `p` itself.
fn owns(tutti: &Tutti) -> bool {
    let peers = peers(tutti);
    peers["id"].is_string() && peers["id"] == peers["pools"]["p"]["id"]
}
