//! What a request's turn in a queue depends on.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use tutti_api::KeySpec;

use super::head::{deadline, priority};
use crate::classify::Reading;
use crate::errors::Failure;
use crate::keys::Key;
use crate::schedule::Ticket;

/// The bytes of a prompt that a token stands for, about.
const BYTES_A_TOKEN: usize = 4;
/// The tokens of an answer that says nothing of its length.
const ANSWER: u64 = 256;
/// The most tokens that an answer counts for, whatever the request says.
const MOST: u64 = 1 << 24;
/// Requests that begin with as many equal bytes go to the same of equal slots: an engine need not read them twice. Unit: bytes.
const PREFIX: usize = 1024;
/// What a tenant of the least weight is charged for a token.
const PART: u64 = KeySpec::MOST_WEIGHT as u64;

impl Ticket {
    /// That of a request which says so in its head. Tenants have turns in a class by tokens: those of the prompt, at four bytes
    /// each, and those that the answer may have.
    ///
    /// # Errors
    /// A header that is not as it should be.
    pub(super) fn asked(headers: &HeaderMap, started: Instant) -> Result<Self, Failure> {
        let deadline = deadline(headers)?.map(|within| started + within);
        Ok(Self { class: priority(headers)?, deadline, ..Self::default() })
    }

    /// The same, once it is known who asks and for what.
    pub(super) fn of(self, key: Option<&Key>, reading: &Reading, body: &Bytes) -> Self {
        let answer = reading.most_tokens(body).unwrap_or(ANSWER).min(MOST);
        let tokens = (body.len() / BYTES_A_TOKEN) as u64 + answer;
        let weight = key.map_or(1, |key| u64::from(key.weight()));
        Self {
            class: key.map_or(self.class, |key| key.class(self.class)),
            tenant: key.map_or(0, |key| hash(key.tenant.as_bytes())),
            cost: u32::try_from(tokens * PART / weight).unwrap_or(u32::MAX),
            session: body.get(..PREFIX).map(hash),
            ..self
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
