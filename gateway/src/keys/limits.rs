//! How much a key may ask of this gateway.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tutti_api::KeySpec;

use super::rate::{Bucket, Level, Rate, moment};
use crate::classify::Api;
use crate::errors::{Code, Failure};
use crate::limits::{self, Limit};
use crate::record::Record;

/// Bytes of a prompt that are charged as a token where no replica says how many there were.
const BYTES_A_TOKEN: usize = 4;

/// The names that OpenAI's clients read, of a limit: what it is, what is left of it, and when all of it will be there.
type Names = [HeaderName; 3];
const REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// What a key has used. It stays the key's when the file is read again, whatever its limits are then.
#[derive(Debug, Default)]
pub(super) struct Used {
    requests: Bucket,
    tokens: Bucket,
    at_once: AtomicU32,
}

/// A limit in a minute.
#[derive(Debug)]
struct Minute {
    number: u32,
    rate: Rate,
    shown: HeaderValue,
}

/// A key's limits, and what it has used.
#[derive(Debug)]
pub(super) struct Limits {
    requests: Option<Minute>,
    tokens: Option<Minute>,
    at_once: Option<u32>,
    pub(super) used: Arc<Used>,
}

/// A place among the requests that a key may have at once; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct AtOnce(Arc<Used>);

impl Drop for AtOnce {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Relaxed);
    }
}

impl Minute {
    fn of(number: u32) -> Self {
        Self { number, rate: Rate::per_minute(number), shown: number.into() }
    }
}

impl Limits {
    pub(super) fn of(spec: &KeySpec, used: Arc<Used>) -> Self {
        Self {
            requests: spec.requests_per_minute.map(Minute::of),
            tokens: spec.tokens_per_minute.map(Minute::of),
            at_once: spec.concurrency,
            used,
        }
    }

    /// Takes a request in. What it costs in tokens is not known yet: it may begin while any are left.
    ///
    /// # Errors
    /// Which limit is used up, and for how long. Then nothing was taken.
    pub(super) fn admit(&self, now: Instant) -> Result<Option<AtOnce>, Failure> {
        let now = moment(now);
        let place = self.at_once.map(|most| self.place(most)).transpose()?;
        if let Some(minute) = &self.tokens
            && let Err(wait) = self.used.tokens.has_any(minute.rate, now)
        {
            limits::hit(Limit::KeyTokens);
            return Err(used_up(Code::TokensLimited, minute, "tokens", wait));
        }
        if let Some(minute) = &self.requests
            && let Err(wait) = self.used.requests.take(minute.rate, now)
        {
            limits::hit(Limit::KeyRequests);
            return Err(used_up(Code::RateLimited, minute, "requests", wait));
        }
        Ok(place)
    }

    fn place(&self, most: u32) -> Result<AtOnce, Failure> {
        let one_more = |count: u32| (count < most).then_some(count + 1);
        match self.used.at_once.fetch_update(Relaxed, Relaxed, one_more) {
            Ok(_) => Ok(AtOnce(self.used.clone())),
            Err(_) => {
                limits::hit(Limit::KeyConcurrency);
                let message = format!("this API key has {most} requests at once, which is as many as it may");
                Err(Failure::new(Code::ConcurrencyLimited, message))
            }
        }
    }

    /// Charges what a request has cost in tokens.
    pub(super) fn charge(&self, record: &Record, now: Instant) {
        if let Some(minute) = &self.tokens {
            self.used.tokens.charge(minute.rate, tokens(record), moment(now));
        }
    }

    /// Says in an answer's headers what is left.
    pub(super) fn tell(&self, headers: &mut HeaderMap, now: Instant) {
        let now = moment(now);
        let minutes = [(REQUESTS, &self.requests, &self.used.requests), (TOKENS, &self.tokens, &self.used.tokens)];
        for ([limit, remaining, reset], minute, bucket) in minutes {
            let Some(minute) = minute else { continue };
            let Level { left, full_in } = bucket.level(minute.rate, now);
            headers.insert(limit, minute.shown.clone());
            headers.insert(remaining, left.into());
            if let Ok(value) = HeaderValue::try_from(shown(full_in)) {
                headers.insert(reset, value);
            }
        }
    }
}

/// What a request has cost, as the replica counted it. Where that does not count the prompt, as OpenAI's streams do not
/// unless they are asked to, it is taken from the body's length.
fn tokens(record: &Record) -> u64 {
    let began = record.replica.is_some() && record.status < 400 && record.api != Some(Api::OllamaShow);
    let input = match record.usage.input {
        0 if began => record.received.div_ceil(BYTES_A_TOKEN) as u64,
        counted => counted,
    };
    input.saturating_add(record.usage.output)
}

fn used_up(code: Code, minute: &Minute, what: &str, wait: Duration) -> Failure {
    let message =
        format!("this API key has used up its {} {what} a minute: try again in {}", minute.number, shown(wait));
    Failure { after: Some(wait), ..Failure::new(code, message) }
}

/// A duration as OpenAI's headers have it, which is as Go writes it: `0s`, `17ms`, `8.64s`, `6m0s`. Rounded up to
/// milliseconds.
fn shown(duration: Duration) -> String {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    let (seconds, millis) = (millis / 1000, millis % 1000);
    if seconds == 0 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if hours > 0 || minutes > 0 {
        let _ = write!(text, "{minutes}m");
    }
    let _ = write!(text, "{seconds}");
    if millis > 0 {
        let fraction = format!(".{millis:03}");
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('s');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(fields: &str, used: &Arc<Used>) -> Limits {
        let text = format!("keys: [{{ id: a, name: n, tenant: t, sha256: \"{}\"{fields} }}]", "0".repeat(64));
        Limits::of(&tutti_api::load_keys(&text, "").unwrap().keys[0], used.clone())
    }

    fn code(admitted: Result<Option<AtOnce>, Failure>) -> Option<Code> {
        admitted.err().map(|failure| failure.code)
    }

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (millis, text) in [
            (0, "0s"),
            (17, "17ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (8_640, "8.64s"),
            (59_001, "59.001s"),
            (360_000, "6m0s"),
            (3_600_000, "1h0m0s"),
            (90_061_500, "25h1m1.5s"),
        ] {
            assert_eq!(shown(Duration::from_millis(millis)), text);
        }
        assert_eq!(shown(Duration::from_nanos(1)), "1ms");
    }

    #[test]
    fn each_limit_refuses_for_itself_and_takes_nothing_then() {
        let (used, now) = (Arc::new(Used::default()), Instant::now());
        let limits = limits(", requestsPerMinute: 3, tokensPerMinute: 10, concurrency: 1", &used);
        let first = limits.admit(now).unwrap();
        assert_eq!(code(limits.admit(now)), Some(Code::ConcurrencyLimited));
        drop(first);
        assert_eq!(used.requests.level(Rate::per_minute(3), moment(now)).left, 2, "what was refused was not counted");
        assert!(limits.admit(now).is_ok() && limits.admit(now).is_ok());
        let refused = limits.admit(now).unwrap_err();
        assert_eq!((refused.code, refused.after), (Code::RateLimited, Some(Duration::from_secs(20))));
        let later = now + Duration::from_secs(60);
        used.tokens.charge(Rate::per_minute(10), 15, moment(later));
        let refused = limits.admit(later).unwrap_err();
        assert_eq!((refused.code, refused.after), (Code::TokensLimited, Some(Duration::from_secs(36))));
        assert!(refused.message.contains("used up its 10 tokens a minute: try again in 36s"), "{}", refused.message);
        assert_eq!(used.at_once.load(Relaxed), 0, "who is refused holds no place");
    }

    #[test]
    fn what_was_used_stays_used_when_the_limits_change() {
        let (used, now) = (Arc::new(Used::default()), Instant::now());
        let one = limits(", requestsPerMinute: 1, concurrency: 1", &used);
        let place = one.admit(now).unwrap();
        let two = limits(", requestsPerMinute: 2, concurrency: 2", &used);
        assert_eq!(code(two.admit(now)), Some(Code::RateLimited), "an empty bucket is empty, however large");
        let half = now + Duration::from_secs(30);
        let other = two.admit(half).unwrap();
        assert_eq!(code(two.admit(half + Duration::from_secs(60))), Some(Code::ConcurrencyLimited));
        drop((place, other));
        assert!(two.admit(half + Duration::from_secs(60)).is_ok());
    }

    #[test]
    fn an_answer_tells_what_is_left() {
        let (used, now) = (Arc::new(Used::default()), Instant::now());
        let limits = limits(", requestsPerMinute: 60, tokensPerMinute: 600", &used);
        assert!(limits.admit(now).is_ok());
        used.tokens.charge(Rate::per_minute(600), 700, moment(now));
        let mut headers = HeaderMap::new();
        limits.tell(&mut headers, now);
        let told = |name: &str| headers.get(format!("x-ratelimit-{name}")).map(|value| value.to_str().unwrap());
        assert_eq!(
            [told("limit-requests"), told("remaining-requests"), told("reset-requests")],
            [Some("60"), Some("59"), Some("1s")]
        );
        assert_eq!(
            [told("limit-tokens"), told("remaining-tokens"), told("reset-tokens")],
            [Some("600"), Some("0"), Some("1m10s")]
        );
        let mut headers = HeaderMap::new();
        super::tests::limits(", concurrency: 3", &used).tell(&mut headers, now);
        assert!(headers.is_empty());
    }
}
