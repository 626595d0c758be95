//! An OpenID provider: a page that says where its keys are, its keys, and tokens that it has signed. Identity providers are
//! services of their own; what the object store asks of one is these two pages, so here they are.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

/// Largest request that is read. Unit: bytes.
const MAX_REQUEST: usize = 16 << 10;

/// The provider, on a port of its own. It serves for as long as the process runs.
#[derive(Debug)]
pub struct OpenId {
    addr: SocketAddr,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl OpenId {
    /// Starts it, with a key of its own.
    ///
    /// # Panics
    /// Where it cannot.
    pub fn start() -> Self {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let pkcs8 = made.unwrap_or_else(|error| panic!("no key: {error}"));
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random);
        let key = key.unwrap_or_else(|error| panic!("no key: {error}"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("no port: {error}"));
        let addr = listener.local_addr().unwrap_or_else(|error| panic!("no port: {error}"));
        let pages = (discovery(addr), keys(key.public_key().as_ref()));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = answer(stream, &pages.0, &pages.1);
            }
        });
        Self { addr, key, random }
    }

    /// Where it says what it is.
    pub fn discovery(&self) -> String {
        format!("http://{}/.well-known/openid-configuration", self.addr)
    }

    /// A token for a client that is over after this time.
    ///
    /// # Panics
    /// Where it cannot be signed.
    pub fn token(&self, client: &str, lasts: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = json!({
            "iss": format!("http://{}", self.addr), "sub": "loader", "aud": client, "azp": client,
            "iat": now.as_secs(), "exp": (now + lasts).as_secs(),
        });
        let head = json!({ "alg": "ES256", "typ": "JWT", "kid": "one" });
        let said = format!("{}.{}", encoded(head.to_string()), encoded(claims.to_string()));
        let signed = self.key.sign(&self.random, said.as_bytes()).unwrap_or_else(|error| panic!("not signed: {error}"));
        format!("{said}.{}", encoded(signed))
    }
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn discovery(addr: SocketAddr) -> Value {
    let at = |path: &str| format!("http://{addr}{path}");
    json!({
        "issuer": at(""), "jwks_uri": at("/keys"), "authorization_endpoint": at("/none"), "token_endpoint": at("/none"),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"], "scopes_supported": ["openid"],
    })
}

/// A point of the curve, as SEC 1 writes it uncompressed: 4, x, y.
fn keys(point: &[u8]) -> Value {
    let (x, y) = (encoded(&point[1..33]), encoded(&point[33..65]));
    json!({ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "one", "x": x, "y": y }] })
}

fn answer(mut stream: TcpStream, discovery: &Value, keys: &Value) -> std::io::Result<()> {
    let mut asked = Vec::new();
    while !asked.windows(4).any(|four| four == b"\r\n\r\n") && asked.len() < MAX_REQUEST {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            read => asked.extend_from_slice(&chunk[..read]),
        }
    }
    let page = if asked.starts_with(b"GET /keys ") { keys } else { discovery }.to_string();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
        page.len()
    )
}
