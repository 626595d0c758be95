//! An answer on its way: watched in its client's own dialect, or translated into it.

use std::time::{Instant, SystemTime};

use bytes::Bytes;

use super::{Broken, Framing, Translator, Watch};
use crate::classify::Dialect;
use crate::dialect::{Moment, Usage};
use crate::errors::{Code, Failure};

/// How an answer passes.
pub(crate) enum Passing {
    /// As bytes.
    Watched(Watch),
    /// Printed anew.
    Translated(Box<Translated>),
}

/// A translated answer, and the clock it is told by.
pub(crate) struct Translated {
    translator: Translator,
    framing: Framing,
    /// When the request came.
    started: Instant,
}

impl Passing {
    pub(crate) fn translated(translator: Translator, framing: Framing, started: Instant) -> Self {
        Self::Translated(Box::new(Translated { translator, framing, started }))
    }

    /// How the replica's answer is cut.
    pub(crate) fn framing(&self) -> Framing {
        match self {
            Self::Watched(watch) => watch.framing(),
            Self::Translated(translated) => translated.framing,
        }
    }

    /// How the client's is cut, in this dialect.
    pub(crate) fn framing_to(&self, dialect: Dialect) -> Framing {
        match self {
            Self::Watched(watch) => watch.framing(),
            Self::Translated(_) => Framing::of_stream(dialect),
        }
    }

    /// Events so far, where somebody numbers them.
    pub(crate) fn events(&self) -> u64 {
        match self {
            Self::Watched(watch) => watch.events(),
            Self::Translated(_) => 0,
        }
    }

    /// Tokens so far.
    pub(crate) fn usage(&self) -> Usage {
        match self {
            Self::Watched(watch) => watch.usage(),
            Self::Translated(translated) => translated.translator.usage(),
        }
    }

    /// Whether the last event has gone through.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Watched(watch) => watch.is_done(),
            Self::Translated(translated) => translated.translator.is_done(),
        }
    }

    /// Takes a chunk of a stream; yields what goes on to the client, perhaps nothing yet.
    pub(crate) fn chunk(&mut self, chunk: Bytes) -> Result<Bytes, (Bytes, Broken)> {
        match self {
            Self::Watched(watch) => watch.chunk(chunk),
            Self::Translated(translated) => translated.translator.chunk(&chunk, now(translated.started)),
        }
    }

    /// The stream has ended: what is left to send, and whether that was its end.
    pub(crate) fn end(&mut self) -> Result<Bytes, (Bytes, Broken)> {
        match self {
            Self::Watched(watch) => watch.end(),
            Self::Translated(translated) => translated.translator.end(now(translated.started)),
        }
    }

    /// Takes a whole answer.
    ///
    /// # Errors
    /// What to answer in its place.
    pub(crate) fn whole(&mut self, body: Bytes) -> Result<Bytes, Failure> {
        match self {
            Self::Watched(watch) => {
                watch.whole(body).map_err(|broken| Failure::new(Code::UpstreamError, broken.message()))
            }
            Self::Translated(translated) => translated.translator.whole(&body, now(translated.started)),
        }
    }
}

/// The time, for an answer to a request that came then.
pub(crate) fn now(started: Instant) -> Moment {
    Moment { at: SystemTime::now(), since: started.elapsed() }
}
