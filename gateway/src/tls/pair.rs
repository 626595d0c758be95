//! A certificate and its key, as their files hold them.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, InconsistentKeys};
use tutti_api::{Timestamp, TlsSpec};

use super::expiry::{Validity, validity};
use crate::follow::Text;

/// Largest file that is read. Unit: bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// What the two files hold.
pub(super) struct Pair {
    pub(super) certified: Arc<CertifiedKey>,
    /// When the first of the chain expires.
    pub(super) expires: Timestamp,
    /// What is right and yet hardly meant.
    pub(super) warnings: Vec<String>,
}

impl Pair {
    /// Reads the texts of both files, which the configuration names in this field.
    ///
    /// # Errors
    /// What is wrong, and what to do; nothing of the key is in it.
    pub(super) fn of([cert, key]: &[Text; 2], spec: &TlsSpec, field: &str) -> Result<Self, String> {
        let of_cert = |why: &str| format!("{field}.cert: {}: {why}", spec.cert);
        let of_key = |why: &str| format!("{field}.key: {}: {why}", spec.key);
        let cert = cert.as_ref().map_err(|why| format!("{field}.cert: {why}"))?;
        let key = key.as_ref().map_err(|why| format!("{field}.key: {why}"))?;

        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<_, _>>().map_err(|_| {
                of_cert("it is no PEM file, or not a whole one: write the certificate and its chain in PEM")
            })?;
        if chain.is_empty() {
            return Err(of_cert(
                "no certificate is in it: a PEM file has one between BEGIN CERTIFICATE and END CERTIFICATE",
            ));
        }
        let validities: Option<Vec<Validity>> = chain.iter().map(|cert| validity(cert)).collect();
        let validities = validities.ok_or_else(|| of_cert("what stands as a certificate in it is none"))?;

        if key.contains("BEGIN ENCRYPTED PRIVATE KEY") || key.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(of_key("it is encrypted: decrypt it with `openssl pkey -in FILE -out FILE`"));
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| of_key("no private key is in it: a PEM file has one behind BEGIN PRIVATE KEY"))?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => of_key(&format!(
                "it is not the key of the first certificate in {}: name the key that belongs to it, and put the server's own certificate first, its chain behind",
                spec.cert
            )),
            error => format!("{field}: {} and {} cannot be used: {error}", spec.cert, spec.key),
        })?;
        let of_each = |pick: fn(&Validity) -> Timestamp| validities.iter().map(pick);
        let begins = of_each(|validity| validity.not_before).max().unwrap_or(Timestamp::from_unix(0));
        let expires = of_each(|validity| validity.not_after).min().unwrap_or(Timestamp::from_unix(0));
        let mut warnings = Vec::new();
        warnings.extend(out_of_date(begins, expires, Timestamp::now()).map(of_cert));
        warnings.extend(readable(spec).map(of_key));
        Ok(Self { certified: Arc::new(certified), expires, warnings })
    }
}

fn out_of_date(begins: Timestamp, expires: Timestamp, now: Timestamp) -> Option<&'static str> {
    if now > expires {
        return Some("the certificate, or one of its chain, has expired: clients will refuse it");
    }
    (now < begins).then_some("the certificate, or one of its chain, is not valid yet: clients will refuse it")
}

/// Whether others may read the key. A mounted Kubernetes Secret is readable by its group, which is ours.
fn readable(spec: &TlsSpec) -> Option<&'static str> {
    let mode = std::fs::metadata(&spec.key).ok()?.permissions().mode();
    (mode & 0o004 != 0)
        .then_some("every user of this machine may read the key: chmod 600, or defaultMode: 0440 for a Secret")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_valid_from_its_first_second_to_its_last() {
        let at = |now| out_of_date(Timestamp::from_unix(10), Timestamp::from_unix(20), Timestamp::from_unix(now));
        assert_eq!([at(10), at(20)], [None, None]);
        assert!(at(9).is_some_and(|why| why.contains("not valid yet")));
        assert!(at(21).is_some_and(|why| why.contains("has expired")));
    }
}
