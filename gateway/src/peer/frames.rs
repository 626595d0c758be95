//! What two gateways say to each other of one request: frames, each a byte for its type, four for its length (big-endian)
//! and what it holds. Pure; whatever comes in is an error or a frame, and neither panics nor grows without a bound.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::errors::{Code, Failure};

/// Type and length.
const HEAD: usize = 5;
/// Longest piece of a body in a frame. Unit: bytes.
pub(super) const MAX_DATA: usize = 16 << 10;
/// Longest other frame. Unit: bytes.
const MAX_OTHER: usize = 64 << 10;
/// Headers of an answer's head.
const MAX_HEADERS: usize = 32;

/// A frame.
#[derive(Clone, Debug)]
pub(super) enum Frame {
    /// The owner: the request has a place.
    Queued,
    /// The owner: it has a slot on this replica, and is sent there as soon as the other says [`Frame::Go`].
    Dispatched { replica: HeaderValue },
    /// The owner: the answer's head.
    Head { status: StatusCode, streamed: bool, headers: HeaderMap },
    /// Either: a piece of the body.
    Data(Bytes),
    /// Either: that was all of the body.
    End,
    /// The owner: it ends with this error.
    Failed(Box<Failure>),
    /// The owner: it was not sent to a replica, and never will be from here.
    Declined(Declined),
    /// Who holds the client: send it.
    Go,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Declined {
    /// The pool is, or is about to be, another's.
    Moved,
    /// The model is unknown here, or on another pool.
    Unknown,
}

/// What is no frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Frame {
    /// Appends the frame.
    pub(super) fn write(&self, to: &mut BytesMut) {
        let start = to.len();
        to.put_bytes(0, HEAD);
        let kind = match self {
            Frame::Queued => 1,
            Frame::Dispatched { replica } => {
                to.put_slice(replica.as_bytes());
                2
            }
            Frame::Head { status, streamed, headers } => {
                to.put_u16(status.as_u16());
                to.put_u8(u8::from(*streamed));
                for (name, value) in headers.iter().take(MAX_HEADERS) {
                    put_text(to, name.as_str().as_bytes());
                    put_text(to, value.as_bytes());
                }
                3
            }
            Frame::Data(bytes) => {
                to.put_slice(bytes);
                4
            }
            Frame::End => 5,
            Frame::Failed(failure) => {
                put_failure(to, failure);
                6
            }
            Frame::Declined(why) => {
                to.put_u8(*why as u8);
                7
            }
            Frame::Go => 8,
        };
        let length = u32::try_from(to.len() - start - HEAD).unwrap_or(u32::MAX);
        to[start] = kind;
        to[start + 1..start + HEAD].copy_from_slice(&length.to_be_bytes());
    }

    fn read(kind: u8, mut held: Bytes) -> Result<Self, Malformed> {
        let frame = match kind {
            1 => Frame::Queued,
            2 => {
                let replica = HeaderValue::from_maybe_shared(std::mem::take(&mut held)).map_err(|_| Malformed)?;
                Frame::Dispatched { replica }
            }
            3 => read_head(&mut held)?,
            4 => Frame::Data(std::mem::take(&mut held)),
            5 => Frame::End,
            6 => Frame::Failed(Box::new(read_failure(&mut held)?)),
            7 => match held.try_get_u8() {
                Ok(0) => Frame::Declined(Declined::Moved),
                Ok(1) => Frame::Declined(Declined::Unknown),
                _ => return Err(Malformed),
            },
            8 => Frame::Go,
            _ => return Err(Malformed),
        };
        if held.is_empty() { Ok(frame) } else { Err(Malformed) }
    }
}

fn put_text(to: &mut BytesMut, text: &[u8]) {
    let text = &text[..text.len().min(usize::from(u16::MAX))];
    to.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    to.put_slice(text);
}

fn read_text(from: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = usize::from(from.try_get_u16().map_err(|_| Malformed)?);
    if length > from.len() {
        return Err(Malformed);
    }
    Ok(from.split_to(length))
}

fn read_head(held: &mut Bytes) -> Result<Frame, Malformed> {
    let status = held.try_get_u16().ok().and_then(|status| StatusCode::from_u16(status).ok()).ok_or(Malformed)?;
    let streamed = held.try_get_u8().map_err(|_| Malformed)? != 0;
    let mut headers = HeaderMap::new();
    while !held.is_empty() {
        if headers.len() >= MAX_HEADERS {
            return Err(Malformed);
        }
        let name = HeaderName::from_bytes(&read_text(held)?).map_err(|_| Malformed)?;
        let value = HeaderValue::from_maybe_shared(read_text(held)?).map_err(|_| Malformed)?;
        headers.append(name, value);
    }
    Ok(Frame::Head { status, streamed, headers })
}

/// Longest message of an error that is passed on. Unit: bytes.
const MAX_MESSAGE: usize = 32 << 10;

fn put_failure(to: &mut BytesMut, failure: &Failure) {
    put_text(to, failure.code.row().name.as_bytes());
    to.put_u8(u8::from(failure.quotes));
    let after = failure.after.map_or(u64::MAX, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    to.put_u64(after);
    let message = &failure.message;
    put_text(to, &message.as_bytes()[..message.floor_char_boundary(MAX_MESSAGE)]);
}

fn read_failure(held: &mut Bytes) -> Result<Failure, Malformed> {
    let name = read_text(held)?;
    let code = Code::ALL.iter().find(|code| code.row().name.as_bytes() == name).copied().unwrap_or(Code::UpstreamError);
    let quotes = held.try_get_u8().map_err(|_| Malformed)? != 0;
    let after = held.try_get_u64().map_err(|_| Malformed)?;
    let message = String::from_utf8(read_text(held)?.to_vec()).map_err(|_| Malformed)?;
    let mut failure = if quotes { Failure::quoting(code, message) } else { Failure::new(code, message) };
    failure.after = (after != u64::MAX).then(|| std::time::Duration::from_millis(after));
    Ok(failure.blaming_none()) // the owner has held it against the replica
}

/// Finds frames in what arrives.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    held: BytesMut,
}

impl Decoder {
    /// Takes what has arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Whether a frame has begun and is not whole.
    pub(super) fn is_within(&self) -> bool {
        !self.held.is_empty()
    }

    /// The next frame; `None` where it has not arrived whole.
    ///
    /// # Errors
    /// What has arrived is no frame, or longer than one may be.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some((&[kind, a, b, c, d], _)) = self.held.split_first_chunk::<HEAD>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > if kind == 4 { MAX_DATA } else { MAX_OTHER } {
            return Err(Malformed);
        }
        if self.held.len() < HEAD + length {
            return Ok(None);
        }
        self.held.advance(HEAD);
        let held = self.held.split_to(length).freeze();
        Frame::read(kind, held).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let headers = prop::collection::vec(("[a-z][a-z-]{0,20}", "[ -~]{0,40}"), 0..6).prop_map(|list| {
            let pair =
                |(name, value): (String, String)| Some((name.parse::<HeaderName>().ok()?, value.trim().parse().ok()?));
            list.into_iter().filter_map(pair).collect::<HeaderMap>()
        });
        let failure = (any::<prop::sample::Index>(), ".{0,60}", any::<bool>(), prop::option::of(0..100_000u64));
        prop_oneof![
            Just(Frame::Queued),
            "[0-9a-f]{8}".prop_map(|name| Frame::Dispatched { replica: name.parse().unwrap() }),
            (100..600u16, any::<bool>(), headers).prop_map(|(status, streamed, headers)| Frame::Head {
                status: StatusCode::from_u16(status).unwrap(),
                streamed,
                headers,
            }),
            prop::collection::vec(any::<u8>(), 0..MAX_DATA).prop_map(|bytes| Frame::Data(bytes.into())),
            Just(Frame::End),
            failure.prop_map(|(code, message, quotes, after)| {
                let mut failure = Failure::new(Code::ALL[code.index(Code::ALL.len())], message).blaming_none();
                (failure.quotes, failure.after) = (quotes, after.map(Duration::from_millis));
                Frame::Failed(Box::new(failure))
            }),
            Just(Frame::Declined(Declined::Moved)),
            Just(Frame::Declined(Declined::Unknown)),
            Just(Frame::Go),
        ]
    }

    fn written(frame: &Frame) -> BytesMut {
        let mut bytes = BytesMut::new();
        frame.write(&mut bytes);
        bytes
    }

    /// All frames in these bytes, which come in pieces of this size.
    fn decoded(bytes: &[u8], piece: usize) -> (Vec<Frame>, Result<bool, Malformed>) {
        let (mut decoder, mut found) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => found.push(frame),
                    Ok(None) => break,
                    Err(malformed) => return (found, Err(malformed)),
                }
            }
        }
        (found, Ok(decoder.is_within()))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(all in prop::collection::vec(frames(), 0..6), piece in 1..5000usize) {
            let bytes: Vec<u8> = all.iter().flat_map(|frame| written(frame).to_vec()).collect();
            let (found, rest) = decoded(&bytes, piece);
            prop_assert_eq!(rest, Ok(false));
            prop_assert_eq!(format!("{found:?}"), format!("{all:?}"));
            if let Some((_, cut)) = bytes.split_last() {
                prop_assert_eq!(decoded(cut, piece).1, Ok(true), "what is cut short is seen to be");
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1..40usize) {
            let _ = decoded(&bytes, piece);
        }

        #[test]
        fn nor_do_damaged_frames(frame in frames(), at in any::<prop::sample::Index>(), byte: u8, piece in 1..5000usize) {
            let mut bytes = written(&frame);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decoded(&bytes, piece);
        }
    }

    #[test]
    fn a_frame_that_would_be_too_long_is_refused_before_it_has_come() {
        assert_eq!(decoded(&[4, 0, 0, 0x40, 1], 5).1, Err(Malformed));
        assert_eq!(decoded(&[3, 0xff, 0xff, 0xff, 0xff], 5).1, Err(Malformed));
        assert_eq!(decoded(&[9, 0, 0, 0, 0], 5).1, Err(Malformed), "of no known type");
        assert_eq!(decoded(&[5, 0, 0, 0, 1, 0], 5).1, Err(Malformed), "with more than it has");
    }
}
