//! Putting files into an object store: in one piece, or a large one in parts at the same time.

use std::io;
use std::path::Path;

use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use tokio::task::JoinSet;
use tutti_api::Digest;

use super::S3;
use crate::retry::Retry;
use crate::source::error::{SourceError, Trouble};

/// Largest file that is put in one piece, and the size of a part. Unit: bytes.
const PART: u64 = 16 << 20;
/// Most parts: S3's own bound.
const MAX_PARTS: u64 = 10_000;
/// Parts on the way at once.
const PARALLEL: usize = 4;
/// How often a piece is sent before it is given up.
const TRIES: u32 = 5;

impl S3 {
    pub(in crate::source) async fn put(
        &self,
        key: &str,
        file: &Path,
        size: u64,
        sha256: &Digest,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), SourceError> {
        if size > PART {
            return self.put_parts(key, file, size, sent).await;
        }
        // The store compares it with what came.
        let checksum = BASE64_STANDARD.encode(sha256.bytes());
        let mut retry = Retry::new(TRIES);
        loop {
            let body = piece(file, 0, size).await.map_err(|error| unreadable(file, &error))?;
            let put = self.client.put_object().bucket(&self.bucket).key(self.whole(key));
            match put.body(body).checksum_sha256(&checksum).send().await.map_err(|error| self.error(key, error)) {
                Ok(_) => {
                    sent(size);
                    return Ok(());
                }
                Err(error) => again(&mut retry, error).await?,
            }
        }
    }

    pub(in crate::source) async fn put_new(&self, key: &str, bytes: Bytes) -> Result<(), SourceError> {
        let mut retry = Retry::new(TRIES);
        loop {
            let put = self.client.put_object().bucket(&self.bucket).key(self.whole(key)).if_none_match("*");
            let put = put.body(ByteStream::from(bytes.clone())).content_type("application/json");
            match put.send().await.map_err(|error| self.error(key, error)) {
                Ok(_) => return Ok(()),
                Err(error) if error.trouble == Trouble::Replaced => {
                    return Err(SourceError { trouble: Trouble::Exists, ..error });
                }
                Err(error) => again(&mut retry, error).await?,
            }
        }
    }

    fn whole(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn put_parts(
        &self,
        key: &str,
        file: &Path,
        size: u64,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), SourceError> {
        let part = PART.max(size.div_ceil(MAX_PARTS).next_multiple_of(1 << 20));
        let begin = self.client.create_multipart_upload().bucket(&self.bucket).key(self.whole(key));
        let begun = begin.send().await.map_err(|error| self.error(key, error))?;
        let upload = begun.upload_id().unwrap_or_default().to_owned();
        let outcome = self.put_each(key, file, (size, part), &upload, sent).await;
        if outcome.is_err() {
            // What was sent stays, and costs, until the upload is given up; it may be that nobody answers.
            let give_up = self.client.abort_multipart_upload().bucket(&self.bucket).key(self.whole(key));
            let _ = give_up.upload_id(&upload).send().await;
        }
        outcome
    }

    async fn put_each(
        &self,
        key: &str,
        file: &Path,
        (size, part): (u64, u64),
        upload: &str,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), SourceError> {
        let mut pieces = (0..size.div_ceil(part)).map(|number| (number, number * part, part.min(size - number * part)));
        let (mut tasks, mut done) = (JoinSet::new(), Vec::new());
        loop {
            while tasks.len() < PARALLEL
                && let Some((number, offset, length)) = pieces.next()
            {
                let number = i32::try_from(number + 1).expect("there are at most 10,000 parts");
                let ask = self.client.upload_part().bucket(&self.bucket).key(self.whole(key));
                let (ask, file) = (ask.upload_id(upload).part_number(number), file.to_owned());
                tasks.spawn(async move {
                    let body = piece(&file, offset, length).await;
                    (
                        number,
                        offset,
                        length,
                        match body {
                            Ok(body) => Ok(ask.body(body).send().await),
                            Err(error) => Err(error),
                        },
                    )
                });
            }
            let Some(ended) = tasks.join_next().await else { break };
            let (number, offset, length, answer) =
                ended.map_err(|error| SourceError::new(Trouble::Other, self.place.as_str(), error.to_string()))?;
            let answer = answer.map_err(|error| unreadable(file, &error))?;
            let etag = match answer.map_err(|error| self.error(key, error)) {
                Ok(answer) => answer.e_tag().unwrap_or_default().to_owned(),
                Err(error) => self.part_again(key, file, (number, offset, length), upload, error).await?,
            };
            sent(length);
            done.push(CompletedPart::builder().part_number(number).e_tag(etag).build());
        }
        done.sort_by_key(CompletedPart::part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(done)).build();
        let end = self.client.complete_multipart_upload().bucket(&self.bucket).key(self.whole(key));
        let ended = end.upload_id(upload).multipart_upload(parts).send().await;
        ended.map(drop).map_err(|error| self.error(key, error))
    }

    /// Sends a part again that failed.
    async fn part_again(
        &self,
        key: &str,
        file: &Path,
        (number, offset, length): (i32, u64, u64),
        upload: &str,
        mut error: SourceError,
    ) -> Result<String, SourceError> {
        let mut retry = Retry::new(TRIES);
        loop {
            again(&mut retry, error).await?;
            let body = piece(file, offset, length).await.map_err(|error| unreadable(file, &error))?;
            let ask = self.client.upload_part().bucket(&self.bucket).key(self.whole(key)).upload_id(upload);
            match ask.part_number(number).body(body).send().await.map_err(|error| self.error(key, error)) {
                Ok(answer) => return Ok(answer.e_tag().unwrap_or_default().to_owned()),
                Err(next) => error = next,
            }
        }
    }
}

/// Waits where an error passes; else, or where it has been tried enough, that error.
async fn again(retry: &mut Retry, error: SourceError) -> Result<(), SourceError> {
    let Some(wait) = retry.next().filter(|_| error.is_passing()) else { return Err(error) };
    tokio::time::sleep(wait).await;
    Ok(())
}

/// A piece of a file, read as it is sent.
async fn piece(file: &Path, offset: u64, length: u64) -> io::Result<ByteStream> {
    let piece = ByteStream::read_from().path(file).offset(offset).length(Length::Exact(length)).build().await;
    piece.map_err(io::Error::other)
}

fn unreadable(file: &Path, error: &io::Error) -> SourceError {
    SourceError::new(Trouble::Configuration, file.display().to_string(), error.to_string())
}
