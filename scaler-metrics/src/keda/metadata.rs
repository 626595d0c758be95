//! What a ScaledObject says in its trigger's `metadata`.

use std::collections::HashMap;

/// What KEDA itself wants to know; it passes it on with the rest.
const KEDAS: [&str; 9] = [
    "scalerAddress",
    "tlsCertFile",
    "tlsClientCert",
    "tlsClientKey",
    "caCert",
    "unsafeSsl",
    "enableTLS",
    "metricType",
    "authenticationRef",
];
/// Longest name of a pool. Unit: bytes.
const MAX_POOL: usize = 63;

/// What is wrong with a trigger's metadata, in words for the ScaledObject's events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("metadata.pool is missing: name the pool of tutti's configuration that this ScaledObject scales")]
    NoPool,
    #[error("metadata.pool: {0:?} is no pool's name: 1 to 63 letters, digits and `-`")]
    Pool(String),
    #[error("metadata.{0}: there is no such field; there is `pool`")]
    Unknown(String),
}

/// The pool that is asked for.
///
/// # Errors
/// What is wrong.
pub(super) fn pool(metadata: &HashMap<String, String>) -> Result<&str, Wrong> {
    let mut names: Vec<&String> = metadata.keys().collect();
    names.sort_unstable();
    if let Some(name) = names.into_iter().find(|name| *name != "pool" && !KEDAS.contains(&name.as_str())) {
        return Err(Wrong::Unknown(name.chars().take(MAX_POOL).collect()));
    }
    let pool = metadata.get("pool").ok_or(Wrong::NoPool)?;
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if pool.is_empty() || pool.len() > MAX_POOL || !pool.bytes().all(is_good) {
        return Err(Wrong::Pool(pool.chars().take(MAX_POOL).collect()));
    }
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_by_field() {
        let of = |pairs: &[(&str, &str)]| {
            let metadata = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            pool(&metadata).map(str::to_owned).map_err(|wrong| wrong.to_string())
        };
        assert_eq!(of(&[("pool", "qwen"), ("scalerAddress", "tutti-scaler:9090")]), Ok("qwen".to_owned()));
        assert!(of(&[]).unwrap_err().contains("metadata.pool is missing"));
        assert!(of(&[("pool", "a b")]).unwrap_err().contains("\"a b\" is no pool's name"));
        assert!(of(&[("pool", "p"), ("poolName", "p")]).unwrap_err().contains("metadata.poolName"));
    }
}
