//! An object store that speaks S3: AWS, MinIO, and others.
//!
//! Each question is asked once: who asks decides whether to ask again. Answers are bounded in time up to their head; a body
//! may take as long as bytes come (`fetch` bounds that).

mod answer;
mod authorities;
mod client;
mod credentials;
mod print;
mod put;
mod web_identity;

use std::ops::Range;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::EncodingType;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use tutti_api::S3Spec;

use super::error::{SourceError, Trouble};
use super::walk::{Listed, Walk, is_marker, odd_key};
use super::{Clock, Look, Object, Version, key};
use crate::retry::Retry;
use credentials::Following;

/// Keys of a page: S3's own bound.
const PAGE: i32 = 1000;
/// Questions for one list, at most: with [`PAGE`], ten million keys.
const MAX_PAGES: u32 = 10_000;
/// How often a page is asked for before a list is given up.
const TRIES: u32 = 4;

/// A bucket of an object store, and a prefix in it.
#[derive(Debug)]
pub struct S3 {
    client: Client,
    credentials: Following,
    bucket: String,
    /// Empty, or with a slash at its end.
    prefix: String,
    place: String,
    /// Its address, for errors.
    endpoint: String,
}

impl S3 {
    pub(super) fn open(from: &str, spec: &S3Spec, clock: Clock) -> Result<Self, SourceError> {
        let wrong = |detail: &str| SourceError::new(Trouble::Configuration, key::shown(from), detail);
        let path = from.strip_prefix("s3://").ok_or_else(|| wrong("write s3://bucket/prefix/"))?;
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        if !is_bucket(bucket) {
            return Err(wrong("write s3://bucket/prefix/, the bucket in 3 to 63 letters, digits, `-`, `.` or `_`"));
        }
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() {
            key::check(prefix).map_err(|odd| wrong(&odd.to_string()))?;
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let (client, credentials, endpoint) = client::open(spec, clock)?;
        let place = format!("s3://{bucket}/{prefix}");
        Ok(Self { client, credentials, bucket: bucket.to_owned(), prefix, place, endpoint })
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) async fn look(&self, paths: &[&str], most: usize) -> Result<Look, SourceError> {
        let mut walk = Walk::new(&self.place, paths, most);
        let mut requests = 0;
        while let Some(after) = walk.next().map(str::to_owned) {
            requests += 1;
            self.bounded(requests)?;
            let (page, is_last) = self.page("", Some(&after)).await?;
            walk.take(page, is_last);
        }
        Ok(Look { paths: walk.found(), requests })
    }

    pub(super) async fn list(&self, path: &str, most: usize) -> Result<Vec<Object>, SourceError> {
        let below = if path.is_empty() { String::new() } else { format!("{path}/") };
        let (mut objects, mut after, mut requests) = (Vec::new(), None::<String>, 0);
        loop {
            requests += 1;
            self.bounded(requests)?;
            let (page, is_last) = self.page(&below, after.as_deref()).await?;
            let last = page.last().map(|listed| listed.key.clone());
            for Listed { key, object } in page {
                let Some(own) = key.strip_prefix(&below).filter(|own| !own.is_empty()) else { continue };
                if is_marker(own, object.size) {
                    continue;
                }
                key::check(own).map_err(|odd| odd_key(&self.place, &key, odd))?;
                if objects.len() == most {
                    let place = format!("{}{below}", self.place);
                    return Err(SourceError::new(Trouble::TooMany, place, format!("more than {most}")));
                }
                objects.push(Object { key: own.to_owned(), ..object });
            }
            // A page that brings nothing behind the last one would be asked for for ever.
            match last.filter(|last| !is_last && after.as_ref().is_none_or(|after| after < last)) {
                Some(last) => after = Some(last),
                None => return Ok(objects),
            }
        }
    }

    fn bounded(&self, requests: u32) -> Result<(), SourceError> {
        if requests <= MAX_PAGES {
            return Ok(());
        }
        Err(SourceError::new(Trouble::TooMany, self.place.as_str(), format!("more than {MAX_PAGES} pages of {PAGE}")))
    }

    /// A page of the keys below a path that ends in a slash or is empty, behind a key; and whether it is the last.
    async fn page(&self, below: &str, after: Option<&str>) -> Result<(Vec<Listed>, bool), SourceError> {
        let mut retry = Retry::new(TRIES);
        loop {
            match self.page_once(below, after).await {
                Err(error) if error.is_passing() => match retry.next() {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(error),
                },
                outcome => return outcome,
            }
        }
    }

    async fn page_once(&self, below: &str, after: Option<&str>) -> Result<(Vec<Listed>, bool), SourceError> {
        let mut ask = self.client.list_objects_v2().bucket(&self.bucket).max_keys(PAGE);
        // XML has no way to write some characters that keys may have.
        ask = ask.encoding_type(EncodingType::Url).prefix(format!("{}{below}", self.prefix));
        ask = ask.set_start_after(after.map(|after| format!("{}{after}", self.prefix)));
        let answer = ask.send().await.map_err(|error| self.error(below, error))?;
        let mut page = Vec::with_capacity(answer.contents().len());
        for object in answer.contents() {
            let whole = decoded(object.key().unwrap_or_default());
            let Some(own) = whole.strip_prefix(&self.prefix).filter(|own| !own.is_empty()) else { continue };
            let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
            let version = Version::Etag(object.e_tag().unwrap_or_default().to_owned());
            page.push(Listed { key: own.to_owned(), object: Object { key: own.to_owned(), size, version } });
        }
        Ok((page, !answer.is_truncated().unwrap_or_default()))
    }

    pub(super) async fn read(&self, key: &str, object: &Object, range: Range<u64>) -> Result<Body, SourceError> {
        let place = format!("{}{key}", self.place);
        let ask = self.client.get_object().bucket(&self.bucket).key(format!("{}{key}", self.prefix));
        let Version::Etag(etag) = &object.version else {
            return Err(SourceError::new(Trouble::Replaced, place, "its version is not an object store's"));
        };
        let ask = ask.if_match(etag).range(format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        let answer = ask.send().await.map_err(|error| self.error(key, error))?;
        // Not every store knows If-Match, and some forget it for a range.
        if !etag.is_empty() && answer.e_tag().is_some_and(|now| now != etag) {
            return Err(SourceError::new(Trouble::Replaced, place, ""));
        }
        let whole = answer.content_range().and_then(|range| range.rsplit_once('/')?.1.parse::<u64>().ok());
        if whole.is_some_and(|whole| whole != object.size) {
            return Err(SourceError::new(Trouble::Replaced, place, "it has another size"));
        }
        if whole.is_none() && range != (0..object.size) {
            return Err(SourceError::new(Trouble::Other, place, "it answers a question for a range with the whole"));
        }
        Ok(Body { stream: answer.body, left: range.end - range.start, place })
    }

    /// What an answer means. Credentials that were not taken are read anew for the next question.
    fn error<E>(&self, key: &str, error: SdkError<E, HttpResponse>) -> SourceError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let error = answer::error(&error, format!("{}{}", self.place, key::shown(key)), &self.endpoint);
        if matches!(error.trouble, Trouble::Credentials | Trouble::Expired | Trouble::Forbidden) {
            self.credentials.forget();
        }
        error
    }
}

/// How long a question's answer may take to begin.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// A bucket's name, as S3 has it; MinIO and old ones have `_` too.
fn is_bucket(name: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-._".contains(char);
    (3..=63).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.') && !name.contains("..")
}

/// A key as it was before it was written for a URL, in which a blank is a plus. What is no UTF-8 gets characters that are
/// not taken.
fn decoded(key: &str) -> String {
    percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// The bytes of a range, as they come.
#[derive(Debug)]
pub struct Body {
    stream: ByteStream,
    left: u64,
    place: String,
}

impl Body {
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        match self.stream.try_next().await {
            Ok(Some(bytes)) if bytes.len() as u64 > self.left => {
                Err(SourceError::new(Trouble::Other, self.place.as_str(), "it sent more than was asked for"))
            }
            Ok(Some(bytes)) => {
                self.left -= bytes.len() as u64;
                Ok(Some(bytes))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(SourceError::new(Trouble::Cut, self.place.as_str(), answer::root(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;

    fn open(from: &str, spec: &S3Spec) -> Result<S3, SourceError> {
        S3::open(from, spec, Arc::new(SystemTime::now))
    }

    #[test]
    fn an_address_gives_bucket_and_prefix() {
        let parts = |from: &str| open(from, &S3Spec::default()).map(|s3| (s3.bucket, s3.prefix, s3.place));
        let expected =
            |bucket: &str, prefix: &str| Ok((bucket.into(), prefix.into(), format!("s3://{bucket}/{prefix}")));
        assert_eq!(parts("s3://models"), expected("models", ""));
        assert_eq!(parts("s3://models/"), expected("models", ""));
        assert_eq!(parts("s3://models/a/b//"), expected("models", "a/b/"));
        for wrong in
            ["s3://", "s3:///x", "s3://a", "s3://mo dels/", "s3://models/a/../b", "s3://mo..dels", "s3://.models"]
        {
            let error = parts(wrong).unwrap_err();
            assert_eq!(error.trouble(), Trouble::Configuration, "{wrong}");
            assert!(error.to_string().starts_with(wrong), "{error}");
        }
    }

    #[test]
    fn a_configuration_that_cannot_be_is_refused_at_once() {
        let endpoint = |endpoint: &str| S3Spec { endpoint: Some(endpoint.to_owned()), ..S3Spec::default() };
        let ca = S3Spec { ca_file: Some("/nonexistent/ca.pem".into()), ..S3Spec::default() };
        let no_region = S3Spec { region: String::new(), ..S3Spec::default() };
        for spec in [endpoint("minio:9000"), endpoint("ftp://minio"), endpoint("http://"), ca, no_region] {
            let error = open("s3://models/", &spec).unwrap_err();
            assert_eq!(error.trouble(), Trouble::Configuration, "{spec:?}: {error}");
        }
        let secret = open("s3://models/", &endpoint("http://key:hunter2@minio:9000")).unwrap_err().to_string();
        assert!(secret.contains("no name or password") && !secret.contains("hunter2"), "{secret}");
    }

    #[test]
    fn keys_are_decoded() {
        assert_eq!(decoded("a/b+c%2Bd/%E6%A8%A1"), "a/b c+d/模");
        assert!(key::check(&decoded("a%00b")).is_err() && key::check(&decoded("a%FF")).is_err());
    }
}
